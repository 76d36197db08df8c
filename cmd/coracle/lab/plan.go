package lab

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/coracle-dev/coracle/internal/paths"
)

// Where labs are kept unless told otherwise.
const (
	DefaultData = paths.DefaultData + "/labs"
	DefaultRun  = paths.DefaultRun + "/labs"
	// DefaultName is the lab that is meant where none is named.
	DefaultName = "lab"
)

// Server is the name of the control plane's machine.
const Server = "server"

// Addresses in a lab's /24: the host's, the control plane's, and the one before the first node's. The last ones are left to load balancers.
const (
	hostNumber   = 1
	serverNumber = 2
	nodeOffset   = 10
	// MaxNodes is how many nodes a lab can have.
	MaxNodes = 180
)

// Range holds the networks of all labs, a /24 each.
var Range = netip.MustParsePrefix("10.213.0.0/16")

// LinkPrefix begins the names of all labs' bridges.
const LinkPrefix = "corlab-"

// Root is the place of all labs of a machine.
type Root struct{ Data, Run string }

// Plan is where everything of one lab lies and what it is called. It follows from the name, the place and the network alone.
type Plan struct {
	Root   Root
	Name   string
	Subnet netip.Prefix
}

var validName = regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\z`)

// CheckName refuses what cannot be a lab's name.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("the lab's name %q: want up to 32 lower-case letters, digits and dashes, as in my-lab", name)
	}
	return nil
}

// NodeName is the name of the nth node, from 1.
func NodeName(n int) string { return "node-" + strconv.Itoa(n) }

// NodeNumber is the inverse of NodeName; false for another name.
func NodeNumber(name string) (int, bool) {
	text, found := strings.CutPrefix(name, "node-")
	n, err := strconv.Atoi(text)
	if !found || err != nil || n < 1 || n > MaxNodes || NodeName(n) != name {
		return 0, false
	}
	return n, true
}

// CompareNodes orders machines: the server first, then the nodes by number.
func CompareNodes(a, b string) int {
	x, _ := NodeNumber(a) // the server's is 0
	y, _ := NodeNumber(b)
	return x - y
}

// short is a name of few letters for what may be long.
func short(text string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text))
	return fmt.Sprintf("%08x", h.Sum32())
}

// Bridge is the name of the lab's bridge; links' names have at most 15 letters.
func (p Plan) Bridge() string {
	if len(LinkPrefix+p.Name) <= 15 {
		return LinkPrefix + p.Name
	}
	return LinkPrefix + short(p.Name)
}

// Port is the name of the host's end of a machine's cable.
func (p Plan) Port(node string) string { return "corp-" + short(p.Name+"/"+node) }

// Table is the name of the lab's nftables tables.
func (p Plan) Table() string { return "coracle-lab-" + p.Name }

// Cgroup is the lab's cgroup, below the root of each hierarchy; each machine's is below it.
func (p Plan) Cgroup() string {
	if p.Root.Run == DefaultRun {
		return "coracle-lab-" + p.Name
	}
	return "coracle-lab-" + p.Name + "-" + short(p.Root.Run)
}

// NodeCgroup is a machine's cgroup.
func (p Plan) NodeCgroup(node string) string { return filepath.Join(p.Cgroup(), node) }

// Host is the host's address on the bridge.
func (p Plan) Host() netip.Addr { return p.number(hostNumber) }

// Address is a machine's address.
func (p Plan) Address(node string) netip.Addr {
	if node == Server {
		return p.number(serverNumber)
	}
	n, _ := NodeNumber(node)
	return p.number(nodeOffset + n)
}

func (p Plan) number(n int) netip.Addr {
	a := p.Subnet.Masked().Addr().As4()
	a[3] += byte(n)
	return netip.AddrFrom4(a)
}

// Dir is the folder of what the lab keeps.
func (p Plan) Dir() string { return filepath.Join(p.Root.Data, p.Name) }

// Kubeconfig is the admin's.
func (p Plan) Kubeconfig() string { return filepath.Join(p.Dir(), "kubeconfig") }

// Context is what the lab's cluster, user and context are called in a kubeconfig.
func (p Plan) Context() string { return "coracle-lab-" + p.Name }

// bin holds the helper programs that all machines share.
func (p Plan) bin() paths.Layout { return paths.Layout{Data: p.Dir()} }

// settings is the file of what was asked for.
func (p Plan) settings() string { return filepath.Join(p.Dir(), "lab.json") }

// nodes is the folder of the machines.
func (p Plan) nodes() string { return filepath.Join(p.Dir(), "nodes") }

// NodeRoot is the folder that is the root of a machine's file system.
func (p Plan) NodeRoot(node string) string { return filepath.Join(p.nodes(), node, "root") }

// inside is where a machine's data lie, seen from the host.
func (p Plan) inside(node string) paths.Layout {
	return paths.Layout{Data: filepath.Join(p.NodeRoot(node), paths.DefaultData)}
}

// NodeLog is the log of a machine's coracle.
func (p Plan) NodeLog(node string) string {
	return filepath.Join(p.inside(node).Logs(), "coracle.log")
}

// bootLog is what a machine's first processes say.
func (p Plan) bootLog(node string) string { return filepath.Join(p.nodes(), node, "boot.log") }

// Names of files that a machine's coracle reads or writes, as it sees them.
const (
	nodeSelf       = "/run/lab/coracle"
	nodeConfig     = paths.DefaultData + "/lab.yaml"
	nodeKubeconfig = paths.DefaultData + "/admin.kubeconfig"
)

// freeSubnet chooses the first /24 of Range that overlaps nothing that is taken.
func freeSubnet(taken []netip.Prefix) (netip.Prefix, error) {
	for n := range 256 {
		a := Range.Addr().As4()
		a[2] = byte(n)
		p := netip.PrefixFrom(netip.AddrFrom4(a), 24)
		if !slices.ContainsFunc(taken, p.Overlaps) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("every /24 of %s is in use on this machine: choose another network with --subnet", Range)
}

// checkSubnet refuses a network that cannot be a lab's.
func checkSubnet(p netip.Prefix, taken []netip.Prefix) error {
	if !p.Addr().Is4() || p.Bits() != 24 || p.Masked() != p || !p.Addr().IsPrivate() {
		return fmt.Errorf("--subnet %s: want a private /24 such as 10.213.7.0/24", p)
	}
	if i := slices.IndexFunc(taken, p.Overlaps); i >= 0 {
		return fmt.Errorf("--subnet %s overlaps %s, which this machine uses already: choose another", p, taken[i])
	}
	return nil
}

// nextNodes are the names of n more nodes: the lowest numbers that are free.
func nextNodes(have []string, n int) ([]string, error) {
	var names []string
	for i := 1; i <= MaxNodes && len(names) < n; i++ {
		if !slices.Contains(have, NodeName(i)) {
			names = append(names, NodeName(i))
		}
	}
	if len(names) < n {
		return nil, fmt.Errorf("a lab has at most %d nodes", MaxNodes)
	}
	return names, nil
}

// hostsFile is a machine's /etc/hosts: every machine's name is known to all.
func (p Plan) hostsFile(nodes []string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	fmt.Fprintf(&b, "%s host.lab\n", p.Host())
	for _, node := range nodes {
		fmt.Fprintf(&b, "%s %s\n", p.Address(node), node)
	}
	return b.String()
}

// resolvConf gives the machines' resolv.conf by the host's files, the best first: the first with a server that is not on loopback, which is
// another place inside a machine. systemd-resolved's own file comes behind the usual one, which names its stub.
func resolvConf(wayOut bool, files ...string) string {
	if !wayOut {
		return "# This machine has no way out.\n"
	}
	for _, file := range files {
		var keep []string
		usable := false
		for line := range strings.Lines(file) {
			fields := strings.Fields(line)
			if len(fields) < 2 {
				continue
			}
			switch fields[0] {
			case "nameserver":
				if a, err := netip.ParseAddr(fields[1]); err == nil && a.IsLoopback() {
					continue
				}
				usable = true
				keep = append(keep, line)
			case "search", "domain", "options":
				keep = append(keep, line)
			}
		}
		if usable {
			return strings.TrimRight(strings.Join(keep, ""), "\n") + "\n"
		}
	}
	return "# The machine below has no name server that can be reached from here.\n"
}

// parsePercent reads a share such as 10% or 0.5%, in hundredths of a per cent.
func parsePercent(text string) (int, error) {
	number, found := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(number, 64)
	if !found || err != nil || !(share >= 0 && share <= 100) {
		return 0, fmt.Errorf("%q: want a share of packets from 0%% to 100%%, as 10%%", text)
	}
	return int(share*100 + 0.5), nil
}

// errOff is what a machine that does not run cannot do.
var errOff = errors.New("it is off")
