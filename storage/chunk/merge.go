package chunk

import (
	"bytes"
	"fmt"
)

// Merge makes new blocks of the entries in contents, which are each sorted and
// refer to one symbol table. Entries come out in order of time; those with
// equal times in the order of contents and, within one, in its order. Of
// entries that are equal in time, line and metadata the first is kept. A block
// is closed when its uncompressed size reaches blockSize.
func Merge(codec Codec, contents [][]byte, blockSize int) ([]Block, error) {
	m := merger{codec: codec, blockSize: blockSize}
	if err := m.open(contents); err != nil {
		return nil, err
	}
	for len(m.heap) > 0 {
		it := &m.heap[0].EntryIter
		if rec := it.content[it.Off : it.Off+it.Len]; !m.duplicate(it.TS, rec) {
			m.add(it, rec)
			// Empty lines have no size, but take room.
			if m.size >= blockSize || len(m.content) >= 2*blockSize {
				if err := m.cut(); err != nil {
					return nil, err
				}
			}
		}
		if err := m.advance(); err != nil {
			return nil, err
		}
	}
	if err := m.cut(); err != nil {
		return nil, err
	}
	return m.blocks, nil
}

type source struct {
	EntryIter
	number int
}

type merger struct {
	codec     Codec
	blockSize int
	heap      []source // first by time, then by number

	group    [][]byte            // records at the newest time
	groupSet map[string]struct{} // the same, when they are many
	groupTS  int64

	content []byte
	block   Block // of content
	size    int
	blocks  []Block
}

func (m *merger) open(contents [][]byte) error {
	total := 0
	for i, c := range contents {
		total += len(c)
		s := source{Entries(c), i}
		if s.Next() {
			m.heap = append(m.heap, s)
		} else if s.Err() != nil {
			return fmt.Errorf("chunk: merge: content %d: %w", i, s.Err())
		}
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
	m.content = make([]byte, 0, min(total, m.blockSize+m.blockSize/4))
	return nil
}

// advance moves the first source on.
func (m *merger) advance() error {
	s := &m.heap[0]
	last := s.TS
	if !s.Next() {
		if s.Err() != nil {
			return fmt.Errorf("chunk: merge: content %d: %w", s.number, s.Err())
		}
		n := len(m.heap) - 1
		m.heap[0] = m.heap[n]
		m.heap = m.heap[:n]
	} else if s.TS < last {
		return fmt.Errorf("chunk: merge: content %d is not in order of time at offset %d", s.number, s.Off)
	}
	m.down(0)
	return nil
}

func (m *merger) less(a, b int) bool {
	x, y := &m.heap[a], &m.heap[b]
	return x.TS < y.TS || x.TS == y.TS && x.number < y.number
}

func (m *merger) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(m.heap) {
			return
		}
		if c+1 < len(m.heap) && m.less(c+1, c) {
			c++
		}
		if !m.less(c, i) {
			return
		}
		m.heap[i], m.heap[c] = m.heap[c], m.heap[i]
		i = c
	}
}

// manyEqual is from where a set finds duplicates faster than comparing.
const manyEqual = 8

// duplicate reports whether rec was added before, and else notes it. Records
// of one symbol table are equal when their bytes are.
func (m *merger) duplicate(ts int64, rec []byte) bool {
	if ts != m.groupTS || len(m.group) == 0 {
		clear(m.group)
		m.group, m.groupSet, m.groupTS = append(m.group[:0], rec), nil, ts
		return false
	}
	if m.groupSet == nil && len(m.group) >= manyEqual {
		m.groupSet = make(map[string]struct{}, 2*manyEqual)
		for _, r := range m.group {
			m.groupSet[string(r)] = struct{}{}
		}
	}
	if m.groupSet != nil {
		if _, ok := m.groupSet[string(rec)]; ok {
			return true
		}
		m.groupSet[string(rec)] = struct{}{}
		return false
	}
	for _, r := range m.group {
		if bytes.Equal(r, rec) {
			return true
		}
	}
	m.group = append(m.group, rec)
	return false
}

func (m *merger) add(it *EntryIter, rec []byte) {
	if m.block.Entries == 0 {
		m.block.MinT = it.TS
	}
	m.block.MaxT = it.TS
	m.block.Entries++
	m.size += EntrySize(len(it.Line), it.NumPairs)
	m.content = append(m.content, rec...)
}

// cut closes the block that is being filled, if it has entries.
func (m *merger) cut() error {
	if m.block.Entries == 0 {
		return nil
	}
	data, err := m.codec.Compress(nil, m.content)
	if err != nil {
		return fmt.Errorf("chunk: merge: %w", err)
	}
	m.block.Size, m.block.Data = m.size, data
	m.blocks = append(m.blocks, m.block)
	m.block, m.size, m.content = Block{}, 0, m.content[:0]
	return nil
}
