package blocks

import (
	"encoding/binary"
	"hash/crc32"
	"strconv"
)

// FileSuffix ends the name of a block file.
const FileSuffix = suffix

// Dumped is a record of a block file: a block, with its Data, a note that a
// chunk is flushed or closed, or a link to the file before.
type Dumped struct {
	Offset int64
	Size   int    // of header and data
	Block  *Block // nil: something else
	Cover  int    // pieces that Block covers
	Note   string // what else it is
	Err    error  // the data does not check out
}

// IsFile reports whether b begins as a block file does.
func IsFile(b []byte) bool { return len(b) >= 4 && binary.LittleEndian.Uint32(b) == magic }

// Dump reads a block file, for people who look at it: it calls f for each record
// whose header checks out, and returns what does not.
func Dump(name string, file []byte, f func(Dumped)) (problems []error) {
	le := binary.LittleEndian
	lost := false
	bad := func(off int, why string) error {
		err := &CorruptionError{name, int64(off), why}
		problems = append(problems, err)
		return err
	}
	for off := 0; off+fixed <= len(file); {
		head := file[off : off+fixed]
		hl, dl := int64(le.Uint32(head[8:])), int64(le.Uint32(head[12:]))
		why := ""
		switch {
		case le.Uint32(head) != magic:
			why = "no record starts here"
		case hl > maxHeader || int64(off)+fixed+hl+dl > int64(len(file)):
			why = "record is longer than the file"
		case crc32.Update(crc32.Checksum(head[8:], castagnoli), castagnoli, file[off+fixed:off+fixed+int(hl)]) != le.Uint32(head[4:]):
			why = "header checksum differs"
		}
		if why != "" {
			if !lost {
				bad(off, why)
			}
			lost = true
			off += 8
			continue
		}
		lost = false
		hdr := file[off+fixed : off+fixed+int(hl)]
		data := file[off+fixed+int(hl) : off+fixed+int(hl+dl)]
		d := Dumped{Offset: int64(off), Size: fixed + len(hdr) + len(data)}
		d.read(head[20], hdr)
		if d.Note == "" && d.Block == nil {
			d.Err = bad(off, "record of type "+strconv.Itoa(int(head[20]))+" cannot be read")
		} else if crc32.Checksum(data, castagnoli) != le.Uint32(head[16:]) {
			d.Err = bad(off+fixed+int(hl), "data checksum differs")
		}
		if d.Block != nil {
			d.Block.Data = data
		}
		f(d)
		off = int(align(int64(off) + fixed + hl + dl))
	}
	return problems
}

func (d *Dumped) read(typ byte, hdr []byte) {
	r := reader{p: hdr}
	switch typ {
	case typeBlock:
		b := new(Block)
		if b.decode(hdr) != nil {
			return
		}
		pieces, _ := b.Cover.Pieces(nil) // decode has read them
		d.Block, d.Cover = b, len(pieces)
	case typeFlush, typeClose:
		if stream, chunk := r.uvarint(), r.uvarint(); !r.bad {
			what := map[byte]string{typeFlush: " is flushed", typeClose: " is closed"}
			d.Note = "chunk " + strconv.FormatUint(chunk, 10) + " of stream " + strconv.FormatUint(stream, 10) + what[typ]
		}
	case typeCover:
		if c := new(Covered); c.decode(hdr) == nil {
			d.Note = "entries of " + c.Tenant + " " + c.Labels + " are stored by another replica, " + strconv.Itoa(len(c.Entries)) + " bytes of names"
		}
	case typeLink:
		if seq, synced := r.uvarint(), r.uvarint(); !r.bad {
			d.Note = "the file before is " + strconv.FormatUint(seq, 16) + ", of which " + strconv.FormatUint(synced, 10) + " bytes were synced"
		}
	}
}
