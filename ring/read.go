package ring

// Reading. A stream may be in the memory of any instance that was among the
// first RF ACTIVE ones of its walk at some time since it was last flushed, and
// a query names labels, not streams. So a query asks every member: ACTIVE ones,
// JOINING ones, whose WAL has what they acknowledged before their restart, and
// LEAVING ones, which have what they did not flush yet. A write was
// acknowledged by RF/2+1 instances of its replica set, so an answer is complete
// as long as no more than RF/2 instances of any replica set are missing in it:
// RF/2 instances wherever they are, and, where there are zones, any number of
// instances of RF/2 zones, because a set has no two instances of one zone as
// long as there are enough zones.

// Readers says whether those who answered a query are enough. It is a value of
// a ring and may be used concurrently.
type Readers struct {
	r        *Ring
	tolerate int // instances of a replica set that may be missing
	perZone  int // most instances that a replica set has of one zone
}

// Readers returns the rule for writes with this replication factor. Whom to ask
// is all of Instances.
func (r *Ring) Readers(rf int) Readers {
	rf = min(max(rf, 1), MaxReplicas)
	return Readers{r: r, tolerate: rf / 2, perZone: r.mostOfAZone(rf)}
}

// mostOfAZone returns how many instances of one zone a replica set can have had,
// when all members were ACTIVE: what is in memory may be from then.
func (r *Ring) mostOfAZone(rf int) int {
	size := map[string]int{}
	for i := range r.instances {
		size[r.instances[i].Zone]++
	}
	for most := 1; ; most++ {
		got := 0
		for _, n := range size {
			got += min(most, n)
		}
		if got >= min(rf, len(r.instances)) {
			return most
		}
	}
}

// Enough reports whether the answers are complete without those of the
// instances (indices in Instances, each once) that have failed, or did not
// answer yet. It holds for what was written while no more than RF/2 instances
// of a replica set were away.
func (s Readers) Enough(missing []int) bool {
	if len(missing) <= s.tolerate {
		return true
	}
	if s.r.active == 0 {
		return false
	}
	lost := 0
	for i, a := range missing {
		zone := s.r.instances[a].Zone
		before := 0 // in missing, of this zone
		for _, b := range missing[:i] {
			if s.r.instances[b].Zone == zone {
				before++
			}
		}
		if before < s.perZone {
			lost++
		}
	}
	return lost <= s.tolerate
}
