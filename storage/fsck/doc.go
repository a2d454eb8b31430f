// Package fsck finds out whether a bucket is whole: whether every chunk is
// listed by an index file of every table that it belongs to, whether what index
// files list is there, whether all of it can be read, and whether there is
// anything else. It mends what can be mended without losing anything.
//
// # How it works
//
// A run reads all index files and keeps a 64-bit hash of each listing, which is
// a chunk in a table; then it lists the chunks of every tenant, reads them
// unless that is not wanted, and looks each one up; then it reads those index
// files again that have listings which no chunk has claimed. Two listings with
// the same hash, one in about 10^6 runs over 10^7 of them, could hide a finding
// and never make one.
//
// # Beside others
//
// A bucket changes while it is looked at. What looks wrong is looked at again
// before it is reported:
//
//   - A chunk that is not listed: index files that have come since are read.
//     Then markers of the compactor are: what retention drops is named there
//     before the index loses it (PendingDeletion). Then the chunk itself: it may
//     be gone. Writers put chunks first and list them later, so a chunk that is
//     younger than Config.Grace is no finding (Recent).
//   - A listing without its chunk: the index file must still be there; the
//     compactor deletes a chunk only when no file lists it any more.
//   - What cannot be read is fetched again.
//
// # Memory
//
// Listings take 8 bytes each, and while their list grows up to 20: with more of
// them than fit into Config.MaxMemory the run goes over the bucket in 16 parts,
// or 256 and so on, by the first digits of the streams' fingerprints. Beside
// them are the names of all index files, of the streams of one tenant at a
// time, and of about maxGroup chunks (of a single stream with more, all of its)
// in each of Config.Concurrency groups of streams; as many chunks and index
// files; and, with Repair, what an index says of maxRebuild chunks.
//
// # Repair
//
// With Config.Repair
//
//   - chunks that are not listed are listed by new index files, made from what
//     the chunks say of themselves, one for each tenant and table and
//     maxRebuild chunks, as a flush would put them;
//   - index files that list chunks that are gone are written anew, under a name
//     with a greater number, without them, and then deleted. If nothing is left
//     of one it is set aside;
//   - index files that cannot be read are set aside when all chunks are listed:
//     copied to SetAsideDir, then deleted.
//
// Nothing else is deleted, and nothing is overwritten. Every step leaves a
// bucket in which at least what was listed before is listed, so a run may end
// anywhere; the next one does the rest. Index entries follow the rule of the
// compactor: of the files that list a chunk the one with the greatest number
// stays.
//
// # Use
//
// New, then Run, once. Progress may be asked for meanwhile. All goroutines end
// before Run returns.
package fsck
