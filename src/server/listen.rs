//! Connections from clients: accepted, bounded in number and time, and ended in good order.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Tls;
use super::door::Peer;
use super::router::answer;

/// The bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Open connections.
    pub connections: usize,
    /// For the head of a request.
    pub request_head: Duration,
    /// For running exchanges after the signal to stop.
    pub shutdown_grace: Duration,
}

/// A server that listens but does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    bounds: Bounds,
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the address is taken or not ours.
    pub async fn bind(address: &str, bounds: Bounds) -> std::io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        Ok(Server {
            address: listener.local_addr()?,
            listener,
            bounds,
            tls: None,
        })
    }

    /// The same, speaking TLS.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> Server {
        Server { tls, ..self }
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`; then takes nothing new, and gives what runs its time. What is still
    /// running after it is cut.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(self.bounds.connections));
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener, room.clone()) => accepted,
                Some(_) = connections.join_next() => continue,
                () = &mut stop => break,
            };
            let (stream, peer, place) = accepted;
            let router = router.clone();
            let service = service_fn(move |request| answer(router.clone(), peer, request));
            let builder = http1_builder(self.bounds.request_head);
            let Some(tls) = &self.tls else {
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                let connection = graceful.watch(connection);
                connections.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a client's connection ended");
                    }
                    drop(place);
                });
                continue;
            };
            let (handshake, watcher) = (tls.acceptor().accept(stream), graceful.watcher());
            let patience = self.bounds.request_head;
            connections.spawn(async move {
                match tokio::time::timeout(patience, handshake).await {
                    Ok(Ok(stream)) => {
                        let connection = builder.serve_connection(TokioIo::new(stream), service);
                        if let Err(error) = watcher.watch(connection).await {
                            tracing::debug!(%error, "a client's connection ended");
                        }
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "a client did not speak TLS"),
                    Err(_) => tracing::debug!("a client took too long for its handshake"),
                }
                drop(place);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(self.bounds.shutdown_grace, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("cutting what still runs");
        }
        connections.shutdown().await;
    }
}

fn http1_builder(request_head: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(request_head);
    builder
}

/// Waits for room, then for a client.
async fn accept(listener: &TcpListener, room: Arc<Semaphore>) -> (TcpStream, Peer, impl Drop + Send + use<>) {
    loop {
        let Ok(place) = room.clone().acquire_owned().await else {
            // The semaphore is never closed.
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                // An event must not wait for the acknowledgement of the one before it.
                stream.set_nodelay(true).ok();
                return (stream, Peer(peer.ip()), place);
            }
            Err(error) => {
                // Out of descriptors, mostly: those that end make room.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
