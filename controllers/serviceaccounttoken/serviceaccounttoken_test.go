package serviceaccounttoken

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestFill(t *testing.T) {
	signed := 0
	c := &Controller{rootCA: []byte("CA"), sign: func(sa *corev1.ServiceAccount, secret string) (string, error) {
		signed++
		return sa.Name + " by " + secret, nil
	}}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "robot", UID: "u1"}}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot"}}}
	full, err := c.fill(secret, sa)
	if err != nil || string(full.Data["token"]) != "robot by s" || string(full.Data["ca.crt"]) != "CA" || string(full.Data["namespace"]) != "ns" || full.Annotations[corev1.ServiceAccountUIDKey] != "u1" {
		t.Fatalf("%+v, %v", full, err)
	}
	if secret.Data != nil || len(secret.Annotations) != 1 {
		t.Error("the informer's object was changed")
	}
	if again, err := c.fill(full, sa); again != nil || err != nil || signed != 1 {
		t.Errorf("a full Secret is written again: %+v, %v, %d signatures", again, err, signed)
	}
	c.rootCA = []byte("new CA")
	renewed, err := c.fill(full, sa)
	if err != nil || string(renewed.Data["ca.crt"]) != "new CA" || signed != 1 {
		t.Errorf("%+v, %v", renewed, err)
	}
	if other := (&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{UID: "u2"}}); isFor(full, other) || !isFor(secret, other) {
		t.Error("a Secret is for another life of its account")
	}
}
