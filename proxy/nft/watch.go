package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// watcher hears of what others do to the kernel's tables.
type watcher struct {
	conn *netlink.Conn
	own  atomic.Uint32
}

// watchBuffer holds what others do while we are busy; more is taken for a change of our table.
const watchBuffer = 1 << 20

// Watch calls touched, until ctx ends, whenever someone else changed the table or may have. It returns once it listens; wait ends with it. To be called in the
// table's network namespace, and not at the same time as other methods.
func (t *Table) Watch(ctx context.Context, touched func()) (wait func() error, err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("nft: watch: %w", err)
	}
	w := &watcher{conn: conn}
	_ = conn.SetReadBuffer(watchBuffer)
	if t.conn != nil {
		err = w.ignore(t.conn.port)
	}
	if err == nil {
		err = conn.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("nft: watch: %w", err)
	}
	t.watcher = w
	return func() error {
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		if err := w.run(touched); ctx.Err() == nil {
			return fmt.Errorf("nft: watch: %w", err)
		}
		return nil
	}, nil
}

// ignore leaves out what the connection of that number does. The kernel does so before it wakes us, so that our own large transactions cost
// nothing here: word 3 of a message's header is the number.
func (w *watcher) ignore(port uint32) error {
	w.own.Store(port)
	const numberAt = 12
	var bigEndian [4]byte
	binary.NativeEndian.PutUint32(bigEndian[:], port)
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: numberAt, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(bigEndian[:]), SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: ^uint32(0)},
	})
	if err != nil {
		return err
	}
	return w.conn.SetBPF(filter)
}

func (w *watcher) run(touched func()) error {
	for {
		messages, err := w.conn.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			touched()
			continue
		}
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Header.PID != w.own.Load() && concernsTable(uint16(m.Header.Type), m.Data) {
				touched()
				break
			}
		}
	}
}

// concernsTable tells whether a message of the kernel is about our table or something in it. In each kind of message but that of a new
// generation, attribute 1 names the table.
func concernsTable(kind uint16, data []byte) bool {
	const familyLen, tableAttribute = 4, 1
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || kind&0xff == unix.NFT_MSG_NEWGEN || len(data) < familyLen || data[0] != byte(table.Family) {
		return false
	}
	attributes, err := netlink.NewAttributeDecoder(data[familyLen:])
	if err != nil {
		return false
	}
	for attributes.Next() {
		if attributes.Type() == tableAttribute {
			return bytes.Equal(bytes.TrimRight(attributes.Bytes(), "\x00"), []byte(TableName))
		}
	}
	return false
}
