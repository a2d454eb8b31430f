// Command fluentlogger sends numbered log events with fluent-logger-golang, the
// library that Docker's log driver is made of, for tests of the forward receiver.
//
//	fluentlogger -address=127.0.0.1:24224 -n=100 -ack
//
// Event i is {"log": "line i", "n": i} at the time -start plus i milliseconds.
// The exit code is 0 if the library took all of them without an error.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fluentlogger:", err)
		os.Exit(1)
	}
}

type options struct {
	config fluent.Config
	tag    string
	n      int
	start  int64
	pause  time.Duration
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("fluentlogger", flag.ContinueOnError)
	network := fs.String("network", "tcp", "tcp, tls or unix")
	address := fs.String("address", "127.0.0.1:24224", "host and port, or path of a socket")
	fs.StringVar(&o.tag, "tag", "go.app", "tag of the events")
	fs.IntVar(&o.n, "n", 100, "number of events")
	fs.Int64Var(&o.start, "start", 1790000000, "time of the first event, in seconds since the epoch")
	fs.DurationVar(&o.pause, "pause", 0, "time between events")
	fs.BoolVar(&o.config.Async, "async", false, "send in the background")
	fs.BoolVar(&o.config.RequestAck, "ack", false, "wait for acknowledgements")
	fs.BoolVar(&o.config.MarshalAsJSON, "json", false, "JSON instead of MessagePack")
	fs.BoolVar(&o.config.SubSecondPrecision, "subsecond", false, "times with nanoseconds")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	o.config.FluentNetwork, o.config.BufferLimit = *network, o.n+1
	o.config.TlsInsecureSkipVerify = *network == "tls" // the library takes no CA
	o.config.Timeout, o.config.ReadTimeout, o.config.RetryWait = 5*time.Second, 5*time.Second, 20
	if *network == "unix" {
		o.config.FluentSocketPath = *address
		return o, nil
	}
	host, port, err := net.SplitHostPort(*address)
	if err != nil {
		return o, err
	}
	o.config.FluentHost = host
	o.config.FluentPort, err = strconv.Atoi(port)
	return o, err
}

func run(args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	var failed atomic.Int64
	if o.config.Async {
		o.config.AsyncResultCallback = func(_ []byte, err error) {
			if err != nil {
				failed.Add(1)
			}
		}
	}
	logger, err := fluent.New(o.config)
	if err != nil {
		return err
	}
	err = send(logger, o)
	err = errors.Join(err, logger.Close())
	if n := failed.Load(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d events were not sent", n))
	}
	return err
}

func send(logger *fluent.Fluent, o options) error {
	for i := range o.n {
		at := time.Unix(o.start, int64(i)*int64(time.Millisecond))
		record := map[string]any{"log": "line " + strconv.Itoa(i), "n": i}
		if err := logger.PostWithTime(o.tag, at, record); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
		time.Sleep(o.pause)
	}
	return nil
}
