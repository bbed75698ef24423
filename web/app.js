// The page: which view the address asks for, who is logged in, and what runs now.

import * as api from "./api.js";
import { h } from "./dom.js";
import * as accounts from "./accounts.js";
import * as conversations from "./conversations.js";
import * as overview from "./overview.js";
import * as requests from "./requests.js";
import { live } from "./live.js";

const VIEWS = { overview, requests, conversations, accounts };
const element = (id) => document.getElementById(id);
const main = element("main");
let current = { number: 0, view: null };

async function showView(focus) {
  const query = new URLSearchParams(location.search);
  const name = query.get("view") in VIEWS ? query.get("view") : "overview";
  const number = ++current.number;
  current.view = null;
  for (const link of element("views").children) {
    const isHere = new URL(link.href).searchParams.get("view") === name;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!query.get("id") && element("dialog").open) element("dialog").close();
  try {
    const view = await VIEWS[name].show(main, query);
    if (number !== current.number) return;
    current.view = view;
    document.title = `${view.title} · Moorage`;
  } catch (error) {
    if (number !== current.number || error.status === 401) return;
    main.replaceChildren(h("section", { class: "empty card", role: "alert" }, h("h2", {}, "This cannot be shown"), h("p", {}, error.message),
      h("button", { type: "button", onclick: () => showView() }, "Try again")));
  }
  if (focus && !element("dialog").open) main.focus({ preventScroll: true });
}

function go(address) {
  history.pushState(null, "", address);
  showView(true);
}

addEventListener("popstate", () => showView(true));
addEventListener("moorage-go", (event) => go(event.detail));
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  const href = link?.getAttribute("href");
  if (!href?.startsWith("?") || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(href);
});

// Light and dark: as the system says, unless a person has chosen.
const THEMES = { system: ["System", "◐"], light: ["Light", "☀"], dark: ["Dark", "☾"] };
function showTheme() {
  const theme = localStorage.getItem("moorage-theme") in THEMES ? localStorage.getItem("moorage-theme") : "system";
  document.documentElement.dataset.theme = theme;
  const [name, sign] = THEMES[theme];
  element("theme").replaceChildren(h("span", { class: "wide" }, name), h("span", { class: "narrow", "aria-hidden": "true" }, sign));
  element("theme").setAttribute("aria-label", `Colours: ${name}`);
  return theme;
}
element("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  localStorage.setItem("moorage-theme", names[(names.indexOf(showTheme()) + 1) % names.length]);
  showTheme();
});
showTheme();

// That this browser has logged in; the session itself is in a cookie that no script reads.
const LOGGED_IN = "moorage-logged-in";

function askForKey() {
  if (element("login")) return;
  localStorage.removeItem(LOGGED_IN);
  current.number++;
  current.view = null;
  live.stop();
  if (element("dialog").open) element("dialog").close();
  element("views").hidden = element("logout").hidden = true;
  element("live").textContent = "";
  document.title = "Log in · Moorage";
  const trouble = h("p", { role: "alert", class: "trouble" });
  const key = h("input", { id: "key", type: "password", autocomplete: "current-password", required: true });
  main.replaceChildren(h("form", {
    id: "login", class: "card",
    onsubmit: async (event) => {
      event.preventDefault();
      trouble.textContent = "";
      try {
        await api.login(key.value.trim());
        key.value = "";
        localStorage.setItem(LOGGED_IN, "yes");
        begin();
      } catch (error) {
        trouble.textContent = error.status === 401 ? "This is not the admin key." : error.message;
        key.select();
      }
    },
  },
  h("h1", {}, "Log in"), h("label", { for: "key" }, "Admin key"), key, h("button", {}, "Log in"), trouble,
  h("p", { class: "hint" }, "It was printed at the first start. ", h("code", {}, "moorage admin-key reset"), " makes a new one.")));
  key.focus();
}
addEventListener("moorage-login", askForKey);

element("logout").addEventListener("click", async () => {
  await api.logout().catch(() => {});
  askForKey();
});

/** Shows what is asked for, and follows what happens. */
async function begin() {
  if (!localStorage.getItem(LOGGED_IN)) return askForKey();
  try {
    await live.look();
  } catch (error) {
    if (error.status === 401) return askForKey();
  }
  main.replaceChildren();
  element("views").hidden = element("logout").hidden = false;
  live.follow(element("live"), () => current.view?.refresh?.());
  showView();
}

begin();
