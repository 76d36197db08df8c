package rest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coracle-dev/coracle/apiserver/admission"
)

// connects tells the subresources that lead to a node.
func connects(sub string) bool {
	switch sub {
	case "log", "exec", "attach", "portforward", "proxy":
		return true
	}
	return false
}

// connect hands a request on to the node that a pod runs on.
func (c *call) connect() error {
	if c.info.Subresource == "proxy" {
		return c.proxy()
	}
	if len(c.query()["dryRun"]) > 0 {
		return apierrors.NewBadRequest("dryRun is not supported")
	}
	pod, err := c.pod()
	if err != nil {
		return err
	}
	if c.info.Subresource == "log" {
		return c.log(pod)
	}
	if c.req.Method != http.MethodGet && c.req.Method != http.MethodPost {
		return c.notSupported()
	}
	// A WebSocket begins with a GET, but what it does here is what create permits.
	if c.info.Verb == "get" {
		if err := c.mayCreate(); err != nil {
			return err
		}
	}
	target, options, err := c.streamTarget(pod)
	if err != nil {
		return err
	}
	if err := c.admitConnect(options); err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	return c.upgradeToNode(pod.Spec.NodeName, target)
}

func (c *call) pod() (*corev1.Pod, error) {
	o, err := c.lookupNewest()
	if err != nil {
		return nil, err
	}
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("unexpected object: %T", o))
	}
	return pod, nil
}

// lookupNewest is lookup for requests whose query has another meaning.
func (c *call) lookupNewest() (runtime.Object, error) {
	o, err := c.Cache.Get(c.ctx(), c.r.storage, c.r.key(c.info.Namespace, c.info.Name), newest)
	if err != nil {
		return nil, readError(c.r.gr, c.info.Name, 0, err)
	}
	return o.Object, nil
}

func (c *call) admitConnect(options runtime.Object) error {
	if err := c.mutate(admission.Connect, options, nil); err != nil {
		return err
	}
	return c.validate(admission.Connect, options, nil)
}

// streamTarget is the node's path for exec, attach and port-forward, and the options as admission sees them.
func (c *call) streamTarget(pod *corev1.Pod) (*url.URL, runtime.Object, error) {
	q := query{values: c.query()}
	if c.info.Subresource == "portforward" {
		ports, err := portsOf(q.values["ports"])
		if err != nil {
			return nil, nil, err
		}
		out := url.Values{}
		for _, p := range ports {
			out.Add("port", strconv.Itoa(int(p)))
		}
		u := &url.URL{Path: "/portForward/" + pod.Namespace + "/" + pod.Name, RawQuery: out.Encode()}
		return u, &corev1.PodPortForwardOptions{Ports: ports}, nil
	}
	container, err := containerOf(pod, q.get("container"))
	if err != nil {
		return nil, nil, err
	}
	options := &corev1.PodExecOptions{
		Stdin: deref(q.bool("stdin")), Stdout: deref(q.bool("stdout")), Stderr: deref(q.bool("stderr")),
		TTY: deref(q.bool("tty")), Container: container, Command: q.values["command"],
	}
	u := &url.URL{
		Path:     "/" + c.info.Subresource + "/" + pod.Namespace + "/" + pod.Name + "/" + container,
		RawQuery: streamQuery(options).Encode(),
	}
	if c.info.Subresource == "exec" {
		return u, options, nil
	}
	return u, &corev1.PodAttachOptions{
		Stdin: options.Stdin, Stdout: options.Stdout, Stderr: options.Stderr, TTY: options.TTY, Container: container,
	}, nil
}

// streamQuery puts options as the kubelet's API names them.
func streamQuery(o *corev1.PodExecOptions) url.Values {
	v := url.Values{}
	for name, set := range map[string]bool{
		corev1.ExecStdinParam: o.Stdin, corev1.ExecStdoutParam: o.Stdout, corev1.ExecStderrParam: o.Stderr, corev1.ExecTTYParam: o.TTY,
	} {
		if set {
			v.Set(name, "1")
		}
	}
	for _, arg := range o.Command {
		v.Add(corev1.ExecCommandParam, arg)
	}
	return v
}

func portsOf(values []string) ([]int32, error) {
	var ports []int32
	for _, v := range values {
		for text := range strings.SplitSeq(v, ",") {
			p, err := strconv.ParseUint(text, 10, 16)
			if err != nil || p == 0 {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("unable to parse %q as a port", text))
			}
			ports = append(ports, int32(p))
		}
	}
	return ports, nil
}

// containerOf checks the container asked for, or finds the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	if name != "" {
		if slices.Contains(allContainers(pod), name) {
			return name, nil
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	names := containerNames(pod.Spec.Containers)
	switch len(names) {
	case 1:
		return names[0], nil
	case 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	}
	text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, names)
	if inits := containerNames(pod.Spec.InitContainers); len(inits) > 0 {
		text += fmt.Sprintf(" or one of the init containers: %v", inits)
	}
	return "", apierrors.NewBadRequest(text)
}

func containerNames(containers []corev1.Container) []string {
	var names []string
	for i := range containers {
		names = append(names, containers[i].Name)
	}
	return names
}

func allContainers(pod *corev1.Pod) []string {
	names := append(containerNames(pod.Spec.Containers), containerNames(pod.Spec.InitContainers)...)
	for i := range pod.Spec.EphemeralContainers {
		names = append(names, pod.Spec.EphemeralContainers[i].Name)
	}
	return names
}

// log streams a container's log.
func (c *call) log(pod *corev1.Pod) error {
	if c.info.Verb != "get" {
		return c.notSupported()
	}
	options, err := c.logOptions()
	if err != nil {
		return err
	}
	container, err := containerOf(pod, options.Container)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		writeBody(c.w, c.req, "text/plain", http.StatusOK)
		return nil
	}
	target := &url.URL{
		Path:     "/containerLogs/" + pod.Namespace + "/" + pod.Name + "/" + container,
		RawQuery: logQuery(options).Encode(),
	}
	return c.copyFromNode(pod.Spec.NodeName, target, options.Follow)
}

func (c *call) logOptions() (*corev1.PodLogOptions, error) {
	q := query{values: c.query()}
	o := &corev1.PodLogOptions{
		Container: q.get("container"), Follow: deref(q.bool("follow")), Previous: deref(q.bool("previous")),
		Timestamps: deref(q.bool("timestamps")), SinceSeconds: q.int64("sinceSeconds"), TailLines: q.int64("tailLines"),
		LimitBytes: q.int64("limitBytes"),
	}
	if q.err != nil {
		return nil, q.err
	}
	if s := q.get("stream"); s != "" {
		o.Stream = &s
	}
	if s := q.get("sinceTime"); s != "" {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		o.SinceTime = &metav1.Time{Time: t}
	}
	if errs := validateLogOptions(o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, c.info.Name, errs)
	}
	return o, nil
}

func validateLogOptions(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if n := o.TailLines; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *n, "must be greater than or equal to 0"))
	}
	if n := o.LimitBytes; n != nil && *n < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *n, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	streams := []string{corev1.LogStreamStdout, corev1.LogStreamStderr, corev1.LogStreamAll}
	if o.Stream != nil && !slices.Contains(streams, *o.Stream) {
		errs = append(errs, field.NotSupported(field.NewPath("stream"), *o.Stream, streams))
	}
	if o.Stream != nil && *o.Stream != corev1.LogStreamAll && o.TailLines != nil {
		errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
	}
	return errs
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	v := url.Values{}
	for name, set := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if set {
			v.Set(name, "true")
		}
	}
	for name, n := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if n != nil {
			v.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	if o.SinceTime != nil {
		v.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.Stream != nil {
		v.Set("stream", *o.Stream)
	}
	return v
}
