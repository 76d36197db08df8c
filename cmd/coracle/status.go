package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/paths"
)

func newStatus() *cobra.Command {
	var kubeconfig string
	cmd := command(&cobra.Command{
		Use:   "status",
		Short: "Show what runs, what it costs, and whether it is well",
	}, func(cmd *cobra.Command, o *options) error {
		o.kubeconfigOut = kubeconfig
		return status(cmd.Context(), o, cmd.OutOrStdout())
	}, placeFlags)
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", paths.DefaultKubeconfig, "the admin's kubeconfig")
	return cmd
}

// status prints the processes of this machine's cluster and what the API server tells of itself and its nodes. Its
// error is that the cluster is not well.
func status(ctx context.Context, o *options, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "PROCESS\tPID\tRSS")
	processes, err := clusterProcesses(o.layout)
	if err != nil {
		return err
	}
	for _, p := range processes {
		fmt.Fprintf(w, "%s\t%d\t%.1f MB\n", p.name, p.pid, float64(p.rss)/1e6)
	}
	if len(processes) == 0 {
		fmt.Fprintln(w, "none\t\t")
	}
	fmt.Fprintln(w)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	kube, err := client.Config{Kubeconfig: o.kubeconfigOut, Component: "status"}.Clientset()
	if err != nil {
		return fmt.Errorf("the cluster is down: %w", err)
	}
	return apiStatus(ctx, kube, w)
}

func apiStatus(ctx context.Context, kube kubernetes.Interface, w io.Writer) error {
	if _, err := kube.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
		return fmt.Errorf("the API server is not ready: %w", err)
	}
	nodes, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	pods, err := kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	count, running := map[string]int{}, map[string]int{}
	for i := range pods.Items {
		count[pods.Items[i].Spec.NodeName]++
		if pods.Items[i].Status.Phase == corev1.PodRunning {
			running[pods.Items[i].Spec.NodeName]++
		}
	}
	fmt.Fprintln(w, "NODE\tSTATUS\tPODS\tRUNNING")
	unready := 0
	for i := range nodes.Items {
		n := &nodes.Items[i]
		state := "NotReady"
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				state = "Ready"
			}
		}
		if state != "Ready" {
			unready++
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\n", n.Name, state, count[n.Name], running[n.Name])
	}
	if waiting := count[""]; waiting > 0 {
		fmt.Fprintf(w, "(none)\twaiting for a node\t%d\t0\n", waiting)
	}
	if unready > 0 {
		return fmt.Errorf("%d of %d nodes are not Ready", unready, len(nodes.Items))
	}
	return nil
}

type process struct {
	name string
	pid  int
	rss  int64 // bytes
}

// clusterProcesses finds the processes that belong to a layout: those whose arguments name its run folder, and the helpers
// that were unpacked into it.
func clusterProcesses(l paths.Layout) ([]process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, dir := range dirs {
		exe, err := os.Readlink(dir + "/exe")
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() || elsewhere(dir) {
			continue
		}
		name := ""
		if rest, ours := strings.CutPrefix(exe, l.Bin()+"/"); ours {
			name = strings.TrimSuffix(rest, " (deleted)")
		} else if strings.HasPrefix(filepath.Base(exe), "coracle") {
			name = componentOf(dir, l)
		}
		if name != "" {
			found = append(found, process{name: name, pid: pid, rss: residentBytes(dir)})
		}
	}
	return found, nil
}

// elsewhere tells whether a process, by its folder below /proc, has a PID namespace other than this one: it is a lab's, whose machines have
// the same paths.
func elsewhere(dir string) bool {
	own, err := os.Readlink("/proc/self/ns/pid")
	its, ierr := os.Readlink(dir + "/ns/pid")
	return err == nil && ierr == nil && own != its
}

// componentOf reads which part of the layout's cluster a coracle process is; empty for another cluster's.
func componentOf(dir string, l paths.Layout) string {
	data, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return ""
	}
	args := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
	if len(args) < 2 {
		return ""
	}
	run := paths.DefaultRun
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--run-dir="); ok {
			run = value
		} else if arg == "--run-dir" && i+1 < len(args) {
			run = args[i+1]
		}
	}
	switch args[1] {
	case "up", "server", "agent", "apiserver", "scheduler", "controllers", "proxy", "containerd":
		if run == l.Run {
			return "coracle " + args[1]
		}
	}
	return ""
}

func residentBytes(dir string) int64 {
	data, err := os.ReadFile(dir + "/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
