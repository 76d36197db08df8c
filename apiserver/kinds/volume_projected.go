package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of a projected token's life, in seconds.
const (
	minTokenSeconds = 10 * 60
	maxTokenSeconds = 1 << 32
)

// Bounds of a pod certificate's life, in seconds: of any signer's, and of Kubernetes' own.
const (
	minCertificateSeconds           = 3600
	maxCertificateSeconds           = 91 * 24 * 3600
	maxKubernetesCertificateSeconds = 24 * 3600
)

// projection is one check of a projected volume: no two of its files may have one path.
type projection struct {
	path  *field.Path
	files sets.Set[string]
	errs  field.ErrorList
}

func validateProjected(s *corev1.ProjectedVolumeSource, path *field.Path) field.ErrorList {
	p := &projection{path: path, files: sets.New[string](), errs: validateFileMode(s.DefaultMode, path.Child("defaultMode"))}
	for i := range s.Sources {
		p.source(&s.Sources[i], path.Child("sources").Index(i))
	}
	return p.errs
}

func (p *projection) add(errs ...*field.Error) { p.errs = append(p.errs, errs...) }

// file notes a path that is taken; named is what an error about it shows.
func (p *projection) file(path, named string) {
	if path == "" {
		return
	}
	if p.files.Has(path) {
		p.add(field.Invalid(p.path, named, "conflicting duplicate paths"))
	}
	p.files.Insert(path)
}

func (p *projection) source(s *corev1.VolumeProjection, path *field.Path) {
	count := 0
	if v := s.Secret; v != nil {
		count++
		p.keys(v.Name, v.Items, path.Child("secret"))
	}
	if v := s.ConfigMap; v != nil {
		count++
		p.keys(v.Name, v.Items, path.Child("configMap"))
	}
	if v := s.DownwardAPI; v != nil {
		count++
		for i := range v.Items {
			p.add(validateDownwardFile(&v.Items[i], path.Child("downwardAPI"))...)
			p.file(v.Items[i].Path, v.Items[i].Path)
		}
	}
	if v := s.ServiceAccountToken; v != nil {
		count++
		p.token(v, path.Child("serviceAccountToken"))
	}
	if v := s.ClusterTrustBundle; v != nil {
		count++
		p.trustBundle(v, path.Child("clusterTrustBundle"))
	}
	if v := s.PodCertificate; v != nil {
		count++
		p.certificate(v, path.Child("podCertificate"))
	}
	if count > 1 {
		p.add(field.Forbidden(path, "may not specify more than 1 volume type per source"))
	}
}

func (p *projection) keys(name string, items []corev1.KeyToPath, path *field.Path) {
	p.add(required(path, namedValue{"name", name})...)
	p.add(validateKeyPaths(items, path.Child("items"))...)
	for i := range items {
		p.file(items[i].Path, name)
	}
}

func (p *projection) token(t *corev1.ServiceAccountTokenProjection, path *field.Path) {
	if seconds := t.ExpirationSeconds; seconds != nil {
		if *seconds < minTokenSeconds {
			p.add(field.Invalid(path.Child("expirationSeconds"), *seconds, "may not specify a duration less than 10 minutes"))
		}
		if *seconds > maxTokenSeconds {
			p.add(field.Invalid(path.Child("expirationSeconds"), *seconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	// Upstream names the volume's path here, not the token's.
	if t.Path == "" {
		p.add(field.Required(p.path.Child("path"), ""))
	} else {
		p.add(localPath(t.Path, p.path.Child("path"))...)
	}
}

func (p *projection) trustBundle(b *corev1.ClusterTrustBundleProjection, path *field.Path) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		p.add(field.Invalid(path, b, "only one of name and signerName may be used"))
	case b.Name != nil:
		if *b.Name == "" {
			p.add(field.Required(path.Child("name"), "must be a valid object name"))
		}
		for _, msg := range trustBundleName(*b.Name) {
			p.add(field.Invalid(path.Child("name"), *b.Name, "not a valid clustertrustbundlename: "+msg))
		}
		if b.LabelSelector != nil {
			p.add(field.Invalid(path.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			p.add(field.Required(path.Child("signerName"), "must be a valid signer name"))
		}
		p.add(validateSignerName(*b.SignerName, path.Child("signerName"))...)
		p.add(validateSelector(b.LabelSelector, path.Child("labelSelector"))...)
	default:
		p.add(field.Required(path, "either name or signerName must be specified"))
	}
	p.add(required(path, namedValue{"path", b.Path})...)
	p.add(localPath(b.Path, path.Child("path"))...)
	p.file(b.Path, b.Path)
}

// trustBundleName says what is wrong with the name of a bundle: with a signer's it is "domain:signer:name".
func trustBundleName(name string) []string {
	at := strings.LastIndex(name, ":")
	if at < 0 {
		return validation.IsDNS1123Subdomain(name)
	}
	return validation.IsDNS1123Subdomain(name[at+1:])
}

var certificateKeys = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

func (p *projection) certificate(c *corev1.PodCertificateProjection, path *field.Path) {
	p.add(validateSignerName(c.SignerName, path.Child("signerName"))...)
	annotations := path.Child("userAnnotations")
	for _, key := range slices.Sorted(maps.Keys(c.UserAnnotations)) {
		p.add(validation.IsDomainPrefixedKey(annotations, key)...)
	}
	if apivalidation.ValidateAnnotationsSize(c.UserAnnotations) != nil {
		p.add(field.TooLong(annotations, "", apivalidation.TotalAnnotationSizeLimitB))
	}
	p.add(among(c.KeyType, path.Child("keyType"), certificateKeys...)...)
	if s := c.MaxExpirationSeconds; s != nil {
		p.add(validateCertificateSeconds(*s, c.SignerName, path.Child("maxExpirationSeconds"))...)
	}
	paths := 0
	for _, f := range []namedValue{{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath}} {
		if f.value != "" {
			paths++
			p.add(localPath(f.value, path.Child(f.name))...)
			p.file(f.value, f.value)
		}
	}
	if paths == 0 {
		p.add(field.Required(path, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
}

func validateCertificateSeconds(seconds int32, signer string, path *field.Path) field.ErrorList {
	longest := int32(maxCertificateSeconds)
	if domain, _, _ := strings.Cut(signer, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		longest = maxKubernetesCertificateSeconds
	}
	if seconds < minCertificateSeconds {
		return field.ErrorList{field.Invalid(path, seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be >= %d", minCertificateSeconds))}
	}
	if seconds > longest {
		return field.ErrorList{field.Invalid(path, seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", longest))}
	}
	return nil
}

// validateSignerName checks the name of a certificate signer: "example.com/signer".
func validateSignerName(name string, path *field.Path) field.ErrorList {
	const (
		maxDomain = validation.DNS1123SubdomainMaxLength
		maxPath   = validation.DNS1123SubdomainMaxLength + validation.DNS1123LabelMaxLength + 1
	)
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	domain, rest, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(rest, "/") {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	var errs field.ErrorList
	if len(domain) > maxDomain {
		errs = append(errs, field.TooLong(path, "", maxDomain))
	}
	labels := strings.Split(domain, ".")
	errs = append(errs, validateSignerPart(domain, labels, validation.IsDNS1123Label, path)...)
	if len(labels) < 2 {
		errs = append(errs, field.Invalid(path, domain, "should be a domain with at least two segments separated by dots"))
	}
	errs = append(errs, validateSignerPart(rest, strings.Split(rest, "."), validation.IsDNS1123Subdomain, path)...)
	if len(rest) > maxPath {
		errs = append(errs, field.TooLong(path, "", maxPath))
	}
	return errs
}

// validateSignerPart reports the first bad label of one part of a signer's name.
func validateSignerPart(part string, labels []string, check func(string) []string, path *field.Path) field.ErrorList {
	for _, label := range labels {
		if msgs := check(label); len(msgs) > 0 {
			var errs field.ErrorList
			for _, msg := range msgs {
				errs = append(errs, field.Invalid(path, part, fmt.Sprintf("validating label %q: %s", label, msg)))
			}
			return errs
		}
	}
	return nil
}
