// Talks to the server that this page came from. Knows nothing of the page. Addresses are relative: a prefix does not matter.

/** What the server refused, or what came in the way: `told` is {error, allowed, remedy}. */
export class Refusal extends Error {
  constructor(told, { status = 0, retryAfter = null } = {}) {
    super(told.error);
    Object.assign(this, { told, status, retryAfter });
  }

  get wantsKey() {
    return this.status === 401 || this.status === 403;
  }
}

const UNSENDABLE = {
  error: "the key holds a character that cannot be sent",
  allowed: "visible ASCII characters",
  remedy: "copy the key again, without spaces",
};

/** The agent's card. */
export async function card(key) {
  return send("info", key, { cache: "no-store" });
}

/** The answer to one input (a string, or an object of its texts), as the server gave it, and how long it took from here and back. */
export async function predict(inputs, asked) {
  const began = performance.now();
  const answer = await post("./", inputs, asked);
  return { answer, milliseconds: performance.now() - began };
}

/** Why the agent decides so about one input. */
export async function explain(inputs, asked) {
  return post("explain", inputs, asked);
}

async function post(path, inputs, { parameters, key, signal }) {
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify(parameters ? { inputs, parameters } : { inputs });
  return send(path, key, { method: "POST", headers, body, signal });
}

async function send(path, key, options) {
  if (/[^\x21-\x7e]/.test(key)) throw new Refusal(UNSENDABLE);
  const headers = { accept: "application/json", ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  let response, body;
  try {
    response = await fetch(path, { ...options, headers });
    body = await response.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refusal({ error: "the server cannot be reached", remedy: "see whether it is running, then try again" });
  }
  if (response.ok && isJson(response)) return JSON.parse(body);
  throw new Refusal(told(response, body), { status: response.status, retryAfter: response.headers.get("retry-after") });
}

const isJson = (response) => response.headers.get("content-type")?.startsWith("application/json");

/** Our servers refuse in JSON; what stands between (HAProxy, an ingress) may not: its words are shown as they came. */
function told(response, body) {
  const said = isJson(response) ? JSON.parse(body) : {};
  if (typeof said.error === "string") return said;
  return { error: `the server answered ${response.status} ${response.statusText}`, allowed: null, remedy: body.slice(0, 300) };
}
