package kinds

func persistentVolumes() []Kind { return nil }
