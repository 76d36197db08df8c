package stats

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type (
	volumeStats struct {
		fsStats
		Name   string        `json:"name,omitempty"`
		PVCRef *pvcReference `json:"pvcRef,omitempty"`
	}
	pvcReference struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	}
)

// volumes measures a pod's volumes: those of claims by their file systems, the pod's own, where they are wanted, by their files.
// Those that belong to the machine, as host paths do, are not measured.
func (s *Stats) volumes(pod *corev1.Pod, own bool) []volumeStats {
	var list []volumeStats
	now := metav1.Now()
	paths := s.cfg.Pods.VolumePaths(string(pod.UID))
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		path, ok := paths[v.Name]
		if !ok {
			continue
		}
		claim := ""
		switch {
		case v.PersistentVolumeClaim != nil:
			claim = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			claim = pod.Name + "-" + v.Name
		case !own || v.EmptyDir == nil && v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.Projected == nil:
			continue
		}
		used := fileSystem(now, path)
		if used == nil {
			continue
		}
		one := volumeStats{fsStats: *used, Name: v.Name}
		if claim != "" {
			one.PVCRef = &pvcReference{claim, pod.Namespace}
		} else {
			one.UsedBytes, one.InodesUsed = treeUsage(path)
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b volumeStats) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// treeUsage is what the files below a folder take, without what is mounted there.
func treeUsage(dir string) (bytes, inodes *uint64) {
	var size, count, device uint64
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what has just gone takes nothing
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // nor does this
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		switch {
		case !ok:
			return nil
		case path == dir:
			device = st.Dev
		case st.Dev != device && d.IsDir():
			return fs.SkipDir
		}
		size, count = size+uint64(st.Blocks)*512, count+1
		return nil
	})
	return &size, &count
}
