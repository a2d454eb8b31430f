package mapping

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ref names where a value comes from: a field of the record, or the tag.
type ref struct {
	path string // of the field, keys joined by dots
	tag  bool   // the tag instead
	part int    // the tag's part by number, from its end if negative
	cut  bool   // the part, not the whole tag
}

// keyed is a ref with the name that its value gets; "": one made of the path.
type keyed struct {
	name string
	ref
}

func (r ref) String() string {
	switch {
	case r.cut:
		return fmt.Sprintf("$TAG[%d]", r.part)
	case r.tag:
		return "$TAG"
	}
	return r.path
}

// parseRef reads a path in one of the forms that the package comment lists.
func parseRef(s string) (ref, error) {
	text, dollar := strings.CutPrefix(s, "$")
	if !dollar {
		return checkRef(ref{path: s})
	}
	if text == "TAG" {
		return ref{tag: true}, nil
	}
	if part, ok := strings.CutPrefix(text, "TAG["); ok {
		n, err := strconv.ParseInt(strings.TrimSuffix(part, "]"), 10, 16)
		if err != nil || !strings.HasSuffix(part, "]") {
			return ref{}, fmt.Errorf("path %q: want $TAG or the number of a part of the tag, as $TAG[0]", clip(s))
		}
		return ref{tag: true, cut: true, part: int(n)}, nil
	}
	keys, err := accessor(text)
	if err != nil {
		return ref{}, fmt.Errorf("path %q: %w", clip(s), err)
	}
	return checkRef(ref{path: strings.Join(keys, ".")})
}

func checkRef(r ref) (ref, error) {
	if r.path == "" {
		return ref{}, errors.New("empty path")
	}
	if len(r.path) > maxPath {
		return ref{}, fmt.Errorf("path %q is longer than %d bytes", clip(r.path), maxPath)
	}
	return r, nil
}

// accessor reads what stands behind the dollar sign: a key and any number of
// keys in brackets and quotes; a quote in a key is doubled.
func accessor(s string) ([]string, error) {
	var keys []string
	s = strings.TrimPrefix(s, ".")
	first, rest := s, ""
	if i := strings.IndexByte(s, '['); i >= 0 {
		first, rest = s[:i], s[i:]
	}
	if first != "" {
		keys = append(keys, first)
	}
	for rest != "" {
		if len(rest) < 2 || rest[0] != '[' {
			return nil, fmt.Errorf("expected ['key'], found %q", clip(rest))
		}
		quote := rest[1]
		if quote >= '0' && quote <= '9' {
			return nil, errors.New("elements of arrays cannot be named, only keys: ['key']")
		}
		if quote != '\'' && quote != '"' {
			return nil, fmt.Errorf("expected a key in quotes, ['key'], found %q", clip(rest))
		}
		key, n := quoted(rest[2:], quote)
		if n < 0 || 2+n >= len(rest) || rest[2+n] != ']' {
			return nil, errors.New("a bracket or quote is not closed")
		}
		keys = append(keys, key)
		rest = rest[3+n:]
	}
	if len(keys) == 0 {
		return nil, errors.New("no key behind $")
	}
	return keys, nil
}

// quoted reads up to the closing quote; n is the index behind it, or -1.
func quoted(s string, quote byte) (text string, n int) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == quote {
			if i+1 == len(s) || s[i+1] != quote {
				return b.String(), i + 1
			}
			i++
		}
		b.WriteByte(s[i])
	}
	return "", -1
}

// parseKeyed reads a path, or name=$path.
func parseKeyed(s string) (keyed, error) {
	name := ""
	if i := strings.Index(s, "=$"); i > 0 && s[0] != '$' {
		name, s = strings.TrimSpace(s[:i]), s[i+1:]
	}
	r, err := parseRef(s)
	return keyed{name, r}, err
}

// clip keeps texts in errors short.
func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

// tagText returns what r means of a tag; nil if there is no such part.
func (r *ref) tagText(tag []byte) []byte {
	if !r.cut {
		return tag
	}
	n := r.part
	if n < 0 {
		n += bytes.Count(tag, dot) + 1
	}
	if n < 0 {
		return nil
	}
	for ; n > 0; n-- {
		i := bytes.IndexByte(tag, '.')
		if i < 0 {
			return nil
		}
		tag = tag[i+1:]
	}
	if i := bytes.IndexByte(tag, '.'); i >= 0 {
		tag = tag[:i]
	}
	return tag
}

var dot = []byte{'.'}
