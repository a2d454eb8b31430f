package lokipush

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/plugins/jsonscan"
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
	jsonscan.Scanner
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
	d.Reset(body, d.place)
	d.bl, d.admit, d.limit, d.used = bl, admit, limit, 0
	d.stream, d.entry, d.inEntry, d.inside = 0, 0, false, false
	if d.sets == nil {
		d.sets = make(map[string]int)
	}
}

// release lets go of what belongs to the request.
func (d *decoder) release() {
	d.Reset(nil, nil)
	d.bl, d.admit = nil, nil
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
	if err := d.Object(d.topKey); err != nil {
		return err
	}
	return d.End()
}

func (d *decoder) topKey(key []byte) error {
	if string(key) != "streams" {
		return d.Skip()
	}
	if d.Null() {
		return nil
	}
	err := d.Array(func() error {
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

// place says where in the push an error is.
func (d *decoder) place() string {
	where := ""
	if d.inside {
		where = fmt.Sprintf("stream %d: ", d.stream)
	}
	if d.inEntry {
		where += fmt.Sprintf("entry %d: ", d.entry)
	}
	return where
}

// readStream reads one element of "streams". The entries can only be read when
// the labels are known, so those that come first are come back to.
func (d *decoder) readStream() error {
	id, early := -1, 0 // the stream; where entries are that came before it
	listed, legacy := false, false
	err := d.Object(func(key []byte) (err error) {
		switch string(key) {
		case "stream", "labels":
			if id >= 0 {
				return d.Fail("labels occur twice")
			}
			if string(key) == "stream" {
				id, err = d.labelObject()
			} else {
				id, err = d.labelText()
			}
			return err
		case "values", "entries":
			if listed {
				return d.Fail("entries occur twice")
			}
			listed, legacy = true, string(key) == "entries"
			if id < 0 {
				early = d.Offset()
				return d.Skip()
			}
			return d.entries(id, legacy)
		}
		return d.Skip()
	})
	if err != nil {
		return err
	}
	if !listed {
		return d.Fail(`neither "values" nor "entries"`)
	}
	if id < 0 {
		id = d.bl.Stream([]byte("{}"))
	}
	if early > 0 {
		end := d.Offset()
		d.Seek(early)
		if err := d.entries(id, legacy); err != nil {
			return err
		}
		d.Seek(end)
	}
	return nil
}

// labelObject reads {"name":"value"}. One set of labels is often written many
// times in a push, always in the same way.
func (d *decoder) labelObject() (int, error) {
	if d.Null() {
		return d.bl.Stream([]byte("{}")), nil
	}
	start := d.Offset()
	raw, err := d.Raw()
	if err != nil {
		return 0, err
	}
	if id, ok := d.sets[string(raw)]; ok {
		return id, nil
	}
	d.Seek(start)
	d.label, d.names = d.label[:0], d.names[:0]
	if err := d.Object(d.readLabel); err != nil {
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
	switch c := d.Peek(); {
	case c == '"':
		if value, err = d.Str(&d.two); err != nil {
			return err
		}
	case c == '{' || c == '[':
		return d.Fail("value of label %q is not a string", key)
	case d.Null():
		return nil
	default:
		if value, err = d.Raw(); err != nil {
			return err
		}
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
		return d.Fail("more than %d labels", maxLabels)
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
	if d.Peek() != '"' {
		return 0, d.Fail(`"labels" is not a string`)
	}
	s, err := d.Str(&d.one)
	if err != nil {
		return 0, err
	}
	return d.bl.Stream(s), d.grow()
}

// entries reads an array of entries.
func (d *decoder) entries(id int, legacy bool) error {
	if d.Null() {
		return nil
	}
	d.entry = 0
	err := d.Array(func() (err error) {
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
	if d.Peek() != '[' {
		return d.Fail("not an array")
	}
	d.Step()
	d.Space()
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
	if d.Space(); d.Peek() == ',' {
		d.Step()
		d.Space()
		if err := d.metadata(); err != nil {
			return err
		}
		d.Space()
	}
	if d.Peek() != ']' {
		return d.Fail("expected the end of the entry")
	}
	d.Step()
	d.bl.EntryExact(id, ts, line)
	return d.grow()
}

func (d *decoder) comma() error {
	if d.Space(); d.Peek() != ',' {
		return d.Fail("expected a timestamp and a line")
	}
	d.Step()
	d.Space()
	return nil
}

func (d *decoder) lineString() ([]byte, error) {
	if d.Peek() != '"' {
		return nil, d.Fail("line is not a string")
	}
	return d.Str(&d.line)
}

// nanoseconds reads a time as Loki wants it: a string of decimal digits.
func (d *decoder) nanoseconds() (int64, error) {
	if d.Peek() != '"' {
		return 0, d.Fail("timestamp is not a string")
	}
	at := d.Offset()
	s, err := d.Str(&d.one)
	if err != nil {
		return 0, err
	}
	ts, ok := parseInt(s)
	if !ok {
		d.Seek(at)
		return 0, d.Fail("timestamp %q is not a number of nanoseconds", clip(s))
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
	if d.Peek() != '{' {
		return d.Fail("structured metadata is not an object")
	}
	return d.Object(func(key []byte) error {
		if d.Peek() == '{' {
			switch string(key) {
			case "structuredMetadata":
				return d.Object(d.metadataPair)
			case "parsed":
				return d.Skip()
			}
		}
		return d.metadataPair(key)
	})
}

func (d *decoder) metadataPair(key []byte) error {
	if d.Peek() != '"' {
		return d.Fail("value of structured metadata %q is not a string", clip(key))
	}
	// The key may be in d.one.
	value, err := d.Str(&d.two)
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
	err := d.Object(func(key []byte) (err error) {
		switch string(key) {
		case "ts", "timestamp":
			timed = true
			ts, err = d.rfc3339()
		case "line":
			lined = true
			line, err = d.lineString()
		case "structuredMetadata":
			if d.Null() {
				return nil
			}
			err = d.metadata()
		default:
			err = d.Skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	if !timed || !lined {
		return d.Fail(`"ts" or "line" is missing`)
	}
	d.bl.EntryExact(id, ts, line)
	return d.grow()
}

func (d *decoder) rfc3339() (int64, error) {
	if d.Peek() != '"' {
		return 0, d.Fail("timestamp is not a string")
	}
	at := d.Offset()
	s, err := d.Str(&d.one)
	if err != nil {
		return 0, err
	}
	t, err := time.Parse(time.RFC3339Nano, string(s))
	if err != nil {
		d.Seek(at)
		return 0, d.Fail("timestamp %q is not a time by RFC 3339", clip(s))
	}
	if y := t.Year(); y < 1678 || y > 2261 {
		d.Seek(at)
		return 0, d.Fail("timestamp %q is out of range", clip(s))
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
