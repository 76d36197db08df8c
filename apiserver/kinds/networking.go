package kinds

func networkingKinds() []Kind { return nil }
