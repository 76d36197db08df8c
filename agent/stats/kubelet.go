package stats

import (
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// The kubelet's names of what the node agent tells of itself.
var (
	kubeletNode       = desc("kubelet_node_name", "The node's name. The count is always 1.", "node")
	kubeletPods       = desc("kubelet_running_pods", "Number of pods that have a running pod sandbox")
	kubeletContainers = desc("kubelet_running_containers", "Number of containers currently running", "container_state")
	kubeletActive     = desc("kubelet_active_pods", "The number of pods the kubelet considers active and which are being considered when admitting new pods.", "static")
	volumeAvailable   = volumeDesc("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume")
	volumeCapacity    = volumeDesc("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume")
	volumeUsed        = volumeDesc("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume")
	volumeInodes      = volumeDesc("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume")
	volumeInodesFree  = volumeDesc("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume")
	volumeInodesUsed  = volumeDesc("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume")
)

func volumeDesc(name, help string) *prometheus.Desc {
	return desc(name, help, "namespace", "persistentvolumeclaim")
}

// kubelet measures for /metrics when Prometheus asks.
type kubelet struct{ s *Stats }

// Describe implements prometheus.Collector: what there is depends on what runs.
func (k *kubelet) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (k *kubelet) Collect(out chan<- prometheus.Metric) {
	one := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	running := k.s.cfg.Runtime.Running()
	pods := map[string]bool{}
	for i := range running {
		pods[running[i].Pod.UID] = true
	}
	one(kubeletNode, 1, k.s.cfg.NodeName)
	one(kubeletPods, float64(len(pods)))
	one(kubeletContainers, float64(len(running)), "running")
	active := 0
	claims := map[[2]string]bool{}
	for _, pod := range k.s.cfg.Pods.Pods() {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			active++
		}
		for _, v := range k.s.volumes(pod, false) {
			if v.PVCRef == nil || claims[[2]string{v.PVCRef.Namespace, v.PVCRef.Name}] {
				continue // that another pod uses too
			}
			claims[[2]string{v.PVCRef.Namespace, v.PVCRef.Name}] = true
			for d, n := range map[*prometheus.Desc]*uint64{volumeAvailable: v.AvailableBytes, volumeCapacity: v.CapacityBytes, volumeUsed: v.UsedBytes,
				volumeInodes: v.Inodes, volumeInodesFree: v.InodesFree, volumeInodesUsed: v.InodesUsed} {
				if n != nil {
					one(d, float64(*n), v.PVCRef.Namespace, v.PVCRef.Name)
				}
			}
		}
	}
	one(kubeletActive, float64(active), "")
}

var probeTotal = desc("prober_probe_total", "Cumulative number of a liveness, readiness or startup probe for a container by result.",
	"container", "namespace", "pod", "pod_uid", "probe_type", "result")

// probeCounts is for /metrics/probes.
type probeCounts struct{ s *Stats }

// Describe implements prometheus.Collector.
func (p *probeCounts) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (p *probeCounts) Collect(out chan<- prometheus.Metric) {
	type key struct{ container, namespace, pod, uid, kind, outcome string }
	all := map[key]uint64{} // a container that is being replaced is there twice
	p.s.cfg.Pods.ProbeCounts(func(pod *corev1.Pod, container, kind, outcome string, n uint64) {
		all[key{container, pod.Namespace, pod.Name, string(pod.UID), kind, outcome}] += n
	})
	for k, n := range all {
		out <- prometheus.MustNewConstMetric(probeTotal, prometheus.CounterValue, float64(n), k.container, k.namespace, k.pod, k.uid, k.kind, k.outcome)
	}
}
