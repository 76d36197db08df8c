// Package nftable is what all who keep an nftables table of their own need alike.
package nftable

import (
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// room must hold one transaction and its acknowledgements, in bytes; the default would end at some thousand elements.
const room = 64 << 20

// MakeRoom is an option of a connection that sends large transactions.
func MakeRoom(s *netlink.Conn) {
	// Without the right to exceed the system's limits, what the system grants must do.
	_, _ = s.SetWriteBuffer(room), s.SetReadBuffer(room)
}

// Remove removes a table from this network namespace, if it is there.
func Remove(t *nftables.Table) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.AddTable(t) // one that is not there cannot be removed
	conn.DelTable(t)
	return conn.Flush()
}

// Exists tells whether a table is in this network namespace.
func Exists(t *nftables.Table) (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(t.Family)
	return slices.ContainsFunc(tables, func(have *nftables.Table) bool { return have.Name == t.Name }), err
}
