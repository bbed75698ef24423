//! A small client of the Responses API, for the demo and for tests: it asks, and says what came.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::response::Usage;

/// A client of one server, with its key.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base_url: String,
    key: String,
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// What the user says.
    pub text: &'a str,
    /// The response that it follows.
    pub previous_response_id: Option<&'a str>,
    /// How the simulated account is to behave; see [`super::Fault`].
    pub simulate: &'a str,
}

impl<'a> Turn<'a> {
    /// A turn of a conversation.
    pub fn new(text: &'a str, previous_response_id: Option<&'a str>, simulate: &'a str) -> Turn<'a> {
        Turn {
            text,
            previous_response_id,
            simulate,
        }
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The account, as a gateway names it.
    pub account: Option<String>,
    /// The affinity, as a gateway names it.
    pub affinity: Option<String>,
    /// The id of the response.
    pub response_id: Option<String>,
    /// The code of the error.
    pub error_code: Option<String>,
    /// The figures.
    pub usage: Usage,
    /// From the question to the last byte.
    pub elapsed: Duration,
}

impl Reply {
    /// The share of the input that came from the cache.
    pub fn cached_percent(&self) -> Option<f64> {
        let (cached, input) = (self.usage.cached?, self.usage.input?);
        (input > 0).then(|| 100.0 * cached as f64 / input as f64)
    }
}

impl Client {
    /// A client for the server at this base URL, which ends with `/v1`.
    pub fn new(base_url: &str, key: &str) -> Client {
        // Chosen once a process; whoever was first has chosen.
        rustls::crypto::ring::default_provider().install_default().ok();
        Client {
            http: reqwest::Client::new(),
            base_url: base_url.to_owned(),
            key: key.to_owned(),
        }
    }

    /// Asks, and reads the answer to its end.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn ask(&self, turn: &Turn<'_>) -> reqwest::Result<Reply> {
        let begin = Instant::now();
        let mut body = json!({
            "model": "sim-large",
            "instructions": "You are a patient harbour master. Answer in plain words, with the figures that matter.",
            "input": [{ "role": "user", "content": turn.text }],
        });
        if let Some(previous) = turn.previous_response_id {
            body["previous_response_id"] = previous.into();
        }
        let request = self
            .http
            .post(format!("{}/responses", self.base_url))
            .bearer_auth(&self.key)
            .header("content-type", "application/json")
            .header("x-simulate", turn.simulate)
            .body(body.to_string());
        let response = request.send().await?;
        let status = response.status().as_u16();
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let (account, affinity) = (header("x-moorage-account"), header("x-moorage-affinity"));
        let answer: Value = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let usage = &answer["usage"];
        Ok(Reply {
            status,
            account,
            affinity,
            response_id: text(&answer["id"]),
            error_code: text(&answer["error"]["code"]),
            usage: Usage {
                input: usage["input_tokens"].as_i64(),
                cached: usage["input_tokens_details"]["cached_tokens"].as_i64(),
                cache_write: usage["input_tokens_details"]["cache_write_tokens"].as_i64(),
                output: usage["output_tokens"].as_i64(),
                reasoning: usage["output_tokens_details"]["reasoning_tokens"].as_i64(),
            },
            elapsed: begin.elapsed(),
        })
    }
}
