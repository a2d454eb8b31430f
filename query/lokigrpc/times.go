package lokigrpc

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// nanos returns a time in ns, none as what it stands for. What does not fit is as
// early or late as can be.
func nanos(t *timestamppb.Timestamp, none int64) int64 {
	if t == nil {
		return none
	}
	const most = math.MaxInt64 / int64(time.Second)
	switch {
	case t.Seconds < -most:
		return math.MinInt64
	case t.Seconds >= most:
		return math.MaxInt64
	}
	return t.Seconds*int64(time.Second) + int64(t.Nanos)
}

// fromMillis returns a time in ns.
func fromMillis(ms int64) int64 {
	const most = math.MaxInt64 / int64(time.Millisecond)
	return min(max(ms, -most), most) * int64(time.Millisecond)
}

// timestamp sets t.
func timestamp(t *timestamppb.Timestamp, ns int64) *timestamppb.Timestamp {
	t.Seconds, t.Nanos = ns/1e9, int32(ns%1e9)
	if t.Nanos < 0 {
		t.Seconds, t.Nanos = t.Seconds-1, t.Nanos+1e9
	}
	return t
}
