// Package vm boots a machine of its own in software: what these tests need of a machine, a kernel and control groups of version 2, the machine that
// they run on need not have.
package vm

// Checks are the tests that run inside the machine (package guest), in their order.
var Checks = []string{"Up", "FirstApp", "Limits", "OOMKilled", "QoS", "Resize", "Stats", "Eviction", "Down", "Lab"}
