package crash

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// parts are the processes that are killed and started again. The server and the agent are the test's children; containerd is started again by the
// agent; a shim is nobody's.
type parts struct {
	c       *cluster.Cluster
	history *history
	logs    string // the folder of the parts' logs
	random  *rand.Rand
	count   map[string]int
	// shimsKilled has the containers, by ID, that the killed shims were started for.
	shimsKilled []string

	server, agent *part
}

// part is one process that the test starts.
type part struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

// start starts the server or the agent; what it prints is added to its log.
func (p *parts) start(name string) (*part, error) {
	args := append([]string{"server"}, p.c.ServerFlags()...)
	if name == "agent" {
		args = slices.Concat([]string{"agent", "--log-level", "debug"}, p.c.AgentFlags(), p.c.SteadyFlags())
	}
	log, err := os.OpenFile(filepath.Join(p.logs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	fmt.Fprintf(log, "%s ==== started\n", time.Now().Format("15:04:05.000"))
	s := &part{name: name, cmd: p.c.Command(p.c.Binary(), args...), done: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	return s, nil
}

func (s *part) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *part) kill() {
	_ = s.cmd.Process.Kill() // nsenter has executed the program in its own place
	<-s.done
}

// containerd and shims find those by the program that they run.
func (p *parts) containerd() []int {
	return cluster.ProcessesOf(filepath.Join(p.c.Layout.Bin(), "containerd"))
}

func (p *parts) shims() []int {
	return cluster.ProcessesOf(filepath.Join(p.c.Layout.Bin(), "containerd-shim-runc-v2"))
}

// killOne kills a part at random, and starts it again after a moment.
func (p *parts) killOne() error {
	what := []string{"agent", "agent", "agent", "containerd", "containerd", "shim", "shim", "server"}[p.random.IntN(8)]
	for name, s := range map[string]*part{"server": p.server, "agent": p.agent} {
		if s.ended() {
			return fmt.Errorf("the %s ended by itself", name)
		}
	}
	switch what {
	case "agent":
		return p.again(&p.agent)
	case "server":
		return p.again(&p.server)
	case "containerd":
		return p.killPID(what, p.containerd())
	}
	return p.killPID(what, p.shims())
}

func (p *parts) again(s **part) error {
	name := (*s).name
	(*s).kill()
	p.killed(name)
	time.Sleep(time.Duration(p.random.IntN(500)) * time.Millisecond)
	started, err := p.start(name)
	if err == nil {
		*s = started
		p.history.note("started %s", name)
	}
	return err
}

func (p *parts) killPID(what string, pids []int) error {
	if len(pids) == 0 {
		return nil // none runs at the moment
	}
	pid := pids[p.random.IntN(len(pids))]
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	if _, after, ok := strings.Cut(string(line), "\x00-id\x00"); what == "shim" && ok {
		id, _, _ := strings.Cut(after, "\x00")
		p.shimsKilled = append(p.shimsKilled, id)
		what += " " + id
	} else if what == "shim" {
		what = "pause" // the shim's program holds a shared PID namespace, too
	}
	p.killed(what)
	return nil
}

func (p *parts) killed(what string) {
	kind, _, _ := strings.Cut(what, " ")
	p.count[kind]++
	p.history.note("killed %s", what)
}

func (p *parts) stop(t *testing.T) {
	for _, s := range []*part{p.agent, p.server} {
		if s != nil {
			s.kill()
		}
	}
	if out, err := p.c.Coracle("down"); err != nil {
		t.Errorf("down: %v\n%s", err, out)
	}
}
