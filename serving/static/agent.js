// Talks to the server that this page came from. Knows nothing of the page. Addresses are relative: a prefix does not matter.

import { eventsOf } from "./event_stream.js";

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

const UNREACHABLE = { error: "the server cannot be reached", remedy: "see whether it is running, then try again" };

/** The agent's card. */
export async function card(key) {
  return (await send("info", key, { cache: "no-store" })).body;
}

/** The answer to one input (a string, or an object of its texts), as the server gave it, its id, and how long it took from here and back. */
export async function predict(inputs, { parameters, key, signal }) {
  const began = performance.now();
  const { body, id } = await post("./", key, parameters ? { inputs, parameters } : { inputs }, signal);
  return { answer: body, id, milliseconds: performance.now() - began };
}

/** The same of an agent that tells its text token by token: `told` is called with what there is of it. */
export async function write(inputs, { told: tell, key, signal }) {
  const began = performance.now();
  const body = JSON.stringify({ inputs, stream: true });
  const response = await open("./", key, { method: "POST", headers: { "content-type": "application/json" }, body, signal });
  if (!response.ok) throw await refusal(response);
  let text = "";
  let last = {};
  try {
    for await (last of eventsOf(response)) {
      if (last.error) throw new Refusal(last);
      tell((text += last.token.text));
    }
  } catch (error) {
    if (signal?.aborted || error instanceof Refusal) throw error;
    throw new Refusal(UNREACHABLE);
  }
  const answer = [{ generated_text: last.generated_text, details: last.details }];
  return { answer, id: response.headers.get("x-request-id"), milliseconds: performance.now() - began };
}

/** Why the agent decides so about one input. */
export async function explain(inputs, { parameters, key, signal }) {
  return (await post("explain", key, { inputs, parameters }, signal)).body;
}

/** What became of a reward for the answer with an id, or of a correction of it: `given` is {id, index} with one of both. */
export async function feedback(given, key) {
  return (await post("feedback", key, given)).body.outcome;
}

function post(path, key, told, signal) {
  return send(path, key, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(told), signal });
}

async function send(path, key, options) {
  const response = await open(path, key, options);
  if (!response.ok || !isJson(response)) throw await refusal(response);
  return { body: JSON.parse(await reached(response.text(), options)), id: response.headers.get("x-request-id") };
}

function open(path, key, options) {
  if (/[^\x21-\x7e]/.test(key)) throw new Refusal(UNSENDABLE);
  const headers = { accept: "application/json", ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  return reached(fetch(path, { ...options, headers }), options);
}

async function reached(promise, options) {
  try {
    return await promise;
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new Refusal(UNREACHABLE);
  }
}

async function refusal(response) {
  const { status, headers } = response;
  return new Refusal(told(response, await reached(response.text())), { status, retryAfter: headers.get("retry-after") });
}

const isJson = (response) => response.headers.get("content-type")?.startsWith("application/json");

/** Our servers refuse in JSON; what stands between (HAProxy, an ingress) may not: its words are shown as they came. */
function told(response, body) {
  const said = isJson(response) ? JSON.parse(body) : {};
  if (typeof said.error === "string") return said;
  return { error: `the server answered ${response.status} ${response.statusText}`, allowed: null, remedy: body.slice(0, 300) };
}
