package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/internal/assets"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Import, list, save and remove this node's images",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		imageCommand("import FILE...", "Import archives as docker save or OCI tools write them; - is standard input", cobra.MinimumNArgs(1), importImages),
		imageCommand("list", "List the images", cobra.NoArgs, listImages),
		imageCommand("save FILE NAME...", "Write images to an archive; - is standard output", cobra.MinimumNArgs(2), saveImages),
		imageCommand("remove NAME...", "Remove images by name or ID", cobra.MinimumNArgs(1), removeImages),
	)
	return cmd
}

type imageAction func(ctx context.Context, store *images.Store, out io.Writer, args []string) error

// imageCommand runs an action on the node's image store.
func imageCommand(use, short string, args cobra.PositionalArgs, action imageAction) *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needRoot("coracle image"); err != nil {
				return err
			}
			if err := o.complete(cmd.Flags()); err != nil {
				return err
			}
			store, done, err := o.imageStore(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			return action(cmd.Context(), store, cmd.OutOrStdout(), args)
		},
	}
	placeFlags(o, cmd.Flags())
	containerdFlag(o, cmd.Flags())
	return cmd
}

func containerdFlag(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.containerd, "containerd", "", "socket of a containerd to use in place of the built-in one")
}

// imageStore opens the image store of the containerd that runs.
func (o *options) imageStore(ctx context.Context) (*images.Store, func(), error) {
	dial, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := o.dialContainerd(dial)
	if err != nil {
		return nil, nil, fmt.Errorf("containerd does not answer at %s: is the cluster up?", o.containerdAddress())
	}
	store, err := images.New(ctx, images.Config{Client: conn})
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return store, func() { conn.Close() }, nil
}

func importImages(ctx context.Context, store *images.Store, out io.Writer, files []string) error {
	for _, path := range files {
		in := io.ReadCloser(os.Stdin)
		if path != "-" {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			in = f
		}
		names, err := store.Import(ctx, in, images.ImportOptions{})
		in.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, name := range names {
			fmt.Fprintln(out, "imported", name)
		}
	}
	return nil
}

func listImages(ctx context.Context, store *images.Store, out io.Writer, _ []string) error {
	list, err := store.List(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSIZE")
	for _, image := range list {
		names := image.Names
		if len(names) == 0 {
			names = []string{"<none>"}
		}
		id := strings.TrimPrefix(image.ID, "sha256:")
		for _, name := range names {
			fmt.Fprintf(w, "%s\t%s\t%.1f MB\n", name, id[:min(12, len(id))], float64(image.Size)/1e6)
		}
	}
	return w.Flush()
}

func saveImages(ctx context.Context, store *images.Store, out io.Writer, args []string) error {
	if args[0] == "-" {
		return store.Save(ctx, out, args[1:]...)
	}
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if err := store.Save(ctx, f, args[1:]...); err != nil {
		f.Close()
		_ = os.Remove(args[0])
		return err
	}
	return f.Close()
}

func removeImages(ctx context.Context, store *images.Store, out io.Writer, names []string) error {
	for _, name := range names {
		if err := store.Remove(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintln(out, "removed", name)
	}
	return nil
}

// importDemo brings the demo images that the binary carries into the store, unless they are there.
func importDemo(ctx context.Context, o *options) error {
	store, done, err := o.imageStore(ctx)
	if err != nil {
		return err
	}
	defer done()
	if _, err := store.Get(ctx, "coracle/demo:v1"); err == nil {
		if _, err := store.Get(ctx, "coracle/demo:v2"); err == nil {
			return nil
		}
	}
	demo, err := assets.Demo()
	if err != nil {
		return err
	}
	defer demo.Close()
	_, err = store.Import(ctx, demo, images.ImportOptions{})
	return err
}
