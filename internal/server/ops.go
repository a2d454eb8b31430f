package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/loki-go/loki-go/gateway/auth"
)

// ops is what the operational endpoints show and do.
type ops struct {
	ready    func() error
	services func() []service
	config   func() []byte // effective settings as YAML, secrets masked
	ring     http.Handler  // nil in a process without a ring
	// The next two are nil in a process without an ingester.
	flush func(ctx context.Context, wait bool) error
	// shutdown begins the end of the process and returns when pushes have
	// stopped and, with flush, all is stored.
	shutdown func(ctx context.Context, flush bool) error
	level    *slog.LevelVar
	metrics  prometheus.Gatherer
	log      *slog.Logger
}

// service is a part of the process, for people.
type service struct{ Name, State, Address string }

func (o *ops) register(mux *http.ServeMux) {
	// Who uses the page at /ui has credentials in a browser, which sends them with
	// forms of any page from elsewhere, too.
	own := http.NewCrossOriginProtection()
	mux.HandleFunc("GET /ready", o.serveReady)
	mux.Handle("GET /config", admin(o.serveConfig))
	mux.HandleFunc("GET /services", o.serveServices)
	if o.ring != nil {
		mux.Handle("GET /ring", o.ring)
	}
	if o.flush != nil {
		mux.Handle("POST /flush", own.Handler(admin(o.serveFlush)))
		mux.Handle("POST /ingester/shutdown", own.Handler(admin(o.serveShutdown)))
	}
	mux.HandleFunc("GET /log_level", o.serveLevel)
	mux.Handle("POST /log_level", own.Handler(admin(o.setLevel)))
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.metrics, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(o.log.Handler(), slog.LevelError)}))
	// Without cmdline, which has the secrets that are given as flags.
	mux.Handle("GET /debug/pprof/", admin(pprof.Index))
	mux.Handle("GET /debug/pprof/profile", admin(pprof.Profile))
	mux.Handle("GET /debug/pprof/symbol", admin(pprof.Symbol))
	mux.Handle("GET /debug/pprof/trace", admin(pprof.Trace))
}

// admin is for what concerns all tenants. Where clients have credentials it asks
// for some that are for all of them.
func admin(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if who := auth.FromContext(r.Context()); who != nil && !who.All() {
			http.Error(w, "this needs credentials for all tenants: tenants: [\"*\"] in auth.users-file", http.StatusForbidden)
			return
		}
		next(w, r)
	})
}

func (o *ops) serveReady(w http.ResponseWriter, _ *http.Request) {
	if err := o.ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (o *ops) serveConfig(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/yaml; charset=utf-8")
	// An error is that of the client's connection; so in all of these.
	_, _ = w.Write(o.config())
}

func (o *ops) serveServices(w http.ResponseWriter, _ *http.Request) {
	for _, s := range o.services() {
		fmt.Fprintf(w, "%s => %s %s\n", s.Name, s.State, s.Address)
	}
}

func (o *ops) serveLevel(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]string{"level": strings.ToLower(o.level.Level().String())})
}

// setLevel takes the name that Loki has for the parameter.
func (o *ops) setLevel(w http.ResponseWriter, r *http.Request) {
	text := r.FormValue("log_level")
	var l slog.Level
	if err := l.UnmarshalText([]byte(text)); err != nil {
		http.Error(w, fmt.Sprintf("log_level=%q is not debug, info, warn or error", text), http.StatusBadRequest)
		return
	}
	o.level.Set(l)
	o.log.Warn("log level changed", "level", l, "peer", r.RemoteAddr)
	o.serveLevel(w, r)
}

func (o *ops) serveFlush(w http.ResponseWriter, r *http.Request) {
	wait, err := boolParam(r, "wait", false)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := o.ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if err := o.flush(r.Context(), wait); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (o *ops) serveShutdown(w http.ResponseWriter, r *http.Request) {
	flush, err := boolParam(r, "flush", true)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := o.shutdown(r.Context(), flush); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func boolParam(r *http.Request, name string, def bool) (bool, error) {
	text := r.FormValue(name)
	if text == "" {
		return def, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s=%q is neither true nor false", name, text)
	}
	return v, nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}
