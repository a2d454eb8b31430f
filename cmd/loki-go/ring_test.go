package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/fakeconsul"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/ring/consul"
	"github.com/loki-go/loki-go/ring/status"
)

func TestRing(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := fakeconsul.New(t)
	cfg := consul.DefaultConfig()
	cfg.Address, cfg.Cluster = s.Addr, "shop"
	m, err := consul.Open(cfg, consul.Deps{Version: "v9"})
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []ring.Instance{
		{ID: "a", Addr: "10.0.0.1:9095", Zone: "z1", State: ring.Active, Generation: 17},
		{ID: "b", Addr: "10.0.0.2:9095", Zone: "z2", State: ring.Leaving, Generation: 18},
	} {
		if err := m.Register(ctx, in); err != nil {
			t.Fatal(err)
		}
	}
	m.Close() // they are dead now, and stay
	s.Put(cfg.Prefix+"/c", "{}")
	file := filepath.Join(t.TempDir(), "c.yaml")
	// The settings of a server: what else they say does not matter here.
	text := "target: ingester\nring:\n  store: consul\n  cluster: shop\n  replication-factor: 3\n  consul:\n    address: " + s.Addr + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tool := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		code = run(ctx, append(append([]string{"ring"}, args...), "-config.file="+file), os.LookupEnv, strings.NewReader(""), &out, &errs)
		return code, out.String(), errs.String()
	}
	f := func(wantCode int, want []string, args ...string) {
		t.Helper()
		code, out, errs := tool(args...)
		if code != wantCode || wantCode == 0 && errs != "" {
			t.Errorf("ring %v: exit code %d, printed %q and %q", args, code, out, errs)
		}
		for _, w := range want {
			if !strings.Contains(strings.Join(strings.Fields(out+errs), " "), w) {
				t.Errorf("ring %v: no %q in %q and %q", args, w, out, errs)
			}
		}
	}
	f(0, []string{"a 10.0.0.1:9095 z1 ACTIVE", "100.0 % 17 v9", "b 10.0.0.2:9095 z2 LEAVING", "ignored: loki-go/ring/c: it belongs to cluster", "1 of 2 instances are ACTIVE"}, "show")
	code, out, errs := tool("show", "-json")
	var r status.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || len(r.Instances) != 2 || r.ReplicationFactor != 3 || r.Warning == "" {
		t.Errorf("ring show -json: %d, %v: %s%s", code, err, out, errs)
	}
	f(0, []string{"would remove loki-go/ring/b: 10.0.0.2:9095, LEAVING, generation 18, session"}, "forget", "b", "-dry-run")
	if n := len(s.Keys()); n != 3 {
		t.Errorf("%d keys after a dry run", n)
	}
	f(0, []string{"removed loki-go/ring/b", "enters again"}, "forget", "b")
	if keys := strings.Join(s.Keys(), " "); keys != "loki-go/ring/a loki-go/ring/c" {
		t.Errorf("keys %s", keys)
	}
	f(1, []string{"no such instance"}, "forget", "b")
	f(1, []string{"left alone"}, "forget", "c")
	f(1, []string{"usage:"})
	f(1, []string{"usage:"}, "forget")
	f(1, []string{"unknown flag -foo"}, "show", "-foo")
	f(1, []string{"ring.consul.address"}, "show", "-ring.consul.address=nowhere")
	f(1, []string{"loki-go: list keys of"}, "show", "-ring.consul.address=127.0.0.1:1")
	f(0, []string{"ring forget INSTANCE", "-dry-run"}, "-help")
}
