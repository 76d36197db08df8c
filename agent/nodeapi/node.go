package nodeapi

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// node adds what is asked of the node as a whole.
func (a *api) node(mux *http.ServeMux) {
	for _, path := range []string{"/healthz", "/healthz/ping", "/healthz/log", "/healthz/syncloop"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	}
	mux.HandleFunc("GET /pods", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.pods()) })
	mux.HandleFunc("GET /pods/{$}", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.pods()) })
	mux.HandleFunc("GET /runningpods", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.runningPods()) })
	mux.HandleFunc("GET /runningpods/{$}", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.runningPods()) })
	mux.HandleFunc("GET /configz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{"kubeletconfig": a.cfg.Settings})
	})
	mux.HandleFunc("GET /logs/", a.handle(a.systemLogs))
	if a.cfg.Stats != nil {
		mux.HandleFunc("GET /metrics", a.cfg.Stats.ServeMetrics)
		mux.HandleFunc("GET /metrics/resource", a.cfg.Stats.ServeResource)
		mux.HandleFunc("GET /metrics/cadvisor", a.cfg.Stats.ServeCadvisor)
		mux.HandleFunc("GET /metrics/probes", a.cfg.Stats.ServeProbes)
		mux.HandleFunc("GET /stats/summary", a.cfg.Stats.ServeSummary)
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// pods are all that are bound to the node, as the API server has them.
func (a *api) pods() *corev1.PodList {
	list := emptyList()
	for _, pod := range a.cfg.Pods.Pods() {
		list.Items = append(list.Items, *pod)
	}
	sortPods(list)
	return list
}

func emptyList() *corev1.PodList {
	return &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
}

func sortPods(list *corev1.PodList) {
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int {
		return strings.Compare(a.Namespace+"/"+a.Name+"/"+string(a.UID), b.Namespace+"/"+b.Name+"/"+string(b.UID))
	})
}

// runningPods are those that have containers running, as the runtime knows them.
func (a *api) runningPods() *corev1.PodList {
	list := emptyList()
	at := map[string]int{}
	running := a.cfg.Runtime.Running()
	slices.SortFunc(running, func(a, b runtime.Container) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range running {
		i, ok := at[c.Pod.UID]
		if !ok {
			i = len(list.Items)
			at[c.Pod.UID] = i
			list.Items = append(list.Items, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.Pod.Namespace, Name: c.Pod.Name, UID: types.UID(c.Pod.UID)}})
		}
		list.Items[i].Spec.Containers = append(list.Items[i].Spec.Containers, corev1.Container{Name: c.Name, Image: c.ImageRef})
	}
	sortPods(list)
	return list
}

// systemLogs shows the machine's own logs. Links out of their folder are not followed: pods may write there. Asking for
// services' logs with a query is off, as with a kubelet unless it is configured.
func (a *api) systemLogs(w http.ResponseWriter, r *http.Request) error {
	if r.URL.RawQuery != "" {
		return &plainError{http.StatusForbidden, "query parameters are not supported: node log query is not enabled"}
	}
	root, err := os.OpenRoot(filepath.Clean(a.cfg.SystemLogs))
	if errors.Is(err, fs.ErrNotExist) || a.cfg.SystemLogs == "" {
		return &plainError{http.StatusNotFound, "logs endpoint is disabled."}
	}
	if err != nil {
		return err
	}
	defer root.Close()
	http.StripPrefix("/logs/", http.FileServerFS(root.FS())).ServeHTTP(w, r)
	return nil
}
