//! Moorage.
pub mod account;
pub mod affinity;
pub mod error;
pub mod limits;
pub mod request;
pub mod response;
pub mod retry;
pub mod store;
