package runtime

import "fmt"

// DefaultHandler is another name of the default OCI runtime.
const DefaultHandler = "runc"

// handler finds the OCI runtime that a RuntimeClass names.
func (r *Runtime) handler(name string) (binary string, err error) {
	if binary, ok := r.cfg.Handlers[name]; ok {
		return binary, nil
	}
	if name == "" || name == DefaultHandler {
		return r.cfg.OCIRuntime, nil
	}
	return "", fmt.Errorf("failed to get sandbox runtime: no runtime for %q is configured", name)
}
