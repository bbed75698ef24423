//! Clients that nobody here wrote, over WebSocket. `.ci/run` installs them, and runs these tests.

use std::process::{Child, Command, Stdio};

use moorage::account::Kind;
use serde_json::{Value, json};

use crate::clients::{self, beside, codex, installed, said};
use crate::harness::{Builder, Harness, KEY, eventually};

/// A home of Codex that speaks WebSocket with the gateway.
fn codex_home(harness: &Harness) -> tempfile::TempDir {
    clients::codex_home(harness, "supports_websockets = true\n")
}

/// The turns that ended, oldest first.
fn turns(harness: &Harness) -> Vec<Value> {
    harness.query(
        "SELECT transport, account, affinity, affinity_by, outcome, error_code, response_id, previous_response_id, \
         conversation_id FROM turns ORDER BY request_id",
    )
}

/// A session with a tool, resumed in a new process: all of it over WebSocket, on one account.
async fn a_session(builder: Builder) {
    let harness = builder.start().await;
    let home = codex_home(&harness);
    let prompt = "call the tool exec_command with {\"cmd\":\"echo tide\"}";
    said(codex(&home, &["--skip-git-repo-check", prompt]));
    let first = turns(&harness);
    // Warmed up, the call, and what the tool gave: each follows the one before.
    assert!(first.len() >= 3, "{first:?}");
    for pair in first.windows(2) {
        assert_eq!(
            pair[1]["previous_response_id"], pair[0]["response_id"],
            "{first:?}"
        );
    }
    let resumed = said(codex(
        &home,
        &["resume", "--last", "--skip-git-repo-check", "And now?"],
    ));
    assert!(resumed.contains("You said: And now?"), "{resumed}");
    let all = turns(&harness);
    for turn in &all {
        assert_eq!(
            (&turn["transport"], &turn["outcome"]),
            (&json!("websocket"), &json!("completed")),
            "{all:?}"
        );
        assert_eq!(turn["account"], all[0]["account"], "{all:?}");
        assert_eq!(turn["conversation_id"], all[0]["conversation_id"], "{all:?}");
    }
    assert!(all.len() > first.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs @openai/codex from npm; .ci/run installs it"]
async fn codex_holds_a_session_over_websocket() {
    a_session(Harness::build(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs @openai/codex from npm; .ci/run installs it"]
async fn codex_holds_a_session_over_websocket_with_accounts_that_speak_http_only() {
    a_session(Harness::build(3).http_only()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs @openai/codex from npm; .ci/run installs it"]
async fn codex_holds_a_session_over_the_websockets_of_chatgpt_logins() {
    a_session(logins(3)).await;
}

fn logins(number: usize) -> Builder {
    Harness::build(number).kinds(&vec![Kind::Codex; number])
}

/// A command that takes long enough for something to happen meanwhile.
const LONG_CALL: &str = "call the tool exec_command with {\"cmd\":\"sleep 3; echo tide\"}";

/// Codex while the tool runs that it was told to call, and its turns up to there.
async fn in_the_middle(harness: &Harness, home: &tempfile::TempDir) -> (Child, Vec<Value>) {
    let running = codex(home, &["--skip-git-repo-check", LONG_CALL])
        .spawn()
        .unwrap();
    let before = eventually("the call of the tool", || {
        let calls = turns(harness);
        (calls.len() >= 2 && calls[1]["outcome"] == "completed").then_some(calls)
    });
    (running, before.await)
}

fn ended_well(running: Child) {
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs @openai/codex from npm; .ci/run installs it"]
async fn codex_goes_on_with_another_login_when_its_plan_is_used_up_in_the_middle() {
    let harness = logins(2).start().await;
    let home = codex_home(&harness);
    let (running, before) = in_the_middle(&harness, &home).await;
    let limited = harness.named(before[1]["account"].as_str().unwrap());
    limited.use_up(std::time::Duration::from_secs(3600));
    ended_well(running);
    let all = turns(&harness);
    let last = all.last().unwrap();
    assert_eq!(last["outcome"], "completed", "{all:?}");
    assert_ne!(last["account"], limited.name());
    assert_eq!(last["conversation_id"], all[0]["conversation_id"], "{all:?}");
    assert!(ran(&harness), "the output of the tool was lost");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs @openai/codex from npm; .ci/run installs it"]
async fn codex_goes_on_by_itself_when_the_gateway_is_killed_in_the_middle() {
    let mut harness = Harness::over(3).await;
    let home = codex_home(&harness);
    let (running, _) = in_the_middle(&harness, &home).await;
    harness.kill_and_restart();
    ended_well(running);
    let last = said(codex(
        &home,
        &["resume", "--last", "--skip-git-repo-check", "And now?"],
    ));
    assert!(last.contains("You said: And now?"), "{last}");
    let all = turns(&harness);
    let well: Vec<&Value> = all.iter().filter(|turn| turn["outcome"] == "completed").collect();
    assert!(well.len() >= 4, "{all:?}");
    assert!(
        well.iter().all(|turn| turn["account"] == all[0]["account"]),
        "{all:?}"
    );
    assert!(
        well.iter()
            .all(|turn| turn["conversation_id"] == all[0]["conversation_id"]),
        "{all:?}"
    );
    assert!(ran(&harness), "the output of the tool was lost");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs @openai/codex from npm; .ci/run installs it"]
async fn codex_goes_on_elsewhere_when_its_account_is_limited_in_the_middle() {
    let harness = Harness::over(2).await;
    let home = codex_home(&harness);
    let (running, before) = in_the_middle(&harness, &home).await;
    let limited = harness.named(before[1]["account"].as_str().unwrap());
    let limit = "status=429;code=usage_limit_reached;retry_after=3600";
    limited.always(Some(limit.parse().unwrap()));
    ended_well(running);
    let all = turns(&harness);
    let last = all.last().unwrap();
    assert_eq!(
        (&last["outcome"], &last["affinity"]),
        (&json!("completed"), &json!("moved")),
        "{all:?}"
    );
    assert_ne!(last["account"], limited.name());
    assert_eq!(last["conversation_id"], all[0]["conversation_id"], "{all:?}");
    assert!(
        all.iter()
            .any(|turn| turn["error_code"] == "previous_response_not_found"),
        "{all:?}"
    );
    assert!(ran(&harness), "the output of the tool was lost");
}

/// Whether some account was told what the tool gave.
fn ran(harness: &Harness) -> bool {
    harness.simulator.accounts().iter().any(|account| {
        account.journal().iter().any(|entry| {
            let input = entry.json()["input"].to_string();
            input.contains("function_call_output") && input.contains("tide")
        })
    })
}

fn python(script: &str, harness: &Harness) -> String {
    let program = installed("python/bin/python");
    said({
        let mut command = Command::new(&program);
        command
            .arg(beside(script, &program))
            .arg(format!("{}/v1", harness.gateway.url()))
            .env("OPENAI_API_KEY", KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs openai[realtime] from PyPI; .ci/run installs it"]
async fn openai_for_python_talks_over_websocket_in_lanes() {
    for builder in [Harness::build(2), Harness::build(2).http_only()] {
        let harness = builder.start().await;
        let said = python("openai_python_socket.py", &harness);
        for text in [
            "You said: turn 3",
            "You said: to the left",
            "You said: to the right",
            "Turn 5",
        ] {
            assert!(said.contains(text), "{said}");
        }
        let all = turns(&harness);
        assert_eq!(all.len(), 6, "{all:?}");
        for turn in &all {
            assert_eq!(
                (&turn["transport"], &turn["account"]),
                (&json!("websocket"), &all[0]["account"]),
                "{all:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs openai-agents from PyPI; .ci/run installs it"]
async fn openai_agents_talk_over_websocket_with_tools() {
    for builder in [Harness::build(2), Harness::build(2).http_only()] {
        let harness = builder.start().await;
        let said = python("openai_agents_socket.py", &harness);
        assert_eq!(said.lines().count(), 4, "{said}");
        let all = turns(&harness);
        assert_eq!(all.len(), 5, "{all:?}");
        for turn in &all {
            assert_eq!(
                (&turn["transport"], &turn["outcome"]),
                (&json!("websocket"), &json!("completed")),
                "{all:?}"
            );
            assert_eq!(turn["account"], all[0]["account"], "{all:?}");
        }
    }
}
