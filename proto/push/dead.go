package push

import (
	"strings"
	"unicode/utf8"
)

// Dead is a piece of input that could not become an entry: broken JSON, bytes
// that are no record. The gateway stores it in the tenant's dead-letter stream
// before Push returns.
type Dead struct {
	Reason Reason
	Text   string // what is wrong with it
	Raw    []byte // the piece, or its first MaxDeadRaw bytes; memory of the batch
	Size   int    // length of the piece before it was cut
	TS     int64  // the piece's own time, ns since the epoch; 0: unknown
}

// Bounds of what a batch keeps of buried pieces. What is beyond is counted in
// DeadLeft.
const (
	MaxDead      = 1000     // pieces
	MaxDeadRaw   = 16 << 10 // bytes of one
	MaxDeadText  = 1 << 10  // bytes of the text of one
	MaxDeadBytes = 1 << 20  // bytes and texts of all
)

// deadBlock is how much memory for buried pieces is taken at a time.
const deadBlock = 64 << 10

// Bury keeps a copy of a piece of input that could not become an entry, so that
// it is stored as a dead letter. Reason should be one that is permanent
// (Malformed, as a rule). A batch may have buried pieces and no entry at all.
func (b *Batch) Bury(reason Reason, text string, raw []byte) {
	text = clipText(text, MaxDeadText)
	keep := raw[:min(len(raw), MaxDeadRaw)]
	if len(b.Dead) >= MaxDead || b.deadBytes+len(keep)+len(text) > MaxDeadBytes {
		b.DeadLeft++
		return
	}
	b.deadBytes += len(keep) + len(text)
	b.Dead = append(b.Dead, Dead{Reason: reason, Text: text, Raw: b.copyDead(keep), Size: len(raw)})
}

// copyDead copies p into a block of the batch. A full block is left to the
// pieces that are in it.
func (b *Batch) copyDead(p []byte) []byte {
	if cap(b.dead)-len(b.dead) < len(p) {
		b.dead = make([]byte, 0, deadBlock)
	}
	n := len(b.dead)
	b.dead = append(b.dead, p...)
	return b.dead[n:len(b.dead):len(b.dead)]
}

// clipText returns the first n bytes of s at most, not cut within a character.
func clipText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for back := 0; back < utf8.UTFMax-1 && n > 0 && !utf8.RuneStart(s[n]); back++ {
		n--
	}
	return strings.Clone(s[:n]) // the rest may be large
}
