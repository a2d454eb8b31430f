package elasticsearch

import "strings"

// filter says what of a bulk answer the client wants.
type filter struct {
	took, errors, items          bool
	names, result, status, error bool // of items
}

var everything = filter{true, true, true, true, true, true, true}

// parseFilter reads a filter_path. What it does not know makes the answer
// whole: more than was asked for does no harm.
func parseFilter(path string) filter {
	if path == "" {
		return everything
	}
	var f filter
	for p := range strings.SplitSeq(path, ",") {
		p = strings.TrimSpace(p)
		switch p {
		case "took":
			f.took = true
			continue
		case "errors":
			f.errors = true
			continue
		}
		seg := strings.Split(p, ".")
		if seg[0] != "items" {
			return everything
		}
		f.items = true
		field := "*"
		if len(seg) > 2 {
			field = seg[2]
		}
		switch field {
		case "*", "**":
			f.names, f.result, f.status, f.error = true, true, true, true
		case "error":
			f.error = true
		case "status":
			f.status = true
		case "_index", "_id":
			f.names = true
		case "result", "_version":
			f.result = true
		case "_type", "_shards", "_seq_no", "_primary_term", "failure_store": // never there
		default:
			return everything
		}
	}
	return f
}
