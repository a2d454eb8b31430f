package bench

import (
	"fmt"
	"io"
)

// Print writes r as one row of the table that Header starts. floor is in CPU
// seconds per GB.
func (r Result) Print(w io.Writer, name string, floor float64) {
	raw := float64(r.Load.Bytes)
	fmt.Fprintf(w, "%-22s %6.2f %7.2f %7.2f %6.2fx %7.0f %7.1f %7.1f %7.0f %7.0f %7.2f %7.3f\n",
		name, raw/1e9, r.PerGB(r.Ingest), r.PerGB(r.Flushed), r.PerGB(r.Flushed)/floor, raw/1e6/r.Load.Seconds,
		r.Load.P50, r.Load.P99, float64(r.IngestRSS)/1e6, float64(r.PeakRSS)/1e6,
		float64(r.Written)/raw, float64(r.Stored)/raw)
	fmt.Fprintf(w, "%22s per byte of lines: body %.3f, WAL %.3f, blocks %.3f, objects %.3f; flush took %.1f s, %d retries\n", "",
		float64(r.Load.Body)/raw, float64(r.WAL)/raw, float64(r.Blocks)/raw, float64(r.Objects)/raw, r.FlushSeconds, r.Load.Retries)
}

// Header explains the columns of Print and names them.
func Header(w io.Writer) {
	fmt.Fprint(w, `GB: lines sent, in 10^9 bytes. ingest, +flush: CPU s of the server per GB until the last ack, and until
all is stored. floor: +flush over the floor. MB/s: lines per second, senders on the same cores. p50, p99: ms
from request to ack. RSS: peak in MB until the last ack, and until all is stored. written: bytes that the
server wrote (WAL, blocks, objects) per byte of lines. stored: bytes of chunks and index per byte of lines.

`)
	fmt.Fprintf(w, "%-22s %6s %7s %7s %7s %7s %7s %7s %7s %7s %7s %7s\n",
		"", "GB", "ingest", "+flush", "floor", "MB/s", "p50", "p99", "RSS", "RSS+fl", "written", "stored")
}

// Print writes the floor of a load.
func (r FloorResult) Print(w io.Writer, name string) {
	gb := float64(r.Bytes) / 1e9
	fmt.Fprintf(w, "floor of %-13s %6.2f %7s %7.2f CPU s/GB: decode, scan, checksum, copy %.2f, write and fdatasync %.2f, zstd %.2f; stored %.3f\n",
		name, gb, "", r.Total(), r.Decode/gb, r.Write/gb, r.Zstd/gb, float64(r.Stored)/float64(r.Bytes))
}
