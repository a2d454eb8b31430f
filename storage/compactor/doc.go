// Package compactor looks after a bucket: it makes one index file out of the
// many that a tenant has in a table, and deletes what a tenant's retention
// does not keep.
//
// # Merging
//
// Files are never changed, only added and deleted. A merge puts the new file,
// then a marker that names it and those that it replaces:
//
//	loki-go/superseded/<day>/<created ns>-<random>.json
//
// A file that a marker names is left alone by later merges. It is deleted
// when the marker is older than delete-delay and the new file is there and
// whole, and then the marker. Files of many tenants, which Loki's ingesters
// upload, are split into one file for each tenant first, in the same way.
//
// Readers that listed a table before the new file was put still find all that
// they listed, for delete-delay. loki-go lists anew for every query and again
// if something is gone. Loki keeps a listing for a minute and what it has
// downloaded for its resync_interval (5m): it leaves out a file that is gone
// without an error, hence delete-delay must be longer than both together.
//
// # Safety
//
// A run may end anywhere, and may meet writers and other compactors:
//
//   - Before the marker exists there are two files that list the same, which
//     readers see once and the next run merges.
//   - A file is deleted only if another one that lists all of it exists, and
//     that one has a greater number at the beginning of its name. Hence of all
//     files that list a chunk the one with the greatest number is never
//     deleted, whoever deletes at the same time and whatever they know.
//   - A marker whose new file is gone says nothing; what it names is merged
//     again.
//
// One compactor at a time owns the lease in loki-go/compactor/lease.json, so
// that work is not done twice. Nothing depends on it: the store has no
// conditional writes, and a lease without them can have two owners for a
// while. The time that the store gives for it tells whether the clocks agree: if
// they are more than a quarter of an hour apart nothing is merged or deleted.
//
// # Retention
//
// A chunk expires when its last entry is older than the period that applies to
// its stream. The steps are
//
//  1. loki-go/deletes/<tenant>/<created ns>-<random>.json names the chunks,
//  2. the index files are rewritten without them, as a merge does it,
//  3. when the marker is older than retention-delete-delay and no file of any
//     table that the chunks belong to lists them, that is noted in the marker,
//  4. delete-delay later, if this is still so, the chunks are deleted.
//
// A merge that read a file before it was deleted may put back what was in there.
// Before it stores its result it makes sure that all that it has read is still
// there, or was so within a quarter of delete-delay. So what the second look of
// step 4 does not find listed, no merge can list again, and no index entry is
// ever without its chunk, as long as a put takes less than half of delete-delay.
//
// # Use
//
// New, then either Run, which works until its context ends, or RunOnce. A
// Compactor is not for concurrent use. All goroutines end before these return.
package compactor
