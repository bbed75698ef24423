//! How a request goes to the account that was leased: what it is there, and what is held of the
//! answer here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::account::{Account, Kind};
use crate::affinity::{ConversationId, Strip};
use crate::clock::now_ms;
use crate::error::Error;
use crate::request::endpoint::Api;
use crate::request::event::{ClientEvent, History};
use crate::request::{self, Envelope, Fill, Splice};
use crate::upstream::headers;
use crate::upstream::http::{Outgoing, OutgoingBody};
use crate::upstream::socket::Socket;

use super::codex;
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
    /// Over a WebSocket of the client's connection.
    Socket(Box<OverSocket>),
}

/// A request for a WebSocket.
#[derive(Debug)]
pub(super) struct OverSocket {
    pub(super) on: OnConnection,
    /// The event, in pieces.
    pub(super) event: Vec<Bytes>,
    /// For a connection that is still to be opened.
    pub(super) headers: HeaderMap,
    /// The connection that alone can go on with it.
    pub(super) held_by: Option<Arc<Socket>>,
    /// How it goes where the account knows no WebSocket; nothing where that is no help.
    pub(super) otherwise: Option<Way>,
}

/// Where the response is that a request follows, if one connection alone knows it.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// Here.
    Here(Arc<History>),
    /// On a connection of this client's to its account.
    There(Arc<Socket>),
}

impl Held {
    /// Finds it. `None` if the request follows nothing of the kind.
    ///
    /// # Errors
    /// If it is held by a connection that has ended, or by another than this: it is as good as lost,
    /// and the client must know that at once.
    pub(super) fn find(
        question: &Question,
        located: &Located,
        age_max: Duration,
    ) -> Result<Option<Held>, Error> {
        let Some((connection, id)) = located.on_connection() else {
            return Ok(None);
        };
        let held = question
            .on
            .as_ref()
            .and_then(|on| match on.connection.id == connection {
                true => on.connection.history(id).map(Held::Here),
                false => on.connection.socket(connection, age_max).map(Held::There),
            });
        match held {
            Some(held) => Ok(Some(held)),
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

impl Way {
    /// Changes the headers of a request, whichever way it goes.
    pub(super) fn change_headers(&mut self, change: &impl Fn(&mut HeaderMap)) {
        match self {
            Way::Http(outgoing) => change(&mut outgoing.headers),
            Way::Socket(asked) => {
                change(&mut asked.headers);
                if let Some(otherwise) = &mut asked.otherwise {
                    otherwise.change_headers(change);
                }
            }
            Way::Here(_) => {}
        }
    }
}

/// What is known of a request when its way is chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) question: &'a Question,
    pub(super) envelope: &'a Envelope,
    pub(super) conversation: ConversationId,
    pub(super) held: Option<&'a Held>,
    /// Whether the account that was leased may be reached by WebSocket.
    pub(super) speaks_websocket: bool,
}

impl Setting<'_> {
    /// The request as this account gets it: the client's bytes, what the client left out, and without
    /// what the account cannot read.
    ///
    /// # Errors
    /// If the account is of a kind that cannot do what is asked.
    pub(super) fn way(self, account: &Account, strip: Strip) -> Result<Way, Error> {
        let question = self.question;
        codex::check(account, question, self.envelope, self.held.is_some())?;
        let over_http = || match question.on.as_ref().is_some_and(|on| !on.event.generates) {
            true => Way::Here(self.warmed_up()),
            false => self.over_http(account, strip),
        };
        Ok(match (&question.on, self.held, &question.body) {
            (Some(on), Some(Held::There(socket)), Content::Whole(body)) => {
                self.over_socket(on, body, account, strip, Some(socket.clone()), None)
            }
            (Some(on), None, Content::Whole(body)) if self.speaks_websocket => {
                self.over_socket(on, body, account, strip, None, Some(over_http()))
            }
            _ => over_http(),
        })
    }

    /// The client's own event, with what it left out.
    fn over_socket(
        self,
        on: &OnConnection,
        body: &Bytes,
        account: &Account,
        strip: Strip,
        held_by: Option<Arc<Socket>>,
        otherwise: Option<Way>,
    ) -> Way {
        let mut splices = self.fill_in(account);
        splices.extend(request::without_reasoning(body, strip));
        splices.sort_by_key(|splice| splice.range.start);
        Way::Socket(Box::new(OverSocket {
            on: on.clone(),
            event: request::spliced(body, splices),
            headers: headers::for_upstream(self.question.headers.clone()),
            held_by,
            otherwise,
        }))
    }

    fn over_http(self, account: &Account, strip: Strip) -> Way {
        let question = self.question;
        let body = match &question.body {
            Content::Passing { body, .. } => OutgoingBody::Passing(body.clone()),
            Content::Whole(body) => {
                let mut splices = self.fill_in(account);
                if let Some(on) = &question.on {
                    splices.splice(..0, on.event.for_http(body, self.history()));
                }
                splices.extend(request::without_reasoning(body, strip));
                splices.sort_by_key(|splice| splice.range.start);
                OutgoingBody::Pieces(codex::fit(account, question, request::spliced(body, splices)))
            }
        };
        let path_and_query = match &question.query {
            Some(query) => format!("{}?{query}", question.path),
            None => question.path.clone(),
        };
        let mut headers = headers::for_upstream(question.headers.clone());
        codex::complete(&mut headers, account, question.endpoint.api(), self.conversation);
        Way::Http(Outgoing {
            method: question.method.clone(),
            path_and_query,
            headers,
            body,
        })
    }

    fn fill_in(self, account: &Account) -> Vec<Splice> {
        let Some(api) = self.question.endpoint.api() else {
            return Vec::new();
        };
        let cache_key = self.conversation.0.hyphenated().to_string();
        self.envelope.fill_in(Fill {
            cache_key: api.takes_cache_key().then_some(cache_key.as_str()),
            sealed_reasoning: api == Api::Responses
                && account.kind.wants_sealed_reasoning(self.envelope.store),
            usage: api.is_chat(),
            ..Fill::default()
        })
    }

    fn history(&self) -> Option<&History> {
        match self.held? {
            Held::Here(history) => Some(history),
            Held::There(_) => None,
        }
    }

    /// What is held here of the answer, once it has come this way: what its upstream does not store,
    /// or never saw.
    pub(super) fn keeping(self, kind: Kind, strip: Strip) -> Option<Keeping> {
        let on = self.question.on.as_ref()?;
        let is_stored = kind.stores(self.envelope.store) && on.event.generates;
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
