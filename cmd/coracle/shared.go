package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	restclient "k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/internal/client"
)

// clusterWide are the flags on which all nodes of a cluster must agree. The servers publish theirs, and agents that are not told otherwise take
// them from there.
func (o *options) clusterWide(c cluster) map[string]string {
	return map[string]string{
		"pod-cidr": c.pods.String(), "service-cidr": c.services.String(), "cluster-domain": c.domain, "cluster-dns": c.dns.String(), "overlay": o.overlay,
	}
}

// learn sets those of these flags that were not given to what the cluster's servers say: now, or else when they were last asked. It
// waits for an answer where there was never one.
func (o *options) learn(ctx context.Context, config *restclient.Config, f *pflag.FlagSet) error {
	told, err := o.clusterSettings(ctx, config)
	if err != nil {
		return err
	}
	for name := range o.clusterWide(cluster{}) {
		value, known := told[name]
		switch flag := f.Lookup(name); {
		case !known || flag.Changed && flag.Value.String() == value:
		case flag.Changed:
			slog.Warn("a flag is not as on the cluster's servers", "component", "agent", "flag", name, "here", flag.Value, "there", value)
		default:
			if err := f.Set(name, value); err != nil {
				return fmt.Errorf("the ConfigMap kube-system/%s: %s: %w", auth.ClusterConfigMap, name, err)
			}
		}
	}
	if _, err := o.cluster(); err != nil {
		return err
	}
	return o.checkNodeFlags()
}

const (
	// settingsTimeout is how long one answer is waited for.
	settingsTimeout = 3 * time.Second
	// settingsPatience is for how long servers may have nothing to say yet, as while a new cluster's first one starts.
	settingsPatience = 15 * time.Second
)

func (o *options) clusterSettings(ctx context.Context, config *restclient.Config) (map[string]string, error) {
	kube, err := client.Config{RestConfig: config, Component: "agent"}.Clientset()
	if err != nil {
		return nil, err
	}
	for started := time.Now(); ; {
		attempt, cancel := context.WithTimeout(ctx, settingsTimeout)
		found, err := kube.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(attempt, auth.ClusterConfigMap, metav1.GetOptions{})
		cancel()
		if err == nil {
			if err := o.rememberSettings(found.Data); err != nil {
				slog.Warn("cannot write down what the cluster's nodes must agree on", "component", "agent", "error", err)
			}
			return found.Data, nil
		}
		if kept, known := o.rememberedSettings(); known {
			slog.Info("the cluster's servers do not answer; this node takes what they said last", "component", "agent", "error", err)
			return kept, nil
		}
		if (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)) && time.Since(started) > settingsPatience {
			slog.Warn("the cluster's servers do not tell what its nodes must agree on; the flags count", "component", "agent", "error", err)
			return nil, nil
		}
		slog.Info("the cluster's servers have not told yet what its nodes must agree on; asking again", "component", "agent", "error", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (o *options) rememberSettings(data map[string]string) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	path := o.layout.Cluster()
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (o *options) rememberedSettings() (data map[string]string, known bool) {
	text, err := os.ReadFile(o.layout.Cluster())
	if err == nil {
		err = json.Unmarshal(text, &data)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Warn("cannot read what is remembered of the cluster", "component", "agent", "error", err)
	}
	return data, err == nil
}
