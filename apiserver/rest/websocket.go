package rest

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// binaryProtocols are the subprotocols that a client may offer together, best first. A watch is the same in each:
// JSON comes as text, protobuf as binary messages.
var binaryProtocols = []string{"binary.k8s.io", "base64.binary.k8s.io"}

// lastWrite is how long the message that is being sent at a watch's end may take.
const lastWrite = 5 * time.Second

// isWebSocket tells a request for an upgrade to WebSocket (RFC 6455).
func isWebSocket(req *http.Request) bool {
	if !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") {
		return false
	}
	for _, line := range req.Header.Values("Connection") {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return true
			}
		}
	}
	return false
}

// overWebSocket sends the events that follow produces as one message each, until it returns. The client says nothing;
// that it has gone calls cancel.
func (s *stream) overWebSocket(ctx context.Context, cancel context.CancelFunc, follow func(context.Context)) error {
	conn, in, err := http.NewResponseController(s.c.w).Hijack()
	if err != nil {
		return apierrors.NewBadRequest("unable to upgrade: " + err.Error())
	}
	s.flusher = nil
	server := websocket.Server{
		Config:    websocket.Config{Header: s.c.w.Header().Clone()},
		Handshake: chooseProtocol,
		Handler: func(socket *websocket.Conn) {
			s.socket = socket
			go func() {
				_, _ = io.Copy(io.Discard, socket)
				cancel()
			}()
			// A client that takes nothing may not hold the watch beyond its end.
			defer context.AfterFunc(ctx, func() { _ = socket.SetWriteDeadline(time.Now().Add(lastWrite)) })()
			follow(ctx)
			_ = socket.Close()
		},
	}
	server.ServeHTTP(&hijacked{ResponseWriter: s.c.w, conn: conn, in: in}, s.c.req)
	return nil
}

// chooseProtocol accepts the subprotocol offered, of several one that is known. An origin is not asked for: who the user
// is never comes from a cookie.
func chooseProtocol(config *websocket.Config, _ *http.Request) error {
	if len(config.Protocol) < 2 {
		return nil
	}
	for _, known := range binaryProtocols {
		if slices.Contains(config.Protocol, known) {
			config.Protocol = []string{known}
			return nil
		}
	}
	return websocket.ErrBadWebSocketProtocol
}

// hijacked is a response whose connection has been taken over already.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
	in   *bufio.ReadWriter
}

// Hijack implements http.Hijacker.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) { return h.conn, h.in, nil }
