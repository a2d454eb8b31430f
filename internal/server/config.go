package server

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/loki-go/loki-go/cluster"
	"github.com/loki-go/loki-go/gateway"
	"github.com/loki-go/loki-go/gateway/auth"
	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/ingester"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/plugins/elasticsearch"
	"github.com/loki-go/loki-go/plugins/forward"
	"github.com/loki-go/loki-go/plugins/grpcpush"
	"github.com/loki-go/loki-go/plugins/httpjson"
	"github.com/loki-go/loki-go/plugins/lokipush"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/plugins/otlp"
	"github.com/loki-go/loki-go/plugins/syslog"
	"github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/ring/consul"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunkcache"
	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/azure"
	"github.com/loki-go/loki-go/storage/objstore/gcs"
	"github.com/loki-go/loki-go/storage/objstore/s3"
)

// Config holds all settings of the process.
type Config struct {
	Target  string `yaml:"target" help:"parts to run: all, everything in one process; gateway, which takes pushes and queries; ingester, which keeps what is new; querier, which answers queries; compactor, which only looks after the bucket, as compactor.enabled does"`
	DataDir string `yaml:"data-dir" help:"directory of the WAL, the blocks, and the filesystem object store (in objects)"`

	Log           LogConfig            `yaml:"log"`
	Server        ServerConfig         `yaml:"server"`
	Auth          AuthConfig           `yaml:"auth"`
	LokiPush      lokipush.Config      `yaml:"loki-push"`
	Forward       forward.Config       `yaml:"forward"`
	JSON          httpjson.Config      `yaml:"json"`
	Elasticsearch elasticsearch.Config `yaml:"elasticsearch"`
	Syslog        syslog.Config        `yaml:"syslog"`
	GRPCPush      grpcpush.Config      `yaml:"grpc-push"`
	OTLP          otlp.Config          `yaml:"otlp"`
	Mapping       mapping.Profiles     `yaml:"mapping"`
	Gateway       gateway.Config       `yaml:"gateway"`
	Limits        limits.Config        `yaml:"limits"`
	Ring          RingConfig           `yaml:"ring"`
	Cluster       cluster.Config       `yaml:"cluster"`
	Ingester      ingester.Config      `yaml:"ingester"`
	Storage       StorageConfig        `yaml:"storage"`
	Cache         chunkcache.Config    `yaml:"cache"`
	Compactor     compactor.Config     `yaml:"compactor"`
	Query         query.Config         `yaml:"query"`
}

// LogConfig says what is logged, and how.
type LogConfig struct {
	Level  string `yaml:"level" help:"lowest level that is logged: debug, info, warn, error; /log_level changes it while running"`
	Format string `yaml:"format" help:"logfmt or json"`
}

// ServerConfig holds the settings of the HTTP and gRPC servers.
type ServerConfig struct {
	HTTPConfig         `yaml:",inline"`
	GRPCListen         string         `yaml:"grpc-listen" help:"address of the gRPC server: push from the Fluent Bit plugin; empty switches it off"`
	GRPCReflection     bool           `yaml:"grpc-reflection" help:"true: the gRPC server tells clients such as grpcurl which services it has"`
	GRPCTLS            tlsconf.Server `yaml:"grpc-tls"`
	GRPCMaxConnections int            `yaml:"grpc-max-connections" help:"most gRPC connections at a time; others wait"`
	ShutdownTimeout    time.Duration  `yaml:"shutdown-timeout" help:"how long the end of the process may take to finish pushes and, with ingester.flush-on-shutdown, to store everything; what is not stored by then stays in the WAL"`
}

// AuthConfig says whether requests must name their tenant.
type AuthConfig struct {
	Enabled bool `yaml:"enabled" help:"true: every request names its tenant in X-Scope-OrgID; false: everything belongs to the tenant fake"`

	auth.Config `yaml:",inline"`
}

// RingConfig says where the members of the ring meet.
type RingConfig struct {
	Store             string        `yaml:"store" help:"memory, for a single process, or consul"`
	Prefix            string        `yaml:"prefix" help:"prefix of the keys in Consul"`
	Cluster           string        `yaml:"cluster" help:"name of the cluster; members of another one that have the same prefix are ignored"`
	Consul            consul.Config `yaml:"consul"`
	ReplicationFactor int           `yaml:"replication-factor" help:"instances that keep each stream, 1 to 5; a ring in memory has one. A push is acknowledged when more than half of them have it on disk"`
}

// InConsul returns the settings of a ring in Consul.
func (c RingConfig) InConsul() consul.Config {
	c.Consul.Prefix, c.Consul.Cluster = c.Prefix, c.Cluster
	return c.Consul
}

// StorageConfig says where chunks and indexes are stored.
type StorageConfig struct {
	Type     string               `yaml:"type" help:"filesystem (in data-dir/objects), s3, gcs or azure"`
	S3       s3.Config            `yaml:"s3"`
	GCS      gcs.Config           `yaml:"gcs"`
	Azure    azure.Config         `yaml:"azure"`
	Requests objstore.RetryConfig `yaml:"requests"`

	storage.Config `yaml:",inline"`
}

// DefaultConfig returns what runs without any setting: everything in one
// process, with its data in ./data.
func DefaultConfig() Config {
	return Config{
		Target:        "all",
		DataDir:       "./data",
		Log:           LogConfig{Level: "info", Format: "logfmt"},
		Server:        ServerConfig{HTTPConfig: DefaultHTTPConfig(), GRPCListen: ":9095", GRPCReflection: true, GRPCMaxConnections: 10000, ShutdownTimeout: 5 * time.Minute},
		LokiPush:      lokipush.DefaultConfig(),
		Forward:       forward.DefaultConfig(),
		JSON:          httpjson.DefaultConfig(),
		GRPCPush:      grpcpush.DefaultConfig(),
		OTLP:          otlp.DefaultConfig(),
		Elasticsearch: elasticsearch.DefaultConfig(),
		Syslog:        syslog.DefaultConfig(),
		Auth:          AuthConfig{Config: auth.DefaultConfig()},
		Mapping:       mapping.DefaultProfiles(),
		Gateway:       gateway.DefaultConfig(),
		Limits:        limits.DefaultConfig(),
		Ring:          RingConfig{Store: "memory", Prefix: consul.DefaultConfig().Prefix, Cluster: consul.DefaultConfig().Cluster, Consul: consul.DefaultConfig(), ReplicationFactor: 1},
		Cluster:       cluster.DefaultConfig(),
		Ingester:      ingester.DefaultConfig(),
		Storage: StorageConfig{
			Type: "filesystem", S3: s3.DefaultConfig(), GCS: gcs.DefaultConfig(), Azure: azure.DefaultConfig(),
			Requests: objstore.DefaultRetryConfig(), Config: storage.DefaultConfig(),
		},
		Cache:     chunkcache.DefaultConfig(),
		Compactor: compactor.DefaultConfig(),
		Query:     query.DefaultConfig(),
	}
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	errs := append(c.validateParts(), c.Storage.validateType()...)
	if c.DataDir == "" {
		errs = append(errs, fmt.Errorf("data-dir: must not be empty"))
	}
	if _, err := c.Log.level(); err != nil {
		errs = append(errs, err)
	}
	if c.Log.Format != "logfmt" && c.Log.Format != "json" {
		errs = append(errs, fmt.Errorf("log.format: %q is neither logfmt nor json", c.Log.Format))
	}
	if _, err := retentionRules(c.Limits.RetentionStream); err != nil {
		errs = append(errs, fmt.Errorf("limits.%w", err))
	}
	if c.Server.ShutdownTimeout <= 0 {
		errs = append(errs, fmt.Errorf("server.shutdown-timeout: must be above 0"))
	}
	for _, s := range []struct {
		name string
		errs []error
	}{
		{"server", c.Server.HTTPConfig.validate()},
		{"server.grpc-tls", c.Server.GRPCTLS.Validate()},
		{"loki-push", c.LokiPush.Validate()},
		{"forward", c.Forward.Validate()},
		{"json", c.JSON.Validate()},
		{"elasticsearch", c.Elasticsearch.Validate()},
		{"syslog", c.Syslog.Validate()},
		{"otlp", c.OTLP.Validate()},
		{"grpc-push", c.GRPCPush.Validate()},
		{"auth", c.Auth.Validate()},
		{"mapping", c.Mapping.Validate()},
		{"gateway", c.Gateway.Validate()},
		{"cluster", c.Cluster.Validate()},
		{"limits", c.Limits.Validate()},
		{"ingester", c.Ingester.Validate()},
		{"storage", c.Storage.Validate()},
		{"storage.requests", c.Storage.Requests.Validate()},
		{"query", c.Query.Validate()},
		{"cache", c.Cache.Validate()},
		{"compactor", c.Compactor.Validate()},
	} {
		for _, err := range s.errs {
			if !strings.HasPrefix(err.Error(), s.name+".") {
				err = fmt.Errorf("%s.%w", s.name, err)
			}
			errs = append(errs, err)
		}
	}
	return errs
}

// Targets beside compactor.
const (
	targetAll      = "all"
	targetGateway  = "gateway"
	targetIngester = "ingester"
	targetQuerier  = "querier"
)

// ingests and distributes say which parts a process has; all but a compactor
// answer queries of what they can reach.
func (c Config) ingests() bool     { return c.Target == targetAll || c.Target == targetIngester }
func (c Config) distributes() bool { return c.Target == targetAll || c.Target == targetGateway }

// clustered says that other processes are part of the ring.
func (c Config) clustered() bool { return c.Ring.Store == "consul" && c.Target != targetCompactor }

// validateParts finds what does not go together.
func (c Config) validateParts() (errs []error) {
	f := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	alone := c.Target == targetAll || c.Target == targetCompactor
	f(c.Server.GRPCMaxConnections > 0, "server.grpc-max-connections: must be above 0, is %d", c.Server.GRPCMaxConnections)
	f(alone || c.ingests() || c.distributes() || c.Target == targetQuerier, "target: %q is not all, gateway, ingester, querier or compactor", c.Target)
	switch c.Ring.Store {
	case "memory":
		f(alone, "target: %s needs other processes, which ring.store=memory does not find; ring.store=consul does", c.Target)
		f(c.Ring.ReplicationFactor == 1, "ring.replication-factor: a ring in memory has one instance, %d is not possible", c.Ring.ReplicationFactor)
	case "consul":
		f(!c.clustered() || c.Storage.Type != "filesystem", "storage.type: with ring.store=consul all processes share a store; filesystem is within data-dir")
		f(!c.clustered() || !c.ingests() || c.Server.GRPCListen != "", "server.grpc-listen: an ingester must be reached by gRPC")
		f(!c.clustered() || !c.ingests() || c.Ring.Consul.LeavingTimeout > c.Server.ShutdownTimeout,
			"ring.consul.leaving-timeout: an instance must be a member for as long as its end may take: %v is not more than server.shutdown-timeout, %v",
			c.Ring.Consul.LeavingTimeout, c.Server.ShutdownTimeout)
		f(!c.clustered() || !c.ingests() || !c.Auth.Config.Enabled() || c.Cluster.Secret != "",
			"cluster.secret: without it an ingester answers everyone who reaches its gRPC port, for all tenants, whatever auth.users-file says")
		for _, err := range c.Ring.InConsul().Validate() {
			errs = append(errs, fmt.Errorf("ring.consul.%w", err))
		}
		f(c.Ring.ReplicationFactor >= 1 && c.Ring.ReplicationFactor <= gateway.MaxReplicationFactor,
			"ring.replication-factor: %d is not 1 to %d", c.Ring.ReplicationFactor, gateway.MaxReplicationFactor)
	default:
		f(false, "ring.store: %q is neither memory nor consul", c.Ring.Store)
	}
	return errs
}

// validateType returns the problems of the store in use; the settings of the
// others may be anything.
func (c StorageConfig) validateType() (errs []error) {
	switch c.Type {
	case "filesystem":
		return nil
	case "s3":
		errs = c.S3.Validate()
	case "gcs":
		errs = c.GCS.Validate()
	case "azure":
		errs = c.Azure.Validate()
	default:
		return []error{fmt.Errorf("storage.type: %q is not filesystem, s3, gcs or azure", c.Type)}
	}
	for i, err := range errs {
		errs[i] = fmt.Errorf("storage.%s.%w", c.Type, err)
	}
	return errs
}

// gateway returns the settings of the gateway.
func (c Config) gateway() gateway.Config {
	g := c.Gateway
	g.AuthEnabled, g.ReplicationFactor = c.Auth.Enabled, c.Ring.ReplicationFactor
	return g
}

// MappingLimits are those of one entry's metadata.
func (c Config) MappingLimits() mapping.Limits {
	return mapping.Limits{
		Pairs: c.Limits.MaxStructuredMetadataEntriesCount, Bytes: int(c.Limits.MaxStructuredMetadataSize), Labels: c.Limits.MaxLabelNamesPerSeries,
	}
}

func (c LogConfig) level() (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.Level)); err != nil {
		return l, fmt.Errorf("log.level: %q is not debug, info, warn or error", c.Level)
	}
	return l, nil
}

// instanceID is the name of this instance in the ring.
func (c Config) instanceID() string {
	if c.Ingester.ID != "" {
		return c.Ingester.ID
	}
	if name, err := os.Hostname(); err == nil {
		return name
	}
	return "loki-go"
}

func (c Config) objectsDir() string { return filepath.Join(c.DataDir, "objects") }
