package integration

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// certLife is how long the nodes' certificates of TestJoin are valid.
const certLife = 15 * time.Second

// joining is a cluster without nodes, and a machine with a cable to it.
type joining struct {
	*kube
	machine *cluster.Cluster
	url     string
}

// TestJoin has a second machine join by a token, live on with certificates that it renews, and come back after one has expired.
func TestJoin(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	m := c.Machine(2)
	c.StartServer("--advertise-address", "10.99.2.1", "--cluster-signing-duration", certLife.String())
	j := &joining{kube: newKube(t, c), machine: m, url: "https://10.99.2.1:6443"}
	j.tokens()
	j.refusals()
	j.smallDisk()
	agent := j.joins()
	j.fullDisk(agent)
	j.renews(agent)
	j.expires()
}

// token runs `coracle token`.
func (j *joining) token(args ...string) string {
	j.t.Helper()
	out, err := j.c.Run(append([]string{"token"}, append(args, "--kubeconfig", j.kubeconfig)...)...)
	if err != nil {
		j.t.Fatalf("token %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(out)
}

// tokens makes, lists and deletes tokens.
func (j *joining) tokens() {
	j.t.Helper()
	line := j.token("create", "abcdef.0123456789abcdef", "--ttl", "2h", "--description", "for the lab")
	prefix := "coracle agent --server " + j.url + " --token K10"
	if !strings.HasPrefix(line, prefix) || !strings.HasSuffix(line, "::abcdef.0123456789abcdef") {
		j.t.Errorf("create printed %q", line)
	}
	j.want("secret", j.run("get", "secret", "-n", "kube-system", "bootstrap-token-abcdef", "-o",
		"go-template={{.type}} {{range $k, $v := .data}}{{if ne $k \"expiration\"}}{{$k}}={{$v | base64decode}} {{end}}{{end}}"),
		"bootstrap.kubernetes.io/token auth-extra-groups=system:bootstrappers:kubeadm:default-node-token description=for the lab token-id=abcdef "+
			"token-secret=0123456789abcdef usage-bootstrap-authentication=true usage-bootstrap-signing=true")
	if out, err := j.c.Run("token", "create", "abcdef.0123456789abcdef", "--kubeconfig", j.kubeconfig); err == nil || !strings.Contains(out, "a token with the ID abcdef is there already") {
		j.t.Errorf("a second one: %v\n%s", err, out)
	}
	forever := j.token("create", "--ttl", "0", "-q")
	_, short, _ := strings.Cut(forever, "::")
	list := j.token("list")
	j.contains("list", list, "TOKEN", "EXTRA GROUPS", "abcdef.0123456789abcdef   1h          ", "authentication,signing   for the lab", short+"   <forever>   <never>")
	j.want("deleted", j.token("delete", "abcdef", forever), "deleted token abcdef\ndeleted token "+short[:6])
	j.want("list", j.token("list"), "TOKEN   TTL   EXPIRES   USAGES   DESCRIPTION   EXTRA GROUPS")
	if out, err := j.c.Run("token", "delete", "abcdef", "--kubeconfig", j.kubeconfig); err == nil || !strings.Contains(out, "there is no token with the ID abcdef") {
		j.t.Errorf("deleted twice: %v\n%s", err, out)
	}
}

// agent runs `coracle agent` on the machine until it ends by itself.
func (j *joining) agent(args ...string) (string, error) {
	return j.machine.Run(append(append([]string{"agent"}, j.machine.AgentFlags()...), args...)...)
}

// refusals are the errors of who cannot join.
func (j *joining) refusals() {
	j.t.Helper()
	good := j.token("create", "-q")
	head, short, _ := strings.Cut(good, "::")
	wrongSecret := head + "::" + short[:7] + strings.Repeat("0", 16)
	wrongCA := "K10" + strings.Repeat("0", 64) + "::" + short
	expired := j.token("create", "--ttl", "1s", "-q")
	time.Sleep(time.Second)
	var wg sync.WaitGroup
	nowhere := "https://10.99.2.1:6444"
	for _, c := range []struct {
		what, server, token string
		more                []string
		want                string
	}{
		{"nothing", "", "", nil, "this machine has not joined a cluster: there is no " + j.machine.Layout.Kubeconfig("agent") + "; join with --server and --token"},
		{"no token at all", j.url, "hello", nil, "--token: that is no token: it should look like K10"},
		{"no CA", j.url, short, nil, "the token does not say which CA to trust: take all of what `coracle token create` prints"},
		{"secret", j.url, wrongSecret, nil, "cannot join: the token is wrong: its secret is not that of the cluster's token " + short[:6]},
		{"CA", j.url, wrongCA, nil, "is of another cluster than the token: its CA is " + strings.TrimPrefix(head, "K10")},
		{"expired", j.url, expired, nil, "the cluster does not know this token, or it has expired: make a new one with `coracle token create`"},
		{"server", nowhere, good, nil, "the server " + nowhere + " cannot be reached: Get"},
		{"no HTTPS", "http://10.99.2.1:6443", good, nil, `--server "http://10.99.2.1:6443": want https://HOST:PORT`},
		{"label", j.url, good, []string{"--node-labels", "kubernetes.io/role=x"}, "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [kubernetes.io/role]"},
		{"taint", j.url, good, []string{"--register-with-taints", "a=b:Never"}, "the effect is NoSchedule, PreferNoSchedule or NoExecute"},
		{"name", j.url, good, []string{"--node-name", "Up"}, `the node's name "Up", from --node-name or else the host's: a lowercase RFC 1123 subdomain`},
	} {
		wg.Go(func() {
			var args []string
			if c.server != "" {
				args = append(args, "--server", c.server, "--token", c.token)
			}
			out, err := j.agent(append(args, c.more...)...)
			if err == nil || !strings.Contains(out, c.want) {
				j.t.Errorf("%s: %v, %s\nwant %s", c.what, err, out, c.want)
			}
			if strings.Contains(out, short[7:]) {
				j.t.Errorf("%s: the error tells the token's secret: %s", c.what, out)
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(j.machine.Layout.Kubeconfig("agent")); !errors.Is(err, os.ErrNotExist) {
		j.t.Errorf("who may not join has a kubeconfig: %v", err)
	}
}

// start runs the agent and waits for the node to be Ready by its own Lease.
func (j *joining) start(args ...string) *cluster.Process {
	j.t.Helper()
	p := j.machine.Start(append(append([]string{"agent"}, j.machine.AgentFlags()...), args...)...)
	started := time.Now()
	cluster.Eventually(j.t, 40*time.Second, func() error {
		if p.Ended() {
			return fmt.Errorf("the agent ended:\n%s", p.Output())
		}
		ready, ok := j.try("", "get", "node", "second", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if !ok {
			return errors.New(ready.all())
		}
		lease, _ := j.try("", "get", "lease", "-n", "kube-node-lease", "second", "-o", "jsonpath={.spec.renewTime}")
		at, err := time.Parse(time.RFC3339, lease.stdout)
		if err != nil || at.Before(started) {
			return fmt.Errorf("the lease is of %q", lease.stdout)
		}
		return cluster.Want("Ready", ready.stdout, "True")
	})
	return p
}

// smallDisk gives the machine a disk for its data that is soon full.
func (j *joining) smallDisk() {
	j.t.Helper()
	data := j.machine.Layout.Data
	if err := os.MkdirAll(data, 0o755); err != nil {
		j.t.Fatal(err)
	}
	if err := unix.Mount("disk", data, "tmpfs", 0, "size=400m"); err != nil {
		j.t.Fatal(err)
	}
}

// condition is one of the node's.
func (j *joining) condition(kind string) string {
	j.t.Helper()
	return j.get("node/second", `{.status.conditions[?(@.type=="`+kind+`")].status}`)
}

// fullDisk fills the machine's disk to the last byte for longer than the node's certificate lasts.
func (j *joining) fullDisk(agent *cluster.Process) {
	j.t.Helper()
	first := j.certificate()
	path := filepath.Join(j.machine.Layout.Data, "filler")
	f, err := os.Create(path)
	if err != nil {
		j.t.Fatal(err)
	}
	for chunk := make([]byte, 1<<20); err == nil && len(chunk) > 0; {
		if _, err = f.Write(chunk); err != nil && len(chunk) > 1 {
			chunk, err = chunk[:len(chunk)/2], nil
		}
	}
	if err := f.Close(); err != nil {
		j.t.Fatal(err)
	}
	cluster.Eventually(j.t, 40*time.Second, func() error { return cluster.Want("DiskPressure", j.condition("DiskPressure"), "True") })
	time.Sleep(time.Until(first.NotAfter) + 2*time.Second)
	lease := j.run("get", "lease", "-n", "kube-node-lease", "second", "-o", "jsonpath={.spec.renewTime}")
	cluster.Eventually(j.t, 30*time.Second, func() error {
		if now := j.run("get", "lease", "-n", "kube-node-lease", "second", "-o", "jsonpath={.spec.renewTime}"); now == lease {
			return fmt.Errorf("the lease is still of %s", now)
		}
		return nil
	})
	if agent.Ended() {
		j.t.Fatalf("with a full disk the agent ended:\n%s", agent.Output())
	}
	if err := os.Remove(path); err != nil {
		j.t.Fatal(err)
	}
	cluster.Eventually(j.t, 40*time.Second, func() error { return cluster.Want("DiskPressure", j.condition("DiskPressure"), "False") })
	j.want("Ready", j.condition("Ready"), "True")
	cluster.Eventually(j.t, 90*time.Second, func() error { // what was renewed meanwhile is written now
		if now := j.certificate(); !now.NotAfter.After(first.NotAfter) {
			return fmt.Errorf("the certificate on disk is still the first")
		}
		return nil
	})
}

// joins has the machine join, and looks at the node that it becomes.
func (j *joining) joins() *cluster.Process {
	j.t.Helper()
	token := j.token("create", "-q", "--description", "the second")
	p := j.start("--server", j.url, "--token", token, "--node-name", "second", "--node-ip", "10.99.2.2,fd00::2",
		"--node-labels", "disk=ssd,node.kubernetes.io/pool=a", "--register-with-taints", "only=some:NoSchedule", "--eviction-pressure-transition-period", "1s")
	j.want("labels", j.get("node/second", `{.metadata.labels.disk} {.metadata.labels.node\.kubernetes\.io/pool} {.metadata.labels.kubernetes\.io/hostname}`), "ssd a second")
	j.want("taints", j.get("node/second", `{.spec.taints[?(@.key=="only")].value}`), "some")
	j.want("addresses", j.get("node/second", "{.status.addresses[*].address}"), "10.99.2.2 fd00::2 second")
	j.want("user of the request", j.get("csr", `{.items[?(@.spec.signerName=="kubernetes.io/kube-apiserver-client-kubelet")].spec.groups}`),
		`["system:bootstrappers","system:bootstrappers:kubeadm:default-node-token","system:authenticated"]`)
	j.contains("approved", j.run("get", "csr"), "Approved,Issued")
	info, err := os.Stat(j.machine.Layout.Kubeconfig("agent"))
	if err != nil || info.Mode().Perm() != 0o600 {
		j.t.Errorf("the agent's kubeconfig: %v, %v", info, err)
	}
	// Another machine cannot become this node.
	other := []string{"agent", "--config", "/dev/null", "--data-dir", j.t.TempDir(), "--run-dir", j.t.TempDir()}
	out, err := j.machine.Run(append(other, "--server", j.url, "--token", token, "--node-name", "second")...)
	if err == nil || !strings.Contains(out, `cannot join: a node "second" is there already and Ready`) {
		j.t.Errorf("a second second: %v, %s", err, out)
	}
	_, short, _ := strings.Cut(token, "::")
	j.token("delete", short)
	return p
}

// certificate is the node's, as it lies in its kubeconfig.
func (j *joining) certificate() *x509.Certificate {
	j.t.Helper()
	config, err := clientcmd.LoadFromFile(j.machine.Layout.Kubeconfig("agent"))
	if err != nil {
		j.t.Fatal(err)
	}
	user := config.AuthInfos["system:node:second"]
	pair, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
	if err != nil {
		j.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		j.t.Fatal(err)
	}
	return leaf
}

// renews waits until the first certificate is over, and looks whether the node still lives, on another key.
func (j *joining) renews(agent *cluster.Process) {
	j.t.Helper()
	first := j.certificate()
	j.want("organisation", strings.Join(first.Subject.Organization, ","), "system:nodes")
	j.machine.ImportDemo(testenv.Repository())
	j.run("run", "there", "--image=coracle/demo:v1", `--overrides={"spec":{"nodeName":"second"}}`)
	j.ready("pod/there")
	time.Sleep(time.Until(first.NotAfter) + 2*time.Second)
	second := j.certificate()
	if !second.NotAfter.After(first.NotAfter) || second.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(first.PublicKey) {
		j.t.Errorf("the certificate is valid until %v, the first was until %v", second.NotAfter, first.NotAfter)
	}
	// Over the tunnel and over the API, with connections of the new certificate.
	j.want("exec", j.run("exec", "there", "--", "hostname"), "there")
	j.run("run", "later", "--image=coracle/demo:v1", `--overrides={"spec":{"nodeName":"second"}}`)
	j.ready("pod/later")
	if agent.Ended() {
		j.t.Errorf("the agent ended:\n%s", agent.Output())
	}
	// It needs neither token nor server's address any more.
	agent.Stop()
	j.start().Kill()
}

// expires leaves the node off for longer than its certificate lasts.
func (j *joining) expires() {
	j.t.Helper()
	time.Sleep(time.Until(j.certificate().NotAfter) + time.Second)
	out, err := j.agent()
	if err == nil || !strings.Contains(out, "the node's certificate has expired: ") || !strings.Contains(out, "make a token on the server with `coracle token create`") {
		j.t.Errorf("an expired certificate: %v, %s", err, out)
	}
	// It counts as Ready until its Lease is missed; whoever knows that it is this machine deletes it.
	j.run("delete", "node", "second")
	j.start("--server", j.url, "--token", j.token("create", "-q"), "--node-name", "second")
	j.eventually("pod/there", "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}", "0 true")
}
