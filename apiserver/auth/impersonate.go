package auth

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Impersonate returns the user as whom the request's Impersonate headers ask to act; without such headers that is about.User. The
// headers are taken out of the request.
//
// There are five ways to be allowed to, tried in this order. Four are constrained (KEP-5284): they need leave to impersonate
// that kind of user ("impersonate:serviceaccount") and leave to make this very request as one ("impersonate-on:serviceaccount:get").
// The last is the old one, "impersonate", which is good for every request. allow must return nil where the attributes are allowed;
// the first refusal is the answer where no way leads through. constraint is the verb of a constrained way that did, for the audit log.
func Impersonate(req *http.Request, about authorizer.AttributesRecord, allow func(authorizer.AttributesRecord) error) (as user.Info, constraint string, err error) {
	wanted, err := wantedUser(req.Header)
	if err != nil || wanted == nil {
		return about.User, "", err
	}
	maps.DeleteFunc(req.Header, func(name string, _ []string) bool { return isImpersonation(name) })
	var refusal error
	for _, m := range impersonationModes {
		if m.applies != nil && !m.applies(wanted, about.User) {
			continue
		}
		i := impersonation{mode: m.name, requestor: about.User, allow: allow}
		if m.name == associatedNode {
			i.requestor = anyAssociatedNode(about.User)
		}
		u, err := i.check(wanted, about)
		if err == nil {
			return u, i.constraint(), nil
		}
		if refusal == nil {
			refusal = err
		}
	}
	return nil, "", refusal
}

func isImpersonation(header string) bool {
	switch header {
	case authenticationv1.ImpersonateUserHeader, authenticationv1.ImpersonateGroupHeader, authenticationv1.ImpersonateUIDHeader:
		return true
	}
	return strings.HasPrefix(header, authenticationv1.ImpersonateUserExtraHeaderPrefix)
}

// asksForAnything keeps the cost of every other request at a look at its headers' names.
func asksForAnything(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, "Impersonate-") {
			return true
		}
	}
	return false
}

// wantedUser is what the headers say, as they say it; nil where no header asks for anything.
func wantedUser(h http.Header) (*user.DefaultInfo, error) {
	if !asksForAnything(h) {
		return nil, nil
	}
	u := &user.DefaultInfo{
		Name:   h.Get(authenticationv1.ImpersonateUserHeader),
		UID:    h.Get(authenticationv1.ImpersonateUIDHeader),
		Groups: slices.Clone(h.Values(authenticationv1.ImpersonateGroupHeader)),
	}
	for name, values := range h {
		key, ok := strings.CutPrefix(name, authenticationv1.ImpersonateUserExtraHeaderPrefix)
		if !ok {
			continue
		}
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		key = extraKey(key)
		u.Extra[key] = append(u.Extra[key], values...)
	}
	if u.Name != "" {
		return u, nil
	}
	if len(u.Groups) > 0 || len(u.Extra) > 0 || u.UID != "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("requested %#v without impersonating a user name", u))
	}
	return nil, nil
}

// The constrained modes.
const (
	associatedNode = "associated-node"
	arbitraryNode  = "arbitrary-node"
	accountMode    = "serviceaccount"
	userMode       = "user-info"
)

var impersonationModes = []struct {
	name    string
	applies func(wanted *user.DefaultInfo, requestor user.Info) bool
}{
	{associatedNode, func(wanted *user.DefaultInfo, requestor user.Info) bool {
		node, ok := nodeUser(wanted.Name)
		return ok && onlyName(wanted) && runsOn(requestor, node)
	}},
	{arbitraryNode, func(wanted *user.DefaultInfo, _ user.Info) bool {
		_, ok := nodeUser(wanted.Name)
		return ok && onlyName(wanted)
	}},
	{accountMode, func(wanted *user.DefaultInfo, _ user.Info) bool {
		_, _, err := serviceaccount.SplitUsername(wanted.Name)
		return err == nil && onlyName(wanted)
	}},
	{userMode, func(wanted *user.DefaultInfo, _ user.Info) bool {
		_, isNode := nodeUser(wanted.Name)
		_, _, err := serviceaccount.SplitUsername(wanted.Name)
		return !isNode && err != nil
	}},
	{"", nil},
}

func onlyName(u *user.DefaultInfo) bool {
	return u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0
}

func nodeUser(name string) (string, bool) {
	node, ok := strings.CutPrefix(name, nodeUserPrefix)
	return node, ok && len(apivalidation.NameIsDNSSubdomain(node, false)) == 0
}

// runsOn tells whether a user is a service account by a token that is bound to the node.
func runsOn(u user.Info, node string) bool {
	_, _, err := serviceaccount.SplitUsername(u.GetName())
	names := u.GetExtra()[serviceaccount.NodeNameKey]
	return err == nil && len(names) == 1 && names[0] == node
}

// anyAssociatedNode is the requestor without what differs from node to node: leave for the associated node is leave wherever the
// account runs.
func anyAssociatedNode(u user.Info) user.Info {
	return &user.DefaultInfo{Name: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: map[string][]string{
		"authentication.kubernetes.io/associated-node-keys": slices.Sorted(maps.Keys(u.GetExtra())),
	}}
}

// impersonation is one way to be tried; mode is empty for the old one.
type impersonation struct {
	mode      string
	requestor user.Info
	allow     func(authorizer.AttributesRecord) error
}

func (i impersonation) check(wanted *user.DefaultInfo, about authorizer.AttributesRecord) (user.Info, error) {
	if i.mode != "" {
		about.User, about.Verb = i.requestor, "impersonate-on:"+i.mode+":"+about.Verb
		if err := i.allow(about); err != nil {
			return nil, err
		}
	}
	u := *wanted
	if err := i.name(&u); err != nil {
		return nil, err
	}
	if wanted.UID != "" {
		if err := i.allow(i.attributes(authenticationv1.GroupName, "uids", wanted.UID)); err != nil {
			return nil, err
		}
	}
	if err := i.groups(wanted.Groups); err != nil {
		return nil, err
	}
	if err := i.extra(wanted.Extra); err != nil {
		return nil, err
	}
	implied := user.AllAuthenticated
	if u.Name == user.Anonymous {
		implied = user.AllUnauthenticated
	}
	if !slices.Contains(u.Groups, user.AllUnauthenticated) && !slices.Contains(u.Groups, implied) {
		u.Groups = append(slices.Clone(u.Groups), implied)
	}
	return &u, nil
}

// constraint is the verb that leave for a constrained way has.
func (i impersonation) constraint() string {
	if i.mode == "" {
		return ""
	}
	return "impersonate:" + i.mode
}

func (i impersonation) attributes(group, resource, name string) authorizer.AttributesRecord {
	verb := "impersonate"
	if i.mode != "" {
		verb = i.constraint()
	}
	return authorizer.AttributesRecord{User: i.requestor, Verb: verb, APIGroup: group, APIVersion: "v1", Resource: resource, Name: name, ResourceRequest: true}
}

// group is that of users and groups, which were of the core once.
func (i impersonation) group() string {
	if i.mode == "" {
		return corev1.GroupName
	}
	return authenticationv1.GroupName
}

// name asks for the user's name, and fills in the groups that follow from it.
func (i impersonation) name(u *user.DefaultInfo) error {
	a := i.attributes(i.group(), "users", u.Name)
	if node, ok := nodeUser(u.Name); ok && i.mode != "" {
		a.Resource, a.Name, u.Groups = "nodes", node, []string{user.NodesGroup}
	}
	if i.mode == associatedNode {
		a.Name = "*"
	}
	if namespace, name, err := serviceaccount.SplitUsername(u.Name); err == nil {
		a.Resource, a.Namespace, a.Name = "serviceaccounts", namespace, name
		if len(u.Groups) == 0 {
			u.Groups = serviceaccount.MakeGroupNames(namespace)
		}
	}
	return i.allow(a)
}

// many is from how many values on leave for all of them is asked for first.
const many = 4

func (i impersonation) groups(groups []string) error {
	a := i.attributes(i.group(), "groups", "")
	if i.mode != "" {
		if slices.Contains(groups, "") {
			return notAllowed(a, "impersonating the empty string group is not allowed")
		}
		if slices.Contains(groups, user.SystemPrivilegedGroup) {
			a.Name = user.SystemPrivilegedGroup
			return notAllowed(a, "impersonating the system:masters group is not allowed")
		}
		if a.Name = "*"; len(groups) >= many && i.allow(a) == nil {
			return nil
		}
	}
	for _, g := range groups {
		a.Name = g
		if err := i.allow(a); err != nil {
			return err
		}
	}
	return nil
}

func (i impersonation) extra(extra map[string][]string) error {
	a := i.attributes(authenticationv1.GroupName, "userextras", "")
	if i.mode != "" {
		count := 0
		for _, key := range slices.Sorted(maps.Keys(extra)) {
			if err := checkExtra(key, extra[key]); err != nil {
				return notAllowed(a, err.Error())
			}
			count += len(extra[key])
		}
		if a.Subresource, a.Name = "*", "*"; count >= many && i.allow(a) == nil {
			return nil
		}
	}
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		a.Subresource = key
		for _, value := range extra[key] {
			a.Name = value
			if err := i.allow(a); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkExtra(key string, values []string) error {
	switch {
	case key == "":
		return fmt.Errorf("impersonating the empty string key in extra is not allowed")
	case len(values) == 0:
		return fmt.Errorf("impersonating empty values in extra is not allowed")
	case slices.Contains(values, ""):
		return fmt.Errorf("impersonating the empty string value in extra is not allowed")
	}
	if err := validation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key).ToAggregate(); err != nil {
		return fmt.Errorf("impersonating an invalid key in extra is not allowed: %w", err)
	}
	return nil
}

// notAllowed refuses what no leave allows in a constrained mode.
func notAllowed(a authorizer.AttributesRecord, reason string) error {
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name,
		//lint:ignore ST1005 upstream's words
		fmt.Errorf("User %q cannot %s resource %q in API group %q at the cluster scope: %s", a.User.GetName(), a.Verb, resource, a.APIGroup, reason))
}
