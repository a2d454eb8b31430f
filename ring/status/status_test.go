package status

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/ring"
)

type fixed ring.Status

func (f fixed) Status() ring.Status { return ring.Status(f) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func sample() fixed {
	members := []ring.Member{
		{Instance: ring.Instance{ID: "a", Addr: "10.0.0.1:9095", Zone: "z1", State: ring.Active, Generation: 17}, Started: now.Add(-26 * time.Hour), Seen: now.Add(-90 * time.Second), Version: "v1"},
		{Instance: ring.Instance{ID: "b", Addr: "10.0.0.2:9095", Zone: "z2", State: ring.Active}, Started: now.Add(-time.Hour), Seen: now, Missing: true, Deadline: now.Add(9 * time.Second)},
		{Instance: ring.Instance{ID: "c", Addr: "10.0.0.3:9095", Zone: "z1", State: ring.Leaving}, Started: now.Add(time.Hour), Seen: now, Deadline: now.Add(90 * time.Second)},
		{Instance: ring.Instance{ID: "<script>", State: ring.Joining}},
	}
	var list []ring.Instance
	for _, m := range members {
		list = append(list, m.Instance)
	}
	return fixed{
		Store: "consul at 127.0.0.1:8500, x", Ring: ring.New(list), Members: members, Contact: now.Add(-5 * time.Second),
		Stale: true, Problem: "connection refused", Ignored: []ring.Ignored{{Key: "x/<b>", Reason: "no session holds it"}},
	}
}

func get(t *testing.T, h http.Handler, target, accept string) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), string(body)
}

func handler() *Handler {
	return New(sample(), Options{
		ReplicationFactor: 3, Self: "a", Now: func() time.Time { return now },
		Streams: func(id string) (int64, bool) { return 42, id == "a" },
	})
}

func TestJSON(t *testing.T) {
	resp, body := get(t, handler(), "/ring", "*/*")
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		t.Fatalf("%s: %s", resp.Status, body)
	}
	var r Report
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Instances) != 4 || r.Active != 2 || !r.Stale || r.Problem == "" || *r.LastContactSeconds != 5 || r.LastContact != "2026-01-02T03:04:00Z" ||
		len(r.Ignored) != 1 || r.Ignored[0].Key != "x/<b>" || !strings.Contains(r.Warning, "replication factor is 3") {
		t.Fatalf("got %s", body)
	}
	a, b, c := r.Instances[0], r.Instances[1], r.Instances[2]
	if a.ID != "a" || !a.Self || *a.Streams != 42 || a.Generation != 17 || a.AgeSeconds != 26*3600 || a.InStateSeconds != 90 || a.Version != "v1" || a.Started != "2026-01-01T01:04:05Z" {
		t.Errorf("a: %+v", a)
	}
	if !b.Missing || b.Streams != nil || b.DeadlineSeconds != 9 || b.Self {
		t.Errorf("b: %+v", b)
	}
	if c.State != ring.Leaving || c.AgeSeconds != 0 || c.Share != 0 {
		t.Errorf("c: %+v", c)
	}
	if math.Abs(a.Share+b.Share-1) > 1e-9 || a.Share != 0.5 {
		t.Errorf("shares %v, %v", a.Share, b.Share)
	}
	if len(r.Zones) != 2 || r.Zones[0] != (Zone{"z1", 1, 0.5}) {
		t.Errorf("zones %+v", r.Zones)
	}
}

func TestPage(t *testing.T) {
	for _, target := range []string{"/ring", "/ring?format=html"} {
		accept := "text/html,application/xhtml+xml,*/*;q=0.8"
		if target != "/ring" {
			accept = "*/*"
		}
		resp, body := get(t, handler(), target, accept)
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			t.Fatalf("%s: %s", resp.Status, body)
		}
		for _, want := range []string{
			"2 of 4 instances are active", "10.0.0.1:9095", "1d 02h", "1m 30s left", "missing in the store", "50.0 %", ">42<",
			"last heard of 5s ago", "cannot be reached", "connection refused", "&lt;script&gt;", "x/&lt;b&gt;", "pushes have fewer copies",
			"prefers-color-scheme: dark", "(this one)",
		} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in the page", want)
			}
		}
		for _, never := range []string{"<script", "http://", "https://", "src=", "@import"} {
			if strings.Contains(body, never) {
				t.Errorf("%q in the page", never)
			}
		}
	}
}

func TestEmptyAndUnknown(t *testing.T) {
	h := New(ring.NewMemory(), Options{})
	if _, body := get(t, h, "/ring?format=html", ""); !strings.Contains(body, "No instances") || !strings.Contains(body, "pushes are refused") {
		t.Errorf("an empty ring: %s", body)
	}
	if resp, _ := get(t, h, "/ring?format=xml", ""); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("format=xml: %s", resp.Status)
	}
	never := fixed{Store: "consul", Ring: ring.New(nil)}
	if _, body := get(t, New(never, Options{}), "/ring?format=html", ""); !strings.Contains(body, "not heard of yet") {
		t.Errorf("a store that never answered: %s", body)
	}
	if _, body := get(t, New(never, Options{}), "/ring", ""); !strings.Contains(body, `"instances": []`) || strings.Contains(body, "last_contact") {
		t.Errorf("a store that never answered: %s", body)
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m 01s", 2*time.Hour + 3*time.Minute: "2h 03m", 49 * time.Hour: "2d 01h",
	} {
		if got := short(d); got != want {
			t.Errorf("%s is shown as %q", d, got)
		}
	}
}
