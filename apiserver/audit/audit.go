package audit

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/yaml"
)

// maxBody is the largest body that is kept for an event, in bytes: that of the largest request.
const maxBody = 3 << 20

// Log writes the events that a policy asks for.
type Log struct {
	policy *Policy
	out    io.Writer
	proto  *protobuf.Serializer
}

// New writes to out one JSON document a line (audit.k8s.io/v1 Event). scheme knows the types of bodies in protobuf.
func New(policy *Policy, out io.Writer, scheme *runtime.Scheme) *Log {
	return &Log{policy: policy, out: out, proto: protobuf.NewSerializer(scheme, scheme)}
}

// Record is what is being noted of one request. Its methods do nothing on nil.
type Record struct {
	log      *Log
	what     decision
	event    auditv1.Event
	endless  bool
	request  *bounded
	started  bool
	response bounded
	writer   *writer
}

// Begin notes a request whose user is known; u is nil where nobody could be authenticated. It returns the request and the
// writer to go on with. The record is nil where the policy wants none.
func (l *Log) Begin(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, u user.Info, endless bool, received time.Time) (*Record, http.ResponseWriter, *http.Request) {
	what := l.policy.decide(u, info)
	if what.level == auditv1.LevelNone {
		return nil, w, req
	}
	id := types.UID(req.Header.Get(auditv1.HeaderAuditID))
	if id == "" || len(id) > 64 {
		id = uuid.NewUUID()
	}
	w.Header().Set(auditv1.HeaderAuditID, string(id))
	r := &Record{log: l, what: what, endless: endless, event: auditv1.Event{
		TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: audit.GroupName + "/v1"},
		Level:    what.level, AuditID: id, RequestURI: req.URL.RequestURI(), Verb: info.Verb, UserAgent: req.UserAgent(),
		SourceIPs: sources(req), RequestReceivedTimestamp: metav1.NewMicroTime(received), User: userOf(u),
	}}
	if info.IsResourceRequest {
		r.event.ObjectRef = &auditv1.ObjectReference{Resource: info.Resource, Subresource: info.Subresource, Namespace: info.Namespace,
			Name: info.Name, APIGroup: info.APIGroup, APIVersion: info.APIVersion}
	} else {
		r.event.Verb = strings.ToLower(req.Method)
	}
	r.emit(auditv1.StageRequestReceived)
	bodies := what.level == auditv1.LevelRequest || what.level == auditv1.LevelRequestResponse
	if bodies && info.IsResourceRequest && !endless && req.Body != nil {
		r.request = &bounded{}
		req.Body = tee{req.Body, r.request}
		r.request.mediaType = req.Header.Get("Content-Type")
	}
	r.writer = &writer{ResponseWriter: w, record: r, keep: what.level == auditv1.LevelRequestResponse && info.IsResourceRequest && !endless}
	return r, r.writer, req
}

// Annotate adds to the events what a part of the server found out.
func (r *Record) Annotate(key, value string) {
	if r == nil {
		return
	}
	annotations := map[string]string{key: value}
	for k, v := range r.event.Annotations {
		annotations[k] = v
	}
	r.event.Annotations = annotations
}

// End notes the answer. panicked tells that there was none.
func (r *Record) End(panicked any) {
	if r == nil {
		return
	}
	if r.request != nil {
		r.event.RequestObject = r.log.object(r.request, "", r.what.omitManaged)
	}
	if panicked != nil {
		r.event.ResponseStatus = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Reason: metav1.StatusReasonInternalError, Message: "APIServer panic'd"}
		r.emit(auditv1.StagePanic)
		return
	}
	if r.writer.code == 0 {
		r.writer.code = http.StatusOK
	}
	r.status()
	if r.writer.keep {
		header := r.writer.Header()
		r.response.mediaType = header.Get("Content-Type")
		r.event.ResponseObject = r.log.object(&r.response, header.Get("Content-Encoding"), r.what.omitManaged)
	}
	r.emit(auditv1.StageResponseComplete)
}

func (r *Record) status() {
	r.event.ResponseStatus = &metav1.Status{Code: int32(r.writer.code)}
	if r.writer.code >= 400 {
		var s metav1.Status
		if json.Unmarshal(r.response.data, &s) == nil && s.Kind == "Status" {
			s.TypeMeta, s.ListMeta = metav1.TypeMeta{}, metav1.ListMeta{}
			r.event.ResponseStatus = &s
		}
	}
}

func (r *Record) start() {
	if r.started {
		return
	}
	r.started = true
	if r.endless {
		r.status()
		r.emit(auditv1.StageResponseStarted)
	}
}

func (r *Record) emit(stage auditv1.Stage) {
	if slices.Contains(r.what.omit, stage) {
		return
	}
	r.event.Stage, r.event.StageTimestamp = stage, metav1.NewMicroTime(time.Now())
	line, err := json.Marshal(&r.event)
	if err == nil {
		_, err = r.log.out.Write(append(line, '\n'))
	}
	if err != nil {
		slog.Error("an audit event is lost", "component", "audit", "auditID", r.event.AuditID, "error", err)
	}
}

func userOf(u user.Info) authenticationv1.UserInfo {
	if u == nil {
		return authenticationv1.UserInfo{}
	}
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[k] = v
	}
	return out
}

// sources are the addresses that a request came by, the connection's last.
func sources(req *http.Request) []string {
	var out []string
	for part := range strings.SplitSeq(req.Header.Get("X-Forwarded-For"), ",") {
		if ip := net.ParseIP(strings.TrimSpace(part)); ip != nil {
			out = append(out, ip.String())
		}
	}
	if host, _, err := net.SplitHostPort(req.RemoteAddr); err == nil && !slices.Contains(out, host) {
		out = append(out, host)
	}
	return out
}

// bounded keeps a body, unless it is too large.
type bounded struct {
	data      []byte
	mediaType string
	over      bool
}

func (b *bounded) add(p []byte) {
	if b.over || len(b.data)+len(p) > maxBody {
		b.data, b.over = nil, true
		return
	}
	b.data = append(b.data, p...)
}

type tee struct {
	io.ReadCloser
	to *bounded
}

func (t tee) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	t.to.add(p[:n])
	return n, err
}

// object gives a body as JSON; nil where it cannot be told.
func (l *Log) object(b *bounded, encoding string, omitManaged bool) *runtime.Unknown {
	data := b.data
	if encoding == "gzip" {
		zip, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil
		}
		if data, err = io.ReadAll(io.LimitReader(zip, 8*maxBody)); err != nil {
			return nil
		}
	}
	if len(data) == 0 {
		return nil
	}
	switch {
	case strings.Contains(b.mediaType, "protobuf"):
		obj, _, err := l.proto.Decode(data, nil, nil)
		if err != nil {
			return nil
		}
		if data, err = json.Marshal(obj); err != nil {
			return nil
		}
	case strings.Contains(b.mediaType, "yaml"):
		var err error
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return nil
		}
	}
	var out bytes.Buffer
	if json.Compact(&out, data) != nil {
		return nil
	}
	data = out.Bytes()
	if omitManaged {
		data = withoutManagedFields(data)
	}
	return &runtime.Unknown{Raw: data, ContentType: runtime.ContentTypeJSON}
}

func withoutManagedFields(data []byte) []byte {
	var content map[string]any
	if json.Unmarshal(data, &content) != nil {
		return data
	}
	unstructured.RemoveNestedField(content, "metadata", "managedFields")
	if items, ok := content["items"].([]any); ok {
		for _, item := range items {
			if m, ok := item.(map[string]any); ok {
				unstructured.RemoveNestedField(m, "metadata", "managedFields")
			}
		}
	}
	if out, err := json.Marshal(content); err == nil {
		return out
	}
	return data
}

// writer notes the answer on its way.
type writer struct {
	http.ResponseWriter
	record *Record
	keep   bool
	code   int
}

// Unwrap lets http.ResponseController reach the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
		w.record.start()
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *writer) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
		w.record.start()
	}
	if w.keep || w.code >= 400 && !w.record.endless {
		w.record.response.add(b)
	}
	return w.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Hijack implements http.Hijacker.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, in, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.code == 0 {
		w.code = http.StatusSwitchingProtocols
		w.record.start()
	}
	return conn, in, err
}
