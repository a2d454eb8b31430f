package auth

import (
	"context"
	"fmt"
	"net/http"

	"google.golang.org/grpc/codes"
)

// refusal is why a request is not let in.
type refusal uint8

const (
	admitted refusal = iota
	noCredentials
	badCredentials
	wrongTenant
	unusable // the file
	busy
)

// refusals say how each is answered.
var refusals = [...]struct {
	reason string // in metrics and logs
	status int
	code   codes.Code
	text   string
}{
	noCredentials:  {"no_credentials", http.StatusUnauthorized, codes.Unauthenticated, "no credentials: Basic, Bearer or ApiKey authorization is required"},
	badCredentials: {"bad_credentials", http.StatusUnauthorized, codes.Unauthenticated, "wrong credentials"},
	wrongTenant:    {"wrong_tenant", http.StatusForbidden, codes.PermissionDenied, "the credentials are not for this tenant"},
	unusable:       {"users_file", http.StatusServiceUnavailable, codes.Unavailable, "credentials cannot be checked at present: the users file cannot be used"},
	busy:           {"busy", http.StatusServiceUnavailable, codes.Unavailable, "too many passwords are being checked"},
}

// decide says who a request with these Authorization headers, which names these
// tenants, comes from, and which tenant it is for.
func (a *Auth) decide(ctx context.Context, authorization, tenants []string) (id *Identity, tenant string, why refusal) {
	s := a.state()
	id, why = a.identify(ctx, s, authorization)
	if why == admitted {
		tenant, why = id.tenant(tenants)
	}
	if s.broken && (why == badCredentials || why == wrongTenant) {
		why = unusable
	}
	return id, tenant, why
}

func (a *Auth) identify(ctx context.Context, s *state, authorization []string) (*Identity, refusal) {
	if len(authorization) == 0 || len(authorization) == 1 && authorization[0] == "" {
		return nil, noCredentials
	}
	c, ok := parseAuthorization(authorization[0])
	if !ok || len(authorization) > 1 {
		return nil, badCredentials
	}
	id, err := s.identify(ctx, a.verifier, c)
	switch {
	case err != nil:
		return nil, busy
	case id == nil:
		return &Identity{Name: c.name}, badCredentials
	}
	return id, admitted
}

// tenant returns the tenant of a request that names these. One that names none
// gets the first that there is; "" is left to whoever wants a tenant.
func (id *Identity) tenant(named []string) (string, refusal) {
	if len(named) == 0 || len(named) == 1 && named[0] == "" {
		if len(id.tenants) > 0 {
			return id.tenants[0], admitted
		}
		return "", admitted
	}
	for _, t := range named {
		if !id.May(t) || t != named[0] {
			return "", wrongTenant
		}
	}
	return named[0], admitted
}

// refuse counts and logs a refusal. It returns how it is answered.
func (a *Auth) refuse(why refusal, id *Identity, peer string, tenants []string) (status int, code codes.Code, text string) {
	r := &refusals[why]
	a.refused.WithLabelValues(r.reason).Inc()
	name := ""
	if id != nil {
		name = id.Name
	}
	a.warn.Warn("request refused", "reason", r.reason, "user", clip(name), "tenant", clip(fmt.Sprint(tenants)), "peer", peer)
	if a.cfg.RetryRefused {
		return http.StatusServiceUnavailable, codes.Unavailable, r.text
	}
	return r.status, r.code, r.text
}

// clip keeps what strangers send short.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}
