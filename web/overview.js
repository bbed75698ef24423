// The overview: what happened in a range of time, beside the range before it.

import * as api from "./api.js";
import { chart, meter } from "./chart.js";
import { address, h, table } from "./dom.js";
import * as write from "./format.js";
import { requestColumns } from "./requests.js";
import { accountCards } from "./accounts.js";

const MINUTE = 60e3, HOUR = 3600e3, DAY = 24 * HOUR;
const RANGES = {
  hour: { label: "Hour", length: HOUR, step: 2 * MINUTE, before: "the hour before" },
  day: { label: "Day", length: DAY, step: HOUR, before: "the day before" },
  week: { label: "Week", length: 7 * DAY, step: 6 * HOUR, before: "the week before" },
  month: { label: "Month", length: 30 * DAY, step: DAY, before: "the month before" },
  own: { label: "Own", before: "the time before" },
};
const SPLITS = { account: "Account", model: "Model", client_key: "Client key", transport: "Transport" };
const MEASURES = {
  requests: { label: "Requests", value: (sums) => sums.requests, write: write.compact },
  input: { label: "Tokens in", value: (sums) => sums.input_tokens ?? 0, write: write.compact },
  output: { label: "Tokens out", value: (sums) => sums.output_tokens ?? 0, write: write.compact },
  cost: { label: "Cost", value: (sums) => sums.cost_micros ?? 0, write: write.micros },
  errors: { label: "Errors", value: (sums) => sums.errors, write: write.compact },
};
const COLOURS = 8;

const timeZone = () => Intl.DateTimeFormat().resolvedOptions().timeZone;
const aheadMinutes = () => -new Date().getTimezoneOffset();
/** What is asked of the sums. */
const asked = (chosen) => ({
  from: iso(chosen.from), to: iso(chosen.to), step: `${chosen.step / MINUTE}m`, by: chosen.by, time_zone: timeZone(), ahead_minutes: aheadMinutes(),
});

/** The end of the step of now. Days, and parts of them, are those of the viewer's clock. */
function stepEnd(step) {
  if (step <= HOUR) return Math.floor(Date.now() / step) * step + step;
  const end = new Date(), hours = step / HOUR;
  end.setHours(Math.floor(end.getHours() / hours) * hours + hours, 0, 0, 0);
  return +end;
}

/** So many days before, at the same time of the day. */
function daysBefore(at, days) {
  const begin = new Date(at);
  begin.setDate(begin.getDate() - days);
  return +begin;
}

/** What the address says, with what it leaves out. */
function choose(query) {
  const name = query.get("range") in RANGES ? query.get("range") : "day";
  const by = query.get("by") in SPLITS ? query.get("by") : "account";
  const measure = query.get("measure") in MEASURES ? query.get("measure") : "input";
  let { length, step } = RANGES[name];
  let to = stepEnd(step ?? HOUR);
  let from = length > DAY ? daysBefore(to, length / DAY) : to - (length ?? DAY);
  if (name === "own") {
    const end = new Date(query.get("to") ?? NaN), begin = new Date(query.get("from") ?? NaN);
    to = isNaN(end) ? stepEnd(HOUR) : +end;
    from = isNaN(begin) || +begin >= to ? to - DAY : +begin;
    length = to - from;
    step = length <= 2 * HOUR ? 2 * MINUTE : length <= 6 * HOUR ? 10 * MINUTE : length <= 3 * DAY ? HOUR : length <= 10 * DAY ? 6 * HOUR : DAY;
  }
  return { range: name, by, measure, from, to, step };
}

const iso = (ms) => new Date(ms).toISOString();

export async function show(main, query) {
  const chosen = choose(query);
  const body = h("div", { class: "overview", "aria-busy": "true" }, skeleton());
  main.replaceChildren(h("h1", { class: "unseen" }, "Overview"), controls(chosen, query), body);
  const refresh = async () => {
    Object.assign(chosen, choose(query));
    const [usage, latest] = await Promise.all([
      api.get("usage", asked(chosen)),
      api.get("requests", { count: 8 }),
    ]);
    write.setCurrency(usage.currency);
    body.removeAttribute("aria-busy");
    if (!usage.totals.requests && !latest.requests.length) return body.replaceChildren(nothingYet());
    const shownAsTable = body.querySelector("details")?.open;
    const focused = body.querySelector("a.bar:focus")?.dataset.index;
    body.replaceChildren(...content(usage, latest.requests, chosen));
    if (shownAsTable) body.querySelector("details").open = true;
    if (focused !== undefined) requestAnimationFrame(() => body.querySelector(`a.bar[data-index="${focused}"]`)?.focus());
  };
  await refresh();
  return { title: "Overview", refresh };
}

function skeleton() {
  return h("div", { class: "tiles" }, Array.from({ length: 6 }, () => h("div", { class: "tile waits" }, "\u00a0")));
}

function nothingYet() {
  const base = `${location.origin}/v1`;
  return h("section", { class: "empty card" },
    h("h2", {}, "Nothing has passed yet"),
    h("p", {}, "Point a client at this gateway, and what it does appears here by itself."),
    h("pre", {}, `export OPENAI_BASE_URL=${base}\nexport OPENAI_API_KEY=mk-…   # moorage key add laptop`),
    h("p", {}, h("a", { href: "?view=accounts" }, "Add an account or a client key")));
}

function controls(chosen, query) {
  const keep = Object.fromEntries(query);
  const link = (name, value, label) => h("a", {
    href: address({ ...keep, view: "overview", [name]: value, ...(name === "range" && value === "own" ? { from: iso(chosen.from), to: iso(chosen.to) } : {}), ...(name === "range" && value !== "own" ? { from: "", to: "" } : {}) }),
    "aria-current": chosen[name] === value ? "true" : null,
  }, label);
  const group = (label, name, entries) => h("div", { class: "segments", role: "group", "aria-label": label },
    Object.entries(entries).map(([value, entry]) => link(name, value, entry.label ?? entry)));
  return h("div", { class: "controls" },
    group("Range of time", "range", RANGES),
    group("Split by", "by", SPLITS),
    group("Height of the bars", "measure", MEASURES),
    chosen.range === "own" && ownRange(chosen, keep));
}

function ownRange(chosen, keep) {
  const local = (ms) => new Date(ms - new Date(ms).getTimezoneOffset() * MINUTE).toISOString().slice(0, 16);
  const field = (name, label, ms) => h("label", {}, label, h("input", { type: "datetime-local", name, value: local(ms), required: true }));
  return h("form", {
    class: "own",
    onsubmit: (event) => {
      event.preventDefault();
      const data = new FormData(event.target);
      const at = (name) => new Date(data.get(name)).toISOString();
      dispatchEvent(new CustomEvent("moorage-go", { detail: address({ ...keep, from: at("from"), to: at("to") }) }));
    },
  }, field("from", "From", chosen.from), field("to", "to", chosen.to), h("button", {}, "Show"));
}

function content(usage, latest, chosen) {
  return [
    tiles(usage, chosen),
    h("section", { class: "card", "aria-labelledby": "over-time" },
      h("header", {}, h("h2", { id: "over-time" }, `${MEASURES[chosen.measure].label} by ${SPLITS[chosen.by].toLowerCase()}`),
        h("span", { class: "hint" }, h("i", { class: "key-line" }), "share of cached tokens"),
        usage.rounded_to_hours && h("span", { class: "hint" }, "an hour that two bars share is in the first of them"),
        downloads("usage", asked(chosen))),
      overTime(usage, chosen), partsTable(usage, chosen), asTable(usage, chosen)),
    h("section", { "aria-labelledby": "accounts-now" },
      h("header", {}, h("h2", { id: "accounts-now" }, "Accounts now"), h("a", { class: "more", href: "?view=accounts" }, "Manage")),
      accountCards()),
    h("section", { "aria-labelledby": "latest" },
      h("header", {}, h("h2", { id: "latest" }, "Latest requests"), h("a", { class: "more", href: "?view=requests" }, "All requests")),
      table("Latest requests", requestColumns(), latest, { address: (row) => row.request_id, empty: "None yet." })),
  ];
}

export function downloads(name, parameters) {
  return h("span", { class: "downloads" },
    h("a", { href: api.path(name, { ...parameters, format: "csv" }), download: `moorage-${name.split("/")[0]}.csv` }, "CSV"),
    h("a", { href: api.path(name, { ...parameters, format: "json" }), download: `moorage-${name.split("/")[0]}.json` }, "JSON"));
}

function tiles(usage, chosen) {
  const { totals, before } = usage;
  const than = RANGES[chosen.range].before;
  const tile = (label, value, title, more, delta) => h("div", { class: "tile" },
    h("dt", {}, label), h("dd", { title }, value), h("dd", { class: "hint" }, more, delta));
  const change = (now, then, badIfMore, whole) => {
    if (!then || now === null) return null;
    const share = (100 * (now - then)) / then;
    const direction = share > 0.05 ? "▲" : share < -0.05 ? "▼" : "=";
    const text = `${direction} ${Math.abs(share) >= 1000 ? ">999" : Math.abs(share).toFixed(0)} %`;
    return h("span", { class: [whole ? "hint" : "delta", badIfMore && share > 10 && "worse"].filter(Boolean).join(" "), title: `from ${than}` }, text, h("span", { class: whole ? null : "unseen" }, ` from ${than}`));
  };
  const errorShare = totals.requests ? (100 * totals.errors) / totals.requests : null;
  const fresh = totals.input_tokens === null ? null : totals.input_tokens - (totals.cached_tokens ?? 0);
  return h("dl", { class: "tiles" },
    tile("Requests", write.compact(totals.requests), write.number(totals.requests), totals.without_usage ? `${write.number(totals.without_usage)} without figures ` : null, change(totals.requests, before.requests, false, !totals.without_usage)),
    tile("Tokens in", write.compact(totals.input_tokens), write.number(totals.input_tokens), `${write.compact(fresh)} fresh, ${write.compact(totals.cached_tokens)} cached `, change(totals.input_tokens, before.input_tokens)),
    tile("Tokens out", write.compact(totals.output_tokens), write.number(totals.output_tokens), null, change(totals.output_tokens, before.output_tokens, false, true)),
    tile("Cache hit rate", write.percent(totals.cached_percent), "cached tokens of the tokens in",
      meter(100, [{ value: totals.cached_percent ?? 0, className: "cached" }], "share of cached tokens"), h("span", { class: "delta" }, ` before ${write.percent(before.cached_percent)}`)),
    tile("Cost", write.micros(totals.cost_micros), totals.without_price ? `${write.number(totals.without_price)} requests have no price` : null,
      totals.cost_micros === null ? h("span", {}, totals.without_price ? "no price is set" : "") : `${write.micros(totals.saved_micros)} saved by the cache `, change(totals.cost_micros, before.cost_micros, true)),
    tile("Lost at moves", totals.lost_micros === null ? write.compact(totals.lost_tokens ?? 0) : write.micros(totals.lost_micros),
      "cached tokens that a move to another account lost", [h("a", { href: address({ view: "requests", affinity: "astray", from: iso(chosen.from), to: iso(chosen.to) }) }, `${write.number(totals.moves)} ${totals.moves === 1 ? "move" : "moves"}`), ` · ${write.compact(totals.lost_tokens ?? 0)} tokens`]),
    tile("Errors", write.compact(totals.errors), write.number(totals.errors),
      [h("a", { href: address({ view: "requests", outcome: "errors", from: iso(chosen.from), to: iso(chosen.to) }) }, write.percent(errorShare)), " of the requests "], change(totals.errors, before.errors, true)));
}

/** Parts in the order of their names, so that a colour stays with its part. The smallest share one with what has no name. */
function named(usage, chosen) {
  const measure = MEASURES[chosen.measure];
  const bySize = usage.parts.filter(({ part }) => part !== null).sort((a, b) => measure.value(b) - measure.value(a));
  const shown = bySize.slice(0, COLOURS - 1).map((part) => part.part).sort((a, b) => String(a).localeCompare(String(b)));
  const colours = new Map(shown.map((part, index) => [part, `c${index}`]));
  return { colour: (part) => colours.get(part) ?? `c${COLOURS - 1}`, order: (part) => (colours.has(part) ? shown.indexOf(part) : COLOURS) };
}

const partName = (part) => part ?? "none";

function overTime(usage, chosen) {
  const measure = MEASURES[chosen.measure];
  const names = named(usage, chosen);
  const byStep = new Map();
  for (const cell of usage.cells) {
    const at = Date.parse(cell.at);
    byStep.set(at, [...(byStep.get(at) ?? []), cell]);
  }
  const steps = [];
  const begins = usage.steps.map((step) => Date.parse(step));
  for (const [index, at] of begins.entries()) {
    const end = begins[index + 1] ?? Date.parse(usage.to);
    const cells = (byStep.get(at) ?? []).sort((a, b) => names.order(a.part) - names.order(b.part));
    const sum = (name) => cells.reduce((total, cell) => total + (cell[name] ?? 0), 0);
    const withFigure = sum("input_tokens_with_cache_figure");
    steps.push({
      at, cells,
      label: write.stepLabel(at, chosen.step), span: write.stepSpan(at, chosen.step),
      address: address({ view: "requests", from: iso(at), to: iso(end) }),
      total: cells.reduce((total, cell) => total + measure.value(cell), 0),
      requests: sum("requests"),
      share: withFigure ? (100 * sum("cached_tokens")) / withFigure : null,
      parts: cells.map((cell) => ({ name: partName(cell.part), colour: names.colour(cell.part), value: measure.value(cell) })),
    });
  }
  const spoken = (step) => `${step.span}: ${measure.write(step.total)} ${measure.label.toLowerCase()}, ${write.number(step.requests)} requests, cached ${write.percent(step.share)}`;
  const describe = (step) => h("div", {},
    h("strong", {}, step.span),
    h("table", {}, h("tbody", {},
      [...step.parts].reverse().filter((part) => part.value).map((part) => h("tr", {}, h("td", {}, h("i", { class: `swatch ${part.colour}` }), part.name), h("td", { class: "number" }, measure.write(part.value)))),
      h("tr", { class: "sum" }, h("td", {}, measure.label), h("td", { class: "number" }, measure.write(step.total))),
      h("tr", {}, h("td", {}, "Cached"), h("td", { class: "number" }, write.percent(step.share))),
      chosen.measure === "requests" ? null : h("tr", {}, h("td", {}, "Requests"), h("td", { class: "number" }, write.number(step.requests))))));
  return chart(steps, { write: measure.write, describe, label: spoken, summary: `${measure.label} over time, split by ${SPLITS[chosen.by].toLowerCase()}. Arrow keys move between bars; Enter shows the requests.` });
}

const filterOf = { account: "account", model: "model", client_key: "client_key", transport: "transport" };

function partsTable(usage, chosen) {
  const names = named(usage, chosen);
  const measure = MEASURES[chosen.measure];
  const whole = usage.parts.reduce((sum, part) => sum + measure.value(part), 0);
  const columns = [
    {
      label: SPLITS[chosen.by], value: (part) => [h("i", { class: `swatch ${names.colour(part.part)}` }),
        part.part === null ? "none" : h("a", { href: address({ view: "requests", [filterOf[chosen.by]]: part.part, from: iso(chosen.from), to: iso(chosen.to) }) }, part.part)],
    },
    { label: "Share", wide: true, value: (part) => meter(whole, [{ value: measure.value(part), className: names.colour(part.part) }], `${((100 * measure.value(part)) / (whole || 1)).toFixed(0)} percent`) },
    { label: "Requests", number: true, value: (part) => write.number(part.requests) },
    { label: "Errors", number: true, wide: true, value: (part) => write.number(part.errors) },
    { label: "Tokens in", number: true, value: (part) => write.compact(part.input_tokens) },
    { label: "Cached", number: true, value: (part) => write.percent(part.cached_percent) },
    { label: "Tokens out", number: true, wide: true, value: (part) => write.compact(part.output_tokens) },
    { label: "Cost", number: true, value: (part) => write.micros(part.cost_micros) },
    { label: "Saved", number: true, wide: true, value: (part) => write.micros(part.saved_micros) },
  ];
  const largestFirst = [...usage.parts].sort((a, b) => measure.value(b) - measure.value(a));
  return table(`By ${SPLITS[chosen.by].toLowerCase()}`, columns, largestFirst, { empty: "Nothing in this range." });
}

function asTable(usage, chosen) {
  const columns = [
    { label: "Time", value: (cell) => write.stepSpan(Date.parse(cell.at), chosen.step) },
    { label: SPLITS[chosen.by], value: (cell) => partName(cell.part) },
    { label: "Requests", number: true, value: (cell) => write.number(cell.requests) },
    { label: "Errors", number: true, value: (cell) => write.number(cell.errors) },
    { label: "Tokens in", number: true, value: (cell) => write.number(cell.input_tokens) },
    { label: "Cached", number: true, value: (cell) => write.number(cell.cached_tokens) },
    { label: "Tokens out", number: true, value: (cell) => write.number(cell.output_tokens) },
    { label: "Cost", number: true, value: (cell) => write.micros(cell.cost_micros) },
  ];
  const details = h("details", { class: "as-table" }, h("summary", {}, "The chart as a table"));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(table("The chart as a table", columns, usage.cells, { empty: "Nothing in this range." }));
  });
  return details;
}
