package profile

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/scheduler/decide"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func parse(t *testing.T, body string) Config {
	t.Helper()
	cfg, err := Parse([]byte(head + body))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestEmptyIsTheDefault(t *testing.T) {
	got, want := parse(t, ""), Default()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestSettings(t *testing.T) {
	cfg := parse(t, `
percentageOfNodesToScore: 70
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 30
parallelism: 16
leaderElection: {leaderElect: true, resourceName: mine, leaseDuration: 30s}
clientConnection: {kubeconfig: /etc/scheduler.kubeconfig, qps: 50}
profiles:
- schedulerName: default-scheduler
- schedulerName: plain
  percentageOfNodesToScore: 100
  plugins:
    multiPoint:
      disabled: [{name: "*"}]
      enabled: [{name: PrioritySort}, {name: DefaultBinder}, {name: SchedulingGates}, {name: NodeResourcesFit, weight: 4}]
- schedulerName: tuned
  plugins:
    filter:
      disabled: [{name: NodePorts}]
    score:
      disabled: [{name: ImageLocality}]
      enabled: [{name: NodeAffinity, weight: 9}, {name: Outside, weight: 3}]
    postFilter:
      disabled: [{name: DefaultPreemption}]
  pluginConfig:
  - name: VolumeBinding
    args: {bindTimeoutSeconds: 60}
  - name: DefaultPreemption
    args: {minCandidateNodesPercentage: 20, minCandidateNodesAbsolute: 5}
  - name: Outside
    args: {apiVersion: coracle.dev/v1alpha1, kind: GRPCPluginArgs, address: "unix:///run/outside.sock", deadline: 50ms, whenDown: Ignore}
`)
	if want := []string{"parallelism has no effect", "clientConnection.qps has no effect"}; !slices.Equal(cfg.Notes, want) {
		t.Errorf("notes %q", cfg.Notes)
	}
	if !cfg.LeaderElect || cfg.LeaseName != "mine" || cfg.LeaseDuration != 30*time.Second || cfg.Kubeconfig != "/etc/scheduler.kubeconfig" ||
		cfg.Backoff.Initial != 2*time.Second || cfg.Backoff.Max != 30*time.Second {
		t.Errorf("%+v", cfg)
	}
	first, plain, tuned := cfg.Profiles[0], cfg.Profiles[1], cfg.Profiles[2]
	if first.Settings.Percentage != 70 || !slices.Equal(first.Settings.Filters, decide.Defaults().Filters) {
		t.Errorf("%+v", first)
	}
	if s := plain.Settings; s.Percentage != 100 || !slices.Equal(s.Filters, []string{"NodeResourcesFit"}) || len(s.Weights) != 1 || s.Weights["NodeResourcesFit"] != 4 || s.Preempt {
		t.Errorf("%+v", plain)
	}
	s := tuned.Settings
	if slices.Contains(s.Filters, "NodePorts") || !slices.Contains(s.Filters, "NodeAffinity") || s.Weights["NodeAffinity"] != 9 || s.Weights["ImageLocality"] != 0 ||
		s.Preempt || s.CandidatePercentage != 20 || s.CandidateNumber != 5 || tuned.BindTimeout != time.Minute {
		t.Errorf("%+v", tuned)
	}
	if len(tuned.Plugins) != 1 || len(first.Plugins) != 0 {
		t.Fatalf("plug-ins %+v", tuned.Plugins)
	}
	if p := tuned.Plugins[0]; p.Name != "Outside" || p.Weight != 3 || p.Filter || !p.Score || p.Deadline != 50*time.Millisecond {
		t.Errorf("%+v", p)
	}
}

func TestErrors(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"unknown field":        {"profile: []", `unknown field "profile"`},
		"twice the same name":  {"profiles: [{schedulerName: a}, {schedulerName: a}]", `profiles[1].schedulerName: Duplicate value: "a"`},
		"no name":              {`profiles: [{schedulerName: ""}]`, "profiles[0].schedulerName: Required value"},
		"percentage":           {"percentageOfNodesToScore: 101", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"},
		"back-off":             {"podInitialBackoffSeconds: 0", "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"},
		"back-off upside down": {"podInitialBackoffSeconds: 9\npodMaxBackoffSeconds: 3", "podMaxBackoffSeconds: Invalid value: 3"},
		"extenders":            {"extenders: [{urlPrefix: http://x}]", "extenders: Forbidden: HTTP extenders are not called"},
		"unknown plug-in":      {"profiles: [{plugins: {score: {enabled: [{name: Nobody}]}}}]", `profiles[0].plugins.score.enabled[0].name: Not found: "Nobody"`},
		"without a queue":      {"profiles: [{plugins: {queueSort: {disabled: [{name: PrioritySort}]}}}]", "PrioritySort cannot be left out"},
		"without a binder":     {`profiles: [{plugins: {multiPoint: {disabled: [{name: "*"}], enabled: [{name: PrioritySort}, {name: SchedulingGates}]}}}]`, "DefaultBinder cannot be left out"},
		"argument":             {"profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]", "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0-100]"},
		"unknown argument":     {"profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {strategy: x}}]}]", `unknown field "strategy"`},
		"shape":                {"profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 50, score: 0}, {utilization: 50, score: 11}]}}}}]}]", "utilization values must be sorted in increasing order"},
		"strategy":             {"profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]", `Unsupported value: "Best"`},
		"spread":               {"profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 0, topologyKey: x, whenUnsatisfiable: DoNotSchedule}]}}]}]", "defaultConstraints[0].maxSkew: Invalid value: 0"},
		"spread by system":     {"profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 1, topologyKey: x, whenUnsatisfiable: DoNotSchedule}]}}]}]", "when .defaultConstraints are not empty"},
		"affinity":             {"profiles: [{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Like}]}]}}}}]}]", `operator: Unsupported value: "Like"`},
		"outside":              {"profiles: [{pluginConfig: [{name: Mine, args: {apiVersion: coracle.dev/v1alpha1, kind: GRPCPluginArgs}}]}]", "address"},
	} {
		_, err := Parse([]byte(head + c.body))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
	if _, err := Parse([]byte("kind: KubeSchedulerConfiguration\napiVersion: v1")); err == nil {
		t.Error("another apiVersion is taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(head))
	f.Add([]byte(head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio}}}]}]"))
	f.Add([]byte(head + "profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}]}}}]"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		cfg, err := Parse(raw)
		if err != nil {
			return
		}
		for _, p := range cfg.Profiles {
			if _, err := decide.New(p.Settings); err != nil {
				t.Errorf("a configuration that was taken does not work: %v", err)
			}
		}
	})
}
