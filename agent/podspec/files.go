package podspec

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Hostname is what the pod calls itself: its spec.hostname or name, cut to what a kernel takes; fqdn is with subdomain and cluster domain.
func Hostname(pod *v1.Pod, clusterDomain string) (name, fqdn string) {
	name = pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	if pod.Spec.Subdomain != "" {
		fqdn = fmt.Sprintf("%s.%s.%s.svc.%s", name, pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return name, fqdn
}

// KernelHostname is the hostname set in the pod's UTS namespace; setHostnameAsFQDN makes it the full name, of at most
// 64 characters.
func KernelHostname(pod *v1.Pod, clusterDomain string) (string, error) {
	name, fqdn := Hostname(pod, clusterDomain)
	if pod.Spec.HostnameOverride != nil {
		return *pod.Spec.HostnameOverride, nil
	}
	if pod.Spec.SetHostnameAsFQDN == nil || !*pod.Spec.SetHostnameAsFQDN || fqdn == "" {
		return name, nil
	}
	if len(fqdn) > 64 {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", fqdn, len(fqdn))
	}
	return fqdn, nil
}

// HostsFile is the pod's /etc/hosts. On the host's network it starts from the host's own.
func HostsFile(pod *v1.Pod, ips []string, clusterDomain, host string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString(host)
		if host != "" && !strings.HasSuffix(host, "\n") {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name, fqdn := Hostname(pod, clusterDomain)
		for _, ip := range ips {
			if fqdn != "" {
				fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, fqdn, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}

// Resolver is the content of a resolv.conf.
type Resolver struct {
	Nameservers, Searches, Options []string
}

// ParseResolver reads a resolv.conf.
func ParseResolver(text string) Resolver {
	var r Resolver
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], ";") {
			continue
		}
		switch f[0] {
		case "nameserver":
			r.Nameservers = append(r.Nameservers, f[1])
		case "search", "domain":
			r.Searches = nil
			for _, s := range f[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				r.Searches = append(r.Searches, s)
			}
		case "options":
			r.Options = append(r.Options, f[1:]...)
		}
	}
	return r
}

// Limits of a resolver configuration, as validation has them.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// DNS is what the cluster offers to pods.
type DNS struct {
	Servers []string
	Domain  string
}

// PodResolver applies dnsPolicy and dnsConfig. Warnings tell what had to be left out.
func PodResolver(pod *v1.Pod, dns DNS, host Resolver) (r Resolver, warnings []string) {
	policy := pod.Spec.DNSPolicy
	cluster := policy == v1.DNSClusterFirstWithHostNet || (policy == v1.DNSClusterFirst || policy == "") && !pod.Spec.HostNetwork
	switch {
	case policy == v1.DNSNone:
	case cluster && len(dns.Servers) > 0:
		r.Nameservers = slices.Clone(dns.Servers)
		if dns.Domain != "" {
			r.Searches = []string{pod.Namespace + ".svc." + dns.Domain, "svc." + dns.Domain, dns.Domain}
		}
		r.Searches = unique(append(r.Searches, host.Searches...))
		r.Options = []string{"ndots:5"}
	default:
		r = Resolver{slices.Clone(host.Nameservers), slices.Clone(host.Searches), slices.Clone(host.Options)}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.Nameservers = unique(append(r.Nameservers, c.Nameservers...))
		r.Searches = unique(append(r.Searches, c.Searches...))
		r.Options = mergeOptions(r.Options, c.Options)
	}
	return fit(r)
}

func fit(r Resolver) (Resolver, []string) {
	var warnings []string
	if len(r.Nameservers) > maxNameservers {
		r.Nameservers = r.Nameservers[:maxNameservers]
		warnings = append(warnings, fmt.Sprintf("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: %s",
			strings.Join(r.Nameservers, " ")))
	}
	n, chars := 0, 0
	for ; n < len(r.Searches) && n < maxSearches && chars+len(r.Searches[n])+1 <= maxSearchChars; n++ {
		chars += len(r.Searches[n]) + 1
	}
	if n < len(r.Searches) {
		r.Searches = r.Searches[:n]
		warnings = append(warnings, fmt.Sprintf("Search Line limits were exceeded, some search paths have been omitted, the applied search line is: %s",
			strings.Join(r.Searches, " ")))
	}
	return r, warnings
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mergeOptions: an option of the pod replaces the one of the same name.
func mergeOptions(have []string, add []v1.PodDNSConfigOption) []string {
	out := slices.Clone(have)
	for _, o := range add {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		out = slices.DeleteFunc(out, func(s string) bool { name, _, _ := strings.Cut(s, ":"); return name == o.Name })
		out = append(out, text)
	}
	return out
}

// String is the file's content.
func (r Resolver) String() string {
	var b strings.Builder
	if len(r.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.Searches, " "))
	}
	for _, ns := range r.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", ns)
	}
	if len(r.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.Options, " "))
	}
	return b.String()
}
