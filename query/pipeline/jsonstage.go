package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/loki-go/loki-go/query/lenient"
	"github.com/loki-go/loki-go/query/logql"
)

const (
	maxNames = 1024 // names that a stage remembers
	maxDepth = 100  // objects within each other that are looked into
)

var (
	errEnough = errors.New("all that is wanted is found")
	errNoUse  = errors.New("a condition drops the line")
)

// nameCache turns keys of lines into names of labels.
type nameCache map[string]string

// name returns the label's name for a key, "" if it has none.
func (c *nameCache) name(key []byte) string {
	if n, ok := (*c)[string(key)]; ok {
		return n
	}
	return c.put(key, string(appendName(nil, key)))
}

// as returns a name as a string.
func (c *nameCache) as(name []byte) string {
	if n, ok := (*c)[string(name)]; ok {
		return n
	}
	return c.put(name, string(name))
}

func (c *nameCache) put(key []byte, name string) string {
	if *c == nil {
		*c = nameCache{}
	}
	if len(*c) < maxNames {
		(*c)[string(key)] = name
	}
	return name
}

// appendName appends key as a label's name, or as a part of one: letters,
// digits and underscores as they are, an underscore for anything else.
func appendName(dst, key []byte) []byte {
	key = bytes.TrimSpace(key)
	if len(key) > 0 && len(dst) == 0 && key[0] >= '0' && key[0] <= '9' {
		dst = append(dst, '_')
	}
	for _, r := range string(key) {
		if r != '_' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r)) {
			r = '_'
		}
		dst = append(dst, byte(r))
	}
	return dst
}

// jsonStage extracts all values but those in arrays, under the keys on the way
// to them with underscores between.
type jsonStage struct {
	names   nameCache          // of keys at the top
	recent  [recentKeys]string // keys at the top that are names as they are
	plain   bool               // the line has no escapes
	ascii   bool               // the line is ASCII
	nested  nameCache          // of whole names
	prefix  []byte             // name of the object that is being read
	blanks  []byte             // keys without escapes
	depth   int
	current *state
	each    func(key, v []byte, kind lenient.Kind) error

	paths map[string][]string // keys on the way to labels, if they are asked for
	keys  []string            // to the object that is being read, if so
}

func newJSON() stage {
	j := &jsonStage{}
	j.each = j.pair
	return j
}

func (j *jsonStage) run(_ int64, line []byte, s *state) ([]byte, bool) {
	if s.hints.nothing() {
		return line, true
	}
	j.prefix, j.blanks, j.current, j.depth = j.prefix[:0], j.blanks[:0], s, 0
	t := lenient.NewJSON(line)
	j.plain, j.ascii = t.Plain, isASCII(line)
	switch err := t.Object(&j.blanks, j.each); err {
	case nil, errEnough:
	case errNoUse:
		return line, false
	default:
		s.fail(errJSON, err)
	}
	return line, true
}

func (j *jsonStage) pair(key, v []byte, kind lenient.Kind) (err error) {
	switch kind {
	case lenient.String, lenient.Number, lenient.Bool:
		err = j.label(key, v, kind)
	case lenient.Object:
		return j.object(key, v)
	}
	if j.current.hints.complete() {
		return errEnough
	}
	return err
}

func (j *jsonStage) object(key, v []byte) (err error) {
	if j.depth == maxDepth {
		return nil
	}
	n := len(j.prefix)
	j.join(key)
	j.depth++
	if j.paths != nil {
		j.keys = append(j.keys, string(key))
		defer func() { j.keys = j.keys[:len(j.keys)-1] }()
	}
	if j.current.hints.wantsPrefix(j.prefix) {
		err = lenient.JSON{Text: v, Plain: j.plain}.Object(&j.blanks, j.each)
	}
	j.depth--
	j.prefix = j.prefix[:n]
	return err
}

// join appends a key to the prefix.
func (j *jsonStage) join(key []byte) {
	if len(bytes.TrimSpace(key)) == 0 {
		return
	}
	if len(j.prefix) > 0 {
		j.prefix = append(j.prefix, '_')
	}
	j.prefix = appendName(j.prefix, key)
}

func (j *jsonStage) label(key, v []byte, kind lenient.Kind) error {
	s := j.current
	var name string
	if j.depth == 0 {
		if name = j.top(key); name == "" {
			return nil
		}
	} else {
		n := len(j.prefix)
		j.join(key)
		name = j.nested.as(j.prefix)
		j.prefix = j.prefix[:n]
	}
	if s.taken(name) {
		name = j.nested.suffixed(name)
	}
	if s.hints.skip(name) {
		return nil
	}
	if j.paths != nil {
		j.paths[name] = append(slices.Clone(j.keys), string(key))
	}
	if kind == lenient.String && !(j.plain && j.ascii) {
		v = s.text(v)
	}
	s.add(name, v)
	if !s.hints.goOn(name, s) {
		return errNoUse
	}
	return nil
}

const recentKeys = 128 // a power of two

// top is names.name for a key at the top. The keys of a program are few, so
// that most are found without a map.
func (j *jsonStage) top(key []byte) string {
	if len(key) == 0 {
		return ""
	}
	slot := &j.recent[(len(key)<<4^int(key[0])^int(key[len(key)-1])<<3)%recentKeys]
	if string(key) == *slot {
		return *slot
	}
	name := j.names.name(key)
	if string(key) == name {
		*slot = name
	}
	return name
}

// suffixed returns the name that a label gets if its own is taken.
func (c *nameCache) suffixed(name string) string {
	var buf [128]byte
	b := append(append(buf[:0], name...), extracted...)
	return c.as(b)
}

// jsonPath is where a value is: keys, and places in arrays as "[n]".
type jsonPath []string

// jsonPaths extracts the values at paths.
type jsonPaths struct {
	names []string
	paths []jsonPath
	found []bool
	keys  []string // on the way to the current place
	deep  int      // keys of the longest path
	cache nameCache
	blank []byte

	current *state
	matches int
}

func newJSONPaths(exprs []logql.Extraction) (stage, error) {
	p := &jsonPaths{}
	for _, e := range exprs {
		path, err := parseJSONPath(e.Path)
		if err != nil {
			return nil, fmt.Errorf("cannot parse expression [%s]: %w", e.Path, err)
		}
		p.names, p.paths = append(p.names, e.Name), append(p.paths, path)
		p.deep = max(p.deep, len(path))
	}
	p.found, p.keys = make([]bool, len(p.paths)), make([]string, p.deep)
	return p, nil
}

func (p *jsonPaths) run(_ int64, line []byte, s *state) ([]byte, bool) {
	if len(line) == 0 || s.hints.nothing() {
		return line, true
	}
	switch line[0] {
	case '"', '{', '[':
	default:
		s.fail(errJSON, nil)
		return line, true
	}
	clear(p.found)
	p.blank = p.blank[:0]
	p.current, p.matches = s, 0
	p.scan(line)
	if p.matches < len(p.names) {
		for _, n := range p.names {
			if _, ok := s.get(n); !ok {
				s.set(n, nil)
			}
		}
	}
	return line, true
}

// report enters the value at path i.
func (p *jsonPaths) report(i int, v []byte, kind lenient.Kind, err error) {
	s := p.current
	if err != nil {
		s.fail(errJSON, err)
		return
	}
	name := p.names[i]
	if s.taken(name) {
		name = p.cache.suffixed(name)
	}
	switch kind {
	case lenient.Null:
		v = nil
	case lenient.Object:
	default:
		v = s.text(v)
	}
	s.set(name, v)
	p.matches++
}

// scan goes through the tokens of a line and reports the values at the paths.
// It does not care about commas, so that it finds what is there in a line that
// is cut off.
func (p *jsonPaths) scan(b []byte) {
	t := lenient.NewJSON(b)
	level, left := 0, len(p.paths)
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{':
			level++
		case '}', ']':
			level--
		case '[':
			if level < 0 {
				p.report(-1, nil, 0, lenient.ErrMalformed)
				return
			}
			n, end := p.array(lenient.JSON{Text: b[i:], Plain: t.Plain}, level)
			if end < 0 {
				return
			}
			if left -= n; left == 0 {
				return
			}
			i += end - 1
		case '"':
			end, escaped := t.StringEnd(i + 1)
			if end < 0 {
				return
			}
			next := lenient.Blank(b, end+1)
			if next < 0 {
				return
			}
			if b[next] != ':' {
				i = next - 1
				continue
			}
			if level <= p.deep {
				if level < 1 {
					p.report(-1, nil, 0, lenient.ErrMalformed)
					return
				}
				key, ok := p.key(b[i+1:end], escaped)
				if !ok {
					return
				}
				p.keys[level-1] = key
				for n := range p.paths {
					if len(p.paths[n]) != level || p.found[n] || !p.onPath(n, level) {
						continue
					}
					p.found[n] = true
					v, kind, _, err := t.Value(next + 1)
					p.report(n, v, kind, err)
					if left--; left == 0 {
						return
					}
				}
			}
			i = next
		}
	}
}

func (p *jsonPaths) key(b []byte, escaped bool) (string, bool) {
	if !escaped {
		return p.cache.as(b), true
	}
	out, ok := lenient.Unescape(p.blank[:0], b)
	p.blank = out
	return p.cache.as(out), ok
}

// onPath reports whether the first keys of a path are the current ones.
func (p *jsonPaths) onPath(n, level int) bool {
	for i, k := range p.paths[n][:min(level, len(p.paths[n]))] {
		if p.keys[i] != k {
			return false
		}
	}
	return true
}

// array reports the values in the array that t begins with, and returns how
// many paths it settled, and where the array ends (-1: nowhere).
func (p *jsonPaths) array(t lenient.JSON, level int) (settled, end int) {
	end = t.BlockEnd(0)
	if end < 0 {
		return 0, -1
	}
	for n, path := range p.paths {
		if len(path) <= level || p.found[n] || !strings.HasPrefix(path[level], "[") || !p.onPath(n, level) {
			continue
		}
		want, err := strconv.Atoi(strings.Trim(path[level], "[]"))
		if err != nil {
			continue
		}
		v, kind, ok := element(t, want)
		if !ok {
			continue
		}
		p.found[n] = true
		settled++
		if v, kind, ok = descend(lenient.JSON{Text: v, Plain: t.Plain}, kind, path[level+1:]); ok {
			p.report(n, v, kind, nil)
		}
	}
	return settled, end
}

// element returns the element of the array that t begins with.
func element(t lenient.JSON, want int) (v []byte, kind lenient.Kind, ok bool) {
	b, i := t.Text, 1
	for n := 0; ; n++ {
		j := lenient.Blank(b, i)
		if j < 0 || b[j] == ']' {
			return nil, 0, false
		}
		v, kind, end, err := t.Value(j)
		if err != nil {
			return nil, 0, false
		}
		if n == want {
			return v, kind, true
		}
		if i = lenient.Blank(b, end); i < 0 || b[i] != ',' {
			return nil, 0, false
		}
		i++
	}
}

// descend goes down a path from a value.
func descend(t lenient.JSON, kind lenient.Kind, path jsonPath) ([]byte, lenient.Kind, bool) {
	for _, step := range path {
		if strings.HasPrefix(step, "[") {
			n, err := strconv.Atoi(strings.Trim(step, "[]"))
			if err != nil || kind != lenient.Array {
				return nil, 0, false
			}
			var ok bool
			if t.Text, kind, ok = element(t, n); !ok {
				return nil, 0, false
			}
			continue
		}
		if kind != lenient.Object {
			return nil, 0, false
		}
		var scratch []byte
		found := false
		err := t.Object(&scratch, func(key, in []byte, k lenient.Kind) error {
			if string(key) == step {
				t.Text, kind, found = in, k, true
				return errEnough
			}
			return nil
		})
		if !found || err != errEnough {
			return nil, 0, false
		}
	}
	return t.Text, kind, true
}
