// Stacked bars over time with a line for the share of cached tokens. Inline SVG, drawn at the width that
// there is. Bars are links: one of them is in the order of tabs, arrow keys go to the others.

import { h, svg } from "./dom.js";

const HEIGHT = 280;
const MARGIN = { top: 14, right: 44, bottom: 26, left: 56 };

/** The next larger round number of which a quarter is round, too. */
function niceTop(value) {
  if (value <= 0) return 4;
  const step = value / 4;
  const power = 10 ** Math.floor(Math.log10(step));
  const factor = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= step - power * 1e-9);
  return factor * power * 4;
}

/**
 * steps: [{ at, label, span, address, total, share (0..100 or null), parts: [{ name, colour, value }] }]
 * options: { write(value), describe(step) -> node for the tip, summary, label(step) -> spoken text }
 */
export function chart(steps, options) {
  const root = h("div", { class: "chart" });
  const tip = h("div", { class: "tip", hidden: true });
  const draw = (width) => {
    const keep = root.querySelector("a:focus")?.dataset.index;
    root.replaceChildren(picture(steps, options, width, tip, root), tip);
    if (keep !== undefined) root.querySelector(`a[data-index="${keep}"]`)?.focus();
  };
  let drawn = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width && width !== drawn) draw(drawn = width);
  }).observe(root);
  return root;
}

function picture(steps, options, width, tip, root) {
  const top = niceTop(Math.max(...steps.map((step) => step.total), 0));
  const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  const pitch = inner.width / steps.length;
  const gap = Math.max(pitch - 72, Math.min(6, Math.max(1, pitch * 0.22)));
  const x = (index) => MARGIN.left + index * pitch;
  const y = (value) => MARGIN.top + inner.height * (1 - value / top);
  const shareY = (share) => MARGIN.top + inner.height * (1 - share / 100);

  const grid = [0, 1, 2, 3, 4].map((line) => {
    const value = (top / 4) * line;
    return svg("g", { class: "grid" },
      svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
      svg("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, options.write(value)),
      svg("text", { x: width - MARGIN.right + 8, y: y(value) + 4, class: "share" }, `${line * 25} %`));
  });

  const every = Math.max(1, Math.ceil(58 / pitch));
  const hasGaps = steps.some((step) => !step.label);
  // Where only some steps have a label, as many of those as there is room for.
  const labelled = steps.map((step, index) => (step.label ? index : null)).filter((index) => index !== null);
  const skip = hasGaps ? Math.max(1, Math.ceil((58 * labelled.length) / inner.width)) : every;
  const shown = new Set(hasGaps ? labelled.filter((_, place) => place % skip === 0) : labelled.filter((index) => index % every === 0));
  const labels = steps.map((step, index) => (!shown.has(index) ? null
    : svg("text", { x: x(index) + pitch / 2, y: HEIGHT - 8, "text-anchor": "middle", class: "label" }, step.label)));

  const bars = steps.map((step, index) => {
    let below = 0;
    const pieces = step.parts.filter((part) => part.value > 0).map((part) => {
      const from = y(below);
      below += part.value;
      const to = y(below);
      return svg("rect", { x: x(index) + gap / 2, y: to, width: Math.max(1, pitch - gap), height: Math.max(0.5, from - to), class: `part ${part.colour}` });
    });
    const bar = svg("a", {
      href: step.address, "data-index": index, tabindex: index === steps.length - 1 ? 0 : -1, "aria-label": options.label(step), class: "bar",
    },
    svg("rect", { class: "hit", x: x(index), y: MARGIN.top, width: pitch, height: inner.height }),
    pieces);
    const show = () => {
      tip.replaceChildren(options.describe(step));
      tip.hidden = false;
      const middle = x(index) + pitch / 2;
      const half = tip.offsetWidth / 2;
      tip.style.left = `${Math.min(width - half, Math.max(half, middle))}px`;
    };
    bar.addEventListener("pointerenter", show);
    bar.addEventListener("focus", show);
    bar.addEventListener("blur", () => { tip.hidden = true; });
    return bar;
  });

  const points = steps.map((step, index) => (step.share === null ? null : [x(index) + pitch / 2, shareY(step.share)]));
  const line = points.map((point, index) => point && `${points[index - 1] ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`);
  const dots = points.map((point, index) => point && !(points[index - 1] && points[index + 1] && steps.length > 40)
    && svg("circle", { class: "share-dot", cx: point[0], cy: point[1], r: 2.2 }));

  const node = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "group", "aria-label": options.summary },
    grid, labels, bars, svg("path", { class: "share-line", d: line.filter(Boolean).join("") }), dots);
  node.addEventListener("pointerleave", () => { if (!root.querySelector("a:focus")) tip.hidden = true; });
  node.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const current = event.target.closest?.("a.bar");
    if (!move || !current) return;
    event.preventDefault();
    const index = Math.min(steps.length - 1, Math.max(0, Number(current.dataset.index) + move));
    const next = bars[index];
    for (const bar of bars) bar.setAttribute("tabindex", bar === next ? 0 : -1);
    next.focus();
  });
  return node;
}

/** A bar of parts of a whole, for a line of a table: { value, className } each, of `whole`. */
export function meter(whole, parts, label) {
  let from = 0;
  const pieces = parts.map(({ value, className }) => {
    const width = whole > 0 ? (100 * value) / whole : 0;
    const piece = svg("rect", { x: from, y: 0, width, height: 8, class: className });
    from += width;
    return piece;
  });
  return svg("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("rect", { class: "rest", x: 0, y: 0, width: 100, height: 8 }), pieces);
}
