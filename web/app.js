// Reads the overview and shows it. The admin key is exchanged for a cookie that no script can read.

const REFRESH_MS = 5000;
const SESSION = "admin/api/v1/session";

const TODAY = [
  ["requests", "requests"],
  ["errors", "errors"],
  ["input_tokens", "tokens in"],
  ["cached_tokens", "of these cached"],
  ["cached_percent", "cache %"],
  ["output_tokens", "tokens out"],
];

const ACCOUNT_COLUMNS = [
  ["account", "account"],
  ["status", "status"],
  ["until", "until"],
  ["reason", "reason"],
  ["live_conversations", "live conversations"],
  ["requests_today", "requests today"],
  ["cached_percent_today", "cache % today"],
];

const TURN_COLUMNS = [
  ["started_at", "time"],
  ["client_key", "client key"],
  ["account", "account"],
  ["affinity", "affinity"],
  ["affinity_by", "by"],
  ["outcome", "outcome"],
  ["model", "model"],
  ["input_tokens", "in"],
  ["cached_tokens", "cached"],
  ["output_tokens", "out"],
  ["duration_ms", "ms"],
  ["conversation_id", "conversation"],
];

const TIMES = new Set(["started_at", "until"]);
const GOOD = new Set(["completed", "hit", "active"]);
const BAD = new Set([
  "failed", "refused", "rejected", "upstream_cut", "timeout", "lost", "expired", "disabled", "exhausted",
]);

const element = (id) => document.getElementById(id);
let refresh;

function text(name, value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return value.toLocaleString();
  if (TIMES.has(name)) return new Date(value).toLocaleString();
  return value;
}

function cell(kind, name, value) {
  const node = document.createElement(kind);
  node.textContent = text(name, value);
  if (GOOD.has(value)) node.className = "good";
  if (BAD.has(value)) node.className = "bad";
  return node;
}

function fill(table, columns, rows) {
  const isNumeric = (name) => rows.some((row) => typeof row[name] === "number");
  const head = document.createElement("tr");
  for (const [name, label] of columns) {
    const node = document.createElement("th");
    node.scope = "col";
    node.textContent = label;
    if (isNumeric(name)) node.className = "number";
    head.append(node);
  }
  const lines = rows.map((row) => {
    const line = document.createElement("tr");
    line.append(...columns.map(([name]) => {
      const node = cell("td", name, row[name]);
      // Also where this row has no figure.
      if (isNumeric(name)) node.classList.add("number");
      return node;
    }));
    return line;
  });
  if (lines.length === 0) {
    const line = document.createElement("tr");
    const node = document.createElement("td");
    node.colSpan = columns.length;
    node.textContent = "Nothing yet.";
    line.append(node);
    lines.push(line);
  }
  const [thead, tbody] = ["thead", "tbody"].map((name) => document.createElement(name));
  thead.append(head);
  tbody.append(...lines);
  table.replaceChildren(thead, tbody);
}

function show(overview) {
  const figures = TODAY.flatMap(([name, label]) => {
    const term = document.createElement("dt");
    term.textContent = label;
    const group = document.createElement("div");
    group.append(term, cell("dd", name, overview.today[name]));
    return group;
  });
  element("today").replaceChildren(...figures);
  fill(element("accounts"), ACCOUNT_COLUMNS, overview.accounts);
  fill(element("turns"), TURN_COLUMNS, overview.turns);
  element("login").hidden = true;
  element("history").hidden = false;
  element("state").textContent = `as of ${new Date().toLocaleTimeString()}`;
}

function askForKey(message) {
  clearInterval(refresh);
  element("history").hidden = true;
  element("login").hidden = false;
  element("login-error").textContent = message;
  element("key").focus();
}

async function load() {
  try {
    const answer = await fetch("admin/api/overview");
    if (answer.status === 401) return askForKey("");
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    element("state").textContent = `not up to date: ${error.message}`;
  }
}

function begin() {
  clearInterval(refresh);
  load();
  refresh = setInterval(load, REFRESH_MS);
}

async function logIn(key) {
  const answer = await fetch(SESSION, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ key }),
  });
  if (answer.ok) return begin();
  const told = await answer.json().catch(() => null);
  const wrong = answer.status === 401 ? "This is not the admin key." : told?.error?.message;
  askForKey(wrong ?? `status ${answer.status}`);
}

element("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = element("key").value.trim();
  element("key").value = "";
  element("login-error").textContent = "";
  logIn(key).catch((error) => askForKey(error.message));
});

begin();
