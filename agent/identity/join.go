package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/pki"
)

const (
	joinRetry = 500 * time.Millisecond
	// joinPatience is how long a server that is not there, or a token that has signed nothing yet, is asked again.
	joinPatience = 10 * time.Second
	// joinNotice is after what time one is told that a person has to approve.
	joinNotice = 5 * time.Second
)

// JoinConfig is what Join needs.
type JoinConfig struct {
	// Server is the API server's URL, as https://10.0.0.1:6443.
	Server string
	Token  Token
	// Name is the node's.
	Name string
	// Path is the kubeconfig to write.
	Path string
	Log  *slog.Logger
}

// Join gets the machine a certificate as the node of that name and writes the kubeconfig that Open reads; the token is not needed any more then.
// IsFinal tells of an error whether trying again is of use.
func Join(ctx context.Context, cfg JoinConfig) error {
	var ca []byte
	err := patiently(ctx, func() (err error) {
		ca, err = discover(ctx, cfg.Server, cfg.Token)
		return err
	})
	if err != nil {
		return err
	}
	config := &rest.Config{Host: cfg.Server, BearerToken: cfg.Token.bearer(), TLSClientConfig: rest.TLSClientConfig{CAData: ca}}
	kube, err := client.Config{RestConfig: config, Component: "join"}.Clientset()
	if err != nil {
		return err
	}
	if err := checkName(ctx, kube, cfg); err != nil {
		return err
	}
	waiting := time.AfterFunc(joinNotice, func() {
		cfg.Log.Warn("the node's certificate is not approved yet: look at it with `kubectl get csr`, and approve it with `kubectl certificate approve`", "node", cfg.Name)
	})
	defer waiting.Stop()
	pair, err := request(ctx, kube, cfg.Name, true)
	if err != nil {
		return err
	}
	if err := pki.WriteKubeconfig(cfg.Path, cfg.Server, ca, pki.Node(cfg.Name).Name, pair); err != nil {
		return err
	}
	cfg.Log.Info("joined the cluster; the token is not needed any more", "server", cfg.Server, "node", cfg.Name)
	return nil
}

// patiently tries again for a while what may mend itself.
func patiently(ctx context.Context, f func() error) error {
	for started := time.Now(); ; {
		err := f()
		if err == nil || IsFinal(err) || time.Since(started) > joinPatience {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(joinRetry):
		}
	}
}

// checkName refuses the name of a node that is alive, as kubeadm does. The cluster's approver guards it too: see controllers/certificates.
func checkName(ctx context.Context, kube kubernetes.Interface, cfg JoinConfig) error {
	n, err := kube.CoreV1().Nodes().Get(ctx, cfg.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err): // a token of another group may join, but not look
		return nil
	case apierrors.IsUnauthorized(err):
		return final("the cluster does not take the token %s: it has expired, or is not for authentication; make a new one with `coracle token create`", cfg.Token.ID)
	case err != nil:
		return unreachable(cfg.Server, err)
	}
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady && c.Status == v1.ConditionTrue {
			return final("a node %q is there already and Ready: choose another name with --node-name, or delete the node if it is this machine", cfg.Name)
		}
	}
	return nil
}

// refused words what became of a certificate request.
func refused(err error) error {
	if apierrors.IsForbidden(err) {
		return final("this token may not ask for a node's certificate: %w", err)
	}
	return fmt.Errorf("the node's certificate: %w", err)
}
