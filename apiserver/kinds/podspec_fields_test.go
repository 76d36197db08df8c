package kinds

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// freeFields are the fields in a pod's spec of which every value is valid and which have no default.
var freeFields = []string{
	"AWSElasticBlockStoreVolumeSource.FSType", "AWSElasticBlockStoreVolumeSource.ReadOnly",
	"AzureFileVolumeSource.ReadOnly",
	"CSIVolumeSource.FSType", "CSIVolumeSource.ReadOnly", "CSIVolumeSource.VolumeAttributes",
	"Capabilities.Drop",
	"CephFSVolumeSource.Path", "CephFSVolumeSource.ReadOnly", "CephFSVolumeSource.SecretFile", "CephFSVolumeSource.SecretRef", "CephFSVolumeSource.User",
	"CinderVolumeSource.FSType", "CinderVolumeSource.ReadOnly",
	"ClusterTrustBundleProjection.Optional",
	"ConfigMapEnvSource.Optional", "ConfigMapKeySelector.Optional", "ConfigMapProjection.Optional", "ConfigMapVolumeSource.Optional",
	"Container.Args", "Container.Stdin", "Container.StdinOnce", "Container.TTY", "Container.WorkingDir",
	"EmptyDirVolumeSource.Medium",
	"EphemeralContainerCommon.Args", "EphemeralContainerCommon.Stdin", "EphemeralContainerCommon.StdinOnce", "EphemeralContainerCommon.TTY",
	"EphemeralContainerCommon.WorkingDir",
	"FCVolumeSource.FSType", "FCVolumeSource.ReadOnly",
	"FlexVolumeSource.FSType", "FlexVolumeSource.ReadOnly", "FlexVolumeSource.SecretRef",
	"GCEPersistentDiskVolumeSource.FSType", "GCEPersistentDiskVolumeSource.ReadOnly",
	"GitRepoVolumeSource.Revision",
	"GlusterfsVolumeSource.ReadOnly",
	"HTTPGetAction.Host", "HTTPHeader.Value",
	"ISCSIVolumeSource.FSType", "ISCSIVolumeSource.Portals", "ISCSIVolumeSource.ReadOnly",
	"NFSVolumeSource.ReadOnly",
	"PersistentVolumeClaimSpec.VolumeName", "PersistentVolumeClaimVolumeSource.ReadOnly",
	"PhotonPersistentDiskVolumeSource.FSType",
	"PodDNSConfigOption.Value",
	"PodSecurityContext.RunAsNonRoot",
	"PodSpec.AutomountServiceAccountToken", "PodSpec.Priority",
	"PortworxVolumeSource.FSType", "PortworxVolumeSource.ReadOnly",
	"QuobyteVolumeSource.Group", "QuobyteVolumeSource.ReadOnly", "QuobyteVolumeSource.User",
	"RBDVolumeSource.FSType", "RBDVolumeSource.ReadOnly", "RBDVolumeSource.SecretRef",
	"SELinuxOptions.Level", "SELinuxOptions.Role", "SELinuxOptions.Type", "SELinuxOptions.User",
	"ScaleIOVolumeSource.ProtectionDomain", "ScaleIOVolumeSource.ReadOnly", "ScaleIOVolumeSource.SSLEnabled", "ScaleIOVolumeSource.SecretRef",
	"ScaleIOVolumeSource.StoragePool",
	"SecretEnvSource.Optional", "SecretKeySelector.Optional", "SecretProjection.Optional", "SecretVolumeSource.Optional",
	"SecurityContext.RunAsNonRoot",
	"ServiceAccountTokenProjection.Audience",
	"StorageOSVolumeSource.FSType", "StorageOSVolumeSource.ReadOnly",
	"Sysctl.Value", "TCPSocketAction.Host", "VsphereVirtualDiskVolumeSource.FSType", "VsphereVirtualDiskVolumeSource.StoragePolicyID",
	"VsphereVirtualDiskVolumeSource.StoragePolicyName",
}

// TestEveryFieldIsKnown walks all fields that a pod's spec can have. Each is named in the code of pods, containers or volumes, is in
// the list above, or is below one that disabledPodFields drops. A new release's new field fails here.
func TestEveryFieldIsKnown(t *testing.T) {
	named := selectorsOf(t, "pod*.go", "podspec*.go", "container*.go", "volume*.go")
	unnamed := map[string]bool{}
	walkFields(reflect.TypeFor[corev1.PodSpec](), map[reflect.Type]bool{}, func(owner reflect.Type, f reflect.StructField) {
		if !named[f.Name] {
			unnamed[owner.Name()+"."+f.Name] = true
		}
	})
	for _, f := range freeFields {
		owner, name, _ := strings.Cut(f, ".")
		if !fieldExists(owner, name) {
			t.Errorf("%s is listed as free and does not exist", f)
		}
		delete(unnamed, f)
	}
	for f := range unnamed {
		t.Errorf("%s is neither checked nor listed as free", f)
	}
}

// droppedTypes are only reached through fields that are dropped.
var droppedTypes = []reflect.Type{reflect.TypeFor[corev1.EvictionResponder](), reflect.TypeFor[corev1.PodSchedulingGroup]()}

func walkFields(of reflect.Type, seen map[reflect.Type]bool, visit func(owner reflect.Type, f reflect.StructField)) {
	switch of.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		walkFields(of.Elem(), seen, visit)
	case reflect.Struct:
		if seen[of] || of.PkgPath() != reflect.TypeFor[corev1.PodSpec]().PkgPath() || slices.Contains(droppedTypes, of) {
			return
		}
		seen[of] = true
		for i := range of.NumField() {
			f := of.Field(i)
			if !f.Anonymous && f.Type != reflect.TypeFor[metav1.ObjectMeta]() {
				visit(of, f)
			}
			walkFields(f.Type, seen, visit)
		}
	}
}

func fieldExists(owner, name string) (found bool) {
	walkFields(reflect.TypeFor[corev1.PodSpec](), map[reflect.Type]bool{}, func(of reflect.Type, f reflect.StructField) {
		found = found || of.Name() == owner && f.Name == name
	})
	return found
}

// selectorsOf are the names after a dot in the package's files.
func selectorsOf(t *testing.T, patterns ...string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					names[s.Sel.Name] = true
				}
				return true
			})
		}
	}
	return names
}
