package podspec

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// EnvFile names a file in one of the pod's volumes.
type EnvFile struct{ Volume, Path string }

// EnvFileRefs are the files that the container's environment reads.
func EnvFileRefs(c *v1.Container) []EnvFile {
	var out []EnvFile
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil {
			out = append(out, EnvFile{e.ValueFrom.FileKeyRef.VolumeName, e.ValueFrom.FileKeyRef.Path})
		}
	}
	return out
}

// fileValue is the value that a key has in a file; not ok where it is optional and there is none.
func fileValue(r *v1.FileKeySelector, src Sources) (value string, ok bool, err error) {
	text, found := src.Files[EnvFile{r.VolumeName, r.Path}]
	var values map[string]string
	if found {
		if values, err = parseEnvFile(text); err != nil {
			return "", false, fmt.Errorf("couldn't parse env file %q of volume %q: %w", r.Path, r.VolumeName, err)
		}
	}
	if value, ok = values[r.Key]; ok || r.Optional != nil && *r.Optional {
		return value, ok, nil
	}
	return "", false, fmt.Errorf("environment variable key %q not found in file %q of volume %q", r.Key, r.Path, r.VolumeName)
}

// parseEnvFile reads NAME='value' lines, as Kubernetes has them in files for variables: a value stands in single quotes, means
// itself to the letter and may span lines; around the sign and at a line's ends there may be blanks; lines that are empty or
// begin with # count for nothing. Of two values for one name the later one counts.
func parseEnvFile(text string) (map[string]string, error) {
	values := map[string]string{}
	for number := 1; text != ""; number++ {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || strings.HasPrefix(trimmed, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimLeft(line, " \t"), "=")
		name, value = strings.TrimRight(name, " \t"), strings.TrimLeft(value, " \t")
		if !ok || name == "" || !strings.HasPrefix(value, "'") {
			return nil, fmt.Errorf("line %d is not of the form NAME='value'", number)
		}
		begun := number
		value, rest, closed := strings.Cut(value[1:], "'")
		for !closed {
			if text == "" {
				return nil, fmt.Errorf("the value that begins in line %d has no end", begun)
			}
			var part string
			line, text, _ = strings.Cut(text, "\n")
			number++
			part, rest, closed = strings.Cut(line, "'")
			value += "\n" + part
		}
		if strings.TrimSpace(rest) != "" {
			return nil, fmt.Errorf("line %d goes on after its value", number)
		}
		values[name] = value
	}
	return values, nil
}
