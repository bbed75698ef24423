//! Connections from clients: accepted, bounded in number and time, and ended in good order.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::Tls;
use super::door::Peer;
use super::router::{Routes, answer};
use crate::limits;

/// The bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Open connections.
    pub connections: usize,
    /// For the head of a request.
    pub request_head: Duration,
    /// For a client that takes nothing of what is there for it.
    pub client_stall: Duration,
    /// For running exchanges after the signal to stop.
    pub shutdown_grace: Duration,
}

/// The place of a connection among all. It is free when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Seat(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    _place: OwnedSemaphorePermit,
    cut: watch::Receiver<bool>,
}

impl Seat {
    /// Waits until what still runs is cut: a connection that was upgraded has to look for that itself.
    pub(super) async fn is_cut(&self) {
        let mut cut = self.0.cut.clone();
        // A server that has ended cuts it, too.
        cut.wait_for(|cut| *cut).await.ok();
    }
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
    pub async fn serve(self, routes: Routes, stop: impl Future<Output = ()>) {
        let (running, stopping) = watch::channel(());
        let (cuts, cut) = watch::channel(false);
        let room = Arc::new(Semaphore::new(self.bounds.connections));
        let mut connections = JoinSet::new();
        let routes = Arc::new(routes);
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.listener, room.clone()) => accepted,
                Some(_) = connections.join_next() => continue,
                () = &mut stop => break,
            };
            let (stream, peer, place) = accepted;
            let seat = Seat(Arc::new(Taken {
                _place: place,
                cut: cut.clone(),
            }));
            cut_where_nothing_is_taken(&stream, self.bounds.client_stall);
            let routes = routes.clone();
            // On the heap: a connection keeps room for it, also while it waits or its answer streams.
            let service =
                service_fn(move |request| Box::pin(answer(routes.clone(), peer, seat.clone(), request)));
            let patience = self.bounds.request_head;
            let stopping = stopping.clone();
            let Some(tls) = &self.tls else {
                connections.spawn(serve(stream, service, patience, stopping));
                continue;
            };
            let handshake = tls.acceptor().accept(stream);
            connections.spawn(async move {
                match tokio::time::timeout(patience, handshake).await {
                    Ok(Ok(stream)) => serve(stream, service, patience, stopping).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a client did not speak TLS"),
                    Err(_) => tracing::debug!("a client took too long for its handshake"),
                }
            });
        }
        drop(self.listener);
        drop(running);
        // All have gone when every seat is free.
        let seats = u32::try_from(self.bounds.connections).unwrap_or(u32::MAX);
        let all_gone = room.acquire_many(seats);
        if tokio::time::timeout(self.bounds.shutdown_grace, all_gone)
            .await
            .is_err()
        {
            tracing::warn!("cutting what still runs");
            cuts.send_replace(true);
        }
        connections.shutdown().await;
        // Upgraded connections have written their rows when they have given their seats back.
        tokio::time::timeout(limits::SOCKET_FAREWELL, room.acquire_many(seats))
            .await
            .ok();
    }
}

/// Serves one connection, until it ends or, after what runs on it, the server does. Its seat goes with
/// the service; a connection that was upgraded takes it along.
async fn serve<I, S>(stream: I, service: S, request_head: Duration, mut stopping: watch::Receiver<()>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<BoxError>,
{
    let connection = http1_builder(request_head)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended");
    }
}

/// Only the system sees whether a client takes what it is sent: who writes waits until there is room.
#[cfg(target_os = "linux")]
fn cut_where_nothing_is_taken(stream: &TcpStream, stall: Duration) {
    let stall_ms = u32::try_from(stall.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, stall_ms) {
        tracing::debug!(%error, "a connection keeps the patience of the system");
    }
}

#[cfg(not(target_os = "linux"))]
fn cut_where_nothing_is_taken(_: &TcpStream, _: Duration) {}

fn http1_builder(request_head: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(request_head);
    builder
}

/// Waits for room, then for a client.
async fn accept(listener: &TcpListener, room: Arc<Semaphore>) -> (TcpStream, Peer, OwnedSemaphorePermit) {
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
