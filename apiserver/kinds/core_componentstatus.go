package kinds

func componentStatuses() []Kind { return nil }
