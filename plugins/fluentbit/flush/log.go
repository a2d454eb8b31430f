package flush

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/loki-go/loki-go/proto/push"
)

// refusal writes a line about what is refused for good. Those are limited:
// Fluent Bit may well be collecting its own log.
func (o *Output) refusal(msg string, args ...any) { o.refusals.Log(slog.LevelError, msg, args...) }

// logRejected writes a line for each reason, and one for each entry that was
// refused.
func (f *flush) logRejected(b *push.Batch, r *push.Rejected) {
	for _, g := range r.Groups {
		f.o.refusal("entries refused for good; the server keeps them as dead letters unless those are off", "tag", f.tag, "tenant", b.Tenant,
			"reason", g.Reason.String(), "entries", g.Count, "of", r.Total, "stream", g.Stream, "first", g.First)
	}
	for i := range b.Streams {
		s := &b.Streams[i]
		for j := range b.StreamEntries(s) {
			e := &b.StreamEntries(s)[j]
			reason := max(s.Reject, e.Reject)
			if reason == push.OK {
				continue
			}
			f.o.refusal("entry refused for good", "tag", f.tag, "tenant", b.Tenant, "reason", reason.String(),
				"stream", clip(b.Bytes(s.RawLabels)), "time", time.Unix(0, e.TS).UTC().Format(time.RFC3339Nano), "bytes", e.Line.Len)
		}
	}
}

// maxStreamText bounds what a line has of a stream's labels.
const maxStreamText = 500

func clip(p []byte) string {
	if len(p) > maxStreamText {
		return fmt.Sprintf("%s...", p[:maxStreamText])
	}
	return string(p)
}
