package logql

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

type unit struct {
	name  string
	size  time.Duration
	exact bool // used in output only if nothing remains
}

var units = []unit{
	{"y", 365 * 24 * time.Hour, true},
	{"w", 7 * 24 * time.Hour, true},
	{"d", 24 * time.Hour, false},
	{"h", time.Hour, false},
	{"m", time.Minute, false},
	{"s", time.Second, false},
	{"ms", time.Millisecond, false},
}

// ParseDuration reads a duration in Prometheus's notation: integers with the
// units y, w, d, h, m, s and ms in descending order, such as 1h30m, or 0. Error
// texts are Prometheus's.
func ParseDuration(s string) (time.Duration, error) {
	switch s {
	case "0":
		return 0, nil
	case "":
		return 0, errors.New("empty duration string")
	}
	total, first := uint64(0), 0
	for rest := s; rest != ""; {
		i := 0
		for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' {
			i++
		}
		j := i
		for j < len(rest) && (rest[j] < '0' || rest[j] > '9') {
			j++
		}
		n, err := strconv.ParseUint(rest[:i], 10, 64)
		if err != nil || j == i {
			return 0, fmt.Errorf("not a valid duration string: %q", s)
		}
		u := slices.IndexFunc(units, func(u unit) bool { return u.name == rest[i:j] })
		switch {
		case u < 0:
			return 0, fmt.Errorf("unknown unit %q in duration %q", rest[i:j], s)
		case u < first:
			return 0, fmt.Errorf("not a valid duration string: %q", s)
		case n > 1<<63/uint64(units[u].size):
			return 0, errors.New("duration out of range")
		}
		if total += n * uint64(units[u].size); total > math.MaxInt64 {
			return 0, errors.New("duration out of range")
		}
		first, rest = u+1, rest[j:]
	}
	return time.Duration(total), nil
}

// parseAnyDuration reads a duration in a query, where Go's notation (1.5h,
// -10us) counts too.
func parseAnyDuration(s string) (time.Duration, bool) {
	if d, err := ParseDuration(s); err == nil {
		return d, true
	}
	d, err := time.ParseDuration(s)
	return d, err == nil
}

// FormatDuration writes d in Prometheus's notation, to the millisecond.
func FormatDuration(d time.Duration) string {
	if d.Truncate(time.Millisecond) == 0 {
		return "0s"
	}
	var b []byte
	if d < 0 {
		b, d = append(b, '-'), -d
	}
	for _, u := range units {
		if u.exact && d%u.size != 0 {
			continue
		}
		if n := d / u.size; n > 0 {
			b = strconv.AppendInt(b, int64(n), 10)
			b = append(b, u.name...)
			d -= n * u.size
		}
	}
	return string(b)
}
