/** The calls of the server. Paths are relative to the page, so a path prefix of a gateway works. */

import { eventsOf } from "./event-stream.js";
import { storedKey } from "./key.js";

/** What the server answered in place of a result; `status` is 0 if it did not answer. */
export class ServerError extends Error {
  constructor(sentence, status = 0, retryAfter = 0) {
    super(sentence);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Each model as `{name, state, reason, version}`; an empty list while a download is awaited. */
export async function listModels() {
  const response = await call("v2/repository/index", { method: "POST" });
  return response.json();
}

/** What a loaded model accepts: its inputs, defaults and limits. */
export async function describeModel(name) {
  const response = await call(`v2/models/${encodeURIComponent(name)}`, { cache: "no-store" });
  return response.json();
}

/** Request pictures; yields the events of the answer. Aborting `signal` cancels the request. */
export async function* predict(name, body, signal) {
  const response = await call(`v1/models/${encodeURIComponent(name)}:predict`, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "text/event-stream" },
    body: JSON.stringify(body),
    signal,
  });
  yield* eventsOf(response.body);
}

async function call(path, options) {
  const headers = new Headers(options.headers);
  if (storedKey()) {
    headers.set("authorization", `Bearer ${storedKey()}`);
  }
  const response = await fetch(path, { ...options, headers }).catch(rethrow);
  if (!response.ok) {
    throw await errorOf(response);
  }
  return response;
}

function rethrow(error) {
  throw error.name === "AbortError" ? error : new ServerError("The server does not answer.");
}

async function errorOf(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || 0;
  const fallback = `The server answered with status ${response.status}.`;
  // A gateway in front of the server may answer with HTML.
  const sentence = await response.json().then((body) => body.error, () => fallback);
  return new ServerError(sentence || fallback, response.status, retryAfter);
}
