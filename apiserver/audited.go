package apiserver

import (
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// audited notes a request in the audit log. refused is why it goes no further, if it does not. done is to be deferred.
func (s *Server) audited(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, endless bool, refused error) (http.ResponseWriter, *http.Request, func()) {
	u, _ := request.UserFrom(req.Context())
	record, out, req := s.cfg.Audit.Begin(w, req, info, u, endless, time.Now())
	switch {
	case refused == nil:
		record.Annotate("authorization.k8s.io/decision", "allow")
	case apierrors.IsForbidden(refused):
		record.Annotate("authorization.k8s.io/decision", "forbid")
	}
	return out, req, func() {
		p := recover()
		if p == http.ErrAbortHandler { //nolint:errorlint // panicked with as it is
			record.End(nil)
		} else {
			record.End(p)
		}
		if p != nil {
			panic(p)
		}
	}
}
