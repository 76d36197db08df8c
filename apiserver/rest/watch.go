package rest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coracle-dev/coracle/apiserver/cache"
)

// watchGate ends what would go on forever when the server shuts down.
type watchGate struct {
	ctx    context.Context
	cancel context.CancelFunc
}

func (g *watchGate) init()  { g.ctx, g.cancel = context.WithCancel(context.Background()) }
func (g *watchGate) close() { g.cancel() }

// endless derives a context that also ends with the server.
func (g *watchGate) endless(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	stop := context.AfterFunc(g.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// watchFor is how long a watch lasts.
func (h *Handler) watchFor(o *metainternal.ListOptions) time.Duration {
	if s := deref(o.TimeoutSeconds); s > 0 {
		return time.Duration(s) * time.Second
	}
	return h.MinWatch + rand.N(h.MinWatch)
}

// watch streams events until the client, the timeout or the server ends it.
func (c *call) watch(o *metainternal.ListOptions) error {
	revision, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return err
	}
	if c.out.mediaType == typeYAML {
		return notAcceptable(servedStreams)
	}
	if c.out.table() {
		if _, err := c.includeObject(); err != nil {
			return err
		}
	}
	base, end := c.watches.endless(c.ctx())
	defer end()
	ctx, cancel := context.WithTimeout(base, c.watchFor(o))
	defer cancel()
	if c.r.life != nil {
		defer context.AfterFunc(c.r.life, cancel)()
	}
	s := c.newStream(o)
	initial := deref(o.SendInitialEvents)
	if !initial && revision == 0 {
		// Nothing of the past was asked for: begin at what is newest.
		if revision, err = c.Cache.StoreRevision(ctx); err != nil {
			return readError(c.r.gr, "", 0, err)
		}
	}
	w, err := c.Cache.Watch(ctx, c.r.storage, cache.WatchOptions{
		Scope:       c.r.scope(c.info.Namespace),
		After:       revision,
		SendInitial: initial,
		Consistent:  initial && o.ResourceVersion == "",
		Bookmarks:   o.AllowWatchBookmarks,
		Labels:      o.LabelSelector,
		Fields:      o.FieldSelector,
	})
	if err != nil && !errors.Is(err, cache.ErrTooOld) {
		return readError(c.r.gr, "", revision, err)
	}
	tooLate := err != nil
	follow := func(ctx context.Context) {
		if tooLate {
			s.fail(tooOld())
			return
		}
		if !initial {
			Begun(ctx)
		}
		s.run(ctx, w, initial)
	}
	if !tooLate {
		defer w.Stop()
	}
	if isWebSocket(c.req) {
		return s.overWebSocket(ctx, cancel, follow)
	}
	s.start()
	follow(ctx)
	return nil
}

type begunKey struct{}

// WithBegun has f called once a watch has sent its initial events: what comes after costs little.
func WithBegun(ctx context.Context, f func()) context.Context {
	return context.WithValue(ctx, begunKey{}, f)
}

// Begun is called where that is so, or where a watch is handed on to another server.
func Begun(ctx context.Context) {
	if f, ok := ctx.Value(begunKey{}).(func()); ok {
		f()
	}
}

func tooOld() error { return apierrors.NewResourceExpired("too old resource version") }

// stream writes the events of one watch. Events at hand are written together and flushed once.
type stream struct {
	c         *call
	form      form
	bookmarks bool
	headers   bool // a table's columns have been sent
	buf       []byte
	flusher   http.Flusher
	socket    *websocket.Conn // takes a message for each event; nil where they follow each other in a body
}

func (c *call) newStream(o *metainternal.ListOptions) *stream {
	s := &stream{c: c, form: c.r.form(c.out), bookmarks: o.AllowWatchBookmarks}
	s.flusher, _ = c.w.(http.Flusher)
	return s
}

// mediaType is the stream's content type.
func (s *stream) mediaType() string {
	if s.form.protobuf {
		return typeProtobuf + ";stream=watch"
	}
	return typeJSON
}

func (s *stream) start() {
	s.c.w.Header().Set("Content-Type", s.mediaType())
	s.c.w.WriteHeader(http.StatusOK)
	s.flush()
}

func (s *stream) flush() {
	if s.flusher != nil {
		s.flusher.Flush()
	}
}

// frames holds the buffers that events are put together in.
var frames = sync.Pool{New: func() any { b := make([]byte, 0, 32<<10); return &b }}

// flushAt is the size in bytes from which a batch is written before it is complete.
const flushAt = 64 << 10

func (s *stream) run(ctx context.Context, w cache.Watcher, initial bool) {
	for {
		events, err := w.Next(ctx)
		if err != nil {
			if errors.Is(err, cache.ErrTooOld) {
				s.fail(tooOld())
			}
			return
		}
		if err := s.send(events); err != nil {
			return
		}
		if initial && slices.ContainsFunc(events, func(e cache.Event) bool { return e.InitialEnd }) {
			initial = false
			Begun(ctx)
		}
	}
}

// send writes a batch.
func (s *stream) send(events []cache.Event) error {
	p := frames.Get().(*[]byte)
	s.buf = (*p)[:0]
	defer func() {
		if cap(s.buf) <= 4*flushAt {
			*p = s.buf[:0]
			frames.Put(p)
		}
		s.buf = nil
	}()
	for i := range events {
		if err := s.add(&events[i]); err != nil {
			s.fail(err)
			return err
		}
		if len(s.buf) >= flushAt || s.socket != nil {
			if err := s.write(); err != nil {
				return err
			}
		}
	}
	if err := s.write(); err != nil {
		return err
	}
	s.flush()
	return nil
}

func (s *stream) write() error {
	if len(s.buf) == 0 {
		return nil
	}
	var err error
	switch {
	case s.socket == nil:
		_, err = s.c.w.Write(s.buf)
	case s.form.protobuf:
		err = websocket.Message.Send(s.socket, s.buf)
	default:
		err = websocket.Message.Send(s.socket, string(s.buf))
	}
	s.buf = s.buf[:0]
	return err
}

// add puts one event's frame into the buffer.
func (s *stream) add(e *cache.Event) error {
	if e.Type == watch.Bookmark && !s.bookmarks {
		return nil
	}
	b, err := s.object(e)
	if err != nil {
		return err
	}
	s.frame(string(e.Type), b)
	return nil
}

// object gives the encoded object of an event.
func (s *stream) object(e *cache.Event) ([]byte, error) {
	r := s.c.r
	var obj runtime.Object
	switch {
	case e.Type == watch.Bookmark:
		obj = r.bookmark(e)
	case s.c.out.table():
		obj = e.Object.Object
	default:
		return r.encoded(e.Object, s.form)
	}
	if s.c.out.table() {
		return s.table(obj)
	}
	return r.encode(s.form, obj)
}

// table encodes a table of one row; only the first of a watch names its columns.
func (s *stream) table(obj runtime.Object) ([]byte, error) {
	t, err := s.c.table([]runtime.Object{obj}, metav1.ListMeta{ResourceVersion: accessor(obj).GetResourceVersion()})
	if err != nil {
		return nil, err
	}
	if s.headers {
		t.ColumnDefinitions = nil
	}
	s.headers = true
	return encodeJSON(t)
}

// bookmark is an empty object of the stored kind that carries a resourceVersion.
func (r *resource) bookmark(e *cache.Event) runtime.Object {
	of := r.stored
	if r.Dynamic != nil {
		of = r // nothing to convert
	}
	obj := of.New()
	obj.GetObjectKind().SetGroupVersionKind(of.GVK)
	m := accessor(obj)
	m.SetResourceVersion(formatRevision(e.Revision))
	if e.InitialEnd {
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj
}

// frame appends an event around an object's bytes.
func (s *stream) frame(eventType string, object []byte) {
	if !s.form.protobuf {
		s.buf = append(s.buf, `{"type":"`...)
		s.buf = append(s.buf, eventType...)
		s.buf = append(s.buf, `","object":`...)
		s.buf = append(s.buf, object...)
		s.buf = append(s.buf, "}\n"...)
		return
	}
	raw := sizeTagged(len(object))
	size := sizeTagged(len(eventType)) + sizeTagged(raw)
	if s.socket == nil { // whose messages have a length of their own
		s.buf = binary.BigEndian.AppendUint32(s.buf, uint32(size))
	}
	s.buf = appendTag(s.buf, 1, len(eventType))
	s.buf = append(s.buf, eventType...)
	s.buf = appendTag(s.buf, 2, raw)
	s.buf = appendBytes(s.buf, 1, object)
}

// fail ends the stream with an ERROR event.
func (s *stream) fail(err error) {
	status := statusOf(err)
	var b []byte
	if s.form.protobuf {
		b, err = encodeEnvelope(envelopeHead(statusGVK), status)
	} else {
		b, err = json.Marshal(status)
	}
	if err != nil {
		return
	}
	s.buf = s.buf[:0]
	s.frame(string(watch.Error), b)
	if s.write() == nil {
		s.flush()
	}
}
