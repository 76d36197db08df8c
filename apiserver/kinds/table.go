package kinds

import "slices"

// table lists every kind, in the order discovery shows them. Each function lives in the file of its group
// or kind and returns entries that are complete. Adding a kind: docs/add-a-kind.md.
var table = []func() []Kind{
	// The core group.
	bindings,
	componentStatuses,
	configMaps,
	endpoints,
	coreEvents,
	quotaKinds,
	namespaces,
	nodes,
	persistentVolumes,
	pods,
	podTemplates,
	secrets,
	serviceAccounts,
	services,

	admissionKinds,
	customResourceDefinitions,
	apiServices,
	workloads,
	setWorkloads,
	reviewKinds,
	autoscalers,
	batchKinds,
	signingRequests,
	leases,
	endpointSlices,
	newEvents,
	flowControls,
	networkingKinds,
	runtimeClasses,
	disruptionBudgets,
	rbacKinds,
	resourceClaims,
	priorityClasses,
	storageKinds,
}

// All builds the table. The result is private to the caller.
func All() []Kind {
	var all []Kind
	for _, entries := range table {
		all = slices.Concat(all, entries())
	}
	return all
}
