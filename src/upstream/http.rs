//! One attempt over HTTP: send, and get the head of the answer with its body still to come.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::account::{Account, Credential, Secret};
use crate::limits;

/// The client side of HTTP, with its connections to all accounts.
#[derive(Debug, Clone)]
pub struct Upstream {
    client: reqwest::Client,
    urls: Urls,
    first_byte: Duration,
}

/// Addresses that were read before: they are the same at every request, and reading one takes as
/// long as reading a request.
#[derive(Debug, Clone, Default)]
struct Urls(Arc<Mutex<HashMap<String, reqwest::Url>>>);

impl Urls {
    fn get(&self, account: &Account, path_and_query: &str) -> Result<reqwest::Url, SendError> {
        let text = format!("{}{path_and_query}", account.base_url);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(url) = known.get(&text) {
            return Ok(url.clone());
        }
        let url = reqwest::Url::parse(&text).map_err(|error| SendError::NotSent(error.to_string()))?;
        // Queries are the clients', and without end.
        if known.len() < limits::UPSTREAM_URLS_MAX && !path_and_query.contains('?') {
            known.insert(text, url.clone());
        }
        Ok(url)
    }
}

/// A request as it goes out. It can be sent again: its pieces are shared, not copied.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// As the client's.
    pub method: Method,
    /// What comes after the account's base URL, with the query.
    pub path_and_query: String,
    /// See [`super::headers::for_upstream`].
    pub headers: HeaderMap,
    /// The body, in pieces.
    pub body: Vec<Bytes>,
}

/// Why no head of an answer came.
#[derive(Debug)]
pub enum SendError {
    /// No connection could be made: nothing was sent.
    NotSent(String),
    /// Sent, at least in part, and then the connection broke.
    Unanswered(String),
    /// No head in time.
    Timeout,
}

/// The head of an answer, and its body to come.
#[derive(Debug)]
pub struct Incoming {
    /// The upstream's status.
    pub status: StatusCode,
    /// All of the upstream's headers.
    pub headers: HeaderMap,
    /// What follows.
    pub body: IncomingBody,
}

/// The body of an answer, piece by piece, as the network brings it.
#[derive(Debug)]
pub struct IncomingBody(reqwest::Body);

impl IncomingBody {
    /// The next piece; `None` at the end. Nothing is read ahead, so a slow client slows the
    /// upstream. Can be dropped while it waits, without loss.
    ///
    /// # Errors
    /// If the connection breaks before the end that was announced.
    pub async fn next(&mut self) -> Option<Result<Bytes, String>> {
        loop {
            match self.0.frame().await? {
                // Trailers carry nothing that is needed here.
                Ok(frame) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Some(Ok(data)),
                    Err(_) => {}
                },
                Err(error) => return Some(Err(root_cause(&error))),
            }
        }
    }

    /// How many bytes are to come, where that was announced.
    pub fn announced_bytes(&self) -> Option<u64> {
        self.0.size_hint().exact()
    }
}

impl Upstream {
    /// A client with these bounds on connecting and on the wait for the head of an answer.
    ///
    /// # Errors
    /// If the system's certificates cannot be read.
    pub fn new(connect: Duration, first_byte: Duration) -> Result<Upstream, reqwest::Error> {
        // Chosen once a process; a second gateway in the same process finds it chosen.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder()
            .connect_timeout(connect)
            .pool_idle_timeout(limits::UPSTREAM_POOL_IDLE)
            .tcp_nodelay(true)
            // A redirect would carry the credential to a place that nobody configured.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .build()?;
        let urls = Urls::default();
        Ok(Upstream {
            client,
            urls,
            first_byte,
        })
    }

    /// Sends a request to an account with its credential.
    ///
    /// # Errors
    /// If no head of an answer came, and whether anything had been sent.
    pub async fn send(&self, account: &Account, outgoing: Outgoing) -> Result<Incoming, SendError> {
        let url = self.urls.get(account, &outgoing.path_and_query)?;
        let mut request = reqwest::Request::new(outgoing.method, url);
        *request.headers_mut() = outgoing.headers;
        let Credential::Key(secret) = &account.credential else {
            return Err(SendError::NotSent("this account has no key".to_owned()));
        };
        request.headers_mut().insert(AUTHORIZATION, bearer(secret)?);
        *request.body_mut() = Some(reqwest::Body::wrap(Pieces::new(outgoing.body)));
        match tokio::time::timeout(self.first_byte, self.client.execute(request)).await {
            Err(_) => Err(SendError::Timeout),
            Ok(Err(error)) if error.is_connect() || error.is_builder() => {
                Err(SendError::NotSent(root_cause(&error)))
            }
            Ok(Err(error)) => Err(SendError::Unanswered(root_cause(&error))),
            Ok(Ok(response)) => {
                let (head, body) = http::Response::<reqwest::Body>::from(response).into_parts();
                Ok(Incoming {
                    status: head.status,
                    headers: head.headers,
                    body: IncomingBody(body),
                })
            }
        }
    }
}

fn bearer(secret: &Secret) -> Result<HeaderValue, SendError> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", secret.reveal()))
        .map_err(|_| SendError::NotSent("the credential is no header value".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The innermost cause: the outer ones name the address, which is no business of the client.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    if error.is_connect() && error.is_timeout() {
        return "connecting took too long".to_owned();
    }
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        Some(_) => "the request failed".to_owned(),
        None => cause.to_string(),
    }
}

/// A body of pieces that are there already. Its size is known, so it is announced.
#[derive(Debug)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    bytes_left: u64,
}

impl Pieces {
    fn new(pieces: Vec<Bytes>) -> Pieces {
        Pieces {
            bytes_left: pieces.iter().map(|piece| piece.len() as u64).sum(),
            pieces: pieces.into(),
        }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.bytes_left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes_left)
    }
}
