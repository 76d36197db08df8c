package servicecidr

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOrphans(t *testing.T) {
	cidr := func(name string, going bool, cidrs ...string) *networkingv1.ServiceCIDR {
		c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
		if going {
			c.DeletionTimestamp = &metav1.Time{}
		}
		return c
	}
	me := cidr("me", true, "10.1.0.0/24", "fd00::/112")
	for _, c := range []struct {
		name    string
		others  []*networkingv1.ServiceCIDR
		address string
		want    bool
	}{
		{"mine alone", nil, "10.1.0.9", true},
		{"mine alone, the other family", nil, "fd00::9", true},
		{"another's", nil, "10.2.0.9", false},
		{"both", []*networkingv1.ServiceCIDR{cidr("wide", false, "10.0.0.0/8")}, "10.1.0.9", false},
		{"the other goes too", []*networkingv1.ServiceCIDR{cidr("wide", true, "10.0.0.0/8")}, "10.1.0.9", true},
		{"not an address", nil, "x", false},
	} {
		all := append(c.others, me)
		if got := orphans(me, all, []networkingv1.IPAddress{{ObjectMeta: metav1.ObjectMeta{Name: c.address}}}); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
