package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// pullImage makes sure that the container's image is here, as its pull policy says.
func (w *worker) pullImage(ctx context.Context, pod *v1.Pod, act lifecycle.Action) (func(*lifecycle.State), error) {
	c := containerSpec(pod, act.Container)
	img, err := w.image(ctx, pod, c)
	if err != nil {
		if ctx.Err() == nil {
			var r *reasonError
			if errors.As(err, &r) {
				w.a.containerEvent(pod, c, v1.EventTypeWarning, "Failed", "Error: %s", r.reason)
			}
		}
		return nil, err
	}
	return func(s *lifecycle.State) {
		if now := containerSpec(s.Pod, c.Name); now != nil && now.Image == c.Image {
			s.Images[c.Name], w.images[c.Name] = img.ID, img
		}
	}, nil
}

func (w *worker) image(ctx context.Context, pod *v1.Pod, c *v1.Container) (runtime.Image, error) {
	if _, err := images.Normalize(c.Image); err != nil {
		err = saying(fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err))
		w.a.containerEvent(pod, c, v1.EventTypeWarning, "InspectFailed", "%s", err)
		return runtime.Image{}, because(lifecycle.ReasonInvalidImage, err)
	}
	policy := pullPolicy(c)
	if policy != v1.PullAlways {
		img, err := w.a.cfg.Images.Get(ctx, c.Image)
		if err != nil && !errdefs.IsNotFound(err) {
			return img, because("ImageInspectError", err)
		}
		usable := err == nil
		if usable && images.Private(img) {
			ring, err := w.keyring(ctx, pod)
			if err != nil {
				return img, err
			}
			usable = ring.MayUse(c.Image, img)
		}
		if usable {
			w.a.garbage.Used(img.ID)
			w.a.containerEvent(pod, c, v1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
			return img, nil
		}
		if policy == v1.PullNever {
			err := saying(fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image))
			w.a.containerEvent(pod, c, v1.EventTypeWarning, "ErrImageNeverPull", "%s", err)
			return img, because(lifecycle.ReasonImageNeverPull, err)
		}
	}
	return w.pull(ctx, pod, c)
}

// saying is an error in words that users know from the kubelet, capital letter included.
type saying string

func (s saying) Error() string { return string(s) }

// pullPolicy is the container's own, or what upstream's defaulting makes of none.
func pullPolicy(c *v1.Container) v1.PullPolicy {
	if c.ImagePullPolicy != "" {
		return c.ImagePullPolicy
	}
	name := c.Image[strings.LastIndexByte(c.Image, '/')+1:]
	if _, tag, ok := strings.Cut(name, ":"); (!ok || tag == "latest") && !strings.Contains(name, "@") {
		return v1.PullAlways
	}
	return v1.PullIfNotPresent
}

func (w *worker) pull(ctx context.Context, pod *v1.Pod, c *v1.Container) (runtime.Image, error) {
	w.a.containerEvent(pod, c, v1.EventTypeNormal, "Pulling", "Pulling image %q", c.Image)
	began := time.Now()
	ring, err := w.keyring(ctx, pod)
	if err != nil {
		return runtime.Image{}, err
	}
	img, took, err := w.a.pulls.pull(ctx, c.Image, ring)
	if ctx.Err() != nil {
		return img, ctx.Err()
	}
	if err != nil {
		w.a.containerEvent(pod, c, v1.EventTypeWarning, "Failed", "Failed to pull image %q: %s", c.Image, err)
		return img, because(lifecycle.ReasonErrImagePull, err)
	}
	w.a.garbage.Used(img.ID)
	w.a.garbage.Pulled()
	w.a.containerEvent(pod, c, v1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %s (%s including waiting). Image size: %d bytes.",
		c.Image, took.Truncate(time.Millisecond), time.Since(began).Truncate(time.Millisecond), img.Size)
	return img, nil
}

// keyring gathers the credentials of the pod's pull secrets. One that is missing is told of and left out.
func (w *worker) keyring(ctx context.Context, pod *v1.Pod) (images.Keyring, error) {
	var ring images.Keyring
	for _, ref := range pod.Spec.ImagePullSecrets {
		s, err := w.a.objects.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			if ctx.Err() != nil {
				return ring, ctx.Err()
			}
			if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
				w.a.event(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret", fmt.Sprintf(
					"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
				continue
			}
			return ring, because(lifecycle.ReasonErrImagePull, err)
		}
		for _, key := range []string{v1.DockerConfigJsonKey, v1.DockerConfigKey} {
			if data, ok := s.Data[key]; ok {
				if err := ring.AddSecret(fmt.Sprintf("%s/%s/%s", s.Namespace, s.Name, s.UID), data); err != nil {
					w.log.Warn("pull secret not read", "secret", ref.Name, "error", err)
				}
			}
		}
	}
	return ring, nil
}
