package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// merged is a kubeconfig that the lab's was merged into, and what it was before.
type merged struct {
	Path string `json:"path"`
	// Previous is the context that was the current one.
	Previous string `json:"previous,omitempty"`
	// Made tells that there was no file.
	Made bool `json:"made,omitempty"`
}

// UserKubeconfig is ~/.kube/config of the person at the keyboard: under sudo, of the one who called it.
func UserKubeconfig() (string, error) {
	home, err := os.UserHomeDir()
	if name := os.Getenv("SUDO_USER"); name != "" && os.Geteuid() == 0 {
		u, uerr := user.Lookup(name)
		if uerr != nil {
			return "", uerr
		}
		home, err = u.HomeDir, nil
	}
	return filepath.Join(home, ".kube", "config"), err
}

// MergeKubeconfig adds the lab's cluster, user and context to another kubeconfig, and makes the context the current one. Down takes them out.
func (l *Lab) MergeKubeconfig(path string) error {
	unlock, err := lock(l.Root)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := Open(l.Root, l.Name)
	if err != nil {
		return err
	}
	l.Settings = now.Settings
	if l.Merged != nil && l.Merged.Path != path {
		return fmt.Errorf("the lab's kubeconfig is merged into %s already", l.Merged.Path)
	}
	ours, err := clientcmd.LoadFromFile(l.Kubeconfig())
	if err != nil {
		return err
	}
	theirs, err := clientcmd.LoadFromFile(path)
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		theirs, err = clientcmdapi.NewConfig(), nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if l.Merged == nil {
		l.Merged = &merged{Path: path, Previous: theirs.CurrentContext, Made: made}
		if err := l.save(); err != nil { // first, so that Down knows of it
			return err
		}
	}
	name := l.Context()
	theirs.Clusters[name], theirs.AuthInfos[name], theirs.Contexts[name] = ours.Clusters[name], ours.AuthInfos[name], ours.Contexts[name]
	theirs.CurrentContext = name
	return writeUserFile(path, theirs)
}

// unmergeKubeconfig takes out again what MergeKubeconfig added. What has been changed meanwhile otherwise stays.
func (l *Lab) unmergeKubeconfig() error {
	if l.Merged == nil {
		return nil
	}
	path, name := l.Merged.Path, l.Context()
	config, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	delete(config.Clusters, name)
	delete(config.AuthInfos, name)
	delete(config.Contexts, name)
	if config.CurrentContext == name {
		config.CurrentContext = ""
		if config.Contexts[l.Merged.Previous] != nil {
			config.CurrentContext = l.Merged.Previous
		}
	}
	if l.Merged.Made && len(config.Clusters)+len(config.AuthInfos)+len(config.Contexts) == 0 {
		if err := os.Remove(path); err != nil {
			return err
		}
		_ = os.Remove(filepath.Dir(path)) // fails where others use it
		return nil
	}
	return writeUserFile(path, config)
}

// writeUserFile writes a kubeconfig with mode 0600, owned by who owns the home that it is in. A link stays one.
func writeUserFile(path string, config *clientcmdapi.Config) error {
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	uid, gid := owner(filepath.Dir(path))
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		uid, gid = owner(filepath.Dir(filepath.Dir(path)))
		if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.Chown(filepath.Dir(path), uid, gid)); err != nil {
			return err
		}
	}
	if err := writeFile(path, data, 0o600); err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

// owner is who owns a folder; this process's user where there is none.
func owner(dir string) (uid, gid int) {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return os.Geteuid(), os.Getegid()
	}
	return int(st.Uid), int(st.Gid)
}
