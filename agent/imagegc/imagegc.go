// Package imagegc removes images that nothing uses when the disk fills up, those first that were not used for longest, as the
// kubelet does (https://kubernetes.io/docs/concepts/architecture/garbage-collection/#containers-images).
//
// Invariant: an image that is pinned, in use, or younger than the minimum age is never removed.
package imagegc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// Policy says when images are removed.
type Policy struct {
	// High and Low are percentages of the disk: above High images are removed until Low is reached. High 100 never removes any.
	High, Low int
	// MinAge is how long an image is kept at least, MaxAge for how long an unused one is kept at most; zero is for ever.
	MinAge, MaxAge time.Duration
}

// DefaultPolicy is the kubelet's.
var DefaultPolicy = Policy{High: 85, Low: 80, MinAge: 2 * time.Minute}

// Validate refuses what cannot be meant.
func (p Policy) Validate() error {
	switch {
	case p.High < 0 || p.High > 100:
		return fmt.Errorf("--image-gc-high-threshold %d: want 0 to 100", p.High)
	case p.Low < 0 || p.Low > 100:
		return fmt.Errorf("--image-gc-low-threshold %d: want 0 to 100", p.Low)
	case p.Low > p.High:
		return fmt.Errorf("--image-gc-low-threshold %d is above --image-gc-high-threshold %d", p.Low, p.High)
	case p.MaxAge != 0 && p.MaxAge <= p.MinAge:
		return fmt.Errorf("--image-maximum-gc-age %s is not longer than --minimum-image-ttl-duration %s", p.MaxAge, p.MinAge)
	}
	return nil
}

// Images is where they are kept.
type Images interface {
	List(ctx context.Context) ([]runtime.Image, error)
	// Remove removes an image by its ID, and its content.
	Remove(ctx context.Context, ref string) error
}

// Config of a Collector.
type Config struct {
	Policy Policy
	Images Images
	// InUse has the IDs of the images that must stay now.
	InUse func(context.Context) map[string]bool
	// Disk is the file system of the images: what is available and all there is, in bytes.
	Disk func(context.Context) (available, capacity int64, err error)
	// Warn records an event of the node.
	Warn func(reason, message string)
	Log  *slog.Logger
}

// interval is how often the disk is looked at; it costs one system call while there is room.
const interval = 5 * time.Minute

// Collector removes images of one node.
type Collector struct {
	cfg  Config
	poke chan struct{}
	now  func() time.Time

	mu   sync.Mutex
	used map[string]time.Time // when an image was seen in use last, by ID

	collecting sync.Mutex // one at a time
}

// New makes a Collector; Run must follow.
func New(cfg Config) *Collector {
	return &Collector{cfg: cfg, poke: make(chan struct{}, 1), now: time.Now, used: map[string]time.Time{}}
}

// Pulled has the disk looked at, as an image has come.
func (c *Collector) Pulled() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Used notes that a container is made from an image now.
func (c *Collector) Used(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used[id] = c.now()
}

// Run collects as often as is needed, until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	failed := false
	for {
		err := c.Collect(ctx)
		if err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn("image garbage collection failed", "error", err)
			if failed { // the first time may pass by itself
				c.cfg.Warn("ImageGCFailed", err.Error())
			}
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-c.poke:
		case <-time.After(interval):
		}
	}
}

// Collect removes images that are too old, and as many as are needed where the disk is too full.
func (c *Collector) Collect(ctx context.Context) error {
	c.collecting.Lock()
	defer c.collecting.Unlock()
	c.note(ctx)
	p := c.cfg.Policy
	if p.MaxAge > 0 {
		if err := c.removeAged(ctx); err != nil {
			return err
		}
	}
	if p.High >= 100 {
		return nil
	}
	available, capacity, err := c.cfg.Disk(ctx)
	if err != nil {
		return err
	}
	if capacity <= 0 {
		c.cfg.Warn("InvalidDiskCapacity", fmt.Sprintf("invalid capacity %d on image filesystem", capacity))
		return fmt.Errorf("invalid capacity %d on image filesystem", capacity)
	}
	available = min(available, capacity)
	if usage := 100 - int(available*100/capacity); usage < p.High {
		return nil
	}
	goal := capacity*int64(100-p.Low)/100 - available
	freed, err := c.free(ctx, func(freed int64) bool { return freed >= goal })
	if err != nil {
		return fmt.Errorf("wanted to free %d bytes, but freed %d bytes space with errors in image deletion: %w", goal, freed, err)
	}
	if freed < goal {
		text := fmt.Sprintf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", goal, freed)
		c.cfg.Warn("FreeDiskSpaceFailed", text)
		return errors.New(text)
	}
	return nil
}

// RemoveUnused removes every image that may go.
func (c *Collector) RemoveUnused(ctx context.Context) error {
	c.collecting.Lock()
	defer c.collecting.Unlock()
	c.note(ctx)
	_, err := c.free(ctx, func(int64) bool { return false })
	return err
}

// note keeps when the images in use now were used.
func (c *Collector) note(ctx context.Context) {
	for id := range c.cfg.InUse(ctx) {
		c.Used(id)
	}
}

// lastUsed is when the image was used, or came.
func (c *Collector) lastUsed(img runtime.Image) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.used[img.ID]; at.After(img.CreatedAt) {
		return at
	}
	return img.CreatedAt
}

// candidates are the images that may go, the longest unused first.
func (c *Collector) candidates(ctx context.Context) ([]runtime.Image, error) {
	list, err := c.cfg.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	inUse, now := c.cfg.InUse(ctx), c.now()
	c.forgetOthers(list)
	list = slices.DeleteFunc(list, func(img runtime.Image) bool {
		return img.Pinned || inUse[img.ID] || now.Sub(img.CreatedAt) < c.cfg.Policy.MinAge
	})
	slices.SortStableFunc(list, func(a, b runtime.Image) int {
		return cmp.Or(c.lastUsed(a).Compare(c.lastUsed(b)), a.CreatedAt.Compare(b.CreatedAt))
	})
	return list, nil
}

// forgetOthers drops what is remembered of images that are gone.
func (c *Collector) forgetOthers(list []runtime.Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.used {
		if !slices.ContainsFunc(list, func(img runtime.Image) bool { return img.ID == id }) {
			delete(c.used, id)
		}
	}
}

// free removes images until enough says so, and returns by how much that left more room.
func (c *Collector) free(ctx context.Context, enough func(freed int64) bool) (freed int64, err error) {
	list, err := c.candidates(ctx)
	if err != nil {
		return 0, err
	}
	before, _, err := c.cfg.Disk(ctx)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, img := range list {
		if enough(freed) {
			break
		}
		if err := c.remove(ctx, img); err != nil {
			errs = append(errs, err)
			continue
		}
		// An image's size says little: layers are shared, and are unpacked besides.
		if now, _, err := c.cfg.Disk(ctx); err == nil {
			freed = max(now-before, 0)
		}
	}
	return freed, errors.Join(errs...)
}

func (c *Collector) removeAged(ctx context.Context) error {
	list, err := c.candidates(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, img := range list {
		if c.now().Sub(c.lastUsed(img)) > c.cfg.Policy.MaxAge {
			errs = append(errs, c.remove(ctx, img))
		}
	}
	return errors.Join(errs...)
}

func (c *Collector) remove(ctx context.Context, img runtime.Image) error {
	c.cfg.Log.Info("removing an unused image", "image", img.ID, "names", img.Names, "size", img.Size)
	if err := c.cfg.Images.Remove(ctx, img.ID); err != nil {
		return fmt.Errorf("%s: %w", img.ID, err)
	}
	return nil
}
