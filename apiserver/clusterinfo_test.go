package apiserver_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// TestClusterInfo: cluster-info is what the server that started last says; what others added to it stays.
func TestClusterInfo(t *testing.T) {
	st := memory.New()
	told := func(info string) map[string]string {
		t.Helper()
		s := apiservertest.StartServer(t, apiserver.Config{Store: st, ClusterInfo: info})
		maps := kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin)).CoreV1().ConfigMaps("kube-public")
		have, err := maps.Get(t.Context(), "cluster-info", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		was := have.DeepCopy().Data
		have.Data["mine"] = "stays"
		if _, err := maps.Update(t.Context(), have, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		return was
	}
	if got := told("first"); got["kubeconfig"] != "first" || len(got) != 1 {
		t.Errorf("made as %v", got)
	}
	if got := told("second"); got["kubeconfig"] != "second" || got["mine"] != "stays" {
		t.Errorf("changed to %v", got)
	}
	if got := told("second"); got["kubeconfig"] != "second" || got["mine"] != "stays" {
		t.Errorf("left as %v", got)
	}
}
