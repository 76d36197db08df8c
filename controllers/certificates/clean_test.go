package certificates

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestExpiry(t *testing.T) {
	made := time.Unix(1_000_000, 0)
	at := func(t certificatesv1.RequestConditionType, after time.Duration) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: t, Status: corev1.ConditionTrue, LastUpdateTime: metav1.NewTime(made.Add(after))}
	}
	for _, c := range []struct {
		name       string
		issued     bool
		conditions []certificatesv1.CertificateSigningRequestCondition
		want       time.Duration
	}{
		{"pending", false, nil, 24 * time.Hour},
		{"denied", false, []certificatesv1.CertificateSigningRequestCondition{at(certificatesv1.CertificateDenied, time.Minute)}, time.Hour + time.Minute},
		{"issued", true, []certificatesv1.CertificateSigningRequestCondition{at(certificatesv1.CertificateApproved, time.Minute)}, time.Hour + time.Minute},
		{"approved, not issued", false, []certificatesv1.CertificateSigningRequestCondition{at(certificatesv1.CertificateApproved, time.Hour)}, 25 * time.Hour},
		{"failed", false, []certificatesv1.CertificateSigningRequestCondition{at(certificatesv1.CertificateApproved, 0), at(certificatesv1.CertificateFailed, time.Minute)}, time.Hour + time.Minute},
	} {
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}}
		r.Status.Conditions = c.conditions
		if c.issued {
			r.Status.Certificate = []byte("any")
		}
		if got := expiry(r).Sub(made); got != c.want {
			t.Errorf("%s: after %v, want %v", c.name, got, c.want)
		}
	}
}

func TestValidity(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, c := range []struct {
		seconds  *int32
		from, to time.Duration
	}{
		{nil, -5 * time.Minute, 365*24*time.Hour - 5*time.Minute},
		{ptr.To[int32](60), -5 * time.Minute, 10 * time.Minute},
		{ptr.To[int32](3600), -5 * time.Minute, time.Hour},
		{ptr.To[int32](24 * 3600), -5 * time.Minute, 24*time.Hour - 5*time.Minute},
		{ptr.To[int32](2_000_000_000), -5 * time.Minute, 365*24*time.Hour - 5*time.Minute},
	} {
		from, to := validity(c.seconds, longest, now)
		if from.Sub(now) != c.from || to.Sub(now) != c.to {
			t.Errorf("%v: %v to %v", ptr.Deref(c.seconds, 0), from.Sub(now), to.Sub(now))
		}
	}
}
