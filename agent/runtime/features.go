package runtime

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	apparmorhost "github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

// Features are what the machine's kernel and OCI runtime can do beyond what every one can.
type Features struct {
	// RecursiveReadOnly: read-only mounts can be so with all that is mounted below them.
	RecursiveReadOnly bool
	// UserNamespaces says why pods cannot have any; empty where they can.
	UserNamespaces string
	// AppArmor is enforced, and DefaultAppArmor is loaded.
	AppArmor bool
}

// Features looks at the machine.
func (r *Runtime) Features(ctx context.Context) Features {
	oci, err := r.ociFeatures(ctx)
	if err != nil {
		r.log.Warn("features of the OCI runtime not known", "error", err)
	}
	f := Features{RecursiveReadOnly: slices.Contains(oci.MountOptions, "rro") && kernelSetsMountsRecursively()}
	if err := r.userNamespaces(ctx, oci); err != nil {
		f.UserNamespaces = err.Error()
	}
	if apparmorhost.HostSupports() {
		if err := apparmor.LoadDefaultProfile(DefaultAppArmor); err != nil {
			r.log.Warn("AppArmor profile not loaded: containers run without", "profile", DefaultAppArmor, "error", err)
		} else {
			f.AppArmor = true
		}
	}
	return f
}

// ociFeatures asks the OCI runtime. One that is older than the question (runc 1.1) has none of the features.
func (r *Runtime) ociFeatures(ctx context.Context) (f features.Features, err error) {
	out, err := exec.CommandContext(ctx, r.cfg.OCIRuntime, "features").Output()
	if err != nil {
		return f, fmt.Errorf("%s features: %w", r.cfg.OCIRuntime, err)
	}
	return f, json.Unmarshal(out, &f)
}

// kernelSetsMountsRecursively: mount_setattr(2) is there, as of Linux 5.12. Nothing is changed by asking.
func kernelSetsMountsRecursively() bool {
	return unix.MountSetattr(-int(unix.EBADF), "", unix.AT_EMPTY_PATH, &unix.MountAttr{}) != unix.ENOSYS
}

// AppArmorProfile tells whether the kernel has a profile by that name.
func AppArmorProfile(name string) bool {
	f, err := os.Open("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text() // NAME (MODE)
		if i := strings.LastIndexByte(line, '('); i > 0 && strings.TrimSpace(line[:i]) == name {
			return true
		}
	}
	return false
}
