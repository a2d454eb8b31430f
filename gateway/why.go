package gateway

import (
	"fmt"
	"time"

	"github.com/loki-go/loki-go/proto/push"
)

// why says in Loki's words why entry e of s was refused.
func (c *check) why(r push.Reason, s *push.Stream, e *push.Entry) string {
	switch r {
	case push.TooOld:
		return fmt.Sprintf("entry for stream '%s' has timestamp too old: %v, oldest acceptable timestamp is: %v",
			s.Labels, rfc3339(e.TS), rfc3339(c.oldest))
	case push.TooNew:
		return fmt.Sprintf("entry for stream '%s' has timestamp too new: %v", s.Labels, rfc3339(e.TS))
	case push.LineTooLong:
		return fmt.Sprintf("max entry size '%d' bytes exceeded for stream '%s' while adding an entry with length '%d' bytes",
			c.maxLine, s.Labels, e.Line.Len)
	case push.MetadataDisallowed:
		return fmt.Sprintf("stream '%s' includes structured metadata, but this feature is disallowed. Please see `limits_config.allow_structured_metadata` or contact your Loki administrator to enable it.",
			s.Labels)
	case push.MetadataTooLarge:
		_, meta := metaSize(c.b.Bytes(e.Meta))
		return fmt.Sprintf("stream '%s' has structured metadata too large: '%d' bytes, limit: '%d' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it.",
			s.Labels, meta, int64(c.lim.MaxStructuredMetadataSize))
	case push.MetadataTooMany:
		pairs, _ := metaSize(c.b.Bytes(e.Meta))
		return fmt.Sprintf("stream '%s' has too many structured metadata labels: '%d', limit: '%d'. Please see `limits_config.max_structured_metadata_entries_count` or contact your Loki administrator to increase it.",
			s.Labels, pairs, c.lim.MaxStructuredMetadataEntriesCount)
	}
	// An ingester's refusal, or a receiver's.
	return fmt.Sprintf("entry for stream '%s' with timestamp %v refused: %s", s.Labels, rfc3339(e.TS), r)
}

// whyStream says why all of s was refused.
func (c *check) whyStream(s *push.Stream) string {
	info, _ := c.g.labels.lookup(c.tn, c.lim, c.b.Bytes(s.RawLabels))
	if info.reject == s.Reject {
		return info.text
	}
	return fmt.Sprintf("stream '%s' refused: %s", clip(info.raw), s.Reject)
}

func rfc3339(ts int64) string { return time.Unix(0, ts).UTC().Format(time.RFC3339) }
