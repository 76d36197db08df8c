package cache

// encodings memoises an object's bytes by encoding name.
type encodings struct{}
