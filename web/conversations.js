// Conversations: the latest, and the turns of one with where each went and why.

import * as api from "./api.js";
import { address, badge, h, table } from "./dom.js";
import { chart } from "./chart.js";
import * as write from "./format.js";
import { downloads } from "./overview.js";
import { cachedShare } from "./requests.js";

const PAGE = 50;

export function show(main, query) {
  return query.get("id") ? one(main, query.get("id")) : list(main, query);
}

async function list(main) {
  const state = { rows: [], next: null };
  const body = h("div", { "aria-busy": "true" }, h("p", { class: "empty" }, "Reading…"));
  main.replaceChildren(
    h("header", { class: "title" }, h("h1", {}, "Conversations"), downloads("conversations", { count: 1000 })),
    h("form", {
      class: "filter", role: "search", "aria-label": "Find a conversation",
      onsubmit: (event) => {
        event.preventDefault();
        const id = new FormData(event.target).get("id").trim();
        dispatchEvent(new CustomEvent("moorage-go", { detail: address({ view: "conversations", id }) }));
      },
    }, h("label", {}, "Id of a conversation or of one of its responses", h("input", { name: "id", required: true, size: 40, placeholder: "resp_…" })), h("button", {}, "Find")),
    body);
  const columns = [
    { label: "Last turn", value: (row) => h("a", { href: address({ view: "conversations", id: row.conversation_id }), title: write.fullTime(row.last_at) }, write.time(row.last_at)) },
    { label: "Client key", value: (row) => write.text(row.client_key) },
    { label: "Account", value: (row) => write.text(row.account) },
    { label: "Model", wide: true, value: (row) => write.text(row.model) },
    { label: "Turns", number: true, value: (row) => write.number(row.turns) },
    { label: "Errors", number: true, wide: true, value: (row) => (row.errors ? write.number(row.errors) : "0") },
    { label: "Moves", number: true, value: (row) => (row.moves ? h("span", { class: "badge fair" }, write.number(row.moves)) : "0") },
    { label: "In", number: true, title: "tokens in", value: (row) => write.compact(row.input_tokens) },
    { label: "Cached", number: true, value: cachedShare },
    { label: "Out", number: true, title: "tokens out", value: (row) => write.compact(row.output_tokens) },
    { label: "Cost", number: true, wide: true, value: (row) => write.money(row.cost) },
    { label: "Lost at moves", number: true, wide: true, value: (row) => (row.moves ? write.compact(row.lost_tokens) : "0") },
  ];
  const draw = () => {
    body.removeAttribute("aria-busy");
    body.replaceChildren(
      table("Conversations", columns, state.rows, { address: (row) => row.conversation_id, empty: "No conversation yet." }),
      ...(state.next ? [h("p", { class: "next" }, h("button", { type: "button", onclick: more }, "Show more"))] : []));
  };
  const more = async () => {
    const wanted = state.rows.length + PAGE;
    const begin = performance.now();
    do {
      const page = await api.get("conversations", { count: wanted - state.rows.length, before_id: state.next });
      state.rows.push(...page.conversations);
      state.next = page.next_before_id;
    } while (state.next && state.rows.length < wanted && performance.now() - begin < 3000);
    draw();
  };
  await more();
  const refresh = async () => {
    const page = await api.get("conversations", { count: PAGE });
    const fresh = new Set(page.conversations.map((row) => row.conversation_id));
    state.rows = [...page.conversations, ...state.rows.filter((row) => !fresh.has(row.conversation_id))];
    draw();
  };
  return { title: "Conversations", refresh };
}

/** Turns that are shown at first, and that are added when a person asks for earlier ones. */
const TURNS = 300;

async function one(main, id) {
  let turns = [], conversation = null, shown = TURNS;
  const read = async () => {
    // What has ended stays as it is: only what comes after it is read again.
    const open = turns.findIndex(({ outcome }) => outcome === "open" || outcome === "queued");
    const known = open < 0 ? [...turns] : turns.slice(0, open);
    let after = known.at(-1)?.request_id;
    do {
      const page = await api.get(`conversations/${encodeURIComponent(id)}`, { after_id: after });
      conversation = page.conversation;
      known.push(...page.turns);
      after = page.next_after_id;
    } while (after);
    turns = known;
    let before = null;
    for (const turn of turns) {
      turn.cameFrom = before && turn.account && before !== turn.account ? before : null;
      before = turn.account ?? before;
    }
  };
  const draw = () => {
    const accounts = [...new Set(turns.map((turn) => turn.account))].sort();
    const earlier = turns.length - shown;
    main.replaceChildren(
      h("header", { class: "title" }, h("h1", {}, "Conversation ", h("code", {}, conversation.conversation_id)), downloads(`conversations/${conversation.conversation_id}`, {})),
      summary(conversation),
      h("section", { class: "card", "aria-labelledby": "turns-chart" },
        h("header", {}, h("h2", { id: "turns-chart" }, "Tokens in, turn by turn"),
          h("span", { class: "hint" }, accounts.map((account, index) => [h("i", { class: `swatch c${index % 8}` }), `${account ?? "none"} `]), h("i", { class: "key-line" }), "share of cached tokens")),
        picture(turns, accounts)),
      ...(earlier > 0 ? [h("p", { class: "next" }, h("button", { type: "button", onclick: () => { shown += TURNS; draw(); } }, "Show earlier turns"), h("span", { class: "hint" }, ` ${write.number(earlier)} more`))] : []),
      table("Turns", turnColumns(), turns.slice(-shown), { address: (row) => row.request_id, rowClass: (row) => (row.cameFrom ? "moved" : null) }));
  };
  const refresh = async () => {
    await read();
    draw();
  };
  await refresh();
  return { title: "Conversation", refresh };
}

function summary(conversation) {
  const tile = (label, value, more) => h("div", { class: "tile" }, h("dt", {}, label), h("dd", {}, value), h("dd", { class: "hint" }, more));
  return h("dl", { class: "tiles" },
    tile("Turns", write.number(conversation.turns), `${write.time(conversation.started_at)} – ${write.time(conversation.last_at)}`),
    tile("Account", write.text(conversation.account), `asked by ${write.text(conversation.client_key)}`),
    tile("Tokens in", write.compact(conversation.input_tokens), `${write.compact(conversation.output_tokens)} out`),
    tile("Cached", write.percent(conversation.cached_percent), `${write.compact(conversation.cached_tokens)} tokens`),
    tile("Cost", write.money(conversation.cost), conversation.cost === null ? "no price is known" : `${write.money(conversation.cost_saved)} saved by the cache`),
    tile("Moves", write.number(conversation.moves), `${write.compact(conversation.lost_tokens ?? 0)} cached tokens lost${conversation.cost_lost === null ? "" : `, ${write.money(conversation.cost_lost)}`}`));
}

function picture(turns, accounts) {
  const steps = turns.slice(-120).map((turn, index) => ({
    turn, label: String(turns.length - Math.min(turns.length, 120) + index + 1),
    address: address({ view: "requests", id: turn.request_id }),
    total: turn.input_tokens ?? 0,
    share: turn.cached_tokens !== null && turn.input_tokens ? (100 * turn.cached_tokens) / turn.input_tokens : null,
    parts: [{ name: turn.account ?? "none", colour: `c${accounts.indexOf(turn.account) % 8}`, value: turn.input_tokens ?? 0 }],
  }));
  const describe = ({ turn, label, share }) => h("div", {}, h("strong", {}, `Turn ${label}`),
    h("table", {}, h("tbody", {}, [["Account", write.text(turn.account)], ["Affinity", write.words(turn.affinity)], ["Outcome", write.words(turn.outcome)],
      ["Tokens in", write.number(turn.input_tokens)], ["Cached", write.percent(share)]].map(([name, value]) => h("tr", {}, h("td", {}, name), h("td", { class: "number" }, value))))));
  const label = ({ turn, label, share }) => `Turn ${label}: account ${write.text(turn.account)}, ${write.number(turn.input_tokens)} tokens in, cached ${write.percent(share)}`;
  return chart(steps, { write: write.compact, describe, label, summary: "Tokens in of each turn. Arrow keys move between turns; Enter opens one." });
}

function turnColumns() {
  return [
    { label: "Time", value: (row) => h("a", { href: address({ view: "requests", id: row.request_id }), title: write.fullTime(row.started_at) }, write.time(row.started_at)) },
    { label: "Account", value: (row) => [row.cameFrom && h("span", { class: "hint" }, `${row.cameFrom} → `), write.text(row.account)] },
    { label: "Affinity", value: (row) => badge(row.affinity) },
    { label: "Because of", wide: true, value: (row) => write.words(row.affinity_by) },
    { label: "Outcome", value: (row) => [badge(row.outcome), row.error_code && h("span", { class: "hint" }, ` ${row.error_code}`)] },
    { label: "In", number: true, value: (row) => write.number(row.input_tokens) },
    { label: "Cached", number: true, value: cachedShare },
    { label: "Lost", number: true, title: "cached tokens that the move lost", value: (row) => (row.lost_tokens ? [write.number(row.lost_tokens), row.cost_lost ? h("span", { class: "hint" }, ` ${write.money(row.cost_lost)}`) : null] : row.cameFrom ? write.UNKNOWN : "") },
    { label: "Out", number: true, value: (row) => write.number(row.output_tokens) },
    { label: "First output", number: true, wide: true, value: (row) => write.duration(row.first_output_ms) },
    { label: "Time taken", number: true, value: (row) => write.duration(row.duration_ms) },
    { label: "Cost", number: true, wide: true, value: (row) => write.smallMoney(row.cost) },
  ];
}
