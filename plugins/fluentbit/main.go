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
//	    LineKeys     log,message
//	    LineFormat   auto
//	    Timeout      4s
//	    retry_limit  no_limits
//	    workers      1
//
// Fluent Bit calls Register, Init and ExitCtx on one thread, FlushCtx on that
// or on as many as workers says. Nothing of what it hands over is kept. No
// panic leaves an entry point: it would end Fluent Bit.
package main

/*
#include <stdlib.h>
*/
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

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("output", name)
}

// guard turns a panic into a log line and code.
func guard(where string, result *C.int, code C.int) {
	if p := recover(); p != nil {
		logger().Error("panic; please report it", "in", where, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*result = code
	}
}

// FLBPluginRegister tells Fluent Bit the plugin's name.
//
//export FLBPluginRegister
func FLBPluginRegister(def unsafe.Pointer) (result C.int) {
	defer guard("register", &result, -1)
	register(def, name, description)
	return 0
}

// FLBPluginInit opens one [OUTPUT] section. Anything but success ends Fluent
// Bit, which is right for a section that does not say what it means.
//
//export FLBPluginInit
func FLBPluginInit(plugin unsafe.Pointer) (result C.int) {
	defer guard("init", &result, flbError)
	id := instances.Add(1)
	log := logger().With("instance", id)
	// The section can be read here only: later, Fluent Bit answers with the
	// values of the instance that came last.
	cfg, err := flush.Read(func(key string) string { return property(plugin, key) })
	if err != nil {
		log.Error("bad configuration", "err", err)
		return flbError
	}
	o, err := flush.New(cfg, log, version)
	if err != nil {
		log.Error("start", "err", err)
		return flbError
	}
	in := new(instance)
	in.out.Store(o)
	setContext(plugin, in)
	log.Info("started; set retry_limit no_limits (Fluent Bit drops a chunk after one retry by default), workers 1 or more (a flush "+
		"stops all of Fluent Bit otherwise), and storage.type filesystem in the inputs (chunks survive a restart then)",
		"address", strings.Join(cfg.Addresses, ","), "tenant", cfg.Tenant, "labels", cfg.Labels.String(), "timeout", cfg.Timeout)
	return flbOK
}

// FLBPluginFlushCtx pushes one chunk.
//
//export FLBPluginFlushCtx
func FLBPluginFlushCtx(ctx, data unsafe.Pointer, length C.int, tag *C.char) (result C.int) {
	defer guard("flush", &result, flbRetry)
	in := instanceOf(ctx)
	if in == nil {
		logger().Error("flush without an instance")
		return flbRetry
	}
	o := in.out.Load()
	if o == nil {
		return flbRetry // it has ended; the chunk is for the next
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
	defer guard("exit", &result, flbError)
	if in := instanceOf(ctx); in != nil {
		if o := in.out.Swap(nil); o != nil {
			o.Close()
		}
	}
	return flbOK
}

// FLBPluginUnregister frees what Register allocated.
//
//export FLBPluginUnregister
func FLBPluginUnregister(def unsafe.Pointer) {
	var result C.int
	defer guard("unregister", &result, 0)
	unregister(def)
}

func main() {} // c-shared needs it
