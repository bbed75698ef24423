//! How to talk to an account: HTTP and WebSocket, and which headers go which way.

mod client;
pub mod headers;
pub mod http;
pub mod passing;
pub mod socket;
