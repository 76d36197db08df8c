package plugin

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// APIVersion and Kind are those of the arguments in KubeSchedulerConfiguration's pluginConfig.
const (
	APIVersion = "coracle.dev/v1alpha1"
	Kind       = "GRPCPluginArgs"
)

// The limits of a deadline.
const (
	minDeadline = time.Millisecond
	maxDeadline = 10 * time.Second
)

// args are the arguments as written.
type args struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Address    string   `json:"address"`
	Deadline   string   `json:"deadline"`
	WhenDown   WhenDown `json:"whenDown"`
	Encoding   Encoding `json:"encoding"`
	CAFile     string   `json:"caFile"`
	CertFile   string   `json:"certFile"`
	KeyFile    string   `json:"keyFile"`
	ServerName string   `json:"serverName"`
}

// ParseArgs reads GRPCPluginArgs, as JSON or YAML. It refuses fields it does not know, and names every wrong one. Name, Weight,
// Filter and Score stand elsewhere in the profile and are left for the caller.
func ParseArgs(raw []byte) (Config, error) {
	var a args
	data, err := yaml.YAMLToJSONStrict(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", Kind, err)
	}
	unknown, err := json.UnmarshalStrict(data, &a)
	if err := errors.Join(append(unknown, err)...); err != nil {
		return Config{}, fmt.Errorf("%s: %w", Kind, err)
	}
	deadline, errs := a.validate()
	if err := errs.ToAggregate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", Kind, err)
	}
	return Config{
		Address: a.Address, Deadline: deadline, WhenDown: a.WhenDown, Encoding: a.Encoding,
		TLS: TLS{CAFile: a.CAFile, CertFile: a.CertFile, KeyFile: a.KeyFile, ServerName: a.ServerName},
	}, nil
}

// validate fills in defaults and lists what is wrong.
func (a *args) validate() (deadline time.Duration, errs field.ErrorList) {
	if a.APIVersion != APIVersion {
		errs = append(errs, field.NotSupported(field.NewPath("apiVersion"), a.APIVersion, []string{APIVersion}))
	}
	if a.Kind != Kind {
		errs = append(errs, field.NotSupported(field.NewPath("kind"), a.Kind, []string{Kind}))
	}
	deadline = DefaultDeadline
	if a.Deadline != "" {
		var err error
		if deadline, err = time.ParseDuration(a.Deadline); err != nil || deadline < minDeadline || deadline > maxDeadline {
			errs = append(errs, field.Invalid(field.NewPath("deadline"), a.Deadline, fmt.Sprintf("must be a duration from %v to %v", minDeadline, maxDeadline)))
		}
	}
	switch a.WhenDown {
	case "":
		a.WhenDown = Reject
	case Ignore, Reject:
	default:
		errs = append(errs, field.NotSupported(field.NewPath("whenDown"), a.WhenDown, []WhenDown{Ignore, Reject}))
	}
	switch a.Encoding {
	case "":
		a.Encoding = Protobuf
	case Protobuf, JSON:
	default:
		errs = append(errs, field.NotSupported(field.NewPath("encoding"), a.Encoding, []Encoding{JSON, Protobuf}))
	}
	return deadline, append(errs, a.validateAddress()...)
}

func (a *args) validateAddress() (errs field.ErrorList) {
	withTLS := a.CAFile+a.CertFile+a.KeyFile+a.ServerName != ""
	path, unix := strings.CutPrefix(a.Address, "unix://")
	host, port, err := net.SplitHostPort(a.Address)
	address, caFile := field.NewPath("address"), field.NewPath("caFile")
	switch {
	case a.Address == "":
		errs = append(errs, field.Required(address, ""))
	case unix && !filepath.IsAbs(path):
		errs = append(errs, field.Invalid(address, a.Address, "must be unix:/// and an absolute path"))
	case unix && withTLS:
		errs = append(errs, field.Forbidden(caFile, "a unix socket is spoken to without TLS"))
	case unix:
	case err != nil || host == "" || port == "":
		errs = append(errs, field.Invalid(address, a.Address, "must be unix:///path or host:port"))
	case withTLS && a.CAFile == "":
		errs = append(errs, field.Required(caFile, "the plug-in's certificate is checked against it"))
	case a.CAFile == "" && !loopback(host):
		errs = append(errs, field.Required(caFile, "a plug-in on another machine is spoken to with TLS"))
	}
	if (a.CertFile == "") != (a.KeyFile == "") {
		errs = append(errs, field.Required(field.NewPath("keyFile"), "certFile and keyFile go together"))
	}
	return errs
}
