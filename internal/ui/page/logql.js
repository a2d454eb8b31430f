// Edits LogQL queries as text: only as much of the language is understood as
// buttons need that add or remove a filter. Everything else stays as it was typed.

const NAME = /^[A-Za-z_][A-Za-z0-9_]*/;

// quote returns a LogQL string. JSON's escapes are among LogQL's.
export function quote(text) { return JSON.stringify(text); }

function unquote(raw) {
  if (raw[0] === "`") return raw.slice(1, -1);
  const simple = { n: "\n", t: "\t", r: "\r", a: "\x07", b: "\b", f: "\f", v: "\v", "\\": "\\", '"': '"', "'": "'" };
  return raw.slice(1, -1).replace(/\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)/gs, (all, e) => {
    if (e.length === 1) return simple[e] ?? all;
    const code = /^[0-7]/.test(e) ? parseInt(e, 8) : parseInt(e.slice(1), 16);
    return code <= 0x10ffff ? String.fromCodePoint(code) : all;
  });
}

// stringEnd returns the index behind the string that begins at i, or -1.
function stringEnd(text, i) {
  const mark = text[i];
  for (i++; i < text.length; i++) {
    if (text[i] === mark) return i + 1;
    if (text[i] === "\\" && mark !== "`") i++;
  }
  return -1;
}

// plain returns text with strings and comments blanked, so that its syntax can
// be searched. Its length is that of text.
function plain(text) {
  let out = "";
  for (let i = 0; i < text.length;) {
    const c = text[i];
    let end = i + 1;
    if (c === '"' || c === "`" || c === "'") {
      end = stringEnd(text, i);
      if (end < 0) end = text.length;
    } else if (c === "#") {
      end = text.indexOf("\n", i);
      if (end < 0) end = text.length;
    } else {
      out += c;
      i = end;
      continue;
    }
    out += " ".repeat(end - i);
    i = end;
  }
  return out;
}

// selector finds the first stream selector: {start, end, matchers: [{name, op,
// value}]}, or null if there is none that can be read.
export function selector(query) {
  const start = plain(query).indexOf("{");
  if (start < 0) return null;
  const matchers = [];
  let i = start + 1;
  const space = () => { while (i < query.length && /\s/.test(query[i])) i++; };
  for (;;) {
    space();
    if (query[i] === "}") return { start, end: i + 1, matchers };
    const name = NAME.exec(query.slice(i, i + 1024))?.[0];
    if (!name) return null;
    i += name.length;
    space();
    const op = /^(=~|!~|!=|=)/.exec(query.slice(i, i + 2))?.[0];
    if (!op) return null;
    i += op.length;
    space();
    if (query[i] !== '"' && query[i] !== "`") return null;
    const end = stringEnd(query, i);
    if (end < 0) return null;
    matchers.push({ name, op, value: unquote(query.slice(i, end)) });
    i = end;
    space();
    if (query[i] === ",") i++;
    else if (query[i] !== "}") return null;
  }
}

export function selectorText(matchers) {
  return "{" + matchers.map((m) => m.name + m.op + quote(m.value)).join(", ") + "}";
}

function withMatchers(query, found, matchers) {
  const text = matchers.length || query.slice(found.end).trim() || found.start ? selectorText(matchers) : "";
  return query.slice(0, found.start) + text + query.slice(found.end);
}

function regexQuote(text) { return text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"); }

// alternatives returns the values that a regular expression of quoted
// alternatives stands for, or null if it is any other.
function alternatives(re) {
  const out = [""];
  for (let i = 0; i < re.length; i++) {
    if (re[i] === "\\" && i + 1 < re.length && !/[A-Za-z0-9]/.test(re[i + 1])) out[out.length - 1] += re[++i];
    else if (re[i] === "|") out.push("");
    else if (/[\\^$.*+?()[\]{}]/.test(re[i])) return null;
    else out[out.length - 1] += re[i];
  }
  return out;
}

// picked returns the values of a label that a query asks for by name.
export function picked(query, name) {
  const out = [];
  for (const m of selector(query)?.matchers ?? []) {
    if (m.name !== name) continue;
    if (m.op === "=") out.push(m.value);
    else if (m.op === "=~") out.push(...(alternatives(m.value) ?? []));
  }
  return out;
}

// toggle adds a label's value to what a query asks for, or takes it out. Several
// values of one label become alternatives. It returns null for a query that it
// cannot read.
export function toggle(query, name, value) {
  if (!query.trim()) return selectorText([{ name, op: "=", value }]);
  const found = selector(query);
  if (!found) return null;
  const values = new Set(picked(query, name));
  if (!values.delete(value)) values.add(value);
  const isPick = (m) => m.name === name && (m.op === "=" || (m.op === "=~" && alternatives(m.value)));
  const at = found.matchers.findIndex(isPick);
  const rest = found.matchers.filter((m) => !isPick(m));
  if (values.size) {
    const list = [...values];
    const m = list.length === 1 ? { name, op: "=", value: list[0] } : { name, op: "=~", value: list.map(regexQuote).join("|") };
    rest.splice(at < 0 ? rest.length : at, 0, m);
  }
  return withMatchers(query, found, rest);
}

// filterLabel adds name="value" to the selector, in place of all it says of the
// label, or name!="value" to what it says.
export function filterLabel(query, name, op, value) {
  const found = selector(query);
  if (!found) return null;
  const rest = found.matchers.filter((m) => m.name !== name || (op === "!=" && !(m.op === op && m.value === value)));
  return withMatchers(query, found, [...rest, { name, op, value }]);
}

// others returns the selector of a query without the matchers of one label, for
// looking up its values. "" if nothing is left that Loki would take.
export function others(query, name) {
  const rest = (selector(query)?.matchers ?? []).filter((m) => m.name !== name);
  const some = rest.some((m) => (m.op === "=" && m.value !== "") || (m.op === "=~" && !/^(\.\*|)$|^\||\|$/.test(m.value)));
  return some ? selectorText(rest) : "";
}

// isMetric guesses whether a query yields numbers: it does not begin with its
// selector.
export function isMetric(query) { return plain(query).trimStart()[0] !== "{" && query.trim() !== ""; }

// pipe appends a stage to a log query, behind a comment at its end, too.
export function pipe(query, stage) { return query.trimEnd() + (/#[^\n]*$/.test(query.trimEnd()) ? "\n" : " ") + stage; }

// filterField appends a filter for metadata or a field, and the parser that
// makes the field ("json", "logfmt") unless the query has it.
export function filterField(query, name, op, value, parser) {
  if (parser && !new RegExp("\\|\\s*" + parser + "\\b").test(plain(query))) query = pipe(query, "| " + parser);
  return pipe(query, "| " + name + op + quote(value));
}

// fieldName is the name under which Loki's parsers show a key.
export function fieldName(key) { return key.replace(/[^A-Za-z0-9_]/g, "_").replace(/^(?=[0-9])/, "_"); }

// countQuery counts the lines of a log query by level, in intervals of seconds.
export function countQuery(query, seconds) {
  return "sum by (detected_level, level) (count_over_time(" + query.trim() + "\n[" + seconds + "s]))";
}

// errorPlace finds where an error of the API is: {line, column}, from 1, or null.
export function errorPlace(message) {
  const m = /line (\d+), col (\d+)/.exec(message);
  return m ? { line: Number(m[1]), column: Number(m[2]) } : null;
}
