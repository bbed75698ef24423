//! A real browser, driven as a person would: `.ci/run` installs Chromium and its driver. The pictures
//! that it takes lie in `target/screenshots`, for a person to look at.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use fantoccini::error::CmdError;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE};

const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
pub const ESCAPE: &str = "\u{e00c}";
pub const LEFT: &str = "\u{e012}";

/// Without the network that this browser would like to talk to.
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--lang=en-GB",
];

pub struct Browser {
    driver: Child,
    pub client: Client,
    url: String,
}

/// What was found is not on the page any more: it was drawn anew.
fn is_redrawn(error: &CmdError) -> bool {
    let text = error.to_string();
    error.is_no_such_element() || text.contains("stale element reference")
}

impl Browser {
    /// A browser with an empty profile that has opened the page of a gateway.
    pub async fn open(harness: &Harness) -> Browser {
        Browser::open_in(harness, "UTC").await
    }

    /// The same on a machine whose clock is that of a time zone.
    pub async fn open_in(harness: &Harness, time_zone: &str) -> Browser {
        let (driver, port) = driver(time_zone);
        let capabilities = json!({
            "goog:chromeOptions": { "args": ARGUMENTS },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let capabilities: Capabilities = serde_json::from_value(capabilities).unwrap();
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        client.set_window_size(1280, 1000).await.unwrap();
        let browser = Browser {
            driver,
            client,
            url: harness.gateway.url(),
        };
        browser.go("/").await;
        browser
    }

    /// The same, logged in.
    pub async fn logged_in(harness: &Harness) -> Browser {
        let browser = Browser::open(harness).await;
        browser.log_in(harness).await;
        browser
    }

    pub async fn log_in(&self, harness: &Harness) {
        self.until("document.querySelector('#key')").await;
        self.enter("#key", &format!("{}{ENTER}", harness.admin_key)).await;
        self.until("document.querySelector('.tiles, .empty.card')").await;
    }

    pub async fn go(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.url)).await.unwrap();
    }

    pub async fn js(&self, expression: &str) -> Value {
        let script = format!("return ({expression})");
        self.client
            .execute(&script, Vec::new())
            .await
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Waits until an expression is true, and gives what it is.
    pub async fn until(&self, expression: &str) -> Value {
        let begin = Instant::now();
        loop {
            let value = self
                .js(&format!("(v => v instanceof Node ? true : v)({expression})"))
                .await;
            if !matches!(value, Value::Null | Value::Bool(false)) && value != json!(0) && value != json!("") {
                return value;
            }
            if begin.elapsed() > PATIENCE {
                self.picture("failure").await;
                panic!(
                    "never came: {expression}\n{}",
                    self.js("document.body.innerText").await
                );
            }
        }
    }

    /// Clicks on what is there now: the page may draw itself anew between the look and the click.
    pub async fn click(&self, selector: &str) {
        let begin = Instant::now();
        loop {
            self.until(&format!("document.querySelector({selector:?})")).await;
            let clicked = match self.client.find(Locator::Css(selector)).await {
                Ok(element) => element.click().await,
                Err(error) => Err(error),
            };
            match clicked {
                Ok(()) => return,
                Err(error) if is_redrawn(&error) && begin.elapsed() < PATIENCE => {}
                Err(error) => panic!("{selector}: {error}"),
            }
        }
    }

    pub async fn enter(&self, selector: &str, text: &str) {
        self.until(&format!("document.querySelector({selector:?})")).await;
        let element = self.client.find(Locator::Css(selector)).await.unwrap();
        element
            .send_keys(text)
            .await
            .unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Presses a key where the focus is.
    pub async fn press(&self, key: &str) {
        let press = key
            .chars()
            .fold(KeyActions::new("keyboard".to_owned()), |keys, value| {
                keys.then(KeyAction::Down { value }).then(KeyAction::Up { value })
            });
        self.client.perform_actions(press).await.unwrap();
    }

    /// Presses Tab until the focus is there.
    pub async fn tab_to(&self, selector: &str) {
        for _ in 0..80 {
            self.press(TAB).await;
            if self
                .js(&format!("document.activeElement.matches({selector:?})"))
                .await
                == json!(true)
            {
                return;
            }
        }
        panic!("Tab never comes to {selector}");
    }

    pub async fn text(&self, selector: &str) -> String {
        let text = self
            .until(&format!("document.querySelector({selector:?})?.innerText"))
            .await;
        text.as_str().unwrap().to_owned()
    }

    /// Waits until the table on the page has so many rows.
    pub async fn rows(&self, count: usize) {
        self.until(&format!(
            "document.querySelectorAll('tbody tr').length == {count}"
        ))
        .await;
    }

    pub async fn picture(&self, name: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let picture = self.client.screenshot().await.unwrap();
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }

    /// How the system's colours are, as the browser tells the page.
    pub async fn prefers(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let call = json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } });
        self.client
            .issue_cmd(Call("goog/cdp/execute", call))
            .await
            .unwrap();
    }

    /// What axe-core finds that is serious, in one line each.
    pub async fn inaccessible(&self) -> Vec<String> {
        let axe = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/clients/node/node_modules/axe-core/axe.min.js");
        let source = std::fs::read_to_string(axe).expect("axe-core is installed");
        self.client.execute(&source, Vec::new()).await.unwrap();
        let run = "const done = arguments[arguments.length - 1]; axe.run().then(done, (error) => done({ error: String(error) }))";
        let result = self.client.execute_async(run, Vec::new()).await.unwrap();
        let violations = result["violations"]
            .as_array()
            .unwrap_or_else(|| panic!("{result}"));
        let serious = violations
            .iter()
            .filter(|violation| violation["impact"] == "serious" || violation["impact"] == "critical");
        let line = |violation: &Value| {
            let nodes = violation["nodes"].as_array().unwrap().iter();
            let nodes: Vec<String> = nodes
                .take(3)
                .map(|node| format!("{} {}", node["html"], node["failureSummary"]))
                .collect();
            format!("{}: {}", violation["id"], nodes.join("\n"))
        };
        serious.map(line).collect()
    }

    /// Ends the browser. It must have had nothing to complain of: no error, and nothing that the
    /// Content-Security-Policy had to stop. Answers with an error status that a test provokes are told.
    pub async fn close(mut self, expected: &[&str]) {
        let log = self
            .client
            .issue_cmd(Call("se/log", json!({ "type": "browser" })))
            .await
            .unwrap();
        let complaints: Vec<&Value> = log
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .filter(|entry| {
                !expected
                    .iter()
                    .any(|word| entry["message"].as_str().unwrap().contains(word))
            })
            .collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
        self.client.clone().close().await.unwrap();
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It takes its browser with it.
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

/// A driver that listens, and its port. It sometimes ends at once, because another took the port that
/// it had chosen.
fn driver(time_zone: &str) -> (Child, String) {
    for _ in 0..10 {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("TZ", time_zone)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            let port = line.strip_prefix("ChromeDriver was started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        match port {
            Some(port) => return (driver, port),
            None => drop(driver.wait()),
        }
    }
    panic!("chromedriver does not start");
}

/// A command of this driver beyond the standard.
#[derive(Debug)]
struct Call(&'static str, Value);

impl WebDriverCompatibleCommand for Call {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.1.to_string()))
    }
}
