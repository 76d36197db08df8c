package kinds

func setWorkloads() []Kind { return nil }
