package wal

import (
	"bytes"
	"testing"
)

// file returns a segment with records of these payloads.
func file(payloads ...[]byte) []byte {
	b := make([]byte, headerSize)
	h := header{salt: 77, id: 3, first: 10, prevID: 2, last: 9, sure: 9}
	h.put(b)
	for i, p := range payloads {
		var head [recordHeader]byte
		putRecordHeader(head[:], h.salt, h.first+LSN(i), uint32(len(p)), uint32(i), checksum(p))
		b = append(append(b, head[:]...), p...)
		b = append(b, make([]byte, align(len(b))-len(b))...)
	}
	return append(b, make([]byte, 256)...)
}

// TestDump: a segment is read to its end; of a damaged one all other records
// are, and where the damage is.
func TestDump(t *testing.T) {
	b := file([]byte("first"), bytes.Repeat([]byte("second"), 20), nil, []byte("last"))
	dump := func(b []byte) (got []string, offsets []int64, problems []error) {
		s, problems := Dump("00000000000000000003.wal", b, func(r DumpedRecord) {
			got, offsets = append(got, string(r.Payload)), append(offsets, r.Offset)
		})
		if len(problems) == 0 && (s.ID != 3 || s.First != 10 || s.Before != 2 || !s.HeaderIsGood) {
			t.Fatalf("%+v", s)
		}
		return got, offsets, problems
	}
	got, offsets, problems := dump(b)
	if len(got) != 4 || got[0] != "first" || got[2] != "" || got[3] != "last" || len(problems) > 0 {
		t.Fatalf("%q, %v", got, problems)
	}
	bad := bytes.Clone(b)
	bad[offsets[1]+recordHeader+5] ^= 1
	got, _, problems = dump(bad)
	var ce *CorruptionError
	if len(got) != 3 || len(problems) != 1 || !asCorruption(problems[0], &ce) || ce.Offset != offsets[1] {
		t.Fatalf("a record is damaged: %q, %v", got, problems)
	}
	bad = bytes.Clone(b)
	bad[20] ^= 1
	if got, _, problems = dump(bad); len(got) != 4 || len(problems) != 1 {
		t.Fatalf("the header is damaged: %q, %v", got, problems)
	}
	if got, _, problems = dump(b[:offsets[3]+recordHeader+2]); len(got) != 3 || len(problems) != 1 {
		t.Fatalf("cut off: %q, %v", got, problems)
	}
}

func asCorruption(err error, to **CorruptionError) bool {
	ce, ok := err.(*CorruptionError)
	*to = ce
	return ok
}

// FuzzDump: records that are shown are within the file and in order.
func FuzzDump(f *testing.F) {
	f.Add(file([]byte("first"), []byte("second")))
	f.Add(file())
	f.Fuzz(func(t *testing.T, b []byte) {
		end := int64(headerSize)
		Dump("x", b, func(r DumpedRecord) {
			if r.Offset < end || r.Offset+recordHeader+int64(len(r.Payload)) > int64(len(b)) {
				t.Fatalf("record at %d, after one that ends at %d", r.Offset, end)
			}
			end = r.Offset + recordHeader + int64(len(r.Payload))
		})
	})
}
