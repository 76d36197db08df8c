package kinds

func quotaKinds() []Kind { return nil }
