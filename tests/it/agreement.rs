//! Everybody who tells the figures tells the same: the accounts' own journal, the views, the commands,
//! `/metrics`, the admin API, and the page as a person reads it in a browser.

use moorage::simulator::{Ending, SimulatedAccount};
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::harness::{Harness, PATIENCE, Reply, eventually, said};

async fn ask(harness: &Harness, path: &str) -> Reply {
    let url = format!("{}{path}", harness.gateway.url());
    let request = harness.http.get(url).bearer_auth(&harness.admin_key);
    Reply::of(request.timeout(PATIENCE)).await
}

/// Requests, errors, tokens in, cached and out.
type Figures = [i64; 5];

const NAMES: [&str; 5] = [
    "requests",
    "errors",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
];

/// The sums over lines of JSON that have these columns.
fn summed(lines: &[Value]) -> Figures {
    NAMES.map(|name| lines.iter().filter_map(|line| line[name].as_i64()).sum())
}

/// What the simulated accounts wrote down themselves.
fn of_the_journal(harness: &Harness) -> Figures {
    let mut figures = [0; 5];
    for entry in harness
        .simulator
        .accounts()
        .iter()
        .flat_map(SimulatedAccount::journal)
    {
        figures[0] += 1;
        let Some(usage) = entry.usage.filter(|_| entry.ending == Ending::Whole) else {
            figures[1] += 1;
            continue;
        };
        figures[2] += usage["input_tokens"].as_i64().unwrap();
        figures[3] += usage["input_tokens_details"]["cached_tokens"].as_i64().unwrap();
        figures[4] += usage["output_tokens"].as_i64().unwrap();
    }
    figures
}

async fn of_metrics(harness: &Harness) -> Figures {
    let text = String::from_utf8(ask(harness, "/metrics").await.body).unwrap();
    let sum = |name: &str, wanted: &dyn Fn(&str) -> bool| -> i64 {
        let lines = text.lines().filter(|line| line.starts_with(name) && wanted(line));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<i64>().unwrap())
            .sum()
    };
    let tokens = |kind: &str| {
        sum("moorage_tokens_total{", &|line| {
            line.contains(&format!("kind=\"{kind}\""))
        })
    };
    let requests = |wanted: &dyn Fn(&str) -> bool| sum("moorage_requests_total{", wanted);
    [
        requests(&|_| true),
        requests(&|line| !line.contains("outcome=\"completed\"")),
        tokens("input"),
        tokens("cached"),
        tokens("output"),
    ]
}

/// A history with four kills in it, while rows are folded and removed, and what the accounts say of it.
async fn after_crashes() -> (Harness, Figures) {
    // Rows are folded and removed while this runs.
    let settings = "[usage]\nretention = \"100ms\"\n[affinity]\nsweep_interval = \"20ms\"";
    let mut harness = Harness::build(2).section(settings).start().await;
    let mark =
        |harness: &Harness| harness.query("SELECT folded_below_id AS id FROM usage_fold")[0]["id"].as_i64();
    for round in 0..4 {
        let before = mark(&harness);
        let text = "the tide ".repeat(600);
        for number in 0..12 {
            let body = json!({ "model": "sim-large", "prompt_cache_key": "thread", "input": format!("{text}{number}"), "stream": number % 2 == 0 });
            assert_eq!(harness.post(body).await.status, 200);
        }
        let refused = harness
            .simulate("status=400;code=bad_thing", said("no", None))
            .await;
        assert_eq!(refused.status, 400);
        let stream = harness
            .open_stream("deltas=9;delta_delay=60s", &format!("hanging {round}"))
            .await;
        // Killed as soon as rows begin to move into the sums.
        eventually("the sums go on", || (mark(&harness) > before).then_some(())).await;
        harness.kill_and_restart();
        drop(stream);
    }
    let hanging = |harness: &Harness| {
        let entries = harness
            .simulator
            .accounts()
            .iter()
            .flat_map(SimulatedAccount::journal);
        entries.filter(|entry| entry.ending == Ending::Open).count()
    };
    eventually("the accounts see that nobody listens", || {
        (hanging(&harness) == 0).then_some(())
    })
    .await;
    let journal = of_the_journal(&harness);
    assert_eq!((journal[0], journal[1]), (4 * 14, 4 * 2));
    assert!(journal[3] > 0, "{journal:?}");
    (harness, journal)
}

/// What everybody says who is not the page.
async fn told(harness: &Harness) -> Vec<(String, Figures)> {
    let mut told = vec![("metrics".to_owned(), of_metrics(harness).await)];
    let usage = ask(harness, "/admin/api/v1/usage?last=24h&by=model").await.json();
    told.push(("admin API".to_owned(), summed(&[usage["totals"].clone()])));
    for view in [
        "usage_by_account",
        "usage_by_hour",
        "usage_by_model",
        "usage_by_key",
    ] {
        let lines = harness.query(&format!("SELECT * FROM {view}"));
        told.push((view.to_owned(), summed(&lines)));
    }
    for by in ["account", "day"] {
        let printed = harness.command(&["usage", "--by", by, "--json"]);
        let lines: Vec<Value> = serde_json::from_slice(&printed.stdout).unwrap();
        told.push((format!("usage --by {by}"), summed(&lines)));
    }
    told
}

async fn everybody_says(harness: &Harness, journal: Figures) {
    for (who, figures) in told(harness).await {
        assert_eq!(figures, journal, "{who}");
    }
}

async fn rows_are_gone(harness: &Harness) {
    eventually("the last rows are gone", || {
        (harness.query("SELECT count(*) AS n FROM requests")[0]["n"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn command_views_metrics_and_api_agree_with_the_journal_of_the_accounts_also_after_crashes() {
    let (harness, journal) = after_crashes().await;
    everybody_says(&harness, journal).await;
    rows_are_gone(&harness).await;
    everybody_says(&harness, journal).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn the_page_in_a_browser_shows_the_figures_that_all_others_tell() {
    let (harness, journal) = after_crashes().await;
    rows_are_gone(&harness).await;
    let browser = Browser::logged_in(&harness).await;
    browser.go("/?range=day&by=model").await;
    browser
        .until("document.querySelectorAll('.tile').length == 7")
        .await;
    // The figures of the tiles as they are pointed at, where they are written whole.
    let tile = async |label: &str| {
        let tile = format!(
            "[...document.querySelectorAll('.tile')].find(tile => tile.querySelector('dt').innerText == '{label}')"
        );
        let title = browser.js(&format!("{tile}.querySelector('dd').title")).await;
        number(title.as_str().unwrap())
    };
    let tiles = [
        tile("Requests").await,
        tile("Errors").await,
        tile("Tokens in").await,
        tile("Tokens out").await,
    ];
    assert_eq!(tiles, [journal[0], journal[1], journal[2], journal[4]]);
    // The chart as a table has them all, step by step.
    browser.click(".as-table summary").await;
    browser
        .until("document.querySelector('.as-table tbody td.number')")
        .await;
    let cells = browser.js("[...document.querySelectorAll('.as-table tbody tr')].map(row => [...row.querySelectorAll('td.number')].map(cell => cell.innerText))").await;
    let mut sums = [0; 5];
    for row in cells.as_array().unwrap() {
        for (sum, cell) in sums.iter_mut().zip(row.as_array().unwrap()) {
            *sum += number(cell.as_str().unwrap());
        }
    }
    assert_eq!(sums, journal);
    browser.close(&[]).await;
    everybody_says(&harness, journal).await;
}

/// A number as the page writes it; a dash is nothing.
fn number(text: &str) -> i64 {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}
