// The only place where elements are made. Text becomes text nodes: nothing of
// what was logged is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [k, v] of Object.entries(props ?? {})) {
    if (v === undefined || v === false) continue;
    if (typeof v === "function") node.addEventListener(k.slice(2), v);
    else node.setAttribute(k, v === true ? "" : v);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined && c !== ""));
  return node;
}

// el makes an element. Properties are attributes, or listeners: onclick, ...
export const el = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const svg = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);
export const byId = (id) => document.getElementById(id);

// stored keeps settings in this browser, where it lets us.
export const stored = {
  get(key) { try { return localStorage.getItem("loki-go." + key) ?? ""; } catch { return ""; } },
  set(key, value) { try { localStorage.setItem("loki-go." + key, value); } catch { /* private mode, or full */ } },
};

// copy puts text on the clipboard, also where pages without TLS may not use the
// interface for it.
export async function copy(text) {
  if (navigator.clipboard) {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* not allowed: the old way */ }
  }
  const focus = document.activeElement;
  const area = el("textarea", { class: "hidden", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focus?.focus();
  return done;
}

// save offers text, in pieces, as a file.
export function save(name, type, pieces) {
  const url = URL.createObjectURL(new Blob(pieces, { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
