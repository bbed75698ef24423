//! How to talk to an account: HTTP, and which headers go which way.

pub mod headers;
pub mod http;
