// The admin API. Who is not logged in is told so with an event, and the page asks for the key.

export class Failure extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function call(method, path, body) {
  const options = { method, headers: {}, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options).catch(() => {
    throw new Failure(0, "unreachable", "Moorage does not answer. Is it running?");
  });
  const content = await answer.json().catch(() => null);
  if (answer.ok) return content;
  const error = content?.error ?? {};
  if (answer.status === 401 && path !== LOGIN) dispatchEvent(new Event("moorage-login"));
  throw new Failure(answer.status, error.code, error.message ?? `Status ${answer.status}`);
}

const ROOT = "admin/api/v1/";
const LOGIN = `${ROOT}session`;

export function path(name, parameters = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(key, value);
  }
  return `${ROOT}${name}${query.size ? `?${query}` : ""}`;
}

export const get = (name, parameters) => call("GET", path(name, parameters));
export const post = (name, body) => call("POST", ROOT + name, body ?? {});
export const put = (name, body) => call("PUT", ROOT + name, body);
export const remove = (name, parameters) => call("DELETE", path(name, parameters));
export const login = (key) => call("POST", LOGIN, { key });
export const logout = () => call("DELETE", LOGIN);
