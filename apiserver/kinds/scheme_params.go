package kinds

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// addParameterConversions teaches a scheme to decode the options of subresources from query parameters. Those of
// metav1 it knows already.
func addParameterConversions(scheme *runtime.Scheme) error {
	for _, err := range []error{
		addParameters(scheme, func(p *params, o *corev1.PodLogOptions) {
			o.Container, o.Follow, o.Previous = p.text("container"), p.bool("follow"), p.bool("previous")
			o.SinceSeconds, o.SinceTime = p.int64("sinceSeconds"), p.time("sinceTime")
			o.Timestamps, o.TailLines, o.LimitBytes = p.bool("timestamps"), p.int64("tailLines"), p.int64("limitBytes")
			o.InsecureSkipTLSVerifyBackend = p.bool("insecureSkipTLSVerifyBackend")
			if s := p.text("stream"); s != "" {
				o.Stream = &s
			}
		}),
		addParameters(scheme, func(p *params, o *corev1.PodExecOptions) {
			o.Stdin, o.Stdout, o.Stderr, o.TTY = p.bool("stdin"), p.bool("stdout"), p.bool("stderr"), p.bool("tty")
			o.Container, o.Command = p.text("container"), p.values["command"]
		}),
		addParameters(scheme, func(p *params, o *corev1.PodAttachOptions) {
			o.Stdin, o.Stdout, o.Stderr, o.TTY = p.bool("stdin"), p.bool("stdout"), p.bool("stderr"), p.bool("tty")
			o.Container = p.text("container")
		}),
		addParameters(scheme, func(p *params, o *corev1.PodPortForwardOptions) {
			for _, list := range p.values["ports"] {
				for text := range strings.SplitSeq(list, ",") {
					o.Ports = append(o.Ports, int32(p.integer("ports", text, 32)))
				}
			}
		}),
		addParameters(scheme, func(p *params, o *corev1.PodProxyOptions) { o.Path = p.text("path") }),
		addParameters(scheme, func(p *params, o *corev1.NodeProxyOptions) { o.Path = p.text("path") }),
		addParameters(scheme, func(p *params, o *corev1.ServiceProxyOptions) { o.Path = p.text("path") }),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// addParameters registers the conversion of query parameters to a *T.
func addParameters[T any](scheme *runtime.Scheme, read func(p *params, options *T)) error {
	return scheme.AddConversionFunc((*url.Values)(nil), (*T)(nil), func(from, to any, _ conversion.Scope) error {
		p := &params{values: *from.(*url.Values)}
		read(p, to.(*T))
		return p.err
	})
}

// params reads query parameters and remembers the first that is not what it must be.
type params struct {
	values url.Values
	err    error
}

func (p *params) fail(name, text string, err error) {
	if p.err == nil {
		p.err = fmt.Errorf("query parameter %s=%q: %w", name, text, err)
	}
}

func (p *params) text(name string) string { return p.values.Get(name) }

// bool is true for a parameter that is given with any value but "false" and "0", as for all of the API's parameters.
func (p *params) bool(name string) bool {
	if !p.values.Has(name) {
		return false
	}
	text := p.text(name)
	return text != "0" && !strings.EqualFold(text, "false")
}

func (p *params) integer(name, text string, bits int) int64 {
	n, err := strconv.ParseInt(text, 10, bits)
	if err != nil {
		p.fail(name, text, err)
	}
	return n
}

func (p *params) int64(name string) *int64 {
	if !p.values.Has(name) {
		return nil
	}
	n := p.integer(name, p.text(name), 64)
	return &n
}

func (p *params) time(name string) *metav1.Time {
	text := p.text(name)
	if text == "" {
		return nil
	}
	t := &metav1.Time{}
	if err := t.UnmarshalQueryParameter(text); err != nil {
		p.fail(name, text, err)
	}
	return t
}
