package kinds

func admissionKinds() []Kind { return nil }
