//! The admin API: who may use it, and what it does to accounts and keys of a gateway that runs.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::harness::{Harness, KEY, Reply, WithJson as _, said};

fn url(harness: &Harness, path: &str) -> String {
    format!("{}/admin/api/v1/{path}", harness.gateway.url())
}

async fn log_in(harness: &Harness, key: &str) -> Reply {
    let login = harness.http.post(url(harness, "session"));
    Reply::of(login.json(&json!({ "key": key }))).await
}

/// The cookie of a login, as a browser sends it back.
async fn cookie(harness: &Harness) -> String {
    let login = log_in(harness, &harness.admin_key).await;
    assert_eq!(login.status, 204, "{login:?}");
    let cookie = login.header("set-cookie").unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

async fn status(request: RequestBuilder) -> u16 {
    Reply::of(request).await.status
}

#[tokio::test]
async fn a_login_gives_a_cookie_that_scripts_cannot_read_and_other_sites_cannot_send() {
    let harness = Harness::over(1).await;
    let login = log_in(&harness, &harness.admin_key).await;
    let cookie = login.header("set-cookie").unwrap();
    for word in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(cookie.contains(word), "{cookie}");
    }
    assert!(!cookie.contains(&harness.admin_key));
    let cookie = cookie.split(';').next().unwrap();
    let accounts = harness.http.get(url(&harness, "accounts"));
    let reply = Reply::of(accounts.header("cookie", format!("other=1; {cookie}"))).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(reply.header("x-frame-options"), Some("DENY"));
    assert!(
        reply
            .header("content-security-policy")
            .unwrap()
            .contains("frame-ancestors 'none'")
    );
    assert_eq!(reply.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_login_survives_a_restart_and_ends_with_a_logout_or_a_new_admin_key() {
    let mut harness = Harness::over(1).await;
    let (first, second) = (cookie(&harness).await, cookie(&harness).await);
    harness.kill_and_restart();
    let get = |harness: &Harness, cookie: &str| {
        let session = harness.http.get(url(harness, "session"));
        session.header("cookie", cookie)
    };
    assert_eq!(status(get(&harness, &first)).await, 200);
    let own = harness.gateway.url();
    let logout = harness.http.delete(url(&harness, "session"));
    let logout = logout.header("cookie", &first).header("origin", &own);
    let logout = Reply::of(logout).await;
    assert_eq!(logout.status, 204);
    assert!(logout.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(status(get(&harness, &first)).await, 401);
    assert_eq!(status(get(&harness, &second)).await, 200);
    let said = harness.run(&["admin-key", "reset"]);
    assert_eq!(status(get(&harness, &second)).await, 401);
    // The new key counts at once, and the old one does not.
    assert_eq!(log_in(&harness, &harness.admin_key).await.status, 401);
    let new = said.lines().map(str::trim).find(|line| line.starts_with("ma-"));
    assert_eq!(log_in(&harness, new.unwrap()).await.status, 204);
    let dump = harness.query("SELECT digest FROM admin_sessions");
    assert!(!format!("{dump:?}").contains("ms-"));
}

#[tokio::test]
async fn everything_of_the_admin_api_needs_the_admin_key() {
    let harness = Harness::over(1).await;
    let routes = [
        ("GET", "accounts"),
        ("POST", "accounts"),
        ("GET", "accounts/sim-a"),
        ("DELETE", "accounts/sim-a"),
        ("POST", "accounts/sim-a/enable"),
        ("POST", "accounts/sim-a/disable"),
        ("POST", "accounts/sim-a/drain"),
        ("GET", "keys"),
        ("POST", "keys"),
        ("POST", "keys/laptop/rotate"),
        ("POST", "keys/laptop/revoke"),
        ("GET", "session"),
        ("DELETE", "session"),
    ];
    for (method, path) in routes {
        let request = |key: Option<&str>| {
            let request = harness.http.request(method.parse().unwrap(), url(&harness, path));
            match key {
                Some(key) => request.header("x-api-key", key),
                None => request,
            }
        };
        assert_eq!(status(request(None)).await, 401, "{method} {path}");
        let cookie = request(None).header("cookie", "moorage_session=ms-guessed");
        assert_eq!(status(cookie).await, 401, "{method} {path}");
    }
    // A client key opens nothing here.
    assert_eq!(
        status(harness.http.get(url(&harness, "accounts")).bearer_auth(KEY)).await,
        401
    );
    assert_eq!(harness.turn(None).await.status, 200);
}

#[tokio::test]
async fn accounts_are_added_switched_and_removed_while_the_gateway_runs() {
    let harness = Harness::over(1).await;
    let other = Harness::over(1).await;
    let added = json!({
        "name": "second",
        "base_url": other.account(0).base_url(),
        "api_key": other.account(0).api_key(),
        "priority": 5,
    });
    let reply = Reply::of(harness.admin("POST", "accounts").json(&added)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    // It has the higher priority, and is asked at once.
    assert_eq!(harness.turn(None).await.account(), "second");
    let shown = Reply::of(harness.admin("GET", "accounts/second")).await.json();
    assert_eq!(
        (
            &shown["status"],
            &shown["priority"],
            &shown["source"],
            &shown["live_conversations"]
        ),
        (&json!("active"), &json!(5), &json!("command"), &json!(1))
    );
    assert!(!shown.to_string().contains(other.account(0).api_key()));
    for (verb, status, account) in [
        ("disable", "disabled", "sim-a"),
        ("enable", "active", "second"),
        ("drain", "draining", "sim-a"),
    ] {
        let path = format!("accounts/second/{verb}");
        assert_eq!(self::status(harness.admin("POST", &path)).await, 200);
        let shown = Reply::of(harness.admin("GET", "accounts/second")).await.json();
        assert_eq!(shown["status"], status);
        let body = said(&format!("after {verb}"), None);
        assert_eq!(harness.post(body).await.account(), account, "{verb}");
    }
    let refused = Reply::of(harness.admin("DELETE", "accounts/second")).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "account_in_use"));
    assert_eq!(
        status(harness.admin("DELETE", "accounts/second?force=true")).await,
        200
    );
    let list = Reply::of(harness.admin("GET", "accounts")).await.json();
    assert_eq!(list["accounts"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_done_to_an_account_is_told() {
    let harness = Harness::over(1).await;
    let whole = json!({ "name": "b", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-x" });
    let with = |member: &str, value: Value| {
        let mut body = whole.clone();
        body[member] = value;
        body
    };
    let cases = [
        (with("name", json!("a b")), 400, "invalid_request"),
        (with("name", json!("sim-a")), 409, "in_file"),
        (with("base_url", json!("ftp://x")), 400, "invalid_request"),
        (with("api_key", json!("")), 400, "invalid_request"),
        (with("kind", json!("other")), 400, "invalid_request"),
        (with("weight", json!(0)), 400, "invalid_request"),
        (with("colour", json!("red")), 400, "invalid_request"),
        (json!("no object"), 400, "invalid_request"),
        (json!("x".repeat(70_000)), 413, "body_too_large"),
    ];
    for (body, status, code) in cases {
        let reply = Reply::of(harness.admin("POST", "accounts").json(&body)).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{body}");
    }
    for (method, path) in [
        ("GET", "accounts/nobody"),
        ("POST", "accounts/nobody/drain"),
        ("DELETE", "accounts/nobody"),
        ("POST", "keys/nobody/rotate"),
        ("POST", "keys/nobody/revoke"),
    ] {
        let reply = Reply::of(harness.admin(method, path)).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (404, "unknown_name"),
            "{path}"
        );
    }
    for (method, path) in [("DELETE", "accounts/sim-a"), ("POST", "keys/laptop/revoke")] {
        let reply = Reply::of(harness.admin(method, path)).await;
        assert_eq!((reply.status, reply.code().as_str()), (409, "in_file"), "{path}");
    }
}

#[tokio::test]
async fn client_keys_are_made_rotated_and_revoked_while_the_gateway_runs() {
    let harness = Harness::over(1).await;
    let talk = async |key: &str| harness.post_as(key, said("hi", None)).await.status;
    let made = Reply::of(harness.admin("POST", "keys").json(&json!({ "name": "phone" }))).await;
    let first = made.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(talk(&first).await, 200);
    let again = Reply::of(harness.admin("POST", "keys").json(&json!({ "name": "phone" }))).await;
    assert_eq!((again.status, again.code().as_str()), (409, "name_taken"));
    let rotated = Reply::of(harness.admin("POST", "keys/phone/rotate")).await;
    let second = rotated.json()["key"].as_str().unwrap().to_owned();
    assert_eq!((talk(&first).await, talk(&second).await), (401, 200));
    let list = Reply::of(harness.admin("GET", "keys")).await;
    let text = String::from_utf8(list.body.clone()).unwrap();
    assert!(!text.contains(&first) && !text.contains(&second) && !text.contains(KEY));
    assert_eq!(list.json()["keys"].as_array().unwrap().len(), 2);
    assert_eq!(status(harness.admin("POST", "keys/phone/revoke")).await, 200);
    assert_eq!(talk(&second).await, 401);
    assert_eq!(talk(KEY).await, 200);
}
