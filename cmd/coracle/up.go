package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/internal/assets"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/paths"
)

func newUp() *cobra.Command {
	var foreground bool
	var wait time.Duration
	cmd := command(&cobra.Command{
		Use:   "up",
		Short: "Bring up a one-machine cluster in the background",
		Long: "Brings up a cluster of this one machine: API server, scheduler, controllers, agent and proxy in one process,\n" +
			"kept running in the background, and containerd as its child. Pods outlive a restart of any of them.",
	}, func(cmd *cobra.Command, o *options) error {
		if err := needRoot("coracle up"); err != nil {
			return err
		}
		if foreground {
			return runAlone(cmd.Context(), o)
		}
		return up(cmd.Context(), o, cmd.OutOrStdout(), givenFlags(cmd.Flags()), wait)
	}, commonFlags, serverFlags, clusterFlags, agentFlags, networkFlags, cniFlags, proxyFlags, evictionFlags, imageFlags, schedulerFlags, autoscalingFlags, signingFlags, controllersFlags, ingressNodeFlags)
	cmd.Flags().BoolVar(&foreground, "foreground", false, "stay in the foreground, without a supervisor")
	cmd.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long to wait for the node to be Ready")
	return cmd
}

// givenFlags repeats the flags that differ from their defaults, for the process in the background.
func givenFlags(f *pflag.FlagSet) []string {
	var args []string
	f.Visit(func(flag *pflag.Flag) {
		switch flag.Name {
		case "foreground", "wait":
			return
		}
		value := flag.Value.String()
		if s, ok := flag.Value.(pflag.SliceValue); ok {
			value = strings.Join(s.GetSlice(), ",")
		} else if flag.Value.Type() == "stringToString" {
			value = strings.Trim(value, "[]")
		}
		args = append(args, "--"+flag.Name+"="+value)
	})
	return args
}

// up starts the cluster in the background and shows how it comes to life.
func up(ctx context.Context, o *options, out io.Writer, flags []string, wait time.Duration) error {
	for _, check := range []func() error{o.check, o.checkControllers, o.checkNodeFlags} {
		if err := check(); err != nil {
			return err
		}
	}
	if _, running := supervisorPid(o.layout); running {
		fmt.Fprintln(out, "Coracle is up already.")
		printNext(out, o)
		return nil
	}
	if err := checkNode(); err != nil {
		return err
	}
	if err := checkPort(o.listen); err != nil {
		return err
	}
	if err := assets.Unpack(o.layout); err != nil {
		return err
	}
	logFile := filepath.Join(o.layout.Logs(), "coracle.log")
	died, err := startSupervisor(o, logFile, flags)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	p := &progress{out: out, started: time.Now()}
	if err := follow(ctx, o, p, died); err != nil {
		return fmt.Errorf("%w\nthe last lines of %s:\n%s", err, logFile, lastLines(logFile, 15))
	}
	printNext(out, o)
	return nil
}

// startSupervisor leaves the cluster running behind; died is closed if it gives up.
func startSupervisor(o *options, logFile string, flags []string) (died <-chan struct{}, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(o.layout.Run, 0o711), os.MkdirAll(o.layout.Logs(), 0o700)); err != nil {
		return nil, err
	}
	supervise := filepath.Join(o.layout.Bin(), assets.Supervise)
	args := append([]string{"-pidfile", o.layout.PidFile(), "-log", logFile, "--", self, "up", "--foreground"}, flags...)
	cmd := exec.Command(supervise, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the supervisor: %w", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	return ended, nil
}

// follow waits for each stage and shows it.
func follow(ctx context.Context, o *options, p *progress, died <-chan struct{}) error {
	kube, err := awaitAPI(ctx, o, died)
	if err != nil {
		return err
	}
	p.step("API server ready")
	name, err := o.resolveNodeName()
	if err != nil {
		return err
	}
	if err := until(ctx, died, "node "+name+" to be Ready", func() bool { return nodeReady(ctx, kube, name) }); err != nil {
		return err
	}
	p.step("node " + name + " Ready")
	if err := importDemo(ctx, o); err != nil {
		return fmt.Errorf("import the demo images: %w", err)
	}
	p.step("demo images coracle/demo:v1 and coracle/demo:v2 imported")
	return nil
}

// awaitAPI waits until the API server says that it is ready, to the admin.
func awaitAPI(ctx context.Context, o *options, died <-chan struct{}) (kubernetes.Interface, error) {
	var kube kubernetes.Interface
	err := until(ctx, died, "the API server", func() bool {
		if kube == nil {
			c, err := client.Config{Kubeconfig: o.kubeconfigOut, Component: "up"}.Clientset()
			if err != nil {
				return false
			}
			kube = c
		}
		_, err := kube.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			kube = nil // perhaps a kubeconfig of an earlier cluster, about to be replaced
		}
		return err == nil
	})
	return kube, err
}

func nodeReady(ctx context.Context, kube kubernetes.Interface, name string) bool {
	node, err := kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			// A condition of the last run says nothing: its Lease must be fresh too.
			return c.Status == corev1.ConditionTrue && leaseFresh(ctx, kube, name)
		}
	}
	return false
}

func leaseFresh(ctx context.Context, kube kubernetes.Interface, name string) bool {
	lease, err := kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, name, metav1.GetOptions{})
	return err == nil && lease.Spec.RenewTime != nil && time.Since(lease.Spec.RenewTime.Time) < 20*time.Second
}

// until polls, quickly at first, until done or the end of ctx or of the cluster.
func until(ctx context.Context, died <-chan struct{}, what string, done func() bool) error {
	for {
		if done() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting for %s", what)
		case <-died:
			return fmt.Errorf("the cluster stopped while waiting for %s", what)
		case <-time.After(25 * time.Millisecond):
		}
	}
}

type progress struct {
	out     io.Writer
	started time.Time
}

func (p *progress) step(what string) {
	fmt.Fprintf(p.out, "  %5.1fs  %s\n", time.Since(p.started).Seconds(), what)
}

func lastLines(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// printNext tells what to type next, as it can be typed from here.
func printNext(out io.Writer, o *options) {
	self := "coracle"
	if _, err := exec.LookPath(self); err != nil {
		self = os.Args[0]
	}
	kubeconfig := ""
	if o.kubeconfigOut != paths.DefaultKubeconfig {
		kubeconfig = " --kubeconfig " + o.kubeconfigOut
	}
	fmt.Fprintf(out, `
Your cluster is up. What to type next:
  %[1]s kubectl%[2]s get nodes
  %[1]s kubectl%[2]s create deployment web --image=coracle/demo:v1 --replicas=3
  %[1]s kubectl%[2]s expose deployment web --port=80 --target-port=8080 --type=NodePort
  %[1]s kubectl%[2]s get pods,services -o wide
  export KUBECONFIG=%[3]s   # for your own kubectl
  %[1]s down%[4]s
`, self, kubeconfig, o.kubeconfigOut, downFlags(o))
}

// downFlags are what down must be told of this cluster.
func downFlags(o *options) string {
	flags := ""
	if o.layout.Data != paths.DefaultData {
		flags += " --data-dir " + o.layout.Data
	}
	if o.layout.Run != paths.DefaultRun {
		flags += " --run-dir " + o.layout.Run
	}
	return flags
}

// resolveNodeName is the node's name: as given, or the host's.
func (o *options) resolveNodeName() (string, error) {
	if o.nodeName != "" {
		return o.nodeName, nil
	}
	name, err := os.Hostname()
	return strings.ToLower(name), err
}

// apiURL leads to the API server on this machine.
func (o *options) apiURL() (string, error) {
	host, port, err := net.SplitHostPort(o.listen)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, port), nil
}
