// Times: nanoseconds since the epoch as strings of digits, as the API has them
// (JavaScript's numbers are too short), and ranges such as now-1h.

const UNITS = { s: 1e3, m: 60e3, h: 3600e3, d: 86400e3, w: 7 * 86400e3 };

export const nanos = (ms) => Math.round(ms) + "000000";
export const millis = (ns) => Number(ns.slice(0, -6)) + Number(ns.slice(-6)) / 1e6;
export const next = (ns) => String(BigInt(ns) + 1n);

// compare orders two times. Those of the API are positive.
export function compare(a, b) { return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0); }

// parse reads now, now-1h, a number of ms, or an ISO time; NaN for anything else.
export function parse(text, now) {
  const m = /^now(?:-(\d+(?:\.\d+)?)([smhdw]))?$/.exec(text);
  if (m) return now - (m[1] ? Number(m[1]) * UNITS[m[2]] : 0);
  if (/^\d{9,15}$/.test(text)) return Number(text);
  return /^\d{4}-\d\d-\d\dT/.test(text) ? Date.parse(text) : NaN;
}

const two = (n) => String(n).padStart(2, "0");

function parts(ms, utc) {
  const d = new Date(utc ? ms : ms - new Date(ms).getTimezoneOffset() * 60e3);
  return {
    date: d.getUTCFullYear() + "-" + two(d.getUTCMonth() + 1) + "-" + two(d.getUTCDate()),
    time: two(d.getUTCHours()) + ":" + two(d.getUTCMinutes()) + ":" + two(d.getUTCSeconds()),
    fraction: String(Math.floor(d.getUTCMilliseconds())).padStart(3, "0"),
  };
}

// line is how a time is shown in front of a line, full with all its digits.
export function line(ns, utc) {
  const p = parts(millis(ns), utc);
  return p.date.slice(5) + " " + p.time + "." + ns.slice(-9, -6);
}
export function full(ns, utc) {
  const p = parts(millis(ns), utc);
  return p.date + " " + p.time + "." + ns.slice(-9) + (utc ? " UTC" : "");
}

// axis is a time under a chart of a range of span ms.
export function axis(ms, span, utc) {
  const p = parts(ms, utc);
  if (span > 2 * UNITS.d) return p.date.slice(5) + " " + p.time.slice(0, 5);
  return span < 10 * UNITS.m ? p.time : p.time.slice(0, 5);
}

// picker is the value of a datetime-local input, and unpick reads it.
export function picker(ms, utc) {
  const p = parts(ms, utc);
  return p.date + "T" + p.time + "." + p.fraction;
}
export function unpick(text, utc) { return Date.parse(text + (utc ? "Z" : "")); }

// span writes a length of time in ms.
export function span(ms) {
  if (ms < 1000) return Math.round(ms) + " ms";
  const [unit, size] = [["day", UNITS.d], ["hour", UNITS.h], ["minute", UNITS.m]].find((u) => ms >= u[1]) ?? ["second", UNITS.s];
  const n = Number((ms / size).toFixed(1));
  return `${n} ${unit}${n === 1 ? "" : "s"}`;
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

// step returns whole seconds of an interval, of which the range has about n.
export function step(ms, n) {
  const want = ms / 1000 / n;
  return STEPS.find((s) => s >= want) ?? Math.ceil(want / 86400) * 86400;
}
