package imagegc

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// disk is a store of images on a disk of 100 bytes, each image of its size; other is what else lies there.
type disk struct {
	images  map[string]runtime.Image
	inUse   map[string]bool
	other   int64
	stuck   string // cannot be removed
	removed []string
	events  []string
}

func (d *disk) List(context.Context) ([]runtime.Image, error) {
	return slices.Collect(maps.Values(d.images)), nil
}

func (d *disk) Remove(_ context.Context, id string) error {
	if id == d.stuck {
		return errors.New("stuck")
	}
	delete(d.images, id)
	d.removed = append(d.removed, id)
	return nil
}

func (d *disk) space(context.Context) (available, capacity int64, err error) {
	available = 100 - d.other
	for _, img := range d.images {
		available -= img.Size
	}
	return available, 100, nil
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// fixture has four images that came one after another, an hour ago, and one that is pinned, one in use, one that has just come.
func fixture(p Policy) (*disk, *Collector) {
	d := &disk{images: map[string]runtime.Image{}, inUse: map[string]bool{"used": true}}
	for i, id := range []string{"a", "b", "c", "d", "pinned", "used", "young"} {
		d.images[id] = runtime.Image{ID: id, Size: 5, CreatedAt: epoch.Add(time.Duration(i)*time.Second - time.Hour), Pinned: id == "pinned"}
	}
	young := d.images["young"]
	young.CreatedAt = epoch.Add(-time.Minute)
	d.images["young"] = young
	c := New(Config{Policy: p, Images: d, InUse: func(context.Context) map[string]bool { return d.inUse }, Disk: d.space,
		Warn: func(reason, message string) { d.events = append(d.events, reason+": "+message) }, Log: slog.New(slog.DiscardHandler)})
	c.now = func() time.Time { return epoch }
	return d, c
}

func TestThresholds(t *testing.T) {
	d, c := fixture(DefaultPolicy)
	d.other = 49 // 84 % used
	if err := c.Collect(t.Context()); err != nil || len(d.removed) > 0 {
		t.Errorf("below the threshold: %v, removed %v", err, d.removed)
	}
	c.Used("a")
	c.Used("gone")
	d.other = 54 // 89 % used: nine bytes too many
	if err := c.Collect(t.Context()); err != nil || !slices.Equal(d.removed, []string{"b", "c"}) {
		t.Errorf("%v, removed %v", err, d.removed)
	}
	if _, ok := c.used["gone"]; ok {
		t.Error("an image that is gone is remembered")
	}
	d.other = 80
	err := c.Collect(t.Context())
	want := "Failed to garbage collect required amount of images. Attempted to free 25 bytes, but only found 10 bytes eligible to free."
	if err == nil || err.Error() != want || !slices.Equal(d.events, []string{"FreeDiskSpaceFailed: " + want}) {
		t.Errorf("%v, events %q", err, d.events)
	}
	if !slices.Equal(slices.Sorted(maps.Keys(d.images)), []string{"pinned", "used", "young"}) {
		t.Errorf("left %v", d.images)
	}
}

func TestFailedRemovalIsPassedOver(t *testing.T) {
	d, c := fixture(DefaultPolicy)
	d.other, d.stuck = 54, "a"
	if err := c.Collect(t.Context()); err == nil || !strings.Contains(err.Error(), "wanted to free 9 bytes, but freed 10 bytes space with errors in image deletion: a: stuck") {
		t.Error(err)
	}
}

func TestAge(t *testing.T) {
	d, c := fixture(Policy{High: 100, Low: 80, MinAge: 2 * time.Minute, MaxAge: 30 * time.Minute})
	d.other = 60
	c.Used("d")
	if err := c.Collect(t.Context()); err != nil || !slices.Equal(d.removed, []string{"a", "b", "c"}) {
		t.Errorf("%v, removed %v", err, d.removed)
	}
	d.inUse = map[string]bool{}
	if err := c.RemoveUnused(t.Context()); err != nil || !slices.Equal(slices.Sorted(maps.Keys(d.images)), []string{"pinned", "young"}) {
		t.Errorf("%v, left %v", err, d.images)
	}
}

func TestInvalidCapacity(t *testing.T) {
	d, c := fixture(DefaultPolicy)
	c.cfg.Disk = func(context.Context) (int64, int64, error) { return 0, 0, nil }
	if err := c.Collect(t.Context()); err == nil || len(d.events) != 1 || d.events[0] != "InvalidDiskCapacity: invalid capacity 0 on image filesystem" {
		t.Errorf("%v %q", err, d.events)
	}
}

// TestRun tells of what fails twice, and looks again when an image has come.
func TestRun(t *testing.T) {
	_, c := fixture(DefaultPolicy)
	c.cfg.Disk = func(context.Context) (int64, int64, error) { return 0, 0, errors.New("no disk") }
	told := make(chan string, 10)
	c.cfg.Warn = func(reason, message string) { told <- reason + ": " + message }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.Run(ctx) }()
	for {
		c.Pulled()
		select {
		case got := <-told:
			if got != "ImageGCFailed: no disk" {
				t.Error(got)
			}
			cancel()
			<-ended
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestValidate(t *testing.T) {
	if err := DefaultPolicy.Validate(); err != nil {
		t.Error(err)
	}
	for _, p := range []Policy{{High: 101}, {Low: -1, High: 5}, {High: 70, Low: 80}, {High: 85, Low: 80, MinAge: time.Hour, MaxAge: time.Hour}} {
		if p.Validate() == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
}
