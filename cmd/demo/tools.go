package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func cat(e env, args []string) int {
	if len(args) == 0 {
		args = []string{"-"}
	}
	code := 0
	for _, name := range args {
		if name == "-" {
			_, _ = io.Copy(e.stdout, e.stdin)
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			code = e.fail("cat", err)
			continue
		}
		if _, err := io.Copy(e.stdout, f); err != nil {
			code = e.fail("cat", err)
		}
		f.Close()
	}
	return code
}

// flags splits leading dash arguments (joined letters) from the operands.
func flags(args []string) (letters string, operands []string) {
	for i, a := range args {
		if a == "--" {
			return letters, append(operands, args[i+1:]...)
		}
		if len(a) > 1 && a[0] == '-' {
			letters += strings.TrimLeft(a, "-")
			continue
		}
		operands = append(operands, a)
	}
	return letters, operands
}

func ls(e env, args []string) int {
	opts, names := flags(args)
	if len(names) == 0 {
		names = []string{"."}
	}
	code := 0
	for _, name := range names {
		st, err := os.Lstat(name)
		if err != nil {
			code = e.fail("ls", err)
			continue
		}
		if !st.IsDir() {
			lsEntry(e, opts, name, st)
			continue
		}
		if len(names) > 1 {
			fmt.Fprintf(e.stdout, "%s:\n", name)
		}
		entries, err := os.ReadDir(name)
		if err != nil {
			code = e.fail("ls", err)
		}
		for _, entry := range entries {
			if st, err := entry.Info(); err == nil && (entry.Name()[0] != '.' || strings.ContainsAny(opts, "aA")) {
				lsEntry(e, opts, filepath.Join(name, entry.Name()), st)
			}
		}
	}
	return code
}

func lsEntry(e env, opts, path string, st os.FileInfo) {
	if !strings.Contains(opts, "l") {
		fmt.Fprintln(e.stdout, st.Name())
		return
	}
	name := st.Name()
	if target, err := os.Readlink(path); err == nil {
		name += " -> " + target
	}
	sys := st.Sys().(*syscall.Stat_t)
	fmt.Fprintf(e.stdout, "%v %5d %5d %9d %s %s\n", st.Mode(), sys.Uid, sys.Gid, st.Size(), st.ModTime().Format("Jan _2 15:04"), name)
}

func printEnv(e env, _ []string) int {
	for _, v := range os.Environ() {
		fmt.Fprintln(e.stdout, v)
	}
	return 0
}

func echo(e env, args []string) int {
	end := "\n"
	if len(args) > 0 && args[0] == "-n" {
		args, end = args[1:], ""
	}
	_, err := io.WriteString(e.stdout, strings.Join(args, " ")+end)
	if err != nil {
		return 1
	}
	return 0
}

// sleep takes seconds, a Go duration, or "infinity"; several add up.
func sleep(e env, args []string) int {
	var total time.Duration
	for _, a := range args {
		if a == "infinity" || a == "inf" {
			select {}
		}
		d, err := time.ParseDuration(a)
		if secs, ferr := strconv.ParseFloat(a, 64); ferr == nil {
			d, err = time.Duration(secs*float64(time.Second)), nil
		}
		if err != nil {
			return e.fail("sleep", fmt.Errorf("invalid time interval %q", a))
		}
		total += d
	}
	time.Sleep(total)
	return 0
}

func hostname(e env, _ []string) int {
	name, err := os.Hostname()
	if err != nil {
		return e.fail("hostname", err)
	}
	fmt.Fprintln(e.stdout, name)
	return 0
}

func id(e env, _ []string) int {
	groups, _ := os.Getgroups()
	text := make([]string, len(groups))
	for i, g := range groups {
		text[i] = strconv.Itoa(g)
	}
	fmt.Fprintf(e.stdout, "uid=%d gid=%d groups=%s\n", os.Getuid(), os.Getgid(), strings.Join(text, ","))
	return 0
}

func pwd(e env, _ []string) int {
	dir, err := os.Getwd()
	if err != nil {
		return e.fail("pwd", err)
	}
	fmt.Fprintln(e.stdout, dir)
	return 0
}

func date(e env, _ []string) int {
	fmt.Fprintln(e.stdout, time.Now().UTC().Format(time.UnixDate))
	return 0
}

func mkdir(e env, args []string) int {
	opts, names := flags(args)
	make := os.Mkdir
	if strings.Contains(opts, "p") {
		make = os.MkdirAll
	}
	return each(e, "mkdir", names, func(n string) error { return make(n, 0o755) })
}

func rm(e env, args []string) int {
	opts, names := flags(args)
	return each(e, "rm", names, func(n string) error {
		remove := os.Remove
		if strings.ContainsAny(opts, "rR") {
			remove = os.RemoveAll
		}
		err := remove(n)
		if strings.Contains(opts, "f") && errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

func touch(e env, args []string) int {
	return each(e, "touch", args, func(n string) error {
		f, err := os.OpenFile(n, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		return errors.Join(f.Close(), os.Chtimes(n, time.Time{}, time.Now()))
	})
}

func each(e env, name string, operands []string, do func(string) error) int {
	code := 0
	for _, o := range operands {
		if err := do(o); err != nil {
			code = e.fail(name, err)
		}
	}
	return code
}

func kill(e env, args []string) int {
	sig := syscall.SIGTERM
	if len(args) > 1 && strings.HasPrefix(args[0], "-") {
		name := strings.TrimPrefix(strings.ToUpper(args[0][1:]), "SIG")
		byName := map[string]syscall.Signal{"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "USR2": 12, "TERM": 15, "STOP": 19, "CONT": 18}
		n, err := strconv.Atoi(name)
		if s, ok := byName[name]; ok {
			n, err = int(s), nil
		}
		if err != nil {
			return e.fail("kill", fmt.Errorf("no such signal %q", args[0]))
		}
		sig, args = syscall.Signal(n), args[1:]
	}
	return each(e, "kill", args, func(a string) error {
		pid, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		return syscall.Kill(pid, sig)
	})
}

// test knows -e -f -d FILE, -n -z STRING, A = B, A != B and the integer comparisons; a lone string is true unless empty.
func test(e env, args []string) int {
	if len(args) > 0 && args[len(args)-1] == "]" {
		args = args[:len(args)-1]
	}
	negate := len(args) > 1 && args[0] == "!"
	if negate {
		args = args[1:]
	}
	ok, err := check(args)
	if err != nil {
		fmt.Fprintf(e.stderr, "test: %v\n", err)
		return 2
	}
	if ok != negate {
		return 0
	}
	return 1
}

func check(args []string) (bool, error) {
	switch {
	case len(args) == 0:
		return false, nil
	case len(args) == 1:
		return args[0] != "", nil
	case len(args) == 2:
		st, err := os.Stat(args[1])
		switch args[0] {
		case "-e":
			return err == nil, nil
		case "-f":
			return err == nil && st.Mode().IsRegular(), nil
		case "-d":
			return err == nil && st.IsDir(), nil
		case "-n":
			return args[1] != "", nil
		case "-z":
			return args[1] == "", nil
		}
	case len(args) == 3 && (args[1] == "=" || args[1] == "=="):
		return args[0] == args[2], nil
	case len(args) == 3 && args[1] == "!=":
		return args[0] != args[2], nil
	case len(args) == 3:
		a, aerr := strconv.Atoi(args[0])
		b, berr := strconv.Atoi(args[2])
		if err := errors.Join(aerr, berr); err != nil {
			return false, err
		}
		result, ok := map[string]bool{"-eq": a == b, "-ne": a != b, "-lt": a < b, "-le": a <= b, "-gt": a > b, "-ge": a >= b}[args[1]]
		if ok {
			return result, nil
		}
	}
	return false, fmt.Errorf("cannot understand %q", args)
}

// wget prints what a URL answers; exit code 1 for a failure or a status of 400 and above.
func wget(e env, args []string) int {
	fs := flag.NewFlagSet("wget", flag.ContinueOnError)
	fs.SetOutput(e.stderr)
	fs.Bool("q", false, "quiet (always)")
	out := fs.String("O", "-", "file to write; - is standard output")
	secs := fs.Float64("T", 10, "seconds to wait")
	if err := fs.Parse(splitO(args)); err != nil || fs.NArg() != 1 {
		return 2
	}
	url := fs.Arg(0)
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	code, body, err := get(url, time.Duration(*secs*float64(time.Second)))
	if err != nil {
		return e.fail("wget", err)
	}
	defer body.Close()
	w := e.stdout
	if *out != "-" {
		f, err := os.Create(*out)
		if err != nil {
			return e.fail("wget", err)
		}
		defer f.Close()
		w = f
	}
	if _, err := io.Copy(w, body); err != nil {
		return e.fail("wget", err)
	}
	if code >= 400 {
		return e.fail("wget", fmt.Errorf("server returned error: %d %s", code, reasons[code]))
	}
	return 0
}

// splitO separates what wget allows joined: -qO-, -O-, -qO FILE, -T5.
func splitO(args []string) []string {
	var out []string
	for _, a := range args {
		if strings.HasPrefix(a, "-qO") {
			out, a = append(out, "-q"), "-"+a[2:]
		}
		if len(a) > 2 && (strings.HasPrefix(a, "-O") || strings.HasPrefix(a, "-T")) && a[2] != '=' {
			out, a = append(out, a[:2]), a[2:]
		}
		out = append(out, a)
	}
	return out
}

// stress allocates and touches memory ("-m 64" MiB) and burns CPU ("-c 1" threads) until killed.
func stress(e env, args []string) int {
	fs := flag.NewFlagSet("stress", flag.ContinueOnError)
	fs.SetOutput(e.stderr)
	mib := fs.Int("m", 0, "MiB of memory to hold")
	cpus := fs.Int("c", 0, "busy loops to run")
	if fs.Parse(args) != nil {
		return 2
	}
	var held [][]byte
	for range *mib {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	fmt.Fprintf(e.stdout, "holding %d MiB\n", len(held))
	for range *cpus {
		go func() {
			for i := 0; ; i++ {
				_ = i
			}
		}()
	}
	select {}
}
