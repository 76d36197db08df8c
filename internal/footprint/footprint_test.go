package footprint

import (
	"reflect"
	"strings"
	"testing"
)

const smaps = `00400000-02c9b000 r-xp 00000000 fe:00 9978023                            /opt/coracle
Size:              41580 kB
Rss:               33004 kB
Anonymous:             0 kB
02c9b000-068aa000 r--p 0289b000 fe:00 9978023                            /opt/coracle
Size:              61500 kB
Anonymous:             0 kB
068aa000-069ea000 rw-p 064aa000 fe:00 9978023                            /opt/coracle
Size:               1280 kB
Anonymous:             0 kB
069ea000-069eb000 r--p 064aa000 fe:00 9978023                            /opt/coracle
Anonymous:             4 kB
069eb000-069ec000 r--s 064aa000 fe:00 9978023                            /opt/coracle
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 42                         /opt/database
Anonymous:             0 kB
c000000000-c000800000 rw-p 00000000 00:00 0
Anonymous:          8192 kB
`

func TestCleanRangesAreTheExecutablesReadOnlyFilePages(t *testing.T) {
	got, err := cleanRanges(strings.NewReader(smaps), "/opt/coracle")
	if err != nil {
		t.Fatal(err)
	}
	want := []addresses{{0x400000, 0x2c9b000}, {0x2c9b000, 0x68aa000}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %x, want %x", got, want)
	}
}

// table lies in the data that Release drops and reads again.
var table = strings.Repeat("x", 3) + "constant"

func TestReleaseLosesNothing(t *testing.T) {
	before, err := residentBytes()
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	heap := []byte("on the heap")
	for range 3 {
		if err := Release(); err != nil {
			t.Fatal(err)
		}
		if string(heap) != "on the heap" || table != "xxxconstant" {
			t.Fatal("memory changed")
		}
	}
	after, err := residentBytes()
	if err != nil {
		t.Fatal(err)
	}
	if after > before {
		t.Errorf("RSS grew from %d to %d bytes", before, after)
	}
}
