// Package helm runs Helm's own code against a cluster: install, upgrade, roll back, remove.
package helm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/integration/cluster"
)

const (
	namespace = "docks"
	release   = "pier"
	patience  = 2 * time.Minute
)

// TestHelm takes a chart with a custom kind, hooks and permissions through its life.
func TestHelm(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	cfg := configuration(t, c)
	chart, err := loader.Load("testdata/chart")
	if err != nil {
		t.Fatal(err)
	}
	install(t, cfg, chart)
	shows(t, c, "v1", 3)
	if out := c.Kubectl("-n", namespace, "get", "berths"); !strings.Contains(out, "LENGTH") || !strings.Contains(out, "12") {
		t.Errorf("berths are shown as\n%s", out)
	}
	if out := c.Kubectl("-n", namespace, "logs", release+"-pre-install"); strings.TrimSpace(out) != "pre-install" {
		t.Errorf("the hook before the installation printed %q", out)
	}
	if out := c.Kubectl("-n", namespace, "auth", "can-i", "list", "berths.harbour.example.org", "--as=system:serviceaccount:"+namespace+":"+release); strings.TrimSpace(out) != "yes" {
		t.Errorf("the release's account may list berths: %s", out)
	}
	upgrade(t, cfg, chart, map[string]any{"version": "v2", "replicas": 2, "berths": 1})
	shows(t, c, "v2", 1)
	rollback(t, cfg)
	shows(t, c, "v1", 3)
	uninstall(t, cfg)
	if out := c.Kubectl("-n", namespace, "get", "all,berths,roles,rolebindings", "-o", "name"); strings.Contains(out, "deployment") || strings.Contains(out, "berth") {
		t.Errorf("left behind:\n%s", out)
	}
}

// configuration leads Helm into the cluster's network namespace.
func configuration(t *testing.T, c *cluster.Cluster) *action.Configuration {
	t.Helper()
	flags := genericclioptions.NewConfigFlags(false)
	ns, cache := namespace, t.TempDir()
	flags.KubeConfig, flags.Namespace, flags.CacheDir = &c.Kubeconfig, &ns, &cache
	flags.WrapConfigFn = func(config *rest.Config) *rest.Config {
		config.Dial = c.Dial
		return config
	}
	cfg := action.NewConfiguration()
	if err := cfg.Init(flags, namespace, "secret"); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func install(t *testing.T, cfg *action.Configuration, chart *v2.Chart) {
	t.Helper()
	i := action.NewInstall(cfg)
	i.ReleaseName, i.Namespace, i.CreateNamespace = release, namespace, true
	i.WaitStrategy, i.Timeout = kube.StatusWatcherStrategy, patience
	if _, err := i.Run(chart, nil); err != nil {
		t.Fatalf("install: %v", err)
	}
}

func upgrade(t *testing.T, cfg *action.Configuration, chart *v2.Chart, values map[string]any) {
	t.Helper()
	u := action.NewUpgrade(cfg)
	u.Namespace, u.WaitStrategy, u.Timeout = namespace, kube.StatusWatcherStrategy, patience
	if _, err := u.Run(release, chart, values); err != nil {
		t.Fatalf("upgrade: %v", err)
	}
}

func rollback(t *testing.T, cfg *action.Configuration) {
	t.Helper()
	r := action.NewRollback(cfg)
	r.Version, r.WaitStrategy, r.Timeout = 1, kube.StatusWatcherStrategy, patience
	if err := r.Run(release); err != nil {
		t.Fatalf("roll back: %v", err)
	}
}

func uninstall(t *testing.T, cfg *action.Configuration) {
	t.Helper()
	u := action.NewUninstall(cfg)
	u.WaitStrategy, u.Timeout = kube.StatusWatcherStrategy, patience
	if _, err := u.Run(release); err != nil {
		t.Fatalf("uninstall: %v", err)
	}
}

// shows waits until the release runs in one version, with so many berths.
func shows(t *testing.T, c *cluster.Cluster, version string, berths int) {
	t.Helper()
	cluster.Eventually(t, time.Minute, func() error {
		out := c.Kubectl("-n", namespace, "get", "configmap,berths", "-o", "jsonpath={.items[*].data.version} {range .items[*]}{.spec.depth}{end}")
		want := version + " " + strings.Repeat("4", berths)
		if err := cluster.Want("the release", out, want); err != nil {
			return err
		}
		images := c.Kubectl("-n", namespace, "get", "pods", "-l", "app="+release, "--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].spec.containers[*].image}")
		for _, image := range strings.Fields(images) {
			if image != "coracle/demo:"+version {
				return fmt.Errorf("pods run %s", images)
			}
		}
		return nil
	})
}
