package consul

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/loki-go/loki-go/ring"
)

// Protocol is the version of entries and of what members expect of each other.
// It changes only when members of the old one would get the new one wrong.
const Protocol = 1

// maxEntry bounds the value of a key that is looked at, in bytes.
const maxEntry = 4096

// entry is the value of a key.
type entry struct {
	Cluster    string     `json:"cluster"`
	Protocol   int        `json:"protocol"`
	ID         string     `json:"id"`
	Address    string     `json:"address"`
	Zone       string     `json:"zone,omitempty"`
	State      ring.State `json:"state"`
	Generation int64      `json:"generation"`
	Owner      string     `json:"owner,omitempty"` // see ring.Identity
	Started    int64      `json:"started"`         // Unix seconds
	// LeaveWithin is how many seconds a LEAVING instance may count. It is not
	// a time, so that the clocks need not agree.
	LeaveWithin int64  `json:"leave_within,omitempty"`
	Version     string `json:"version,omitempty"`
}

func (e *entry) instance() ring.Instance {
	return ring.Instance{ID: e.ID, Addr: e.Address, Zone: e.Zone, State: e.State, Generation: e.Generation}
}

func (e *entry) encode() []byte {
	data, err := json.Marshal(e)
	if err != nil {
		panic(err) // a State that is none: a mistake of ours
	}
	return data
}

// decode reads the value of key and returns what keeps it from being a member
// of cluster.
func decode(key, cluster string, value []byte) (*entry, error) {
	if len(value) > maxEntry {
		return nil, fmt.Errorf("it has %d bytes, an entry has at most %d", len(value), maxEntry)
	}
	// What is of another cluster or version may look different in all else.
	var head struct {
		Cluster  string `json:"cluster"`
		Protocol int    `json:"protocol"`
	}
	if err := json.Unmarshal(value, &head); err != nil {
		return nil, fmt.Errorf("it is no entry of a ring: %w", err)
	}
	if head.Cluster != cluster {
		return nil, fmt.Errorf("it belongs to cluster %q, this one is %q", head.Cluster, cluster)
	}
	if head.Protocol != Protocol {
		return nil, fmt.Errorf("it has protocol version %d, this program has %d", head.Protocol, Protocol)
	}
	var e entry
	if err := json.Unmarshal(value, &e); err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	if err := validID(e.ID); err != nil {
		return nil, err
	}
	if name := key[strings.LastIndexByte(key, '/')+1:]; name != e.ID {
		return nil, fmt.Errorf("it has the id %q", e.ID)
	}
	if e.LeaveWithin < 0 || e.LeaveWithin > int64(maxLeaveWithin/time.Second) {
		return nil, fmt.Errorf("it leaves within %d s", e.LeaveWithin)
	}
	return &e, nil
}

const maxLeaveWithin = 365 * 24 * time.Hour
