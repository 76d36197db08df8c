package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Identity is whom a client certificate names.
type Identity struct {
	// Name becomes the common name, which is the user's name.
	Name string
	// Groups become the organisations.
	Groups []string
}

// The identities of the cluster's own clients.
var (
	Admin             = Identity{Name: "kubernetes-admin", Groups: []string{"system:masters"}}
	Scheduler         = Identity{Name: "system:kube-scheduler"}
	ControllerManager = Identity{Name: "system:kube-controller-manager"}
	Proxy             = Identity{Name: "system:kube-proxy"}
)

// Node is the identity of a node's agent.
func Node(name string) Identity {
	return Identity{Name: "system:node:" + name, Groups: []string{"system:nodes"}}
}

// IssueClient makes a client certificate of one year.
func (p *PKI) IssueClient(id Identity) (Pair, error) {
	pair, err := p.ca.issue(&x509.Certificate{
		Subject:     subject(id.Name, id.Groups),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, p.now())
	if err != nil {
		return Pair{}, fmt.Errorf("pki: issuing a client certificate for %s: %w", id.Name, err)
	}
	return pair, nil
}

// kubeconfig is what EnsureKubeconfig was asked for.
type kubeconfig struct {
	server string
	id     Identity
}

// EnsureKubeconfig writes a kubeconfig (0600, certificates embedded) that leads to server as id, and lets Renew keep it
// current. A file that does so already, with a certificate that is not near its end, is left alone.
func (p *PKI) EnsureKubeconfig(path, server string, id Identity) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kubeconfigs[path] = kubeconfig{server, id}
	return p.ensureKubeconfig(path, server, id)
}

// renewKubeconfigs leaves files alone that were removed.
func (p *PKI) renewKubeconfigs() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for path, k := range p.kubeconfigs {
		if there, err := exists(path); there && err == nil {
			errs = append(errs, p.ensureKubeconfig(path, k.server, k.id))
		}
	}
	return errors.Join(errs...)
}

func (p *PKI) ensureKubeconfig(path, server string, id Identity) error {
	if p.kubeconfigCurrent(path, server, id) {
		return os.Chmod(path, 0o600)
	}
	pair, err := p.IssueClient(id)
	if err != nil {
		return err
	}
	return WriteKubeconfig(path, server, p.ca.pem, id.Name, pair)
}

// ClusterInfo is the kubeconfig of a cluster without user or context, as machines that want to join find it in the ConfigMap
// kube-public/cluster-info.
func (p *PKI) ClusterInfo(server string) (string, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters[""] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: p.ca.pem}
	raw, err := clientcmd.Write(*c)
	if err != nil {
		return "", fmt.Errorf("pki: encoding a kubeconfig: %w", err)
	}
	return string(raw), nil
}

// WriteKubeconfig writes a kubeconfig of one cluster, one user and one context, for its owner's eyes only.
func WriteKubeconfig(path, server string, ca []byte, user string, pair Pair) error {
	const cluster = "coracle"
	c := clientcmdapi.NewConfig()
	c.Clusters[cluster] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	c.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.Cert, ClientKeyData: pair.Key}
	c.Contexts[cluster] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: user}
	c.CurrentContext = cluster
	raw, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("pki: encoding a kubeconfig: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	return WriteFile(path, raw, 0o600)
}

// kubeconfigCurrent tells whether the current context of the file at path does what EnsureKubeconfig would.
func (p *PKI) kubeconfigCurrent(path, server string, id Identity) bool {
	c, err := clientcmd.LoadFromFile(path)
	if err != nil || c.Contexts[c.CurrentContext] == nil {
		return false
	}
	ctx := c.Contexts[c.CurrentContext]
	cluster, user := c.Clusters[ctx.Cluster], c.AuthInfos[ctx.AuthInfo]
	if cluster == nil || user == nil || cluster.Server != server || !bytes.Equal(cluster.CertificateAuthorityData, p.ca.pem) {
		return false
	}
	if _, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData); err != nil {
		return false
	}
	leaf, err := parseCert(user.ClientCertificateData)
	if err != nil || !p.current(leaf, sans{}) {
		return false
	}
	return leaf.Subject.CommonName == id.Name && slices.Equal(leaf.Subject.Organization, id.Groups)
}
