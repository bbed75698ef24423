//! The specification: the real binary, real sockets, a temporary database, simulated accounts.

mod harness;
mod raw;
mod socket;

mod accounts;
mod admin;
mod affinity;
mod attacks;
mod browser;
mod bytes_pass;
mod clients;
mod clients_websocket;
mod codex;
mod codex_login;
mod commands;
mod crash;
mod endpoints;
mod ends;
mod failures;
mod history;
mod hostile;
mod keys;
mod layers;
mod live;
mod page;
mod pool;
mod references;
mod secrets;
mod shutdown;
mod simulated;
mod simulated_codex;
mod store;
mod streaming;
mod websocket;
mod websocket_upstream;
