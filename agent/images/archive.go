package images

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
)

// ImportOptions say how an archive's images are named and kept.
type ImportOptions struct {
	// Name is the repository for images that the archive gives a bare tag only.
	Name string
	// Unpinned lets the images be collected when the disk is full; by default imported ones are kept, as no
	// registry may have them.
	Unpinned bool
	// labels are kept with the images besides.
	labels map[string]string
}

// Import reads an archive as docker save or an OCI layout tar writes it, plain or compressed by gzip or zstd, unpacks its images
// and returns their complete names.
func (s *Store) Import(ctx context.Context, r io.Reader, opts ImportOptions) ([]string, error) {
	in, closeInput, err := decompressed(r)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	defer closeInput()
	labels := map[string]string{}
	maps.Copy(labels, opts.labels)
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

// decompressed reads what may be compressed by gzip or zstd.
func decompressed(r io.Reader) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic, _ := in.Peek(4) // an error shows again where it is read
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return in, func() {}, nil
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
