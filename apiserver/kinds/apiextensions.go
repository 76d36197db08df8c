package kinds

func customResourceDefinitions() []Kind { return nil }
