package kinds

func autoscalers() []Kind { return nil }
