package nft

import (
	"github.com/mdlayher/netlink"
)

// bigBuffers makes room for large transactions and their acknowledgements. Without the right to exceed the
// system's limits, what the system grants must do.
func bigBuffers(conn *netlink.Conn) error {
	_ = conn.SetWriteBuffer(sendBuffer)
	_ = conn.SetReadBuffer(sendBuffer)
	return nil
}
