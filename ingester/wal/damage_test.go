package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/vfs"
)

// small are options for tests that start a log very often.
var small = Options{SegmentSize: 4096}

// three makes a log of three segments with five records each, every one a group
// of its own, and returns where record r of segment s begins.
func three(t testing.TB, size int) (fsys *vfs.Mem, want []rec, at func(s, r int) int) {
	t.Helper()
	fsys = vfs.NewMem()
	need := align(recordHeader + size)
	l, _, _ := start(t, fsys, Options{SegmentSize: int64(headerSize + 5*need)})
	for n := range 15 {
		want = append(want, put(t, l, payload(n, size)))
	}
	if n := len(l.Segments()); n != 3 {
		t.Fatalf("%d segments", n)
	}
	shut(t, l)
	return fsys, want, func(s, r int) int { return headerSize + r*need }
}

// without returns want without the records whose indexes are given.
func without(want []rec, gone ...int) []rec {
	var out []rec
	for i, r := range want {
		keep := true
		for _, g := range gone {
			keep = keep && g != i
		}
		if keep {
			out = append(out, r)
		}
	}
	return out
}

func TestDamage(t *testing.T) {
	const size = 6000 // more than a page
	type test struct {
		segment int // whose content edit changes
		edit    func(b []byte, at func(r int) int) []byte
		gone    []int // of the 15 records
		corrupt int
		report  string // part of the log line
	}
	set := func(b []byte, off int, v ...byte) []byte { copy(b[off:], v); return b }
	tests := map[string]test{
		"nothing": {0, func(b []byte, at func(int) int) []byte { return b }, nil, 0, ""},
		"last record torn": {2, func(b []byte, at func(int) int) []byte {
			clear(b[at(4)+4096:])
			return b
		}, []int{14}, 0, "torn"},
		"last record cut off": {2, func(b []byte, at func(int) int) []byte { return b[:at(4)+100] }, []int{14}, 0, "torn"},
		"last record gone":    {2, func(b []byte, at func(int) int) []byte { return b[:at(4)] }, []int{14}, 0, ""},
		"bad checksum in the middle of the last segment": {2, func(b []byte, at func(int) int) []byte {
			return set(b, at(2)+recordHeader+77, 0)
		}, []int{12}, 1, "checksum of the payload differs; records 13 to 13 are lost"},
		"bad checksum in the middle of the log": {1, func(b []byte, at func(int) int) []byte {
			return set(b, at(0)+recordHeader+77, 0)
		}, []int{5}, 1, "segment 2, offset 64: checksum of the payload differs; records 6 to 6 are lost"},
		"header of a record zeroed": {1, func(b []byte, at func(int) int) []byte {
			clear(b[at(1) : at(1)+recordHeader])
			return b
		}, []int{6}, 1, "records 7 to 7 are lost"},
		"zeroed pages in the middle": {1, func(b []byte, at func(int) int) []byte {
			clear(b[8192:16384]) // a piece of the second, a piece of the third
			return b
		}, []int{6, 7}, 1, "records 7 to 8 are lost"},
		"zeroed page at the end of a segment in the middle": {1, func(b []byte, at func(int) int) []byte {
			clear(b[at(4):])
			return b
		}, []int{9}, 1, "records 10 to 10 are lost"},
		"segment in the middle cut off": {
			1, func(b []byte, at func(int) int) []byte { return b[:at(3)+50] },
			[]int{8, 9},
			1, "records 9 to 10 are lost",
		},
		"length of 2^31": {
			1, func(b []byte, at func(int) int) []byte { return set(b, at(2)+16, 0, 0, 0, 0x80) },
			[]int{7},
			1, "records 8 to 8 are lost",
		},
		"length of 2^31 with a checksum to it": {1, func(b []byte, at func(int) int) []byte {
			h := b[at(2):]
			putRecordHeader(h, le.Uint32(h), LSN(le.Uint64(h[8:])), 1<<31, 0, 0)
			return b
		}, []int{7}, 1, "record is longer than its segment; records 8 to 8 are lost"},
		"length beyond the segment with a checksum to it": {2, func(b []byte, at func(int) int) []byte {
			h := b[at(2):]
			putRecordHeader(h, le.Uint32(h), LSN(le.Uint64(h[8:])), 30000, 0, 0)
			return b
		}, []int{12}, 1, "record is longer than its segment; records 13 to 13 are lost"},
		"missing segment":     {1, nil, []int{5, 6, 7, 8, 9}, 1, "segment 2, offset 0: segment is missing; records 6 to 10 are lost"},
		"oldest segment gone": {0, nil, []int{0, 1, 2, 3, 4}, 0, ""},
		"newest segment gone": {2, nil, []int{10, 11, 12, 13, 14}, 0, ""},
		"magic of the first segment": {
			0, func(b []byte, at func(int) int) []byte { return set(b, 0, 'X') },
			nil, 1, "segment 1, offset 0: segment header has no magic; no record is lost",
		},
		"header of a segment in the middle zeroed": {
			1, func(b []byte, at func(int) int) []byte { clear(b[:headerSize]); return b },
			nil, 1, "segment 2, offset 0: segment header has no magic; no record is lost",
		},
		"header of the last segment": {
			2, func(b []byte, at func(int) int) []byte { return set(b, 30, 9) },
			nil, 1, "segment 3, offset 0: checksum of the segment header differs; no record is lost",
		},
		"header of another segment": {2, func(b []byte, at func(int) int) []byte {
			h := header{salt: le.Uint32(b[12:]), id: 9, first: 11, last: 10, sure: 10}
			h.put(b)
			return b
		}, nil, 1, "segment header is that of segment 9"},
		"header and first record": {
			1, func(b []byte, at func(int) int) []byte { clear(b[:4096]); return b },
			[]int{5},
			2, "records 6 to 6 are lost",
		},
		"all of a segment but its size": {
			1, func(b []byte, at func(int) int) []byte { clear(b); return b },
			[]int{5, 6, 7, 8, 9},
			1, "records 6 to 10 are lost",
		},
		"a segment of other content": {
			1, func(b []byte, at func(int) int) []byte { return bytes.Repeat([]byte("junk"), 5000) },
			[]int{5, 6, 7, 8, 9},
			1, "records 6 to 10 are lost",
		},
		"empty segment in the middle": {1, func(b []byte, at func(int) int) []byte { return nil }, []int{5, 6, 7, 8, 9}, 1, "records 6 to 10 are lost"},
		"empty segment at the end":    {2, func(b []byte, at func(int) int) []byte { return nil }, []int{10, 11, 12, 13, 14}, 0, ""},
		"half a header at the end":    {2, func(b []byte, at func(int) int) []byte { return b[:30] }, []int{10, 11, 12, 13, 14}, 0, "nothing in a WAL segment can be read"},
		"trailing garbage":            {2, func(b []byte, at func(int) int) []byte { return append(b, "garbage that is no record"...) }, nil, 0, "torn"},
		"trailing garbage in the middle": {1, func(b []byte, at func(int) int) []byte {
			return append(b, bytes.Repeat([]byte("junk"), 3000)...)
		}, nil, 0, ""},
		"trailing zeros": {2, func(b []byte, at func(int) int) []byte { return append(b, make([]byte, 10000)...) }, nil, 0, ""},
		"garbage between records": {1, func(b []byte, at func(int) int) []byte {
			return append(append(append([]byte(nil), b[:at(2)]...), "8 bytes."...), b[at(2):]...)
		}, nil, 0, ""},
		"a record twice": {1, func(b []byte, at func(int) int) []byte {
			return append(append(append([]byte(nil), b[:at(2)]...), b[at(1):at(2)]...), b[at(2):]...)
		}, nil, 0, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			fsys, want, at := three(t, size)
			file := segmentFiles(t, fsys)[tt.segment]
			if tt.edit == nil {
				if err := fsys.Remove(file); err != nil {
					t.Fatal(err)
				}
			} else {
				writeFile(t, fsys, file, tt.edit(readFile(t, fsys, file), func(r int) int { return at(tt.segment, r) }))
			}
			want = without(want, tt.gone...)
			// A second start has to find the same: what the first one cut or
			// reported is no news, and what is appended is behind it.
			for life := range 3 {
				var out logged
				reg := prometheus.NewPedanticRegistry()
				l, got, st := start(t, fsys, Options{SegmentSize: 1 << 20, Log: out.logger(), Registerer: reg})
				same(t, got, want)
				if st.Corruptions != tt.corrupt {
					t.Fatalf("life %d: %d corruptions, want %d: %s", life, st.Corruptions, tt.corrupt, out.String())
				}
				if life == 0 && !strings.Contains(out.String(), tt.report) {
					t.Fatalf("log has no %q: %s", tt.report, out.String())
				}
				if tt.report == "" && out.String() != "" {
					t.Fatalf("life %d: something was logged: %s", life, out.String())
				}
				if c := counted(t, reg, "loki_go_wal_corruptions_total"); int(c) != tt.corrupt {
					t.Fatalf("metric says %v", c)
				}
				if lost := lostOf(tt.gone, tt.corrupt); st.Lost != lost && tt.corrupt > 0 {
					t.Fatalf("%d records lost, want %d", st.Lost, lost)
				}
				want = append(want, put(t, l, fmt.Sprint("life ", life)))
				shut(t, l)
			}
		})
	}
}

func lostOf(gone []int, corrupt int) uint64 {
	if corrupt == 0 {
		return 0
	}
	return uint64(len(gone))
}

func counted(t *testing.T, reg prometheus.Gatherer, name string) float64 {
	t.Helper()
	fams, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fams {
		if f.GetName() == name {
			return f.Metric[0].Counter.GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestCutAnywhere truncates the newest segment at each byte of its last two
// records: what is whole stays, and nothing is called corrupt.
func TestCutAnywhere(t *testing.T) {
	fsys, want, at := three(t, 100)
	file := segmentFiles(t, fsys)[2]
	full := readFile(t, fsys, file)
	for n := at(2, 3); n <= len(full); n++ {
		c := copyMem(fsys)
		writeFile(t, c, file, full[:n])
		left := 13
		if n >= at(2, 3)+recordHeader+100 {
			left++
		}
		if n >= at(2, 4)+recordHeader+100 {
			left++
		}
		l, got, st := start(t, c, small)
		same(t, got, want[:left])
		if st.Corruptions != 0 {
			t.Fatalf("cut at %d: %+v", n, st)
		}
		again := append(append([]rec(nil), want[:left]...), put(t, l, "more"))
		shut(t, l)
		l, got, st = start(t, c, small)
		same(t, got, again)
		if st.Corruptions != 0 {
			t.Fatalf("cut at %d, second start: %+v", n, st)
		}
		shut(t, l)
	}
}

// TestFlipEveryBit flips a bit in each byte of each segment: every record but
// the one that was touched is read back, and unless it is at the log's end, its
// loss is reported.
func TestFlipEveryBit(t *testing.T) {
	fsys, want, at := three(t, 45)
	need := at(0, 1) - at(0, 0)
	for s, file := range segmentFiles(t, fsys) {
		full := readFile(t, fsys, file)
		for n := range full {
			b := append([]byte(nil), full...)
			b[n] ^= 1 << (n % 8)
			c := copyMem(fsys)
			writeFile(t, c, file, b)
			l, got, st := start(t, c, small)
			shut(t, l)
			switch {
			case n < headerSize:
				same(t, got, want)
				if st.Corruptions != 1 {
					t.Fatalf("segment %d, byte %d: %+v", s, n, st)
				}
			case (n-headerSize)%need >= recordHeader+45: // padding
				same(t, got, want)
			default:
				r := s*5 + (n-headerSize)/need
				same(t, got, without(want, r))
				if reported := st.Corruptions == 1; reported == (r == 14) {
					t.Fatalf("segment %d, byte %d, record %d: %+v", s, n, r, st)
				}
			}
		}
	}
}

// TestTornGroup loses single records of the newest group, as a power loss may:
// the others are kept, and nothing is called corrupt, now or later.
func TestTornGroup(t *testing.T) {
	fsys := vfs.NewMem()
	l, _, _ := start(t, fsys, Options{SegmentSize: 1 << 20})
	want := []rec{put(t, l, "acknowledged")}
	s := *l.active
	shut(t, l)
	file := segmentFiles(t, fsys)[0]
	b := readFile(t, fsys, file)
	for n := range 5 { // a group that was being written
		p := []byte(payload(n, 100))
		h := make([]byte, recordHeader)
		putRecordHeader(h, s.salt, LSN(n+2), uint32(len(p)), uint32(n), checksum(p))
		if n == 1 {
			h[9] ^= 1
		}
		if n == 2 {
			p[5] ^= 1
		}
		b = append(b, h...)
		b = append(b, p...)
		b = append(b, make([]byte, align(len(p))-len(p))...)
		if n != 1 && n != 2 {
			want = append(want, rec{LSN(n + 2), string(p)})
		}
	}
	writeFile(t, fsys, file, b)
	for range 3 {
		l, got, st := start(t, fsys, Options{SegmentSize: 1 << 20})
		same(t, got, want)
		if st.Corruptions != 0 || st.Lost != 0 {
			t.Fatalf("stats %+v", st)
		}
		want = append(want, put(t, l, "more"))
		shut(t, l)
	}
	// What was acknowledged is missed, however.
	b[headerSize+recordHeader] ^= 1
	writeFile(t, fsys, file, b)
	l, got, st := start(t, fsys, Options{SegmentSize: 1 << 20})
	defer shut(t, l)
	same(t, got, want[1:])
	if st.Corruptions != 1 || st.Lost != 1 {
		t.Fatalf("stats %+v", st)
	}
}

// TestPayloadsAreNotRecords puts whole segments into records and damages what is
// around them: a search for the next record must not find those.
func TestPayloadsAreNotRecords(t *testing.T) {
	inner, _, _ := three(t, 100)
	evil := append(make([]byte, 24), readFile(t, inner, segmentFiles(t, inner)[1])...)
	fsys := vfs.NewMem()
	l, _, _ := start(t, fsys, Options{SegmentSize: 1 << 20})
	var want []rec
	for range 4 {
		want = append(want, put(t, l, string(evil)))
	}
	shut(t, l)
	file := segmentFiles(t, fsys)[0]
	full := readFile(t, fsys, file)
	need := align(recordHeader + len(evil))
	for n := range recordHeader {
		b := append([]byte(nil), full...)
		b[headerSize+need+n] ^= 4
		writeFile(t, fsys, file, b)
		l, got, st := start(t, fsys, Options{SegmentSize: 1 << 20})
		shut(t, l)
		same(t, got, without(want, 1))
		if st.Corruptions != 1 {
			t.Fatalf("byte %d: %+v", n, st)
		}
	}
}

func TestNewerVersionIsRefused(t *testing.T) {
	fsys, _, _ := three(t, 10)
	file := segmentFiles(t, fsys)[1]
	b := readFile(t, fsys, file)
	le.PutUint32(b[8:], 2)
	le.PutUint32(b[60:], checksum(b[:60]))
	writeFile(t, fsys, file, b)
	if _, err := Open(fsys, dir, Options{}); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Fatalf("open: %v", err)
	}
	if after := readFile(t, fsys, file); !bytes.Equal(after, b) {
		t.Fatal("the segment was changed")
	}
}

// TestManyDamages bounds what is logged.
func TestManyDamages(t *testing.T) {
	fsys := vfs.NewMem()
	l, _, _ := start(t, fsys, Options{SegmentSize: 1 << 20})
	for n := range 1000 {
		put(t, l, payload(n, 40))
	}
	shut(t, l)
	file := segmentFiles(t, fsys)[0]
	b := readFile(t, fsys, file)
	need := align(recordHeader + 40)
	for n := 0; n < 999; n += 2 {
		b[headerSize+n*need+recordHeader] ^= 1
	}
	writeFile(t, fsys, file, b)
	var out logged
	l, got, st := start(t, fsys, Options{Log: out.logger()})
	defer shut(t, l)
	if len(got) != 500 || st.Corruptions != 500 || st.Lost != 500 {
		t.Fatalf("%d records, %+v", len(got), st)
	}
	if n := strings.Count(out.String(), "\n"); n != maxReports+1 {
		t.Fatalf("%d lines logged", n)
	}
}

func TestCorruptionErrorIsTyped(t *testing.T) {
	var c *CorruptionError
	err := fmt.Errorf("around: %w", &CorruptionError{Segment: 3, Offset: 64, First: 5, Last: 7, Reason: "why"})
	if !errors.As(err, &c) || c.Error() != "wal: segment 3, offset 64: why; records 5 to 7 are lost" {
		t.Fatalf("error %v", err)
	}
}

// FuzzSegments replays logs whose newest two segments are arbitrary bytes.
func FuzzSegments(f *testing.F) {
	fsys, _, _ := three(f, 100)
	files := segmentFiles(f, fsys)
	first, second := readFile(f, fsys, files[0]), readFile(f, fsys, files[1])
	f.Add(first, second)
	f.Add(first[:len(first)-3], second[:len(second)-50])
	f.Add([]byte(nil), second)
	f.Add(first[headerSize:], []byte(magic))
	rng := rand.New(rand.NewPCG(1, 2))
	for range 4 {
		b := append([]byte(nil), first...)
		for range 3 {
			b[rng.IntN(len(b))] ^= byte(1 << rng.IntN(8))
		}
		f.Add(b, second)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		m := vfs.NewMem()
		if err := m.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, m, segmentName(dir, 1), a)
		writeFile(t, m, segmentName(dir, 2), b)
		l, err := Open(m, dir, Options{SegmentSize: 4096})
		if err != nil {
			if strings.Contains(err.Error(), "format version") {
				return
			}
			t.Fatal(err)
		}
		got, _ := replayAll(t, l)
		total := 0
		for i, r := range got {
			total += len(r.data)
			if i > 0 && r.lsn <= got[i-1].lsn {
				t.Fatalf("record %d behind record %d", r.lsn, got[i-1].lsn)
			}
		}
		if total > len(a)+len(b) {
			t.Fatalf("%d bytes of records in %d", total, len(a)+len(b))
		}
		if l.Next() == 0 { // numbers at the very end are not taken further
			shut(t, l)
			return
		}
		// Whatever there was: what is appended now is found later, behind it.
		more := put(t, l, "more")
		shut(t, l)
		l, again, _ := start(t, m, Options{SegmentSize: 4096})
		shut(t, l)
		if n := len(again); n == 0 || again[n-1] != more {
			t.Fatalf("%d records before, %d after, the new one is not the last", len(got), n)
		}
		same(t, again[:len(again)-1], got)
	})
}
