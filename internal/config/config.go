// Package config fills structs from YAML files and command line flags.
//
// A setting is a field of a struct, or of a struct inside it:
//
//	type Config struct {
//		Listen string `yaml:"listen" help:"address of the server"`
//		Log    struct {
//			Level slog.Level `yaml:"level" help:"lowest level that is logged"`
//		} `yaml:"log"`
//	}
//
// has the settings listen and log.level. The struct's content at the time of
// Bind are the defaults. A setting can be given in a YAML file, where sections
// nest, and as a flag of its dotted name (-log.level=debug); flags win. In
// both, ${NAME} stands for an environment variable and ${NAME:-text} for one
// with a default; $${ is a literal ${.
//
// Types are string, bool, the integers, floats, time.Duration (with d and w
// for days and weeks), []string, and everything that implements
// encoding.TextUnmarshaler. The tag secret:"true" keeps a value out of what is
// printed. `yaml:"-"` hides a field, `yaml:",inline"` merges a struct.
//
// A pointer to one of these types (but not to one that has UnmarshalText) is a
// setting without a default: nil where nobody has given it. That is how a
// section overrides another one. With the tag like:"other" such a section has
// one line in what is printed for users, with the help text of its own field.
//
// Every function reports all problems that it finds, not only the first. A
// Binding is for one goroutine.
package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Masked is printed in place of a secret.
const Masked = "<secret>"

// Setting is one value that can be configured.
type Setting struct {
	Name    string // dotted
	Help    string
	Default string // as text
	Secret  bool

	value reflect.Value
	like  *like
}

// Overrides reports whether s is in a section that overrides another one, and
// is described with all of it.
func (s *Setting) Overrides() bool { return s.like != nil }

// like is a section that is described as a whole.
type like struct{ name, help string }

// Binding connects a struct to the names of its settings.
type Binding struct {
	settings []*Setting // in order of declaration
	byName   map[string]*Setting
	sections map[string]bool
}

// Bind finds the settings in the struct that ptr points to. It fails when a
// field has a type that cannot be configured or a name is used twice, which is
// an error of the program.
func Bind(ptr any) (*Binding, error) {
	v := reflect.ValueOf(ptr)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("config: bind %T: not a pointer to a struct", ptr)
	}
	b := &Binding{byName: map[string]*Setting{}, sections: map[string]bool{}}
	if err := b.walk(v.Elem(), "", nil); err != nil {
		return nil, err
	}
	return b, nil
}

// Settings returns all settings in the order of their declaration.
func (b *Binding) Settings() []*Setting { return b.settings }

func (b *Binding) walk(v reflect.Value, prefix string, as *like) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, opt, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		fv := v.Field(i)
		if opt == "inline" {
			if err := b.walk(fv, prefix, as); err != nil {
				return err
			}
			continue
		}
		if name == "" {
			return fmt.Errorf("config: field %s.%s has no yaml tag", v.Type(), f.Name)
		}
		name = prefix + name
		if fv.Kind() == reflect.Struct && !isText(fv) {
			b.sections[name] = true
			as := as
			if other := f.Tag.Get("like"); other != "" {
				as = &like{name + ".*", f.Tag.Get("help")}
			}
			if err := b.walk(fv, name+".", as); err != nil {
				return err
			}
			continue
		}
		if err := b.add(&Setting{Name: name, Help: f.Tag.Get("help"), Secret: f.Tag.Get("secret") == "true", value: fv, like: as}); err != nil {
			return err
		}
	}
	return nil
}

func (b *Binding) add(s *Setting) error {
	if b.byName[s.Name] != nil || b.sections[s.Name] {
		return fmt.Errorf("config: setting %s is declared twice", s.Name)
	}
	if !supported(s.value) {
		return fmt.Errorf("config: setting %s has type %s, which cannot be configured", s.Name, s.value.Type())
	}
	s.Default = s.text()
	b.settings = append(b.settings, s)
	b.byName[s.Name] = s
	return nil
}

func isText(v reflect.Value) bool {
	_, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	return ok
}

var durationType = reflect.TypeFor[time.Duration]()

func supported(v reflect.Value) bool {
	if isText(v) {
		return true
	}
	if v.Kind() == reflect.Pointer {
		elem := reflect.New(v.Type().Elem()).Elem()
		return elem.Kind() != reflect.Pointer && !isText(elem) && supported(elem)
	}
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint32, reflect.Uint64, reflect.Float64:
		return true
	case reflect.Slice:
		return v.Type().Elem().Kind() == reflect.String
	}
	return false
}

func (s *Setting) isBool() bool { return s.kind() == reflect.Bool && !isText(s.value) }
func (s *Setting) isList() bool { return s.kind() == reflect.Slice && !isText(s.value) }

// kind is that of what a pointer points to.
func (s *Setting) kind() reflect.Kind {
	if s.optional() {
		return s.value.Type().Elem().Kind()
	}
	return s.value.Kind()
}

// optional reports whether the setting is a pointer; missing, whether it is nil.
func (s *Setting) optional() bool { return s.value.Kind() == reflect.Pointer && !isText(s.value) }
func (s *Setting) missing() bool  { return s.optional() && s.value.IsNil() }

// target is the setting of what a pointer points to.
func (s *Setting) target() *Setting { return &Setting{Name: s.Name, value: s.value.Elem()} }

// fill sets a pointer to a new value that set has filled.
func (s *Setting) fill(set func(*Setting) error) error {
	p := reflect.New(s.value.Type().Elem())
	err := set(&Setting{Name: s.Name, value: p.Elem()})
	if err == nil {
		s.value.Set(p)
	}
	return err
}

// set parses text into the setting's field.
func (s *Setting) set(text string) error {
	if s.optional() {
		return s.fill(func(t *Setting) error { return t.set(text) })
	}
	v := s.value
	if t, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return t.UnmarshalText([]byte(text))
	}
	if v.Type() == durationType {
		d, err := ParseDuration(text)
		if err == nil {
			v.SetInt(int64(d))
		}
		return err
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Slice:
		s.setList(splitList(text))
	case reflect.Bool:
		x, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(x)
	case reflect.Float64:
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || x != x {
			return fmt.Errorf("%q is not a number", text)
		}
		v.SetFloat(x)
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		x, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number from 0 to 2^%d", text, v.Type().Bits())
		}
		v.SetUint(x)
	default:
		x, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number of %d bits", text, v.Type().Bits())
		}
		v.SetInt(x)
	}
	return nil
}

func (s *Setting) setList(items []string) {
	if s.optional() {
		_ = s.fill(func(t *Setting) error { t.setList(items); return nil })
		return
	}
	list := reflect.MakeSlice(s.value.Type(), 0, len(items))
	for _, it := range items {
		list = reflect.Append(list, reflect.ValueOf(it).Convert(s.value.Type().Elem()))
	}
	s.value.Set(list)
}

func (s *Setting) list() []string {
	if s.optional() {
		return s.target().list()
	}
	items := make([]string, s.value.Len())
	for i := range items {
		items[i] = s.value.Index(i).String()
	}
	return items
}

func splitList(text string) []string {
	var items []string
	for it := range strings.SplitSeq(text, ",") {
		if it = strings.TrimSpace(it); it != "" {
			items = append(items, it)
		}
	}
	return items
}

// text is the inverse of set.
func (s *Setting) text() string {
	if s.missing() {
		return ""
	}
	if s.optional() {
		return s.target().text()
	}
	v := s.value
	switch t := v.Addr().Interface().(type) {
	case encoding.TextMarshaler:
		if b, err := t.MarshalText(); err == nil {
			return string(b)
		}
	case fmt.Stringer:
		if isText(v) {
			return t.String()
		}
	}
	if v.Type() == durationType {
		return FormatDuration(time.Duration(v.Int()))
	}
	switch v.Kind() {
	case reflect.String:
		return v.String()
	case reflect.Slice:
		return strings.Join(s.list(), ",")
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		return strconv.FormatUint(v.Uint(), 10)
	}
	return strconv.FormatInt(v.Int(), 10)
}

// Value returns the setting's present value as text, or Masked.
func (s *Setting) Value() string {
	t := s.text()
	if s.Secret && t != "" {
		return Masked
	}
	return t
}

// ParseDuration is time.ParseDuration that also knows d (24 hours) and w.
func ParseDuration(text string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration like 30s, 5m, 1h30m or 7d", text)
	rest, neg := strings.CutPrefix(text, "-")
	var total time.Duration
	for {
		i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if i <= 0 || rest[i] != 'd' && rest[i] != 'w' {
			break
		}
		n, err := strconv.ParseInt(rest[:i], 10, 32)
		if err != nil {
			return 0, bad
		}
		unit := 24 * time.Hour
		if rest[i] == 'w' {
			unit *= 7
		}
		if n > int64(1<<63-1-total)/int64(unit) {
			return 0, bad
		}
		total += time.Duration(n) * unit
		if rest = rest[i+1:]; rest == "" {
			break
		}
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 || d > 1<<63-1-total {
			return 0, bad
		}
		total += d
	} else if text == "" || text == "-" {
		return 0, bad
	}
	if neg {
		total = -total
	}
	return total, nil
}

// FormatDuration is the inverse of ParseDuration, without zero parts.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Has reports whether s is one of b's settings.
func (b *Binding) Has(s *Setting) bool { return b.byName[s.Name] == s }
