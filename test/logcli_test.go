//go:build integration

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// logcliData is an entry every ten seconds of ten minutes, in two streams in
// turn. The last third is not stored yet.
func logcliData(t *testing.T, s *testkit.Server, start int64) (all []testkit.Entry) {
	t.Helper()
	ctx := context.Background()
	levels := []string{"info", "warn", "error"}
	streams := []testkit.Stream{
		{Labels: []testkit.Pair{{Name: "app", Value: "shop"}, {Name: "env", Value: "prod"}}},
		{Labels: []testkit.Pair{{Name: "app", Value: "shop"}, {Name: "env", Value: "dev"}}},
	}
	part := func(from, to int) {
		t.Helper()
		for i := range streams {
			streams[i].Entries = nil
		}
		for i := from; i < to; i++ {
			e := testkit.Entry{TS: start + int64(i)*10e9 + int64(i), Line: fmt.Sprintf(`level=%s n=%d took=%dms msg="line \"%d\" ünï"`, levels[i%3], i, i*10, i)}
			streams[i%2].Entries = append(streams[i%2].Entries, e)
			all = append(all, e)
		}
		if err := s.Client("team-a").Push(ctx, streams); err != nil {
			t.Fatal(err)
		}
	}
	part(0, 40)
	if err := s.Client("").Flush(ctx); err != nil {
		t.Fatal(err)
	}
	part(40, 60)
	return all
}

func linesOf(entries []testkit.Entry) (out []string) {
	for _, e := range entries {
		out = append(out, e.Line)
	}
	return out
}

func backward(list []string) []string {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

func nonEmpty(text string) (out []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// TestLogcli runs the commands of Loki's own client, and compares what they
// print with what was pushed.
func TestLogcli(t *testing.T) {
	s := testkit.NewServer(t, t.TempDir(), "-auth.enabled=true", "-limits.discover-service-name=")
	s.Start()
	s.WaitReady()
	start := time.Now().Add(-30 * time.Minute).Truncate(time.Minute)
	all := logcliData(t, s, start.UnixNano())
	lines := linesOf(all)
	times := []string{"--from=" + start.UTC().Format(time.RFC3339), "--to=" + start.Add(10*time.Minute).UTC().Format(time.RFC3339)}
	run := func(args ...string) string {
		t.Helper()
		return logcli(t, s, append([]string{"--quiet"}, args...)...)
	}
	ranged := func(command string, args ...string) string {
		t.Helper()
		return run(slices.Concat([]string{command}, times, args)...)
	}
	same := func(what string, got, want []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", what, got, want)
		}
	}

	const selector = `{app="shop"}`
	same("forward", nonEmpty(ranged("query", "--forward", "--limit=100", "--output=raw", selector)), lines)
	same("backward", nonEmpty(ranged("query", "--limit=100", "--output=raw", selector)), backward(lines))
	same("forward, limited", nonEmpty(ranged("query", "--forward", "--limit=7", "--output=raw", selector)), lines[:7])
	same("backward, limited", nonEmpty(ranged("query", "--limit=7", "--output=raw", selector)), backward(lines[53:]))
	same("forward, in batches", nonEmpty(ranged("query", "--forward", "--limit=50", "--batch=8", "--output=raw", selector)), lines[:50])
	same("backward, in batches", nonEmpty(ranged("query", "--limit=0", "--batch=8", "--output=raw", selector)), backward(lines))
	var errors []string
	for i := 2; i < 60; i += 3 {
		errors = append(errors, lines[i])
	}
	same("a pipeline", nonEmpty(ranged("query", "--forward", "--limit=100", "--output=raw", selector+` | logfmt | level="error"`)), errors)
	same("in parallel", nonEmpty(ranged("query", "--forward", "--limit=0", "--output=raw", "--parallel-duration=2m", "--parallel-max-workers=3",
		"--part-path-prefix="+t.TempDir()+"/part", "--merge-parts", selector)), lines)

	t.Run("jsonl", func(t *testing.T) {
		got := nonEmpty(ranged("query", "--forward", "--limit=100", "--output=jsonl", "--include-label=env", "--include-common-labels", selector))
		if len(got) != len(all) {
			t.Fatalf("%d lines, want %d", len(got), len(all))
		}
		for i, text := range got {
			var v struct {
				Labels    map[string]string
				Line      string
				Timestamp time.Time
			}
			if err := json.Unmarshal([]byte(text), &v); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if env := []string{"prod", "dev"}[i%2]; v.Line != lines[i] || v.Timestamp.UnixNano() != all[i].TS || v.Labels["env"] != env {
				t.Errorf("entry %d is %+v", i, v)
			}
		}
	})
	t.Run("default", func(t *testing.T) {
		got := nonEmpty(ranged("query", "--forward", "--limit=100", "--output=default", "--output-timestamp-format=rfc3339nano", "--timezone=UTC", "--include-label=env", selector))
		var want []string
		for i, e := range all {
			want = append(want, time.Unix(0, e.TS).UTC().Format(time.RFC3339Nano)+` {env="`+[]string{"prod", "dev"}[i%2]+`"} `+e.Line)
		}
		// The columns are filled up with blanks.
		for i := range got {
			got[i] = strings.Join(strings.Fields(got[i]), " ")
		}
		same("default output", got, want)
	})

	t.Run("range metric", func(t *testing.T) {
		var got []struct {
			Metric map[string]string
			Values [][2]any
		}
		out := ranged("query", "--step=60s", "sum by (env) (count_over_time("+selector+"[1m]))")
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if len(got) != 2 || got[0].Metric["env"] != "dev" || got[1].Metric["env"] != "prod" {
			t.Fatalf("got %v", got)
		}
		for i, s := range got {
			var want [][2]any
			for at := start; !at.After(start.Add(10 * time.Minute)); at = at.Add(time.Minute) {
				n := 0
				for k, e := range all {
					if k%2 != i && e.TS > at.Add(-time.Minute).UnixNano() && e.TS <= at.UnixNano() { // dev has the odd ones
						n++
					}
				}
				if n > 0 {
					want = append(want, [2]any{float64(at.Unix()), strconv.Itoa(n)})
				}
			}
			if fmt.Sprint(s.Values) != fmt.Sprint(want) {
				t.Errorf("%v: got %v, want %v", s.Metric, s.Values, want)
			}
		}
	})
	t.Run("instant metric", func(t *testing.T) {
		now := "--now=" + start.Add(10*time.Minute).UTC().Format(time.RFC3339)
		var got []struct {
			Metric map[string]string
			Value  [2]any
		}
		out := run("instant-query", now, `sum by (level) (count_over_time(`+selector+` | logfmt [10m]))`)
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		sums := map[string]any{}
		for _, s := range got {
			sums[s.Metric["level"]] = s.Value[1]
		}
		// The first entry is at the very start, which is not in (start, end].
		if want := (map[string]any{"info": "19", "warn": "20", "error": "20"}); fmt.Sprint(sums) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", sums, want)
		}
		if out := run("instant-query", now, `vector(1)+vector(1)`); !strings.Contains(out, `"2"`) {
			t.Errorf("got %s", out)
		}
	})

	same("labels", nonEmpty(ranged("labels")), []string{"app", "env"})
	same("values of a label", nonEmpty(ranged("labels", "env")), []string{"dev", "prod"})
	series := nonEmpty(ranged("series", selector))
	slices.Sort(series)
	same("series", series, []string{`{app="shop", env="dev"}`, `{app="shop", env="prod"}`})
	analysed := ranged("series", "--analyze-labels", selector)
	for _, want := range []string{`Total Streams: +2\b`, `Unique Labels: +2\b`, `(?m)^env +2 +2\b`, `(?m)^app +1 +2\b`} {
		if !regexp.MustCompile(want).MatchString(analysed) {
			t.Errorf("series --analyze-labels printed %q, want %s", analysed, want)
		}
	}

	t.Run("stats", func(t *testing.T) {
		out := ranged("stats", selector)
		number := func(name string) int {
			m := regexp.MustCompile(`(?m)` + name + `: +(\d+)`).FindStringSubmatch(out)
			if m == nil {
				t.Fatalf("no %s in %q", name, out)
			}
			n, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if number("streams") != 2 || number("chunks") < 2 || number("entries") != len(all) {
			t.Errorf("printed %q", out)
		}
	})
	for _, command := range []string{"volume", "volume_range"} {
		t.Run(command, func(t *testing.T) {
			out := ranged(command, "--targetLabels=env", selector)
			for _, want := range []string{`"env": ?"prod"`, `"env": ?"dev"`} {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("printed %q, want %s", out, want)
				}
			}
			if out := ranged(command, "--aggregateByLabels", selector); !strings.Contains(out, `"app"`) || !strings.Contains(out, `"env"`) {
				t.Errorf("by label: printed %q", out)
			}
		})
	}
	t.Run("detected-fields", func(t *testing.T) {
		out := ranged("detected-fields", selector)
		for _, want := range []string{`level\W+type: string\s+cardinality: 3`, `n\W+type: int\s+cardinality: 60`, `took\W+type: duration`, `msg\W+type: string`} {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("printed %q, want %s", out, want)
			}
		}
		same("values of a field", nonEmpty(ranged("detected-fields", selector, "level")), []string{"error", "info", "warn"})
	})
}
