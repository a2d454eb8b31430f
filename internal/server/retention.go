package server

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/storage/compactor"
)

// retention reads tenants' limits for the compactor.
type retention struct {
	limits *limits.Overrides
	log    *slog.Logger
}

// Retention implements compactor.Retention. What cannot be read keeps
// everything: nothing is deleted by mistake.
func (r retention) Retention(tenant string) compactor.Policy {
	l := r.limits.For(tenant)
	rules, err := retentionRules(l.RetentionStream)
	if err != nil {
		r.log.Error("retention of a tenant cannot be read, all its chunks are kept", "tenant", tenant, "err", err)
		return compactor.Policy{}
	}
	return compactor.Policy{Period: l.RetentionPeriod, Streams: rules}
}

// retentionRules reads what limits.retention-stream has.
func retentionRules(list []string) ([]compactor.Rule, error) {
	var rules []compactor.Rule
	for _, text := range list {
		rule, err := retentionRule(text)
		if err != nil {
			return nil, fmt.Errorf("retention-stream: %q is not SELECTOR PRIORITY PERIOD: %w", text, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func retentionRule(text string) (compactor.Rule, error) {
	end := strings.LastIndexByte(text, '}') + 1
	fields := strings.Fields(text[end:])
	if end == 0 || len(fields) != 2 {
		return compactor.Rule{}, fmt.Errorf("want a selector and two more words")
	}
	expr, err := logql.Parse(text[:end])
	if err != nil {
		return compactor.Rule{}, err
	}
	q, ok := expr.(*logql.LogQuery)
	if !ok || len(q.Stages) > 0 {
		return compactor.Rule{}, fmt.Errorf("%s is not a selector", text[:end])
	}
	priority, err := strconv.Atoi(fields[0])
	if err != nil {
		return compactor.Rule{}, err
	}
	period, err := config.ParseDuration(fields[1])
	if err != nil {
		return compactor.Rule{}, err
	}
	if period < 0 {
		return compactor.Rule{}, fmt.Errorf("%s is negative", fields[1])
	}
	return compactor.Rule{Matchers: q.Matchers, Priority: priority, Period: period}, nil
}
