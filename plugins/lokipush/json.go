package lokipush

import (
	"bytes"
	"fmt"
	"slices"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
)

// decoder reads a push in JSON and puts its entries into a builder, straight
// from the body: what it allocates is per set of labels, not per entry. It has
// no recursion: what it does not know it steps over by counting brackets.
//
// Strings are taken as they are, with control characters and bytes that are
// not UTF-8; a lone surrogate becomes U+FFFD. Keys that are not known are
// passed over. Whatever else is not as the package comment says ends the
// request: a push that is half understood must not look stored.
type decoder struct {
	p     []byte
	i     int
	bl    *push.Builder
	admit func(int64) error
	used  int64 // bytes admitted for what the builder holds
	limit int64 // on them

	sets            map[string]int // streams by the text of their labels in the body
	line, one, two  []byte         // unescaped strings
	label           []pair
	names, text     []byte // unescaped labels; the canonical text
	stream          int    // number of the stream being read, for errors
	entry           int    // number of the entry
	inEntry, inside bool
}

type pair struct{ name, value []byte }

func (d *decoder) reset(body []byte, bl *push.Builder, admit func(int64) error, limit int64) {
	d.p, d.i, d.bl, d.admit, d.limit, d.used = body, 0, bl, admit, limit, 0
	d.stream, d.entry, d.inEntry, d.inside = 0, 0, false, false
	if d.sets == nil {
		d.sets = make(map[string]int)
	}
}

// release lets go of what belongs to the request.
func (d *decoder) release() {
	d.p, d.bl, d.admit = nil, nil, nil
	if len(d.sets) > maxSets {
		d.sets = nil
	}
	clear(d.sets)
	clear(d.label[:cap(d.label)])
}

// maxSets bounds the size of a map that is kept for the next request.
const maxSets = 10_000

func (d *decoder) size() int {
	return cap(d.line) + cap(d.one) + cap(d.two) + cap(d.names) + cap(d.text) + 48*cap(d.label)
}

// decode reads the whole body. Errors are *push.Error, or what admit returned.
func (d *decoder) decode() error {
	if err := d.object(d.topKey); err != nil {
		return err
	}
	if d.space(); d.i < len(d.p) {
		return d.fail("text behind the end of the push")
	}
	return nil
}

func (d *decoder) topKey(key []byte) error {
	if string(key) != "streams" {
		return d.skip()
	}
	if d.null() {
		return nil
	}
	err := d.array(func() error {
		d.inside = true
		err := d.readStream()
		if err == nil {
			d.stream++
		}
		return err
	})
	if err == nil {
		d.inside = false
	}
	return err
}

// fail returns the error that ends the request, with its place in the push.
func (d *decoder) fail(format string, args ...any) error {
	where := ""
	if d.inside {
		where = fmt.Sprintf("stream %d: ", d.stream)
	}
	if d.inEntry {
		where += fmt.Sprintf("entry %d: ", d.entry)
	}
	return push.Errorf(push.Malformed, "json: %s%s at offset %d", where, fmt.Sprintf(format, args...), min(d.i, len(d.p)))
}

// readStream reads one element of "streams". The entries can only be read when
// the labels are known, so those that come first are come back to.
func (d *decoder) readStream() error {
	id, early := -1, 0 // the stream; where entries are that came before it
	listed, legacy := false, false
	err := d.object(func(key []byte) (err error) {
		switch string(key) {
		case "stream", "labels":
			if id >= 0 {
				return d.fail("labels occur twice")
			}
			if string(key) == "stream" {
				id, err = d.labelObject()
			} else {
				id, err = d.labelText()
			}
			return err
		case "values", "entries":
			if listed {
				return d.fail("entries occur twice")
			}
			listed, legacy = true, string(key) == "entries"
			if id < 0 {
				early = d.i
				return d.skip()
			}
			return d.entries(id, legacy)
		}
		return d.skip()
	})
	if err != nil {
		return err
	}
	if !listed {
		return d.fail(`neither "values" nor "entries"`)
	}
	if id < 0 {
		id = d.bl.Stream([]byte("{}"))
	}
	if early > 0 {
		end := d.i
		d.i = early
		if err := d.entries(id, legacy); err != nil {
			return err
		}
		d.i = end
	}
	return nil
}

// labelObject reads {"name":"value"}. One set of labels is often written many
// times in a push, always in the same way.
func (d *decoder) labelObject() (int, error) {
	if d.null() {
		return d.bl.Stream([]byte("{}")), nil
	}
	start := d.i
	if err := d.skip(); err != nil {
		return 0, err
	}
	raw := d.p[start:d.i]
	if id, ok := d.sets[string(raw)]; ok {
		return id, nil
	}
	d.i = start
	d.label, d.names = d.label[:0], d.names[:0]
	if err := d.object(d.readLabel); err != nil {
		return 0, err
	}
	id := d.bl.Stream(d.canonical())
	d.sets[string(raw)] = id
	return id, d.grow()
}

func (d *decoder) readLabel(key []byte) (err error) {
	at := len(d.names)
	d.names = append(d.names, key...)
	name := d.names[at:len(d.names):len(d.names)]
	var value []byte
	switch c := d.peek(); {
	case c == '"':
		if value, err = d.str(&d.two); err != nil {
			return err
		}
	case c == '{' || c == '[':
		return d.fail("value of label %q is not a string", key)
	case d.null():
		return nil
	default:
		start := d.i
		if err := d.skip(); err != nil {
			return err
		}
		value = d.p[start:d.i]
	}
	at = len(d.names)
	d.names = append(d.names, value...)
	value = d.names[at:len(d.names):len(d.names)]
	for i := range d.label {
		if bytes.Equal(d.label[i].name, name) {
			d.label[i].value = value
			return nil
		}
	}
	if len(d.label) >= maxLabels {
		return d.fail("more than %d labels", maxLabels)
	}
	d.label = append(d.label, pair{name, value})
	return nil
}

// maxLabels is far above any limit for a stream; it bounds the time that
// looking for a name that occurs twice can take.
const maxLabels = 1000

// canonical returns the label text of d.label.
func (d *decoder) canonical() []byte {
	slices.SortFunc(d.label, func(a, b pair) int { return bytes.Compare(a.name, b.name) })
	t := append(d.text[:0], '{')
	for _, l := range d.label {
		if len(l.value) == 0 {
			continue
		}
		if len(t) > 1 {
			t = append(t, ", "...)
		}
		t = labels.AppendName(t, string(l.name))
		t = append(t, '=')
		t = labels.AppendValue(t, string(l.value))
	}
	d.text = append(t, '}')
	return d.text
}

// labelText reads labels in selector syntax. They go on as they are: who
// canonicalises protobuf pushes does it with these too.
func (d *decoder) labelText() (int, error) {
	if d.peek() != '"' {
		return 0, d.fail(`"labels" is not a string`)
	}
	s, err := d.str(&d.one)
	if err != nil {
		return 0, err
	}
	return d.bl.Stream(s), d.grow()
}

// entries reads an array of entries.
func (d *decoder) entries(id int, legacy bool) error {
	if d.null() {
		return nil
	}
	d.entry = 0
	err := d.array(func() (err error) {
		d.inEntry = true
		if legacy {
			err = d.legacyEntry(id)
		} else {
			err = d.value(id)
		}
		if err == nil {
			d.entry++
		}
		return err
	})
	if err == nil {
		d.inEntry = false
	}
	return err
}

// value reads ["<ns>","line",{metadata}].
func (d *decoder) value(id int) error {
	if d.peek() != '[' {
		return d.fail("not an array")
	}
	d.i++
	d.space()
	ts, err := d.nanoseconds()
	if err != nil {
		return err
	}
	if err := d.comma(); err != nil {
		return err
	}
	line, err := d.lineString()
	if err != nil {
		return err
	}
	if d.space(); d.peek() == ',' {
		d.i++
		d.space()
		if err := d.metadata(); err != nil {
			return err
		}
		d.space()
	}
	if d.peek() != ']' {
		return d.fail("expected the end of the entry")
	}
	d.i++
	d.bl.EntryExact(id, ts, line)
	return d.grow()
}

func (d *decoder) comma() error {
	if d.space(); d.peek() != ',' {
		return d.fail("expected a timestamp and a line")
	}
	d.i++
	d.space()
	return nil
}

func (d *decoder) lineString() ([]byte, error) {
	if d.peek() != '"' {
		return nil, d.fail("line is not a string")
	}
	return d.str(&d.line)
}

// nanoseconds reads a time as Loki wants it: a string of decimal digits.
func (d *decoder) nanoseconds() (int64, error) {
	if d.peek() != '"' {
		return 0, d.fail("timestamp is not a string")
	}
	at := d.i
	s, err := d.str(&d.one)
	if err != nil {
		return 0, err
	}
	ts, ok := parseInt(s)
	if !ok {
		d.i = at
		return 0, d.fail("timestamp %q is not a number of nanoseconds", clip(s))
	}
	return ts, nil
}

func clip(s []byte) []byte { return s[:min(len(s), 100)] }

// parseInt reads a decimal int64.
func parseInt(s []byte) (int64, bool) {
	neg := len(s) > 0 && s[0] == '-'
	if neg {
		s = s[1:]
	}
	if len(s) == 0 || len(s) > 19 {
		return 0, false
	}
	var v uint64
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + uint64(c-'0') // 19 digits fit
	}
	if neg {
		return -int64(v), v <= 1<<63
	}
	return int64(v), v < 1<<63
}

// metadata reads {"name":"value"} into the next entry, or the form of query
// responses, {"structuredMetadata":{...},"parsed":{...}}.
func (d *decoder) metadata() error {
	if d.peek() != '{' {
		return d.fail("structured metadata is not an object")
	}
	return d.object(func(key []byte) error {
		if d.peek() == '{' {
			switch string(key) {
			case "structuredMetadata":
				return d.object(d.metadataPair)
			case "parsed":
				return d.skip()
			}
		}
		return d.metadataPair(key)
	})
}

func (d *decoder) metadataPair(key []byte) error {
	if d.peek() != '"' {
		return d.fail("value of structured metadata %q is not a string", clip(key))
	}
	// The key may be in d.one.
	value, err := d.str(&d.two)
	if err != nil {
		return err
	}
	d.bl.Pair(key, value)
	return nil
}

// legacyEntry reads {"ts":"<RFC 3339>","line":"...","structuredMetadata":{}}.
func (d *decoder) legacyEntry(id int) error {
	var ts int64
	var line []byte
	timed, lined := false, false
	err := d.object(func(key []byte) (err error) {
		switch string(key) {
		case "ts", "timestamp":
			timed = true
			ts, err = d.rfc3339()
		case "line":
			lined = true
			line, err = d.lineString()
		case "structuredMetadata":
			if d.null() {
				return nil
			}
			err = d.metadata()
		default:
			err = d.skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	if !timed || !lined {
		return d.fail(`"ts" or "line" is missing`)
	}
	d.bl.EntryExact(id, ts, line)
	return d.grow()
}

func (d *decoder) rfc3339() (int64, error) {
	if d.peek() != '"' {
		return 0, d.fail("timestamp is not a string")
	}
	at := d.i
	s, err := d.str(&d.one)
	if err != nil {
		return 0, err
	}
	t, err := time.Parse(time.RFC3339Nano, string(s))
	if err != nil {
		d.i = at
		return 0, d.fail("timestamp %q is not a time by RFC 3339", clip(s))
	}
	if y := t.Year(); y < 1678 || y > 2261 {
		d.i = at
		return 0, d.fail("timestamp %q is out of range", clip(s))
	}
	return t.UnixNano(), nil
}

// What an entry costs in the builder and in the batch besides its bytes, and
// the step in which memory is asked for.
const (
	builtCost = 56 + entryCost
	growStep  = 1 << 20
)

// grow asks for memory as the builder grows.
func (d *decoder) grow() error {
	held := 2*int64(d.bl.Size()) + int64(d.bl.Len())*builtCost + int64(len(d.sets))*2*streamCost
	if held <= d.used {
		return nil
	}
	if int64(d.bl.Size()) > d.limit {
		return push.Errorf(push.BodyTooLarge, "decoded push is larger than the limit of %d bytes", d.limit)
	}
	n := max(growStep, d.used/2)
	d.used += n
	return d.admit(n)
}

// --- JSON -------------------------------------------------------------------

// peek returns the byte at d.i, or 0 at the end.
func (d *decoder) peek() byte {
	if d.i < len(d.p) {
		return d.p[d.i]
	}
	return 0
}

func (d *decoder) space() {
	for d.i < len(d.p) {
		switch d.p[d.i] {
		case ' ', '\n', '\r', '\t':
			d.i++
		default:
			return
		}
	}
}

// null steps over the word, if it is there.
func (d *decoder) null() bool {
	if bytes.HasPrefix(d.p[min(d.i, len(d.p)):], []byte("null")) {
		d.i += 4
		return true
	}
	return false
}

// object reads an object: member is called behind each key's colon, and must
// read the value. The key is valid until it reads a string into d.one.
func (d *decoder) object(member func(key []byte) error) error {
	d.space()
	if d.peek() != '{' {
		return d.fail("expected an object")
	}
	d.i++
	d.space()
	if d.peek() == '}' {
		d.i++
		return nil
	}
	for {
		if d.space(); d.peek() != '"' {
			return d.fail("expected a key")
		}
		key, err := d.str(&d.one)
		if err != nil {
			return err
		}
		if d.space(); d.peek() != ':' {
			return d.fail("expected ':'")
		}
		d.i++
		d.space()
		if err := member(key); err != nil {
			return err
		}
		d.space()
		switch d.peek() {
		case ',':
			d.i++
		case '}':
			d.i++
			return nil
		default:
			return d.fail("expected ',' or '}'")
		}
	}
}

// array reads an array: element must read each.
func (d *decoder) array(element func() error) error {
	d.space()
	if d.peek() != '[' {
		return d.fail("expected an array")
	}
	d.i++
	if d.space(); d.peek() == ']' {
		d.i++
		return nil
	}
	for {
		d.space()
		if err := element(); err != nil {
			return err
		}
		d.space()
		switch d.peek() {
		case ',':
			d.i++
		case ']':
			d.i++
			return nil
		default:
			return d.fail("expected ',' or ']'")
		}
	}
}

// skip steps over one value of any kind: brackets are counted, not matched.
func (d *decoder) skip() error {
	depth := 0
	for {
		d.space()
		switch c := d.peek(); c {
		case '"':
			if err := d.skipString(); err != nil {
				return err
			}
		case '{', '[':
			depth++
			d.i++
			continue
		case '}', ']':
			depth--
			d.i++
		case ',', ':':
			if depth == 0 {
				return d.fail("expected a value")
			}
			d.i++
			continue
		case 0:
			return d.fail("unexpected end")
		default:
			start := d.i
			for d.i < len(d.p) && word[d.p[d.i]] {
				d.i++
			}
			if d.i == start {
				return d.fail("unexpected %q", c)
			}
		}
		if depth == 0 {
			return nil
		}
		if depth < 0 {
			return d.fail("expected a value")
		}
	}
}

// word marks the bytes of numbers, true, false and null.
var word = func() (w [256]bool) {
	for _, c := range "+-.0123456789Eaeflnrstu" {
		w[c] = true
	}
	return w
}()

func (d *decoder) skipString() error {
	start := d.i
	i := d.i + 1
	for {
		i = special(d.p, i)
		if i >= len(d.p)-1 && (i >= len(d.p) || d.p[i] != '"') {
			d.i = start
			return d.fail("string without an end")
		}
		if d.p[i] == '"' {
			d.i = i + 1
			return nil
		}
		i += 2
	}
}

// special returns the index of the first quote or backslash at or behind i, or
// len(p).
func special(p []byte, i int) int {
	if i >= len(p) {
		return len(p)
	}
	rest := p[i:]
	n := bytes.IndexByte(rest, '"')
	if n < 0 {
		n = len(rest)
	}
	if m := bytes.IndexByte(rest[:n], '\\'); m >= 0 {
		n = m
	}
	return i + n
}

// str reads the string at d.i. The result points into the body, or into *buf
// if there were escapes.
func (d *decoder) str(buf *[]byte) ([]byte, error) {
	start := d.i + 1
	i := special(d.p, start)
	if i < len(d.p) && d.p[i] == '"' {
		d.i = i + 1
		return d.p[start:i], nil
	}
	out := append((*buf)[:0], d.p[start:i]...)
	for i < len(d.p) {
		// Quotes come in swarms in lines that are JSON: no call for each byte.
		if c := d.p[i]; c == '"' {
			*buf = out
			d.i = i + 1
			return out, nil
		} else if c != '\\' {
			j := i + 1
			for j < len(d.p) && d.p[j] != '"' && d.p[j] != '\\' {
				j++
			}
			out = append(out, d.p[i:j]...)
			i = j
			continue
		}
		if i+1 >= len(d.p) {
			break
		}
		c := escapes[d.p[i+1]]
		switch {
		case c != 0:
			out = append(out, c)
			i += 2
		case d.p[i+1] == 'u':
			r, n := unicodeEscape(d.p[i:])
			if n == 0 {
				*buf, d.i = out, i
				return nil, d.fail("bad escape sequence")
			}
			out = utf8.AppendRune(out, r)
			i += n
		default:
			*buf, d.i = out, i
			return nil, d.fail("bad escape sequence")
		}
	}
	*buf, d.i = out, start-1
	return nil, d.fail("string without an end")
}

var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unicodeEscape reads \uXXXX, or two that are a surrogate pair, and returns the
// number of bytes read, 0 for bad ones.
func unicodeEscape(p []byte) (rune, int) {
	r, ok := hex4(p, 2)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if len(p) >= 8 && p[6] == '\\' && p[7] == 'u' {
		if low, ok := hex4(p, 8); ok {
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				return both, 12
			}
		}
	}
	return utf8.RuneError, 6
}

func hex4(p []byte, i int) (rune, bool) {
	if len(p) < i+4 {
		return 0, false
	}
	var r rune
	for _, c := range p[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
