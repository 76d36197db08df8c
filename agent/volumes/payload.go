package volumes

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coracle-dev/coracle/agent/podspec/fields"
)

// file is one file of a volume made from API objects.
type file struct {
	data []byte
	mode int32
	uid  *int64 // owner, where it is not root
}

// objectFiles are volumes whose files are made from API objects and from the pod itself.
type objectFiles struct {
	mountsOnly
	m *Manager
	// base makes the folder that the pod's volumes of this kind lie in.
	base func(*request) (string, error)
}

// plainFiles lie on disk. secretFiles lie on the pod's tmpfs, so that they never get there.
func (m *Manager) plainFiles() objectFiles {
	return objectFiles{m: m, base: func(r *request) (string, error) { return filepath.Dir(r.dir), nil }}
}

func (m *Manager) secretFiles() objectFiles {
	return objectFiles{m: m, base: func(r *request) (string, error) { return m.memory(r.Pod.Pod) }}
}

func (k objectFiles) setUp(ctx context.Context, r *request) (Volume, error) {
	files, refresh, err := k.m.payload(ctx, r.Pod.Pod, r.volume, r.Facts)
	if err != nil {
		return Volume{}, err
	}
	base, err := k.base(r)
	if err != nil {
		return Volume{}, err
	}
	// What was written into such a volume would be lost with the next update, so nothing can be.
	v := Volume{Path: filepath.Join(base, r.volume.Name), ReadOnly: true, Refresh: refresh}
	return v, writeAtomically(v.Path, files, fsGroup(r.Pod.Pod))
}

// payload is the content of such a volume, and when it has to be made anew.
func (m *Manager) payload(ctx context.Context, pod *v1.Pod, v *v1.Volume, facts fields.Facts) (map[string]file, time.Time, error) {
	files := map[string]file{}
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return files, time.Time{}, m.addConfigMap(ctx, pod, files, source{s.Name, s.Items, s.Optional, modeOf(s.DefaultMode)})
	case v.Secret != nil:
		s := v.Secret
		return files, time.Time{}, m.addSecret(ctx, pod, files, source{s.SecretName, s.Items, s.Optional, modeOf(s.DefaultMode)})
	case v.DownwardAPI != nil:
		return files, time.Time{}, addDownward(pod, facts, files, v.DownwardAPI.Items, modeOf(v.DownwardAPI.DefaultMode))
	case v.Projected != nil:
		refresh, err := m.addProjected(ctx, pod, files, v, facts)
		return files, refresh, err
	}
	return nil, time.Time{}, fmt.Errorf("volume %s is made from no object", v.Name)
}

const defaultMode = 0o644

func modeOf(m *int32) int32 {
	if m == nil {
		return defaultMode
	}
	return *m
}

// source is a config map or a secret as a volume refers to it.
type source struct {
	name     string
	items    []v1.KeyToPath
	optional *bool
	mode     int32
}

func (s source) isOptional() bool { return s.optional != nil && *s.optional }

func (m *Manager) addConfigMap(ctx context.Context, pod *v1.Pod, files map[string]file, s source) error {
	cm, err := m.cfg.Objects.ConfigMap(ctx, pod.Namespace, s.name)
	data := map[string][]byte{}
	switch {
	case apierrors.IsNotFound(err) && s.isOptional():
	case apierrors.IsNotFound(err):
		return fmt.Errorf("configmap %q not found", s.name)
	case err != nil:
		return err
	default:
		for k, v := range cm.Data {
			data[k] = []byte(v)
		}
		for k, v := range cm.BinaryData {
			data[k] = v
		}
	}
	return addKeys(files, data, s, "configmap references non-existent config key: %s")
}

func (m *Manager) addSecret(ctx context.Context, pod *v1.Pod, files map[string]file, s source) error {
	secret, err := m.cfg.Objects.Secret(ctx, pod.Namespace, s.name)
	var data map[string][]byte
	switch {
	case apierrors.IsNotFound(err) && s.isOptional():
	case apierrors.IsNotFound(err):
		return fmt.Errorf("secret %q not found", s.name)
	case err != nil:
		return err
	default:
		data = secret.Data
	}
	return addKeys(files, data, s, "references non-existent secret key: %s")
}

// addKeys takes all keys as files of their names, or only the items as files of the paths they name.
func addKeys(files map[string]file, data map[string][]byte, s source, absent string) error {
	if len(s.items) == 0 {
		for k, v := range data {
			files[k] = file{data: v, mode: s.mode}
		}
		return nil
	}
	for _, it := range s.items {
		v, ok := data[it.Key]
		if !ok {
			if s.isOptional() {
				continue
			}
			return fmt.Errorf(absent, it.Key)
		}
		mode := s.mode
		if it.Mode != nil {
			mode = *it.Mode
		}
		if err := addFile(files, it.Path, file{data: v, mode: mode}); err != nil {
			return err
		}
	}
	return nil
}

func addFile(files map[string]file, path string, f file) error {
	clean := filepath.Clean(path)
	if !filepath.IsLocal(path) || clean == "." || strings.HasPrefix(clean, "..") {
		return fmt.Errorf("invalid path: %q must be relative and must not contain '..'", path)
	}
	files[clean] = f
	return nil
}

func addDownward(pod *v1.Pod, facts fields.Facts, files map[string]file, items []v1.DownwardAPIVolumeFile, mode int32) error {
	for _, it := range items {
		var value string
		var err error
		switch {
		case it.FieldRef != nil:
			value, err = fields.Field(pod, facts, it.FieldRef.FieldPath)
		case it.ResourceFieldRef != nil:
			value, err = fields.Resource(pod, facts, it.ResourceFieldRef, nil)
		}
		if err != nil {
			return err
		}
		f := file{data: []byte(value), mode: mode}
		if it.Mode != nil {
			f.mode = *it.Mode
		}
		if err := addFile(files, it.Path, f); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) addProjected(ctx context.Context, pod *v1.Pod, files map[string]file, v *v1.Volume, facts fields.Facts) (time.Time, error) {
	var refresh time.Time
	mode := modeOf(v.Projected.DefaultMode)
	for i := range v.Projected.Sources {
		s := &v.Projected.Sources[i]
		var err error
		switch {
		case s.ConfigMap != nil:
			err = m.addConfigMap(ctx, pod, files, source{s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional, mode})
		case s.Secret != nil:
			err = m.addSecret(ctx, pod, files, source{s.Secret.Name, s.Secret.Items, s.Secret.Optional, mode})
		case s.DownwardAPI != nil:
			err = addDownward(pod, facts, files, s.DownwardAPI.Items, mode)
		case s.ServiceAccountToken != nil:
			var at time.Time
			if at, err = m.addToken(ctx, pod, files, v.Name, s.ServiceAccountToken, mode); err == nil && (refresh.IsZero() || at.Before(refresh)) {
				refresh = at
			}
		default:
			err = fmt.Errorf("projected source %s is not supported on this node", setField(reflect.ValueOf(*s)))
		}
		if err != nil {
			return refresh, err
		}
	}
	return refresh, nil
}
