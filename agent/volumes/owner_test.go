package volumes

import (
	"os"
	"syscall"
	"testing"
)

func (f *fileOwner) read(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	*f = fileOwner{st.Uid, st.Gid, info.Mode().Perm()}
}
