package main

/*
#include <stdint.h>
#include <stdlib.h>

// What Fluent Bit and its Go plugins hand each other: the layouts are part of
// its plugin ABI (plugin proxy, type golang), and have no header of their own.

struct lg_api {
	char *(*get_property)(char *key, void *section);
};

struct lg_context {
	void *remote;
};

struct lg_instance {
	char *name;
	struct lg_api *api;
	void *section;
	struct lg_context *context;
};

struct lg_definition {
	int type;
	int proxy;
	int flags;
	char *name;
	char *description;
};

static char *lg_property(struct lg_instance *ins, char *key) {
	return ins->api->get_property(key, ins->section);
}
*/
import "C"

import (
	"runtime/cgo"
	"sync/atomic"
	"unsafe"

	"github.com/loki-go/loki-go/plugins/fluentbit/flush"
)

// fluent-bit-go has the same in its package output, but with a decoder beside
// it that is not used here and triples the size of the library.

// What an entry point may return.
const (
	flbError = 0
	flbOK    = 1
	flbRetry = 2
)

// Kinds of plugins.
const (
	proxyOutput = 2
	proxyGo     = 11
)

// register fills in what Fluent Bit wants to know about the plugin.
func register(def unsafe.Pointer, name, description string) {
	d := (*C.struct_lg_definition)(def)
	d._type, d.proxy, d.flags = proxyOutput, proxyGo, 0
	d.name, d.description = C.CString(name), C.CString(description)
}

func unregister(def unsafe.Pointer) {
	d := (*C.struct_lg_definition)(def)
	C.free(unsafe.Pointer(d.name))
	C.free(unsafe.Pointer(d.description))
	d.name, d.description = nil, nil
}

// property returns the value of a key in the section that is being opened, ""
// if there is none.
func property(plugin unsafe.Pointer, key string) string {
	k := C.CString(key)
	defer C.free(unsafe.Pointer(k))
	return C.GoString(C.lg_property((*C.struct_lg_instance)(plugin), k))
}

// instance is what Fluent Bit's context of a section stands for. A flush may
// come after the section's end, so the few bytes of an instance live as long as
// the process; what it refers to does not.
type instance struct{ out atomic.Pointer[flush.Output] }

// setContext makes in the context of the section that is being opened.
func setContext(plugin unsafe.Pointer, in *instance) {
	box := (*C.uintptr_t)(C.malloc(C.size_t(unsafe.Sizeof(C.uintptr_t(0)))))
	*box = C.uintptr_t(cgo.NewHandle(in))
	(*C.struct_lg_instance)(plugin).context.remote = unsafe.Pointer(box)
}

// instanceOf returns what setContext was given, nil for no context.
func instanceOf(ctx unsafe.Pointer) *instance {
	if ctx == nil {
		return nil
	}
	return cgo.Handle(*(*C.uintptr_t)(ctx)).Value().(*instance)
}
