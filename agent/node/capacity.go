package node

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/coracle-dev/coracle/agent/podspec"
)

// ResourcePids is how a reservation names processes.
const ResourcePids v1.ResourceName = "pid"

// HugePages are the machine's pages of one size, in bytes.
type HugePages struct{ Size, Count int64 }

// PageSizes are the sizes in bytes of the huge pages that there are.
func (f *Facts) PageSizes() []int64 {
	var out []int64
	for _, p := range f.HugePages {
		if p.Count > 0 {
			out = append(out, p.Size)
		}
	}
	return out
}

// hugePages reads the machine's pools. Where the machine has no controller that holds a container to its limit they count as empty.
func hugePages(root string) []HugePages {
	limitable := hasController(root, "hugetlb")
	dirs, _ := filepath.Glob(filepath.Join(root, "sys/kernel/mm/hugepages/hugepages-*kB"))
	var out []HugePages
	for _, dir := range dirs {
		size, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		p := HugePages{Size: size * 1024}
		if limitable {
			p.Count, _ = strconv.ParseInt(line(dir, "nr_hugepages"), 10, 64)
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b HugePages) int { return cmp.Compare(a.Size, b.Size) })
	return out
}

// hasController tells whether the machine has a cgroup controller, of version 1 or 2.
func hasController(root, name string) bool {
	mount := filepath.Join(root, "sys/fs/cgroup")
	if _, err := os.Stat(filepath.Join(mount, name)); err == nil {
		return true
	}
	return slices.Contains(strings.Fields(line(mount, "cgroup.controllers")), name)
}

func capacity(in Input) v1.ResourceList {
	out := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(int64(in.Facts.CPUs), resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(in.Facts.Memory, resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(in.Facts.Storage, resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(int64(in.MaxPods), resource.DecimalSI),
	}
	for _, p := range in.Facts.HugePages {
		out[podspec.HugePageResource(p.Size)] = *resource.NewQuantity(p.Size*p.Count, resource.BinarySI)
	}
	return out
}

// allocatable is the capacity without what is reserved, and the memory that is set aside for huge pages.
func allocatable(in Input) v1.ResourceList {
	out := capacity(in)
	take := func(name v1.ResourceName, q resource.Quantity) {
		have := out[name]
		have.Sub(q)
		if have.Sign() < 0 {
			have = *resource.NewQuantity(0, have.Format)
		}
		out[name] = have
	}
	for _, p := range in.Facts.HugePages {
		take(v1.ResourceMemory, *resource.NewQuantity(p.Size*p.Count, resource.BinarySI))
	}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage} {
		if q, ok := in.Reserved[name]; ok {
			take(name, q)
		}
	}
	return out
}

// ForPods is what the cgroup of all pods may use: the machine's processors, memory and, where some are reserved, processes, without
// what is reserved. What must stay free is the evictions' to keep.
func ForPods(f Facts, reserved v1.ResourceList) v1.ResourceList {
	cpu := resource.NewQuantity(int64(f.CPUs), resource.DecimalSI)
	cpu.Sub(*reserved.Cpu())
	memory := resource.NewQuantity(f.Memory, resource.BinarySI)
	memory.Sub(*reserved.Memory())
	out := v1.ResourceList{v1.ResourceCPU: *cpu, v1.ResourceMemory: *memory}
	if q, ok := reserved[ResourcePids]; ok && f.MaxPids > 0 {
		out[ResourcePids] = *resource.NewQuantity(max(f.MaxPids-q.Value(), 1), resource.DecimalSI)
	}
	return out
}
