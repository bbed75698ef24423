//! `POST /v1/responses`.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use axum::response::{IntoResponse as _, Response};

use crate::error::Error;
use crate::exchange::answer::Answer;
use crate::exchange::{self, Content, Question, Record, Routing};
use crate::request::endpoint::{Api, Endpoint, Role};

use super::{Front, body, errors};

/// Where the request goes below an account's base URL.
const ENDPOINT: &str = "/responses";

/// Checks the key, reads the body, and hands over to the exchange.
pub(super) async fn create(State(front): State<Front>, request: Request) -> Response {
    let mut record = Record::open(&front.gateway, ENDPOINT);
    let question = match question(&front, &mut record, request).await {
        Ok(question) => question,
        Err(error) => return refused(&front, error, record).await,
    };
    match exchange::run(&front.gateway, record, question).await {
        Ok(answer) => answered(&front, answer),
        Err((error, record)) => refused(&front, error, record).await,
    }
}

/// A WebSocket on the same path is not spoken here: 426 makes clients such as Codex use HTTP at
/// once, where other refusals make them try again.
pub(super) async fn upgrade(headers: HeaderMap) -> Response {
    match headers.contains_key(UPGRADE) {
        true => errors::upgrade_refused(),
        false => errors::method_not_allowed(),
    }
}

async fn question(front: &Front, record: &mut Record, request: Request) -> Result<Question, Error> {
    let (head, body) = request.into_parts();
    let key = front.keys.identify(&head.headers).ok_or(Error::UnknownKey)?;
    record.asked_by(&key)?;
    let body = body::read(&head.headers, body, front.request_body_bytes_max).await?;
    Ok(Question {
        scope: key.key.scope.clone(),
        one_scope: front.keys.one_scope(),
        method: head.method,
        endpoint: Endpoint::named(ENDPOINT, Role::Generate(Api::Responses)),
        path: ENDPOINT.to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body: Content::Whole(body),
    })
}

fn answered(front: &Front, answer: Answer) -> Response {
    let Answer {
        status,
        headers,
        is_events,
        length,
        routing,
        body,
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

async fn refused(front: &Front, error: Error, record: Record) -> Response {
    let told = errors::told(&error);
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
