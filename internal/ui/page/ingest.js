import { el, byId } from "./dom.js";
import { bytes, count, seconds } from "./text.js";
import { spark } from "./chart.js";

// Metrics of loki-go that are shown, and what of each is used.
const WANTED = new Set([
  "loki_go_gateway_received_entries_total", "loki_go_gateway_received_bytes_total", "loki_go_gateway_discarded_entries_total",
  "loki_go_gateway_push_seconds_bucket", "loki_go_gateway_push_seconds_count",
  "loki_go_gateway_inflight_bytes", "loki_go_gateway_inflight_limit_bytes",
  "loki_go_ingester_streams", "loki_go_ingester_head_bytes", "loki_go_ingester_pending_chunks", "loki_go_wal_size_bytes",
  "loki_go_ingester_flush_errors_total", "process_resident_memory_bytes",
]);

// parseMetrics reads the lines of WANTED from Prometheus' text format: a Map of
// name to [{labels, value}].
export function parseMetrics(text) {
  const out = new Map();
  for (const line of text.split("\n")) {
    const end = line.search(/[{ ]/);
    if (end <= 0 || !WANTED.has(line.slice(0, end))) continue;
    const labels = {};
    let rest = line.slice(end);
    if (rest[0] === "{") {
      const pair = /[{,]\s*([A-Za-z_][A-Za-z0-9_]*)="((?:\\.|[^"\\])*)"/y;
      for (let m; (m = pair.exec(rest)); rest = rest.slice(pair.lastIndex), pair.lastIndex = 0) {
        labels[m[1]] = m[2].replace(/\\(.)/g, (_, c) => c === "n" ? "\n" : c);
      }
      rest = rest.replace(/^,?\s*}/, "");
    }
    const value = rest.trim().split(/\s+/)[0];
    const n = value === "+Inf" ? Infinity : Number(value);
    if (Number.isNaN(n)) continue;
    const name = line.slice(0, end);
    if (!out.has(name)) out.set(name, []);
    out.get(name).push({ labels, value: n });
  }
  return out;
}

// quantile of a histogram's growth: pairs of bound and cumulative count.
export function quantile(q, buckets) {
  const list = [...buckets].sort((a, b) => a[0] - b[0]);
  const all = list.at(-1)?.[1] ?? 0;
  if (!(all > 0)) return NaN;
  let below = 0, from = 0;
  for (const [bound, n] of list) {
    if (n >= q * all) return bound === Infinity ? from : from + (bound - from) * (n > below ? (q * all - below) / (n - below) : 1);
    below = n;
    from = bound;
  }
  return from;
}

const WINDOW = 15000; // ms over which rates are taken
const KEEP = 60; // points of a curve
const EVERY = 3000; // ms between looks
const MAX_ROWS = 200;

// Ingest shows what comes in, while it is visible.
export class Ingest {
  constructor(fetchMetrics) {
    this.fetch = fetchMetrics;
    this.samples = [];
    this.curves = new Map();
    document.addEventListener("visibilitychange", () => { if (this.on && !document.hidden) this.look(); });
  }

  start() {
    if (this.on) return;
    this.on = true;
    this.samples = [];
    this.look();
  }

  stop() {
    this.on = false;
    clearTimeout(this.timer);
    this.timer = 0;
  }

  async look() {
    clearTimeout(this.timer);
    const turn = this.turn = {};
    try {
      const data = parseMetrics(await this.fetch(AbortSignal.timeout(10000)));
      if (turn !== this.turn || !this.on) return;
      this.take({ at: performance.now(), data });
      byId("ingest-status").textContent = this.samples.length < 2 ? "Rates come with the second look, in 3 seconds." : "Looked at " + new Date().toLocaleTimeString();
    } catch (err) {
      if (turn !== this.turn || !this.on) return;
      byId("ingest-status").textContent = "No metrics: " + err.message;
    }
    if (!document.hidden) this.timer = setTimeout(() => this.look(), EVERY);
  }

  take(sample) {
    this.samples.push(sample);
    while (this.samples.length > 2 && sample.at - this.samples[1].at >= WINDOW) this.samples.shift();
    this.before = this.samples[0];
    this.now = sample;
    this.elapsed = (sample.at - this.before.at) / 1000;
    this.tiles();
    this.received();
    this.refused();
  }

  // growth returns a counter's growth over the window; NaN at the first look. A
  // counter that fell began anew, with the process.
  growth(name, labels) {
    if (this.before === this.now) return NaN;
    const find = (s) => (s.data.get(name) ?? []).filter((m) => Object.entries(labels).every(([k, v]) => m.labels[k] === v)).reduce((a, m) => a + m.value, 0);
    const d = find(this.now) - find(this.before);
    return d < 0 ? find(this.now) : d;
  }

  rate(name, labels) { return this.growth(name, labels) / this.elapsed; }

  gauge(name) { return this.now.data.get(name)?.reduce((a, m) => a + m.value, 0) ?? NaN; }

  curve(key, value) {
    const list = this.curves.get(key) ?? [];
    if (Number.isFinite(value)) list.push(value);
    if (list.length > KEEP) list.shift();
    this.curves.set(key, list);
    return list.length > 1 ? spark(list) : "";
  }

  latency() {
    const sums = new Map();
    for (const m of this.now.data.get("loki_go_gateway_push_seconds_bucket") ?? []) {
      const bound = m.labels.le === "+Inf" ? Infinity : Number(m.labels.le);
      if (!sums.has(bound)) sums.set(bound, this.growth("loki_go_gateway_push_seconds_bucket", { le: m.labels.le }));
    }
    return [...sums];
  }

  tiles() {
    const push = this.latency();
    const failed = this.growth("loki_go_gateway_push_seconds_count", { result: "error" });
    const flushErrors = this.growth("loki_go_ingester_flush_errors_total", {});
    const tile = (value, what, bad) => el("div", { class: bad ? "tile bad" : "tile" }, el("b", null, value), el("span", null, what));
    byId("ingest-tiles").replaceChildren(
      tile(count(this.rate("loki_go_gateway_received_entries_total", {})) + "/s", "lines received"),
      tile(bytes(this.rate("loki_go_gateway_received_bytes_total", {})) + "/s", "bytes received"),
      tile(count(this.rate("loki_go_gateway_push_seconds_count", {})) + "/s", "pushes"),
      tile(seconds(quantile(.5, push)), "to an acknowledgement, median"),
      tile(seconds(quantile(.99, push)), "to an acknowledgement, 99 %"),
      tile(count(this.rate("loki_go_gateway_discarded_entries_total", {})) + "/s", "lines refused", this.rate("loki_go_gateway_discarded_entries_total", {}) > 0),
      tile(count(failed), "pushes failed", failed > 0),
      tile(bytes(this.gauge("loki_go_gateway_inflight_bytes")), "in flight, of " + bytes(this.gauge("loki_go_gateway_inflight_limit_bytes"))),
      tile(count(this.gauge("loki_go_ingester_streams")), "streams in memory"),
      tile(bytes(this.gauge("loki_go_ingester_head_bytes")), "in heads"),
      tile(bytes(this.gauge("loki_go_wal_size_bytes")), "in the WAL"),
      tile(count(this.gauge("loki_go_ingester_pending_chunks")), "chunks to be stored"),
      tile(count(flushErrors), "failed uploads", flushErrors > 0),
      tile(bytes(this.gauge("process_resident_memory_bytes")), "memory"));
  }

  received() {
    const entries = "loki_go_gateway_received_entries_total";
    this.table("ingest-in", this.now.data.get(entries) ?? [], ({ labels, value }) => {
      const rate = this.rate(entries, labels);
      const row = [labels.tenant, labels.receiver, count(rate), bytes(this.rate("loki_go_gateway_received_bytes_total", labels)), count(value),
        this.curve("in " + JSON.stringify(labels), rate)];
      return { rate, row };
    });
  }

  refused() {
    const entries = "loki_go_gateway_discarded_entries_total";
    this.table("ingest-refused", this.now.data.get(entries) ?? [], ({ labels, value }) => {
      const rate = this.rate(entries, labels);
      return { rate, row: [labels.tenant, labels.reason, count(rate), count(value), this.curve("refused " + JSON.stringify(labels), rate)] };
    });
  }

  table(id, metrics, make) {
    const body = byId(id).tBodies[0];
    const rows = metrics.map(make).sort((a, b) => (b.rate || 0) - (a.rate || 0) || (a.row[0] + a.row[1] < b.row[0] + b.row[1] ? -1 : 1));
    const width = byId(id).tHead.rows[0].cells.length;
    const numeric = [...byId(id).tHead.rows[0].cells].map((c) => c.className);
    const shown = rows.slice(0, MAX_ROWS).map((r) => el("tr", null, ...r.row.map((c, i) => el("td", { class: numeric[i] || undefined }, c))));
    if (!rows.length) shown.push(el("tr", null, el("td", { colspan: width }, "nothing so far")));
    if (rows.length > MAX_ROWS) shown.push(el("tr", null, el("td", { colspan: width }, `${rows.length - MAX_ROWS} more rows are not shown`)));
    body.replaceChildren(...shown);
  }
}
