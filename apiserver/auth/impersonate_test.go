package auth

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// leave is what a requestor may: "verb resource[/sub] [namespace/]name", or "*".
type leave []string

func (l leave) allow(a authorizer.AttributesRecord) error {
	what := a.Verb + " " + a.Resource
	if a.Subresource != "" {
		what += "/" + a.Subresource
	}
	what += " "
	if a.Namespace != "" {
		what += a.Namespace + "/"
	}
	if slices.Contains(l, "*") || slices.Contains(l, what+a.Name) {
		return nil
	}
	return errors.New(what + a.Name)
}

func TestImpersonation(t *testing.T) {
	robot := "system:serviceaccount:ns:robot"
	bob := person("bob")
	agent := &user.DefaultInfo{Name: "system:serviceaccount:kube-system:agent", Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"n1"}}}
	as := func(name string, more ...string) http.Header {
		h := http.Header{"Impersonate-User": {name}}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = append(h[more[i]], more[i+1])
		}
		return h
	}
	extra := "Impersonate-Extra-Acme.com%2fproject"
	cases := []struct {
		name   string
		by     user.Info
		header http.Header
		leave  leave
		want   string // the user's name and groups, or the refusal
	}{
		{"nothing", bob, http.Header{"Accept": {"x"}}, nil, "bob"},
		{"no leave", bob, as("ann"), nil, "impersonate-on:user-info:list pods ns/"},
		{"the old way", bob, as("ann"), leave{"impersonate users ann"}, "ann system:authenticated"},
		{"old way, group refused", bob, as("ann", "Impersonate-Group", "dev"), leave{"impersonate users ann", "impersonate-on:user-info:list pods ns/"}, "impersonate:user-info users ann"},
		{"old way, groups", bob, as("ann", "Impersonate-Group", "dev", "Impersonate-Group", "ops"), leave{"impersonate users ann", "impersonate groups dev", "impersonate groups ops"}, "ann dev ops system:authenticated"},
		{"old way, account", bob, as(robot), leave{"impersonate serviceaccounts ns/robot"}, robot + " system:serviceaccounts system:serviceaccounts:ns system:authenticated"},
		{"old way, node", bob, as("system:node:n1"), leave{"impersonate users system:node:n1"}, "system:node:n1 system:authenticated"},
		{"old way, anonymous", bob, as("system:anonymous"), leave{"impersonate users system:anonymous"}, "system:anonymous system:unauthenticated"},
		{"old way, all", bob, as("ann", "Impersonate-Uid", "u1", extra, "x"), leave{"impersonate users ann", "impersonate uids u1", "impersonate userextras/acme.com/project x"}, "ann system:authenticated"},
		{"old way, masters", bob, as("ann", "Impersonate-Group", "system:masters"), leave{"*"}, "ann system:masters system:authenticated"},
		{"user", bob, as("ann", "Impersonate-Group", "dev", extra, "x"), leave{"impersonate-on:user-info:list pods ns/", "impersonate:user-info users ann", "impersonate:user-info groups dev", "impersonate:user-info userextras/acme.com/project x"}, "ann dev system:authenticated"},
		{"user, another request", bob, as("ann"), leave{"impersonate-on:user-info:get pods ns/", "impersonate:user-info users ann"}, "impersonate-on:user-info:list pods ns/"},
		{"user, masters", bob, as("ann", "Impersonate-Group", "system:masters"), leave{"impersonate-on:user-info:list pods ns/", "impersonate:user-info users ann", "impersonate:user-info groups system:masters", "impersonate:user-info groups *"},
			`groups.authentication.k8s.io "system:masters" is forbidden: User "bob" cannot impersonate:user-info resource "groups" in API group "authentication.k8s.io" at the cluster scope: impersonating the system:masters group is not allowed`},
		{"account", bob, as(robot), leave{"impersonate-on:serviceaccount:list pods ns/", "impersonate:serviceaccount serviceaccounts ns/robot"}, robot + " system:serviceaccounts system:serviceaccounts:ns system:authenticated"},
		{"account as a user", bob, as(robot), leave{"impersonate-on:user-info:list pods ns/", "impersonate:user-info users " + robot}, "impersonate-on:serviceaccount:list pods ns/"},
		{"node", bob, as("system:node:n1"), leave{"impersonate-on:arbitrary-node:list pods ns/", "impersonate:arbitrary-node nodes n1"}, "system:node:n1 system:nodes system:authenticated"},
		{"own node", agent, as("system:node:n1"), leave{"impersonate-on:associated-node:list pods ns/", "impersonate:associated-node nodes *"}, "system:node:n1 system:nodes system:authenticated"},
		{"not its own node", agent, as("system:node:n2"), leave{"impersonate-on:associated-node:list pods ns/", "impersonate:associated-node nodes *"}, "impersonate-on:arbitrary-node:list pods ns/"},
		{"group alone", bob, http.Header{"Impersonate-Group": {"system:masters"}}, leave{"*"}, `requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"system:masters"}, Extra:map[string][]string(nil)} without impersonating a user name`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			req := &http.Request{Header: c.header}
			u, _, err := Impersonate(req, authorizer.AttributesRecord{User: c.by, Verb: "list", Resource: "pods", Namespace: "ns", ResourceRequest: true}, c.leave.allow)
			got := ""
			if err != nil {
				got = err.Error()
				if u != nil && c.name != "group alone" {
					t.Error("a user beside a refusal")
				}
			} else {
				got = strings.Join(append([]string{u.GetName()}, u.GetGroups()...), " ")
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			for name := range req.Header {
				if isImpersonation(name) && c.name != "group alone" {
					t.Errorf("header %s stays", name)
				}
			}
		})
	}
}
