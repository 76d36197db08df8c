package model

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Budget is a PodDisruptionBudget: how many of its pods may be disrupted.
type Budget struct {
	Namespace string
	Allowed   int32
	// Disrupted are names of pods that are on their way out already.
	Disrupted map[string]metav1.Time

	selector labels.Selector
}

// Covers tells whether a pod is one of the budget's.
func (b *Budget) Covers(p *Pod) bool {
	if b.Namespace != p.Pod.Namespace || len(p.Pod.Labels) == 0 {
		return false
	}
	if _, counted := b.Disrupted[p.Pod.Name]; counted {
		return false
	}
	return b.selector.Matches(labels.Set(p.Pod.Labels))
}

// SetBudget adds or replaces a budget.
func (c *Cluster) SetBudget(pdb *policyv1.PodDisruptionBudget) {
	c.BudgetVersion++
	selector := selectorOf(pdb.Spec.Selector)
	key := types.NamespacedName{Namespace: pdb.Namespace, Name: pdb.Name}
	if selector.Empty() {
		delete(c.budgets, key) // one that selects everything or nothing protects nothing here, as upstream has it
		return
	}
	c.budgets[key] = &Budget{Namespace: pdb.Namespace, Allowed: pdb.Status.DisruptionsAllowed, Disrupted: pdb.Status.DisruptedPods, selector: selector}
}

// RemoveBudget forgets a budget.
func (c *Cluster) RemoveBudget(namespace, name string) {
	c.BudgetVersion++
	delete(c.budgets, types.NamespacedName{Namespace: namespace, Name: name})
}

// Budgets calls f for each budget.
func (c *Cluster) Budgets(f func(*Budget)) {
	for _, b := range c.budgets {
		f(b)
	}
}

// HasBudgets tells whether there are any.
func (c *Cluster) HasBudgets() bool { return len(c.budgets) > 0 }
