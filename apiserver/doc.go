// Package apiserver composes the API server and serves it: the chain every request passes, the resources,
// discovery, health and metrics, and the objects that the server keeps by itself. Its invariant: there is one
// handler, and whoever asks, over a connection or inside the process, goes through all of its chain.
package apiserver
