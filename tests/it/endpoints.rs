//! Every endpoint of the API through the gateway, as if there were one account: what is made
//! anywhere is found at its owner, and at nobody else's key.

use serde_json::{Value, json};

use crate::harness::{Builder, Harness, KEY, PATIENCE, Reply, eventually, said};

/// A second client, with conversations of its own.
pub const OTHER: &str = "mk-test-key-of-the-other";

pub fn with_other(builder: Builder, folder: &tempfile::TempDir) -> Builder {
    let file = folder.path().join("other.key");
    std::fs::write(&file, OTHER).unwrap();
    builder.section(&format!("[[client_key]]\nname = \"other\"\nkey_file = {file:?}"))
}

pub async fn over_two_keys(accounts: usize) -> (Harness, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let harness = with_other(Harness::build(accounts), &folder).start().await;
    (harness, folder)
}

/// A request of a client to any path.
pub async fn call(harness: &Harness, key: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
    let url = format!("{}/v1{path}", harness.gateway.url());
    let mut request = harness
        .http
        .request(method.parse().unwrap(), url)
        .bearer_auth(key)
        .timeout(PATIENCE);
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    Reply::of(request).await
}

pub async fn get(harness: &Harness, path: &str) -> Reply {
    call(harness, KEY, "GET", path, None).await
}

pub async fn post(harness: &Harness, path: &str, body: Value) -> Reply {
    call(harness, KEY, "POST", path, Some(body)).await
}

/// A form with one file, as SDKs send it.
pub fn form(content: &str) -> (String, String) {
    let boundary = "----the-boundary";
    let body = format!(
        "--{boundary}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nuser_data\r\n\
         --{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"tide.txt\"\r\n\
         content-type: text/plain\r\n\r\n{content}\r\n--{boundary}--\r\n"
    );
    (format!("multipart/form-data; boundary={boundary}"), body)
}

pub async fn upload(harness: &Harness, key: &str, path: &str, content: &str) -> Reply {
    let (kind, body) = form(content);
    let url = format!("{}/v1{path}", harness.gateway.url());
    let request = harness
        .http
        .post(url)
        .bearer_auth(key)
        .header("content-type", kind);
    Reply::of(request.body(body)).await
}

/// Something made on each of two accounts: its id and who holds it.
struct Made {
    path: String,
    account: String,
}

/// Makes things until both accounts hold one.
async fn made_on_both(harness: &Harness, key: &str, make: &Make) -> Vec<Made> {
    let mut made: Vec<Made> = Vec::new();
    for number in 0..20 {
        let reply = make.make(harness, key, number).await;
        assert_eq!(reply.status, 200, "{}: {reply:?}", make.collection);
        let account = reply.account().to_owned();
        if made.iter().all(|made| made.account != account) {
            let path = format!("{}/{}", make.collection, reply.json()["id"].as_str().unwrap());
            made.push(Made { path, account });
        }
        if made.len() == 2 {
            break;
        }
    }
    made
}

/// How a thing is made.
struct Make {
    collection: &'static str,
    body: Option<Value>,
}

impl Make {
    async fn make(&self, harness: &Harness, key: &str, number: usize) -> Reply {
        match &self.body {
            None => upload(harness, key, self.collection, &format!("content {number}")).await,
            Some(body) => {
                let mut body = body.clone();
                if body["input"].is_string() {
                    body["input"] = format!("matter {number}").into();
                }
                if body["messages"].is_array() {
                    body["messages"][0]["content"] = format!("matter {number}").into();
                }
                call(harness, key, "POST", self.collection, Some(body)).await
            }
        }
    }
}

fn makes() -> Vec<Make> {
    let chat =
        json!({ "model": "sim-large", "store": true, "messages": [{ "role": "user", "content": "x" }] });
    [
        ("/responses", Some(json!({ "model": "sim-large", "input": "x" }))),
        (
            "/conversations",
            Some(json!({ "items": [{ "role": "user", "content": "x" }] })),
        ),
        ("/files", None),
        (
            "/uploads",
            Some(json!({ "filename": "a", "purpose": "user_data", "bytes": 1, "mime_type": "text/plain" })),
        ),
        ("/vector_stores", Some(json!({ "name": "a" }))),
        ("/containers", Some(json!({ "name": "a" }))),
        ("/chat/completions", Some(chat)),
        ("/batches", Some(json!({ "endpoint": "/v1/responses" }))),
    ]
    .map(|(collection, body)| Make { collection, body })
    .into()
}

/// What can be asked of a thing: method, what follows its id, body, and the statuses of success.
fn uses(collection: &str) -> Vec<(&'static str, &'static str, Option<Value>)> {
    match collection {
        "/responses" => vec![
            ("GET", "", None),
            ("GET", "/input_items", None),
            ("GET", "?stream=true", None),
        ],
        "/conversations" => vec![
            ("GET", "", None),
            ("POST", "", Some(json!({ "metadata": { "a": "b" } }))),
            ("GET", "/items", None),
            (
                "POST",
                "/items",
                Some(json!({ "items": [{ "role": "user", "content": "y" }] })),
            ),
        ],
        "/files" => vec![("GET", "", None), ("GET", "/content", None)],
        "/uploads" => vec![
            ("POST", "/complete", Some(json!({ "part_ids": [] }))),
            ("POST", "/cancel", Some(json!({}))),
        ],
        "/vector_stores" => vec![
            ("GET", "", None),
            ("POST", "", Some(json!({ "name": "b" }))),
            ("GET", "/files", None),
            ("POST", "/search", Some(json!({ "query": "tide" }))),
        ],
        "/containers" => vec![("GET", "", None), ("GET", "/files", None)],
        "/chat/completions" => vec![
            ("GET", "", None),
            ("POST", "", Some(json!({ "metadata": {} }))),
            ("GET", "/messages", None),
        ],
        _ => vec![("GET", "", None), ("POST", "/cancel", Some(json!({})))],
    }
}

fn deletes(collection: &str) -> bool {
    !matches!(collection, "/uploads" | "/batches")
}

#[tokio::test]
async fn what_is_made_anywhere_is_found_at_its_owner_by_every_endpoint_and_by_no_other_key() {
    for make in makes() {
        let (harness, _folder) = over_two_keys(2).await;
        let made = made_on_both(&harness, KEY, &make).await;
        // Files and what is made of them stay together; everything else spreads.
        let together = ["/files", "/uploads", "/vector_stores", "/containers", "/batches"];
        let homes = if together.contains(&make.collection) { 1 } else { 2 };
        assert_eq!(made.len(), homes, "{}", make.collection);
        for thing in &made {
            for (method, below, body) in uses(make.collection) {
                let path = format!("{}{below}", thing.path);
                let reply = call(&harness, KEY, method, &path, body.clone()).await;
                assert_eq!(
                    (reply.status, reply.account(), reply.affinity()),
                    (200, thing.account.as_str(), "hit; by=path"),
                    "{method} {path} {reply:?}"
                );
                let foreign = call(&harness, OTHER, method, &path, body.clone()).await;
                let nobody = format!("{}/nobody_1{below}", make.collection);
                let never = call(&harness, OTHER, method, &nobody, body).await;
                assert_eq!((foreign.status, never.status), (404, 404), "{method} {path}");
                let error = |reply: &Reply, id: &str| reply.json()["error"].to_string().replace(id, "ID");
                let id = thing.path.rsplit('/').next().unwrap();
                assert_eq!(error(&foreign, id), error(&never, "nobody_1"));
            }
            if deletes(make.collection) {
                let foreign = call(&harness, OTHER, "DELETE", &thing.path, None).await;
                assert_eq!(foreign.status, 404, "{}", thing.path);
                let deleted = call(&harness, KEY, "DELETE", &thing.path, None).await;
                assert_eq!(
                    (deleted.status, deleted.account()),
                    (200, thing.account.as_str()),
                    "{}",
                    thing.path
                );
                assert_eq!(get(&harness, &thing.path).await.status, 404);
            }
        }
    }
}

#[tokio::test]
async fn no_body_reaches_what_is_another_keys() {
    // One account: whatever is passed on would be found there.
    let (harness, _folder) = over_two_keys(1).await;
    let response = post(&harness, "/responses", said("hi", None)).await;
    let item = response.json()["output"][0]["id"].clone();
    let id = |reply: &Reply| reply.json()["id"].clone();
    let response = response.json()["id"].clone();
    let conversation = id(&post(&harness, "/conversations", json!({})).await);
    let file = id(&upload(&harness, KEY, "/files", "secret").await);
    let store = id(&post(&harness, "/vector_stores", json!({ "name": "a" })).await);
    let container = id(&post(&harness, "/containers", json!({ "name": "a" })).await);
    let chat = |content: Value| json!({ "messages": [{ "role": "user", "content": content }] });
    let cases = [
        (
            "/responses",
            json!({ "input": "x", "previous_response_id": response }),
        ),
        (
            "/responses",
            json!({ "input": "x", "conversation": conversation }),
        ),
        (
            "/responses",
            json!({ "input": "x", "conversation": { "id": conversation } }),
        ),
        (
            "/responses",
            json!({ "input": [{ "type": "item_reference", "id": item }] }),
        ),
        ("/responses", json!({ "input": [{ "id": item }] })),
        (
            "/responses",
            json!({ "input": [{ "role": "user", "content": [{ "type": "input_file", "file_id": file }] }] }),
        ),
        (
            "/responses",
            json!({ "input": "x", "tools": [{ "type": "file_search", "vector_store_ids": [store] }] }),
        ),
        (
            "/responses",
            json!({ "input": "x", "tools": [{ "type": "code_interpreter", "container": container }] }),
        ),
        (
            "/responses/compact",
            json!({ "input": "x", "previous_response_id": response }),
        ),
        (
            "/responses/input_tokens",
            json!({ "input": "x", "previous_response_id": response }),
        ),
        (
            "/chat/completions",
            chat(json!([{ "type": "file", "file": { "file_id": file } }])),
        ),
        ("/vector_stores", json!({ "file_ids": [file] })),
        ("/batches", json!({ "input_file_id": file })),
    ];
    for (path, body) in cases {
        let own = call(&harness, KEY, "POST", path, Some(body.clone())).await;
        assert_eq!(own.status, 200, "{path} {body} {own:?}");
        let foreign = call(&harness, OTHER, "POST", path, Some(body.clone())).await;
        assert!(matches!(foreign.status, 400 | 404), "{path} {body} {foreign:?}");
        // With escapes it is the same.
        let hidden = body
            .to_string()
            .replace("_id\"", "\\u005fid\"")
            .replace("_ids\"", "\\u005fids\"");
        let url = format!("{}/v1{path}", harness.gateway.url());
        let hidden = Reply::of(harness.http.post(url).bearer_auth(OTHER).body(hidden)).await;
        assert!(matches!(hidden.status, 400 | 404), "{path} {body} {hidden:?}");
    }
    // A path that leads elsewhere is no way, either.
    let foreign = format!("/files/x%2e%2e/..%2fresponses/{}", response.as_str().unwrap());
    assert_eq!(call(&harness, OTHER, "GET", &foreign, None).await.status, 400);
}

#[tokio::test]
async fn a_conversation_pins_its_turns_and_keeps_its_items() {
    let harness = Harness::over(3).await;
    for form in [true, false] {
        let made = post(&harness, "/conversations", json!({})).await;
        let id = made.json()["id"].clone();
        let named = if form { id.clone() } else { json!({ "id": id }) };
        let mut conversations = Vec::new();
        for _ in 0..3 {
            let reply = harness
                .post(json!({ "model": "sim-large", "input": "go on", "conversation": named }))
                .await;
            assert_eq!(
                (reply.status, reply.account(), reply.affinity()),
                (200, made.account(), "hit; by=conversation"),
                "{reply:?}"
            );
            conversations.push(harness.row(reply.request_id()).await["conversation_id"].clone());
        }
        conversations.dedup();
        assert_eq!(conversations.len(), 1);
        let items = get(
            &harness,
            &format!("/conversations/{}/items", id.as_str().unwrap()),
        )
        .await;
        assert_eq!(items.json()["data"].as_array().unwrap().len(), 6);
    }
}

#[tokio::test]
async fn a_response_in_the_background_is_asked_for_resumed_and_cancelled_at_its_owner() {
    let harness = Harness::over(3).await;
    for made_so_far in 1..=4 {
        let made = harness
            .post(json!({ "model": "sim-large", "input": "think", "background": true }))
            .await;
        assert_eq!(made.json()["status"], "queued");
        let path = format!("/responses/{}", made.id());
        let mut statuses = Vec::new();
        while statuses.last() != Some(&json!("completed")) {
            assert!(statuses.len() < 100, "{statuses:?}");
            let reply = get(&harness, &path).await;
            assert_eq!(reply.account(), made.account());
            statuses.push(reply.json()["status"].clone());
        }
        assert_eq!(statuses, ["in_progress", "completed"]);
        // However often it is asked for, it is counted once.
        get(&harness, &path).await;
        let counted = "SELECT count(*) AS n FROM turns WHERE input_tokens IS NOT NULL";
        eventually("the figures, once", || {
            (harness.query(counted)[0]["n"] == made_so_far).then_some(())
        })
        .await;
        let whole = get(&harness, &format!("{path}?stream=true")).await.events();
        let resumed = get(&harness, &format!("{path}?stream=true&starting_after=3")).await;
        assert_eq!(resumed.account(), made.account());
        assert_eq!(resumed.events(), whole[4..]);
        assert_eq!(harness.query(counted)[0]["n"], made_so_far);

        let other = harness
            .post(json!({ "model": "sim-large", "input": "think", "background": true }))
            .await;
        let cancelled = post(&harness, &format!("/responses/{}/cancel", other.id()), json!({})).await;
        assert_eq!(
            (cancelled.json()["status"].as_str(), cancelled.account()),
            (Some("cancelled"), other.account())
        );
    }
}

#[tokio::test]
async fn compact_and_input_tokens_are_no_responses() {
    let harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    let tokens = post(&harness, "/responses/input_tokens", said("hi", Some(&first.id()))).await;
    assert_eq!(
        (tokens.status, tokens.account()),
        (200, first.account()),
        "{tokens:?}"
    );
    assert_eq!(tokens.json()["object"], "response.input_tokens");
    let compacted = post(&harness, "/responses/compact", said("hi", Some(&first.id()))).await;
    assert_eq!(
        (compacted.json()["object"].as_str(), compacted.account()),
        (Some("response.compaction"), first.account())
    );
    // The history that it has become leads back, and nowhere else.
    let mut input = compacted.json()["output"].as_array().unwrap().clone();
    input.push(json!({ "role": "user", "content": "go on" }));
    for _ in 0..3 {
        let reply = harness.post(json!({ "store": false, "input": input })).await;
        assert_eq!(
            (reply.account(), reply.affinity()),
            (first.account(), "hit; by=compaction")
        );
    }
}

#[tokio::test]
async fn files_that_are_used_together_are_in_one_place_and_lead_a_response_there() {
    let harness = Harness::over(3).await;
    let one = upload(&harness, KEY, "/files", "one").await;
    let two = upload(&harness, KEY, "/files", "two").await;
    assert_eq!(one.account(), two.account());
    let store = post(
        &harness,
        "/vector_stores",
        json!({ "file_ids": [one.json()["id"], two.json()["id"]] }),
    )
    .await;
    assert_eq!(
        (store.status, store.account(), store.affinity()),
        (200, one.account(), "hit; by=file_id")
    );
    let content = json!([{ "type": "input_file", "file_id": one.json()["id"] }]);
    let tools = json!([{ "type": "file_search", "vector_store_ids": [store.json()["id"]] }]);
    let body = json!({ "input": [{ "role": "user", "content": content }], "tools": tools });
    let reply = harness.post(body).await;
    assert_eq!(
        (reply.status, reply.account(), reply.affinity()),
        (200, one.account(), "hit; by=file_id"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn parts_of_an_upload_and_containers_that_a_tool_made_are_found_again() {
    let harness = Harness::over(3).await;
    let begun = post(&harness, "/uploads", json!({ "filename": "a", "bytes": 4 })).await;
    let path = format!("/uploads/{}", begun.json()["id"].as_str().unwrap());
    let part = upload(&harness, KEY, &format!("{path}/parts"), "tide").await;
    assert_eq!(part.account(), begun.account());
    let done = post(
        &harness,
        &format!("{path}/complete"),
        json!({ "part_ids": [part.json()["id"]] }),
    )
    .await;
    let file = done.json()["file"]["id"].as_str().unwrap().to_owned();
    let content = get(&harness, &format!("/files/{file}/content")).await;
    assert_eq!(
        (content.body.as_slice(), content.affinity()),
        (&b"tide"[..], "hit; by=path")
    );

    let tools = json!([{ "type": "code_interpreter", "container": { "type": "auto" } }]);
    let ran = harness
        .post(json!({ "input": "run the code", "tools": tools }))
        .await;
    let container = ran.json()["output"][1]["container_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let files = get(&harness, &format!("/containers/{container}/files")).await;
    assert_eq!(
        (files.status, files.account(), files.affinity()),
        (200, ran.account(), "hit; by=path")
    );
}

#[tokio::test]
async fn a_file_that_nobody_has_seen_here_is_found_by_asking() {
    let harness = Harness::over(3).await;
    let account = harness.account(2);
    let path = format!("/files/{}/content", harness.file_at(account, "elsewhere").await);
    let content = get(&harness, &path).await;
    assert_eq!(
        (content.body.as_slice(), content.account()),
        (&b"elsewhere"[..], "sim-c")
    );
    let nobody = get(&harness, "/files/file_nobody").await;
    assert_eq!(nobody.status, 404);
    assert_eq!(
        nobody.json()["error"]["message"],
        "File with id 'file_nobody' not found."
    );
}

#[tokio::test]
async fn a_chat_is_counted_although_its_client_did_not_ask_and_does_not_see_it() {
    let harness = Harness::over(2).await;
    for asks in [false, true] {
        let mut body = json!({
            "model": "sim-large", "stream": true,
            "messages": [{ "role": "user", "content": format!("asks: {asks}") }],
        });
        if asks {
            body["stream_options"] = json!({ "include_usage": true });
        }
        let reply = post(&harness, "/chat/completions", body).await;
        assert_eq!(reply.status, 200);
        let text = String::from_utf8(reply.body.clone()).unwrap();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let with_figures = reply
            .events()
            .iter()
            .filter(|event| event["usage"].is_object())
            .count();
        assert_eq!(with_figures, usize::from(asks), "{text}");
        let no_choices = reply
            .events()
            .iter()
            .filter(|event| event["choices"] == json!([]))
            .count();
        assert_eq!(no_choices, usize::from(asks));
        let row = harness.row(reply.request_id()).await;
        assert!(row["input_tokens"].as_i64().unwrap() > 0, "{row}");
        assert!(row["output_tokens"].as_i64().unwrap() > 0, "{row}");
        assert_eq!(
            (&row["outcome"], &row["transport"], &row["endpoint"]),
            (&json!("completed"), &json!("sse"), &json!("/chat/completions"))
        );
        assert!(row["response_id"].as_str().unwrap().starts_with("chatcmpl_"));
    }
}

#[tokio::test]
async fn a_growing_chat_stays_where_its_cache_is_warm() {
    let harness = Harness::over(3).await;
    let mut messages = vec![
        json!({ "role": "system", "content": "You know the tides. ".repeat(400) }),
        json!({ "role": "user", "content": "Which tide is it?" }),
    ];
    let mut homes = Vec::new();
    for turn in 0..4 {
        let body = json!({ "model": "sim-large", "messages": messages });
        let reply = post(&harness, "/chat/completions", body).await;
        homes.push(reply.account().to_owned());
        messages.push(reply.json()["choices"][0]["message"].clone());
        messages.push(json!({ "role": "user", "content": "And then?" }));
        let row = harness.row(reply.request_id()).await;
        if turn > 0 {
            assert_eq!(reply.affinity(), "hit; by=prefix");
            let (input, cached) = (
                row["input_tokens"].as_f64().unwrap(),
                row["cached_tokens"].as_f64().unwrap(),
            );
            assert!(cached / input > 0.8, "{row}");
        }
    }
    homes.dedup();
    assert_eq!(homes.len(), 1);
}

#[tokio::test]
async fn a_chat_that_is_cut_ends_with_an_error_that_says_so() {
    let harness = Harness::over(1).await;
    let url = format!("{}/v1/chat/completions", harness.gateway.url());
    let body = json!({ "model": "m", "stream": true, "messages": [{ "role": "user", "content": "hi" }] });
    let request = harness
        .http
        .post(url)
        .bearer_auth(KEY)
        .header("x-simulate", "cut_after=2");
    let reply = Reply::of(request.body(body.to_string())).await;
    let last = reply.events().pop().unwrap();
    assert_eq!(last["error"]["code"], "server_error", "{last}");
    let row = harness.row(reply.request_id()).await;
    assert_eq!(row["outcome"], "upstream_cut");
}

#[tokio::test]
async fn completions_and_embeddings_pass_and_are_counted() {
    let harness = Harness::over(2).await;
    let completed = post(&harness, "/completions", json!({ "model": "m", "prompt": "hi" })).await;
    assert_eq!(completed.json()["object"], "text_completion");
    let embedded = post(
        &harness,
        "/embeddings",
        json!({ "model": "m", "input": ["a", "b"] }),
    )
    .await;
    assert_eq!(embedded.json()["data"].as_array().unwrap().len(), 2);
    for reply in [completed, embedded] {
        let row = harness.row(reply.request_id()).await;
        assert!(row["input_tokens"].as_i64().unwrap() > 0, "{row}");
        assert_eq!(row["outcome"], "completed");
    }
}

#[tokio::test]
async fn what_is_not_known_passes_to_an_account() {
    let harness = Harness::over(2).await;
    let reply = post(
        &harness,
        "/audio/speech",
        json!({ "model": "tts", "input": "hi" }),
    )
    .await;
    // The simulated account does not know it, and says so itself.
    assert_eq!((reply.status, reply.code().as_str()), (404, "unknown_url"));
    assert!(reply.header("x-request-id").unwrap().starts_with("req_"));
    let row = harness.row(reply.request_id()).await;
    assert_eq!(
        (&row["endpoint"], &row["outcome"]),
        (&json!("/audio/*"), &json!("rejected"))
    );
    let keyless = Reply::of(harness.http.get(format!("{}/v1/files", harness.gateway.url()))).await;
    assert_eq!(keyless.status, 401);
}

/// Resident memory of the gateway, in bytes.
fn resident(harness: &Harness) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", harness.gateway.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_512_mb_streams_through_both_ways_and_is_never_held() {
    const SIZE: u64 = 512 * 1024 * 1024;
    const ZEROS: &[u8] = &[0; 64 * 1024];
    let harness = Harness::over(2).await;
    // Everything that a request needs once is there.
    upload(&harness, KEY, "/files", "small").await;
    let before = resident(&harness);

    let (kind, frame) = form("CONTENT");
    let (head, tail) = frame.split_once("CONTENT").unwrap();
    let length = head.len() as u64 + SIZE + tail.len() as u64;
    let pieces = std::iter::once(head.as_bytes().to_vec())
        .chain((0..SIZE / ZEROS.len() as u64).map(|_| ZEROS.to_vec()))
        .chain(std::iter::once(tail.as_bytes().to_vec()));
    let frame = |piece: Vec<u8>| Ok::<_, std::io::Error>(http_body::Frame::data(bytes::Bytes::from(piece)));
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(pieces.map(frame)));
    let request = harness
        .http
        .post(format!("{}/v1/files", harness.gateway.url()))
        .bearer_auth(KEY)
        .header("content-type", kind)
        .header("content-length", length)
        .body(reqwest::Body::wrap(body));
    let made = Reply::of(request).await;
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(made.json()["bytes"], SIZE);
    let row = harness.row(made.request_id()).await;
    assert_eq!(row["request_bytes"], length);

    let path = format!("/files/{}/content", made.json()["id"].as_str().unwrap());
    let request = harness
        .http
        .get(format!("{}/v1{path}", harness.gateway.url()))
        .bearer_auth(KEY);
    let mut answer = request.send().await.unwrap();
    let request_id: i64 = answer.headers()["x-moorage-request-id"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let mut received = 0;
    while let Some(piece) = answer.chunk().await.unwrap() {
        assert!(piece.iter().all(|byte| *byte == 0));
        received += piece.len() as u64;
    }
    assert_eq!(received, SIZE);
    let row = harness.row(request_id).await;
    assert_eq!(row["response_bytes"], SIZE);
    let grown = resident(&harness) - before;
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes");
}

#[tokio::test]
async fn an_upload_of_which_something_has_gone_is_not_begun_again_elsewhere() {
    let limited = crate::raw::RawUpstream::start().await;
    let refusal =
        "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 60\r\n\r\n";
    limited.say(vec![refusal.as_bytes().to_vec()]);
    let simulator = moorage::simulator::Simulator::start(Default::default())
        .await
        .unwrap();
    let live = simulator.accounts()[0].base_url().to_owned();
    let accounts = [
        ("limited".to_owned(), limited.base_url.clone(), "k".to_owned()),
        ("sim-a".to_owned(), live, "sk-sim-a".to_owned()),
    ];
    let harness = Harness::build(0).start_over(simulator, &accounts).await;
    let content = "x".repeat(200_000);
    let reply = upload(&harness, KEY, "/files", &content).await;
    assert_eq!((reply.status, reply.account()), (429, "limited"), "{reply:?}");
    assert_eq!(reply.header("retry-after"), Some("1"));
    // Whoever sends it anew, as SDKs do, is served.
    let again = upload(&harness, KEY, "/files", &content).await;
    assert_eq!((again.status, again.account()), (200, "sim-a"));
    assert_eq!(again.json()["bytes"], 200_000);
}

#[tokio::test]
async fn an_upload_over_the_limit_is_refused() {
    let harness = Harness::build(1)
        .section("[limits]\nupload_bytes = 1000")
        .start()
        .await;
    let large = upload(&harness, KEY, "/files", &"x".repeat(2000)).await;
    assert_eq!((large.status, large.code().as_str()), (413, "body_too_large"));
    let small = upload(&harness, KEY, "/files", "x").await;
    assert_eq!(small.status, 200);
    eventually("both rows", || {
        let rows = harness.query("SELECT outcome FROM turns WHERE endpoint = '/files'");
        (rows.len() == 2).then_some(())
    })
    .await;
}
