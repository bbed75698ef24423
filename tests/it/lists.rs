//! Lists that no single account owns: the union, in order, page by page in both directions, whole or
//! not at all.

use serde_json::{Value, json};

use crate::endpoints::{OTHER, call, form, get, post, with_other};
use crate::harness::{Harness, KEY, Reply};

#[tokio::test]
async fn a_list_is_the_union_in_order_page_by_page_and_only_of_the_own_scope() {
    let folder = tempfile::tempdir().unwrap();
    let harness = with_other(Harness::build(3), &folder).start().await;
    // Made past the gateway: on all accounts, and nobody's.
    for account in harness.simulator.accounts() {
        harness.file_at(account, "x").await;
    }
    let mut mine = Vec::new();
    for number in 0..7 {
        let reply = post(&harness, "/conversations", json!({})).await;
        // Each file goes where its conversation's session would: spread over the accounts.
        let (kind, body) = form(&number.to_string());
        let request = harness
            .http
            .post(format!("{}/v1/files", harness.gateway.url()))
            .bearer_auth(if number == 3 { OTHER } else { KEY })
            .header("session-id", reply.request_id().to_string())
            .header("content-type", kind);
        let made = Reply::of(request.body(body)).await;
        if number != 3 {
            mine.push(made.json()["id"].as_str().unwrap().to_owned());
        }
    }
    mine.sort();
    for order in ["asc", "desc"] {
        let mut seen: Vec<String> = Vec::new();
        let mut times = Vec::new();
        let mut after = String::new();
        loop {
            let page = get(&harness, &format!("/files?limit=2&order={order}{after}")).await;
            assert_eq!(page.status, 200, "{page:?}");
            let page = page.json();
            let items = page["data"].as_array().unwrap();
            assert!(items.len() <= 2, "{page}");
            seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            times.extend(items.iter().map(|item| item["created_at"].as_i64().unwrap()));
            if page["has_more"] == false {
                break;
            }
            assert_eq!(page["last_id"], items.last().unwrap()["id"]);
            assert!(seen.len() < 2 * mine.len(), "it never ends: {page}");
            after = format!("&after={}", page["last_id"].as_str().unwrap());
        }
        if order == "desc" {
            times.reverse();
        }
        assert!(times.is_sorted(), "{times:?}");
        seen.sort();
        assert_eq!(seen, mine, "{order}");
    }
    let foreign = call(&harness, OTHER, "GET", &format!("/files?after={}", mine[0]), None).await;
    assert_eq!(foreign.status, 404);
}

#[tokio::test]
async fn with_one_scope_a_list_has_everything_that_the_accounts_hold() {
    let harness = Harness::over(3).await;
    let mut all = files_on_every_account(&harness, 5).await;
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = get(&harness, &format!("/files?limit=4{after}")).await.json();
        let items = page["data"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        if page["has_more"] == false {
            break;
        }
        assert!(seen.len() < 2 * all.len(), "it never ends: {page}");
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    all.sort();
    seen.sort();
    assert_eq!(seen, all);
}

/// Files on every account, made past the gateway: how many on each.
async fn files_on_every_account(harness: &Harness, each: usize) -> Vec<String> {
    let mut made = Vec::new();
    for account in harness.simulator.accounts() {
        for _ in 0..each {
            made.push(harness.file_at(account, "x").await);
        }
    }
    made
}

fn ids(page: &Value) -> Vec<String> {
    let items = page["data"].as_array().unwrap().iter();
    items
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_list_goes_backwards_page_by_page_as_it_went_forwards() {
    let harness = Harness::over(3).await;
    let all = files_on_every_account(&harness, 4).await;
    for order in ["asc", "desc"] {
        let whole = ids(&get(&harness, &format!("/files?limit=100&order={order}"))
            .await
            .json());
        assert_eq!(whole.len(), all.len());
        let mut seen: Vec<String> = Vec::new();
        let mut before = whole.last().unwrap().clone();
        loop {
            let path = format!("/files?limit=5&order={order}&before={before}");
            let page = get(&harness, &path).await;
            assert_eq!(page.status, 200, "{page:?}");
            let page = page.json();
            seen.splice(0..0, ids(&page));
            if page["has_more"] == false {
                break;
            }
            assert!(seen.len() < all.len(), "it never ends: {page}");
            assert_eq!(page["first_id"], seen[0]);
            before = seen[0].clone();
        }
        assert_eq!(seen, whole[..whole.len() - 1], "{order}");
    }
    for (path, parameter) in [
        ("/files?before=file_nobody", "before"),
        ("/files?after=file_nobody", "after"),
        ("/files?after=a&before=b", "before"),
        ("/batches?before=a", "before"),
        ("/files?limit=many", "limit"),
    ] {
        let refused = get(&harness, path).await;
        let error = refused.json()["error"].clone();
        assert!(matches!(refused.status, 400 | 404), "{path} {refused:?}");
        assert_eq!(error["param"], parameter, "{path} {error}");
    }
}

/// What is missing in a list looks deleted: an account that does not answer makes it an error.
#[tokio::test]
async fn a_list_is_an_error_that_names_the_account_that_does_not_answer_until_a_person_disables_it() {
    let mut harness = Harness::over(3).await;
    let all = files_on_every_account(&harness, 1).await;
    let path = harness.folder().join("moorage.toml");
    let toml = std::fs::read_to_string(&path).unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}/v1", nobody.local_addr().unwrap());
    drop(nobody);
    std::fs::write(&path, toml.replace(harness.account(1).base_url(), &closed)).unwrap();
    harness.kill_and_restart();
    for path in ["/files", &format!("/files?after={}", all[0])] {
        let list = get(&harness, path).await;
        assert_eq!(
            (list.status, list.code().as_str()),
            (503, "account_unavailable"),
            "{list:?}"
        );
        let message = list.json()["error"]["message"].to_string();
        assert!(
            message.contains("'sim-b'") && message.contains("disable"),
            "{message}"
        );
        let row = harness.row(list.request_id()).await;
        assert_eq!(
            (&row["outcome"], &row["status"]),
            (&"refused".into(), &503.into())
        );
    }
    harness.run(&["account", "disable", "sim-b"]);
    let list = get(&harness, "/files").await.json();
    let mut seen = ids(&list);
    seen.sort();
    let mut others = vec![all[0].clone(), all[2].clone()];
    others.sort();
    assert_eq!(seen, others);
}

#[tokio::test]
async fn a_list_is_told_by_the_sibling_of_an_account_that_does_not_answer() {
    let mut harness = Harness::build(3).sharing(2).start().await;
    let all = files_on_every_account(&harness, 1).await;
    let path = harness.folder().join("moorage.toml");
    let toml = std::fs::read_to_string(&path).unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}/v1", nobody.local_addr().unwrap());
    drop(nobody);
    std::fs::write(&path, toml.replace(harness.account(0).base_url(), &closed)).unwrap();
    harness.kill_and_restart();
    let list = get(&harness, "/files").await;
    assert_eq!(list.status, 200, "{list:?}");
    assert_eq!(ids(&list.json()).len(), all.len());
}
