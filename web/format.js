// How figures and times are written. What is unknown is a dash, never a zero.

export const UNKNOWN = "–";
const known = (write) => (value) => (value === null || value === undefined ? UNKNOWN : write(value));

const whole = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit", second: "2-digit" });
const minute = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export const number = known((value) => whole.format(value));
export const compact = known((value) => (Math.abs(value) < 10000 ? whole.format(value) : short.format(value)));
export const percent = known((value) => `${value.toFixed(1)}\u00a0%`);
export const text = known(String);

let currency = "USD";
export const setCurrency = (code) => { currency = code || currency; };
export const currencyCode = () => currency;

/** An amount in the currency; small ones with the digits that they need. */
export const money = known((amount) => written(amount, amount === 0 || Math.abs(amount) >= 0.095 ? 2 : Math.abs(amount) >= 0.00095 ? 4 : 6));
/** Of one request: all with the same digits, so that they can be compared. */
export const smallMoney = known((amount) => written(amount, 4));
/** Of a million tokens, in millionths: with all the digits that somebody wrote down. */
export const price = known((micros) => written(micros / 1e6, 2, 6));
function written(amount, digits, most = digits) {
  try {
    return new Intl.NumberFormat(undefined, {
      style: "currency", currency, minimumFractionDigits: digits, maximumFractionDigits: most,
    }).format(amount);
  } catch {
    return `${amount.toFixed(digits)} ${currency}`;
  }
}
export const micros = known((amount) => money(amount / 1e6));

export const duration = known((ms) => {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3600000) return `${Math.floor(ms / 60000)} min ${Math.round(ms / 1000) % 60} s`;
  return `${Math.floor(ms / 3600000)} h ${Math.round(ms / 60000) % 60} min`;
});

/** The time, with the day if it is not today. */
export const time = known((iso) => {
  const at = new Date(iso);
  const today = at.toDateString() === new Date().toDateString();
  return today ? clock.format(at) : `${date.format(at)} ${minute.format(at)}`;
});
export const fullTime = known((iso) => full.format(new Date(iso)));

/** A text in which moments are written as the viewer's times. */
export const withTimes = (text) => text.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, time);

/** Where a step begins, as short as its length allows. */
export function stepLabel(at, stepMs) {
  if (stepMs >= 24 * 3600e3) return date.format(at);
  // Where steps are parts of days, the days are what is read.
  if (stepMs > 3600e3) return new Date(at).getHours() === 0 ? date.format(at) : "";
  return minute.format(at);
}

/** A step from its begin to its end. */
export function stepSpan(at, stepMs) {
  const begin = new Date(at);
  if (stepMs >= 24 * 3600e3) return day.format(begin);
  return `${day.format(begin)}, ${minute.format(begin)}–${minute.format(new Date(begin.getTime() + stepMs))}`;
}

/** How long until then, counting down. */
export function until(iso) {
  const seconds = Math.max(0, Math.ceil((new Date(iso) - Date.now()) / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

/** `prompt_cache_key` as `prompt cache key`. */
export const words = known((name) => String(name).replaceAll("_", " "));
