package gateway

import (
	"strconv"
	"strings"
	"time"

	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/proto/push"
)

// Bounds of what a dead letter says besides its line.
const (
	deadWhySize    = 1 << 10
	deadStreamSize = 4 << 10
	deadMetaSize   = 64 * units.KiB // names and values of all metadata
	deadMetaPairs  = 128
)

// letter is a dead letter in the making.
type letter struct {
	reason   push.Reason
	why      string
	stream   string // labels; empty: there are none
	receiver string
	ts       int64 // the original's, if timed
	timed    bool
	line     []byte
	size     int    // of the original line
	meta     []byte // the original's; see push.PairsOf
}

// cut makes the line as long as it may be.
func (d *letter) cut(cfg *DeadLetters, lim *limits.Limits) {
	n := int(cfg.MaxLineSize)
	if lim.MaxLineSize > 0 {
		n = int(min(cfg.MaxLineSize, lim.MaxLineSize))
	}
	if len(d.line) > n {
		d.line = d.line[:cutAt(d.line, n)]
	}
}

// pairs gives bl the metadata of the letter: what there is to say of the
// original, then the original's own as far as it fits. It returns the bytes of
// names and values.
func (d *letter) pairs(bl *push.Builder, lim *limits.Limits) int {
	size, count := 0, 0
	own := func(name, value string) {
		name = "dead_letter_" + name
		bl.Pair([]byte(name), []byte(value))
		size += len(name) + len(value)
		count++
	}
	own("error", short(d.why, deadWhySize))
	own("receiver", short(d.receiver, deadWhySize))
	if d.stream != "" {
		own("stream", short(d.stream, deadStreamSize))
	}
	if d.timed {
		own("time", time.Unix(0, d.ts).UTC().Format(time.RFC3339Nano))
	}
	if d.size > len(d.line) {
		own("size", strconv.Itoa(d.size))
	}
	most, mostPairs := int(deadMetaSize), deadMetaPairs
	if lim.MaxStructuredMetadataSize > 0 {
		most = int(min(deadMetaSize, lim.MaxStructuredMetadataSize))
	}
	if lim.MaxStructuredMetadataEntriesCount > 0 {
		mostPairs = min(mostPairs, lim.MaxStructuredMetadataEntriesCount)
	}
	const reserve = 64 // for the pair that counts those that are left out
	left := 0
	for it := push.PairsOf(d.meta); it.Next(); {
		n := len(it.Name) + len(it.Value)
		if count+1 >= mostPairs || size+n+reserve > most {
			left++
			continue
		}
		bl.Pair(it.Name, it.Value)
		size += n
		count++
	}
	if left > 0 {
		own("metadata_left_out", strconv.Itoa(left))
	}
	return size
}

// short returns s as valid UTF-8 that has not much more than n bytes.
func short(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
