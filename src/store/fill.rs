//! A made-up history, as it would be after months of use: for benchmarks, and to see what the page
//! does with much of it. The same count gives the same history.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _};
use uuid::{NoContext, Timestamp, Uuid};

use super::requests::{Affinity, Row, Transport};
use super::{Durability, StoreError, accounts, first_id_at, fold, lock, open_writable, prices};
use crate::account::AccountId;
use crate::affinity::{ConversationId, ReferenceKind};
use crate::price::{Price, Prices};
use crate::response::{Outcome, Usage};

/// How far the history goes back.
const DAYS: i64 = 90;
const DAY_MS: i64 = 24 * 3_600_000;

/// Rows of one transaction.
const CHUNK_ROWS: u64 = 5000;

/// Conversations that go on at the same time.
const CONVERSATIONS: usize = 60;

/// Who asks, for which models, and how.
const CLIENTS: [(&str, [&str; 2], Transport); 4] = [
    ("laptop", ["sim-large", "sim-small"], Transport::Sse),
    ("agent", ["sim-large", "sim-coder"], Transport::Sse),
    ("desktop", ["sim-large", "sim-small"], Transport::Sse),
    ("scripts", ["sim-small", "sim-small"], Transport::Json),
];

/// Writes so many requests, the last of them now. `progress` is told how many are written.
///
/// # Errors
/// If the database cannot be written, or a gateway serves it.
pub fn fill(path: &Path, count: u64, now_ms: i64, mut progress: impl FnMut(u64)) -> Result<(), StoreError> {
    let mut connection = open_writable(path, Durability::Process)?;
    let _lock = lock(path)?;
    connection.pragma_update(None, "cache_size", -256 * 1024)?;
    let mut world = World::new(&connection, count, now_ms)?;
    let mut written = 0;
    while written < count {
        let chunk = CHUNK_ROWS.min(count - written);
        let transaction = connection.transaction()?;
        for _ in 0..chunk {
            world.request().record(&transaction)?;
        }
        transaction.commit()?;
        while fold::batch(&mut connection, i64::MAX, CHUNK_ROWS as u32)? {}
        written += chunk;
        progress(written);
    }
    connection.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);")?;
    Ok(())
}

struct World {
    chance: Chance,
    prices: Prices,
    accounts: Vec<AccountId>,
    clients: Vec<i64>,
    conversations: Vec<Conversation>,
    at_ms: f64,
    left: u64,
    last_id: i64,
    now_ms: i64,
}

struct Conversation {
    id: ConversationId,
    client: usize,
    model: &'static str,
    account: usize,
    context: i64,
    warm: i64,
    response_id: Option<String>,
}

impl World {
    fn new(connection: &Connection, count: u64, now_ms: i64) -> Result<World, StoreError> {
        let simulated = Price {
            id: 0,
            model: "sim-*".to_owned(),
            service_tier: String::new(),
            valid_from_ms: 0,
            input_micros: 1_250_000,
            cached_micros: 125_000,
            cache_write_micros: 1_250_000,
            output_micros: 10_000_000,
        };
        let mut accounts: Vec<_> = accounts::list(connection)?
            .iter()
            .map(|stored| stored.id)
            .collect();
        let from_ms = now_ms - DAYS * DAY_MS;
        if accounts.is_empty() {
            for name in ["sim-a", "sim-b", "sim-c"] {
                accounts.push(AccountId(named(connection, "accounts", name, from_ms)?));
            }
        }
        let clients = CLIENTS
            .iter()
            .map(|(name, _, _)| named(connection, "client_keys", name, from_ms));
        let last: i64 =
            connection.query_row(include_str!("../../sql/queries/last_request_id.sql"), [], |row| {
                row.get(0)
            })?;
        Ok(World {
            chance: Chance(count),
            prices: prices::keep(connection, vec![simulated])?,
            accounts,
            clients: clients.collect::<Result<_, _>>()?,
            conversations: Vec::new(),
            at_ms: from_ms as f64,
            left: count,
            last_id: last,
            now_ms,
        })
    }

    /// The next request.
    fn request(&mut self) -> Row {
        // Busy days and quiet nights, without a long way from the mean.
        let hour = (self.at_ms / 3_600_000.0) % 24.0;
        let quiet = 1.0 + 0.8 * ((hour - 3.0) / 24.0 * std::f64::consts::TAU).cos();
        // The mean of 1 / (1 + 0.8 cos x) is 1 / 0.6.
        let quiet = quiet / 0.6;
        // What is left of the time for what is left of the requests.
        let pace_ms = (self.now_ms as f64 - self.at_ms) / self.left.max(1) as f64;
        self.left -= 1;
        self.at_ms += pace_ms * quiet * self.chance.share() * 2.0;
        let at_ms = (self.at_ms as i64).min(self.now_ms);
        self.last_id = (self.last_id + 1).max(first_id_at(at_ms));
        let mut row = Row::new(self.last_id, at_ms, "/responses");
        let index = self.conversation(at_ms);
        self.turn(&mut row, index);
        row
    }

    /// A conversation that has a turn now: one that goes on, or a new one.
    fn conversation(&mut self, at_ms: i64) -> usize {
        let is_new = self.conversations.len() < CONVERSATIONS || self.chance.one_in(18);
        if !is_new {
            return self.chance.below(self.conversations.len());
        }
        let client = self.chance.below(CLIENTS.len());
        let seconds = u64::try_from(at_ms / 1000).unwrap_or(0);
        let time = Timestamp::from_unix(NoContext, seconds, (at_ms % 1000) as u32 * 1_000_000);
        let conversation = Conversation {
            id: ConversationId(Uuid::new_v7(time)),
            client,
            model: CLIENTS[client].1[self.chance.below(2)],
            account: self.chance.below(self.accounts.len()),
            context: 400 + self.chance.below(6000) as i64,
            warm: 0,
            response_id: None,
        };
        if self.conversations.len() < CONVERSATIONS {
            self.conversations.push(conversation);
            return self.conversations.len() - 1;
        }
        let place = self.chance.below(CONVERSATIONS);
        self.conversations[place] = conversation;
        place
    }

    fn turn(&mut self, row: &mut Row, index: usize) {
        let is_moved = self.chance.one_in(90);
        let fails = self.chance.one_in(45);
        let output = 30 + self.chance.below(900) as i64;
        let thinks_ms = 300 + self.chance.below(2500) as i64;
        let number = self.chance.next();
        let elsewhere = self.chance.below(self.accounts.len());
        let talk = &mut self.conversations[index];
        let follows = talk.response_id.is_some();
        row.client_key_id = Some(self.clients[talk.client]);
        row.transport = CLIENTS[talk.client].2;
        row.conversation = Some(talk.id);
        row.previous_response_id = talk.response_id.clone();
        row.model_asked = Some(talk.model.to_owned());
        row.affinity_by = follows.then_some(ReferenceKind::Response);
        row.affinity = if follows { Affinity::Hit } else { Affinity::None };
        if is_moved && follows && elsewhere != talk.account {
            talk.account = elsewhere;
            talk.warm = 0;
            row.affinity = Affinity::Moved;
            row.affinity_by = Some(ReferenceKind::CacheKey);
        }
        row.account = Some(self.accounts[talk.account]);
        row.attempts = 1;
        row.request_bytes = Some(talk.context.unsigned_abs() * 4);
        row.input_items = Some(1);
        row.duration_ms = Some(thinks_ms + output * 12);
        row.ended_at_ms = Some(row.started_at_ms + thinks_ms + output * 12);
        row.overhead_us = Some(400 + (number % 600) as i64);
        if fails {
            let (outcome, status, code) = FAILURES[number as usize % FAILURES.len()];
            row.outcome = outcome;
            row.status = status;
            row.error_code = code.map(str::to_owned);
            return;
        }
        row.first_byte_ms = Some(thinks_ms);
        row.first_output_ms = Some(thinks_ms + 40);
        row.status = Some(200);
        row.outcome = Outcome::Completed;
        row.model_served = row.model_asked.clone();
        row.response_bytes = Some(output.unsigned_abs() * 5);
        let response_id = format!("resp_{number:016x}{:016x}", row.id);
        row.response_id = Some(response_id.clone());
        let usage = Usage {
            input: Some(talk.context),
            cached: Some(talk.warm),
            cache_write: Some(0),
            output: Some(output),
            reasoning: Some(output / 3),
        };
        row.usage = Some(usage);
        row.cost = self
            .prices
            .find(talk.model, None, row.started_at_ms)
            .and_then(|price| price.cost(&usage));
        talk.response_id = Some(response_id);
        // The cache keeps whole blocks.
        talk.warm = talk.context / 128 * 128;
        talk.context = (talk.context + output + 40 + (number % 300) as i64).min(180_000);
    }
}

/// How requests fail, with the status and the code that the client gets.
const FAILURES: [(Outcome, Option<u16>, Option<&str>); 6] = [
    (Outcome::ClientGone, Some(200), None),
    (Outcome::Refused, Some(429), Some("account_cooling_down")),
    (Outcome::Rejected, Some(400), Some("context_length_exceeded")),
    (Outcome::Failed, Some(200), Some("server_error")),
    (Outcome::UpstreamCut, Some(200), None),
    (Outcome::Timeout, Some(504), Some("upstream_timeout")),
];

/// The id of an account or client key, made if there is none of that name.
fn named(connection: &Connection, table: &str, name: &str, at_ms: i64) -> Result<i64, StoreError> {
    let find = format!("SELECT id FROM {table} WHERE name = ?1");
    if let Some(id) = connection.query_row(&find, [name], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    let insert = match table {
        "accounts" => {
            "INSERT INTO accounts (name, kind, base_url, state_domain, source, created_at_ms)
             VALUES (?1, 'openai', 'http://127.0.0.1:9/v1', 'account ' || ?1, 'file', ?2)"
        }
        _ => {
            "INSERT INTO client_keys (name, scope, digest, visible_prefix, source, created_at_ms)
             VALUES (?1, 'key ' || ?1, randomblob(32), '', 'file', ?2)"
        }
    };
    connection.execute(insert, (name, at_ms))?;
    Ok(connection.last_insert_rowid())
}

/// Numbers that look random and are the same every time (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
