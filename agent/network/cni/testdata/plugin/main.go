// Command plugin is a CNI plug-in for tests: it gives a pod a veth pair and the address that its configuration names, and writes down what it was asked.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

type config struct {
	types.PluginConf
	Log     string          `json:"log"`    // a file
	Broken  string          `json:"broken"` // a file: while it is there, the plug-in is not ready
	Address string          `json:"address"`
	Runtime json.RawMessage `json:"runtimeConfig"`
}

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Status: status}, version.All, "a plug-in for tests")
}

func read(verb string, args *skel.CmdArgs) (config, error) {
	var c config
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return c, err
	}
	f, err := os.OpenFile(c.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return c, err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "%s %s %s %s %s\n", verb, args.ContainerID, args.IfName, args.Args, c.Runtime)
	return c, err
}

func add(args *skel.CmdArgs) error {
	c, err := read("ADD", args)
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(c.Address)
	if err != nil {
		return err
	}
	ns, err := netns.GetFromPath(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkOf(args.ContainerID)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: args.IfName, PeerNamespace: netlink.NsFd(ns)}); err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(args.IfName)
	if err != nil {
		return err
	}
	if err := errors.Join(h.AddrAdd(link, address), h.LinkSetUp(link)); err != nil {
		return err
	}
	result := &current.Result{CNIVersion: current.ImplementedSpecVersion, IPs: []*current.IPConfig{{Address: net.IPNet{IP: address.IP, Mask: address.Mask}}}}
	return types.PrintResult(result, c.CNIVersion)
}

func del(args *skel.CmdArgs) error {
	if _, err := read("DEL", args); err != nil {
		return err
	}
	link, err := netlink.LinkByName(linkOf(args.ContainerID))
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

func status(args *skel.CmdArgs) error {
	var c config
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return err
	}
	if _, err := os.Stat(c.Broken); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return types.NewError(types.ErrPluginNotAvailable, "the plug-in is broken", "")
}

// linkOf is short enough for a link's name.
func linkOf(container string) string { return "test-" + container[:min(8, len(container))] }
