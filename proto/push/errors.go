package push

import (
	"fmt"
	"strings"
	"time"
)

// Reason says why entries were refused. String gives Loki's name where Loki
// has the reason; metrics, logs and answers all use it.
type Reason uint8

// Reasons. Those up to BlockedIngestion are permanent for the entry unless
// noted; the rest concern the moment and are worth a retry.
const (
	OK Reason = iota
	MissingLabels
	InvalidLabels
	MaxLabelNames
	LabelNameTooLong
	LabelValueTooLong
	DuplicateLabel
	LineTooLong
	TooOld
	TooNew
	OutOfOrder
	TooFarBehind
	MetadataTooLarge
	MetadataTooMany
	MetadataDisallowed
	BlockedIngestion
	Malformed
	BodyTooLarge
	NoTenant
	InvalidTenant
	NoStreams
	RateLimited
	StreamLimit
	StreamRateLimit
	Overloaded
	DiskLow
	Leaving
	Replaying
	NoQuorum
	Internal
	numReasons
)

var reasonNames = [numReasons]string{
	OK:                 "ok",
	MissingLabels:      "missing_labels",
	InvalidLabels:      "invalid_labels",
	MaxLabelNames:      "max_label_names_per_series",
	LabelNameTooLong:   "label_name_too_long",
	LabelValueTooLong:  "label_value_too_long",
	DuplicateLabel:     "duplicate_label_names",
	LineTooLong:        "line_too_long",
	TooOld:             "greater_than_max_sample_age",
	TooNew:             "too_far_in_future",
	OutOfOrder:         "out_of_order",
	TooFarBehind:       "too_far_behind",
	MetadataTooLarge:   "structured_metadata_too_large",
	MetadataTooMany:    "structured_metadata_too_many",
	MetadataDisallowed: "disallowed_structured_metadata",
	BlockedIngestion:   "blocked_ingestion",
	Malformed:          "malformed",
	BodyTooLarge:       "body_too_large",
	NoTenant:           "no_tenant",
	InvalidTenant:      "invalid_tenant",
	NoStreams:          "no_streams",
	RateLimited:        "rate_limited",
	StreamLimit:        "stream_limit",
	StreamRateLimit:    "per_stream_rate_limit",
	Overloaded:         "overloaded",
	DiskLow:            "disk_low",
	Leaving:            "leaving",
	Replaying:          "replaying",
	NoQuorum:           "no_quorum",
	Internal:           "internal",
}

func (r Reason) String() string {
	if r < numReasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// ReasonByName is the inverse of String; unknown names give Internal.
func ReasonByName(s string) Reason {
	for r, n := range reasonNames {
		if n == s {
			return Reason(r)
		}
	}
	return Internal
}

// Status returns the HTTP status code that Loki answers for r, or that suits a
// reason of ours: 4xx (but 429) means that sending the same again is useless.
func (r Reason) Status() int {
	switch r {
	case OK:
		return 204
	case NoTenant:
		return 401
	case BodyTooLarge:
		return 413
	case NoStreams:
		return 422
	case BlockedIngestion:
		return 260
	case RateLimited, StreamLimit, StreamRateLimit:
		return 429
	case Overloaded, DiskLow, Leaving, Replaying, NoQuorum:
		return 503
	case Internal:
		return 500
	}
	return 400
}

// Retryable reports whether the same entries may be accepted later.
func (r Reason) Retryable() bool { return r >= RateLimited }

// Error refuses a whole batch: none of it is known to be stored.
type Error struct {
	Reason     Reason
	Msg        string
	RetryAfter time.Duration // 0: unknown
}

func (e *Error) Error() string { return e.Msg }

// Errorf returns an Error.
func Errorf(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Msg: fmt.Sprintf(format, args...)}
}

// Rejected says that part of a batch was refused; all else in it is durable.
// The refused entries are marked in the batch (Stream.Reject, Entry.Reject).
type Rejected struct {
	Groups  []RejectGroup
	Entries int // number of refused entries
	Total   int // number of entries in the batch
}

// RejectGroup is a set of entries refused for one reason.
type RejectGroup struct {
	Reason   Reason
	Stream   string // label text of the first one's stream
	Count    int    // entries
	Bytes    int    // line and metadata bytes
	First    string // full text for the first one
	OldestOK int64  // with TooOld and TooFarBehind: oldest time accepted, ns; else 0
}

// Add counts one refusal of n entries; text is called for the first of a
// reason only. Groups are kept apart by reason.
func (r *Rejected) Add(reason Reason, stream string, n, bytes int, text func() string) {
	r.Entries += n
	for i := range r.Groups {
		if g := &r.Groups[i]; g.Reason == reason {
			g.Count += n
			g.Bytes += bytes
			return
		}
	}
	r.Groups = append(r.Groups, RejectGroup{Reason: reason, Stream: stream, Count: n, Bytes: bytes, First: text()})
}

// Merge adds the groups of o.
func (r *Rejected) Merge(o *Rejected) {
	for _, g := range o.Groups {
		r.Add(g.Reason, g.Stream, g.Count, g.Bytes, func() string { return g.First })
		for i := range r.Groups {
			if mine := &r.Groups[i]; mine.Reason == g.Reason {
				mine.OldestOK = max(mine.OldestOK, g.OldestOK)
			}
		}
	}
}

// Retryable reports whether some of the refused entries may be accepted later.
func (r *Rejected) Retryable() bool {
	for _, g := range r.Groups {
		if g.Reason.Retryable() {
			return true
		}
	}
	return false
}

// Status returns the HTTP status of the refusals: one that lets clients try
// again if any of them may pass, for a client that is told of the others alone
// drops what would have been taken. When it comes again, and what is refused for
// good is all that is left, it is told that. Of several permanent ones it is the
// highest code, as 260 passes for success.
func (r *Rejected) Status() int {
	again, permanent := 0, 0
	for _, g := range r.Groups {
		switch s := g.Reason.Status(); {
		case !g.Reason.Retryable():
			permanent = max(permanent, s)
		case again == 0:
			again = s
		}
	}
	if again != 0 {
		return again
	}
	return permanent
}

// Error names every reason with its count and the first case, on one line.
func (r *Rejected) Error() string {
	var b strings.Builder
	for i, g := range r.Groups {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%d errors like: %s", g.Count, g.First)
	}
	fmt.Fprintf(&b, " (%d of %d entries refused, the rest is stored)", r.Entries, r.Total)
	return b.String()
}
