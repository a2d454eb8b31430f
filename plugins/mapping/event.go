package mapping

import "bytes"

// timeRank orders the fields that can be the time; 0 is none.
func timeRank(key []byte) int {
	switch string(key) {
	case "@timestamp":
		return 6
	case "timestamp":
		return 5
	case "time":
		return 4
	case "ts":
		return 3
	case "date":
		return 2
	case "_time":
		return 1
	}
	return 0
}

// oldestNumber is what a number must be to be a time: 1973-03-03 in ns. Smaller
// ones are durations and counters.
const oldestNumber = 1e17

// EventTime returns the time of a JSON event and the node that has it, or -1:
// the first of the top-level fields @timestamp, timestamp, time, ts, date, _time
// that can be read as one. A number must be after March 1973 in the unit that
// its size suggests, so that a duration is not taken for a time.
func EventTime(r *Record) (ts int64, node int) {
	best, node := 0, -1
	for j, end := 1, int(r.Nodes[0].End); j < end; j = r.Next(j) {
		rank := timeRank(r.Nodes[j].Key)
		if rank <= best {
			continue
		}
		t, ok := NodeTime(r, j)
		if !ok || t < oldestNumber && !isDate(&r.Nodes[j]) {
			continue
		}
		ts, node, best = t, j, rank
	}
	return ts, node
}

// isDate tells a date from a number in a string.
func isDate(n *Node) bool {
	return n.Kind == String && len(n.Str) > 4 && n.Str[4] == '-'
}

// DropLogstash marks what Logstash adds to every event and says nothing:
// @version, always "1", and event.original where it is the message once more.
func DropLogstash(r *Record) {
	message, event := -1, -1
	for j, end := 1, int(r.Nodes[0].End); j < end; j = r.Next(j) {
		switch n := &r.Nodes[j]; string(n.Key) {
		case "@version":
			n.Used = true
		case "message":
			message = j
		case "event":
			event = j
		}
	}
	if message < 0 || event < 0 {
		return
	}
	if o := r.Field(event, "original"); o >= 0 && r.Nodes[o].Kind == String &&
		r.Nodes[message].Kind == String && bytes.Equal(r.Nodes[o].Str, r.Nodes[message].Str) {
		r.Nodes[o].Used = true
	}
}
