package ingress

import (
	"errors"
	"io"
	"net/http"
	"strings"
)

// This file sends requests on and answers back. Upgrades are httputil.ReverseProxy's, for it knows how to join two connections; for the rest that copies more
// than it has to: what it makes for each request is a quarter of the garbage, and in a process that is not small collecting it is dear.

// forward sends the request to an endpoint and its answer to the client. The request's header is changed, not copied: nobody else needs it.
func (x *exchange) forward(w http.ResponseWriter) {
	out := x.in.WithContext(x.in.Context()) // a copy, of which the header is shared
	url := *x.in.URL
	out.URL, out.RequestURI, out.Close = &url, "", false
	if out.ContentLength == 0 {
		out.Body = nil
	}
	trailers := hasToken(out.Header["Te"], "trailers")
	dropHopByHop(out.Header)
	if trailers {
		out.Header["Te"] = []string{"trailers"}
	}
	if _, named := out.Header["User-Agent"]; !named {
		out.Header["User-Agent"] = []string{""} // else the transport names itself
	}
	x.identify(out.Header)
	answer, err := x.RoundTrip(out)
	if err != nil {
		x.fail(w, x.in, err)
		return
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusSwitchingProtocols {
		x.plain(w, http.StatusBadGateway) // nobody has asked for that
		return
	}
	dropHopByHop(answer.Header)
	x.answer(answer)
	x.reply(w, answer)
}

// reply copies an answer. One that breaks off is broken off for the client too, so that it does not take a part for the whole.
func (x *exchange) reply(w http.ResponseWriter, answer *http.Response) {
	h := w.Header()
	for name, values := range answer.Header {
		h[name] = values
	}
	announced := len(answer.Trailer)
	for name := range answer.Trailer {
		h.Add("Trailer", name)
	}
	w.WriteHeader(answer.StatusCode)
	stream := answer.ContentLength == -1
	flusher := http.NewResponseController(w)
	if stream && (answer.ProtoMajor == 2 || strings.HasPrefix(answer.Header.Get("Content-Type"), "text/event-stream")) {
		_ = flusher.Flush() // the first event may be long in coming
	}
	if x.copy(w, answer.Body, stream, flusher) != nil {
		panic(http.ErrAbortHandler)
	}
	if len(answer.Trailer) == 0 {
		return
	}
	_ = flusher.Flush() // so that the answer is chunked, which trailers need
	for name, values := range answer.Trailer {
		if announced != len(answer.Trailer) {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
}

// copy copies a body, of a stream every piece at once.
func (x *exchange) copy(w io.Writer, from io.Reader, stream bool, flusher *http.ResponseController) error {
	if from == http.NoBody {
		return nil
	}
	buffer := x.server.buffers.Get()
	defer x.server.buffers.Put(buffer)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, failed := w.Write(buffer[:n]); failed != nil {
				return failed
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case stream:
			if failed := flusher.Flush(); failed != nil {
				return failed
			}
		}
	}
}

// Headers of one connection (RFC 9110, section 7.6.1), by their names as net/http writes them.
var hopByHop = [...]string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// dropHopByHop removes the headers of one connection, and those that it names itself.
func dropHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// upgrades tells whether a client asks for another protocol on its connection. HTTP/2 is none of them: what would follow is requests that nobody routes.
func upgrades(h http.Header) bool {
	to := h["Upgrade"]
	return len(to) > 0 && hasToken(h["Connection"], "upgrade") && !hasToken(to, "h2c")
}

// hasToken tells whether a list in a header's lines has a token.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}
