//! ChatGPT logins are renewed once, written before they are used, and never lost.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use moorage::account::Kind;
use serde_json::{Value, json};

use crate::harness::{Gateway, Harness, KEY, Reply, WithJson as _, eventually, query, said, write_private};

const HOUR: Duration = Duration::from_secs(3600);

/// A gateway over one login, whose access token is valid for so long.
async fn logged_in(valid_for: Duration) -> Harness {
    let harness = Harness::build(1).kinds(&[Kind::Codex]).start().await;
    log_in(&harness, valid_for);
    harness
}

/// What `codex login` does.
fn log_in(harness: &Harness, valid_for: Duration) {
    let mut login = harness.account(0).log_in(valid_for);
    login["harbour"] = json!({ "tide": "high" });
    write_private(&harness.auth_file("sim-a"), &login);
}

fn login(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap_or_default()
}

async fn many(gateways: &[&Gateway], http: &reqwest::Client, each: usize) {
    let ask = |gateway: &Gateway, number: usize| {
        let url = format!("{}/v1/responses", gateway.url());
        let request = http.post(url).bearer_auth(KEY).timeout(crate::harness::PATIENCE);
        Reply::of(request.json(&said(&format!("matter {number}"), None)))
    };
    let asked = gateways
        .iter()
        .flat_map(|gateway| (0..each).map(move |number| ask(gateway, number)));
    for reply in join_all(asked).await {
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

fn status(harness: &Harness) -> Value {
    harness.query("SELECT * FROM accounts_now").remove(0)
}

/// How often the login was renewed, and how often that was refused.
fn renewals(harness: &Harness) -> (usize, usize) {
    let account = harness.account(0);
    (account.renewals(), account.refused_renewals())
}

#[tokio::test]
async fn a_hundred_requests_at_the_end_of_a_token_renew_it_once() {
    let harness = logged_in(Duration::ZERO).await;
    let before = login(&harness.auth_file("sim-a"));
    many(&[&harness.gateway], &harness.http, 100).await;
    assert_eq!(renewals(&harness), (1, 0));
    let after = login(&harness.auth_file("sim-a"));
    assert_ne!(
        after["tokens"]["refresh_token"],
        before["tokens"]["refresh_token"]
    );
    assert_ne!(after["last_refresh"], before["last_refresh"]);
    assert_eq!(
        (&after["harbour"], &after["auth_mode"]),
        (&before["harbour"], &before["auth_mode"])
    );
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(harness.auth_file("sim-a"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let database = std::fs::read(harness.database()).unwrap();
    for name in ["access_token", "refresh_token", "id_token"] {
        for document in [&before, &after] {
            let token = document["tokens"][name].as_str().unwrap();
            assert!(!harness.log().contains(token), "{name} is in the log");
            let in_database = database
                .windows(token.len())
                .any(|bytes| bytes == token.as_bytes());
            assert!(!in_database, "{name} is in the database");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_about_to_end_is_renewed_while_it_still_serves() {
    let harness = logged_in(Duration::from_secs(100)).await;
    many(&[&harness.gateway], &harness.http, 20).await;
    eventually("the renewal", || {
        (harness.account(0).renewals() == 1).then_some(())
    })
    .await;
    many(&[&harness.gateway], &harness.http, 20).await;
    assert_eq!(renewals(&harness), (1, 0));
}

#[tokio::test]
async fn a_token_that_is_refused_is_renewed_once_and_nobody_notices() {
    let harness = logged_in(HOUR).await;
    many(&[&harness.gateway], &harness.http, 1).await;
    assert_eq!(harness.account(0).renewals(), 0);
    harness.account(0).end_access();
    many(&[&harness.gateway], &harness.http, 50).await;
    assert_eq!(renewals(&harness), (1, 0));
    assert_eq!(status(&harness)["status"], "active");
}

#[tokio::test]
async fn what_codex_has_renewed_meanwhile_is_taken_over() {
    let harness = logged_in(HOUR).await;
    many(&[&harness.gateway], &harness.http, 1).await;
    log_in(&harness, HOUR);
    many(&[&harness.gateway], &harness.http, 20).await;
    assert_eq!(renewals(&harness), (0, 0));
}

#[tokio::test]
async fn a_login_that_is_just_being_written_is_waited_for() {
    let harness = logged_in(HOUR).await;
    many(&[&harness.gateway], &harness.http, 1).await;
    let path = harness.auth_file("sim-a");
    // Codex CLI empties the file, and then writes it.
    let new = harness.account(0).log_in(HOUR);
    std::fs::write(&path, "{\"tokens\":{\"access_to").unwrap();
    let written = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        write_private(&path, &new);
    };
    let gateways = [&harness.gateway];
    tokio::join!(many(&gateways, &harness.http, 20), written);
    assert_eq!(harness.account(0).renewals(), 0);
}

#[tokio::test]
async fn two_gateways_on_one_file_never_burn_the_login() {
    let harness = logged_in(Duration::ZERO).await;
    let second = tempfile::tempdir().unwrap();
    for file in ["moorage.toml", "client.key"] {
        std::fs::copy(harness.folder().join(file), second.path().join(file)).unwrap();
    }
    let gateway = Gateway::start(second.path(), "127.0.0.1:0", None);
    for round in 1..=4 {
        many(&[&harness.gateway, &gateway], &harness.http, 25).await;
        assert_eq!(renewals(&harness), (round, 0));
        harness.account(0).end_access();
    }
    for database in [harness.database(), second.path().join("moorage.db")] {
        let failed = query(&database, "SELECT * FROM turns WHERE outcome <> 'completed'");
        assert!(failed.is_empty(), "{failed:?}");
    }
}

#[tokio::test]
async fn a_kill_between_renewal_and_use_loses_no_token() {
    let mut harness = logged_in(Duration::ZERO).await;
    for round in 1..=3 {
        let before = login(&harness.auth_file("sim-a"));
        // Whoever uses the new token gets no answer: the kill comes before.
        harness.account(0).always(Some("hang".parse().unwrap()));
        let request = tokio::spawn(harness.request().json(&said("hi", None)).send());
        eventually("the new token", || {
            let now = login(&harness.auth_file("sim-a"));
            (now["tokens"].is_object() && now["tokens"] != before["tokens"]).then_some(())
        })
        .await;
        harness.kill_and_restart();
        request.await.unwrap().unwrap_err();
        harness.account(0).always(None);
        many(&[&harness.gateway], &harness.http, 3).await;
        assert_eq!(renewals(&harness), (round, 0));
        harness.account(0).end_access();
    }
}

#[tokio::test]
async fn a_renewal_goes_on_when_its_client_hangs_up_and_when_the_gateway_stops() {
    let mut harness = logged_in(Duration::ZERO).await;
    for (round, stops) in [(1, false), (2, true)] {
        let before = login(&harness.auth_file("sim-a"));
        harness
            .account(0)
            .fail_renewals(Some("slow=700ms".parse().unwrap()));
        let journal = harness.account(0).journal().len();
        let request = tokio::spawn(harness.request().json(&said("hi", None)).send());
        eventually("the renewal", || {
            (harness.account(0).journal().len() > journal).then_some(())
        })
        .await;
        request.abort();
        if stops {
            harness.gateway.signal("TERM");
            harness.gateway.ended().await;
        }
        eventually("the new token", || {
            let now = login(&harness.auth_file("sim-a"));
            (now["tokens"].is_object() && now["tokens"] != before["tokens"]).then_some(())
        })
        .await;
        harness.account(0).fail_renewals(None);
        if stops {
            harness.restart();
        }
        many(&[&harness.gateway], &harness.http, 1).await;
        assert_eq!(renewals(&harness), (round, 0));
        harness.account(0).end_access();
    }
}

#[tokio::test]
async fn a_login_that_has_ended_says_so_and_what_to_do_until_a_person_logs_in() {
    let harness = logged_in(Duration::ZERO).await;
    let path = harness.auth_file("sim-a");
    for code in [
        "refresh_token_expired",
        "refresh_token_reused",
        "refresh_token_invalidated",
    ] {
        harness.account(0).end_login(code);
        let reply = harness.post(said("hi", None)).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (503, "account_unavailable")
        );
        let now = status(&harness);
        assert_eq!(
            (&now["status"], &now["reason"]),
            (&json!("expired"), &json!(code))
        );
        let to_do = now["what_to_do"].as_str().unwrap();
        assert!(
            to_do.starts_with("codex login") && to_do.ends_with("sees it by itself"),
            "{to_do}"
        );
        let list = harness.run(&["account", "list"]);
        assert!(list.contains("expired") && list.contains("codex login"), "{list}");
        let doctor = harness.command(&["doctor"]);
        let found = String::from_utf8(doctor.stdout).unwrap();
        assert!(
            !doctor.status.success() && found.contains(code) && found.contains("codex login"),
            "{found}"
        );
        log_in(&harness, Duration::ZERO);
        is_active(&harness).await;
        many(&[&harness.gateway], &harness.http, 1).await;
        harness.account(0).end_access();
    }
    std::fs::remove_file(&path).unwrap();
    let reply = harness.post(said("hi", None)).await;
    assert_eq!(reply.code(), "account_unavailable");
    assert_eq!(status(&harness)["reason"], "auth_file_missing");
    log_in(&harness, HOUR);
    is_active(&harness).await;
    many(&[&harness.gateway], &harness.http, 1).await;
}

/// Nobody tells the gateway: it looks at the file.
async fn is_active(harness: &Harness) {
    eventually("the account that is used again", || {
        (status(harness)["status"] == "active").then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_logs_in_again_while_the_gateway_is_stopped_is_seen_at_its_start() {
    let mut harness = logged_in(Duration::ZERO).await;
    harness.account(0).end_login("refresh_token_reused");
    assert_eq!(harness.post(said("hi", None)).await.status, 503);
    harness.gateway.kill();
    log_in(&harness, HOUR);
    harness.restart();
    is_active(&harness).await;
    many(&[&harness.gateway], &harness.http, 1).await;
}

#[tokio::test]
async fn a_file_that_is_written_anew_with_the_login_that_has_ended_asks_for_nothing() {
    let harness = logged_in(Duration::ZERO).await;
    let path = harness.auth_file("sim-a");
    harness.account(0).end_login("refresh_token_reused");
    assert_eq!(harness.post(said("hi", None)).await.status, 503);
    let refused = harness.account(0).refused_renewals();
    let looked = async |times: usize| {
        eventually("a look at the file", || {
            let looks = harness.log().matches("no login in its file that is good").count();
            (looks >= times).then_some(())
        })
        .await;
    };
    looked(1).await;
    write_private(&path, &login(&path));
    looked(2).await;
    assert_eq!(status(&harness)["status"], "expired");
    assert_eq!(harness.account(0).refused_renewals(), refused);
}

#[tokio::test]
async fn a_renewal_in_trouble_parks_nothing_and_is_tried_again() {
    let harness = Harness::build(2)
        .kinds(&[Kind::Codex, Kind::OpenAi])
        .start()
        .await;
    log_in(&harness, Duration::ZERO);
    harness
        .account(0)
        .fail_renewals(Some("status=503".parse().unwrap()));
    for number in 0..4 {
        let reply = harness.post(said(&format!("matter {number}"), None)).await;
        assert_eq!((reply.status, reply.account()), (200, "sim-b"));
    }
    assert_eq!(status(&harness)["status"], "active");
    harness.account(0).fail_renewals(None);
    let begin = std::time::Instant::now();
    let mut number = 0;
    while harness.account(0).renewals() == 0 {
        assert!(begin.elapsed() < crate::harness::PATIENCE, "never tried again");
        number += 1;
        let reply = harness
            .post(said(&format!("another matter {number}"), None))
            .await;
        assert_eq!(reply.status, 200);
    }
    assert_eq!(renewals(&harness), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_looks_at_logins() {
    let harness = logged_in(HOUR).await;
    let path = harness.auth_file("sim-a");
    let doctor = |arguments: &[&str]| {
        let output = harness.command(arguments);
        String::from_utf8(output.stdout).unwrap()
    };
    let fine = doctor(&["doctor", "--online"]);
    assert!(
        fine.contains("ok     login          sim-a:") && fine.contains("plan: plus"),
        "{fine}"
    );
    assert!(fine.contains("ok     online         sim-a at"), "{fine}");
    std::process::Command::new("chmod")
        .arg("644")
        .arg(&path)
        .status()
        .unwrap();
    let open = doctor(&["doctor"]);
    assert!(open.contains(&format!("chmod 600 {}", path.display())), "{open}");
    write_private(&path, &json!({ "auth_mode": "apikey", "OPENAI_API_KEY": "sk-x" }));
    std::process::Command::new("chmod")
        .arg("600")
        .arg(&path)
        .status()
        .unwrap();
    let none = doctor(&["doctor"]);
    assert!(
        none.contains("holds no ChatGPT login") && none.contains("codex login"),
        "{none}"
    );
}

#[tokio::test]
async fn a_file_that_is_put_right_serves_the_next_request() {
    let mut harness = logged_in(HOUR).await;
    let path = harness.auth_file("sim-a");
    let whole = login(&path);
    harness.gateway.kill();
    std::fs::write(&path, "{\"tokens\":").unwrap();
    harness.restart();
    eventually("a look at what is written so far", || {
        harness
            .log()
            .contains("a login could not be renewed now")
            .then_some(())
    })
    .await;
    let unreadable = harness.post(said("hi", None)).await;
    assert_eq!(
        (unreadable.status, unreadable.code().as_str()),
        (502, "upstream_unreachable")
    );
    let told = String::from_utf8(unreadable.body).unwrap();
    assert!(!told.contains("auth.json"), "the client needs no path: {told}");
    write_private(&path, &whole);
    many(&[&harness.gateway], &harness.http, 3).await;
    assert_eq!(harness.account(0).renewals(), 0);
}
