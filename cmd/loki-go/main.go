// Command loki-go receives logs from every common agent and stores them as
// Loki does. It holds no logic: it reads flags, environment and files, and
// hands what they say to package server.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/internal/server"
	"github.com/loki-go/loki-go/internal/vfs"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	// After the first signal the next one has its usual effect: the process
	// ends at once. The WAL has all that was acknowledged.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdin, os.Stdout, os.Stderr))
}

// command is what the command line alone can say.
type command struct {
	ConfigFile   string `yaml:"config.file" help:"YAML file with settings; flags win over it"`
	VerifyConfig bool   `yaml:"verify-config" help:"report every problem of the settings and exit"`
	PrintConfig  bool   `yaml:"print-config" help:"print the effective settings as YAML, secrets masked, and exit"`
	Version      bool   `yaml:"version" help:"print the version and exit"`
	Help         bool   `yaml:"help" help:"print this text and exit"`
	H            bool   `yaml:"h" help:"the same"`
}

// settings is everything that can be configured.
type settings struct {
	cmd        command
	cfg        server.Config
	cmdFlags   []*config.Binding // what only the command line can say
	cfgBinding *config.Binding
}

// newSettings returns the defaults. more are structs with flags of a
// subcommand.
func newSettings(more ...any) (*settings, error) {
	s := &settings{cfg: server.DefaultConfig()}
	for _, flags := range append([]any{&s.cmd}, more...) {
		b, err := config.Bind(flags)
		if err != nil {
			return nil, err
		}
		s.cmdFlags = append(s.cmdFlags, b)
	}
	var err error
	s.cfgBinding, err = config.Bind(&s.cfg)
	return s, err
}

// load fills s from the command line and the file that it names. Problems that
// validation finds are among the errors.
func (s *settings) load(args []string, getenv config.Getenv) []error {
	errs := s.read(args, getenv)
	return append(errs, s.cfg.Validate()...)
}

// read is load without validation.
func (s *settings) read(args []string, getenv config.Getenv) []error {
	parsed, errs := config.ParseArgs(args, append(slices.Clone(s.cmdFlags), s.cfgBinding)...)
	var ours, rest []config.Arg
	for _, a := range parsed {
		if s.cfgBinding.Has(a.Setting) {
			rest = append(rest, a)
		} else {
			ours = append(ours, a)
		}
	}
	errs = append(errs, config.Apply(ours, getenv)...)
	if s.cmd.ConfigFile != "" {
		data, err := os.ReadFile(s.cmd.ConfigFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("config.file: %w", err))
		} else {
			errs = append(errs, s.cfgBinding.LoadYAML(s.cmd.ConfigFile, data, getenv)...)
		}
	}
	return append(errs, config.Apply(rest, getenv)...)
}

func (s *settings) usage(w io.Writer) {
	fmt.Fprint(w, `loki-go receives logs and stores them as Loki does.

Every setting can be given in a YAML file (-config.file), where the parts of its
name are nested, and as a flag; both take ${NAME} and ${NAME:-text} from the
environment.

`)
	for _, c := range subcommands {
		fmt.Fprintf(w, "  loki-go %s\n        %s\n", c.name, c.help)
	}
	fmt.Fprintln(w)
	for _, b := range s.cmdFlags {
		b.Usage(w)
	}
	fmt.Fprintln(w)
	s.cfgBinding.Usage(w)
}

// run is the program. The parts and what flows between them, all built by
// server.Open:
//
//	:3100 HTTP ──┬─ lokipush ───────┐
//	             ├─ otlp ───────────┤
//	             ├─ httpjson ───────┤
//	             ├─ elasticsearch ──┤                    ┌─> WAL ── acknowledged
//	:24224 ──────── forward ────────┼─> gateway ──> ingester
//	:4317 gRPC ──── otlp ───────────┤   (ring)           └─> blocks ──> storage ──> objects
//	:9095 gRPC ──── grpcpush ───────┤                       │             │
//	syslog ports ── syslog ─────────┘                       │             │
//	             ┌─ query <─────────────────────────────────┴─────────────┘
//	:3100 HTTP ──┴─ /ready /metrics /config /flush ...
//
// With target=compactor only the bucket, the compactor and the HTTP server are
// there.
//
// Start goes from right to left, the end from left to right: receivers stop,
// pushes in flight finish, the ingester stores or keeps what it has, and the
// HTTP server goes last, so that /ready and /metrics tell what happens.
func run(ctx context.Context, args []string, getenv config.Getenv, stdin io.Reader, stdout, stderr io.Writer) int {
	for _, c := range subcommands {
		if len(args) > 0 && args[0] == c.name {
			if c.run == nil {
				return c.tool(ctx, args[1:], getenv, stdout, stderr)
			}
			if err := c.run(args[1:], getenv, stdin, stdout); err != nil {
				return fail(stderr, err)
			}
			return 0
		}
	}
	s, err := newSettings()
	if err != nil {
		return fail(stderr, err)
	}
	errs := s.load(args, getenv)
	switch {
	case s.cmd.Help || s.cmd.H:
		s.usage(stdout)
		return 0
	case s.cmd.Version:
		fmt.Fprintf(stdout, "loki-go %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	case s.cmd.VerifyConfig:
		return verify(errs, stdout, stderr)
	case len(errs) == 1:
		return fail(stderr, errs[0])
	case len(errs) > 1:
		return fail(stderr, fmt.Errorf("%w (and %d more problems; -verify-config lists them)", errs[0], len(errs)-1))
	case s.cmd.PrintConfig:
		// An error is one of stdout, and there is nobody else to tell.
		_, _ = stdout.Write(s.cfgBinding.YAML())
		return 0
	}
	if err := serve(ctx, s, getenv, stderr); err != nil {
		return fail(stderr, err)
	}
	return 0
}

func fail(stderr io.Writer, err error) int { return failWith(stderr, 1, err) }

func failWith(stderr io.Writer, code int, err error) int {
	fmt.Fprintln(stderr, "loki-go:", err)
	return code
}

func verify(errs []error, stdout, stderr io.Writer) int {
	for _, err := range errs {
		fmt.Fprintln(stderr, "loki-go:", err)
	}
	if len(errs) > 0 {
		return 1
	}
	fmt.Fprintln(stdout, "the configuration is valid")
	return 0
}

// serve runs the server until ctx ends, until a client asks for the end, or
// until it fails.
func serve(ctx context.Context, s *settings, getenv config.Getenv, stderr io.Writer) error {
	level := new(slog.LevelVar)
	log, err := server.NewLogger(s.cfg.Log, level, stderr)
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	srv, err := server.Open(s.cfg, server.Deps{
		FS: vfs.OS, Log: log, Level: level, Registry: reg, Getenv: getenv,
		Version: version, Settings: s.cfgBinding.YAML,
	})
	if err != nil {
		return err
	}
	var failed error
	select {
	case <-ctx.Done():
		log.Info("stopping on a signal; another one ends the process at once")
	case <-srv.ShutdownRequested():
		log.Info("stopping on request")
	case failed = <-srv.Failed():
	}
	return errors.Join(failed, srv.Shutdown(context.Background()))
}
