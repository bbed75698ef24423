//! One attempt over HTTP: send, and get the head of the answer with its body still to come.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::auth_file::Login;
use super::client::{BoxError, Client, ClientError};
use super::headers;
use super::login::{Logins, NoToken};
use super::passing::{Passing, in_time};
use super::socket::{OpenSockets, SocketAnswer};
use super::together::Together;
use crate::account::{Account, Credential, Secret};
use crate::limits;

/// The client side of HTTP, with its connections to all accounts.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub(super) client: Client,
    /// Those that are open.
    pub(super) sockets: OpenSockets,
    /// Between two pings of one.
    pub(super) ping: Duration,
    logins: Arc<Logins>,
    first_byte: Duration,
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
    /// The body.
    pub body: OutgoingBody,
}

/// The body of a request as it goes out.
#[derive(Debug, Clone)]
pub enum OutgoingBody {
    /// There already, in pieces.
    Pieces(Vec<Bytes>),
    /// Passed on while it comes.
    Passing(Passing),
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
    /// The connection that alone could go on with this response was lost: nothing was sent.
    Forgotten(String),
    /// The account's login has ended: nothing was sent, and a person must log in again. Why, as a code.
    LoginEnded(String),
    /// The account's login cannot be used now: nothing was sent.
    NoLogin(String),
}

impl From<NoToken> for SendError {
    fn from(none: NoToken) -> Self {
        match none {
            NoToken::Ended(code) => SendError::LoginEnded(code),
            NoToken::NotNow(reason) => SendError::NoLogin(reason),
        }
    }
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

impl Incoming {
    /// An answer of these events, which came from nowhere.
    pub fn of_events(events: Bytes) -> Incoming {
        let kind = (CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        Incoming {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([kind]),
            body: IncomingBody::Whole(Some(events)),
        }
    }
}

/// The body of an answer, piece by piece, as the network brings it.
#[derive(Debug)]
pub enum IncomingBody {
    /// Over HTTP.
    Http(Together),
    /// Over a WebSocket.
    Socket(SocketAnswer),
    /// There already; `None` when it has gone.
    Whole(Option<Bytes>),
}

impl IncomingBody {
    /// The next piece; `None` at the end. Nothing is read ahead, so a slow client slows the
    /// upstream. Can be dropped while it waits, without loss.
    ///
    /// # Errors
    /// If the connection breaks before the end that was announced.
    pub async fn next(&mut self) -> Option<Result<Bytes, String>> {
        match self {
            IncomingBody::Http(body) => body.next().await,
            IncomingBody::Socket(answer) => answer.next().await,
            IncomingBody::Whole(bytes) => bytes.take().map(Ok),
        }
    }

    /// How many bytes are to come, where that was announced.
    pub fn announced_bytes(&self) -> Option<u64> {
        match self {
            IncomingBody::Http(body) => body.announced_bytes(),
            IncomingBody::Socket(_) | IncomingBody::Whole(_) => None,
        }
    }
}

impl Upstream {
    /// A client with these bounds on connecting and on the wait for the head of an answer, this time
    /// between two pings of a WebSocket, and this place where logins are renewed.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(
        connect: Duration,
        first_byte: Duration,
        ping: Duration,
        token_url: &str,
    ) -> Result<Upstream, BoxError> {
        let client = Client::new(connect)?;
        Ok(Upstream {
            logins: Arc::new(Logins::new(client.clone(), token_url.to_owned())),
            client,
            sockets: OpenSockets::default(),
            ping,
            first_byte,
        })
    }

    /// How long the beginning of an answer is waited for.
    pub fn first_byte(&self) -> Duration {
        self.first_byte
    }

    /// Sends a request to an account with its credential.
    ///
    /// # Errors
    /// If no head of an answer came, and whether anything had been sent.
    pub async fn send(&self, account: &Account, outgoing: Outgoing) -> Result<Incoming, SendError> {
        match &account.credential {
            Credential::Key(secret) => self.send_with(account, outgoing, secret).await,
            Credential::AuthFile(path) => Box::pin(self.send_as(account, path, outgoing)).await,
            Credential::None => Err(SendError::NotSent("this account has no key".to_owned())),
        }
    }

    /// Sends a request with the login of a file. One whose access token is refused is sent again with
    /// another: it was not looked at.
    async fn send_as(
        &self,
        account: &Account,
        path: &Path,
        outgoing: Outgoing,
    ) -> Result<Incoming, SendError> {
        let mut login = self.login(path).await?;
        let mut tries = 1;
        loop {
            let mut outgoing = outgoing.clone();
            headers::identify(&mut outgoing.headers, &login)
                .map_err(|_| SendError::NotSent("the id of the login is no header value".to_owned()))?;
            let incoming = self.send_with(account, outgoing, &login.access_token).await?;
            if incoming.status != StatusCode::UNAUTHORIZED || tries == limits::LOGIN_TRIES {
                return Ok(incoming);
            }
            login = self.login_after_refusal(path, &login).await?;
            tries += 1;
        }
    }

    /// The login that an account has now, and that goes with its next request.
    ///
    /// # Errors
    /// If it has none that is good.
    pub async fn login(&self, path: &Path) -> Result<Arc<Login>, NoToken> {
        self.logins.current(path).await
    }

    /// The login that an account has instead of one whose token was refused.
    ///
    /// # Errors
    /// If it has none that is good.
    pub(super) async fn login_after_refusal(
        &self,
        path: &Path,
        refused: &Login,
    ) -> Result<Arc<Login>, NoToken> {
        self.logins.after_refusal(path, refused).await
    }

    /// Waits until no login is being renewed.
    pub async fn settled(&self) {
        self.logins.settled().await;
    }

    async fn send_with(
        &self,
        account: &Account,
        outgoing: Outgoing,
        secret: &Secret,
    ) -> Result<Incoming, SendError> {
        let address = format!("{}{}", account.base_url, outgoing.path_and_query);
        let (body, passing) = match outgoing.body {
            OutgoingBody::Pieces(pieces) => {
                let pieces = Pieces::new(pieces).map_err(|never| match never {});
                (pieces.boxed(), None)
            }
            OutgoingBody::Passing(passing) => (passing.clone().boxed(), Some(passing)),
        };
        let mut request = Request::new(body);
        *request.method_mut() = outgoing.method;
        *request.uri_mut() = Uri::try_from(address).map_err(|error| SendError::NotSent(error.to_string()))?;
        *request.headers_mut() = outgoing.headers;
        request.headers_mut().insert(AUTHORIZATION, bearer(secret)?);
        let sent = self.client.send(request);
        match in_time(sent, self.first_byte, passing.as_ref()).await {
            Err(_) => Err(SendError::Timeout),
            // What has begun to pass cannot be sent again.
            Ok(Err(ClientError::NotSent(reason))) if passing.is_some_and(|passing| passing.has_begun()) => {
                Err(SendError::Unanswered(reason))
            }
            Ok(Err(ClientError::NotSent(reason))) => Err(SendError::NotSent(reason)),
            Ok(Err(ClientError::Unanswered(reason))) => Err(SendError::Unanswered(reason)),
            Ok(Ok(response)) => {
                let (head, body) = response.into_parts();
                Ok(Incoming {
                    status: head.status,
                    headers: head.headers,
                    body: IncomingBody::Http(Together::new(body)),
                })
            }
        }
    }
}

pub(super) fn bearer(secret: &Secret) -> Result<HeaderValue, SendError> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", secret.reveal()))
        .map_err(|_| SendError::NotSent("the credential is no header value".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
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
