// Package paths is where things lie on disk, below the two roots a cluster owns. Several clusters live on
// one machine by having different roots.
package paths

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
)

// The default roots and the admin's kubeconfig.
const (
	DefaultData       = "/var/lib/coracle"
	DefaultRun        = "/run/coracle"
	DefaultConfig     = "/etc/coracle/config.yaml"
	DefaultKubeconfig = "/etc/coracle/admin.kubeconfig"
)

// Layout names every file and folder a cluster keeps. Data survives a reboot; Run need not.
type Layout struct{ Data, Run string }

func (l Layout) data(parts ...string) string {
	return filepath.Join(append([]string{l.Data}, parts...)...)
}

func (l Layout) run(parts ...string) string {
	return filepath.Join(append([]string{l.Run}, parts...)...)
}

// PKI holds the cluster CA, the server's certificates and keys, and the service account key (0700, files 0600).
func (l Layout) PKI() string { return l.data("server", "pki") }

// Etcd is the embedded etcd's data.
func (l Layout) Etcd() string { return l.data("server", "etcd") }

// EtcdSocket is the unix socket on which the embedded etcd takes clients.
func (l Layout) EtcdSocket() string { return l.run("etcd.sock") }

// Kubeconfig is a component's own: scheduler, controllers, agent, proxy.
func (l Layout) Kubeconfig(component string) string { return l.data("kubeconfig", component) }

// Agent holds what the node agent keeps.
func (l Layout) Agent() string { return l.data("agent") }

// Cluster keeps what the servers last told this node of the cluster, for starts without them.
func (l Layout) Cluster() string { return l.data("agent", "cluster.json") }

// Manifests holds the files of the node's static pods.
func (l Layout) Manifests() string { return l.data("manifests") }

// Pods holds each pod's volumes and files, by UID (Pods/UID/volumes/..., Pods/UID/etc-hosts).
func (l Layout) Pods() string { return l.data("agent", "pods") }

// Volumes holds the data of the persistent volumes that are provisioned on this node.
func (l Layout) Volumes() string { return l.data("volumes") }

// Kubelet holds what CSI drivers share with the node: their sockets, and the volumes they put in place. Their manifests name it as it is with the default
// layout.
func (l Layout) Kubelet() string {
	if l.Data == DefaultData {
		return "/var/lib/kubelet"
	}
	return l.data("kubelet")
}

// CNI keeps the results of CNI plug-ins: where they are usual with the default layout, else below Data.
func (l Layout) CNI() string {
	if l.Data == DefaultData {
		return "/var/lib/cni"
	}
	return l.data("cni")
}

// PodLogs holds log files as NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log: where log routers expect them with the default
// layout, else below Data.
func (l Layout) PodLogs() string { return l.nodeLogs("pods") }

// ContainerLogs holds links to them as POD_NAMESPACE_CONTAINER-ID.log.
func (l Layout) ContainerLogs() string { return l.nodeLogs("containers") }

func (l Layout) nodeLogs(kind string) string {
	if l.Data == DefaultData {
		return filepath.Join("/var/log", kind)
	}
	return l.data("log", kind)
}

// Images holds archives of images that the agent imports.
func (l Layout) Images() string { return l.data("images") }

// Containerd is containerd's root; its state is ContainerdState.
func (l Layout) Containerd() string { return l.data("agent", "containerd") }

// ContainerdState is containerd's state folder.
func (l Layout) ContainerdState() string { return l.run("containerd") }

// ContainerdSocket is where containerd listens.
func (l Layout) ContainerdSocket() string { return l.run("containerd", "containerd.sock") }

// Bin holds the unpacked helper binaries (the shim).
func (l Layout) Bin() string { return l.data("bin") }

// maxShimSockets is the longest folder in which a shim's socket, a name of 64 characters, fits a unix address.
const maxShimSockets = 42

// ShimSockets holds the sockets of containerd's shims: Run/s, or where that is too long a short folder named after it.
func (l Layout) ShimSockets() string {
	if dir := l.run("s"); len(dir) <= maxShimSockets {
		return dir
	}
	sum := sha256.Sum256([]byte(l.Run))
	return "/run/coracle-s-" + hex.EncodeToString(sum[:6])
}

// Sandboxes holds the pods' namespaces as bind mounts, by UID.
func (l Layout) Sandboxes() string { return l.run("sandboxes") }

// Sysctls keeps the kernel parameters that were changed, with their original values.
func (l Layout) Sysctls() string { return l.run("sysctls.json") }

// PidFile is the supervisor's, while the cluster is up.
func (l Layout) PidFile() string { return l.run("coracle.pid") }

// Logs holds the components' own logs.
func (l Layout) Logs() string { return l.data("log") }
