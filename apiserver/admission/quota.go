package admission

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/internal/quota"
)

// QuotaWriter writes the status of quotas.
type QuotaWriter interface {
	// WriteQuota stores q over the version it names and gives it as written. Where another write came first, written is
	// false and current is what that write left; current is nil where the quota is gone.
	WriteQuota(ctx context.Context, q *corev1.ResourceQuota) (current *corev1.ResourceQuota, written bool, err error)
}

// resourceQuota charges what a request uses to the quotas of its namespace, and refuses what exceeds one.
//
// A charge is a write of status.used over the version it was computed from, done before the object is stored; so servers
// that charge at the same time cannot together exceed a quota. What is charged and then not stored is taken back, or, if
// that fails, found by the controller's recount.
type resourceQuota struct {
	reader Reader
	writer QuotaWriter
	busy   *queues
	now    func() time.Time
}

func newResourceQuota(r Reader, w QuotaWriter) resourceQuota {
	return resourceQuota{reader: r, writer: w, busy: newQueues(), now: time.Now}
}

func (resourceQuota) Name() string { return "ResourceQuota" }

func (resourceQuota) Mutate(context.Context, *Request) error { return nil }

// free are the resources that quotas do not count.
var free = map[schema.GroupResource]bool{
	{Resource: "events"}: true, {Group: "events.k8s.io", Resource: "events"}: true, {Resource: "bindings"}: true,
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}: true,
}

func (p resourceQuota) Validate(ctx context.Context, r *Request) error {
	gr := r.Resource.GroupResource()
	if r.Namespace == "" || r.Operation != Create && r.Operation != Update || r.Object == nil ||
		!quota.Charged(gr, r.Subresource, r.Operation == Create) || gr.Group == "" && gr.Resource == "namespaces" || free[gr] {
		return nil
	}
	quotas, err := list[*corev1.ResourceQuota](ctx, p.reader, schema.GroupResource{Resource: "resourcequotas"}, r.Namespace)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("error resolving quota: %w", err))
	}
	if len(quotas) == 0 {
		return nil
	}
	m := meter{Request: r, gr: gr, use: quota.Usage(gr, r.Object, p.now())}
	if r.Old != nil {
		m.before = quota.Usage(gr, r.Old, p.now())
	}
	if negative := quota.Negative(m.use); len(negative) > 0 {
		return r.forbid(fmt.Errorf("quota usage is negative for resource(s): %s", names(negative)))
	}
	if r.DryRun {
		return m.fits(quotas)
	}
	return p.charge(ctx, &m, quotas)
}

// charge checks the request against all quotas and then writes each of those that it uses.
func (p resourceQuota) charge(ctx context.Context, m *meter, quotas []*corev1.ResourceQuota) error {
	leave, err := p.busy.enter(ctx, m.Namespace)
	if err != nil {
		return err
	}
	defer leave()
	for i := range quotas {
		quotas[i] = p.busy.newest(quotas[i])
	}
	if err := m.fits(quotas); err != nil {
		return err
	}
	var done []charged
	for _, q := range quotas {
		c, err := p.chargeOne(ctx, m, q)
		if err != nil {
			p.refund(ctx, done)
			return err
		}
		if len(c.amount) > 0 {
			done = append(done, c)
		}
	}
	if len(done) > 0 && m.OnFailure != nil {
		m.OnFailure(func(ctx context.Context) { p.refund(ctx, done) })
	}
	return nil
}

// charged is an amount that one quota has been charged; quota is its state then.
type charged struct {
	quota  *corev1.ResourceQuota
	amount corev1.ResourceList
}

// chargeOne repeats until the charge is written over the state that it was checked against.
func (p resourceQuota) chargeOne(ctx context.Context, m *meter, q *corev1.ResourceQuota) (charged, error) {
	for {
		amount, err := m.needs(q)
		if err != nil || len(amount) == 0 {
			return charged{}, err
		}
		now, written, err := p.writer.WriteQuota(ctx, withUsed(q, quota.Add(q.Status.Used, amount)))
		switch {
		case err != nil:
			return charged{}, apierrors.NewInternalError(fmt.Errorf("charge quota %s: %w", q.Name, err))
		case now == nil || now.UID != q.UID:
			return charged{}, nil // it went in this moment
		}
		p.busy.saw(now)
		if written {
			return charged{now, amount}, nil
		}
		q = now
		if err := ctx.Err(); err != nil {
			return charged{}, err
		}
	}
}

// refundTime bounds how long a charge is tried to be taken back.
const refundTime = 10 * time.Second

// refund takes charges back. It goes on when the request's client has gone.
func (p resourceQuota) refund(ctx context.Context, done []charged) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refundTime)
	defer cancel()
	for _, c := range done {
		q := c.quota
		for {
			now, written, err := p.writer.WriteQuota(ctx, withUsed(q, quota.Decrease(q.Status.Used, c.amount)))
			if err != nil {
				slog.Warn("a quota was charged for what was not created; it will be counted again", "component", "admission", "namespace", q.Namespace, "quota", q.Name, "error", err)
			} else if now != nil && now.UID == c.quota.UID {
				p.busy.saw(now)
			}
			if err != nil || written || now == nil || now.UID != c.quota.UID {
				break
			}
			q = now
		}
	}
}

// withUsed is q with another status.used; the rest is shared.
func withUsed(q *corev1.ResourceQuota, used corev1.ResourceList) *corev1.ResourceQuota {
	fresh := *q
	fresh.Status.Used = used
	return &fresh
}

// meter measures one request.
type meter struct {
	*Request
	gr schema.GroupResource
	// use is the object's, before the old one's; nil for a creation.
	use, before corev1.ResourceList
}

func (m *meter) fits(quotas []*corev1.ResourceQuota) error {
	for _, q := range quotas {
		if _, err := m.needs(q); err != nil {
			return err
		}
	}
	return nil
}

// needs is what the request adds to a quota: nothing where the quota is not about it. The error says why it may not.
func (m *meter) needs(q *corev1.ResourceQuota) (corev1.ResourceList, error) {
	measured := quota.Measured(m.gr, q.Status.Hard)
	if len(measured) == 0 {
		return nil, nil
	}
	if in, err := quota.InScopes(&q.Spec, m.Object); err != nil || !in {
		return nil, err
	}
	if pod, ok := m.Object.(*corev1.Pod); ok {
		if err := quota.Demand(measured, pod); err != nil {
			return nil, m.forbid(fmt.Errorf("failed quota: %s: %w", q.Name, err))
		}
	}
	for name := range measured {
		if _, counted := q.Status.Used[name]; !counted {
			return nil, m.forbid(fmt.Errorf("status unknown for quota: %s, resources: %s", q.Name, names(slices.Collect(maps.Keys(measured)))))
		}
	}
	more, err := m.increase(q)
	if err != nil {
		return nil, err
	}
	more = quota.Mask(more, measured)
	return more, m.exceeds(q, more)
}

// increase is what is new about the object for a quota: all of it, if the old one was not in the quota's scopes.
func (m *meter) increase(q *corev1.ResourceQuota) (corev1.ResourceList, error) {
	if m.Old != nil {
		in, err := quota.InScopes(&q.Spec, m.Old)
		if err != nil {
			return nil, err
		}
		if in {
			return quota.Increase(m.use, m.before), nil
		}
	}
	return quota.Increase(m.use, nil), nil
}

func (m *meter) exceeds(q *corev1.ResourceQuota, more corev1.ResourceList) error {
	over := corev1.ResourceList{}
	for name, amount := range more {
		total := q.Status.Used[name].DeepCopy()
		total.Add(amount)
		if hard := q.Status.Hard[name]; total.Cmp(hard) > 0 {
			over[name] = total
		}
	}
	if len(over) == 0 {
		return nil
	}
	return m.forbid(fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name,
		quota.Text(quota.Mask(more, over)), quota.Text(quota.Mask(q.Status.Used, over)), quota.Text(quota.Mask(q.Status.Hard, over))))
}

func names(list []corev1.ResourceName) string {
	slices.Sort(list)
	texts := make([]string, len(list))
	for i, name := range list {
		texts[i] = string(name)
	}
	return strings.Join(texts, ",")
}
