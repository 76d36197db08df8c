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
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
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

// read takes one list in. What is forbidden is noted; any other failure ends the reading.
func read[L any](r *factReader, what string, list func(context.Context, metav1.ListOptions) (L, error), options metav1.ListOptions, take func(L)) {
	if r.err != nil {
		return
	}
	got, err := list(r.ctx, options)
	switch {
	case err == nil:
		take(got)
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err): // or a server that has no such kind
		r.facts.Unread = append(r.facts.Unread, why.Unread{What: what, Why: err.Error()})
	case errors.Is(err, context.DeadlineExceeded):
		r.err = fmt.Errorf("read %s: the API server took more than %v: %w", what, whyDeadline, err)
	default:
		r.err = fmt.Errorf("read %s: %w", what, err)
	}
}

// all is read without options.
func all[L any](r *factReader, what string, list func(context.Context, metav1.ListOptions) (L, error), take func(L)) {
	read(r, what, list, metav1.ListOptions{}, take)
}

// gone reads what may tell of a pod that is not there.
func (r *factReader) gone() {
	f, core := r.facts, r.kube.CoreV1()
	all(r, "events", core.Events(f.Namespace).List, func(l *corev1.EventList) { f.Events = l.Items })
	all(r, "pods", core.Pods(f.Namespace).List, func(l *corev1.PodList) { f.Pods = l.Items })
}

// ofPod reads what belongs to the pod itself.
func (r *factReader) ofPod() {
	r.events(r.facts.Name)
	claims := claimNames(r.facts.Pod)
	if len(claims) > 0 {
		r.storage()
	}
	for _, name := range claims {
		r.events(name)
	}
}

// storage reads what decides where volumes can be.
func (r *factReader) storage() {
	f, core, storage := r.facts, r.kube.CoreV1(), r.kube.StorageV1()
	takeClaims := func(l *corev1.PersistentVolumeClaimList) { f.Claims = l.Items }
	before := len(f.Unread)
	all(r, "persistentvolumeclaims"+why.Elsewhere, core.PersistentVolumeClaims(metav1.NamespaceAll).List, takeClaims)
	if len(f.Unread) > before {
		all(r, "persistentvolumeclaims", core.PersistentVolumeClaims(f.Namespace).List, takeClaims)
	}
	all(r, "persistentvolumes", core.PersistentVolumes().List, func(l *corev1.PersistentVolumeList) { f.Volumes = l.Items })
	all(r, "storageclasses", storage.StorageClasses().List, func(l *storagev1.StorageClassList) { f.Classes = l.Items })
	all(r, "csidrivers", storage.CSIDrivers().List, func(l *storagev1.CSIDriverList) { f.Drivers = l.Items })
	all(r, "csinodes", storage.CSINodes().List, func(l *storagev1.CSINodeList) { f.CSINodes = l.Items })
	all(r, "csistoragecapacities", storage.CSIStorageCapacities(metav1.NamespaceAll).List, func(l *storagev1.CSIStorageCapacityList) { f.Capacities = l.Items })
	all(r, "volumeattachments", storage.VolumeAttachments().List, func(l *storagev1.VolumeAttachmentList) { f.Attachments = l.Items })
}

func (r *factReader) events(of string) {
	f := r.facts
	if len(f.Unread) > 0 && f.Unread[0].What == "events" {
		return
	}
	about := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("involvedObject.name", of).String()}
	read(r, "events", r.kube.CoreV1().Events(f.Namespace).List, about, func(l *corev1.EventList) {
		for i := range l.Items {
			about := &l.Items[i].InvolvedObject
			if about.Kind != "Pod" || about.UID == f.Pod.UID { // not those of a pod of the same name before
				f.Events = append(f.Events, l.Items[i])
			}
		}
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
	all(r, "nodes", core.Nodes().List, func(l *corev1.NodeList) { f.Nodes = l.Items })
	for i := range f.Nodes {
		if f.Nodes[i].Name == f.Pod.Spec.NodeName {
			f.Node = &f.Nodes[i]
		}
	}
	running := metav1.ListOptions{FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"}
	takePods := func(l *corev1.PodList) { f.Pods = l.Items }
	before := len(f.Unread)
	read(r, "pods"+why.Elsewhere, core.Pods(metav1.NamespaceAll).List, running, takePods)
	if len(f.Unread) > before {
		read(r, "pods", core.Pods(f.Namespace).List, running, takePods)
	}
	all(r, "namespaces", core.Namespaces().List, func(l *corev1.NamespaceList) { f.Namespaces = l.Items })
	all(r, "services", core.Services(f.Namespace).List, func(l *corev1.ServiceList) { f.Services = l.Items })
	all(r, "poddisruptionbudgets", r.kube.PolicyV1().PodDisruptionBudgets(metav1.NamespaceAll).List, func(l *policyv1.PodDisruptionBudgetList) { f.Budgets = l.Items })
}
