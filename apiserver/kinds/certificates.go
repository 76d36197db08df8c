package kinds

func signingRequests() []Kind { return nil }
