//! Commands and signals against a gateway that runs: they take effect at once, and no stream ends.

use serde_json::json;

use crate::harness::{Harness, KEY, eventually, said};

#[tokio::test]
async fn a_command_is_taken_over_before_it_ends() {
    let harness = Harness::over(2).await;
    let open = harness.open_stream("deltas=2;delta_delay=1h", "one").await;
    let told = harness.run(&["account", "disable", "sim-b", "--reason", "holiday"]);
    assert!(told.contains("The running gateway has taken it over."), "{told}");
    for _ in 0..3 {
        assert_eq!(harness.turn(None).await.account(), "sim-a");
    }
    let now = &harness.query("SELECT status, reason FROM accounts_now WHERE account = 'sim-b'")[0];
    assert_eq!(now, &json!({ "status": "disabled", "reason": "holiday" }));
    harness.run(&["account", "enable", "sim-b"]);
    harness.run(&["account", "disable", "sim-a"]);
    assert_eq!(harness.turn(None).await.account(), "sim-b");
    let row = "SELECT outcome FROM turns WHERE outcome <> 'completed'";
    assert_eq!(harness.query(row), [json!({ "outcome": "open" })]);
    drop(open);
}

#[tokio::test]
async fn a_hang_up_signal_has_the_file_read_again_without_dropping_a_stream() {
    let harness = Harness::over(2).await;
    let mut open = harness.open_stream("deltas=3;delta_delay=300ms", "one").await;
    let path = harness.folder().join("moorage.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    // sim-b goes from the file, and a client key comes into it.
    let new_key = "mk-another-key-of-somebody-else";
    let key_file = harness.folder().join("other.key");
    std::fs::write(&key_file, new_key).unwrap();
    let start = before.find("[[account]]\nname = \"sim-b\"").unwrap();
    let end = before[start..].find("[[client_key]]").unwrap() + start;
    let after = format!(
        "{}{}\n[[client_key]]\nname = \"other\"\nkey_file = {key_file:?}\n",
        &before[..start],
        &before[end..]
    );
    std::fs::write(&path, after).unwrap();
    harness.gateway.signal("HUP");
    let talk = async |key: &str| harness.post_as(key, said("hi", None)).await;
    let mut told = talk(new_key).await;
    for _ in 0..1000 {
        if told.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        told = talk(new_key).await;
    }
    assert_eq!(told.status, 200);
    for _ in 0..3 {
        assert_eq!(talk(KEY).await.account(), "sim-a");
    }
    let mut text = Vec::new();
    while let Some(bytes) = open.chunk().await.unwrap() {
        text.extend_from_slice(&bytes);
    }
    assert!(String::from_utf8_lossy(&text).contains("response.completed"));
}

#[tokio::test]
async fn a_file_that_cannot_be_right_leaves_everything_as_it_was() {
    let harness = Harness::over(1).await;
    std::fs::write(harness.folder().join("moorage.toml"), "listne = 1").unwrap();
    harness.gateway.signal("HUP");
    eventually("the word in the log", || {
        harness
            .log()
            .contains("the configuration stays as it was")
            .then_some(())
    })
    .await;
    assert_eq!(harness.turn(None).await.status, 200);
}

#[tokio::test]
async fn an_account_that_drains_keeps_its_conversations_and_gets_no_new_ones() {
    let mut harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    let home = first.account().to_owned();
    let told = harness.run(&["account", "drain", &home]);
    assert!(told.contains("1 conversations live on it"), "{told}");
    for number in 0..3 {
        let reply = harness.post(said(&format!("new {number}"), None)).await;
        assert_ne!(reply.account(), home);
    }
    let second = harness.turn(Some(&first.id())).await;
    assert_eq!(second.account(), home);
    harness.kill_and_restart();
    assert_eq!(harness.turn(Some(&second.id())).await.account(), home);
    let list = harness.run(&["account", "list"]);
    assert!(list.contains("draining"), "{list}");
    let now = format!("SELECT status, live_conversations FROM accounts_now WHERE account = '{home}'");
    assert_eq!(
        harness.query(&now)[0],
        json!({ "status": "draining", "live_conversations": 1 })
    );
}

#[tokio::test]
async fn when_all_accounts_drain_a_new_conversation_is_told_so() {
    let harness = Harness::over(1).await;
    harness.run(&["account", "drain", "sim-a"]);
    let reply = harness.post(said("hi", None)).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (503, "account_unavailable")
    );
    assert!(reply.json()["error"]["message"].to_string().contains("draining"));
}

#[tokio::test]
async fn an_account_is_removed_with_conversations_only_by_force() {
    let harness = Harness::over(1).await;
    let other = Harness::over(1).await;
    let key_file = harness.folder().join("second.key");
    std::fs::write(&key_file, other.account(0).api_key()).unwrap();
    let key_file = key_file.to_str().unwrap();
    let address = other.account(0).base_url();
    harness.run(&[
        "account",
        "add",
        "second",
        "--base-url",
        address,
        "--api-key-file",
        key_file,
        "--priority",
        "1",
    ]);
    let first = harness.turn(None).await;
    assert_eq!(first.account(), "second");
    let refused = harness.command(&["account", "remove", "second"]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        told.contains("1 conversations live") && told.contains("--force"),
        "{told}"
    );
    harness.run(&["account", "remove", "second", "--force"]);
    let reply = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (503, "account_unavailable")
    );
    assert_eq!(harness.turn(None).await.account(), "sim-a");
}

#[tokio::test]
async fn enabling_an_account_forgets_what_kept_it_away() {
    let harness = Harness::over(1).await;
    harness.account(0).script(
        "status=429;code=insufficient_quota;retry_after=6000"
            .parse()
            .unwrap(),
    );
    assert_eq!(harness.post(said("hi", None)).await.status, 429);
    assert_eq!(harness.post(said("hi", None)).await.status, 429);
    harness.run(&["account", "enable", "sim-a"]);
    assert_eq!(harness.turn(None).await.status, 200);
}
