package kinds

func rbacKinds() []Kind { return nil }
