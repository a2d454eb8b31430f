package otlp

import (
	"fmt"
	"time"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/proto/push"
)

// Config holds the settings of the receiver.
type Config struct {
	LabelAttributes    []string       `yaml:"label-attributes" help:"resource attributes that become labels, by their exact names; all others become structured metadata"`
	MaxRecvSize        units.Bytes    `yaml:"max-recv-size" help:"largest request over HTTP as sent, compressed"`
	MaxDecodedSize     units.Bytes    `yaml:"max-decoded-size" help:"largest request over HTTP after decompression; also the largest that it may become when each record has got the attributes of its resource"`
	MaxRecords         int            `yaml:"max-records" help:"most log records in one request"`
	MaxValues          int            `yaml:"max-values" help:"most values in the attributes or the body of one log record, nested ones included; a record with more is refused"`
	GRPCListen         string         `yaml:"grpc-listen" help:"address of the OTLP gRPC server; empty: off"`
	GRPCTLS            tlsconf.Server `yaml:"grpc-tls"`
	GRPCMaxRecvSize    units.Bytes    `yaml:"grpc-max-recv-size" help:"largest request over gRPC, as sent and after decompression"`
	GRPCMaxStreams     int            `yaml:"grpc-max-streams" help:"most requests at a time in one gRPC connection; others wait"`
	GRPCMaxConnections int            `yaml:"grpc-max-connections" help:"most gRPC connections at a time; others wait"`
	GRPCIdleTimeout    time.Duration  `yaml:"grpc-idle-timeout" help:"time after which a gRPC connection without requests is closed"`
	GRPCDrainTimeout   time.Duration  `yaml:"grpc-drain-timeout" help:"how long a shutdown waits for gRPC requests under way"`
}

// DefaultConfig returns Loki's labels and its limit for what is sent, and a
// tenth of its limit for what that may decompress to.
func DefaultConfig() Config {
	return Config{
		LabelAttributes: []string{
			"cloud.availability_zone", "cloud.region", "container.name",
			"deployment.environment", "deployment.environment.name",
			"k8s.cluster.name", "k8s.container.name", "k8s.cronjob.name", "k8s.daemonset.name", "k8s.deployment.name",
			"k8s.job.name", "k8s.namespace.name", "k8s.pod.name", "k8s.replicaset.name", "k8s.statefulset.name",
			"service.instance.id", "service.name", "service.namespace",
		},
		MaxRecvSize:    100 * units.MiB,
		MaxDecodedSize: 512 * units.MiB,
		MaxRecords:     1_000_000,
		MaxValues:      4096,
		GRPCListen:     ":4317",
		// A client gives up what is larger, so this is far above the 4 MiB that
		// gRPC has by itself.
		GRPCMaxRecvSize:    64 * units.MiB,
		GRPCMaxStreams:     128,
		GRPCMaxConnections: 4096,
		GRPCIdleTimeout:    15 * time.Minute,
		GRPCDrainTimeout:   10 * time.Second,
	}
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	size := func(name string, v units.Bytes) {
		if v <= 0 || v > push.MaxData {
			errs = append(errs, fmt.Errorf("%s: must be from 1 to 1 GiB, is %d", name, v))
		}
	}
	positive := func(name string, v int64) {
		if v <= 0 {
			errs = append(errs, fmt.Errorf("%s: must be more than 0, is %d", name, v))
		}
	}
	size("max-recv-size", c.MaxRecvSize)
	size("max-decoded-size", c.MaxDecodedSize)
	size("grpc-max-recv-size", c.GRPCMaxRecvSize)
	positive("max-records", int64(c.MaxRecords))
	positive("max-values", int64(c.MaxValues))
	positive("grpc-max-streams", int64(c.GRPCMaxStreams))
	positive("grpc-max-connections", int64(c.GRPCMaxConnections))
	positive("grpc-idle-timeout", int64(c.GRPCIdleTimeout))
	if c.GRPCDrainTimeout < 0 {
		errs = append(errs, fmt.Errorf("grpc-drain-timeout: must not be negative, is %s", c.GRPCDrainTimeout))
	}
	for _, a := range c.LabelAttributes {
		if a == "" {
			errs = append(errs, fmt.Errorf("label-attributes: empty name"))
		}
	}
	for _, err := range c.GRPCTLS.Validate() {
		errs = append(errs, fmt.Errorf("grpc-tls.%w", err))
	}
	return errs
}
