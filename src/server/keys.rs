//! Who may call: client keys, and the admin key.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use subtle::ConstantTimeEq as _;

use crate::exchange::client::Client;
use crate::store::client_keys::digest;

/// The keys of a running gateway, as digests. They are replaced while it runs.
#[derive(Debug, Default)]
pub struct Keys {
    ring: RwLock<Arc<Ring>>,
}

#[derive(Debug, Default)]
struct Ring {
    /// By the first bytes of the digest, which tell nothing of the key; the whole digest is then
    /// compared in constant time.
    clients: HashMap<[u8; 8], Arc<Client>>,
    admin: Option<[u8; 32]>,
    one_scope: bool,
}

impl Keys {
    /// Takes these keys instead of those before. One that was there before goes on where it was:
    /// what it runs and has spent counts.
    pub fn replace(&self, clients: Vec<Client>, admin: Option<[u8; 32]>) {
        let before = self.ring();
        let one_scope = clients
            .windows(2)
            .all(|pair| pair[0].key.scope == pair[1].key.scope);
        let goes_on = |client: Client| {
            let same = before
                .clients
                .values()
                .find(|before| before.key.id == client.key.id);
            match same {
                Some(before) => before.changed(client),
                None => client,
            }
        };
        let by_digest = clients.into_iter().map(goes_on);
        let by_digest = by_digest.map(|client| (short(&client.key.digest), Arc::new(client)));
        let ring = Arc::new(Ring {
            clients: by_digest.collect(),
            admin,
            one_scope,
        });
        // What is behind the lock is whole, whatever panicked.
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
    }

    fn ring(&self) -> Arc<Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether all client keys share one scope.
    pub fn one_scope(&self) -> bool {
        self.ring().one_scope
    }

    /// Whether no client key is there, so that nobody can call.
    pub fn is_empty(&self) -> bool {
        self.ring().clients.is_empty()
    }

    /// The client key of this name; without a name, the only one.
    pub fn named(&self, name: Option<&str>) -> Option<Arc<Client>> {
        let ring = self.ring();
        let mut clients = ring.clients.values();
        match name {
            Some(name) => clients.find(|client| client.key.name == name).cloned(),
            None if clients.len() == 1 => clients.next().cloned(),
            None => None,
        }
    }

    /// The client key of a request, if it has a valid one.
    pub fn identify(&self, headers: &HeaderMap) -> Option<Arc<Client>> {
        let digest = digest(presented(headers)?);
        let ring = self.ring();
        let client = ring.clients.get(&short(&digest))?;
        bool::from(client.key.digest.ct_eq(&digest)).then(|| client.clone())
    }

    /// Whether this is the admin key.
    pub fn is_admin(&self, presented: &str) -> bool {
        let admin = self.ring().admin;
        admin.is_some_and(|admin| bool::from(digest(presented).ct_eq(&admin)))
    }
}

fn short(digest: &[u8; 32]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    [a, b, c, d, e, f, g, h]
}

/// The key in `Authorization: Bearer`, where OpenAI's clients put it, or in `x-api-key`.
pub(super) fn presented(headers: &HeaderMap) -> Option<&str> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return headers.get("x-api-key")?.to_str().ok();
    };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
