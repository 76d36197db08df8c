package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/coracle-dev/coracle/internal/client"
)

// How long is waited for what usually takes seconds: the machine may be busy.
const (
	serverTimeout = 2 * time.Minute
	nodesTimeout  = 3 * time.Minute
)

// writeKubeconfig makes the admin's kubeconfig for the machine below of the one that the server wrote.
func (l *Lab) writeKubeconfig() error {
	config, err := clientcmd.LoadFromFile(filepath.Join(l.NodeRoot(Server), nodeKubeconfig))
	if err != nil {
		return err
	}
	current := config.Contexts[config.CurrentContext]
	if current == nil || config.Clusters[current.Cluster] == nil || config.AuthInfos[current.AuthInfo] == nil {
		return errors.New("the server's kubeconfig is not complete")
	}
	name := l.Context()
	cluster := config.Clusters[current.Cluster]
	u, err := url.Parse(cluster.Server)
	if err != nil {
		return err
	}
	cluster.Server = "https://" + net.JoinHostPort(l.Address(Server).String(), u.Port())
	out := clientcmdapi.NewConfig()
	out.Clusters[name], out.AuthInfos[name] = cluster, config.AuthInfos[current.AuthInfo]
	out.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	out.CurrentContext = name
	data, err := clientcmd.Write(*out)
	if err != nil {
		return err
	}
	return writeFile(l.Kubeconfig(), data, 0o600)
}

// serverURL is where nodes reach the API.
func (l *Lab) serverURL() (string, error) {
	config, err := clientcmd.LoadFromFile(l.Kubeconfig())
	if err != nil {
		return "", err
	}
	return config.Clusters[l.Context()].Server, nil
}

func (l *Lab) client() (kubernetes.Interface, error) {
	return client.Config{Kubeconfig: l.Kubeconfig(), Component: "lab"}.Clientset()
}

// awaitAPI waits until the server says that it is ready, with its kubeconfig in place.
func (l *Lab) awaitAPI(ctx context.Context) error {
	var last error
	return l.until(ctx, serverTimeout, func(ctx context.Context) error {
		if pid, err := l.first(Server); err != nil || pid == 0 {
			return errors.Join(err, final{errors.New("it has ended")})
		}
		if err := l.writeKubeconfig(); errors.Is(err, fs.ErrNotExist) {
			return errors.New("it has not written its kubeconfig")
		} else if err != nil {
			return err
		}
		kube, err := l.client()
		if err != nil {
			return err
		}
		if _, err = kube.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err == nil || !errors.Is(err, syscall.ECONNREFUSED) {
			last = err
		}
		return errors.Join(err, last)
	})
}

// awaitNodes waits until the nodes are Ready by a Lease that they have renewed since.
func (l *Lab) awaitNodes(ctx context.Context, nodes []string, since time.Time, step func(string, ...any)) error {
	kube, err := l.client()
	if err != nil {
		return err
	}
	ready := map[string]bool{}
	waiting := ""
	err = l.until(ctx, nodesTimeout, func(ctx context.Context) error {
		for _, node := range nodes {
			if pid, err := l.first(node); err != nil || pid == 0 {
				waiting = node
				return errors.Join(err, final{errors.New("it has ended")})
			}
		}
		state, err := readiness(ctx, kube, since)
		if err != nil {
			return err
		}
		waiting = ""
		for _, node := range nodes {
			if state[node] && !ready[node] {
				ready[node] = true
				step("%s Ready", node)
			}
			if !ready[node] && waiting == "" {
				waiting = node
			}
		}
		if waiting != "" {
			return fmt.Errorf("it does not become Ready")
		}
		return nil
	})
	if err != nil && waiting != "" {
		return firewallHint(l.explain(waiting, err))
	}
	return err
}

// firewallHint names what most likely keeps machines apart where the kernel has the firewall see what only passes a bridge, as Docker asks it to.
func firewallHint(err error) error {
	const file = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if data, rerr := os.ReadFile(file); rerr != nil || strings.TrimSpace(string(data)) != "1" {
		return err
	}
	return fmt.Errorf("%w\nif the nodes cannot reach the server: this machine's firewall sees what passes between them (net.bridge.bridge-nf-call-iptables is 1), "+
		"and may drop it: let it forward from and to links called %s*", err, LinkPrefix)
}

// readiness tells which nodes are Ready, with a Lease renewed since.
func readiness(ctx context.Context, kube kubernetes.Interface, since time.Time) (map[string]bool, error) {
	leases, err := kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	fresh := map[string]bool{}
	for i := range leases.Items {
		renewed := leases.Items[i].Spec.RenewTime
		fresh[leases.Items[i].Name] = renewed != nil && renewed.After(since)
	}
	nodes, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	ready := map[string]bool{}
	for i := range nodes.Items {
		for _, c := range nodes.Items[i].Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				ready[nodes.Items[i].Name] = fresh[nodes.Items[i].Name]
			}
		}
	}
	return ready, nil
}

// final is an error that waiting does not mend.
type final struct{ error }

// until asks, quickly at first, until done, the time is over or the error is final.
func (l *Lab) until(ctx context.Context, within time.Duration, done func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for wait := 10 * time.Millisecond; ; wait = min(wait*2, 100*time.Millisecond) {
		err := done(ctx)
		var end final
		if err == nil || errors.As(err, &end) {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not within %s: %w", within, err)
			}
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
