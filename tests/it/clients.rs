//! Clients that nobody here wrote, as their users start them. `.ci/run` installs them from the
//! registries into `target/clients`, and runs these tests.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Harness, KEY};

pub fn installed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/clients")
        .join(path)
}

/// Node looks for packages beside the script: a copy lies beside what was installed.
pub fn beside(script: &str, program: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(script);
    if program != Path::new("node") {
        return source;
    }
    let copy = installed("node").join(script);
    std::fs::copy(source, &copy).unwrap();
    copy
}

/// A script of four turns that waits in the middle.
struct Talk {
    process: Child,
    out: BufReader<ChildStdout>,
}

impl Talk {
    fn begin(program: &Path, script: &str, harness: &Harness, how: &str) -> Talk {
        let mut process = Command::new(program)
            .arg(beside(script, program))
            .args([format!("{}/v1", harness.gateway.url()).as_str(), how])
            .env("OPENAI_API_KEY", KEY)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; .ci/run installs it", program.display()));
        let out = BufReader::new(process.stdout.take().unwrap());
        Talk { process, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn go_on(&mut self) {
        writeln!(self.process.stdin.as_mut().unwrap()).unwrap();
    }

    fn ids(mut self) -> Vec<String> {
        let line = self.line();
        assert!(self.process.wait().unwrap().success(), "{line}");
        serde_json::from_str(&line).unwrap()
    }
}

/// Two at once, one with streams and one without, and a kill in the middle.
async fn talk_in_parallel(program: &Path, script: &str) {
    let mut harness = Harness::over(2).await;
    let mut talks: Vec<Talk> = ["stream", "whole"]
        .map(|how| Talk::begin(program, script, &harness, how))
        .into();
    for talk in &mut talks {
        assert_eq!(talk.line(), "half");
    }
    harness.kill_and_restart();
    talks.iter_mut().for_each(Talk::go_on);
    let mut homes = Vec::new();
    for ids in talks.into_iter().map(Talk::ids) {
        let first = format!(
            "SELECT conversation_id FROM turns WHERE response_id = '{}'",
            ids[0]
        );
        let turns = harness.query(&format!(
            "SELECT response_id, account, affinity, affinity_by, outcome FROM turns WHERE conversation_id = ({first}) ORDER BY request_id"
        ));
        let home = turns[0]["account"].clone();
        assert_eq!(turns.len(), 4, "{turns:?}");
        for (index, turn) in turns.iter().enumerate() {
            let affinity = if index == 0 {
                ("none", Value::Null)
            } else {
                ("hit", json!("previous_response_id"))
            };
            assert_eq!(
                (turn["affinity"].as_str().unwrap(), turn["affinity_by"].clone()),
                affinity
            );
            assert_eq!(
                (&turn["response_id"], &turn["account"], &turn["outcome"]),
                (&json!(ids[index]), &home, &json!("completed"))
            );
        }
        homes.push(home);
    }
    assert_ne!(homes[0], homes[1], "two conversations, two accounts");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs openai from PyPI; .ci/run installs it"]
async fn openai_for_python_talks_through_a_kill() {
    talk_in_parallel(&installed("python/bin/python"), "openai_python.py").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs openai from npm; .ci/run installs it"]
async fn openai_for_node_talks_through_a_kill() {
    talk_in_parallel(Path::new("node"), "openai_node.mjs").await;
}

/// Runs a script to its end, and gives its last line.
fn run(program: &Path, script: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .arg(beside(script, program))
        .args(arguments)
        .env("OPENAI_API_KEY", KEY)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; .ci/run installs it", program.display()));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().last().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs openai from PyPI; .ci/run installs it"]
async fn openai_for_python_finds_its_background_responses_conversations_and_files() {
    let harness = Harness::over(3).await;
    let base_url = format!("{}/v1", harness.gateway.url());
    let python = installed("python/bin/python");
    assert_eq!(run(&python, "openai_python_things.py", &[&base_url]), "well");
    let astray = "SELECT * FROM turns WHERE affinity IN ('moved', 'unknown', 'refused') AND status <> 404";
    assert_eq!(harness.query(astray), [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ai from npm; .ci/run installs it"]
async fn the_vercel_ai_sdk_keeps_a_conversation_with_a_tool_on_one_account() {
    let harness = Harness::over(3).await;
    let base_url = format!("{}/v1", harness.gateway.url());
    let mut homes = Vec::new();
    for who in ["Ada", "Bob"] {
        harness
            .simulator
            .accounts()
            .iter()
            .for_each(|account| account.clear_journal());
        let before = harness.query("SELECT count(*) AS n FROM turns")[0]["n"]
            .as_i64()
            .unwrap();
        run(Path::new("node"), "vercel_ai.mjs", &[&base_url, who]);
        let turns = harness.query(&format!(
            "SELECT account, affinity, affinity_by, outcome FROM turns ORDER BY request_id LIMIT -1 OFFSET {before}"
        ));
        assert!(turns.len() >= 9, "{turns:?}");
        let home = turns[0]["account"].clone();
        for turn in &turns[1..] {
            assert_eq!(
                (&turn["account"], &turn["affinity"], &turn["outcome"]),
                (&home, &json!("hit"), &json!("completed")),
                "{turns:?}"
            );
        }
        let by_items = turns
            .iter()
            .filter(|turn| turn["affinity_by"] == "item_reference")
            .count();
        assert!(by_items >= 6, "{turns:?}");
        homes.push(home);
    }
    assert_ne!(homes[0], homes[1], "two conversations, two accounts");
}

/// A home of Codex whose provider is the gateway; over HTTP, unless `more` of its settings say otherwise.
pub fn codex_home(harness: &Harness, more: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let config = format!(
        "model = \"sim-large\"\nmodel_provider = \"moorage\"\n\n[model_providers.moorage]\nname = \"Moorage\"\n\
         base_url = \"{}/v1\"\nenv_key = \"MOORAGE_KEY\"\nwire_api = \"responses\"\n{more}",
        harness.gateway.url()
    );
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    home
}

/// `codex exec` with these arguments.
pub fn codex(home: &tempfile::TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(installed("node/node_modules/.bin/codex"));
    command
        .arg("exec")
        .args(arguments)
        .current_dir(home.path())
        .env("CODEX_HOME", home.path())
        .env("MOORAGE_KEY", KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What a program that ends well says.
pub fn said(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs @openai/codex from npm; .ci/run installs it"]
async fn codex_answers_a_prompt() {
    let harness = Harness::over(2).await;
    let home = codex_home(&harness, "");
    let said = self::said(codex(&home, &["--skip-git-repo-check", "Say which tide it is"]));
    assert!(said.contains("You said: Say which tide it is"), "{said}");
    let rows = harness.query("SELECT transport, outcome, model, client_key FROM turns");
    let row =
        json!({ "transport": "sse", "outcome": "completed", "model": "sim-large", "client_key": "laptop" });
    assert!(
        !rows.is_empty() && rows.iter().all(|turn| *turn == row),
        "{rows:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs @openai/codex from npm; .ci/run installs it"]
async fn codex_talks_over_a_chatgpt_login_and_is_resumed() {
    let builder = Harness::build(1).kinds(&[moorage::account::Kind::Codex]);
    let harness = builder.start().await;
    let home = codex_home(&harness, "");
    let said = self::said(codex(&home, &["--skip-git-repo-check", "Say which tide it is"]));
    assert!(said.contains("You said: Say which tide it is"), "{said}");
    let said = self::said(codex(
        &home,
        &["resume", "--last", "--skip-git-repo-check", "And now"],
    ));
    assert!(said.contains("You said: And now"), "{said}");
    let rows = harness.query("SELECT DISTINCT outcome, account FROM turns");
    assert_eq!(rows, [json!({ "outcome": "completed", "account": "sim-a" })]);
}

/// One account that is limited for two seconds, and a gateway that tells the client so at once.
async fn limited_for_a_moment() -> Harness {
    let harness = Harness::build(1)
        .section("[affinity]\npin_wait = \"0s\"")
        .start()
        .await;
    harness
        .account(0)
        .script("status=429;retry_after=2".parse().unwrap());
    harness
}

/// The client was told to wait, waited, and then succeeded.
fn waited_and_succeeded(harness: &Harness) {
    let turns = harness.query(
        "SELECT outcome, status, started_at FROM turns WHERE endpoint = '/responses' ORDER BY request_id",
    );
    let (first, last) = (&turns[0], turns.last().unwrap());
    assert_eq!(
        (&first["outcome"], &first["status"]),
        (&json!("refused"), &json!(429))
    );
    assert_eq!(
        (&last["outcome"], turns.len()),
        (&json!("completed"), 2),
        "{turns:?}"
    );
    let at = |turn: &Value| {
        turn["started_at"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    let waited = at(last).duration_since(at(first)).as_millis();
    assert!(waited >= 1900, "it came back after {waited} ms");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs openai from PyPI; .ci/run installs it"]
async fn openai_for_python_waits_as_it_is_told_and_then_succeeds() {
    let harness = limited_for_a_moment().await;
    let base_url = format!("{}/v1", harness.gateway.url());
    let said = run(&installed("python/bin/python"), "openai_retry.py", &[&base_url]);
    assert!(said.contains("hi"), "{said}");
    waited_and_succeeded(&harness);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs @openai/codex from npm; .ci/run installs it"]
async fn codex_waits_as_it_is_told_and_then_succeeds() {
    let harness = limited_for_a_moment().await;
    let home = codex_home(&harness, "");
    let said = self::said(codex(&home, &["--skip-git-repo-check", "Say which tide it is"]));
    assert!(said.contains("You said: Say which tide it is"), "{said}");
    waited_and_succeeded(&harness);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs @openai/codex from npm; .ci/run installs it"]
async fn codex_calls_a_tool_and_is_resumed_on_one_account() {
    let harness = Harness::over(3).await;
    let mut homes = Vec::new();
    for who in ["Ada", "Bob"] {
        let before = harness.query("SELECT count(*) AS n FROM turns")[0]["n"]
            .as_i64()
            .unwrap();
        let home = codex_home(&harness, "");
        let prompt = format!("{who}: call the tool exec_command with {{\"cmd\":\"echo tide\"}}");
        self::said(codex(&home, &["--skip-git-repo-check", &prompt]));
        for text in ["And now?", "And then?"] {
            let said = self::said(codex(&home, &["resume", "--last", "--skip-git-repo-check", text]));
            assert!(said.contains(&format!("You said: {text}")), "{said}");
        }
        let turns = harness.query(&format!(
            "SELECT account, affinity, affinity_by, outcome, conversation_id FROM turns ORDER BY request_id LIMIT -1 OFFSET {before}"
        ));
        // The call, what it gave, and twice resumed.
        assert!(turns.len() >= 4, "{turns:?}");
        for turn in &turns[1..] {
            assert_eq!(
                (&turn["account"], &turn["affinity"]),
                (&turns[0]["account"], &json!("hit")),
                "{turns:?}"
            );
        }
        homes.push(turns[0]["account"].clone());
    }
    assert_ne!(homes[0], homes[1], "two threads, two accounts");
    let ran = harness.simulator.accounts().iter().any(|account| {
        let told = |entry: &moorage::simulator::JournalEntry| {
            let input = entry.json()["input"].to_string();
            input.contains("function_call_output") && input.contains("tide")
        };
        account.journal().iter().any(told)
    });
    assert!(ran, "the tool ran, and its output came back");
}
