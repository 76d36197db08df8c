package main

import (
	"net/netip"
	"os"

	"github.com/miekg/dns"
)

// Files that name DNS servers. Where systemd-resolved runs, the first names only its own address on the loopback, which no pod can reach, and the second the
// network's servers.
const (
	resolverFile = "/etc/resolv.conf"
	resolvedFile = "/run/systemd/resolve/resolv.conf"
)

// resolverFile is the file that names the servers for names outside of the cluster: as given, or the machine's.
func (o *options) resolverFile() string {
	if o.resolvConf != "" {
		return o.resolvConf
	}
	return pickResolver(resolverFile, resolvedFile)
}

// pickResolver gives the second file where the first names servers on the loopback alone.
func pickResolver(usual, resolved string) string {
	config, err := dns.ClientConfigFromFile(usual)
	if err != nil || len(config.Servers) == 0 {
		return usual
	}
	for _, server := range config.Servers {
		if addr, err := netip.ParseAddr(server); err != nil || !addr.IsLoopback() {
			return usual
		}
	}
	if _, err := os.Stat(resolved); err != nil {
		return usual
	}
	return resolved
}
