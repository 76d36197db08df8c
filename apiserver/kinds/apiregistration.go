package kinds

func apiServices() []Kind { return nil }
