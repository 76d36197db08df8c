package rest

// connects tells the subresources that lead to a node.
func connects(sub string) bool {
	switch sub {
	case "log", "exec", "attach", "portforward":
		return true
	}
	return false
}

func (c *call) connect() error { return notFoundPath() }
