package controllers_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// token makes the Secret of a bootstrap token that signs; without a date it is valid for ever.
func (c *cluster) token(id, expiration string) {
	c.Helper()
	_, err := c.client.CoreV1().Secrets("kube-system").Create(c.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true", "expiration": expiration},
	}, metav1.CreateOptions{})
	c.must(err)
}

// signatures waits until cluster-info has those of these tokens and no others.
func (c *cluster) signatures(want ...string) map[string]string {
	c.Helper()
	var data map[string]string
	c.eventually("signatures", func() error {
		info, err := c.client.CoreV1().ConfigMaps("kube-public").Get(c.ctx, "cluster-info", metav1.GetOptions{})
		c.must(err)
		data = info.Data
		found := 0
		for key := range data {
			if strings.HasPrefix(key, "jws-kubeconfig-") {
				found++
			}
		}
		for _, id := range want {
			if data["jws-kubeconfig-"+id] == "" {
				return fmt.Errorf("none by %s", id)
			}
		}
		if found != len(want) {
			return fmt.Errorf("%d of %d", found, len(want))
		}
		return nil
	})
	return data
}

func TestBootstrapTokens(t *testing.T) {
	c := start(t, nil)
	c.token("always", "")
	c.token("sooner", time.Now().Add(3*time.Second).UTC().Format(time.RFC3339))
	c.token("passed", "2020-01-01T00:00:00Z")
	_, err := c.client.CoreV1().ConfigMaps("kube-public").Create(c.ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "first", "other": "stays", "jws-kubeconfig-gone00": "x"},
	}, metav1.CreateOptions{})
	c.must(err)
	first := c.signatures("always", "sooner")
	for _, id := range []string{"passed", "sooner"} {
		c.eventually("the end of "+id, func() error {
			_, err := c.client.CoreV1().Secrets("kube-system").Get(c.ctx, "bootstrap-token-"+id, metav1.GetOptions{})
			if !apierrors.IsNotFound(err) {
				return errors.New("it is still there")
			}
			return nil
		})
	}
	c.signatures("always")
	_, err = c.client.CoreV1().ConfigMaps("kube-public").Patch(c.ctx, "cluster-info", "application/merge-patch+json", []byte(`{"data":{"kubeconfig":"second"}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("another signature", func() error {
		if now := c.signatures("always"); now["jws-kubeconfig-always"] == first["jws-kubeconfig-always"] || now["other"] != "stays" {
			return fmt.Errorf("%v", now)
		}
		return nil
	})
	c.must(c.client.CoreV1().Secrets("kube-system").Delete(c.ctx, "bootstrap-token-always", metav1.DeleteOptions{}))
	c.signatures()
}

func TestNodesAreToldHowLongTheirReadsAreGood(t *testing.T) {
	c := start(t, nil)
	ttls := func(nodes int, want string) {
		t.Helper()
		c.eventually("annotations "+want, func() error {
			list, err := c.client.CoreV1().Nodes().List(c.ctx, metav1.ListOptions{})
			c.must(err)
			if len(list.Items) != nodes {
				return fmt.Errorf("%d nodes", len(list.Items))
			}
			for _, n := range list.Items {
				if got, has := n.Annotations["node.alpha.kubernetes.io/ttl"]; !has || got != want {
					return fmt.Errorf("%s has %q", n.Name, got)
				}
			}
			return nil
		})
	}
	c.node("n0")
	ttls(1, "0")
	for i := 1; i <= 100; i++ {
		_, err := c.client.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i), Annotations: map[string]string{"mine": "stays"}}}, metav1.CreateOptions{})
		c.must(err)
	}
	ttls(101, "15")
	for i := 90; i <= 100; i++ { // one more would be less than 90
		c.must(c.client.CoreV1().Nodes().Delete(c.ctx, fmt.Sprint("n", i), metav1.DeleteOptions{}))
	}
	ttls(90, "15")
	c.must(c.client.CoreV1().Nodes().Delete(c.ctx, "n89", metav1.DeleteOptions{}))
	ttls(89, "0")
	n, err := c.client.CoreV1().Nodes().Get(c.ctx, "n1", metav1.GetOptions{})
	c.must(err)
	if n.Annotations["mine"] != "stays" {
		t.Errorf("annotations %v", n.Annotations)
	}
}
