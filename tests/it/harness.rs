//! What the tests stand on: a gateway process over simulated accounts, a client, and its database.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use moorage::account::Kind;
use moorage::simulator::{AccountConfig, SimulatedAccount, Simulator, SimulatorConfig};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The client key of every harness, unless a test adds others.
pub const KEY: &str = "mk-test-key-of-the-laptop";

/// How long anything may take that is waited for. Far more than it needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub fn moorage() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorage"));
    for name in ["CONFIG", "DATABASE", "LISTEN", "LOG", "LOG_FORMAT"] {
        command.env_remove(format!("MOORAGE_{name}"));
    }
    command
}

/// Waits until a condition holds.
pub async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The state domain of the accounts that share what they hold.
const SHARED: &str = "shared";

/// Builds a harness.
pub struct Builder {
    accounts: usize,
    top: String,
    account_settings: Vec<String>,
    end: String,
    wrapper: Option<Vec<String>>,
    models: Vec<Vec<String>>,
    has_websocket: bool,
    kinds: Vec<Kind>,
    shared: usize,
    unlisted: bool,
}

impl Builder {
    /// The models that each simulated account has; without, they take any.
    pub fn models(mut self, models: &[&[&str]]) -> Builder {
        let owned = |models: &&[&str]| models.iter().map(|model| (*model).to_owned()).collect();
        self.models = models.iter().map(owned).collect();
        self
    }

    /// The simulated accounts speak no WebSocket, as most servers.
    pub fn http_only(mut self) -> Builder {
        self.has_websocket = false;
        self
    }

    /// What the simulated accounts are like, in their order; without, OpenAI's API.
    pub fn kinds(mut self, kinds: &[Kind]) -> Builder {
        self.kinds = kinds.to_vec();
        self
    }

    /// No account tells which models it has.
    pub fn unlisted(mut self) -> Builder {
        self.unlisted = true;
        self
    }

    /// So many of the accounts, the first, share what they hold, and their settings say so.
    pub fn sharing(mut self, accounts: usize) -> Builder {
        self.shared = accounts;
        self
    }

    /// Settings at the top of the configuration.
    pub fn setting(mut self, toml: &str) -> Builder {
        self.top.push_str(toml);
        self.top.push('\n');
        self
    }

    /// Sections of the configuration.
    pub fn section(mut self, toml: &str) -> Builder {
        self.end.push_str(toml);
        self.end.push('\n');
        self
    }

    /// More settings of the next account, in their order.
    pub fn account(mut self, toml: &str) -> Builder {
        self.account_settings.push(toml.to_owned());
        self
    }

    /// A command that runs the gateway as its last arguments.
    pub fn within(mut self, command: &[&str]) -> Builder {
        self.wrapper = Some(command.iter().map(|word| (*word).to_owned()).collect());
        self
    }

    /// Starts the simulated accounts and the gateway.
    pub async fn start(self) -> Harness {
        let names = (0..self.accounts).map(|index| AccountConfig {
            models: self.models.get(index).cloned().unwrap_or_default(),
            has_websocket: self.has_websocket,
            kind: self.kinds.get(index).copied().unwrap_or(Kind::OpenAi),
            lists_models: !self.unlisted,
            state_domain: (index < self.shared).then(|| SHARED.to_owned()),
            ..AccountConfig::named(&format!("sim-{}", char::from(b'a' + index as u8)))
        });
        let config = SimulatorConfig {
            accounts: names.collect(),
            ..SimulatorConfig::default()
        };
        let simulator = Simulator::start(config).await.unwrap();
        let places: Vec<(String, String, String)> = simulator
            .accounts()
            .iter()
            .map(|account| {
                (
                    account.name().to_owned(),
                    account.base_url().to_owned(),
                    account.api_key().to_owned(),
                )
            })
            .collect();
        self.start_over(simulator, &places).await
    }

    fn is_login(&self, index: usize) -> bool {
        self.kinds.get(index) == Some(&Kind::Codex)
    }

    /// Starts the gateway over accounts that the test serves itself: name, base URL, key.
    pub async fn start_over(self, simulator: Simulator, accounts: &[(String, String, String)]) -> Harness {
        let folder = tempfile::tempdir().unwrap();
        let mut toml = format!("database = \"moorage.db\"\n{}", self.top);
        for (index, (name, base_url, key)) in accounts.iter().enumerate() {
            let settings = self.account_settings.get(index).map_or("", String::as_str);
            if let Some(account) = self.is_login(index).then(|| simulator.account(name).unwrap()) {
                let auth_file = folder.path().join(format!("{name}.auth.json"));
                write_private(&auth_file, &account.log_in(Duration::from_secs(3600)));
                toml += &format!(
                    "\n[[account]]\nname = {name:?}\nkind = \"codex\"\nbase_url = {base_url:?}\nauth_file = {auth_file:?}\n{settings}\n"
                );
                continue;
            }
            let domain = if index < self.shared {
                format!("state_domain = {SHARED:?}")
            } else {
                String::new()
            };
            let key_file = folder.path().join(format!("{name}.key"));
            std::fs::write(&key_file, key).unwrap();
            toml += &format!(
                "\n[[account]]\nname = {name:?}\nbase_url = {base_url:?}\napi_key_file = {key_file:?}\n{domain}\n{settings}\n"
            );
        }
        if let Some(index) = (0..accounts.len()).find(|index| self.is_login(*index)) {
            let token_url = simulator.accounts()[index].token_url();
            toml += &format!("\n[codex]\ntoken_url = {token_url:?}\n");
        }
        let key_file = folder.path().join("client.key");
        std::fs::write(&key_file, KEY).unwrap();
        toml += &format!(
            "\n[[client_key]]\nname = \"laptop\"\nkey_file = {key_file:?}\n{}",
            self.end
        );
        std::fs::write(folder.path().join("moorage.toml"), toml).unwrap();
        let gateway = Gateway::start(folder.path(), "127.0.0.1:0", self.wrapper.as_deref());
        Harness {
            // A connection of its own for every request: none outlives a gateway that is killed.
            http: reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            simulator,
            admin_key: gateway.admin_key().to_owned(),
            gateway,
            folder,
        }
    }
}

/// A gateway over simulated accounts. All of it ends with the test.
pub struct Harness {
    pub simulator: Simulator,
    pub gateway: Gateway,
    pub http: reqwest::Client,
    pub admin_key: String,
    folder: TempDir,
}

impl Harness {
    /// A gateway over so many accounts that answer at once.
    pub async fn over(accounts: usize) -> Harness {
        Harness::build(accounts).start().await
    }

    /// The same, to be set up.
    pub fn build(accounts: usize) -> Builder {
        // Whoever comes first in this process chooses.
        rustls::crypto::ring::default_provider().install_default().ok();
        Builder {
            accounts,
            top: String::new(),
            account_settings: Vec::new(),
            end: String::new(),
            wrapper: None,
            models: Vec::new(),
            has_websocket: true,
            kinds: Vec::new(),
            shared: 0,
            unlisted: false,
        }
    }

    /// A simulated account by its position.
    pub fn account(&self, index: usize) -> &SimulatedAccount {
        &self.simulator.accounts()[index]
    }

    /// A simulated account by the name that an answer carries.
    pub fn named(&self, name: &str) -> &SimulatedAccount {
        self.simulator.account(name).unwrap()
    }

    /// A request to the gateway, with the key of the test.
    pub fn request(&self) -> reqwest::RequestBuilder {
        self.request_as(KEY)
    }

    /// The same with the key of another client.
    pub fn request_as(&self, key: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/v1/responses", self.gateway.url());
        self.http
            .post(url)
            .bearer_auth(key)
            .header("content-type", "application/json")
            .timeout(PATIENCE)
    }

    /// Sends a body with the key of another client.
    pub async fn post_as(&self, key: &str, body: Value) -> Reply {
        Reply::of(self.request_as(key).body(body.to_string())).await
    }

    /// Makes a file at an account, past the gateway, and gives its id.
    pub async fn file_at(&self, account: &SimulatedAccount, content: &str) -> String {
        let (kind, body) = crate::endpoints::form(content);
        let request = self.http.post(format!("{}/files", account.base_url()));
        let request = request
            .bearer_auth(account.api_key())
            .header("content-type", kind);
        let made = Reply::of(request.body(body)).await;
        made.json()["id"].as_str().unwrap().to_owned()
    }

    /// Sends a body and reads the answer whole.
    pub async fn post(&self, body: Value) -> Reply {
        Reply::of(self.request().body(body.to_string())).await
    }

    /// The same, with the simulated account told how to behave.
    pub async fn simulate(&self, fault: &str, body: Value) -> Reply {
        Reply::of(self.request().header("x-simulate", fault).body(body.to_string())).await
    }

    /// Begins an answer, whose body is still to be read.
    pub async fn begin(&self, fault: &str, body: Value) -> reqwest::Response {
        let request = self.request().header("x-simulate", fault).body(body.to_string());
        request.send().await.unwrap()
    }

    /// Begins a stream and reads its first bytes.
    pub async fn open_stream(&self, fault: &str, text: &str) -> reqwest::Response {
        let mut response = self.begin(fault, streamed(text, None)).await;
        assert_eq!(response.status(), 200);
        response.chunk().await.unwrap().unwrap();
        response
    }

    /// A request to the admin API, with the admin key that this gateway made at its first start.
    pub fn admin(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().unwrap();
        let url = format!("{}/admin/api/v1/{path}", self.gateway.url());
        self.http
            .request(method, url)
            .bearer_auth(&self.admin_key)
            .timeout(PATIENCE)
    }

    /// Runs a command that must succeed, and gives what it said.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command on the gateway's configuration.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let config = self.folder().join("moorage.toml");
        moorage()
            .args(arguments)
            .arg("--config")
            .arg(config)
            .output()
            .unwrap()
    }

    /// One turn of a conversation, which must succeed.
    pub async fn turn(&self, previous: Option<&str>) -> Reply {
        let reply = self.post(said("What does the tide do?", previous)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file with the login of an account.
    pub fn auth_file(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.auth.json"))
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("moorage.db")
    }

    /// What a person reads with sqlite3.
    pub fn query(&self, sql: &str) -> Vec<Value> {
        query(&self.database(), sql)
    }

    /// The row of a request, once it has ended.
    pub async fn row(&self, request_id: i64) -> Value {
        let sql = format!(
            "SELECT t.*, r.usage_source, r.request_bytes, r.response_bytes, r.input_items, r.service_tier, r.model_asked FROM turns t JOIN requests r ON r.id = t.request_id WHERE t.request_id = {request_id} AND t.outcome <> 'open'"
        );
        eventually("the row of the request", || self.query(&sql).pop()).await
    }

    /// Sends SIGKILL, and starts the gateway again at the same address.
    pub fn kill_and_restart(&mut self) {
        self.gateway.kill();
        self.restart();
    }

    /// Starts the gateway again at the same address, after it has ended.
    pub fn restart(&mut self) {
        let address = self.gateway.address.clone();
        self.gateway = Gateway::start(self.folder.path(), &address, None);
    }

    /// The same, with these variables in its environment.
    pub fn restart_with(&mut self, variables: &[(&str, &str)]) {
        let address = self.gateway.address.clone();
        self.gateway = Gateway::start_with(self.folder.path(), &address, None, variables);
    }

    /// All log lines so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// Writes a document that only its owner can read.
pub fn write_private(path: &Path, document: &Value) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::File::options();
    options.create(true).truncate(true).write(true).mode(0o600);
    let mut file = options.open(path).unwrap();
    std::io::Write::write_all(&mut file, document.to_string().as_bytes()).unwrap();
}

/// Rows as JSON objects.
pub fn query(database: &Path, sql: &str) -> Vec<Value> {
    let connection = Connection::open(database).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let names: Vec<String> = statement
        .column_names()
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    let rows = statement.query_map([], |row| {
        let value = |index: usize| -> rusqlite::Result<Value> {
            Ok(match row.get(index)? {
                rusqlite::types::Value::Null => Value::Null,
                rusqlite::types::Value::Integer(number) => number.into(),
                rusqlite::types::Value::Real(number) => number.into(),
                rusqlite::types::Value::Text(text) => text.into(),
                rusqlite::types::Value::Blob(bytes) => format!("{bytes:02x?}").into(),
            })
        };
        let members: rusqlite::Result<serde_json::Map<String, Value>> = names
            .iter()
            .enumerate()
            .map(|(index, name)| Ok((name.clone(), value(index)?)))
            .collect();
        Ok(Value::Object(members?))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// A request that says something, after an earlier response.
pub fn said(text: &str, previous: Option<&str>) -> Value {
    let mut body = json!({ "model": "sim-large", "input": [{ "role": "user", "content": text }] });
    if let Some(previous) = previous {
        body["previous_response_id"] = previous.into();
    }
    body
}

/// The same, to be answered as a stream.
pub fn streamed(text: &str, previous: Option<&str>) -> Value {
    let mut body = said(text, previous);
    body["stream"] = true.into();
    body
}

/// A gateway process.
pub struct Gateway {
    process: Child,
    pub address: String,
    /// What it said before it listened.
    pub said: String,
}

impl Gateway {
    pub fn start(folder: &Path, listen: &str, wrapper: Option<&[String]>) -> Gateway {
        Gateway::start_with(folder, listen, wrapper, &[])
    }

    pub fn start_with(
        folder: &Path,
        listen: &str,
        wrapper: Option<&[String]>,
        variables: &[(&str, &str)],
    ) -> Gateway {
        let mut command = match wrapper {
            None => moorage(),
            Some([program, arguments @ ..]) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(env!("CARGO_BIN_EXE_moorage"));
                command
            }
            Some([]) => unreachable!("a wrapper has a program"),
        };
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        command
            .args(["serve", "--config"])
            .arg(folder.join("moorage.toml"))
            .args(["--listen", listen])
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut gateway = Gateway {
            process: command.spawn().unwrap(),
            address: String::new(),
            said: String::new(),
        };
        let out = gateway.process.stdout.take().unwrap();
        for line in BufReader::new(out).lines() {
            let line = line.unwrap();
            let address = line.strip_prefix("moorage listening on ");
            if let Some((_, address)) = address.and_then(|address| address.split_once("://")) {
                gateway.address = address.to_owned();
                return gateway;
            }
            gateway.said.push_str(&line);
            gateway.said.push('\n');
        }
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("the gateway did not start: {}{log}", gateway.said);
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The admin key, if this start has made it.
    pub fn admin_key(&self) -> &str {
        let mut lines = self.said.lines().map(str::trim);
        lines.find(|line| line.starts_with("ma-")).unwrap()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Any signal, by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits until it has ended, and gives its exit status.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        eventually("the end of the gateway", || self.process.try_wait().unwrap()).await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
    /// Whether it ended as HTTP says it must.
    pub whole: bool,
}

impl Reply {
    pub async fn of(request: reqwest::RequestBuilder) -> Reply {
        let mut response = request.send().await.unwrap();
        let mut reply = Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: Vec::new(),
            whole: true,
        };
        loop {
            match response.chunk().await {
                Ok(Some(bytes)) => reply.body.extend_from_slice(&bytes),
                Ok(None) => return reply,
                Err(_) => {
                    reply.whole = false;
                    return reply;
                }
            }
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The id of the response, from a document or a stream.
    pub fn id(&self) -> String {
        let id = match self.header("content-type") {
            Some(kind) if kind.starts_with("text/event-stream") => self.events()[0]["response"]["id"].clone(),
            _ => self.json()["id"].clone(),
        };
        id.as_str().unwrap().to_owned()
    }

    pub fn account(&self) -> &str {
        self.header("x-moorage-account").unwrap()
    }

    pub fn affinity(&self) -> &str {
        self.header("x-moorage-affinity").unwrap()
    }

    pub fn request_id(&self) -> i64 {
        self.header("x-moorage-request-id").unwrap().parse().unwrap()
    }

    /// The code of an error.
    pub fn code(&self) -> String {
        let error = self.json();
        assert!(
            error["error"]["message"].is_string() && error["error"]["type"].is_string(),
            "{error}"
        );
        error["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The data of all events.
    pub fn events(&self) -> Vec<Value> {
        let text = String::from_utf8(self.body.clone()).unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    /// The types of all events.
    pub fn kinds(&self) -> Vec<String> {
        self.events()
            .iter()
            .map(|event| event["type"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// A request whose body is JSON and says so.
pub trait WithJson {
    fn json(self, body: &Value) -> Self;
}

impl WithJson for reqwest::RequestBuilder {
    fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .body(body.to_string())
    }
}
