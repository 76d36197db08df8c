package volumes

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestPageSize(t *testing.T) {
	asks := func(names ...v1.ResourceName) *v1.Pod {
		list := v1.ResourceList{}
		for _, name := range names {
			list[name] = resource.MustParse("2Gi")
		}
		return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: list}}}}}
	}
	for name, c := range map[string]struct {
		pod       *v1.Pod
		medium    v1.StorageMedium
		size, err string
	}{
		"named":    {asks(), "HugePages-1Gi", "1Gi", ""},
		"the only": {asks("cpu", "hugepages-2Mi"), "HugePages", "2Mi", ""},
		"none":     {asks("cpu"), "HugePages", "", "medium HugePages: the pod must ask for huge pages of exactly one size, not of 0"},
		"two":      {asks("hugepages-2Mi", "hugepages-1Gi"), "HugePages", "", "medium HugePages: the pod must ask for huge pages of exactly one size, not of 2"},
		"other":    {asks(), "Tape", "", "emptyDir of medium Tape is not supported on this node"},
	} {
		size, err := pageSize(c.pod, c.medium)
		if size != c.size || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%s: %q, %v", name, size, err)
		}
	}
	err := mountHugePages(t.TempDir(), asks("hugepages-2Mi"), "HugePages", v1.ResourceList{"hugepages-2Mi": resource.MustParse("0")})
	if err == nil || err.Error() != "emptyDir of medium HugePages: the node has no huge pages of 2Mi" {
		t.Errorf("a node without: %v", err)
	}
}
