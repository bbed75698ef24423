//! How a request goes to the account that was leased: what it is there, and what is held of the
//! answer here.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::account::{Account, Kind};
use crate::affinity::{ConversationId, Strip};
use crate::clock::now_ms;
use crate::error::Error;
use crate::request::endpoint::Api;
use crate::request::event::{ClientEvent, History, Lane};
use crate::request::{self, Envelope, Fill, Splice};
use crate::upstream::headers;
use crate::upstream::http::{Outgoing, OutgoingBody};

use super::codex::{self, InEvent};
use super::connection::{Connection, Keeping, Lost, OnConnection};
use super::kept::{Chain, OnLine};
use super::references::Located;
use super::{Content, Gateway, Question};

/// How a request goes.
#[derive(Debug)]
pub(super) enum Way {
    /// Over HTTP.
    Http(Outgoing),
    /// Nowhere: these are the events of its answer.
    Here(Bytes),
    /// Over a WebSocket to the account.
    Socket(Box<OverSocket>),
}

/// A request for a WebSocket.
#[derive(Debug)]
pub(super) struct OverSocket {
    pub(super) place: Place,
    pub(super) lane: Lane,
    /// The event, in pieces.
    pub(super) event: Vec<Bytes>,
    /// For a connection that is still to be opened.
    pub(super) headers: HeaderMap,
    /// The connection that alone can go on with it.
    pub(super) held_by: Option<OnLine>,
    /// The response that it goes on from.
    pub(super) follows: Option<String>,
    /// Whether it begins a chain with instructions of ours.
    pub(super) is_instructed: bool,
    /// How it goes where the account knows no WebSocket; nothing where that is no help.
    pub(super) otherwise: Option<Way>,
}

/// Whose connections serve a request.
#[derive(Debug)]
pub(super) enum Place {
    /// Those of a client's WebSocket.
    Client(Arc<Connection>),
    /// Those that are kept for clients over HTTP.
    Kept {
        chain: Chain,
        /// Whether it may take the place of what such a connection holds.
        replaces: bool,
    },
}

/// Where the response is that a request follows, if one connection alone knows it.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// Here.
    Here(Arc<History>),
    /// On a connection to its account.
    There(OnLine),
}

impl Held {
    /// Finds it. `None` if the request follows nothing of the kind.
    ///
    /// # Errors
    /// If it is held by a connection that has ended, or by another than this: it is as good as lost,
    /// and the client must know that at once.
    pub(super) async fn find(
        gateway: &Gateway,
        question: &Question,
        located: &Located,
    ) -> Result<Option<Held>, Lost> {
        let Some((connection, id)) = located.on_connection() else {
            return Ok(None);
        };
        let settings = &gateway.settings;
        let held = match &question.on {
            Some(on) if on.connection.id == connection => {
                let history = on.connection.history(id);
                history.map(Held::Here).ok_or(Lost::Replaced)
            }
            Some(on) => {
                let socket = on.connection.socket(connection, settings.socket_age);
                let there = socket.map(|socket| Held::There(OnLine { socket, turn: None }));
                there.ok_or(Lost::ConnectionEnded)
            }
            None => {
                let holding = gateway
                    .kept
                    .holding(connection, &question.scope, id, settings.pin_wait);
                holding.await.map(Held::There)
            }
        };
        held.map(Some).map_err(|lost| match lost {
            Lost::ConnectionEnded if gateway.has_connection(connection) => Lost::OtherConnection,
            lost => lost,
        })
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
    /// The state of a turn, of a request that may have one in its event.
    pub(super) turn_state: Option<&'a InEvent>,
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
        let Content::Whole(body) = &question.body else {
            return Ok(over_http());
        };
        Ok(match (&question.on, self.held) {
            (_, Some(Held::There(line))) => self.over_socket(body, account, strip, Some(line.clone()), None),
            (Some(_), None) if self.speaks_websocket => {
                self.over_socket(body, account, strip, None, Some(over_http()))
            }
            (None, None) if self.speaks_websocket && self.needs_kept(account) => {
                self.over_socket(body, account, strip, None, Some(over_http()))
            }
            _ => over_http(),
        })
    }

    /// Whether a client over HTTP expects to be able to go on from the answer, of an account that
    /// knows it only on the connection that made it.
    fn needs_kept(self, account: &Account) -> bool {
        account.kind == Kind::Codex
            && self.question.endpoint.api() == Some(Api::Responses)
            && self.envelope.store != Some(false)
    }

    /// The client's own event, with what it left out; or the event that stands for its request.
    fn over_socket(
        self,
        body: &Bytes,
        account: &Account,
        strip: Strip,
        held_by: Option<OnLine>,
        otherwise: Option<Way>,
    ) -> Way {
        let question = self.question;
        let mut splices = self.fill_in(account);
        splices.extend(request::without_reasoning(body, strip));
        splices.extend(self.turn_state.and_then(|state| match question.on {
            Some(_) => state.without_foreign(),
            None => state.to_event(body),
        }));
        splices.sort_by_key(|splice| splice.range.start);
        let instructs = held_by.as_ref().is_none_or(|line| line.socket.is_instructed());
        let event = request::spliced(body, splices);
        let (event, is_instructed) = codex::fit_event(account, question, instructs, event);
        let mut headers = headers::for_upstream(question.headers.clone());
        codex::complete_upgrade(&mut headers, account, self.conversation);
        let (place, lane) = match &question.on {
            Some(on) => (Place::Client(on.connection.clone()), on.event.lane.clone()),
            None => {
                let chain = Chain {
                    scope: question.scope.clone(),
                    conversation: self.conversation,
                    shape: self.envelope.lane,
                };
                let replaces = self.envelope.has_history;
                (Place::Kept { chain, replaces }, Lane::Default)
            }
        };
        Way::Socket(Box::new(OverSocket {
            place,
            lane,
            event,
            headers,
            held_by,
            follows: self.envelope.previous_response_id.clone(),
            is_instructed,
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
                splices.extend(self.turn_state.and_then(InEvent::without_foreign));
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
        if let Some(state) = self.turn_state {
            state.to_header(&mut headers);
        }
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
