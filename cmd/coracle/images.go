package main

import (
	"github.com/spf13/pflag"

	"github.com/coracle-dev/coracle/agent/imagegc"
)

// imageSettings are how a node gets and keeps its images.
type imageSettings struct {
	gc         imagegc.Policy
	parallel   int
	registries string // folder of HOST/hosts.toml
	bundles    string // folder of archives; empty is the layout's
}

func imageFlags(o *options, f *pflag.FlagSet) {
	s, d := &o.images, imagegc.DefaultPolicy
	f.IntVar(&s.gc.High, "image-gc-high-threshold", d.High, "percentage of the disk above which unused images are removed; 100 never removes any")
	f.IntVar(&s.gc.Low, "image-gc-low-threshold", d.Low, "percentage that is reached by that")
	f.DurationVar(&s.gc.MinAge, "minimum-image-ttl-duration", d.MinAge, "for how long an image is kept at least")
	f.DurationVar(&s.gc.MaxAge, "image-maximum-gc-age", d.MaxAge, "for how long an unused image is kept at most; 0 is for ever")
	f.IntVar(&s.parallel, "max-parallel-image-pulls", 5, "how many images are pulled at the same time; 1 is one after another")
	f.StringVar(&s.registries, "registry-config-dir", "/etc/coracle/registries", "folder of HOST/hosts.toml files as containerd's: mirrors, CAs, client certificates; read anew for each pull")
	f.StringVar(&s.bundles, "image-dir", "", "folder of archives of images that are imported, also while the agent runs (default: images in --data-dir)")
}

func (s *imageSettings) check() error {
	if *s == (imageSettings{}) {
		return nil // the command has no such flags
	}
	if err := s.gc.Validate(); err != nil {
		return usage("%w", err)
	}
	if s.parallel < 1 {
		return usage("--max-parallel-image-pulls %d: want at least 1", s.parallel)
	}
	return nil
}
