package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/podspec/fields"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// startContainer creates an instance and starts it. Only so many are started at once: where a whole node's pods start
// together, the first ones are not held up by the last.
func (w *worker) startContainer(ctx context.Context, pod *v1.Pod, act lifecycle.Action) (func(*lifecycle.State), error) {
	c := containerSpec(pod, act.Container)
	select {
	case w.a.starts <- struct{}{}:
		defer func() { <-w.a.starts }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.mu.Lock()
	img := w.images[c.Name]
	w.mu.Unlock()
	cfg, err := w.containerConfig(ctx, pod, c, act, img)
	if err != nil {
		if r := (*reasonError)(nil); !errors.As(err, &r) {
			err = because(lifecycle.ReasonConfig, err)
		}
		return nil, w.startFailed(ctx, pod, c, err)
	}
	used := func(s *lifecycle.State) {
		delete(s.Images, c.Name)
		delete(w.images, c.Name)
	}
	if err := w.makeRoom(ctx, pod); err != nil {
		return nil, w.startFailed(ctx, pod, c, because(lifecycle.ReasonCreateContainer, err))
	}
	id, err := w.a.cfg.Containers.Create(ctx, cfg)
	var config *runtime.ConfigError
	switch {
	case errors.As(err, &config):
		return nil, w.startFailed(ctx, pod, c, because(lifecycle.ReasonConfig, err))
	case err != nil: // perhaps because the image has been removed meanwhile
		return used, w.startFailed(ctx, pod, c, because(lifecycle.ReasonCreateContainer, err))
	}
	w.a.containerEvent(pod, c, v1.EventTypeNormal, "Created", "Container created")
	if err := w.a.cfg.Containers.Start(ctx, id); err != nil {
		return used, w.startFailed(ctx, pod, c, because(lifecycle.ReasonRunContainer, err))
	}
	w.a.containerEvent(pod, c, v1.EventTypeNormal, "Started", "Container started")
	return used, nil
}

func (w *worker) startFailed(ctx context.Context, pod *v1.Pod, c *v1.Container, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.a.containerEvent(pod, c, v1.EventTypeWarning, "Failed", "Error: %s", err)
	return err
}

// containerConfig gathers what the container is built from and builds it.
func (w *worker) containerConfig(ctx context.Context, pod *v1.Pod, c *v1.Container, act lifecycle.Action, img runtime.Image) (cfg runtime.ContainerConfig, err error) {
	src, err := w.sources(ctx, pod, c)
	if err != nil {
		return cfg, err
	}
	target, err := w.target(pod, c)
	if err != nil {
		return cfg, err
	}
	facts := w.facts()
	hostname, err := podspec.KernelHostname(pod, w.a.cfg.ClusterDomain)
	if err != nil {
		return cfg, err
	}
	if pod.Spec.HostNetwork {
		hostname = w.a.hostname
	}
	name, err := images.Normalize(c.Image)
	if err != nil {
		return cfg, err
	}
	in := podspec.Input{Pod: pod, Container: c, Attempt: act.Attempt, Backoff: act.Backoff, Image: img, ImageName: name, Sources: src, Facts: facts,
		Machine: w.a.machine(), Hostname: hostname, LogPath: podspec.LogPath(w.a.cfg.Layout.PodLogs(), pod, c.Name, act.Attempt),
		Seccomp: w.a.seccompProfile, Support: w.a.cfg.Support, Target: target}
	cfg, warnings, err := podspec.Container(in)
	if err != nil {
		return cfg, err
	}
	for _, text := range warnings {
		w.a.containerEvent(pod, c, v1.EventTypeWarning, "InvalidEnvironmentVariableNames", "%s", text)
	}
	if cfg.Mounts, err = w.mounts(pod, c, act.Attempt, facts, cfg.Env); err != nil {
		return cfg, err
	}
	if cfg.Devices, err = w.devices(c); err != nil {
		return cfg, err
	}
	return cfg, os.MkdirAll(filepath.Dir(cfg.LogPath), 0o755)
}

// sources reads the objects that the container's environment refers to.
func (w *worker) sources(ctx context.Context, pod *v1.Pod, c *v1.Container) (podspec.Sources, error) {
	src := podspec.Sources{ConfigMaps: map[string]*v1.ConfigMap{}, Secrets: map[string]*v1.Secret{}}
	maps, secrets := podspec.EnvRefs(c)
	for _, name := range maps {
		cm, err := w.a.objects.ConfigMap(ctx, pod.Namespace, name)
		if err != nil && !apierrors.IsNotFound(err) {
			return src, err
		}
		if err == nil {
			src.ConfigMaps[name] = cm
		}
	}
	for _, name := range secrets {
		s, err := w.a.objects.Secret(ctx, pod.Namespace, name)
		if err != nil && !apierrors.IsNotFound(err) {
			return src, err
		}
		if err == nil {
			src.Secrets[name] = s
		}
	}
	var err error
	if src.Files, err = w.envFiles(pod, c); err != nil {
		return src, err
	}
	for _, ns := range []string{pod.Namespace, v1.NamespaceDefault} {
		list, err := w.a.services.Services(ns).List(labels.Everything())
		if err != nil {
			return src, err
		}
		src.Services = append(src.Services, list...)
		if ns == v1.NamespaceDefault {
			break
		}
	}
	return src, nil
}

// mounts are the container's volumes, and the files that every container gets unless a volume takes their place.
func (w *worker) mounts(pod *v1.Pod, c *v1.Container, attempt int, facts fields.Facts, env []string) ([]runtime.Mount, error) {
	w.mu.Lock()
	mounted := w.mounted
	w.mu.Unlock()
	list, err := w.a.volumes.ContainerMounts(pod, c, mounted, func(s string) (string, error) { return expandStrictly(s, env) })
	if err != nil {
		return nil, err
	}
	var out []runtime.Mount
	taken := map[string]bool{}
	recursive, err := podspec.RecursiveReadOnly(c, w.a.cfg.Support)
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		dest := filepath.Clean(m.Destination)
		out = append(out, runtime.Mount{Source: m.Source, Destination: m.Destination, ReadOnly: m.ReadOnly, Propagation: m.Propagation, Recursive: recursive[dest],
			Options: m.Options})
		taken[dest] = true
	}
	files, err := w.files(pod, c, attempt, facts)
	if err != nil {
		return nil, err
	}
	for _, m := range files {
		if !taken[m.Destination] {
			out = append(out, m)
		}
	}
	return out, nil
}

// expandStrictly is for paths: a variable in one that is unknown or empty is an error.
func expandStrictly(s string, env []string) (string, error) {
	values := map[string]string{}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		values[k] = v
	}
	var missing []string
	out := podspec.Expand(s, func(name string) (string, bool) {
		v, ok := values[name]
		if v == "" {
			missing = append(missing, name)
		}
		return v, ok
	})
	if len(missing) > 0 {
		slices.Sort(missing)
		return "", fmt.Errorf("missing value for %s", strings.Join(slices.Compact(missing), ", "))
	}
	return out, nil
}

// files writes what the agent manages for the container and gives their mounts.
func (w *worker) files(pod *v1.Pod, c *v1.Container, attempt int, facts fields.Facts) ([]runtime.Mount, error) {
	dir := w.a.volumes.PodDir(pod.UID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	hostHosts, hostResolv := "", podspec.ParseResolver(w.a.hostResolv())
	if pod.Spec.HostNetwork {
		data, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		hostHosts = string(data)
	}
	resolver, warnings := podspec.PodResolver(pod, w.a.dns, hostResolv)
	for _, text := range warnings {
		w.a.event(pod, v1.EventTypeWarning, "DNSConfigForming", text)
	}
	hostname, err := podspec.KernelHostname(pod, w.a.cfg.ClusterDomain)
	if err != nil {
		return nil, err
	}
	if pod.Spec.HostNetwork {
		hostname = w.a.hostname
	}
	var out []runtime.Mount
	for _, f := range []struct{ name, text, target string }{
		{"etc-hosts", podspec.HostsFile(pod, facts.PodIPs, w.a.cfg.ClusterDomain, hostHosts), "/etc/hosts"},
		{"etc-hostname", hostname + "\n", "/etc/hostname"},
		{"etc-resolv.conf", resolver.String(), "/etc/resolv.conf"},
	} {
		path := filepath.Join(dir, f.name)
		if err := writeIfChanged(path, f.text); err != nil {
			return nil, err
		}
		out = append(out, runtime.Mount{Source: path, Destination: f.target})
	}
	message := w.messagePath(c.Name, attempt)
	if err := os.MkdirAll(filepath.Dir(message), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(message, nil, 0o666); err != nil {
		return nil, err
	}
	if err := os.Chmod(message, 0o666); err != nil { // whoever the container runs as may write
		return nil, err
	}
	return append(out, runtime.Mount{Source: message, Destination: podspec.MessagePath(c)}), nil
}

// writeIfChanged writes in place, because the file may be mounted into running containers.
func writeIfChanged(path, text string) error {
	// A container may have made it as long as it likes.
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(text)) {
		if have, err := os.ReadFile(path); err == nil && string(have) == text {
			return nil
		}
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// messagePath is the file that an instance's termination message is written to.
func (w *worker) messagePath(container string, attempt int) string {
	return filepath.Join(w.a.cfg.Layout.Pods(), w.ref.UID, "containers", container, fmt.Sprint(attempt))
}

const (
	maxMessage      = 4096
	maxMessageLog   = 2048
	maxMessageLines = 80
)

// terminationMessage reads an instance's last words, once. The caller holds mu.
func (w *worker) terminationMessage(rc runtime.Container) string {
	if m, ok := w.messages[rc.ID]; ok {
		return m
	}
	m := rc.Message
	if end := readEnd(w.messagePath(rc.Name, rc.Attempt), maxMessage); end != "" {
		m = end
	} else if c := containerSpec(w.state.Pod, rc.Name); m == "" && rc.ExitCode != 0 && c != nil &&
		c.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError {
		m = logTail(rc.LogPath)
	}
	w.messages[rc.ID] = m
	return m
}

// readEnd reads the last bytes of a file that may be of any length.
func readEnd(path string, most int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	data := make([]byte, min(info.Size(), most))
	n, _ := f.ReadAt(data, max(info.Size()-most, 0))
	return string(data[:n])
}

// logTail is the end of a log in the CRI format, without times and streams.
func logTail(path string) string {
	text := readEnd(path, 4*maxMessageLog)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(text) == 4*maxMessageLog {
		lines = lines[1:] // cut in the middle
	}
	lines = lines[max(len(lines)-maxMessageLines, 0):]
	var b strings.Builder
	for _, line := range lines {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 {
			b.WriteString(f[3])
			if f[2] == "F" {
				b.WriteByte('\n')
			}
		}
	}
	s := b.String()
	return s[max(len(s)-maxMessageLog, 0):]
}
