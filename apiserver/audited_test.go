package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/audit"
	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:apiserver"]}
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  resources: [{group: "", resources: [configmaps]}]
  omitManagedFields: true
- {level: None}
`

// parseEvents reads whole lines.
func parseEvents(log []byte) []auditv1.Event {
	var events []auditv1.Event
	for line := range strings.SplitSeq(strings.TrimSpace(string(log)), "\n") {
		var e auditv1.Event
		if json.Unmarshal([]byte(line), &e) == nil {
			events = append(events, e)
		}
	}
	return events
}

func TestAuditLog(t *testing.T) {
	policy, err := audit.ParsePolicy([]byte(auditPolicy))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "audit.log")
	file, err := audit.OpenFile(audit.FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := apiservertest.StartServer(t, apiserver.Config{Store: memory.New(), Audit: audit.New(policy, file, kinds.Scheme())})
	client, err := kubernetes.NewForConfig(s.LocalConfig(apiservertest.Admin))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	meta := metav1.ObjectMeta{Name: "a"}
	if _, err := client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"p": "hunter2"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "visible"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Get(ctx, "none", metav1.GetOptions{}); err == nil {
		t.Fatal("found")
	}
	w, err := client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Stop()
	var events []auditv1.Event
	eventually(t, "five events", func() bool {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		events = parseEvents(b)
		return len(events) >= 5
	})
	if b, _ := os.ReadFile(path); strings.Contains(string(b), "hunter2") || strings.Contains(string(b), "aHVudGVyMg") {
		t.Error("the log shows a secret")
	}
	secret, created, missing := events[0], events[1], events[2]
	if secret.ObjectRef.Resource != "secrets" || secret.RequestObject != nil || secret.ResponseStatus.Code != 201 || secret.User.Username != "admin" ||
		secret.ObjectRef.Name != "a" || secret.AuditID == "" {
		t.Errorf("%+v", secret)
	}
	if created.RequestObject == nil || !strings.Contains(string(created.RequestObject.Raw), "visible") || created.ResponseObject == nil ||
		!strings.Contains(string(created.ResponseObject.Raw), `"uid"`) || strings.Contains(string(created.ResponseObject.Raw), "managedFields") {
		t.Errorf("%+v", created)
	}
	if missing.ResponseStatus.Code != 404 || missing.ResponseStatus.Reason != metav1.StatusReasonNotFound || missing.ResponseStatus.Details.Name != "none" {
		t.Errorf("%+v", missing)
	}
	if events[3].Stage != auditv1.StageResponseStarted || events[4].Stage != auditv1.StageResponseComplete || events[3].Verb != "watch" || events[3].AuditID != events[4].AuditID {
		t.Errorf("%+v %+v", events[3], events[4])
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

// auditBuffer is a log in memory.
type auditBuffer struct {
	mu  sync.Mutex
	log bytes.Buffer
}

func (b *auditBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

// take gives the events that came since.
func (b *auditBuffer) take() []auditv1.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.log.Reset()
	return parseEvents(b.log.Bytes())
}

const everything = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:apiserver"]}
- level: Request
  resources: [{group: "*", resources: [pods]}]
- {level: Metadata}
`

// TestAuditEvents sends one request a case and compares what matters of its events.
func TestAuditEvents(t *testing.T) {
	policy, err := audit.ParsePolicy([]byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	log := &auditBuffer{}
	s := startConfigured(t, memory.New(), func(cfg *apiserver.Config) { cfg.Audit = audit.New(policy, log, kinds.Scheme()) })
	ctx, admin := t.Context(), s.admin()
	_, err = admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "held", Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted"}}}, metav1.CreateOptions{})
	s.must(err)
	_, err = admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "looker"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}}, {APIGroups: []string{""}, Resources: []string{"users"}, Verbs: []string{"impersonate"}},
	}}, metav1.CreateOptions{})
	s.must(err)
	_, err = admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "lookers"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "looker"}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "ann"}}}, metav1.CreateOptions{})
	s.must(err)
	for _, ns := range []string{"held", "default"} {
		_, err = admin.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		s.must(err)
	}
	master := whoIs("root", user.SystemPrivilegedGroup)
	eventually(t, "the role", func() bool {
		return serve(s.Handler(), requestBy(whoIs("ann"), "GET", "/api/v1/namespaces/held/configmaps/none", "", nil)).Code == http.StatusNotFound
	})
	log.take()
	const pod = `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`
	hostPod := strings.Replace(pod, `"spec":{`, `"spec":{"hostNetwork":true,`, 1)
	for _, c := range []struct {
		name               string
		by                 user.Info
		method, path, body string
		header             http.Header
		want               string
	}{
		{"allowed by a role", whoIs("ann"), "GET", "/api/v1/namespaces/held/configmaps/none", "", http.Header{"X-Forwarded-For": {"10.1.1.1, nonsense, 10.1.1.2"}, "User-Agent": {strings.Repeat("a", 1025)}},
			`ResponseComplete get ann from 10.1.1.1,10.1.1.2,192.0.2.1 configmaps/none agent=1036 404 Failure NotFound decision="allow" reason="RBAC: allowed by ClusterRoleBinding \"lookers\" of ClusterRole \"looker\" to User \"ann\""`},
		{"forbidden", whoIs("bob"), "GET", "/api/v1/namespaces/held/configmaps/none", "", nil, `ResponseComplete get bob configmaps/none 403 Failure Forbidden decision="forbid" reason=""`},
		{"impersonated", whoIs("ann"), "GET", "/version", "", http.Header{"Impersonate-User": {"bob"}, "Impersonate-Group": {}}, `ResponseComplete get ann as bob 200 decision="allow" reason="RBAC: allowed by ClusterRoleBinding \"system:discovery\" of ClusterRole \"system:discovery\" to Group \"system:authenticated\""`},
		{"not allowed to impersonate", whoIs("bob"), "GET", "/version", "", http.Header{"Impersonate-User": {"ann"}}, `ResponseComplete get bob 403 Failure Forbidden`},
		{"nobody", nil, "GET", "/api/v1/namespaces/held/configmaps", "", http.Header{"Authorization": {"Bearer nonsense"}}, `ResponseStarted list  configmaps/ 401 "Authentication failed, attempted: bearer"`},
		{"a made-up name", master, "POST", "/api/v1/namespaces/held/configmaps", `{"metadata":{"name":"m"}}`, nil, `ResponseComplete create root configmaps/m 201 decision="allow" reason=""`},
		{"deleted", master, "DELETE", "/api/v1/namespaces/held/configmaps/m", "", nil, `ResponseComplete delete root configmaps/m 200 Success decision="allow" reason=""`},
		{"a pod that is enough", master, "POST", "/api/v1/namespaces/held/pods", pod, nil, `ResponseComplete create root pods/p 201 body decision="allow" reason="" audit-violations="would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")" enforce-policy="baseline:latest"`},
		{"a pod that is not", master, "POST", "/api/v1/namespaces/held/pods?dryRun=All", strings.Replace(hostPod, `"p"`, `"q"`, 1), nil, `enforce-policy="baseline:latest"`},
		{"no policy", master, "POST", "/api/v1/namespaces/default/pods?dryRun=All", pod, nil, `enforce-policy="privileged:latest"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := serve(s.Handler(), requestBy(c.by, c.method, c.path, c.body, c.header))
			events := log.take()
			if len(events) != 1 {
				t.Fatalf("%d events of one request, which got %d", len(events), rec.Code)
			}
			if string(events[0].AuditID) != rec.Header().Get("Audit-Id") {
				t.Error("the answer tells another audit ID")
			}
			if got := eventText(&events[0]); !strings.Contains(got, c.want) {
				t.Errorf("\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func requestBy(by user.Info, method, path, body string, header http.Header) *http.Request {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", jsonType)
	for name, values := range header {
		req.Header[name] = values
	}
	if by != nil {
		req = req.WithContext(auth.WithLocalUser(req.Context(), by))
	}
	return req
}

// eventText shows what differs from event to event.
func eventText(e *auditv1.Event) string {
	out := fmt.Sprint(e.Stage, " ", e.Verb, " ", e.User.Username)
	if e.ImpersonatedUser != nil {
		out += " as " + e.ImpersonatedUser.Username
	}
	if len(e.SourceIPs) > 1 {
		out += " from " + strings.Join(e.SourceIPs, ",")
	}
	if e.ObjectRef != nil {
		out += " " + e.ObjectRef.Resource + "/" + e.ObjectRef.Name
	}
	if len(e.UserAgent) > 1000 {
		out += fmt.Sprint(" agent=", len(e.UserAgent))
	}
	status := e.ResponseStatus
	out += fmt.Sprint(" ", status.Code)
	if status.Status != "" {
		out += " " + status.Status
	}
	if status.Reason != "" {
		out += " " + string(status.Reason)
	}
	if status.Message != "" && status.Status == "" {
		out += fmt.Sprintf(" %q", status.Message)
	}
	if e.RequestObject != nil {
		out += " body"
	}
	for _, key := range slices.Sorted(maps.Keys(e.Annotations)) {
		_, short, _ := strings.Cut(key, "/")
		out += fmt.Sprintf(" %s=%q", short, e.Annotations[key])
	}
	return out
}

// TestAuditStages: every stage of a request that ends, of one that does not, and of one that panics.
func TestAuditStages(t *testing.T) {
	policy, err := audit.ParsePolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, users: ['system:apiserver']}, {level: Metadata}]"))
	if err != nil {
		t.Fatal(err)
	}
	log := &auditBuffer{}
	plugin := slow{entered: make(chan struct{}, 1), release: make(chan struct{})}
	close(plugin.release)
	s := apiservertest.StartServer(t, apiserver.Config{Store: memory.New(), Audit: audit.New(policy, log, kinds.Scheme()), Admission: plugin})
	log.take()
	stages := func(method, path, body string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		serve(s.Handler(), requestBy(apiservertest.Admin, method, path, body, nil).WithContext(auth.WithLocalUser(ctx, apiservertest.Admin)))
		var out []string
		for _, e := range log.take() {
			text := string(e.Stage)
			if e.ResponseStatus != nil {
				text += fmt.Sprint(" ", e.ResponseStatus.Code)
			}
			out = append(out, text)
		}
		return strings.Join(out, ", ")
	}
	const maps = "/api/v1/namespaces/default/configmaps"
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", maps, "", "RequestReceived, ResponseComplete 200"},
		{"GET", maps + "?watch=true", "", "RequestReceived, ResponseStarted 200, ResponseComplete 200"},
		{"POST", maps, `{"metadata":{"name":"panic"}}`, "RequestReceived, Panic 500"},
	} {
		if got := stages(c.method, c.path, c.body); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.method, c.path, got, c.want)
		}
	}
}
