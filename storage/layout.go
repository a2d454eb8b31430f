package storage

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/loki-go/loki-go/storage/index"
)

// What follows says where things are to those that look after a bucket.

// compactorPart is the second part of the name of a tenant's file.
const compactorPart = "compactor-"

const (
	// TablesPrefix is what the keys of all index files begin with.
	TablesPrefix = indexDir + tablePrefix
	// TenantLabel is the label that names the tenant in files of many tenants.
	TenantLabel = tenantLabel
	// DayMillis is the length of a table in ms.
	DayMillis = dayMillis
)

// TableDir returns the folder of a day's table, with a "/" at its end.
func TableDir(day int64) string { return tableDir(day) }

// ParseTableDir is the inverse of TableDir.
func ParseTableDir(dir string) (day int64, ok bool) { return parseTableDir(dir) }

// TableOf returns the day whose table has what happened at ms.
func TableOf(ms int64) int64 { return floorDiv(ms, dayMillis) }

// TenantIndexKey names an index file of one tenant. The number must be used
// once only.
func TenantIndexKey(day int64, tenant string, number int64, info index.Info) string {
	return tenantIndexKey(day, tenant, number, info)
}

// IndexFile is what the key of an index file says.
type IndexFile struct {
	Key    string
	Day    int64
	Tenant string // "" if the file is of many tenants
	// Number is what the name begins with: seconds in files of many tenants,
	// nanoseconds or seconds in others.
	Number int64
}

// ParseIndexKey reads the key of an index file.
func ParseIndexKey(key string) (IndexFile, error) {
	fail := func() (IndexFile, error) { return IndexFile{}, fmt.Errorf("storage: %q is no index file", key) }
	f := IndexFile{Key: key}
	i := strings.IndexByte(strings.TrimPrefix(key, indexDir), '/')
	if !strings.HasPrefix(key, indexDir) || i < 0 || !isIndexFile(key) {
		return fail()
	}
	dir, name := key[:len(indexDir)+i+1], key[len(indexDir)+i+1:]
	var ok bool
	if f.Day, ok = parseTableDir(dir); !ok {
		return fail()
	}
	if tenant, rest, ok := strings.Cut(name, "/"); ok {
		if checkTenant(tenant) != nil || strings.Contains(rest, "/") {
			return fail()
		}
		f.Tenant, name = tenant, rest
	}
	number, rest, ok := strings.Cut(name, "-")
	var err error
	if f.Number, err = strconv.ParseInt(number, 10, 64); err != nil || !ok || f.Number < 0 {
		return fail()
	}
	if f.Tenant != "" && !strings.HasPrefix(rest, compactorPart) {
		return fail()
	}
	return f, nil
}

// ParseIndexInfo returns what the key of a tenant's index file says of the
// file, false if it does not.
func ParseIndexInfo(key string) (index.Info, bool) {
	from, through, ok := tenantFileBounds(key)
	name := strings.TrimSuffix(strings.TrimSuffix(key, gzipSuffix), plainSuffix)
	sum, err := strconv.ParseUint(name[strings.LastIndexByte(name, '-')+1:], 16, 32)
	return index.Info{From: from, Through: through, Checksum: uint32(sum)}, ok && err == nil
}

// PackIndex makes the object of an index file.
func PackIndex(file []byte) ([]byte, error) {
	return PackIndexTo(make([]byte, 0, len(file)/3+1024), func(w io.Writer) error {
		_, err := w.Write(file)
		return err
	})
}

// UnpackIndex opens the object under the key of an index file. The reader may
// refer to it.
func UnpackIndex(key string, object []byte) (*index.Reader, error) {
	file, err := unpackIndex(nil, key, object)
	if err != nil {
		return nil, err
	}
	return index.NewReader(file)
}

// unpackIndex returns the index file in the object under key: in dst if that is
// large enough, else in memory of its own, or in object if that is the file.
func unpackIndex(dst []byte, key string, object []byte) ([]byte, error) {
	if !strings.HasSuffix(key, gzipSuffix) {
		return object, nil
	}
	file, err := decompress(dst, object)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return file, nil
}
