//! Moorage keeps every conversation moored to the account that holds its history.
//!
//! # The way of one request
//!
//! [`server`] checks the key, reads the body whole and hands over to [`exchange::run`], where the
//! story is told on one screen: find what the request points with ([`request`], [`affinity`]), look
//! up who owns it ([`store`]), decide ([`affinity::plan`]), lease an account ([`pool`]), send
//! ([`upstream`]), and if that fails before the client has seen anything, perhaps again
//! ([`retry`]). The answer is read while it passes ([`response`]); what it tells is committed before
//! the bytes that tell it go out ([`exchange::answer`]).
//!
//! Over a WebSocket it is the same way for each event that asks: `server::socket` stands at the one
//! end, and at the other [`upstream::socket`], or HTTP. An event of either is read as an event of a
//! stream, so that nothing in between knows the difference; what one connection alone holds is told
//! in [`exchange::connection`]. Where an account knows a response on its WebSocket alone, clients over
//! HTTP go on over one that is kept for them ([`exchange::kept`]).
//!
//! # The rooms
//!
//! - The domain, plain data and plain functions, with no I/O and no clock: [`account`],
//!   [`affinity`], [`breaker`], [`price`], [`quota`], [`request`], [`response`], [`retry`],
//!   [`error`], [`limits`].
//! - The world: [`store`] (SQLite), [`upstream`] (HTTP towards the accounts), [`server`] (HTTP
//!   towards the clients), [`pool`] (the accounts now), [`clock`], [`metrics`].
//! - The story: [`exchange`].
//! - The frame: [`config`], [`app`] (where everything is put together), [`cli`].
//! - [`simulator`]: accounts that behave like the real ones, for the demo, for tests and benchmarks,
//!   and for people who try their agents.
//!
//! # What always holds
//!
//! 1. The owner of an id is committed before the first byte that carries the id leaves for the
//!    client; the final row before the terminal event leaves.
//! 2. A hard reference goes to the accounts of its state domain or nowhere. A soft one is a
//!    preference, and a detour does not move it.
//! 3. The bytes of a request are those of the client, but for members that it left out and that are
//!    documented. The bytes of an answer are those of the upstream.
//! 4. Every request leaves one row, however it ends: an open row that is dropped writes itself.
//! 5. No lock is held over an await, and no thread of the runtime waits for the disk.
//! 6. axum lives only in [`server`], reqwest only in [`upstream`], both also in the simulator;
//!    tungstenite only in [`upstream`], and in [`server`] where axum's errors are its; rusqlite and r2d2 live only in [`store`].
//! 7. Nothing is imported upwards: `main` → [`cli`] → [`app`] → [`server`] → [`exchange`] →
//!    [`store`], [`upstream`], [`pool`], which do not know each other → the domain.

pub mod account;
pub mod affinity;
pub mod app;
pub mod breaker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod exchange;
pub mod limits;
pub mod metrics;
pub mod pool;
pub mod price;
pub mod quota;
pub mod request;
pub mod response;
pub mod retry;
pub mod server;
pub mod simulator;
pub mod store;
pub mod upstream;
