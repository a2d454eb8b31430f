package auth

import (
	"net/http"
	"strconv"

	"github.com/loki-go/loki-go/gateway/tenant"
)

// retryAfter is what a client is told to wait, in seconds.
const retryAfter = 5

// Wrap returns next for requests with credentials that are good for the tenant
// they name. They carry the tenant and their Identity, but not the credentials,
// from there on.
func (a *Auth) Wrap(next http.Handler) http.Handler {
	if !a.cfg.Enabled() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.exempt[r.URL.Path] {
			next.ServeHTTP(w, r)
			return
		}
		named := r.Header.Values(tenant.Header)
		id, name, why := a.decide(r.Context(), r.Header.Values("Authorization"), named)
		if why != admitted {
			a.answer(w, r, why, id, named)
			return
		}
		in := r.WithContext(withIdentity(r.Context(), id))
		in.Header = r.Header.Clone()
		in.Header.Del("Authorization")
		if name != "" {
			in.Header.Set(tenant.Header, name)
		}
		next.ServeHTTP(w, in)
		r.Pattern = in.Pattern // for whoever has wrapped this
	})
}

func (a *Auth) answer(w http.ResponseWriter, r *http.Request, why refusal, id *Identity, named []string) {
	status, _, text := a.refuse(why, id, r.RemoteAddr, named)
	h := w.Header()
	switch status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Basic realm="loki-go", charset="UTF-8"`)
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	h.Set("X-Content-Type-Options", "nosniff")
	http.Error(w, text, status)
}
