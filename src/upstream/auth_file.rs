//! The file in which Codex CLI keeps a ChatGPT login: read where it is, and written back so that
//! nothing of it is ever lost.
//!
//! Its form is Codex CLI's (openai/codex, `codex-rs/login/src/auth/storage.rs`). What is not known here
//! stays as it is.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::account::Secret;
use crate::limits;

/// A login, as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// What goes with every request.
    pub access_token: Secret,
    /// What renews it, once.
    pub refresh_token: Option<Secret>,
    /// Whose it is, in the provider's words.
    pub account_id: String,
    /// The plan, as the token says.
    pub plan: Option<String>,
    /// When the access token ends, in milliseconds since 1970 UTC; `None` if it does not say.
    pub expires_at_ms: Option<i64>,
}

/// Why a file gives no login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is not there.
    #[error("{0} is not there; 'codex login' makes it")]
    Missing(String),
    /// It is there, and holds no ChatGPT login.
    #[error("{0} holds no ChatGPT login")]
    NoLogin(String),
    /// Others can read it.
    #[error("others can read {0}; run chmod 600 on it")]
    Open(String),
    /// It cannot be read now; it may be in the middle of being written.
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, String),
}

/// The file with all that it holds.
#[derive(Debug)]
pub(super) struct Document(Value);

/// Reads the login.
///
/// # Errors
/// See [`Unusable`].
pub fn read(path: &Path) -> Result<Login, Unusable> {
    Document::read(path)?.login(path)
}

/// What tells one writing of a file from another, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    changed_s: i64,
    changed_ns: i64,
    bytes: u64,
    number: u64,
}

impl Stamp {
    /// That of the file as it is now; `None` if it is not there.
    pub fn of(path: &Path) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt as _;
        let file = std::fs::metadata(path).ok()?;
        // The time of the last change, not only of the content: a mode that was put right counts, too.
        Some(Stamp {
            changed_s: file.ctime(),
            changed_ns: file.ctime_nsec(),
            bytes: file.len(),
            number: file.ino(),
        })
    }
}

/// Whether a renewed login could be written.
///
/// # Errors
/// Why not.
pub fn check_renewable(path: &Path) -> std::io::Result<()> {
    Locked::wait(path)?.successor().map(drop)
}

impl Document {
    pub(super) fn read(path: &Path) -> Result<Document, Unusable> {
        let shown = path.display().to_string();
        let unreadable = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Unusable::Missing(shown.clone()),
            _ => Unusable::Unreadable(shown.clone(), error.to_string()),
        };
        let file = File::open(path).map_err(unreadable)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            if file.metadata().map_err(unreadable)?.permissions().mode() & 0o077 != 0 {
                return Err(Unusable::Open(shown));
            }
        }
        let mut bytes = Vec::new();
        file.take(limits::AUTH_FILE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        match serde_json::from_slice(&bytes) {
            Ok(document) => Ok(Document(document)),
            // What serde_json says quotes nothing of the text.
            Err(error) => Err(Unusable::Unreadable(shown, error.to_string())),
        }
    }

    pub(super) fn login(&self, path: &Path) -> Result<Login, Unusable> {
        let no_login = || Unusable::NoLogin(path.display().to_string());
        let tokens = &self.0["tokens"];
        let secret = |name: &str| tokens[name].as_str().and_then(Secret::new);
        let access_token = secret("access_token").ok_or_else(no_login)?;
        let claims = Claims::of(access_token.reveal());
        let id_claims = tokens["id_token"].as_str().map(Claims::of).unwrap_or_default();
        let account_id = tokens["account_id"].as_str().map(str::to_owned);
        Ok(Login {
            refresh_token: secret("refresh_token"),
            account_id: account_id
                .or(id_claims.account_id)
                .or(claims.account_id)
                .ok_or_else(no_login)?,
            plan: claims.plan.or(id_claims.plan),
            expires_at_ms: claims.expires_at_ms,
            access_token,
        })
    }

    /// Takes new tokens over; those that did not come stay.
    pub(super) fn renew(&mut self, renewed: &Renewed, now: &str) {
        for (name, token) in [
            ("id_token", &renewed.id_token),
            ("access_token", &renewed.access_token),
            ("refresh_token", &renewed.refresh_token),
        ] {
            if let Some(token) = token {
                self.0["tokens"][name] = token.reveal().into();
            }
        }
        self.0["last_refresh"] = now.into();
    }

    fn renewed_at(&self) -> Option<jiff::Timestamp> {
        self.0["last_refresh"].as_str()?.parse().ok()
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&self.0).unwrap_or_default()
    }
}

/// What a renewal gave.
#[derive(Debug, Clone, Default)]
pub(super) struct Renewed {
    pub(super) id_token: Option<Secret>,
    pub(super) access_token: Option<Secret>,
    pub(super) refresh_token: Option<Secret>,
}

/// What a token says of itself. Nobody here relies on it, so its signature is not looked at.
#[derive(Debug, Default)]
struct Claims {
    account_id: Option<String>,
    plan: Option<String>,
    expires_at_ms: Option<i64>,
}

impl Claims {
    fn of(token: &str) -> Claims {
        let read = || {
            let middle = token.split('.').nth(1)?;
            let bytes = URL_SAFE_NO_PAD.decode(middle.trim_end_matches('=')).ok()?;
            serde_json::from_slice::<Value>(&bytes).ok()
        };
        let claims = read().unwrap_or_default();
        let auth = &claims["https://api.openai.com/auth"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Claims {
            account_id: text(&auth["chatgpt_account_id"]),
            plan: text(&auth["chatgpt_plan_type"]),
            expires_at_ms: claims["exp"].as_i64().map(|seconds| seconds.saturating_mul(1000)),
        }
    }
}

/// The right to change the file, among all gateways of this machine. Ends when it is dropped, and when
/// the process ends, however that happens.
#[derive(Debug)]
pub(super) struct Locked {
    target: PathBuf,
    _lock: File,
}

impl Locked {
    /// Waits for the right a bounded time. What a process left unfinished that was killed is finished
    /// first.
    pub(super) fn wait(path: &Path) -> std::io::Result<Locked> {
        // Behind a link, all who use the file must meet at the same lock, and the link must stay one.
        let target = path.canonicalize()?;
        let lock = private(OpenOptions::new().create(true).truncate(false)).open(beside(&target, ".lock"))?;
        let begin = Instant::now();
        while let Err(error) = lock.try_lock() {
            match error {
                std::fs::TryLockError::Error(error) => return Err(error),
                std::fs::TryLockError::WouldBlock if begin.elapsed() > limits::AUTH_FILE_LOCK => {
                    return Err(std::io::Error::other(
                        "another process has held its lock for too long",
                    ));
                }
                std::fs::TryLockError::WouldBlock => std::thread::sleep(LOCK_LOOK),
            }
        }
        let locked = Locked { target, _lock: lock };
        locked.finish()?;
        Ok(locked)
    }

    /// A successor that was written whole and not put in place holds the only tokens that are good.
    fn finish(&self) -> std::io::Result<()> {
        let path = beside(&self.target, ".new");
        if !path.exists() {
            return Ok(());
        }
        let is_newer = |new: &Document, old: &Document| {
            let token = |document: &Document| document.0["tokens"]["refresh_token"].clone();
            token(new) != token(old) && new.renewed_at() > old.renewed_at()
        };
        let newer = match (Document::read(&path), Document::read(&self.target)) {
            (Ok(new), Ok(old)) => is_newer(&new, &old),
            _ => false,
        };
        match newer {
            true => self.put_in_place(&path),
            false => std::fs::remove_file(&path),
        }
    }

    /// Makes room for a successor of the file, of the same mode. What cannot be written is known before
    /// the token is spent.
    pub(super) fn successor(self) -> std::io::Result<Successor> {
        let path = beside(&self.target, ".new");
        let mut file = private(OpenOptions::new().create(true).truncate(true)).open(&path)?;
        let before = std::fs::read(&self.target)?;
        file.set_permissions(std::fs::metadata(&self.target)?.permissions())?;
        file.write_all(&before)?;
        file.write_all(&[b' '; ROOM_BYTES])?;
        file.sync_all()?;
        Ok(Successor {
            locked: self,
            path,
            file,
            is_done: false,
        })
    }

    fn put_in_place(&self, path: &Path) -> std::io::Result<()> {
        std::fs::rename(path, &self.target)?;
        match self.target.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// How often the lock is tried.
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// New tokens may be longer than those before.
const ROOM_BYTES: usize = 4096;

/// A file that will take the place of the other.
#[derive(Debug)]
pub(super) struct Successor {
    locked: Locked,
    path: PathBuf,
    file: File,
    is_done: bool,
}

impl Successor {
    /// Writes the document, and puts it in place once it is on the disk.
    pub(super) fn write(mut self, document: &Document) -> std::io::Result<()> {
        let bytes = document.to_bytes();
        self.file.rewind()?;
        self.file.write_all(&bytes)?;
        self.file.set_len(bytes.len() as u64)?;
        self.file.sync_all()?;
        // From here on it holds the only tokens that are good.
        self.is_done = true;
        self.locked.put_in_place(&self.path)
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.is_done {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

/// A hidden file beside another, which is ours.
fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".moorage");
    name.push(suffix);
    target.with_file_name(name)
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.read(true).write(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn folder_with(document: &Value) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("auth.json");
        write(&path, document);
        (folder, path)
    }

    fn write(path: &Path, document: &Value) {
        let mut file = private(OpenOptions::new().create(true).truncate(true))
            .open(path)
            .unwrap();
        file.write_all(document.to_string().as_bytes()).unwrap();
    }

    fn login(refresh_token: &str, at: &str) -> Value {
        let claims = json!({
            "exp": 1_795_400_000,
            "https://api.openai.com/auth": { "chatgpt_account_id": "acct-1", "chatgpt_plan_type": "plus" },
        });
        json!({
            "tokens": { "access_token": token(&claims), "refresh_token": refresh_token, "account_id": null, "x": 1 },
            "last_refresh": at, "other": { "kept": true },
        })
    }

    const EARLY: &str = "2026-11-20T10:11:12.123456Z";
    const LATE: &str = "2026-11-21T10:11:12Z";

    #[test]
    fn a_login_is_read_with_what_its_token_says() {
        let (_folder, path) = folder_with(&login("rt-1", EARLY));
        let login = read(&path).unwrap();
        assert_eq!(
            (login.account_id.as_str(), login.plan.as_deref()),
            ("acct-1", Some("plus"))
        );
        assert_eq!(login.expires_at_ms, Some(1_795_400_000_000));
        assert_eq!(login.refresh_token.unwrap().reveal(), "rt-1");
    }

    #[test]
    fn what_is_no_login_is_told_apart() {
        let (folder, path) = folder_with(&json!({ "auth_mode": "apikey", "OPENAI_API_KEY": "sk-1" }));
        assert!(matches!(read(&path), Err(Unusable::NoLogin(_))));
        assert!(matches!(
            read(&folder.path().join("no")),
            Err(Unusable::Missing(_))
        ));
        std::fs::write(&path, "{\"tokens\":{\"access_to").unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, Unusable::Unreadable(..)), "{error}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn a_successor_keeps_what_is_not_known_here_and_the_mode_and_the_link() {
        let (folder, path) = folder_with(&login("rt-1", EARLY));
        let link = folder.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let locked = Locked::wait(&link).unwrap();
        let mut document = Document::read(&link).unwrap();
        let renewed = Renewed {
            refresh_token: Secret::new("rt-2"),
            ..Renewed::default()
        };
        document.renew(&renewed, LATE);
        locked.successor().unwrap().write(&document).unwrap();
        let after: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(after, {
            let mut expected = login("rt-1", EARLY);
            expected["tokens"]["refresh_token"] = "rt-2".into();
            expected["last_refresh"] = LATE.into();
            expected
        });
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(!beside(&path, ".new").exists());
    }

    #[test]
    fn a_successor_that_was_not_put_in_place_is_found_again() {
        let (_folder, path) = folder_with(&login("rt-1", EARLY));
        let new = beside(&path.canonicalize().unwrap(), ".new");
        write(&new, &login("rt-2", LATE));
        drop(Locked::wait(&path).unwrap());
        assert_eq!(read(&path).unwrap().refresh_token.unwrap().reveal(), "rt-2");
        // One that is older, or half, is none.
        write(&new, &login("rt-0", EARLY));
        drop(Locked::wait(&path).unwrap());
        std::fs::write(&new, "{\"tok").unwrap();
        drop(Locked::wait(&path).unwrap());
        assert_eq!(read(&path).unwrap().refresh_token.unwrap().reveal(), "rt-2");
        assert!(!new.exists());
    }

    #[test]
    fn a_successor_that_is_given_up_leaves_nothing() {
        let (_folder, path) = folder_with(&login("rt-1", EARLY));
        let before = std::fs::read(&path).unwrap();
        let locked = Locked::wait(&path).unwrap();
        drop(locked.successor().unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(!beside(&path, ".new").exists());
    }
}
