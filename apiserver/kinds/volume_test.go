package kinds

import (
	"strings"
	"testing"
)

func TestValidateVolumes(t *testing.T) {
	withVolumes := func(volumes string) string { return `{containers: [{name: a, image: b}], volumes: [` + volumes + `]}` }
	testPodSpecs(t, []podCase{
		{"all good", withVolumes(`{name: a}, {name: b, hostPath: {path: /x, type: Directory}}, {name: c, secret: {secretName: s, items: [{key: k, path: p, mode: 256}]}}, {name: d, configMap: {name: c}},
			{name: e, persistentVolumeClaim: {claimName: c}}, {name: f, nfs: {server: s, path: /p}}, {name: g, csi: {driver: d.example.com}},
			{name: h, downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}, {path: m, resourceFieldRef: {containerName: a, resource: limits.cpu}}]}},
			{name: i, image: {reference: r}}, {name: j, projected: {sources: [{secret: {name: s}}, {configMap: {name: c}}]}},
			{name: k, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}`), nil},
		{"names", withVolumes(`{emptyDir: {}}, {name: A, emptyDir: {}}, {name: x, emptyDir: {}}, {name: x, emptyDir: {}}`), []string{
			`spec.volumes[0].name: Required value`, `spec.volumes[1].name: Invalid value: "A": ` + labelRule, `spec.volumes[3].name: Duplicate value: "x"`}},
		{"two sources", withVolumes(`{name: v, emptyDir: {}, hostPath: {path: /x}, iscsi: {targetPortal: t, iqn: x, lun: 300}}`), []string{
			`spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type`,
			`spec.volumes[0].iscsi: Forbidden: may not specify more than 1 volume type`}},
		{"hostPath", withVolumes(`{name: a, hostPath: {}}, {name: b, hostPath: {path: /a/../b, type: Pipe}}`), []string{
			`spec.volumes[0].hostPath.path: Required value`,
			`spec.volumes[1].hostPath.path: Invalid value: "/a/../b": must not contain '..'`,
			`spec.volumes[1].hostPath.type: Unsupported value: "Pipe": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"`}},
		{"secret", withVolumes(`{name: a, secret: {defaultMode: 512, items: [{}, {key: k, path: /p, mode: -1}, {key: k, path: ..p}]}}`), []string{
			`spec.volumes[0].secret.secretName: Required value`,
			`spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive`,
			`spec.volumes[0].secret.items[0].key: Required value`, `spec.volumes[0].secret.items[0].path: Required value`,
			`spec.volumes[0].secret.items[1].path: Invalid value: "/p": must be a relative path`,
			`spec.volumes[0].secret.items[1].mode: Invalid value: -1: must be a number between 0 and 0777 (octal), both inclusive`,
			`spec.volumes[0].secret.items[2].path: Invalid value: "..p": must not start with '..'`}},
		{"required", withVolumes(`{name: a, configMap: {}}, {name: b, persistentVolumeClaim: {claimName: ""}}, {name: c, nfs: {server: "", path: p}}, {name: d, csi: {driver: ""}}, {name: e, image: {}}, {name: f, emptyDir: {sizeLimit: -1}}`), []string{
			`spec.volumes[0].configMap.name: Required value`, `spec.volumes[1].persistentVolumeClaim.claimName: Required value`,
			`spec.volumes[2].nfs.server: Required value`, `spec.volumes[2].nfs.path: Invalid value: "p": must be an absolute path`,
			`spec.volumes[3].csi.driver: Required value`, `spec.volumes[4].image.reference: Required value`,
			`spec.volumes[5].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity`}},
		{"downward", withVolumes(`{name: a, downwardAPI: {items: [{path: p}, {path: q, fieldRef: {fieldPath: status.podIP}}, {path: r, resourceFieldRef: {resource: limits.cpu}}]}}`), []string{
			`spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required`,
			`spec.volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: "status.podIP": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"`,
			`spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value`}},
		{"projected", withVolumes(`{name: a, projected: {sources: [{secret: {name: s, items: [{key: k, path: p}]}}, {configMap: {name: c, items: [{key: k, path: p}]}}, {serviceAccountToken: {path: t, expirationSeconds: 5}}, {secret: {name: ""}, configMap: {name: c}}]}}`), []string{
			`spec.volumes[0].projected: Invalid value: "c": conflicting duplicate paths`,
			`spec.volumes[0].projected.sources[2].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes`,
			`spec.volumes[0].projected.sources[2].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set`,
			`spec.volumes[0].projected.sources[3].secret.name: Required value`,
			`spec.volumes[0].projected.sources[3]: Forbidden: may not specify more than 1 volume type per source`}},
		{"certificates", withVolumes(`{name: a, projected: {sources: [{clusterTrustBundle: {path: b}}, {clusterTrustBundle: {path: c, signerName: x}}, {podCertificate: {signerName: example.com/x, keyType: DSA, maxExpirationSeconds: 60}}]}}`), []string{
			`spec.volumes[0].projected.sources[0].clusterTrustBundle: Required value: either name or signerName must be specified`,
			`spec.volumes[0].projected.sources[1].clusterTrustBundle.signerName: Invalid value: "x": must be a fully qualified domain and path of the form 'example.com/signer-name'`,
			`spec.volumes[0].projected.sources[2].podCertificate.keyType: Unsupported value: "DSA": supported values: "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"`,
			`spec.volumes[0].projected.sources[2].podCertificate.maxExpirationSeconds: Invalid value: 60: if provided, maxExpirationSeconds must be >= 3600`,
			`spec.volumes[0].projected.sources[2].podCertificate: Required value: specify at least one of credentialBundlePath, keyPath, and certificateChainPath`}},
		{"ephemeral", withVolumes(`{name: a, ephemeral: {}}, {name: b, ephemeral: {volumeClaimTemplate: {metadata: {name: x}, spec: {accessModes: [ReadWriteOncePod, ReadWriteOnce, Often], volumeMode: Odd, storageClassName: S}}}}, {name: c, persistentVolumeClaim: {claimName: p-b}}`), []string{
			`spec.volumes[0].ephemeral.volumeClaimTemplate: Required value`,
			`spec.volumes[1].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set`,
			`spec.volumes[1].ephemeral.volumeClaimTemplate.spec.accessModes: Unsupported value: "Often": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"`,
			`spec.volumes[1].ephemeral.volumeClaimTemplate.spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes`,
			`spec.volumes[1].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value`,
			`spec.volumes[1].ephemeral.volumeClaimTemplate.spec.volumeMode: Unsupported value: "Odd": supported values: "Block", "Filesystem"`,
			`spec.volumes[1].ephemeral.volumeClaimTemplate.spec.storageClassName: Invalid value: "S": ` + subdomainRule,
			`spec.volumes[2].persistentVolumeClaim.claimName: Invalid value: "p-b": must not reference a PVC that gets created for an ephemeral volume`}},
		{"legacy", withVolumes(`{name: a, gcePersistentDisk: {pdName: "", partition: 256}}, {name: b, iscsi: {targetPortal: t, iqn: "iqn.bad", lun: 256, chapAuthSession: true}}, {name: c, rbd: {monitors: [], image: ""}}, {name: d, flocker: {}}, {name: e, fc: {targetWWNs: [a]}}, {name: f, azureDisk: {diskName: disk, diskURI: u, kind: Managed}}, {name: g, quobyte: {registry: r, volume: v}}, {name: h, flexVolume: {driver: d, options: {k8s.io/x: b}}}, {name: i, storageos: {volumeName: V}}`), []string{
			`spec.volumes[0].persistentDisk.pdName: Required value`,
			`spec.volumes[0].persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive`,
			`spec.volumes[1].iscsi.iqn: Invalid value: "iqn.bad": must be valid format`,
			`spec.volumes[1].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive`,
			`spec.volumes[1].iscsi.secretRef: Required value`,
			`spec.volumes[2].rbd.monitors: Required value`, `spec.volumes[2].rbd.image: Required value`,
			`spec.volumes[3].flocker: Required value: one of datasetName and datasetUUID is required`,
			`spec.volumes[4].fc.lun: Required value: lun is required if targetWWNs is specified`,
			`spec.volumes[5].azureDisk.diskURI: Unsupported value: "u": supported values: "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"`,
			`spec.volumes[6].quobyte.registry: Invalid value: "r": must be a host:port pair or multiple pairs separated by commas`,
			`spec.volumes[7].flexVolume.options[k8s.io/x]: Invalid value: "k8s.io/x": kubernetes.io and k8s.io namespaces are reserved`,
			`spec.volumes[8].storageos.volumeName: Invalid value: "V": ` + labelRule}},
	})
}

func TestValidateMounts(t *testing.T) {
	with := func(fields string) string {
		return `{containers: [{name: a, image: b, ` + fields + `}], volumes: [{name: v}, {name: c, persistentVolumeClaim: {claimName: c}}]}`
	}
	testPodSpecs(t, []podCase{
		{"names and places", with(`volumeMounts: [{name: "", mountPath: ""}, {name: x, mountPath: /x}, {name: v, mountPath: /x}]`), []string{
			`spec.containers[0].volumeMounts[0].name: Required value`, `spec.containers[0].volumeMounts[0].name: Not found: ""`,
			`spec.containers[0].volumeMounts[0].mountPath: Required value`, `spec.containers[0].volumeMounts[1].name: Not found: "x"`,
			`spec.containers[0].volumeMounts[2].mountPath: Invalid value: "/x": must be unique`}},
		{"sub paths", with(`volumeMounts: [{name: v, mountPath: /x, subPath: ../p}, {name: v, mountPath: /z, subPath: p, subPathExpr: /q}]`), []string{
			`spec.containers[0].volumeMounts.subPath: Invalid value: "../p": must not contain '..'`,
			`spec.containers[0].volumeMounts[1].subPathExpr: Invalid value: "/q": subPathExpr and subPath are mutually exclusive`,
			`spec.containers[0].volumeMounts.subPathExpr: Invalid value: "/q": must be a relative path`}},
		{"propagation", with(`volumeMounts: [{name: v, mountPath: /x, mountPropagation: Bidirectional}, {name: v, mountPath: /z, mountPropagation: Any}, {name: v, mountPath: /u, recursiveReadOnly: Enabled}]`), []string{
			`spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers`,
			`spec.containers[0].volumeMounts.mountPropagation: Unsupported value: "Any": supported values: "Bidirectional", "HostToContainer", "None"`,
			`spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true`}},
		{"devices", with(`volumeDevices: [{name: v, devicePath: /dev/x}, {name: c, devicePath: /dev/../x}, {name: z, devicePath: ""}], volumeMounts: [{name: c, mountPath: /c}]`), []string{
			`spec.containers[0].volumeDevices[0].name: Invalid value: "v": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode`,
			`spec.containers[0].volumeDevices[1].devicePath: Invalid value: "/dev/../x": can not contain backsteps ('..')`,
			`spec.containers[0].volumeDevices[1].name: Invalid value: "c": must not already exist in volumeMounts`,
			`spec.containers[0].volumeDevices[2].name: Not found: "z"`, `spec.containers[0].volumeDevices[2].devicePath: Required value`,
			`spec.containers[0].volumeMounts[0].name: Invalid value: "c": must not already exist in volumeDevices`}},
		{"mount of a bad volume", `{containers: [{name: a, image: b, volumeMounts: [{name: s, mountPath: /s}]}], volumes: [{name: s, secret: {}}]}`, []string{
			`spec.volumes[0].secret.secretName: Required value`, `spec.containers[0].volumeMounts[0].name: Not found: "s"`}},
	})
}

func TestValidatePodSecurity(t *testing.T) {
	testPodSpecs(t, []podCase{
		{"ids", `{containers: [{name: a, image: b, securityContext: {runAsUser: -1, runAsGroup: -1}}], securityContext: {fsGroup: -1, runAsUser: 5000000000, supplementalGroups: [1, -1]}}`, []string{
			`spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive`,
			`spec.containers[0].securityContext.runAsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive`,
			`spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive`,
			`spec.securityContext.runAsUser: Invalid value: 5000000000: must be between 0 and 2147483647, inclusive`,
			`spec.securityContext.supplementalGroups[1]: Invalid value: -1: must be between 0 and 2147483647, inclusive`}},
		{"privileges", `containers: [{name: a, image: b, securityContext: {privileged: true, allowPrivilegeEscalation: false}}]`, []string{
			"spec.containers[0].securityContext: Invalid value: {\"privileged\":true,\"allowPrivilegeEscalation\":false}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true"}},
		{"profiles", `{containers: [{name: a, image: b, securityContext: {procMount: Odd, seccompProfile: {type: Localhost}, appArmorProfile: {type: Localhost, localhostProfile: " x"}}}], securityContext: {seccompProfile: {type: Odd}, appArmorProfile: {type: ""}}}`, []string{
			`spec.containers[0].securityContext.procMount: Unsupported value: "Odd": supported values: "Default", "Unmasked"`,
			`spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost`,
			`spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: " x": must not be padded with whitespace`,
			`spec.securityContext.seccompProfile.type: Unsupported value: "Odd": supported values: "Localhost", "RuntimeDefault", "Unconfined"`,
			`spec.securityContext.appArmorProfile.type: Required value: type is required when appArmorProfile is set`}},
		{"host namespaces", `{containers: [{name: a, image: b}], hostPID: true, hostNetwork: true, hostUsers: false, shareProcessNamespace: true}`, []string{
			`spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled`,
			"spec.hostNetwork: Forbidden: when `hostUsers` is false", "spec.HostPID: Forbidden: when `hostUsers` is false"}},
		{"sysctls", `{containers: [{name: a, image: b}], hostNetwork: true, securityContext: {sysctls: [{name: "", value: x}, {name: net.ipv4.tcp_syncookies, value: "1"}, {name: a..b, value: x}]}}`, []string{
			`spec.securityContext.sysctls[0].name: Required value`,
			`spec.securityContext.sysctls[1].name: Invalid value: "net.ipv4.tcp_syncookies": may not be specified when 'hostNetwork' is true`,
			`spec.securityContext.sysctls[2].name: Invalid value: "a..b": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`}},
		{"policies", `{containers: [{name: a, image: b}], securityContext: {fsGroupChangePolicy: A, supplementalGroupsPolicy: B, seLinuxChangePolicy: C}}`, []string{
			`spec.securityContext.fsGroupChangePolicy: Unsupported value: "A": supported values: "Always", "OnRootMismatch"`,
			`spec.securityContext.supplementalGroupsPolicy: Unsupported value: "B": supported values: "Merge", "Strict"`,
			`spec.securityContext.seLinuxChangePolicy: Unsupported value: "C": supported values: "MountOption", "Recursive"`}},
		{"windows", `{containers: [{name: a, image: b, securityContext: {windowsOptions: {hostProcess: true, runAsUserName: "a\\b\\c"}}}, {name: c, image: d}], os: {name: linux}}`, []string{
			`spec.containers[0].securityContext.windowsOptions.runAsUserName: Invalid value: "a\\b\\c": runAsUserName cannot contain more than one backslash`,
			`spec.containers[0].securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod`,
			`spec: Invalid value: "": If pod contains any hostProcess containers then all containers must be HostProcess containers`,
			`spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers`}},
	})
}

func TestValidateScheduling(t *testing.T) {
	with := func(fields string) string {
		return strings.TrimSuffix(`{containers: [{name: a, image: b}], `+fields, ",") + `}`
	}
	testPodSpecs(t, []podCase{
		{"node affinity", with(`affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: k, operator: In}, {key: k, operator: Exists, values: [v]}, {key: k, operator: Gt, values: ["1", "2"]}, {key: k, operator: Like}, {key: "a b", operator: In, values: ["c d"]}], matchFields: [{key: metadata.name, operator: In, values: [n1]}, {key: spec.x, operator: Exists}]}]}, preferredDuringSchedulingIgnoredDuringExecution: [{weight: 101, preference: {}}]}}`), []string{
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[2].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[3].operator: Invalid value: "Like": not a valid selector operator`,
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[4].key: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[4].values[0]: Invalid value: "c d": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`,
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[1].operator: Invalid value: "Exists": not a valid selector operator`,
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[1].key: Invalid value: "spec.x": not a valid field selector key`,
			`spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100`}},
		{"no terms", with(`affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}`), []string{
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term`}},
		{"pod affinity", with(`affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: "", namespaces: [Ns], matchLabelKeys: [a]}]}, podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 0, podAffinityTerm: {topologyKey: zone, labelSelector: {matchLabels: {a: b}, matchExpressions: [{key: k, operator: In}]}, matchLabelKeys: [x], mismatchLabelKeys: [x]}}]}}`), []string{
			`spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty`,
			`spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must be non-empty`,
			`spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			`spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespace: Invalid value: "Ns": ` + labelRule,
			`spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set`,
			`spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100`,
			`spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector.matchExpressions[0].values: Required value: must be specified when ` + "`operator` is 'In' or 'NotIn'",
			`spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.matchLabelKeys[0]: Invalid value: "x": exists in both matchLabelKeys and mismatchLabelKeys`}},
		{"spread", with(`topologySpreadConstraints: [{maxSkew: 0, topologyKey: "", whenUnsatisfiable: Never, labelSelector: {}}, {maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway, minDomains: 0, labelSelector: {}, nodeTaintsPolicy: Odd}, {maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway, labelSelector: {}}]`), []string{
			`spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero`,
			`spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty`,
			`spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Never": supported values: "DoNotSchedule", "ScheduleAnyway"`,
			`spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value: "{z, ScheduleAnyway}"`,
			`spec.topologySpreadConstraints[1].minDomains: Invalid value: 0: must be greater than zero`,
			`spec.topologySpreadConstraints[1].minDomains: Invalid value: 0: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway`,
			`spec.topologySpreadConstraints[1].nodeTaintsPolicy: Unsupported value: "Odd": supported values: "Honor", "Ignore"`}},
		{"tolerations", with(`tolerations: [{operator: Equal}, {key: k, operator: Exists, value: v}, {key: k, operator: Like}, {key: k, effect: Never, tolerationSeconds: 1}, {key: k, operator: Gt, value: "1"}]`), []string{
			"spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
			"spec.tolerations[1].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
			`spec.tolerations[2].operator: Unsupported value: "Like": supported values: "Equal", "Exists"`,
			"spec.tolerations[3].effect: Invalid value: \"Never\": effect must be 'NoExecute' when `tolerationSeconds` is set",
			`spec.tolerations[3].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
			`spec.tolerations[4].operator: Unsupported value: "Gt": supported values: "Equal", "Exists", "Lt", "Gt"`}},
		{"node selector", with(`nodeSelector: {"a b": c}`), []string{
			`spec.nodeSelector: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`}},
	})
}
