//! A client key at work: what it may do, and what it has used of that.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};

use crate::clock::now_ms;
use crate::error::Error;
use crate::store::client_keys::{ClientKey, Spent};

/// A client key of a running gateway.
#[derive(Debug)]
pub struct Client {
    /// The key, as the database has it.
    pub key: ClientKey,
    /// How many requests run. Shared with the same key as it was before it was changed, as is:
    running: Arc<AtomicU32>,
    /// What it has spent.
    spent: Arc<Mutex<Periods>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Periods {
    day: Period,
    month: Period,
}

/// What was spent since a day or a month began.
#[derive(Debug, Default, Clone, Copy)]
struct Period {
    begins_at_ms: i64,
    spent: Spent,
}

impl Period {
    /// The period that runs; nothing is spent of one that has just begun.
    fn running(self, begins_at_ms: i64) -> Period {
        match self.begins_at_ms == begins_at_ms {
            true => self,
            false => Period {
                begins_at_ms,
                spent: Spent::default(),
            },
        }
    }
}

/// When the day and the month began in which a moment is (UTC), and when the next ones begin, all in
/// milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    /// The beginning of the day.
    pub day_ms: i64,
    /// The beginning of the next one.
    pub next_day_ms: i64,
    /// The beginning of the month.
    pub month_ms: i64,
    /// The beginning of the next one.
    pub next_month_ms: i64,
}

impl Calendar {
    /// The calendar at a moment.
    pub fn at(now_ms: i64) -> Calendar {
        let now = Timestamp::from_millisecond(now_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let day = now.to_zoned(TimeZone::UTC).start_of_day();
        let day = day.unwrap_or_else(|_| now.to_zoned(TimeZone::UTC));
        let month = day.first_of_month().unwrap_or_else(|_| day.clone());
        let ms = |at: &Zoned| at.timestamp().as_millisecond();
        let next = |at: &Zoned, span: jiff::Span| at.checked_add(span).map_or(i64::MAX, |at| ms(&at));
        Calendar {
            day_ms: ms(&day),
            next_day_ms: next(&day, 1.day()),
            month_ms: ms(&month),
            next_month_ms: next(&month, 1.month()),
        }
    }
}

impl Client {
    /// A key that begins to work. What it has spent today and this month is read from the database,
    /// if it has a budget; and from then on counted.
    pub fn new(key: ClientKey, calendar: Calendar, today: Spent, this_month: Spent) -> Client {
        let periods = Periods {
            day: Period {
                begins_at_ms: calendar.day_ms,
                spent: today,
            },
            month: Period {
                begins_at_ms: calendar.month_ms,
                spent: this_month,
            },
        };
        Client {
            key,
            running: Arc::default(),
            spent: Arc::new(Mutex::new(periods)),
        }
    }

    /// The same key after a person has changed it, as it was just read: what runs goes on, and what was
    /// spent stays so, if it was counted.
    pub fn changed(&self, read: Client) -> Client {
        Client {
            running: self.running.clone(),
            spent: match Client::has_budget(&self.key) {
                true => self.spent.clone(),
                false => read.spent,
            },
            key: read.key,
        }
    }

    /// Whether the key counts what it spends from its first request on.
    pub fn has_budget(key: &ClientKey) -> bool {
        let bounds = &key.bounds;
        let tokens = bounds.tokens_per_day.or(bounds.tokens_per_month);
        tokens.is_some() || bounds.cost_per_day.or(bounds.cost_per_month).is_some()
    }

    /// Lets one request in.
    ///
    /// # Errors
    /// If the key has expired, runs as many requests as it may, or has spent its budget.
    pub fn admit(self: &Arc<Self>) -> Result<Place, Error> {
        let now_ms = now_ms();
        if self.key.bounds.expires_at_ms.is_some_and(|at| at <= now_ms) {
            return Err(Error::KeyExpired);
        }
        self.check_budget(now_ms)?;
        let running = self.running.fetch_add(1, Ordering::Relaxed);
        let place = Place { client: self.clone() };
        match self.key.bounds.max_concurrent {
            Some(most) if running >= most => Err(Error::KeyBusy(most)),
            _ => Ok(place),
        }
    }

    fn check_budget(&self, now_ms: i64) -> Result<(), Error> {
        if !Client::has_budget(&self.key) {
            return Ok(());
        }
        let calendar = Calendar::at(now_ms);
        let spent = *self.spent();
        let day = spent.day.running(calendar.day_ms).spent;
        let month = spent.month.running(calendar.month_ms).spent;
        let bounds = &self.key.bounds;
        let tokens = |spent: Spent, most: Option<i64>| most.is_some_and(|most| spent.tokens >= most);
        let cost =
            |spent: Spent, most: Option<f64>| most.is_some_and(|most| spent.cost_micros as f64 >= most * 1e6);
        let of_month = tokens(month, bounds.tokens_per_month) || cost(month, bounds.cost_per_month);
        let of_day = tokens(day, bounds.tokens_per_day) || cost(day, bounds.cost_per_day);
        match (of_month, of_day) {
            (true, _) => Err(Error::BudgetSpent {
                period: "month",
                until_ms: calendar.next_month_ms,
                now_ms,
            }),
            (_, true) => Err(Error::BudgetSpent {
                period: "day",
                until_ms: calendar.next_day_ms,
                now_ms,
            }),
            _ => Ok(()),
        }
    }

    fn spent(&self) -> MutexGuard<'_, Periods> {
        // It is whole between any two calls.
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what a request has used.
    fn count(&self, used: Spent, now_ms: i64) {
        let calendar = Calendar::at(now_ms);
        let mut spent = self.spent();
        spent.day = spent.day.running(calendar.day_ms);
        spent.month = spent.month.running(calendar.month_ms);
        let Periods { day, month } = &mut *spent;
        for period in [&mut day.spent, &mut month.spent] {
            period.tokens = period.tokens.saturating_add(used.tokens);
            period.cost_micros = period.cost_micros.saturating_add(used.cost_micros);
        }
    }

    /// Whether the key may ask for a model.
    ///
    /// # Errors
    /// If it may not, or the request names none where only some are allowed.
    pub fn check_model(&self, model: Option<&str>) -> Result<(), Error> {
        let Some(allowed) = &self.key.bounds.models else {
            return Ok(());
        };
        let matches = |pattern: &String, model: &str| match pattern.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => model == pattern,
        };
        let model = model.unwrap_or_default();
        match allowed.iter().any(|pattern| matches(pattern, model)) {
            true => Ok(()),
            false => Err(Error::ModelNotAllowed(model.to_owned())),
        }
    }
}

/// The place of a running request. It is given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    client: Arc<Client>,
}

impl Place {
    /// Whose it is.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Counts what the request has used.
    pub(super) fn count(&self, used: Spent) {
        if Client::has_budget(&self.client.key) {
            self.client.count(used, now_ms());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.client.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::client_keys::KeyBounds;

    const DAY_MS: i64 = 24 * 3_600_000;

    fn key(bounds: KeyBounds) -> ClientKey {
        ClientKey {
            id: 1,
            name: "k".into(),
            scope: "s".into(),
            digest: [0; 32],
            visible_prefix: "…".into(),
            source: "command".into(),
            created_at_ms: 0,
            bounds,
        }
    }

    fn read(bounds: KeyBounds) -> Client {
        let calendar = Calendar::at(now_ms());
        Client::new(key(bounds), calendar, Spent::default(), Spent::default())
    }

    fn client(bounds: KeyBounds) -> Arc<Client> {
        Arc::new(read(bounds))
    }

    fn tokens(tokens: i64) -> Spent {
        Spent {
            tokens,
            cost_micros: 0,
        }
    }

    #[test]
    fn days_and_months_begin_and_end_as_the_calendar_says() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_millisecond();
        let calendar = Calendar::at(at("2026-12-31T23:59:59.999Z"));
        let expected = Calendar {
            day_ms: at("2026-12-31T00:00:00Z"),
            next_day_ms: at("2027-01-01T00:00:00Z"),
            month_ms: at("2026-12-01T00:00:00Z"),
            next_month_ms: at("2027-01-01T00:00:00Z"),
        };
        assert_eq!(calendar, expected);
        assert_eq!(
            Calendar::at(calendar.next_day_ms).month_ms,
            at("2027-01-01T00:00:00Z")
        );
    }

    #[test]
    fn a_budget_of_a_day_is_whole_again_the_next_day_and_that_of_a_month_is_not() {
        let client = client(KeyBounds {
            tokens_per_day: Some(100),
            tokens_per_month: Some(150),
            ..KeyBounds::default()
        });
        let first = Calendar::at(0).month_ms;
        client.count(tokens(99), first);
        assert!(client.check_budget(first).is_ok());
        client.count(tokens(1), first);
        let Err(Error::BudgetSpent { period, until_ms, .. }) = client.check_budget(first) else {
            panic!("the day's budget is spent");
        };
        assert_eq!((period, until_ms), ("day", first + DAY_MS));
        assert!(client.check_budget(first + DAY_MS).is_ok());
        client.count(tokens(50), first + DAY_MS);
        let spent = client.check_budget(first + 2 * DAY_MS);
        assert!(
            matches!(spent, Err(Error::BudgetSpent { period: "month", until_ms, .. })
            if until_ms == first + 31 * DAY_MS)
        );
        assert!(client.check_budget(first + 31 * DAY_MS).is_ok());
    }

    #[test]
    fn money_counts_as_tokens_do() {
        let client = client(KeyBounds {
            cost_per_month: Some(0.5),
            ..KeyBounds::default()
        });
        let cents = |cents: i64| Spent {
            tokens: 0,
            cost_micros: cents * 10_000,
        };
        client.count(cents(49), 0);
        assert!(client.check_budget(0).is_ok());
        client.count(cents(1), 0);
        assert!(client.check_budget(0).is_err());
    }

    #[test]
    fn places_come_back_and_a_changed_key_keeps_what_it_has_used() {
        let client = client(KeyBounds {
            max_concurrent: Some(1),
            ..KeyBounds::default()
        });
        let place = client.admit().unwrap();
        assert!(matches!(client.admit(), Err(Error::KeyBusy(1))));
        let changed = Arc::new(client.changed(read(client.key.bounds.clone())));
        assert!(changed.admit().is_err());
        drop(place);
        assert!(changed.admit().is_ok());
    }

    #[test]
    fn models_are_allowed_by_name_or_beginning() {
        let client = client(KeyBounds {
            models: Some(vec!["gpt-5.6".into(), "sim-*".into()]),
            ..KeyBounds::default()
        });
        for (model, allowed) in [
            (Some("gpt-5.6"), true),
            (Some("gpt-5.6-mini"), false),
            (Some("sim-large"), true),
            (Some("Sim-large"), false),
            (None, false),
        ] {
            assert_eq!(client.check_model(model).is_ok(), allowed, "{model:?}");
        }
    }
}
