package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// udpServe answers datagrams until the connection is closed: "hostname", "clientip", and "echo TEXT".
func udpServe(conn net.PacketConn) error {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		answer := ""
		switch word, rest, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " "); word {
		case "hostname":
			answer, _ = os.Hostname()
		case "clientip":
			answer = from.String()
		case "echo":
			answer = rest
		default:
			answer = "unknown: ask for hostname, clientip or echo TEXT"
		}
		_, _ = conn.WriteTo([]byte(answer), from) // who is gone does not wait for it
	}
}

// exchange is what one question came to, from this end.
type exchange struct {
	answer string
	local  string // this end's address and port, once they are known
}

// asker asks one URL: http://HOST:PORT/PATH, udp://HOST:PORT/WORDS, or tcp://HOST:PORT, which only connects.
type asker struct {
	url     *url.URL
	address string
	timeout time.Duration
	keep    bool // one connection for all questions
	conn    net.Conn
	ports   *portSequence
}

func newAsker(raw string, timeout time.Duration, keep bool) (*asker, error) {
	if scheme, _, ok := strings.Cut(raw, "://"); !ok || strings.Contains(scheme, "/") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"http", "tcp", "udp"}, u.Scheme) || u.Host == "" {
		return nil, fmt.Errorf("%q: only http://, tcp:// and udp:// are known here", raw)
	}
	a := &asker{url: u, address: u.Host, timeout: timeout, keep: keep, ports: &portSequence{}}
	if u.Port() == "" {
		a.address = net.JoinHostPort(u.Hostname(), "80")
	}
	return a, nil
}

// ask gives the answer; an error closes a connection that was kept.
func (a *asker) ask() (x exchange, err error) {
	if a.conn == nil {
		if a.conn, x.local, err = a.dial(); err != nil {
			a.conn = nil
			return x, err
		}
	}
	x.local = a.conn.LocalAddr().String()
	_ = a.conn.SetDeadline(time.Now().Add(a.timeout))
	last := false
	switch a.url.Scheme {
	case "udp":
		x.answer, err = askUDP(a.conn, strings.TrimPrefix(a.url.Path, "/"))
	case "http":
		x.answer, last, err = askHTTP(a.conn, a.url)
	case "tcp":
		x.answer = x.local + " -> " + a.conn.RemoteAddr().String()
	}
	if err != nil || last || !a.keep {
		a.close()
	}
	return x, err
}

func (a *asker) close() {
	if a.conn != nil {
		a.conn.Close()
		a.conn = nil
	}
}

// dial connects, and tells the local port even of an attempt that fails, so that it can be found in the kernel's tables.
func (a *asker) dial() (net.Conn, string, error) {
	local := ""
	d := net.Dialer{Timeout: a.timeout, FallbackDelay: -1, ControlContext: a.ports.bindFirst(&local)}
	conn, err := d.DialContext(context.Background(), strings.Replace(a.url.Scheme, "http", "tcp", 1), a.address)
	return conn, local, err
}

func askUDP(conn net.Conn, words string) (string, error) {
	if words == "" {
		words = "hostname"
	}
	if _, err := io.WriteString(conn, words); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

// askHTTP asks on an open connection; last tells that the server closes it. Else it is this end's to close, so that no server is left with
// thousands of closed connections to remember, which would hold up others from the same port for a second.
func askHTTP(conn net.Conn, u *url.URL) (text string, last bool, err error) {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: demo\r\n\r\n", u.RequestURI(), u.Host); err != nil {
		return "", false, err
	}
	r, err := readAnswer(bufio.NewReader(conn))
	if err != nil {
		return "", false, err
	}
	data, err := io.ReadAll(io.LimitReader(r.body, maxBody))
	if err == nil && r.code >= 400 {
		err = fmt.Errorf("server returned error: %d %s", r.code, strings.TrimSpace(string(data)))
	}
	return string(data), r.last, err
}

// ask asks each URL once and prints the answers; exit code 1 if one failed.
func ask(e env, args []string) int {
	fs := flag.NewFlagSet("ask", flag.ContinueOnError)
	fs.SetOutput(e.stderr)
	wait := fs.Duration("T", 3*time.Second, "how long to wait for each answer")
	if fs.Parse(args) != nil || fs.NArg() == 0 {
		return 2
	}
	return each(e, "ask", fs.Args(), func(raw string) error {
		a, err := newAsker(raw, *wait, false)
		if err != nil {
			return err
		}
		x, err := a.ask()
		if err == nil {
			fmt.Fprintln(e.stdout, strings.TrimSuffix(x.answer, "\n"))
		}
		return err
	})
}

// lookup prints what names stand for, by the resolver of /etc/resolv.conf: addresses, or with -t srv, ptr, cname, txt those records.
func lookup(e env, args []string) int {
	fs := flag.NewFlagSet("lookup", flag.ContinueOnError)
	fs.SetOutput(e.stderr)
	kind := fs.String("t", "a", "records: a, srv, ptr, cname or txt")
	if fs.Parse(args) != nil || fs.NArg() == 0 {
		return 2
	}
	return each(e, "lookup", fs.Args(), func(name string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		found, err := resolve(ctx, *kind, name)
		slices.Sort(found)
		for _, f := range found {
			fmt.Fprintln(e.stdout, f)
		}
		return err
	})
}

func resolve(ctx context.Context, kind, name string) (found []string, err error) {
	r := &net.Resolver{PreferGo: true}
	switch kind {
	case "a":
		return r.LookupHost(ctx, name)
	case "srv":
		_, records, err := r.LookupSRV(ctx, "", "", name)
		for _, s := range records {
			found = append(found, fmt.Sprintf("%d %d %d %s", s.Priority, s.Weight, s.Port, s.Target))
		}
		return found, err
	case "ptr":
		return r.LookupAddr(ctx, name)
	case "cname":
		one, err := r.LookupCNAME(ctx, name)
		return append(found, one), err
	case "txt":
		return r.LookupTXT(ctx, name)
	}
	return nil, errors.New("no such kind of record: " + kind)
}
