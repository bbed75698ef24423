//! Secrets: sealed, guarded by file modes, in no log and in no database; and TLS.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::harness::{Harness, KEY, Reply, WithJson as _, moorage, said, streamed};

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Adds the account of another harness by command, so that its key is sealed.
fn add_second(harness: &Harness, other: &Harness) {
    let key_file = harness.folder().join("second.key");
    std::fs::write(&key_file, other.account(0).api_key()).unwrap();
    let (key_file, address) = (key_file.to_str().unwrap(), other.account(0).base_url());
    harness.run(&[
        "account",
        "add",
        "second",
        "--base-url",
        address,
        "--api-key-file",
        key_file,
        "--priority",
        "1",
    ]);
}

#[tokio::test]
async fn all_secrets_are_sealed_anew_while_the_gateway_runs() {
    let mut harness = Harness::over(1).await;
    let other = Harness::over(1).await;
    add_second(&harness, &other);
    let key_file = harness.folder().join("moorage.db.key");
    let (key, sealed) = (
        std::fs::read(&key_file).unwrap(),
        harness.query("SELECT sealed_secret FROM accounts WHERE name = 'second'"),
    );
    let told = harness.run(&["secret", "rotate"]);
    assert!(told.contains("1 secrets are sealed anew"), "{told}");
    assert_ne!(std::fs::read(&key_file).unwrap(), key);
    assert_ne!(
        harness.query("SELECT sealed_secret FROM accounts WHERE name = 'second'"),
        sealed
    );
    let mode = std::fs::metadata(&key_file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(harness.turn(None).await.account(), "second");
    harness.kill_and_restart();
    assert_eq!(harness.turn(None).await.account(), "second");
}

#[tokio::test]
async fn the_key_may_be_elsewhere_or_in_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("moorage.toml");
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = moorage();
        command.args(arguments).arg("--config").arg(&config);
        command.envs(variables.iter().copied()).env("SK", "sk-of-alice");
        let output = command.output().unwrap();
        let told = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.success(), told)
    };
    let add = [
        "account",
        "add",
        "alice",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--api-key-env",
        "SK",
    ];
    let keys = folder.path().join("elsewhere.key");
    std::fs::write(
        &config,
        format!("database = \"a.db\"\nsecret_key_file = {keys:?}\n"),
    )
    .unwrap();
    assert!(run(&add, &[]).0);
    assert!(keys.exists() && !folder.path().join("a.db.key").exists());
    let first = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let (done, told) = run(&["secret", "rotate", "--new-key-env", "SEAL"], &[("SEAL", first)]);
    assert!(done && told.contains("secret_key_env = \"SEAL\""), "{told}");
    std::fs::write(&config, "database = \"a.db\"\nsecret_key_env = \"SEAL\"\n").unwrap();
    let opened = |variables: &[(&str, &str)]| run(&["doctor"], variables).1;
    assert!(!opened(&[("SEAL", first)]).contains("does not open"));
    let other = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=";
    assert!(opened(&[("SEAL", other)]).contains("does not open"));
    assert!(opened(&[("SEAL", "short")]).contains("holds no key"));
    assert!(opened(&[]).contains("is not set"));
    let (done, told) = run(&["secret", "rotate"], &[("SEAL", first)]);
    assert!(!done && told.contains("--new-key-env"), "{told}");
}

#[tokio::test]
async fn a_key_file_that_others_can_read_stops_everything_and_says_what_to_do() {
    let mut harness = Harness::over(1).await;
    let key_file = harness.folder().join("moorage.db.key");
    set_mode(&key_file, 0o640);
    let doctor = harness.command(&["doctor"]);
    assert!(!doctor.status.success());
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        told.contains(&format!("chmod 600 {}", key_file.display())),
        "{told}"
    );
    harness.gateway.kill();
    let refused = harness.command(&["serve", "--listen", "127.0.0.1:0"]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("chmod 600"), "{told}");
}

// The accounts answer while the command runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_who_finds_nothing_says_so_and_else_what_to_do() {
    let harness = Harness::over(2).await;
    let told = harness.run(&["doctor", "--online"]);
    for word in [
        "configuration",
        "a gateway serves it now",
        "clock",
        "sim-a: active",
        "online",
        "Nothing is wrong.",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    harness.run(&["account", "disable", "sim-a"]);
    harness.account(1).script("status=401".parse().unwrap());
    assert_ne!(harness.post(said("hi", None)).await.status, 200);
    let doctor = harness.command(&["doctor"]);
    assert!(!doctor.status.success());
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        told.contains("sim-a: disabled") && told.contains("moorage account enable sim-a"),
        "{told}"
    );
    assert!(
        told.contains("sim-b: expired") && told.contains("put a new key"),
        "{told}"
    );
}

#[tokio::test]
async fn a_doctor_looks_at_what_is_not_there_and_what_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("moorage.toml");
    let doctor = |toml: &str| {
        std::fs::write(&config, toml).unwrap();
        let output = moorage()
            .args(["doctor", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = doctor("listne = 1");
    assert!(told.contains("did you mean 'listen'?"), "{told}");
    let told = doctor("database = \"none.db\"\nlisten = \"0.0.0.0:1\"");
    assert!(
        told.contains("is not there") && told.contains("without TLS"),
        "{told}"
    );
    std::fs::write(
        folder.path().join("bad.db"),
        "this is no database, but a text".repeat(100),
    )
    .unwrap();
    let told = doctor("database = \"bad.db\"");
    assert!(told.contains("WRONG  database"), "{told}");
}

#[tokio::test]
async fn after_a_full_run_no_secret_is_in_the_database_or_in_the_most_talkative_log() {
    let mut harness = Harness::over(2).await;
    let other = Harness::over(1).await;
    harness.gateway.kill();
    harness.restart_with(&[("MOORAGE_LOG", "trace")]);
    add_second(&harness, &other);
    let guest = harness.run(&["key", "add", "guest"]);
    let guest = guest
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("mk-"))
        .unwrap()
        .to_owned();
    let login = harness
        .http
        .post(format!("{}/admin/api/v1/session", harness.gateway.url()));
    let login = login.json(&serde_json::json!({ "key": harness.admin_key }));
    let login = Reply::of(login).await;
    let cookie = login
        .header("set-cookie")
        .unwrap()
        .split(['=', ';'])
        .nth(1)
        .unwrap()
        .to_owned();
    let prompt = "the-prompt-that-nobody-keeps";
    for failure in [
        "",
        "status=401",
        "status=429",
        "status=500",
        "cut_before",
        "fail_in_stream=server_error",
    ] {
        harness.simulate(failure, said(prompt, None)).await;
        harness.simulate(failure, streamed(prompt, None)).await;
    }
    let wrong = "mk-a-wrong-key-that-somebody-sent";
    for key in [guest.as_str(), wrong] {
        harness.post_as(key, said(prompt, None)).await;
    }
    harness.gateway.signal("TERM");
    harness.gateway.ended().await;
    let secrets = [
        KEY.to_owned(),
        guest,
        wrong.to_owned(),
        cookie,
        harness.admin_key.clone(),
        "sk-sim-a".to_owned(),
        prompt.to_owned(),
    ];
    let mut looked_at = 0;
    for entry in std::fs::read_dir(harness.folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name != "log" && !name.starts_with("moorage.db") {
            continue;
        }
        looked_at += 1;
        let bytes = std::fs::read(&path).unwrap();
        for secret in &secrets {
            let found = memchr::memmem::find(&bytes, secret.as_bytes());
            assert_eq!(found, None, "{secret} is in {name}");
        }
    }
    assert!(looked_at >= 3);
    assert!(harness.log().contains("TRACE"), "the log is talkative");
}

#[tokio::test]
async fn clients_speak_tls_with_the_gateway_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-days",
            "2",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    set_mode(&key, 0o600);
    let harness = Harness::build(1)
        .section(&format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}"))
        .start()
        .await;
    let root = reqwest::Certificate::from_pem(&std::fs::read(&certificate).unwrap()).unwrap();
    let https = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let url = format!("https://{}", harness.gateway.address);
    let talk = https.post(format!("{url}/v1/responses")).bearer_auth(KEY);
    let reply = Reply::of(talk.json(&said("hi", None))).await;
    assert_eq!(reply.status, 200);
    let login = https.post(format!("{url}/admin/api/v1/session"));
    let login = Reply::of(login.json(&serde_json::json!({ "key": harness.admin_key }))).await;
    assert!(login.header("set-cookie").unwrap().contains("; Secure"));
    // In clear there is nothing.
    assert!(
        harness
            .http
            .get(format!("{}/healthz", harness.gateway.url()))
            .send()
            .await
            .is_err()
    );
    // A key that everybody can read is refused.
    set_mode(&key, 0o644);
    let doctor = harness.command(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("chmod o-rwx"));
}
