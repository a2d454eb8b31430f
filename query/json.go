package query

import (
	"io"
	"math"
	"slices"
	"sort"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/loki-go/loki-go/internal/labels"
)

// flushAt is how many bytes of an answer are collected before they are sent.
const flushAt = 64 << 10

// jsonWriter appends JSON to a buffer and sends it in large pieces.
type jsonWriter struct {
	w   io.Writer
	buf []byte
	err error // the first error of w; nothing is sent after it
}

func (j *jsonWriter) raw(s string) { j.buf = append(j.buf, s...) }

func (j *jsonWriter) flush() {
	if j.err == nil {
		_, j.err = j.w.Write(j.buf)
	}
	j.buf = j.buf[:0]
}

// flushIfFull sends what there is, if it is enough.
func (j *jsonWriter) flushIfFull() {
	if len(j.buf) >= flushAt {
		j.flush()
	}
}

const hexDigits = "0123456789abcdef"

// appendJSON appends s as a JSON string. Bytes that are not UTF-8 become
// U+FFFD. With html, <, > and & and the line separators of JavaScript are
// escaped too: Loki writes log lines so, but labels not.
func appendJSON[T string | []byte](dst []byte, s T, html bool) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && !(html && (c == '<' || c == '>' || c == '&')) {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			dst = appendEscape(dst, c)
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\ufffd`...)
			start = i + n
		case html && (r == '\u2028' || r == '\u2029'):
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\u202`...)
			dst = append(dst, hexDigits[r&0xf])
			start = i + n
		}
		i += n
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

func (j *jsonWriter) labels(ls labels.Labels) {
	j.buf = append(j.buf, '{')
	for i, l := range ls {
		if i > 0 {
			j.buf = append(j.buf, ',')
		}
		j.buf = appendJSON(j.buf, l.Name, false)
		j.buf = append(j.buf, ':')
		j.buf = appendJSON(j.buf, l.Value, false)
	}
	j.buf = append(j.buf, '}')
}

// shown is a stream of an answer.
type shown struct {
	labels  labels.Labels
	text    string
	entries []int // in Result.Entries
}

// streams writes the answer to a log query. With categorize, streams are those
// of the index and every entry has beside it what comes from its metadata and
// from parsers; without, all of that counts as labels, and a stream is shown as
// one for each set of them.
func (j *jsonWriter) streams(r *Result, categorize bool) {
	j.raw(`{"status":"success","data":{"resultType":"streams",`)
	if categorize {
		j.raw(`"encodingFlags":["categorize-labels"],`)
	}
	j.raw(`"result":[`)
	j.streamList(r, categorize, j.flushIfFull)
	j.raw(`],"stats":`)
	j.stats(&r.Stats)
	j.raw("}}\n")
}

// streamList writes the entries by streams. Full is called after each.
func (j *jsonWriter) streamList(r *Result, categorize bool, full func()) {
	for i, s := range group(r, categorize) {
		if i > 0 {
			j.raw(",")
		}
		j.raw(`{"stream":`)
		j.labels(s.labels)
		j.raw(`,"values":[`)
		for k, n := range s.entries {
			if k > 0 {
				j.raw(",")
			}
			e := &r.Entries[n]
			j.raw(`["`)
			j.buf = strconv.AppendInt(j.buf, e.TS, 10)
			j.raw(`",`)
			j.buf = appendJSON(j.buf, e.Line, true)
			if categorize {
				j.categories(&r.Labels[e.Labels])
			}
			j.raw("]")
			full()
		}
		j.raw("]}")
	}
}

// categories writes the third element of a categorised value.
func (j *jsonWriter) categories(l *EntryLabels) {
	j.raw(",{")
	if len(l.Meta) > 0 {
		j.raw(`"structuredMetadata":`)
		j.labels(l.Meta)
	}
	if len(l.Parsed) > 0 {
		if len(l.Meta) > 0 {
			j.raw(",")
		}
		j.raw(`"parsed":`)
		j.labels(l.Parsed)
	}
	j.raw("}")
}

// group sorts the entries into the streams that are shown, ordered by text.
// Within a stream they keep their order.
func group(r *Result, categorize bool) []*shown {
	var out []*shown
	byText := map[string]*shown{}
	sets := make([]*shown, len(r.Labels))
	for i := range r.Labels {
		l := &r.Labels[i]
		ls := l.Stream
		if !categorize && len(l.Meta)+len(l.Parsed) > 0 {
			ls = slices.Concat(ls, l.Meta, l.Parsed)
			ls.Sort()
		}
		text := ls.String()
		s := byText[text]
		if s == nil {
			s = &shown{labels: ls, text: text}
			out, byText[text] = append(out, s), s
		}
		sets[i] = s
	}
	for i := range r.Entries {
		s := sets[r.Entries[i].Labels]
		s.entries = append(s.entries, i)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].text < out[j].text })
	return out
}

// scalar writes a number at a time.
func (j *jsonWriter) scalar(v float64, ts int64) {
	j.raw(`{"status":"success","data":{"resultType":"scalar","result":`)
	j.sample(ts/1e6, v)
	j.raw(`,"stats":`)
	j.stats(&Stats{})
	j.raw("}}\n")
}

// vector writes the values of a metric query at one time.
func (j *jsonWriter) vector(r *MetricResult) {
	j.raw(`{"status":"success","data":{"resultType":"vector","result":[`)
	sep := `{"metric":`
	for _, s := range r.Series {
		for _, p := range s.Points {
			j.raw(sep)
			j.labels(s.Labels)
			j.raw(`,"value":`)
			j.sample(p.MS, p.Value)
			j.raw("}")
			j.flushIfFull()
			sep = `,{"metric":`
		}
	}
	j.raw(`],"stats":`)
	j.stats(&r.Stats)
	j.raw("}}\n")
}

// matrix writes the values of a metric query over a range.
func (j *jsonWriter) matrix(r *MetricResult) {
	j.raw(`{"status":"success","data":{"resultType":"matrix","result":[`)
	for i, s := range r.Series {
		if i > 0 {
			j.raw(",")
		}
		j.raw(`{"metric":`)
		j.labels(s.Labels)
		j.raw(`,"values":[`)
		for k, p := range s.Points {
			if k > 0 {
				j.raw(",")
			}
			j.sample(p.MS, p.Value)
			j.flushIfFull()
		}
		j.raw("]}")
	}
	j.raw(`],"stats":`)
	j.stats(&r.Stats)
	j.raw("}}\n")
}

func align(start, end, step int64) (int64, int64) {
	floorMod := func(n int64) int64 { return (n%step + step) % step }
	if s := start - floorMod(start); s <= start {
		start = s
	}
	if m := floorMod(end); m > 0 && end <= math.MaxInt64-step {
		end += step - m
	}
	return start, end
}

// sample writes a time, which is given in ms, in seconds, and a value.
func (j *jsonWriter) sample(ms int64, v float64) {
	j.raw("[")
	j.buf = strconv.AppendFloat(j.buf, float64(ms)/1000, 'f', -1, 64)
	j.raw(`,"`)
	j.buf = strconv.AppendFloat(j.buf, v, 'f', -1, 64)
	j.raw(`"]`)
}

// strings writes the answer of the label endpoints. Loki leaves data out when
// there is none.
func (j *jsonWriter) strings(list []string) {
	j.raw(`{"status":"success"`)
	for i, s := range list {
		if i == 0 {
			j.raw(`,"data":[`)
		} else {
			j.raw(",")
		}
		j.buf = appendJSON(j.buf, s, false)
		j.flushIfFull()
	}
	if len(list) > 0 {
		j.raw("]")
	}
	j.raw("}\n")
}

func (j *jsonWriter) series(sets []labels.Labels) {
	j.raw(`{"status":"success","data":[`)
	for i, ls := range sets {
		if i > 0 {
			j.raw(",")
		}
		j.labels(ls)
		j.flushIfFull()
	}
	j.raw("]}\n")
}

// field writes one number of the statistics, with a comma in front of all but
// the first of an object.
func (j *jsonWriter) field(name string, v int64) {
	if j.buf[len(j.buf)-1] != '{' {
		j.raw(",")
	}
	j.raw(`"`)
	j.raw(name)
	j.raw(`":`)
	j.buf = strconv.AppendInt(j.buf, v, 10)
}

func (j *jsonWriter) fields(names ...string) {
	for _, n := range names {
		j.field(n, 0)
	}
}

func (j *jsonWriter) seconds(name string, d time.Duration) {
	j.raw(`,"` + name + `":`)
	j.buf = strconv.AppendFloat(j.buf, d.Seconds(), 'f', -1, 64)
}

// stats writes Loki's statistics, all but those of its column store. A block counts as a chunk there, and lines
// in memory as lines of head chunks.
func (j *jsonWriter) stats(s *Stats) {
	bytes, lines := s.Memory.Bytes+s.Store.Bytes, s.Memory.Lines+s.Store.Lines
	perSecond := func(n int64) int64 {
		if s.Exec <= 0 {
			return 0
		}
		return int64(float64(n) / s.Exec.Seconds())
	}
	j.raw(`{"summary":{`)
	j.field("bytesProcessedPerSecond", perSecond(bytes))
	j.field("linesProcessedPerSecond", perSecond(lines))
	j.field("totalBytesProcessed", bytes)
	j.field("totalLinesProcessed", lines)
	j.seconds("execTime", s.Exec)
	j.seconds("queueTime", s.Queue)
	j.fields("subqueries")
	j.field("totalEntriesReturned", int64(s.Entries))
	j.fields("splits", "shards")
	j.field("totalPostFilterLines", s.Memory.Kept+s.Store.Kept)
	j.field("totalStructuredMetadataBytesProcessed", s.Memory.MetaBytes+s.Store.MetaBytes)
	j.raw(`},"querier":{"store":`)
	j.storeStats(&s.Store, false)
	j.seconds("querierExecTime", s.Exec)
	j.raw(`},"ingester":{`)
	reached := int64(0)
	if s.Memory.Asked {
		reached = 1
	}
	j.field("totalReached", reached)
	j.field("totalChunksMatched", int64(s.Memory.Blocks))
	j.field("totalBatches", reached)
	j.field("totalLinesSent", s.Memory.Kept)
	j.fields("recvWaitTime")
	j.raw(`,"store":`)
	j.storeStats(&s.Memory, true)
	j.raw(`},"cache":{`)
	for i, name := range []string{"chunk", "index", "result", "statsResult", "volumeResult", "seriesResult", "labelResult", "instantMetricResult"} {
		if i > 0 {
			j.raw(",")
		}
		j.raw(`"` + name + `":{`)
		j.fields("entriesFound", "entriesRequested", "entriesStored", "bytesReceived", "bytesSent", "requests", "downloadTime", "queryLengthServed")
		j.raw("}")
	}
	j.raw(`},"index":{`)
	j.fields("totalChunks", "postFilterChunks", "shardsDuration")
	j.raw(`,"usedBloomFilters":false`)
	j.fields("totalStreams", "chunkRefsLookupTime", "bloomFilterTime")
	j.raw(`}}`)
}

func (j *jsonWriter) storeStats(s *SourceStats, head bool) {
	j.raw("{")
	j.field("totalChunksRef", int64(s.Blocks))
	j.field("totalChunksDownloaded", int64(s.BlocksLoaded))
	j.field("chunksDownloadTime", int64(s.Load))
	j.raw(`,"queryReferencedStructuredMetadata":false,"queryUsedV2Engine":false,"chunk":{`)
	h, d := SourceStats{}, *s
	if head {
		h, d = d, h
	}
	j.field("headChunkBytes", h.Bytes)
	j.field("headChunkLines", h.Lines)
	j.field("decompressedBytes", d.Bytes)
	j.field("decompressedLines", d.Lines)
	j.field("compressedBytes", 0)
	j.field("totalDuplicates", s.Duplicates)
	j.field("postFilterLines", s.Kept)
	j.field("headChunkStructuredMetadataBytes", h.MetaBytes)
	j.field("decompressedStructuredMetadataBytes", d.MetaBytes)
	j.raw("}")
	j.field("chunkRefsFetchTime", int64(s.Select))
	j.fields("congestionControlLatency", "pipelineWrapperFilteredLines")
	j.raw("}")
}
