package conformance

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// containerTests are of what a container is started with: its command, arguments and environment.
var containerTests = map[string]func(*env){
	"the image's entrypoint and arguments are used where none are given": func(e *env) {
		e.prints(corev1.Container{Name: "main", Image: "coracle/demo:v1", Args: []string{"echo", "only the arguments"}}, "only the arguments\n")
	},
	"variables are composed of others": func(e *env) {
		c := corev1.Container{Name: "main", Image: cluster.Busybox, Command: []string{"echo", "$(FOO);$(BAR);$(BOTH);$(NONE);$$(FOO)"}, Env: []corev1.EnvVar{
			{Name: "FOO", Value: "foo"}, {Name: "BAR", Value: "bar"}, {Name: "BOTH", Value: "$(FOO);;$(BAR)"},
		}}
		e.prints(c, "foo;bar;foo;;bar;$(NONE);$(FOO)\n")
	},
}

// prints runs a container to its end, and wants its log to be that.
func (e *env) prints(c corev1.Container, want string) {
	e.Helper()
	if log := e.finish(onePod("prints", c)); log != want {
		e.Errorf("printed %q, not %q", log, want)
	}
}
