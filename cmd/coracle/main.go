// Command coracle is every part of the cluster in one binary: it reads flags into a Config and runs a component.
// Called as `kubectl`, it is kubectl.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coracle-dev/coracle/internal/footprint"
)

// Exit codes: 1, it failed; 2, it was asked wrongly or the machine lacks something, so that trying again would not
// help (supervise does not).
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	args := os.Args[1:]
	switch {
	case filepath.Base(os.Args[0]) == "kubectl":
		os.Exit(runKubectl(args))
	case len(args) > 0 && args[0] == "kubectl":
		os.Exit(runKubectl(args[1:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(execute(ctx, args))
}

func execute(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" { // a command that was run inside a machine has said itself what is wrong
		fmt.Fprintln(os.Stderr, "coracle:", err)
	}
	var coded codedError
	if errors.As(err, &coded) {
		return coded.code
	}
	return exitFailed
}

// codedError carries the exit code of a failure.
type codedError struct {
	error
	code int
}

func (e codedError) Unwrap() error { return e.error }

// usage is an error of the person at the keyboard.
func usage(format string, args ...any) error {
	return codedError{fmt.Errorf(format, args...), exitUsage}
}

// keepSmall is run beside every long-running part: a few seconds after the start most of what that took is given back.
func keepSmall(ctx context.Context) error { return footprint.Keep(ctx, 5*time.Second) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "coracle",
		Short:         "A lightweight Kubernetes: one binary, every part its own",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see `%s --help`", err, cmd.CommandPath())
	})
	root.AddCommand(
		newUp(), newDown(), newServer(), newAgent(),
		newAPIServer(), newScheduler(), newControllers(), newProxy(),
		newImage(), newToken(), newLab(), newStatus(), newWhy(), newVersion(), newContainerd(), newSimulate(),
		&cobra.Command{Use: "kubectl", Short: "kubectl itself, with the admin's kubeconfig unless another is given"},
	)
	// Cobra reports surplus arguments and unknown commands as plain errors; they are usage errors too.
	for _, cmd := range append(root.Commands(), root) {
		markUsage(cmd)
	}
	return root
}

func markUsage(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		markUsage(sub)
	}
	if args := cmd.Args; args != nil {
		cmd.Args = func(c *cobra.Command, given []string) error {
			if err := args(c, given); err != nil {
				return usage("%w; see `%s --help`", err, c.CommandPath())
			}
			return nil
		}
	}
}
