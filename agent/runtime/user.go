package runtime

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// passwdEntry is one line of /etc/passwd, groupEntry one of /etc/group.
type passwdEntry struct {
	name     string
	uid, gid uint32
}

type groupEntry struct {
	name    string
	gid     uint32
	members []string
}

func parsePasswd(data []byte) (out []passwdEntry) {
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		uid, uerr := strconv.ParseUint(f[2], 10, 32)
		gid, gerr := strconv.ParseUint(f[3], 10, 32)
		if uerr == nil && gerr == nil {
			out = append(out, passwdEntry{f[0], uint32(uid), uint32(gid)})
		}
	}
	return out
}

func parseGroup(data []byte) (out []groupEntry) {
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			out = append(out, groupEntry{f[0], uint32(gid), strings.Split(f[3], ",")})
		}
	}
	return out
}

// resolveUser decides as whom a container runs: the security context's UID, else the image's USER, and the
// groups that the image's files give that user, to which the pod's are added.
func resolveUser(sec Security, img Rootfs) (specs.User, error) {
	users, groups := parsePasswd(img.Passwd), parseGroup(img.Group)
	name, group, _ := strings.Cut(img.Config.User, ":")
	if sec.UID != nil {
		name, group = strconv.FormatInt(*sec.UID, 10), ""
	}
	if name == "" {
		name = "0"
	}
	user := specs.User{}
	entry, found := findUser(users, name)
	switch {
	case found:
		user.UID, user.GID = entry.uid, entry.gid
	default:
		uid, err := strconv.ParseUint(name, 10, 31)
		if err != nil {
			return user, fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
		}
		user.UID = uint32(uid)
	}
	if group != "" {
		gid, err := findGroup(groups, group)
		if err != nil {
			return user, err
		}
		user.GID = gid
	}
	if sec.GID != nil {
		user.GID = uint32(*sec.GID)
	}
	more := []uint32{user.GID}
	if found && !sec.StrictGroups {
		for _, g := range groups {
			if slices.Contains(g.members, entry.name) {
				more = append(more, g.gid)
			}
		}
	}
	for _, g := range sec.Groups {
		more = append(more, uint32(g))
	}
	slices.Sort(more)
	user.AdditionalGids = slices.Compact(more)
	return user, nil
}

func findUser(users []passwdEntry, name string) (passwdEntry, bool) {
	uid, err := strconv.ParseUint(name, 10, 32)
	for _, u := range users {
		if u.name == name || (err == nil && u.uid == uint32(uid)) {
			return u, true
		}
	}
	return passwdEntry{}, false
}

func findGroup(groups []groupEntry, name string) (uint32, error) {
	for _, g := range groups {
		if g.name == name {
			return g.gid, nil
		}
	}
	gid, err := strconv.ParseUint(name, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", name)
	}
	return uint32(gid), nil
}

// verifyNonRoot applies runAsNonRoot, in the kubelet's words.
func verifyNonRoot(cfg ContainerConfig, img Rootfs) error {
	if !cfg.Security.RunAsNonRoot {
		return nil
	}
	who := fmt.Sprintf("(pod: %q, container: %s)", fmt.Sprintf("%s_%s(%s)", cfg.Pod.Name, cfg.Pod.Namespace, cfg.Pod.UID), cfg.Name)
	if cfg.Security.UID != nil {
		if *cfg.Security.UID == 0 {
			return &ConfigError{"container's runAsUser breaks non-root policy " + who}
		}
		return nil
	}
	name, _, _ := strings.Cut(img.Config.User, ":")
	if name == "" {
		name = "0"
	}
	uid, err := strconv.ParseInt(name, 10, 64)
	if err != nil {
		return &ConfigError{fmt.Sprintf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", name, who)}
	}
	switch {
	case uid == 0:
		return &ConfigError{"container has runAsNonRoot and image will run as root " + who}
	case uid < 0 || uid > math.MaxInt32:
		return &ConfigError{fmt.Sprintf("container has runAsNonRoot and image has an invalid user id (%d). (Must be 1-(%d)): must be between 0 and %d, inclusive %s",
			uid, math.MaxInt32, math.MaxInt32, who)}
	}
	return nil
}

// ConfigError says that a container cannot be made of what its pod asks for: the kubelet's reason for it is
// CreateContainerConfigError.
type ConfigError struct{ Message string }

func (e *ConfigError) Error() string { return e.Message }
