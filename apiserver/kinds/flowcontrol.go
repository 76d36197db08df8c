package kinds

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// What flow control is where a manifest does not say.
const (
	defaultPrecedence  = 1000
	defaultShares      = 30
	defaultQueues      = 64
	defaultHandSize    = 8
	defaultQueueLength = 50
)

func flowControls() []Kind { return []Kind{flowSchemas(), priorityLevels()} }

func flowSchemas() Kind {
	spec, level := flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc(), flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()
	return Kind{
		GVK:      flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema"),
		Resource: "flowschemas",
		Singular: "flowschema",
		Prefix:   "flowschemas",
		New:      func() runtime.Object { return &flowcontrolv1.FlowSchema{} },
		NewList:  func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },

		Default: on(func(s *flowcontrolv1.FlowSchema) { setDefault(&s.Spec.MatchingPrecedence, defaultPrecedence) }),
		PrepareCreate: on(func(s *flowcontrolv1.FlowSchema) {
			s.Status = flowcontrolv1.FlowSchemaStatus{}
		}),
		PrepareUpdate:  onUpdate(func(s, old *flowcontrolv1.FlowSchema) { s.Status = *old.Status.DeepCopy() }),
		Validate:       check(validateFlowSchema),
		ValidateUpdate: checkUpdate(validateFlowSchemaUpdate),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("PriorityLevel", "string", level["name"]),
			column("MatchingPrecedence", "string", spec["matchingPrecedence"]),
			column("DistinguisherMethod", "string", spec["distinguisherMethod"]),
			ageColumn(),
			column("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration"),
		},
		Cells: cells(flowSchemaCells),
		Status: &Subresource{
			PrepareUpdate: onUpdate(func(s, old *flowcontrolv1.FlowSchema) {
				s.Spec = *old.Spec.DeepCopy()
				s.Labels, s.Annotations, s.OwnerReferences, s.Finalizers = keptMeta(&old.ObjectMeta)
			}),
			ValidateUpdate: checkUpdate(validateFlowSchemaStatusUpdate),
		},
	}
}

func flowSchemaCells(s *flowcontrolv1.FlowSchema, now metav1.Time) []any {
	method := cellNone
	if s.Spec.DistinguisherMethod != nil {
		method = string(s.Spec.DistinguisherMethod.Type)
	}
	missing := "?"
	for _, c := range s.Status.Conditions {
		if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
			missing = string(c.Status)
			break
		}
	}
	return []any{
		s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, age(now, s.CreationTimestamp), missing,
	}
}

func priorityLevels() Kind {
	spec, limited, queuing := flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc(),
		flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc(), flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()
	return Kind{
		GVK:      flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration"),
		Resource: "prioritylevelconfigurations",
		Singular: "prioritylevelconfiguration",
		Prefix:   "prioritylevelconfigurations",
		New:      func() runtime.Object { return &flowcontrolv1.PriorityLevelConfiguration{} },
		NewList:  func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },

		Default: on(defaultPriorityLevel),
		PrepareCreate: on(func(l *flowcontrolv1.PriorityLevelConfiguration) {
			l.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
		}),
		PrepareUpdate:  onUpdate(func(l, old *flowcontrolv1.PriorityLevelConfiguration) { l.Status = *old.Status.DeepCopy() }),
		Validate:       check(validatePriorityLevel),
		ValidateUpdate: checkUpdate(validatePriorityLevelUpdate),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Type", "string", spec["type"]),
			column("NominalConcurrencyShares", "string", limited["nominalConcurrencyShares"]),
			column("Queues", "string", queuing["queues"]),
			column("HandSize", "string", queuing["handSize"]),
			column("QueueLengthLimit", "string", queuing["queueLengthLimit"]),
			ageColumn(),
		},
		Cells: cells(priorityLevelCells),
		Status: &Subresource{
			PrepareUpdate: onUpdate(func(l, old *flowcontrolv1.PriorityLevelConfiguration) {
				l.Spec = *old.Spec.DeepCopy()
				l.Labels, l.Annotations, l.OwnerReferences, l.Finalizers = keptMeta(&old.ObjectMeta)
			}),
			ValidateUpdate: checkUpdate(validatePriorityLevelStatusUpdate),
		},
	}
}

func defaultPriorityLevel(l *flowcontrolv1.PriorityLevelConfiguration) {
	s := &l.Spec
	if s.Exempt == nil && s.Type == flowcontrolv1.PriorityLevelEnablementExempt {
		s.Exempt = &flowcontrolv1.ExemptPriorityLevelConfiguration{}
	}
	if e := s.Exempt; e != nil {
		setDefaultPtr(&e.NominalConcurrencyShares, 0)
		setDefaultPtr(&e.LendablePercent, 0)
	}
	if s.Limited == nil {
		return
	}
	setDefaultPtr(&s.Limited.NominalConcurrencyShares, defaultShares)
	setDefaultPtr(&s.Limited.LendablePercent, 0)
	if q := s.Limited.LimitResponse.Queuing; q != nil {
		setDefault(&q.HandSize, defaultHandSize)
		setDefault(&q.Queues, defaultQueues)
		setDefault(&q.QueueLengthLimit, defaultQueueLength)
	}
}

func priorityLevelCells(l *flowcontrolv1.PriorityLevelConfiguration, now metav1.Time) []any {
	var shares, queues, hand, length any = cellNone, cellNone, cellNone, cellNone
	if limited := l.Spec.Limited; limited != nil {
		shares = int64(*orZero(limited.NominalConcurrencyShares))
		if q := limited.LimitResponse.Queuing; q != nil {
			queues, hand, length = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
		}
	}
	return []any{l.Name, string(l.Spec.Type), shares, queues, hand, length, age(now, l.CreationTimestamp)}
}
