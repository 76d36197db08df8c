package kinds

func storageKinds() []Kind { return nil }
