//! Two client keys cannot reach each other's things: endpoint by endpoint, an id of the other is
//! refused as one that never existed. The same words, the same headers, and the same work: what is
//! asked of the accounts, and when it is asked again, does not tell one from the other.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::endpoints::{OTHER, call, over_two_keys, upload};
use crate::harness::{Harness, KEY, Reply};

/// What a request carries. `<name>` stands for the id of a thing, see [`Things`].
#[derive(Clone, Copy)]
enum Body {
    None,
    Json(&'static str),
    /// Fields of a form, as `name=value`, and a file of this content behind or before them.
    Form(&'static str),
    FormAfterFile(&'static str),
}

use Body::*;

/// The ids of things by their names: of the one key, or of the other (`<own_…>`).
type Things = HashMap<&'static str, String>;

async fn things(harness: &Harness, key: &str, names: [&'static str; 11]) -> Things {
    let post = async |path: &str, body: Value| {
        let reply = call(harness, key, "POST", path, Some(body)).await;
        assert_eq!(reply.status, 200, "{path} {reply:?}");
        reply.json()
    };
    let messages = json!([{ "role": "user", "content": key }]);
    let response = post("/responses", json!({ "model": "sim-large", "input": key })).await;
    let background = post("/responses", json!({ "input": key, "background": true })).await;
    let conversation = post("/conversations", json!({ "items": messages })).await;
    let path = format!("/conversations/{}/items", conversation["id"].as_str().unwrap());
    let said = call(harness, key, "GET", &path, Option::None).await.json();
    let file = upload(harness, key, "/files", "secret").await.json();
    let store = post("/vector_stores", json!({ "file_ids": [file["id"]] })).await;
    let path = format!("/vector_stores/{}/files", store["id"].as_str().unwrap());
    post(&path, json!({ "file_id": file["id"] })).await;
    let container = post("/containers", json!({ "name": "a" })).await;
    let path = format!("/containers/{}/files", container["id"].as_str().unwrap());
    let inside = upload(harness, key, &path, "secret").await.json();
    let begun = post("/uploads", json!({ "filename": "a", "bytes": 4 })).await;
    let chat = post(
        "/chat/completions",
        json!({ "store": true, "messages": messages }),
    )
    .await;
    let batch = post("/batches", json!({ "input_file_id": file["id"] })).await;
    let ids = [
        &response["id"],
        &response["output"][0]["id"],
        &background["id"],
        &conversation["id"],
        &said["data"][0]["id"],
        &file["id"],
        &store["id"],
        &container["id"],
        &begun["id"],
        &chat["id"],
        &batch["id"],
    ];
    let mut things: Things = names
        .into_iter()
        .zip(ids.map(|id| id.as_str().unwrap().to_owned()))
        .collect();
    things.insert("inside", inside["id"].as_str().unwrap().to_owned());
    things
}

const NAMES: [&str; 11] = [
    "response",
    "item",
    "background",
    "conversation",
    "said",
    "file",
    "store",
    "container",
    "upload",
    "chat",
    "batch",
];

const OWN: [&str; 11] = [
    "own_response",
    "own_item",
    "own_background",
    "own_conversation",
    "own_said",
    "own_file",
    "own_store",
    "own_container",
    "own_upload",
    "own_chat",
    "own_batch",
];

fn filled(template: &str, things: &Things) -> String {
    things.iter().fold(template.to_owned(), |text, (name, id)| {
        text.replace(&format!("<{name}>"), id)
    })
}

async fn send(harness: &Harness, key: &str, method: &str, path: &str, body: Body, things: &Things) -> Reply {
    let path = filled(path, things);
    let (fields, file_first) = match body {
        None => return call(harness, key, method, &path, Option::None).await,
        Json(body) => {
            let body = serde_json::from_str(&filled(body, things)).unwrap();
            return call(harness, key, method, &path, Some(body)).await;
        }
        Form(fields) => (fields, false),
        FormAfterFile(fields) => (fields, true),
    };
    let part = |head: &str, content: &str| {
        format!("--b\r\ncontent-disposition: form-data; {head}\r\n\r\n{content}\r\n")
    };
    // So large that it has begun to pass before the end of it comes.
    let file = part("name=\"file\"; filename=\"a\"", &"x".repeat(1024 * 1024));
    let fields: String = filled(fields, things)
        .split('&')
        .filter_map(|field| field.split_once('='))
        .map(|(name, value)| part(&format!("name={name:?}"), value))
        .collect();
    let parts = if file_first { file + &fields } else { fields };
    let url = format!("{}/v1{path}", harness.gateway.url());
    let request = harness
        .http
        .request(method.parse().unwrap(), url)
        .bearer_auth(key);
    let request = request.header("content-type", "multipart/form-data; boundary=b");
    Reply::of(request.body(format!("{parts}--b--\r\n"))).await
}

/// What can be seen of a refusal, from outside and at the accounts, with the id replaced.
async fn seen(harness: &Harness, reply: &Reply, ids: &[&String]) -> Value {
    let hide = |text: String| ids.iter().fold(text, |text, id| text.replace(*id, "ID"));
    // Whether the connection is kept depends on how much of an upload had come when it was answered.
    let varies = ["date", "x-moorage-request-id", "x-request-id", "connection"];
    let mut headers: Vec<String> = reply
        .headers
        .iter()
        .filter(|(name, _)| !varies.contains(&name.as_str()))
        .map(|(name, value)| hide(format!("{name}: {}", value.to_str().unwrap())))
        .filter(|header| !header.starts_with("content-length"))
        .collect();
    headers.sort();
    let row = harness.row(reply.request_id()).await;
    let row = [
        "outcome",
        "status",
        "error_code",
        "affinity",
        "affinity_by",
        "attempts",
        "account",
    ]
    .map(|name| row[name].clone());
    let asked: Vec<Vec<String>> = harness
        .simulator
        .accounts()
        .iter()
        .map(|account| {
            let journal = account.journal().into_iter();
            journal
                .map(|entry| hide(format!("{} {}", entry.method, entry.path)))
                .collect()
        })
        .collect();
    for account in harness.simulator.accounts() {
        account.clear_journal();
    }
    let body = hide(String::from_utf8(reply.body.clone()).unwrap());
    json!({ "status": reply.status, "body": body, "headers": headers, "row": row, "asked": asked })
}

/// Asks for what is another key's, and for what never was, twice; then for what is one's own.
async fn is_isolated(method: &str, path: &str, body: Body) {
    for accounts in [1, 2] {
        let (harness, _folder) = over_two_keys(accounts).await;
        let theirs = things(&harness, KEY, NAMES).await;
        let own = things(&harness, OTHER, OWN).await;
        let never: Things = theirs
            .iter()
            .map(|(name, id)| {
                let kept = id.split_once(['_', '-']).unwrap().0.len() + 9;
                let random = format!(
                    "{}{}",
                    uuid::Uuid::new_v4().simple(),
                    uuid::Uuid::new_v4().simple()
                );
                (*name, format!("{}{}", &id[..kept], &random[..id.len() - kept]))
            })
            .collect();
        for account in harness.simulator.accounts() {
            account.clear_journal();
        }
        let mut told = Vec::new();
        for others in [&theirs, &never] {
            let mut all = own.clone();
            all.extend(others.iter().map(|(name, id)| (*name, id.clone())));
            for _ in 0..2 {
                let reply = send(&harness, OTHER, method, path, body, &all).await;
                assert!(matches!(reply.status, 400 | 404), "{reply:?}");
                let ids: Vec<&String> = others.values().collect();
                told.push(seen(&harness, &reply, &ids).await);
            }
        }
        assert_eq!(told[0], told[2], "asked for the first time, {accounts} accounts");
        assert_eq!(told[1], told[3], "asked again, {accounts} accounts");
        // It is there, and its owner reaches it.
        let mut all = theirs.clone();
        let pairs = OWN.iter().zip(NAMES);
        all.extend(pairs.map(|(own, name)| (*own, theirs[name].clone())));
        let reply = send(&harness, KEY, method, path, body, &all).await;
        assert_eq!(reply.status, 200, "{method} {path} {reply:?}");
    }
}

macro_rules! isolated {
    ($($name:ident: $method:literal $path:literal, $body:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                is_isolated($method, $path, $body).await;
            }
        )*
    };
}

isolated! {
    a_response_is_not_retrieved: "GET" "/responses/<response>", None;
    a_response_is_not_streamed_again: "GET" "/responses/<background>?stream=true&starting_after=1", None;
    the_input_of_a_response_is_not_listed: "GET" "/responses/<response>/input_items", None;
    a_response_is_not_cancelled: "POST" "/responses/<background>/cancel", Json("{}");
    a_response_is_not_deleted: "DELETE" "/responses/<response>", None;
    a_response_is_not_followed: "POST" "/responses", Json(r#"{"input":"x","previous_response_id":"<response>"}"#);
    a_response_is_not_followed_in_a_stream: "POST" "/responses", Json(r#"{"input":"x","stream":true,"previous_response_id":"<response>"}"#);
    an_item_is_not_referred_to_beside_messages: "POST" "/responses", Json(r#"{"input":[{"type":"item_reference","id":"<item>"}],"messages":[]}"#);
    an_item_is_not_referred_to: "POST" "/responses", Json(r#"{"input":[{"type":"item_reference","id":"<item>"}]}"#);
    an_item_is_not_referred_to_without_a_type: "POST" "/responses", Json(r#"{"input":[{"id":"<item>"}]}"#);
    a_conversation_is_not_joined: "POST" "/responses", Json(r#"{"input":"x","conversation":"<conversation>"}"#);
    a_conversation_in_an_object_is_not_joined: "POST" "/responses", Json(r#"{"input":"x","conversation":{"id":"<conversation>"}}"#);
    a_file_is_no_input: "POST" "/responses", Json(r#"{"input":[{"role":"user","content":[{"type":"input_file","file_id":"<file>"}]}]}"#);
    a_file_is_no_input_beside_what_is_ones_own: "POST" "/responses", Json(r#"{"tools":[{"type":"code_interpreter","container":"<own_container>"}],"input":[{"role":"user","content":[{"type":"input_file","file_id":"<file>"}]}]}"#);
    a_vector_store_is_not_searched_by_a_tool: "POST" "/responses", Json(r#"{"input":"x","tools":[{"type":"file_search","vector_store_ids":["<store>"]}]}"#);
    a_container_runs_no_code: "POST" "/responses", Json(r#"{"input":"x","tools":[{"type":"code_interpreter","container":"<container>"}]}"#);
    a_response_is_not_compacted: "POST" "/responses/compact", Json(r#"{"input":"x","previous_response_id":"<response>"}"#);
    the_tokens_of_a_response_are_not_counted: "POST" "/responses/input_tokens", Json(r#"{"input":"x","previous_response_id":"<response>"}"#);
    a_conversation_is_not_retrieved: "GET" "/conversations/<conversation>", None;
    a_conversation_is_not_changed: "POST" "/conversations/<conversation>", Json(r#"{"metadata":{"a":"b"}}"#);
    a_conversation_is_not_deleted: "DELETE" "/conversations/<conversation>", None;
    the_items_of_a_conversation_are_not_listed: "GET" "/conversations/<conversation>/items", None;
    items_are_not_added_to_a_conversation: "POST" "/conversations/<conversation>/items", Json(r#"{"items":[{"role":"user","content":"y"}]}"#);
    an_item_of_a_conversation_is_not_retrieved: "GET" "/conversations/<conversation>/items/<said>", None;
    an_item_of_a_conversation_is_not_deleted: "DELETE" "/conversations/<conversation>/items/<said>", None;
    a_file_is_not_put_into_a_conversation: "POST" "/conversations", Json(r#"{"items":[{"role":"user","content":[{"type":"input_file","file_id":"<file>"}]}]}"#);
    a_file_is_not_retrieved: "GET" "/files/<file>", None;
    a_file_is_not_downloaded: "GET" "/files/<file>/content", None;
    a_file_is_not_deleted: "DELETE" "/files/<file>", None;
    no_part_is_added_to_an_upload: "POST" "/uploads/<upload>/parts", FormAfterFile("a=b");
    an_upload_is_not_completed: "POST" "/uploads/<upload>/complete", Json(r#"{"part_ids":[]}"#);
    an_upload_is_not_cancelled: "POST" "/uploads/<upload>/cancel", Json("{}");
    a_file_makes_no_vector_store: "POST" "/vector_stores", Json(r#"{"file_ids":["<file>"]}"#);
    a_vector_store_is_not_retrieved: "GET" "/vector_stores/<store>", None;
    a_vector_store_is_not_changed: "POST" "/vector_stores/<store>", Json(r#"{"name":"b"}"#);
    a_vector_store_is_not_deleted: "DELETE" "/vector_stores/<store>", None;
    a_vector_store_is_not_searched: "POST" "/vector_stores/<store>/search", Json(r#"{"query":"tide"}"#);
    the_files_of_a_vector_store_are_not_listed: "GET" "/vector_stores/<store>/files", None;
    a_file_of_a_vector_store_is_not_retrieved: "GET" "/vector_stores/<store>/files/<file>", None;
    a_file_of_a_vector_store_is_not_removed: "DELETE" "/vector_stores/<store>/files/<file>", None;
    nothing_is_put_into_a_vector_store: "POST" "/vector_stores/<store>/files", Json(r#"{"file_id":"<own_file>"}"#);
    a_file_is_not_put_into_ones_own_vector_store: "POST" "/vector_stores/<own_store>/files", Json(r#"{"file_id":"<file>"}"#);
    a_container_is_not_retrieved: "GET" "/containers/<container>", None;
    a_container_is_not_deleted: "DELETE" "/containers/<container>", None;
    the_files_of_a_container_are_not_listed: "GET" "/containers/<container>/files", None;
    a_file_of_a_container_is_not_retrieved: "GET" "/containers/<container>/files/<inside>", None;
    a_file_of_a_container_is_not_downloaded: "GET" "/containers/<container>/files/<inside>/content", None;
    a_file_of_a_container_is_not_deleted: "DELETE" "/containers/<container>/files/<inside>", None;
    nothing_is_uploaded_into_a_container: "POST" "/containers/<container>/files", FormAfterFile("a=b");
    a_file_is_not_put_into_ones_own_container: "POST" "/containers/<own_container>/files", Json(r#"{"file_id":"<file>"}"#);
    a_file_makes_no_container: "POST" "/containers", Json(r#"{"name":"a","file_ids":["<file>"]}"#);
    a_chat_is_not_retrieved: "GET" "/chat/completions/<chat>", None;
    a_chat_is_not_changed: "POST" "/chat/completions/<chat>", Json(r#"{"metadata":{}}"#);
    a_chat_is_not_deleted: "DELETE" "/chat/completions/<chat>", None;
    the_messages_of_a_chat_are_not_listed: "GET" "/chat/completions/<chat>/messages", None;
    a_file_is_not_shown_to_a_chat: "POST" "/chat/completions", Json(r#"{"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"<file>"}}]}]}"#);
    a_file_makes_no_batch: "POST" "/batches", Json(r#"{"input_file_id":"<file>"}"#);
    a_batch_is_not_retrieved: "GET" "/batches/<batch>", None;
    a_batch_is_not_cancelled: "POST" "/batches/<batch>/cancel", Json("{}");
    a_file_that_a_form_names_is_not_put_into_ones_own_container: "POST" "/containers/<own_container>/files", Form("file_id=<file>");
}

#[tokio::test]
async fn a_form_that_names_somebodys_file_behind_its_own_is_refused_while_it_passes() {
    let (harness, _folder) = over_two_keys(1).await;
    let theirs = things(&harness, KEY, NAMES).await;
    let mut all = things(&harness, OTHER, OWN).await;
    all.extend(theirs);
    let path = "/containers/<own_container>/files";
    let reply = send(
        &harness,
        OTHER,
        "POST",
        path,
        FormAfterFile("file_id=<file>"),
        &all,
    )
    .await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "invalid_reference"),
        "{reply:?}"
    );
    let row = harness.row(reply.request_id()).await;
    assert_eq!(
        (&row["outcome"], &row["status"]),
        (&json!("refused"), &json!(400))
    );
    // What is nobody's id passes, wherever it stands.
    let reply = send(
        &harness,
        OTHER,
        "POST",
        path,
        FormAfterFile("model=gpt-4o-transcribe2"),
        &all,
    )
    .await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn no_list_shows_what_is_another_keys_and_none_begins_behind_it() {
    let (harness, _folder) = over_two_keys(2).await;
    let theirs = things(&harness, KEY, NAMES).await;
    for (path, name) in [
        ("/files", "file"),
        ("/vector_stores", "store"),
        ("/containers", "container"),
        ("/chat/completions", "chat"),
        ("/batches", "batch"),
    ] {
        let list = call(&harness, OTHER, "GET", path, Option::None).await;
        assert_eq!(list.json()["data"], json!([]), "{path} {list:?}");
        let own = call(&harness, KEY, "GET", path, Option::None).await;
        assert!(
            own.json()["data"].to_string().contains(&theirs[name]),
            "{path} {own:?}"
        );
        let [behind, never] = [theirs[name].as_str(), "file_nobody"];
        let told = async |id: &str| {
            let reply = call(
                &harness,
                OTHER,
                "GET",
                &format!("{path}?after={id}"),
                Option::None,
            )
            .await;
            (reply.status, reply.json().to_string().replace(id, "ID"))
        };
        assert_eq!(told(behind).await, told(never).await, "{path}");
        assert_eq!(told(behind).await.0, 404);
    }
}
