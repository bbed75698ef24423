//! The page at `/`, and the admin API that it reads.

use crate::harness::{Harness, KEY, Reply};

async fn usage(harness: &Harness, key: &str) -> Reply {
    let url = format!("{}/admin/api/v1/usage", harness.gateway.url());
    Reply::of(harness.http.get(url).bearer_auth(key)).await
}

#[tokio::test]
async fn the_page_is_in_the_binary_and_may_do_nothing_but_read_its_own_server() {
    let harness = Harness::over(1).await;
    let url = harness.gateway.url();
    let page = Reply::of(harness.http.get(format!("{url}/"))).await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .starts_with("default-src 'none'")
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let text = String::from_utf8(page.body.clone()).unwrap();
    for (file, kind) in [("style.css", "text/css"), ("app.js", "text/javascript")] {
        assert!(text.contains(&format!("\"{file}\"")));
        let part = Reply::of(harness.http.get(format!("{url}/{file}"))).await;
        assert_eq!(part.status, 200);
        assert!(part.header("content-type").unwrap().starts_with(kind));
        let again = harness
            .http
            .get(format!("{url}/{file}"))
            .header("if-none-match", part.header("etag").unwrap());
        let again = Reply::of(again).await;
        assert_eq!((again.status, again.body.len()), (304, 0));
    }
    for (nothing, status) in [("nothing.js", 404), ("..%2fCargo.toml", 400), ("app.js/x", 404)] {
        let reply = Reply::of(harness.http.get(format!("{url}/{nothing}"))).await;
        assert_eq!(reply.status, status, "{nothing}");
    }
}

#[test]
fn all_of_the_page_together_is_small() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
    let sizes = std::fs::read_dir(folder).unwrap();
    let bytes: u64 = sizes.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 100_000, "{bytes} bytes");
}

#[tokio::test]
async fn the_history_needs_the_admin_key_which_is_printed_once() {
    let mut harness = Harness::over(1).await;
    let key = harness.admin_key.clone();
    for wrong in ["", "ma-wrong", KEY, "sk-sim-a"] {
        let refused = usage(&harness, wrong).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (401, "invalid_admin_key")
        );
    }
    // The admin key reads the history and lets nobody talk.
    let url = format!("{}/v1/responses", harness.gateway.url());
    assert_eq!(
        Reply::of(harness.http.post(url).bearer_auth(&key).body("{}"))
            .await
            .status,
        401
    );
    assert_eq!(usage(&harness, &key).await.status, 200);
    harness.kill_and_restart();
    assert!(!harness.gateway.said.contains(&key));
    assert!(!harness.gateway.said.contains("ma-"));
    assert_eq!(usage(&harness, &key).await.status, 200);
}
