package kinds

func disruptionBudgets() []Kind { return nil }
