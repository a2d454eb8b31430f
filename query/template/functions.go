package template

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"text/template"
	"time"
	"unicode"

	"github.com/loki-go/loki-go/query/logql"
)

var functions = template.FuncMap{
	// Names of the first versions, arguments as in package strings.
	"ToLower":    strings.ToLower,
	"ToUpper":    strings.ToUpper,
	"Replace":    replaceN,
	"Trim":       strings.Trim,
	"TrimLeft":   strings.TrimLeft,
	"TrimRight":  strings.TrimRight,
	"TrimPrefix": strings.TrimPrefix,
	"TrimSuffix": strings.TrimSuffix,
	"TrimSpace":  strings.TrimSpace,

	"regexReplaceAll":        regexReplaceAll,
	"regexReplaceAllLiteral": regexReplaceAllLiteral,
	"count":                  count,
	"urldecode":              url.QueryUnescape,
	"urlencode":              func(s string) (string, error) { return bounded(url.QueryEscape(s)) },
	"bytes":                  toBytes,
	"duration":               toSeconds,
	"duration_seconds":       toSeconds,
	"unixEpochMillis":        func(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) },
	"unixEpochNanos":         func(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) },
	"toDateInZone":           toDateInZone,
	"unixToTime":             unixToTime,
	"alignLeft":              alignLeft,
	"alignRight":             alignRight,

	"b64enc":     func(s string) (string, error) { return bounded(base64.StdEncoding.EncodeToString([]byte(s))) },
	"b64dec":     b64dec,
	"lower":      strings.ToLower,
	"upper":      strings.ToUpper,
	"title":      title,
	"trunc":      trunc,
	"substr":     substr,
	"contains":   func(sub, s string) bool { return strings.Contains(s, sub) },
	"hasPrefix":  func(pre, s string) bool { return strings.HasPrefix(s, pre) },
	"hasSuffix":  func(suf, s string) bool { return strings.HasSuffix(s, suf) },
	"indent":     indent,
	"nindent":    nindent,
	"replace":    func(old, new, s string) (string, error) { return replaceN(s, old, new, -1) },
	"repeat":     repeat,
	"trim":       strings.TrimSpace,
	"trimAll":    func(cut, s string) string { return strings.Trim(s, cut) },
	"trimSuffix": func(suf, s string) string { return strings.TrimSuffix(s, suf) },
	"trimPrefix": func(pre, s string) string { return strings.TrimPrefix(s, pre) },
	"int":        func(v any) int { return int(toInt(v)) },
	"float64":    toFloat,
	"add":        func(vs ...any) int64 { return foldInt(0, vs, func(a, b int64) int64 { return a + b }) },
	"sub":        func(a, b any) int64 { return toInt(a) - toInt(b) },
	"mul":        func(a any, vs ...any) int64 { return foldInt(toInt(a), vs, func(a, b int64) int64 { return a * b }) },
	"div":        func(a, b any) int64 { return toInt(a) / toInt(b) },
	"mod":        func(a, b any) int64 { return toInt(a) % toInt(b) },
	"addf":       func(vs ...any) (float64, error) { return decimals(0.0, vs, (*big.Rat).Add) },
	"subf":       func(a any, vs ...any) (float64, error) { return decimals(a, vs, (*big.Rat).Sub) },
	"mulf":       func(a any, vs ...any) (float64, error) { return decimals(a, vs, (*big.Rat).Mul) },
	"divf":       func(a any, vs ...any) (float64, error) { return decimals(a, vs, quotient) },
	"max": func(a any, vs ...any) int64 {
		return foldInt(toInt(a), vs, func(a, b int64) int64 { return max(a, b) })
	},
	"min": func(a any, vs ...any) int64 {
		return foldInt(toInt(a), vs, func(a, b int64) int64 { return min(a, b) })
	},
	"maxf":      func(a any, vs ...any) float64 { return foldFloat(a, vs, math.Max) },
	"minf":      func(a any, vs ...any) float64 { return foldFloat(a, vs, math.Min) },
	"ceil":      func(v any) float64 { return math.Ceil(toFloat(v)) },
	"floor":     func(v any) float64 { return math.Floor(toFloat(v)) },
	"round":     round,
	"fromJson":  fromJSON,
	"date":      date,
	"toDate":    toDate,
	"now":       time.Now,
	"unixEpoch": func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) },
	"default":   defaultTo,

	// Functions of text/template, with bounds.
	"print":    func(vs ...any) (string, error) { return sprint(vs, fmt.Sprint) },
	"println":  func(vs ...any) (string, error) { return sprint(vs, fmt.Sprintln) },
	"printf":   sprintf,
	"html":     func(vs ...any) (string, error) { return sprint(vs, template.HTMLEscaper) },
	"js":       func(vs ...any) (string, error) { return sprint(vs, template.JSEscaper) },
	"urlquery": func(vs ...any) (string, error) { return sprint(vs, template.URLQueryEscaper) },
}

func sprint(vs []any, f func(...any) string) (string, error) {
	total := 0
	for _, v := range vs {
		if s, ok := v.(string); ok {
			total += len(s)
		}
	}
	if total > maxOutput {
		return "", errTooLong
	}
	return bounded(f(vs...))
}

// sprintf bounds the widths and the arguments that a format may use before it
// is used.
func sprintf(format string, vs ...any) (string, error) {
	longest, stars := 0, 0
	for _, v := range vs {
		if s, ok := v.(string); ok {
			longest = max(longest, len(s))
		} else if n := toInt(v); n > 0 {
			stars = max(stars, int(min(n, maxOutput)))
		}
	}
	most := len(format) + strings.Count(format, "%")*longest + strings.Count(format, "*")*stars
	for digits := range strings.FieldsFuncSeq(format, func(r rune) bool { return r < '0' || r > '9' }) {
		n, err := strconv.Atoi(digits)
		if err != nil || n > maxOutput {
			return "", errTooLong
		}
		most += n
	}
	if most > maxOutput {
		return "", errTooLong
	}
	return bounded(fmt.Sprintf(format, vs...))
}

// expressions that templates use, compiled. One that is made of labels can
// differ for every entry, so that only some are kept.
var expressions struct {
	sync.Mutex
	m map[string]*regexp.Regexp
}

const maxExpressions = 256

func compile(expr string) (*regexp.Regexp, error) {
	expressions.Lock()
	re := expressions.m[expr]
	expressions.Unlock()
	if re != nil {
		return re, nil
	}
	re, err := logql.CompileRegexp(expr)
	if err != nil {
		return nil, err
	}
	expressions.Lock()
	defer expressions.Unlock()
	if expressions.m == nil || len(expressions.m) >= maxExpressions {
		expressions.m = map[string]*regexp.Regexp{}
	}
	expressions.m[expr] = re
	return re, nil
}

func regexReplaceAll(expr, s, repl string) (string, error) {
	re, err := compile(expr)
	if err != nil {
		return "", err
	}
	return bounded(re.ReplaceAllString(s, repl))
}

func regexReplaceAllLiteral(expr, s, repl string) (string, error) {
	re, err := compile(expr)
	if err != nil {
		return "", err
	}
	return bounded(re.ReplaceAllLiteralString(s, repl))
}

func count(expr, s string) (int, error) {
	re, err := compile(expr)
	if err != nil {
		return 0, err
	}
	return len(re.FindAllStringIndex(s, -1)), nil
}

// bounded refuses what has become too long, so that templates cannot double a
// text over and over.
func bounded(s string) (string, error) {
	if len(s) > maxOutput {
		return "", errTooLong
	}
	return s, nil
}

// size is the length of n texts.
func size(length, n int) error {
	if length > 0 && n > maxOutput/length {
		return errTooLong
	}
	return nil
}

func replaceN(s, old, new string, n int) (string, error) {
	if err := size(len(new), min(strings.Count(s, old), len(s)+1)); err != nil {
		return "", err
	}
	return bounded(strings.Replace(s, old, new, n))
}

func repeat(n int, s string) (string, error) {
	if n < 0 {
		return "", fmt.Errorf("cannot repeat a text %d times", n)
	}
	if err := size(len(s), n); err != nil {
		return "", err
	}
	return strings.Repeat(s, n), nil
}

func indent(n int, s string) (string, error) {
	pad, err := repeat(n, " ")
	if err != nil {
		return "", err
	}
	s, err = replaceN(s, "\n", "\n"+pad, -1)
	return pad + s, err
}

func nindent(n int, s string) (string, error) {
	s, err := indent(n, s)
	return "\n" + s, err
}

func toBytes(s string) (float64, error) {
	n, err := logql.ParseBytes(s)
	return float64(n), err
}

func toSeconds(s string) (float64, error) {
	d, err := time.ParseDuration(s)
	return d.Seconds(), err
}

func b64dec(s string) string {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// title puts every word's first letter into upper case; words are divided by
// what is neither letter, digit, underscore nor quote.
func title(s string) string {
	previous := ' '
	return strings.Map(func(r rune) rune {
		first := divides(previous)
		previous = r
		if first {
			return unicode.ToTitle(r)
		}
		return r
	}, s)
}

func divides(r rune) bool {
	if r <= unicode.MaxASCII {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_')
	}
	if unicode.IsLetter(r) || unicode.IsDigit(r) {
		return false
	}
	return unicode.IsSpace(r)
}

// trunc keeps the first n bytes, or with a negative n the last.
func trunc(n int, s string) string {
	switch {
	case n < 0 && len(s)+n > 0:
		return s[len(s)+n:]
	case n >= 0 && len(s) > n:
		return s[:n]
	}
	return s
}

// substr cuts at byte offsets. One out of range is an error of the template,
// which recovers what slicing says.
func substr(start, end int, s string) string {
	switch {
	case start < 0:
		return s[:end]
	case end < 0 || end > len(s):
		return s[start:]
	}
	return s[start:end]
}

func alignLeft(n int, s string) (string, error) {
	rs := []rune(s)
	switch {
	case n < 0 || n == len(rs):
		return s, nil
	case n < len(rs):
		return string(rs[:n]), nil
	}
	pad, err := repeat(n-len(rs), " ")
	return s + pad, err
}

func alignRight(n int, s string) (string, error) {
	rs := []rune(s)
	switch {
	case n < 0 || n == len(rs):
		return s, nil
	case n < len(rs):
		return string(rs[len(rs)-n:]), nil
	}
	pad, err := repeat(n-len(rs), " ")
	return pad + s, err
}

// toInt converts what it can, and gives 0 for the rest. Texts have Go's
// prefixes (0x, 0 for octal), and lose a fraction.
func toInt(v any) int64 {
	r := reflect.ValueOf(v)
	switch {
	case !r.IsValid():
		return 0
	case r.CanInt():
		return r.Int()
	case r.CanUint():
		return int64(r.Uint())
	case r.CanFloat():
		return int64(r.Float())
	case r.Kind() == reflect.Bool:
		if r.Bool() {
			return 1
		}
		return 0
	case r.Kind() == reflect.String:
		n, err := strconv.ParseInt(whole(r.String()), 0, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return 0
}

// whole removes a fraction of digits.
func whole(s string) string {
	n, fraction, ok := strings.Cut(s, ".")
	digits := strings.TrimLeft(n, "+-")
	if !ok || len(n)-len(digits) > 1 || strings.Trim(digits+fraction, "0123456789") != "" {
		return s
	}
	if digits == "" {
		return n + "0"
	}
	return n
}

func toFloat(v any) float64 {
	r := reflect.ValueOf(v)
	switch {
	case !r.IsValid():
		return 0
	case r.CanFloat():
		return r.Float()
	case r.Kind() == reflect.String:
		f, err := strconv.ParseFloat(r.String(), 64)
		if err != nil {
			return 0
		}
		return f
	}
	return float64(toInt(v))
}

func foldInt(a int64, vs []any, f func(a, b int64) int64) int64 {
	for _, v := range vs {
		a = f(a, toInt(v))
	}
	return a
}

func foldFloat(a any, vs []any, f func(a, b float64) float64) float64 {
	out := toFloat(a)
	for _, v := range vs {
		out = f(out, toFloat(v))
	}
	return out
}

// decimals computes with decimal numbers, so that 0.1 and 0.2 are 0.3. Every
// step is rounded to sixteen digits behind the point, if it has more.
func decimals(a any, vs []any, f func(z, x, y *big.Rat) *big.Rat) (out float64, err error) {
	acc, err := decimal(a)
	if err != nil {
		return 0, err
	}
	for _, v := range vs {
		d, err := decimal(v)
		if err != nil {
			return 0, err
		}
		if f(acc, acc, d) == nil {
			return 0, fmt.Errorf("division by 0")
		}
	}
	out, _ = acc.Float64()
	return out, nil
}

// decimal returns the shortest decimal number that is the float.
func decimal(v any) (*big.Rat, error) {
	f := toFloat(v)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("%v is not a decimal number", f)
	}
	d, ok := new(big.Rat).SetString(strconv.FormatFloat(f, 'e', -1, 64))
	if !ok {
		return nil, fmt.Errorf("%v is not a decimal number", f)
	}
	return d, nil
}

// quotient divides, to sixteen digits behind the point; nil if y is 0.
func quotient(z, x, y *big.Rat) *big.Rat {
	if y.Sign() == 0 {
		return nil
	}
	z.Quo(x, y)
	rounded, ok := z.SetString(z.FloatString(16))
	if !ok {
		return nil
	}
	return rounded
}

// round rounds to places behind the point; a last digit of on or more counts as
// one, .5 if it is not given.
func round(v any, places int, on ...float64) float64 {
	from := .5
	if len(on) > 0 {
		from = on[0]
	}
	pow := math.Pow(10, float64(places))
	digits := pow * toFloat(v)
	if _, rest := math.Modf(digits); rest >= from {
		return math.Ceil(digits) / pow
	}
	return math.Floor(digits) / pow
}

func fromJSON(s string) any {
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return nil
	}
	return v
}

// date formats a time, or seconds since 1970.
func date(layout string, v any) string {
	t := time.Now()
	switch v := v.(type) {
	case time.Time:
		t = v
	case *time.Time:
		t = *v
	case int64:
		t = time.Unix(v, 0)
	case int:
		t = time.Unix(int64(v), 0)
	case int32:
		t = time.Unix(int64(v), 0)
	}
	return t.In(time.Local).Format(layout)
}

func toDate(layout, s string) time.Time {
	t, err := time.ParseInLocation(layout, s, time.Local)
	if err != nil {
		return time.Time{}
	}
	return t
}

func toDateInZone(layout, zone, s string) time.Time {
	loc, err := time.LoadLocation(zone)
	if err != nil {
		loc = time.UTC
	}
	t, err := time.ParseInLocation(layout, s, loc)
	if err != nil {
		return time.Time{}
	}
	return t
}

// unixToTime reads days, seconds, milliseconds, microseconds or nanoseconds, as
// the number of digits says.
func unixToTime(s string) (time.Time, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("unable to parse time '%v': %w", s, err)
	}
	switch len(s) {
	case 5:
		return time.Unix(n*86400, 0), nil
	case 10:
		return time.Unix(n, 0), nil
	case 13:
		return time.UnixMilli(n), nil
	case 16:
		return time.UnixMicro(n), nil
	case 19:
		return time.Unix(0, n), nil
	}
	return time.Time{}, fmt.Errorf("unable to parse time '%v': %%!w(<nil>)", s)
}

// defaultTo gives d in place of what is nothing, zero or empty.
func defaultTo(d any, given ...any) any {
	if len(given) == 0 || isEmpty(given[0]) {
		return d
	}
	return given[0]
}

func isEmpty(v any) bool {
	r := reflect.ValueOf(v)
	if !r.IsValid() {
		return true
	}
	switch r.Kind() {
	case reflect.Struct:
		return false
	case reflect.Map, reflect.Slice, reflect.Array, reflect.String:
		return r.Len() == 0
	}
	return r.IsZero()
}
