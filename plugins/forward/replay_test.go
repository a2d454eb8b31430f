package forward

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/plugins/msgpack"
	"github.com/loki-go/loki-go/proto/push"
)

// fixture is what a real client sent, and what it was answered.
type fixture struct {
	ID          string `json:"id"`
	Client      string `json:"client"`
	Events      string `json:"events"`
	Connections []struct {
		Sent     string `json:"sent"`
		Answers  string `json:"answers"`
		Segments []int  `json:"segments"`
	} `json:"connections"`
	Server *demands `json:"server"`
}

// demands are those of the server that the fixture was recorded with.
type demands struct {
	SharedKey string            `json:"shared_key"`
	Users     map[string]string `json:"users"`
	Nonce     string            `json:"nonce"`
	Salt      string            `json:"salt"`
	Hostname  string            `json:"hostname"`
	NonceStr  bool              `json:"nonce_str"` // HELO had str where ours has bin
}

// endlessly reads the same bytes again and again.
type endlessly struct {
	mu sync.Mutex
	p  []byte
	at int
}

func (r *endlessly) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range p {
		p[i] = r.p[r.at%len(r.p)]
		r.at++
	}
	return len(p), nil
}

// rigFor returns a server that demands what the recorded one did, and is as
// random as that.
func rigFor(t testing.TB, fx fixture) *rig {
	t.Helper()
	d := fx.Server
	if d == nil {
		return newRig(t, &fakeSink{}, "json", nil)
	}
	r := newRig(t, &fakeSink{}, "json", func(c *Config) {
		c.SharedKey, c.Hostname = d.SharedKey, d.Hostname
		for name, password := range d.Users {
			c.Users = append(c.Users, name+":"+password)
		}
	})
	random, err := hex.DecodeString(d.Nonce + d.Salt)
	if err != nil {
		t.Fatal(err)
	}
	r.auth.rand = &endlessly{p: random}
	return r
}

// expected returns the answers of the recorded server as this one gives them.
func (fx fixture) expected(t testing.TB, recorded []byte) []byte {
	if fx.Server == nil || !fx.Server.NonceStr {
		return recorded
	}
	str, bin := append([]byte("nonce\xb0"), fromHex(t, fx.Server.Nonce)...), append([]byte("nonce\xc4\x10"), fromHex(t, fx.Server.Nonce)...)
	out := bytes.Replace(recorded, str, bin, 1)
	return bytes.Replace(out, []byte("auth\xa0"), []byte("auth\xc4\x00"), 1)
}

func fromHex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	if name == "" {
		return nil
	}
	b, err := os.ReadFile(filepath.Join("testdata", "fixtures", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fixtures(t testing.TB) []fixture {
	t.Helper()
	var all []fixture
	if err := json.Unmarshal(readFile(t, "index.json"), &all); err != nil {
		t.Fatal(err)
	}
	if len(all) < 66 {
		t.Fatalf("only %d fixtures", len(all))
	}
	return all
}

// TestReplay lets real clients' bytes arrive in one piece, byte by byte, and in
// the segments that they were sent in.
func TestReplay(t *testing.T) {
	for _, fx := range fixtures(t) {
		t.Run(fx.ID, func(t *testing.T) {
			cuts := map[string]func(p []byte, segments []int) [][]byte{
				"whole":    func(p []byte, _ []int) [][]byte { return [][]byte{p} },
				"by byte":  func(p []byte, _ []int) [][]byte { return pieces(p, 1) },
				"by 4095":  func(p []byte, _ []int) [][]byte { return pieces(p, 4095) },
				"segments": cut,
			}
			for name, how := range cuts {
				r := rigFor(t, fx)
				for _, c := range fx.Connections {
					got := r.play(how(readFile(t, c.Sent), c.Segments)...)
					want := fx.expected(t, readFile(t, c.Answers))
					if !bytes.Equal(bytes.Join(got.answers, nil), want) {
						t.Fatalf("%s: answered %q, want %q", name, got.answers, want)
					}
					for i, a := range got.answers {
						start := "\x81\xa3ack"
						if fx.Server != nil && i < 2 {
							start = []string{"\x92\xa4HELO", "\x95\xa4PONG"}[i]
						}
						if next, err := msgpack.Skip(a, 0); err != nil || next != len(a) || !bytes.HasPrefix(a, []byte(start)) || len(a) > 511 {
							t.Fatalf("%s: %q is not one answer in one write", name, a)
						}
					}
					if !got.closed {
						t.Fatalf("%s: the connection was not closed", name)
					}
				}
				lines := r.log.lines()
				if fx.ID == "flb_shared_key_rejected" {
					if len(lines) != 1 || !strings.Contains(lines[0], "shared_key mismatch") {
						t.Fatalf("%s: logged %q", name, lines)
					}
				} else if len(lines) > 0 {
					t.Fatalf("%s: logged %q", name, lines)
				}
				compare(t, readFile(t, fx.Events), r.sink.all())
			}
		})
	}
}

// TestReplaySocket sends real clients' bytes over TCP.
func TestReplaySocket(t *testing.T) {
	for _, fx := range fixtures(t) {
		t.Run(fx.ID, func(t *testing.T) {
			r := rigFor(t, fx)
			for _, c := range fx.Connections {
				nc := r.connect(t)
				send(t, nc, readFile(t, c.Sent))
				if err := nc.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(nc)
				if want := fx.expected(t, readFile(t, c.Answers)); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("answered %q, %v, want %q", got, err, want)
				}
			}
			compare(t, readFile(t, fx.Events), r.sink.all())
		})
	}
}

// The HELO of a real Fluentd is that of this server, with the same randomness.
func TestHeloOfFluentd(t *testing.T) {
	want := readFile(t, "server_fluentd_helo.bin")
	nonce, salt := bytes.Index(want, []byte("nonce\xc4\x10"))+7, bytes.Index(want, []byte("auth\xc4\x10"))+6
	fx := fixture{Server: &demands{
		SharedKey: "k", Users: map[string]string{"u": "p"}, Hostname: "h",
		Nonce: hex.EncodeToString(want[nonce : nonce+16]), Salt: hex.EncodeToString(want[salt : salt+16]),
	}}
	if got := rigFor(t, fx).play(); len(got.answers) != 1 || !bytes.Equal(got.answers[0], want) {
		t.Fatalf("got  %q\nwant %q", got.answers, want)
	}
}

func cut(p []byte, segments []int) [][]byte {
	var out [][]byte
	for _, n := range segments {
		out = append(out, p[:n])
		p = p[n:]
	}
	return append(out, p)
}

// known is an event that a fixture has.
type known struct {
	Tag      string         `json:"tag"`
	TS       json.Number    `json:"ts_ns"`
	Record   any            `json:"record"`
	Metadata map[string]any `json:"metadata"`
}

// compare holds entries against the events of a fixture. Entries are grouped by
// stream, so both are sorted first.
func compare(t *testing.T, events []byte, got []stored) {
	t.Helper()
	var want []known
	for d := newDecoder(events); d.More(); {
		var k known
		if err := d.Decode(&k); err != nil {
			t.Fatal(err)
		}
		if marker := k.TS == "4294967295000000000" || k.TS == "4294967294000000000"; !marker {
			want = append(want, k)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	type pair struct {
		key string
		i   int
	}
	var g, w []pair
	for i, e := range got {
		var line any
		if err := newDecoder([]byte(e.line)).Decode(&line); err != nil {
			t.Fatalf("%s: %v", e.line, err)
		}
		g = append(g, pair{fmt.Sprint(e.meta["tag"], " ", e.ts/1000, " ", plainValue(line)), i})
	}
	for i, k := range want {
		w = append(w, pair{fmt.Sprint(k.Tag, " ", nanos(t, k.TS)/1000, " ", plainValue(k.Record)), i})
	}
	byKey := func(a, b pair) int { return cmp.Or(strings.Compare(a.key, b.key), a.i-b.i) }
	slices.SortFunc(g, byKey)
	slices.SortFunc(w, byKey)
	for i := range w {
		if g[i].key != w[i].key {
			t.Fatalf("got  %s\nwant %s", g[i].key, w[i].key)
		}
		e, k := got[g[i].i], want[w[i].i]
		// Equal times of coarse clocks are set apart by a few nanoseconds.
		if n := nanos(t, k.TS); e.ts < n || e.ts > n+10 {
			t.Fatalf("time %d, want %d", e.ts, n)
		}
		if !strings.Contains(e.labels, `job="forward"`) {
			t.Fatalf("labels %s", e.labels)
		}
		for name, v := range k.Metadata {
			if _, nested := v.(map[string]any); !nested && e.meta[name] != fmt.Sprint(v) {
				t.Fatalf("metadata %v, want %v", e.meta, k.Metadata)
			}
		}
	}
}

func newDecoder(p []byte) *json.Decoder {
	d := json.NewDecoder(bytes.NewReader(p))
	d.UseNumber()
	return d
}

// nanos reads a time. One library sends milliseconds for seconds.
func nanos(t *testing.T, n json.Number) int64 {
	t.Helper()
	if v, err := n.Int64(); err == nil {
		return v
	}
	v, ok := new(big.Int).SetString(string(n), 10)
	if !ok {
		t.Fatalf("time %s", n)
	}
	return v.Quo(v, big.NewInt(1000)).Int64() / 1000 * 1000
}

// plainValue gives equal values equal form: numbers, and bytes that JSON cannot
// have.
func plainValue(v any) any {
	switch v := v.(type) {
	case json.Number:
		if strings.ContainsAny(string(v), ".eE") {
			f, err := strconv.ParseFloat(string(v), 64)
			if err == nil {
				return f
			}
		}
		if f, err := v.Float64(); err == nil && len(v) > 25 {
			return f
		}
		return string(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plainValue(v[i])
		}
		return out
	case map[string]any:
		if s, ok := v["$bytes_b64"].(string); ok && len(v) == 1 {
			return plainBytes(s)
		}
		out := map[string]any{}
		for k := range v {
			out[k] = plainValue(v[k])
		}
		return out
	case string:
		// A bin value and a str that is not UTF-8 are told apart by nothing in
		// the expected events; both become what is left of them as text.
		if s, ok := strings.CutPrefix(v, "base64:"); ok {
			return plainBytes(s)
		}
	}
	return v
}

func plainBytes(s string) string {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return err.Error()
	}
	if utf8.Valid(b) {
		return string(b)
	}
	var out []rune
	for _, r := range string(b) {
		out = append(out, r)
	}
	return string(out)
}

func TestReplaySignals(t *testing.T) {
	f := func(name string) {
		t.Helper()
		r := newRig(t, &fakeSink{}, "auto", nil)
		r.play(readFile(t, name+".conn0.c2s.bin"))
		if n := r.value(t, "dropped_messages_total", "metrics"); n == 0 || len(r.sink.all()) > 0 {
			t.Fatalf("%s: %v messages dropped, entries %v", name, n, r.sink.all())
		}
	}
	f("flb_metrics")
	f("flb_metrics_fluentd_compat")
}

// The same chunk gets the same id when it comes again, another one does not.
func TestReplayIDs(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", nil)
	p := readFile(t, "fluentd_ack.conn0.c2s.bin")
	r.play(p)
	r.play(p)
	r.play(readFile(t, "fluentd_ack_keepalive_two_chunks.conn0.c2s.bin"))
	r.play(readFile(t, "fluentd_plain.conn0.c2s.bin"))
	b := r.sink.batches
	if len(b) != 5 {
		t.Fatalf("%d batches", len(b))
	}
	var zero [16]byte
	if b[0].id != b[1].id || b[0].id == zero || b[2].id == b[0].id || b[2].id == b[3].id || b[4].id != zero {
		t.Fatalf("ids %x", []any{b[0].id, b[1].id, b[2].id, b[3].id, b[4].id})
	}
	if b[0].receiver != "forward" {
		t.Fatalf("receiver %q", b[0].receiver)
	}
}

func TestIdentity(t *testing.T) {
	id := func(chunk, tag string, size, part int, tenant string) push.ID {
		return mapping.BatchID(identify([]byte(chunk), []byte(tag), size).base(), part, tenant)
	}
	seen := map[push.ID]bool{id("c", "tag", 10, 0, "x"): true}
	for _, other := range []push.ID{
		id("ct", "ag", 10, 0, "x"), id("c", "other", 10, 0, "x"), id("c", "tag", 11, 0, "x"), id("c", "tag", 10, 1, "x"), id("c", "tag", 10, 0, "y"),
	} {
		if seen[other] {
			t.Fatalf("id %x twice", other)
		}
		seen[other] = true
	}
	if identify(nil, []byte("tag"), 10).base() != (push.ID{}) {
		t.Fatal("an id without a chunk")
	}
}
