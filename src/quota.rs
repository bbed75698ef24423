//! What an upstream says about the quota of an account, wherever it says it: read once, into one
//! record.
//!
//! OpenAI tells requests and tokens in `x-ratelimit-*` headers; the backend of ChatGPT logins tells
//! the windows of the plan in `x-codex-*` headers and in `codex.rate_limits` events
//! (openai/codex, `codex-rs/codex-api/src/rate_limits.rs`).

use std::time::Duration;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::limits;

/// One window of a quota.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// `requests` or `tokens` for OpenAI; `primary` or `secondary` for ChatGPT plans, with the name
    /// of the limit in front where it is not the usual one.
    pub name: String,
    /// How much of it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_percent: Option<f64>,
    /// How much it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How much is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// How long it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_minutes: Option<u64>,
    /// When it begins anew, in milliseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at_ms: Option<i64>,
    /// When the upstream said so, in milliseconds since 1970 UTC.
    pub seen_at_ms: i64,
}

/// What is known of the quota of an account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quota {
    /// In the order in which they were first told.
    pub windows: Vec<Window>,
    /// Whether there are credits that pay for what is used over the plan's windows; `None` where that was
    /// not told. Not kept: it is told with the windows each time.
    #[serde(skip)]
    pub has_credits: Option<bool>,
}

impl Quota {
    /// Reads the headers of an answer. Empty if they tell nothing.
    pub fn of_headers(headers: &HeaderMap, now_ms: i64) -> Quota {
        let mut quota = Quota::default();
        for names in &OPENAI {
            quota.windows.extend(openai_window(headers, names, now_ms));
        }
        let families = headers.keys().filter_map(|name| {
            let family = name.as_str().strip_prefix("x-")?;
            family.strip_suffix("-primary-used-percent").or_else(|| {
                // A family may have the second window only.
                let family = family.strip_suffix("-secondary-used-percent")?;
                (!headers.contains_key(format!("x-{family}-primary-used-percent"))).then_some(family)
            })
        });
        for family in families.take(limits::QUOTA_WINDOWS_MAX) {
            for window in ["primary", "secondary"] {
                quota
                    .windows
                    .extend(codex_window(headers, family, window, now_ms));
            }
        }
        quota.has_credits = credits_told(headers);
        quota
    }

    /// Reads a `codex.rate_limits` event.
    pub fn of_event(data: &[u8], now_ms: i64) -> Quota {
        let Ok(event) = serde_json::from_slice::<RateLimitsEvent>(data) else {
            return Quota::default();
        };
        let limit = event.metered_limit_name.as_deref().unwrap_or("codex");
        let limits = event.rate_limits.unwrap_or_default();
        let windows = [("primary", limits.primary), ("secondary", limits.secondary)];
        let told = windows.into_iter().filter_map(|(name, window)| {
            let window = window?;
            Some(Window {
                name: window_name(&limit.replace('_', "-"), name),
                used_percent: Some(window.used_percent?),
                limit: None,
                remaining: None,
                window_minutes: window.window_minutes,
                resets_at_ms: window.reset_at.and_then(from_seconds),
                seen_at_ms: now_ms,
            })
        });
        Quota {
            windows: told.collect(),
            has_credits: event
                .credits
                .map(|credits| credits.has_credits || credits.unlimited),
        }
    }

    /// Reads the body of a refusal for want of a plan's quota: it does not say which window is used up,
    /// only when there is quota again.
    pub fn of_error(body: &[u8], now_ms: i64) -> Quota {
        let error = serde_json::from_slice::<LimitBody>(body)
            .ok()
            .and_then(|body| body.error);
        let error = error.filter(|error| error.kind.as_deref() == Some("usage_limit_reached"));
        let resets_at_ms = error.and_then(|error| {
            let after = error.resets_in_seconds.and_then(from_seconds);
            let after = after.map(|after| now_ms.saturating_add(after));
            error.resets_at.and_then(from_seconds).or(after)
        });
        let window = resets_at_ms.map(|resets_at_ms| Window {
            name: "plan".to_owned(),
            used_percent: Some(100.0),
            limit: None,
            remaining: None,
            window_minutes: None,
            resets_at_ms: Some(resets_at_ms),
            seen_at_ms: now_ms,
        });
        Quota {
            windows: window.into_iter().collect(),
            has_credits: None,
        }
    }

    /// Takes over what was told later; what was not told again stays. Tells whether anything that
    /// people see has changed.
    pub fn update(&mut self, later: Quota) -> bool {
        let mut changed = false;
        self.has_credits = later.has_credits.or(self.has_credits);
        let now_ms = later.windows.first().map_or(0, |window| window.seen_at_ms);
        // Known by its end only, it is over then.
        self.windows
            .retain(|window| window.name != "plan" || window.resets_at_ms.is_some_and(|at| now_ms < at));
        for window in later.windows {
            let has_room = self.windows.len() < limits::QUOTA_WINDOWS_MAX;
            match self.windows.iter_mut().find(|known| known.name == window.name) {
                Some(known) => {
                    changed |= known.used_percent != window.used_percent
                        || known.remaining != window.remaining
                        || known.limit != window.limit;
                    *known = window;
                }
                None if has_room => {
                    self.windows.push(window);
                    changed = true;
                }
                None => {}
            }
        }
        changed
    }

    /// How long until the plan's window that is used up begins anew; the longest of them, and
    /// nothing if none is used up, or it does not say when it ends. Windows of single features, and
    /// the fast ones of requests and tokens, are left to the upstream to refuse; and so is a plan whose
    /// credits pay for what comes after it.
    pub fn used_up(&self, now_ms: i64) -> Option<Duration> {
        if self.has_credits == Some(true) {
            return None;
        }
        let plan = self
            .windows
            .iter()
            .filter(|window| matches!(window.name.as_str(), "primary" | "secondary"));
        plan.filter(|window| window.used_percent.is_some_and(|percent| percent >= 100.0))
            .filter_map(|window| u64::try_from(window.resets_at_ms? - now_ms).ok())
            .filter(|wait_ms| *wait_ms > 0)
            .max()
            .map(Duration::from_millis)
    }

    /// As a column.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "[]".to_owned())
    }

    /// From a column; what is not understood counts as unknown.
    pub fn from_json(text: &str) -> Quota {
        serde_json::from_str(text).unwrap_or_default()
    }
}

fn window_name(limit: &str, window: &str) -> String {
    match limit {
        "codex" => window.to_owned(),
        other => format!("{other}-{window}"),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The headers of a window of OpenAI's: its name, what remains, what it holds, when it begins anew.
const OPENAI: [[&str; 4]; 2] = [
    [
        "requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-limit-requests",
        "x-ratelimit-reset-requests",
    ],
    [
        "tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-reset-tokens",
    ],
];

fn openai_window(headers: &HeaderMap, names: &[&str; 4], now_ms: i64) -> Option<Window> {
    let [name, remaining, limit, reset] = *names;
    let number = |header: &str| text(headers, header)?.parse::<u64>().ok();
    let remaining = number(remaining)?;
    let limit = number(limit);
    let reset = text(headers, reset)
        .and_then(|reset| reset.parse::<jiff::SignedDuration>().ok())
        .and_then(|reset| i64::try_from(reset.as_millis()).ok());
    let share = |limit: u64| 100.0 * (limit.saturating_sub(remaining)) as f64 / limit as f64;
    Some(Window {
        name: name.to_owned(),
        used_percent: limit.filter(|limit| *limit > 0).map(share),
        limit,
        remaining: Some(remaining),
        window_minutes: None,
        resets_at_ms: reset.map(|reset| now_ms.saturating_add(reset)),
        seen_at_ms: now_ms,
    })
}

fn codex_window(headers: &HeaderMap, family: &str, window: &str, now_ms: i64) -> Option<Window> {
    let value = |what: &str| text(headers, &format!("x-{family}-{window}-{what}"));
    // Without it, the others say nothing.
    let used_percent: f64 = value("used-percent")?.parse().ok()?;
    let at = value("reset-at").and_then(|at| at.parse::<f64>().ok());
    let after = value("reset-after-seconds").and_then(|after| after.parse::<f64>().ok());
    let resets_at_ms = at.and_then(from_seconds).or_else(|| {
        after
            .and_then(from_seconds)
            .map(|after| now_ms.saturating_add(after))
    });
    Some(Window {
        name: window_name(family, window),
        used_percent: used_percent.is_finite().then_some(used_percent),
        limit: None,
        remaining: None,
        window_minutes: value("window-minutes").and_then(|minutes| minutes.parse().ok()),
        resets_at_ms,
        seen_at_ms: now_ms,
    })
}

/// Whether there are credits beside the plan, as the backend of ChatGPT logins tells in headers
/// (openai/codex, `codex-rs/codex-api/src/rate_limits.rs`).
fn credits_told(headers: &HeaderMap) -> Option<bool> {
    let told = |name: &str| {
        let value = text(headers, name)?;
        Some(value.eq_ignore_ascii_case("true") || value == "1")
    };
    let has_credits = told("x-codex-credits-has-credits");
    let unlimited = told("x-codex-credits-unlimited");
    match (has_credits, unlimited) {
        (None, None) => None,
        (has, unlimited) => Some(has.unwrap_or(false) || unlimited.unwrap_or(false)),
    }
}

fn from_seconds(seconds: f64) -> Option<i64> {
    let ms = seconds * 1000.0;
    (ms.is_finite() && (0.0..9e15).contains(&ms)).then_some(ms as i64)
}

#[derive(Deserialize)]
struct LimitBody {
    error: Option<LimitError>,
}

#[derive(Deserialize)]
struct LimitError {
    #[serde(rename = "type")]
    kind: Option<String>,
    resets_at: Option<f64>,
    resets_in_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct RateLimitsEvent {
    metered_limit_name: Option<String>,
    rate_limits: Option<RateLimits>,
    credits: Option<Credits>,
}

#[derive(Deserialize)]
struct Credits {
    #[serde(default)]
    has_credits: bool,
    #[serde(default)]
    unlimited: bool,
}

#[derive(Deserialize, Default)]
struct RateLimits {
    primary: Option<PlanWindow>,
    secondary: Option<PlanWindow>,
}

#[derive(Deserialize)]
struct PlanWindow {
    used_percent: Option<f64>,
    window_minutes: Option<u64>,
    reset_at: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_795_400_000_000;
    const HOUR_MS: i64 = 3_600_000;

    fn headers(headers: &[(&'static str, &str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn named<'a>(quota: &'a Quota, name: &str) -> &'a Window {
        quota.windows.iter().find(|window| window.name == name).unwrap()
    }

    #[test]
    fn the_headers_of_openai_are_read() {
        let quota = Quota::of_headers(
            &headers(&[
                ("x-ratelimit-limit-requests", "10000"),
                ("x-ratelimit-remaining-requests", "2500"),
                ("x-ratelimit-reset-requests", "6m0s"),
                ("x-ratelimit-remaining-tokens", "7"),
            ]),
            NOW_MS,
        );
        let requests = named(&quota, "requests");
        assert_eq!(requests.used_percent, Some(75.0));
        assert_eq!(requests.resets_at_ms, Some(NOW_MS + 360_000));
        let tokens = named(&quota, "tokens");
        assert_eq!((tokens.remaining, tokens.used_percent), (Some(7), None));
    }

    #[test]
    fn headers_and_events_of_a_plan_tell_the_same_windows() {
        let by_headers = Quota::of_headers(
            &headers(&[
                ("x-codex-primary-used-percent", "41.0"),
                ("x-codex-primary-window-minutes", "300"),
                ("x-codex-primary-reset-at", "1795412345"),
                ("x-codex-secondary-used-percent", "12.5"),
                ("x-codex-secondary-window-minutes", "10080"),
                ("x-codex-secondary-reset-at", "1795900000"),
            ]),
            NOW_MS,
        );
        let event = br#"{"type":"codex.rate_limits","plan_type":"plus","rate_limits":{"allowed":true,"limit_reached":false,"primary":{"used_percent":41.0,"window_minutes":300,"reset_at":1795412345},"secondary":{"used_percent":12.5,"window_minutes":10080,"reset_at":1795900000}},"credits":{"has_credits":false,"unlimited":false,"balance":null},"metered_limit_name":"codex"}"#;
        assert_eq!(by_headers.windows, Quota::of_event(event, NOW_MS).windows);
        assert_eq!(by_headers.windows.len(), 2);
        assert_eq!(Quota::from_json(&by_headers.to_json()), by_headers);
    }

    #[test]
    fn other_limits_keep_their_name_and_what_is_unreadable_tells_nothing() {
        let quota = Quota::of_headers(
            &headers(&[
                ("x-codex-other-primary-used-percent", "100"),
                ("x-codex-other-primary-reset-after-seconds", "60"),
                ("x-codex-secondary-used-percent", "lots"),
                ("x-codex-primary-reset-at", "1795412345"),
            ]),
            NOW_MS,
        );
        assert_eq!(quota.windows.len(), 1);
        let other = named(&quota, "codex-other-primary");
        assert_eq!(other.resets_at_ms, Some(NOW_MS + 60_000));
        // A single feature does not keep the whole account away.
        assert_eq!(quota.used_up(NOW_MS), None);
        assert_eq!(Quota::of_event(b"{\"rate_limits\":7}", NOW_MS), Quota::default());
    }

    /// A plan with a window of five hours and one of a week, used in steps of an hour.
    struct Plan {
        used: [f64; 2],
        resets_at_ms: [i64; 2],
    }

    impl Plan {
        const MINUTES: [i64; 2] = [300, 10_080];

        fn headers(&self) -> HeaderMap {
            let value = |value: String| value.parse().unwrap();
            let mut headers = HeaderMap::new();
            for (index, window) in ["primary", "secondary"].into_iter().enumerate() {
                let mut put = |what: &str, text: String| {
                    let name = format!("x-codex-{window}-{what}");
                    headers.insert(name.parse::<http::HeaderName>().unwrap(), value(text));
                };
                put("used-percent", format!("{:.1}", self.used[index].min(100.0)));
                put("window-minutes", Plan::MINUTES[index].to_string());
                put("reset-at", (self.resets_at_ms[index] / 1000).to_string());
            }
            headers
        }

        fn pass_time(&mut self, now_ms: i64) {
            for index in 0..2 {
                while self.resets_at_ms[index] <= now_ms {
                    self.resets_at_ms[index] += Plan::MINUTES[index] * 60_000;
                    self.used[index] = 0.0;
                }
            }
        }
    }

    #[test]
    fn in_a_simulated_week_an_account_rests_exactly_while_a_window_of_its_plan_is_used_up() {
        use crate::account::{Signal, Standing, Switch, Usability};
        let mut plan = Plan {
            used: [0.0; 2],
            resets_at_ms: [NOW_MS + 5 * HOUR_MS, NOW_MS + 168 * HOUR_MS],
        };
        let (mut quota, mut standing) = (Quota::default(), Standing::active());
        let (mut served, mut rested) = (0, 0);
        for hour in 0..200 {
            let now_ms = NOW_MS + hour * HOUR_MS;
            plan.pass_time(now_ms);
            let is_used_up = plan.used.iter().any(|percent| *percent >= 100.0);
            let usability = standing.usability(Switch::On, None, now_ms);
            assert_eq!(
                usability == Usability::Usable,
                !is_used_up,
                "hour {hour}: {standing:?}"
            );
            if is_used_up {
                rested += 1;
                continue;
            }
            served += 1;
            // An hour of work: a third of the short window, a fortieth of the long one.
            plan.used = [plan.used[0] + 34.0, plan.used[1] + 2.5];
            quota.update(Quota::of_headers(&plan.headers(), now_ms));
            standing = standing.after(&Signal::Worked, now_ms);
            if let Some(wait) = quota.used_up(now_ms) {
                let signal = Signal::QuotaExhausted {
                    code: "usage_limit_reached".into(),
                    retry_after: Some(wait),
                };
                standing = standing.after(&signal, now_ms);
            }
        }
        // Three hours of each five, until the week's forty are used; then the rest of the week.
        assert!(served > 40 && rested > 100, "{served} {rested}");
    }
}
