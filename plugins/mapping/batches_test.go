package mapping

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

// tenants renders finished batches as "tenant: line line".
func tenants(bs []*push.Batch) []string {
	var out []string
	for _, b := range bs {
		s := b.Tenant + ":"
		for _, e := range entries(b) {
			s += " " + e.line
		}
		out = append(out, s)
	}
	return out
}

func TestBatchesByTenant(t *testing.T) {
	st := newMapper(t, DefaultConfig(), Limits{}).Acquire()
	var g Batches
	for range 3 {
		size := 0
		for i, tenant := range []string{"a", "b", "a", "", "a", "b"} {
			rec := parse(t, fmt.Sprintf(`{"log":"%d"}`, i))
			if !st.Add(rec, &Input{Job: "j", Tenant: tenant}, &g) {
				t.Fatal("no room")
			}
			if g.Len() != i+1 || g.Size() <= size {
				t.Fatalf("%d entries, %d bytes after %d", g.Len(), g.Size(), i+1)
			}
			size = g.Size()
		}
		if got, want := tenants(g.Finish()), []string{"a: 0 2 4", "b: 1 5", ": 3"}; !reflect.DeepEqual(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		g.Reset()
		if g.Len() != 0 || g.Size() != 0 || len(g.Finish()) != 0 {
			t.Fatalf("after Reset: %d entries, %d bytes", g.Len(), g.Size())
		}
	}
}

func TestBatchesBoundTenants(t *testing.T) {
	st := newMapper(t, DefaultConfig(), Limits{}).Acquire()
	rec := parse(t, `{"log":"x"}`)
	var g Batches
	for i := range MaxTenants {
		if !st.Add(rec, &Input{Tenant: fmt.Sprint(i)}, &g) {
			t.Fatalf("no room for tenant %d", i)
		}
	}
	one := &Input{Tenant: "one more"}
	if st.Add(rec, one, &g) || g.Len() != MaxTenants {
		t.Fatal("room for one more")
	}
	if !st.Add(rec, &Input{Tenant: "7"}, &g) {
		t.Fatal("no room for a tenant that is there")
	}
	if n := len(g.Finish()); n != MaxTenants {
		t.Fatalf("%d batches", n)
	}
	g.Reset()
	if len(g.free) > maxFree {
		t.Fatalf("%d builders kept", len(g.free))
	}
	if !st.Add(rec, one, &g) || len(g.Finish()) != 1 {
		t.Fatal("no room after Reset")
	}
	g.Reset()
}

func TestBatchesBury(t *testing.T) {
	st := newMapper(t, DefaultConfig(), Limits{}).Acquire()
	var g Batches
	g.Bury("b", push.Malformed, "broken", []byte("{"))
	st.Add(parse(t, `{"log":"x"}`), &Input{Tenant: "a"}, &g)
	g.Bury("a", push.Malformed, "broken", []byte("["))
	bs := g.Finish()
	if got, want := tenants(bs), []string{"b:", "a: x"}; !reflect.DeepEqual(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	if len(bs[0].Dead) != 1 || string(bs[0].Dead[0].Raw) != "{" || len(bs[1].Dead) != 1 || g.Len() != 1 {
		t.Fatalf("buried %+v %+v", bs[0].Dead, bs[1].Dead)
	}
	g.Reset()
	for i := range MaxTenants {
		st.Add(parse(t, `{"log":"x"}`), &Input{Tenant: fmt.Sprint(i)}, &g)
	}
	g.Bury("own", push.Malformed, "broken", nil)
	if bs := g.Finish(); len(bs) != MaxTenants+1 || len(bs[MaxTenants].Dead) != 1 {
		t.Fatal("no room to bury")
	}
	g.Reset()
}

func TestBatchesDropLargeBuilders(t *testing.T) {
	st := newMapper(t, DefaultConfig(), Limits{}).Acquire()
	var g Batches
	rec := &Record{Nodes: []Node{{Kind: Map, End: 2}, {Kind: String, Key: []byte("log"), Str: make([]byte, maxFreeBytes)}}}
	st.Add(rec, &Input{Tenant: "large"}, &g)
	st.Add(parse(t, `{"log":"x"}`), &Input{Tenant: "small"}, &g)
	g.Reset()
	if len(g.free) != 1 || g.free[0].most > 1000 {
		t.Fatalf("kept %d builders", len(g.free))
	}
}

func TestBatchID(t *testing.T) {
	base := push.ID{1}
	seen := map[push.ID]bool{}
	for part := range 3 {
		for _, tenant := range []string{"", "a", "b"} {
			id := BatchID(base, part, tenant)
			if seen[id] || id == (push.ID{}) || id != BatchID(base, part, tenant) {
				t.Fatalf("part %d of %q: %x", part, tenant, id)
			}
			seen[id] = true
		}
	}
	if BatchID(push.ID{}, 1, "a") != (push.ID{}) {
		t.Fatal("an id of nothing")
	}
}

func TestBatchesAllocs(t *testing.T) {
	st := newMapper(t, DefaultConfig(), Limits{}).Acquire()
	rec := parse(t, `{"log":"GET / 200","stream":"stdout","n":1.5}`)
	var g Batches
	ins := []*Input{{Job: "j", Tenant: "a"}, {Job: "j", Tenant: "b"}, {Job: "j", Tenant: "c"}}
	run := func() {
		for i := range 3000 {
			st.Add(rec, ins[i%3], &g)
		}
		g.Reset()
	}
	run()
	// What is left is for each batch: texts of its streams and tenant.
	if n := testing.AllocsPerRun(10, run); n > 20 {
		t.Fatalf("%v allocations for 3000 records", n)
	}
}
