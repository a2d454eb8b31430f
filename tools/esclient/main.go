// Command esclient sends numbered log events with Elastic's Go client, for tests
// of the elasticsearch receiver.
//
//	esclient -address=http://127.0.0.1:3100 -n=1000
//
// The client is the last one of version 7: its check of the product asks for more
// than those of later versions do, which take minutes to build, with a type for
// every call.
//
// It asks for the server's version, which includes the client's check that it
// is Elasticsearch, sends one event by itself and the others by the client's
// bulk indexer, compressed. Event i is {"message": "line i", "n": i} at the time
// 2026-09-21 14:13:20 UTC plus i milliseconds. It prints {"version":"8.19.0",
// "indexed":999,"failed":0,"document":"created"}; the exit code is 0 if all calls
// had an answer.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/elastic/go-elasticsearch/v7"
	"github.com/elastic/go-elasticsearch/v7/esapi"
	"github.com/elastic/go-elasticsearch/v7/esutil"
)

func main() {
	address := flag.String("address", "http://127.0.0.1:3100", "of the server")
	n := flag.Int("n", 1000, "number of events")
	flag.Parse()
	if err := run(*address, *n); err != nil {
		fmt.Fprintln(os.Stderr, "esclient:", err)
		os.Exit(1)
	}
}

// result is what is printed.
type result struct {
	Version  string `json:"version"`
	Indexed  uint64 `json:"indexed"`
	Failed   uint64 `json:"failed"`
	Document string `json:"document"`
}

func event(i int) []byte {
	at := time.Unix(1790000000, int64(i)*1e6).UTC().Format("2006-01-02T15:04:05.000Z")
	return fmt.Appendf(nil, `{"@timestamp":%q,"message":"line %d","n":%d}`, at, i, i)
}

func run(address string, n int) error {
	c, err := elasticsearch.NewClient(elasticsearch.Config{Addresses: []string{address}, CompressRequestBody: true})
	if err != nil {
		return err
	}
	var r result
	var info struct{ Version struct{ Number string } }
	if err := read(&info)(c.Info()); err != nil {
		return fmt.Errorf("info: %w", err)
	}
	r.Version = info.Version.Number
	var document struct{ Result string }
	if err := read(&document)(c.Index("logs-one", bytes.NewReader(event(0)))); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	r.Document = document.Result
	bulk, err := esutil.NewBulkIndexer(esutil.BulkIndexerConfig{Client: c, Index: "logs-bulk", NumWorkers: 2, FlushBytes: 16 << 10})
	if err != nil {
		return err
	}
	for i := 1; i < n; i++ {
		item := esutil.BulkIndexerItem{Action: "create", DocumentID: fmt.Sprint(i), Body: bytes.NewReader(event(i))}
		if err := bulk.Add(context.Background(), item); err != nil {
			return fmt.Errorf("add: %w", err)
		}
	}
	if err := bulk.Close(context.Background()); err != nil {
		return fmt.Errorf("bulk: %w", err)
	}
	r.Indexed, r.Failed = bulk.Stats().NumCreated, bulk.Stats().NumFailed
	return json.NewEncoder(os.Stdout).Encode(r)
}

// read returns a function that decodes the answer to a call into v.
func read(v any) func(*esapi.Response, error) error {
	return func(res *esapi.Response, err error) error {
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.IsError() {
			return errors.New(res.String())
		}
		return json.NewDecoder(res.Body).Decode(v)
	}
}
