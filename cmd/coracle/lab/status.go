package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Machine is the state of one machine of a lab.
type Machine struct {
	Name    string
	Address netip.Addr
	On      bool
	// State is what the API server says of it: Ready, NotReady, or why that is not known.
	State string
	// Processes is the resident memory of all its processes in bytes, with each page that several share divided among them.
	Processes int64
	// Faults are what its network was made to suffer, in words; "-" for none.
	Faults string
}

// Power says whether it is on.
func (m Machine) Power() string {
	if m.On {
		return "on"
	}
	return "off"
}

// Memory is Processes in words.
func (m Machine) Memory() string {
	if !m.On {
		return "-"
	}
	return fmt.Sprintf("%.0f MB", float64(m.Processes)/1e6)
}

// Well tells whether it is on and Ready.
func (m Machine) Well() bool { return m.On && m.State == "Ready" }

// Machinery tells which machines there are and which are on.
func (l *Lab) Machinery() ([]Machine, error) {
	names, err := l.Machines()
	if err != nil {
		return nil, err
	}
	var all []Machine
	for _, name := range names {
		pid, err := l.first(name)
		if err != nil {
			return nil, err
		}
		all = append(all, Machine{Name: name, Address: l.Address(name), On: pid != 0, Faults: "-"})
	}
	return all, nil
}

// Status is Machinery with what the API server says.
func (l *Lab) Status(ctx context.Context) ([]Machine, error) {
	all, err := l.Machinery()
	if err != nil {
		return nil, err
	}
	faults, err := l.faults()
	if err != nil {
		return nil, err
	}
	server, ready := l.states(ctx)
	for i := range all {
		m := &all[i]
		var suffers []string
		for _, f := range faults {
			if words := f.words(m.Name); words != "" {
				suffers = append(suffers, words)
			}
		}
		if len(suffers) > 0 {
			m.Faults = strings.Join(suffers, ", ")
		}
		switch {
		case m.Name == Server:
			m.State = server
		case ready == nil:
			m.State = "unknown"
		case ready[m.Name]:
			m.State = "Ready"
		default:
			m.State = "NotReady"
		}
		if m.Processes, err = l.memory(m.Name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// leaseAge is how old a node's Lease may be: the usual duration of a Lease.
const leaseAge = 40 * time.Second

// states is what the API server says of itself and of the nodes; nil where it says nothing.
func (l *Lab) states(ctx context.Context) (server string, ready map[string]bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if pid, err := l.first(Server); err != nil || pid == 0 {
		return "-", nil
	}
	kube, err := l.client()
	if err == nil {
		_, err = kube.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	}
	if err != nil {
		return "NotReady", nil
	}
	ready, err = readiness(ctx, kube, time.Now().Add(-leaseAge))
	if err != nil {
		return "NotReady", nil
	}
	return "Ready", ready
}

// memory is the proportional resident memory of a machine's processes in bytes.
func (p Plan) memory(node string) (int64, error) {
	pids, err := processes(p.NodeCgroup(node), true)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, pid := range pids {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(data)) {
			if kib, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)
				sum += n << 10
			}
		}
	}
	return sum, nil
}
