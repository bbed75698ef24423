//! The simulated accounts behave like real ones: people test their agents against them.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use moorage::simulator::{SimulatedAccount, Simulator, SimulatorConfig};
use serde_json::{Value, json};

use crate::harness::{Reply, moorage, said, streamed};

struct Pool {
    simulator: Simulator,
    http: reqwest::Client,
}

impl Pool {
    async fn start() -> Pool {
        rustls::crypto::ring::default_provider().install_default().ok();
        let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
        Pool {
            simulator,
            http: reqwest::Client::new(),
        }
    }

    fn account(&self, index: usize) -> &SimulatedAccount {
        &self.simulator.accounts()[index]
    }

    async fn post(&self, index: usize, body: &Value) -> Reply {
        let account = self.account(index);
        let request = self
            .http
            .post(format!("{}/responses", account.base_url()))
            .bearer_auth(account.api_key());
        Reply::of(request.body(body.to_string())).await
    }

    async fn call(&self, method: &str, path: &str) -> Reply {
        let account = self.account(0);
        let method: reqwest::Method = method.parse().unwrap();
        let url = format!("{}{path}", account.base_url());
        Reply::of(self.http.request(method, url).bearer_auth(account.api_key())).await
    }
}

#[tokio::test]
async fn a_response_is_known_only_to_the_account_that_made_it() {
    let pool = Pool::start().await;
    let first = pool.post(0, &said("hi", None)).await;
    let next = said("go on", Some(&first.id()));
    let foreign = pool.post(1, &next).await;
    assert_eq!(
        (foreign.status, foreign.code().as_str()),
        (400, "previous_response_not_found")
    );
    let home = pool.post(0, &next).await;
    let text = home.json()["output"][0]["content"][0]["text"].to_string();
    assert!(text.contains("Turn 2 on sim-a. You said: go on"), "{text}");
    let unstored = pool.post(0, &json!({ "input": "hi", "store": false })).await;
    let lost = pool.post(0, &said("go on", Some(&unstored.id()))).await;
    assert_eq!(lost.code(), "previous_response_not_found");
}

#[tokio::test]
async fn sealed_reasoning_opens_only_where_it_was_sealed() {
    let pool = Pool::start().await;
    let body = json!({ "input": "think", "store": false, "reasoning": { "effort": "low" }, "include": ["reasoning.encrypted_content"] });
    let item = pool.post(0, &body).await.json()["output"][0].clone();
    assert_eq!(item["type"], "reasoning");
    let history = json!({ "store": false, "input": [{ "role": "user", "content": "think" }, item] });
    assert_eq!(pool.post(0, &history).await.status, 200);
    let foreign = pool.post(1, &history).await;
    assert_eq!(
        (foreign.status, foreign.code().as_str()),
        (400, "invalid_encrypted_content")
    );
}

#[tokio::test]
async fn an_item_can_be_referred_to_where_it_was_made() {
    let pool = Pool::start().await;
    let item = pool.post(0, &said("hi", None)).await.json()["output"][0]["id"].clone();
    let body = json!({ "input": [{ "type": "item_reference", "id": item }, { "role": "user", "content": "go on" }] });
    assert_eq!(pool.post(0, &body).await.status, 200);
    assert_eq!(pool.post(1, &body).await.status, 404);
}

#[tokio::test]
async fn the_prompt_cache_is_of_one_account_and_works_better_under_one_key() {
    let pool = Pool::start().await;
    let long = "The tide comes in. ".repeat(1000);
    let body = |key: Option<&str>| json!({ "input": long, "prompt_cache_key": key });
    let cached = async |index: usize, key: Option<&str>| {
        let reply = pool.post(index, &body(key)).await.json();
        let usage = &reply["usage"];
        (
            usage["input_tokens_details"]["cached_tokens"].as_u64().unwrap(),
            usage["input_tokens"].as_u64().unwrap(),
        )
    };
    assert_eq!(cached(0, Some("k")).await.0, 0);
    let (with_key, input) = cached(0, Some("k")).await;
    assert!(
        with_key % 128 == 0 && with_key > input * 9 / 10,
        "{with_key} of {input}"
    );
    assert_eq!(cached(1, Some("k")).await.0, 0);
    cached(0, None).await;
    let (without_key, _) = cached(0, None).await;
    assert!(without_key < with_key && without_key >= 1024, "{without_key}");
}

#[tokio::test]
async fn what_was_stored_can_be_read_and_deleted() {
    let pool = Pool::start().await;
    let made = pool.post(0, &said("hi", None)).await;
    let path = format!("/responses/{}", made.id());
    assert_eq!(pool.call("GET", &path).await.json(), made.json());
    let items = pool.call("GET", &format!("{path}/input_items")).await.json();
    assert_eq!(
        (&items["object"], &items["data"][0]["content"]),
        (&json!("list"), &json!("hi"))
    );
    assert_eq!(pool.call("DELETE", &path).await.json()["deleted"], true);
    assert_eq!(pool.call("GET", &path).await.status, 404);
    assert_eq!(pool.call("GET", "/models").await.json()["object"], "list");
    assert_eq!(pool.call("GET", "/nothing").await.status, 404);
}

#[tokio::test]
async fn a_tool_is_called_when_the_user_says_so() {
    let pool = Pool::start().await;
    let mut body = json!({
        "input": "Please call the tool get_tide now",
        "tools": [{ "type": "function", "name": "get_tide", "parameters": {} }],
    });
    let call = pool.post(0, &body).await.json()["output"][0].clone();
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("get_tide"))
    );
    body["stream"] = true.into();
    let kinds = pool.post(0, &body).await.kinds();
    assert!(
        kinds.contains(&"response.function_call_arguments.done".to_owned()),
        "{kinds:?}"
    );
}

#[tokio::test]
async fn an_answer_stops_at_the_tokens_that_it_may_have() {
    let pool = Pool::start().await;
    let answer = pool
        .post(0, &json!({ "input": "hi", "max_output_tokens": 4 }))
        .await
        .json();
    assert_eq!(
        (&answer["status"], &answer["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(answer["usage"]["output_tokens"], 4);
}

#[tokio::test]
async fn a_wrong_key_and_a_wrong_fault_are_refused() {
    let pool = Pool::start().await;
    let account = pool.account(0);
    let url = format!("{}/responses", account.base_url());
    let wrong = Reply::of(pool.http.post(&url).bearer_auth("sk-wrong").body("{}")).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (401, "invalid_api_key"));
    let fault = pool
        .http
        .post(&url)
        .bearer_auth(account.api_key())
        .header("x-simulate", "statsu=1")
        .body("{}");
    let fault = Reply::of(fault).await;
    assert_eq!(fault.status, 400);
    assert!(fault.json()["error"]["message"].to_string().contains("statsu"));
}

#[tokio::test]
async fn the_command_runs_a_pool_that_can_be_told_to_fail_and_shows_what_it_received() {
    let mut process = moorage()
        .args(["simulate", "--accounts", "3"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<String> = BufReader::new(process.stdout.take().unwrap())
        .lines()
        .take(4)
        .map(Result::unwrap)
        .collect();
    assert!(lines[0].contains("A simulation"), "{lines:?}");
    let words: Vec<&str> = lines[3].split_whitespace().collect();
    assert_eq!((words[2], words[7]), ("sim-c", "sk-sim-c"));
    let root = words[5].strip_suffix("/v1").unwrap();
    let http = reqwest::Client::new();
    let call = async |method: reqwest::Method, path: &str, body: String| {
        Reply::of(
            http.request(method, format!("{root}{path}"))
                .bearer_auth("sk-sim-c")
                .body(body),
        )
        .await
    };
    let (get, post, delete) = (
        reqwest::Method::GET,
        reqwest::Method::POST,
        reqwest::Method::DELETE,
    );
    let told = call(
        post.clone(),
        "/_simulator/fault",
        "status=429;retry_after=7".to_owned(),
    )
    .await;
    assert_eq!(told.status, 204);
    let body = streamed("hi", None).to_string();
    let limited = call(post.clone(), "/v1/responses", body.clone()).await;
    assert_eq!((limited.status, limited.header("retry-after")), (429, Some("7")));
    assert_eq!(
        call(post.clone(), "/v1/responses", body.clone()).await.status,
        200
    );
    call(post.clone(), "/_simulator/fault?always", "status=500".to_owned()).await;
    for _ in 0..2 {
        assert_eq!(
            call(post.clone(), "/v1/responses", body.clone()).await.status,
            500
        );
    }
    call(delete.clone(), "/_simulator/fault", String::new()).await;
    assert_eq!(call(post, "/v1/responses", body.clone()).await.status, 200);
    let journal = call(get.clone(), "/_simulator/journal", String::new())
        .await
        .json();
    let statuses: Vec<_> = journal
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [429, 200, 500, 500, 200]);
    assert_eq!(journal[1]["body"], body);
    assert_eq!(journal[1]["ending"], "whole");
    call(delete, "/_simulator/journal", String::new()).await;
    assert_eq!(
        call(get, "/_simulator/journal", String::new()).await.json(),
        json!([])
    );
    process.kill().unwrap();
    process.wait().unwrap();
}
