//! Certificates and private keys from files.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::TrustAnchor;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{Error as RustlsError, RootCertStore};

use super::credentials::{self, BadIdentity};
use crate::secret::shown_path;
use crate::settings::{ClientCert, Settings};

/// How much is read of a file: a hundred times what the largest collections of roots have. Some files have no end.
const MAX_FILE: u64 = 16 << 20;

/// Why TLS cannot be had with these files. No part of a file is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is not there, cannot be read, or has not what it must have.
    #[error("setting `{key}`: {}: {why}", file.display())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// The file. If the setting looks like a key rather than like a path, this does not have it.
        file: PathBuf,
        /// What is wrong with it, and in which line.
        why: String,
    },
    /// The files do not fit each other.
    #[error("settings `tls_cert` and `tls_key`: {0}")]
    Pair(String),
    /// The application's `CryptoProvider` has nothing that TLS can be had with, or there are no random numbers
    /// to be had.
    #[error("the provider of cryptography: {0}")]
    Provider(String),
    /// There is no TLS to be had files for.
    #[error("the server has no endpoint with TLS")]
    Unused,
    /// There is no thread to be had that reads the files.
    #[error("cannot start a thread that reads certificates: {0}")]
    Thread(std::io::Error),
}

/// The files of a server.
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
    client_cert: ClientCert,
}

impl Files {
    pub(super) fn new(settings: &Settings) -> Self {
        let client_ca = &settings.tls_client_ca;
        Self {
            cert: PathBuf::from(&settings.tls_cert),
            key: PathBuf::from(&settings.tls_key),
            client_ca: (!client_ca.is_empty()).then(|| PathBuf::from(client_ca)),
            client_cert: settings.tls_client_cert,
        }
    }

    /// Reads them, which may take for ever: they may be pipes, or on a machine that is away. `before` is what is
    /// in use.
    pub(super) fn load(
        &self,
        provider: &Arc<CryptoProvider>,
        before: Option<&Loaded>,
    ) -> Result<Loaded, TlsError> {
        let clients = self.clients(provider)?;
        let unusable = |error: RustlsError| TlsError::Provider(error.to_string());
        let config = ServerConfig::builder_with_provider(Arc::clone(provider));
        let config = config.with_safe_default_protocol_versions().map_err(unusable)?;
        let config = match &clients {
            None => config.with_no_client_auth(),
            Some(clients) => config.with_client_cert_verifier(Arc::clone(&clients.verifier)),
        };
        let cert = read("tls_cert", &self.cert)?;
        // One file with both may be a pipe, which can be read once; and it cannot change in between.
        let apart = (self.key != self.cert).then(|| read("tls_key", &self.key)).transpose()?;
        let key = apart.as_ref().unwrap_or(&cert);
        let identity =
            credentials::identity(&cert, key, provider).map_err(|error| match error {
                BadIdentity::Chain(why) => file_error("tls_cert", &self.cert, why),
                BadIdentity::Key(why) => file_error("tls_key", &self.key, why),
                BadIdentity::Pair(why) => TlsError::Pair(why.to_owned()),
            })?;
        let mut config = config.with_cert_resolver(identity);
        config.ticketer = match before {
            Some(before) if anchors(&before.clients) == anchors(&clients) => {
                Arc::clone(&before.config.ticketer)
            }
            _ => ring::Ticketer::new().map_err(unusable)?,
        };
        Ok(Loaded { config: Arc::new(config), clients })
    }

    fn clients(&self, provider: &Arc<CryptoProvider>) -> Result<Option<Clients>, TlsError> {
        let Some(file) = &self.client_ca else { return Ok(None) };
        let roots = Arc::new(roots("tls_client_ca", file)?);
        let provider = Arc::clone(provider);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider);
        let verifier = match self.client_cert {
            ClientCert::Required => verifier,
            ClientCert::Optional => verifier.allow_unauthenticated(),
        };
        let verifier = verifier.build();
        let verifier = verifier.map_err(|error| file_error("tls_client_ca", file, error))?;
        Ok(Some(Clients { roots, verifier }))
    }
}

/// What handshakes are made with.
pub(super) struct Loaded {
    /// With a ticketer, because the sessions of a crowd are too many to be kept here: their clients keep them. It
    /// has the key that tickets are encrypted with, which it changes by itself, and is that of the files before,
    /// so that clients resume their sessions after a reload, too. Not so if the roots of clients have changed: a
    /// client has to show then that it is trusted by the new ones.
    ///
    /// Early data stays off: whoever recorded it could send it again.
    pub(super) config: Arc<ServerConfig>,
    /// `None` if clients need no certificates.
    pub(super) clients: Option<Clients>,
}

/// Whom clients' certificates must lead to.
#[derive(Clone)]
pub(super) struct Clients {
    roots: Arc<RootCertStore>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

fn anchors(clients: &Option<Clients>) -> Option<&[TrustAnchor<'static>]> {
    clients.as_ref().map(|clients| &clients.roots.roots[..])
}

fn file_error(key: &'static str, file: &Path, why: impl fmt::Display) -> TlsError {
    TlsError::File { key, file: file.to_owned(), why: why.to_string() }
}

fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, TlsError> {
    let opened = File::open(file);
    // What is there is a path, whatever it looks like.
    let mut opened = opened.map_err(|error| file_error(key, &shown_path(file), error))?;
    let mut text = Vec::new();
    let read = opened.by_ref().take(MAX_FILE + 1).read_to_end(&mut text);
    read.map_err(|error| file_error(key, file, error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(file_error(key, file, "it is larger than 16 MiB"));
    }
    Ok(text)
}

/// The roots of a PEM file.
pub(crate) fn roots(key: &'static str, file: &Path) -> Result<RootCertStore, TlsError> {
    credentials::roots(&read(key, file)?).map_err(|why| file_error(key, file, why))
}
