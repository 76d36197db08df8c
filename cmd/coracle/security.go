package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// podSecurity is what a node's owner says of what pods may do.
type podSecurity struct {
	unsafeSysctls  []string
	seccompDefault bool
	podIDs         string
}

func podSecurityFlags(p *podSecurity, f *pflag.FlagSet) {
	f.StringSliceVar(&p.unsafeSysctls, "allowed-unsafe-sysctls", nil, "kernel parameters that pods may set beside the safe ones: names, or beginnings followed by *, as net.core.*")
	f.BoolVar(&p.seccompDefault, "seccomp-default", false, "give containers that ask for no seccomp profile the runtime's default one")
	ids := runtime.DefaultPodIDs()
	f.StringVar(&p.podIDs, "userns-ids", fmt.Sprintf("%d:%d", ids.First, ids.Count), "first of the user and group IDs for pods with hostUsers: false, and how many; each pod takes 65536")
}

// idRange reads --userns-ids. The machine's own users, below 65536, are nobody's to give.
func (p *podSecurity) idRange() (r runtime.IDRange, err error) {
	const perPod = 1 << 16
	first, count, _ := strings.Cut(p.podIDs, ":")
	a, aerr := strconv.ParseUint(first, 10, 32)
	n, nerr := strconv.ParseUint(count, 10, 32)
	if aerr != nil || nerr != nil || a < perPod || n < perPod || a%perPod != 0 || n%perPod != 0 || a+n > 1<<32-perPod {
		return r, usage("--userns-ids %q: want FIRST:COUNT, both multiples of 65536 and above 0, as 65536:7208960", p.podIDs)
	}
	return runtime.IDRange{First: uint32(a), Count: uint32(n)}, nil
}

// support joins what the machine can with what its owner allows.
func (p *podSecurity) support(f runtime.Features) (podspec.Support, error) {
	sysctls, err := podspec.AllowSysctls(p.unsafeSysctls)
	if err != nil {
		return podspec.Support{}, usage("--allowed-unsafe-sysctls: %w", err)
	}
	s := podspec.Support{UserNamespaces: f.UserNamespaces, RecursiveReadOnly: f.RecursiveReadOnly, Sysctls: sysctls, SeccompDefault: p.seccompDefault}
	if f.AppArmor {
		s.AppArmor = runtime.AppArmorProfile
	}
	return s, nil
}
