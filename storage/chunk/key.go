package chunk

import (
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
)

// Meta is what a chunk object says of itself.
type Meta struct {
	Tenant        string
	Labels        labels.Labels // without __name__
	Fingerprint   uint64
	From, Through int64 // ms
}

// NewMeta returns the metadata of a stream's chunk that holds entries from
// first to last (ns). Labels must be in normal form.
func NewMeta(tenant string, ls labels.Labels, first, last int64) Meta {
	from, through := Bounds(first, last)
	return Meta{Tenant: tenant, Labels: ls, Fingerprint: ls.Fingerprint(), From: from, Through: through}
}

// Bounds returns the bounds in ms of entries from first to last (ns). Through
// is behind the last entry in any case: a reader that looks for what begins
// exactly there would otherwise leave the chunk out.
func Bounds(first, last int64) (from, through int64) {
	return floorDiv(first, 1e6), floorDiv(last, 1e6) + 1
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// KB returns the size of a chunk as an index states it: bytes of all blocks
// (Block.Size) and symbols, in KiB, rounded half up.
func KB(symbolBytes int, blocks []Block) uint32 {
	n := symbolBytes
	for i := range blocks {
		n += blocks[i].Size
	}
	return uint32((n + 512) / 1024)
}

// Key names a chunk object.
type Key struct {
	Tenant        string
	Fingerprint   uint64
	From, Through int64 // ms
	Checksum      uint32
}

// KeyOf returns the key of an object with this metadata.
func KeyOf(object []byte, m Meta) Key {
	return Key{m.Tenant, m.Fingerprint, m.From, m.Through, Checksum(object)}
}

// Checksum returns the CRC-32C of a whole object.
func Checksum(object []byte) uint32 { return crc32.Checksum(object, castagnoli) }

// String returns the logical key, under which S3 and its likes store the
// object: tenant/fingerprint/from:through:checksum, numbers in hexadecimal.
func (k Key) String() string {
	b := append(k.appendDir(nil), '/')
	return string(k.appendBase(b))
}

// FileKey returns the key that Loki's filesystem client uses: the last part of
// the logical key is in base64, since not every file system takes colons.
func (k Key) FileKey() string {
	b := append(k.appendDir(nil), '/')
	return string(base64.StdEncoding.AppendEncode(b, k.appendBase(nil)))
}

func (k Key) appendDir(b []byte) []byte {
	b = append(b, k.Tenant...)
	return strconv.AppendUint(append(b, '/'), k.Fingerprint, 16)
}

func (k Key) appendBase(b []byte) []byte {
	b = strconv.AppendInt(b, k.From, 16)
	b = strconv.AppendInt(append(b, ':'), k.Through, 16)
	return strconv.AppendUint(append(b, ':'), uint64(k.Checksum), 16)
}

// ParseKey reads what Key.String wrote.
func ParseKey(s string) (Key, error) { return parseKey(s, s, false) }

// ParseFileKey reads what Key.FileKey wrote.
func ParseFileKey(s string) (Key, error) { return parseKey(s, s, true) }

func parseKey(s, whole string, file bool) (k Key, err error) {
	fail := func() (Key, error) { return Key{}, fmt.Errorf("chunk key %q: malformed", whole) }
	parts := strings.Split(s, "/")
	if len(parts) != 3 || parts[0] == "" {
		return fail()
	}
	base := parts[2]
	if file {
		b, err := base64.StdEncoding.Strict().DecodeString(base)
		if err != nil {
			return fail()
		}
		base = string(b)
	}
	nums := strings.Split(base, ":")
	if len(nums) != 3 {
		return fail()
	}
	k.Tenant = parts[0]
	k.Fingerprint, err = strconv.ParseUint(parts[1], 16, 64)
	if err == nil {
		k.From, err = strconv.ParseInt(nums[0], 16, 64)
	}
	if err == nil {
		k.Through, err = strconv.ParseInt(nums[1], 16, 64)
	}
	if err == nil {
		var sum uint64
		sum, err = strconv.ParseUint(nums[2], 16, 32)
		k.Checksum = uint32(sum)
	}
	// Two texts of one key would be two objects.
	if err != nil || !file && k.String() != whole || file && k.FileKey() != whole {
		return fail()
	}
	return k, nil
}
