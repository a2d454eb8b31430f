package query

import "encoding/binary"

// Pairs is structured metadata: for every pair name and value, each behind its
// length (uvarint), in the order of the source.
type Pairs []byte

func appendText[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// Next takes the first pair off.
func (p *Pairs) Next() (name, value []byte, ok bool) {
	if len(*p) == 0 {
		return nil, nil, false
	}
	return p.text(), p.text(), true
}

func (p *Pairs) text() []byte {
	n, k := binary.Uvarint(*p)
	b := (*p)[k : k+int(n)]
	*p = (*p)[k+int(n):]
	return b
}
