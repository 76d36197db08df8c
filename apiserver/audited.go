package apiserver

import (
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/audit"
)

// audited notes a request in the audit log. refused is why nobody knows whose it is, if so. done is to be deferred.
func (s *Server) audited(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, endless bool, refused error) (*audit.Record, http.ResponseWriter, *http.Request, func()) {
	received, ok := request.ReceivedTimestampFrom(req.Context())
	if !ok {
		received = time.Now()
	}
	if refused != nil {
		return nil, s.cfg.Audit.Refuse(w, req, info, received), req, func() {}
	}
	u, _ := request.UserFrom(req.Context())
	record, out := s.cfg.Audit.Begin(w, req, info, u, endless, received)
	if record == nil {
		return nil, w, req, func() {}
	}
	return record, out, req.WithContext(admission.WithAnnotator(req.Context(), record.Annotate)), func() {
		p := recover()
		record.End(p)
		if p != nil {
			panic(p)
		}
	}
}
