//! How a request goes to the account that was leased: what it is there, and what is held of the
//! answer here.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::account::Account;
use crate::affinity::{ConversationId, Strip};
use crate::clock::now_ms;
use crate::error::Error;
use crate::request::endpoint::Api;
use crate::request::event::{ClientEvent, History};
use crate::request::{self, Envelope, Fill, Splice};
use crate::upstream::headers;
use crate::upstream::http::{Outgoing, OutgoingBody};

use super::connection::{Keeping, OnConnection};
use super::references::Located;
use super::{Content, Question};

/// How a request goes.
#[derive(Debug)]
pub(super) enum Way {
    /// Over HTTP.
    Http(Outgoing),
    /// Nowhere: these are the events of its answer.
    Here(Bytes),
}

/// Where the response is that a request follows, if one connection alone knows it.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// Here.
    Here(std::sync::Arc<History>),
}

impl Held {
    /// Finds it. `None` if the request follows nothing of the kind.
    ///
    /// # Errors
    /// If it is held by a connection that has ended, or by another than this: it is as good as lost,
    /// and the client must know that at once.
    pub(super) fn find(question: &Question, located: &Located) -> Result<Option<Held>, Error> {
        let Some((connection, id)) = located.on_connection() else {
            return Ok(None);
        };
        let here = question.on.as_ref().map(|on| &on.connection);
        let here = here.filter(|here| here.id == connection);
        match here.and_then(|here| here.history(id)) {
            Some(history) => Ok(Some(Held::Here(history))),
            None => Err(Error::PreviousResponseNotFound(id.to_owned())),
        }
    }
}

/// The items of a request as they were sent: without what the account could not read.
fn items(on: &OnConnection, body: &Bytes, strip: Strip) -> Bytes {
    let splices = request::without_reasoning(body, strip);
    if splices.is_empty() {
        return on.event.items(body);
    }
    let body = Bytes::from(request::spliced(body, splices).concat());
    ClientEvent::read(&body).map_or_else(|_| Bytes::new(), |event| event.items(&body))
}

/// What is known of a request when its way is chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) question: &'a Question,
    pub(super) envelope: &'a Envelope,
    pub(super) conversation: ConversationId,
    pub(super) held: Option<&'a Held>,
}

impl Setting<'_> {
    /// The request as this account gets it: the client's bytes, what the client left out, and without
    /// what the account cannot read.
    pub(super) fn way(self, account: &Account, strip: Strip) -> Way {
        let question = self.question;
        if question.on.as_ref().is_some_and(|on| !on.event.generates) {
            return Way::Here(self.warmed_up());
        }
        let body = match &question.body {
            Content::Passing(body) => OutgoingBody::Passing(body.clone()),
            Content::Whole(body) => {
                let mut splices = self.fill_in(account);
                if let Some(on) = &question.on {
                    splices.splice(..0, on.event.for_http(body, self.history()));
                }
                splices.extend(request::without_reasoning(body, strip));
                splices.sort_by_key(|splice| splice.range.start);
                OutgoingBody::Pieces(request::spliced(body, splices))
            }
        };
        let path_and_query = match &question.query {
            Some(query) => format!("{}?{query}", question.path),
            None => question.path.clone(),
        };
        Way::Http(Outgoing {
            method: question.method.clone(),
            path_and_query,
            headers: headers::for_upstream(question.headers.clone()),
            body,
        })
    }

    fn fill_in(self, account: &Account) -> Vec<Splice> {
        let Some(api) = self.question.endpoint.api() else {
            return Vec::new();
        };
        let cache_key = self.conversation.0.hyphenated().to_string();
        let stores = self.envelope.store.unwrap_or(true);
        self.envelope.fill_in(Fill {
            cache_key: api.takes_cache_key().then_some(cache_key.as_str()),
            sealed_reasoning: api == Api::Responses && account.kind.wants_sealed_reasoning(stores),
            usage: api.is_chat(),
        })
    }

    fn history(&self) -> Option<&History> {
        self.held.map(|Held::Here(history)| &**history)
    }

    /// What is held here of the answer, once it has come this way: what its upstream does not store,
    /// or never saw.
    pub(super) fn keeping(self, strip: Strip) -> Option<Keeping> {
        let on = self.question.on.as_ref()?;
        let is_stored = self.envelope.store.unwrap_or(true) && on.event.generates;
        (!is_stored).then(|| Keeping::new(on, self.history(), items(on, self.question.body.whole(), strip)))
    }

    /// The answer to a warm-up where the upstream knows none: its input is held here, and goes along
    /// with the next request.
    fn warmed_up(&self) -> Bytes {
        let now_ms = now_ms();
        let on: Option<&OnConnection> = self.question.on.as_ref();
        let id = format!("resp_{:08x}{}", now_ms / 1000, uuid::Uuid::new_v4().simple());
        let response = |status: &str| {
            json!({
                "id": id,
                "object": "response",
                "created_at": now_ms / 1000,
                "status": status,
                "error": null,
                "incomplete_details": null,
                "instructions": null,
                "metadata": {},
                "model": self.envelope.model,
                "output": [],
                "parallel_tool_calls": true,
                "previous_response_id": on.and_then(|on| on.event.previous_response_id.as_deref()),
                "store": self.envelope.store.unwrap_or(true),
                "tool_choice": "auto",
                "tools": [],
                "usage": null,
            })
        };
        let event = |kind: &str, number: u8, response: Value| {
            let data = json!({ "type": kind, "sequence_number": number, "response": response });
            format!("event: {kind}\ndata: {data}\n\n")
        };
        let begun = event("response.created", 0, response("in_progress"));
        let ended = event("response.completed", 1, response("completed"));
        (begun + &ended).into()
    }
}
