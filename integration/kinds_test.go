package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// kindsFolder holds an object of every kind that can be created.
func kindsFolder() string {
	return filepath.Join(testenv.Repository(), "integration", "testdata", "kinds")
}

// manifests are the folder's files.
func manifests(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(kindsFolder(), "*"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, ".yaml") || strings.HasSuffix(f, ".tmpl") {
			all = append(all, string(data))
		}
	}
	return all
}

// TestKinds runs kubectl's commands on every kind that is served, with our kubectl and with the machine's.
func TestKinds(t *testing.T) {
	t.Parallel()
	t.Run("builtin", func(t *testing.T) { everyKind(kindsServer(t, "")) })
	t.Run("stock", func(t *testing.T) {
		stock, err := exec.LookPath("kubectl")
		if err != nil {
			t.Skip("skipped: this machine has no kubectl of its own")
		}
		everyKind(kindsServer(t, stock))
	})
	t.Run("complete", func(t *testing.T) { kindsComplete(kindsServer(t, "")) })
}

// kindsServer is a server of a test's own: what is left of one that failed is in nobody's way.
func kindsServer(t *testing.T, binary string) *kube {
	t.Helper()
	c := cluster.New(t)
	c.StartServer()
	k := newKubeNamed(t, c, "kinds")
	k.binary = binary
	return k
}

// everyKind takes all kinds at once through an object's life.
func everyKind(k *kube) {
	k.t.Helper()
	dir := kindsFolder()
	count := 0
	for _, f := range manifests(k.t) {
		count += strings.Count("\n"+f, "\nkind: ")
	}
	count--          // the request for a certificate is not a manifest yet
	k.ns = "default" // where the manifests refer to each other
	k.run("config", "set-context", "--current", "--namespace=default")
	lines := func(what, out string, pattern string, want int) {
		k.t.Helper()
		if got := len(regexp.MustCompile(`(?m)`+pattern).FindAllString(out, -1)); got != want {
			k.t.Errorf("%s: %d lines match %q, want %d:\n%s", what, got, pattern, want, out)
		}
	}
	lines("dry run", k.run("create", "-f", dir, "--dry-run=server"), `created \(server dry run\)$`, count)
	lines("create", k.run("create", "-f", dir, "--save-config"), ` created$`, count)
	k.established()
	names := strings.Fields(k.run("get", "-f", dir, "-o", "name"))
	if len(names) != count {
		k.t.Errorf("get -o name shows %d objects, want %d", len(names), count)
	}
	lines("yaml", k.run("get", "-f", dir, "-o", "yaml"), `^    creationTimestamp: "`, count)
	for _, form := range []string{"wide", "json", "jsonpath={.items[*].metadata.uid}", "custom-columns=NAME:.metadata.name"} {
		k.run("get", "-f", dir, "-o", form)
	}
	if k.binary == "" {
		lines("describe", k.run("describe", "-f", dir), `^Name: +\S`, count)
	} else { // an older one asks for beta versions of some kinds that are stable by now
		k.run("describe", "-f", filepath.Join(dir, "workloads.yaml"))
	}
	lines("apply", k.run("apply", "-f", dir), ` (unchanged|configured)$`, count)
	// A budget's selector is replaced as a whole by its patch strategy, so that kubectl sends it every time.
	again := k.run("apply", "-f", dir)
	lines("apply again", again, ` unchanged$`, count-1)
	k.contains("apply again", again, "poddisruptionbudget.policy/kinds configured")
	k.want("diff", k.run("diff", "-f", dir), "")
	lines("label", k.run("label", "-f", dir, "tried=yes"), ` labeled$`, count)
	lines("annotate", k.run("annotate", "-f", dir, "example.org/tried=yes"), ` annotated$`, count)
	for _, kind := range []string{"strategic", "merge"} {
		patch := `{"metadata":{"labels":{"patched":"` + kind + `"}}}`
		lines(kind, k.run("patch", "-f", dir, "--type="+kind, "-p", patch), ` patched$`, count)
	}
	lines("JSON patch", k.run("patch", "-f", dir, "--type=json", "-p", `[{"op":"replace","path":"/metadata/labels/patched","value":"json"}]`), ` patched$`, count)
	live := k.run("get", "-f", dir, "-o", "yaml")
	lines("labels", live, `^      patched: json$`, count)
	lines("server-side apply", k.run("apply", "-f", dir, "--server-side", "--force-conflicts"), ` serverside-applied$`, count)
	lines("server-side apply again", k.run("apply", "-f", dir, "--server-side"), ` serverside-applied$`, count)
	k.want("server-side diff", k.run("diff", "-f", dir, "--server-side", "--force-conflicts"), "")
	lines("managers", k.run("get", "-f", dir, "--show-managed-fields", "-o", "jsonpath={range .items[*]}{.metadata.managedFields[?(@.operation==\"Apply\")].manager}{\"\\n\"}{end}"), `^(\S+ )*kubectl(-last-applied)?( \S+)*$`, count)
	live = strings.ReplaceAll(k.run("get", "-f", dir, "-o", "yaml"), "tried: \"yes\"", "tried: replaced")
	live = regexp.MustCompile(`(?m)^    resourceVersion: .*\n`).ReplaceAllString(live, "") // a controller may write meanwhile
	lines("replace", k.runIn(live, "replace", "-f", "-"), ` replaced$`, count)
	lines("replaced", k.run("get", "-f", dir, "-o", "yaml"), `^      tried: replaced$`, count)
	k.editAll(dir, count)
	k.workloads()
	k.run("wait", "-f", dir, "--for=jsonpath={.metadata.annotations.example\\.org/edited}=done", "--timeout=20s")
	lines("delete", k.run("delete", "-f", dir, "--wait=false"), ` deleted`, count)
	k.run("delete", "-f", dir, "--ignore-not-found", "--timeout=60s")
	k.certificates()
	k.access()
}

// established waits for the custom resource, so that it may be asked for.
func (k *kube) established() {
	k.t.Helper()
	k.run("wait", "--for=condition=Established", "crd/kinds.kinds.example.org", "--timeout=30s")
	none, _ := k.try("", "get", "kd")
	k.contains("custom resource", none.all(), "No resources found")
	cluster.Eventually(k.t, 30*time.Second, func() error {
		out, ok := k.try("", "explain", "kinds.kinds.example.org.spec.size")
		if !ok || !strings.Contains(out.all(), "How large it is.") {
			return fmt.Errorf("explain says %s", out.all())
		}
		return nil
	})
}

// editAll edits each object, with a program in the editor's place.
func (k *kube) editAll(dir string, count int) {
	k.t.Helper()
	k.run("annotate", "-f", dir, "example.org/edited=no")
	cmd := k.command("edit", "-f", dir)
	cmd.Env = append(cmd.Env, `KUBE_EDITOR=sed -i s,example.org/edited:.*,example.org/edited:\ done,`)
	out, err := cmd.CombinedOutput()
	if err != nil {
		k.t.Errorf("edit: %v\n%s", err, out)
	}
	if got := strings.Count(string(out), " edited\n"); got != count {
		k.t.Errorf("edit changed %d objects, want %d:\n%s", got, count, out)
	}
}

// workloads runs the commands that are for some kinds only.
func (k *kube) workloads() {
	k.t.Helper()
	each := func(want string, kinds []string, args ...string) {
		k.t.Helper()
		for _, kind := range kinds {
			k.contains(strings.Join(args, " ")+" "+kind, k.run(slices.Concat(args[:len(args)-1], []string{kind + "/kinds"}, args[len(args)-1:])...), want)
		}
	}
	each("scaled", []string{"deployment", "replicaset", "statefulset", "replicationcontroller"}, "scale", "--replicas=0")
	k.contains("autoscale", k.run("autoscale", "replicaset/kinds", "--name=kinds-more", "--max=2"), "autoscaled")
	k.run("delete", "hpa", "kinds-more")
	templates := []string{"deployment", "replicaset", "statefulset", "daemonset", "replicationcontroller", "cronjob"}
	each("image updated", templates, "set", "image", "c=example.org/other")
	each("env updated", templates, "set", "env", "A=b")
	each("resource requirements updated", templates, "set", "resources", "--requests=cpu=1m")
	each("serviceaccount updated", templates, "set", "serviceaccount", "kinds")
	each("selector updated", []string{"service"}, "set", "selector", "app=other")
	each("subjects updated", []string{"rolebinding", "clusterrolebinding"}, "set", "subject", "--user=bob")
	for _, kind := range []string{"deployment", "statefulset", "daemonset"} {
		k.contains("restart "+kind, k.run("rollout", "restart", kind+"/kinds"), "restarted")
	}
	k.contains("history", k.run("rollout", "history", "deployment/kinds"), "REVISION")
	k.contains("pause", k.run("rollout", "pause", "deployment/kinds"), "paused")
	k.contains("resume", k.run("rollout", "resume", "deployment/kinds"), "resumed")
	k.contains("status", k.run("rollout", "status", "deployment/kinds", "--timeout=30s"), "successfully rolled out")
	k.contains("undo", k.run("rollout", "undo", "deployment/kinds"), "rolled back")
	k.contains("taint", k.run("taint", "node", "kinds", "tried=yes:NoSchedule"), "tainted")
	k.contains("uncordon", k.run("uncordon", "kinds"), "uncordoned")
	k.contains("cordon", k.run("cordon", "kinds"), "cordoned")
	k.contains("drain", k.run("drain", "kinds", "--timeout=30s"), "drained")
	k.contains("events", k.run("events"), "an event made by hand", "an event of the newer kind")
}

// certificates signs a request and refuses another.
func (k *kube) certificates() {
	k.t.Helper()
	template, err := os.ReadFile(filepath.Join(kindsFolder(), "certificate.tmpl"))
	if err != nil {
		k.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		k.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "ann", Organization: []string{"lab"}}}, key)
	if err != nil {
		k.t.Fatal(err)
	}
	request := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	const good, bad = "kinds-good", "kinds-bad"
	for _, name := range []string{good, bad} {
		k.runIn(fmt.Sprintf(string(template), name, request), "create", "-f", "-")
	}
	k.contains("approve", k.run("certificate", "approve", good), "approved")
	k.contains("deny", k.run("certificate", "deny", bad), "denied")
	cluster.Eventually(k.t, 30*time.Second, func() error {
		if out := k.run("get", "csr", good, "-o", "jsonpath={.status.certificate}"); out == "" {
			return fmt.Errorf("no certificate: %s", k.run("get", "csr", good))
		}
		return nil
	})
	k.contains("issued", k.run("get", "csr", good), "Approved,Issued")
	k.contains("denied", k.run("get", "csr", bad), "Denied")
	k.run("delete", "csr", good, bad)
}

// access asks who may do what.
func (k *kube) access() {
	k.t.Helper()
	k.run("create", "serviceaccount", "reader")
	k.run("create", "role", "reader", "--verb=get,list", "--resource=pods")
	k.run("create", "rolebinding", "reader", "--role=reader", "--serviceaccount="+k.ns+":reader")
	as := "--as=system:serviceaccount:" + k.ns + ":reader"
	k.want("may list", k.run("auth", "can-i", "list", "pods", as), "yes")
	out, _ := k.try("", "auth", "can-i", "delete", "pods", as)
	k.contains("may not delete", out.all(), "no")
	out, ok := k.try("", "get", "secrets", as)
	if ok {
		k.t.Errorf("secrets are shown to one who may not see them: %s", out.all())
	}
	k.contains("refusal", out.all(), fmt.Sprintf(`secrets is forbidden: User "system:serviceaccount:%s:reader" cannot list resource "secrets" in API group "" in the namespace "%s"`, k.ns, k.ns))
	k.contains("whoami", k.run("auth", "whoami"), "system:masters")
	k.contains("token", k.run("create", "token", "reader"), ".")
}

// kindsComplete tells whether the folder has every kind that can be created, and explains each.
func kindsComplete(k *kube) {
	client := k.c.Client()
	lists, err := client.Discovery().ServerPreferredResources()
	if err != nil {
		k.t.Fatal(err)
	}
	all := strings.Join(manifests(k.t), "\n")
	for _, list := range lists {
		for _, r := range list.APIResources {
			k.explained(list.GroupVersion, r)
			if !slices.Contains(r.Verbs, "create") || !slices.Contains(r.Verbs, "get") {
				continue
			}
			if !strings.Contains(all, "apiVersion: "+list.GroupVersion+"\nkind: "+r.Kind+"\n") {
				k.t.Errorf("no object of %s %s is tried", list.GroupVersion, r.Kind)
			}
		}
	}
	k.contains("api-resources", k.run("api-resources", "-o", "wide"), "customresourcedefinitions")
	k.contains("api-versions", k.run("api-versions"), "flowcontrol.apiserver.k8s.io/v1")
	for _, path := range []string{"/livez?verbose", "/readyz?verbose", "/healthz", "/version", "/api", "/apis", "/api/v1", "/openapi/v2", "/openapi/v3",
		"/openapi/v3/apis/apps/v1", "/metrics", "/openid/v1/jwks", "/.well-known/openid-configuration", "/"} {
		if out := k.run("get", "--raw", path); out == "" {
			k.t.Errorf("%s is empty", path)
		}
	}
	if _, err := client.Discovery().RESTClient().Get().AbsPath("/apis/none.example.org").DoRaw(context.Background()); err == nil {
		k.t.Error("a group that is not there is found")
	}
}

// explained asks for a kind's documentation.
func (k *kube) explained(groupVersion string, r metav1.APIResource) {
	k.t.Helper()
	if len(r.Verbs) == 1 && r.Name != "bindings" { // questions
		return
	}
	k.contains("explain "+r.Name, k.run("explain", r.Name, "--recursive", "--api-version="+groupVersion), "KIND:       "+r.Kind, "FIELDS:")
}
