package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// testStories looks closer at what the examples are about than their transcripts do.
func testStories(t *testing.T, c *cluster.Cluster) {
	for name, test := range map[string]func(*kube){
		"a-canary-gets-its-share":         canaryShare,
		"a-switch-loses-nothing":          blueGreenSwitch,
		"force-helps-the-overloaded":      bruteForce,
		"one-leads-and-another-follows":   leaders,
		"an-autoscaler-says-what-it-does": autoscalerTells,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newKube(t, c))
		})
	}
}

// example applies a manifest of the examples folder.
func (k *kube) example(name string) {
	k.t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Repository(), "examples", name))
	if err != nil {
		k.t.Fatal(err)
	}
	k.apply(string(text))
}

func (k *kube) page(service string) string {
	k.t.Helper()
	return "http://" + k.get("service/"+service, "{.spec.clusterIP}") + "/json"
}

// canaryShare counts who answers: one pod of four is the canary.
func canaryShare(k *kube) {
	k.example("canary.yaml")
	k.rolledOut("shop-stable")
	k.rolledOut("shop-canary")
	client, url := k.c.HTTP(10*time.Second, false), k.page("shop")
	count := map[string]int{}
	const total = 200
	for range total {
		body, err := request(k.t.Context(), client, url)
		if err != nil {
			k.t.Fatal(err)
		}
		for _, version := range []string{"v1", "v2"} {
			if strings.Contains(body, `"Version":"`+version+`"`) {
				count[version]++
			}
		}
	}
	if n := count["v2"]; n < total/10 || n > total/2 || count["v1"]+n != total {
		k.t.Errorf("of %d requests %v", total, count)
	}
}

// blueGreenSwitch switches back and forth under load: no request is lost, and soon after a switch no old answer comes.
func blueGreenSwitch(k *kube) {
	k.example("blue-green.yaml")
	k.rolledOut("news-blue")
	k.rolledOut("news-green")
	load := startLoad(k.t, k.c, k.page("news"))
	load.sees("v1")
	for _, to := range []struct{ colour, version, other string }{{"green", "v2", "v1"}, {"blue", "v1", "v2"}} {
		k.run("patch", "service", "news", "-p", `{"spec":{"selector":{"colour":"`+to.colour+`"}}}`)
		cluster.Eventually(k.t, 30*time.Second, func() error { // 50 answers in a row by the new one
			client, url := k.c.HTTP(10*time.Second, false), k.page("news")
			for i := range 50 {
				body, err := request(k.t.Context(), client, url)
				if err != nil {
					return err
				}
				if !strings.Contains(body, `"Version":"`+to.version+`"`) {
					return fmt.Errorf("answer %d after the switch to %s is of %s", i, to.colour, to.other)
				}
			}
			return nil
		})
	}
	if total, failures := load.stop(); len(failures) > 0 {
		k.t.Errorf("%d of %d requests were lost, as %s", len(failures), total, failures[0])
	}
}

// bruteForce measures what an overloaded service answers with one pod, and with three.
func bruteForce(k *kube) {
	k.example("overloaded.yaml")
	k.rolledOut("busy")
	url := "http://" + k.get("service/busy", "{.spec.clusterIP}") + "/busy?for=10ms"
	rate := func() float64 {
		const parallel, each = 12, 4
		begin := time.Now()
		var wait sync.WaitGroup
		for range parallel {
			wait.Go(func() {
				client := k.c.HTTP(time.Minute, false)
				for range each {
					if _, err := request(k.t.Context(), client, url); err != nil {
						k.t.Error(err)
					}
				}
			})
		}
		wait.Wait()
		return parallel * each / time.Since(begin).Seconds()
	}
	one := rate()
	k.run("scale", "deployment/busy", "--replicas=3")
	k.rolledOut("busy")
	three := rate()
	for tries := 0; three < 1.7*one && tries < 3; tries++ { // requests choose a pod by chance, and the slowest tells the rate
		three = rate()
	}
	k.t.Logf("%.1f requests a second by one pod, %.1f by three", one, three)
	if three < 1.7*one {
		k.t.Errorf("three pods answer %.1f requests a second, one %.1f", three, one)
	}
}

// autoscalerTells lets kubectl autoscale a Deployment that keeps a processor busy, and describe what came of it.
func autoscalerTells(k *kube) {
	manifest := strings.Replace(deployment("burner", 1), "image: coracle/demo:v1", `image: coracle/demo:v1
        command: [stress, -c, "1"]
        resources: {requests: {cpu: 20m}, limits: {cpu: 40m}}`, 1)
	k.apply(manifest)
	k.rolledOut("burner")
	k.run("autoscale", "deployment", "burner", "--cpu=20%", "--min=1", "--max=2")
	k.run("wait", "--for=jsonpath={.spec.replicas}=2", "deployment/burner", "--timeout=100s")
	k.rolledOut("burner")
	k.run("wait", "--for=condition=ScalingLimited", "hpa/burner", "--timeout=60s")
	k.contains("kubectl describe hpa", strings.Join(strings.Fields(k.run("describe", "hpa", "burner")), " "),
		"resource cpu on pods (as a percentage of request):", "Min replicas: 1 Max replicas: 2", "2 desired",
		"AbleToScale True", "ScalingActive True ValidMetricFound the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)",
		"ScalingLimited True TooManyReplicas the desired replica count is more than the maximum replica count",
		"SuccessfulRescale", "horizontal-pod-autoscaler", "New size: 2; reason: cpu resource utilization (percentage of request) above target")
}

// leaders has three programs of client-go's elect one, each with the token of the example's service account. The leader stops without a word: another
// leads, and not before the Lease has run out.
func leaders(k *kube) {
	k.example("leader-election.yaml")
	token := k.run("create", "token", "candidate")
	config, err := k.c.REST()
	if err != nil {
		k.t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.BearerToken, config.Dial = token, k.c.Dial
	client := kubernetes.NewForConfigOrDie(config)
	if _, err := client.CoreV1().Pods(k.ns).List(k.t.Context(), metav1.ListOptions{}); err == nil {
		k.t.Error("a candidate may list pods")
	}
	led := make(chan string, 10)
	stop := map[string]context.CancelFunc{}
	var wait sync.WaitGroup
	for _, name := range []string{"anna", "ben", "cleo"} {
		ctx, cancel := context.WithCancel(k.t.Context())
		stop[name] = cancel
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: k.ns, Name: "captain"}, Client: client.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: name}},
			LeaseDuration: 5 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 500 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { led <- name }, OnStoppedLeading: func() {}},
		})
		if err != nil {
			k.t.Fatal(err)
		}
		wait.Go(func() { elector.Run(ctx) })
	}
	defer func() {
		for _, cancel := range stop {
			cancel()
		}
		wait.Wait()
	}()
	next := func() string {
		select {
		case name := <-led:
			return name
		case <-time.After(time.Minute):
			k.t.Fatal("nobody leads")
			return ""
		}
	}
	first := next()
	k.eventually("lease/captain", "{.spec.holderIdentity}", first)
	select {
	case second := <-led:
		k.t.Fatalf("%s leads beside %s", second, first)
	case <-time.After(2 * time.Second):
	}
	stopped := time.Now()
	stop[first]()
	second := next()
	if second == first {
		k.t.Fatalf("%s leads again", first)
	}
	if after := time.Since(stopped); after < time.Second {
		k.t.Errorf("%s took over after %v, before the lease ran out", second, after)
	}
	k.eventually("lease/captain", "{.spec.holderIdentity}", second)
	k.want("handovers", k.get("lease/captain", "{.spec.leaseTransitions}"), "2")
}
