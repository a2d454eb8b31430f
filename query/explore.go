package query

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/loki-go/loki-go/query/logql"
)

// The endpoints of this file are those that Grafana's Logs Drilldown and the
// query builder ask: how much there is, and what can be asked for.

func (h *Handler) indexStats(c *call, j *jsonWriter) error {
	start, end, ms, err := selection(c, false)
	if err != nil {
		return err
	}
	s, err := h.deps.Engine.Stats(c.Context(), c.tenant, ms, start, end)
	if err != nil {
		return err
	}
	j.raw("{")
	j.field("streams", s.Streams)
	j.field("chunks", s.Chunks)
	j.field("bytes", s.Bytes)
	j.field("entries", s.Entries)
	j.raw("}\n")
	return nil
}

func (h *Handler) volume(c *call, j *jsonWriter) error      { return h.volumes(c, j, false) }
func (h *Handler) volumeRange(c *call, j *jsonWriter) error { return h.volumes(c, j, true) }

const defaultVolumes = 100

func (h *Handler) volumes(c *call, j *jsonWriter, steps bool) error {
	if l := c.Form.Get("limit"); l == "" || l == "0" {
		c.Form.Set("limit", strconv.Itoa(defaultVolumes))
	}
	p, err := parseRange(c.Form, c.now)
	if err != nil {
		return err
	}
	r := VolumeRequest{Tenant: c.tenant, Limit: p.limit}
	switch c.Form.Get("aggregateBy") {
	case "", "series":
	case "labels":
		r.ByLabel = true
	default:
		return badRequest("invalid aggregation option")
	}
	if t := c.Form.Get("targetLabels"); t != "" {
		r.Targets = strings.Split(t, ",")
	}
	if r.Matchers, err = selectorQuery(c.Form.Get("query"), true); err != nil {
		return err
	}
	if !steps {
		p.step = 0
	}
	r.Ranges = volumeRanges(p.start, p.end, p.step)
	res := &MetricResult{}
	if res.Series, err = h.deps.Engine.Volumes(c.Context(), r); err != nil {
		return err
	}
	for _, s := range res.Series {
		if len(s.Points) > 1 {
			j.matrix(res)
			return nil
		}
	}
	j.vector(res)
	return nil
}

func (h *Handler) detectedLabels(c *call, j *jsonWriter) error {
	sets, err := h.labelQuery(c)
	if err != nil {
		return err
	}
	sep := `{"detectedLabels":[`
	for _, l := range DetectedLabels(sets) {
		j.raw(sep + `{"label":`)
		j.buf = appendJSON(j.buf, l.Name, false)
		j.raw(`,"cardinality":` + strconv.Itoa(l.Values) + "}")
		sep = ","
	}
	if sep != "," {
		j.raw("{}\n")
		return nil
	}
	j.raw("]}\n")
	return nil
}

// defaultFields is how many fields are detected, or values of one.
const defaultFields = 1000

// fieldQuery runs the log query of an endpoint that detects fields.
func (h *Handler) fieldQuery(c *call) (r *Result, limit int, err error) {
	lines, err := parseLimit(c.Form.Get("line_limit"))
	if err != nil {
		return nil, 0, err
	}
	if c.Form.Get("limit") == "" {
		c.Form.Set("limit", c.Form.Get("field_limit"))
	}
	if c.Form.Get("limit") == "" {
		c.Form.Set("limit", strconv.Itoa(defaultFields))
	}
	p, err := parseRange(c.Form, c.now)
	if err != nil {
		return nil, 0, err
	}
	expr, err := logql.Parse(c.Form.Get("query"))
	if err != nil {
		return nil, 0, err
	}
	q, ok := expr.(*logql.LogQuery)
	if !ok {
		return nil, 0, badRequest("only log selector is supported")
	}
	r, err = h.deps.Engine.sample(c.Context(), c.tenant, q, p.start, p.end, lines)
	return r, p.limit, err
}

func (h *Handler) detectedFields(c *call, j *jsonWriter) error {
	r, limit, err := h.fieldQuery(c)
	if err != nil {
		return err
	}
	fields := DetectedFields(r, limit)
	if len(fields) == 0 {
		j.raw("{}\n")
		return nil
	}
	j.raw(`{"fields":[`)
	for i, f := range fields {
		if i > 0 {
			j.raw(",")
		}
		j.raw(`{"label":`)
		j.buf = appendJSON(j.buf, f.Name, false)
		j.raw(`,"type":"` + f.Type + `","cardinality":` + strconv.Itoa(len(f.Values)) + `,"parsers":`)
		if len(f.Parsers) == 0 {
			j.raw("null")
		} else {
			j.list(f.Parsers)
		}
		if len(f.Path) > 0 {
			j.raw(`,"jsonPath":`)
			j.list(f.Path)
		}
		j.raw("}")
	}
	j.raw(`],"limit":` + strconv.Itoa(limit) + "}\n")
	return nil
}

func (h *Handler) detectedValues(c *call, j *jsonWriter) error {
	r, limit, err := h.fieldQuery(c)
	if err != nil {
		return err
	}
	values := DetectedValues(r, c.PathValue("name"), limit)
	if len(values) == 0 {
		j.raw("{}\n")
		return nil
	}
	j.raw(`{"values":`)
	j.list(values)
	j.raw(`,"limit":` + strconv.Itoa(limit) + "}\n")
	return nil
}

// list writes an array of texts.
func (j *jsonWriter) list(texts []string) {
	j.raw("[")
	for i, s := range texts {
		if i > 0 {
			j.raw(",")
		}
		j.buf = appendJSON(j.buf, s, false)
		j.flushIfFull()
	}
	j.raw("]")
}

// drilldownLimits tells what Grafana's Logs Drilldown wants to know of a
// tenant's limits.
func (h *Handler) drilldownLimits(c *call, j *jsonWriter) error {
	l := h.deps.Engine.deps.Limits(c.tenant)
	j.raw(`{"limits":{`)
	j.field("max_entries_limit_per_query", int64(l.MaxEntries))
	j.raw(`,"max_query_length":"` + logql.FormatDuration(l.MaxQueryLength) + `","max_query_range":"` + logql.FormatDuration(l.MaxQueryRange) + `"`)
	j.field("max_query_series", int64(l.MaxQuerySeries))
	j.raw(`,"metric_aggregation_enabled":false,"pattern_persistence_enabled":false,"query_timeout":"` + logql.FormatDuration(l.QueryTimeout) +
		`","volume_enabled":true`)
	j.field("volume_max_series", maxVolumeSeries)
	j.raw(`},"pattern_ingester_enabled":false,"version":`)
	version := h.deps.Build.Version
	if version == "" {
		version = "unknown"
	}
	j.buf = appendJSON(j.buf, version, false)
	j.raw("}\n")
	return nil
}

// noPatterns answers as Loki does if it looks for no patterns, which is its
// default.
func (h *Handler) noPatterns(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusNotFound)
}
