package auth

// AuthenticationConfigMap is the ConfigMap of kube-system that tells aggregated API servers how this one authenticates.
const AuthenticationConfigMap = "extension-apiserver-authentication"
