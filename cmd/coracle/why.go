package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/paths"
	"github.com/coracle-dev/coracle/scheduler/decide"
	"github.com/coracle-dev/coracle/scheduler/plugin"
	"github.com/coracle-dev/coracle/scheduler/profile"
	"github.com/coracle-dev/coracle/scheduler/why"
)

// whyDeadline bounds all that is read of the API server.
const whyDeadline = 30 * time.Second

func newWhy() *cobra.Command {
	var kubeconfig, namespace, output string
	o := &options{}
	cmd := &cobra.Command{
		Use:   "why POD",
		Short: "Tell why a pod waits, how it came to its node, or how it ended",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != "json" {
				return usage("--output is %q: it is json or not given", output)
			}
			name := strings.TrimPrefix(strings.TrimPrefix(args[0], "pods/"), "pod/")
			ctx, cancel := context.WithTimeout(cmd.Context(), whyDeadline)
			defer cancel()
			profiles, err := o.schedulerProfiles()
			if err != nil {
				return err
			}
			return tellWhy(ctx, whyTarget{kubeconfig, namespace, name, profiles.Profiles}, output, cmd.OutOrStdout())
		},
	}
	schedulerFlags(o, cmd.Flags())
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig that leads to the API server (default: as kubectl, then the admin's)")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "the pod's namespace (default: the kubeconfig's)")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json for the whole report, every node by name")
	return cmd
}

// whyTarget is a pod and the way to it, and what the scheduler's configuration says.
type whyTarget struct {
	kubeconfig, namespace, name string
	profiles                    []profile.Profile
}

func tellWhy(ctx context.Context, target whyTarget, output string, out io.Writer) error {
	kube, err := target.connect()
	if err != nil {
		return err
	}
	facts, err := readFacts(ctx, kube, target.namespace, target.name)
	if err != nil {
		return err
	}
	target.useProfile(ctx, facts)
	report, err := why.Explain(facts)
	if err != nil {
		return err
	}
	if output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = report.Write(out, facts.Now)
	}
	if err == nil && facts.Pod == nil && len(report.Messages) == 0 {
		return fmt.Errorf("there is no pod %s in namespace %s", target.name, target.namespace)
	}
	return err
}

// connect makes a client by the kubeconfig that kubectl would use, with the namespace of its context unless one is given.
func (t *whyTarget) connect() (kubernetes.Interface, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = t.kubeconfig
	if _, err := os.Stat(paths.DefaultKubeconfig); t.kubeconfig == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" && !os.IsNotExist(err) {
		rules.ExplicitPath = paths.DefaultKubeconfig
	}
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	rest, err := config.ClientConfig()
	if err != nil {
		return nil, usage("%w; name a kubeconfig with --kubeconfig", err)
	}
	if t.namespace == "" {
		if t.namespace, _, err = config.Namespace(); err != nil {
			return nil, usage("%w", err)
		}
	}
	return client.Config{RestConfig: rest, Component: "why"}.Clientset()
}

// useProfile makes the pod's profile that by which it is explained, plug-ins included.
func (t *whyTarget) useProfile(ctx context.Context, f *why.Facts) {
	if f.Pod == nil {
		return
	}
	i := slices.IndexFunc(t.profiles, func(p profile.Profile) bool { return p.Name == f.Pod.Spec.SchedulerName })
	if i < 0 {
		f.NoProfile = len(t.profiles) > 1 || t.profiles[0].Name != profile.DefaultName
		return
	}
	p := t.profiles[i]
	f.Settings = p.Settings
	if len(p.Plugins) == 0 {
		return
	}
	f.PlugIns = func(nodes []*corev1.Node) []why.PlugIn {
		var all []why.PlugIn
		for _, c := range p.Plugins {
			all = append(all, askPlugIn(ctx, c, f.Pod, nodes))
		}
		return all
	}
}

// askPlugIn asks as the scheduler does, but a first time, and so with patience.
func askPlugIn(ctx context.Context, c plugin.Config, pod *corev1.Pod, nodes []*corev1.Node) why.PlugIn {
	result := why.PlugIn{Name: c.Name, Weight: c.Weight, Ignored: c.WhenDown == plugin.Ignore}
	c.WhenDown = plugin.Reject
	asked, err := plugin.New(c)
	if err != nil {
		result.Down = err.Error()
		return result
	}
	defer asked.Close()
	patience, cancel := context.WithTimeout(ctx, 10*c.Deadline)
	defer cancel()
	_ = asked.Sync(patience, nodes) // what fails here fails again below, in words
	answer, err := asked.Evaluate(ctx, pod, nodes)
	if err != nil {
		result.Down = err.Error()
		return result
	}
	result.PodRejected, result.Rejected, result.Scores = answer.PodRejected, answer.Rejected, answer.Scores
	return result
}

// factReader reads lists, and notes those that it may not read.
type factReader struct {
	ctx   context.Context
	kube  kubernetes.Interface
	facts *why.Facts
	err   error
}

// readFacts reads all that bears on a pod, with the rights of whoever asks.
func readFacts(ctx context.Context, kube kubernetes.Interface, namespace, name string) (*why.Facts, error) {
	f := &why.Facts{Now: time.Now(), Namespace: namespace, Name: name, Settings: decide.Defaults()}
	r := &factReader{ctx: ctx, kube: kube, facts: f}
	pod, err := kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		f.Pod = pod
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	if f.Pod == nil {
		r.gone()
		return f, r.err
	}
	r.ofPod()
	r.ofCluster()
	return f, r.err
}

// read runs one list. What is forbidden is noted; any other failure ends the reading.
func (r *factReader) read(what string, list func() error) {
	if r.err != nil {
		return
	}
	err := list()
	switch {
	case err == nil:
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err): // or a server that has no such kind
		r.facts.Unread = append(r.facts.Unread, why.Unread{What: what, Why: err.Error()})
	default:
		r.err = fmt.Errorf("read %s: %w", what, err)
	}
}

// gone reads what may tell of a pod that is not there.
func (r *factReader) gone() {
	f, core := r.facts, r.kube.CoreV1()
	r.read("events", func() error {
		list, err := core.Events(f.Namespace).List(r.ctx, metav1.ListOptions{})
		if err == nil {
			f.Events = list.Items
		}
		return err
	})
	r.read("pods", func() error {
		list, err := core.Pods(f.Namespace).List(r.ctx, metav1.ListOptions{})
		if err == nil {
			f.Pods = list.Items
		}
		return err
	})
}

// ofPod reads what belongs to the pod itself.
func (r *factReader) ofPod() {
	f, core := r.facts, r.kube.CoreV1()
	r.events(f.Name)
	claims := claimNames(f.Pod)
	if len(claims) > 0 {
		r.read("persistentvolumeclaims", func() error {
			list, err := core.PersistentVolumeClaims(f.Namespace).List(r.ctx, metav1.ListOptions{})
			if err == nil {
				f.Claims = list.Items
			}
			return err
		})
		r.read("storageclasses", func() error {
			list, err := r.kube.StorageV1().StorageClasses().List(r.ctx, metav1.ListOptions{})
			if err == nil {
				f.Classes = list.Items
			}
			return err
		})
		r.read("persistentvolumes", func() error {
			list, err := core.PersistentVolumes().List(r.ctx, metav1.ListOptions{})
			if err == nil {
				f.Volumes = list.Items
			}
			return err
		})
	}
	for _, name := range claims {
		r.events(name)
	}
}

func (r *factReader) events(of string) {
	f := r.facts
	if len(f.Unread) > 0 && f.Unread[0].What == "events" {
		return
	}
	r.read("events", func() error {
		list, err := r.kube.CoreV1().Events(f.Namespace).List(r.ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector("involvedObject.name", of).String(),
		})
		if err != nil {
			return err
		}
		for i := range list.Items {
			about := &list.Items[i].InvolvedObject
			if about.Kind != "Pod" || about.UID == f.Pod.UID { // not those of a pod of the same name before
				f.Events = append(f.Events, list.Items[i])
			}
		}
		return nil
	})
}

func claimNames(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		if name := why.ClaimOf(pod, &pod.Spec.Volumes[i]); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// ofCluster reads what decides where the pod could run.
func (r *factReader) ofCluster() {
	f, core := r.facts, r.kube.CoreV1()
	r.read("nodes", func() error {
		list, err := core.Nodes().List(r.ctx, metav1.ListOptions{})
		if err == nil {
			f.Nodes = list.Items
		}
		return err
	})
	for i := range f.Nodes {
		if f.Nodes[i].Name == f.Pod.Spec.NodeName {
			f.Node = &f.Nodes[i]
		}
	}
	r.read("pods", func() error {
		list, err := core.Pods(metav1.NamespaceAll).List(r.ctx, metav1.ListOptions{FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"})
		if err == nil {
			f.Pods = list.Items
		}
		return err
	})
	r.read("namespaces", func() error {
		list, err := core.Namespaces().List(r.ctx, metav1.ListOptions{})
		if err == nil {
			f.Namespaces = list.Items
		}
		return err
	})
	r.read("services", func() error {
		list, err := core.Services(f.Namespace).List(r.ctx, metav1.ListOptions{})
		if err == nil {
			f.Services = list.Items
		}
		return err
	})
	r.read("poddisruptionbudgets", func() error {
		list, err := r.kube.PolicyV1().PodDisruptionBudgets(metav1.NamespaceAll).List(r.ctx, metav1.ListOptions{})
		if err == nil {
			f.Budgets = list.Items
		}
		return err
	})
	if errors.Is(r.err, context.DeadlineExceeded) {
		r.err = fmt.Errorf("the API server took more than %v: %w", whyDeadline, r.err)
	}
}
