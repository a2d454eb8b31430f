// Package status shows a ring: as a page for people, which needs nothing from
// elsewhere, and as JSON for programs.
package status

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/loki-go/loki-go/ring"
)

// Report is what is shown. Durations are in seconds.
type Report struct {
	Store             string     `json:"store"`
	ReplicationFactor int        `json:"replication_factor"`
	Active            int        `json:"active"`
	Zones             []Zone     `json:"zones"`
	Instances         []Instance `json:"instances"`
	Ignored           []Ignored  `json:"ignored,omitempty"`
	// Stale says that the store cannot be reached and this is the last known
	// ring.
	Stale              bool     `json:"stale"`
	Problem            string   `json:"problem,omitempty"`
	LastContact        string   `json:"last_contact,omitempty"` // RFC 3339
	LastContactSeconds *float64 `json:"last_contact_seconds,omitempty"`
	// Warning is what is wrong with the ring itself.
	Warning string `json:"warning,omitempty"`
}

// Zone has the ACTIVE instances of a zone.
type Zone struct {
	Name   string  `json:"name"`
	Active int     `json:"active"`
	Share  float64 `json:"share"`
}

// Instance is one member.
type Instance struct {
	ID         string     `json:"id"`
	Addr       string     `json:"address"`
	Zone       string     `json:"zone"`
	State      ring.State `json:"state"`
	Generation int64      `json:"generation"`
	Version    string     `json:"version,omitempty"`
	Self       bool       `json:"self,omitempty"`
	// Share is the part of all replicas that the instance gets, 0 to 1.
	Share float64 `json:"share"`
	// Streams is how many it has in memory, if that is known here.
	Streams *int64 `json:"streams,omitempty"`

	Started          string  `json:"started,omitempty"` // RFC 3339, by the clock of its machine
	AgeSeconds       float64 `json:"age_seconds"`
	InStateSeconds   float64 `json:"in_state_seconds"` // as seen from here
	DeadlineSeconds  float64 `json:"deadline_seconds,omitempty"`
	Missing          bool    `json:"missing,omitempty"`
	Age, InState     string  `json:"-"`
	Until, StateText string  `json:"-"`
}

// Ignored is a key that is no member.
type Ignored struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// Options are what a Handler shows beside the members.
type Options struct {
	ReplicationFactor int
	Self              string // the id of this instance, if it has one
	// Streams returns how many streams an instance has in memory, if that is
	// known here. It must not block. It may be nil.
	Streams func(id string) (n int64, ok bool)
	Now     func() time.Time // nil: time.Now
}

// Handler serves GET /ring: HTML if the client prefers it, as browsers do, JSON
// otherwise; format=html or format=json decides. It may be used concurrently.
type Handler struct {
	members interface{ Status() ring.Status }
	o       Options

	mu    sync.Mutex
	of    *ring.Ring // that shares are of
	share []float64
}

// New returns a handler for a membership.
func New(members interface{ Status() ring.Status }, o Options) *Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.ReplicationFactor = max(1, o.ReplicationFactor)
	return &Handler{members: members, o: o}
}

// Report returns what the handler shows now.
func (h *Handler) Report() Report {
	s := h.members.Status()
	now := h.o.Now()
	r := Report{
		Store: s.Store, ReplicationFactor: h.o.ReplicationFactor, Active: s.Ring.ActiveCount(),
		Instances: []Instance{}, Zones: []Zone{}, Stale: s.Stale, Problem: s.Problem,
	}
	if !s.Contact.IsZero() {
		age := max(0, now.Sub(s.Contact)).Seconds()
		r.LastContact, r.LastContactSeconds = s.Contact.UTC().Format(time.RFC3339), &age
	}
	for _, i := range s.Ignored {
		r.Ignored = append(r.Ignored, Ignored(i))
	}
	shares := h.shares(s.Ring)
	zones := map[string]*Zone{}
	for _, m := range s.Members {
		in := h.instance(m, now)
		if i := s.Ring.Find(m.ID); i >= 0 {
			in.Share = shares[i]
		}
		if m.State == ring.Active {
			z := zones[m.Zone]
			if z == nil {
				z = &Zone{Name: m.Zone}
				zones[m.Zone] = z
			}
			z.Active++
			z.Share += in.Share
		}
		r.Instances = append(r.Instances, in)
	}
	for _, z := range zones {
		r.Zones = append(r.Zones, *z)
	}
	slices.SortFunc(r.Zones, func(a, b Zone) int { return strings.Compare(a.Name, b.Name) })
	r.Warning = warning(r)
	return r
}

func warning(r Report) string {
	quorum := r.ReplicationFactor/2 + 1
	switch {
	case r.Active < quorum:
		return fmt.Sprintf("%d instances are ACTIVE, a push needs %d: pushes are refused", r.Active, quorum)
	case r.Active < r.ReplicationFactor:
		return fmt.Sprintf("%d instances are ACTIVE, the replication factor is %d: pushes have fewer copies", r.Active, r.ReplicationFactor)
	}
	return ""
}

func (h *Handler) instance(m ring.Member, now time.Time) Instance {
	in := Instance{
		ID: m.ID, Addr: m.Addr, Zone: m.Zone, State: m.State, Generation: m.Generation, Version: m.Version,
		Self: m.ID == h.o.Self, Missing: m.Missing, StateText: m.State.String(),
	}
	if !m.Started.IsZero() {
		age := max(0, now.Sub(m.Started)) // clocks may differ
		in.Started, in.AgeSeconds, in.Age = m.Started.UTC().Format(time.RFC3339), age.Seconds(), short(age)
	}
	if !m.Seen.IsZero() {
		d := max(0, now.Sub(m.Seen))
		in.InStateSeconds, in.InState = d.Seconds(), short(d)
	}
	if !m.Deadline.IsZero() {
		d := max(0, m.Deadline.Sub(now))
		in.DeadlineSeconds, in.Until = d.Seconds(), short(d)
	}
	if h.o.Streams != nil {
		if n, ok := h.o.Streams(m.ID); ok {
			in.Streams = &n
		}
	}
	return in
}

// short prints a duration with its two largest units.
func short(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm %02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd %02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// shareSamples bounds the time for a large ring: some 30 ms for 200 instances.
const shareSamples = 1 << 16

// shares returns which part of all replicas each member of r gets, to within
// the noise of the sample.
func (h *Handler) shares(r *ring.Ring) []float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == r {
		return h.share
	}
	share := make([]float64, len(r.Instances()))
	var dst [ring.MaxReplicas]int
	total := 0
	for i := range shareSamples {
		for _, at := range r.Replicas(uint32(i*(1<<32/shareSamples)), h.o.ReplicationFactor, dst[:0]) {
			share[at]++
			total++
		}
	}
	for i := range share {
		share[i] /= float64(max(1, total))
	}
	h.of, h.share = r, share
	return share
}

//go:embed page.html
var pageText string

var page = template.Must(template.New("ring").Funcs(template.FuncMap{
	"percent": func(f float64) string { return fmt.Sprintf("%.1f %%", 100*f) },
	"zone": func(name string) string {
		if name == "" {
			return "(none)"
		}
		return name
	},
	"lower": func(s ring.State) string { return strings.ToLower(s.String()) },
	"since": func(s *float64) string { return short(time.Duration(*s * float64(time.Second))) },
}).Parse(pageText))

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	format := r.FormValue("format")
	if format == "" {
		format = "json"
		if strings.Contains(r.Header.Get("Accept"), "text/html") {
			format = "html"
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	// An error of writing is that of the client's connection.
	switch format {
	case "json":
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(h.Report())
	case "html":
		var b bytes.Buffer
		if err := page.Execute(&b, h.Report()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_, _ = w.Write(b.Bytes())
	default:
		http.Error(w, fmt.Sprintf("format=%q is neither html nor json", format), http.StatusBadRequest)
	}
}
