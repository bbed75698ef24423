//! TLS towards the clients, from certificate files. They are read again when the gateway is told to:
//! certificates are renewed more often than gateways are started.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// How this server proves who it is.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    acceptor: RwLock<TlsAcceptor>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.certificate).finish()
    }
}

impl Tls {
    /// Reads a chain of certificates and its private key, in PEM.
    ///
    /// # Errors
    /// What is wrong with them, in words that say what to do.
    pub fn read(certificate: &Path, key: &Path) -> Result<Tls, String> {
        Ok(Tls {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            acceptor: RwLock::new(acceptor(certificate, key)?),
        })
    }

    /// Reads them again. Connections that are open stay as they are.
    ///
    /// # Errors
    /// What is wrong with them; those from before stay in use.
    pub fn read_again(&self) -> Result<(), String> {
        let acceptor = acceptor(&self.certificate, &self.key)?;
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    check_mode(key)?;
    // Chosen once a process; a second one finds it chosen.
    rustls::crypto::ring::default_provider().install_default().ok();
    let at = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let chain = CertificateDer::pem_file_iter(certificate).map_err(|error| at(certificate, &error))?;
    let chain: Vec<_> = chain
        .collect::<Result<_, _>>()
        .map_err(|error| at(certificate, &error))?;
    if chain.is_empty() {
        return Err(at(certificate, &"holds no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| at(key, &error))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| at(certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A private key that everybody on the machine can read is none.
#[cfg(unix)]
fn check_mode(key: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = std::fs::metadata(key).map_err(|error| format!("{}: {error}", key.display()))?;
    match metadata.permissions().mode() & 0o007 {
        0 => Ok(()),
        _ => Err(format!(
            "{}: everybody can read this private key; run chmod o-rwx on it",
            key.display()
        )),
    }
}

#[cfg(not(unix))]
fn check_mode(_: &Path) -> Result<(), String> {
    Ok(())
}
