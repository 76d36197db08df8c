// Package profile reads a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): what each schedulerName means. What it
// does not know, or what has no effect here, is refused or, where a default elsewhere, named in Notes; nothing is passed over in silence.
package profile

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/scheduler/decide"
	"github.com/coracle-dev/coracle/scheduler/plugin"
	"github.com/coracle-dev/coracle/scheduler/queue"
)

// DefaultName is the schedulerName of pods that ask for none.
const DefaultName = "default-scheduler"

// Config is what a configuration says.
type Config struct {
	Profiles []Profile
	Backoff  queue.Backoff
	// LeaderElect makes the process wait for the lease kube-system/LeaseName.
	LeaderElect   bool
	LeaseName     string
	LeaseDuration time.Duration
	// Kubeconfig is the file named by clientConnection; empty where none is.
	Kubeconfig string
	// Notes tell of settings that have no effect here.
	Notes []string
}

// Profile is what one schedulerName means.
type Profile struct {
	Name     string
	Settings decide.Settings
	// BindTimeout is how long a pod's volumes may take to be bound; 10 minutes where zero.
	BindTimeout time.Duration
	Plugins     []plugin.Config
}

// Default has upstream's one profile.
func Default() Config {
	return Config{Profiles: []Profile{{Name: DefaultName, Settings: decide.Defaults()}}, Backoff: queue.DefaultBackoff()}
}

// Parse reads a configuration in YAML or JSON. Its error names each wrong field.
func Parse(raw []byte) (Config, error) {
	var c configv1.KubeSchedulerConfiguration
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return Config{}, err
	}
	if c.APIVersion != configv1.SchemeGroupVersion.String() || c.Kind != "KubeSchedulerConfiguration" {
		return Config{}, fmt.Errorf("want apiVersion %s, kind KubeSchedulerConfiguration; got %s, %s", configv1.SchemeGroupVersion, c.APIVersion, c.Kind)
	}
	r := &reader{}
	cfg := r.read(&c)
	return cfg, errors.Join(r.errs.ToAggregate())
}

// reader collects what is wrong.
type reader struct {
	errs  field.ErrorList
	notes []string
}

func (r *reader) wrong(err *field.Error) { r.errs = append(r.errs, err) }

func (r *reader) note(path *field.Path, set bool) {
	if set {
		r.notes = append(r.notes, path.String()+" has no effect")
	}
}

func (r *reader) read(c *configv1.KubeSchedulerConfiguration) Config {
	cfg := Default()
	r.note(field.NewPath("parallelism"), c.Parallelism != nil)
	r.note(field.NewPath("delayCacheUntilActive"), c.DelayCacheUntilActive)
	r.note(field.NewPath("enableContentionProfiling"), c.EnableContentionProfiling != nil)
	r.note(field.NewPath("enableProfiling"), c.EnableProfiling != nil)
	client := field.NewPath("clientConnection")
	r.note(client.Child("qps"), c.ClientConnection.QPS != 0)
	r.note(client.Child("burst"), c.ClientConnection.Burst != 0)
	r.note(client.Child("contentType"), c.ClientConnection.ContentType != "" || c.ClientConnection.AcceptContentTypes != "")
	cfg.Kubeconfig = c.ClientConnection.Kubeconfig
	if len(c.Extenders) > 0 {
		r.wrong(field.Forbidden(field.NewPath("extenders"), "HTTP extenders are not called; write a gRPC plug-in and name it in a profile's pluginConfig"))
	}
	r.readElection(&cfg, c)
	r.readBackoff(&cfg, c)
	share := r.percentage(field.NewPath("percentageOfNodesToScore"), c.PercentageOfNodesToScore, 0)
	if len(c.Profiles) > 0 {
		cfg.Profiles = nil
	}
	seen := map[string]bool{}
	for i := range c.Profiles {
		path := field.NewPath("profiles").Index(i)
		p := r.profile(path, &c.Profiles[i], share)
		if seen[p.Name] {
			r.wrong(field.Duplicate(path.Child("schedulerName"), p.Name))
		}
		seen[p.Name] = true
		cfg.Profiles = append(cfg.Profiles, p)
	}
	if len(c.Profiles) == 0 {
		cfg.Profiles[0].Settings.Percentage = share
	}
	cfg.Notes = r.notes
	return cfg
}

func (r *reader) readElection(cfg *Config, c *configv1.KubeSchedulerConfiguration) {
	e, path := c.LeaderElection, field.NewPath("leaderElection")
	cfg.LeaderElect = e.LeaderElect != nil && *e.LeaderElect
	cfg.LeaseName, cfg.LeaseDuration = e.ResourceName, e.LeaseDuration.Duration
	if e.ResourceLock != "" && e.ResourceLock != "leases" {
		r.wrong(field.NotSupported(path.Child("resourceLock"), e.ResourceLock, []string{"leases"}))
	}
	if e.ResourceNamespace != "" && e.ResourceNamespace != "kube-system" {
		r.wrong(field.NotSupported(path.Child("resourceNamespace"), e.ResourceNamespace, []string{"kube-system"}))
	}
	r.note(path.Child("renewDeadline"), e.RenewDeadline.Duration != 0)
	r.note(path.Child("retryPeriod"), e.RetryPeriod.Duration != 0)
}

func (r *reader) readBackoff(cfg *Config, c *configv1.KubeSchedulerConfiguration) {
	if s := c.PodInitialBackoffSeconds; s != nil {
		cfg.Backoff.Initial = time.Duration(*s) * time.Second
		if *s <= 0 {
			r.wrong(field.Invalid(field.NewPath("podInitialBackoffSeconds"), *s, "must be greater than 0"))
		}
	}
	if s := c.PodMaxBackoffSeconds; s != nil {
		cfg.Backoff.Max = time.Duration(*s) * time.Second
	}
	if cfg.Backoff.Max < cfg.Backoff.Initial {
		r.wrong(field.Invalid(field.NewPath("podMaxBackoffSeconds"), int64(cfg.Backoff.Max/time.Second), "must be greater than or equal to PodInitialBackoffSeconds"))
	}
}

func (r *reader) percentage(path *field.Path, given *int32, otherwise int) int {
	if given == nil {
		return otherwise
	}
	if *given < 0 || *given > 100 {
		r.wrong(field.Invalid(path, *given, "not in valid range [0-100]"))
	}
	return int(*given)
}

func (r *reader) profile(path *field.Path, c *configv1.KubeSchedulerProfile, share int) Profile {
	p := Profile{Name: DefaultName, Settings: decide.Defaults()}
	if c.SchedulerName != nil {
		p.Name = *c.SchedulerName
	}
	if p.Name == "" {
		r.wrong(field.Required(path.Child("schedulerName"), ""))
	}
	p.Settings.Percentage = r.percentage(path.Child("percentageOfNodesToScore"), c.PercentageOfNodesToScore, share)
	external := r.arguments(path.Child("pluginConfig"), c.PluginConfig, &p)
	r.plugins(path.Child("plugins"), c.Plugins, &p, external)
	if len(r.errs) == 0 {
		if _, err := decide.New(p.Settings); err != nil {
			r.wrong(field.Invalid(path.Child("pluginConfig"), p.Name, err.Error()))
		}
	}
	return p
}
