package query

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/loki-go/loki-go/query/logql"
)

const (
	defaultSince = time.Hour
	defaultLimit = 100
	maxPoints    = 11000 // steps in a range, Loki's bound
)

var (
	errStep   = badRequest("zero or negative query resolution step widths are not accepted. Try a positive integer")
	errPoints = badRequest("exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter")
)

// parseTime reads a time in one of Loki's notations: integer nanoseconds (of
// more than ten digits; else seconds), seconds with a fraction, RFC 3339.
func parseTime(s string, def int64) (int64, error) {
	if s == "" {
		return def, nil
	}
	if strings.Contains(s, ".") {
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			sec, frac := math.Modf(f)
			// Finer than a microsecond, seconds as a float are noise.
			return unixNano(sec, math.Round(frac*1e6)*1e3, s)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil {
		if len(s) <= 10 {
			return unixNano(float64(n), 0, s)
		}
		return n, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return unixNano(float64(t.Unix()), float64(t.Nanosecond()), s)
	}
	return 0, err
}

func unixNano(sec, nano float64, s string) (int64, error) {
	const most = math.MaxInt64/1e9 - 1
	if !(sec >= -most && sec <= most) {
		return 0, fmt.Errorf("timestamp %q is out of range", s)
	}
	return int64(sec)*1e9 + int64(nano), nil
}

// parseStep reads a number of seconds or a duration.
func parseStep(s string) (time.Duration, error) {
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		ns := f * float64(time.Second)
		if !(ns > math.MinInt64 && ns < math.MaxInt64) {
			return 0, fmt.Errorf("cannot parse %q to a valid duration. It overflows int64", s)
		}
		return time.Duration(ns), nil
	}
	d, err := logql.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("cannot parse %q to a valid duration", s)
	}
	return d, nil
}

// timeRange reads start, end and since.
func timeRange(form url.Values, now int64) (start, end int64, err error) {
	since := defaultSince
	if s := form.Get("since"); s != "" {
		if since, err = logql.ParseDuration(s); err != nil {
			return 0, 0, badRequest("could not parse 'since' parameter: %v", err)
		}
	}
	if end, err = parseTime(form.Get("end"), now); err != nil {
		return 0, 0, badRequest("could not parse 'end' parameter: %v", err)
	}
	// A range that reaches into the future counts back from now.
	if start, err = parseTime(form.Get("start"), addTime(min(end, now), -since)); err != nil {
		return 0, 0, badRequest("could not parse 'start' parameter: %v", err)
	}
	return start, end, nil
}

// rangeParams are the parameters of a range query.
type rangeParams struct {
	start, end     int64
	step, interval time.Duration
	limit          int
	direction      Direction
}

func parseRange(form url.Values, now int64) (p rangeParams, err error) {
	if p.start, p.end, err = timeRange(form, now); err != nil {
		return p, err
	}
	if p.end < p.start {
		return p, badRequest("end timestamp must not be before or equal to start time")
	}
	if p.limit, err = parseLimit(form.Get("limit")); err != nil {
		return p, err
	}
	if p.direction, err = parseDirection(form.Get("direction")); err != nil {
		return p, err
	}
	length := uint64(p.end) - uint64(p.start)
	p.step = time.Duration(max(length/uint64(250*time.Second), 1)) * time.Second
	if s := form.Get("step"); s != "" {
		if p.step, err = parseStep(s); err != nil {
			return p, badRequest("%v", err)
		}
	}
	if p.step <= 0 {
		return p, errStep
	}
	if length/uint64(p.step) > maxPoints {
		return p, errPoints
	}
	if s := form.Get("interval"); s != "" {
		if p.interval, err = parseStep(s); err != nil {
			return p, badRequest("%v", err)
		}
		if p.interval < 0 {
			return p, badRequest("interval must be >= 0")
		}
	}
	return p, nil
}

func parseLimit(s string) (int, error) {
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, badRequest("%v", err)
	}
	if n <= 0 {
		return 0, badRequest("limit must be a positive value")
	}
	return n, nil
}

func parseDirection(s string) (Direction, error) {
	switch strings.ToLower(s) {
	case "", "backward":
		return Backward, nil
	case "forward":
		return Forward, nil
	}
	return 0, badRequest("invalid direction '%s'", s)
}
