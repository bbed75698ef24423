//! Reading an answer while it passes: where it may be cut, and what it tells.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use crate::clock::now_ms;
use crate::quota::Quota;
use crate::response::chat;
use crate::response::document::Scanner;
use crate::response::events::{self, Meaning, Splitter};
use crate::response::gather::Gathering;
use crate::response::{Facts, Outcome};
use crate::upstream::http::IncomingBody;

/// What the next piece of an answer is.
#[derive(Debug)]
pub enum Step {
    /// Bytes that may go on, once what they told is written down. May be empty.
    Bytes(Bytes),
    /// The upstream ended the answer in good order.
    End,
    /// The connection broke, or an event grew over the limit.
    Cut(String),
    /// Nothing came in time.
    Idle,
}

/// What an answer is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// A response, with its items and figures.
    Response {
        /// Whether it is asked for as a stream.
        stream: bool,
        /// Whether the client does not see what is left of the account's quota.
        hides_quota: bool,
    },
    /// A chat completion.
    Chat {
        /// Whether it is asked for as a stream.
        stream: bool,
        /// Whether the client did not ask for the figures at the end of the stream.
        hides_usage: bool,
    },
    /// Something that was made, with its id. It may be anything.
    Object,
    /// Nothing: it passes.
    Nothing,
}

impl Reads {
    pub(super) fn is_stream(self) -> bool {
        matches!(
            self,
            Reads::Response { stream: true, .. } | Reads::Chat { stream: true, .. }
        )
    }
}

/// Reads an answer while it passes: cuts it where it may be cut, and keeps what it tells.
#[derive(Debug)]
pub struct Reader {
    body: IncomingBody,
    form: Form,
    /// Whether the first byte has come that shows the form.
    is_form_sure: bool,
    reads: Reads,
    /// The outcome of an answer that tells none itself.
    at_end: Outcome,
    idle: Duration,
    /// When the upstream has been silent for too long.
    deadline: Instant,
    /// What the answer has told so far.
    pub facts: Facts,
    /// What it has told of the account's quota, for whoever takes it from here.
    pub quota: Quota,
    /// What fills in the output of the last event, where the upstream leaves it empty.
    gathering: Option<Box<Gathering>>,
    /// Whether the first output has come.
    pub output_began: bool,
    /// A document that has ended.
    complete: bool,
    /// A chat whose text has ended.
    finished: bool,
    /// The `sequence_number` of the last event that passed.
    pub last_sequence_number: Option<u64>,
}

/// What kind of answer it is: by its `Content-Type`, until its first byte shows what it really is.
#[derive(Debug)]
enum Form {
    Events(Splitter),
    Document(Scanner),
    /// Something that is not read: it passes.
    Opaque,
    /// Named as neither of them.
    Unnamed {
        stream: bool,
    },
    /// Put together here from what was read: it is there whole, and nothing follows.
    Made,
}

impl Form {
    fn of(media_type: &str, stream: bool) -> Form {
        let media_type = media_type.split(';').next().unwrap_or("").trim();
        match media_type.to_ascii_lowercase().as_str() {
            "text/event-stream" => Form::Events(Splitter::default()),
            "application/json" => Form::Document(Scanner::default()),
            _ => Form::Unnamed { stream },
        }
    }

    /// The form by its first byte that is no space; the one that it was named as, where that may be.
    fn by_first_byte(self, first: u8) -> Form {
        // An object; or the name of a field of an event (`data`, `event`, `id`, `retry`), or a comment.
        let begins_event = b"deir:".contains(&first);
        match self {
            Form::Unnamed { .. } | Form::Events(_) if first == b'{' => Form::Document(Scanner::default()),
            Form::Unnamed { stream } if stream || begins_event => Form::Events(Splitter::default()),
            Form::Unnamed { .. } => Form::Opaque,
            Form::Document(_) if begins_event => Form::Events(Splitter::default()),
            named => named,
        }
    }
}

impl Reader {
    pub(super) fn new(
        body: IncomingBody,
        headers: &HeaderMap,
        status: StatusCode,
        reads: Reads,
        idle: Duration,
    ) -> Reader {
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let form = match (status.is_success(), reads) {
            (false, _) | (true, Reads::Nothing) => Form::Opaque,
            (true, Reads::Object) => match Form::of(media_type.unwrap_or(""), false) {
                Form::Document(scanner) => Form::Document(scanner),
                _ => Form::Opaque,
            },
            (true, _) => Form::of(media_type.unwrap_or(""), reads.is_stream()),
        };
        Reader {
            body,
            form,
            is_form_sure: !matches!(reads, Reads::Response { .. } | Reads::Chat { .. }),
            reads,
            at_end: match status.is_success() {
                true => Outcome::Completed,
                false => Outcome::Rejected,
            },
            idle,
            deadline: Instant::now() + idle,
            facts: Facts::default(),
            quota: Quota::default(),
            gathering: None,
            output_began: false,
            complete: false,
            finished: false,
            last_sequence_number: None,
        }
    }

    /// The last event of the stream gets the items that came before, where it leaves them out.
    pub(super) fn completes(&mut self) {
        self.gathering = Some(Box::default());
    }

    /// What was read has been put together anew: it passes as it is.
    pub(super) fn becomes_made(&mut self) {
        self.form = Form::Made;
    }

    /// Whether the answer is a stream of events.
    pub fn is_events(&self) -> bool {
        matches!(self.form, Form::Events(_))
    }

    /// How many bytes are still to come, where that was announced.
    pub fn announced_bytes(&self) -> Option<u64> {
        match self.form {
            Form::Made => Some(0),
            _ => self.body.announced_bytes(),
        }
    }

    /// Reads the next piece. Can be dropped while it waits, without loss.
    pub async fn step(&mut self) -> Step {
        if matches!(self.form, Form::Made) {
            return Step::End;
        }
        let next = tokio::time::timeout_at(self.deadline, self.body.next()).await;
        self.deadline = match &next {
            // Asked again, it is as silent as before: whoever waits in steps waits no longer for it.
            Err(_) => self.deadline,
            Ok(_) => Instant::now() + self.idle,
        };
        match next {
            Err(_) => Step::Idle,
            Ok(None) => self.end(),
            Ok(Some(Err(reason))) => Step::Cut(reason),
            Ok(Some(Ok(bytes))) => self.read(bytes),
        }
    }

    fn end(&mut self) -> Step {
        let last = match &mut self.form {
            Form::Events(splitter) => splitter.last_event(),
            _ => None,
        };
        last.map_or(Step::End, |whole| Step::Bytes(self.pass_events(whole)))
    }

    /// What is left of an answer that ended in the middle of something.
    pub fn rest(&mut self) -> Bytes {
        match &mut self.form {
            Form::Events(splitter) => splitter.rest(),
            Form::Document(scanner) => scanner.rest(),
            Form::Opaque | Form::Unnamed { .. } | Form::Made => Bytes::new(),
        }
    }

    /// How many bytes have come and are kept here until more is known.
    pub fn withheld_bytes(&self) -> u64 {
        match &self.form {
            Form::Document(scanner) => scanner.held_bytes() as u64,
            _ => 0,
        }
    }

    fn read(&mut self, bytes: Bytes) -> Step {
        if !self.is_form_sure
            && let Some(first) = bytes.iter().find(|byte| !byte.is_ascii_whitespace())
        {
            self.is_form_sure = true;
            self.form = std::mem::replace(&mut self.form, Form::Opaque).by_first_byte(*first);
        }
        match &mut self.form {
            Form::Opaque | Form::Unnamed { .. } | Form::Made => Step::Bytes(bytes),
            Form::Document(scanner) => {
                let passed = scanner.push(bytes, &mut self.facts);
                self.output_began |= !passed.bytes.is_empty();
                self.complete |= passed.complete;
                Step::Bytes(passed.bytes)
            }
            Form::Events(splitter) => match splitter.push(bytes) {
                Err(events::EventTooLarge) => Step::Cut("an event is larger than the limit".to_owned()),
                Ok(whole) => Step::Bytes(self.pass_events(whole)),
            },
        }
    }

    /// Reads whole events, and gives what of them goes on.
    fn pass_events(&mut self, whole: Bytes) -> Bytes {
        if self.is_chat() {
            return self.read_chunks(whole);
        }
        let tells_quota = self.read_events(&whole);
        let whole = match &mut self.gathering {
            Some(gathering) => gathering.complete(whole),
            None => whole,
        };
        match tells_quota && self.hides_quota() {
            true => events::without_quota(whole),
            false => whole,
        }
    }

    /// Whether the answer has said that it failed.
    pub fn is_failing(&self) -> bool {
        self.facts.outcome == Some(Outcome::Failed)
    }

    /// Whether the answer is whole, and failed before the model had put out anything.
    pub fn failed_before_output(&self) -> bool {
        let is_before_output = match self.form {
            Form::Document(_) => self.complete && self.facts.items.is_empty(),
            _ => !self.output_began,
        };
        self.is_failing() && is_before_output
    }

    /// The `Content-Type` that says what the answer is; `None` where that is not known better than by the
    /// upstream.
    pub fn media_type(&self) -> Option<&'static str> {
        match self.form {
            Form::Events(_) => Some("text/event-stream"),
            Form::Document(_) => Some("application/json"),
            Form::Opaque | Form::Unnamed { .. } | Form::Made => None,
        }
    }

    /// Whether the answer is a chat, whose streams have other events.
    pub fn is_chat(&self) -> bool {
        matches!(self.reads, Reads::Chat { .. })
    }

    /// Whether an answer may be whole without having said so.
    pub fn may_just_end(&self) -> bool {
        match (&self.form, self.reads) {
            (_, Reads::Object | Reads::Nothing) => true,
            // What ended its text has said all that counts.
            (Form::Events(_), Reads::Chat { .. }) => self.finished,
            (form, _) => matches!(form, Form::Opaque | Form::Unnamed { .. } | Form::Made),
        }
    }

    fn read_chunks(&mut self, whole: Bytes) -> Bytes {
        let hides = matches!(
            self.reads,
            Reads::Chat {
                hides_usage: true,
                ..
            }
        );
        let read = chat::read(whole, hides, &mut self.facts);
        self.output_began |= read.output;
        self.finished |= read.finished;
        read.bytes
    }

    /// Reads events, and tells whether one of them is about the account's quota.
    fn read_events(&mut self, whole: &[u8]) -> bool {
        let mut tells_quota = false;
        for event in events::events(whole) {
            let meaning = event.meaning();
            self.output_began |= matches!(meaning, Meaning::Output | Meaning::Item);
            match meaning {
                Meaning::Output => {}
                Meaning::Quota => {
                    tells_quota = true;
                    self.quota.update(Quota::of_event(event.data(), now_ms()));
                }
                _ => event.read_into(meaning, &mut self.facts),
            }
            self.last_sequence_number = event.sequence_number().or(self.last_sequence_number);
        }
        tells_quota
    }

    fn hides_quota(&self) -> bool {
        matches!(
            self.reads,
            Reads::Response {
                hides_quota: true,
                ..
            }
        )
    }

    /// Whether everything has been told: the terminal event, or the end of the document, or the
    /// last of the bytes that were announced. Nobody asks for more after those.
    pub fn outcome(&self) -> Option<Outcome> {
        let all_came = self.announced_bytes() == Some(0);
        match self.form {
            Form::Events(_) => self.facts.outcome,
            Form::Made => Some(self.facts.outcome.unwrap_or(self.at_end)),
            Form::Document(_) if self.complete => Some(self.facts.outcome.unwrap_or(Outcome::Completed)),
            Form::Document(_) => all_came.then_some(Outcome::UpstreamCut),
            Form::Opaque | Form::Unnamed { .. } => all_came.then_some(self.at_end),
        }
    }
}
