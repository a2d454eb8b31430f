package testkit

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// LogQLStreams makes lines of all the kinds that queries take apart: 20 minutes
// from start, in seconds. No two entries have the same time.
func LogQLStreams(start int64) (streams []Stream) {
	next := int64(0)
	add := func(labels string, every int, line func(i int) string, meta ...func(i int) string) {
		s := Stream{}
		for kv := range strings.SplitSeq(labels, ",") {
			n, v, _ := strings.Cut(kv, "=")
			s.Labels = append(s.Labels, Pair{Name: n, Value: v})
		}
		next++
		for i := 0; i*every < 1200; i++ {
			e := Entry{TS: start + int64(i*every)*1e9 + next*1e6, Line: line(i)}
			for _, m := range meta {
				if n, v, ok := strings.Cut(m(i), "="); ok {
					e.Meta = append(e.Meta, Pair{Name: n, Value: v})
				}
			}
			s.Entries = append(s.Entries, e)
		}
		streams = append(streams, s)
	}
	pick := func(i int, of ...string) string { return of[i%len(of)] }
	levels := []string{"info", "warn", "error", "debug", "info"}

	jsonLine := func(i int) string {
		switch i % 29 {
		case 7:
			return `{"level":"error","msg":"cut off`
		case 13:
			return `not json at all ` + strconv.Itoa(i)
		case 19:
			return `{"level":"warn","status":500,"nested":{"a":{"b":"deep"},"list":[1,{"x":"y"}]}`
		case 23:
			return `["an","array",{"level":"info"}]`
		}
		return fmt.Sprintf(`{"level":%q, "msg":"request %d \"done\" \u00e9\n", "status":%d, "took":"%dms", "size":"%d.5KB", "ok":%v, "none":null, `+
			`"nested":{"a":{"b":"v%d"},"list":[%d,{"x":"y%d"}], "id":%d}, "odd key!":"o%d", "9th":"n", "app":"inner", "ip":"10.0.%d.%d", "f":%d.25, "empty":""}`,
			pick(i, levels...), i, []int{200, 200, 404, 500}[i%4], i%300, i%50, i%2 == 0, i%3, i, i%2, i%5, i%4, i%3, i%256, i%7)
	}
	add("app=json,env=prod", 5, jsonLine)
	add("app=json,env=dev", 11, jsonLine)

	logfmtLine := func(i int) string {
		switch i % 23 {
		case 5:
			return `level=error msg="not closed`
		case 11:
			return `level=warn msg="bad \q escape" x=1 =y a=b=c`
		case 17:
			return `level= flag msg="" size=  took=1s level=info`
		}
		return fmt.Sprintf(`ts=%d level=%s msg="got %d \"things\"" status=%d took=%d.5s size=%dKiB user.name=u%d app=inner ip=192.168.%d.%d f=%d.5 bad=x%d`,
			i, pick(i, levels...), i, []int{200, 404, 500}[i%3], i%9, i%20, i%4, i%2, i%250, i%11-5, i)
	}
	add("app=logfmt,env=prod", 4, logfmtLine)
	add("app=logfmt,env=dev", 9, logfmtLine)

	add("app=nginx,env=prod", 6, func(i int) string {
		return fmt.Sprintf(`%s - %s [10/Oct/2026:13:%02d:36 +0000] "%s /api/v%d/items?id=%d HTTP/1.1" %d %d "-" "Mozilla/%d.0"`,
			pick(i, "10.0.0.1", "192.168.4.77", "2001:db8::42", "172.16.3.9", "8.8.8.8"), pick(i, "-", "frank", "eve"), i%60,
			pick(i, "GET", "POST", "PUT"), i%3, i, []int{200, 304, 502}[i%3], i*37%5000, i%6)
	})
	add("app=plain,env=dev", 7, func(i int) string {
		return pick(i, "", "tabs\tand\nnewlines", "ünïcödé ſtring Kelvin", "Error: something FAILED at step "+strconv.Itoa(i),
			"error=timeout after 30s", "a.b.c (x) [y] {z} <b>&</b>", `quotes "double" 'single' \back`)
	})
	add("app=color,env=dev", 13, func(i int) string {
		return fmt.Sprintf("\x1b[3%dmlevel\x1b[0m=\x1b[1;31m%s\x1b[0m plain%d", i%8, pick(i, levels...), i)
	})
	add("app=packed,env=prod", 8, func(i int) string {
		return pick(i, fmt.Sprintf(`{"pod":"p%d","app":"inner","n":%d,"_entry":"line %d level=%s"}`, i%4, i, i, pick(i, levels...)),
			`{"pod":"px"}`, `broken {`, fmt.Sprintf(`{"_entry":"{\"a\":%d}","pod":"py"}`, i))
	})
	add("app=meta,env=prod", 5, func(i int) string { return fmt.Sprintf("level=parsed n=%d line", i) },
		func(i int) string { return "level=" + pick(i, levels...) },
		func(i int) string { return "trace_id=" + fmt.Sprintf("%04x", i%6) },
		func(i int) string {
			if i%3 == 0 {
				return "app=other"
			}
			return ""
		})
	for _, host := range []string{"a", "b", "c"} {
		add("app=num,host="+host, 10, func(i int) string {
			k := i + len(host)*3 + int(host[0])
			v := strconv.FormatFloat(float64(k*k%97)/4, 'f', -1, 64)
			switch i % 40 {
			case 11:
				v = "not-a-number"
			case 21:
				v = ""
			}
			return fmt.Sprintf("v=%s c=%d neg=-%d zone=%s dur=%dms size=%dB inf=%s", v, (k*7)%200, k%13, pick(i, "x", "y"), k%2000, k*100, pick(i, "+Inf", "1", "NaN"))
		})
	}
	addLevels(add)
	return streams
}

// addLevels adds entries that have their level in all the places where it may be.
func addLevels(add func(labels string, every int, line func(i int) string, meta ...func(i int) string)) {
	of := func(texts ...string) func(int) string { return func(i int) string { return texts[i%len(texts)] } }
	odd := of("an error, maybe", "nothing", `{"level":"info"}`, "lvl=dbg")
	add("app=level,kind=words", 9, of("", "error at the beginning", "Warning: info behind it", "[FATAL] x", "(critical)", "a=debug", "\"trace\"", "x\tINFO\ty", "errors",
		"misc:error", "error/x", "xerror", "inf wrn dbg", "no information", "warn!", "'error'", "|error|", "İNFO x", "CRİTİCAL", "ERR:", "{error", "debug fatal", "err", "\xff error", "x error=1",
		"\nwarning\n", "error.", "error\r", "error;", "K debug"))
	add("app=level,kind=json", 9, of(`{"level":"ERR"}`, `{"msg":"error","lvl":"Trc"}`, `{"LEVEL":"warn","level":"info"}`, `{"lEvEl":"inf"}`, `{"log":{"level":"fatal"}}`, `{"a":{"b":{"level":"wrn"}}}`,
		`{"a":[{"level":"wrn"}],"severity":"dbg"}`, `{"log.level":"critical"}`, `{"level":3,"severity":"err"}`, `{"level":"notice","severity":"err"}`, `{"level":"notice","severity":"inf"}`,
		`{"msg":"cut","level":"dbg`, `{"msg":"cut","level":"dbg}`, `{"level":"dbg","msg":"cut}`, `{"lev\u0065l":"inf"}`, `{"level":"inf\u006f"}`, ` {"SeverityText":"Information"} `, `{"level":null,"lvl":"inf"}`,
		`{"level":"","lvl":"inf"}`, `{"detected_level":"inf","level":"wrn"}`, `{"a":{"level":"wrn"},"level":"inf"}`, `{"a":{"x":y},"level":"inf"}`, `{"a":"b" "level":"inf"}`, "{\"lvl\":\"trc\"}\u00a0", `{}`, `{"level":"inf",}`,
		`{"msg":"an error happened"}`, `{"msg":"error: no"}`, `{"level":true,"msg":"x"}`, `["level","wrn"]`, `{"Severity":"wrn"} x`))
	add("app=level,kind=logfmt", 9, of("level=ERR", "msg=error level=dbg", "lvl=wrn severity=inf", "severity=inf lvl=err", "LeVeL=Information", "log.level=err", `level="err"`, `level="\u0065rr"`,
		`level=notice msg="an error"`, "level= msg=warn", "a=b=c level=dbg", "level=trc a=b=c", "lvl=trc a=b=c level=dbg", `lvl=trc x="open`, "took=5ms", "level = dbg", "level", "ſeverity=fatal", "a= level=inf", "=level=inf",
		"detected_level=inf level=wrn", "severity_text=wrn", "level:inf x=1", `level='err' x=1`, "level=inf level=wrn", "lvl=\xff severity=inf", "\xff=1 level=inf"))
	number := func(i int) string { return "severity_number=" + strconv.Itoa(i%28-1) }
	add("app=level,kind=otlp", 9, odd, number)
	add("app=level,kind=otlp2", 9, odd, number, of("", "", "severity_text=Notice", "severity_text=WARN"))
	add("app=level,kind=otlp3", 9, odd, of("severity_number=x", "severity_number=17 ", "severity_number=-1", "severity_number=+17", "severity_number=99999999999999999999"))
	add("app=level,kind=meta", 9, odd, of("level=ERR", "lvl=wrn", "lvl=custom", "SEVERITY=inf", "lEvEl=err", "level="), of("", "severity=dbg", "LEVEL=Fatal"))
	add("app=level,kind=given", 9, odd, of("detected_level=ERR", "detected_level=info", "detected_level=Custom", "lvl=wrn", "detected_level="), of("", "level=dbg"))
	add("app=level,kind=label,level=Warning", 9, odd, of("", "level=dbg", "detected_level=ERR"))
	add("app=level,kind=label,lvl=notice,severity=Err", 9, odd, number)
	add("app=level,kind=label,detected_level=Odd", 9, odd, of("", "level=dbg", "detected_level=ERR"))
	add("app=level,kind=label,detected_level=Odd,detected_level_extracted=Odder", 9, odd, of("", "level=dbg", "detected_level=ERR", "detected_level_extracted=x"))
}

// LogQLCase is a query of a file of queries.
type LogQLCase struct {
	Text   string // the line
	Path   string // of the endpoint, behind /loki/api/v1/
	Params url.Values
	Flags  string // header X-Loki-Response-Encoding-Flags
	Known  string // why the answers of Loki and loki-go differ
}

// parseLogQLCase reads
//
//	KIND[@name=value,...] QUERY
//
// KIND is log, range, instant, or the name of another endpoint. Times are in
// seconds from the start of the data. A line that begins with "!" gives, in the
// words up to "!", why the answer of the next line is known to differ.
func parseLogQLCase(line string, start int64) (LogQLCase, error) {
	head, query, _ := strings.Cut(line, " ")
	kind, opts, _ := strings.Cut(head, "@")
	c := LogQLCase{Text: line, Params: url.Values{"query": {query}}}
	if strings.HasPrefix(query, `"`) {
		var q string
		if err := json.Unmarshal([]byte(query), &q); err != nil {
			return c, fmt.Errorf("%s: %w", line, err)
		}
		c.Params.Set("query", q)
	}
	at := func(seconds string) string {
		s, err := strconv.ParseFloat(seconds, 64)
		if err != nil {
			return seconds // to be refused
		}
		return strconv.FormatInt(start+int64(s*1e9), 10)
	}
	c.Params.Set("start", at("0"))
	c.Params.Set("end", at("1200"))
	switch kind {
	case "log":
		c.Path = "query_range"
		c.Params.Set("limit", "1000")
	case "range":
		c.Path = "query_range"
		c.Params.Set("step", "60")
	case "instant":
		c.Path = "query"
		c.Params = url.Values{"query": c.Params["query"], "time": {at("1200")}}
	default:
		c.Path = kind
	}
	for o := range strings.SplitSeq(opts, ",") {
		n, v, _ := strings.Cut(o, "=")
		switch n {
		case "":
		case "start", "end", "time":
			c.Params.Set(n, at(v))
		case "cat":
			c.Flags = "categorize-labels"
		case "no":
			c.Params.Del(v)
		default:
			c.Params.Set(n, v)
		}
	}
	return c, nil
}

// ReadLogQLCases reads the queries in dir, about the data of LogQLStreams that
// begins at start (ns).
func ReadLogQLCases(dir string, start int64) (cases []LogQLCase, err error) {
	known := ""
	for _, file := range []string{"logql.txt", "logql_random.txt"} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSuffix(line, "\n")
			switch {
			case line == "" || line[0] == '#':
				continue
			case line[0] == '!':
				known = strings.TrimSpace(line[1:])
				continue
			}
			c, err := parseLogQLCase(line, start)
			if err != nil {
				return nil, err
			}
			c.Known, known = known, ""
			cases = append(cases, c)
		}
	}
	return cases, nil
}
