// Package runtime runs a pod's containers through containerd: namespaces kept by bind mounts, one shim
// for all containers of a pod, everything labelled, so that an agent that starts anew finds all it knew.
// Every call is idempotent by pod UID, container name and attempt; calls for different pods run side by side.
package runtime

import (
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// PodRef identifies a pod on this node.
type PodRef struct {
	UID, Namespace, Name string
}

// SandboxConfig describes what a pod's containers share.
type SandboxConfig struct {
	Pod          PodRef
	Hostname     string
	HostNetwork  bool
	HostIPC      bool
	HostPID      bool
	ShareProcess bool
	// UserNamespace gives the pod users of its own: its root is nobody outside.
	UserNamespace bool
	Handler       string            // names the OCI runtime, as of a RuntimeClass; empty is the default
	CgroupParent  string            // the pod's cgroup, under which containers get theirs
	Resources     *Resources        // limits of the pod's cgroup; nil sets none
	Sysctls       map[string]string // set in the pod's namespaces
	Annotations   map[string]string // kept beside the sandbox, returned by List
}

// Sandbox is a pod's shared namespaces.
type Sandbox struct {
	Pod PodRef
	// NetNS is the path of the bind-mounted network namespace; empty with the host's.
	NetNS       string
	CreatedAt   time.Time
	Annotations map[string]string
	// Cgroup is the pod's, and Resources are its limits as last set; nil if none were.
	Cgroup    string
	Resources *Resources
}

// Mount is a bind mount into a container.
type Mount struct {
	Source, Destination string
	ReadOnly            bool
	Propagation         string   // rprivate (default), rslave, rshared
	Options             []string // further ones of mount(8), as noexec
	Recursive           bool     // ReadOnly holds for what is mounted below as well
}

// Device is a device of the machine that a container may use.
type Device struct {
	Source, Destination string // its path on the machine and in the container
	ReadOnly            bool
}

// Resources are cgroup limits; zero is unlimited.
type Resources struct {
	CPUShares   uint64
	CPUQuota    int64  // microseconds a period
	CPUPeriod   uint64 // microseconds
	MemoryLimit int64  // bytes
	PidsLimit   int64
	// HugePages are bytes by page size in the kernel's words, as 2MB; a size that is not named is not limited.
	HugePages   map[string]int64 `json:",omitempty"`
	OOMScoreAdj int
}

// Security is the resolved security context of one container.
type Security struct {
	UID                 *int64
	GID                 *int64
	Groups              []int64
	StrictGroups        bool // Groups only, without those of the image's /etc/group
	RunAsNonRoot        bool // refuse to start as uid 0
	Privileged          bool
	ReadOnlyRoot        bool
	NoNewPrivs          bool
	AddCaps, DropCaps   []string
	Seccomp             *specs.LinuxSeccomp // a profile of the pod's own
	SeccompDefault      bool                // the runtime's default profile; without it and Seccomp: unconfined
	MaskedPathsUnmasked bool
	AppArmor            string // the profile's name; empty: unconfined
}

// DefaultAppArmor is the profile of containers that ask for none, where the machine enforces profiles.
const DefaultAppArmor = "coracle-default"

// ContainerConfig is one container of a pod, everything resolved.
type ContainerConfig struct {
	Pod     PodRef
	Name    string
	Attempt int    // restart count
	Image   string // resolved image ID (digest) from Images
	// Command and Args override the image's entrypoint and cmd as in Kubernetes.
	Command, Args []string
	Env           []string // NAME=value; later wins over the image's
	WorkingDir    string
	Mounts        []Mount
	Devices       []Device
	Resources     Resources
	Security      Security
	TTY           bool
	Stdin         bool
	StdinOnce     bool
	LogPath       string // file in CRI format; empty: no log
	StopSignal    string
	// ProcessesOf is the ID of a running container whose PID namespace this one joins; empty: one of its own, or the pod's.
	ProcessesOf string
	Labels      map[string]string // further labels, returned by List
}

// User is who a container's first process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32 `json:",omitempty"` // supplementary
}

// State of a container.
type State int

// The states, in the order a container passes them.
const (
	StateCreated State = iota
	StateRunning
	StateExited
	StateUnknown
)

// Container is what List and Status report.
type Container struct {
	ID         string // containerd's, without the containerd:// prefix
	Pod        PodRef
	Name       string
	Attempt    int
	State      State
	Pid        int
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	// Reason is OOMKilled, Completed, Error, ContainerCannotRun or StartError; Message has the runtime's words.
	Reason, Message string
	ImageRef        string // as asked for
	ImageID         string // digest form
	LogPath         string
	Cgroup          string
	User            User
	Labels          map[string]string
}

// Pod is all that runtime knows of one pod; the agent rebuilds from a list of these after a restart.
type Pod struct {
	Sandbox    *Sandbox // nil where only containers were found
	Containers []Container
}

// ExecConfig is one process started in a running container.
type ExecConfig struct {
	Command        []string
	TTY            bool
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer
	Resize         <-chan TerminalSize
	Timeout        time.Duration // zero: none
}

// TerminalSize in characters.
type TerminalSize struct{ Width, Height uint16 }

// Image is one stored image.
type Image struct {
	ID      string   // config digest: sha256:...
	Names   []string // tags
	Digests []string // repo@sha256:...
	Size    int64    // bytes, compressed content
	Pinned  bool
	// PulledWith has fingerprints of the credentials that it was pulled with; none is that anyone may use it.
	PulledWith []string
	// CreatedAt is when the node got the image.
	CreatedAt time.Time
	UID       *int64 // of the image's USER, if numeric
	User      string
}

// Rootfs is what a container needs of an unpacked image.
type Rootfs struct {
	ImageID     string   // config digest
	Names       []string // those it was asked for by
	Snapshotter string
	Parent      string // the snapshot to start from
	Config      ocispec.ImageConfig
	// Passwd and Group are the image's user files, empty where it has none.
	Passwd, Group []byte
}
