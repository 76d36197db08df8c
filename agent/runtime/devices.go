package runtime

import (
	"fmt"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// gatherDevices finds the container's own devices: a node for each, and a rule that lets it be read, written and made.
func (in *specInput) gatherDevices() error {
	for _, d := range in.cfg.Devices {
		found, err := oci.DeviceFromPath(d.Source)
		if err != nil {
			return fmt.Errorf("look at device %s: %w", d.Source, err)
		}
		access := "rwm"
		if d.ReadOnly {
			access = "rm"
		}
		found.Path = d.Destination
		in.devices = append(in.devices, *found)
		in.deviceRules = append(in.deviceRules, specs.LinuxDeviceCgroup{Allow: true, Type: found.Type, Major: &found.Major, Minor: &found.Minor, Access: access})
	}
	return nil
}
