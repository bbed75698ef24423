//! `/metrics`, for Prometheus.
//!
//! Counters of requests, tokens and cost are the sums of all time in the database, so they go on
//! after a restart, also after a crash. The others begin anew.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::store::history::totals::{Total, totals};

use super::super::{Front, errors};

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Amounts = Family<Labels, Counter<f64, AtomicU64>>;
type Gauges = Family<Labels, Gauge>;

/// The kinds of tokens, in the order of [`Total::tokens`].
const TOKEN_KINDS: [&str; 5] = ["input", "cached", "cache_write", "output", "reasoning"];

const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(State(front): State<Front>) -> Response {
    let totals = match front.gateway.store.look(totals).await {
        Ok(totals) => totals,
        Err(error) => return errors::unreadable(&error),
    };
    let mut registry = Registry::with_prefix("moorage");
    of_all_time(&mut registry, &totals, &front.gateway.settings.currency);
    of_now(&mut registry, &front);
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        text.clear();
        writeln!(text, "# EOF").ok();
    }
    ([(CONTENT_TYPE, MEDIA_TYPE), (CACHE_CONTROL, "no-store")], text).into_response()
}

fn of_all_time(registry: &mut Registry, totals: &[Total], currency: &str) {
    let (requests, attempts, affinity, tokens, lost) = (
        Counters::default(),
        Counters::default(),
        Counters::default(),
        Counters::default(),
        Counters::default(),
    );
    let (cost, saved) = (Amounts::default(), Amounts::default());
    for total in totals {
        let label = |name: &'static str, value: &Option<String>| (name, value.clone().unwrap_or_default());
        let account = label("account", &total.account);
        let model = label("model", &total.model);
        let labels = vec![
            account.clone(),
            label("client_key", &total.client_key),
            ("outcome", total.outcome.clone()),
        ];
        requests.get_or_create(&labels).inc_by(total.requests);
        attempts
            .get_or_create(&vec![account.clone()])
            .inc_by(total.attempts);
        let labels = vec![("affinity", total.affinity.clone())];
        affinity.get_or_create(&labels).inc_by(total.requests);
        for (kind, count) in TOKEN_KINDS.into_iter().zip(total.tokens) {
            if let Some(count) = count {
                let labels = vec![account.clone(), model.clone(), ("kind", kind.to_owned())];
                tokens.get_or_create(&labels).inc_by(count);
            }
        }
        lost.get_or_create(&vec![account.clone()])
            .inc_by(total.lost_tokens.unwrap_or(0));
        let labels = vec![account, model, ("currency", currency.to_owned())];
        for (amounts, micros) in [(&cost, total.cost_micros), (&saved, total.saved_micros)] {
            if let Some(micros) = micros {
                amounts.get_or_create(&labels).inc_by(micros as f64 / 1e6);
            }
        }
    }
    registry.register("requests", "Requests that have ended", requests);
    registry.register("attempts", "Requests sent to accounts", attempts);
    registry.register(
        "affinity",
        "Requests by what became of their references",
        affinity,
    );
    registry.register(
        "tokens",
        "Tokens as the upstreams told them; input includes cached, output includes reasoning",
        tokens,
    );
    registry.register(
        "cache_lost_tokens",
        "Tokens that a move to another account cost its cache",
        lost,
    );
    registry.register("cost", "What the requests cost, where a price is known", cost);
    registry.register(
        "cost_saved",
        "What cached tokens would have cost more without the cache",
        saved,
    );
}

fn of_now(registry: &mut Registry, front: &Front) {
    let gateway = &front.gateway;
    let metrics = &gateway.metrics;
    let (in_flight, cooling_down) = (Gauges::default(), Gauges::default());
    for account in gateway.pool.now(crate::clock::now_ms()) {
        let labels = vec![("account", account.name)];
        in_flight.get_or_create(&labels).set(i64::from(account.in_flight));
        cooling_down
            .get_or_create(&labels)
            .set(i64::from(account.usable_at_ms.is_some()));
    }
    let gauge = |value: i64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        gauge
    };
    let cooldowns = Counter::<u64>::default();
    cooldowns.inc_by(metrics.limits_met());
    let writable = i64::from(gateway.store.trouble().is_none());
    registry.register("account_in_flight", "Attempts that run on an account", in_flight);
    registry.register(
        "account_cooling_down",
        "1 while an account waits for the end of a limit",
        cooling_down,
    );
    registry.register(
        "cooldowns",
        "Limits that accounts have met since the start",
        cooldowns,
    );
    let wrong_client_keys = Counter::<u64>::default();
    wrong_client_keys.inc_by(front.door.strangers.count());
    registry.register(
        "wrong_client_keys",
        "Requests without a valid client key since the start",
        wrong_client_keys,
    );
    registry.register("open_exchanges", "Requests that run", gauge(metrics.open_count()));
    registry.register(
        "store_writable",
        "0 while the database cannot be written",
        gauge(writable),
    );
    let seconds = Unit::Seconds;
    registry.register_with_unit(
        "overhead",
        "Time that a request spent in Moorage itself, the store included",
        seconds.clone(),
        metrics.overhead.clone(),
    );
    registry.register_with_unit(
        "first_byte",
        "Time from a request to its first byte",
        seconds.clone(),
        metrics.first_byte.clone(),
    );
    registry.register_with_unit(
        "store_commit",
        "Time of a commit",
        seconds,
        metrics.commit.clone(),
    );
    let build = Gauges::default();
    build
        .get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())])
        .set(1);
    registry.register("build", "What this is", build);
}
