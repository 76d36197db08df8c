package lifecycle

// Reasons of waiting containers, failed pods and conditions, as the kubelet writes them.
const (
	ReasonContainerCreating = "ContainerCreating"
	ReasonPodInitializing   = "PodInitializing"
	ReasonCrashLoop         = "CrashLoopBackOff"
	ReasonImagePullBackOff  = "ImagePullBackOff"
	ReasonErrImagePull      = "ErrImagePull"
	ReasonImageNeverPull    = "ErrImageNeverPull"
	ReasonInvalidImage      = "InvalidImageName"
	ReasonConfig            = "CreateContainerConfigError"
	ReasonCreateContainer   = "CreateContainerError"
	ReasonRunContainer      = "RunContainerError"
	ReasonPostStart         = "PostStartHookError"
	ReasonPreStart          = "PreStartHookError"
	ReasonDeadline          = "DeadlineExceeded"
	ReasonEvicted           = "Evicted"
	ReasonStatusUnknown     = "ContainerStatusUnknown"
	ReasonCompleted         = "Completed"
	ReasonError             = "Error"
	ReasonOOMKilled         = "OOMKilled"
)

const (
	condUnready       = "ContainersNotReady"
	condUninitialized = "ContainersNotInitialized"
	condCompleted     = "PodCompleted"
	condFailed        = "PodFailed"
	condUnknown       = "UnknownContainerStatuses"
	condGates         = "ReadinessGatesNotReady"
)

// deadlineMessage is what a pod past its activeDeadlineSeconds says.
const deadlineMessage = "Pod was active on the node longer than the specified deadline"
