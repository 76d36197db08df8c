package conformance

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// tokenTests are about how machines find the cluster and join, and about claims to devices.
var tokenTests = map[string]func(*env){
	"the cluster is found without credentials": clusterFound,
	"tokens that have expired are deleted":     tokensExpire,
	"claims are made from templates":           claimsMade,
}

// bootstrapToken makes a token that may sign and authenticate.
func (e *env) bootstrapToken(id, expiration string) {
	e.Helper()
	_, err := e.kube.CoreV1().Secrets("kube-system").Create(e.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken, StringData: map[string]string{
			"token-id": id, "token-secret": "0123456789abcdef", "expiration": expiration, "usage-bootstrap-signing": "true", "usage-bootstrap-authentication": "true",
		}}, metav1.CreateOptions{})
	e.must(err)
}

// clusterFound does as kubeadm join: it reads cluster-info as nobody, checks the token's signature, and asks the server that is named there.
func clusterFound(e *env) {
	e.bootstrapToken("finder", "")
	anonymous := kubernetes.NewForConfigOrDie(rest.AnonymousClientConfig(e.config))
	var info *corev1.ConfigMap
	e.eventually(func() error {
		var err error
		if info, err = anonymous.CoreV1().ConfigMaps("kube-public").Get(e.ctx, "cluster-info", metav1.GetOptions{}); err != nil {
			return err
		}
		if info.Data["jws-kubeconfig-finder"] == "" {
			return fmt.Errorf("not signed")
		}
		return nil
	})
	header, signature, _ := strings.Cut(info.Data["jws-kubeconfig-finder"], "..")
	mac := hmac.New(sha256.New, []byte("0123456789abcdef"))
	mac.Write([]byte(header + "." + base64.RawURLEncoding.EncodeToString([]byte(info.Data["kubeconfig"]))))
	equal(e, "signature", signature, base64.RawURLEncoding.EncodeToString(mac.Sum(nil)))
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(info.Data["kubeconfig"]))
	e.must(err)
	config.BearerToken, config.Dial = "finder.0123456789abcdef", e.config.Dial
	who, err := kubernetes.NewForConfigOrDie(config).Discovery().ServerVersion()
	e.must(err)
	if who.GitVersion == "" {
		e.Error("no version")
	}
	if _, err := anonymous.CoreV1().ConfigMaps("kube-public").List(e.ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		e.Errorf("nobody may list: %v", err)
	}
}

func tokensExpire(e *env) {
	e.bootstrapToken("passes", time.Now().Add(2*time.Second).UTC().Format(time.RFC3339))
	e.eventually(func() error {
		_, err := e.kube.CoreV1().Secrets("kube-system").Get(e.ctx, "bootstrap-token-passes", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
	e.eventually(func() error {
		info, err := e.kube.CoreV1().ConfigMaps("kube-public").Get(e.ctx, "cluster-info", metav1.GetOptions{})
		if err == nil && info.Data["jws-kubeconfig-passes"] != "" {
			err = fmt.Errorf("it still signs")
		}
		return err
	})
}

func claimsMade(e *env) {
	_, err := e.kube.ResourceV1().ResourceClaimTemplates(e.ns).Create(e.ctx, &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
			Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}}}}}, metav1.CreateOptions{})
	e.must(err)
	p, template := pod("user"), "gpu"
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "card", ResourceClaimTemplateName: &template}}
	made, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, p, metav1.CreateOptions{})
	e.must(err)
	e.eventually(func() error {
		got, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, "user", metav1.GetOptions{})
		if err != nil || len(got.Status.ResourceClaimStatuses) != 1 {
			return fmt.Errorf("%v %v", got.Status.ResourceClaimStatuses, err)
		}
		claim, err := e.kube.ResourceV1().ResourceClaims(e.ns).Get(e.ctx, *got.Status.ResourceClaimStatuses[0].ResourceClaimName, metav1.GetOptions{})
		if err == nil && (!strings.HasPrefix(claim.Name, "user-card-") || !metav1.IsControlledBy(claim, made)) {
			err = fmt.Errorf("claim %+v", claim.ObjectMeta)
		}
		return err
	})
}
