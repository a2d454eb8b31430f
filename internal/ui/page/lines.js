import { el, copy } from "./dom.js";
import { cut, entryLevel, pretty, visible } from "./text.js";
import { fieldName } from "./logql.js";
import * as time from "./time.js";

export const MAX_ROWS = 5000; // in the page; the ends of longer lists are let go
const CHUNK = 200; // rows made at one go, between which the page stays responsive
const SHOWN = 2000; // characters of a line that is not open
const OPEN = 200000; // characters of one that is

// Lines is the list of lines. Its entries are in the order in which they are
// shown. hooks: utc(), filter(kind, name, op, value, parser), context(entry),
// say(text).
export class Lines {
  constructor(root, hooks) {
    this.root = root;
    this.hooks = hooks;
    this.clear(true);
    root.addEventListener("click", (e) => {
      const head = e.target.closest(".head");
      // A click that ends a selection of text must not close what was selected.
      if (head && !String(getSelection()).trim()) this.toggle(head.parentElement);
      if (head) this.focus(head.parentElement, false);
    });
  }

  clear(backward) {
    clearTimeout(this.timer);
    this.timer = 0;
    this.backward = backward;
    this.entries = [];
    this.keys = new Set();
    this.waiting = []; // rows to make: [entry, before]
    this.byRow = new WeakMap();
    this.current = null;
    this.dropped = 0;
    this.list = el("ol", { class: "lines" });
    this.restyle();
    this.root.replaceChildren(this.list);
  }

  restyle(wrapped = this.wrapped, named = this.named) {
    this.wrapped = wrapped;
    this.named = named;
    this.list.classList.toggle("wrapped", Boolean(wrapped));
    this.list.classList.toggle("named", Boolean(named));
  }

  // fresh returns those entries that are not here yet, in the order of the list.
  fresh(entries) {
    const out = [];
    for (const e of entries) {
      if (this.keys.has(e.key)) continue;
      this.keys.add(e.key);
      out.push(e);
    }
    const sign = this.backward ? -1 : 1;
    return out.sort((a, b) => sign * time.compare(a.ts, b.ts));
  }

  // add puts entries at the end of the list, and returns how many are new.
  add(entries) {
    const list = this.fresh(entries);
    for (const e of list) { this.entries.push(e); this.waiting.push(e); }
    this.make();
    return list.length;
  }

  // live puts entries that came now where they belong: at the end where new
  // ones are, or behind that if they are late.
  live(entries) {
    while (this.waiting.length) { clearTimeout(this.timer); this.timer = 0; this.make(); }
    const list = this.fresh(entries);
    if (!list.length) return 0;
    const follow = !this.backward && innerHeight + scrollY >= document.body.scrollHeight - 60;
    const newer = (i, e) => time.compare(this.entries[i].ts, e.ts) > 0;
    let at = this.backward ? 0 : this.entries.length;
    for (const e of this.backward ? list.slice(0, MAX_ROWS) : list.slice(-MAX_ROWS).reverse()) {
      if (this.backward) while (at < this.entries.length && newer(at, e)) at++;
      else while (at > 0 && newer(at - 1, e)) at--;
      this.list.insertBefore(this.row(e), this.list.children[at] ?? null);
      this.entries.splice(at, 0, e);
    }
    this.tab();
    this.trim(this.backward);
    if (follow) scrollTo({ top: document.body.scrollHeight, behavior: "instant" });
    return list.length;
  }

  // make turns what waits into rows, a chunk at a time.
  make() {
    if (this.timer) return;
    const some = this.waiting.splice(0, CHUNK);
    this.list.append(...some.map((e) => this.row(e)));
    this.trim(false);
    this.tab();
    if (this.waiting.length) this.timer = setTimeout(() => { this.timer = 0; this.make(); }, 0);
  }

  // settled is when all entries are rows.
  settled() {
    return new Promise((done) => {
      const look = () => { if (this.waiting.length) setTimeout(look, 10); else done(); };
      look();
    });
  }

  // trim lets rows go at one end.
  trim(end) {
    while (this.list.children.length > MAX_ROWS) {
      const row = end ? this.list.lastChild : this.list.firstChild;
      const e = end ? this.entries.pop() : this.entries.shift();
      this.keys.delete(e.key);
      if (this.current === row) this.current = null;
      row.remove();
      this.dropped++;
    }
  }

  // tab keeps one line in the order of the Tab key.
  tab() {
    if (!this.list.querySelector('.head[tabindex="0"]')) this.list.querySelector(".head")?.setAttribute("tabindex", "0");
  }

  levelOf(e) { return e.level ??= entryLevel(e.labels, { ...e.parsed, ...e.metadata }, e.line); }

  row(e) {
    const level = this.levelOf(e);
    const head = el("div", { class: "head level-" + level, role: "button", "aria-expanded": "false", tabindex: "-1" },
      el("time", { datetime: new Date(time.millis(e.ts)).toISOString() }, time.line(e.ts, this.hooks.utc())),
      el("span", { class: "level" }, level === "unknown" ? "–" : level),
      el("span", { class: "names" }, Object.values(e.labels).join(" ")),
      el("span", { class: "text" }, visible(cut(e.line, SHOWN)).trimEnd() || " "));
    const row = el("li", null, head);
    this.byRow.set(row, e);
    return row;
  }

  focus(row, scroll = true) {
    if (!row) return;
    this.list.querySelector('.head[tabindex="0"]')?.setAttribute("tabindex", "-1");
    this.current = row;
    row.firstChild.setAttribute("tabindex", "0");
    row.firstChild.focus({ preventScroll: true });
    if (scroll) row.scrollIntoView({ block: "nearest", behavior: "instant" });
  }

  // move goes to another line: by 1 or -1, or to the first or last.
  move(to) {
    const now = document.activeElement?.closest(".lines > li") ?? this.current;
    if (to === "first") this.focus(this.list.firstChild);
    else if (to === "last") this.focus(this.list.lastChild);
    else if (!now) this.focus(this.list.firstChild);
    else this.focus(to > 0 ? now.nextElementSibling : now.previousElementSibling);
  }

  entry() { return this.current && this.byRow.get(this.current); }

  toggle(row = this.current) {
    if (!row) return;
    const open = !row.classList.contains("open");
    row.classList.toggle("open", open);
    row.firstChild.setAttribute("aria-expanded", String(open));
    if (open) row.append(this.detail(this.byRow.get(row)));
    else row.querySelector(".detail").remove();
  }

  // close closes the line in which the focus is.
  close() {
    const row = document.activeElement?.closest?.(".lines > li.open") ?? (this.current?.classList.contains("open") ? this.current : null);
    if (!row) return false;
    this.toggle(row);
    this.focus(row);
    return true;
  }

  detail(e) {
    const nice = pretty(e.line);
    const raw = el("pre", { "aria-label": "Line" }, visible(cut(e.line, OPEN)));
    const other = nice && el("pre", { "aria-label": "Line, " + nice.kind }, visible(cut(nice.text, OPEN)));
    if (other) raw.hidden = true;
    const copied = async (text, what) => this.hooks.say(await copy(text) ? what + " copied" : "this browser does not let the page copy");
    const json = () => JSON.stringify({ timestamp: e.ts, labels: e.labels, structuredMetadata: e.metadata, line: e.line }, null, 2);
    return el("div", { class: "detail" },
      el("div", { class: "bar" },
        el("time", null, time.full(e.ts, this.hooks.utc())),
        el("button", { type: "button", class: "copy", onclick: () => copied(e.line, "line") }, "Copy line"),
        el("button", { type: "button", onclick: () => copied(json(), "JSON") }, "Copy as JSON"),
        other && el("button", { type: "button", class: "raw", "aria-pressed": "false", onclick: (ev) => {
          raw.hidden = !raw.hidden;
          other.hidden = !raw.hidden;
          ev.currentTarget.setAttribute("aria-pressed", String(!raw.hidden));
        } }, "As logged"),
        el("button", { type: "button", class: "context", title: "All lines of this stream around this one", onclick: () => this.hooks.context(e) }, "In context")),
      other, raw,
      this.table("Labels", "label", Object.entries(e.labels)),
      this.table("Structured metadata", "field", Object.entries(e.metadata)),
      this.table("Parsed by the query", "field", Object.entries(e.parsed)),
      nice && this.table("Fields of the line", "field", nice.fields.map(([k, v]) => [k, v]), nice.kind));
  }

  table(title, kind, pairs, parser) {
    if (!pairs.length) return null;
    const button = (op, name, value) => el("button", { type: "button", onclick: () => this.hooks.filter(kind, name, op, value, parser),
      "aria-label": `${op === "=" ? "only" : "without"} ${name} ${value.slice(0, 80)}`, title: `${op === "=" ? "only" : "without"} this value` }, op === "=" ? "+" : "−");
    return el("table", { class: "of-" + kind },
      el("caption", null, title),
      el("tbody", null, ...pairs.map(([k, v]) => {
        const name = parser ? fieldName(k) : k;
        return el("tr", null, el("td", null, button("=", name, v), " ", button("!=", name, v)),
          el("th", { scope: "row" }, visible(k)), el("td", null, visible(cut(v, SHOWN))));
      })));
  }
}
