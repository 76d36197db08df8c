package audit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

func policyOf(rules string) (*Policy, error) {
	return ParsePolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: " + rules))
}

func TestFirstRuleDecides(t *testing.T) {
	p, err := policyOf(`[{level: None, userGroups: [quiet]}, {level: Request, verbs: [create], resources: [{group: "", resources: ["pods/*"]}]},
		{level: RequestResponse, namespaces: [a], resources: [{group: "", resources: [pods], resourceNames: [x]}]}, {level: Metadata, nonResourceURLs: ["/healthz*"]},
		{level: Metadata, verbs: [patch], resources: [{group: "*", resources: ["*/status"]}]}]`)
	if err != nil {
		t.Fatal(err)
	}
	pods := func(namespace, name, sub, verb string) *request.RequestInfo {
		return &request.RequestInfo{IsResourceRequest: true, Verb: verb, Namespace: namespace, Resource: "pods", Subresource: sub, Name: name}
	}
	for _, c := range []struct {
		groups []string
		info   *request.RequestInfo
		want   auditv1.Level
	}{
		{nil, pods("b", "x", "exec", "create"), auditv1.LevelRequest},
		{[]string{"quiet"}, pods("b", "x", "exec", "create"), auditv1.LevelNone},
		{nil, pods("b", "x", "", "create"), auditv1.LevelNone},
		{nil, pods("a", "x", "", "get"), auditv1.LevelRequestResponse},
		{nil, pods("a", "y", "", "get"), auditv1.LevelNone},
		{nil, &request.RequestInfo{Path: "/healthz/etcd", Verb: "get"}, auditv1.LevelMetadata},
		{nil, pods("b", "x", "status", "patch"), auditv1.LevelMetadata},
		{nil, pods("b", "x", "", "patch"), auditv1.LevelNone},
		{nil, &request.RequestInfo{Path: "/version", Verb: "get"}, auditv1.LevelNone},
	} {
		if got := p.decide(&user.DefaultInfo{Name: "u", Groups: c.groups}, c.info).level; got != c.want {
			t.Errorf("%+v: %s, want %s", c.info, got, c.want)
		}
	}
}

func TestBadPolicies(t *testing.T) {
	for rules, want := range map[string]string{
		"[]": "0 rules", "[{level: Loud}]": "Unsupported value", "[{level: None, omitStages: [Never]}]": "allowed stages",
		`[{level: None, nonResourceURLs: ["x"]}]`:                       "begin with",
		`[{level: None, nonResourceURLs: ["/x"], namespaces: [a]}]`:     "both regular resources",
		`[{level: None, resources: [{group: "", resourceNames: [a]}]}]`: "at least one resource",
		"[{}]": "rules[0].level: Required value", `[{level: None, resources: [{group: rbac/v1}]}]`: `rules[0].resources.group: Invalid value: "rbac/v1"`,
		`[{level: None, nonResourceURLs: ["/a*b"]}]`: "non-resource URL wildcards '*' must be the final character of the rule",
	} {
		if _, err := policyOf(rules); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", rules, err)
		}
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	f, err := OpenFile(FileConfig{Path: path, MaxSize: 1, MaxBackups: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 5 {
		if _, err := f.Write(make([]byte, 700<<10)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := filepath.Glob(filepath.Join(filepath.Dir(path), "audit*"))
	if err != nil || len(all) != 3 {
		t.Error(all, err)
	}
	for _, p := range all {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 700<<10 {
			t.Error(p, info, err)
		}
	}
}
