import * as api from "./api.js";
import * as logql from "./logql.js";
import * as time from "./time.js";
import { el, byId, stored, copy, save } from "./dom.js";
import { bytes, count, level, seconds } from "./text.js";
import { histogram, legend, graph } from "./chart.js";
import { Lines, MAX_ROWS } from "./lines.js";
import { Ingest } from "./ingest.js";

const RANGES = [["5m", "5 minutes"], ["15m", "15 minutes"], ["1h", "1 hour"], ["3h", "3 hours"], ["6h", "6 hours"], ["12h", "12 hours"],
  ["24h", "24 hours"], ["2d", "2 days"], ["7d", "7 days"], ["30d", "30 days"]];
const MAX_HISTORY = 50, MAX_VALUES = 300, BARS = 80;
const query = byId("query");
const utc = () => byId("zone").value === "utc";

let running = null; // AbortController of what is being asked
let counting = null; // and of the volume
let shown = null; // {query, from, to, backward, limit, result, volume} of what is shown
let live = null; // {stop} while lines are shown as they come
let series = null; // of a metric query

const lines = new Lines(byId("results"), {
  utc,
  say,
  context(e) {
    const at = time.millis(e.ts);
    query.value = logql.selectorText(Object.entries(e.labels).map(([name, value]) => ({ name, op: "=", value })));
    setRange(at - 60e3, at + 60e3);
    run();
  },
  filter(kind, name, op, value, parser) {
    const text = kind === "label" ? logql.filterLabel(query.value, name, op, value) : logql.filterField(query.value, name, op, value, parser);
    if (text === null) { say("the query has no selector that can be changed"); return; }
    query.value = text;
    run();
  },
});
const ingest = new Ingest(api.metrics);
api.settings.tenant = () => byId("tenant").value.trim();

function say(text) { byId("status").textContent = text; }

// --- range ---

function setRange(from, to) {
  byId("range").value = "";
  byId("absolute").hidden = false;
  byId("from").value = time.picker(from, utc());
  byId("to").value = time.picker(to, utc());
}

// range returns {from, to} in ms, or null if a field is not filled in.
function range() {
  const relative = byId("range").value, now = Date.now();
  if (relative) return { from: time.parse("now-" + relative, now), to: now };
  const from = time.unpick(byId("from").value, utc()), to = time.unpick(byId("to").value, utc());
  return from < to ? { from, to } : null;
}

function moveRange(scale, shift) {
  const r = range();
  if (!r) return;
  const half = (r.to - r.from) / 2, middle = (r.from + r.to) / 2 + shift * half;
  setRange(middle - half * scale, middle + half * scale);
  run();
}

// --- address ---

function state() {
  const relative = byId("range").value;
  const r = range();
  const s = new URLSearchParams({ q: query.value });
  if (relative) s.set("from", "now-" + relative);
  else if (r) { s.set("from", new Date(r.from).toISOString()); s.set("to", new Date(r.to).toISOString()); }
  s.set("limit", byId("limit").value);
  s.set("dir", byId("direction").value);
  if (api.settings.tenant()) s.set("tenant", api.settings.tenant());
  if (!byId("ingest").hidden) s.set("view", "ingest");
  return "#" + s;
}

function restore() {
  const s = new URLSearchParams(location.hash.slice(1));
  query.value = s.get("q") ?? "";
  const from = s.get("from") ?? "now-1h", to = s.get("to") ?? "now", now = Date.now();
  byId("range").value = to === "now" && from.startsWith("now-") ? from.slice(4) : "";
  if (byId("range").value) byId("absolute").hidden = true;
  else {
    const a = time.parse(from, now), b = time.parse(to, now);
    if (a < b) setRange(a, b);
    else byId("range").value = "1h";
  }
  for (const [id, key, first] of [["limit", "limit", "1000"], ["direction", "dir", "backward"]]) {
    byId(id).value = s.get(key) ?? first;
    if (!byId(id).value) byId(id).value = first;
  }
  if (s.has("tenant")) byId("tenant").value = s.get("tenant");
  view(s.get("view") === "ingest" ? "ingest" : "explore");
}

// remember puts what is asked into the address. instead: in place of what is
// there, so that back in history does not lead to the same again.
function remember(instead) {
  const s = state();
  if (s !== location.hash) history[instead ? "replaceState" : "pushState"](null, "", s);
  document.title = (query.value.trim() ? query.value.trim().slice(0, 100) + " – " : "") + "loki-go";
}

// --- query ---

function showError(err) {
  const place = logql.errorPlace(err.message);
  byId("error-text").textContent = err.message + (err.status === 401 && !api.settings.tenant() ? " (the field Tenant, at the top, names one)" : "");
  const where = byId("error-where");
  where.hidden = true;
  const text = place && query.value.split("\n")[place.line - 1];
  if (text !== undefined && text !== null) {
    const from = Math.max(0, place.column - 1 - 60);
    where.textContent = text.slice(from, from + 120) + "\n" + " ".repeat(place.column - 1 - from) + "^";
    where.hidden = false;
    const before = query.value.split("\n").slice(0, place.line - 1).join("\n").length + (place.line > 1 ? 1 : 0);
    query.setSelectionRange(before + place.column - 1, before + place.column);
  }
  byId("query-error").hidden = false;
  query.setAttribute("aria-invalid", "true");
  say("");
}

function clearError() {
  byId("query-error").hidden = true;
  query.removeAttribute("aria-invalid");
}

function busy(on) {
  byId("results").setAttribute("aria-busy", String(on));
  byId("stop").hidden = !on && !live;
}

function cancel() {
  running?.abort();
  counting?.abort();
  running = counting = null;
  live?.stop();
  live = null;
  byId("live").setAttribute("aria-pressed", "false");
  busy(false);
}

function params(extra) {
  return { query: shown.query, start: shown.from, end: shown.to, limit: shown.limit, direction: shown.backward ? "backward" : "forward", ...extra };
}

async function run() {
  cancel();
  clearError();
  byId("more").hidden = true;
  if (!query.value.trim()) { say("Pick a label, or type a query."); query.focus(); return false; }
  const r = range();
  if (!r) { showError(new Error("the range has no beginning, no end, or ends before it begins")); return false; }
  remember();
  const turn = running = new AbortController();
  const metric = logql.isMetric(query.value);
  shown = { query: query.value, from: time.nanos(r.from), to: time.nanos(r.to), range: r, limit: Number(byId("limit").value), backward: byId("direction").value === "backward" };
  say("asking…");
  busy(true);
  loadLabels(turn.signal);
  counting = new AbortController();
  const volume = metric ? null : countByLevel(r, counting.signal);
  try {
    const data = await api.queryRange(params(metric ? { step: time.step(r.to - r.from, 250) } : {}), turn.signal);
    if (turn !== running) return false;
    addHistory(shown.query);
    if (data.resultType === "streams") {
      showStreams(data);
      const mine = shown;
      volume?.then((v) => { if (shown === mine) drawVolume(v, r); });
    } else showSeries(data, r);
    return true;
  } catch (err) {
    if (err.name === "AbortError" || turn !== running) return false;
    lines.clear(shown.backward);
    byId("volume").hidden = true;
    showError(err);
    return false;
  } finally {
    if (turn === running) { running = null; busy(false); }
  }
}

function told(data) {
  const s = data.stats?.summary;
  return s ? ` in ${seconds(s.execTime ?? 0)}, ${bytes(s.totalBytesProcessed ?? 0)} read` : "";
}

function showStreams(data) {
  series = null;
  lines.clear(shown.backward);
  const list = api.entries(data.result);
  lines.add(list);
  shown.full = list.length >= shown.limit;
  say(list.length ? `${list.length} lines${told(data)}` + (shown.full ? "; there are more" : "") : `No lines${told(data)}. A wider range may have some.`);
  offerMore();
}

function showSeries(data, r) {
  lines.clear(true);
  byId("volume").hidden = true;
  series = graph(byId("results"), data, r.from, r.to, utc());
  say(series.length ? `${series.length} series${told(data)}` : "No data. A wider range may have some.");
}

function offerMore() {
  byId("more").hidden = !shown.full || Boolean(live);
  byId("more").textContent = shown.backward ? "Older lines" : "Newer lines";
}

// more gets the lines behind the last one. Those of its time are asked for
// again, as some of them may not have fitted, and are known by their content.
async function more() {
  if (byId("more").hidden || running) return;
  const last = lines.entries.at(-1);
  if (!last) return;
  const turn = running = new AbortController();
  busy(true);
  try {
    let edge = shown.backward ? { end: time.next(last.ts) } : { start: last.ts };
    const data = await api.queryRange(params(edge), turn.signal);
    if (turn !== running) return;
    const list = api.entries(data.result);
    let added = lines.add(list);
    shown.full = list.length >= shown.limit;
    if (!added && shown.full) {
      // A page is not enough for what there is at one time.
      added = lines.add(api.entries((await api.queryRange(params({ start: last.ts, end: time.next(last.ts), limit: MAX_ROWS }), turn.signal)).result));
      if (turn !== running) return;
    }
    if (!added && shown.full) {
      edge = shown.backward ? { end: last.ts } : { start: time.next(last.ts) };
      const beyond = api.entries((await api.queryRange(params(edge), turn.signal)).result);
      if (turn !== running) return;
      added = lines.add(beyond);
      shown.full = beyond.length >= shown.limit;
    }
    await lines.settled();
    if (turn !== running) return;
    say(`${added} more lines, ${lines.entries.length} in all` + (lines.dropped ? `; ${lines.dropped} at the other end were let go (the page keeps ${MAX_ROWS})` : ""));
    offerMore();
  } catch (err) {
    if (err.name !== "AbortError" && turn === running) showError(err);
  } finally {
    if (turn === running) { running = null; busy(false); }
  }
}

// --- volume ---

let canCount = true; // whether the server knows metric queries

// countByLevel returns {start, end, step, levels}, or null if the server cannot
// count.
async function countByLevel(r, signal) {
  if (!canCount) return null;
  const step = time.step(r.to - r.from, BARS);
  const size = step * 1000, start = Math.floor(r.from / size) * size, end = Math.ceil(r.to / size) * size;
  try {
    const data = await api.queryRange({ query: logql.countQuery(query.value, step), start: time.nanos(start + size), end: time.nanos(end), step, direction: "forward" }, signal);
    if (data.resultType !== "matrix") return null;
    const levels = new Map();
    for (const s of data.result) {
      const name = level(s.metric.detected_level) === "unknown" ? level(s.metric.level) : level(s.metric.detected_level);
      if (!levels.has(name)) levels.set(name, new Map());
      // A value at a time counts the interval that ends there.
      for (const [t, v] of s.values) levels.get(name).set(t * 1000 - size, (levels.get(name).get(t * 1000 - size) ?? 0) + Number(v));
    }
    return { start, end, step: size, levels };
  } catch (err) {
    if (err.status === 404 || err.status === 501) canCount = false;
    return null;
  }
}

// countLines does the same with the lines that are here.
function countLines(r) {
  const size = time.step(r.to - r.from, BARS) * 1000, start = Math.floor(r.from / size) * size, end = Math.ceil(r.to / size) * size;
  const levels = new Map();
  for (const e of lines.entries) {
    const t = Math.floor(time.millis(e.ts) / size) * size;
    const name = lines.levelOf(e);
    if (!levels.has(name)) levels.set(name, new Map());
    levels.get(name).set(t, (levels.get(name).get(t) ?? 0) + 1);
  }
  return { start, end, step: size, levels };
}

function drawVolume(data, r) {
  shown.volume = data;
  shown.volumeRange = r;
  // A server that knows no levels counts well, but in one colour. If all lines
  // are here, these do better.
  const all = !shown.full && !live;
  const colourless = data && ![...data.levels.keys()].some((name) => name !== "unknown");
  const drawn = data && !(colourless && all) ? data : countLines(r);
  byId("volume").hidden = false;
  byId("volume-note").textContent = data || all ? "" : "Of the lines below only: the server did not count.";
  histogram(byId("chart"), drawn, utc(), (from, to) => { setRange(from, to); run(); });
  legend(byId("legend"), drawn.levels);
}

// --- live ---

const POLL = 1000, OVERLAP = 5000; // ms

async function toggleLive() {
  if (live) { cancel(); offerMore(); say("Live ended."); return; }
  if (logql.isMetric(query.value)) { say("Live is for log queries."); return; }
  if (!byId("range").value) { byId("range").value = "5m"; byId("absolute").hidden = true; }
  if (!await run() || !shown) return;
  byId("live").setAttribute("aria-pressed", "true");
  byId("more").hidden = true;
  live = { stop() {} };
  const mine = live;
  busy(false);
  const newest = lines.entries.reduce((max, e) => time.compare(e.ts, max) > 0 ? e.ts : max, shown.to);
  // A browser cannot send a tenant with a socket.
  if (hasTail && !api.settings.tenant()) tail(mine, newest);
  else poll(mine, newest);
}

const REDRAW = 5000; // ms

// grow shows lines that came, and now and then their volume.
function grow(list) {
  if (!lines.live(list)) return;
  const now = Date.now(), mine = live;
  if (now - (mine.drawn ?? 0) < REDRAW) return;
  mine.drawn = now;
  const r = { from: now - (shown.range.to - shown.range.from), to: now };
  counting = new AbortController();
  countByLevel(r, counting.signal).then((v) => { if (live === mine) drawVolume(v, r); });
}

function tail(mine, from) {
  const socket = api.tailSocket({ query: shown.query, start: from, limit: String(shown.limit) });
  let waiting = [], lost = 0, opened = false;
  const flush = setInterval(() => {
    if (!waiting.length) return;
    grow(waiting);
    waiting = [];
    say(`Live: ${lines.entries.length} lines` + (lost ? `; ${lost} were too fast for the server to send` : ""));
  }, 250);
  mine.stop = () => { clearInterval(flush); socket.onclose = null; socket.close(); };
  socket.onopen = () => { opened = true; say("Live: waiting for lines."); };
  socket.onmessage = (m) => {
    let data;
    try { data = JSON.parse(m.data); } catch { return; }
    waiting.push(...api.entries(data.streams ?? []));
    if (waiting.length > MAX_ROWS) { lost += waiting.length - MAX_ROWS; waiting = waiting.slice(-MAX_ROWS); }
    lost += data.dropped_entries?.length ?? 0;
  };
  socket.onclose = () => {
    clearInterval(flush);
    if (live !== mine) return;
    grow(waiting);
    if (!opened) hasTail = false;
    const newest = lines.entries.reduce((max, e) => time.compare(e.ts, max) > 0 ? e.ts : max, from);
    poll(mine, newest);
  };
}

// poll asks every second for what is new, and again for the last seconds before
// that, where lines may have come late.
function poll(mine, from) {
  const abort = new AbortController();
  let timer = 0, failures = 0;
  mine.stop = () => { abort.abort(); clearTimeout(timer); };
  const ask = async () => {
    try {
      const start = String(BigInt(from) - BigInt(OVERLAP) * 1000000n);
      const data = await api.queryRange({ query: shown.query, start, end: time.nanos(Date.now() + 60e3), limit: shown.limit, direction: "backward" }, abort.signal);
      if (live !== mine) return;
      const list = api.entries(data.result);
      grow(list);
      for (const e of list) if (time.compare(e.ts, from) > 0) from = e.ts;
      failures = 0;
      say(`Live, asking every second: ${lines.entries.length} lines` + (list.length >= shown.limit ? "; more come than can be shown" : ""));
    } catch (err) {
      if (err.name === "AbortError" || live !== mine) return;
      if (err.status >= 400 && err.status < 500 && err.status !== 429) { cancel(); showError(err); return; }
      failures++;
      say("Live: " + err.message + "; asking again");
    }
    timer = setTimeout(ask, POLL * Math.min(2 ** failures, 16));
  };
  ask();
}

// --- labels ---

let labelsTurn = 0;

async function loadLabels(signal) {
  const turn = ++labelsTurn;
  const r = range();
  if (!r) return;
  try {
    const names = await api.labels({ start: time.nanos(r.from), end: time.nanos(r.to) }, signal);
    if (turn !== labelsTurn) return;
    const open = new Set([...document.querySelectorAll("#label-list details[open]")].map((d) => d.dataset.name));
    byId("label-list").replaceChildren(...names.map((name) => labelNode(name, open.has(name))));
    byId("label-note").textContent = names.length ? "" : "No labels in this range.";
    filterLabels();
  } catch (err) {
    if (err.name !== "AbortError" && turn === labelsTurn) byId("label-note").textContent = err.message;
  }
}

function labelNode(name, open) {
  const list = el("ul");
  const node = el("details", { "data-name": name, ontoggle: () => { if (node.open) loadValues(node, name, list); } }, el("summary", null, name), list);
  node.open = open;
  return node;
}

async function loadValues(node, name, list) {
  const r = range();
  if (!r) return;
  try {
    const all = await api.values(name, { start: time.nanos(r.from), end: time.nanos(r.to), query: logql.others(query.value, name) });
    // What is asked for stays in the list, whether it is there or not.
    node.values = [...new Set([...logql.picked(query.value, name), ...all])];
    showValues(node, name, list);
  } catch (err) {
    list.replaceChildren(el("li", { class: "note" }, err.message));
  }
}

function showValues(node, name, list) {
  const filter = byId("label-filter").value.toLowerCase();
  const byName = name.toLowerCase().includes(filter);
  const values = (node.values ?? []).filter((v) => byName || v.toLowerCase().includes(filter));
  const on = new Set(logql.picked(query.value, name));
  const nodes = values.slice(0, MAX_VALUES).map((v) => el("li", null, el("button", {
    type: "button", "aria-pressed": String(on.has(v)), onclick: (e) => pick(name, v, e.currentTarget),
  }, v)));
  if (values.length > MAX_VALUES) nodes.push(el("li", { class: "note" }, `${values.length - MAX_VALUES} more: type above to filter`));
  list.replaceChildren(...nodes);
}

function filterLabels() {
  const filter = byId("label-filter").value.toLowerCase();
  for (const node of byId("label-list").children) {
    const name = node.dataset.name;
    if (node.open || node.values) showValues(node, name, node.querySelector("ul"));
    node.hidden = Boolean(filter) && !name.toLowerCase().includes(filter) && !node.open && !node.values?.some((v) => v.toLowerCase().includes(filter));
  }
}

async function pick(name, value, button) {
  const text = logql.toggle(query.value, name, value);
  if (text === null) { say("the query has no selector that can be changed"); return; }
  query.value = text;
  button.setAttribute("aria-pressed", String(logql.picked(text, name).includes(value)));
  if (text) await run();
  else { cancel(); lines.clear(true); byId("volume").hidden = true; say(""); clearError(); }
}

// --- history, download ---

function pastQueries() {
  try {
    const list = JSON.parse(stored.get("history") || "[]");
    return Array.isArray(list) ? list.filter((q) => typeof q === "string") : [];
  } catch { return []; }
}

function addHistory(text) {
  stored.set("history", JSON.stringify([text, ...pastQueries().filter((q) => q !== text)].slice(0, MAX_HISTORY)));
}

function openHistory() {
  const list = pastQueries();
  byId("history-list").replaceChildren(...list.map((q) => el("li", null, el("button", {
    type: "button", onclick: () => { byId("history").close(); query.value = q; run(); },
  }, q))));
  if (!list.length) byId("history-list").append(el("li", { class: "note" }, "none so far"));
  byId("history").showModal();
}

function download(kind) {
  const text = kind === "text";
  const pieces = [];
  if (series) {
    for (const s of series) for (const [t, v] of s.values) {
      pieces.push(text ? `${new Date(t * 1000).toISOString()} ${v} ${JSON.stringify(s.metric)}\n` : JSON.stringify({ metric: s.metric, time: t, value: v }) + "\n");
    }
  } else {
    for (const e of lines.entries) {
      pieces.push(text ? `${time.full(e.ts, true).replace(" UTC", "Z").replace(" ", "T")} ${e.line}\n`
        : JSON.stringify({ timestamp: e.ts, labels: e.labels, structuredMetadata: e.metadata, line: e.line }) + "\n");
    }
  }
  if (!pieces.length) { say("There is nothing to download."); return; }
  save("loki-go-" + new Date().toISOString().slice(0, 19).replaceAll(":", "") + (text ? ".log" : ".jsonl"), text ? "text/plain" : "application/x-ndjson", pieces);
  say(`${pieces.length} lines downloaded`);
}

// --- the page ---

function view(name) {
  const toIngest = name === "ingest";
  byId("explore").hidden = toIngest;
  byId("ingest").hidden = !toIngest;
  byId("view-explore").setAttribute("aria-pressed", String(!toIngest));
  byId("view-ingest").setAttribute("aria-pressed", String(toIngest));
  if (toIngest) { cancel(); ingest.start(); } else ingest.stop();
}

function showView(name) { view(name); remember(); }

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = "Theme: " + (name || "auto");
  stored.set("theme", name);
}

function nextTheme() {
  const list = ["", "light", "dark"];
  theme(list[(list.indexOf(document.documentElement.dataset.theme ?? "") + 1) % list.length]);
}

function setWrap(on) { byId("wrap").checked = on; lines.restyle(on, byId("names").checked); stored.set("wrap", on ? "1" : ""); }

const KEYS = {
  "/": () => query.focus(),
  "?": () => byId("help").showModal(),
  j: () => lines.move(1),
  k: () => lines.move(-1),
  g: () => lines.move("first"),
  G: () => lines.move("last"),
  n: more,
  l: toggleLive,
  w: () => setWrap(!byId("wrap").checked),
  h: openHistory,
  i: () => showView(byId("ingest").hidden ? "ingest" : "explore"),
  t: nextTheme,
  async c() {
    const e = lines.entry();
    if (e) say(await copy(e.line) ? "line copied" : "this browser does not let the page copy");
  },
};

function key(e) {
  if (e.isComposing || document.querySelector("dialog[open]")) return;
  const target = e.target;
  const typing = target.matches?.("textarea, select, input:not([type=checkbox])");
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); run(); return; }
  if (e.key === "Escape") {
    if (typing) target.blur();
    else if (live || running) { cancel(); say("Stopped."); if (shown) offerMore(); } else lines.close();
    return;
  }
  if (typing || e.ctrlKey || e.metaKey || e.altKey) return;
  if ((e.key === "Enter" || e.key === " ") && target.classList?.contains("head")) { e.preventDefault(); lines.toggle(target.parentElement); return; }
  const action = KEYS[e.key];
  if (!action || (byId("explore").hidden && !"?it".includes(e.key))) return;
  e.preventDefault();
  action();
}

let hasTail = false;

// probe finds out what the server can do, and leaves out what it cannot.
async function probe() {
  const [tailing, formatting] = await Promise.all([api.has("tail"), api.has("format_query")]);
  hasTail = tailing;
  byId("format").hidden = !formatting;
}

function listen() {
  byId("form").addEventListener("submit", (e) => { e.preventDefault(); run(); });
  byId("stop").addEventListener("click", () => { cancel(); say("Stopped."); if (shown) offerMore(); });
  byId("range").addEventListener("change", () => {
    const r = shown?.range ?? { from: Date.now() - 3600e3, to: Date.now() };
    byId("absolute").hidden = byId("range").value !== "";
    if (!byId("range").value) setRange(r.from, r.to);
    else if (query.value.trim()) run();
    else loadLabels();
  });
  for (const id of ["from", "to", "direction", "limit"]) byId(id).addEventListener("change", () => { if (query.value.trim() && range()) run(); });
  let zoned = utc();
  byId("zone").addEventListener("change", () => {
    // The fields keep the moment, not the digits.
    for (const id of ["from", "to"]) {
      const ms = time.unpick(byId(id).value, zoned);
      if (Number.isFinite(ms)) byId(id).value = time.picker(ms, utc());
    }
    zoned = utc();
    stored.set("zone", byId("zone").value);
    if (shown) run();
  });
  byId("tenant").addEventListener("change", () => {
    stored.set("tenant", api.settings.tenant());
    if (query.value.trim()) run();
    else { remember(); loadLabels(); }
  });
  byId("wrap").addEventListener("change", () => setWrap(byId("wrap").checked));
  byId("names").addEventListener("change", () => { lines.restyle(byId("wrap").checked, byId("names").checked); stored.set("names", byId("names").checked ? "1" : ""); });
  byId("live").addEventListener("click", toggleLive);
  byId("more").addEventListener("click", more);
  byId("share").addEventListener("click", async () => { remember(); say(await copy(location.href) ? "link copied" : "this browser does not let the page copy; the link is in the address bar"); });
  byId("download").addEventListener("change", () => { if (byId("download").value) download(byId("download").value); byId("download").value = ""; });
  byId("format").addEventListener("click", async () => {
    try { query.value = await api.format(query.value); clearError(); } catch (err) { showError(err); }
  });
  byId("history-open").addEventListener("click", openHistory);
  byId("history-clear").addEventListener("click", () => { stored.set("history", "[]"); byId("history").close(); });
  byId("label-filter").addEventListener("input", filterLabels);
  byId("earlier").addEventListener("click", () => moveRange(1, -1));
  byId("later").addEventListener("click", () => moveRange(1, 1));
  byId("wider").addEventListener("click", () => moveRange(2, 0));
  byId("narrower").addEventListener("click", () => moveRange(.5, 0));
  byId("theme").addEventListener("click", nextTheme);
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("view-explore").addEventListener("click", () => showView("explore"));
  byId("view-ingest").addEventListener("click", () => showView("ingest"));
  byId("skip").addEventListener("click", (e) => { e.preventDefault(); byId("results").focus(); });
  document.addEventListener("keydown", key);
  addEventListener("popstate", start);
  let width = innerWidth, resized = 0;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => {
      if (width === innerWidth || byId("volume").hidden || !shown) return;
      width = innerWidth;
      drawVolume(shown.volume ?? null, shown.volumeRange);
    }, 200);
  });
}

// start shows what the address says.
function start() {
  restore();
  if (location.hash) remember(true);
  if (byId("explore").hidden) return;
  if (query.value.trim()) run();
  else loadLabels();
}

byId("range").append(...RANGES.map(([v, text]) => el("option", { value: v }, "last " + text)), el("option", { value: "" }, "from … to …"));
theme(["light", "dark"].includes(stored.get("theme")) ? stored.get("theme") : "");
byId("tenant").value = stored.get("tenant");
byId("zone").value = stored.get("zone") === "utc" ? "utc" : "local";
byId("names").checked = stored.get("names") === "1";
setWrap(stored.get("wrap") === "1");
listen();
start();
probe();
