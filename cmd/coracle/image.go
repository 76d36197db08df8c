package main

import (
	"context"
	"encoding/json"
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

// imageOptions are the flags of the image commands beside those of places.
type imageOptions struct {
	output string
	force  bool
}

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Import, list, save and remove this node's images",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var list, remove imageOptions
	listCmd := imageCommand("list", "List the images", cobra.NoArgs, list.list)
	listCmd.Flags().StringVarP(&list.output, "output", "o", "", "json: every image with its digests, size in bytes, and whether it is pinned or in use")
	removeCmd := imageCommand("remove NAME...", "Remove images by name or ID", cobra.MinimumNArgs(1), remove.remove)
	removeCmd.Flags().BoolVar(&remove.force, "force", false, "also those of which containers exist")
	cmd.AddCommand(
		imageCommand("import FILE...", "Import archives as docker save or OCI tools write them; - is standard input", cobra.MinimumNArgs(1), importImages),
		listCmd,
		imageCommand("save FILE NAME...", "Write images to an archive; - is standard output", cobra.MinimumNArgs(2), saveImages),
		removeCmd,
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

// listedImage is one of `coracle image list -o json`.
type listedImage struct {
	ID      string    `json:"id"`
	Names   []string  `json:"names,omitempty"`
	Digests []string  `json:"digests,omitempty"`
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
	Pinned  bool      `json:"pinned"`
	InUse   bool      `json:"inUse"`
}

func (o *imageOptions) list(ctx context.Context, store *images.Store, out io.Writer, _ []string) error {
	if o.output != "" && o.output != "json" {
		return usage("--output %q: want json", o.output)
	}
	list, err := store.List(ctx)
	if err != nil {
		return err
	}
	inUse, err := store.InUse(ctx)
	if err != nil {
		return err
	}
	if o.output == "json" {
		all := []listedImage{}
		for _, i := range list {
			all = append(all, listedImage{i.ID, i.Names, i.Digests, i.Size, i.CreatedAt, i.Pinned, inUse[i.ID]})
		}
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(all)
	}
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSIZE\tPINNED\tIN USE")
	for _, image := range list {
		names := image.Names
		if len(names) == 0 {
			names = image.Digests
		}
		id := strings.TrimPrefix(image.ID, "sha256:")
		for _, name := range names {
			fmt.Fprintf(w, "%s\t%s\t%.1f MB\t%s\t%s\n", name, id[:min(12, len(id))], float64(image.Size)/1e6, yesNo(image.Pinned), yesNo(inUse[image.ID]))
		}
	}
	return w.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
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

func (o *imageOptions) remove(ctx context.Context, store *images.Store, out io.Writer, names []string) error {
	inUse, err := store.InUse(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		image, err := store.Get(ctx, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if inUse[image.ID] && !o.force {
			return fmt.Errorf("%s: containers use this image; to remove it nevertheless add --force", name)
		}
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
