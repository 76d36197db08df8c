package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// Servers that share a store each hold a key there that expires unless it is renewed, as upstream's do: its address is an endpoint of default/kubernetes for
// as long. A server that ends takes its own away; of one that dies the store does.
const (
	serversPrefix = store.Root + "masterleases/"
	serverTTL     = 15 * time.Second
	renewEvery    = 10 * time.Second
	// leaveWithin is how long a server that ends tries to say so.
	leaveWithin = 2 * time.Second
)

// keepServers holds this server's key and keeps the endpoints in step with all servers' until ctx ends.
func (s *Server) keepServers(ctx context.Context) error {
	if !s.cfg.Several || s.cfg.Advertise == nil || s.cfg.ServiceIP == nil {
		return nil
	}
	if err := s.cache.WaitReady(ctx); err != nil {
		return nil // ctx has ended
	}
	client, err := kubernetes.NewForConfig(s.LocalConfig(self))
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := s.followServers(ctx, client); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot keep the servers' endpoints", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	if err := s.leaveServers(last, client); err != nil {
		s.log.Warn("this server's endpoint stays until it expires", "error", err)
	}
	return nil
}

// followServers renews the key, and looks at the endpoints whenever a server comes or goes.
func (s *Server) followServers(ctx context.Context, client kubernetes.Interface) error {
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	for {
		if err := s.renewServer(ctx); err != nil {
			return err
		}
		all, err := s.cfg.Store.List(ctx, serversPrefix, store.ListOptions{})
		if err != nil {
			return err
		}
		if err := s.publishServers(ctx, client); err != nil {
			return err
		}
		if err := s.watchServers(ctx, client, all.Revision, renew.C); err != nil {
			return err
		}
	}
}

// watchServers returns when the key is to be renewed.
func (s *Server) watchServers(ctx context.Context, client kubernetes.Interface, after int64, renew <-chan time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := s.cfg.Store.Watch(ctx, serversPrefix, after)
	for {
		select {
		case <-renew:
			return nil
		case events, open := <-watch.Events():
			if !open {
				return watch.Err()
			}
			comes := func(e store.Event) bool { return e.Type == store.Created || e.Type == store.Deleted }
			if !slices.ContainsFunc(events, comes) {
				continue
			}
			if err := s.publishServers(ctx, client); err != nil {
				return err
			}
		}
	}
}

// renewServer writes this server's key.
func (s *Server) renewServer(ctx context.Context) error {
	key, value, err := s.serverEntry()
	if err != nil {
		return err
	}
	have, err := s.cfg.Store.Get(ctx, key, 0)
	if errors.Is(err, store.ErrNotFound) {
		_, err = s.cfg.Store.Create(ctx, key, value, store.CreateOptions{TTL: serverTTL})
		return err
	}
	if err != nil {
		return err
	}
	_, err = s.cfg.Store.Update(store.WithTTL(ctx, serverTTL), key, value, have.Revision)
	return err
}

// serverEntry is this server's key and what is stored there: an Endpoints object, as upstream has it.
func (s *Server) serverEntry() (key string, value []byte, err error) {
	//lint:ignore SA1019 upstream's servers read it
	endpoints := &corev1.Endpoints{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Endpoints"}, Subsets: s.serverSubsets([]string{s.cfg.Advertise.String()}),
	}
	value, err = runtime.Encode(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), endpoints)
	return serversPrefix + s.cfg.Advertise.String(), value, err
}

// leaveServers takes this server's key away and its address from the endpoints.
func (s *Server) leaveServers(ctx context.Context, client kubernetes.Interface) error {
	key, _, err := s.serverEntry()
	if err != nil {
		return err
	}
	have, err := s.cfg.Store.Get(ctx, key, 0)
	if err == nil {
		_, err = s.cfg.Store.Delete(ctx, key, have.Revision)
	}
	if err != nil {
		return err
	}
	others, err := s.listServers(ctx)
	if err != nil || len(others) == 0 {
		return err // the last one's stays: nothing could take its place
	}
	return s.publish(ctx, client, others)
}

// listServers are the addresses of those that hold a key, in the order of Endpoints: that of their text.
func (s *Server) listServers(ctx context.Context) ([]string, error) {
	list, err := s.cfg.Store.List(ctx, serversPrefix, store.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list servers: %w", err)
	}
	var out []string
	for _, e := range list.Entries {
		if addr, err := netip.ParseAddr(strings.TrimPrefix(e.Key, serversPrefix)); err == nil {
			out = append(out, addr.String())
		}
	}
	slices.Sort(out)
	return out, nil
}

// servers are the addresses that are endpoints of default/kubernetes: this server's, and those of the others where there are any.
func (s *Server) servers(ctx context.Context) ([]string, error) {
	own := s.cfg.Advertise.String()
	if !s.cfg.Several {
		return []string{own}, nil
	}
	all, err := s.listServers(ctx)
	if err == nil && !slices.Contains(all, own) {
		all = append(all, own) // its key follows at once
		slices.Sort(all)
	}
	return all, err
}

// publishServers writes the endpoints; another server may be writing them too.
func (s *Server) publishServers(ctx context.Context, client kubernetes.Interface) error {
	addresses, err := s.servers(ctx)
	if err != nil {
		return err
	}
	return s.publish(ctx, client, addresses)
}

func (s *Server) publish(ctx context.Context, client kubernetes.Interface, addresses []string) error {
	for attempt := 0; ; attempt++ {
		err := s.keepEndpoints(ctx, client, addresses)
		if err == nil {
			err = s.keepSlice(ctx, client, addresses)
		}
		if busy := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err); !busy || attempt == 5 {
			return err
		}
	}
}
