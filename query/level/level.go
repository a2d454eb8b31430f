// Package level tells the level of a log entry: what Loki stores as detected_level
// with every entry that is pushed, found when a query asks for it.
//
// The level is a function of the entry and its stream. The first of these has it:
//
//   - metadata with the name detected_level (Label), which the entry then keeps;
//   - a label of the stream with the name of a level field;
//   - metadata with such a name;
//   - metadata severity_number, which OTLP has;
//   - a field of the line with such a name, if the line is JSON or has an equals
//     sign and is taken for logfmt, and if the value is the name of a level;
//   - the first word of the line that is the name of a level;
//
// and else it is "unknown". Names of levels become those of Loki, whatever their
// case: trace, debug, info, warn, error, critical, fatal. Labels and metadata
// may have others, which stay as they are.
//
// The rules are those of Loki 3.7 (limits discover_log_levels, log_level_fields
// and log_level_from_json_max_depth).
package level

import (
	"bytes"
	"errors"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/lenient"
)

// Label is the name under which an entry has its level.
const Label = "detected_level"

// severityNumber is metadata that Loki makes of OTLP's severity.
const severityNumber = "severity_number"

// maxDepth is how deep lines are looked into where there is no limit.
const maxDepth = 100

// DefaultFields returns Loki's names of fields, the first that there is counts.
func DefaultFields() []string {
	return []string{
		"level", "LEVEL", "Level", "log.level", "severity", "SEVERITY", "Severity", "SeverityText",
		"lvl", "LVL", "Lvl", "severity_text", "Severity_Text", "SEVERITY_TEXT",
	}
}

// Config says whether and how levels are found.
type Config struct {
	Discover  bool
	Fields    []string // names of labels, metadata and fields of lines; none: DefaultFields
	JSONDepth int      // how many objects within each other are looked into; 0: any number
}

// DefaultConfig returns Loki's defaults.
func DefaultConfig() Config { return Config{Discover: true, JSONDepth: 2} }

// The levels. What a Detector returns is one of these or a value that it was
// given; it must not be changed.
var (
	trace    = []byte("trace")
	debug    = []byte("debug")
	info     = []byte("info")
	warn     = []byte("warn")
	errorL   = []byte("error")
	critical = []byte("critical")
	fatal    = []byte("fatal")
	unknown  = []byte("unknown")
)

// Detector finds levels. It is used by one goroutine. Its methods do not
// allocate, apart from buffers that they keep.
type Detector struct {
	fields []string
	rank   map[string]int // places in fields
	may    [256]bool      // first bytes of fields, in either case, and all that are not ASCII
	depth  int

	found    int    // place of the best field of the entry's metadata; len(fields): none
	value    []byte // of it
	severity []byte

	reader  lenient.Logfmt
	scratch []byte // what had escapes
	each    func(key, v []byte, kind lenient.Kind) error
	plain   bool // the line has no escapes
	within  int  // objects around the current one
	inJSON  []byte
}

// New returns a detector, nil if c does not want one.
func New(c Config) *Detector {
	if !c.Discover {
		return nil
	}
	d := &Detector{fields: c.Fields, depth: c.JSONDepth}
	if len(d.fields) == 0 {
		d.fields = DefaultFields()
	}
	if d.depth <= 0 || d.depth > maxDepth {
		d.depth = maxDepth
	}
	d.rank = make(map[string]int, len(d.fields))
	for i, f := range d.fields {
		if _, ok := d.rank[f]; ok {
			continue
		}
		d.rank[f] = i
		if f == "" {
			continue
		}
		for _, c := range bytes.ToLower([]byte{f[0]}) {
			d.may[c] = true
		}
		for _, c := range bytes.ToUpper([]byte{f[0]}) {
			d.may[c] = true
		}
	}
	for c := utf8.RuneSelf; c < len(d.may); c++ {
		d.may[c] = true // as ſ for s
	}
	d.each = d.pair
	return d
}

// Stream returns the level that the labels of a stream give to its entries, nil
// if they have none.
func (d *Detector) Stream(ls labels.Labels) []byte {
	for _, f := range d.fields {
		if v := ls.Get(f); v != "" {
			return Normal([]byte(v))
		}
	}
	return nil
}

// Begin starts with an entry.
func (d *Detector) Begin() { d.found, d.value, d.severity = len(d.fields), nil, nil }

// Meta takes a pair of the entry's metadata into account. The value must stay as
// it is until the level is asked for.
func (d *Detector) Meta(name string, value []byte) {
	if name == "" || len(value) == 0 || !d.may[name[0]] && name[0] != severityNumber[0] {
		return
	}
	if r, ok := d.rank[name]; ok && r < d.found {
		d.found, d.value = r, value
	}
	if name == severityNumber && d.severity == nil {
		d.severity = value
	}
}

// Level returns the level of an entry with a line and with the metadata since
// Begin.
func (d *Detector) Level(line []byte) []byte {
	switch {
	case d.value != nil:
		return Normal(d.value)
	case d.severity != nil:
		return ofNumber(d.severity)
	}
	return d.ofLine(line)
}

// Normal returns the name of a level as Loki has it, and v itself if it is none.
func Normal(v []byte) []byte {
	if l := named(v); l != nil {
		return l
	}
	return v
}

// named returns the level with a name, in full or cut short; nil if there is
// none.
func named(v []byte) []byte {
	if len(v) < len("inf") || len(v) > len("information") {
		return nil
	}
	is := func(name string) bool { return len(v) == len(name) && end(v, 0, name) == len(v) }
	switch v[0] | ' ' {
	case 't':
		if is("trace") || is("trc") {
			return trace
		}
	case 'd':
		if is("debug") || is("dbg") {
			return debug
		}
	case 'i':
		if is("info") || is("inf") || is("information") {
			return info
		}
	case 'w':
		if is("warn") || is("wrn") || is("warning") {
			return warn
		}
	case 'e':
		if is("error") || is("err") {
			return errorL
		}
	case 'c':
		if is("critical") {
			return critical
		}
	case 'f':
		if is("fatal") {
			return fatal
		}
	}
	return nil
}

// ofNumber returns the level of a severity number of OpenTelemetry's log data
// model, where each level has four numbers. Loki takes what is no number for
// info.
func ofNumber(text []byte) []byte {
	n, err := strconv.Atoi(string(text))
	switch {
	case err != nil:
		return info
	case n == 0:
		return unknown
	case n <= 4:
		return trace
	case n <= 8:
		return debug
	case n <= 12:
		return info
	case n <= 16:
		return warn
	case n <= 20:
		return errorL
	case n <= 24:
		return fatal
	}
	return unknown
}

func (d *Detector) ofLine(line []byte) []byte {
	var v []byte
	switch {
	case looksJSON(line):
		v = d.ofJSON(line)
	case bytes.IndexByte(line, '=') >= 0:
		v = d.ofLogfmt(line)
	}
	if l := named(v); l != nil {
		return l
	}
	return ofWords(line)
}

// looksJSON reports whether the first character of a line that is not white
// space is an opening brace and the last is a closing one. From the end, Loki
// takes each byte for a character.
func looksJSON(line []byte) bool {
	last := len(line) - 1
	for last >= 0 && unicode.IsSpace(rune(line[last])) {
		last--
	}
	if last < 0 || line[last] != '}' {
		return false
	}
	for len(line) > 0 {
		r, n := rune(line[0]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRune(line)
		}
		if !unicode.IsSpace(r) {
			return r == '{'
		}
		line = line[n:]
	}
	return false
}

var errFound = errors.New("the field is found")

// ofJSON returns the first field of a line of JSON that has one of the names and
// is a text, as it is written.
func (d *Detector) ofJSON(line []byte) []byte {
	t := lenient.NewJSON(line)
	d.plain, d.within, d.inJSON, d.scratch = t.Plain, 0, nil, d.scratch[:0]
	_ = t.Object(&d.scratch, d.each) // what comes before an error counts
	return d.inJSON
}

func (d *Detector) pair(key, v []byte, kind lenient.Kind) error {
	switch kind {
	case lenient.String:
		if len(key) == 0 || !d.may[key[0]] {
			return nil
		}
		if _, ok := d.rank[string(key)]; ok {
			d.inJSON = v
			return errFound
		}
	case lenient.Object:
		if d.within+1 == d.depth {
			return nil
		}
		d.within++
		err := lenient.JSON{Text: v, Plain: d.plain}.Object(&d.scratch, d.each)
		d.within--
		return err
	}
	return nil
}

// ofLogfmt returns the value of the best field of a line, in any case, up to
// where the line is no logfmt.
func (d *Detector) ofLogfmt(line []byte) (v []byte) {
	best := len(d.fields)
	d.scratch = d.scratch[:0]
	r := &d.reader
	for r.Start(line); !r.Done() && r.Next(&d.scratch); {
		if len(r.Key) == 0 || !d.may[r.Key[0]] {
			continue
		}
		for i, f := range d.fields[:best] {
			if foldEqual(r.Key, f) {
				v, best = r.Value, i
				break
			}
		}
		if best == 0 {
			break
		}
	}
	return v
}

// foldEqual is bytes.EqualFold with a text.
func foldEqual(b []byte, s string) bool {
	if len(b) == len(s) && string(b) == s {
		return true
	}
	return bytes.EqualFold(b, []byte(s))
}

// Bits of a byte in class.
const (
	before = 1 << iota // may be in front of the name of a level
	begin              // may be its first byte
	behind             // may follow it
)

var class = func() (c [256]uint8) {
	for bit, chars := range map[uint8]string{before: " \t\n[({\"=", begin: "tdfcewiTDFCEWI\xc4", behind: " \t\n[](){}:,!\"="} {
		for i := range len(chars) {
			c[chars[i]] |= bit
		}
	}
	return c
}()

// ofWords returns the level that is named first in a line.
func ofWords(line []byte) []byte {
	can := uint8(begin)
	for i, c := range line {
		k := class[c]
		if k&can != 0 {
			if l := word(line, i); l != nil {
				return l
			}
		}
		can = k << 1 & begin
	}
	return unknown
}

// word returns the level whose name is at i.
func word(line []byte, i int) []byte {
	is := func(name string) bool {
		n := end(line, i, name)
		return n == len(line) || n > 0 && class[line[n]]&behind != 0
	}
	switch line[i] | ' ' {
	case 't':
		if is("trace") {
			return trace
		}
	case 'd':
		if is("debug") {
			return debug
		}
	case 'f':
		if is("fatal") {
			return fatal
		}
	case 'c':
		if is("critical") {
			return critical
		}
	case 'e':
		if is("error") || is("err") {
			return errorL
		}
	case 'w':
		if is("warn") || is("warning") {
			return warn
		}
	default:
		if is("info") {
			return info
		}
	}
	return nil
}

// end returns the offset behind a name, which is in lower case, at i of a line
// that may have it in any case; 0 if it is not there. İ, the capital that Turkish
// makes of i, is one.
func end(line []byte, i int, name string) int {
	for k := range len(name) {
		switch {
		case i >= len(line):
			return 0
		case line[i]|' ' == name[k]:
			i++
		case name[k] == 'i' && i+1 < len(line) && line[i] == 0xc4 && line[i+1] == 0xb0:
			i += 2
		default:
			return 0
		}
	}
	return i
}
