// Package objstore stores objects, immutable byte strings with a name, in a
// file system or, later, in the services made for it.
//
// A key is a path of non-empty parts separated by "/". All implementations
// pass objstoretest.AcceptanceTest, are safe for concurrent use, and keep what
// Put returned for.
package objstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Bucket is a store of objects.
type Bucket interface {
	// Put stores body under key, replacing what is there. When it returns nil
	// the object is durable. Others see the old state or the new one, never
	// a part. After an error either may be there.
	Put(ctx context.Context, key string, body []byte) error
	// Get returns the whole object, which the caller owns.
	Get(ctx context.Context, key string) ([]byte, error)
	// Stat returns size and age of an object.
	Stat(ctx context.Context, key string) (Info, error)
	// List returns the keys that begin with prefix, sorted. If not recursive,
	// keys are cut behind the first "/" after the prefix, so that each folder
	// is returned once, with the "/" at its end.
	List(ctx context.Context, prefix string, recursive bool) ([]string, error)
	// Delete removes an object; one that does not exist is no error.
	Delete(ctx context.Context, key string) error
}

// Info describes an object.
type Info struct {
	Size int64
	// Modified is when the object was put, by the store's clock; zero if the
	// store does not say.
	Modified time.Time
}

// ErrNotFound says that there is no object with this key.
var ErrNotFound = errors.New("object not found")

// IsNotFound reports whether err says that an object does not exist.
func IsNotFound(err error) bool { return errors.Is(err, ErrNotFound) }

// maxKey is the limit of S3.
const maxKey = 1024

// CheckKey returns an error unless key is one that every store takes, and that
// a file system cannot take for something outside of its root.
func CheckKey(key string) error {
	fail := func(why string) error { return fmt.Errorf("objstore: key %q %s", key, why) }
	if key == "" || len(key) > maxKey {
		return fail(fmt.Sprintf("is not 1 to %d bytes long", maxKey))
	}
	for i := 0; i < len(key); i++ {
		if c := key[i]; c < 0x20 || c == 0x7f || c == '\\' {
			return fail("has a control character or a backslash")
		}
	}
	for part := range strings.SplitSeq(key, "/") {
		switch part {
		case "", ".", "..":
			return fail("has an empty part, or one that is . or ..")
		}
	}
	return nil
}

// CheckPrefix is CheckKey for a prefix, which may be empty or end in the middle
// of a part.
func CheckPrefix(prefix string) error {
	dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if dir == "" && !strings.ContainsAny(prefix, "\\\x00") {
		return nil
	}
	return CheckKey(dir + "x" + prefix[len(dir):])
}
