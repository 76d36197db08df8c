package apiserver_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/audit"
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
		events = nil
		for line := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n") {
			var e auditv1.Event
			if json.Unmarshal([]byte(line), &e) == nil {
				events = append(events, e)
			}
		}
		return len(events) >= 5
	})
	if b, _ := os.ReadFile(path); strings.Contains(string(b), "hunter2") || strings.Contains(string(b), "aHVudGVyMg") {
		t.Error("the log shows a secret")
	}
	secret, created, missing := events[0], events[1], events[2]
	if secret.ObjectRef.Resource != "secrets" || secret.RequestObject != nil || secret.ResponseStatus.Code != 201 || secret.User.Username != "admin" ||
		secret.Annotations["authorization.k8s.io/decision"] != "allow" || secret.AuditID == "" {
		t.Errorf("%+v", secret)
	}
	if created.RequestObject == nil || !strings.Contains(string(created.RequestObject.Raw), "visible") || created.ResponseObject == nil ||
		!strings.Contains(string(created.ResponseObject.Raw), `"uid"`) || strings.Contains(string(created.ResponseObject.Raw), "managedFields") {
		t.Errorf("%+v", created)
	}
	if missing.ResponseStatus.Code != 404 || missing.ResponseStatus.Reason != metav1.StatusReasonNotFound && missing.ResponseStatus.Code != 404 {
		t.Errorf("%+v", missing)
	}
	if events[3].Stage != auditv1.StageResponseStarted || events[4].Stage != auditv1.StageResponseComplete || events[3].Verb != "watch" || events[3].AuditID != events[4].AuditID {
		t.Errorf("%+v %+v", events[3], events[4])
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}
