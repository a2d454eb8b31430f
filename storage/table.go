package storage

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/loki-go/loki-go/storage/index"
)

const (
	indexDir    = "index/"
	tablePrefix = "index_"
	dayMillis   = 24 * 60 * 60 * 1000
	plainSuffix = ".tsdb"
	gzipSuffix  = ".tsdb.gz"
	// tenantLabel is the label that names the tenant in files of many tenants.
	tenantLabel = "__loki_tenant__"
)

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// tableDir returns the folder of a table.
func tableDir(day int64) string {
	return indexDir + tablePrefix + strconv.FormatInt(day, 10) + "/"
}

// tenantDir returns the folder of a tenant's files in a table.
func tenantDir(table, tenant string) string { return table + tenant + "/" }

// parseTableDir is the inverse of tableDir.
func parseTableDir(key string) (day int64, ok bool) {
	day, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(key, indexDir+tablePrefix), "/"), 10, 64)
	return day, err == nil && tableDir(day) == key
}

func tenantIndexKey(day int64, tenant string, now int64, info index.Info) string {
	return fmt.Sprintf("%s%d-compactor-%d-%d-%x%s", tenantDir(tableDir(day), tenant), now, info.From, info.Through, info.Checksum, gzipSuffix)
}

func isIndexFile(key string) bool {
	return strings.HasSuffix(key, plainSuffix) || strings.HasSuffix(key, gzipSuffix)
}

// tenantFileBounds returns the bounds (ms) that the name of a tenant's file
// states.
func tenantFileBounds(key string) (from, through int64, ok bool) {
	name := key[strings.LastIndexByte(key, '/')+1:]
	_, rest, ok := strings.Cut(name, "-compactor-")
	if !ok {
		return 0, 0, false
	}
	// Times before 1970 have a minus sign of their own.
	parts := strings.Split(rest, "-")
	if len(parts) != 3 {
		return 0, 0, false
	}
	from, err1 := strconv.ParseInt(parts[0], 10, 64)
	through, err2 := strconv.ParseInt(parts[1], 10, 64)
	return from, through, err1 == nil && err2 == nil
}

func checkTenant(tenant string) error {
	if tenant == "" || tenant == "." || tenant == ".." || strings.ContainsAny(tenant, "/\\") {
		return fmt.Errorf("storage: %q is no tenant", tenant)
	}
	return nil
}

// days returns the first and the last table that chunks touch.
func days(chunks []index.ChunkMeta) (first, last int64) {
	first, last = math.MaxInt64, math.MinInt64
	for _, c := range chunks {
		first, last = min(first, floorDiv(c.MinTime, dayMillis)), max(last, floorDiv(c.MaxTime, dayMillis))
	}
	return first, last
}

// splitByDay lists every chunk in every table that it touches. It may return
// series as they are.
func splitByDay(series []index.Series) map[int64][]index.Series {
	first, last := int64(math.MaxInt64), int64(math.MinInt64)
	for i := range series {
		a, b := days(series[i].Chunks)
		first, last = min(first, a), max(last, b)
	}
	if first == last {
		return map[int64][]index.Series{first: series}
	}
	tables := map[int64][]index.Series{}
	for _, s := range series {
		first, last := days(s.Chunks)
		if first == last { // all in one table, as nearly always
			tables[first] = append(tables[first], s)
			continue
		}
		byDay := map[int64][]index.ChunkMeta{}
		for _, c := range s.Chunks {
			for day := floorDiv(c.MinTime, dayMillis); day <= floorDiv(c.MaxTime, dayMillis); day++ {
				byDay[day] = append(byDay[day], c)
			}
		}
		for day, chunks := range byDay {
			tables[day] = append(tables[day], index.Series{Labels: s.Labels, Fingerprint: s.Fingerprint, Chunks: chunks})
		}
	}
	return tables
}

func sortedDays(tables map[int64][]index.Series) []int64 {
	days := make([]int64, 0, len(tables))
	for d := range tables {
		days = append(days, d)
	}
	slices.Sort(days)
	return days
}
