//! What a simulated account received, and what became of it.

use std::collections::VecDeque;

use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

/// How an exchange ended, as the account saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It runs.
    Open,
    /// The answer was sent to its end.
    Whole,
    /// The other side went away before the end, or the account cut it as it was told.
    Cut,
}

/// One request.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// Counts up from 1.
    pub number: u64,
    /// Its method; `WEBSOCKET` for an event on a WebSocket.
    pub method: String,
    /// Its path, with the query.
    pub path: String,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
    /// The id of the answer.
    pub response_id: Option<String>,
    /// The status of the answer.
    pub status: u16,
    /// The figures of the answer.
    pub usage: Option<Value>,
    /// How it ended.
    pub ending: Ending,
}

impl JournalEntry {
    pub(super) fn of(method: &str, path: String, headers: &HeaderMap, body: &Bytes) -> JournalEntry {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        JournalEntry {
            number: 0,
            method: method.to_owned(),
            path,
            headers: headers
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body: body.clone(),
            response_id: None,
            status: 0,
            usage: None,
            ending: Ending::Open,
        }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "number": self.number,
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body": std::str::from_utf8(&self.body).ok(),
            "body_base64": STANDARD.encode(&self.body),
            "response_id": self.response_id,
            "status": self.status,
            "usage": self.usage,
            "ending": match self.ending {
                Ending::Open => "open",
                Ending::Whole => "whole",
                Ending::Cut => "cut",
            },
        })
    }
}

/// Entries that are kept; the oldest go.
const ENTRIES_MAX: usize = 20_000;

/// The journal of one account.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: VecDeque<JournalEntry>,
    last: u64,
}

impl Journal {
    pub(super) fn add(&mut self, mut entry: JournalEntry) -> u64 {
        self.last += 1;
        entry.number = self.last;
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.last
    }

    pub(super) fn change(&mut self, number: u64, change: impl FnOnce(&mut JournalEntry)) {
        // Numbers count up by one, so the position follows from the first.
        let first = self.entries.front().map_or(0, |entry| entry.number);
        let index = usize::try_from(number.wrapping_sub(first)).unwrap_or(usize::MAX);
        if let Some(entry) = self.entries.get_mut(index) {
            change(entry);
        }
    }

    pub(super) fn entries(&self) -> Vec<JournalEntry> {
        self.entries.iter().cloned().collect()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}
