package bench

import (
	"maps"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

func TestSumsOfAnswers(t *testing.T) {
	f := func(body string, want map[string]float64) {
		t.Helper()
		got, err := sums([]byte(body))
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", body, got, err, want)
		}
	}
	f(`{"data":{"resultType":"streams","result":[{"stream":{"a":"b"},"values":[["1","x"],["2","y"]]},{"stream":{},"values":[]}]}}`,
		map[string]float64{"map[a:b]": 2, "map[]": 0})
	f(`{"data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[1,"2"],[2,"0.5"]]}]}}`, map[string]float64{"map[a:b]": 2.5})
	f(`{"data":{"resultType":"matrix","result":[]}}`, map[string]float64{})
	for _, bad := range []string{
		`no`, `{"data":{"resultType":"matrix","result":[{"values":[[1]]}]}}`, `{"data":{"resultType":"matrix","result":[{"values":[[1,"x"]]}]}}`,
	} {
		if got, err := sums([]byte(bad)); err == nil {
			t.Errorf("%s: got %v", bad, got)
		}
	}
}

// TestOneProgram: all lines of a load are of the program that is asked for, in
// as many streams as ever.
func TestOneProgram(t *testing.T) {
	spec := testSpec("loki")
	spec.App = "checkout"
	streams := map[string]bool{}
	for c := range spec.Conns {
		for _, batch := range spec.Batches(c) {
			b := push.Get()
			if err := b.SetBody(batch.Body, push.CodecSnappy, 0); err != nil {
				t.Fatal(err)
			}
			for i := range b.Streams {
				s := &b.Streams[i]
				streams[string(b.Bytes(s.RawLabels))] = true
				for _, e := range b.StreamEntries(s) {
					if line := b.Bytes(e.Line); line[0] != '{' {
						t.Fatalf("line %s", line)
					}
				}
			}
			b.Release()
		}
	}
	if len(streams) != spec.Streams {
		t.Errorf("%d streams", len(streams))
	}
}
