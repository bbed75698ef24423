// What runs now: looked at every two seconds while the page is seen.

import * as api from "./api.js";
import { number, until } from "./format.js";

const LOOK_MS = 2000;

let now = null;
let timer = null;
let listeners = { status: null, changed: null };
let dueAgain = false;

/** What a view shows, and changes: requests that have ended, and where the accounts stand. */
const news = (seen) => JSON.stringify([seen.ended, seen.accounts.map(({ account, status }) => [account, status])]);

export const live = {
  /** What was seen last. */
  get now() { return now; },

  async look() {
    const before = now;
    now = await api.get("live");
    return before !== null && news(before) !== news(now);
  },

  /** Shows it in an element, and calls back when there is something new to read. */
  follow(status, changed) {
    this.stop();
    listeners = { status, changed };
    timer = setInterval(tick, LOOK_MS);
    show();
  },

  stop() {
    clearInterval(timer);
    timer = null;
  },
};

async function tick() {
  if (document.hidden) return;
  try {
    const hasNews = await live.look();
    if (timer === null) return;
    show();
    // What ended at that moment may be written a moment later: once more.
    if (hasNews || dueAgain) await listeners.changed();
    dueAgain = hasNews;
  } catch (error) {
    if (error.status !== 401 && listeners.status) {
      listeners.status.textContent = error.message;
      listeners.status.className = "trouble";
    }
  }
}

function show() {
  if (!listeners.status || !now) return;
  const text = now.store ? "the database cannot be written" : now.open ? `${number(now.open)} running` : "idle";
  if (listeners.status.textContent !== text) listeners.status.textContent = text;
  listeners.status.className = now.store ? "trouble" : now.open ? "runs" : "idle";
}

// Countdowns go on between two looks.
setInterval(() => {
  for (const node of document.querySelectorAll("[data-until]")) node.textContent = until(node.dataset.until);
}, 1000);
