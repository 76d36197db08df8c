package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// errInterrupted: the kernel's tables changed while they were read.
var errInterrupted = errors.New("the tables changed while they were read")

const (
	elementKeyEnd = 10 // NFTA_SET_ELEM_KEY_END
	interrupted   = 0x10
	// dumpBuffer is the most that the kernel gives at once if asked for as much; for each portion it walks the set from the beginning.
	dumpBuffer = 64 << 10
)

// elements reads a set. The library would leave out where verdicts lead, and read in small portions.
func elements(set *nftables.Set, give func(nftables.SetElement)) error {
	const attempts = 5
	for n := 1; ; n++ {
		var all []nftables.SetElement
		err := dump(set, func(e nftables.SetElement) { all = append(all, e) })
		if err == nil {
			for _, e := range all {
				give(e)
			}
			return nil
		}
		if n == attempts || !errors.Is(err, errInterrupted) {
			return fmt.Errorf("list %s: %w", set.Name, err)
		}
	}
}

// dump reads a set once, over a socket of its own.
func dump(set *nftables.Set, give func(nftables.SetElement)) error {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(table.Name + "\x00")},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(set.Name + "\x00")},
	})
	if err != nil {
		return err
	}
	data := append([]byte{byte(table.Family), unix.NFNETLINK_V0, 0, 0}, attributes...)
	request, err := netlink.Message{Data: data, Header: netlink.Header{
		Length: uint32(unix.SizeofNlMsghdr + len(data)), Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM, Flags: netlink.Request | netlink.Dump, Sequence: 1,
	}}.MarshalBinary()
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buffer := make([]byte, dumpBuffer)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if done, err := decodeDump(buffer[:n], give); done || err != nil {
			return err
		}
	}
}

// decodeDump reads one portion.
func decodeDump(portion []byte, give func(nftables.SetElement)) (done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(portion)
	if err != nil {
		return false, err
	}
	for _, m := range messages {
		if m.Header.Flags&interrupted != 0 {
			return false, errInterrupted
		}
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return false, errShort
			}
			return true, unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		}
		if err := decodeElements(m.Data, give); err != nil {
			return false, err
		}
	}
	return false, nil
}

var errShort = errors.New("a message of the kernel is too short")

// decodeElements reads a message's elements.
func decodeElements(data []byte, give func(nftables.SetElement)) error {
	const familyLen = 4
	if len(data) < familyLen {
		return errShort
	}
	return each(data[familyLen:], func(a *netlink.AttributeDecoder) error {
		if a.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return each(a.Bytes(), func(a *netlink.AttributeDecoder) error {
			e, err := decodeElement(a.Bytes())
			if err == nil {
				give(e)
			}
			return err
		})
	})
}

func decodeElement(data []byte) (e nftables.SetElement, err error) {
	err = each(data, func(a *netlink.AttributeDecoder) (err error) {
		switch a.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key, _, err = decodeData(a.Bytes())
		case elementKeyEnd:
			e.KeyEnd, _, err = decodeData(a.Bytes())
		case unix.NFTA_SET_ELEM_DATA:
			e.Val, e.VerdictData, err = decodeData(a.Bytes())
		case unix.NFTA_SET_ELEM_EXPIRATION:
			if b := a.Bytes(); len(b) == 8 {
				e.Expires = time.Duration(binary.BigEndian.Uint64(b)) * time.Millisecond
			}
		}
		return err
	})
	return e, err
}

// decodeData reads a value or a verdict.
func decodeData(data []byte) (value []byte, verdict *expr.Verdict, err error) {
	err = each(data, func(a *netlink.AttributeDecoder) error {
		switch a.Type() {
		case unix.NFTA_DATA_VALUE:
			value = a.Bytes()
		case unix.NFTA_DATA_VERDICT:
			verdict = &expr.Verdict{}
			return each(a.Bytes(), func(a *netlink.AttributeDecoder) error {
				switch b := a.Bytes(); {
				case a.Type() == unix.NFTA_VERDICT_CODE && len(b) == 4:
					verdict.Kind = expr.VerdictKind(int32(binary.BigEndian.Uint32(b)))
				case a.Type() == unix.NFTA_VERDICT_CHAIN:
					verdict.Chain = a.String()
				}
				return nil
			})
		}
		return nil
	})
	return value, verdict, err
}

// each calls do for every attribute of data.
func each(data []byte, do func(*netlink.AttributeDecoder) error) error {
	attributes, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	for attributes.Next() {
		if err := do(attributes); err != nil {
			return err
		}
	}
	return attributes.Err()
}
