package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// shell runs "-c TEXT", a script file, or lines from standard input (with a prompt on a terminal). It knows
// quotes, $VARIABLES, |, &&, ||, ;, redirection, if, while, until and for; no functions, globs or substitution.
func shell(e env, args []string) int {
	s := &sh{vars: map[string]string{}}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		opts := args[0]
		args = args[1:]
		s.errexit = s.errexit || strings.Contains(opts, "e")
		if strings.Contains(opts, "c") && len(args) > 0 {
			s.args = args[1:]
			return s.text(e, args[0])
		}
	}
	if len(args) > 0 {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return e.fail("sh", err)
		}
		s.args = args
		return s.text(e, string(text))
	}
	return s.lines(e)
}

type sh struct {
	vars    map[string]string
	args    []string // $0, $1, ...
	last    int
	errexit bool
	exited  bool
}

// lines reads commands from standard input; a line that ends inside a construct is continued.
func (s *sh) lines(e env) int {
	prompt := func(string) {}
	if st, err := os.Stdin.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 && e.stdin == os.Stdin {
		prompt = func(p string) { fmt.Fprint(e.stdout, p) }
	}
	in := bufio.NewReader(e.stdin)
	text := ""
	for prompt("# "); !s.exited; {
		line, err := in.ReadString('\n')
		text += line
		if list, perr := parse(text); perr == nil {
			text, s.last = "", s.list(e, list)
		} else if !errors.Is(perr, errMore) || err != nil {
			fmt.Fprintf(e.stderr, "sh: %v\n", perr)
			text, s.last = "", 2
		}
		if err != nil || s.exited {
			break
		}
		if text == "" {
			prompt("# ")
		} else {
			prompt("> ")
		}
	}
	return s.last
}

func (s *sh) text(e env, text string) int {
	list, err := parse(text)
	if err != nil {
		fmt.Fprintf(e.stderr, "sh: %v\n", err)
		return 2
	}
	return s.list(e, list)
}

func (s *sh) list(e env, list []node) int {
	for _, n := range list {
		if s.exited {
			break
		}
		if (n.op == "&&" && s.last != 0) || (n.op == "||" && s.last == 0) {
			continue
		}
		s.last = s.pipeline(e, n.pipe)
		if s.errexit && s.last != 0 && n.plain {
			s.exited = true
		}
	}
	return s.last
}

func (s *sh) pipeline(e env, cmds []cmd) int {
	if len(cmds) == 1 {
		return s.run(e, cmds[0])
	}
	done := make(chan struct{})
	code, in := 0, e.stdin
	for i, c := range cmds {
		ce, last := e, i == len(cmds)-1
		ce.stdin = in
		var w *os.File
		if !last {
			r, pw, err := os.Pipe()
			if err != nil {
				return e.fail("sh", err)
			}
			in, w, ce.stdout = r, pw, pw
		}
		sub := *s // each part of a pipeline is a subshell
		go func() {
			result := sub.run(ce, c)
			if w != nil {
				w.Close()
			} else {
				code = result
			}
			if r, ok := ce.stdin.(*os.File); ok && i > 0 {
				r.Close()
			}
			done <- struct{}{}
		}()
	}
	for range cmds {
		<-done
	}
	return code
}

func (s *sh) run(e env, c cmd) int {
	closers, err := s.redirect(&e, c.redirects)
	defer func() {
		for _, f := range closers {
			f.Close()
		}
	}()
	if err != nil {
		return e.fail("sh", err)
	}
	switch c.kind {
	case "if":
		for i := 0; i+1 < len(c.lists); i += 2 {
			if s.quiet(e, c.lists[i]) == 0 {
				return s.list(e, c.lists[i+1])
			}
		}
		if len(c.lists)%2 == 1 {
			return s.list(e, c.lists[len(c.lists)-1])
		}
		return 0
	case "while", "until":
		s.last = 0
		code := 0
		for (s.quiet(e, c.lists[0]) == 0) == (c.kind == "while") && !s.exited {
			code = s.list(e, c.lists[1])
		}
		return code
	case "for":
		code := 0
		for _, v := range s.expand(c.words[1:]) {
			s.vars[c.words[0]] = v
			if code = s.list(e, c.lists[0]); s.exited {
				break
			}
		}
		return code
	}
	return s.simple(e, s.expand(c.words))
}

// quiet runs a condition: errexit does not apply to it.
func (s *sh) quiet(e env, list []node) int {
	saved := s.errexit
	s.errexit = false
	defer func() { s.errexit = saved }()
	s.last = 0
	return s.list(e, list)
}

func (s *sh) redirect(e *env, rs []redirect) (closers []io.Closer, err error) {
	for _, r := range rs {
		name := s.word(r.target)
		switch r.op {
		case "2>&1":
			e.stderr = e.stdout
			continue
		case ">&2":
			e.stdout = e.stderr
			continue
		}
		flag := map[string]int{"<": os.O_RDONLY, ">": os.O_WRONLY | os.O_CREATE | os.O_TRUNC, ">>": os.O_WRONLY | os.O_CREATE | os.O_APPEND}
		f, err := os.OpenFile(name, flag[strings.TrimPrefix(r.op, "2")], 0o644)
		if err != nil {
			return closers, err
		}
		closers = append(closers, f)
		switch r.op {
		case "<":
			e.stdin = f
		case "2>", "2>>":
			e.stderr = f
		default:
			e.stdout = f
		}
	}
	return closers, nil
}

func (s *sh) simple(e env, words []string) int {
	assigned := map[string]string{}
	for len(words) > 0 {
		name, value, ok := strings.Cut(words[0], "=")
		if !ok || !isName(name) {
			break
		}
		assigned[name] = value
		words = words[1:]
	}
	if len(words) == 0 {
		for k, v := range assigned {
			s.set(k, v)
		}
		return 0
	}
	args := words[1:]
	switch words[0] {
	case "exit":
		s.exited = true
		if len(args) > 0 {
			s.last, _ = strconv.Atoi(args[0])
		}
		return s.last & 255
	case "cd":
		dir := os.Getenv("HOME")
		if len(args) > 0 {
			dir = args[0]
		}
		if err := os.Chdir(dir); err != nil {
			return e.fail("cd", err)
		}
		return 0
	case "export":
		for _, a := range args {
			name, value, ok := strings.Cut(a, "=")
			if !ok {
				value = s.vars[name]
			}
			os.Setenv(name, value)
		}
		return 0
	case "set":
		s.errexit = s.errexit || (len(args) > 0 && args[0] == "-e")
		return 0
	case ":", "trap":
		return 0
	case "exec":
		if len(args) == 0 {
			return 0
		}
		if path, err := exec.LookPath(args[0]); err == nil {
			err = syscall.Exec(path, args, os.Environ())
			return e.fail("sh", err)
		}
		words, args = args, args[1:]
	}
	if builtin, ok := commands()[words[0]]; ok && words[0] != "serve" && words[0] != "sh" && len(assigned) == 0 {
		return builtin(e, args)
	}
	return s.external(e, words, assigned)
}

func (s *sh) external(e env, words []string, assigned map[string]string) int {
	c := exec.Command(words[0], words[1:]...)
	c.Stdin, c.Stdout, c.Stderr = e.stdin, e.stdout, e.stderr
	c.Env = os.Environ()
	for k, v := range assigned {
		c.Env = append(c.Env, k+"="+v)
	}
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return exit.ExitCode()
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		fmt.Fprintf(e.stderr, "sh: %s: not found\n", words[0])
		return 127
	case err != nil:
		fmt.Fprintf(e.stderr, "sh: %v\n", err)
		return 126
	}
	return 0
}

func (s *sh) set(name, value string) {
	if _, exported := os.LookupEnv(name); exported {
		os.Setenv(name, value)
		return
	}
	s.vars[name] = value
}

func (s *sh) get(name string) string {
	switch name {
	case "?":
		return strconv.Itoa(s.last)
	case "$":
		return strconv.Itoa(os.Getpid())
	case "@", "*":
		if len(s.args) > 1 {
			return strings.Join(s.args[1:], " ")
		}
		return ""
	}
	if n, err := strconv.Atoi(name); err == nil {
		if n < len(s.args) {
			return s.args[n]
		}
		return ""
	}
	if v, ok := s.vars[name]; ok {
		return v
	}
	return os.Getenv(name)
}
