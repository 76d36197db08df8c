package rest

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// consulted are the resources by which the server decides about requests for others. Whoever has changed one may rely on it
// in the next request, so its writes are answered once this server's cache has them.
var consulted = map[schema.GroupResource]bool{
	{Resource: "limitranges"}: true, {Resource: "namespaces"}: true, {Resource: "resourcequotas"}: true,
	{Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}:        true,
	{Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"}: true,
	{Group: "rbac.authorization.k8s.io", Resource: "roles"}:               true,
	{Group: "rbac.authorization.k8s.io", Resource: "rolebindings"}:        true,
	{Group: "networking.k8s.io", Resource: "ingressclasses"}:              true,
	{Group: "networking.k8s.io", Resource: "servicecidrs"}:                true,
	{Group: "node.k8s.io", Resource: "runtimeclasses"}:                    true,
	{Group: "scheduling.k8s.io", Resource: "priorityclasses"}:             true,
	{Group: "storage.k8s.io", Resource: "storageclasses"}:                 true,

	{Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicies"}:         true,
	{Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicybindings"}:   true,
	{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"}:     true,
	{Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicies"}:       true,
	{Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicybindings"}: true,
	{Group: "admissionregistration.k8s.io", Resource: "validatingwebhookconfigurations"}:   true,
}

// settleTime bounds the wait: a cache that is as far behind as this would hold up nothing but answers.
const settleTime = time.Second

// settle waits until a write of a consulted resource is in the cache.
func (c *call) settle(revision int64) {
	if !consulted[c.r.gr] {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx(), settleTime)
	defer cancel()
	_, _ = c.Cache.Get(ctx, c.r.storage, "", revision) // what counts is that it has been reached
}
