//! Attacks on the gateway: each is refused, and harmless to others.

use std::net::IpAddr;

use serde_json::json;

use crate::harness::{Harness, KEY, Reply, WithJson as _, eventually, said};
use crate::raw::exchange;

/// The status of an answer as it came over the wire.
fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|text| text.get(..3));
    status.and_then(|status| status.parse().ok()).unwrap_or(0)
}

async fn line(harness: &Harness, head: &str) -> u16 {
    let request = format!("{head}\r\nconnection: close\r\n\r\n");
    status(&exchange(&harness.gateway.address, request.as_bytes()).await)
}

#[tokio::test]
async fn a_page_whose_name_was_rebound_to_this_machine_gets_nothing() {
    let harness = Harness::build(1)
        .section("[web]\nallowed_hosts = [\"moorage.lan\"]")
        .start()
        .await;
    let key = &harness.admin_key;
    for path in ["/", "/app.js", "/admin/api/v1/usage", "/admin/api/v1/session"] {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}");
            assert_eq!(line(&harness, &head).await, 421, "{path} {host}");
        }
        let two = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nhost: evil.example");
        assert_ne!(line(&harness, &two).await, 200, "{path}");
        let whole = format!("GET http://evil.example{path} HTTP/1.1\r\nhost: localhost");
        assert_eq!(line(&harness, &whole).await, 421, "{path}");
    }
    for host in [
        "moorage.lan",
        "MOORAGE.LAN:8440",
        "127.0.0.1:1",
        "[::1]",
        "localhost",
    ] {
        let head = format!("GET / HTTP/1.1\r\nhost: {host}");
        assert_eq!(line(&harness, &head).await, 200, "{host}");
    }
}

#[tokio::test]
async fn a_form_or_script_of_another_page_changes_and_reads_nothing() {
    let harness = Harness::over(1).await;
    let url = |path: &str| format!("{}/admin/api/v1/{path}", harness.gateway.url());
    let login = harness.http.post(url("session"));
    let login = Reply::of(login.json(&json!({ "key": harness.admin_key }))).await;
    let cookie = login
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let post = |path: &str| harness.http.post(url(path)).header("cookie", &cookie);
    let key = json!({ "name": "stolen" }).to_string();
    // As browsers send it; a page on another port of this machine is of the same site.
    for origin in ["https://evil.example", "http://127.0.0.1:3000", "null"] {
        for media_type in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json",
        ] {
            let form = post("keys")
                .header("origin", origin)
                .header("content-type", media_type);
            assert_eq!(Reply::of(form.body(key.clone())).await.status, 401, "{origin}");
        }
        let read = harness.http.get(url("accounts")).header("cookie", &cookie);
        assert_eq!(
            Reply::of(read.header("origin", origin)).await.status,
            401,
            "{origin}"
        );
    }
    for site in ["cross-site", "same-site", "none"] {
        let form = post("accounts/sim-a/disable").header("sec-fetch-site", site);
        assert_eq!(Reply::of(form).await.status, 401, "{site}");
    }
    // Nothing says where it comes from.
    assert_eq!(Reply::of(post("accounts/sim-a/disable")).await.status, 401);
    // Its own page, and only as JSON.
    let own = harness.gateway.url();
    let text = post("keys")
        .header("origin", &own)
        .header("content-type", "text/plain");
    assert_eq!(Reply::of(text.body(key.clone())).await.status, 415);
    let right = post("keys")
        .header("origin", &own)
        .header("content-type", "application/json");
    assert_eq!(Reply::of(right.body(key)).await.status, 200);
    // Nobody is told that another page may read.
    let preflight = harness.http.request("OPTIONS".parse().unwrap(), url("keys"));
    let preflight = preflight
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "POST");
    assert_eq!(
        Reply::of(preflight).await.header("access-control-allow-origin"),
        None
    );
}

#[tokio::test]
async fn only_named_origins_may_call_from_their_pages_and_never_the_admin_api() {
    let harness = Harness::build(1)
        .section("[web]\nallowed_origins = [\"https://chat.example\"]")
        .start()
        .await;
    let ask = async |path: &str, origin: &str| {
        let url = format!("{}{path}", harness.gateway.url());
        let preflight = harness.http.request("OPTIONS".parse().unwrap(), url);
        let preflight = preflight
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type");
        let allowed = Reply::of(preflight).await;
        allowed.header("access-control-allow-origin").map(str::to_owned)
    };
    let named = "https://chat.example";
    assert_eq!(ask("/v1/responses", named).await.as_deref(), Some(named));
    assert_eq!(ask("/v1/responses", "https://evil.example").await, None);
    assert_eq!(ask("/admin/api/v1/keys", named).await, None);
}

#[tokio::test]
async fn guessing_the_admin_key_is_slowed_down_for_the_guesser_and_for_nobody_else() {
    let harness = Harness::over(1).await;
    let url = format!("{}/admin/api/v1/accounts", harness.gateway.url());
    let from = |address: &str| {
        let from: IpAddr = address.parse().unwrap();
        reqwest::Client::builder().local_address(from).build().unwrap()
    };
    let guesser = from("127.0.0.2");
    let guess = |key: &str| guesser.get(&url).bearer_auth(key);
    let mut told = Vec::new();
    for number in 0..6 {
        told.push(Reply::of(guess(&format!("ma-{number}"))).await.status);
    }
    assert_eq!(told, [401, 401, 401, 401, 401, 429]);
    // Not even the right key is looked at: that would tell that it is right.
    let right = Reply::of(guess(&harness.admin_key)).await;
    assert_eq!(
        (right.status, right.code().as_str()),
        (429, "too_many_wrong_keys")
    );
    assert_eq!(right.header("retry-after"), Some("1"));
    let login = guesser.post(format!("{}/admin/api/v1/session", harness.gateway.url()));
    let login = login.json(&json!({ "key": harness.admin_key }));
    assert_eq!(Reply::of(login).await.status, 429);
    // A header that claims to be somebody else changes nothing.
    let forwarded = guess(&harness.admin_key).header("x-forwarded-for", "10.1.1.1");
    assert_eq!(Reply::of(forwarded).await.status, 429);
    let other = from("127.0.0.1").get(&url).bearer_auth(&harness.admin_key);
    assert_eq!(Reply::of(other).await.status, 200);
    assert_eq!(harness.turn(None).await.status, 200);
    // The wait ends.
    let mut tries = Vec::new();
    for _ in 0..200 {
        let status = Reply::of(guess(&harness.admin_key)).await.status;
        tries.push(status);
        if status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(tries.last(), Some(&200));
}

#[tokio::test]
async fn wrong_client_keys_cost_a_bounded_number_of_rows_and_lock_nobody_out() {
    let harness = Harness::over(1).await;
    let url = format!("{}/v1/responses", harness.gateway.url());
    let most = usize::try_from(moorage::limits::WRONG_CLIENT_KEYS).unwrap();
    let from = |address: &str| {
        let from: IpAddr = address.parse().unwrap();
        reqwest::Client::builder().local_address(from).build().unwrap()
    };
    let guesser = from("127.0.0.2");
    let guess = |key: &str| guesser.post(&url).bearer_auth(key).json(&said("hi", None));
    for number in 0..most {
        let reply = Reply::of(guess(&format!("mk-guess-{number}"))).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_api_key"));
    }
    let further = [
        guess("mk-guess-more"),
        guesser.get(format!("{url}/%ff")),
        guess("mk-guess-more").header("x-forwarded-for", "10.1.1.1"),
        guesser
            .get(&url)
            .header("connection", "upgrade")
            .header("upgrade", "websocket"),
    ];
    for request in further {
        let reply = Reply::of(request).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (429, "too_many_wrong_keys")
        );
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{reply:?}");
        assert_eq!(reply.header("x-moorage-request-id"), None);
    }
    // Behind a router or a reverse proxy this may be somebody else.
    assert_eq!(Reply::of(guess(KEY)).await.status, 200);
    let elsewhere = from("127.0.0.1").post(&url).bearer_auth("mk-guess-more");
    assert_eq!(Reply::of(elsewhere.body("{}")).await.status, 401);

    let rows = "SELECT count(*) AS n FROM turns WHERE error_code = 'invalid_api_key' AND outcome = 'refused'";
    eventually("a row for each that was told 401", || {
        (harness.query(rows)[0]["n"] == most + 1).then_some(())
    })
    .await;
    assert_eq!(
        harness.query("SELECT count(*) AS n FROM requests")[0]["n"],
        most + 2
    );
    let metrics = harness.http.get(format!("{}/metrics", harness.gateway.url()));
    let metrics = Reply::of(metrics.bearer_auth(&harness.admin_key)).await;
    let counted = format!("moorage_wrong_client_keys_total {}", most + 5);
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.lines().any(|line| line == counted), "{text}");
    let log = harness.log();
    let warnings = log.lines().filter(|line| line.contains("wrong client keys"));
    assert_eq!(
        warnings.filter(|line| line.contains("127.0.0.2")).count(),
        1,
        "{log}"
    );
    assert!(!log.contains("mk-guess"), "{log}");
}

#[tokio::test]
async fn paths_that_mean_something_else_are_refused() {
    let harness = Harness::over(1).await;
    let key = &harness.admin_key;
    for path in [
        "/v1/../admin/api/v1/usage",
        "/v1/%2e%2e/admin/api/v1/usage",
        "/v1/..%2fadmin/api/v1/usage",
        "/v1/..\\admin",
        "//admin/api/v1/usage",
        "/./admin/api/v1/usage",
        "/v1/responses/..",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}");
        assert_eq!(line(&harness, &head).await, 400, "{path}");
    }
    assert!(harness.account(0).journal().is_empty());
}

#[tokio::test]
async fn requests_that_two_readers_would_read_differently_are_refused() {
    let harness = Harness::over(1).await;
    let body = said("hi", None).to_string();
    let length = body.len();
    let head = format!("POST /v1/responses HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}");
    let cases = [
        // Two lengths; a length and chunks; a length that is none; line breaks in a value or name.
        format!("{head}\r\ncontent-length: {length}\r\ncontent-length: 3\r\n\r\n{body}"),
        format!("{head}\r\ncontent-length: {length}, 3\r\n\r\n{body}"),
        format!("{head}\r\ncontent-length: +{length}\r\n\r\n{body}"),
        format!("{head}\r\ncontent-length: {length}\r\nx-a: b\rx-c: d\r\n\r\n{body}"),
        format!("{head}\r\nx-a\r\n : b\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("{head}\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        format!("{head}\r\ncontent-length : {length}\r\n\r\n{body}"),
        format!("{head}\r\nx-a: \0\r\ncontent-length: {length}\r\n\r\n{body}"),
    ];
    for request in cases {
        let request = request.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        let answer = exchange(&harness.gateway.address, request.as_bytes()).await;
        assert_ne!(status(&answer), 200, "{request}");
        assert!(harness.account(0).journal().is_empty(), "{request}");
    }
    // With both, chunks count and the length does not travel on: one reading, here and upstream.
    let both = format!(
        "{head}\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
    );
    let answer = exchange(&harness.gateway.address, both.as_bytes()).await;
    if status(&answer) == 200 {
        let entry = harness.account(0).journal().pop().unwrap();
        let sent: Vec<_> = entry
            .headers
            .iter()
            .filter(|(name, _)| name == "content-length")
            .collect();
        assert_eq!(sent.len(), 1);
        assert_ne!(sent[0].1, "3");
    }
    assert_eq!(harness.turn(None).await.status, 200);
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let harness = Harness::over(1).await;
    let large = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nx-a: {}",
        "a".repeat(1024 * 1024)
    );
    assert!([0, 431].contains(&line(&harness, &large).await));
    let many: String = (0..500).map(|number| format!("\r\nx-{number}: a")).collect();
    let many = format!("GET / HTTP/1.1\r\nhost: localhost{many}");
    assert_eq!(line(&harness, &many).await, 431);
    assert_eq!(harness.turn(None).await.status, 200);
}

#[tokio::test]
async fn who_logs_in_drop_by_drop_keeps_no_connection() {
    use tokio::io::AsyncWriteExt as _;
    let harness = Harness::over(1).await;
    let mut stream = tokio::net::TcpStream::connect(&harness.gateway.address)
        .await
        .unwrap();
    let head = "POST /admin/api/v1/session HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 60\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    eventually("the end of a slow login", || {
        let mut answer = [0; 12];
        let read = stream.try_read(&mut answer).unwrap_or(0);
        (read == answer.len()).then(|| assert_eq!(&answer, b"HTTP/1.1 413"))
    })
    .await;
}

#[tokio::test]
async fn who_points_with_more_thoughts_than_any_request_is_refused() {
    let harness = Harness::over(1).await;
    let thoughts = (0..5000).map(|number| json!({ "type": "reasoning", "id": format!("rs_{number}") }));
    let body = json!({ "model": "sim-large", "input": thoughts.collect::<Vec<_>>() });
    let reply = harness.post(body).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_reference"));
}

#[tokio::test]
async fn who_sends_a_request_drop_by_drop_keeps_nobody_waiting() {
    use tokio::io::AsyncWriteExt as _;
    let harness = Harness::build(1)
        .section("[limits]\nrequest_head = \"300ms\"")
        .start()
        .await;
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut stream = tokio::net::TcpStream::connect(&harness.gateway.address)
            .await
            .unwrap();
        stream
            .write_all(b"POST /v1/responses HTTP/1.1\r\nhost: h\r\nx-a: ")
            .await
            .unwrap();
        slow.push(stream);
    }
    assert_eq!(harness.turn(None).await.status, 200);
    // Their connections are closed; none is kept.
    for stream in slow {
        eventually("the end of a slow connection", || {
            let mut byte = [0];
            match stream.try_read(&mut byte) {
                Ok(0) => Some(()),
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Some(()),
                _ => None,
            }
        })
        .await;
    }
}
