//! Sealing upstream credentials: the database alone gives nothing away.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::Aead as _;
use chacha20poly1305::{Key, KeyInit as _, XChaCha20Poly1305, XNonce};

use super::StoreError;

const NONCE_BYTES: usize = 24;

/// Opens and closes what is sealed, with the key from a file beside the database.
pub struct Seal {
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(…)")
    }
}

impl Seal {
    /// Where the key file of a database is.
    pub fn path(database: &Path) -> PathBuf {
        let mut name = database.as_os_str().to_owned();
        name.push(".key");
        PathBuf::from(name)
    }

    /// Reads the key file; makes one with a random key, for its owner only, if there is none.
    ///
    /// # Errors
    /// If the file cannot be read or made, can be read by others, or holds no key.
    pub fn open(database: &Path) -> Result<Seal, StoreError> {
        let path = Seal::path(database);
        read_or_create(&path)
            .map(|key| Seal {
                cipher: XChaCha20Poly1305::new(&Key::from(key)),
            })
            .map_err(|source| StoreError::File { path, source })
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
        let payload = chacha20poly1305::aead::Payload {
            msg: message,
            aad: account.as_bytes(),
        };
        let secret = self
            .cipher
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| broken())?;
        String::from_utf8(secret).map_err(|_| broken())
    }
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

    #[test]
    fn a_secret_opens_only_with_its_key_and_for_its_account() {
        let folder = tempfile::tempdir().unwrap();
        let seal = Seal::open(&folder.path().join("a.db")).unwrap();
        let other = Seal::open(&folder.path().join("b.db")).unwrap();
        let sealed = seal.close("alice", "sk-secret").unwrap();
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(seal.open_secret("alice", &sealed).unwrap(), "sk-secret");
        assert!(seal.open_secret("bob", &sealed).is_err());
        assert!(other.open_secret("alice", &sealed).is_err());
        assert!(seal.open_secret("alice", &sealed[1..]).is_err());
        let again = Seal::open(&folder.path().join("a.db")).unwrap();
        assert_eq!(again.open_secret("alice", &sealed).unwrap(), "sk-secret");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        Seal::open(&database).unwrap();
        let path = Seal::path(&database);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Seal::open(&database).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
