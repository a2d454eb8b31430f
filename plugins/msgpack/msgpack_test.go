package msgpack

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/plugins/mapping"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fixtures(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("testdata/*.bin")
	if err != nil || len(names) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	all := map[string][]byte{}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(n)] = b
	}
	return all
}

// reference is a second, naive reading of the format: it returns the index
// behind the value at p[i:], or -1 if that is cut short, or -2 if it is none.
func reference(p []byte, i int) int {
	if i >= len(p) {
		return -1
	}
	c := p[i]
	i++
	need := func(n int) (int, bool) { return i + n, i+n <= len(p) }
	length := func(n int) (int, bool) {
		if i+n > len(p) {
			return 0, false
		}
		v := 0
		for _, b := range p[i : i+n] {
			v = v<<8 | int(b)
		}
		i += n
		return v, true
	}
	bytesOf := func(lens, extra int) int {
		n, ok := length(lens)
		if !ok {
			return -1
		}
		if j, ok := need(n + extra); ok {
			return j
		}
		return -1
	}
	values := func(n int) int {
		for ; n > 0; n-- {
			if i = reference(p, i); i < 0 {
				return i
			}
		}
		return i
	}
	counted := func(lens, each int) int {
		n, ok := length(lens)
		if !ok {
			return -1
		}
		return values(n * each)
	}
	fixed := func(n int) int {
		if j, ok := need(n); ok {
			return j
		}
		return -1
	}
	switch {
	case c <= 0x7f || c >= 0xe0:
		return i
	case c <= 0x8f:
		return values(2 * int(c-0x80))
	case c <= 0x9f:
		return values(int(c - 0x90))
	case c <= 0xbf:
		return fixed(int(c - 0xa0))
	}
	switch c {
	case 0xc0, 0xc2, 0xc3:
		return i
	case 0xc1:
		return -2
	case 0xc4, 0xd9:
		return bytesOf(1, 0)
	case 0xc5, 0xda:
		return bytesOf(2, 0)
	case 0xc6, 0xdb:
		return bytesOf(4, 0)
	case 0xc7:
		return bytesOf(1, 1)
	case 0xc8:
		return bytesOf(2, 1)
	case 0xc9:
		return bytesOf(4, 1)
	case 0xcc, 0xd0:
		return fixed(1)
	case 0xcd, 0xd1:
		return fixed(2)
	case 0xca, 0xce, 0xd2:
		return fixed(4)
	case 0xcb, 0xcf, 0xd3:
		return fixed(8)
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8:
		return fixed(1 + 1<<(c-0xd4))
	case 0xdc:
		return counted(2, 1)
	case 0xdd:
		return counted(4, 1)
	case 0xde:
		return counted(2, 2)
	}
	return counted(4, 2)
}

func TestScan(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		p := unhex(t, in)
		var s Scanner
		var rec mapping.Record
		next, err := s.Scan(&rec, p, 0)
		if err != nil || next != len(p) {
			t.Fatalf("%s: next %d, error %v", in, next, err)
		}
		if got := string(mapping.AppendJSON(nil, &rec, 0)); got != want {
			t.Fatalf("%s: got %s, want %s", in, got, want)
		}
		for i := range p {
			if _, err := s.Scan(&rec, p[:i], 0); err != ErrShort {
				t.Fatalf("%s cut at %d: error %v", in, i, err)
			}
		}
	}
	f("c0", `null`)
	f("c2", `false`)
	f("c3", `true`)
	f("00", `0`)
	f("7f", `127`)
	f("e0", `-32`)
	f("ff", `-1`)
	f("cc ff", `255`)
	f("cd ffff", `65535`)
	f("ce ffffffff", `4294967295`)
	f("cf ffffffffffffffff", `18446744073709551615`)
	f("cf 7fffffffffffffff", `9223372036854775807`)
	f("cf 0000000000000001", `1`) // wider than needed
	f("d0 80", `-128`)
	f("d1 8000", `-32768`)
	f("d2 80000000", `-2147483648`)
	f("d3 8000000000000000", `-9223372036854775808`)
	f("ca 3e800000", `0.25`)
	f("cb 3ff8000000000000", `1.5`)
	f("cb 7ff8000000000000", `"NaN"`)
	f("a0", `""`)
	f("a3 616263", `"abc"`)
	f("d9 03 616263", `"abc"`)
	f("da 0003 616263", `"abc"`)
	f("db 00000003 616263", `"abc"`)
	f("c4 02 6162", `"ab"`)
	f("c5 0002 6162", `"ab"`)
	f("c6 00000002 fffe", `"base64://4="`)
	f("c7 02 05 6162", `"ab"`)
	f("c8 0002 05 6162", `"ab"`)
	f("c9 00000002 05 6162", `"ab"`)
	f("d4 05 61", `"a"`)
	f("d5 05 6162", `"ab"`)
	f("d6 05 61626364", `"abcd"`)
	f("d7 05 6162636465666768", `"abcdefgh"`)
	f("d8 05 61626364656667686162636465666768", `"abcdefghabcdefgh"`)
	f("90", `[]`)
	f("80", `{}`)
	f("92 01 91 02", `[1,[2]]`)
	f("dc 0002 01 dd 00000001 02", `[1,[2]]`)
	f("82 a1 61 01 a1 62 81 a1 63 90", `{"a":1,"b":{"c":[]}}`)
	f("de 0001 d9 01 61 df 00000001 c4 01 62 03", `{"a":{"b":3}}`)
	f("93 80 80 81 a1 61 80", `[{},{},{"a":{}}]`)
	// Keys that are not strings.
	f("84 01 02 c0 03 c3 04 cb 3ff8000000000000 05", `{"1":2,"null":3,"true":4,"1.5":5}`)
	f("81 92 01 a1 78 02", `{"[1,\"x\"]":2}`)
	f("81 81 a1 61 c0 02", `{"{\"a\":null}":2}`)
	f("82 d4 00 61 01 81 a1 62 cf ffffffffffffffff 02", `{"a":1,"{\"b\":18446744073709551615}":2}`)
}

func TestScanKinds(t *testing.T) {
	f := func(in string, want mapping.Kind, num uint64) {
		t.Helper()
		var s Scanner
		var rec mapping.Record
		if _, err := s.Scan(&rec, unhex(t, in), 0); err != nil {
			t.Fatal(err)
		}
		if n := rec.Nodes[0]; n.Kind != want || n.Num != num {
			t.Fatalf("%s: kind %d, number %#x", in, n.Kind, n.Num)
		}
	}
	f("a161", mapping.String, 0)
	f("c40161", mapping.Bytes, 0)
	f("d40061", mapping.Ext, 0)
	f("ff", mapping.Int, math.MaxUint64)
	f("cf8000000000000000", mapping.Uint, 1<<63)
	f("cb3ff8000000000000", mapping.Float, math.Float64bits(1.5))
}

func TestScanErrors(t *testing.T) {
	f := func(name string, p []byte, want error) {
		t.Helper()
		var s Scanner
		var rec mapping.Record
		if _, err := s.Scan(&rec, p, 0); err != want {
			t.Fatalf("%s: error %v, want %v", name, err, want)
		}
		// The next value must not suffer from it.
		if _, err := s.Scan(&rec, []byte{0x81, 1, 2}, 0); err != nil || string(mapping.AppendJSON(nil, &rec, 0)) != `{"1":2}` {
			t.Fatalf("%s: the scanner is broken: %v", name, err)
		}
	}
	nested := func(n int) []byte { return append(bytes.Repeat([]byte{0x91}, n), 0xc0) }
	f("nothing", nil, ErrShort)
	f("never used", []byte{0xc1}, ErrInvalid)
	f("inside", []byte{0x92, 0x01, 0xc1}, ErrInvalid)
	f("as key", []byte{0x81, 0xc1, 0x01}, ErrInvalid)
	f("64 deep", nested(64), nil)
	f("65 deep", nested(65), ErrDepth)
	f("10,000 deep", nested(10000), ErrDepth)
	f("deep in a key", append([]byte{0x81}, nested(65)...), ErrDepth)
	f("2^32-1 elements", []byte{0xdd, 0xff, 0xff, 0xff, 0xff, 1}, ErrShort)
	f("2^32-1 pairs", []byte{0xdf, 0xff, 0xff, 0xff, 0xff, 1, 1}, ErrShort)
	f("2^32-1 bytes", []byte{0xdb, 0xff, 0xff, 0xff, 0xff, 1}, ErrShort)
	f("2^31 byte key", []byte{0x81, 0xdb, 0x80, 0, 0, 0, 1}, ErrShort)
	f("odd key in odd key", []byte{0x81, 0x91, 0x81, 0x01, 0x02, 0x03}, ErrKey)
	f("large odd key", append(append([]byte{0x81, 0xdc, 0x10, 0x01}, make([]byte, 4097)...), 1), ErrKey)
	most := mapping.MaxNodes - 1
	f("most values", append([]byte{0xdd, 0, 0, byte(most >> 8), byte(most)}, make([]byte, most)...), nil)
	f("too many values", append([]byte{0xdd, 0, 1, 0, 0}, make([]byte, 1<<16)...), ErrTooMany)
}

func TestRead(t *testing.T) {
	if s, n, ok := ReadString(unhex(t, "00 c5 0002 6162 ff"), 1); string(s) != "ab" || n != 6 || !ok {
		t.Fatalf("got %q, %d, %v", s, n, ok)
	}
	for _, in := range []string{"", "a2 61", "db", "db 80000000 61", "01", "d4 01 61"} {
		if s, n, ok := ReadString(unhex(t, in), 0); ok || n != 0 {
			t.Fatalf("%s: read %q", in, s)
		}
	}
	ints := map[string]int64{"05": 5, "ff": -1, "d3 ffffffffffffffff": -1, "cd 0100": 256, "d1 ff00": -256, "cf 7fffffffffffffff": math.MaxInt64}
	for in, want := range ints {
		p := unhex(t, in)
		if v, n, ok := ReadInt(p, 0); v != want || n != len(p) || !ok {
			t.Fatalf("%s: got %d, %d, %v", in, v, n, ok)
		}
	}
	for _, in := range []string{"", "cd 01", "cf 8000000000000000", "cb 0000000000000000", "a0", "80"} {
		if v, _, ok := ReadInt(unhex(t, in), 0); ok {
			t.Fatalf("%s: read %d", in, v)
		}
	}
	if n, i, ok := ReadMap(unhex(t, "df 00000003"), 0); n != 3 || i != 5 || !ok {
		t.Fatalf("got %d, %d, %v", n, i, ok)
	}
	if n, i, ok := ReadArray(unhex(t, "dc 0102"), 0); n != 258 || i != 3 || !ok {
		t.Fatalf("got %d, %d, %v", n, i, ok)
	}
	for _, in := range []string{"", "80", "dc 01", "dd 010203"} {
		if n, _, ok := ReadArray(unhex(t, in), 0); ok {
			t.Fatalf("%s: read %d", in, n)
		}
	}
}

func TestFrame(t *testing.T) {
	f := func(name string, p []byte) {
		t.Helper()
		want := reference(p, 0)
		if want < 0 {
			t.Fatalf("%s: bad test value", name)
		}
		p = append(p[:want:want], 0xc1, 0xc1) // what follows is not looked at
		for _, step := range []int{1, 2, 3, 7, 1000, len(p)} {
			var fr Frame
			for n := 0; ; n = min(n+step, len(p)) {
				done, err := fr.Scan(p[:n])
				if err != nil {
					t.Fatalf("%s at %d: %v", name, n, err)
				}
				if done {
					if fr.Size() != want {
						t.Fatalf("%s: size %d, want %d", name, fr.Size(), want)
					}
					break
				}
				if n >= want || fr.Size() <= n || fr.Size() > want {
					t.Fatalf("%s: not done with %d of %d bytes, least size %d", name, n, want, fr.Size())
				}
			}
			checkElems(t, name, &fr, p[:want])
		}
	}
	for name, p := range fixtures(t) {
		f(name, p)
	}
	f("empty array", []byte{0x90})
	f("wide empty array", []byte{0xdd, 0, 0, 0, 0})
	f("wide", unhex(t, "dc 0005 01 a1 61 92 01 90 80 c4 00"))
	f("nil", []byte{0xc0})
	f("map", unhex(t, "82 01 91 02 03 04"))
	f("10,000 deep", append(bytes.Repeat([]byte{0x91}, 10000), 0xc0))
}

// checkElems compares the element bounds that a Frame noted with a second look.
func checkElems(t *testing.T, name string, fr *Frame, p []byte) {
	t.Helper()
	n, at, ok := ReadArray(p, 0)
	if elems, array := fr.Elems(); array != ok || ok && elems != int(n) {
		t.Fatalf("%s: %d elements (%v), want %d (%v)", name, elems, array, n, ok)
	}
	for k := range min(int(n), maxElems) {
		end := reference(p, at)
		if from, to := fr.Elem(p, k); from != at || to != end {
			t.Fatalf("%s: element %d at %d to %d, want %d to %d", name, k, from, to, at, end)
		}
		at = end
	}
}

func TestFrameAnnounced(t *testing.T) {
	f := func(in string, least int) {
		t.Helper()
		p := unhex(t, in)
		var fr Frame
		if done, err := fr.Scan(p); done || err != nil || fr.Size() != least {
			t.Fatalf("%s: done %v, error %v, least size %d, want %d", in, done, err, fr.Size(), least)
		}
		if n := testing.AllocsPerRun(10, func() { fr = Frame{}; fr.Scan(p) }); n != 0 {
			t.Fatalf("%s: %v allocations", in, n)
		}
	}
	f("92 a1 61 db 80000000", 8+1<<31)
	f("92 a1 61 c6 ffffffff", 8+1<<32-1)
	f("dd ffffffff", 5+1<<32-1)
	f("df ffffffff", 5+2*(1<<32-1))
	f("92 a1 61 dd ffffffff df ffffffff", 13+(1<<32-2)+2*(1<<32-1))
	f("dd ffff", 4)
	f("91 c9 00ff", 5)
}

func TestFrameInvalid(t *testing.T) {
	var fr Frame
	if _, err := fr.Scan([]byte{0x92, 0x01, 0xc1}); err != ErrInvalid {
		t.Fatalf("error %v", err)
	}
}

func FuzzScan(f *testing.F) {
	for _, p := range fixtures(f) {
		f.Add(p, uint16(3))
	}
	f.Add(append(bytes.Repeat([]byte{0x91}, 100), 0xc0), uint16(1))
	f.Add([]byte{0x81, 0x91, 0x81, 0x01, 0x02, 0x03}, uint16(1))
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, uint16(2))
	f.Fuzz(func(t *testing.T, p []byte, step uint16) {
		if len(p) > 1<<16 {
			return
		}
		want := -1
		if shallow(p) {
			want = reference(p, 0)
		} else if n, err := Skip(p, 0); err == nil {
			want = n
		}
		// A frame in pieces and a frame at once say the same.
		var fr Frame
		var done bool
		var err error
		for n := 0; ; {
			if done, err = fr.Scan(p[:n]); done || err != nil || n == len(p) {
				break
			}
			n = min(len(p), n+int(step)+1)
		}
		next, serr := Skip(p, 0)
		if done != (serr == nil) || done && (next != fr.Size()) {
			t.Fatalf("in pieces: %v, size %d, %v; at once: %d, %v", done, fr.Size(), err, next, serr)
		}
		if (want >= 0) != done || done && next != want {
			t.Fatalf("frame says %v, %d; reference says %d", done, next, want)
		}
		if done {
			checkElems(t, "fuzz", &fr, p[:next])
		}
		var s Scanner
		var rec mapping.Record
		at, err := s.Scan(&rec, p, 0)
		if err == nil && (!done || at != next) {
			t.Fatalf("scan ends at %d, skip at %d", at, next)
		}
		if err == nil {
			checkRecord(t, &rec)
			mapping.AppendJSON(nil, &rec, 0)
		}
	})
}

// shallow reports whether reference, which recurses and believes counts, can
// read p in reasonable time.
func shallow(p []byte) bool {
	deep := 0
	for _, c := range p {
		if c > 0x80 && c < 0xa0 || c >= 0xdc && c <= 0xdf {
			deep++
		}
	}
	return deep < 1000
}

// checkRecord checks what is promised of a record's nodes.
func checkRecord(t *testing.T, r *mapping.Record) {
	t.Helper()
	var node func(i, end int) int
	node = func(i, end int) int {
		next := r.Next(i)
		if next <= i || next > end {
			t.Fatalf("node %d ends at %d, outside of %d", i, next, end)
		}
		if r.Nodes[i].Kind >= mapping.Array {
			for j := i + 1; j < next; {
				j = node(j, next)
			}
		}
		return next
	}
	if len(r.Nodes) > 0 && node(0, len(r.Nodes)) != len(r.Nodes) {
		t.Fatalf("the top has not all nodes")
	}
}

// --- events ----------------------------------------------------------------

func render(e *Events) string {
	s := fmt.Sprintf("%d %s", e.TS, mapping.AppendJSON(nil, &e.Record, 0))
	if e.Meta != nil {
		s += " " + string(mapping.AppendJSON(nil, e.Meta, 0))
	}
	return s
}

func drops(e *Events) string {
	var s []string
	for d, n := range e.Drops {
		if n > 0 {
			s = append(s, fmt.Sprintf("%s %d", Drop(d), n))
		}
	}
	return strings.Join(s, ", ")
}

const testNow = 1790000099_000000000

func TestEvents(t *testing.T) {
	f := func(name, in string, want ...string) {
		t.Helper()
		var e Events
		var got []string
		for e.Reset(unhex(t, in), testNow); e.Next(); {
			got = append(got, render(&e))
		}
		if d := drops(&e); d != "" {
			got = append(got, "dropped: "+d)
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	const a1 = "81a16101" // {"a":1}
	f("nothing", "")
	f("integer", "92 ce6ab13b80"+a1, `1790000000000000000 {"a":1}`)
	f("signed integer", "92 d26ab13b80"+a1, `1790000000000000000 {"a":1}`)
	f("milliseconds", "92 cf000001a0c4507c7b"+a1, `1790000004219000000 {"a":1}`)
	f("fixext8", "92 d7006ab13b8000000003"+a1, `1790000000000000003 {"a":1}`)
	f("ext8", "92 c708006ab13b8000000003"+a1, `1790000000000000003 {"a":1}`)
	f("ns of more than a second", "92 d7006ab13b803b9aca01"+a1, `1790000001000000001 {"a":1}`)
	f("after 2038", "92 d700fffffffd00000001"+a1, `4294967293000000001 {"a":1}`)
	f("float", "92 cb41daac4ee01f9add"+a1, `1790000000493827000 {"a":1}`)
	f("float ms", "92 cb427a0c4506c7b000"+a1, `1790000000123000000 {"a":1}`)
	f("now", "92 00"+a1+"92 c0"+a1+"92 d7000000000000000005"+a1+"92 cb0000000000000000"+a1,
		`1790000099000000000 {"a":1}`, `1790000099000000000 {"a":1}`, `1790000099000000000 {"a":1}`, `1790000099000000000 {"a":1}`)
	f("clamped", "92 cf00000002ffffffff"+a1, `9223372036000000000 {"a":1}`)
	f("before 1970", "92 ff"+a1, `-1000000000 {"a":1}`)
	f("wide headers", "dc0002 cf000000006ab13b80 df00000001 d90161 cc01", `1790000000000000000 {"a":1}`)
	f("three elements", "93 01"+a1+"c0 92 02"+a1, `1000000000 {"a":1}`, `2000000000 {"a":1}`)
	f("metadata", "92 92 01 81a16d02"+a1+"92 92 02 80"+a1+"92 92 03 c0"+a1+"92 04"+a1,
		`1000000000 {"a":1} {"m":2}`, `2000000000 {"a":1}`, `3000000000 {"a":1}`, `4000000000 {"a":1}`)

	f("bad times", "92 a161"+a1+"92 d4006a"+a1+"92 d7016ab13b8000000003"+a1+"92 c707006ab13b80000000"+a1+
		"92 cb7ff8000000000000"+a1+"92 cb7ff0000000000000"+a1+"92 91 01"+a1+"92 93 01 80 80"+a1+"92 c3"+a1+"92 05"+a1,
		`5000000000 {"a":1}`, "dropped: bad_time 9")
	f("not maps", "92 01 90 92 01 c0 92 01 a161 92 01"+a1, `1000000000 {"a":1}`, "dropped: not_a_map 3")
	f("not events", "01 c0 a161 80 90 91 01 92 01"+a1, `1000000000 {"a":1}`, "dropped: not_an_event 6")
	f("too deep", "92 01 81 a161"+strings.Repeat("91", 64)+"c0 92 01"+a1, `1000000000 {"a":1}`, "dropped: too_deep 1")
	f("bad key", "92 01 81 91 81 01 02 03 92 01"+a1, `1000000000 {"a":1}`, "dropped: bad_key 1")
	f("bad key in metadata", "92 92 01 81 91 81 01 02 03"+a1+"92 01"+a1, `1000000000 {"a":1}`, "dropped: bad_key 1")
	f("garbage", "92 01"+a1+"c1 92 01"+a1, `1000000000 {"a":1}`, "dropped: garbage 1")
	f("garbage inside", "92 01"+a1+"92 01 81a161c1 92 01"+a1, `1000000000 {"a":1}`, "dropped: garbage 1")
	f("cut short", "92 01"+a1+"92 01 81a161", `1000000000 {"a":1}`, "dropped: garbage 1")
	f("cut short in time", "92 01"+a1+"92 d7006a", `1000000000 {"a":1}`, "dropped: garbage 1")
	f("announced", "92 01"+a1+"dd ffffffff", `1000000000 {"a":1}`, "dropped: garbage 1")

	const start, end = "92 92 d700ffffffff00000000 80", "92 92 d700fffffffe00000000 80 80"
	f("group of another kind", start+"82 a16101 a16281a16302"+"92 01"+a1+end+"92 02"+a1,
		`1000000000 {"a":1} {"a":1,"b":{"c":2}}`, `2000000000 {"a":1}`)
	f("group without metadata", start+"80"+"92 01"+a1+end+"92 02"+a1, `1000000000 {"a":1}`, `2000000000 {"a":1}`)
	f("group that is empty", start+"81 a87265736f75726365 81 aa61747472696275746573 80"+"92 01"+a1, `1000000000 {"a":1}`)
	f("group after group", start+a1+start+"81a16203"+"92 01"+a1, `1000000000 {"a":1} {"b":3}`)
	f("odd keys in a group", start+"81 91 07 02"+"92 01 81 05 06"+"92 01 81 08 09",
		`1000000000 {"5":6} {"[7]":2}`, `1000000000 {"8":9} {"[7]":2}`)
	f("large group", start+"81 a161 da5000"+strings.Repeat("62", 0x5000)+"92 01"+a1, `1000000000 {"a":1}`, "dropped: group_too_large 1")
	f("group of no map", start+"c0 92 01"+a1, `1000000000 {"a":1}`, "dropped: not_a_map 1")
	f("marker with ns", "92 d700ffffffff00000001"+a1, `4294967295000000001 {"a":1}`)
	f("markers without metadata", "92 d700ffffffff00000000"+a1+"92 01"+a1+"92 d700fffffffe00000000 80"+"92 01"+a1,
		`1000000000 {"a":1} {"a":1}`, `1000000000 {"a":1}`)
	f("otlp is no map", "92 92 01 81 a46f746c70 01"+a1, `1000000000 {"a":1} {"otlp":1}`)
}

// The message that Fluent Bit sent for OTLP records.
func TestEventsOTLP(t *testing.T) {
	p := fixtures(t)["flb_otlp_groups_plain.conn0.c2s.bin"]
	var fr Frame
	if done, err := fr.Scan(p); !done || err != nil {
		t.Fatal(done, err)
	}
	from, to := fr.Elem(p, 1)
	_, from, _ = ReadArray(p, from)
	var e Events
	var got []string
	for e.Reset(p[from:to], testNow); e.Next(); {
		got = append(got, render(&e))
		checkRecord(t, e.Meta)
	}
	want := []string{
		`1790000000000000123 {"log":"boom"} {"service.name":"shop","resource":{"schema_url":"http://s"},"scope":{"name":"lib","version":"1"},` +
			`"observed_timestamp":1790000001000000000,"severity_number":17,"severity_text":"ERROR","http.code":500,` +
			`"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"}`,
		`1790000000000000999 {"a":1} {"service.name":"shop","resource":{"schema_url":"http://s"},"scope":{"name":"lib","version":"1"}}`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if e.Dropped() != 0 {
		t.Fatalf("dropped: %s", drops(&e))
	}
}

func TestSingle(t *testing.T) {
	p := unhex(t, "01 81a16101 81a16d02 a161 90 c1 d700ffffffff00000000")
	var e Events
	if !e.Single(p, 0, 1, p[5:9], testNow) || render(&e) != `1000000000 {"a":1} {"m":2}` {
		t.Fatalf("got %s", render(&e))
	}
	if !e.Single(p, 0, 1, nil, testNow) || render(&e) != `1000000000 {"a":1}` {
		t.Fatalf("got %s", render(&e))
	}
	var raw string
	e.OnDrop = func(_ Drop, p []byte) { raw = hex.EncodeToString(p) }
	f := func(timeAt, recordAt int, meta []byte, want, wantRaw string) {
		t.Helper()
		raw = ""
		if e.Single(p, timeAt, recordAt, meta, testNow) || drops(&e) != want || raw != wantRaw {
			t.Fatalf("dropped %q, %s, want %q, %s", drops(&e), raw, want, wantRaw)
		}
	}
	f(9, 11, nil, "bad_time 1", "a16190")
	f(0, 11, nil, "not_a_map 1", "0181a1610181a16d02a16190")
	f(0, 1, p[12:13], "garbage 1", "0181a16101")
	f(13, 1, nil, "", "")
}

func TestTooLarge(t *testing.T) {
	big := append([]byte{0x92, 0x01, 0x81, 0xa1, 'a', 0xdb}, binary.BigEndian.AppendUint32(nil, MaxEvent)...)
	big = append(append(big, make([]byte, MaxEvent)...), 0x92, 0x02, 0x80)
	var e Events
	n := 0
	for e.Reset(big, testNow); e.Next(); n++ {
	}
	if n != 1 || drops(&e) != "too_large 1" || e.Dropped() != 1 {
		t.Fatalf("%d events, dropped %s", n, drops(&e))
	}
}

func FuzzEvents(f *testing.F) {
	for _, p := range fixtures(f) {
		f.Add(p)
		if i := bytes.IndexByte(p[1:], 0x92); i > 0 {
			f.Add(p[i+1:])
		}
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var e Events
		n, handed := 0, 0
		e.OnDrop = func(_ Drop, raw []byte) {
			if handed++; len(raw) == 0 {
				t.Fatal("something without bytes was dropped")
			}
		}
		defer func() {
			if handed != e.Dropped() {
				t.Fatalf("%d pieces handed over, %d dropped", handed, e.Dropped())
			}
		}()
		for e.Reset(p, testNow); e.Next(); n++ {
			checkRecord(t, &e.Record)
			if e.Record.Nodes[0].Kind != mapping.Map {
				t.Fatal("record is no map")
			}
			if e.Meta != nil {
				if checkRecord(t, e.Meta); e.Meta.Nodes[0].Kind != mapping.Map {
					t.Fatal("metadata is no map")
				}
			}
			if len(p) < 1<<12 {
				render(&e)
			}
		}
		if n+e.Dropped() > len(p) || len(p) > 0 && n+e.Dropped() == 0 && !bytes.Contains(p, []byte{0xff, 0xff, 0xff}) {
			t.Fatalf("%d events, %d dropped of %d bytes", n, e.Dropped(), len(p))
		}
	})
}

// TestJoin holds what Join makes of JSON against what Next makes of the same in
// MessagePack.
func TestJoin(t *testing.T) {
	read := func(text string) *mapping.Record {
		if text == "" {
			return nil
		}
		var s mapping.Stream
		rec := new(mapping.Record)
		s.Reset([]byte(text), false)
		if err := s.Next(rec); err != nil {
			t.Fatal(err)
		}
		return rec
	}
	var e Events
	f := func(group, own, want string) {
		t.Helper()
		meta := e.Join(read(group), read(own))
		got := ""
		if meta != nil {
			got = string(mapping.AppendJSON(nil, meta, 0))
		}
		if got != want {
			t.Errorf("Join(%s, %s) = %s, want %s", group, own, got, want)
		}
	}
	f("", "", "")
	f("", `{}`, "")
	f("", `{"a":{"b":1}}`, `{"a":{"b":1}}`)
	f(`{"resource":{"attributes":{"service.name":"s"}},"scope":{"name":"n","attributes":{}}}`, "",
		`{"service.name":"s","scope":{"name":"n"}}`)
	f(`{"resource":{"attributes":{"service.name":"s"},"schema_url":"u"}}`, `{"otlp":{"severity_text":"INFO","attributes":{"k":[1]}},"x":true}`,
		`{"service.name":"s","resource":{"schema_url":"u"},"severity_text":"INFO","k":[1],"x":true}`)
	f(`{}`, `{"x":1}`, `{"x":1}`)
}

// TestOnDrop shows each piece that is passed over, and nothing else.
func TestOnDrop(t *testing.T) {
	good := "\x92\xce\x00\x00\x00\x01\x80"
	input := "\x01" + good + "\x93\xa1x\x80\x01" + good + "\xc1" + good
	var e Events
	var got []string
	e.OnDrop = func(why Drop, piece []byte) { got = append(got, fmt.Sprintf("%s %q", why, piece)) }
	n := 0
	for e.Reset([]byte(input), 1); e.Next(); n++ {
	}
	want := []string{`not_an_event "\x01"`, `bad_time "\x93\xa1x\x80\x01"`, fmt.Sprintf("garbage %q", "\xc1"+good)}
	if n != 2 || !slices.Equal(got, want) {
		t.Fatalf("%d events, dropped %q, want %q", n, got, want)
	}
}
