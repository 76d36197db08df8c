package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	ctrdimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// Progress of a pull: bytes of the content that are here, and of all that is known to be needed.
type Progress struct{ Done, Total int64 }

// PullOptions of one pull.
type PullOptions struct {
	// Keyring has the credentials to try, in order, after none.
	Keyring Keyring
	// StallAfter is for how long the registry may send nothing; zero is five minutes.
	StallAfter time.Duration
	// Progress, if set, is called about twice a second from another goroutine.
	Progress func(Progress)
}

// Pull fetches an image from its registry, unpacks it, and returns it. Pulls of one name run one after
// another, so that forty pods with one image fetch it once. Errors read as containerd's CRI plugin words them.
func (s *Store) Pull(ctx context.Context, ref string, opts PullOptions) (runtime.Image, error) {
	full, err := Normalize(ref)
	if err != nil {
		return runtime.Image{}, err
	}
	defer s.lock(full)()
	creds := opts.Keyring.lookup(full)
	// As the kubelet does: every matching credential is tried; without any, the pull is anonymous.
	if len(creds) == 0 {
		creds = []keyringEntry{{}}
	}
	var errs []error
	var tried []Credential
	for _, c := range creds {
		if slices.Contains(tried, c.cred) {
			continue
		}
		tried = append(tried, c.cred)
		img, err := s.pullWith(ctx, full, c, opts)
		if err == nil {
			return img, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return runtime.Image{}, errors.Join(errs...)
}

func (s *Store) pullWith(ctx context.Context, full string, with keyringEntry, opts PullOptions) (runtime.Image, error) {
	var before *ctrdimages.Image
	if rec, err := s.client.ImageService().Get(ctx, full); err == nil {
		before = &rec
	}
	label := anyone
	if with.cred != (Credential{}) {
		label = strings.Join(with.fingerprints(), ",")
	}
	stall := &watch{limit: cmp.Or(opts.StallAfter, stallAfter)}
	ctx, release := stall.guard(ctx)
	defer release()
	ctx = log.WithLogger(ctx, quiet())
	progressCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	tracker := &tracker{store: s, sizes: map[string]int64{}}
	pulled, err := s.client.Pull(ctx, full,
		client.WithResolver(s.resolver(ctx, full, with.cred, opts.Keyring, stall)),
		client.WithPlatformMatcher(s.platform),
		client.WithPullLabel(pulledLabel, label),
		client.WithPullUnpack,
		client.WithPullSnapshotter(s.snapshotter),
		client.WithMaxConcurrentDownloads(3),
		client.WithChildLabelMap(ctrdimages.ChildGCLabels),
		client.WithImageHandlerWrapper(tracker.wrap),
		tracker.start(progressCtx, opts.Progress),
	)
	tracker.wait(cancel)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		return runtime.Image{}, fmt.Errorf("failed to pull and unpack image %q: %w", full, err)
	}
	rec, err := s.keepLabels(ctx, before, pulled.Metadata())
	if err != nil {
		return runtime.Image{}, err
	}
	if err := s.nameByDigest(ctx, rec); err != nil {
		return runtime.Image{}, err
	}
	return s.Get(context.WithoutCancel(ctx), full)
}

// quiet drops what the registry client logs of every attempt: the error says all that matters.
func quiet() *log.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// nameByDigest keeps the image under repository@digest too, so that a pod which names it so finds it.
func (s *Store) nameByDigest(ctx context.Context, img ctrdimages.Image) error {
	named, err := reference.ParseNormalizedNamed(img.Name)
	if err != nil {
		return err
	}
	name := reference.TrimNamed(named).Name() + "@" + img.Target.Digest.String()
	if name == img.Name {
		return nil
	}
	byDigest := ctrdimages.Image{Name: name, Target: img.Target, Labels: maps.Clone(img.Labels)}
	_, err = s.client.ImageService().Create(ctx, byDigest)
	if errdefs.IsAlreadyExists(err) {
		before, gerr := s.client.ImageService().Get(ctx, name)
		if gerr != nil {
			return gerr
		}
		_, err = s.keepLabels(ctx, &before, byDigest)
	}
	return err
}

// resolver speaks to registries with one credential, which only the image's own registry gets; a mirror gets what the keyring
// has for it. A registry on this machine's loopback is asked in plain HTTP where it does not speak TLS.
func (s *Store) resolver(ctx context.Context, full string, cred Credential, ring Keyring, stall *watch) remotes.Resolver {
	registry, path, _ := strings.Cut(full, "/")
	hosts := config.HostOptions{
		UpdateClient: stall.wrap,
		Credentials: func(host string) (string, string, error) {
			if host != registry && (registry != "docker.io" || host != "registry-1.docker.io") {
				for _, own := range ring.Lookup(host + "/" + path) {
					return own.Username, own.Password, nil
				}
				return "", "", nil
			}
			if cred.IdentityToken != "" {
				return "", cred.IdentityToken, nil
			}
			return cred.Username, cred.Password, nil
		},
	}
	if cred.RegistryToken != "" {
		hosts.AuthorizerOpts = append(hosts.AuthorizerOpts, docker.WithAuthHeader(map[string][]string{
			"Authorization": {"Bearer " + cred.RegistryToken},
		}))
	}
	if s.certsDir != "" {
		hosts.HostDir = config.HostDirFromRoot(s.certsDir)
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(ctx, hosts)})
}

// keyLock is a mutex that disappears with its last user.
type keyLock struct {
	sync.Mutex
	users int
}

func (s *Store) lock(key string) (unlock func()) {
	s.mu.Lock()
	l := s.pulls[key]
	if l == nil {
		l = &keyLock{}
		s.pulls[key] = l
	}
	l.users++
	s.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.pulls, key)
		}
	}
}

// tracker sums up what a pull needs and asks containerd how much of it has come.
type tracker struct {
	store *Store
	done  chan struct{}
	mu    sync.Mutex
	sizes map[string]int64 // by digest
}

func (t *tracker) wrap(next ctrdimages.Handler) ctrdimages.Handler {
	return ctrdimages.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		t.mu.Lock()
		t.sizes[desc.Digest.String()] = desc.Size
		t.mu.Unlock()
		children, err := next.Handle(ctx, desc)
		t.mu.Lock()
		for _, c := range children {
			t.sizes[c.Digest.String()] = c.Size
		}
		t.mu.Unlock()
		return children, err
	})
}

// start is a pull option only to stand beside the others; it begins to report.
func (t *tracker) start(ctx context.Context, report func(Progress)) client.RemoteOpt {
	return func(*client.Client, *client.RemoteContext) error {
		if report == nil {
			return nil
		}
		t.done = make(chan struct{})
		go func() {
			defer close(t.done)
			for {
				select {
				case <-ctx.Done():
					report(t.measure(context.WithoutCancel(ctx)))
					return
				case <-time.After(500 * time.Millisecond):
					report(t.measure(ctx))
				}
			}
		}()
		return nil
	}
}

func (t *tracker) wait(cancel context.CancelFunc) {
	if t.done != nil {
		cancel()
		<-t.done
	}
}

func (t *tracker) measure(ctx context.Context) (p Progress) {
	active, err := t.store.client.ContentStore().ListStatuses(ctx)
	if err != nil {
		return p
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for dgst, size := range t.sizes {
		p.Total += size
		missing := int64(0)
		for _, st := range active {
			if strings.Contains(st.Ref, dgst) {
				missing = size - st.Offset
			}
		}
		p.Done += size - missing
	}
	return p
}
