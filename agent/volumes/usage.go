package volumes

import "k8s.io/apimachinery/pkg/types"

// EmptyDirPath is where the pod's emptyDir volume of that name lies.
func (m *Manager) EmptyDirPath(uid types.UID, name string) string {
	return m.volumeDir(uid, "emptyDir", name)
}
