package chunk

// Symbols is the symbol table of a chunk that is being built: every metadata
// name and value once, numbered from 0 in order of first use. It is for one
// goroutine.
type Symbols struct {
	list  []string
	index map[string]uint32 // nil while the list is short
	bytes int
}

// fewSymbols is up to where comparing with all beats a map, which would cost
// more memory than the strings in the many chunks with a few symbols.
const fewSymbols = 8

// NewSymbols returns a table that begins with list. It keeps the strings, not
// the slice.
func NewSymbols(list []string) *Symbols {
	s := new(Symbols)
	s.list = append(s.list, list...)
	for _, v := range list {
		s.bytes += len(v)
	}
	if len(s.list) > fewSymbols {
		s.buildIndex()
	}
	return s
}

func (s *Symbols) buildIndex() {
	s.index = make(map[string]uint32, 2*len(s.list))
	for i, v := range s.list {
		if _, ok := s.index[v]; !ok {
			s.index[v] = uint32(i)
		}
	}
}

// Intern returns the number of b, adding a copy of it if it is new.
func (s *Symbols) Intern(b []byte) uint32 {
	if s.index != nil {
		if i, ok := s.index[string(b)]; ok {
			return i
		}
	} else {
		for i, v := range s.list {
			if v == string(b) {
				return uint32(i)
			}
		}
	}
	i, v := uint32(len(s.list)), string(b)
	s.list = append(s.list, v)
	s.bytes += len(v)
	if s.index != nil {
		s.index[v] = i
	} else if len(s.list) > fewSymbols {
		s.buildIndex()
	}
	return i
}

// Len returns the number of symbols, Bytes their total length.
func (s *Symbols) Len() int   { return len(s.list) }
func (s *Symbols) Bytes() int { return s.bytes }

// List returns the symbols in order. The slice must not be changed; it stays
// valid, without what is added later.
func (s *Symbols) List() []string { return s.list[:len(s.list):len(s.list)] }
