// The HTTP API, at addresses relative to the page: /prefix/ui/ makes
// /prefix/loki/api/v1/.

const root = new URL("../", location.href);
root.hash = root.search = "";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const MAX_MESSAGE = 2000;

// tenant yields what is sent as X-Scope-OrgID; "" for nothing.
export const settings = { tenant: () => "" };

function headers() {
  const h = { "X-Loki-Response-Encoding-Flags": "categorize-labels" };
  if (settings.tenant()) h["X-Scope-OrgID"] = settings.tenant();
  return h;
}

async function request(path, params, signal) {
  const url = new URL(path, root);
  const body = new URLSearchParams();
  for (const [k, v] of Object.entries(params)) if (v !== "" && v !== undefined) body.set(k, v);
  const options = { headers: headers(), signal, cache: "no-store", redirect: "error" };
  // A long query does not fit into the address of a request.
  if (String(body).length > 4000) Object.assign(options, { method: "POST", body });
  else url.search = body;
  let resp;
  try {
    resp = await fetch(url, options);
  } catch (err) {
    if (err.name === "AbortError") throw err;
    throw new ApiError(0, "the server does not answer: " + err.message);
  }
  if (!resp.ok) {
    let text = (await resp.text()).trim();
    if (text[0] === "{") { try { const o = JSON.parse(text); text = o.message ?? o.error ?? text; } catch { /* not JSON */ } }
    throw new ApiError(resp.status, text.slice(0, MAX_MESSAGE) || "status " + resp.status);
  }
  return resp;
}

async function get(path, params, signal) {
  const resp = await request("loki/api/v1/" + path, params, signal);
  try {
    return await resp.json();
  } catch (err) {
    if (err.name === "AbortError") throw err;
    throw new ApiError(resp.status, "the answer is cut or not JSON: " + err.message);
  }
}

export const queryRange = async (params, signal) => (await get("query_range", params, signal)).data;
export const instant = async (params, signal) => (await get("query", params, signal)).data;
export const labels = async (params, signal) => (await get("labels", params, signal)).data ?? [];
export const values = async (name, params, signal) => (await get("label/" + encodeURIComponent(name) + "/values", params, signal)).data ?? [];
export const format = async (query) => (await get("format_query", { query })).data;
export const metrics = async (signal) => (await request("metrics", {}, signal)).text();

// has reports whether the server knows a path, without the effect of a good
// request: what it says to a request without parameters is not a 404 then.
export async function has(path) {
  try {
    await request("loki/api/v1/" + path, {});
    return true;
  } catch (err) {
    return err.status !== 404 && err.status !== 501;
  }
}

// tailSocket opens the live tail. Browsers send no header with it, so it is for
// those who need none to name a tenant.
export function tailSocket(params) {
  const url = new URL("loki/api/v1/tail", root);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams(params);
  return new WebSocket(url);
}

// entries makes one list of the streams of an answer or a tail message:
// {ts, line, labels, metadata, parsed, key}.
export function entries(streams) {
  const out = [];
  for (const s of streams) {
    const name = JSON.stringify(s.stream);
    for (const [ts, line, extra] of s.values) {
      const metadata = extra?.structuredMetadata ?? {}, parsed = extra?.parsed ?? {};
      out.push({ ts, line, labels: s.stream, metadata, parsed, key: ts + name + JSON.stringify(metadata) + line });
    }
  }
  return out;
}
