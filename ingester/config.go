package ingester

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/loki-go/loki-go/ingester/wal"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/storage/chunk"
)

// Config holds the settings of an ingester.
type Config struct {
	ID        string `yaml:"id" help:"name of this instance in the ring; the host name if empty"`
	Zone      string `yaml:"zone" help:"availability zone of this instance"`
	Advertise string `yaml:"advertise" help:"HOST:PORT at which gateways reach this instance"`

	WAL WALConfig `yaml:"wal"`

	ChunkEncoding   string        `yaml:"chunk-encoding" help:"compression of chunks: none, gzip, lz4, snappy, zstd"`
	ChunkTargetSize units.Bytes   `yaml:"chunk-target-size" help:"compressed size at which a chunk is full"`
	ChunkBlockSize  units.Bytes   `yaml:"chunk-block-size" help:"uncompressed size at which a head is cut to a block"`
	ChunkIdlePeriod time.Duration `yaml:"chunk-idle-period" help:"flush a stream that got nothing for this long; up to a tenth earlier, each stream at another time"`
	MaxChunkAge     time.Duration `yaml:"max-chunk-age" help:"flush a chunk that is this old or spans this much log time, up to a tenth earlier, each stream at another time; half of it is how late an entry may be for the open chunk"`
	FlushOnShutdown bool          `yaml:"flush-on-shutdown" help:"store everything before the process ends"`

	HeadMemory       units.Bytes   `yaml:"head-memory" help:"memory for the heads of all streams; 0: a quarter of what the process may use, at most 512MB"`
	DiskBudget       units.Bytes   `yaml:"disk-budget" help:"local disk for WAL and blocks together, which hold what the object store does not take; when it is used up pushes are refused; 0: three quarters of the volume"`
	DiskReserve      units.Bytes   `yaml:"disk-reserve" help:"space on the volume that pushes leave free; 0: 1GB; at most a twentieth of the volume"`
	FlushConcurrency int           `yaml:"flush-concurrency" help:"chunks uploaded at one time; fewer after errors of the store"`
	FlushTimeout     time.Duration `yaml:"flush-timeout" help:"deadline of one upload"`
	FlushCheckPeriod time.Duration `yaml:"flush-check-period" help:"how often idle and old chunks are looked for"`
	PushIDWindow     time.Duration `yaml:"push-id-window" help:"how long the ids of stored pushes are remembered, so that one that a client repeats is not stored again; 0: not at all"`
	OneCopy          bool          `yaml:"one-copy" help:"with ring.replication-factor above 1: one replica of a stream stores it, and the others let go of what they are told is stored; false: every replica stores what it has"`
	OneCopyGrace     time.Duration `yaml:"one-copy-grace" help:"how long the second replica of a stream waits for the first to store what it has, too; the third waits twice as long; should be well above index-interval"`
	IndexInterval    time.Duration `yaml:"index-interval" help:"how long stored chunks wait for their index file, so that few are written; they stay in local blocks for as long"`
}

// WALConfig holds the settings of the write-ahead log.
type WALConfig struct {
	Sync         string        `yaml:"sync" help:"when a push is durable: always (fsync before the answer), interval, never"`
	SyncInterval time.Duration `yaml:"sync-interval" help:"time between fsyncs with sync=interval"`
	MaxSize      units.Bytes   `yaml:"max-size" help:"heads that keep a larger WAL from being truncated are cut early"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		WAL:              WALConfig{Sync: "always", SyncInterval: 100 * time.Millisecond, MaxSize: 1 << 30},
		ChunkEncoding:    "zstd",
		ChunkTargetSize:  1572864,
		ChunkBlockSize:   262144,
		ChunkIdlePeriod:  30 * time.Minute,
		MaxChunkAge:      2 * time.Hour,
		FlushOnShutdown:  true,
		FlushConcurrency: 16,
		FlushTimeout:     time.Minute,
		FlushCheckPeriod: 10 * time.Second,
		// Fluent Bit waits up to 2000 s before it repeats a chunk.
		PushIDWindow:  2 * time.Hour,
		IndexInterval: 15 * time.Minute,
		OneCopy:       true,
		OneCopyGrace:  30 * time.Minute,
	}
}

// maxPushIDs bounds how many ids of pushes are remembered: about 100 bytes of
// memory each.
const maxPushIDs = 1 << 20

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("ingester."+format, args...)) }
	if _, err := chunk.ParseCodec(c.ChunkEncoding); err != nil {
		bad("chunk-encoding: %w", err)
	}
	if _, err := wal.ParseSyncMode(c.WAL.Sync); err != nil {
		bad("wal.sync: %w", err)
	}
	if c.WAL.Sync == "interval" && c.WAL.SyncInterval <= 0 {
		bad("wal.sync-interval: must be above 0")
	}
	if c.WAL.MaxSize < 4<<20 {
		bad("wal.max-size: must be 4MB or more")
	}
	if c.ChunkBlockSize < 1024 || c.ChunkBlockSize > 16<<20 {
		bad("chunk-block-size: must be between 1KB and 16MB, is %d", int64(c.ChunkBlockSize))
	}
	if c.ChunkTargetSize < c.ChunkBlockSize/16 || c.ChunkTargetSize > 1<<30 {
		bad("chunk-target-size: must be between a sixteenth of chunk-block-size and 1GB, is %d", int64(c.ChunkTargetSize))
	}
	for name, d := range map[string]time.Duration{
		"chunk-idle-period": c.ChunkIdlePeriod, "max-chunk-age": c.MaxChunkAge, "flush-timeout": c.FlushTimeout,
		"flush-check-period": c.FlushCheckPeriod,
	} {
		if d <= 0 {
			bad("%s: must be above 0", name)
		}
	}
	if c.PushIDWindow < 0 {
		bad("push-id-window: must not be negative")
	}
	if c.OneCopyGrace <= 0 {
		bad("one-copy-grace: must be above 0")
	}
	if c.IndexInterval < 0 {
		bad("index-interval: must not be negative")
	}
	if c.FlushConcurrency < 1 {
		bad("flush-concurrency: must be 1 or more")
	}
	if c.DiskBudget != 0 && c.DiskBudget < 16<<20 {
		bad("disk-budget: must be 0 or 16MB and more")
	}
	if c.DiskReserve < 0 {
		bad("disk-reserve: must not be negative")
	}
	if c.HeadMemory != 0 && c.HeadMemory < 1<<20 {
		bad("head-memory: must be 0 or 1MB and more")
	}
	return errs
}

// headMemory resolves the default of HeadMemory.
func (c Config) headMemory() int64 {
	if c.HeadMemory > 0 {
		return int64(c.HeadMemory)
	}
	return min(max(memoryLimit()/4, 32<<20), 512<<20)
}

// memoryLimit returns the bytes of memory that this process may use: the limit
// of its control group (v2 or v1), else the machine's memory.
func memoryLimit() int64 {
	limit := int64(1) << 40
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(name); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
				limit = min(limit, n)
			}
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 && f[0] == "MemTotal:" {
			if kb, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				limit = min(limit, kb<<10)
			}
		}
	}
	return limit
}

// cutters is the number of workers that compress blocks.
func cutters() int { return max(1, runtime.GOMAXPROCS(0)) }
