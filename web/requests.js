// Requests: a list that is filtered and paged, and one of them whole.

import * as api from "./api.js";
import { meter } from "./chart.js";
import { address, badge, dialog, h, table } from "./dom.js";
import * as write from "./format.js";
import { downloads } from "./overview.js";

const PAGE = 50;
const FILTERS = ["account", "client_key", "model", "transport", "outcome", "affinity", "conversation", "error", "from", "to"];
const OUTCOMES = {
  "": "any", errors: "not well", completed: "completed", incomplete: "incomplete", cancelled: "cancelled", queued: "queued", open: "open",
  failed: "failed", refused: "refused", rejected: "rejected", upstream_cut: "upstream cut", timeout: "timeout", client_gone: "client gone", shutdown: "shutdown", lost: "lost",
};
const AFFINITIES = { "": "any", astray: "not as wanted", hit: "hit", none: "none", moved: "moved", unknown: "unknown", refused: "refused" };

export function requestColumns(keep = {}) {
  return [
    { label: "Time", value: (row) => h("a", { href: address({ ...keep, view: "requests", id: row.request_id }), title: write.fullTime(row.started_at) }, write.time(row.started_at)) },
    { label: "Client key", wide: true, value: (row) => write.text(row.client_key) },
    { label: "Account", value: (row) => write.text(row.account) },
    { label: "Affinity", wide: true, value: (row) => [badge(row.affinity), row.affinity_by && h("span", { class: "hint" }, ` ${write.words(row.affinity_by)}`)] },
    { label: "Outcome", value: (row) => [badge(row.outcome), row.error_code && h("span", { class: "hint wide" }, ` ${row.error_code}`)] },
    { label: "Model", wide: true, value: (row) => write.text(row.model) },
    { label: "In", number: true, title: "tokens in", value: (row) => write.number(row.input_tokens) },
    { label: "Cached", number: true, value: (row) => cachedShare(row) },
    { label: "Out", number: true, wide: true, title: "tokens out", value: (row) => write.number(row.output_tokens) },
    { label: "Cost", number: true, wide: true, value: (row) => write.smallMoney(row.cost) },
    { label: "Time taken", number: true, wide: true, value: (row) => write.duration(row.duration_ms) },
  ];
}

export function cachedShare(row) {
  if (row.cached_tokens === null || !row.input_tokens) return write.UNKNOWN;
  const share = (100 * row.cached_tokens) / row.input_tokens;
  return h("span", { class: "with-meter", title: `${write.number(row.cached_tokens)} tokens` },
    meter(100, [{ value: share, className: "cached" }], "share of cached tokens"), h("span", { class: "share" }, `${share.toFixed(0)} %`));
}

export async function show(main, query) {
  if (query.get("id")) await one(query);
  const filter = Object.fromEntries(FILTERS.map((name) => [name, query.get(name)]).filter(([, value]) => value));
  const list = { rows: [], next: null, searched: null };
  const body = h("div", { "aria-busy": "true" }, h("p", { class: "empty" }, "Reading…"));
  main.replaceChildren(
    h("header", { class: "title" }, h("h1", {}, "Requests"), downloads("requests", { ...filter, count: 1000 })),
    await form(filter), body);

  const draw = () => {
    body.removeAttribute("aria-busy");
    const known = new Set([...body.querySelectorAll("tr[data-key]")].map((row) => row.dataset.key));
    const columns = requestColumns(filter);
    body.replaceChildren(
      table("Requests", columns, list.rows, {
        key: (row) => row.request_id, address: (row) => row.request_id,
        rowClass: (row) => (known.size && !known.has(String(row.request_id)) && row.request_id > Math.max(...known) ? "fresh" : null),
        empty: list.next ? "None so far." : Object.keys(filter).length ? "No request is like that." : "No request yet.",
      }),
      ...(list.next ? [h("p", { class: "next" },
        h("button", { type: "button", onclick: () => more().catch(tell) }, "Show more"),
        list.rows.length % PAGE ? h("span", { class: "hint" }, ` searched back to ${write.fullTime(list.searched)}`) : null)] : []));
  };
  const tell = (error) => body.prepend(h("p", { class: "trouble", role: "alert" }, error.message));
  const take = (page) => {
    list.next = page.next_before_id;
    list.searched = page.next_before;
  };
  // What is rare is searched for some moments before a person is asked to go on.
  const more = async () => {
    const wanted = list.rows.length + PAGE;
    const begin = performance.now();
    do {
      const page = await api.get("requests", { ...filter, count: wanted - list.rows.length, before_id: list.next });
      list.rows.push(...page.requests);
      take(page);
    } while (list.next && list.rows.length < wanted && performance.now() - begin < 3000);
    draw();
  };
  await more();

  const refresh = async () => {
    const page = await api.get("requests", { ...filter, count: PAGE });
    const fresh = new Map(page.requests.map((row) => [row.request_id, row]));
    const oldest = Math.min(...fresh.keys());
    const rest = list.rows.filter((row) => !fresh.has(row.request_id) && row.request_id < oldest);
    if (!list.rows.length) take(page);
    list.rows = [...page.requests, ...rest];
    draw();
  };
  return { title: "Requests", refresh };
}

/** Names to choose from: those of the last month. */
async function names() {
  const part = async (by) => (await api.get("usage", { last: "30d", by, step: "24h" })).parts.map((part) => part.part).filter(Boolean).sort();
  const [account, client_key, model, transport] = await Promise.all(["account", "client_key", "model", "transport"].map(part));
  return { account, client_key, model, transport };
}

async function form(filter) {
  const known = await names();
  const select = (name, label, options) => h("label", {}, label,
    h("select", { name, onchange: (event) => event.target.form.requestSubmit() },
      Object.entries(options).map(([value, text]) => h("option", { value, selected: (filter[name] ?? "") === value }, text))));
  const choice = (name, label) => {
    const values = [...new Set([...known[name], ...(filter[name] ? [filter[name]] : [])])];
    return select(name, label, { "": "any", ...Object.fromEntries(values.map((value) => [value, value])) });
  };
  const hidden = ["conversation", "from", "to"].filter((name) => filter[name]);
  const chips = hidden.map((name) => h("a", {
    class: "chip", href: address({ view: "requests", ...filter, [name]: "" }), "aria-label": `Without: ${name} ${filter[name]}`,
  }, `${name} ${name === "conversation" ? filter[name].slice(0, 8) : write.fullTime(filter[name])} `, h("span", { "aria-hidden": "true" }, "✕")));
  return h("form", {
    class: "filter", role: "search", "aria-label": "Filter",
    onsubmit: (event) => {
      event.preventDefault();
      const chosen = Object.fromEntries(new FormData(event.target));
      const kept = Object.fromEntries(hidden.map((name) => [name, filter[name]]));
      dispatchEvent(new CustomEvent("moorage-go", { detail: address({ view: "requests", ...kept, ...chosen }) }));
    },
  },
  choice("account", "Account"), choice("client_key", "Client key"), choice("model", "Model"), choice("transport", "Transport"),
  select("outcome", "Outcome", OUTCOMES), select("affinity", "Affinity", AFFINITIES),
  h("label", {}, "Error code", h("input", { name: "error", type: "search", value: filter.error ?? "", placeholder: "any", size: 14 })),
  h("button", { class: "unseen" }, "Filter"),
  chips, Object.keys(filter).length ? h("a", { class: "chip", href: "?view=requests" }, "clear all") : null);
}

const GROUPS = {
  "Who asked": ["client_key", "started_at", "endpoint", "transport", "model_asked", "request_bytes", "input_items", "previous_response_id"],
  "Where it went": ["account", "affinity", "affinity_by", "attempts", "conversation_id", "response_id"],
  "How it ended": ["outcome", "status", "error_code", "ended_at_ms", "response_bytes", "model_served", "service_tier"],
  Tokens: ["input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "usage_source"],
  Cost: ["cost", "cost_saved", "lost_tokens", "cost_lost", "price"],
  Time: ["first_byte_ms", "first_output_ms", "duration_ms", "overhead_us"],
};
// Columns that are told in other words.
const TOLD = new Set(["each_attempt", "request_id", "id", "started_at_ms", "client_key_id", "account_id", "model", "price_id", "cost_micros", "saved_micros", "lost_micros"]);

async function one(query) {
  const keep = Object.fromEntries(query);
  const request = await api.get(`requests/${encodeURIComponent(query.get("id"))}`).catch((error) => error);
  const closed = request instanceof Error
    ? dialog("Request", h("p", { class: "trouble" }, request.message))
    : dialog(`Request ${request.request_id}`, whole(request));
  closed.then(() => {
    if (new URLSearchParams(location.search).get("id") === keep.id) {
      dispatchEvent(new CustomEvent("moorage-go", { detail: address({ ...keep, id: "" }) }));
    }
  });
}

function whole(request) {
  const grouped = new Set(Object.values(GROUPS).flat());
  const others = Object.keys(request).filter((name) => !grouped.has(name) && !TOLD.has(name));
  const groups = others.length ? { ...GROUPS, More: others } : GROUPS;
  const fields = h("div", { class: "groups" }, Object.entries(groups).map(([title, members]) => h("section", {},
    h("h3", {}, title),
    h("dl", {}, members.filter((name) => name in request).map((name) => h("div", {}, h("dt", {}, label(name)), h("dd", {}, value(name, request[name]))))))));
  return [attempts(request.each_attempt), fields];
}

/** Who was asked, one after the other. A single one that answered is told by the rest. */
function attempts(made) {
  if (!made.length || (made.length === 1 && made[0].how === "answered")) return null;
  return h("section", { class: "attempts" }, h("h3", {}, made.length === 1 ? "One attempt" : `${made.length} attempts`), table("Attempts", [
    { label: "Account", value: (row) => [h("span", { class: "hint" }, `${row.attempt}. `), write.text(row.account)] },
    { label: "Came to", value: (row) => (row.how ? badge(row.how) : badge("open")) },
    { label: "Status", number: true, value: (row) => write.text(row.status) },
    { label: "Error code", value: (row) => write.text(row.error_code) },
    { label: "Began after", number: true, wide: true, value: (row) => write.duration(row.after_ms) },
    { label: "Took", number: true, value: (row) => write.duration(row.duration_ms) },
  ], made));
}

const label = (name) => name.replace(/_(ms|us)$/, "").replaceAll("_", " ");

function value(name, value) {
  if (value === null) return write.UNKNOWN;
  if (["outcome", "affinity"].includes(name)) return badge(value);
  if (name === "conversation_id") return h("a", { href: address({ view: "conversations", id: value }) }, value);
  if (name === "price") return `${write.price(value.input_micros)} in, ${write.price(value.cached_micros)} cached, ${write.price(value.output_micros)} out for a million tokens`;
  if (name.startsWith("cost")) return write.money(value);
  if (name === "started_at") return write.fullTime(value);
  if (name === "ended_at_ms") return write.fullTime(new Date(value).toISOString());
  if (name === "overhead_us") return `${write.number(value)} µs`;
  if (name.endsWith("_ms")) return write.duration(value);
  if (name.endsWith("_bytes")) return `${write.number(value)} bytes`;
  if (typeof value === "number" && name !== "status") return write.number(value);
  if (typeof value === "object") return JSON.stringify(value);
  return String(value);
}
