package identity

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// What upstream calls the parts of cluster-info.
const (
	clusterInfoPath  = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
	clusterInfoLimit = 1 << 20
	kubeconfigKey    = "kubeconfig"
	signaturePrefix  = "jws-kubeconfig-"
)

// errUnsigned is told of a token that has signed nothing: one that was just made may do so in a moment.
var errUnsigned = errors.New("the cluster does not know this token, or it has expired: make a new one with `coracle token create`")

// discover asks a server that is not trusted yet for the cluster's CA, and believes it only if it is the token's. What it gives is to be trusted.
func discover(ctx context.Context, server string, t Token) (ca []byte, err error) {
	//nolint:gosec // what is read is checked by the token's hash before it is used
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+clusterInfoPath, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return nil, unreachable(server, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, clusterInfoLimit))
	if err != nil {
		return nil, unreachable(server, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, final("%s does not tell strangers of its cluster (%s of kube-public/cluster-info): to let machines join, it must be started with --anonymous-auth=all", server, resp.Status)
	case http.StatusNotFound:
		return nil, final("%s has no ConfigMap kube-public/cluster-info: is it the API server of a cluster?", server)
	default:
		return nil, unreachable(server, fmt.Errorf("%s", resp.Status))
	}
	var info v1.ConfigMap
	if err := json.Unmarshal(body, &info); err != nil {
		return nil, final("%s does not answer as an API server does: %w", server, err)
	}
	return trusted(server, info.Data, t)
}

// trusted gives the certificates of cluster-info that are the token's CA, if the token signed it.
func trusted(server string, data map[string]string, t Token) ([]byte, error) {
	text := data[kubeconfigKey]
	config, err := clientcmd.Load([]byte(text))
	if err != nil || config.Clusters[""] == nil {
		return nil, final("%s has a cluster-info without a cluster in it", server)
	}
	certs, err := parseCerts(config.Clusters[""].CertificateAuthorityData)
	if err != nil {
		return nil, final("%s has a cluster-info without a CA: %w", server, err)
	}
	var ca []byte
	for _, c := range certs {
		if hash := pin(c); hmac.Equal(hash[:], t.CA[:]) {
			ca = append(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	if ca == nil {
		return nil, final("%s is of another cluster than the token: its CA is %x, the token wants %x; nothing was sent to it", server, pin(certs[0]), t.CA)
	}
	signature, found := data[signaturePrefix+t.ID]
	if !found {
		return nil, errUnsigned
	}
	if !signed(text, signature, t) {
		return nil, final("the token is wrong: its secret is not that of the cluster's token %s", t.ID)
	}
	return ca, nil
}

// signed checks a detached signature (RFC 7515, appendix F) by HMAC with SHA-256.
func signed(text, signature string, t Token) bool {
	header, given, ok := strings.Cut(signature, "..")
	if !ok {
		return false
	}
	raw, err := base64.RawURLEncoding.DecodeString(header)
	var h struct{ Alg, Kid string }
	if err != nil || json.Unmarshal(raw, &h) != nil || h.Alg != "HS256" || h.Kid != t.ID {
		return false
	}
	mac := hmac.New(sha256.New, []byte(t.Secret))
	mac.Write([]byte(header + "." + base64.RawURLEncoding.EncodeToString([]byte(text))))
	have, err := base64.RawURLEncoding.DecodeString(given)
	return err == nil && hmac.Equal(have, mac.Sum(nil))
}

// finalError is one that trying again would not mend.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

func final(format string, args ...any) error { return finalError{fmt.Errorf(format, args...)} }

// IsFinal tells whether joining failed for a reason that trying again would not mend.
func IsFinal(err error) bool {
	var f finalError
	return errors.As(err, &f)
}

func unreachable(server string, err error) error {
	return fmt.Errorf("the server %s cannot be reached: %w", server, explain(server, err))
}

// explain says what to do about errors of TLS.
func explain(server string, err error) error {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &name):
		return final("the server's certificate is not for %s (%w): use an address that it names, or start the server with --tls-san", server, err)
	case errors.As(err, &authority):
		return final("the server's certificate is not of the cluster's CA: somebody else answers at %s (%w)", server, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return final("the server's certificate is not valid at %s, this machine's time: set the clock (%w)", time.Now().UTC().Format(time.RFC3339), err)
	}
	return err
}
