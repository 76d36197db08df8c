package auth

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// errInvalidToken says nothing of why, for it may reach whoever is guessing.
var errInvalidToken = errors.New("invalid bearer token")

const (
	protocolHeader = "Sec-Websocket-Protocol"
	// tokenProtocol is how browsers, which cannot set headers on a WebSocket, show a token: as one more subprotocol.
	tokenProtocol = "base64url.bearer.authorization.k8s.io."
)

// bearer finds a token in the request and has it checked. A token that was accepted is taken out of the request,
// so that nothing behind the API server (a node, a log) ever sees it.
type bearer struct{ tokens authenticator.Token }

func (b *bearer) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if token, found := headerToken(req.Header); found {
		resp, err := b.check(req, token)
		if err != nil {
			return nil, false, err
		}
		req.Header.Del("Authorization")
		return resp, true, nil
	}
	token, rest, found, err := protocolToken(req.Header)
	if err != nil || !found {
		return nil, false, err
	}
	resp, err := b.check(req, token)
	if err != nil {
		return nil, false, err
	}
	req.Header.Set(protocolHeader, strings.Join(rest, ","))
	return resp, true, nil
}

func (b *bearer) check(req *http.Request, token string) (*authenticator.Response, error) {
	if b.tokens == nil {
		return nil, errInvalidToken
	}
	resp, ok, err := b.tokens.AuthenticateToken(req.Context(), token)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errInvalidToken
	}
	return resp, nil
}

// headerToken reads "Authorization: Bearer TOKEN". Other schemes, and an empty token, are no credential.
func headerToken(h http.Header) (string, bool) {
	scheme, token, ok := strings.Cut(strings.TrimSpace(h.Get("Authorization")), " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "bearer") || token == "" {
		return "", false
	}
	return token, true
}

// protocolToken reads the token out of a WebSocket handshake's subprotocols and returns the others. One other must be there,
// for the server has to choose one and must not choose the token.
func protocolToken(h http.Header) (token string, rest []string, found bool, err error) {
	if !strings.EqualFold(h.Get("Upgrade"), "websocket") {
		return "", nil, false, nil
	}
	for _, line := range h.Values(protocolHeader) {
		for _, p := range strings.Split(line, ",") {
			p = strings.TrimSpace(p)
			encoded, isToken := strings.CutPrefix(p, tokenProtocol)
			if !isToken {
				rest = append(rest, p)
				continue
			}
			raw, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil || found || len(raw) == 0 || !utf8.Valid(raw) {
				return "", nil, false, errInvalidToken
			}
			token, found = string(raw), true
		}
	}
	if found && len(rest) == 0 {
		return "", nil, false, errors.New("missing additional subprotocol")
	}
	return token, rest, found, nil
}
