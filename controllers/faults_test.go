package controllers_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
	"github.com/coracle-dev/coracle/integration/faults"
)

var (
	faultSeed = flag.Uint64("fault-seed", 0, "seed of TestInvariantsUnderFaults; 0 is a random one")
	faultsFor = flag.Duration("faults-for", 4*time.Second, "how long faults last in TestInvariantsUnderFaults")
)

// TestInvariantsUnderFaults changes Deployments, StatefulSets and Jobs at random while requests of the controllers fail, get lost and come late, their
// watches end, and they are started anew; no write of theirs may break an invariant, and in the end all is as asked for.
func TestInvariantsUnderFaults(t *testing.T) {
	seed := *faultSeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	bad := faults.Storm()
	bad.Hang, bad.Throttle = 0, 0 // which take seconds
	injector := faults.NewInjector(seed, bad)
	c := start(t, func(cfg *controllers.Config) {
		cfg.RestConfig = rest.CopyConfig(cfg.RestConfig)
		cfg.RestConfig.Wrap(injector.Wrap)
	})
	defer func() {
		if t.Failed() {
			t.Logf("run it again: go test ./controllers -run TestInvariantsUnderFaults -fault-seed %d", seed)
		}
	}()
	c.node("n1")
	ctx, cancel := context.WithCancel(c.ctx)
	recorder, recorded := faults.NewRecorder(c.client), make(chan struct{})
	go func() { defer close(recorded); recorder.Run(ctx) }()
	ended := make(chan struct{})
	go func() { defer close(ended); c.endBrief(ctx) }()
	defer func() { cancel(); <-recorded; <-ended }()

	random := rand.New(rand.NewPCG(seed, 0))
	for began, n := time.Now(), 0; time.Since(began) < *faultsFor; n++ {
		c.changeOne(random, n)
		if random.IntN(25) == 0 {
			c.restart()
		}
		time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
	}
	injector.Off(true)
	t.Logf("seed %d: %v", seed, injector.Counts())
	c.restart() // and with that, no back-off is left to wait for
	world := faults.NewWorld()
	c.eventually("all as asked for", func() error {
		err := recorder.Agrees(ctx)
		events, gaps, broken := recorder.Take()
		if broken != nil {
			t.Fatal(broken)
		}
		if found := world.Check(faults.Rules(), events, gaps...); len(found) > 0 {
			for _, e := range events {
				if e.Revision > found[0].Revision-100 && e.Revision <= found[0].Revision {
					t.Log(e)
				}
			}
			t.Fatal(found)
		}
		if left := world.Unsettled(); len(left) > 0 {
			err = errors.Join(err, fmt.Errorf("%q", left))
		}
		return err
	})
}

var brief = map[string]string{"brief": "yes"}

// endBrief lets the pods of that label succeed until ctx ends.
func (c *cluster) endBrief(ctx context.Context) {
	for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		list, err := c.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "brief=yes"})
		if err != nil {
			continue
		}
		for i := range list.Items {
			if pod := &list.Items[i]; pod.Status.Phase == corev1.PodRunning {
				pod.Status.Phase = corev1.PodSucceeded
				_, _ = c.client.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}) // or the next time
			}
		}
	}
}

// changeOne makes, changes or deletes one object.
func (c *cluster) changeOne(random *rand.Rand, n int) {
	name := []string{"a", "b", "c"}[random.IntN(3)]
	size, image := ptr.To(int32(random.IntN(6))), fmt.Sprint("v", random.IntN(3))
	own := map[string]string{"app": name}
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d,"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, *size, image)
	switch random.IntN(6) {
	case 0, 1, 2:
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Replicas: size, Selector: &metav1.LabelSelector{MatchLabels: own}, Template: template(own, image)}}
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(1))}
		if _, err := c.client.AppsV1().Deployments("default").Create(c.ctx, d, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			_, _ = c.client.AppsV1().Deployments("default").Patch(c.ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}) // it may be gone meanwhile
		}
	case 3:
		own["kind"] = "stateful"
		s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.StatefulSetSpec{Replicas: size, Selector: &metav1.LabelSelector{MatchLabels: own}, Template: template(own, image)}}
		if _, err := c.client.AppsV1().StatefulSets("default").Create(c.ctx, s, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			_, err = c.client.AppsV1().StatefulSets("default").Patch(c.ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			c.must(err)
		}
	case 4:
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("job", n)}, Spec: batchv1.JobSpec{
			Completions: ptr.To(1 + *size), Parallelism: ptr.To[int32](3), CompletionMode: ptr.To(batchv1.IndexedCompletion), Template: template(brief, image),
		}}
		j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
		_, err := c.client.BatchV1().Jobs("default").Create(c.ctx, j, metav1.CreateOptions{})
		c.must(err)
	case 5:
		policy := []metav1.DeletionPropagation{metav1.DeletePropagationForeground, metav1.DeletePropagationBackground}[random.IntN(2)]
		_ = c.client.AppsV1().Deployments("default").Delete(c.ctx, name, metav1.DeleteOptions{PropagationPolicy: &policy}) // if there is one
	}
}
