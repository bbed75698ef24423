//! The side towards the clients: axum lives here and nowhere else.

mod admin;
mod body;
pub mod door;
pub mod errors;
mod form;
pub mod keys;
mod listen;
mod page;
mod router;
mod socket;
mod tls;
mod v1;

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;

use crate::error::Error;
use crate::exchange::Gateway;
use crate::exchange::client::Client;
use crate::store::seal::KeySource;

pub use listen::{Bounds, Server};
pub use router::{Routes, routes};
pub use tls::Tls;

use door::{Door, Peer};
use keys::Keys;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Front {
    /// The gateway behind them.
    pub gateway: Arc<Gateway>,
    /// Who may call.
    pub keys: Arc<Keys>,
    /// Who may come in through the page and the admin API.
    pub door: Arc<Door>,
    /// Where the key is that secrets are sealed with.
    pub seal_key: Arc<KeySource>,
    /// Whether clients speak TLS with this server itself.
    pub is_tls: bool,
    /// The largest request body, after decompression.
    pub request_body_bytes_max: usize,
    /// The largest upload, which passes while it comes.
    pub upload_bytes_max: u64,
    /// How often the client of a WebSocket is pinged.
    pub socket_ping: Duration,
    /// Whether answers say how they were routed.
    pub routing_headers: bool,
}

impl Front {
    /// Whose client key a request has.
    ///
    /// # Errors
    /// If it has no valid one.
    fn key_of(&self, headers: &HeaderMap, peer: Peer) -> Result<Arc<Client>, Error> {
        let known = self.keys.identify(headers);
        known.ok_or_else(|| self.door.strangers.refuse(peer))
    }
}
