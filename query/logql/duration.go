package logql

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

var units = []struct {
	name  string
	size  time.Duration
	exact bool // used in output only if nothing remains
}{
	{"y", 365 * 24 * time.Hour, true},
	{"w", 7 * 24 * time.Hour, true},
	{"d", 24 * time.Hour, false},
	{"h", time.Hour, false},
	{"m", time.Minute, false},
	{"s", time.Second, false},
	{"ms", time.Millisecond, false},
}

// ParseDuration reads a duration in Prometheus's notation: integers with the
// units y, w, d, h, m, s and ms in descending order, such as 1h30m, or 0.
func ParseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if d, ok := parseUnits(s); ok {
		return d, nil
	}
	return 0, fmt.Errorf("not a valid duration string: %q", s)
}

// isDuration reports whether s is a duration in a query, where Go's notation
// (1.5h, 10us) counts too.
func isDuration(s string) bool {
	if _, ok := parseUnits(s); ok {
		return true
	}
	_, err := time.ParseDuration(s)
	return err == nil
}

func parseUnits(s string) (time.Duration, bool) {
	total, first := time.Duration(0), 0
	for rest := s; rest != "" || s == ""; {
		i := 0
		for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' {
			i++
		}
		n, err := strconv.ParseInt(rest[:i], 10, 64)
		if err != nil {
			return 0, false
		}
		j := i
		for j < len(rest) && rest[j] >= 'a' && rest[j] <= 'z' {
			j++
		}
		u := first
		for u < len(units) && units[u].name != rest[i:j] {
			u++
		}
		if u == len(units) || n > math.MaxInt64/int64(units[u].size) {
			return 0, false
		}
		d := time.Duration(n) * units[u].size
		if total > math.MaxInt64-d {
			return 0, false
		}
		total, first, rest = total+d, u+1, rest[j:]
	}
	return total, true
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
