package chunk

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/loki-go/loki-go/internal/labels"
)

// The metadata of a chunk object is JSON. It is written and read here rather
// than by encoding/json, which would replace bytes that are no UTF-8 in label
// values, and escape what Loki does not.

const (
	metricValue   = "logs" // of __name__
	encodingLogs  = 129
	maxMetadata   = 64 << 20 // labels are at most 16 MiB, escaped at most sixfold
	maxJSONDepth  = 16
	maxMillis     = 1 << 53 // what a reader that uses floating point can tell apart
	hexDigits     = "0123456789abcdef"
	metaSeparator = '\n'
)

var errMetadata = errors.New("malformed metadata JSON")

// appendMetadata leaves "ingestedAt":0 out, as newer versions of Loki do; those
// before write it, and none misses it.
func appendMetadata(b []byte, m *Meta) []byte {
	b = append(b, `{"fingerprint":`...)
	b = strconv.AppendUint(b, m.Fingerprint, 10)
	b = append(b, `,"userID":`...)
	b = appendJSONString(b, m.Tenant)
	b = append(b, `,"from":`...)
	b = appendSeconds(b, m.From)
	b = append(b, `,"through":`...)
	b = appendSeconds(b, m.Through)
	b = append(b, `,"metric":{`...)
	name := false
	for i := 0; i < len(m.Labels) || !name; {
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		if !name && (i == len(m.Labels) || m.Labels[i].Name >= labels.MetricName) {
			name = true
			if i < len(m.Labels) && m.Labels[i].Name == labels.MetricName {
				i++
			}
			b = append(b, `"`+labels.MetricName+`":"`+metricValue+`"`...)
			continue
		}
		b = appendJSONString(b, m.Labels[i].Name)
		b = append(b, ':')
		b = appendJSONString(b, m.Labels[i].Value)
		i++
	}
	b = append(b, `},"encoding":`...)
	b = strconv.AppendInt(b, encodingLogs, 10)
	return append(b, '}', metaSeparator)
}

// appendSeconds writes ms as seconds, with three decimals if they are not 0.
func appendSeconds(b []byte, ms int64) []byte {
	u := uint64(ms)
	if ms < 0 {
		b = append(b, '-')
		u = -u
	}
	b = strconv.AppendUint(b, u/1000, 10)
	if f := u % 1000; f != 0 {
		b = append(b, '.', byte('0'+f/100), byte('0'+f/10%10), byte('0'+f%10))
	}
	return b
}

func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= 0x20:
			b = append(b, c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(b, '"')
}

// metaParser reads the metadata.
type metaParser struct {
	b []byte
	i int
}

func parseMetadata(b []byte) (m Meta, err error) {
	p := metaParser{b: b}
	var have int
	metric := map[string]string{}
	encoding := -1.0
	err = p.object(func(key string) (err error) {
		switch key {
		case "fingerprint":
			have |= 1
			m.Fingerprint, err = strconv.ParseUint(p.number(), 10, 64)
		case "userID":
			have |= 2
			m.Tenant, err = p.str()
		case "from":
			have |= 4
			m.From, err = parseSeconds(p.number())
		case "through":
			have |= 8
			m.Through, err = parseSeconds(p.number())
		case "metric":
			have |= 16
			err = p.object(func(name string) (err error) {
				metric[name], err = p.str()
				return err
			})
		case "encoding":
			encoding, err = strconv.ParseFloat(p.number(), 64)
		default:
			err = p.skip(0)
		}
		return err
	})
	p.space()
	switch {
	case err != nil:
		return m, fmt.Errorf("%w at offset %d: %w", errMetadata, p.i, err)
	case p.i != len(b) || have != 31:
		return m, errMetadata
	case encoding != encodingLogs:
		return m, fmt.Errorf("chunk encoding %v is not that of logs", encoding)
	}
	delete(metric, labels.MetricName)
	m.Labels = labels.FromMap(metric)
	return m, nil
}

// parseSeconds reads seconds as appendSeconds or another writer wrote them.
func parseSeconds(s string) (int64, error) {
	neg := len(s) > 0 && s[0] == '-'
	digits := s
	if neg {
		digits = s[1:]
	}
	var ms int64
	point := -1
	for i := 0; i < len(digits); i++ {
		c := digits[i]
		if c == '.' && point < 0 && len(digits)-i <= 4 {
			point = i
			continue
		}
		if c < '0' || c > '9' {
			return parseFloatSeconds(s)
		}
		if ms = ms*10 + int64(c-'0'); ms > maxMillis {
			return 0, strconv.ErrRange
		}
	}
	decimals := 0
	if point >= 0 {
		decimals = len(digits) - point - 1
	}
	for ; decimals < 3; decimals++ {
		if ms *= 10; ms > maxMillis {
			return 0, strconv.ErrRange
		}
	}
	if len(digits) == 0 {
		return 0, strconv.ErrSyntax
	}
	if neg {
		ms = -ms
	}
	return ms, nil
}

func parseFloatSeconds(s string) (int64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, err
	}
	if f = math.Round(f * 1000); math.IsNaN(f) || math.Abs(f) > maxMillis {
		return 0, strconv.ErrRange
	}
	return int64(f), nil
}

func (p *metaParser) space() {
	for p.i < len(p.b) && (p.b[p.i] == ' ' || p.b[p.i] == '\n' || p.b[p.i] == '\t' || p.b[p.i] == '\r') {
		p.i++
	}
}

func (p *metaParser) eat(c byte) bool {
	p.space()
	if p.i < len(p.b) && p.b[p.i] == c {
		p.i++
		return true
	}
	return false
}

// object reads an object; value reads the value of each key.
func (p *metaParser) object(value func(key string) error) error {
	if !p.eat('{') {
		return errors.New("expected an object")
	}
	if p.eat('}') {
		return nil
	}
	for {
		key, err := p.str()
		if err != nil {
			return err
		}
		if !p.eat(':') {
			return errors.New("expected a colon")
		}
		if err := value(key); err != nil {
			return err
		}
		if p.eat('}') {
			return nil
		}
		if !p.eat(',') {
			return errors.New("expected a comma or the object's end")
		}
	}
}

// number returns the text of a number, "" if there is none.
func (p *metaParser) number() string {
	p.space()
	start := p.i
	for p.i < len(p.b) {
		c := p.b[p.i]
		if c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E' {
			p.i++
			continue
		}
		break
	}
	return string(p.b[start:p.i])
}

func (p *metaParser) str() (string, error) {
	if !p.eat('"') {
		return "", errors.New("expected a string")
	}
	start := p.i
	for p.i < len(p.b) && p.b[p.i] != '"' && p.b[p.i] != '\\' && p.b[p.i] >= 0x20 {
		p.i++
	}
	out := append([]byte(nil), p.b[start:p.i]...)
	for p.i < len(p.b) {
		c := p.b[p.i]
		p.i++
		switch {
		case c == '"':
			return string(out), nil
		case c < 0x20:
			return "", errors.New("control character in a string")
		case c != '\\':
			out = append(out, c)
		default:
			var err error
			if out, err = p.escape(out); err != nil {
				return "", err
			}
		}
	}
	return "", errors.New("unterminated string")
}

func (p *metaParser) escape(out []byte) ([]byte, error) {
	if p.i == len(p.b) {
		return nil, errors.New("unterminated string")
	}
	c := p.b[p.i]
	p.i++
	switch c {
	case '"', '\\', '/':
		return append(out, c), nil
	case 'b':
		return append(out, '\b'), nil
	case 'f':
		return append(out, '\f'), nil
	case 'n':
		return append(out, '\n'), nil
	case 'r':
		return append(out, '\r'), nil
	case 't':
		return append(out, '\t'), nil
	case 'u':
		r, ok := p.hex4()
		if !ok {
			return nil, errors.New("bad escape in a string")
		}
		if utf16.IsSurrogate(r) {
			save := p.i
			low := rune(0)
			if p.i+1 < len(p.b) && p.b[p.i] == '\\' && p.b[p.i+1] == 'u' {
				p.i += 2
				low, _ = p.hex4()
			}
			if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
				p.i = save
			}
		}
		return utf8.AppendRune(out, r), nil
	}
	return nil, errors.New("bad escape in a string")
}

func (p *metaParser) hex4() (rune, bool) {
	if len(p.b)-p.i < 4 {
		return 0, false
	}
	v, err := strconv.ParseUint(string(p.b[p.i:p.i+4]), 16, 16)
	if err != nil {
		return 0, false
	}
	p.i += 4
	return rune(v), true
}

// skip passes over a value of a key that is not ours.
func (p *metaParser) skip(depth int) error {
	if depth > maxJSONDepth {
		return errors.New("nested too deep")
	}
	p.space()
	if p.i == len(p.b) {
		return errors.New("expected a value")
	}
	switch c := p.b[p.i]; {
	case c == '"':
		_, err := p.str()
		return err
	case c == '{':
		return p.object(func(string) error { return p.skip(depth + 1) })
	case c == '[':
		return p.skipArray(depth)
	case c >= 'a' && c <= 'z':
		start := p.i
		for p.i < len(p.b) && p.b[p.i] >= 'a' && p.b[p.i] <= 'z' {
			p.i++
		}
		if w := string(p.b[start:p.i]); w != "true" && w != "false" && w != "null" {
			return errors.New("unknown word")
		}
		return nil
	}
	if _, err := strconv.ParseFloat(p.number(), 64); err != nil {
		return errors.New("expected a value")
	}
	return nil
}

func (p *metaParser) skipArray(depth int) error {
	p.i++
	if p.eat(']') {
		return nil
	}
	for {
		if err := p.skip(depth + 1); err != nil {
			return err
		}
		if p.eat(']') {
			return nil
		}
		if !p.eat(',') {
			return errors.New("expected a comma or the array's end")
		}
	}
}
