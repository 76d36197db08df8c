package runtime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

// BenchmarkPod runs and removes pods of one container and reports the median of each step, and what a pod adds in memory.
func BenchmarkPod(b *testing.B) {
	e := runtimetest.Start(b)
	v1, _ := e.Demo()
	steps := map[string][]time.Duration{}
	step := func(name string, do func() error) {
		began := time.Now()
		if err := do(); err != nil {
			b.Fatal(name, err)
		}
		steps[name] = append(steps[name], time.Since(began))
	}
	n := 0
	for b.Loop() {
		n++
		cfg := runtime.SandboxConfig{Pod: runtime.PodRef{UID: fmt.Sprint("uid", n), Namespace: "default", Name: fmt.Sprint("pod", n)}, Hostname: "h"}
		cfg.CgroupParent = e.CgroupRoot + "/" + cfg.Pod.UID
		c := runtime.ContainerConfig{Pod: cfg.Pod, Name: "c", Image: v1, LogPath: logPath(e, cfg.Pod, "c")}
		var id string
		began := time.Now()
		step("sandbox", func() error { _, err := e.Runtime.RunSandbox(e.Ctx, cfg); return err })
		step("create", func() (err error) { id, err = e.Runtime.Create(e.Ctx, c); return err })
		step("start", func() error { return e.Runtime.Start(e.Ctx, id) })
		steps["pod"] = append(steps["pod"], time.Since(began))
		if n == 1 {
			reportMemory(b, e)
		}
		step("remove", func() error { return e.Runtime.Remove(e.Ctx, id) })
		step("remove-sandbox", func() error { return e.Runtime.RemoveSandbox(e.Ctx, cfg.Pod.UID) })
	}
	for name, list := range steps {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2].Microseconds())/1000, name+"-p50-ms")
	}
}

// reportMemory logs the resident and private memory of containerd and the shims.
func reportMemory(b *testing.B, e *runtimetest.Env) {
	time.Sleep(300 * time.Millisecond)
	for pid, name := range runtimetest.Processes(filepath.Dir(e.Layout.Run)) {
		data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
		var rss, private int
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			n, _ := strconv.Atoi(f[1])
			switch f[0] {
			case "Rss:":
				rss = n
			case "Anonymous:": // the rest are the binary's pages, which all shims share
				private += n
			}
		}
		b.Logf("%-40.40s rss %d KiB, private %d KiB", name, rss, private)
	}
}

// BenchmarkPodsAtOnce starts 40 pods side by side and reports how long it took until all run.
func BenchmarkPodsAtOnce(b *testing.B) {
	e := runtimetest.Start(b)
	v1, _ := e.Demo()
	const pods = 40
	n := 0
	for b.Loop() {
		n++
		g, _ := errgroup.WithContext(e.Ctx)
		for i := range pods {
			g.Go(func() error {
				p := runtime.PodRef{UID: fmt.Sprintf("uid-%d-%d", n, i), Namespace: "default", Name: fmt.Sprint("pod", i)}
				if _, err := e.Runtime.RunSandbox(e.Ctx, runtime.SandboxConfig{Pod: p, Hostname: p.Name, CgroupParent: e.CgroupRoot + "/" + p.UID}); err != nil {
					return err
				}
				id, err := e.Runtime.Create(e.Ctx, runtime.ContainerConfig{Pod: p, Name: "c", Image: v1, LogPath: logPath(e, p, "c")})
				if err != nil {
					return err
				}
				return e.Runtime.Start(e.Ctx, id)
			})
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if n == 1 {
			reportMemory(b, e)
		}
		if err := runtimetest.Purge(e.Ctx, e.Runtime); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
