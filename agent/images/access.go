package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	ctrdimages "github.com/containerd/containerd/v2/core/images"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// pulledLabel has the fingerprints of the credentials by which an image was pulled, separated by commas, or anyone. An image without it
// was there before, or was imported.
const (
	pulledLabel = "coracle.dev/pulled-with"
	anyone      = "*"
	// maxPulled is how many fingerprints are kept; more would not fit a label.
	maxPulled = 64
)

// fingerprints stand for a credential, and for the secret that it is of: one that was rotated counts on.
func (e keyringEntry) fingerprints() []string {
	raw, err := json.Marshal(e.cred)
	if err != nil {
		return nil
	}
	out := []string{fingerprint("credential", string(raw))}
	if e.source != "" {
		out = append(out, fingerprint("secret", e.source))
	}
	return out
}

func fingerprint(kind, value string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + value))
	return hex.EncodeToString(sum[:12])
}

// Fingerprints are those of all credentials for an image, sorted; none is anonymous.
func (k Keyring) Fingerprints(image string) []string {
	var out []string
	for _, e := range k.lookup(image) {
		out = append(out, e.fingerprints()...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// MayUse tells whether a pod with these credentials may use an image that is here: one that was pulled with credentials is for those
// only who have them.
func (k Keyring) MayUse(image string, img runtime.Image) bool {
	if !Private(img) {
		return true
	}
	mine := k.Fingerprints(image)
	return slices.ContainsFunc(img.PulledWith, func(f string) bool { return slices.Contains(mine, f) })
}

// Private tells whether an image was pulled with credentials, and never without.
func Private(img runtime.Image) bool {
	return len(img.PulledWith) > 0 && !slices.Contains(img.PulledWith, anyone)
}

// pulledWith reads the label.
func pulledWith(rec ctrdimages.Image) []string {
	if label := rec.Labels[pulledLabel]; label != "" {
		return strings.Split(label, ",")
	}
	return nil
}

// keepLabels gives a record that was pulled again the labels it had, if it is the same image still: a pull replaces them.
func (s *Store) keepLabels(ctx context.Context, before *ctrdimages.Image, now ctrdimages.Image) (ctrdimages.Image, error) {
	if before == nil || before.Target.Digest != now.Target.Digest {
		return now, nil
	}
	labels := map[string]string{}
	for k, v := range before.Labels {
		labels[k] = v
	}
	if had := pulledWith(*before); had != nil {
		all := append(pulledWith(now), had...)
		slices.Sort(all)
		all = slices.Compact(all)
		if slices.Contains(all, anyone) {
			all = []string{anyone}
		}
		labels[pulledLabel] = strings.Join(all[:min(len(all), maxPulled)], ",")
	}
	now.Labels = labels
	return s.client.ImageService().Update(ctx, now, "labels")
}
