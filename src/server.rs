//! The side towards the clients: axum lives here and nowhere else.

mod admin;
mod body;
pub mod errors;
pub mod keys;
mod listen;
mod page;
mod responses;
mod router;

use std::sync::Arc;

use crate::exchange::Gateway;

pub use listen::{Bounds, Server};
pub use router::router;

use keys::Keys;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Front {
    /// The gateway behind them.
    pub gateway: Arc<Gateway>,
    /// Who may call.
    pub keys: Arc<Keys>,
    /// The largest request body, after decompression.
    pub request_body_bytes_max: usize,
    /// Whether answers say how they were routed.
    pub routing_headers: bool,
}
