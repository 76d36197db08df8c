package sysctl

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRestoreGivesTheFirstValueBack(t *testing.T) {
	dir := t.TempDir()
	param := filepath.Join(dir, "sys", "net", "ipv4", "ip_forward")
	if err := os.MkdirAll(filepath.Dir(param), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(v string) {
		if err := os.WriteFile(param, []byte(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("0\n")
	open := func() *Keeper {
		return &Keeper{file: filepath.Join(dir, "run", "sysctls.json"), root: filepath.Join(dir, "sys")}
	}
	for _, v := range []string{"1", "2"} {
		// A new Keeper each time: originals survive a restart.
		if err := open().Set("net.ipv4.ip_forward", v); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := read(param); got != "2" {
		t.Fatalf("after Set: %q, want 2", got)
	}
	if err := open().Restore(); err != nil {
		t.Fatal(err)
	}
	if got, _ := read(param); got != "0" {
		t.Errorf("after Restore: %q, want 0", got)
	}
	write("1\n")
	if err := open().Restore(); err != nil {
		t.Fatal(err)
	}
	if got, _ := read(param); got != "1" {
		t.Errorf("a second Restore changed the value to %q", got)
	}
}

func TestUnchangedValueIsNotRemembered(t *testing.T) {
	dir := t.TempDir()
	param := filepath.Join(dir, "x")
	if err := os.WriteFile(param, []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	k := &Keeper{file: filepath.Join(dir, "f.json"), root: dir}
	if err := k.Set("x", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(k.file); err == nil {
		t.Error("a record was written although nothing changed")
	}
}
