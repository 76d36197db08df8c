package kinds

func runtimeClasses() []Kind { return nil }
