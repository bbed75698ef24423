//! One request of a WebSocket: an exchange as over HTTP, whose answer goes out as events.

use std::pin::pin;

use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use super::lanes::Waiting;
use super::{Talk, frames};
use crate::error::Error;
use crate::exchange::answer::{Answer, Broken};
use crate::exchange::connection::{Keeping, OnConnection};
use crate::exchange::{self, Content, Question, Record};
use crate::limits;
use crate::request::endpoint::Endpoint;
use crate::request::event::Lane;
use crate::response::Outcome;
use crate::response::events::{self, Meaning};
use crate::server::errors;
use crate::upstream::socket;

/// Answers a request.
pub(super) async fn answer(talk: &Talk, mut request: Waiting) {
    let lane = request.event.lane.clone();
    let mut record = request.record.take().unwrap_or_else(|| opened(talk));
    let question = match question(talk, &mut record, &request) {
        Ok(question) => question,
        Err(error) => return tell(talk, &lane, error, record).await,
    };
    match exchange::run(&talk.front.gateway, record, question).await {
        Ok(answer) if answer.is_events => pass(talk, &lane, answer).await,
        Ok(answer) => pass_whole(talk, &lane, answer).await,
        Err((error, record)) => tell(talk, &lane, error, record).await,
    }
}

/// Answers a message that is no request, or none that can be run. It leaves a row all the same.
pub(super) async fn refuse(talk: &Talk, lane: &Lane, error: Error) {
    let mut record = opened(talk);
    let key = talk.front.key_of(&talk.headers, talk.peer);
    let admitted = key.and_then(|key| record.asked_by(&key));
    tell(talk, lane, admitted.err().unwrap_or(error), record).await;
}

/// The row of a request that has just arrived.
pub(super) fn opened(talk: &Talk) -> Record {
    let mut record = Record::open(&talk.front.gateway, "/responses");
    let key = talk.front.keys.identify(&talk.headers);
    record.on_websocket(key.map(|key| key.key.id));
    record
}

async fn tell(talk: &Talk, lane: &Lane, error: Error, record: Record) {
    let told = errors::told(&error);
    match error {
        Error::TooManyWrongKeys { .. } => record.withdraw(),
        _ => record.refuse(&error, told.status.as_u16(), told.code).await,
    }
    talk.send(frames::of_error(&told, lane)).await;
}

/// The request as one over HTTP would be. The key may have changed since the handshake.
fn question(talk: &Talk, record: &mut Record, request: &Waiting) -> Result<Box<Question>, Error> {
    let front = &talk.front;
    let key = front.key_of(&talk.headers, talk.peer)?;
    record.asked_by(&key)?;
    let path = "/responses";
    Ok(Box::new(Question {
        scope: key.key.scope.clone(),
        one_scope: front.keys.one_scope(),
        endpoint: Endpoint::of(&Method::POST, path).ok_or(Error::NoSuchPath)?,
        method: Method::POST,
        path: path.to_owned(),
        query: None,
        headers: talk.headers.clone(),
        body: Content::Whole(request.body.clone()),
        on: Some(OnConnection {
            connection: talk.connection.clone(),
            event: request.event.clone(),
        }),
    }))
}

/// Passes a stream on, event by event.
async fn pass(talk: &Talk, lane: &Lane, answer: Answer) {
    let mut keeping = answer.keeping;
    let metadata = socket::metadata(&answer.headers).filter(|_| !answer.is_of_socket);
    if let Some(frame) = metadata.and_then(|event| frames::of_data(event, lane)) {
        talk.send(frame).await;
    }
    let mut pieces = pin!(answer.body.into_stream());
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else {
            let told = errors::told(&Error::StoreUnavailable);
            return talk.send(frames::of_error(&told, lane)).await;
        };
        for event in events::events(&piece) {
            let meaning = event.meaning();
            keep(&mut keeping, &event, meaning);
            if let Some(frame) = frames::of_event(&piece, &event, meaning, lane) {
                talk.send(frame).await;
            }
        }
    }
}

/// Holds what only this connection will know, before its last event leaves.
fn keep(keeping: &mut Option<Box<Keeping>>, event: &events::Event<'_>, meaning: Meaning) {
    match meaning {
        Meaning::Item => {
            if let Some(keeping) = keeping {
                keeping.take_item(event);
            }
        }
        Meaning::End(Outcome::Completed | Outcome::Incomplete) => {
            if let (Some(keeping), Some(id)) = (keeping.take(), event.response_id()) {
                keeping.hold(id);
            }
        }
        _ => {}
    }
}

/// Passes on what is no stream: an error, mostly.
async fn pass_whole(talk: &Talk, lane: &Lane, answer: Answer) {
    let (status, headers): (StatusCode, HeaderMap) = (answer.status, answer.headers);
    let most = match status.is_success() {
        true => limits::EVENT_BYTES_MAX,
        false => limits::ERROR_BODY_BYTES_MAX,
    };
    let body = whole(answer.body.into_stream(), most).await;
    if !status.is_success() {
        return talk.send(frames::of_refusal(status, &headers, &body, lane)).await;
    }
    for frame in frames::of_document(&body, lane) {
        talk.send(frame).await;
    }
}

async fn whole(pieces: impl Stream<Item = Result<Bytes, Broken>>, most: usize) -> Vec<u8> {
    let mut pieces = pin!(pieces);
    let mut body = Vec::new();
    while let Some(Ok(piece)) = pieces.next().await {
        if body.len() + piece.len() <= most {
            body.extend_from_slice(&piece);
        }
    }
    body
}
