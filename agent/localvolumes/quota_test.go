package localvolumes

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// quotaDisk is a small ext4 with project quotas.
func quotaDisk(t *testing.T) string {
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	file, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 64<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", file}, {"mount", "-o", "loop,prjquota", file, dir}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("skipped: no disk with project quotas: %v: %v: %s", c, err, bytes.TrimSpace(out))
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestQuotaHoldsFoldersApart(t *testing.T) {
	disk := quotaDisk(t)
	var q quota
	for _, name := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(disk, name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := q.limit(disk, filepath.Join(disk, name), 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	fill := func(name string, size int) error {
		// Root may write beyond a quota, so somebody else does.
		cmd := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(disk, name), "bs=64k", "count="+itoa(size/65536))
		cmd.SysProcAttr = asNobody()
		out, err := cmd.CombinedOutput()
		if err != nil && !bytes.Contains(out, []byte("quota")) && !bytes.Contains(out, []byte("space")) {
			t.Errorf("%v: %s", err, out)
		}
		return err
	}
	if err := fill("a/f", 4<<20); err == nil {
		t.Error("the folder grew beyond its size")
	}
	if err := fill("b/f", 1<<19); err != nil {
		t.Error("one folder's fill is held against another:", err)
	}
	if err := q.limit(disk, filepath.Join(disk, "a"), 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := fill("a/f", 4<<20); err != nil {
		t.Error("the folder did not grow with its limit:", err)
	}
}

func TestNoQuotaIsTold(t *testing.T) {
	dir := t.TempDir()
	var q quota
	if err := q.limit(filepath.Dir(dir), dir, 1<<20); err != nil && !errors.Is(err, errNoQuota) {
		t.Error(err)
	}
}
