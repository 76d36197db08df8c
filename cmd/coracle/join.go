package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/coracle-dev/coracle/agent/identity"
)

// join opens the node's identity, and gets one by --server and --token where there is none, or one that has expired.
func (o *options) join(ctx context.Context) (*identity.Identity, error) {
	server, err := serverURL(o.joinServer)
	if err != nil {
		return nil, err
	}
	path := o.kubeconfig
	if path == "" {
		path = o.layout.Kubeconfig("agent")
	}
	id, err := identity.Open(path, server, slog.Default())
	if errors.Is(err, identity.ErrNone) || errors.Is(err, identity.ErrExpired) {
		if server == "" || o.joinToken == "" {
			return nil, usage("%w; join with --server and --token, or name a kubeconfig with --kubeconfig", err)
		}
		if err := o.joinAnew(ctx, server, path); err != nil {
			return nil, err
		}
		id, err = identity.Open(path, server, slog.Default())
	}
	if err != nil {
		return nil, err
	}
	if err := o.checkIdentity(id, path); err != nil {
		return nil, err
	}
	return id, o.checkNodeFlags()
}

func (o *options) joinAnew(ctx context.Context, server, path string) error {
	token, err := identity.ParseToken(o.joinToken)
	if err != nil {
		return usage("--token: %w", err)
	}
	if err := o.checkNodeFlags(); err != nil {
		return err
	}
	name, err := o.resolveNodeName()
	if err != nil {
		return err
	}
	if err := os.Remove(o.layout.Cluster()); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a cluster that this machine was in before
		return err
	}
	err = identity.Join(ctx, identity.JoinConfig{Server: server, Token: token, Name: name, Path: path, Log: slog.Default()})
	if identity.IsFinal(err) {
		return neverAgain("cannot join: %w", err)
	}
	return err
}

// checkIdentity takes the node's name from its certificate, and refuses flags that speak of another node or cluster.
func (o *options) checkIdentity(id *identity.Identity, path string) error {
	name := id.NodeName()
	if name == "" {
		return nil
	}
	if o.nodeName != "" && o.nodeName != name {
		return usage("this machine is the node %q, not %q: to join with another name, remove %s first", name, o.nodeName, path)
	}
	o.nodeName = name
	if token, err := identity.ParseToken(o.joinToken); err == nil && !id.Trusts(token) {
		return usage("--token is of another cluster than the one whose node %q this machine is: to leave that, remove %s first", name, path)
	}
	return nil
}

// serverURL completes what --server says.
func serverURL(given string) (string, error) {
	if given == "" {
		return "", nil
	}
	text := given
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return "", usage("--server %q: want https://HOST:PORT", given)
	}
	port := u.Port()
	if port == "" {
		port = "6443"
	}
	return "https://" + net.JoinHostPort(u.Hostname(), port), nil
}
