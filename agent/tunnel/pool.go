package tunnel

import (
	"net"
	"slices"
	"sync"

	"google.golang.org/grpc"
)

// perConn is how many streams share a transport connection: safely below what HTTP/2 servers grant.
const perConn = 200

// pool spreads streams over as few transport connections as they need.
type pool struct {
	dial func() (*grpc.ClientConn, error)

	mu      sync.Mutex
	members []*member
	closed  bool
}

// member is one transport connection.
type member struct {
	pool    *pool
	conn    *grpc.ClientConn
	streams int
	old     bool // made with a certificate that has a successor: no more streams
}

// get returns a connection with room for one more stream; release it when the stream is over.
func (p *pool) get() (*member, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	for _, m := range p.members {
		if !m.old && m.streams < perConn {
			m.streams++
			return m, nil
		}
	}
	conn, err := p.dial()
	if err != nil {
		return nil, err
	}
	m := &member{pool: p, conn: conn, streams: 1}
	p.members = append(p.members, m)
	return m, nil
}

// release closes connections that are not needed any more, but for the first.
func (m *member) release() {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	m.streams--
	if m.streams > 0 || !m.old && (len(p.members) == 0 || p.members[0] == m) {
		return
	}
	p.drop(m)
}

// drop closes a connection for good. The caller holds the lock.
func (p *pool) drop(m *member) {
	p.members = slices.DeleteFunc(p.members, func(other *member) bool { return other == m })
	_ = m.conn.Close()
}

// renew has what comes next use new connections; those there are end with their last stream.
func (p *pool) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range slices.Clone(p.members) {
		m.old = true
		if m.streams == 0 {
			p.drop(m)
		}
	}
}

// close ends every stream.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, m := range p.members {
		_ = m.conn.Close()
	}
	p.members = nil
}
