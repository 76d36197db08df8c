package kinds

func batchKinds() []Kind { return nil }
