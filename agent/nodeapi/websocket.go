package nodeapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// writeTimeout bounds one message, so that a client that stopped reading does not hold its process for ever.
const writeTimeout = 60 * time.Second

func upgrader(protocol string) *websocket.Upgrader {
	return &websocket.Upgrader{
		Subprotocols: []string{protocol},
		// Browsers cannot get here: requests come through the API server, which wants a credential of its own.
		CheckOrigin: func(*http.Request) bool { return true },
	}
}

// serveWebSocket speaks v5.channel.k8s.io: each binary message is a channel's number and its data; 255 closes a channel.
func (a *api) serveWebSocket(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, process streams) {
	conn, err := upgrader(remotecommand.StreamProtocolV5Name).Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c := &channels{conn: conn, resize: make(chan runtime.TerminalSize, 1)}
	s := stdio{tty: opts.TTY, resize: c.resize}
	if opts.Stdin {
		reader, writer := io.Pipe()
		s.in, c.stdin = reader, writer
		defer reader.Close()
	}
	if opts.Stdout {
		s.out = channelWriter{c, remotecommand.StreamStdOut}
	}
	if opts.Stderr && !opts.TTY {
		s.err = channelWriter{c, remotecommand.StreamStdErr}
	}
	go func() {
		defer cancel() // the client is gone: so is the process
		c.read(ctx)
	}()
	status, err := json.Marshal(statusOf(process.run(ctx, s), process.doing))
	if err == nil {
		_, _ = channelWriter{c, remotecommand.StreamErr}.Write(status)
	}
	c.close()
}

// statusOf is the last message of a stream: how the process ended.
func statusOf(err error, doing string) metav1.Status {
	var exit utilexec.ExitError
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit) && exit.Exited():
		return metav1.Status{
			Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{
				{Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(exit.ExitStatus())}}},
		}
	case errors.As(err, &status):
		return status.Status()
	}
	message := fmt.Sprintf("%s: %v", doing, err)
	return metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
		Message: "Internal error occurred: " + message,
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Message: message}}},
	}
}

// channels are the streams that share one WebSocket.
type channels struct {
	conn   *websocket.Conn
	mu     sync.Mutex // one writer at a time
	stdin  *io.PipeWriter
	resize chan runtime.TerminalSize
}

// read hands out what the client sends, until it is gone.
func (c *channels) read(ctx context.Context) {
	defer close(c.resize)
	if c.stdin != nil {
		defer c.stdin.Close()
	}
	for {
		kind, message, err := c.conn.ReadMessage()
		if err != nil {
			return
		}
		if kind != websocket.BinaryMessage || len(message) == 0 {
			continue
		}
		c.take(ctx, message[0], message[1:])
	}
}

func (c *channels) take(ctx context.Context, channel byte, data []byte) {
	switch channel {
	case remotecommand.StreamStdIn:
		if c.stdin != nil {
			_, _ = c.stdin.Write(data) // fails once the process reads no more
		}
	case remotecommand.StreamClose:
		if c.stdin != nil && len(data) == 1 && data[0] == remotecommand.StreamStdIn {
			c.stdin.Close()
		}
	case remotecommand.StreamResize:
		var size runtime.TerminalSize
		if json.NewDecoder(bytes.NewReader(data)).Decode(&size) == nil {
			select {
			case c.resize <- size:
			case <-ctx.Done():
			}
		}
	}
}

func (c *channels) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	message := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = c.conn.WriteControl(websocket.CloseMessage, message, time.Now().Add(writeTimeout))
}

type channelWriter struct {
	c       *channels
	channel byte
}

func (w channelWriter) Write(p []byte) (int, error) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	_ = w.c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	m, err := w.c.conn.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return 0, err
	}
	if _, err := m.Write([]byte{w.channel}); err != nil {
		return 0, err
	}
	if _, err := m.Write(p); err != nil {
		return 0, err
	}
	return len(p), m.Close()
}

// tunnelSPDY upgrades to a WebSocket whose messages carry a SPDY connection, and returns a request and a
// writer with which the SPDY server can be used as if the client had asked for SPDY.
func tunnelSPDY(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request, func(), error) {
	conn, err := upgrader(portforward.WebsocketsSPDYTunnelingPortForwardV1).Upgrade(w, r, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	inner := r.Clone(r.Context())
	inner.Method = http.MethodPost
	inner.Header = http.Header{
		"Connection":                {"Upgrade"},
		"Upgrade":                   {"SPDY/3.1"},
		"X-Stream-Protocol-Version": {portforward.ProtocolV1Name},
	}
	return &hijacked{conn: &messageConn{Conn: conn}, header: http.Header{}}, inner, func() { conn.Close() }, nil
}

// hijacked is a response writer whose connection has been taken over already.
type hijacked struct {
	conn   net.Conn
	header http.Header
}

func (h *hijacked) Header() http.Header         { return h.header }
func (h *hijacked) WriteHeader(int)             {}
func (h *hijacked) Write(p []byte) (int, error) { return len(p), nil }

// Hijack gives the connection away.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// messageConn makes one byte stream of binary messages.
type messageConn struct {
	*websocket.Conn
	reader io.Reader
	mu     sync.Mutex
}

func (c *messageConn) Read(p []byte) (int, error) {
	for {
		if c.reader == nil {
			kind, r, err := c.NextReader()
			if err != nil {
				var closed *websocket.CloseError
				if errors.As(err, &closed) {
					return 0, io.EOF
				}
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				continue
			}
			c.reader = r
		}
		n, err := c.reader.Read(p)
		if errors.Is(err, io.EOF) {
			c.reader = nil
			if n == 0 {
				continue
			}
			err = nil
		}
		return n, err
	}
}

func (c *messageConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

// SetDeadline sets both.
func (c *messageConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
