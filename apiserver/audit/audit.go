package audit

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilnet "k8s.io/apimachinery/pkg/util/net"
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
	verb     string // of a request for a resource
	request  *bounded
	started  bool
	response bounded
	writer   *writer

	mu sync.Mutex // of the event's annotations
}

// Begin notes a request whose user is known. It returns the writer to go on with. The record is nil where the policy wants none.
func (l *Log) Begin(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, u user.Info, endless bool, received time.Time) (*Record, http.ResponseWriter) {
	r := l.record(w, req, info, u, received)
	if r == nil {
		return nil, w
	}
	r.endless = endless
	r.emit(auditv1.StageRequestReceived)
	if info.IsResourceRequest {
		r.verb = info.Verb
	}
	if r.verb != "" && !endless && req.Body != nil && (r.bodies() || r.namesItself()) {
		r.request = &bounded{mediaType: req.Header.Get("Content-Type")}
		req.Body = tee{req.Body, r.request}
	}
	r.writer = &writer{ResponseWriter: w, record: r, keep: r.what.level == auditv1.LevelRequestResponse && r.verb != "" && !endless}
	return r, r.writer
}

// Refuse notes a request of which nobody knows whose it is, as the one event that there is of it: its answer has begun. It returns the
// writer for that answer.
func (l *Log) Refuse(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, received time.Time) http.ResponseWriter {
	r := l.record(w, req, info, nil, received)
	if r == nil {
		return w
	}
	r.endless = true
	r.event.ResponseStatus = &metav1.Status{Message: attempted(req)}
	r.writer = &writer{ResponseWriter: w, record: r}
	return r.writer
}

// attempted words which credentials a request had.
func attempted(req *http.Request) string {
	var methods []string
	if _, _, ok := req.BasicAuth(); ok {
		methods = append(methods, "basic")
	}
	if kind, _, ok := strings.Cut(strings.TrimSpace(req.Header.Get("Authorization")), " "); ok && strings.EqualFold(kind, "bearer") {
		methods = append(methods, "bearer")
	}
	if strings.TrimSpace(req.URL.Query().Get("access_token")) != "" {
		methods = append(methods, "access_token")
	}
	if req.TLS != nil && len(req.TLS.PeerCertificates) > 0 {
		methods = append(methods, "x509")
	}
	if len(methods) == 0 {
		return "Authentication failed, no credentials provided"
	}
	return "Authentication failed, attempted: " + strings.Join(methods, ", ")
}

// record makes the event of a request by what is known before anything is done for it; nil where the policy wants none.
func (l *Log) record(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, u user.Info, received time.Time) *Record {
	what := l.policy.decide(u, info)
	if what.level == auditv1.LevelNone {
		return nil
	}
	id := types.UID(req.Header.Get(auditv1.HeaderAuditID))
	if id == "" || len(id) > 64 {
		id = uuid.NewUUID()
	}
	w.Header().Set(auditv1.HeaderAuditID, string(id))
	r := &Record{log: l, what: what, event: auditv1.Event{
		TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: audit.GroupName + "/v1"},
		Level:    what.level, AuditID: id, RequestURI: req.URL.RequestURI(), Verb: info.Verb, UserAgent: agentOf(req),
		RequestReceivedTimestamp: metav1.NewMicroTime(received), User: userOf(u),
	}}
	for _, ip := range utilnet.SourceIPs(req) {
		r.event.SourceIPs = append(r.event.SourceIPs, ip.String())
	}
	if info.IsResourceRequest {
		r.event.ObjectRef = &auditv1.ObjectReference{Resource: info.Resource, Subresource: info.Subresource, Namespace: info.Namespace,
			Name: info.Name, APIGroup: info.APIGroup, APIVersion: info.APIVersion}
	}
	return r
}

// maxAgent is how much of a user agent is kept, in bytes.
const maxAgent = 1024

func agentOf(req *http.Request) string {
	if agent := req.UserAgent(); len(agent) > maxAgent {
		return agent[:maxAgent] + "...TRUNCATED"
	}
	return req.UserAgent()
}

// bodies tells whether the policy wants the request's body.
func (r *Record) bodies() bool {
	return r.what.level == auditv1.LevelRequest || r.what.level == auditv1.LevelRequestResponse
}

// namesItself tells the requests whose body says more than their path of which object they are about.
func (r *Record) namesItself() bool { return r.verb == "create" || r.verb == "update" }

// Annotate adds to the events what a part of the server found out. What was said of a key first stays.
func (r *Record) Annotate(key, value string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, said := r.event.Annotations[key]; said {
		return
	}
	if r.event.Annotations == nil {
		r.event.Annotations = map[string]string{}
	}
	r.event.Annotations[key] = value
}

// Impersonated notes as whom the request's user acts. constraint is the verb that a constrained leave to do so has, if it is one.
func (r *Record) Impersonated(u user.Info, constraint string) {
	if r == nil {
		return
	}
	as := userOf(u)
	r.event.ImpersonatedUser = &as
	if constraint != "" {
		r.event.AuthenticationMetadata = &auditv1.AuthenticationMetadata{ImpersonationConstraint: constraint}
	}
}

// End notes the answer. panicked is what the handler panicked with, if it did.
func (r *Record) End(panicked any) {
	if r == nil {
		return
	}
	if r.request != nil {
		r.requested()
	}
	if panicked != nil {
		r.event.ResponseStatus = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Reason: metav1.StatusReasonInternalError, Message: fmt.Sprintf("APIServer panic'd: %v", panicked)}
		r.emit(auditv1.StagePanic)
		return
	}
	if r.writer.code == 0 {
		r.event.ResponseStatus = &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusOK, Message: "Connection closed early"}
		r.start()
	} else {
		r.answered()
	}
	r.emit(auditv1.StageResponseComplete)
}

// requested notes what the request's body says.
func (r *Record) requested() {
	object := r.log.object(r.request, "")
	if object == nil {
		return
	}
	var named struct{ Metadata metav1.ObjectMeta }
	if ref := r.event.ObjectRef; r.namesItself() && json.Unmarshal(object, &named) == nil {
		for have, said := range map[*string]string{&ref.Namespace: named.Metadata.Namespace, &ref.Name: named.Metadata.Name,
			(*string)(&ref.UID): string(named.Metadata.UID), &ref.ResourceVersion: named.Metadata.ResourceVersion} {
			if *have == "" {
				*have = said
			}
		}
	}
	if r.bodies() {
		r.event.RequestObject = r.unknown(object)
	}
}

// answered notes the response's code, what it says where it is a Status, and its body if the policy wants that.
func (r *Record) answered() {
	header := r.writer.Header()
	r.response.mediaType = header.Get("Content-Type")
	object := r.log.object(&r.response, header.Get("Content-Encoding"))
	r.event.ResponseStatus = &metav1.Status{Code: int32(r.writer.code)}
	var s metav1.Status
	if object != nil && bytes.Contains(object, []byte(`"Status"`)) && json.Unmarshal(object, &s) == nil && s.Kind == "Status" && s.APIVersion == "v1" {
		r.event.ResponseStatus = &metav1.Status{Status: s.Status, Message: s.Message, Reason: s.Reason, Details: s.Details, Code: int32(r.writer.code)}
	}
	if r.writer.keep && object != nil {
		r.event.ResponseObject = r.unknown(object)
	}
}

// start notes that an endless answer has begun.
func (r *Record) start() {
	if r.started || !r.endless {
		return
	}
	r.started = true
	if r.event.ResponseStatus == nil {
		r.event.ResponseStatus = &metav1.Status{}
	}
	if r.writer.code != 0 {
		r.event.ResponseStatus.Code = int32(r.writer.code)
	}
	r.emit(auditv1.StageResponseStarted)
}

func (r *Record) emit(stage auditv1.Stage) {
	if slices.Contains(r.what.omit, stage) {
		return
	}
	r.event.Stage, r.event.StageTimestamp = stage, metav1.NewMicroTime(time.Now())
	if stage == auditv1.StageRequestReceived {
		r.event.StageTimestamp = r.event.RequestReceivedTimestamp
	}
	r.mu.Lock()
	line, err := json.Marshal(&r.event)
	r.mu.Unlock()
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
func (l *Log) object(b *bounded, encoding string) []byte {
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
	return out.Bytes()
}

// unknown makes an object part of an event.
func (r *Record) unknown(object []byte) *runtime.Unknown {
	if r.what.omitManaged {
		object = withoutManagedFields(object)
	}
	return &runtime.Unknown{Raw: object, ContentType: runtime.ContentTypeJSON}
}

// withoutManagedFields takes them out of an object, a list's items and a table's rows.
func withoutManagedFields(data []byte) []byte {
	if !bytes.Contains(data, []byte(`"managedFields"`)) {
		return data
	}
	var content map[string]any
	if utiljson.Unmarshal(data, &content) != nil { // which keeps whole numbers
		return data
	}
	unstructured.RemoveNestedField(content, "metadata", "managedFields")
	for _, list := range []string{"items", "rows"} {
		items, _ := content[list].([]any)
		for _, item := range items {
			if m, ok := item.(map[string]any); ok {
				unstructured.RemoveNestedField(m, "metadata", "managedFields")
				unstructured.RemoveNestedField(m, "object", "metadata", "managedFields")
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
	if w.keep || w.code >= 400 || w.record.verb == "delete" || w.record.verb == "deletecollection" {
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
