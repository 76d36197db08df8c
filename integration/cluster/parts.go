package cluster

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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
	p := c.Start(append(append([]string{"agent", "--config", "/dev/null"}, c.Flags()...), append(slices.Clone(agentFlags), args...)...)...)
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

// Image runs `coracle image COMMAND` on the cluster's images, and returns all it printed.
func (c *Cluster) Image(command string, args ...string) (string, error) {
	all := append([]string{"image", command}, c.Flags()...)
	out, err := c.Command(c.bin, append(all, args...)...).CombinedOutput()
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
