package kinds

func resourceClaims() []Kind { return nil }
