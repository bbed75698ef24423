//! Makes the answer to a request: checks what it points at, counts tokens, and builds the object.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::account::{Kept, State};
use super::cache::BYTES_PER_TOKEN;
use super::fault::Fault;
use super::refusal::Refusal;
use super::things::Thing;
use crate::clock::now_ms;

/// Tokens that thinking takes, where a request asks for `reasoning`.
const REASONING_TOKENS: usize = 64;

/// The longest `prompt_cache_key`, in characters.
const CACHE_KEY_MAX: usize = 64;

/// An answer, ready to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    /// The whole object, as it is at the end.
    pub(super) object: Value,
    /// Whether it goes as a stream of events.
    pub(super) stream: bool,
    /// Whether delta events are padded.
    pub(super) obfuscation: bool,
    /// Whether it runs in the background.
    pub(super) in_background: bool,
    /// What the backend of ChatGPT logins says first. It leaves the output out of its last event.
    pub(super) plan: Option<Value>,
    /// What can be continued, where the request came over a WebSocket.
    pub(super) kept: Option<Arc<Kept>>,
}

/// What a connection holds besides the responses that are stored: by id.
pub(super) type Held<'a> = &'a (dyn Fn(&str) -> Option<Arc<Kept>> + Sync);

/// Members of a request that exist on a WebSocket only.
const SOCKET_ONLY: [&str; 3] = ["type", "stream_id", "generate"];

impl Answer {
    pub(super) fn id(&self) -> &str {
        self.object["id"].as_str().unwrap_or_default()
    }
}

/// Answers a request, and keeps the response unless it says not to.
pub(super) fn answer(state: &State, body: &[u8], fault: &Fault) -> Result<Answer, Refusal> {
    let request = Asked::read(body)?;
    if let Some(name) = SOCKET_ONLY.into_iter().find(|name| request.field(name).is_some()) {
        let message = format!("Unknown parameter: '{name}'.");
        return Err(Refusal::bad_request(
            Some("unknown_parameter"),
            Some(name),
            message,
        ));
    }
    make(state, None, &request, fault)
}

/// Answers a request that came over a WebSocket: what its connection holds can be continued, too.
pub(super) fn answer_on(
    state: &State,
    held: Held<'_>,
    body: &[u8],
    fault: &Fault,
) -> Result<Answer, Refusal> {
    make(state, Some(held), &Asked::read(body)?, fault)
}

fn make(state: &State, held: Option<Held<'_>>, request: &Asked, fault: &Fault) -> Result<Answer, Refusal> {
    let parent = request.parent(state, held)?;
    request.check_items(state, fault)?;
    state.check_model(request.text("model"))?;
    for name in ["input", "tools"] {
        state.check_things(request.field(name).unwrap_or(&Value::Null))?;
    }
    let conversation = request.conversation(state)?;

    let said = request.said();
    let asked = request.new_text();
    let history = match &conversation {
        Some(id) => {
            let things = state.things();
            let items = things.all(&format!("conversations/{id}/items"));
            items.iter().map(|item| item.object.to_string()).collect()
        }
        None => parent.as_ref().map(Kept::context).unwrap_or_default(),
    };
    let context = format!("{}{history}{asked}", request.preamble());
    let turns = parent.as_ref().map_or(0, |kept| kept.turns) + request.user_turns();

    // A warm-up reads its input and says nothing.
    let generates = request.field("generate") != Some(&Value::Bool(false));
    let mut output = Vec::new();
    if generates && request.field("reasoning").is_some_and(Value::is_object) {
        output.push(request.reasoning(state));
    }
    let (answered, reason) = match generates {
        true => {
            let (item, answered, reason) = request.output_item(state, fault, turns, &said);
            output.push(item);
            (answered, reason)
        }
        false => (String::new(), None),
    };
    if generates
        && said.contains("run the code")
        && let Some(item) = request.code_interpreter(state)
    {
        output.push(item);
    }

    let cache_key = request.text("prompt_cache_key");
    let cached = state.cached(cache_key, &context);
    let reasoned = if output.len() > 1 { REASONING_TOKENS } else { 0 };
    let usage = Figures {
        input: context.len().div_ceil(BYTES_PER_TOKEN),
        cached: cached.read,
        written: cached.written,
        output: answered.len().div_ceil(BYTES_PER_TOKEN) + reasoned,
        reasoning: reasoned,
    };
    let mut object = request.object(state, output, usage.object(fault), reason);
    if fault.withhold_foreign {
        object["input_transformations"] = request.withheld(state);
    }
    if let Some(id) = &conversation {
        object["conversation"] = json!({ "id": id });
        let said = request.items(state);
        state.converse(
            id,
            said.iter()
                .chain(object["output"].as_array().into_iter().flatten()),
        );
    }
    let in_background = request.field("background") == Some(&Value::Bool(true));
    object["background"] = in_background.into();
    let id = object["id"].as_str().unwrap_or_default().to_owned();
    let stored = request.field("store") != Some(&Value::Bool(false));
    let fails = fault.fail_in_stream.is_some() || fault.error_event || fault.nested_error_event;
    let kept = (!fails && (stored || held.is_some())).then(|| {
        let text = format!("{asked}{answered}");
        let items = request.items(state);
        Arc::new(Kept::new(parent, text, turns, object.clone(), items))
    });
    if let Some(kept) = kept.clone().filter(|_| stored) {
        state.keep(&id, kept);
    }
    if in_background {
        state.run_in_background(&id);
    }
    Ok(Answer {
        in_background,
        kept: kept.filter(|_| held.is_some()),
        stream: request.field("stream") == Some(&Value::Bool(true)),
        obfuscation: request
            .field("stream_options")
            .map(|options| &options["include_obfuscation"])
            != Some(&Value::Bool(false)),
        plan: None,
        object,
    })
}

/// Whether an item holds what only another account can read.
fn is_foreign(state: &State, item: &Value) -> bool {
    let sealed = item["encrypted_content"].as_str();
    sealed.is_some_and(|sealed| !state.opens(sealed))
}

/// Token figures.
struct Figures {
    input: usize,
    cached: usize,
    written: usize,
    output: usize,
    reasoning: usize,
}

impl Figures {
    fn object(&self, fault: &Fault) -> Value {
        if fault.no_usage {
            return Value::Null;
        }
        let mut usage = json!({
            "input_tokens": self.input,
            "input_tokens_details": { "cached_tokens": self.cached, "cache_write_tokens": self.written },
            "output_tokens": self.output,
            "output_tokens_details": { "reasoning_tokens": self.reasoning },
            "total_tokens": self.input + self.output,
        });
        if fault.no_details
            && let Some(usage) = usage.as_object_mut()
        {
            usage.remove("input_tokens_details");
            usage.remove("output_tokens_details");
        }
        usage
    }
}

/// A request, read.
struct Asked {
    fields: Map<String, Value>,
}

impl Asked {
    fn read(body: &[u8]) -> Result<Asked, Refusal> {
        let refused = |reason: String| {
            let message = format!("We could not parse the JSON body of your request: {reason}");
            Refusal::bad_request(None, None, message)
        };
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Asked { fields }),
            Ok(_) => Err(refused("not an object".to_owned())),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// A member that is there and not null.
    fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.field(name)?.as_str()
    }

    /// The response that this one follows.
    fn parent(&self, state: &State, held: Option<Held<'_>>) -> Result<Option<Arc<Kept>>, Refusal> {
        let Some(id) = self.text("previous_response_id") else {
            return Ok(None);
        };
        let unknown = || {
            let message = format!("Previous response with id '{id}' not found.");
            Refusal::bad_request(
                Some("previous_response_not_found"),
                Some("previous_response_id"),
                message,
            )
        };
        let on_connection = held.and_then(|held| held(id));
        let known = on_connection.or_else(|| state.kept(id));
        known.map(Some).ok_or_else(unknown)
    }

    /// What only the account that made it can read.
    fn check_items(&self, state: &State, fault: &Fault) -> Result<(), Refusal> {
        if self
            .text("prompt_cache_key")
            .is_some_and(|key| key.chars().count() > CACHE_KEY_MAX)
        {
            let message =
                "Invalid 'prompt_cache_key': string too long. Expected a string with maximum length 64.";
            let param = Some("prompt_cache_key");
            return Err(Refusal::bad_request(
                Some("string_above_max_length"),
                param,
                message.to_owned(),
            ));
        }
        for item in self.input_items() {
            let id = item["id"].as_str().unwrap_or_default();
            if item["type"] == "item_reference" && !state.knows_item(id) {
                let message = format!(
                    "Item with id '{id}' not found. Items are not persisted when `store` is set to false."
                );
                return Err(Refusal::not_found(message, Some("input")));
            }
            if is_foreign(state, item) && !fault.withhold_foreign {
                let message = format!(
                    "The encrypted content for item {id} could not be verified. Reason: Encrypted content \
                     organization_id did not match the target organization."
                );
                let code = (!fault.null_code).then_some("invalid_encrypted_content");
                return Err(Refusal::bad_request(code, None, message));
            }
        }
        Ok(())
    }

    /// What is said of reasoning that its model does not get.
    fn withheld(&self, state: &State) -> Value {
        let foreign = self.input_items().iter().filter(|item| is_foreign(state, item));
        let told = |item: &Value| json!({ "id": item["id"], "type": item["type"], "action": "removed", "reason": "organization_mismatch" });
        foreign.map(told).collect()
    }

    /// The conversation that it belongs to.
    fn conversation(&self, state: &State) -> Result<Option<String>, Refusal> {
        let id = match self.field("conversation") {
            None => return Ok(None),
            Some(Value::Object(conversation)) => conversation.get("id").cloned().unwrap_or_default(),
            Some(id) => id.clone(),
        };
        state.check_thing("conversations", "conversation", &id)?;
        Ok(id.as_str().map(str::to_owned))
    }

    /// A call that makes a container of its own.
    fn code_interpreter(&self, state: &State) -> Option<Value> {
        let tools = self.field("tools")?.as_array()?;
        let tool = tools.iter().find(|tool| tool["type"] == "code_interpreter")?;
        let container = state.id("cntr");
        if tool["container"].is_object() {
            let object = json!({ "id": container, "object": "container", "status": "running" });
            state.things().add("containers", Thing::new(object));
        }
        Some(json!({
            "id": state.id("ci"), "type": "code_interpreter_call", "status": "completed",
            "code": "1 + 1", "container_id": container, "outputs": null,
        }))
    }

    fn input_items(&self) -> &[Value] {
        self.field("input")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// The items of the input, each with an id.
    fn items(&self, state: &State) -> Vec<Value> {
        if let Some(text) = self.text("input") {
            let content = json!([{ "type": "input_text", "text": text }]);
            return vec![
                json!({ "id": state.id("msg"), "type": "message", "role": "user", "content": content }),
            ];
        }
        let with_id = |item: &Value| {
            let mut item = item.clone();
            if let Some(members) = item.as_object_mut() {
                members.entry("id").or_insert_with(|| state.id("msg").into());
            }
            item
        };
        self.input_items().iter().map(with_id).collect()
    }

    /// What stands before the history in every context.
    fn preamble(&self) -> String {
        let tools = self.field("tools").map(Value::to_string).unwrap_or_default();
        format!("{}{tools}", self.text("instructions").unwrap_or_default())
    }

    /// What this request adds to the history.
    fn new_text(&self) -> String {
        self.field("input").map(Value::to_string).unwrap_or_default()
    }

    fn user_turns(&self) -> usize {
        let user = |item: &&Value| item["role"] == "user";
        self.input_items().iter().filter(user).count().max(1)
    }

    /// What the user said last.
    fn said(&self) -> String {
        if let Some(text) = self.text("input") {
            return text.to_owned();
        }
        let said_by_user = self
            .input_items()
            .iter()
            .rev()
            .find(|item| item["role"] == "user");
        let content = said_by_user.map_or(&Value::Null, |item| &item["content"]);
        match content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => String::new(),
        }
    }

    fn reasoning(&self, state: &State) -> Value {
        let mut item = json!({ "id": state.id("rs"), "type": "reasoning", "summary": [] });
        let asks = |value: &Value| {
            value
                .as_array()
                .is_some_and(|list| list.contains(&"reasoning.encrypted_content".into()))
        };
        if self.field("include").is_some_and(asks) {
            item["encrypted_content"] = state.seal().into();
        }
        item
    }

    /// The message, or the call of a tool that the user asks for; its text; and why it is incomplete.
    fn output_item(
        &self,
        state: &State,
        fault: &Fault,
        turns: usize,
        said: &str,
    ) -> (Value, String, Option<&'static str>) {
        if let Some((name, arguments)) = self.tool_asked_for(said) {
            let item = json!({
                "id": state.id("fc"), "type": "function_call", "status": "completed",
                "call_id": state.id("call"), "name": name, "arguments": arguments,
            });
            return (item, format!("{name}{arguments}"), None);
        }
        let mut text = spoken(&state.name, turns, said, fault.output_bytes);
        let mut reason = fault.incomplete.then_some("max_output_tokens");
        let limit = self.field("max_output_tokens").and_then(Value::as_u64);
        let bytes_max = limit
            .and_then(|tokens| usize::try_from(tokens).ok())
            .map(|tokens| tokens * BYTES_PER_TOKEN);
        if let Some(bytes_max) = bytes_max.filter(|bytes_max| text.len() > *bytes_max) {
            text.truncate(text.floor_char_boundary(bytes_max));
            reason = Some("max_output_tokens");
        }
        let item = json!({
            "id": state.id("msg"), "type": "message", "role": "assistant",
            "status": if reason.is_some() { "incomplete" } else { "completed" },
            "content": [{ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }],
        });
        (item, text, reason)
    }

    /// The tool that the user asks for in the last item, and its arguments: "call the tool NAME", or
    /// "call the tool NAME with {…}". What the tool has said is answered with text.
    fn tool_asked_for<'a>(&'a self, said: &'a str) -> Option<(&'a str, &'a str)> {
        let last = self.input_items().last();
        let is_output = |item: &Value| {
            item["type"]
                .as_str()
                .is_some_and(|kind| kind.ends_with("_output"))
        };
        if last.is_some_and(is_output) {
            return None;
        }
        let (_, after) = said.split_once("call the tool ")?;
        let asked = after
            .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
            .next()?;
        let tools = self.field("tools")?.as_array()?;
        let with = after.split_once(" with ").map(|(_, with)| with.trim());
        let arguments = with.filter(|with| serde_json::from_str::<Map<String, Value>>(with).is_ok());
        let name = tools
            .iter()
            .filter_map(|tool| tool["name"].as_str())
            .find(|name| *name == asked)?;
        Some((name, arguments.unwrap_or("{}")))
    }

    /// The whole object: what was asked, as the real API repeats it, and what came of it.
    fn object(&self, state: &State, output: Vec<Value>, usage: Value, reason: Option<&str>) -> Value {
        let created = now_ms() / 1000;
        let asked = |name: &str, otherwise: Value| self.field(name).cloned().unwrap_or(otherwise);
        let tier = match self.text("service_tier") {
            None | Some("auto") => "default",
            Some(tier) => tier,
        };
        json!({
            "id": state.id("resp"),
            "object": "response",
            "created_at": created,
            "status": if reason.is_some() { "incomplete" } else { "completed" },
            "background": false,
            "completed_at": created,
            "error": null,
            "incomplete_details": reason.map(|reason| json!({ "reason": reason })),
            "instructions": asked("instructions", Value::Null),
            "max_output_tokens": asked("max_output_tokens", Value::Null),
            "max_tool_calls": asked("max_tool_calls", Value::Null),
            "metadata": asked("metadata", json!({})),
            "model": asked("model", "sim-large".into()),
            "output": output,
            "parallel_tool_calls": asked("parallel_tool_calls", true.into()),
            "previous_response_id": asked("previous_response_id", Value::Null),
            "prompt_cache_key": asked("prompt_cache_key", Value::Null),
            "reasoning": asked("reasoning", json!({ "effort": null, "summary": null })),
            "safety_identifier": asked("safety_identifier", Value::Null),
            "service_tier": tier,
            "store": asked("store", true.into()),
            "temperature": asked("temperature", 1.0.into()),
            "text": asked("text", json!({ "format": { "type": "text" } })),
            "tool_choice": asked("tool_choice", "auto".into()),
            "tools": asked("tools", json!([])),
            "top_logprobs": asked("top_logprobs", 0.into()),
            "top_p": asked("top_p", 1.0.into()),
            "truncation": asked("truncation", "disabled".into()),
            "usage": usage,
            "user": asked("user", Value::Null),
        })
    }
}

/// What the account says: who it is, which turn this is, what it heard; then filling.
pub(super) fn spoken(name: &str, turns: usize, said: &str, bytes: Option<usize>) -> String {
    const HEARD_MAX: usize = 200;
    const FILLING: &str = " The tide comes in, the tide goes out, and the lines hold.";
    let heard = &said[..said.floor_char_boundary(HEARD_MAX)];
    let mut text = format!("Turn {turns} on {name}. You said: {heard}");
    if let Some(bytes) = bytes {
        while text.len() < bytes {
            text.push_str(FILLING);
        }
        text.truncate(text.floor_char_boundary(bytes));
    }
    text
}
