// Package explain shows what records would become: tenant, stream, time, line
// and structured metadata of each, under given settings.
//
// The input is JSON (values in any concatenation, or arrays of them) or
// MessagePack (the entries that Fluent Bit and Fluentd write, or bare maps, one
// behind the other). Records for the HTTP receivers of JSON go through these
// receivers themselves, all others through mapping as their receivers do it. What
// the gateway does after that is not shown: it finds a service_name where there
// is none, and limits apply.
//
// The output is text for people, or one JSON object on a line for each record:
//
//	{"record":1,"tenant":"","stream":"{job=\"forward\"}","labels":{"job":"forward"},
//	 "time":"2026-09-21T14:13:20.5Z","ns":"1790000000500000000","now":false,
//	 "line":"GET / 200","metadata":{"status":"200"}}
//
// now says that the record has no time of its own. A line or value that is not
// UTF-8 has U+FFFD in it; line_base64 has the line's bytes then. What is no
// record has one with the fields error and offset in its place.
package explain

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// MaxInput is how much of the input is read.
const MaxInput = 64 << 20

// Options say how records are mapped and shown.
type Options struct {
	Mapping  mapping.Profiles
	Limits   mapping.Limits
	Receiver string           // whose settings count, and label job; "": forward
	Format   string           // of the input: json or msgpack; "" or auto: as it looks
	Tag      string           // of all records
	Tenant   string           // of records that name none
	JSON     bool             // output for programs
	Now      func() time.Time // nil: time.Now
}

// Validate returns every problem of o.
func (o Options) Validate() []error {
	errs := o.Mapping.Validate()
	if o.Receiver != "" && !slices.Contains(mapping.Receivers(), o.Receiver) {
		errs = append(errs, fmt.Errorf("receiver %q is not one of %s", o.Receiver, strings.Join(mapping.Receivers(), ", ")))
	}
	switch o.Format {
	case "", "auto", "json", "msgpack":
	default:
		errs = append(errs, fmt.Errorf("format %q is not auto, json or msgpack", o.Format))
	}
	return errs
}

// Run reads all of in and writes to out what its records become. The error says
// what went wrong with in, out or o, or how much of the input is no record; the
// output then has the reasons.
func Run(in io.Reader, out io.Writer, o Options) error {
	if o.Receiver == "" {
		o.Receiver = "forward"
	}
	if errs := o.Validate(); len(errs) > 0 {
		return fmt.Errorf("explain: %w", errors.Join(errs...))
	}
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	data, err := io.ReadAll(io.LimitReader(in, MaxInput+1))
	if err != nil {
		return fmt.Errorf("explain: read records: %w", err)
	}
	if len(data) > MaxInput {
		return fmt.Errorf("explain: more than %d bytes of records", MaxInput)
	}
	p := newPrinter(out, o.JSON)
	r := &run{o: o, p: p, now: now()}
	if err := r.open(); err != nil {
		return fmt.Errorf("explain: %w", err)
	}
	if o.Format == "msgpack" || o.Format != "json" && isMsgpack(data) {
		r.msgpack(data)
	} else {
		r.json(data)
	}
	switch err := p.flush(); {
	case err != nil:
		return fmt.Errorf("explain: write: %w", err)
	case p.records+p.problems == 0:
		return errors.New("explain: no record in the input")
	case p.problems > 0:
		return fmt.Errorf("explain: %d problems in the input, %d records", p.problems, p.records)
	}
	return nil
}
