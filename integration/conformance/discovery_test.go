package conformance

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/client-go/discovery"
)

var discoveryTests = map[string]func(*env){
	"every group and version has its document": discoveryGroups,
	"the aggregated form shows the same":       discoveryAggregated,
	"the version is made of numbers":           serverVersion,
	"admission's resources have every verb":    admissionDiscovery,
}

func discoveryGroups(e *env) {
	list, err := e.kube.Discovery().ServerGroups()
	e.must(err)
	for _, g := range list.Groups {
		var known bool
		for _, v := range g.Versions {
			known = known || v == g.PreferredVersion
			resources, err := e.kube.Discovery().ServerResourcesForGroupVersion(v.GroupVersion)
			e.must(err)
			equal(e, "group version", resources.GroupVersion, v.GroupVersion)
			if len(resources.APIResources) == 0 {
				e.Errorf("%s has no resources", v.GroupVersion)
			}
		}
		if !known {
			e.Errorf("%s prefers %v, which it does not have", g.Name, g.PreferredVersion)
		}
	}
}

// aggregatedDiscovery reads the whole of /api or /apis.
func (e *env) aggregatedDiscovery(path string) apidiscoveryv2.APIGroupDiscoveryList {
	e.Helper()
	body, err := e.kube.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", discovery.AcceptV2).DoRaw(e.ctx)
	e.must(err)
	var doc apidiscoveryv2.APIGroupDiscoveryList
	e.must(json.Unmarshal(body, &doc))
	equal(e, "kind", doc.Kind, "APIGroupDiscoveryList")
	return doc
}

func discoveryAggregated(e *env) {
	var aggregated, plain []string
	for _, path := range []string{"/api", "/apis"} {
		for _, g := range e.aggregatedDiscovery(path).Items {
			for _, v := range g.Versions {
				for _, r := range v.Resources {
					aggregated = append(aggregated, strings.TrimPrefix(g.Name+"/", "/")+v.Version+" "+r.Resource+" "+strings.Join(r.Verbs, ","))
				}
			}
		}
	}
	list, err := e.kube.Discovery().ServerGroups()
	e.must(err)
	for _, g := range list.Groups {
		for _, v := range g.Versions {
			resources, err := e.kube.Discovery().ServerResourcesForGroupVersion(v.GroupVersion)
			e.must(err)
			for _, r := range resources.APIResources {
				if !strings.Contains(r.Name, "/") {
					plain = append(plain, v.GroupVersion+" "+r.Name+" "+strings.Join(r.Verbs, ","))
				}
			}
		}
	}
	slices.Sort(aggregated)
	slices.Sort(plain)
	if !slices.Equal(aggregated, plain) {
		e.Errorf("aggregated\n%v\nplain\n%v", aggregated, plain)
	}
	for _, want := range []string{"v1 pods", "v1 namespaces", "apps/v1 deployments", "batch/v1 jobs", "apiextensions.k8s.io/v1 customresourcedefinitions", "networking.k8s.io/v1 ingresses"} {
		if !slices.ContainsFunc(aggregated, func(s string) bool { return strings.HasPrefix(s, want+" ") }) {
			e.Errorf("%s is missing", want)
		}
	}
}

func serverVersion(e *env) {
	v, err := e.kube.Discovery().ServerVersion()
	e.must(err)
	for _, s := range []string{v.Major, v.Minor} {
		if _, err := strconv.Atoi(s); err != nil {
			e.Errorf("version %s.%s", v.Major, v.Minor)
		}
	}
}

func admissionDiscovery(e *env) {
	e.discovers("admissionregistration.k8s.io", "v1", map[string]string{
		"validatingwebhookconfigurations": allVerbs, "mutatingwebhookconfigurations": allVerbs,
		"validatingadmissionpolicies": allVerbs, "validatingadmissionpolicies/status": "get,patch,update", "validatingadmissionpolicybindings": allVerbs,
		"mutatingadmissionpolicies": allVerbs, "mutatingadmissionpolicybindings": allVerbs,
	})
}
