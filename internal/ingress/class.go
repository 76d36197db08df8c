// Package ingress says what an Ingress asks for: whose it is, where requests go, and which certificates they are met with.
// All who have to agree on that share it: the proxies that serve Ingresses, the controller that writes their status, and the API
// server, which lets nodes read the certificates' Secrets.
//
// It is pure: an Ingress goes in, a description comes out.
package ingress

import (
	networkingv1 "k8s.io/api/networking/v1"
)

const (
	// Controller is what an IngressClass that is served here has in spec.controller.
	Controller = "coracle.dev/ingress"
	// ClassName is the name of the IngressClass that every cluster begins with.
	ClassName = "coracle"
	// ClassAnnotation named an Ingress's class before there was a field for it.
	ClassAnnotation = "kubernetes.io/ingress.class"
	// NodeLabel is false on nodes that do not serve Ingresses.
	NodeLabel = "coracle.dev/ingress"
)

// Ours tells whether an Ingress is to be served here. served tells of the name of an IngressClass whether its controller is Controller.
// An Ingress of no class is nobody's: those that name none get the default one when they are created.
func Ours(i *networkingv1.Ingress, served func(class string) bool) bool {
	if name := i.Spec.IngressClassName; name != nil {
		return served(*name)
	}
	name, named := i.Annotations[ClassAnnotation]
	return named && (name == ClassName || served(name))
}

// NamesSecret tells whether an Ingress takes a certificate from the Secret of its namespace that has this name.
func NamesSecret(i *networkingv1.Ingress, name string) bool {
	for _, t := range i.Spec.TLS {
		if t.SecretName == name && name != "" {
			return true
		}
	}
	return false
}
