// Package units has the number types that settings are written in.
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size in bytes that is written with a unit: 256KB, 4MB, 1.5MiB, or
// a plain number of bytes. As in Loki, KB, MB and so on are powers of 1024;
// KiB, MiB mean the same. Case and white space before the unit are free.
type Bytes int64

// Binary multiples.
const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
	PiB
)

var multiples = [...]struct {
	suffix string
	size   Bytes
}{{"K", KiB}, {"M", MiB}, {"G", GiB}, {"T", TiB}, {"P", PiB}}

// ParseBytes reads a size. Sizes are not negative; a fraction of a byte is cut.
func ParseBytes(s string) (Bytes, error) {
	text := strings.TrimSpace(s)
	i := 0
	for i < len(text) && (text[i] >= '0' && text[i] <= '9' || text[i] == '.') {
		i++
	}
	unit, ok := multiple(strings.TrimSpace(text[i:]))
	if !ok || i == 0 {
		return 0, fmt.Errorf("parse size %q: want a number and a unit such as B, KB, MB, GB", s)
	}
	if n, err := strconv.ParseInt(text[:i], 10, 64); err == nil {
		if n > math.MaxInt64/int64(unit) {
			return 0, fmt.Errorf("parse size %q: too large", s)
		}
		return Bytes(n) * unit, nil
	}
	f, err := strconv.ParseFloat(text[:i], 64)
	if err != nil {
		return 0, fmt.Errorf("parse size %q: bad number", s)
	}
	if f *= float64(unit); f >= math.MaxInt64 {
		return 0, fmt.Errorf("parse size %q: too large", s)
	}
	return Bytes(f), nil
}

// multiple returns what a unit stands for.
func multiple(unit string) (Bytes, bool) {
	unit = strings.ToUpper(unit)
	if unit == "" || unit == "B" {
		return 1, true
	}
	for _, m := range multiples {
		switch unit {
		case m.suffix, m.suffix + "B", m.suffix + "IB":
			return m.size, true
		}
	}
	return 0, false
}

// String returns the shortest exact text: 256KB, but 262145.
func (b Bytes) String() string {
	for i := len(multiples) - 1; i >= 0; i-- {
		if m := multiples[i]; b != 0 && b%m.size == 0 {
			return strconv.FormatInt(int64(b/m.size), 10) + m.suffix + "B"
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := ParseBytes(string(text))
	if err == nil {
		*b = v
	}
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }
