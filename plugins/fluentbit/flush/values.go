package flush

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
)

// list splits a comma list. Commas in quotes and brackets do not count, so that
// $a['b,c'] and name="x, y" stay in one piece.
func list(v string) ([]string, error) {
	var out []string
	for rest, more := v, true; more; {
		var s string
		s, rest, more = cutList(rest)
		s = strings.TrimSpace(s)
		if s == "" {
			return nil, fmt.Errorf("empty element in %q", v)
		}
		if slices.Contains(out, s) {
			return nil, fmt.Errorf("%q is there twice", s)
		}
		out = append(out, s)
	}
	return out, nil
}

// cutList cuts at the first comma that counts. A quote that is not closed has
// no meaning.
func cutList(v string) (first, rest string, more bool) {
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c == ',':
			return v[:i], v[i+1:], true
		case c == '"', c == '\'' && i > 0 && v[i-1] == '[':
			if n := closing(v[i+1:], c); n >= 0 {
				i += n + 1
			}
		}
	}
	return v, "", false
}

// closing returns the index of the quote that ends a text; one behind a
// backslash does not.
func closing(v string, quote byte) int {
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case '\\':
			i++
		case quote:
			return i
		}
	}
	return -1
}

// unquote takes off the quotes that other outputs allow around a value.
func unquote(v string) string {
	if len(v) > 1 && v[0] == '"' {
		if u, err := strconv.Unquote(v); err == nil {
			return u
		}
	}
	return v
}

// parseBool reads what Fluent Bit takes for a boolean.
func parseBool(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "true", "on", "yes", "1":
		return true, nil
	case "false", "off", "no", "0":
		return false, nil
	}
	return false, fmt.Errorf("%q: want true or false", v)
}

// parseTimeout reads a duration (4s, 500ms) or a number of seconds.
func parseTimeout(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if n, nerr := strconv.ParseUint(v, 10, 16); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 10*time.Millisecond || d > 10*time.Minute {
		return 0, fmt.Errorf("%q: want a duration from 10ms to 10m, such as 4s", v)
	}
	return d, nil
}

func parseLevel(v string) (slog.Level, error) {
	switch strings.ToLower(v) {
	case "trace", "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q: want debug, info, warn or error", v)
}
