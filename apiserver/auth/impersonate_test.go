package auth

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func TestImpersonate(t *testing.T) {
	admin := person("kubernetes-admin", "system:masters")
	cases := []struct {
		name   string
		header http.Header
		asks   string // verb resource/sub namespace/name, sorted
		user   string
		groups []string
	}{
		{"nothing", http.Header{}, "", "kubernetes-admin", []string{"system:masters"}},
		{"user", http.Header{"Impersonate-User": {"ann"}}, "users /ann", "ann", []string{"system:authenticated"}},
		{"groups", http.Header{"Impersonate-User": {"ann"}, "Impersonate-Group": {"dev", "ops"}}, "groups /dev, groups /ops, users /ann", "ann", []string{"dev", "ops", "system:authenticated"}},
		{"service account", http.Header{"Impersonate-User": {"system:serviceaccount:ns:robot"}}, "serviceaccounts ns/robot", "system:serviceaccount:ns:robot", []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"}},
		{"anonymous", http.Header{"Impersonate-User": {"system:anonymous"}}, "users /system:anonymous", "system:anonymous", []string{"system:unauthenticated"}},
		{"uid and extra", http.Header{"Impersonate-User": {"ann"}, "Impersonate-Uid": {"u1"}, "Impersonate-Extra-Acme.com%2fproject": {"x"}}, "uids /u1, userextras/acme.com/project /x, users /ann", "ann", []string{"system:authenticated"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			req := &http.Request{Header: c.header}
			var asks []string
			u, err := Impersonate(req, admin, func(a authorizer.AttributesRecord) error {
				what := a.Resource
				if a.Subresource != "" {
					what += "/" + a.Subresource
				}
				asks = append(asks, what+" "+a.Namespace+"/"+a.Name)
				if a.Verb != "impersonate" || a.User != admin {
					t.Errorf("%+v", a)
				}
				return nil
			})
			slices.Sort(asks)
			if err != nil || u.GetName() != c.user || !slices.Equal(u.GetGroups(), c.groups) || strings.Join(asks, ", ") != c.asks {
				t.Errorf("%+v, asks %q, %v", u, asks, err)
			}
			if len(req.Header) != 0 {
				t.Error("headers stay:", req.Header)
			}
		})
	}
	refusal := errors.New("no")
	if u, err := Impersonate(&http.Request{Header: http.Header{"Impersonate-User": {"ann"}}}, admin, func(authorizer.AttributesRecord) error { return refusal }); !errors.Is(err, refusal) || u != nil {
		t.Error(u, err)
	}
	if _, err := Impersonate(&http.Request{Header: http.Header{"Impersonate-Group": {"system:masters"}}}, admin, func(authorizer.AttributesRecord) error { return nil }); err == nil {
		t.Error("a group without a user")
	}
}
