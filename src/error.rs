//! What can go wrong with an exchange, with no HTTP in it: `server::errors` makes statuses and
//! texts for clients from these.

use std::time::Duration;

use crate::request::codex::Unfit;

/// Why a request got no answer from an upstream, or none that could be passed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No account is configured yet.
    #[error("no accounts")]
    NoAccounts,
    /// No usable client key came with the request.
    #[error("no valid client key")]
    UnknownKey,
    /// No usable client key came, as too often before from the same address.
    #[error("too many requests without a valid client key")]
    TooManyWrongKeys {
        /// Until it is told again that the key is wrong.
        retry_after: Duration,
    },
    /// The client key has expired.
    #[error("the client key has expired")]
    KeyExpired,
    /// The client key may not ask for this model.
    #[error("model '{0}' is not allowed for this client key")]
    ModelNotAllowed(String),
    /// The client key runs as many requests as it may.
    #[error("the client key runs {0} requests already")]
    KeyBusy(u32),
    /// The client key has spent its budget.
    #[error("the client key has spent its budget of the {period}")]
    BudgetSpent {
        /// `day` or `month`.
        period: &'static str,
        /// When the next one begins, in milliseconds since 1970 UTC.
        until_ms: i64,
        /// When it was asked.
        now_ms: i64,
    },
    /// A request to be explained names no client key, or one that is not there.
    #[error("no such client key")]
    UnknownKeyName,
    /// The body is larger than the limit, in bytes.
    #[error("request body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// An upload is larger than the limit, in bytes.
    #[error("upload is larger than {0} bytes")]
    UploadTooLarge(u64),
    /// The body is not what its `Content-Encoding` says, or did not arrive whole.
    #[error("request body could not be read: {0}")]
    BodyUnreadable(String),
    /// An upstream's answer is not what it says it is.
    #[error("an answer that cannot be read")]
    UnreadableAnswer,
    /// A message on a WebSocket is not text.
    #[error("a binary message")]
    BinaryMessage,
    /// An event on a WebSocket is of a type that nobody here knows.
    #[error("an event of a type that is not known")]
    UnknownEvent,
    /// The name of a lane is none.
    #[error("an invalid stream_id")]
    InvalidLane,
    /// A WebSocket has had so many lanes.
    #[error("the connection has had {0} lanes")]
    TooManyLanes(usize),
    /// The body did not arrive in time.
    #[error("request body did not arrive in time")]
    BodyTimeout,
    /// The body's `Content-Encoding` is none of those that are undone here.
    #[error("request body is encoded as {0}")]
    UnknownEncoding(String),
    /// The body is no JSON object.
    #[error("request body is not a JSON object: {message} at line {line} column {column}")]
    BadJson {
        /// What the reader found.
        message: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A reference is longer than any real one.
    #[error("{parameter} is longer than a reference can be")]
    InvalidReference {
        /// The field that holds it.
        parameter: &'static str,
    },
    /// The body is nested deeper, or points with more ids, than any real request.
    #[error("the request body {0} than any real request")]
    Extravagant(&'static str),
    /// Two references name different places.
    #[error("{first} and {second} are in different places")]
    Conflict {
        /// The one that would decide: kind, id, account.
        first: String,
        /// The one that disagrees.
        second: String,
    },
    /// A parameter of the query that cannot be honoured.
    #[error("{parameter}: {reason}")]
    Parameter {
        /// Its name.
        parameter: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// No account is known to hold this item.
    #[error("item '{0}' is unknown")]
    ItemNotFound(String),
    /// No account is known to hold this thing.
    #[error("{thing} '{id}' is unknown")]
    NotFound {
        /// What it is called.
        thing: &'static str,
        /// Its id.
        id: String,
        /// The field that names it; `None` for the path.
        parameter: Option<&'static str>,
    },
    /// The account is of a kind that cannot do what is asked.
    #[error("account {account} cannot do this: {unfit:?}")]
    Unfit {
        /// Its name.
        account: String,
        /// What it cannot do.
        unfit: Unfit,
        /// The response that the request follows.
        id: Option<String>,
    },
    /// An account that holds a part of a list does not tell it.
    #[error("account {account:?} does not list: {reason}")]
    ListNotWhole {
        /// Who.
        account: Option<String>,
        /// Why, in words for a person.
        reason: String,
    },
    /// A list has too much before its next item that is not for this client.
    #[error("the list has too much that is skipped")]
    ListTooLong,
    /// A form names an id behind its file, when it is on its way already.
    #[error("a form names an id behind its file")]
    LateReference,
    /// There is no such path.
    #[error("no such path")]
    NoSuchPath,
    /// No account is known to hold this response, and several could.
    #[error("previous response '{0}' is unknown")]
    PreviousResponseNotFound(String),
    /// The account is limited; it may be tried again after this time.
    #[error("account {account:?} is cooling down for {retry_after:?}")]
    CoolingDown {
        /// The account that the request is pinned to; `None` where every account is limited.
        account: Option<String>,
        /// Until then, at the most.
        retry_after: Duration,
    },
    /// Every account that may serve runs as many requests as it may.
    #[error("account {account:?} is busy")]
    Busy {
        /// The account that the request is pinned to; `None` where every account is busy.
        account: Option<String>,
    },
    /// The account that the request is pinned to cannot serve it.
    #[error("account {account:?} is unavailable: {reason}")]
    Unavailable {
        /// The account that the request is pinned to; `None` where no account can serve.
        account: Option<String>,
        /// Why, in words for a person.
        reason: String,
    },
    /// The upstream could not be reached; nothing was sent.
    #[error("account {account} could not be reached: {reason}")]
    Unreachable {
        /// The account that was tried last.
        account: String,
        /// Without addresses of ours and without credentials.
        reason: String,
    },
    /// The request was sent, and the connection broke before an answer: it may have run.
    #[error("account {account} closed the connection before it answered: {reason}")]
    Unanswered {
        /// The account that was asked.
        account: String,
        /// What broke.
        reason: String,
    },
    /// The upstream did not answer in time.
    #[error("account {account} did not answer in time")]
    Timeout {
        /// The account that was asked.
        account: String,
    },
    /// The account's address sends requests elsewhere: it is not the right one.
    #[error("account {account} redirects with status {status}")]
    Redirected {
        /// The account that was asked.
        account: String,
        /// The status of the redirect.
        status: u16,
    },
    /// The answer has a `Content-Encoding` that nobody asked for.
    #[error("account {account} sent an answer encoded as {encoding}")]
    UnaskedEncoding {
        /// The account that was asked.
        account: String,
        /// What the answer's head said.
        encoding: String,
    },
    /// The database cannot be written, and the configuration says not to go on without it.
    #[error("the database cannot be written")]
    StoreUnavailable,
    /// The database could not be read.
    #[error("the database cannot be read: {0}")]
    StoreUnreadable(String),
}
