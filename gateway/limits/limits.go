// Package limits has what a tenant may do: Loki's limits under Loki's names,
// with defaults as Loki's, and overrides for single tenants from a file that
// can be read again while the process runs.
//
// A *Limits that For returns is never changed. Holding on to it means holding
// on to the limits of that moment; a different pointer means that something
// may have changed.
package limits

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/internal/units"
)

// Limits are the limits of one tenant.
type Limits struct {
	IngestionRateMB                   float64       `yaml:"ingestion-rate-mb" help:"bytes of lines and metadata that a tenant may push per second, in MB; 0 switches the limit off"`
	IngestionBurstSizeMB              float64       `yaml:"ingestion-burst-size-mb" help:"bytes that a tenant may push at once, in MB; a larger request passes when all of it is unused"`
	PerStreamRateLimit                units.Bytes   `yaml:"per-stream-rate-limit" help:"bytes that may be pushed to one stream per second; 0 switches the limit off"`
	PerStreamRateLimitBurst           units.Bytes   `yaml:"per-stream-rate-limit-burst" help:"bytes that may be pushed to one stream at once"`
	MaxGlobalStreamsPerUser           int           `yaml:"max-global-streams-per-user" help:"active streams of a tenant; 0 switches the limit off"`
	MaxLineSize                       units.Bytes   `yaml:"max-line-size" help:"longest line; 0 switches the limit off"`
	MaxLineSizeTruncate               bool          `yaml:"max-line-size-truncate" help:"cut lines that are too long instead of refusing them"`
	MaxLabelNameLength                int           `yaml:"max-label-name-length" help:"longest label name in bytes"`
	MaxLabelValueLength               int           `yaml:"max-label-value-length" help:"longest label value in bytes"`
	MaxLabelNamesPerSeries            int           `yaml:"max-label-names-per-series" help:"labels of a stream, service_name not counted"`
	DiscoverServiceName               []string      `yaml:"discover-service-name" help:"labels that service_name is taken from, the first that a stream has; an empty list switches it off"`
	DiscoverLogLevels                 bool          `yaml:"discover-log-levels" help:"give entries that have no detected_level the one that their labels, metadata or line tell, when they are queried; it is not stored. Not without allow-structured-metadata"`
	LogLevelFields                    []string      `yaml:"log-level-fields" help:"names of labels, metadata and fields of lines that have a level; an empty list stands for Loki's: level, severity, lvl, severity_text and other ways to write them"`
	LogLevelFromJSONMaxDepth          int           `yaml:"log-level-from-json-max-depth" help:"objects within each other in which a level is looked for in lines of JSON; 0 for any number"`
	RejectOldSamples                  bool          `yaml:"reject-old-samples" help:"refuse entries that are older than reject-old-samples-max-age"`
	RejectOldSamplesMaxAge            time.Duration `yaml:"reject-old-samples-max-age" help:"how old entries may be"`
	CreationGracePeriod               time.Duration `yaml:"creation-grace-period" help:"how far in the future entries may be"`
	AllowStructuredMetadata           bool          `yaml:"allow-structured-metadata" help:"accept entries with structured metadata"`
	MaxStructuredMetadataSize         units.Bytes   `yaml:"max-structured-metadata-size" help:"structured metadata of one entry, names and values; 0 switches the limit off"`
	MaxStructuredMetadataEntriesCount int           `yaml:"max-structured-metadata-entries-count" help:"pairs of structured metadata of one entry; 0 switches the limit off"`
	IncrementDuplicateTimestamp       bool          `yaml:"increment-duplicate-timestamp" help:"within one push, move an entry with its predecessor's time and another line behind it by 1 ns"`
	UnorderedWrites                   bool          `yaml:"unordered-writes" help:"accept entries that are older than their stream's newest"`
	OutOfOrderHorizon                 Horizon       `yaml:"out-of-order-horizon" help:"how far behind their stream's newest late entries may be: auto (reject-old-samples-max-age), a duration, or 0 for Loki's rule"`
	BlockIngestionUntil               Time          `yaml:"block-ingestion-until" help:"refuse all pushes until this time (RFC 3339)"`
	MaxQueryLength                    time.Duration `yaml:"max-query-length" help:"longest time range of a query; 0 switches the limit off"`
	MaxQueryRange                     time.Duration `yaml:"max-query-range" help:"longest interval of a metric query, as in rate({...}[1h]); 0 switches the limit off"`
	MaxQuerySeries                    int           `yaml:"max-query-series" help:"most series that a metric query may return; 0 switches the limit off"`
	MaxEntriesLimitPerQuery           int           `yaml:"max-entries-limit-per-query" help:"most entries that a query may ask for; 0 switches the limit off"`
	QueryTimeout                      time.Duration `yaml:"query-timeout" help:"longest duration of a query"`
	MaxChunksPerQuery                 int           `yaml:"max-chunks-per-query" help:"most stored chunks that a query may match; 0 switches the limit off"`
	MaxQueryBytesRead                 units.Bytes   `yaml:"max-query-bytes-read" help:"most uncompressed bytes of stored chunks that a query may read; 0 switches the limit off"`
	RetentionPeriod                   time.Duration `yaml:"retention-period" help:"how long stored chunks are kept; 0: for ever. It needs compactor.enabled, or a process with target=compactor"`
	RetentionStream                   []string      `yaml:"retention-stream" help:"periods of single streams, each as SELECTOR PRIORITY PERIOD, as {namespace=\"dev\"} 1 24h; of those that match the highest priority counts; a selector with a comma needs a YAML list"`
}

// Default returns Loki's defaults.
func Default() Limits {
	return Limits{
		IngestionRateMB:         4,
		IngestionBurstSizeMB:    6,
		PerStreamRateLimit:      3 * units.MiB,
		PerStreamRateLimitBurst: 15 * units.MiB,
		MaxGlobalStreamsPerUser: 5000,
		MaxLineSize:             256 * units.KiB,
		MaxLabelNameLength:      1024,
		MaxLabelValueLength:     2048,
		MaxLabelNamesPerSeries:  15,
		DiscoverServiceName: []string{
			"service", "app", "application", "app_name", "name", "app_kubernetes_io_name", "container",
			"container_name", "k8s_container_name", "component", "workload", "job", "k8s_job_name",
		},
		DiscoverLogLevels:                 true,
		LogLevelFromJSONMaxDepth:          2,
		RejectOldSamples:                  true,
		RejectOldSamplesMaxAge:            7 * 24 * time.Hour,
		CreationGracePeriod:               10 * time.Minute,
		AllowStructuredMetadata:           true,
		MaxStructuredMetadataSize:         64 * units.KiB,
		MaxStructuredMetadataEntriesCount: 128,
		UnorderedWrites:                   true,
		OutOfOrderHorizon:                 HorizonAuto,
		MaxQueryLength:                    721 * time.Hour,
		MaxQuerySeries:                    500,
		MaxEntriesLimitPerQuery:           5000,
		QueryTimeout:                      time.Minute,
		MaxChunksPerQuery:                 2_000_000,
	}
}

// Rate returns the tenant's rate in bytes per second and its burst in bytes. A
// rate of 0 means no limit.
func (l *Limits) Rate() (rate, burst float64) {
	return l.IngestionRateMB * (1 << 20), l.IngestionBurstSizeMB * (1 << 20)
}

// Horizon returns how far behind a stream's newest entry late ones may be; 0
// means Loki's rule.
func (l *Limits) Horizon() time.Duration {
	if l.OutOfOrderHorizon == HorizonAuto {
		return l.RejectOldSamplesMaxAge
	}
	return time.Duration(l.OutOfOrderHorizon)
}

// Validate returns everything that is wrong.
func (l Limits) Validate() []error {
	var errs []error
	fail := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
	}
	notNegative := func(name string, v float64) {
		if !(v >= 0) || math.IsInf(v, 0) {
			fail(name, "must be a number that is not negative")
		}
	}
	positive := func(name string, v int64) {
		if v <= 0 {
			fail(name, "must be greater than 0")
		}
	}
	notNegative("ingestion-rate-mb", l.IngestionRateMB)
	notNegative("ingestion-burst-size-mb", l.IngestionBurstSizeMB)
	if l.IngestionRateMB > 0 && l.IngestionBurstSizeMB == 0 {
		fail("ingestion-burst-size-mb", "must be greater than 0 when there is a rate")
	}
	notNegative("per-stream-rate-limit", float64(l.PerStreamRateLimit))
	notNegative("per-stream-rate-limit-burst", float64(l.PerStreamRateLimitBurst))
	if l.PerStreamRateLimit > 0 && l.PerStreamRateLimitBurst == 0 {
		fail("per-stream-rate-limit-burst", "must be greater than 0 when there is a rate")
	}
	notNegative("max-global-streams-per-user", float64(l.MaxGlobalStreamsPerUser))
	notNegative("max-line-size", float64(l.MaxLineSize))
	positive("max-label-name-length", int64(l.MaxLabelNameLength))
	positive("max-label-value-length", int64(l.MaxLabelValueLength))
	positive("max-label-names-per-series", int64(l.MaxLabelNamesPerSeries))
	if l.RejectOldSamples {
		positive("reject-old-samples-max-age", int64(l.RejectOldSamplesMaxAge))
	}
	notNegative("creation-grace-period", float64(l.CreationGracePeriod))
	notNegative("max-structured-metadata-size", float64(l.MaxStructuredMetadataSize))
	notNegative("max-structured-metadata-entries-count", float64(l.MaxStructuredMetadataEntriesCount))
	notNegative("log-level-from-json-max-depth", float64(l.LogLevelFromJSONMaxDepth))
	notNegative("max-query-length", float64(l.MaxQueryLength))
	notNegative("max-query-range", float64(l.MaxQueryRange))
	notNegative("max-query-series", float64(l.MaxQuerySeries))
	notNegative("max-entries-limit-per-query", float64(l.MaxEntriesLimitPerQuery))
	positive("query-timeout", int64(l.QueryTimeout))
	notNegative("max-chunks-per-query", float64(l.MaxChunksPerQuery))
	notNegative("max-query-bytes-read", float64(l.MaxQueryBytesRead))
	notNegative("retention-period", float64(l.RetentionPeriod))
	return errs
}

// Horizon is a duration, or HorizonAuto.
type Horizon time.Duration

// HorizonAuto stands for reject-old-samples-max-age.
const HorizonAuto Horizon = -1

func (h Horizon) String() string {
	if h == HorizonAuto {
		return "auto"
	}
	return config.FormatDuration(time.Duration(h))
}

// MarshalText implements encoding.TextMarshaler.
func (h Horizon) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Horizon) UnmarshalText(text []byte) error {
	switch s := strings.TrimSpace(string(text)); s {
	case "auto":
		*h = HorizonAuto
	case "0":
		*h = 0
	default:
		d, err := config.ParseDuration(s)
		if err != nil {
			return err
		}
		if d < 0 {
			return fmt.Errorf("%q is negative", s)
		}
		*h = Horizon(d)
	}
	return nil
}

// Time is a moment, or none.
type Time struct{ time.Time }

// MarshalText implements encoding.TextMarshaler.
func (t Time) MarshalText() ([]byte, error) {
	if t.IsZero() {
		return nil, nil
	}
	return t.Time.MarshalText()
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Time) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*t = Time{}
		return nil
	}
	return t.Time.UnmarshalText(text)
}
