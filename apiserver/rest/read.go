package rest

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// parseRevision reads a resourceVersion; empty is zero.
func parseRevision(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && n < 0 {
		err = &strconv.NumError{Func: "ParseUint", Num: text, Err: strconv.ErrSyntax}
	}
	var num *strconv.NumError
	if errors.As(err, &num) {
		num.Func = "ParseUint"
	}
	if err != nil {
		return 0, apierrors.NewBadRequest(field.Invalid(field.NewPath("resourceVersion"), text, err.Error()).Error())
	}
	return n, nil
}

// get answers with one object.
func (c *call) get() error {
	o, err := c.lookup()
	if err != nil {
		return err
	}
	return c.respondCached(http.StatusOK, o)
}

// lookup finds the request's object as new as its resourceVersion asks.
func (c *call) lookup() (*cache.Object, error) {
	minRevision := cache.Newest
	if c.req.URL.RawQuery != "" {
		if q := (&query{values: c.query()}); deref(q.bool("export")) {
			return nil, apierrors.NewBadRequest("the export parameter, deprecated since v1.14, is no longer supported")
		}
		if text := c.query().Get("resourceVersion"); text != "" {
			var err error
			if minRevision, err = parseRevision(text); err != nil {
				return nil, err
			}
		}
	}
	o, err := c.Cache.Get(c.ctx(), c.r.storage, c.r.key(c.info.Namespace, c.info.Name), minRevision)
	if err != nil {
		return nil, readError(c.r.gr, c.info.Name, minRevision, err)
	}
	return o, nil
}

// list answers a list, or hands over to watch.
func (c *call) list() error {
	o, err := c.listOptions()
	if err != nil {
		return err
	}
	if o.Watch {
		if !c.r.verbs["watch"] {
			return MethodNotAllowed()
		}
		return c.watch(o)
	}
	if c.out.transform == asMetadata {
		return notAcceptableList(c.r.NewList(), false)
	}
	page, err := c.page(o)
	if err != nil {
		return err
	}
	return c.respondPage(page)
}

// page is a list's outcome.
type page struct {
	objects []*cache.Object
	meta    metav1.ListMeta
}

// page reads the list that the options ask for.
func (c *call) page(o *metainternal.ListOptions) (page, error) {
	revision, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return page{}, err
	}
	opts := cache.ListOptions{
		Scope:  c.r.scope(c.info.Namespace),
		Labels: o.LabelSelector,
		Fields: o.FieldSelector,
		Limit:  int(o.Limit),
	}
	exact := o.ResourceVersionMatch == metav1.ResourceVersionMatchExact ||
		o.ResourceVersionMatch == "" && revision > 0 && o.Limit > 0
	switch {
	case o.Continue != "":
		return c.continuePage(o, opts, revision)
	case exact:
		opts.Revision = revision
	case o.ResourceVersion == "":
		opts.Consistent = true
	case revision == 0:
		opts.Limit = 0
	default:
		opts.MinRevision = revision
	}
	return c.readPage(opts)
}

// continuePage reads the page that a continue token points to.
func (c *call) continuePage(o *metainternal.ListOptions, opts cache.ListOptions, revision int64) (page, error) {
	if revision != 0 || (o.ResourceVersion != "" && o.ResourceVersion != "0") {
		return page{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	token, err := decodeContinue(o.Continue)
	if err != nil {
		return page{}, apierrors.NewBadRequest("invalid continue token: " + err.Error())
	}
	opts.After = c.r.prefix + opts.Scope + strings.TrimSuffix(token.StartKey, "\x00")
	if token.ResourceVersion < 0 {
		opts.Consistent = true
		return c.readPage(opts)
	}
	opts.Revision = token.ResourceVersion
	p, err := c.readPage(opts)
	if apierrors.IsResourceExpired(err) {
		return p, expiredContinue(token.StartKey)
	}
	return p, err
}

// readPage reads from the cache, or from the store where the cache no longer has the revision.
func (c *call) readPage(opts cache.ListOptions) (page, error) {
	l, err := c.Cache.List(c.ctx(), c.r.storage, opts)
	if errors.Is(err, cache.ErrTooOld) && opts.Revision > 0 {
		l, err = c.readStore(opts)
	}
	if err != nil {
		return page{}, readError(c.r.gr, "", max(opts.Revision, opts.MinRevision), err)
	}
	p := page{objects: l.Objects, meta: metav1.ListMeta{ResourceVersion: formatRevision(l.Revision)}}
	if l.More {
		last := l.Objects[len(l.Objects)-1].Key
		p.meta.Continue = encodeContinue(strings.TrimPrefix(last, c.r.prefix+opts.Scope)+"\x00", l.Revision)
		if l.Remaining >= 0 {
			p.meta.RemainingItemCount = &l.Remaining
		}
	}
	return p, nil
}

// readStore reads a page of the past.
func (c *call) readStore(opts cache.ListOptions) (cache.ListResult, error) {
	selective := !opts.Labels.Empty() || !opts.Fields.Empty()
	res := cache.ListResult{Revision: opts.Revision}
	after := opts.After
	for {
		l, err := c.Store.List(c.ctx(), c.r.prefix+opts.Scope, store.ListOptions{
			Revision: opts.Revision, After: after, Limit: int64(opts.Limit),
		})
		if err != nil {
			return res, err
		}
		for i, e := range l.Entries {
			if opts.Limit > 0 && len(res.Objects) == opts.Limit {
				res.More, res.Remaining = true, l.Remaining+int64(len(l.Entries)-i)
				break
			}
			o, err := c.past(e)
			if err != nil {
				return res, err
			}
			if opts.Labels.Matches(o.Labels) && opts.Fields.Matches(o.Fields) {
				res.Objects = append(res.Objects, o)
			}
			after = e.Key
		}
		full := opts.Limit > 0 && len(res.Objects) == opts.Limit
		if full && !res.More {
			res.More, res.Remaining = l.Remaining > 0, l.Remaining
		}
		if selective {
			res.Remaining = -1
		}
		if full || l.Remaining == 0 {
			return res, nil
		}
	}
}

// past makes an object of a store's entry; the cache's own, if that is still the same version.
func (c *call) past(e store.Entry) (*cache.Object, error) {
	if o, err := c.Cache.Get(c.ctx(), c.r.storage, e.Key, 0); err == nil && o.Revision == e.Revision {
		return o, nil
	}
	obj, err := c.r.stored.decodeStored(e.Value, e.Revision)
	if err != nil {
		return nil, err
	}
	m := accessor(obj)
	set := c.r.stored.fieldSet(obj)
	if d := c.r.stored.Dynamic; d != nil {
		for _, label := range c.r.FieldNames {
			set[label] = d.LateField(obj, label)
		}
	}
	return &cache.Object{Key: e.Key, Revision: e.Revision, Object: obj, Labels: m.GetLabels(), Fields: set}, nil
}

// respondPage answers with a list, put together from memoised bytes.
func (c *call) respondPage(p page) error {
	if c.out.table() {
		objs := make([]runtime.Object, len(p.objects))
		for i, o := range p.objects {
			objs[i] = o.Object
		}
		return c.respondTable(http.StatusOK, objs, p.meta)
	}
	if c.streams(p) {
		return c.respondBig(p)
	}
	list := c.r.listKind(c.out)
	f := c.r.form(c.out)
	head := c.r.codec
	if c.out.meta() {
		head = metaCodec(c.out.metaVersion)
	}
	items, err := c.r.encodedAll(p.objects, f)
	if err != nil {
		return err
	}
	if f.protobuf {
		segments, err := protobufList(list, &head, p.meta, items)
		if err != nil {
			return err
		}
		writeBody(c.w, c.req, typeProtobuf, http.StatusOK, segments...)
		return nil
	}
	return c.respondJSONList(jsonListBody{list: list, head: &head, meta: p.meta, items: items, whole: c.out.meta() || c.r.Dynamic != nil})
}

// respondJSONList sends a JSON list, or the YAML or indented form of it.
func (c *call) respondJSONList(l jsonListBody) error {
	segments, err := l.segments()
	if err != nil {
		return err
	}
	if c.out.mediaType == typeJSON && !c.out.pretty {
		writeBody(c.w, c.req, typeJSON, http.StatusOK, segments...)
		return nil
	}
	var whole []byte
	for _, s := range segments {
		whole = append(whole, s...)
	}
	body, err := dress(c.out, whole[:len(whole)-1])
	if err != nil {
		return err
	}
	writeBody(c.w, c.req, c.out.mediaType, http.StatusOK, body)
	return nil
}
