import { svg, el } from "./dom.js";
import { LEVEL_NAMES, count } from "./text.js";
import * as time from "./time.js";

const HEIGHT = 110, FOOT = 16, MAX_SERIES = 8;

// histogram draws stacked bars. data: {start, end, step (ms), levels: Map of
// name to Map of a bar's start (ms) to its count}. zoom is called with a range
// that was dragged over.
export function histogram(root, data, utc, zoom) {
  const width = Math.max(root.clientWidth, 200);
  const span = data.end - data.start;
  const x = (ms) => Math.min(Math.max((ms - data.start) / span, 0), 1) * width;
  const sums = new Map();
  for (const bars of data.levels.values()) for (const [t, n] of bars) sums.set(t, (sums.get(t) ?? 0) + n);
  let most = 1, total = 0;
  for (const n of sums.values()) { most = Math.max(most, n); total += n; }
  const high = HEIGHT - FOOT - 14;
  const base = HEIGHT - FOOT;
  const out = svg("svg", { role: "img", viewBox: `0 0 ${width} ${HEIGHT}`, preserveAspectRatio: "none",
    "aria-label": `${count(total)} lines, at most ${count(most)} in ${time.span(data.step)}` });
  out.append(svg("path", { class: "grid", d: `M0 ${base}H${width}M0 ${base - high}H${width}` }),
    svg("text", { x: 4, y: 11 }, count(most) + " in " + time.span(data.step)));
  const stacked = new Map();
  for (const name of [...LEVEL_NAMES].reverse()) {
    for (const [t, n] of data.levels.get(name) ?? []) {
      const left = x(t), right = x(t + data.step);
      if (n <= 0 || right <= left) continue;
      const h = Math.max(n / most * high, 1), from = stacked.get(t) ?? 0;
      stacked.set(t, from + h);
      out.append(svg("rect", { class: "bar level-" + name, x: left, width: Math.max(right - left - 1, .5), y: base - from - h, height: h },
        svg("title", null, `${time.full(time.nanos(t), utc)}: ${n} ${name}, ${sums.get(t)} in all`)));
    }
  }
  for (let i = 0; i <= 4; i++) {
    const anchor = i === 0 ? "start" : i === 4 ? "end" : "middle";
    out.append(svg("text", { x: width * i / 4, y: HEIGHT - 4, "text-anchor": anchor }, time.axis(data.start + span * i / 4, span, utc)));
  }
  drag(out, width, (a, b) => zoom(data.start + a * span, data.start + b * span));
  root.replaceChildren(out);
}

// drag calls done with the part of the width, from 0 to 1, that a pointer was
// dragged over.
function drag(node, width, done) {
  let from = null, mark = null;
  const at = (e) => {
    const box = node.getBoundingClientRect();
    return Math.min(Math.max((e.clientX - box.left) / box.width, 0), 1);
  };
  const end = () => { mark?.remove(); from = mark = null; };
  node.addEventListener("pointerdown", (e) => {
    if (e.button !== 0) return;
    from = at(e);
    node.setPointerCapture(e.pointerId);
    mark = svg("rect", { class: "picked", y: 0, height: HEIGHT, x: from * width, width: 0 });
    node.append(mark);
  });
  node.addEventListener("pointermove", (e) => {
    if (from === null) return;
    mark.setAttribute("x", Math.min(from, at(e)) * width);
    mark.setAttribute("width", Math.abs(at(e) - from) * width);
  });
  node.addEventListener("pointerup", (e) => {
    if (from === null) return;
    const a = Math.min(from, at(e)), b = Math.max(from, at(e));
    end();
    if ((b - a) * width >= 4) done(a, b);
  });
  node.addEventListener("pointercancel", end);
}

// legend lists the levels that there are, with their counts.
export function legend(root, levels) {
  root.replaceChildren(...LEVEL_NAMES.filter((n) => levels.has(n)).map((name) => {
    let sum = 0;
    for (const n of levels.get(name).values()) sum += n;
    return el("li", { class: "level-" + name }, el("span", null, `${name} ${count(sum)}`));
  }));
}

const seriesName = (metric) => "{" + Object.entries(metric).map(([k, v]) => `${k}="${v}"`).join(", ") + "}";

// graph draws the series of a metric query and lists all of them.
export function graph(root, data, start, end, utc) {
  const list = data.resultType === "matrix" ? data.result
    : data.resultType === "vector" ? data.result.map((s) => ({ metric: s.metric, values: [s.value] }))
      : [{ metric: {}, values: [data.result] }];
  const width = Math.max(root.clientWidth, 200), height = 260, base = height - FOOT;
  let low = 0, high = -Infinity;
  const top = list.map((s) => s.values.reduce((m, [, v]) => Math.max(m, Number.isFinite(+v) ? +v : -Infinity), -Infinity));
  const order = list.map((_, i) => i).sort((a, b) => top[b] - top[a]);
  const drawn = order.slice(0, MAX_SERIES);
  for (const i of drawn) for (const [, v] of list[i].values) if (Number.isFinite(+v)) { low = Math.min(low, +v); high = Math.max(high, +v); }
  if (!(high > low)) high = low + 1;
  const nodes = [];
  if (data.resultType === "matrix" && list.length) {
    const out = svg("svg", { class: "graph", role: "img", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none",
      "aria-label": `${list.length} series, values up to ${count(high)}` });
    for (let i = 0; i <= 4; i++) {
      const y = base - (base - 14) * i / 4;
      out.append(svg("path", { class: "grid", d: `M0 ${y}H${width}` }), svg("text", { x: 4, y: y - 3 }, count(low + (high - low) * i / 4)));
      out.append(svg("text", { x: width * i / 4, y: height - 4, "text-anchor": i === 0 ? "start" : i === 4 ? "end" : "middle" },
        time.axis(start + (end - start) * i / 4, end - start, utc)));
    }
    drawn.forEach((n, i) => {
      let path = "", pen = "M", last = null, gap = 0;
      const points = list[n].values;
      for (let k = 1; k < points.length; k++) gap = gap ? Math.min(gap, points[k][0] - points[k - 1][0]) : points[k][0] - points[k - 1][0];
      for (const [t, v] of points) {
        if (!Number.isFinite(+v)) { pen = "M"; continue; }
        if (last !== null && gap && t - last > gap * 1.5) pen = "M";
        const px = (t * 1000 - start) / (end - start) * width, py = base - (+v - low) / (high - low) * (base - 14);
        path += pen + px.toFixed(1) + " " + py.toFixed(1) + (pen === "M" ? "h.01" : "");
        pen = "L";
        last = t;
      }
      out.append(svg("path", { class: "series series-" + i, d: path }));
    });
    nodes.push(out);
  }
  const rows = order.slice(0, 500).map((n, i) => el("tr", null,
    el("td", { class: "legend" }, el("ul", { class: "legend" }, el("li", i < MAX_SERIES && nodes.length ? { class: "series-" + i } : { class: "level-unknown" }, el("span", null, seriesName(list[n].metric))))),
    el("td", { class: "num" }, list[n].values.at(-1)?.[1] ?? ""),
    el("td", { class: "num" }, Number.isFinite(top[n]) ? String(top[n]) : "")));
  if (rows.length) {
    nodes.push(el("table", { class: "series" }, el("thead", null, el("tr", null, el("th", { scope: "col" }, "series"), el("th", { scope: "col", class: "num" }, "last"), el("th", { scope: "col", class: "num" }, "highest"))), el("tbody", null, ...rows)));
  }
  if (list.length > rows.length) nodes.push(el("p", { class: "note" }, `${list.length - rows.length} more series are not shown.`));
  root.replaceChildren(...nodes);
  return list;
}

// spark is a small curve of numbers, for a table.
export function spark(points) {
  const most = Math.max(...points, 1e-9);
  const d = points.map((v, i) => (i ? "L" : "M") + (i * 118 / Math.max(points.length - 1, 1) + 1).toFixed(1) + " " + (18 - v / most * 16).toFixed(1)).join("");
  return svg("svg", { class: "spark", viewBox: "0 0 120 20", "aria-hidden": "true" }, svg("path", { d }));
}
