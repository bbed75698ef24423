//! The command line, as a person types it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use moorage::simulator::{Simulator, SimulatorConfig};
use serde_json::{Value, json};

use crate::harness::{Harness, Reply, WithJson as _, moorage, said};

/// A command with a home of its own.
fn at_home(home: &Path) -> Command {
    let mut command = moorage();
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

fn failed(output: Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    text(&output.stderr)
}

#[tokio::test]
async fn a_new_user_adds_accounts_and_a_key_and_talks() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let [alice, bob] = simulator.accounts() else {
        panic!("two accounts")
    };

    let added = at_home(home)
        .args([
            "account",
            "add",
            "alice",
            "--base-url",
            alice.base_url(),
            "--api-key-env",
            "ALICE",
        ])
        .env("ALICE", alice.api_key())
        .output();
    assert!(succeeded(added.unwrap()).contains("alice: added"));
    let mut by_input = at_home(home)
        .args([
            "account",
            "add",
            "bob",
            "--base-url",
            bob.base_url(),
            "--api-key-stdin",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(by_input.stdin.take().unwrap(), "{}", bob.api_key()).unwrap();
    succeeded(by_input.wait_with_output().unwrap());
    let file = home.join("carol.key");
    std::fs::write(&file, "sk-carol\n").unwrap();
    let by_file = at_home(home)
        .args([
            "account",
            "add",
            "carol",
            "--base-url",
            bob.base_url(),
            "--api-key-file",
        ])
        .arg(&file)
        .output();
    succeeded(by_file.unwrap());
    succeeded(
        at_home(home)
            .args(["account", "remove", "carol"])
            .output()
            .unwrap(),
    );

    let key = succeeded(at_home(home).args(["key", "add", "laptop"]).output().unwrap());
    let key = key
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("mk-"))
        .unwrap()
        .to_owned();
    let keys = succeeded(at_home(home).args(["key", "list"]).output().unwrap());
    assert!(keys.contains("laptop") && !keys.contains(&key), "{keys}");

    let mut serve = at_home(home);
    serve.args(["--listen", "127.0.0.1:0"]).stderr(Stdio::null());
    let gateway = Started::new(serve);
    let http = reqwest::Client::new();
    let ask = async |body: Value| {
        let request = http
            .post(format!("http://{}/v1/responses", gateway.address))
            .bearer_auth(&key);
        Reply::of(request.body(body.to_string())).await
    };
    let first = ask(said("hi", None)).await;
    let second = ask(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (second.account(), second.affinity()),
        (first.account(), "hit; by=previous_response_id")
    );

    // While it runs, the history can be read.
    let table = succeeded(at_home(home).args(["usage", "--by", "account"]).output().unwrap());
    assert!(
        table.contains(first.account()) && table.contains("cached"),
        "{table}"
    );
    let usage = succeeded(
        at_home(home)
            .args(["usage", "--by", "key", "--json"])
            .output()
            .unwrap(),
    );
    let usage: Value = serde_json::from_str(&usage).unwrap();
    assert_eq!(
        (&usage[0]["client_key"], &usage[0]["requests"]),
        (&json!("laptop"), &json!(2))
    );
    let csv = succeeded(
        at_home(home)
            .args(["usage", "--since", "7d", "--csv"])
            .output()
            .unwrap(),
    );
    assert!(csv.starts_with("day,requests,errors,"), "{csv}");
    let turns = succeeded(
        at_home(home)
            .args(["conversation", &first.id(), "--json"])
            .output()
            .unwrap(),
    );
    let turns: Value = serde_json::from_str(&turns).unwrap();
    assert_eq!(turns.as_array().unwrap().len(), 2);
    let conversation = turns[0]["conversation_id"].as_str().unwrap();
    let table = succeeded(
        at_home(home)
            .args(["conversation", conversation])
            .output()
            .unwrap(),
    );
    assert!(
        table.contains("previous_response_id") && table.contains(conversation),
        "{table}"
    );
    let accounts = succeeded(at_home(home).args(["account", "list"]).output().unwrap());
    assert!(
        accounts.contains("alice") && accounts.contains("bob") && !accounts.contains("carol"),
        "{accounts}"
    );
    let show = succeeded(at_home(home).args(["account", "show", "alice"]).output().unwrap());
    assert!(
        show.contains(alice.base_url()) && !show.contains(alice.api_key()),
        "{show}"
    );
}

/// A gateway that a test has started by itself.
struct Started {
    process: Child,
    out: BufReader<ChildStdout>,
    address: String,
    said: String,
}

impl Started {
    fn new(mut command: Command) -> Started {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let mut started = Started {
            process,
            out,
            address: String::new(),
            said: String::new(),
        };
        while started.address.is_empty() {
            let line = started.line();
            started.address = line
                .trim()
                .strip_prefix("moorage listening on http://")
                .unwrap_or("")
                .to_owned();
        }
        started
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(
            self.out.read_line(&mut line).unwrap() > 0,
            "it ended: {}",
            self.said
        );
        self.said.push_str(&line);
        line
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[tokio::test]
async fn without_accounts_and_keys_it_starts_and_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let mut serve = at_home(home.path());
    serve
        .args(["serve", "--listen", "127.0.0.1:0"])
        .stderr(Stdio::null());
    let mut gateway = Started::new(serve);
    assert!(gateway.said.contains("The admin key"), "{}", gateway.said);
    for told in ["moorage account add", "moorage key add"] {
        while !gateway.line().contains(told) {}
    }
    assert!(home.path().join(".local/share/moorage/moorage.db").exists());
}

#[test]
fn a_secret_is_not_taken_as_an_argument_and_a_wrong_address_not_at_all() {
    let home = tempfile::tempdir().unwrap();
    let add = |arguments: &[&str]| {
        at_home(home.path())
            .args(["account", "add", "x"])
            .args(arguments)
            .env("K", "sk-x")
            .output()
            .unwrap()
    };
    failed(add(&[
        "--base-url",
        "https://api.openai.com/v1",
        "--api-key",
        "sk-x",
    ]));
    failed(add(&["--base-url", "https://api.openai.com/v1"]));
    let missing = failed(add(&[
        "--base-url",
        "https://api.openai.com/v1",
        "--api-key-env",
        "NOT_SET",
    ]));
    assert!(missing.contains("NOT_SET"), "{missing}");
    for wrong in [
        "api.openai.com",
        "ftp://x/v1",
        "https://user:pw@x/v1",
        "https://x/v1?key=1",
    ] {
        failed(add(&["--base-url", wrong, "--api-key-env", "K"]));
    }
}

#[test]
fn a_wrong_setting_is_named_with_the_nearest_known_one() {
    let home = tempfile::tempdir().unwrap();
    let cases = [
        ("listne = \"x\"", "did you mean 'listen'?"),
        (
            "[affinity]\nresponse_tll = \"1d\"",
            "did you mean 'response_ttl'?",
        ),
        ("[affinity]\nresponse_ttl = \"soon\"", "affinity.response_ttl"),
        (
            "[[account]]\nname = \"a\"\nbase_url = \"https://x/v1\"\napi_key = \"sk-in-the-file\"",
            "api_key_env",
        ),
        (
            "[[account]]\nname = \"a\"\nbase_url = \"https://x/v1\"\napi_key_env = \"NOT_SET\"",
            "NOT_SET",
        ),
    ];
    for (toml, expected) in cases {
        let path = home.path().join("moorage.toml");
        std::fs::write(&path, format!("database = \"m.db\"\n{toml}\n")).unwrap();
        let error = failed(
            at_home(home.path())
                .args(["serve", "--listen", "127.0.0.1:0", "--config"])
                .arg(&path)
                .output()
                .unwrap(),
        );
        assert!(
            error.contains(expected) && !error.contains("sk-in-the-file"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_key_that_is_rotated_keeps_its_conversations_and_one_that_is_revoked_lets_nobody_in() {
    let mut harness = Harness::over(2).await;
    let key = |harness: &Harness, arguments: [&str; 2]| {
        let said = succeeded(harness.command(&["key", arguments[0], arguments[1]]));
        said.lines()
            .map(str::trim)
            .find(|line| line.starts_with("mk-"))
            .map(str::to_owned)
    };
    let ask = async |harness: &Harness, key: &str, previous: Option<&str>| {
        harness.post_as(key, said("hi", previous)).await
    };
    let old = key(&harness, ["add", "phone"]).unwrap();
    harness.kill_and_restart();
    let first = ask(&harness, &old, None).await;
    let new = key(&harness, ["rotate", "phone"]).unwrap();
    harness.kill_and_restart();
    assert_eq!(ask(&harness, &old, Some(&first.id())).await.status, 401);
    let next = ask(&harness, &new, Some(&first.id())).await;
    assert_eq!((next.status, next.account()), (200, first.account()));
    key(&harness, ["revoke", "phone"]);
    harness.kill_and_restart();
    assert_eq!(ask(&harness, &new, None).await.status, 401);
}

#[tokio::test]
async fn a_disabled_account_gets_nothing_and_comes_back_enabled() {
    let mut harness = Harness::over(2).await;
    succeeded(harness.command(&["account", "disable", "sim-a"]));
    harness.kill_and_restart();
    for number in 0..4 {
        assert_eq!(
            harness
                .post(said(&format!("matter {number}"), None))
                .await
                .account(),
            "sim-b"
        );
    }
    succeeded(harness.command(&["account", "enable", "sim-a"]));
    harness.kill_and_restart();
    let accounts: std::collections::HashSet<String> = [
        harness.post(said("x", None)).await,
        harness.post(said("y", None)).await,
    ]
    .iter()
    .map(|reply| reply.account().to_owned())
    .collect();
    assert_eq!(accounts.len(), 2);
}

#[test]
fn the_demo_shows_that_a_conversation_survives_a_kill() {
    let home = tempfile::tempdir().unwrap();
    let said = succeeded(at_home(home.path()).args(["demo", "--once"]).output().unwrap());
    assert!(said.contains("A simulation"), "{said}");
    let turns: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| {
            words
                .first()
                .is_some_and(|word| ["1", "2", "3", "4"].contains(word))
        })
        .collect();
    assert_eq!(turns.len(), 4, "{said}");
    assert_eq!(turns[0][2], "none");
    for turn in &turns[1..] {
        assert_eq!(turn[1], turns[0][1], "{said}");
        assert_eq!(turn[2..4], ["hit;", "by=previous_response_id"], "{said}");
    }
    assert!(
        said.contains("previous_response_not_found") && said.contains("SIGKILL"),
        "{said}"
    );
    assert!(said.contains("/ ") || said.contains("http://127.0.0.1"), "{said}");
}

#[test]
fn a_command_that_is_not_there_is_an_error_with_a_hint() {
    let error = failed(moorage().arg("serv").output().unwrap());
    assert!(error.contains("serve"), "{error}");
    let version = succeeded(moorage().arg("--version").output().unwrap());
    assert!(version.starts_with("moorage "), "{version}");
}

#[tokio::test]
async fn logs_can_be_read_by_machines() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let mut serve = at_home(home.path());
    serve
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
        .stderr(std::fs::File::create(&log).unwrap());
    let gateway = Started::new(serve);
    let http = reqwest::Client::new();
    Reply::of(
        http.post(format!("http://{}/v1/responses", gateway.address))
            .body("{}"),
    )
    .await;
    let line: Value = crate::harness::eventually("a log line", || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines()
            .find(|line| line.contains("\"request\""))
            .map(|line| serde_json::from_str(line).unwrap())
    })
    .await;
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&json!("refused"), &json!(401))
    );
}

#[tokio::test]
async fn a_key_of_the_file_can_change_its_name_and_is_revoked_in_the_file() {
    let mut harness = Harness::over(1).await;
    let path = harness.folder().join("moorage.toml");
    let revoke = harness.command(&["key", "revoke", "laptop"]);
    assert!(failed(revoke).contains("in the configuration file"));
    let remove = harness.command(&["account", "remove", "sim-a"]);
    assert!(failed(remove).contains("in the configuration file"));
    for (from, to) in [("laptop", "notebook"), ("notebook", "laptop")] {
        let toml = std::fs::read_to_string(&path).unwrap();
        std::fs::write(
            &path,
            toml.replace(&format!("name = \"{from}\""), &format!("name = \"{to}\"")),
        )
        .unwrap();
        harness.kill_and_restart();
        let row = harness.row(harness.turn(None).await.request_id()).await;
        assert_eq!(row["client_key"], to);
    }
}

#[tokio::test]
async fn an_account_that_was_disabled_while_it_was_used_stays_so() {
    let mut harness = Harness::over(2).await;
    let disable = harness.command(&["account", "disable", "sim-a"]);
    succeeded(disable);
    harness
        .account(0)
        .script("status=429;retry_after=0.1".parse().unwrap());
    harness.post(said("hi", None)).await;
    harness.turn(None).await;
    harness.kill_and_restart();
    assert_eq!(
        harness.query("SELECT status FROM accounts_now WHERE account = 'sim-a'")[0]["status"],
        "disabled"
    );
    for number in 0..3 {
        assert_eq!(
            harness
                .post(said(&format!("matter {number}"), None))
                .await
                .account(),
            "sim-b"
        );
    }
}

#[tokio::test]
async fn an_error_is_told_once() {
    let harness = Harness::over(1).await;
    let second = failed(harness.command(&["serve"]));
    assert_eq!(second.matches("another moorage serves").count(), 1, "{second}");
    let nowhere = failed(
        moorage()
            .args(["serve", "--config", "/nowhere/moorage.toml"])
            .output()
            .unwrap(),
    );
    assert_eq!(nowhere.matches("No such file").count(), 1, "{nowhere}");
}

#[tokio::test]
async fn what_is_odd_is_said_and_done_all_the_same() {
    let harness = Harness::over(1).await;
    // The key of the tests is one that a person made up.
    assert!(
        harness
            .log()
            .contains("client key 'laptop': it is shorter than 32 characters")
    );
    let output = moorage()
        .args([
            "account",
            "add",
            "bare",
            "--base-url",
            "https://api.example.org",
            "--api-key-env",
            "K",
        ])
        .env("K", "sk-1234567890")
        .args([
            "--config",
            harness.folder().join("moorage.toml").to_str().unwrap(),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("ends with /v1"),
        "{said}"
    );
    let doctor = String::from_utf8(harness.command(&["doctor"]).stdout).unwrap();
    assert!(
        doctor.contains("odd    configuration  client key 'laptop'"),
        "{doctor}"
    );
    assert!(
        doctor.contains("odd    account        bare: its base_url https://api.example.org has no path"),
        "{doctor}"
    );
}

#[tokio::test]
async fn a_command_whose_output_nobody_reads_to_its_end_just_ends() {
    let harness = Harness::over(1).await;
    for _ in 0..3 {
        harness.turn(None).await;
    }
    for arguments in [&["usage", "--json"][..], &["doctor"]] {
        let config = harness.folder().join("moorage.toml");
        let mut command = moorage();
        command.args(arguments).arg("--config").arg(config);
        // A pipe whose other end is closed already.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(text(&output.stderr), "");
    }
}

#[tokio::test]
async fn an_account_that_gets_a_new_key_keeps_what_is_not_named() {
    let harness = Harness::over(1).await;
    let key = harness.folder().join("second.key");
    std::fs::write(&key, "sk-second").unwrap();
    let key = key.to_str().unwrap();
    let add = |more: &[&str]| {
        let said = harness.run(&[&["account", "add", "second", "--api-key-file", key], more].concat());
        (said, harness.run(&["account", "show", "second"]))
    };
    let bounds = [
        "--state-domain",
        "home",
        "--weight",
        "3",
        "--priority",
        "-1",
        "--max-concurrent",
        "2",
    ];
    let (said, first) = add(&[&["--base-url", "http://127.0.0.1:9/v1"], &bounds[..]].concat());
    assert!(said.starts_with("second: added."), "{said}");
    let (said, again) = add(&[]);
    assert!(said.starts_with("second: changed."), "{said}");
    assert_eq!(again, first);

    // The page does the same over the admin API.
    let described = json!({ "name": "second", "api_key": "sk-other", "weight": 4, "max_concurrent": 0 });
    let reply = Reply::of(harness.admin("POST", "accounts").json(&described)).await;
    assert_eq!(reply.status, 200);
    let shown = Reply::of(harness.admin("GET", "accounts/second")).await.json();
    let kept =
        ["state_domain", "weight", "priority", "max_concurrent", "base_url"].map(|name| shown[name].clone());
    let expected = [
        json!("home"),
        json!(4),
        json!(-1),
        Value::Null,
        json!("http://127.0.0.1:9/v1"),
    ];
    assert_eq!(kept, expected);
}

#[tokio::test]
async fn who_gets_a_name_wrong_is_told_the_right_ones() {
    let harness = Harness::over(1).await;
    for (arguments, there) in [
        (["account", "show", "nobody"], harness.account(0).name()),
        (["account", "enable", "nobody"], harness.account(0).name()),
        (["key", "rotate", "nobody"], "laptop"),
    ] {
        let told = failed(harness.command(&arguments));
        assert!(told.contains("is named 'nobody'; there are: "), "{told}");
        assert!(told.contains(there), "{told}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_left_alone_and_said_to_be_one() {
    let mut harness = Harness::over(1).await;
    harness.gateway.kill();
    let database = rusqlite::Connection::open(harness.database()).unwrap();
    database.pragma_update(None, "user_version", 10_000).unwrap();
    for arguments in [&["serve"][..], &["usage"], &["key", "list"]] {
        let told = failed(harness.command(arguments));
        assert!(told.contains("a newer moorage has used this database"), "{told}");
    }
    let doctor = text(&harness.command(&["doctor"]).stdout);
    assert!(doctor.contains("this program is the older one"), "{doctor}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_with_what_to_do() {
    let harness = Harness::over(1).await;
    let home = tempfile::tempdir().unwrap();
    let listen = harness.gateway.url().replace("http://", "");
    let told = failed(
        at_home(home.path())
            .args(["serve", "--listen", &listen])
            .output()
            .unwrap(),
    );
    assert!(told.contains("another program listens there"), "{told}");
    let told = failed(
        at_home(home.path())
            .args(["serve", "--listen", "localhost"])
            .output()
            .unwrap(),
    );
    assert!(told.contains("write it as in 127.0.0.1:8440"), "{told}");
}

/// What a command says where a person looks on, and where nobody does: standard output and error.
fn on_a_terminal_and_without(home: &Path, arguments: &str) -> (String, Output) {
    let program = env!("CARGO_BIN_EXE_moorage");
    let shown = at_home_of("script", home)
        .args(["-qec", &format!("{program} {arguments}"), "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .expect("script (bsdutils) is installed");
    let plain = at_home(home).args(arguments.split(' ')).output().unwrap();
    (succeeded(shown), plain)
}

fn at_home_of(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap());
    command
}

#[test]
fn what_takes_long_shows_a_person_how_far_it_is_and_says_nothing_to_a_script() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let cases = [
        ("simulate --fill 20000", "requests,"),
        ("usage --by conversation --since 89d", "% of the time"),
        ("doctor", "reading the database through"),
    ];
    for (arguments, progress) in cases {
        let (shown, plain) = on_a_terminal_and_without(home, arguments);
        assert!(shown.contains(progress), "{arguments}: {shown}");
        let plain = text(&plain.stdout) + &text(&plain.stderr);
        assert!(
            !plain.contains(progress) && !plain.contains('\u{1b}'),
            "{arguments}: {plain}"
        );
    }
    let (first, second) = (home.join("1.db"), home.join("2.db"));
    let program = env!("CARGO_BIN_EXE_moorage");
    let shown = at_home_of("script", home)
        .args([
            "-qec",
            &format!("{program} backup {}", first.display()),
            "/dev/null",
        ])
        .env("TERM", "xterm")
        .output();
    let shown = succeeded(shown.unwrap());
    assert!(shown.contains(" of ") && shown.contains("left"), "{shown}");
    let plain = at_home(home).arg("backup").arg(&second).output().unwrap();
    assert_eq!(text(&plain.stderr), "");
}
