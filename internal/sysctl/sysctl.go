// Package sysctl changes kernel parameters and remembers what they were, so that `coracle down` leaves the
// machine as it found it. Its invariant: the first value seen before our first change is the one restored.
package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Keeper changes parameters of the current network namespace and keeps the originals in a file.
type Keeper struct {
	file string
	root string // /proc/sys
	mu   sync.Mutex
}

// NewKeeper keeps originals in file, which is made at the first change.
func NewKeeper(file string) *Keeper { return &Keeper{file: file, root: "/proc/sys"} }

// Set writes a parameter such as "net.ipv4.ip_forward" unless it has the value already. Keys whose parts
// contain dots (interface names) are given with slashes instead: "net/ipv4/conf/eth0.1/rp_filter".
func (k *Keeper) Set(key, value string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	path := k.path(key)
	current, err := read(path)
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", key, err)
	}
	if current == value {
		return nil
	}
	if err := k.remember(path, current); err != nil {
		return fmt.Errorf("sysctl %s: %w", key, err)
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
	}
	return nil
}

// Restore gives every changed parameter its original value back and forgets it. Parameters that are gone
// (of a deleted link) are skipped.
func (k *Keeper) Restore() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	originals, err := k.load()
	if err != nil {
		return err
	}
	var errs []error
	for path, value := range originals {
		err := os.WriteFile(path, []byte(value), 0o644)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if err := os.Remove(k.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (k *Keeper) path(key string) string {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return filepath.Join(k.root, key)
}

func (k *Keeper) load() (map[string]string, error) {
	originals := map[string]string{}
	data, err := os.ReadFile(k.file)
	if errors.Is(err, fs.ErrNotExist) {
		return originals, nil
	}
	if err != nil {
		return nil, err
	}
	return originals, json.Unmarshal(data, &originals)
}

// remember stores a parameter's value before its first change, durably, ahead of the change itself.
func (k *Keeper) remember(path, value string) error {
	originals, err := k.load()
	if err != nil {
		return err
	}
	if _, known := originals[path]; known {
		return nil
	}
	originals[path] = value
	data, err := json.MarshalIndent(originals, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(k.file), 0o700); err != nil {
		return err
	}
	tmp := k.file + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, k.file)
}

func read(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}
