package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

// StartServer runs `coracle server` and waits until it is ready.
func (c *Cluster) StartServer(args ...string) *Process {
	c.t.Helper()
	p := c.Start(append(append([]string{"server"}, c.ServerFlags()...), args...)...)
	Eventually(c.t, 30*time.Second, func() error {
		if p.Ended() {
			return fmt.Errorf("the server ended:\n%s", p.output)
		}
		if _, err := os.Stat(c.Kubeconfig); err != nil {
			return err
		}
		return c.ready()
	})
	return p
}

// ready asks for /readyz.
func (c *Cluster) ready() error {
	config, err := c.REST()
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz: %s", resp.Status)
	}
	return nil
}

// StartAgent runs `coracle agent` on the same folders and waits until its node is Ready.
func (c *Cluster) StartAgent(args ...string) *Process {
	c.t.Helper()
	p := c.Start(append(append([]string{"agent", "--config", "/dev/null"}, c.Flags()...), append(c.SteadyFlags(), args...)...)...)
	started := time.Now()
	Eventually(c.t, 30*time.Second, func() error {
		if p.Ended() {
			return fmt.Errorf("the agent ended:\n%s", p.output)
		}
		out, err := c.TryKubectl("", "get", "nodes", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status} {.items[*].status.conditions[?(@.type=="Ready")].lastHeartbeatTime}`)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		status, beat, _ := strings.Cut(out, " ")
		at, err := time.Parse(time.RFC3339, beat)
		if err != nil || status != "True" || at.Before(started.Truncate(time.Second)) {
			return fmt.Errorf("the node's Ready is %q", out)
		}
		return nil
	})
	return p
}

// Image runs `coracle image COMMAND` on the cluster's images, and returns what it printed; what it said of errors is in the error.
func (c *Cluster) Image(command string, args ...string) (string, error) {
	all := append([]string{"image", command}, c.Flags()...)
	out, err := c.Command(c.bin, append(all, args...)...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	return string(out), err
}

// ImportDemo imports the demo images that were built with the binary, as `up` does.
func (c *Cluster) ImportDemo(repository string) {
	c.t.Helper()
	archive := filepath.Join(repository, "internal", "assets", "files", "demo.tar.gz")
	if out, err := c.Image("import", archive); err != nil {
		c.fatalf("import the demo images: %v\n%s", err, out)
	}
}

// Machine makes the places of a further machine, and a cable to it: the cluster's end has the address 10.99.N.1, the machine's, 10.99.N.2 with a
// default route to the cluster. Its Kubeconfig is not there: kubectl is the cluster's.
func (c *Cluster) Machine(n int) *Cluster {
	c.t.Helper()
	m := New(c.t)
	name := fmt.Sprintf("cable%d", n)
	for _, command := range [][]string{
		{c.NetNS, "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", m.NetNS},
		{c.NetNS, "ip", "address", "add", fmt.Sprintf("10.99.%d.1/24", n), "dev", name},
		{c.NetNS, "ip", "link", "set", name, "up"},
		{m.NetNS, "ip", "address", "add", fmt.Sprintf("10.99.%d.2/24", n), "dev", "eth0"},
		{m.NetNS, "ip", "link", "set", "eth0", "up"},
		{m.NetNS, "ip", "route", "add", "default", "via", fmt.Sprintf("10.99.%d.1", n)},
	} {
		if out, err := exec.Command("nsenter", append([]string{"--net=" + command[0], "--"}, command[1:]...)...).CombinedOutput(); err != nil {
			c.fatalf("%v: %v\n%s", command[1:], err, out)
		}
	}
	return m
}

// AgentFlags are what `coracle agent` wants besides its own.
func (c *Cluster) AgentFlags() []string { return append(c.Flags(), "--config", "/dev/null") }

// Output is what the process has printed so far.
func (p *Process) Output() string { return p.output.String() }

// Run runs a command of the binary as it is given, and returns all it printed.
func (c *Cluster) Run(args ...string) (string, error) {
	out, err := c.Command(c.bin, args...).CombinedOutput()
	return string(out), err
}
