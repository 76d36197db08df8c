package kinds

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// prepared runs an object through what a create does to it before it is checked.
func prepared[T runtime.Object](t *testing.T, kind string, obj T) T {
	k := kindNamed(t, kind)
	k.Default(obj)
	m := any(obj).(metav1.Object)
	m.SetName("x")
	m.SetNamespace("default")
	m.SetResourceVersion("1")
	if k.PrepareCreate != nil {
		k.PrepareCreate(obj)
	}
	return obj
}

const goodTemplate = `template: {metadata: {labels: {app: x}}, spec: {containers: [{name: a, image: b}]}}`
const goodSelector = `selector: {matchLabels: {app: x}}, `

func TestDefaultDeployment(t *testing.T) {
	d := decode[appsv1.Deployment](t, `spec: {`+goodSelector+goodTemplate+`}`)
	defaultDeployment(d)
	s := d.Spec
	if *s.Replicas != 1 || *s.RevisionHistoryLimit != 10 || *s.ProgressDeadlineSeconds != 600 || s.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType ||
		s.Strategy.RollingUpdate.MaxSurge.String() != "25%" || s.Strategy.RollingUpdate.MaxUnavailable.String() != "25%" || s.Template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("%+v", s)
	}
	recreate := decode[appsv1.Deployment](t, `spec: {strategy: {type: Recreate}}`)
	defaultDeployment(recreate)
	if recreate.Spec.Strategy.RollingUpdate != nil {
		t.Error("Recreate got the parameters of RollingUpdate")
	}
}

func TestDefaultReplicationController(t *testing.T) {
	rc := decode[corev1.ReplicationController](t, `spec: {`+goodTemplate+`}`)
	defaultReplicationController(rc)
	if *rc.Spec.Replicas != 1 || rc.Spec.Selector["app"] != "x" || rc.Labels["app"] != "x" {
		t.Errorf("%+v", rc)
	}
	rc.Labels["app"] = "other"
	if rc.Spec.Selector["app"] != "x" || rc.Spec.Template.Labels["app"] != "x" {
		t.Error("the maps are shared")
	}
}

func TestValidateDeployment(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		want       []string
	}{
		{"good", goodSelector + goodTemplate, nil},
		{"no selector", goodTemplate, []string{`spec.selector: Required value`,
			"spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`"}},
		{"empty selector", `selector: {}, ` + goodTemplate, []string{`spec.selector: Invalid value: {}: empty selector is invalid for deployment`}},
		{"other selector", `selector: {matchLabels: {app: other}}, ` + goodTemplate, []string{
			"spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`"}},
		{"bad selector", `selector: {matchExpressions: [{key: app, operator: Like}]}, ` + goodTemplate, []string{
			`spec.selector.matchExpressions[0].operator: Invalid value: "Like": not a valid selector operator`,
			`spec.selector: Invalid value: {"matchExpressions":[{"key":"app","operator":"Like"}]}: invalid label selector`}},
		{"numbers", goodSelector + goodTemplate + `, replicas: -1, minReadySeconds: -1, revisionHistoryLimit: -1, progressDeadlineSeconds: -1`, []string{
			`spec.replicas: Invalid value: -1: must be greater than or equal to 0`, `spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0`,
			`spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0`,
			`spec.progressDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0`,
			`spec.progressDeadlineSeconds: Invalid value: -1: must be greater than minReadySeconds`}},
		{"deadline", goodSelector + goodTemplate + `, minReadySeconds: 600`, []string{
			`spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds`}},
		{"strategy", goodSelector + goodTemplate + `, strategy: {type: Blue}`, []string{
			`spec.strategy: Unsupported value: {"Type":"Blue","RollingUpdate":null}: supported values: "Recreate", "RollingUpdate"`}},
		{"recreate with parameters", goodSelector + goodTemplate + `, strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}`, []string{
			"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"}},
		{"no progress possible", goodSelector + goodTemplate + `, strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: "0%"}}`, []string{
			"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"}},
		{"percentages", goodSelector + goodTemplate + `, strategy: {rollingUpdate: {maxSurge: "x", maxUnavailable: "101%"}}`, []string{
			`spec.strategy.rollingUpdate.maxSurge: Invalid value: "x": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')`,
			`spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`}},
		{"template", goodSelector + `template: {metadata: {labels: {app: x}}, spec: {restartPolicy: Never, activeDeadlineSeconds: 1, containers: [{name: a, image: ""}], ephemeralContainers: [{name: e, image: f}]}}`, []string{
			`spec.template.spec.containers[0].image: Required value`,
			`spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template`,
			`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`,
			`spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported`}},
		{"labels of the template", goodSelector + `template: {metadata: {labels: {app: x, "a b": c}}, spec: {containers: [{name: a, image: b}]}}`, []string{
			`spec.template.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := prepared(t, "Deployment", decode[appsv1.Deployment](t, `spec: {`+c.spec+`}`))
			wantErrors(t, validateDeployment(d), c.want...)
		})
	}
}

func TestImmutableSelector(t *testing.T) {
	const want = `spec.selector: Invalid value: {"matchLabels":{"app":"y"}}: field is immutable`
	old := prepared(t, "Deployment", decode[appsv1.Deployment](t, `spec: {`+goodSelector+goodTemplate+`}`))
	d := old.DeepCopy()
	d.Spec.Selector.MatchLabels["app"], d.Spec.Template.Labels["app"] = "y", "y"
	wantErrors(t, validateDeploymentUpdate(d, old), want)

	oldSet := prepared(t, "ReplicaSet", decode[appsv1.ReplicaSet](t, `spec: {`+goodSelector+goodTemplate+`}`))
	rs := oldSet.DeepCopy()
	rs.Spec.Selector.MatchLabels["app"], rs.Spec.Template.Labels["app"] = "y", "y"
	wantErrors(t, validateReplicaSetUpdate(rs, oldSet), want)
}

func TestValidateReplicationController(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		want       []string
	}{
		{"good", goodTemplate, nil},
		{"nothing", ``, []string{`spec.selector: Required value`, `spec.template: Required value`}},
		{"mismatch", `selector: {app: other}, replicas: -1, ` + goodTemplate, []string{
			"spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
			`spec.replicas: Invalid value: -1: must be greater than or equal to 0`}},
		{"deadline", `template: {metadata: {labels: {app: x}}, spec: {activeDeadlineSeconds: 1, containers: [{name: a, image: b}]}}`, []string{
			`spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rc := prepared(t, "ReplicationController", decode[corev1.ReplicationController](t, `spec: {`+c.spec+`}`))
			wantErrors(t, validateReplicationController(rc), c.want...)
		})
	}
}

func TestReplicaStatus(t *testing.T) {
	old := prepared(t, "ReplicaSet", decode[appsv1.ReplicaSet](t, `spec: {`+goodSelector+goodTemplate+`}`))
	rs := old.DeepCopy()
	rs.Status = appsv1.ReplicaSetStatus{Replicas: 1, ReadyReplicas: 2, AvailableReplicas: 3, FullyLabeledReplicas: -1}
	wantErrors(t, validateReplicaSetStatusUpdate(rs, old),
		`status.fullyLabeledReplicas: Invalid value: -1: must be greater than or equal to 0`,
		`status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas`,
		`status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas`,
		`status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas`)
}

func TestDeploymentStatus(t *testing.T) {
	old := prepared(t, "Deployment", decode[appsv1.Deployment](t, `spec: {`+goodSelector+goodTemplate+`}`))
	two, one := int32(2), int32(1)
	old.Status.CollisionCount = &two
	old.Labels = map[string]string{"a": "b"}
	d := old.DeepCopy()
	d.Labels = nil
	d.Spec.Paused = true
	d.Status = appsv1.DeploymentStatus{CollisionCount: &one, UpdatedReplicas: 1}
	prepareDeploymentStatusUpdate(d, old)
	if d.Spec.Paused || d.Labels["a"] != "b" {
		t.Error("a status update changed more than the status")
	}
	wantErrors(t, validateDeploymentStatusUpdate(d, old),
		`status.updatedReplicas: Invalid value: 1: cannot be greater than status.replicas`,
		`status.collisionCount: Invalid value: 1: cannot be decremented`)
}

func TestControllerRevision(t *testing.T) {
	r := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "default", ResourceVersion: "1"}, Revision: -1}
	wantErrors(t, validateControllerRevision(r), `data: Required value: data is mandatory`, `revision: Invalid value: -1: must be greater than or equal to 0`)
	r.Data.Raw, r.Revision = []byte(`{"a":1}`), 1
	changed := r.DeepCopy()
	changed.Data.Raw = []byte(`{"a":2}`)
	wantErrors(t, validateControllerRevisionUpdate(r, r))
	wantErrors(t, validateControllerRevisionUpdate(changed, r), `data: Invalid value: {"a":2}: field is immutable`)
}

func TestWorkloadCells(t *testing.T) {
	d := decode[appsv1.Deployment](t, `{metadata: {name: d}, spec: {replicas: 3, `+goodSelector+`template: {spec: {containers: [{name: a, image: x}, {name: b, image: z}]}}}, status: {readyReplicas: 2, updatedReplicas: 1, availableReplicas: 2}}`)
	want := []any{"d", "2/3", int64(1), int64(2), "<unknown>", "a,b", "x,z", "app=x"}
	if diff := cmp.Diff(want, deploymentCells(d, tableNow)); diff != "" {
		t.Error(diff)
	}
	rc := decode[corev1.ReplicationController](t, `{metadata: {name: rc}, spec: {replicas: 3, selector: {a: b}, template: {spec: {containers: [{name: a, image: x}]}}}, status: {replicas: 2, readyReplicas: 1}}`)
	want = []any{"rc", int64(3), int64(2), int64(1), "<unknown>", "a", "x", "a=b"}
	if diff := cmp.Diff(want, replicationControllerCells(rc, tableNow)); diff != "" {
		t.Error(diff)
	}
	r := decode[appsv1.ControllerRevision](t, `{metadata: {name: r, ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: o, controller: true}]}, revision: 4}`)
	want = []any{"r", "daemonset.apps/o", int64(4), "<unknown>"}
	if diff := cmp.Diff(want, controllerRevisionCells(r, tableNow)); diff != "" {
		t.Error(diff)
	}
}

func TestTemplateWarnings(t *testing.T) {
	d := decode[appsv1.Deployment](t, `spec: {template: {spec: {containers: [{name: a, env: [{name: x, value: a}, {name: x, value: b}]}]}}}`)
	want := []string{`spec.template.spec.containers[0].env[1]: hides previous definition of "x", which may be dropped when using apply`}
	k := kindNamed(t, "Deployment")
	if diff := cmp.Diff(want, k.Warnings(d, nil)); diff != "" {
		t.Error(diff)
	}
	scaled := d.DeepCopy()
	scaled.Spec.Replicas = new(int32)
	if got := k.Warnings(scaled, d); got != nil {
		t.Errorf("an update of something else warned: %q", got)
	}
}

func TestScaleOf(t *testing.T) {
	d := decode[appsv1.Deployment](t, `{metadata: {name: d, namespace: ns, uid: u, resourceVersion: "5"}, spec: {replicas: 3, `+goodSelector+goodTemplate+`}, status: {replicas: 2}}`)
	s := kindNamed(t, "Deployment").Scale.Get(d)
	if s.Name != "d" || s.Namespace != "ns" || s.UID != "u" || s.ResourceVersion != "5" || s.Spec.Replicas != 3 || s.Status.Replicas != 2 || s.Status.Selector != "app=x" {
		t.Errorf("%+v", s)
	}
}

func TestPercentOf(t *testing.T) {
	for text, want := range map[string]int{"0%": 0, "25%": 25, "101%": 101, "5": 5} {
		if got := percentOrNumber(intstr.Parse(text)); got != want {
			t.Errorf("%s: %d", text, got)
		}
	}
}
