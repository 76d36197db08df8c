package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coracle-dev/coracle/cmd/coracle/lab"
	"github.com/coracle-dev/coracle/internal/client"
)

// labOptions are the flags of all lab commands.
type labOptions struct {
	root lab.Root
	name string
}

func newLab() *cobra.Command {
	o := &labOptions{}
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Clusters of several machines on this one, to try things out",
		Long: "A lab is a control plane and some nodes on this machine. Each has a network address, a root folder, processes and cgroups of its own,\n" +
			"and can be killed, started and cut off from the others.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.name, "name", lab.DefaultName, "which lab")
	f.StringVar(&o.root.Data, "lab-dir", lab.DefaultData, "folder of all labs' data")
	f.StringVar(&o.root.Run, "lab-run-dir", lab.DefaultRun, "folder of what labs need while they run")
	cmd.AddCommand(o.up(), o.down(), o.status(), o.list(), o.exec(), o.image(), o.kubeconfig(), o.add(), o.kill(), o.start(),
		o.partition(), o.heal(), o.loss(), newLabBoot())
	return cmd
}

func newLabBoot() *cobra.Command {
	return &cobra.Command{Use: "boot", Short: "The first process of a machine in a lab", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return lab.Boot(os.Stdin) }}
}

// command makes a command that needs root and has its places made absolute.
func (o *labOptions) command(use, short string, args cobra.PositionalArgs, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
		if err := needRoot("coracle lab"); err != nil {
			return err
		}
		for _, dir := range []*string{&o.root.Data, &o.root.Run} {
			abs, err := filepath.Abs(*dir)
			if err != nil {
				return err
			}
			*dir = abs
		}
		return run(cmd, args)
	}}
}

// open finds the lab that is meant.
func (o *labOptions) open() (*lab.Lab, error) {
	l, err := lab.Open(o.root, o.name)
	if err != nil {
		return nil, usage("%w", err)
	}
	return l, nil
}

// tools are what the lab needs of this program.
func labTools(out io.Writer) lab.Tools {
	p := &progress{out: out, started: time.Now()}
	return lab.Tools{
		Token: labToken,
		Step:  func(format string, args ...any) { p.step(fmt.Sprintf(format, args...)) },
	}
}

func labToken(ctx context.Context, kubeconfig string) (string, error) {
	kube, err := client.Config{Kubeconfig: kubeconfig, Component: "lab"}.Clientset()
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	t := tokenSpec{ttl: time.Hour, description: "for nodes of the lab", quiet: true}
	err = t.create(ctx, kube, &out, nil)
	return strings.TrimSpace(out.String()), err
}

func (o *labOptions) up() *cobra.Command {
	r := lab.Request{}
	subnet, merge := "", false
	cmd := o.command("up", "Make a lab: a control plane and some nodes", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		if err := checkNode(); err != nil {
			return err
		}
		r.Name = o.name
		if subnet != "" {
			var err error
			if r.Subnet, err = netip.ParsePrefix(subnet); err != nil {
				return usage("--subnet %q: want a private /24 such as 10.213.7.0/24", subnet)
			}
		}
		l, err := lab.Up(cmd.Context(), o.root, r, labTools(cmd.OutOrStdout()))
		if err != nil {
			return err
		}
		if merge {
			if err := mergeLab(l, cmd.OutOrStdout()); err != nil {
				return err
			}
		}
		o.printNext(cmd.OutOrStdout(), l, merge)
		return nil
	})
	f := cmd.Flags()
	f.IntVar(&r.Nodes, "nodes", 3, "how many nodes")
	f.BoolVar(&merge, "merge", false, "also put the lab into ~/.kube/config, until it is down")
	f.StringVar(&subnet, "subnet", "", "the lab's network, a private /24 (default: a free one of "+lab.Range.String()+")")
	f.StringArrayVar(&r.ServerFlags, "server-flag", nil, "a flag for `coracle server`, as --server-flag=--log-level=debug; can be repeated")
	f.StringArrayVar(&r.AgentFlags, "agent-flag", nil, "a flag for every node's `coracle agent`; can be repeated")
	return cmd
}

// flags are what leads the following commands to the same lab.
func (o *labOptions) flags() string {
	text := ""
	if o.name != lab.DefaultName {
		text += " --name " + o.name
	}
	if o.root.Data != lab.DefaultData {
		text += " --lab-dir " + o.root.Data
	}
	if o.root.Run != lab.DefaultRun {
		text += " --lab-run-dir " + o.root.Run
	}
	return text
}

func mergeLab(l *lab.Lab, out io.Writer) error {
	path, err := lab.UserKubeconfig()
	if err != nil {
		return err
	}
	if err := l.MergeKubeconfig(path); err != nil {
		return fmt.Errorf("the lab is up, but its kubeconfig could not be merged: %w", err)
	}
	fmt.Fprintf(out, "%s has the context %s, which is the current one.\n", path, l.Context())
	return nil
}

// printNext tells what to type next, as it can be typed from here.
func (o *labOptions) printNext(out io.Writer, l *lab.Lab, merged bool) {
	self, export := "coracle", ""
	if _, err := exec.LookPath(self); err != nil {
		self = os.Args[0]
	}
	if !merged {
		export = "  export KUBECONFIG=" + l.Kubeconfig() + "\n"
	}
	fmt.Fprintf(out, `
The lab is up. What to type next:
%[3]s  %[1]s kubectl get nodes -o wide
  %[1]s kubectl create deployment web --image=coracle/demo:v1 --replicas=6
  %[1]s lab exec%[2]s node-1 -- ip address
  %[1]s lab kill%[2]s node-1
  %[1]s lab status%[2]s
  %[1]s lab down%[2]s
`, self, o.flags(), export)
}

func (o *labOptions) kubeconfig() *cobra.Command {
	merge := false
	cmd := o.on("kubeconfig", "Print the path of the lab's kubeconfig", cobra.NoArgs, func(cmd *cobra.Command, l *lab.Lab, _ []string) error {
		if merge {
			return mergeLab(l, cmd.OutOrStdout())
		}
		fmt.Fprintln(cmd.OutOrStdout(), l.Kubeconfig())
		return nil
	})
	cmd.Flags().BoolVar(&merge, "merge", false, "put the lab into ~/.kube/config in place of that, until it is down")
	return cmd
}

func (o *labOptions) down() *cobra.Command {
	return o.command("down", "Remove a lab and all that belongs to it", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		l, err := lab.Open(o.root, o.name)
		if err != nil {
			if cerr := lab.CheckName(o.name); cerr != nil {
				return usage("%w", cerr)
			}
			// Half of it may be there.
			l = &lab.Lab{Plan: lab.Plan{Root: o.root, Name: o.name}}
		}
		if err := l.Down(cmd.Context()); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "The lab %s is down.\n", o.name)
		return nil
	})
}

func (o *labOptions) list() *cobra.Command {
	return o.command("list", "List the labs of this machine", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		names, err := lab.Names(o.root)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
		fmt.Fprintln(w, "NAME\tNETWORK\tNODES\tON\tKUBECONFIG")
		for _, name := range names {
			l, err := lab.Open(o.root, name)
			if err != nil {
				fmt.Fprintf(w, "%s\tdamaged\t\t\t\n", name)
				continue
			}
			s, err := l.Machinery()
			if err != nil {
				return err
			}
			on := 0
			for _, m := range s {
				if m.On {
					on++
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%d of %d\t%s\n", name, l.Plan.Subnet, len(s)-1, on, len(s), l.Kubeconfig())
		}
		return w.Flush()
	})
}

func (o *labOptions) status() *cobra.Command {
	return o.command("status", "Show a lab's machines, and whether they are well", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		l, err := o.open()
		if err != nil {
			return err
		}
		status, err := l.Status(cmd.Context())
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
		fmt.Fprintln(w, "MACHINE\tADDRESS\tPOWER\tSTATUS\tMEMORY\tNETWORK")
		bad := 0
		for _, m := range status {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.Address, m.Power(), m.State, m.Memory(), m.Faults)
			if !m.Well() {
				bad++
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if bad > 0 {
			return fmt.Errorf("%d of %d machines are not well", bad, len(status))
		}
		return nil
	})
}

func (o *labOptions) exec() *cobra.Command {
	cmd := o.command("exec MACHINE -- COMMAND [ARG...]", "Run a command inside a machine; its exit code is this one's", cobra.MinimumNArgs(2), func(_ *cobra.Command, args []string) error {
		l, err := o.open()
		if err != nil {
			return err
		}
		command := args[1:]
		if command[0] == "--" && len(command) > 1 {
			command = command[1:]
		}
		code, err := l.Exec(args[0], command)
		if err != nil || code == 0 {
			return err
		}
		return codedError{errors.New(""), code}
	})
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (o *labOptions) image() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Give images to all nodes of a lab", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(o.command("import FILE...", "Import archives as docker save or OCI tools write them into every node that is on", cobra.MinimumNArgs(1),
		func(cmd *cobra.Command, files []string) error {
			l, err := o.open()
			if err != nil {
				return err
			}
			for _, file := range files {
				names, err := l.Import(cmd.Context(), func() (io.ReadCloser, error) { return os.Open(file) })
				if err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				for _, name := range names {
					fmt.Fprintln(cmd.OutOrStdout(), "imported", name)
				}
			}
			return nil
		}))
	return cmd
}

// on makes a command of a lab that is there.
func (o *labOptions) on(use, short string, args cobra.PositionalArgs, run func(cmd *cobra.Command, l *lab.Lab, args []string) error) *cobra.Command {
	return o.command(use, short, args, func(cmd *cobra.Command, args []string) error {
		l, err := o.open()
		if err != nil {
			return err
		}
		return run(cmd, l, args)
	})
}

func (o *labOptions) add() *cobra.Command {
	nodes := 1
	cmd := o.on("add", "Add a node", cobra.NoArgs, func(cmd *cobra.Command, l *lab.Lab, _ []string) error {
		_, err := l.Add(cmd.Context(), nodes, labTools(cmd.OutOrStdout()))
		return err
	})
	cmd.Flags().IntVar(&nodes, "nodes", 1, "how many more nodes")
	return cmd
}

func (o *labOptions) kill() *cobra.Command {
	return o.on("kill MACHINE...", "Cut the power of machines: every process of theirs ends at once", cobra.MinimumNArgs(1), func(cmd *cobra.Command, l *lab.Lab, machines []string) error {
		return l.Kill(cmd.Context(), machines...)
	})
}

func (o *labOptions) start() *cobra.Command {
	return o.on("start [MACHINE...]", "Boot machines that are off, or all that are", cobra.ArbitraryArgs, func(cmd *cobra.Command, l *lab.Lab, machines []string) error {
		return l.Start(cmd.Context(), labTools(cmd.OutOrStdout()), machines...)
	})
}

func (o *labOptions) partition() *cobra.Command {
	return o.on("partition MACHINE [MACHINE]", "Cut two machines off from each other, or one from all", cobra.RangeArgs(1, 2), func(_ *cobra.Command, l *lab.Lab, machines []string) error {
		return l.Partition(machines...)
	})
}

func (o *labOptions) heal() *cobra.Command {
	return o.on("heal [MACHINE [MACHINE]]", "End partitions: all, those of a machine, or the one between two", cobra.MaximumNArgs(2), func(_ *cobra.Command, l *lab.Lab, machines []string) error {
		return l.Heal(machines...)
	})
}

func (o *labOptions) loss() *cobra.Command {
	return o.on("loss MACHINE SHARE", "Lose a share of a machine's packets both ways, as 10%; 0% ends that", cobra.ExactArgs(2), func(_ *cobra.Command, l *lab.Lab, args []string) error {
		return l.Loss(args[0], args[1])
	})
}
