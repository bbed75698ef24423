// Building the document: text is always text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...present(children));
  return node;
}

/** Those of some children that are to be shown: what is left out under a condition is none. */
const present = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
export const svg = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

/** An address of this page with these parameters; empty ones are left out. */
export function address(parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  return `?${query}`;
}

/**
 * A table. Columns: { label, value(row) -> node or text, number?: aligned to the right, title?, wide?: left
 * out on a phone }. A row with an address is opened by a click anywhere on it.
 */
export function table(caption, columns, rows, options = {}) {
  const side = (column) => [column.number && "number", column.wide && "wide", column.kind].filter(Boolean).join(" ") || null;
  const head = h("tr", {}, columns.map((column) => h("th", { scope: "col", class: side(column), title: column.title }, column.label)));
  const line = (row) => {
    const node = h("tr", { "data-key": options.key?.(row), class: options.rowClass?.(row) },
      columns.map((column) => h("td", { class: side(column) }, column.value(row))));
    const open = options.address?.(row);
    if (open) {
      node.classList.add("opens");
      node.addEventListener("click", (event) => {
        if (event.target.closest("a, button") || String(getSelection())) return;
        node.querySelector("a")?.click();
      });
    }
    return node;
  };
  const body = rows.length
    ? rows.map(line)
    : h("tr", {}, h("td", { colspan: columns.length, class: "empty" }, options.empty ?? "Nothing here."));
  const id = `table-${caption.toLowerCase().replace(/\W+/g, "-")}`;
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { id }, h("caption", { class: "unseen" }, caption), h("thead", {}, head), h("tbody", {}, body)));
}

/** A word with a colour that says whether it is well. The word says it, too. */
const KINDS = {
  completed: "good", answered: "good", hit: "good", active: "good", on: "good",
  open: "live", incomplete: "fair", cancelled: "fair", queued: "fair", moved: "fair", cooling_down: "fair",
  draining: "fair", client_gone: "fair", shutdown: "fair", none: "plain", unknown: "fair",
};
export function badge(word, kind) {
  if (word === null || word === undefined) return "–";
  return h("span", { class: `badge ${kind ?? KINDS[word] ?? "bad"}` }, String(word).replaceAll("_", " "));
}

/** Shows a dialog; resolves when it is closed. */
export function dialog(title, ...content) {
  const node = document.getElementById("dialog");
  node.replaceChildren(
    h("header", {}, h("h2", { id: "dialog-title" }, title),
      h("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: () => node.close() }, "✕")),
    ...present(content));
  if (!node.open) node.showModal();
  return new Promise((resolve) => node.addEventListener("close", resolve, { once: true }));
}
