//! Who may call: client keys, and the admin key.

use std::collections::HashMap;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use subtle::ConstantTimeEq as _;

use crate::store::client_keys::{ClientKey, digest};

/// The keys of a running gateway, as digests.
#[derive(Debug, Default)]
pub struct Keys {
    /// By the first bytes of the digest, which tell nothing of the key; the whole digest is then
    /// compared in constant time.
    clients: HashMap<[u8; 8], ClientKey>,
    admin: Option<[u8; 32]>,
}

impl Keys {
    /// Takes the keys from the database.
    pub fn new(clients: Vec<ClientKey>, admin: Option<[u8; 32]>) -> Keys {
        let by_digest = clients.into_iter().map(|key| (short(&key.digest), key));
        Keys {
            clients: by_digest.collect(),
            admin,
        }
    }

    /// Whether no client key is there, so that nobody can call.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The client key of a request, if it has a valid one.
    pub fn identify(&self, headers: &HeaderMap) -> Option<&ClientKey> {
        let digest = digest(presented(headers)?);
        let key = self.clients.get(&short(&digest))?;
        bool::from(key.digest.ct_eq(&digest)).then_some(key)
    }

    /// Whether a request carries the admin key.
    pub fn is_admin(&self, headers: &HeaderMap) -> bool {
        match (presented(headers), &self.admin) {
            (Some(key), Some(admin)) => bool::from(digest(key).ct_eq(admin)),
            _ => false,
        }
    }
}

fn short(digest: &[u8; 32]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    [a, b, c, d, e, f, g, h]
}

/// The key in `Authorization: Bearer`, where OpenAI's clients put it, or in `x-api-key`.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return headers.get("x-api-key")?.to_str().ok();
    };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
