package main

import (
	"fmt"
	"os"
	"strings"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	_ "github.com/coracle-dev/coracle/cmd/coracle/words" // before kubectl's packages
	"github.com/coracle-dev/coracle/internal/paths"
)

// runKubectl is stock kubectl. Where neither --kubeconfig nor KUBECONFIG is given, the admin's kubeconfig is used.
func runKubectl(args []string) int {
	if err := defaultKubeconfig(args); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return exitFailed
	}
	// kubectl reads its arguments and its own name from os.Args.
	os.Args = append([]string{"kubectl"}, args...)
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err) // prints and exits as kubectl does
	}
	return 0
}

func defaultKubeconfig(args []string) error {
	if os.Getenv("KUBECONFIG") != "" {
		return nil
	}
	for _, arg := range args {
		if arg == "--" {
			break
		}
		if arg == "--kubeconfig" || strings.HasPrefix(arg, "--kubeconfig=") || arg == "--server" || arg == "-s" || strings.HasPrefix(arg, "--server=") {
			return nil
		}
	}
	f, err := os.Open(paths.DefaultKubeconfig)
	switch {
	case os.IsPermission(err):
		return fmt.Errorf("%s is readable by root only: use sudo, or copy it and set KUBECONFIG", paths.DefaultKubeconfig)
	case err != nil:
		return nil // no cluster here: kubectl looks where it always does
	}
	f.Close()
	return os.Setenv("KUBECONFIG", paths.DefaultKubeconfig)
}
