package kinds

func flowControls() []Kind { return nil }
