package ingress

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options are the annotations of an Ingress.
type Options struct {
	// Redirect sends requests that come by HTTP to HTTPS, for hosts with a certificate; ForceRedirect for all others too.
	Redirect, ForceRedirect bool
	// Protocol is what backends speak, whatever their Services say; empty: what those say.
	Protocol Protocol
	// Cookie names the cookie by which a client stays with an endpoint; empty keeps none.
	Cookie string
	// ReadTimeout is how long a backend may take to begin its answer.
	ReadTimeout time.Duration
}

// Protocol is what a backend speaks.
type Protocol string

// The protocols of backends.
const (
	HTTP  Protocol = "http"
	HTTPS Protocol = "https" // HTTP/2 where the backend offers it; its certificate is not verified
	H2C   Protocol = "h2c"   // HTTP/2 without TLS, as gRPC speaks it
)

// Annotations begin with OwnPrefix; with CommonPrefix they are what most Ingresses in the world are written with.
const (
	OwnPrefix    = "ingress.coracle.dev/"
	CommonPrefix = "nginx.ingress.kubernetes.io/"
)

const (
	defaultCookie      = "INGRESSCOOKIE"
	defaultReadTimeout = 60 * time.Second
)

// annotations by name: what each does to the options. An error says what is wrong with the value.
var annotations = map[string]func(*Options, string) error{
	"ssl-redirect":       func(o *Options, v string) error { return setBool(&o.Redirect, v) },
	"force-ssl-redirect": func(o *Options, v string) error { return setBool(&o.ForceRedirect, v) },
	"backend-protocol":   setProtocol,
	"affinity": func(o *Options, v string) error {
		if v != "cookie" {
			return fmt.Errorf("%q: want cookie", v)
		}
		if o.Cookie == "" {
			o.Cookie = defaultCookie
		}
		return nil
	},
	"session-cookie-name": func(o *Options, v string) error {
		if !isToken(v) {
			return fmt.Errorf("%q is no name of a cookie", v)
		}
		o.Cookie = v
		return nil
	},
	"proxy-read-timeout": func(o *Options, v string) error {
		seconds, err := strconv.Atoi(v)
		if err != nil || seconds < 1 || seconds > 7*24*3600 {
			return fmt.Errorf("%q: want a number of seconds", v)
		}
		o.ReadTimeout = time.Duration(seconds) * time.Second
		return nil
	},
}

func parseOptions(all map[string]string) (Options, []Problem) {
	o := Options{Redirect: true, ReadTimeout: defaultReadTimeout}
	var problems []Problem
	values := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		name, own := strings.CutPrefix(key, OwnPrefix)
		if !own {
			var common bool
			if name, common = strings.CutPrefix(key, CommonPrefix); !common {
				continue
			}
		}
		set := annotations[name]
		if set == nil {
			problems = append(problems, Problem{ReasonAnnotation, fmt.Sprintf("annotation %s has no effect here", key)})
			continue
		}
		if _, twice := values[name]; twice {
			continue // our own prefix comes first
		}
		values[name] = all[key]
		if err := set(&o, all[key]); err != nil {
			problems = append(problems, Problem{ReasonAnnotation, fmt.Sprintf("annotation %s: %v", key, err)})
		}
	}
	if _, named := values["affinity"]; !named {
		o.Cookie = "" // only its name was given
	}
	return o, problems
}

func setBool(to *bool, v string) error {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return fmt.Errorf("%q: want true or false", v)
	}
	*to = b
	return nil
}

func setProtocol(o *Options, v string) error {
	switch strings.ToUpper(v) {
	case "HTTP", "AUTO_HTTP":
		o.Protocol = HTTP
	case "HTTPS", "GRPCS":
		o.Protocol = HTTPS
	case "GRPC", "H2C":
		o.Protocol = H2C
	default:
		return fmt.Errorf("%q: want HTTP, HTTPS, H2C, GRPC or GRPCS", v)
	}
	return nil
}

// isToken tells whether text is a token of RFC 9110, as names of cookies are.
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(c rune) bool {
		return c <= ' ' || c > '~' || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", c)
	})
}

// ProtocolOf is what a port speaks by its appProtocol. Those not known here speak HTTP.
func ProtocolOf(appProtocol *string) Protocol {
	if appProtocol == nil {
		return HTTP
	}
	switch strings.ToLower(*appProtocol) {
	case "https", "kubernetes.io/wss":
		return HTTPS
	case "kubernetes.io/h2c", "h2c", "grpc":
		return H2C
	}
	return HTTP
}
