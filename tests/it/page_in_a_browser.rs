//! A person reads the page in a real browser, and does what it offers. `.ci/run` installs Chromium, its
//! driver and axe-core, and runs these tests.

use moorage::account::Kind;
use serde_json::{Value, json};

use crate::browser::{Browser, ENTER, ESCAPE, LEFT};
use crate::harness::{Harness, KEY, PATIENCE, Reply, said, write_private};
use crate::history::long_conversation;

const PRICE: &str =
    "[[price]]\nmodel = \"sim-*\"\nfrom = \"2026-01-01\"\ninput = 2\ncached_input = 0.5\noutput = 10";

/// A gateway with some history: six conversations, one of three turns of which the last moved, and two
/// requests that did not end well.
async fn with_history() -> Harness {
    let harness = Harness::build(2).section(PRICE).start().await;
    for number in 0..5 {
        harness.post(said(&format!("matter {number}"), None)).await;
    }
    harness
        .simulate("status=400;code=bad_thing", said("no", None))
        .await;
    Reply::of(harness.request().body("no json")).await;
    let text = "the tide ".repeat(600);
    for turn in 0..3 {
        let body = json!({ "model": "sim-large", "input": format!("{text}{turn}") });
        let request = harness.request().header("session-id", "a session");
        let reply = Reply::of(request.body(body.to_string())).await;
        if turn == 1 {
            harness
                .named(reply.account())
                .always(Some("status=429;retry_after=300".parse().unwrap()));
        }
    }
    harness
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn a_person_logs_in_looks_at_the_overview_and_goes_down_to_one_request() {
    let harness = with_history().await;
    let browser = Browser::open(&harness).await;
    browser.enter("#key", &format!("ma-wrong{ENTER}")).await;
    browser
        .until("document.querySelector('#login [role=alert]').textContent")
        .await;
    browser.picture("login").await;
    browser
        .enter("#key", &format!("{}{ENTER}", harness.admin_key))
        .await;
    browser
        .until("document.querySelectorAll('.tile').length == 7 && document.querySelector('a.bar')")
        .await;
    assert_eq!(browser.js("document.querySelector('.tile dd').title").await, "10");
    assert!(browser.text(".tiles").await.contains("$"));
    browser
        .until("document.querySelectorAll('.account').length == 2")
        .await;
    browser.picture("overview").await;

    // Pointing at a bar tells its figures; a click leads to its requests.
    browser
        .js("document.querySelector('a.bar:last-of-type').dispatchEvent(new PointerEvent('pointerenter'))")
        .await;
    assert!(browser.text(".tip").await.contains("Tokens in"));
    browser.js("[...document.querySelectorAll('a.bar')].at(-1).dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true }))").await;
    browser
        .until(
            "location.search.includes('view=requests') && document.querySelectorAll('tbody tr').length == 10",
        )
        .await;
    browser.picture("requests").await;

    // One request, with its attempts and all that is kept of it, and back.
    browser.click("tbody tr:nth-child(2) td:nth-child(5)").await;
    browser.until("document.querySelector('dialog[open]')").await;
    let told = browser.text("dialog").await;
    assert!(told.contains("previous response id"), "{told}");
    // What there is not is not shown, and not told to be null.
    assert!(!told.contains("null"), "{told}");
    browser.picture("request").await;
    browser.press(ESCAPE).await;
    browser
        .until("!document.querySelector('dialog[open]') && !location.search.includes('id=')")
        .await;

    // What is shown survives a reload, and whoever is logged in stays so.
    let address = browser.js("location.href").await;
    browser.client.refresh().await.unwrap();
    browser.rows(10).await;
    assert_eq!(browser.js("location.href").await, address);

    browser.click("#logout").await;
    browser.until("document.querySelector('#login')").await;
    browser.client.refresh().await.unwrap();
    browser.until("document.querySelector('#login')").await;
    browser.close(&["401"]).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn filters_are_in_the_address_and_a_conversation_shows_where_it_moved() {
    let harness = with_history().await;
    let browser = Browser::logged_in(&harness).await;
    browser.click("nav a:nth-child(2)").await;
    browser.rows(10).await;
    browser.click("select[name=outcome] option[value=errors]").await;
    browser.rows(2).await;
    assert!(
        browser
            .js("location.search")
            .await
            .as_str()
            .unwrap()
            .contains("outcome=errors")
    );
    browser.enter("input[name=error]", &format!("BAD_{ENTER}")).await;
    browser.rows(1).await;
    assert!(browser.text("tbody").await.contains("bad_thing"));
    browser.client.back().await.unwrap();
    browser.rows(2).await;
    let csv = browser.js("document.querySelector('.downloads a').href").await;
    assert!(csv.as_str().unwrap().contains("outcome=errors") && csv.as_str().unwrap().contains("format=csv"));

    browser.click("nav a:nth-child(3)").await;
    browser.rows(7).await;
    browser.picture("conversations").await;
    browser.click("tbody tr:first-child a").await;
    browser.until("document.querySelectorAll('tbody tr').length == 3 && document.querySelectorAll('a.bar').length == 3").await;
    let moved = browser.text("tr.moved").await;
    assert!(moved.contains('→') && moved.contains('$'), "{moved}");
    browser.picture("conversation").await;
    browser.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn what_happens_appears_by_itself() {
    let harness = Harness::build(2).start().await;
    let browser = Browser::logged_in(&harness).await;
    browser
        .until("document.querySelector('main').innerText.includes('Nothing has passed yet')")
        .await;
    browser.picture("empty").await;
    harness.turn(None).await;
    browser
        .until("document.querySelector('.tile dd')?.title == '1'")
        .await;
    browser.click("nav a:nth-child(2)").await;
    browser.rows(1).await;
    let stream = harness.open_stream("deltas=60;delta_delay=100ms", "hi").await;
    browser
        .until("document.querySelector('#live').textContent == '1 running'")
        .await;
    stream.bytes().await.unwrap();
    browser.rows(2).await;
    browser
        .until("document.querySelector('#live').textContent == 'idle'")
        .await;
    browser.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn a_long_conversation_is_followed_at_its_end() {
    let harness = Harness::build(1).start().await;
    let id = long_conversation(&harness, 1400);
    let browser = Browser::logged_in(&harness).await;
    browser.go(&format!("/?view=conversations&id={id}")).await;
    browser.rows(300).await;
    assert!(browser.text(".tiles").await.contains("1,400"));
    assert!(browser.text("tbody tr:last-child").await.contains("1,400"));
    browser.click(".next button").await;
    browser.rows(600).await;
    browser.picture("long-conversation").await;
    browser.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn a_gateway_that_is_gone_is_told_and_the_page_goes_on_when_it_is_back() {
    let mut harness = Harness::build(1).start().await;
    harness.turn(None).await;
    let browser = Browser::logged_in(&harness).await;
    browser.until("document.querySelector('a.bar')").await;
    harness.gateway.kill();
    browser
        .until("document.querySelector('#live').textContent.includes('does not answer')")
        .await;
    // What was there stays; what is asked for meanwhile cannot be shown, and says so.
    assert_eq!(
        browser.js("document.querySelectorAll('a.bar').length > 0").await,
        true
    );
    browser.click("nav a:nth-child(2)").await;
    let told = browser.text("main [role=alert]").await;
    assert!(
        told.contains("cannot be shown") && told.contains("Is it running?"),
        "{told}"
    );
    browser.picture("gone").await;
    harness.restart();
    harness.turn(None).await;
    browser.click("main [role=alert] button").await;
    browser.rows(2).await;
    browser
        .until("document.querySelector('#live').textContent == 'idle'")
        .await;
    browser.close(&["net::ERR_", "Failed to fetch"]).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn accounts_and_keys_are_managed_on_the_page() {
    let harness = Harness::build(1).start().await;
    let browser = Browser::logged_in(&harness).await;
    browser.go("/?view=accounts").await;
    browser.click("[data-does='Add an account']").await;
    browser.enter("dialog [name=name]", "bob").await;
    browser
        .enter("dialog [name=base_url]", harness.account(0).base_url())
        .await;
    browser
        .enter("dialog [name=api_key]", &format!("sk-the-secret-of-bob{ENTER}"))
        .await;
    browser
        .until(
            "!document.querySelector('dialog[open]') && document.querySelector(\"[data-does='Drain bob']\")",
        )
        .await;
    browser.click("[data-does='Drain bob']").await;
    browser.until("[...document.querySelectorAll('tr')].some(row => row.innerText.includes('bob') && row.innerText.includes('draining'))").await;
    browser.picture("accounts").await;
    browser.click("[data-does='Enable bob']").await;
    browser
        .until("document.querySelector(\"[data-does='Drain bob']\")")
        .await;
    browser.click("[data-does='Remove bob']").await;
    browser.click("dialog .danger").await;
    browser.until("!document.body.innerText.includes('bob')").await;

    // A key is shown once, works, and does not any more once it is revoked.
    browser.click("[data-does='Add a client key']").await;
    browser
        .enter("dialog [name=name]", &format!("phone{ENTER}"))
        .await;
    let first = browser.text("dialog .secret").await;
    browser.picture("key").await;
    browser.press(ESCAPE).await;
    // A new secret ends the old one, and so it is asked for twice.
    browser.click("[data-does='Rotate phone']").await;
    assert!(
        browser
            .text("dialog")
            .await
            .contains("the old one is not let in any more")
    );
    browser.click("dialog .danger").await;
    browser.until("document.querySelector('dialog .secret')").await;
    let key = browser.text("dialog .secret").await;
    assert_ne!(key, first);
    let ask = async |key: &str| harness.post_as(key, said("hi", None)).await.status;
    assert_eq!((ask(&first).await, ask(&key).await), (401, 200));
    browser.press(ESCAPE).await;
    // What it may do is bounded, told, and freed again.
    browser.click("[data-does='Bounds phone']").await;
    browser.enter("dialog [name=models]", "sim-l*, other").await;
    browser.enter("dialog [name=cost_per_day]", "2.5").await;
    browser.picture("bounds").await;
    assert_eq!(browser.inaccessible().await, [""; 0]);
    browser
        .enter("dialog [name=tokens_per_day]", &format!("1{ENTER}"))
        .await;
    let row = "[...document.querySelectorAll('tr')].find(row => row.innerText.startsWith('phone'))";
    browser
        .until(&format!("{row}?.innerText.includes('1 tokens a day')"))
        .await;
    let told = browser.js(&format!("{row}.innerText")).await;
    assert!(
        told.as_str()
            .unwrap()
            .contains("sim-l*, other, 1 tokens a day, $2.50 a day"),
        "{told}"
    );
    assert_eq!(ask(&key).await, 429);
    browser.click("[data-does='Bounds phone']").await;
    browser
        .enter("dialog [name=tokens_per_day]", &format!("\u{e003}{ENTER}"))
        .await;
    browser
        .until(&format!("{row} && !{row}.innerText.includes('tokens a day')"))
        .await;
    assert_eq!(ask(&key).await, 200);
    browser.click("[data-does='Revoke phone']").await;
    browser.click("dialog .danger").await;
    browser
        .until("!document.querySelector(\"[data-does='Revoke phone']\")")
        .await;
    // What ends meanwhile has the page read anew: it may show this a moment before the gateway knows.
    let begin = std::time::Instant::now();
    while ask(&key).await != 401 {
        assert!(begin.elapsed() < PATIENCE, "a key that is revoked opens still");
    }
    assert_eq!(ask(KEY).await, 200);
    assert!(
        !browser
            .js("document.documentElement.outerHTML")
            .await
            .as_str()
            .unwrap()
            .contains(&key)
    );
    browser.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn a_login_is_added_on_the_page_and_says_what_to_do_when_it_has_ended() {
    let harness = Harness::build(2)
        .kinds(&[Kind::OpenAi, Kind::Codex])
        .start()
        .await;
    let login = harness.account(1);
    let path = harness.auth_file("sim-b");
    let browser = Browser::logged_in(&harness).await;
    browser.go("/?view=accounts").await;
    browser.click("[data-does='Disable sim-a']").await;
    browser.click("[data-does='Enable sim-a']").await;
    browser.click("[data-does='Add an account']").await;
    browser.enter("dialog [name=name]", "me").await;
    // With the keyboard, as a person who is in the field before it.
    browser
        .js("document.querySelector('dialog [name=kind]').focus()")
        .await;
    browser.press("\u{e014}").await;
    browser
        .until("document.querySelector('dialog [name=api_key]').matches(':disabled')")
        .await;
    browser.picture("login-form").await;
    assert_eq!(browser.inaccessible().await, [""; 0]);
    let address = "dialog fieldset:not([hidden]) [name=base_url]";
    browser.enter(address, login.base_url()).await;
    // What is not there is told, and what was typed stays.
    let field = "dialog [name=auth_file]";
    browser
        .enter(field, &format!("{}-not{ENTER}", path.display()))
        .await;
    let told = browser.text("dialog [role=alert]").await;
    assert!(
        told.contains("no absolute path of a file that holds a ChatGPT login"),
        "{told}"
    );
    browser
        .enter(field, &format!("{}{ENTER}", "\u{e003}".repeat(4)))
        .await;
    browser
        .until(
            "!document.querySelector('dialog[open]') && document.querySelector(\"[data-does='Drain me']\")",
        )
        .await;
    for name in ["sim-a", "sim-b"] {
        browser.click(&format!("[data-does='Disable {name}']")).await;
        browser
            .until(&format!(
                "document.querySelector(\"[data-does='Enable {name}']\")"
            ))
            .await;
    }
    assert_eq!(harness.post(said("hi", None)).await.account(), "me");

    // It ends, and the page says so by itself, here and at the first look.
    login.end_access();
    login.end_login("refresh_token_reused");
    assert_eq!(harness.post(said("hi", None)).await.status, 503);
    let row = "[...document.querySelectorAll('tr')].find(row => row.innerText.startsWith('me'))";
    browser
        .until(&format!("{row}.innerText.includes('expired')"))
        .await;
    let to_do = browser
        .js(&format!("{row}.querySelector('.to-do').innerText"))
        .await;
    assert!(to_do.as_str().unwrap().starts_with("codex login"), "{to_do}");
    browser.picture("accounts-expired").await;
    browser.go("/?view=overview").await;
    browser
        .until(
            "[...document.querySelectorAll('.account')].some(card => card.innerText.includes('codex login'))",
        )
        .await;
    browser.picture("overview-expired").await;
    // A person does what it says, and sees that nothing else is to be done.
    write_private(&path, &login.log_in(PATIENCE * 100));
    browser
        .until(
            "[...document.querySelectorAll('.account')].every(card => !card.innerText.includes('expired'))",
        )
        .await;
    assert_eq!(harness.post(said("hi", None)).await.account(), "me");
    browser.close(&["400"]).await;
}

/// Five and a half hours ahead of UTC.
const KOLKATA: &str = "Asia/Kolkata";

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn days_and_hours_are_those_of_the_viewers_clock() {
    let harness = Harness::build(1).start().await;
    // Ten minutes to each side of midnight in Kolkata, three days ago.
    let zone = jiff::tz::TimeZone::get(KOLKATA).unwrap();
    let now = jiff::Timestamp::now().to_zoned(zone);
    let midnight = now
        .start_of_day()
        .unwrap()
        .checked_sub(jiff::Span::new().days(3))
        .unwrap();
    for (minutes, tokens) in [(-10, 1000), (10, 200), (20, 30)] {
        let at = midnight.checked_add(jiff::Span::new().minutes(minutes)).unwrap();
        harness.query(&format!(
            "INSERT INTO requests (id, started_at_ms, ended_at_ms, endpoint, transport, outcome, account_id, input_tokens, cached_tokens, output_tokens)
             VALUES ({0} * 1024, {0}, {0} + 500, '/responses', 'json', 'completed', 1, {tokens}, 0, 5)",
            at.timestamp().as_millisecond()
        ));
    }
    let browser = Browser::open_in(&harness, KOLKATA).await;
    browser.log_in(&harness).await;
    assert_eq!(
        browser
            .js("Intl.DateTimeFormat().resolvedOptions().timeZone")
            .await,
        "Asia/Calcutta"
    );
    browser.go("/?range=month&by=account&measure=input").await;
    browser.until("document.querySelector('a.bar')").await;
    let yesterday = midnight.yesterday().unwrap();
    // As this browser writes it, told the zone.
    let written = async |at: &jiff::Zoned, parts: &str| {
        let format = format!(
            "new Intl.DateTimeFormat(undefined, {{ {parts}, timeZone: {KOLKATA:?} }}).format({})",
            at.timestamp().as_millisecond()
        );
        browser.js(&format).await.as_str().unwrap().to_owned()
    };
    let bars = async || -> Vec<String> {
        let told = browser
            .js("[...document.querySelectorAll('a.bar')].map(bar => bar.getAttribute('aria-label')).filter(label => !label.includes(': 0 '))")
            .await;
        serde_json::from_value(told).unwrap()
    };
    let days = bars().await;
    let mut expected = Vec::new();
    for (day, tokens) in [(&yesterday, "1,000"), (&midnight, "230")] {
        let day = written(day, "weekday: 'short', day: 'numeric', month: 'short'").await;
        expected.push(format!("{day}: {tokens} tokens in"));
    }
    assert_eq!(days.len(), 2, "{days:?}");
    for (label, expected) in days.iter().zip(&expected) {
        assert!(label.starts_with(expected), "{label}: {expected}");
    }
    // The bar of a day leads to the requests of that day, at the times of that clock.
    let bar = format!(
        "[...document.querySelectorAll('a.bar')].find(bar => bar.getAttribute('aria-label') == {:?})",
        days[1]
    );
    browser
        .js(&format!(
            "{bar}.dispatchEvent(new MouseEvent('click', {{ bubbles: true, cancelable: true }}))"
        ))
        .await;
    browser.rows(2).await;
    let shown = browser.text("tbody").await;
    for minutes in [10, 20] {
        let at = midnight.checked_add(jiff::Span::new().minutes(minutes)).unwrap();
        let time = written(&at, "hour: 'numeric', minute: '2-digit'").await;
        assert!(shown.contains(&time), "{time}: {shown}");
    }
    // Sums are kept by the hour of UTC, which begins at half past there: a bar says so.
    let (from, to) = (yesterday.timestamp(), midnight.tomorrow().unwrap().timestamp());
    browser
        .go(&format!("/?range=own&measure=requests&from={from}&to={to}"))
        .await;
    browser.until("document.querySelector('a.bar')").await;
    let half_past = midnight.checked_sub(jiff::Span::new().minutes(30)).unwrap();
    let parts = "hour: 'numeric', minute: '2-digit'";
    let begin = written(&half_past, parts).await;
    let end = written(
        &midnight.checked_add(jiff::Span::new().minutes(30)).unwrap(),
        parts,
    )
    .await;
    let hours = bars().await;
    assert_eq!(hours.len(), 1, "{hours:?}");
    assert!(
        hours[0].contains(&format!("{begin}–{end}: 3 requests")),
        "{hours:?}"
    );
    browser.picture("kolkata").await;
    browser.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn a_history_of_months_is_drawn_in_every_range() {
    let mut harness = Harness::build(1).start().await;
    harness.gateway.kill();
    harness.run(&["simulate", "--fill", "30000"]);
    harness.restart();
    let browser = Browser::logged_in(&harness).await;
    for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 360)] {
        browser.prefers(scheme).await;
        browser.client.set_window_size(width, 1000).await.unwrap();
        for (range, by, bars) in [
            ("hour", "client_key", 30),
            ("day", "model", 24),
            ("week", "client_key", 28),
            ("month", "model", 30),
        ] {
            browser
                .go(&format!("/?range={range}&by={by}&measure=input"))
                .await;
            // A clock that is put forward or back makes one more or less.
            browser
                .until(&format!(
                    "Math.abs(document.querySelectorAll('a.bar').length - {bars}) < 2"
                ))
                .await;
            browser.picture(&format!("{scheme}-{width}-{range}")).await;
        }
        let drawn = browser
            .js("document.querySelectorAll('a.bar rect.part').length")
            .await;
        assert!(drawn.as_i64().unwrap() > 60, "{drawn}");
    }
    browser.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn everything_is_reached_with_the_keyboard_alone() {
    let harness = with_history().await;
    let browser = Browser::open(&harness).await;
    browser.until("document.activeElement.id == 'key'").await;
    browser.press(&format!("{}{ENTER}", harness.admin_key)).await;
    browser.until("document.querySelector('a.bar')").await;
    // To the newest bar; the arrows go to the others, Enter leads to the requests.
    browser.tab_to("a.bar").await;
    let first = browser
        .js("document.activeElement.getAttribute('aria-label')")
        .await;
    assert!(browser.text(".tip").await.contains("Cached"));
    browser.press(LEFT).await;
    let second = browser
        .js("document.activeElement.getAttribute('aria-label')")
        .await;
    assert_ne!(first, second);
    browser.press("\u{e014}").await;
    browser.press(ENTER).await;
    browser
        .until(
            "location.search.includes('view=requests') && document.querySelectorAll('tbody tr').length == 10",
        )
        .await;
    browser.tab_to("tbody a").await;
    browser.press(ENTER).await;
    browser.until("document.querySelector('dialog[open]')").await;
    browser.press(ESCAPE).await;
    browser.until("!document.querySelector('dialog[open]')").await;
    browser.tab_to("nav a[href='?view=accounts']").await;
    browser.press(ENTER).await;
    browser.tab_to("[data-does='Add a client key']").await;
    browser.press(ENTER).await;
    browser.until("document.activeElement.name == 'name'").await;
    browser.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core; .ci/run installs them"]
async fn every_view_is_accessible_in_light_and_dark_and_fits_a_phone() {
    let harness = with_history().await;
    let browser = Browser::open(&harness).await;
    browser.until("document.querySelector('#login')").await;
    assert_eq!(browser.inaccessible().await, [""; 0], "login");
    browser
        .enter("#key", &format!("{}{ENTER}", harness.admin_key))
        .await;
    browser.until("document.querySelector('.tiles')").await;
    let rows = harness.query("SELECT max(id) AS id, conversation_id FROM requests WHERE lost_tokens > 0");
    let (request, conversation) = (&rows[0]["id"], rows[0]["conversation_id"].as_str().unwrap());
    let views = [
        (
            "overview",
            "?view=overview&by=model&measure=cost".to_owned(),
            "a.bar",
        ),
        ("requests", "?view=requests".to_owned(), "tbody td a"),
        ("request", format!("?view=requests&id={request}"), "dialog[open]"),
        ("conversations", "?view=conversations".to_owned(), "tbody td a"),
        (
            "conversation",
            format!("?view=conversations&id={conversation}"),
            "a.bar",
        ),
        (
            "accounts",
            "?view=accounts".to_owned(),
            "[data-does='Add an account']",
        ),
    ];
    for scheme in ["light", "dark"] {
        browser.prefers(scheme).await;
        for (name, address, there) in &views {
            for (device, width, height) in [("wide", 1280, 1000), ("phone", 360, 780)] {
                browser.client.set_window_size(width, height).await.unwrap();
                browser.go(&format!("/{address}")).await;
                browser
                    .until(&format!(
                        "document.querySelector({there:?}) && !document.querySelector('[aria-busy]')"
                    ))
                    .await;
                browser.picture(&format!("{scheme}-{device}-{name}")).await;
                assert_eq!(browser.inaccessible().await, [""; 0], "{scheme} {device} {name}");
                let shown = browser
                    .js("document.body.innerText.match(/\\b(null|undefined|NaN)\\b/)")
                    .await;
                assert_eq!(shown, Value::Null, "{scheme} {device} {name}");
                let overflow = browser
                    .js("document.documentElement.scrollWidth - innerWidth")
                    .await;
                assert!(
                    overflow.as_i64().unwrap() <= 0,
                    "{device} {name}: {overflow} pixels too wide"
                );
                let hidden = browser
                    .js("[...document.querySelectorAll('nav, header, .segments, .controls')].filter(node => node.scrollWidth > node.clientWidth + 1).map(node => node.outerHTML)")
                    .await;
                assert_eq!(hidden, json!([]), "{device} {name}");
            }
        }
        let paper = browser
            .js("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
            .await;
        assert_eq!(paper.as_i64().unwrap() < 100, scheme == "dark", "{paper}");
    }
    // A person's choice is over the system's.
    browser.go("/?view=requests").await;
    browser.click("#theme").await;
    assert_eq!(
        browser.js("document.documentElement.dataset.theme").await,
        "light"
    );
    browser.close(&[]).await;
}
