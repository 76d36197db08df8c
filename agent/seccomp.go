package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coracle-dev/coracle/agent/lifecycle"
)

// seccompProfile reads a profile of the node by name, from below its folder of profiles.
func (a *Agent) seccompProfile(name string) (*specs.LinuxSeccomp, error) {
	profile, err := readSeccomp(filepath.Join(a.cfg.Layout.Agent(), "seccomp"), name)
	if err != nil {
		return nil, because(lifecycle.ReasonCreateContainer, fmt.Errorf("cannot load seccomp profile %q: %w", name, err))
	}
	return profile, nil
}

func readSeccomp(dir, name string) (*specs.LinuxSeccomp, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	data, err := root.ReadFile(name)
	if err != nil {
		return nil, err
	}
	profile := &specs.LinuxSeccomp{}
	return profile, json.Unmarshal(data, profile)
}
