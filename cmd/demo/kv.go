package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// kvServe is a key-value store in memory on TCP port 3306 (PORT overrides), one command a line:
// SET key value, GET key, DEL key, PUSH list value, POP list, PING. It answers OK, the value, NONE or ERR and the reason.
func kvServe(e env, _ []string) int {
	port := os.Getenv("PORT")
	if port == "" {
		port = "3306"
	}
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return e.fail("kv", err)
	}
	fmt.Fprintf(e.stdout, "kv listens on :%s\n", port)
	store := &kv{m: map[string]string{}, lists: map[string][]string{}}
	for {
		conn, err := l.Accept()
		if err != nil {
			return e.fail("kv", err)
		}
		go store.talk(conn)
	}
}

type kv struct {
	mu sync.Mutex
	m  map[string]string
	// lists are queues: each value is popped once.
	lists map[string][]string
}

func (s *kv) talk(conn net.Conn) {
	defer conn.Close()
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if _, err := fmt.Fprintln(conn, s.do(lines.Text())); err != nil {
			return
		}
	}
}

func (s *kv) do(line string) string {
	verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	key, value, _ := strings.Cut(rest, " ")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch verb = strings.ToUpper(verb); {
	case verb == "PING":
		return "PONG"
	case key == "":
		return "ERR want: SET key value | GET key | DEL key | PUSH list value | POP list | PING"
	case verb == "SET":
		s.m[key] = value
		return "OK"
	case verb == "GET":
		if v, ok := s.m[key]; ok {
			return v
		}
		return "NONE"
	case verb == "DEL":
		delete(s.m, key)
		return "OK"
	case verb == "PUSH":
		s.lists[key] = append(s.lists[key], value)
		return "OK"
	case verb == "POP":
		list := s.lists[key]
		if len(list) == 0 {
			return "NONE"
		}
		s.lists[key] = list[1:]
		return list[0]
	}
	return "ERR no such command: " + verb
}

// kvAsk sends one line to a store and prints its answer.
func kvAsk(e env, addr, line string) int {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return e.fail("kv", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintln(conn, line)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return e.fail("kv", err)
	}
	fmt.Fprint(e.stdout, answer)
	if answer == "NONE\n" || strings.HasPrefix(answer, "ERR ") {
		return 1
	}
	return 0
}

func kvGet(e env, args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(e.stderr, "usage: kv-get HOST:PORT KEY")
		return 2
	}
	return kvAsk(e, args[0], "GET "+args[1])
}

func kvSet(e env, args []string) int {
	if len(args) != 3 {
		fmt.Fprintln(e.stderr, "usage: kv-set HOST:PORT KEY VALUE")
		return 2
	}
	return kvAsk(e, args[0], "SET "+args[1]+" "+args[2])
}

func kvPush(e env, args []string) int {
	if len(args) != 3 {
		fmt.Fprintln(e.stderr, "usage: kv-push HOST:PORT LIST VALUE")
		return 2
	}
	return kvAsk(e, args[0], "PUSH "+args[1]+" "+args[2])
}

// kvPop takes the oldest value from a list; exit code 1 when there is none.
func kvPop(e env, args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(e.stderr, "usage: kv-pop HOST:PORT LIST")
		return 2
	}
	return kvAsk(e, args[0], "POP "+args[1])
}
