//! `moorage doctor`: what is right and what is not, each with what to do about it.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use http::{HeaderMap, Method, StatusCode, header};

use crate::account::{Account, Credential, Kind, doubt_about_base_url};
use crate::clock::now_ms;
use crate::config::{Config, Places};
use crate::exchange::models::CODEX_VERSION;
use crate::limits;
use crate::store::accounts::{self, StoredAccount};
use crate::store::seal::{KeySource, Seal};
use crate::store::{self, Connection, backup, client_keys, history};
use crate::upstream::auth_file::{self, Unusable};
use crate::upstream::http::{Outgoing, OutgoingBody, SendError, Upstream};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Also ask each account's upstream for its models, with its key
    #[arg(long)]
    online: bool,
}

/// Prints a line. Nobody needs to read to the end: `moorage doctor | head` still ends with what was found.
macro_rules! tell {
    ($($line:tt)*) => { writeln!(std::io::stdout(), $($line)*).ok() };
}

/// What was found so far.
#[derive(Default)]
struct Findings {
    wrong: u32,
}

impl Findings {
    fn fine(&mut self, what: &str, found: &str) {
        tell!("ok     {what:<14} {found}");
    }

    fn odd(&self, what: &str, found: &str) {
        tell!("odd    {what:<14} {found}");
    }

    fn wrong(&mut self, what: &str, found: &str, to_do: &str) {
        self.wrong += 1;
        tell!("WRONG  {what:<14} {found}");
        tell!("       {:<14} {to_do}", "");
    }
}

/// Looks at everything, and ends with 1 if something is wrong.
pub(super) fn run(args: &DoctorArgs, places: Places) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    match Config::load(places) {
        Err(error) => findings.wrong("configuration", &error.to_string(), "correct it there"),
        Ok(config) => {
            look_at_configuration(&mut findings, &config);
            if let Some(connection) = look_at_database(&mut findings, &config) {
                look_at_sizes(&mut findings, &config, &connection)?;
                look_at_backup(&mut findings, &connection)?;
                look_at_clock(&mut findings, &connection)?;
                let unlocked = look_at_accounts(&mut findings, &config, &connection)?;
                look_at_keys(&mut findings, &connection)?;
                if args.online {
                    super::block_on(ask_upstreams(
                        &mut findings,
                        unlocked,
                        &config.file.codex.token_url,
                    ))?;
                }
            }
        }
    }
    match findings.wrong {
        0 => {
            tell!("\nNothing is wrong.");
            Ok(ExitCode::SUCCESS)
        }
        count => {
            tell!("\n{count} of these want something done.");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn look_at_configuration(findings: &mut Findings, config: &Config) {
    let path = config.path.as_deref().map(Path::display);
    let path = path.map_or("no file; the defaults".to_owned(), |path| path.to_string());
    findings.fine("configuration", &path);
    let accounts = config.file.account.iter().map(|account| account.secret().err());
    let keys = config.file.client_key.iter().map(|key| key.secret().err());
    for error in accounts.chain(keys).flatten() {
        findings.wrong(
            "secret",
            &error.to_string(),
            "put it where the configuration says",
        );
    }
    for doubt in config.doubts() {
        findings.odd("configuration", &doubt);
    }
    if let Some(tls) = &config.file.tls {
        match crate::server::Tls::read(&tls.certificate, &tls.key) {
            Ok(_) => findings.fine("TLS", &tls.certificate.display().to_string()),
            Err(error) => findings.wrong("TLS", &error, "correct the section [tls]"),
        }
    } else if !is_loopback(&config.listen) {
        findings.wrong(
            "listen",
            &format!("{} is beyond this machine, without TLS", config.listen),
            "set certificate and key in the section [tls], or put a proxy with TLS in front",
        );
    }
}

fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn look_at_database(findings: &mut Findings, config: &Config) -> Option<Connection> {
    let path = &config.database;
    let shown = path.display().to_string();
    if !path.exists() {
        findings.wrong(
            "database",
            &format!("{shown} is not there"),
            "'moorage serve' makes it",
        );
        return None;
    }
    let files = ["", "-wal", "-shm", ".lock"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name
    });
    let key_file = match config.seal_key() {
        KeySource::File(path) => Some(path.into_os_string()),
        KeySource::Environment(_) => None,
    };
    for file in files.into_iter().chain(key_file) {
        look_at_mode(findings, Path::new(&file));
    }
    let connection = match store::open_writable(path, config.file.durability) {
        Ok(connection) => connection,
        Err(error) => {
            let to_do = match &error {
                store::StoreError::Newer => "nothing is lost: this program is the older one",
                _ => {
                    "look at who owns it and whether its disk is full; a copy comes back by putting it there"
                }
            };
            findings.wrong("database", &format!("{shown}: {error}"), to_do);
            return None;
        }
    };
    let looks = indicatif::ProgressBar::new_spinner().with_message("reading the database through");
    looks.enable_steady_tick(Duration::from_millis(100));
    let checked = store::check(&connection);
    looks.finish_and_clear();
    match checked {
        Ok(None) => {
            let served = if store::is_served(path) {
                "a gateway serves it now"
            } else {
                "no gateway serves it now"
            };
            findings.fine("database", &format!("{shown}; {served}"));
        }
        Ok(Some(damage)) => findings.wrong(
            "database",
            &format!("{shown} is damaged: {damage}"),
            &last_copy(&connection),
        ),
        Err(error) => findings.wrong("database", &format!("{shown}: {error}"), "look at its disk"),
    }
    Some(connection)
}

/// Where the last copy is, for whoever needs it.
fn last_copy(connection: &Connection) -> String {
    match backup::last(connection) {
        Ok(Some(last)) => format!(
            "stop the gateway and put the last copy in its place: {} of {}",
            last.file.display(),
            day(last.at_ms)
        ),
        _ => "stop the gateway and put a copy in its place, if there is one".to_owned(),
    }
}

/// That there is no copy is no fault: nothing ends by it, and a test setup needs none.
fn look_at_backup(findings: &mut Findings, connection: &Connection) -> anyhow::Result<()> {
    let Some(last) = backup::last(connection)? else {
        findings.odd("copy", "none was made yet: moorage backup FILE");
        return Ok(());
    };
    let found = format!("{} of {}", last.file.display(), day(last.at_ms));
    let age = Duration::from_millis(now_ms().saturating_sub(last.at_ms).max(0).unsigned_abs());
    if age > limits::BACKUP_AGE {
        let days = age.as_secs() / 86_400;
        findings.odd(
            "copy",
            &format!("{found} is {days} days old: moorage backup FILE"),
        );
    } else {
        findings.fine("copy", &found);
    }
    Ok(())
}

fn day(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(
        |_| "an unknown day".to_owned(),
        |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

#[cfg(unix)]
fn look_at_mode(findings: &mut Findings, path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(metadata) = std::fs::metadata(path) else {
        return;
    };
    let mode = metadata.permissions().mode() & 0o777;
    let shown = path.display();
    match mode & 0o077 {
        0 => findings.fine("file mode", &format!("{shown} ({mode:o})")),
        _ => findings.wrong(
            "file mode",
            &format!("{shown} can be used by others ({mode:o})"),
            &format!("chmod 600 {shown}"),
        ),
    }
}

#[cfg(not(unix))]
fn look_at_mode(_: &mut Findings, _: &Path) {}

/// A write-ahead log of this size has not been written back for long.
const LOG_BYTES: u64 = 256 * 1024 * 1024;

fn look_at_sizes(findings: &mut Findings, config: &Config, connection: &Connection) -> anyhow::Result<()> {
    let sizes = store::sizes(connection, &config.database)?;
    let bytes = |bytes: u64| indicatif::HumanBytes(bytes).to_string();
    findings.fine(
        "size",
        &format!(
            "database {}, of which {} free; write-ahead log {}",
            bytes(sizes.file_bytes),
            bytes(sizes.free_bytes),
            bytes(sizes.log_bytes)
        ),
    );
    let count = |count: i64| indicatif::HumanCount(count.unsigned_abs()).to_string();
    let since = match sizes.oldest_ms {
        Some(ms) => format!(
            " since {}",
            jiff::Timestamp::from_millisecond(ms)?.strftime("%Y-%m-%d")
        ),
        None => String::new(),
    };
    findings.fine(
        "history",
        &format!(
            "{} requests{since}, sums of {} hours, {} references",
            count(sizes.requests),
            count(sizes.hours),
            count(sizes.references)
        ),
    );
    if sizes.log_bytes > LOG_BYTES {
        findings.wrong(
            "write-ahead log",
            &format!("{} wait to be written back", bytes(sizes.log_bytes)),
            "end what reads the database all the time, as a sqlite3 with an open transaction",
        );
    }
    Ok(())
}

/// When this was written: no clock that is right shows an earlier time.
const WRITTEN_AT_MS: i64 = 1_790_000_000_000;

fn look_at_clock(findings: &mut Findings, connection: &Connection) -> anyhow::Result<()> {
    let now = now_ms();
    let last = store::last_request_at_ms(connection)?;
    let shown = jiff::Timestamp::from_millisecond(now)?.to_string();
    let ahead = last.is_some_and(|last| last > now + 60_000);
    match ahead || now < WRITTEN_AT_MS {
        false => findings.fine("clock", &shown),
        true => findings.wrong(
            "clock",
            &format!("{shown} is before what was written last"),
            "set the clock of this machine: cooldowns and budgets go by it",
        ),
    }
    Ok(())
}

fn look_at_accounts(
    findings: &mut Findings,
    config: &Config,
    connection: &Connection,
) -> anyhow::Result<Vec<Account>> {
    let stored = accounts::list(connection)?;
    if stored.is_empty() {
        findings.wrong(
            "accounts",
            "there is none",
            "moorage account add NAME --base-url URL --api-key-env VARIABLE",
        );
    }
    for row in history::accounts_now(connection)?.objects() {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let (name, status) = (text("account"), text("status"));
        let found = [status, text("reason"), text("until")]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(", ");
        match (status, row["what_to_do"].as_str()) {
            ("active" | "cooling_down" | "draining", _) | (_, None) => {
                findings.fine("account", &format!("{name}: {found}"));
            }
            (_, Some(to_do)) => findings.wrong("account", &format!("{name}: {found}"), to_do),
        }
    }
    let seal = match Seal::open(&config.seal_key()) {
        Ok(seal) => seal,
        Err(error) => {
            findings.wrong(
                "key file",
                &error.to_string(),
                "put the key back that belongs to this database, or add the accounts anew",
            );
            return Ok(Vec::new());
        }
    };
    let mut unlocked = Vec::new();
    for stored in &stored {
        let account = &stored.account;
        if let Some(doubt) =
            doubt_about_base_url(account.kind, &account.base_url).filter(|_| stored.source == "command")
        {
            findings.odd("account", &format!("{}: its {doubt}", account.name));
        }
        match unlock(stored, &seal, config) {
            Ok(account) => {
                if let Some(Credential::AuthFile(path)) = account.as_ref().map(|account| &account.credential)
                {
                    look_at_login(findings, &stored.account.name, path);
                }
                unlocked.extend(account);
            }
            Err(error) => findings.wrong(
                "account",
                &error.to_string(),
                &format!(
                    "give it its key again: moorage account add {} …",
                    stored.account.name
                ),
            ),
        }
    }
    Ok(unlocked)
}

fn unlock(stored: &StoredAccount, seal: &Seal, config: &Config) -> anyhow::Result<Option<Account>> {
    let mut of_file = config.file.account.iter();
    let of_file = of_file.find(|account| account.checked().is_ok_and(|a| a.name == stored.account.name));
    let secret = match of_file {
        // What is missing was told before.
        Some(account) => account.secret().ok().flatten(),
        None => None,
    };
    Ok(stored.unlock(seal, secret)?)
}

fn look_at_keys(findings: &mut Findings, connection: &Connection) -> anyhow::Result<()> {
    let keys = client_keys::list(connection)?;
    if keys.is_empty() {
        findings.wrong("client keys", "there is none", "moorage key add NAME");
    }
    for key in &keys {
        match key.bounds.expires_at_ms {
            Some(at) if at <= now_ms() => findings.wrong(
                "client key",
                &format!("{} has expired", key.name),
                &format!(
                    "moorage key bounds {0} --expires 30d, or moorage key revoke {0}",
                    key.name
                ),
            ),
            _ => {}
        }
    }
    if !keys.is_empty() {
        findings.fine("client keys", &format!("{} of them", keys.len()));
    }
    Ok(())
}

/// The file of a login, and how long its token is good. That it ends is no trouble: it is renewed.
fn look_at_login(findings: &mut Findings, name: &str, path: &Path) {
    let login = match auth_file::read(path) {
        Ok(login) => login,
        Err(unusable) => {
            let to_do = match &unusable {
                Unusable::Open(_) => format!("chmod 600 {}", path.display()),
                Unusable::Missing(_) | Unusable::NoLogin(_) => LOG_IN_AGAIN.to_owned(),
                Unusable::Unreadable(..) => {
                    "look at who owns it; if it stays so, log in again: codex login".to_owned()
                }
            };
            return findings.wrong("login", &format!("{name}: {unusable}"), &to_do);
        }
    };
    if login.refresh_token.is_none() {
        let found = format!("{name}: {} holds no refresh token", path.display());
        return findings.wrong("login", &found, LOG_IN_AGAIN);
    }
    let until = login
        .expires_at_ms
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let until = until.map_or("its end".to_owned(), |until| until.to_string());
    let plan = login.plan.as_deref().unwrap_or("unknown");
    let found = format!(
        "{name}: {} (plan: {plan}), renewed before {until}",
        path.display()
    );
    match auth_file::check_renewable(path) {
        Ok(()) => findings.fine("login", &found),
        Err(error) => findings.wrong(
            "login",
            &format!(
                "{name}: a renewed login could not be written beside {}: {error}",
                path.display()
            ),
            "let the user who runs the gateway write into that folder",
        ),
    }
}

const LOG_IN_AGAIN: &str = "codex login; a gateway that runs sees it by itself";

/// How far a clock may be off.
const CLOCK_SKEW_MS: i64 = 60_000;

async fn ask_upstreams(
    findings: &mut Findings,
    accounts: Vec<Account>,
    token_url: &str,
) -> anyhow::Result<()> {
    let patience = Duration::from_secs(20);
    let ping = crate::limits::SOCKET_PING;
    let upstream = Upstream::new(patience, patience, ping, token_url).map_err(anyhow::Error::from_boxed)?;
    for account in accounts {
        let models = Outgoing {
            method: Method::GET,
            path_and_query: match account.kind {
                Kind::OpenAi => "/models".to_owned(),
                Kind::Codex => format!("/models?client_version={CODEX_VERSION}"),
            },
            headers: HeaderMap::new(),
            body: OutgoingBody::Pieces(Vec::new()),
        };
        let what = format!("{} at {}", account.name, account.base_url);
        let answer = match upstream.send(&account, models).await {
            Ok(answer) => answer,
            // The last of them is said of chains only; none is asked for here.
            Err(
                SendError::NotSent(reason) | SendError::Unanswered(reason) | SendError::Forgotten(reason),
            ) => {
                let to_do = "look at the address, the network, and whether a proxy is needed";
                findings.wrong("online", &format!("{what}: {reason}"), to_do);
                continue;
            }
            Err(SendError::LoginEnded(code)) => {
                findings.wrong(
                    "online",
                    &format!("{what}: its login has ended ({code})"),
                    LOG_IN_AGAIN,
                );
                continue;
            }
            Err(SendError::NoLogin(reason)) => {
                let to_do = "look at its auth_file and the network, and try again later";
                findings.wrong("online", &format!("{what}: {reason}"), to_do);
                continue;
            }
            Err(SendError::Timeout) => {
                findings.wrong(
                    "online",
                    &format!("{what}: no answer in time"),
                    "look at the network",
                );
                continue;
            }
        };
        look_at_skew(findings, &what, &answer.headers);
        match answer.status {
            status if status.is_success() => findings.fine("online", &what),
            StatusCode::UNAUTHORIZED if account.kind == Kind::Codex => {
                findings.wrong("online", &format!("{what}: its login is refused"), LOG_IN_AGAIN)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => findings.wrong(
                "online",
                &format!("{what}: its credential is refused ({})", answer.status),
                &format!("give it a new one: moorage account add {} …", account.name),
            ),
            StatusCode::NOT_FOUND => findings.wrong(
                "online",
                &format!("{what}: nothing is there ({})", answer.status),
                "look at the address; most end with /v1",
            ),
            status => findings.wrong("online", &format!("{what}: {status}"), "try again later"),
        }
    }
    Ok(())
}

fn look_at_skew(findings: &mut Findings, what: &str, headers: &HeaderMap) {
    let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else {
        return;
    };
    let skew_ms = now_ms() - theirs.timestamp().as_millisecond();
    if skew_ms.abs() > CLOCK_SKEW_MS {
        findings.wrong(
            "clock",
            &format!("{} s off that of {what}", skew_ms / 1000),
            "set the clock of this machine: cooldowns and tokens go by it",
        );
    }
}
