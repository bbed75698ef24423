//! Sealing upstream credentials: the database alone gives nothing away, nor does the key alone.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::Aead as _;
use chacha20poly1305::{Key, KeyInit as _, XChaCha20Poly1305, XNonce};

use super::StoreError;

const NONCE_BYTES: usize = 24;

/// Where the key is that secrets are sealed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In a file of 32 bytes, which is made if it is not there.
    File(PathBuf),
    /// In an environment variable, in base64.
    Environment(String),
}

impl KeySource {
    /// The key file beside a database.
    pub fn beside(database: &Path) -> KeySource {
        KeySource::File(with_suffix(database, ".key"))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens and closes what is sealed.
pub struct Seal {
    cipher: XChaCha20Poly1305,
    /// The key of a rotation that was begun: a kill in its middle leaves secrets sealed with it.
    next: Option<XChaCha20Poly1305>,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(…)")
    }
}

impl Seal {
    /// Reads the key; makes a key file with a random key, for its owner only, if there is none.
    ///
    /// # Errors
    /// If the key cannot be read or made, can be read by others, or is none.
    pub fn open(source: &KeySource) -> Result<Seal, StoreError> {
        match source {
            KeySource::File(path) => {
                let at = |source| StoreError::File {
                    path: path.clone(),
                    source,
                };
                let next = with_suffix(path, NEXT);
                Ok(Seal {
                    cipher: cipher(read_or_create(path).map_err(at)?),
                    next: read_key(&next).ok().map(cipher),
                })
            }
            KeySource::Environment(variable) => Ok(Seal {
                cipher: cipher(key_in_environment(variable).map_err(StoreError::SealKey)?),
                next: None,
            }),
        }
    }

    /// Seals a secret of an account; the name is bound in, so that rows cannot be exchanged.
    pub fn close(&self, account: &str, secret: &str) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| StoreError::Sealed(account.to_owned()))?;
        let payload = chacha20poly1305::aead::Payload {
            msg: secret.as_bytes(),
            aad: account.as_bytes(),
        };
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| StoreError::Sealed(account.to_owned()))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Opens what [`Seal::close`] made.
    ///
    /// # Errors
    /// If it was sealed with another key or for another account, or was changed.
    pub fn open_secret(&self, account: &str, sealed: &[u8]) -> Result<String, StoreError> {
        let broken = || StoreError::Sealed(account.to_owned());
        let (nonce, message) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(broken)?;
        let payload = || chacha20poly1305::aead::Payload {
            msg: message,
            aad: account.as_bytes(),
        };
        let ciphers = [Some(&self.cipher), self.next.as_ref()];
        let secret = ciphers
            .into_iter()
            .flatten()
            .find_map(|cipher| cipher.decrypt(&XNonce::from(*nonce), payload()).ok())
            .ok_or_else(broken)?;
        String::from_utf8(secret).map_err(|_| broken())
    }
}

/// What a key file of a rotation that is under way is called, behind the name of the other.
const NEXT: &str = ".next";

/// Seals all secrets with a new key. The new key is on the disk before the first secret is sealed
/// with it, and takes the place of the old one when the last one is: whenever this is killed, all
/// secrets can still be opened, and calling it again ends what was begun. Gives their number.
///
/// # Errors
/// If a secret does not open, or something cannot be written.
pub fn rotate(connection: &rusqlite::Connection, path: &Path) -> Result<usize, StoreError> {
    let next = with_suffix(path, NEXT);
    let at = |source| StoreError::File {
        path: next.clone(),
        source,
    };
    let key = read_or_create(&next).map_err(at)?;
    let count = reseal(connection, &KeySource::File(path.to_owned()), cipher(key))?;
    std::fs::rename(&next, path).map_err(at)?;
    Ok(count)
}

/// Seals all secrets with the key in another environment variable, to be used from then on.
///
/// # Errors
/// As [`rotate`].
pub fn rotate_to_environment(
    connection: &rusqlite::Connection,
    before: &KeySource,
    variable: &str,
) -> Result<usize, StoreError> {
    let key = key_in_environment(variable).map_err(StoreError::SealKey)?;
    reseal(connection, before, cipher(key))
}

fn reseal(
    connection: &rusqlite::Connection,
    before: &KeySource,
    after: XChaCha20Poly1305,
) -> Result<usize, StoreError> {
    let before = Seal::open(before)?;
    let after = Seal {
        cipher: after,
        next: None,
    };
    let transaction = super::begin(connection)?;
    let count = super::accounts::reseal(&transaction, &before, &after)?;
    transaction.commit()?;
    Ok(count)
}

fn cipher(key: [u8; 32]) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&Key::from(key))
}

fn key_in_environment(variable: &str) -> Result<[u8; 32], String> {
    let text =
        std::env::var(variable).map_err(|_| format!("the environment variable {variable} is not set"))?;
    let key = STANDARD.decode(text.trim()).ok();
    key.and_then(|key| key.try_into().ok()).ok_or_else(|| {
        format!("{variable} holds no key: 32 bytes in base64 are expected, as from 'openssl rand -base64 32'")
    })
}

fn read_or_create(path: &Path) -> std::io::Result<[u8; 32]> {
    match read_key(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create_key(path),
        other => other,
    }
}

fn read_key(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = std::fs::File::open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            return Err(std::io::Error::other(
                "others can read this key file; run chmod 600 on it",
            ));
        }
    }
    let mut key = [0; 32];
    file.read_exact(&mut key)
        .map_err(|_| std::io::Error::other("not a key file: 32 bytes are expected"))?;
    Ok(key)
}

fn create_key(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(std::io::Error::other)?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(folder: &tempfile::TempDir, name: &str) -> KeySource {
        KeySource::beside(&folder.path().join(name))
    }

    #[test]
    fn a_secret_opens_only_with_its_key_and_for_its_account() {
        let folder = tempfile::tempdir().unwrap();
        let seal = Seal::open(&beside(&folder, "a.db")).unwrap();
        let other = Seal::open(&beside(&folder, "b.db")).unwrap();
        let sealed = seal.close("alice", "sk-secret").unwrap();
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(seal.open_secret("alice", &sealed).unwrap(), "sk-secret");
        assert!(seal.open_secret("bob", &sealed).is_err());
        assert!(other.open_secret("alice", &sealed).is_err());
        assert!(seal.open_secret("alice", &sealed[1..]).is_err());
        let again = Seal::open(&beside(&folder, "a.db")).unwrap();
        assert_eq!(again.open_secret("alice", &sealed).unwrap(), "sk-secret");
    }

    #[test]
    fn a_rotation_that_was_killed_locks_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let source = beside(&folder, "a.db");
        let path = with_suffix(&folder.path().join("a.db"), ".key");
        let sealed_before = Seal::open(&source).unwrap().close("alice", "sk-1").unwrap();
        // The next key is there, and one secret is sealed with it already.
        let next = cipher(read_or_create(&with_suffix(&path, NEXT)).unwrap());
        let next = Seal {
            cipher: next,
            next: None,
        };
        let sealed_after = next.close("bob", "sk-2").unwrap();
        let seal = Seal::open(&source).unwrap();
        assert_eq!(seal.open_secret("alice", &sealed_before).unwrap(), "sk-1");
        assert_eq!(seal.open_secret("bob", &sealed_after).unwrap(), "sk-2");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let source = beside(&folder, "a.db");
        Seal::open(&source).unwrap();
        let path = folder.path().join("a.db.key");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Seal::open(&source).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
