// Talks to the server. A write that meets no server is tried again until one answers.

const ROOT = "/api/v1";
const LONGEST_WAIT = 8000;

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

function describe(detail, status) {
  if (typeof detail === "string") return detail;
  if (Array.isArray(detail)) return detail.map((part) => part.msg ?? String(part)).join("; ");
  return detail?.message ?? `HTTP ${status}`;
}

async function refusal(answer) {
  const body = await answer.json().catch(() => ({}));
  return new ApiError(answer.status, describe(body.detail, answer.status));
}

export function address(path, query = {}) {
  const asked = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const text = new URLSearchParams(asked).toString();
  return ROOT + path + (text ? `?${text}` : "");
}

async function send(method, path, { query, json, body, type } = {}) {
  const headers = {};
  if (json !== undefined) headers["Content-Type"] = "application/json";
  if (type) headers["Content-Type"] = type;
  const answer = await fetch(address(path, query), {
    method,
    headers,
    body: json !== undefined ? JSON.stringify(json) : body,
    credentials: "same-origin",
  });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function answered(answer) {
  const type = answer.headers.get("Content-Type") ?? "";
  return type.includes("json") ? answer.json() : answer;
}

export const get = async (path, query) => answered(await send("GET", path, { query }));
export const getRaw = (path, query) => send("GET", path, { query });
export const write = async (method, path, options) => answered(await send(method, path, options));

const pause = (time) => new Promise((resolve) => setTimeout(resolve, time));

/** Like `write`, and again after a growing pause while the server is away (`onAway` hears of each try). */
export async function writeUntilAnswered(method, path, options, onAway) {
  for (let wait = 500; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
    try {
      return await write(method, path, options);
    } catch (error) {
      if (error instanceof ApiError && error.status !== 503) throw error;
      onAway(error);
      await pause(wait);
    }
  }
}

/** The photo that was open before the page was loaded again, or that a link names. */
export async function photoOfAddress() {
  const id = new URLSearchParams(location.hash.slice(1)).get("photo");
  return id && get(`/photos/${encodeURIComponent(id)}`).catch(() => null);
}

/** In token mode the address ends in #token=...; it becomes a cookie and leaves the address bar. */
export async function login() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  await write("POST", "/login", { json: { token } });
}
