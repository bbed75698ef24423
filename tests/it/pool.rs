//! Many accounts, many conversations, and faults at random: nothing lands on a foreign account, and
//! nothing fails that need not.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE, Reply, eventually, said, streamed};

/// Numbers that look random and are the same at every run.
struct Dice {
    state: u64,
    slow_faults: u64,
}

impl Dice {
    fn next(&mut self, below: u64) -> u64 {
        // Knuth's MMIX.
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % below
    }

    /// One of the few that there are.
    fn slow_fault(&mut self) -> Option<()> {
        self.slow_faults = self.slow_faults.checked_sub(1)?;
        Some(())
    }
}

const ACCOUNTS: usize = 8;
const CONVERSATIONS: usize = 200;
const TURNS: usize = 3;

/// How many limits inside a stream, and faults of a server, there are in all: each of them keeps its
/// account away for seconds, a server's that come in a row for longer and longer.
const SLOW_FAULTS: u64 = 16;

/// Tells an account to fail at its next request. Limits come from six of them, a failing server is
/// one, connections break at another, and one is always well.
fn trouble(harness: &Harness, dice: &mut Dice) {
    let mut roll = dice.next(40);
    if (9..=12).contains(&roll) {
        roll = dice.slow_fault().map_or(0, |()| roll);
    }
    let (account, fault) = match roll {
        0..=8 => (dice.next(6), "status=429;retry_after=0.2"),
        9..=10 => (dice.next(6), "fail_in_stream=rate_limit_exceeded"),
        11 => (6, "status=500"),
        12 => (6, "status=503"),
        13..=14 => (5, "cut_after=3"),
        15..=16 => (5, "cut_before"),
        _ => return,
    };
    harness.account(account as usize).script(fault.parse().unwrap());
}

/// The id that a reply told, if it told one.
fn told_id(reply: &Reply) -> Option<String> {
    let text = String::from_utf8_lossy(&reply.body);
    text.split('"')
        .find(|word| word.starts_with("resp_"))
        .map(str::to_owned)
}

/// A conversation of some turns, before each of which something may break.
async fn converse(harness: &Harness, dice: &RefCell<Dice>, number: usize) -> String {
    let mut previous: Option<String> = None;
    for turn in 0..TURNS {
        trouble(harness, &mut dice.borrow_mut());
        let text = format!("conversation {number}, turn {turn}");
        let body = match dice.borrow_mut().next(2) {
            0 => said(&text, previous.as_deref()),
            _ => streamed(&text, previous.as_deref()),
        };
        previous = Some(take_turn(harness, &body, previous.is_none()).await);
    }
    previous.unwrap()
}

/// Asks until a turn has ended well, as patiently as it is told to be. Were it less patient, then
/// two hundred clients that ask at once again would keep the machine from everything else.
async fn take_turn(harness: &Harness, body: &Value, is_first: bool) -> String {
    let begin = Instant::now();
    loop {
        let reply = harness.post(body.clone()).await;
        let answer = String::from_utf8_lossy(&reply.body).into_owned();
        if reply.status == 200 && reply.whole && !answer.contains(r#""status":"failed""#) {
            return told_id(&reply).unwrap();
        }
        if reply.status != 200 && is_first {
            // A healthy account was there: only what may have run is not made again.
            assert_eq!(reply.code(), "upstream_cut", "{answer}");
        }
        assert!(begin.elapsed() < 3 * PATIENCE, "no turn of {body}: {answer}");
        let told = reply
            .header("retry-after")
            .map_or(0, |told| told.parse().unwrap());
        tokio::time::sleep(Duration::from_secs(told)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn among_faults_no_turn_reaches_a_foreign_account_and_no_new_one_fails_without_need() {
    let harness = Harness::over(ACCOUNTS).await;
    let dice = RefCell::new(Dice {
        state: 0x6d6f_6f72,
        slow_faults: SLOW_FAULTS,
    });
    let talks = (0..CONVERSATIONS).map(|number| converse(&harness, &dice, number));
    let heads = futures_util::future::join_all(talks).await;

    for account in harness.simulator.accounts() {
        let journal = account.journal();
        let own: HashSet<&str> = journal
            .iter()
            .filter_map(|entry| entry.response_id.as_deref())
            .collect();
        for entry in &journal {
            let body: Value = serde_json::from_slice(&entry.body).unwrap();
            if let Some(previous) = body["previous_response_id"].as_str() {
                assert!(own.contains(previous), "{previous} on {}", account.name());
            }
        }
    }

    // All limits end by themselves, and every conversation goes on where it was.
    eventually("the end of all limits", || {
        let limited =
            "SELECT 1 AS x FROM accounts_now WHERE status <> 'active' OR limited_models IS NOT NULL";
        harness.query(limited).is_empty().then_some(())
    })
    .await;
    for account in harness.simulator.accounts() {
        // What was to fail and was not asked for.
        account.forget_faults();
    }
    let last = heads.iter().map(|head| harness.turn(Some(head)));
    futures_util::future::join_all(last).await;
    let moved = "SELECT count(*) AS n FROM conversations WHERE moves > 0";
    assert_eq!(harness.query(moved), [json!({ "n": 0 })]);
}

#[tokio::test]
async fn who_was_refused_is_not_sent_there_again_while_another_can_serve() {
    let harness = Harness::over(2).await;
    let busy = harness.open_stream("deltas=2;delta_delay=1h", "hi").await;
    let home = busy.headers()["x-moorage-account"].to_str().unwrap().to_owned();
    let other = if home == "sim-a" { "sim-b" } else { "sim-a" };
    // Its limit is over at once, and it has the least load.
    harness
        .named(other)
        .always(Some("status=429;retry_after=0".parse().unwrap()));
    let reply = harness.post(said("something else", None)).await;
    assert_eq!((reply.status, reply.account()), (200, home.as_str()));
    assert_eq!(harness.row(reply.request_id()).await["attempts"], 2);
    drop(busy);
}

#[tokio::test]
async fn a_server_that_fails_time_after_time_is_left_alone_and_comes_back() {
    let harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    let home = first.account().to_owned();
    harness.named(&home).always(Some("status=503".parse().unwrap()));
    for _ in 0..5 {
        let reply = harness.post(said("go on", Some(&first.id()))).await;
        assert_eq!((reply.status, reply.account()), (503, home.as_str()));
    }
    // New ones do not even ask it, and its status says nothing.
    harness.named(&home).clear_journal();
    for number in 0..4 {
        let reply = harness.post(said(&format!("new {number}"), None)).await;
        assert_eq!(reply.status, 200);
        assert_ne!(reply.account(), home);
    }
    assert!(harness.named(&home).journal().is_empty());
    let now = "SELECT DISTINCT status FROM accounts_now";
    assert_eq!(harness.query(now), [json!({ "status": "active" })]);
    // Who is pinned to it waits out the moment.
    harness.named(&home).always(None);
    assert_eq!(harness.turn(Some(&first.id())).await.account(), home);
}

#[tokio::test]
async fn the_order_of_turns_goes_on_over_a_restart() {
    let mut harness = Harness::over(3).await;
    for account in ["sim-a", "sim-b"] {
        let reply = harness.post(said(&format!("for {account}"), None)).await;
        assert_eq!(reply.account(), account);
    }
    eventually("whose turn it is, in the database", || {
        let saved = harness.query("SELECT 1 AS x FROM accounts WHERE rotation > 0");
        (saved.len() == 2).then_some(())
    })
    .await;
    harness.kill_and_restart();
    let reply = harness.post(said("a matter of its own", None)).await;
    assert_eq!(reply.account(), "sim-c");
}

#[tokio::test]
async fn an_account_of_higher_priority_is_used_until_it_cannot_serve() {
    let harness = Harness::build(2)
        .account("")
        .account("priority = 1")
        .start()
        .await;
    for _ in 0..3 {
        let reply = harness.post(said("hi", None)).await;
        assert_eq!(reply.account(), "sim-b");
    }
    harness
        .account(1)
        .script("status=429;retry_after=600".parse().unwrap());
    assert_eq!(
        harness.post(said("something else", None)).await.account(),
        "sim-a"
    );
}

#[tokio::test]
async fn the_way_of_rotation_can_be_set() {
    for (rotation, expected) in [
        ("round-robin", ["sim-b", "sim-a"]),
        ("fill-first", ["sim-a", "sim-a"]),
    ] {
        let harness = Harness::build(2)
            .section(&format!("[pool]\nrotation = {rotation:?}"))
            .start()
            .await;
        assert_eq!(harness.turn(None).await.account(), "sim-a");
        for (number, account) in expected.into_iter().enumerate() {
            let reply = harness.post(said(&format!("matter {number}"), None)).await;
            assert_eq!(reply.account(), account, "{rotation}");
        }
    }
}

#[tokio::test]
async fn those_who_wait_for_a_place_get_it_in_their_order() {
    let harness = Harness::build(1).account("max_concurrent = 1").start().await;
    let mut open = harness
        .open_stream("deltas=3;delta_delay=200ms", "the first")
        .await;
    let wait = async |text: &str| harness.post(said(text, None)).await;
    let mut waiting = Vec::new();
    for number in 0..3 {
        let text = format!("waiting {number}");
        let wait = &wait;
        waiting.push(Box::pin(async move { wait(&text).await }));
        // It stands in line before the next one comes.
        let next = waiting.last_mut().unwrap();
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(50), next)
                .await
                .is_err()
        );
    }
    while open.chunk().await.unwrap().is_some() {}
    let replies = futures_util::future::join_all(waiting).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let asked: Vec<String> = harness
        .account(0)
        .journal()
        .iter()
        .skip(1)
        .map(|entry| {
            let body: Value = serde_json::from_slice(&entry.body).unwrap();
            body["input"][0]["content"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(asked, ["waiting 0", "waiting 1", "waiting 2"]);
}
