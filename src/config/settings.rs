//! The settings of the file, with their defaults and the forms in which people write them.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Deserializer};

use crate::limits;
use crate::pool::Rotation;
use crate::upstream::login::TOKEN_URL;

/// How conversations are kept together.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AffinitySettings {
    /// Lifetime of responses and other hard references.
    #[serde(deserialize_with = "duration")]
    pub response_ttl: Duration,
    /// Lifetime of sessions, cache keys and prefixes after their last use.
    #[serde(deserialize_with = "duration")]
    pub session_ttl: Duration,
    /// Lifetime of conversations, files and other things after their last use.
    #[serde(deserialize_with = "duration")]
    pub object_ttl: Duration,
    /// How long a preference is served elsewhere before it moves there.
    #[serde(deserialize_with = "duration")]
    pub detour_max: Duration,
    /// Whether the accounts are asked for an id that nobody knows.
    pub ask_around: bool,
    /// How often what has expired is looked for.
    #[serde(deserialize_with = "duration")]
    pub sweep_interval: Duration,
    /// How long a request waits for the account it is pinned to.
    #[serde(deserialize_with = "duration")]
    pub pin_wait: Duration,
    /// Headers that name a session, the first that is there counts.
    #[serde(deserialize_with = "header_names")]
    pub session_headers: Vec<HeaderName>,
}

impl Default for AffinitySettings {
    fn default() -> Self {
        AffinitySettings {
            response_ttl: limits::RESPONSE_TTL,
            session_ttl: limits::SESSION_TTL,
            object_ttl: limits::OBJECT_TTL,
            detour_max: limits::DETOUR_MAX,
            ask_around: true,
            sweep_interval: limits::SWEEP_INTERVAL,
            pin_wait: limits::PIN_WAIT,
            session_headers: SESSION_HEADERS.map(HeaderName::from_static).to_vec(),
        }
    }
}

/// The headers by which the clients in the field name a session: Codex CLI, older and newer, and
/// what other gateways have taught their users.
const SESSION_HEADERS: [&str; 6] = [
    "session-id",
    "session_id",
    "thread-id",
    "conversation_id",
    "x-session-id",
    "x-session-affinity",
];

/// How long the history is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageSettings {
    /// Usage rows; after it they are folded into the hourly sums.
    #[serde(deserialize_with = "duration")]
    pub retention: Duration,
    /// How many usage rows are kept, whatever their age.
    pub rows: u64,
    /// The currency of the prices, as it is shown.
    pub currency: String,
}

impl Default for UsageSettings {
    fn default() -> Self {
        UsageSettings {
            retention: limits::USAGE_RETENTION,
            rows: limits::USAGE_ROWS_MAX,
            currency: "USD".to_owned(),
        }
    }
}

/// Caps and timeouts that an operator may need to change.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// A request body, after decompression.
    pub request_body_bytes: usize,
    /// An upload, which passes while it comes.
    pub upload_bytes: u64,
    /// To connect to an upstream.
    #[serde(deserialize_with = "duration")]
    pub upstream_connect: Duration,
    /// From a sent request to the head of its answer.
    #[serde(deserialize_with = "duration")]
    pub upstream_first_byte: Duration,
    /// Between two pieces of an answer.
    #[serde(deserialize_with = "duration")]
    pub upstream_idle: Duration,
    /// The silence of an upstream after which a comment goes into an open stream.
    #[serde(deserialize_with = "duration")]
    pub stream_comment: Duration,
    /// Between two pings of a WebSocket, on both sides.
    #[serde(deserialize_with = "duration")]
    pub socket_ping: Duration,
    /// How long a WebSocket to an account is used.
    #[serde(deserialize_with = "duration")]
    pub socket_age: Duration,
    /// How long a WebSocket to an account is kept for a client over HTTP that does not use it.
    #[serde(deserialize_with = "duration")]
    pub socket_idle: Duration,
    /// For running exchanges after the signal to stop.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Duration,
    /// Open client connections.
    pub connections: usize,
    /// For a client to send the head of a request.
    #[serde(deserialize_with = "duration")]
    pub request_head: Duration,
    /// How long a client may take nothing of what is there for it.
    #[serde(deserialize_with = "duration")]
    pub client_stall: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        LimitSettings {
            request_body_bytes: limits::REQUEST_BODY_BYTES_MAX,
            upload_bytes: limits::UPLOAD_BYTES_MAX,
            upstream_connect: limits::UPSTREAM_CONNECT,
            upstream_first_byte: limits::UPSTREAM_FIRST_BYTE,
            upstream_idle: limits::UPSTREAM_IDLE,
            stream_comment: limits::STREAM_COMMENT,
            socket_ping: limits::SOCKET_PING,
            socket_age: limits::SOCKET_AGE,
            socket_idle: limits::SOCKET_IDLE,
            shutdown_grace: limits::SHUTDOWN_GRACE,
            connections: limits::CONNECTIONS_MAX,
            request_head: limits::REQUEST_HEAD,
            client_stall: limits::CLIENT_STALL,
        }
    }
}

impl LimitSettings {
    /// Whether a gateway could work within them.
    pub(super) fn check(&self) -> Result<(), String> {
        let times = [
            ("upstream_connect", self.upstream_connect),
            ("upstream_first_byte", self.upstream_first_byte),
            ("upstream_idle", self.upstream_idle),
            ("stream_comment", self.stream_comment),
            ("socket_ping", self.socket_ping),
            ("request_head", self.request_head),
            ("client_stall", self.client_stall),
        ];
        let is_nothing = |(_, time): &&(&str, Duration)| time.is_zero();
        if let Some((name, _)) = times.iter().find(is_nothing) {
            return Err(format!("limits.{name}: it must be longer than nothing"));
        }
        if !(1..=u32::MAX as usize).contains(&self.connections) {
            return Err("limits.connections: it must be at least 1, and less than 2^32".to_owned());
        }
        if self.request_body_bytes == 0 {
            return Err("limits.request_body_bytes: it must be at least 1".to_owned());
        }
        Ok(())
    }
}

/// Where accounts of kind `codex` have their logins renewed.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CodexSettings {
    /// The place of renewal.
    pub token_url: String,
}

impl Default for CodexSettings {
    fn default() -> Self {
        CodexSettings {
            token_url: TOKEN_URL.to_owned(),
        }
    }
}

/// What clients are told.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerSettings {
    /// Whether answers carry `x-moorage-request-id`, `-account` and `-affinity`.
    pub routing_headers: bool,
}

impl Default for AnswerSettings {
    fn default() -> Self {
        AnswerSettings {
            routing_headers: true,
        }
    }
}

/// How accounts take turns.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolSettings {
    /// Whose turn it is.
    pub rotation: Rotation,
}

/// Who may open the page and the admin API.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSettings {
    /// The names under which this machine is called, besides `localhost` and plain addresses.
    pub allowed_hosts: Vec<String>,
    /// The origins of pages whose scripts may call `/v1`, as in `https://chat.example.org`.
    pub allowed_origins: Vec<String>,
}

/// How this server proves who it is to its clients.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// The chain of certificates, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// A duration as people write it: `30d`, `4h`, `10m`, `1h 30m`, `250ms`. Days have 24 hours.
///
/// # Errors
/// If it is none, or negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("'{text}' is no duration; write for example 30d, 4h, 10m or 15s");
    let span: Span = text.parse().map_err(|_| invalid())?;
    let duration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| invalid())?;
    Duration::try_from(duration).map_err(|_| invalid())
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

fn header_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeaderName>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let parse = |name: String| {
        name.parse::<HeaderName>()
            .map_err(|_| serde::de::Error::custom(format!("'{name}' is no header name")))
    };
    names.into_iter().map(parse).collect()
}
