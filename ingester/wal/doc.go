// Package wal is a segmented write-ahead log with group commit. It knows
// nothing of what is in a record.
//
// # Life cycle
//
// Open finds the segments that an earlier process left and the end of the log;
// it creates no file, so that a full disk does not stand in the way of
// recovery. Replay hands out the records, once, before the first Append. Append
// adds a record to the group that is gathering; Ticket.Wait returns when that
// group is as durable as the sync mode promises. Truncate deletes segments from
// the front. Close writes what was appended.
//
// # Concurrency
//
// All methods are safe for concurrent use. Append copies under one mutex,
// checksums outside of it. One goroutine, the writer, takes one group after the
// other: one write, one fdatasync, and all who wait for the group are released;
// meanwhile the next group gathers. A second goroutine, the preparer, allocates
// the next segment ahead of time and gives back what full ones did not use.
// What waits to be written is bounded: Append blocks beyond 64 MiB.
//
// # Numbers
//
// A record's LSN is one more than that of the one before it. Numbers are never
// given twice: those of records that could not be written stay unused, so that
// there may be gaps between segments, never within one. A segment's id grows
// likewise.
//
// Append is told for which segment its record was made and refuses others: the
// caller can have the first record of a segment define what later ones refer
// to. All records of a segment that are not durable when a write fails are
// given up together, therefore, and the log goes on in another segment.
//
// # Format
//
// A segment is a file named by its id, 20 decimal digits and ".wal". Integers
// are little-endian, checksums CRC-32C.
//
//	segment header, 64 bytes
//	   0  8  magic "LKGOWAL\n"
//	   8  u32  version, 1
//	  12  u32  salt, random, not 0
//	  16  u64  id
//	  24  u64  number of the first record
//	  32  u64  id of the segment before, 0 if there was none
//	  40  u64  last: the last record before this segment that counts
//	  48  u64  sure: up to here all records before this segment were acknowledged
//	  56  u32  0
//	  60  u32  checksum of bytes 0 to 60
//
//	record, at a multiple of 8
//	   0  u32  the segment's salt
//	   4  u32  checksum of bytes 8 to 32, then of bytes 0 to 4
//	   8  u64  number
//	  16  u32  length of the payload
//	  20  u32  place in its group, from 0
//	  24  u32  checksum of the payload
//	  28  u32  0
//	  32       payload, and zeros to the next multiple of 8
//
// Behind the last record are zeros, as the file was allocated in advance; a
// segment is cut to its records when the next one begins. The salt keeps
// payloads, which clients choose, from being taken for records when a damaged
// log is searched for the next one, and old disk content from being taken for
// new. Other files: "NNN.new" is the next segment, written to before it gets
// its name (so a segment's name implies its header); "ballast" is space that is
// given up when the disk is full.
//
// # Damage
//
// A record whose header is whole but whose payload is not is left out. Where no
// header checks out, the next one is searched for. Replay then knows from the
// numbers what is missing, and from the headers whether it matters:
//
//   - The writer starts a group only when the one before it is acknowledged. So
//     what is missing before the start of the newest group found had been
//     acknowledged: that is corruption, which is logged as an error, counted in
//     ReplayStats and in a metric, and skipped.
//   - What is missing from there on was being written when the power failed: the
//     torn tail. It is cut off, and nothing is ever appended behind it.
//   - A segment's header says up to where the records before it count. If fewer
//     are found, a segment is missing or damaged at its end (corruption); more
//     were never acknowledged, and are left out.
//
// If a segment's header is damaged, its records give away salt and numbers. With
// sync mode interval or never, acknowledged means written: after a power loss the
// log may say, truthfully, that acknowledged records are missing.
//
// # Failing writes
//
// When a write or a sync fails, everybody who waits for a record in that segment
// that is not durable gets the error. The segment is cut behind its last durable
// record and never written again: after a failed fdatasync the kernel may have
// dropped the pages and forgotten the error, so a later success would prove
// nothing. The next record begins another segment. Records given up are not seen
// again once that segment is durable; if the process ends before, they may be
// replayed. To whoever appended them this is an answer that was lost.
//
// Segments are allocated before they are written to, so a full disk shows when
// the next one cannot be had: waiters get ErrDiskFull, the ballast is released so
// that others can do what makes Truncate possible, and every later group tries
// again.
package wal
