package consul

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/loki-go/loki-go/ring"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func pair(id string, state ring.State, generation int64, index uint64) *api.KVPair {
	e := entry{Cluster: "c", Protocol: Protocol, ID: id, Address: id + ":1", State: state, Generation: generation}
	if state == ring.Leaving {
		e.LeaveWithin = 60
	}
	return &api.KVPair{Key: "p/" + id, Value: e.encode(), Session: "s-" + id, ModifyIndex: index}
}

// show prints members in short: a* is missing, a- LEAVING.
func show(list []ring.Member) string {
	var b strings.Builder
	for _, m := range list {
		b.WriteString(m.ID)
		if m.State == ring.Leaving {
			b.WriteString("-")
		}
		if m.Missing {
			b.WriteString("*")
		}
	}
	return b.String()
}

func TestViewKeepsWhatVanishesInAGap(t *testing.T) {
	v := newView("p", "c", 10*time.Second)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	f := func(seconds int, want string, next int) {
		t.Helper()
		list, wake := v.members(at(seconds))
		if got := show(list); got != want {
			t.Errorf("after %d s: %q, want %q", seconds, got, want)
		}
		if next < 0 && !wake.IsZero() || next >= 0 && !wake.Equal(at(next)) {
			t.Errorf("after %d s: the next look is at %s, want %d s", seconds, wake.Sub(start), next)
		}
	}
	a, b, c := pair("a", ring.Active, 1, 1), pair("b", ring.Active, 1, 2), pair("c", ring.Leaving, 1, 3)
	v.apply(api.KVPairs{a, b, c}, false, at(0))
	f(0, "abc-", 60)
	v.apply(api.KVPairs{a, c}, false, at(1)) // b left
	f(1, "ac-", 60)
	v.apply(nil, true, at(2)) // Consul lost all
	f(2, "a*c-*", 12)
	v.apply(nil, true, at(5)) // and again
	f(5, "a*c-*", 12)
	v.apply(api.KVPairs{pair("a", ring.Active, 1, 1)}, false, at(6)) // a is back
	f(6, "ac-*", 12)
	f(12, "a", -1)
	// One that is LEAVING for too long counts no more, whoever forgot it.
	v.apply(api.KVPairs{a, pair("c", ring.Leaving, 1, 4)}, false, at(20))
	f(20, "ac-", 80)
	f(79, "ac-", 80)
	f(80, "a", -1)
	v.apply(api.KVPairs{a, pair("c", ring.Leaving, 1, 9)}, false, at(81)) // it entered again
	f(81, "a", -1)
	v.apply(api.KVPairs{a, pair("c", ring.Joining, 2, 10)}, false, at(82)) // it started anew
	f(82, "ac", -1)
	// The deadline of what is missing is the earlier one.
	v.apply(api.KVPairs{pair("c", ring.Leaving, 2, 11)}, false, at(100))
	v.apply(nil, true, at(155))
	f(155, "c-*", 160)
	f(160, "", -1)
	f(165, "", -1)
}

func TestViewIgnores(t *testing.T) {
	v := newView("p", "c", time.Second)
	good := string(pair("a", ring.Active, 1, 1).Value)
	f := func(key, value, session, want string) {
		t.Helper()
		p := &api.KVPair{Key: key, Value: []byte(value), Session: session, ModifyIndex: 7}
		news := v.apply(api.KVPairs{p}, false, start)
		if len(news) != 1 || news[0].Key != key || !strings.Contains(news[0].Reason, want) {
			t.Errorf("%s: %v, want %q", key, news, want)
		}
		if again := v.apply(api.KVPairs{p}, false, start); len(again) != 0 {
			t.Errorf("%s: said twice: %v", key, again)
		}
		if list, _ := v.members(start); len(list) != 0 {
			t.Errorf("%s: a member: %v", key, list)
		}
		if s := v.strangers(); len(s) != 1 {
			t.Errorf("%s: strangers %v", key, s)
		}
		p.ModifyIndex++
		if again := v.apply(api.KVPairs{p}, false, start); len(again) != 1 {
			t.Errorf("%s: a change was not said", key)
		}
		v.apply(nil, false, start)
	}
	f("p/a", good, "", "no session")
	f("p/b", good, "s", `has the id "a"`)
	f("p/x/a", good, "s", "not right below p/")
	f("p/a", strings.Replace(good, `"cluster":"c"`, `"cluster":"d"`, 1), "s", `belongs to cluster "d"`)
	f("p/a", strings.Replace(good, `"protocol":1`, `"protocol":2`, 1), "s", "protocol version 2")
	f("p/a", strings.Replace(good, `"ACTIVE"`, `"DANCING"`, 1), "s", "DANCING")
	f("p/a", strings.Replace(good, `"generation":1`, `"generation":"x"`, 1), "s", "cannot be read")
	f("p/a", strings.Replace(good, `"generation":1`, `"generation":1,"leave_within":-1`, 1), "s", "leaves within")
	f("p/a", "", "s", "no entry of a ring")
	f("p/a", good+strings.Repeat(" ", maxEntry), "s", "bytes")
	f("p/", good, "s", `has the id "a"`)
}

func FuzzDecode(f *testing.F) {
	f.Add("p/a", []byte(pair("a", ring.Active, 1, 1).Value))
	f.Add("p/a", []byte(pair("a", ring.Leaving, 1<<53, 1).Value))
	f.Add("p/a", []byte(`{"cluster":"c","protocol":1,"id":"a","state":"ACTIVE","leave_within":9e18}`))
	f.Add("", []byte(`[]`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		e, err := decode(key, "c", value)
		if err != nil {
			return
		}
		if e.ID == "" || e.Cluster != "c" || !strings.HasSuffix(key, e.ID) {
			t.Fatalf("%q, %q: %+v", key, value, e)
		}
		again, err := decode("p/"+e.ID, "c", e.encode())
		if err != nil && len(e.encode()) <= maxEntry || err == nil && fmt.Sprint(*again) != fmt.Sprint(*e) {
			t.Fatalf("%+v reads back as %+v, %v", e, again, err)
		}
	})
}
