// Accounts and client keys: how they are now, and what a person does with them.

import * as api from "./api.js";
import { address, badge, dialog, h, table } from "./dom.js";
import { meter } from "./chart.js";
import * as write from "./format.js";
import { live } from "./live.js";

let accounts = [];

/** The state of an account in one word: what a person has switched comes first. */
function state(account) {
  if (account.switch === "off") return "disabled";
  if (account.switch === "draining") return "draining";
  return account.status;
}

function windows(account) {
  return (account.quota ?? []).map((window) => {
    const used = window.used_percent ?? (window.limit ? 100 * (1 - (window.remaining ?? window.limit) / window.limit) : null);
    if (used === null) return null;
    const resets = window.resets_at_ms && window.resets_at_ms > Date.now() ? new Date(window.resets_at_ms).toISOString() : null;
    return h("div", { class: "window" },
      h("span", {}, write.words(window.name), window.window_minutes ? ` · ${write.duration(window.window_minutes * 60e3)}` : ""),
      h("span", { class: "number" }, `${used.toFixed(0)} % used`),
      meter(100, [{ value: Math.min(100, used), className: used >= 90 ? "bad" : used >= 70 ? "fair" : "good" }], `${used.toFixed(0)} percent of ${window.name} used`),
      resets && h("span", { class: "hint" }, "anew in ", h("span", { "data-until": resets }, write.until(resets))));
  });
}

/** A card for each account; they are read each time that they are shown. */
export function accountCards() {
  const node = h("ul", { class: "cards" });
  const draw = () => {
    const running = new Map((live.now?.accounts ?? []).map((account) => [account.account, account.in_flight]));
    node.replaceChildren(...accounts.map((account) => h("li", { class: "card account" },
      h("header", {}, h("strong", {}, account.account), badge(state(account), account.switch === "off" ? "plain" : null)),
      account.until && h("p", { class: "back" }, "back in ", h("strong", { "data-until": account.until }, write.until(account.until)), account.reason && h("span", { class: "hint" }, ` ${account.reason}`)),
      !account.until && account.reason && account.status !== "active" && h("p", { class: "hint" }, account.reason),
      account.switch === "on" && account.what_to_do && h("p", { class: "to-do" }, account.what_to_do),
      account.limited_models && h("p", { class: "hint limited" }, `limited: ${write.withTimes(account.limited_models)}`),
      windows(account),
      h("p", { class: "hint" }, `${write.number(running.get(account.account) ?? 0)} running · ${write.number(account.live_conversations)} live conversations`),
      h("p", { class: "hint" }, `today ${write.number(account.requests_today)} requests, cached ${write.percent(account.cached_percent_today)}`))));
    if (!accounts.length) node.replaceChildren(h("li", { class: "card" }, "No account is set up yet. ", h("a", { href: "?view=accounts" }, "Add one")));
  };
  draw();
  api.get("accounts").then((answer) => { accounts = answer.accounts; draw(); }, () => {});
  return node;
}

export async function show(main) {
  const body = h("div", { "aria-busy": "true" }, h("p", { class: "empty" }, "Reading…"));
  main.replaceChildren(h("h1", {}, "Accounts"), body);
  const draw = async () => {
    const [listed, keys] = await Promise.all([api.get("accounts"), api.get("keys")]);
    accounts = listed.accounts;
    const focused = document.activeElement?.dataset?.does;
    body.removeAttribute("aria-busy");
    body.replaceChildren(
      section("Upstream accounts", "Add an account", addAccount(draw), accountTable(draw)),
      section("Client keys", "Add a client key", addKey(draw), keyTable(keys.keys, draw)));
    if (focused) body.querySelector(`[data-does="${CSS.escape(focused)}"]`)?.focus();
  };
  await draw();
  return { title: "Accounts", refresh: draw };
}

function section(title, action, open, content) {
  return h("section", {}, h("header", {}, h("h2", {}, title), h("button", { type: "button", "data-does": action, onclick: open }, action)), content);
}

function does(label, name, act, extra = {}) {
  return h("button", { type: "button", class: "small", "data-does": `${label} ${name}`, "aria-label": `${label} ${name}`, onclick: act, ...extra }, label);
}

/** Runs a change and shows it, or says why it did not come about. */
async function change(work, draw, doing) {
  try {
    await work();
    await draw();
  } catch (error) {
    dialog("That was not done", h("p", { class: "trouble" }, error.message), doing);
  }
}

function accountTable(draw) {
  const switchTo = (account, word) => change(() => api.post(`accounts/${encodeURIComponent(account.account)}/${word}`), draw);
  const columns = [
    { label: "Account", value: (row) => [h("a", { href: address({ view: "requests", account: row.account }) }, row.account),
      h("div", { class: "hint wide", title: row.source === "file" ? "It is in moorage.toml" : null }, row.source === "file" ? `${row.kind}, in the file` : row.kind)] },
    { label: "Status", value: (row) => [badge(state(row), row.switch === "off" ? "plain" : null), row.until && h("span", { class: "hint" }, " back in ", h("span", { "data-until": row.until }, write.until(row.until))), row.reason && h("span", { class: "hint wide" }, ` ${row.reason}`), row.limited_models && h("div", { class: "hint limited" }, `limited: ${write.withTimes(row.limited_models)}`), row.switch === "on" && row.what_to_do && h("div", { class: "to-do" }, row.what_to_do)] },
    { label: "Address", wide: true, kind: "long", value: (row) => [row.base_url, row.auth_file && h("div", { class: "hint" }, row.auth_file)] },
    { label: "Live", number: true, wide: true, title: "conversations that live on it", value: (row) => write.number(row.live_conversations) },
    { label: "Today", number: true, wide: true, title: "requests today (UTC), and their share of cached tokens", value: (row) => [write.number(row.requests_today), h("div", { class: "hint" }, `${write.percent(row.cached_percent_today)} cached`)] },
    {
      label: "Do", value: (row) => h("span", { class: "actions" },
        row.switch !== "on" || row.status !== "active" ? does("Enable", row.account, () => switchTo(row, "enable")) : null,
        row.switch === "on" ? does("Drain", row.account, () => switchTo(row, "drain"), { title: "Nothing new begins on it; what lives there goes on" }) : null,
        row.switch !== "off" ? does("Disable", row.account, () => switchTo(row, "disable")) : null,
        row.source === "file" ? null : does("Remove", row.account, () => confirmRemoval(row, draw))),
    },
  ];
  return table("Upstream accounts", columns, accounts, { empty: "No account yet: nothing can be answered." });
}

function confirmRemoval(account, draw) {
  const live = account.live_conversations;
  confirm(`Remove ${account.account}?`,
    live ? `${write.number(live)} conversations live on it. They cannot go on without it; drain it first, and they end by themselves.` : "Its history stays. Conversations on it cannot go on.",
    live ? "Remove all the same" : "Remove",
    () => change(() => api.remove(`accounts/${encodeURIComponent(account.account)}`, live ? { force: true } : {}), draw));
}

/** Asks before something that cannot be taken back. */
function confirm(question, meaning, yes, act) {
  const close = () => document.getElementById("dialog").close();
  dialog(question, h("p", {}, meaning), h("p", { class: "actions" },
    h("button", { type: "button", class: "danger", onclick: () => { close(); act(); } }, yes),
    h("button", { type: "button", onclick: close }, "Keep it")));
}

function field(label, properties, hint) {
  return h("label", {}, label, h("input", { autocomplete: "off", ...properties }), hint && h("span", { class: "hint" }, hint));
}

/** What belongs to one of several choices: only the fields of the chosen one are there. */
function choice(legend, name, parts) {
  const groups = Object.fromEntries(Object.entries(parts).map(([value, part]) => [value, h("fieldset", { class: "stack" }, part.fields())]));
  const choose = (chosen) => {
    for (const [value, group] of Object.entries(groups)) group.hidden = group.disabled = value !== chosen;
  };
  const first = Object.keys(parts)[0];
  choose(first);
  return [
    h("fieldset", {}, h("legend", {}, legend), h("div", { class: "segments" }, Object.entries(parts).map(([value, part]) =>
      h("label", {}, h("input", { type: "radio", name, value, checked: value === first, onchange: () => choose(value) }), part.label)))),
    ...Object.values(groups),
  ];
}

/** A form in a dialog: what it holds is sent as an object, without what was left empty. */
function formDialog(title, fields, send, button) {
  return () => {
    const trouble = h("p", { class: "trouble", role: "alert" });
    const form = h("form", {
      class: "stack",
      onsubmit: async (event) => {
        event.preventDefault();
        trouble.textContent = "";
        const values = {};
        for (const [name, text] of new FormData(form)) if (text !== "") values[name] = form.elements[name].type === "number" ? Number(text) : text;
        try {
          await send(values);
        } catch (error) {
          trouble.textContent = error.message;
        }
      },
    }, fields(), trouble, h("button", {}, button));
    dialog(title, form);
    (form.elements.name ?? form.elements[0]).focus();
  };
}

const ACCOUNT_KINDS = {
  openai: {
    label: "API key",
    fields: () => [
      field("Address", { name: "base_url", type: "url", required: true, placeholder: "https://api.openai.com/v1" }, "of any server that speaks the Responses API"),
      field("API key", { name: "api_key", type: "password", required: true }, "typed once; kept sealed, and never shown again"),
    ],
  },
  codex: {
    label: "ChatGPT login",
    fields: () => [
      field("File of the login", { name: "auth_file", required: true, pattern: "/.+", placeholder: "/home/you/.codex/auth.json", title: "a path that begins with /" },
        "on the gateway's machine, as “codex login” wrote it. It stays there and is renewed there, and only its owner may read it"),
      field("Address", { name: "base_url", type: "url", placeholder: "https://chatgpt.com/backend-api/codex" }, "the usual one if left empty"),
      h("p", { class: "hint" }, "For your own login and your own use. Its provider's terms apply: they may forbid to use a plan from other programs, or to share it."),
    ],
  },
};

function addAccount(draw) {
  return formDialog("Add an account", () => [
    field("Name", { name: "name", required: true, pattern: "[A-Za-z0-9._@\\-]+", maxlength: 64 }, "letters, digits and . _ - @; the name of an account that is there gives it a new key, and what is left empty stays as it was"),
    choice("What it has", "kind", ACCOUNT_KINDS),
    h("details", {}, h("summary", {}, "More"),
      field("State domain", { name: "state_domain" }, "accounts of one domain share server-side state; without, it is its own"),
      field("Weight", { name: "weight", type: "number", min: 1 }, "its share of the load; 1 for a new one"),
      field("Priority", { name: "priority", type: "number" }, "those of the highest are used first; 0 for a new one"),
      field("Requests at once", { name: "max_concurrent", type: "number", min: 0 }, "0 for no bound")),
  ].flat(), async (account) => {
    await api.post("accounts", account);
    document.getElementById("dialog").close();
    await draw();
  }, "Add");
}

function keyTable(keys, draw) {
  const columns = [
    { label: "Client key", value: (row) => h("a", { href: address({ view: "requests", client_key: row.client_key }) }, row.client_key) },
    { label: "Begins with", value: (row) => (row.begins_with?.length > 1 ? h("code", {}, row.begins_with) : write.UNKNOWN) },
    { label: "Scope", wide: true, value: (row) => (row.scope.startsWith("scope/") ? row.scope.slice(6) : h("span", { class: "hint" }, "its own")) },
    { label: "Since", wide: true, value: (row) => write.fullTime(new Date(row.created_at_ms).toISOString()) },
    { label: "Bounds", wide: true, kind: "long", value: (row) => bounds(row.bounds) },
    {
      label: "Do", value: (row) => (row.source === "file" ? h("span", { class: "hint", title: "It is in moorage.toml" }, "in the file") : h("span", { class: "actions" },
        does("Rotate", row.client_key, () => confirm(`Rotate ${row.client_key}?`, "It gets a new secret, and the old one is not let in any more. Its conversations stay.", "Rotate",
          () => change(async () => showKey(await api.post(`keys/${encodeURIComponent(row.client_key)}/rotate`)), draw)), { title: "A new secret; its conversations stay" }),
        does("Bounds", row.client_key, changeBounds(row, draw), { title: "What it may do" }),
        does("Revoke", row.client_key, () => confirm(`Revoke ${row.client_key}?`, "Who uses it is not let in any more. Its history stays.", "Revoke",
          () => change(() => api.post(`keys/${encodeURIComponent(row.client_key)}/revoke`), draw))))),
    },
  ];
  return table("Client keys", columns, keys, { empty: "No client key yet: nobody can ask." });
}

// What a key may do, each with how it is typed and how it is read.
const BOUNDS = {
  expires_at_ms: { label: "Ends", input: { type: "datetime-local" }, read: (text) => +new Date(text), write: (ms) => `until ${write.fullTime(new Date(ms).toISOString())}`,
    typed: (ms) => new Date(ms - new Date(ms).getTimezoneOffset() * 60e3).toISOString().slice(0, 16) },
  models: { label: "Models", input: { placeholder: "gpt-5*, sim-large" }, hint: "names, or how names begin with * behind it; all if left empty", read: (text) => text.split(/[\s,]+/).filter(Boolean), typed: (names) => names.join(", "), write: (names) => names.join(", ") },
  max_concurrent: { label: "Requests at once", input: { type: "number", min: 1 }, write: (count) => `${write.number(count)} at once` },
  tokens_per_day: { label: "Tokens a day", input: { type: "number", min: 0 }, write: (count) => `${write.compact(count)} tokens a day` },
  tokens_per_month: { label: "Tokens a month", input: { type: "number", min: 0 }, write: (count) => `${write.compact(count)} tokens a month` },
  cost_per_day: { label: "Cost a day", input: { type: "number", min: 0, step: "any" }, hint: "where prices are known; days and months are those of UTC", write: (amount) => `${write.money(amount)} a day` },
  cost_per_month: { label: "Cost a month", input: { type: "number", min: 0, step: "any" }, write: (amount) => `${write.money(amount)} a month` },
};

const isBound = (value) => value !== null && value !== undefined && !(Array.isArray(value) && !value.length);

function bounds(bounds = {}) {
  const parts = Object.entries(BOUNDS).filter(([name]) => isBound(bounds[name])).map(([name, bound]) => bound.write(bounds[name]));
  if (bounds.shows_quota) parts.push("sees the quota of accounts");
  return parts.length ? parts.join(", ") : "none";
}

function boundFields(bounds = {}) {
  return [
    ...Object.entries(BOUNDS).map(([name, bound]) => field(bound.label, { name, ...bound.input, value: isBound(bounds[name]) ? bound.typed?.(bounds[name]) ?? bounds[name] : "" }, bound.hint)),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "shows_quota", checked: bounds.shows_quota }), "Is told the quota of the accounts"),
  ];
}

/** The bounds among the values of a form, as the API takes them, and the rest. */
function parted({ shows_quota, ...values }) {
  const bounds = { shows_quota: shows_quota !== undefined };
  for (const [name, bound] of Object.entries(BOUNDS)) {
    if (name in values) bounds[name] = bound.read?.(values[name]) ?? values[name];
    delete values[name];
  }
  return { bounds, ...values };
}

function changeBounds(key, draw) {
  return formDialog(`What ${key.client_key} may do`, () => boundFields(key.bounds), async (values) => {
    await api.put(`keys/${encodeURIComponent(key.client_key)}/bounds`, parted(values).bounds);
    document.getElementById("dialog").close();
    await draw();
  }, "Save");
}

function addKey(draw) {
  return formDialog("Add a client key", () => [
    field("Name", { name: "name", required: true, pattern: "[A-Za-z0-9._@\\-]+", maxlength: 64 }, "who will use it: laptop, agent, a person"),
    field("Scope", { name: "scope" }, "keys of one scope share their conversations; without, it is its own"),
    h("details", {}, h("summary", {}, "Bounds"), boundFields()),
  ], async (values) => {
    const made = await api.post("keys", parted(values));
    await draw();
    showKey(made);
  }, "Add");
}

function showKey(made) {
  const shown = h("code", { class: "secret" }, made.key);
  dialog(`The key of ${made.client_key}`,
    h("p", {}, "This is the only time that it is shown."), h("p", {}, shown),
    h("p", { class: "actions" },
      h("button", {
        type: "button", onclick: async (event) => {
          try {
            await navigator.clipboard.writeText(made.key);
            event.target.textContent = "Copied";
          } catch {
            getSelection().selectAllChildren(shown);
          }
        },
      }, "Copy"),
      h("button", { type: "button", onclick: () => document.getElementById("dialog").close() }, "I have it")));
}
