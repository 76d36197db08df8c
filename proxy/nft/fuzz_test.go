package nft

import (
	"encoding/binary"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// FuzzKernelMessages: whatever comes over a socket is read or refused, and what is about another table never counts as ours.
func FuzzKernelMessages(f *testing.F) {
	attribute := func(kind uint16, value string) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
		b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	header := []byte{byte(table.Family), 0, 0, 0}
	const setElement = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM
	ours, others := append(header, attribute(1, TableName+"\x00")...), append(header[:4:4], attribute(1, "filter\x00")...)
	if !concernsTable(setElement, ours) || concernsTable(setElement, others) || concernsTable(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN, ours) {
		f.Fatal("a table is taken for another one")
	}
	f.Add(uint16(setElement), ours)
	f.Add(uint16(setElement), others)
	f.Add(uint16(0), []byte{2, 0})
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		if concernsTable(kind, data) && (len(data) < 4 || data[0] != byte(table.Family)) {
			t.Error("of another family")
		}
		_ = decodeElements(data, func(nftables.SetElement) {})
		_, _ = decodeDump(data, func(nftables.SetElement) {})
	})
}
