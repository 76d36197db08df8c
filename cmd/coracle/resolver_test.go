package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestPickResolver: servers on the loopback alone are of no use to pods.
func TestPickResolver(t *testing.T) {
	dir := t.TempDir()
	usual, resolved := filepath.Join(dir, "usual"), filepath.Join(dir, "resolved")
	write := func(path, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if have := pickResolver(usual, resolved); have != usual {
		t.Errorf("without files %s", have)
	}
	write(usual, "nameserver 127.0.0.53\noptions edns0 trust-ad\n")
	if have := pickResolver(usual, resolved); have != usual {
		t.Errorf("without the second %s", have)
	}
	write(resolved, "nameserver 192.0.2.1\n")
	for content, want := range map[string]string{
		"nameserver 127.0.0.53\n": resolved, "nameserver 127.0.0.1\nnameserver ::1\n": resolved, "nameserver 127.0.0.53\nnameserver 192.0.2.2\n": usual, "nameserver 192.0.2.2\n": usual, "": usual,
	} {
		write(usual, content)
		if have := pickResolver(usual, resolved); have != want {
			t.Errorf("%q: %s", content, have)
		}
	}
}
