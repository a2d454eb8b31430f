// Command sdk logs through the OpenTelemetry SDK of Go and its OTLP exporter,
// for tests of a server.
//
//	sdk -to http://127.0.0.1:3100/otlp/v1/logs -n 1000
//	sdk -to grpc://127.0.0.1:4317 -n 1000 -compress gzip -tenant team-a
//
// Record i has the body "record i", the time 1790000000 s and i ns, and the
// attribute i. Whatever the SDK reports goes to standard error; the exit code is
// 1 if not all was exported.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	otellog "go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
)

func main() {
	to := flag.String("to", "", "where to, http://HOST:PORT/PATH or grpc://HOST:PORT")
	n := flag.Int("n", 1000, "number of records")
	compress := flag.String("compress", "", "gzip or nothing")
	tenant := flag.String("tenant", "", "value of X-Scope-OrgID")
	flag.Parse()
	if err := run(*to, *n, *compress, *tenant); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(to string, n int, compress, tenant string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	headers := map[string]string{}
	if tenant != "" {
		headers["X-Scope-OrgID"] = tenant
	}
	exporter, err := newExporter(ctx, to, compress, headers)
	if err != nil {
		return err
	}
	var reported error
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { reported = errors.Join(reported, err) }))
	provider := sdklog.NewLoggerProvider(
		sdklog.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "sdk"), attribute.String("host.name", "h1"), attribute.Int("process.pid", 7),
		)),
		sdklog.WithProcessor(sdklog.NewBatchProcessor(exporter, sdklog.WithMaxQueueSize(n+1))),
	)
	logger := provider.Logger("lib", otellog.WithInstrumentationVersion("1.0"))
	for i := range n {
		var r otellog.Record
		r.SetTimestamp(time.Unix(1_790_000_000, int64(i)))
		r.SetObservedTimestamp(time.Unix(1_790_000_001, 0))
		r.SetSeverity(otellog.SeverityInfo2)
		r.SetSeverityText("INFO")
		r.SetBody(attribute.StringValue(fmt.Sprintf("record %d", i)))
		r.AddAttributes(
			attribute.Int("i", i), attribute.Slice("list", attribute.StringValue("a"), attribute.Float64Value(1.5)),
			attribute.Map("m", attribute.Bool("ok", true), attribute.ByteSlice("raw", []byte{0xff})),
		)
		logger.Emit(ctx, r)
	}
	return errors.Join(provider.Shutdown(ctx), reported)
}

func newExporter(ctx context.Context, to, compress string, headers map[string]string) (sdklog.Exporter, error) {
	if addr, ok := strings.CutPrefix(to, "grpc://"); ok {
		opts := []otlploggrpc.Option{otlploggrpc.WithEndpoint(addr), otlploggrpc.WithInsecure(), otlploggrpc.WithHeaders(headers)}
		if compress != "" {
			opts = append(opts, otlploggrpc.WithCompressor(compress))
		}
		return otlploggrpc.New(ctx, opts...)
	}
	opts := []otlploghttp.Option{otlploghttp.WithEndpointURL(to), otlploghttp.WithHeaders(headers)}
	if compress == "gzip" {
		opts = append(opts, otlploghttp.WithCompression(otlploghttp.GzipCompression))
	}
	return otlploghttp.New(ctx, opts...)
}
