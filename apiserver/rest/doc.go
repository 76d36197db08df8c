// Package rest serves every kind of the table over HTTP the way Kubernetes' API does: verbs, content
// negotiation, patches, watch streams and tables. Its invariant: an object that came from the watch cache
// is never changed and never copied for a read; bodies are put together from the bytes memoised on it.
// Every write is one preconditioned transaction on the store.
package rest
