//! `POST /admin/api/explain`: where a request would go, and why.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::{IntoResponse as _, Json, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Error;
use crate::exchange::{Content, Question, explain};
use crate::request::endpoint::Endpoint;

use super::super::{Front, errors};
use super::read_json_up_to;

/// A request to be explained, as it would be sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The name of the client key; may be left out where there is only one.
    key: Option<String>,
    /// Its method.
    method: Option<String>,
    /// Its path, with `/v1` in front.
    path: Option<String>,
    /// Its headers: those that name a session count.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Its body.
    request: Option<Box<RawValue>>,
}

/// Explains a request, and sends nothing.
pub(super) async fn explain(State(front): State<Front>, request: Request) -> Response {
    let asked: Asked = match read_json_up_to(request, front.request_body_bytes_max).await {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let told = match question(&front, asked) {
        Ok(question) => explain::explain(&front.gateway, &question).await,
        Err(error) => Err(error),
    };
    match told {
        Ok(told) => Json(told).into_response(),
        Err(error) => errors::told(&error).into_response(),
    }
}

fn question(front: &Front, asked: Asked) -> Result<Question, Error> {
    let key = front
        .keys
        .named(asked.key.as_deref())
        .ok_or(Error::UnknownKeyName)?;
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    let method: Method = asked
        .method
        .as_deref()
        .unwrap_or("POST")
        .parse()
        .map_err(|_| Error::NoSuchPath)?;
    let path = asked.path.as_deref().unwrap_or("/v1/responses");
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let request = asked.request.map_or(Bytes::new(), |request| {
        Bytes::from(String::from(Box::<str>::from(request)))
    });
    Ok(Question {
        scope: key.key.scope.clone(),
        one_scope: front.keys.one_scope(),
        endpoint: Endpoint::of(&method, path).ok_or(Error::NoSuchPath)?,
        method,
        path: path.to_owned(),
        query: None,
        headers,
        body: Content::Whole(request),
        on: None,
    })
}
