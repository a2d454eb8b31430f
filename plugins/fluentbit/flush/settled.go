package flush

import (
	"sync"

	"github.com/loki-go/loki-go/proto/push"
)

// settlement is how a push ended.
type settlement struct {
	id      push.ID
	stored  bool // some of it
	refused bool // some of it, for good
}

// maxSettled bounds how many pushes are remembered.
const maxSettled = 4096

// settled remembers the pushes that are settled, of chunks that will come again
// because of others: when they do, these need not be sent, and what was refused
// is not logged again. What is forgotten is sent, and the server recognises its
// id.
type settled struct {
	mu    sync.Mutex
	byID  map[push.ID]settlement
	order []push.ID // oldest first; may have ids that are forgotten
}

func (s *settled) find(id push.ID) (settlement, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.byID[id]
	return found, ok
}

// end takes in the pushes that a flush has settled, and whether its chunk will
// come again.
func (s *settled) end(done []settlement, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range done {
		switch {
		case !again:
			delete(s.byID, d.id)
		case s.byID == nil:
			s.byID = make(map[push.ID]settlement)
			fallthrough
		default:
			if _, known := s.byID[d.id]; !known {
				s.byID[d.id] = d
				s.order = append(s.order, d.id)
			}
		}
	}
	if len(s.byID) == 0 {
		s.order = nil
	}
	for len(s.order) > maxSettled {
		delete(s.byID, s.order[0])
		s.order = s.order[1:]
	}
}
