// Package bench measures the real binary on real etcd, containerd and namespaces: `make bench` prints the figures of
// docs/performance.md. Every benchmark brings up a cluster of its own, runs once and is bounded in time.
package bench
