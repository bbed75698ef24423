//! How to talk to an account: HTTP and WebSocket, which headers go which way, and the logins of those
//! that have one.

pub mod auth_file;
mod client;
pub mod headers;
pub mod http;
pub mod login;
pub mod passing;
pub mod socket;
pub mod together;
