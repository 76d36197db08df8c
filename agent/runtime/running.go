package runtime

// Running lists the containers that run now, of all pods, from memory.
func (r *Runtime) Running() []Container {
	r.mu.Lock()
	var list []Container
	for _, c := range r.containers {
		if c.state == StateRunning {
			list = append(list, c.report())
		}
	}
	r.mu.Unlock()
	return list
}
