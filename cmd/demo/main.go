// Command demo is the one program in the demo image: a web server that shows its version, host name and
// environment and fails its probes on request, a small key-value store, clients that look at a network from inside, and, by the
// name it is called with, just enough of a shell and its tools for kubectl exec and cp. It uses the standard library only.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
)

// env is what a command sees of the world; in a pipeline each has its own streams.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

type command func(e env, args []string) int

// commands are found by argv[0] (the links in the image's /bin) or by demo's first argument.
func commands() map[string]command {
	return map[string]command{
		"serve": serve, "kv": kvServe, "kv-get": kvGet, "kv-set": kvSet, "kv-push": kvPush, "kv-pop": kvPop, "wget": wget, "sleep": sleep,
		"cat": cat, "ls": ls, "env": printEnv, "echo": echo, "tar": tarMain, "hostname": hostname, "id": id,
		"true":  func(env, []string) int { return 0 },
		"false": func(env, []string) int { return 1 },
		"sh":    shell, "pwd": pwd, "mkdir": mkdir, "rm": rm, "kill": kill, "test": test, "[": test, "date": date,
		"stress": stress, "touch": touch, "ask": ask, "lookup": lookup, "load": load,
	}
}

func main() {
	all := commands()
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	run, ok := all[name]
	if !ok {
		name = "serve"
		if len(args) > 0 {
			name, args = args[0], args[1:]
		}
		if run, ok = all[name]; !ok {
			names := make([]string, 0, len(all))
			for n := range all {
				names = append(names, n)
			}
			slices.Sort(names)
			fmt.Fprintf(os.Stderr, "demo: no command %q; there are %v\n", name, names)
			os.Exit(127)
		}
	}
	if name != "serve" && name != "load" {
		// As process 1 of a container the default action of a signal is none: end as a shell's child would.
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
		go func() { os.Exit(128 + int((<-c).(syscall.Signal))) }()
	}
	os.Exit(run(env{os.Stdin, os.Stdout, os.Stderr}, args))
}

// fail prints an error as the command's and returns exit code 1.
func (e env) fail(name string, err error) int {
	fmt.Fprintf(e.stderr, "%s: %v\n", name, err)
	return 1
}
