package mapping

import "slices"

// skips are nodes of a record that are left out as it is written, each with all
// below it. Nodes are written in their order, so that one look at the next node
// to skip is enough.
type skips struct {
	nodes []int32
	at    int
}

func (s *skips) reset() { s.nodes, s.at = s.nodes[:0], 0 }

func (s *skips) add(nodes ...int32) { s.nodes = append(s.nodes, nodes...) }

// sort makes s ready for use behind the last add.
func (s *skips) sort() { slices.Sort(s.nodes) }

// rewind makes s ready for another pass over the record.
func (s *skips) rewind() *skips {
	s.at = 0
	return s
}

// has reports whether node j is one. It must be asked in order of nodes.
func (s *skips) has(j int) bool {
	for s.at < len(s.nodes) && int(s.nodes[s.at]) < j {
		s.at++
	}
	return s.at < len(s.nodes) && int(s.nodes[s.at]) == j
}

// emptied reports whether node j, of which nothing has been written, is a map
// that had fields.
func (s *skips) emptied(r *Record, j int) bool {
	n := &r.Nodes[j]
	return n.Kind == Map && int(n.End) > j+1
}

// single returns the only field of the record that is not left out; -1 if there
// is none or another.
func (s *skips) single(r *Record) int {
	s.at = 0
	found := -1
	for j, end := 1, int(r.Nodes[0].End); j < end; j = r.Next(j) {
		if s.gone(r, j) {
			continue
		}
		if found >= 0 {
			return -1
		}
		found = j
	}
	return found
}

// gone reports whether nothing is left of node j.
func (s *skips) gone(r *Record, j int) bool {
	if s.has(j) {
		return true
	}
	if !s.emptied(r, j) {
		return false
	}
	for i, end := j+1, int(r.Nodes[j].End); i < end; i = r.Next(i) {
		if !s.gone(r, i) {
			return false
		}
	}
	return true
}
