// What can be told from the text of a line: its level, and its fields.

const LEVELS = [
  ["critical", /^(critical|crit|fatal|panic|emerg|emergency|alert)$/],
  ["error", /^(error|err|eror|severe|failure)$/],
  ["warn", /^(warn|warning)$/],
  ["info", /^(info|information|informational|notice)$/],
  ["debug", /^(debug|dbg|fine)$/],
  ["trace", /^(trace|trc|finer|finest|verbose)$/],
];
export const LEVEL_NAMES = [...LEVELS.map((l) => l[0]), "unknown"];

const KEYS = ["detected_level", "level", "severity", "severity_text", "lvl", "loglevel", "log_level"];
const IN_JSON = /"(?:level|severity|severity_text|lvl|loglevel|log_level|levelname|log\.level)"\s*:\s*"([A-Za-z]+)"/i;
const IN_LOGFMT = /(?:^|\s)(?:level|severity|lvl|loglevel)="?([A-Za-z]+)/i;
const WORD = /(?:^|[^A-Za-z0-9_])(fatal|critical|panic|emerg|alert|error|err|warning|warn|info|notice|debug|trace)(?![A-Za-z0-9_])/i;

// level returns the name of a level for whatever a program calls it.
export function level(text) {
  const t = String(text ?? "").trim().toLowerCase();
  for (const [name, re] of LEVELS) if (re.test(t)) return name;
  return "unknown";
}

// entryLevel takes the level from metadata or labels, else from the line.
export function entryLevel(labels, metadata, line) {
  for (const set of [metadata, labels]) {
    for (const k of KEYS) {
      const found = set[k] === undefined ? "unknown" : level(set[k]);
      if (found !== "unknown") return found;
    }
  }
  const start = line.slice(0, 1000);
  const keyed = IN_JSON.exec(start) ?? IN_LOGFMT.exec(start);
  if (keyed && level(keyed[1]) !== "unknown") return level(keyed[1]);
  const word = WORD.exec(start.slice(0, 200));
  return word ? level(word[1]) : "unknown";
}

const MAX_PARSE = 1 << 20; // characters; longer lines are shown as they are

// pretty returns {kind: "json" | "logfmt", text, fields: [[key, value]]}, or
// null for a line that is neither.
export function pretty(line) {
  if (line.length > MAX_PARSE) return null;
  return prettyJSON(line) ?? prettyLogfmt(line);
}

function prettyJSON(line) {
  if (!/^\s*[{[]/.test(line)) return null;
  let value;
  try { value = JSON.parse(line); } catch { return null; }
  const fields = [];
  const walk = (v, name, depth) => {
    if (fields.length >= 200) return;
    if (v !== null && typeof v === "object") {
      if (Array.isArray(v) || depth > 5) return; // LogQL's json has no arrays either
      for (const [k, inner] of Object.entries(v)) walk(inner, name ? name + "_" + k : k, depth + 1);
    } else if (name) fields.push([name, v === null ? "" : String(v)]);
  };
  walk(value, "", 0);
  // Numbers beyond what JavaScript can hold must not change in front of a reader.
  const exact = !/(?<![\w".-])-?\d{16,}/.test(line);
  return { kind: "json", text: exact ? JSON.stringify(value, null, 2) : indentJSON(line), fields: exact ? fields : fields.filter(([, v]) => !/^-?\d{16,}|e\+/.test(v)) };
}

// indentJSON sets valid JSON on lines without a look at its values.
function indentJSON(text) {
  let out = "", depth = 0;
  const turn = () => "\n" + "  ".repeat(Math.min(depth, 40));
  for (const token of text.match(/"(?:\\.|[^"\\])*"|[^\s"[\]{},:]+|[[\]{},:]/g) ?? []) {
    if (token === "{" || token === "[") { depth++; out += token + turn(); }
    else if (token === "}" || token === "]") { depth--; out += turn() + token; }
    else if (token === ",") out += token + turn();
    else if (token === ":") out += ": ";
    else out += token;
  }
  return out;
}

function prettyLogfmt(line) {
  const fields = [];
  const re = /\s*(?:([^\s="]+)=(?:"((?:\\.|[^"\\])*)"|([^\s"]*))|([^\s="]+))(?=\s|$)/gy;
  let keyed = 0;
  while (re.lastIndex < line.length && fields.length < 200) {
    const m = re.exec(line);
    if (!m) break;
    if (m[1] === undefined) { fields.push([m[4], ""]); continue; }
    keyed++;
    let v = m[3] ?? m[2];
    if (m[2] !== undefined && v.includes("\\")) { try { v = JSON.parse('"' + v + '"'); } catch { /* as it is */ } }
    fields.push([m[1], v]);
  }
  // A sentence with one pair in it is a sentence.
  if (keyed < 2 || keyed * 2 < fields.length) return null;
  return { kind: "logfmt", text: fields.map(([k, v]) => k + " = " + v).join("\n"), fields: fields.filter(([, v]) => v !== "") };
}

// visible is text without terminals' colours, and with what cannot be seen, or
// turns the order of what can be, made visible.
export function visible(text) {
  return text.replace(/\x1b\[[0-9;]*[A-Za-z]/g, "")
    .replace(/[\x00-\x08\x0b-\x1f\x7f]/g, (c) => c === "\x7f" ? "␡" : String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => "[U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "]");
}

export function cut(text, most) {
  return text.length > most ? `${text.slice(0, most)} … ${text.length - most} more characters` : text;
}

// bytes and count write a number for people.
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i++; }
  return count(n) + " " + units[i];
}

export function count(n) {
  if (!Number.isFinite(n)) return "–";
  if (n === 0) return "0";
  if (Math.abs(n) >= 1e9) return (n / 1e9).toFixed(1) + " G";
  if (Math.abs(n) >= 1e6) return (n / 1e6).toFixed(1) + " M";
  if (Math.abs(n) >= 1e4) return (n / 1e3).toFixed(1) + " k";
  if (Math.abs(n) >= 100 || Number.isInteger(n)) return n.toFixed(0);
  return n.toPrecision(3).replace(/\.?0+$/, "");
}

export function seconds(s) {
  if (!Number.isFinite(s)) return "–";
  if (s < 1e-3) return (s * 1e6).toFixed(0) + " µs";
  if (s < 1) return (s * 1e3).toPrecision(3).replace(/\.?0+$/, "") + " ms";
  return s.toPrecision(3) + " s";
}
