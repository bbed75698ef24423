//! What people ask of the history, on threads behind everybody else.
//!
//! A view of the page adds up thousands of rows, which takes a processor for some ten milliseconds.
//! On a machine with few of them a request would wait for that. So these threads say that they are
//! not in a hurry, and the system lets those go first who are.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::StoreError;
use crate::limits;

type Look = Box<dyn FnOnce(&Connection) + Send>;

/// The handle of the threads, which end when it is dropped.
#[derive(Debug)]
pub(super) struct Looks {
    waiting: SyncSender<Look>,
}

impl Looks {
    /// Each connection is for a thread of its own.
    pub(super) fn start(connections: Vec<Connection>) -> std::io::Result<Looks> {
        let (waiting, looks) = sync_channel::<Look>(limits::LOOKS_WAITING_MAX);
        let looks = Arc::new(Mutex::new(looks));
        for connection in connections {
            let looks = looks.clone();
            std::thread::Builder::new()
                .name("store-looks".to_owned())
                .spawn(move || {
                    step_back();
                    while let Some(look) = next(&looks) {
                        look(&connection);
                    }
                })?;
        }
        Ok(Looks { waiting })
    }

    /// Runs a query when its turn has come.
    pub(super) async fn look<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let look: Look = Box::new(move |connection| {
            // Who has hung up meanwhile is not worth the work.
            if !answer.is_closed() {
                answer.send(query(connection)).ok();
            }
        });
        match self.waiting.try_send(look) {
            Ok(()) => answered.await.map_err(|_| StoreError::Closed)?,
            Err(TrySendError::Full(_)) => Err(StoreError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(StoreError::Closed),
        }
    }
}

fn next(looks: &Mutex<Receiver<Look>>) -> Option<Look> {
    let looks = looks.lock().unwrap_or_else(PoisonError::into_inner);
    looks.recv().ok()
}

/// Lets others go first, where the system knows priorities of threads.
pub(super) fn step_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::setpriority_process(Some(rustix::thread::gettid()), limits::LOOKS_NICE)
    {
        tracing::debug!(%error, "the priority of a thread stays as it was");
    }
}
