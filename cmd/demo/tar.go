package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// tarMain creates to standard output and extracts from standard input, as kubectl cp calls it:
// "tar cf - PATH...", "tar xmf - -C DIR", with or without leading dash, o, p, v and z-less.
func tarMain(e env, args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(e.stderr, "usage: tar cf|xf - [-C DIR] [PATH...]")
		return 2
	}
	mode, dir, file := "", ".", "-"
	var paths []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case i == 0 || (strings.HasPrefix(a, "-") && a != "-" && a != "-C" && !strings.HasPrefix(a, "--")):
			letters := strings.TrimLeft(a, "-")
			mode += letters
			if strings.HasSuffix(letters, "f") && i+1 < len(args) {
				i++
				file = args[i]
			}
		case a == "-C" && i+1 < len(args):
			i++
			dir = args[i]
		case strings.HasPrefix(a, "--"): // such as --no-same-permissions
		default:
			paths = append(paths, a)
		}
	}
	if file != "-" {
		return e.fail("tar", errors.New("only - (standard streams) can be the archive"))
	}
	var err error
	if strings.Contains(mode, "c") {
		err = create(e.stdout, dir, paths)
	} else {
		err = extract(e.stdin, dir)
	}
	if err != nil {
		return e.fail("tar", err)
	}
	return 0
}

func create(w io.Writer, dir string, paths []string) error {
	tw := tar.NewWriter(w)
	for _, p := range paths {
		root := p
		if !filepath.IsAbs(p) {
			root = filepath.Join(dir, p)
		}
		err := filepath.Walk(root, func(path string, st os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			return addFile(tw, path, strings.TrimLeft(filepath.Join(p, rel), "/"), st)
		})
		if err != nil {
			return err
		}
	}
	return tw.Close()
}

func addFile(tw *tar.Writer, path, name string, st os.FileInfo) error {
	target := ""
	if st.Mode()&os.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(st, target)
	if err != nil {
		return err
	}
	h.Name = name
	if st.IsDir() {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil || !st.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(tw, f, st.Size())
	return err
}

// extract unpacks below dir; os.Root keeps names and links from leading out of it.
func extract(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := extractOne(root, tr, h); err != nil {
			return err
		}
	}
}

func extractOne(root *os.Root, r io.Reader, h *tar.Header) error {
	name := strings.TrimLeft(filepath.Clean("/"+h.Name), "/")
	if name == "" {
		return nil
	}
	if h.Typeflag == tar.TypeDir {
		return root.MkdirAll(name, h.FileInfo().Mode().Perm()|0o700)
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		_ = root.Remove(name)
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, h.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	}
	return nil
}
