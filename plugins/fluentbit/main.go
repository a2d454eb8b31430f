// Command fluentbit is the Fluent Bit output plugin loki-go, built with
// -buildmode=c-shared. It is the C side only: the entry points that Fluent Bit
// calls, around package flush.
//
//	[OUTPUT]
//	    Name         loki-go
//	    Match        *
//	    Address      gateway-1:9095,gateway-2:9095
//	    TenantID     team-a
//	    Labels       {env="prod"}
//	    LabelKeys    kubernetes.labels.release
//	    retry_limit  no_limits
//	    workers      1
//
// Registration, configuration and contexts are those of fluent-bit-go. Its
// decoder is not used: it panics on input that a client of Fluent Bit controls,
// and loses what is behind a record that it does not understand.
//
// Fluent Bit calls Register, Init and ExitCtx on one thread, FlushCtx on that
// or on as many as workers says. Nothing of what it hands over is kept. No
// panic leaves an entry point: it would end Fluent Bit.
//
// A hot reload calls Register again, ends the old sections, which answer flushes
// under way with Retry, and opens new ones; this library stays loaded.
package main

import "C"

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/fluent/fluent-bit-go/output"

	"github.com/loki-go/loki-go/plugins/fluentbit/flush"
)

const (
	name        = "loki-go"
	description = "loki-go: logs to a loki-go gateway, acknowledged when durable"
)

// version is set at build time.
var version = "devel"

func init() {
	// Fluent Bit runs flushes on stacks of a few KiB; the C library's resolver,
	// called from one, may need more.
	net.DefaultResolver.PreferGo = true
}

// instances numbers the [OUTPUT] sections for the log.
var instances atomic.Int64

// logger writes to Fluent Bit's console; Go plugins cannot reach its log.
func logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("output", name)
}

// guard turns a panic into a log line and code.
func guard(where string, result *C.int, code C.int) {
	if p := recover(); p != nil {
		logger(slog.LevelError).Error("panic; please report it", "in", where, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*result = code
	}
}

// instance is what Fluent Bit's context of a section stands for. A flush may
// come after the section's end, so the few bytes of an instance live as long as
// the process; what it refers to does not.
type instance struct{ out atomic.Pointer[flush.Output] }

// instanceOf returns what Init has set, nil for a context that it has not.
func instanceOf(ctx unsafe.Pointer) *instance {
	in, _ := output.FLBPluginGetContext(ctx).(*instance)
	return in
}

// FLBPluginRegister tells Fluent Bit the plugin's name.
//
//export FLBPluginRegister
func FLBPluginRegister(def unsafe.Pointer) (result C.int) {
	defer guard("register", &result, -1)
	return C.int(output.FLBPluginRegister(def, name, description))
}

// FLBPluginInit opens one [OUTPUT] section. Anything but success ends Fluent
// Bit, which is right for a section that does not say what it means.
//
//export FLBPluginInit
func FLBPluginInit(plugin unsafe.Pointer) (result C.int) {
	defer guard("init", &result, output.FLB_ERROR)
	id := instances.Add(1)
	log := logger(slog.LevelInfo).With("instance", id)
	// The section can be read here only: later, Fluent Bit answers with the
	// values of the instance that came last.
	cfg, err := flush.Read(func(key string) string { return output.FLBPluginConfigKey(plugin, key) })
	if err != nil {
		log.Error("bad configuration", "err", err)
		return output.FLB_ERROR
	}
	log = logger(cfg.LogLevel).With("instance", id)
	o, err := flush.New(cfg, log, version)
	if err != nil {
		log.Error("start", "err", err)
		return output.FLB_ERROR
	}
	in := new(instance)
	in.out.Store(o)
	output.FLBPluginSetContext(plugin, in)
	started(log, &cfg)
	return output.FLB_OK
}

// started says what a section makes of its options, and what it cannot see.
func started(log *slog.Logger, cfg *flush.Config) {
	log.Info("started; a plugin cannot see these: set retry_limit no_limits (by default Fluent Bit drops a chunk after one retry), "+
		"workers 1 or more (by default a flush stops all of Fluent Bit) and, in the inputs, storage.type filesystem (chunks "+
		"survive a restart)",
		"address", strings.Join(cfg.Addresses, ","), "tls", cfg.UseTLS, "tenant", cfg.Tenant,
		"labels", strings.Join(cfg.Mapping.Labels, ","), "timeout", cfg.Timeout)
	for _, n := range cfg.Notes {
		log.Warn(n)
	}
}

// FLBPluginFlushCtx pushes one chunk.
//
//export FLBPluginFlushCtx
func FLBPluginFlushCtx(ctx, data unsafe.Pointer, length C.int, tag *C.char) (result C.int) {
	defer guard("flush", &result, output.FLB_RETRY)
	in := instanceOf(ctx)
	if in == nil {
		logger(slog.LevelError).Error("flush without an instance")
		return output.FLB_RETRY
	}
	o := in.out.Load()
	if o == nil {
		return output.FLB_RETRY // it has ended; the chunk is for the next
	}
	var chunk []byte
	if data != nil && length > 0 {
		// Not copied: Fluent Bit waits, and Flush keeps nothing of it.
		chunk = unsafe.Slice((*byte)(data), int(length))
	}
	return C.int(o.Flush(C.GoString(tag), chunk))
}

// FLBPluginExitCtx ends one [OUTPUT] section. After a hot reload the process
// and this library go on, so nothing of the section may be left.
//
//export FLBPluginExitCtx
func FLBPluginExitCtx(ctx unsafe.Pointer) (result C.int) {
	defer guard("exit", &result, output.FLB_ERROR)
	if in := instanceOf(ctx); in != nil {
		if o := in.out.Swap(nil); o != nil {
			o.Close()
		}
	}
	return output.FLB_OK
}

// FLBPluginUnregister frees what Register allocated.
//
//export FLBPluginUnregister
func FLBPluginUnregister(def unsafe.Pointer) {
	var result C.int
	defer guard("unregister", &result, 0)
	if def != nil {
		output.FLBPluginUnregister(def)
	}
}

func main() {} // c-shared needs it
