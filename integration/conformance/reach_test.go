package conformance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	//lint:ignore SA1019 what client-go's executors still take
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
)

// reachTests are of what leads into a node from outside: logs, exec, attach, copying, the proxies and what the node tells of itself.
var reachTests = map[string]func(*env){
	"logs are filtered by every option":                     logOptionsWork,
	"logs say why there are none yet":                       logsOfWhatWaits,
	"logs come over websockets":                             logsOverWebSocket,
	"logs are rotated while they are followed":              logsRotate,
	"exec speaks every protocol":                            execProtocols,
	"exec gives exit codes, sizes and much output":          execResults,
	"a process ends with its client and its container":      execEnds,
	"attach reaches a container's own input and output":     attachReaches,
	"files are copied both ways":                            copyFiles,
	"the node tells what a kubelet does, through no port":   nodeAPI,
	"the API server proxies to pods, Services and the node": proxies,
}

func (e *env) logs(pod string, o *corev1.PodLogOptions) string {
	e.Helper()
	data, err := e.kube.CoreV1().Pods(e.ns).GetLogs(pod, o).DoRaw(e.ctx)
	e.must(err)
	return string(data)
}

func logOptionsWork(e *env) {
	pod := onePod("talks", shell("main", `if [ ! -e /data/second ]; then echo first life; touch /data/second; exit 1; fi; echo one; echo two >&2; printf three; sleep 1; echo; echo four; exec sleep 1000`))
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	e.create(pod)
	e.eventually(func() error {
		data, err := e.kube.CoreV1().Pods(e.ns).GetLogs("talks", &corev1.PodLogOptions{}).DoRaw(e.ctx)
		if err == nil && !strings.HasSuffix(string(data), "four\n") {
			err = fmt.Errorf("logged %q", data)
		}
		return err
	})
	number := func(n int64) *int64 { return &n }
	stream := func(s string) *string { return &s }
	later := metav1.NewTime(time.Now().Add(time.Hour))
	for name, c := range map[string]struct {
		o    corev1.PodLogOptions
		want string
	}{
		"all":      {corev1.PodLogOptions{Stream: stream(corev1.LogStreamAll)}, "one\ntwo\nthree\nfour\n"},
		"tail":     {corev1.PodLogOptions{TailLines: number(1)}, "four\n"},
		"limit":    {corev1.PodLogOptions{LimitBytes: number(2), TailLines: number(1)}, "fo"},
		"stdout":   {corev1.PodLogOptions{Stream: stream(corev1.LogStreamStdout)}, "one\nthree\nfour\n"},
		"stderr":   {corev1.PodLogOptions{Stream: stream(corev1.LogStreamStderr), InsecureSkipTLSVerifyBackend: true}, "two\n"},
		"since":    {corev1.PodLogOptions{SinceTime: &later}, ""},
		"seconds":  {corev1.PodLogOptions{SinceSeconds: number(3600)}, "one\ntwo\nthree\nfour\n"},
		"previous": {corev1.PodLogOptions{Previous: true}, "first life\n"},
	} {
		got := e.logs("talks", &c.o)
		if name == "all" || name == "seconds" { // the order of two streams is theirs
			got = strings.Replace(got, "two\none\n", "one\ntwo\n", 1)
		}
		if got != c.want {
			e.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	at, text, _ := strings.Cut(e.logs("talks", &corev1.PodLogOptions{TailLines: number(1), Timestamps: true}), " ")
	if _, err := time.Parse(time.RFC3339Nano, at); err != nil || text != "four\n" {
		e.Errorf("a time, then %q: %v", text, err)
	}
}

func logsOfWhatWaits(e *env) {
	pod := onePod("waits", shell("main", "true"))
	pod.Spec.InitContainers = []corev1.Container{shell("init", "exec sleep 1000")}
	e.create(pod)
	missing := onePod("missing", corev1.Container{Name: "main", Image: "127.0.0.1:1/none:v1"})
	e.create(missing)
	for _, c := range []struct{ pod, container, want string }{
		{"waits", "main", `container "main" in pod "waits" is waiting to start: PodInitializing`},
		{"missing", "main", `container "main" in pod "missing" is waiting to start: trying and failing to pull image`},
	} {
		e.eventually(func() error {
			err := e.kube.CoreV1().Pods(e.ns).GetLogs(c.pod, &corev1.PodLogOptions{Container: c.container}).Do(e.ctx).Error()
			if !apierrors.IsBadRequest(err) || err.Error() != c.want {
				return fmt.Errorf("%s: %v", c.pod, err)
			}
			return nil
		})
	}
	err := e.kube.CoreV1().Pods(e.ns).GetLogs("waits", &corev1.PodLogOptions{Container: "init", Previous: true}).Do(e.ctx).Error()
	if want := `previous terminated container "init" in pod "waits" not found`; !apierrors.IsBadRequest(err) || err.Error() != want {
		e.Errorf("%v, want %s", err, want)
	}
}

func logsOverWebSocket(e *env) {
	e.finish(onePod("socket", shell("main", "echo one; echo two")))
	tlsConfig, err := rest.TLSConfigFor(e.config)
	e.must(err)
	d := websocket.Dialer{NetDialContext: e.config.Dial, TLSClientConfig: tlsConfig, Subprotocols: []string{"binary.k8s.io"}}
	url := strings.Replace(e.config.Host, "https:", "wss:", 1) + "/api/v1/namespaces/" + e.ns + "/pods/socket/log?container=main"
	header := http.Header{}
	if e.config.BearerToken != "" {
		header.Set("Authorization", "Bearer "+e.config.BearerToken)
	}
	conn, _, err := d.DialContext(e.ctx, url, header)
	e.must(err)
	defer conn.Close()
	var got bytes.Buffer
	for {
		_, m, err := conn.ReadMessage()
		if err != nil {
			break
		}
		got.Write(m)
	}
	if got.String() != "one\ntwo\n" {
		e.Errorf("got %q", got.String())
	}
}

// logsRotate writes more than three files' worth and follows it: every line comes once and in order. Log routers find the files.
func logsRotate(e *env) {
	const lines = 300_000
	pod := onePod("much", shell("main", fmt.Sprintf(`sleep 2; awk 'BEGIN{for(i=0;i<%d;i++) printf "%%08d%%080d\n", i, 0}'; echo end; exec sleep 1000`, lines)))
	created := e.create(pod)
	e.ready("much")
	begin := time.Now()
	follow, err := e.kube.CoreV1().Pods(e.ns).GetLogs("much", &corev1.PodLogOptions{Follow: true}).Stream(e.ctx)
	e.must(err)
	defer follow.Close()
	next := 0
	for in := bufio.NewScanner(follow); in.Scan() && in.Text() != "end"; next++ {
		if want := fmt.Sprintf("%08d", next); !strings.HasPrefix(in.Text(), want) {
			e.Fatalf("line %q, want %s", in.Text(), want)
		}
	}
	if next != lines {
		e.Fatalf("%d lines of %d", next, lines)
	}
	e.Logf("%d MB followed in %v", lines*(89+41)/1_000_000, time.Since(begin).Round(time.Millisecond))
	dir := filepath.Join(e.cluster.Layout.PodLogs(), e.ns+"_much_"+string(created.UID), "main")
	e.eventually(func() error {
		squeezed, err := filepath.Glob(filepath.Join(dir, "0.log.*.gz"))
		if err == nil && len(squeezed) == 0 {
			err = errors.New("nothing is compressed")
		}
		return err
	})
	if n := strings.Count(e.logs("much", &corev1.PodLogOptions{}), "\n"); n != lines+1 {
		e.Errorf("%d lines are read afterwards", n)
	}
	st, err := os.Stat(filepath.Join(dir, "0.log"))
	e.must(err)
	if st.Mode().Perm() != 0o640 {
		e.Errorf("the log has mode %v", st.Mode())
	}
	status := e.ready("much").Status.ContainerStatuses[0]
	link := filepath.Join(e.cluster.Layout.ContainerLogs(), "much_"+e.ns+"_main-"+strings.TrimPrefix(status.ContainerID, "containerd://")+".log")
	if to, err := os.Readlink(link); err != nil || to != filepath.Join(dir, "0.log") {
		e.Errorf("the link leads to %q, %v", to, err)
	}
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "much", metav1.DeleteOptions{}))
	e.eventually(func() error {
		for _, path := range []string{link, filepath.Dir(dir)} {
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s is still there", path)
			}
		}
		return nil
	})
}

// executors are client-go's three ways to a process.
func (e *env) executors(pod, what string, o any) map[string]remotecommand.Executor {
	e.Helper()
	req := e.kube.CoreV1().RESTClient().Post().Namespace(e.ns).Resource("pods").Name(pod).SubResource(what)
	switch o := o.(type) {
	case *corev1.PodExecOptions:
		req.VersionedParams(o, scheme.ParameterCodec)
	case *corev1.PodAttachOptions:
		req.VersionedParams(o, scheme.ParameterCodec)
	}
	url := req.URL()
	url.Host = e.entry()
	spdy, err := remotecommand.NewSPDYExecutor(e.config, http.MethodPost, url)
	e.must(err)
	socket, err := remotecommand.NewWebSocketExecutor(e.config, http.MethodGet, url.String())
	e.must(err)
	fallback, err := remotecommand.NewFallbackExecutor(socket, spdy, httpstream.IsUpgradeFailure)
	e.must(err)
	return map[string]remotecommand.Executor{"SPDY": spdy, "WebSocket": socket, "fallback": fallback}
}

// entry is an address by which the API server is reached from outside its network: client-go's streams take no dialler.
func (e *env) entry() string {
	e.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	e.must(err)
	e.Cleanup(func() { l.Close() })
	to := strings.TrimPrefix(e.config.Host, "https://")
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := e.cluster.Dial(context.Background(), "tcp", to)
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(out, in); out.Close() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return l.Addr().String()
}

// sleeper makes a pod to exec in.
func (e *env) sleeper(name string) {
	e.Helper()
	e.create(onePod(name, shell("main", "exec sleep 1000")))
	e.ready(name)
}

func execProtocols(e *env) {
	pod := onePod("exec", shell("main", "exec sleep 1000"), shell("other", "true"))
	e.create(pod)
	e.until("exec", func(p *corev1.Pod) error {
		if len(p.Status.ContainerStatuses) < 2 {
			return errors.New("no status yet")
		}
		for _, s := range p.Status.ContainerStatuses {
			if s.Name == "main" && s.State.Running == nil || s.Name == "other" && s.State.Terminated == nil {
				return errors.New("not there yet")
			}
		}
		return nil
	})
	for name, x := range e.executors("exec", "exec", &corev1.PodExecOptions{Container: "main", Command: []string{"sh", "-c", "sort; echo err >&2; exit 7"}, Stdin: true, Stdout: true, Stderr: true}) {
		var out, errOut bytes.Buffer
		err := x.StreamWithContext(e.ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("b\na\n"), Stdout: &out, Stderr: &errOut})
		var exit utilexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 7 || out.String() != "a\nb\n" || errOut.String() != "err\n" {
			e.Errorf("%s: %q, %q, %v", name, out.String(), errOut.String(), err)
		}
	}
	const none = `unable to upgrade connection: container not found ("other")`
	for name, x := range e.executors("exec", "exec", &corev1.PodExecOptions{Container: "other", Command: []string{"true"}, Stdout: true}) {
		want := none
		if name != "SPDY" {
			want = "Internal error occurred: " + none
		}
		if err := x.StreamWithContext(e.ctx, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || err.Error() != want {
			e.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

type oneSize struct{ given bool }

func (s *oneSize) Next() *remotecommand.TerminalSize {
	if s.given {
		return nil
	}
	s.given = true
	return &remotecommand.TerminalSize{Width: 91, Height: 33}
}

func execResults(e *env) {
	e.sleeper("results")
	for name, x := range e.executors("results", "exec", &corev1.PodExecOptions{Command: []string{"sh", "-c", `until [ "$(stty size 2>/dev/null)" = "33 91" ]; do sleep 0.1; done; echo sized`}, Stdin: true, Stdout: true, TTY: true}) {
		var out bytes.Buffer
		in, hold := io.Pipe()
		if err := x.StreamWithContext(e.ctx, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: &oneSize{}}); err != nil || strings.TrimSpace(out.String()) != "sized" {
			e.Errorf("%s: a terminal said %q, %v", name, out.String(), err)
		}
		hold.Close()
	}
	const size = 8 << 20
	for name, x := range e.executors("results", "exec", &corev1.PodExecOptions{Command: []string{"sh", "-c", fmt.Sprintf("head -c %d /dev/urandom > /tmp/x; sha256sum /tmp/x >&2; cat /tmp/x", size)}, Stdout: true, Stderr: true}) {
		sum := sha256.New()
		var said bytes.Buffer
		slow := writer(func(p []byte) (int, error) { time.Sleep(100 * time.Microsecond); return sum.Write(p) })
		err := x.StreamWithContext(e.ctx, remotecommand.StreamOptions{Stdout: slow, Stderr: &said})
		if want := fmt.Sprintf("%x", sum.Sum(nil)); err != nil || !strings.HasPrefix(said.String(), want) {
			e.Errorf("%s: other bytes came than were sent: %v", name, err)
		}
	}
	var all sync.WaitGroup
	for i := range 10 {
		x := e.executors("results", "exec", &corev1.PodExecOptions{Command: []string{"echo", fmt.Sprint(i)}, Stdout: true})["WebSocket"]
		all.Go(func() {
			var out bytes.Buffer
			if err := x.StreamWithContext(e.ctx, remotecommand.StreamOptions{Stdout: &out}); err != nil || out.String() != fmt.Sprintln(i) {
				e.Errorf("of many, %d said %q, %v", i, out.String(), err)
			}
		})
	}
	all.Wait()
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func execEnds(e *env) {
	e.sleeper("ends")
	for name, x := range e.executors("ends", "exec", &corev1.PodExecOptions{Command: []string{"sh", "-c", "echo begun; exec sleep 4321"}, Stdout: true}) {
		ctx, leave := context.WithCancel(e.ctx)
		_ = x.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: writer(func(p []byte) (int, error) { leave(); return len(p), nil })})
		leave()
		e.eventually(func() error {
			if ps := e.inside("ends", "ps"); strings.Contains(ps, "4321") {
				return fmt.Errorf("%s: the process goes on: %s", name, ps)
			}
			return nil
		})
	}
	ended := make(chan error, 1)
	x := e.executors("ends", "exec", &corev1.PodExecOptions{Command: []string{"sh", "-c", "echo begun; exec sleep 4321"}, Stdout: true})["WebSocket"]
	begun := make(chan struct{})
	go func() {
		ended <- x.StreamWithContext(e.ctx, remotecommand.StreamOptions{Stdout: writer(func(p []byte) (int, error) { close(begun); return len(p), nil })})
	}()
	<-begun
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "ends", metav1.DeleteOptions{}))
	select {
	case err := <-ended:
		var exit utilexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 137 {
			e.Errorf("with its container it ended as %v", err)
		}
	case <-time.After(time.Minute):
		e.Error("it outlives its container")
	}
}

func attachReaches(e *env) {
	for i, way := range []string{"SPDY", "WebSocket"} {
		name := fmt.Sprint("attach-", i)
		c := shell("main", `while read line; do echo "got $line"; done; echo over`)
		c.Stdin, c.StdinOnce = true, true
		pod := onePod(name, c)
		e.create(pod)
		e.ready(name)
		var out bytes.Buffer
		x := e.executors(name, "attach", &corev1.PodAttachOptions{Stdin: true, Stdout: true, Stderr: true})[way]
		if err := x.StreamWithContext(e.ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("one\ntwo\n"), Stdout: &out, Stderr: io.Discard}); err != nil || out.String() != "got one\ngot two\nover\n" {
			e.Errorf("%s: %q, %v", way, out.String(), err)
		}
		if log := e.log(name, "main"); log != "got one\ngot two\nover\n" {
			e.Errorf("%s: logged %q", way, log)
		}
	}
}

func copyFiles(e *env) {
	e.sleeper("files")
	dir := e.TempDir()
	e.must(os.MkdirAll(filepath.Join(dir, "tree/sub"), 0o755))
	big := bytes.Repeat([]byte("0123456789abcdef"), 128<<10)
	e.must(os.WriteFile(filepath.Join(dir, "tree/sub/big"), big, 0o640))
	e.must(os.WriteFile(filepath.Join(dir, "tree/with space"), []byte("x"), 0o600))
	e.cluster.Kubectl("cp", "-n", e.ns, filepath.Join(dir, "tree"), "files:/tmp/there")
	if got := strings.TrimSpace(e.inside("files", "cd /tmp/there; wc -c < sub/big; cat 'with space'")); got != fmt.Sprintf("%d\nx", len(big)) {
		e.Errorf("there: %q", got)
	}
	e.cluster.Kubectl("cp", "-n", e.ns, "files:/tmp/there", filepath.Join(dir, "back"))
	if got, err := os.ReadFile(filepath.Join(dir, "back/sub/big")); err != nil || !bytes.Equal(got, big) {
		e.Errorf("back: %d bytes, %v", len(got), err)
	}
}

func nodeAPI(e *env) {
	e.sleeper("counted")
	nodes, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
	e.must(err)
	proxy := "/api/v1/nodes/" + nodes.Items[0].Name + "/proxy"
	labels := fmt.Sprintf(`namespace="%s",pod="counted"`, e.ns)
	for path, wants := range map[string][]string{
		"/healthz": {"ok"}, "/healthz/ping": {"ok"}, "/pods": {`"kind":"PodList"`, `"name":"counted"`}, "/runningpods/": {`"name":"counted"`}, "/configz": {`"containerLogMaxFiles":5`},
		"/metrics":          {"kubelet_running_pods ", `kubelet_running_containers{container_state="running"}`, "process_cpu_seconds_total"},
		"/metrics/resource": {`container_memory_working_set_bytes{container="main",` + labels},
		"/metrics/cadvisor": {`container_cpu_usage_seconds_total{container="main",cpu="total",id="/`, `container_network_receive_bytes_total{container="",`, "machine_memory_bytes{", labels, `container_memory_rss{container="main"`},
		"/stats/summary":    {`"name": "counted"`, `"ephemeral-storage"`, `"process_count"`, `"rxBytes"`, `"workingSetBytes"`, `"volume"`, `"swap"`},
	} {
		e.eventually(func() error { // the network's counters come with its first packet
			body, err := e.kube.CoreV1().RESTClient().Get().AbsPath(proxy + path).DoRaw(e.ctx)
			for _, want := range wants {
				if err == nil && !bytes.Contains(body, []byte(want)) {
					err = fmt.Errorf("%s has no %s", path, want)
				}
			}
			return err
		})
	}
	reader := rest.CopyConfig(e.config)
	reader.Impersonate.UserName = "reads-nodes-" + e.ns
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: reader.Impersonate.UserName}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}}}}
	_, err = e.kube.RbacV1().ClusterRoles().Create(e.ctx, role, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() {
		_ = e.kube.RbacV1().ClusterRoles().Delete(context.Background(), role.Name, metav1.DeleteOptions{})
	})
	err = kubernetes.NewForConfigOrDie(reader).CoreV1().RESTClient().Get().AbsPath(proxy + "/pods").Do(e.ctx).Error()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "nodes/proxy") {
		e.Errorf("without leave: %v", err)
	}
	pod := onePod("ports", shell("main", "netstat -ltn"))
	pod.Spec.HostNetwork = true
	for line := range strings.Lines(e.finish(pod)) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "tcp") || strings.HasPrefix(f[3], "127.") || strings.HasPrefix(f[3], "::1:") || strings.HasSuffix(f[3], ":6443") {
			continue
		}
		if strings.HasSuffix(f[3], ":10250") {
			e.Errorf("the node listens: %s", line)
		}
		e.Logf("beside the API there listens %s", f[3])
	}
}

func proxies(e *env) {
	pod := onePod("site", shell("main", `mkdir /www; echo "it is $HOSTNAME" > /www/index.html; mkdir /www/sub; echo below > /www/sub/page; exec httpd -f -p 8080 -h /www`))
	pod.Labels = map[string]string{"app": "site"}
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	e.create(pod)
	_, err := e.kube.CoreV1().Services(e.ns).Create(e.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "site"}, Spec: corev1.ServiceSpec{Selector: pod.Labels,
		Ports: []corev1.ServicePort{{Name: "web", Port: 80, TargetPort: intstr.FromString("web")}}}}, metav1.CreateOptions{})
	e.must(err)
	e.ready("site")
	base := "/api/v1/namespaces/" + e.ns
	for path, want := range map[string]string{
		"/pods/site/proxy/": "it is site\n", "/pods/site:8080/proxy/sub/page": "below\n", "/pods/http:site:8080/proxy/sub/page": "below\n",
		"/services/site:web/proxy/sub/page": "below\n", "/services/http:site:80/proxy/": "it is site\n", "/services/site:80/proxy/sub/page?a=b": "below\n",
	} {
		e.eventually(func() error {
			uri, query, _ := strings.Cut(base+path, "?")
			req := e.kube.CoreV1().RESTClient().Get().AbsPath(uri)
			if query != "" {
				req = req.Param("a", "b")
			}
			body, err := req.DoRaw(e.ctx)
			if err == nil && string(body) != want {
				err = fmt.Errorf("%s: %q, want %q", path, body, want)
			}
			return err
		})
	}
	if err := e.kube.CoreV1().RESTClient().Get().AbsPath(base + "/pods/site:8081/proxy/").Do(e.ctx).Error(); !apierrors.IsServiceUnavailable(err) ||
		!strings.Contains(err.Error(), "error trying to reach service: dial tcp") || !strings.Contains(err.Error(), "connection refused") {
		e.Errorf("a closed port: %v", err)
	}
	if err := e.kube.CoreV1().RESTClient().Get().AbsPath(base + "/services/none:80/proxy/").Do(e.ctx).Error(); !apierrors.IsNotFound(err) {
		e.Errorf("no such Service: %v", err)
	}
}
