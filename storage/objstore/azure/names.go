package azure

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/loki-go/loki-go/storage/objstore"
)

// Loki's client for Azure does not use colons in names of blobs: it writes a
// chunk tenant/fingerprint/from:through:checksum with storage.azure.chunk-delimiter
// in their place. names does the same for keys of this form and for no others,
// so that List can tell a chunk from what merely looks similar.
type names struct{ delimiter string }

// blob returns the name of the blob that holds key.
func (n names) blob(key string) (string, error) {
	if err := objstore.CheckKey(key); err != nil {
		return "", err
	}
	if !utf8.ValidString(key) {
		return "", fmt.Errorf("objstore: key %q is not UTF-8", key)
	}
	for part := range strings.SplitSeq(key, "/") {
		// The service may drop the dots, and two keys would be one blob.
		if strings.HasSuffix(part, ".") {
			return "", fmt.Errorf("objstore: key %q: no part of a blob's name may end with a dot", key)
		}
	}
	if n.delimiter == ":" {
		return key, nil
	}
	dir, base, ok := chunk(key, ":")
	if ok {
		return dir + strings.ReplaceAll(base, ":", n.delimiter), nil
	}
	if _, _, ok := chunk(key, n.delimiter); ok {
		return "", fmt.Errorf("objstore: key %q is the name of a chunk's blob", key)
	}
	return key, nil
}

// key returns the key of a blob.
func (n names) key(blob string) string {
	if dir, base, ok := chunk(blob, n.delimiter); ok {
		return dir + strings.ReplaceAll(base, n.delimiter, ":")
	}
	return blob
}

// prefix returns a prefix that the blobs of all keys that begin with p have, and
// maybe others.
func (n names) prefix(p string) string {
	if n.delimiter == ":" {
		return p
	}
	// A colon that is the delimiter of a chunk, or not: what is before it is
	// common to both.
	if i := strings.IndexByte(p[strings.LastIndexByte(p, '/')+1:], ':'); i >= 0 {
		return p[:strings.LastIndexByte(p, '/')+1+i]
	}
	return p
}

// chunk splits the name of a chunk with this delimiter in front of its last
// part: dir/hex/ and hex:hex:hex.
func chunk(name, delimiter string) (dir, base string, ok bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", "", false
	}
	dir, base = name[:i+1], name[i+1:]
	parent := name[strings.LastIndexByte(name[:i], '/')+1 : i]
	if len(parent) == i || !hex(parent) {
		return "", "", false // no tenant before the fingerprint, or none
	}
	parts := 0
	for part := range strings.SplitSeq(base, delimiter) {
		if parts++; !hex(part) {
			return "", "", false
		}
	}
	return dir, base, parts == 3
}

// hex reports whether s is a number as strconv writes it, 16 digits at most.
func hex(s string) bool {
	if s == "" || len(s) > 16 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
