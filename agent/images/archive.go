package images

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
)

// ImportOptions say how an archive's images are named and kept.
type ImportOptions struct {
	// Name is the repository for images that the archive gives a bare tag only.
	Name string
	// Unpinned lets the images be collected when the disk is full; by default imported ones are kept, as no
	// registry may have them.
	Unpinned bool
}

// Import reads an archive as docker save or an OCI layout tar writes it, plain or gzipped, unpacks its images
// and returns their complete names.
func (s *Store) Import(ctx context.Context, r io.Reader, opts ImportOptions) ([]string, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		defer z.Close()
		in = bufio.NewReaderSize(z, 64<<10)
	}
	labels := map[string]string{}
	if !opts.Unpinned {
		labels[pinnedLabel] = pinnedValue
	}
	// The lease holds the content until it is unpacked and named.
	ctx, done, err := s.client.WithLease(ctx)
	if err != nil {
		return nil, err
	}
	defer done(context.WithoutCancel(ctx))
	imported, err := s.client.Import(ctx, in,
		client.WithImageRefTranslator(func(ref string) string { return archiveName(ref, opts.Name) }),
		client.WithImageLabels(labels), client.WithImportPlatform(s.platform))
	if errors.Is(err, errdefs.ErrNotFound) || err != nil && strings.Contains(err.Error(), "filtered out") {
		return nil, fmt.Errorf("import images: the archive has nothing for %s: %w", platforms.DefaultString(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	var names []string
	for _, img := range imported {
		if _, err := s.resolve(ctx, img); err != nil {
			_ = s.client.ImageService().Delete(context.WithoutCancel(ctx), img.Name)
			if errdefs.IsNotFound(err) {
				err = fmt.Errorf("no content for this machine's platform: %w", err)
			}
			return names, fmt.Errorf("import %s: %w", img.Name, err)
		}
		names = append(names, img.Name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("the archive names no image; give a name for it")
	}
	return names, nil
}

// archiveName completes the name in an OCI layout's index; a bare tag needs a repository. Empty: not named.
func archiveName(ref, repo string) string {
	if !strings.ContainsAny(ref, ":/@") {
		if repo == "" {
			return ""
		}
		ref = strings.TrimSuffix(repo, ":"+ref) + ":" + ref
	}
	full, err := Normalize(ref)
	if err != nil {
		return ""
	}
	return full
}

// Save writes images to an archive that docker load, containerd and Import read.
func (s *Store) Save(ctx context.Context, w io.Writer, names ...string) error {
	opts := []archive.ExportOpt{archive.WithPlatform(s.platform)}
	for _, name := range names {
		rec, err := s.byName(ctx, name)
		if err != nil {
			return err
		}
		opts = append(opts, archive.WithImage(s.client.ImageService(), rec.Name))
	}
	return s.client.Export(ctx, w, opts...)
}
