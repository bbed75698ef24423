//! Errors of the backend of ChatGPT logins, in the words of OpenAI's API: clients read no others.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::Facts;

/// An error answer as OpenAI words it; nothing where it already is one.
///
/// The backend says `{"detail": "…"}`, or a list of what is wrong with which field, or, from the servers
/// in front of it, a page for people.
pub fn reworded(status: StatusCode, code: Option<&str>, body: &[u8]) -> Option<Bytes> {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    if said["error"].is_object() {
        return None;
    }
    let message = match &said["detail"] {
        Value::String(detail) => detail.clone(),
        Value::Array(problems) => problems.iter().map(problem).collect::<Vec<_>>().join("; "),
        _ => format!(
            "The upstream answered with status {} and without a reason.",
            status.as_u16()
        ),
    };
    Some(error(status.as_u16(), code, &message))
}

/// What is wrong with a field: `body.model: Field required`.
fn problem(problem: &Value) -> String {
    let place = problem["loc"].as_array().into_iter().flatten();
    let place: Vec<String> = place
        .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
        .collect();
    let said = problem["msg"].as_str().unwrap_or("is not right");
    format!("{}: {said}", place.join("."))
}

/// The error that an event inside a stream told, for a client that asked for no stream.
pub fn of_event(status: u16, facts: &Facts) -> Bytes {
    let said = facts.error.message.as_deref();
    let message = said.unwrap_or("The upstream failed in the middle of its answer.");
    error(status, facts.error_code.as_deref(), message)
}

fn error(status: u16, code: Option<&str>, message: &str) -> Bytes {
    let kind = match status {
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let error = json!({ "message": message, "type": kind, "param": null, "code": code });
    Bytes::from(json!({ "error": error }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_backends_errors_becomes_one_of_openais() {
        let word = |status: u16, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            let bytes = reworded(status, None, body.as_bytes())?;
            Some(serde_json::from_slice::<Value>(&bytes).unwrap()["error"].clone())
        };
        let detail = word(400, r#"{"detail":"Store must be set to false"}"#).unwrap();
        assert_eq!(
            detail,
            json!({ "message": "Store must be set to false", "type": "invalid_request_error", "param": null, "code": null })
        );
        let fields = r#"{"detail":[{"type":"missing","loc":["body","input",0],"msg":"Field required"},{}]}"#;
        assert_eq!(
            word(422, fields).unwrap()["message"],
            "body.input.0: Field required; : is not right"
        );
        let page = word(403, "<html>Just a moment...</html>").unwrap();
        assert_eq!(
            page["message"],
            "The upstream answered with status 403 and without a reason."
        );
        assert_eq!(word(503, "").unwrap()["type"], "server_error");
        assert_eq!(word(429, r#"{"error":{"type":"usage_limit_reached"}}"#), None);
    }
}
