package fsck

import "maps"

// Kind says what is wrong.
type Kind string

const (
	// Unindexed is a chunk that no index file lists, or not in every table that
	// it belongs to: queries do not find it.
	Unindexed Kind = "chunk-without-index"
	// MissingChunk is a listing of a chunk that is not there: queries fail.
	MissingChunk Kind = "index-without-chunk"
	// DamagedChunk is a chunk whose checksum differs or that cannot be read.
	DamagedChunk Kind = "damaged-chunk"
	// MisplacedChunk is a chunk that is whole and says something else of
	// itself than its key does.
	MisplacedChunk Kind = "misplaced-chunk"
	// DamagedIndex is an index file that cannot be read, or whose name is wrong.
	DamagedIndex Kind = "damaged-index"
	// DamagedMarker is a note of the compactor that cannot be read.
	DamagedMarker Kind = "damaged-marker"
	// UnknownObject belongs to nothing.
	UnknownObject Kind = "unknown-object"

	// What follows is no damage.

	// Recent is a chunk that is not listed yet.
	Recent Kind = "recent"
	// PendingDeletion is a chunk that retention has taken out of the index, or
	// an index file that was merged.
	PendingDeletion Kind = "pending-deletion"
	// SetAside is a copy that a repair has made.
	SetAside Kind = "set-aside"
)

// Note reports whether k is no damage.
func (k Kind) Note() bool { return k == Recent || k == PendingDeletion || k == SetAside }

// Finding is one thing that is not as it should be.
type Finding struct {
	Kind   Kind   `json:"kind"`
	Tenant string `json:"tenant,omitempty"` // empty if it is of none or of many
	Key    string `json:"key"`              // of the object, or where a missing one should be
	Index  string `json:"index,omitempty"`  // the file that lists a missing chunk
	Detail string `json:"detail,omitempty"`
	Repair string `json:"repair,omitempty"` // what was done about it
}

// Counts is what a run has seen of a tenant.
type Counts struct {
	Chunks     int64        `json:"chunks"`
	ReadBytes  int64        `json:"readBytes"` // of chunks
	IndexFiles int64        `json:"indexFiles"`
	Listings   int64        `json:"listings"` // chunks in index files, each as often as it is listed
	Findings   map[Kind]int `json:"findings,omitempty"`
	Repaired   int          `json:"repaired"`
}

// Summary is the result of a run.
type Summary struct {
	// Tenants has what belongs to none or to many under "".
	Tenants map[string]*Counts `json:"tenants"`
	Parts   int                `json:"parts"` // in which the bucket was looked at
}

// Findings returns how many findings there are that are no notes.
func (s *Summary) Findings() int {
	n := 0
	for _, c := range s.Tenants {
		for k, v := range c.Findings {
			if !k.Note() {
				n += v
			}
		}
	}
	return n
}

// Repaired returns how many of the findings were mended.
func (s *Summary) Repaired() int {
	n := 0
	for c := range maps.Values(s.Tenants) {
		n += c.Repaired
	}
	return n
}
