package pods

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/internal/loop"
)

// MarkDoomed shows those of key's pods as terminating that its controller has deleted by lag's account, though the informer does not know it
// yet. The slice is changed, the pods are not.
func MarkDoomed(lag *loop.Lag, key string, owned []*corev1.Pod, now time.Time) []*corev1.Pod {
	if !lag.Deleting(key) {
		return owned
	}
	alive := map[types.UID]bool{}
	for _, pod := range owned {
		if pod.DeletionTimestamp == nil {
			alive[pod.UID] = true
		}
	}
	doomed := lag.Doomed(key, alive)
	for i, pod := range owned {
		if doomed[pod.UID] {
			marked := *pod
			marked.DeletionTimestamp = &metav1.Time{Time: now}
			owned[i] = &marked
		}
	}
	return owned
}
