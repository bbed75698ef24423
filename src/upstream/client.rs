//! What carries a request to an address and brings the head of the answer: connections, TLS, proxies.
//!
//! hyper does it, because the layers that reqwest puts around hyper (redirects, retries, cookies, its
//! own form of an address) cost a twentieth of a request's whole time and are all switched off here.
//! reqwest carries what has to go through a proxy of the environment.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::BoxBody;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::Service;

use crate::limits;

/// Any error on the way.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
pub type RequestBody = BoxBody<Bytes, BoxError>;

/// The client side of HTTP, with its connections to all addresses.
#[derive(Debug, Clone)]
pub struct Client {
    direct: Direct,
    /// The same in HTTP/1.1, which alone has upgrades.
    upgrading: Direct,
    proxied: reqwest::Client,
    proxies: std::sync::Arc<Matcher>,
}

type Direct = legacy::Client<Patient<HttpsConnector<HttpConnector>>, RequestBody>;

/// Why no head of an answer came.
#[derive(Debug)]
pub enum ClientError {
    /// No connection could be made: nothing was sent.
    NotSent(String),
    /// Sent, at least in part, and then the connection broke.
    Unanswered(String),
}

impl Client {
    /// A client with this bound on connecting, TLS included.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(connect: Duration) -> Result<Client, BoxError> {
        // Chosen once a process; a second gateway in the same process finds it chosen.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect));
        let http1 = HttpsConnectorBuilder::new()
            .try_with_platform_verifier()?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp.clone());
        let upgrading = legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(Patient {
                inner: http1,
                connect,
            });
        let tls = HttpsConnectorBuilder::new()
            .try_with_platform_verifier()?
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let direct = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits::UPSTREAM_POOL_IDLE)
            .http1_read_buf_exact_size(limits::UPSTREAM_READ_BYTES)
            .build(Patient { inner: tls, connect });
        let proxied = reqwest::Client::builder()
            .connect_timeout(connect)
            .pool_idle_timeout(limits::UPSTREAM_POOL_IDLE)
            .tcp_nodelay(true)
            // A redirect would carry the credential to a place that nobody configured.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .build()?;
        Ok(Client {
            direct,
            upgrading,
            proxied,
            proxies: std::sync::Arc::new(Matcher::from_env()),
        })
    }

    /// Sends a request, and waits for the head of its answer.
    ///
    /// # Errors
    /// If none came, and whether anything had been sent.
    pub async fn send(&self, request: Request<RequestBody>) -> Result<Response<ResponseBody>, ClientError> {
        if self.proxies.intercept(request.uri()).is_some() {
            return self.send_by_proxy(request).await;
        }
        match self.direct.request(request).await {
            Ok(response) => Ok(response.map(ResponseBody::Direct)),
            Err(error) if error.is_connect() => Err(ClientError::NotSent(root_cause(&error))),
            Err(error) => Err(ClientError::Unanswered(root_cause(&error))),
        }
    }

    /// Asks for an upgrade; nothing where the way leads through a proxy.
    ///
    /// # Errors
    /// If no answer came.
    pub async fn upgrade(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Option<Response<ResponseBody>>, ClientError> {
        if self.proxies.intercept(request.uri()).is_some() {
            return Ok(None);
        }
        match self.upgrading.request(request).await {
            Ok(response) => Ok(Some(response.map(ResponseBody::Direct))),
            Err(error) if error.is_connect() => Err(ClientError::NotSent(root_cause(&error))),
            Err(error) => Err(ClientError::Unanswered(root_cause(&error))),
        }
    }

    async fn send_by_proxy(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, ClientError> {
        let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))
            .map_err(|error| ClientError::NotSent(root_cause(&error)))?;
        match self.proxied.execute(request).await {
            Ok(response) => Ok(Response::<reqwest::Body>::from(response).map(ResponseBody::Proxied)),
            Err(error) if error.is_connect() || error.is_builder() => {
                Err(ClientError::NotSent(root_cause(&error)))
            }
            Err(error) => Err(ClientError::Unanswered(root_cause(&error))),
        }
    }
}

/// The body of an answer, as it comes.
#[derive(Debug)]
pub enum ResponseBody {
    /// From the address itself.
    Direct(hyper::body::Incoming),
    /// By way of a proxy.
    Proxied(reqwest::Body),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            ResponseBody::Direct(body) => Pin::new(body).poll_frame(context).map_err(BoxError::from),
            ResponseBody::Proxied(body) => Pin::new(body).poll_frame(context).map_err(BoxError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Direct(body) => body.is_end_stream(),
            ResponseBody::Proxied(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Direct(body) => body.size_hint(),
            ResponseBody::Proxied(body) => body.size_hint(),
        }
    }
}

/// A connector that gives up in time, also where TLS is what takes so long.
#[derive(Debug, Clone)]
struct Patient<C> {
    inner: C,
    connect: Duration,
}

impl<C> Service<Uri> for Patient<C>
where
    C: Service<Uri, Error = BoxError, Future: Send + 'static>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.connect, self.inner.call(address));
        Box::pin(async move {
            match connecting.await {
                Ok(connected) => connected,
                Err(_) => Err("connecting took too long".into()),
            }
        })
    }
}

/// The innermost cause: the outer ones name the address, which is no business of the client.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        Some(_) => "the request failed".to_owned(),
        None => cause.to_string(),
    }
}
