package main

import (
	"os"

	"github.com/coracle-dev/coracle/apiserver/audit"
	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// openAudit opens the audit log, if one is wanted: without a policy nothing is noted.
func (s *server) openAudit() (*audit.Log, error) {
	switch {
	case s.o.auditPolicy == "" && s.o.auditLog.Path == "":
		return nil, nil
	case s.o.auditPolicy == "" || s.o.auditLog.Path == "":
		return nil, neverAgain("--audit-policy-file and --audit-log-path belong together")
	}
	file, err := os.ReadFile(s.o.auditPolicy)
	if err != nil {
		return nil, neverAgain("--audit-policy-file: %v", err)
	}
	policy, err := audit.ParsePolicy(file)
	if err != nil {
		return nil, neverAgain("--audit-policy-file %s: %v", s.o.auditPolicy, err)
	}
	if s.audit, err = audit.OpenFile(s.o.auditLog); err != nil {
		return nil, neverAgain("--audit-log-path: %v", err)
	}
	return audit.New(policy, s.audit, kinds.Scheme()), nil
}
