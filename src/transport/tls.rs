//! TLS under frames, by rustls.

pub(crate) mod credentials;
mod encrypted;
mod files;
mod pem;
mod records;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::ClientConnection;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ServerConnection;
use rustls::{AlertDescription, ClientConfig, Error as RustlsError, HandshakeKind};

use super::{Boxed, Failed, Layer, Local, Peer};
use crate::conn::HandshakeError;
use crate::connection::ReadPool;
use crate::settings::Settings;
use encrypted::Encrypted;
use files::Loaded;
pub use files::TlsError;
pub(crate) use files::{Files, roots};

/// The certificates that a client has shown, verified: a property of its connection.
///
/// ```
/// # fn f(conn: &zinxide::Conn) {
/// use zinxide::PeerCertificates;
///
/// if let Some(shown) = conn.property::<PeerCertificates>() {
///     println!("{} bytes of DER", shown.leaf().map_or(0, <[u8]>::len));
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificates(Vec<CertificateDer<'static>>);

impl PeerCertificates {
    /// The client's own, in DER.
    pub fn leaf(&self) -> Option<&[u8]> {
        self.chain().next()
    }

    /// The client's own, then those that lead from it to its root, in DER.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }
}

/// The server's side, with certificates that can be changed.
pub(crate) struct ServerTls {
    /// What is read.
    pub(crate) files: Files,
    provider: Arc<CryptoProvider>,
    /// How many times the files were begun to be read.
    begun: AtomicU64,
    in_use: RwLock<InUse>,
    /// Held by the thread of a reload, so that there is one at most.
    pub(crate) reloading: Arc<tokio::sync::Mutex<()>>,
}

struct InUse {
    loaded: Arc<Loaded>,
    /// Which of the times it was read.
    number: u64,
}

impl ServerTls {
    pub(crate) fn new(
        settings: &Settings,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let files = Files::new(settings);
        let loaded = Arc::new(files.load(&provider, None)?);
        Ok(Self {
            files,
            provider,
            begun: AtomicU64::new(0),
            in_use: RwLock::new(InUse { loaded, number: 0 }),
            reloading: Arc::default(),
        })
    }

    /// Reads the files again. Handshakes from now on are made with them, if they are good.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let loaded = Arc::new(self.files.load(&self.provider, Some(&self.in_use()))?);
        let mut in_use = self.in_use.write().unwrap_or_else(PoisonError::into_inner);
        // One that began later and was faster has read what is newer.
        if number > in_use.number {
            *in_use = InUse { loaded, number };
        }
        Ok(())
    }

    fn in_use(&self) -> Arc<Loaded> {
        Arc::clone(&self.in_use.read().unwrap_or_else(PoisonError::into_inner).loaded)
    }

    /// Shakes hands.
    async fn encrypt(&self, below: Boxed) -> Result<Box<Encrypted>, HandshakeError> {
        let loaded = self.in_use();
        let session = ServerConnection::new(Arc::clone(&loaded.config));
        let session = session.map_err(|error| because(&error))?;
        let encrypted = Encrypted::shake_hands(below, session).await.map_err(failed)?;
        let session = encrypted.session();
        // A ticket has the client's certificates, and rustls takes them as they were. Each session that is
        // resumed gets new tickets, so that this would go on for as long as the client likes.
        if session.handshake_kind() == Some(HandshakeKind::Resumed)
            && let (Some(clients), Some([leaf, rest @ ..])) =
                (&loaded.clients, session.peer_certificates())
        {
            let now = loaded.config.time_provider.current_time().unwrap_or_else(UnixTime::now);
            let verified = clients.verifier.verify_client_cert(leaf, rest, now);
            verified.map_err(|error| because(&error))?;
        }
        Ok(encrypted)
    }
}

impl Layer for ServerTls {
    fn shake_hands<'a>(
        &'a self,
        below: Boxed,
        peer: Peer<'a>,
        _: &'a ReadPool,
    ) -> Local<'a, Result<Boxed, Failed>> {
        Box::pin(async move {
            let encrypted = self.encrypt(below).await?;
            if let (Ok(conn), Some(shown)) = (peer, encrypted.session().peer_certificates()) {
                let shown = shown.iter().map(|shown| shown.clone().into_owned()).collect();
                conn.set_property(PeerCertificates(shown));
            }
            Ok(encrypted as Boxed)
        })
    }

    fn is_costly(&self) -> bool {
        true
    }
}

/// Shakes hands with the server of this name.
pub(crate) async fn connect(
    config: &Arc<ClientConfig>,
    server_name: ServerName<'static>,
    below: Boxed,
) -> Result<Boxed, HandshakeError> {
    let session = ClientConnection::new(Arc::clone(config), server_name);
    let session = session.map_err(|error| because(&error))?;
    Ok(Encrypted::shake_hands(below, session).await.map_err(failed)?)
}

/// Why a handshake failed.
pub(crate) fn failed(error: io::Error) -> HandshakeError {
    match rustls_error(&error) {
        Some(why) => because(why),
        None => error.into(),
    }
}

fn because(why: &RustlsError) -> HandshakeError {
    let kind = match is_about_certificates(why) {
        true => HandshakeError::Certificate,
        false => HandshakeError::Tls,
    };
    kind(why.to_string())
}

fn rustls_error(error: &io::Error) -> Option<&RustlsError> {
    error.get_ref()?.downcast_ref()
}

/// Whether a side does not trust the other's certificate, or the peer says so.
fn is_about_certificates(error: &RustlsError) -> bool {
    use AlertDescription as A;
    match error {
        RustlsError::InvalidCertificate(_)
        | RustlsError::NoCertificatesPresented
        | RustlsError::InvalidCertRevocationList(_) => true,
        RustlsError::AlertReceived(alert) => matches!(
            alert,
            A::NoCertificate
                | A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateExpired
                | A::CertificateUnknown
                | A::UnknownCA
                | A::CertificateRequired
        ),
        _ => false,
    }
}
