package mapping

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"
)

// Records with the same fields again and again, of which values are what may
// not be taken for granted: empty, other kinds, too large.
func TestShapes(t *testing.T) {
	shapes := []string{
		`{"log":%s,"stream":%s,"n":1.5,"a":[1,%s]}`,
		`{"message":%s,"service":%s,"kubernetes":{"container_name":%s,"labels":{"app":%s}}}`,
		`{"container_name":%s,"log":%s,"tag":%s}`,
		`{"log":%s,"k1":%s,"k1":%s}`,
		`{"k1":%s,"message":%s,"log":%s}`,
		`{"log":%s,"k2":{"k3":%s},"k2.k3":%s}`,
		`{"stream":%s,"n":null}`,
	}
	for name, mod := range map[string]func(*Config){
		"labels": func(c *Config) { c.LabelKeys = []string{"k1", "k2.k3", "part=$TAG[1]"} },
		"metadata": func(c *Config) {
			c.StructuredMetadata, c.MetadataKeys = "listed", []string{"x=$stream", "tag=$TAG[-1]"}
		},
		"raw": func(c *Config) {
			c.LineFormat, c.StructuredMetadata, c.MetadataKeys = "raw", "none", nil
			c.Labels = []string{"env=prod"}
		},
		"everything": everything,
		"tenants":    func(c *Config) { c.TenantKeys = []string{"stream"} },
	} {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewSource(1))
			m := newMapper(t, config(mod), Limits{Pairs: 6, Bytes: 100})
			used := m.Acquire()
			hits := 0
			for i := range 4000 {
				shape := shapes[rnd.Intn(1+i/500%len(shapes))]
				n := strings.Count(shape, "%s")
				values := make([]any, n)
				for k := range values {
					values[k] = [...]string{
						`""`, `"/"`, `"/web"`, `"v"`, `"w"`, `"w"`, `"w"`, `7`, `true`, `"é"`,
						fmt.Sprintf("%q", strings.Repeat("long ", rnd.Intn(20))),
					}[rnd.Intn(11)]
				}
				src := fmt.Sprintf(shape, values...)
				rec := parse(t, src)
				in := &Input{Job: "j", Tenant: "def", Tag: []byte([...]string{"a.b", "a.b", "a.b", "c", ""}[rnd.Intn(5)])}
				if rnd.Intn(20) == 0 {
					in.Job = "other"
				}
				if rnd.Intn(20) == 0 {
					in.LineKey = "message"
				}
				if rnd.Intn(20) == 0 {
					in.Meta = parse(t, `{"level":"info"}`)
				}
				if rnd.Intn(20) == 0 {
					rec.Nodes[1].Used = true
				}
				if used.shapes.find(rec, in) != nil {
					hits++
				}
				if got, want := mapOne(used, rec, in), mapOne(m.newState(), rec, in); got != want {
					t.Fatalf("%s, %+v:\n got %+v\nwant %+v", src, in, got, want)
				}
			}
			learns := name != "everything" && name != "tenants" // where shapes do not decide
			if learns && hits < 100 || !learns && hits > 0 {
				t.Fatalf("%d records had a known shape", hits)
			}
		})
	}
}
