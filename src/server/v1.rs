//! `/v1/…`: everything that the accounts answer.

use std::borrow::Cow;
use std::convert::Infallible;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    UPGRADE,
};
use axum::http::{Method, Request, request};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tower::{ServiceExt as _, service_fn};
use tower_http::decompression::{DecompressionBody, RequestDecompression};

use crate::error::Error;
use crate::exchange::answer::Answer;
use crate::exchange::{self, Content, Question, Record, Routing, lists, models};
use crate::limits;
use crate::request::endpoint::{Endpoint, Role};

use super::door::Peer;
use super::{Front, body, errors, form, socket};

/// Answers a request whose body may be compressed: it is read as what it stands for. An encoding that
/// is not known is let through, and refused where the body is read.
pub(super) async fn answer(State(front): State<Front>, request: Request<Body>) -> Response {
    if !request.headers().contains_key(CONTENT_ENCODING) {
        return answer_plain(front, request).await;
    }
    let plain = service_fn(|request: Request<DecompressionBody<Body>>| {
        let answered = Box::pin(answer_plain(front.clone(), request.map(Body::new)));
        async { Ok::<_, Infallible>(answered.await) }
    });
    let decompressed = RequestDecompression::new(plain).pass_through_unaccepted(true);
    match Box::pin(decompressed.oneshot(request)).await {
        Ok(response) => response.map(Body::new),
        Err(_) => errors::internal(),
    }
}

/// Checks the key, reads the body where it must be known, and hands over to the exchange.
async fn answer_plain(front: Front, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    if head.method == Method::GET && head.headers.contains_key(UPGRADE) {
        // 426 makes clients such as Codex use HTTP at once, where other refusals make them try again.
        return match head.uri.path() {
            "/v1/responses" => Box::pin(socket::upgrade(front, Request::from_parts(head, body))).await,
            _ => errors::upgrade_refused(),
        };
    }
    let path = head.uri.path().strip_prefix("/v1").unwrap_or_default();
    let endpoint = Endpoint::of(&head.method, path);
    let name = endpoint
        .as_ref()
        .map_or(Cow::Borrowed("/*"), |known| known.name.clone());
    let mut record = Record::open(&front.gateway, name);
    let question = match question(&front, &mut record, endpoint, head, body).await {
        Ok(question) => question,
        Err(error) => return refused(&front, error, record).await,
    };
    let composed = match question.endpoint.role {
        Role::Models => {
            let version = question.query_value("client_version");
            let version = version
                .filter(|version| version.len() <= limits::NAME_BYTES_MAX)
                .map(str::to_owned);
            models::union(&front.gateway, version.as_deref()).await
        }
        Role::List if !lists::is_whole(&front.gateway, &question) => {
            Box::pin(lists::page(&front.gateway, &question)).await
        }
        _ => {
            return match exchange::run(&front.gateway, record, question).await {
                Ok(answer) => answered(&front, answer),
                Err((error, record)) => refused(&front, error, record).await,
            };
        }
    };
    match composed {
        Ok(body) => composed_answer(&front, body, record).await,
        Err(error) => refused(&front, error, record).await,
    }
}

async fn question(
    front: &Front,
    record: &mut Record,
    endpoint: Option<Endpoint>,
    head: request::Parts,
    body: Body,
) -> Result<Box<Question>, Error> {
    let key = front.key_of(&head.headers, Peer::of(&head.extensions))?;
    record.asked_by(&key)?;
    let endpoint = endpoint.ok_or(Error::NoSuchPath)?;
    let body = match passes(&endpoint, &head.headers) {
        true => {
            Box::pin(form::read(
                &front.gateway,
                &head.headers,
                body,
                front.upload_bytes_max,
            ))
            .await?
        }
        false => Content::Whole(body::read(&head.headers, body, front.request_body_bytes_max).await?),
    };
    let path = head.uri.path();
    Ok(Box::new(Question {
        scope: key.key.scope.clone(),
        one_scope: front.keys.one_scope(),
        path: path.strip_prefix("/v1").unwrap_or(path).to_owned(),
        query: head.uri.query().map(str::to_owned),
        method: head.method,
        endpoint,
        headers: head.headers,
        body,
        on: None,
    }))
}

/// Files pass while they come. Everything else is read first: what it points with leads its way.
fn passes(endpoint: &Endpoint, headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_form = kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("multipart/"));
    is_form && endpoint.api().is_none()
}

/// An answer that was put together here.
async fn composed_answer(front: &Front, body: Bytes, record: Record) -> Response {
    let routing = record.routing();
    record.composed(body.len()).await;
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    add_routing(front, headers, &routing);
    response
}

fn answered(front: &Front, answer: Answer) -> Response {
    let Answer {
        status,
        headers,
        is_events,
        length,
        routing,
        body,
        ..
    } = answer;
    let mut response = Response::new(Body::from_stream(body.into_stream()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if is_events {
        // Reverse proxies that buffer would keep the stream from its reader.
        headers.insert(
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        );
        headers
            .entry(CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-cache"));
    }
    add_routing(front, headers, &routing);
    response
}

pub(super) async fn refused(front: &Front, error: Error, record: Record) -> Response {
    let told = errors::told(&error);
    if let Error::TooManyWrongKeys { .. } = error {
        record.withdraw();
        return told.into_response();
    }
    let routing = record.routing();
    record.refuse(&error, told.status.as_u16(), told.code).await;
    let mut response = told.into_response();
    add_routing(front, response.headers_mut(), &routing);
    response
}

fn add_routing(front: &Front, headers: &mut HeaderMap, routing: &Routing) {
    if !front.routing_headers {
        return;
    }
    headers.insert(
        HeaderName::from_static("x-moorage-request-id"),
        HeaderValue::from(routing.request_id),
    );
    let texts = [
        ("x-moorage-account", routing.account.as_deref()),
        ("x-moorage-affinity", Some(routing.affinity.as_str())),
    ];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
