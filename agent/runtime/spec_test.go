package runtime

import (
	"reflect"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestCommandOf(t *testing.T) {
	img := Rootfs{Config: ocispec.ImageConfig{Entrypoint: []string{"/ep"}, Cmd: []string{"c1", "c2"}}}
	for _, c := range []struct {
		command, args, want []string
	}{
		{nil, nil, []string{"/ep", "c1", "c2"}},
		{nil, []string{"a"}, []string{"/ep", "a"}},
		{[]string{"x"}, nil, []string{"x"}},
		{[]string{"x"}, []string{"a"}, []string{"x", "a"}},
	} {
		got, err := commandOf(ContainerConfig{Command: c.command, Args: c.args}, img)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v %v: %v %v", c.command, c.args, got, err)
		}
	}
	if _, err := commandOf(ContainerConfig{}, Rootfs{}); err == nil || err.Error() != "no command specified" {
		t.Errorf("nothing to run: %v", err)
	}
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/:/bin/sh\nbroken\nbad:x:y:z:::\n"
	group  = "root:x:0:\napp:x:1001:\nweb:x:2000:root,app\n"
)

func TestResolveUser(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		image    string
		sec      Security
		uid, gid uint32
		groups   []uint32
		err      string
	}{
		{image: "", uid: 0, gid: 0, groups: []uint32{0, 2000}},
		{image: "app", uid: 1000, gid: 1001, groups: []uint32{1001, 2000}},
		{image: "app:web", uid: 1000, gid: 2000, groups: []uint32{2000}},
		{image: "1000", uid: 1000, gid: 1001, groups: []uint32{1001, 2000}},
		{image: "4242", uid: 4242, gid: 0, groups: []uint32{0}},
		{image: "4242:17", uid: 4242, gid: 17, groups: []uint32{17}},
		{image: "app", sec: Security{UID: id(7)}, uid: 7, gid: 0, groups: []uint32{0}},
		{image: "app", sec: Security{UID: id(7), GID: id(8), Groups: []int64{9, 5}}, uid: 7, gid: 8, groups: []uint32{5, 8, 9}},
		{image: "app", sec: Security{StrictGroups: true, Groups: []int64{3}}, uid: 1000, gid: 1001, groups: []uint32{3, 1001}},
		{image: "nobody-here", err: "unable to find user nobody-here: no matching entries in passwd file"},
		{image: "app:none", err: "unable to find group none: no matching entries in group file"},
	} {
		got, err := resolveUser(c.sec, Rootfs{Config: ocispec.ImageConfig{User: c.image}, Passwd: []byte(passwd), Group: []byte(group)})
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%q: %v", c.image, err)
			}
			continue
		}
		if err != nil || got.UID != c.uid || got.GID != c.gid || !slices.Equal(got.AdditionalGids, c.groups) {
			t.Errorf("%q %+v: %+v %v", c.image, c.sec, got, err)
		}
	}
}

func FuzzUserFiles(f *testing.F) {
	f.Add([]byte(passwd), []byte(group), "app:web")
	f.Fuzz(func(_ *testing.T, p, g []byte, user string) {
		_, _ = resolveUser(Security{}, Rootfs{Config: ocispec.ImageConfig{User: user}, Passwd: p, Group: g})
	})
}

func TestVerifyNonRoot(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	cfg := ContainerConfig{Pod: PodRef{UID: "u", Namespace: "ns", Name: "p"}, Name: "c", Security: Security{RunAsNonRoot: true}}
	const who = ` (pod: "p_ns(u)", container: c)`
	for _, c := range []struct {
		image string
		uid   *int64
		want  string
	}{
		{"", nil, "container has runAsNonRoot and image will run as root" + who},
		{"0:5", nil, "container has runAsNonRoot and image will run as root" + who},
		{"app", nil, "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root" + who},
		{"app", id(0), "container's runAsUser breaks non-root policy" + who},
		{"0", id(5), ""}, {"5", nil, ""},
	} {
		cfg.Security.UID = c.uid
		err := verifyNonRoot(cfg, Rootfs{Config: ocispec.ImageConfig{User: c.image}})
		if (err == nil) != (c.want == "") || (err != nil && err.Error() != c.want) {
			t.Errorf("%q: %v", c.image, err)
		}
	}
}

func TestSpec(t *testing.T) {
	in := specInput{id: "id", dir: "/run/sb", oomMin: 0, v2: true, image: Rootfs{Config: ocispec.ImageConfig{
		Entrypoint: []string{"/ep"}, Env: []string{"A=image", "B=image"}, WorkingDir: "/w"}},
		sandbox: SandboxConfig{Hostname: "h", CgroupParent: "/kubepods/x"},
		cfg: ContainerConfig{Pod: PodRef{UID: "uid"}, Env: []string{"B=own", "C=own"},
			Mounts:    []Mount{{Source: "/v/b", Destination: "/a/b"}, {Source: "/v/a", Destination: "/a", ReadOnly: true, Propagation: "rslave"}, {Source: "/s", Destination: "/dev/shm"}},
			Resources: Resources{CPUShares: 512, CPUQuota: 20000, MemoryLimit: 1 << 20, OOMScoreAdj: -997}}}
	spec, err := buildSpec(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"PATH=" + defaultPath, "HOSTNAME=h", "A=image", "B=own", "C=own"}; !slices.Equal(spec.Process.Env, want) {
		t.Errorf("env: %q", spec.Process.Env)
	}
	if *spec.Process.OOMScoreAdj != 0 || spec.Process.Cwd != "/w" || spec.Linux.CgroupsPath != "/kubepods/x/id" || spec.Annotations[groupAnnotation] != "uid" {
		t.Errorf("%+v", spec.Process)
	}
	var own []string
	for _, m := range spec.Mounts {
		if m.Type == "bind" {
			own = append(own, m.Source+" "+m.Destination+" "+m.Options[1]+" "+m.Options[2])
		}
	}
	if want := []string{"/v/a /a rslave ro", "/v/b /a/b rprivate rw", "/s /dev/shm rprivate rw"}; !slices.Equal(own, want) {
		t.Errorf("mounts: %q", own)
	}
	if spec.Linux.RootfsPropagation != "rslave" || len(spec.Linux.MaskedPaths) == 0 || spec.Linux.Seccomp != nil {
		t.Errorf("protection: %q %v", spec.Linux.RootfsPropagation, spec.Linux.MaskedPaths)
	}
	if res := spec.Linux.Resources; *res.CPU.Shares != 512 || *res.CPU.Quota != 20000 || *res.CPU.Period != 100000 || *res.Memory.Limit != 1<<20 || *res.Memory.Swap != 1<<20 {
		t.Errorf("resources: %+v", res)
	}
	in.cfg.Security = Security{AddCaps: []string{"SYS_TIME"}, DropCaps: []string{"ALL"}, SeccompDefault: true}
	if spec, err = buildSpec(in); err != nil || !reflect.DeepEqual(spec.Process.Capabilities.Bounding, []string{"CAP_SYS_TIME"}) || spec.Linux.Seccomp == nil {
		t.Errorf("capabilities: %+v %v", spec.Process.Capabilities, err)
	}
	in.cfg.Security, in.allCaps = Security{Privileged: true}, []string{"CAP_A", "CAP_B"}
	if spec, err = buildSpec(in); err != nil || len(spec.Process.Capabilities.Effective) != 2 || spec.Linux.MaskedPaths != nil || !spec.Linux.Resources.Devices[0].Allow {
		t.Errorf("privileged: %+v %v", spec.Process.Capabilities, err)
	}
	in.sandbox.HostNetwork, in.sandbox.HostPID, in.sandbox.HostIPC = true, true, true
	if spec, _ = buildSpec(in); len(spec.Linux.Namespaces) != 1 {
		t.Errorf("namespaces with the host's: %+v", spec.Linux.Namespaces)
	}
}

func TestSignalOf(t *testing.T) {
	for name, want := range map[string]int{"": 15, "SIGINT": 2, "quit": 3, "9": 9, "SIGRTMIN+3": 37, "nonsense": 15} {
		if got := signalOf(name); int(got) != want {
			t.Errorf("%q: %d", name, got)
		}
	}
}

func TestContainerIDIsStable(t *testing.T) {
	p := PodRef{UID: "u"}
	const want = "29222c9a"
	if got := ContainerID(p, "c", 1); got[:8] != want || got == ContainerID(p, "c", 2) || len(got) != 64 {
		t.Errorf("container ID %s: an upgrade would not find the containers that run", ContainerID(p, "c", 1))
	}
}
