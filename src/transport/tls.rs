//! TLS under frames, by rustls.

mod records;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio_rustls::rustls::{AlertDescription, ClientConfig, Error as RustlsError, RootCertStore};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Boxed, Failed, Layer, Local, Refused, Signs, Transport};
use crate::codec::FrameError;
use crate::conn::{CloseReason, Conn, HandshakeError, Intake};
use crate::conn_manager::AddError;
use crate::settings::{ClientCert, Settings};
use records::Records;

/// What a connection keeps of what its peer does not take, beside its outbox: two records.
const KEPT: usize = 32 * 1024;

/// Why TLS cannot be had with these files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is not there, cannot be read, or has not what it must have.
    #[error("setting `{key}`: {}: {why}", file.display())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The files do not fit each other.
    #[error("settings `tls_cert` and `tls_key`: {0}")]
    Pair(String),
    /// There is no TLS to be had files for.
    #[error("the server has no endpoint with TLS")]
    Unused,
}

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
    files: Files,
    config: RwLock<Arc<ServerConfig>>,
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_cert: ClientCert,
}

impl ServerTls {
    pub(crate) fn new(settings: &Settings) -> Result<Self, TlsError> {
        let client_ca = &settings.tls_client_ca;
        let files = Files {
            cert: PathBuf::from(&settings.tls_cert),
            key: PathBuf::from(&settings.tls_key),
            client_ca: (!client_ca.is_empty()).then(|| PathBuf::from(client_ca)),
            client_cert: settings.tls_client_cert,
        };
        let config = RwLock::new(Arc::new(files.load()?));
        Ok(Self { files, config })
    }

    /// Reads the files anew. Handshakes from now on are made with them, if they are good.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(self.files.load()?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    fn acceptor(&self) -> TlsAcceptor {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&config).into()
    }

    /// Shakes hands.
    async fn encrypt(&self, below: Boxed) -> Result<Encrypted, HandshakeError> {
        let mut stream = self.acceptor().accept(Records::new(below)).await.map_err(failed)?;
        stream.get_mut().1.set_buffer_limit(Some(KEPT));
        Ok(Encrypted(stream.into()))
    }
}

impl Files {
    fn load(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let bad = |error: RustlsError| TlsError::Pair(error.to_string());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let config = config.with_safe_default_protocol_versions().map_err(bad)?;
        let config = match &self.client_ca {
            None => config.with_no_client_auth(),
            Some(file) => {
                let of_file = |why: String| file_error("tls_client_ca", file, why);
                let roots = Arc::new(roots("tls_client_ca", file)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match self.client_cert {
                    ClientCert::Required => verifier,
                    ClientCert::Optional => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|error| of_file(error.to_string()))?;
                config.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates("tls_cert", &self.cert)?;
        let key = private_key("tls_key", &self.key)?;
        config.with_single_cert(chain, key).map_err(bad)
    }
}

fn file_error(key: &'static str, file: &Path, why: impl fmt::Display) -> TlsError {
    TlsError::File { key, file: file.to_owned(), why: why.to_string() }
}

/// The certificates in a PEM text; at least one.
pub(crate) fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("there is no certificate in it".to_owned()),
        all => all.map_err(|error| error.to_string()),
    }
}

/// The roots in a PEM text; at least one.
pub(crate) fn parse_roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(pem)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = fs::read(file).map_err(|error| file_error(key, file, error))?;
    parse_certificates(&pem).map_err(|why| file_error(key, file, why))
}

/// The roots of a PEM file.
pub(crate) fn roots(key: &'static str, file: &Path) -> Result<RootCertStore, TlsError> {
    let pem = fs::read(file).map_err(|error| file_error(key, file, error))?;
    parse_roots(&pem).map_err(|why| file_error(key, file, why))
}

/// The first private key of a PEM file.
fn private_key(key: &'static str, file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| match error {
        pem::Error::NoItemsFound => file_error(key, file, "there is no private key in it"),
        error => file_error(key, file, plain(error)),
    })
}

/// What rustls says of a file, without its own words around what the system says.
fn plain(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

impl Layer for ServerTls {
    fn accept<'a>(&'a self, below: Boxed, conn: &'a Conn) -> Local<'a, Result<Boxed, Failed>> {
        Box::pin(async move {
            let encrypted = self.encrypt(below).await?;
            if let Some(shown) = encrypted.0.get_ref().1.peer_certificates() {
                let shown = shown.iter().map(|shown| shown.clone().into_owned()).collect();
                conn.set_property(PeerCertificates(shown));
            }
            Ok(Box::new(encrypted) as Boxed)
        })
    }

    fn refuse<'a>(&'a self, below: Boxed, _: &'a AddError) -> Local<'a, Refused> {
        Box::pin(async move {
            match self.encrypt(below).await {
                Ok(encrypted) => Refused::NotYet(Box::new(encrypted)),
                Err(_) => Refused::Gone,
            }
        })
    }

    fn is_costly(&self) -> bool {
        true
    }
}

/// Shakes hands with the server of this name.
pub(crate) async fn connect(
    config: &Arc<ClientConfig>,
    server_name: &str,
    below: Boxed,
) -> Result<Boxed, HandshakeError> {
    let name = ServerName::try_from(server_name.to_owned());
    let name = name.map_err(|error| HandshakeError::Tls(error.to_string()))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let mut stream = connector.connect(name, Records::new(below)).await.map_err(failed)?;
    stream.get_mut().1.set_buffer_limit(Some(KEPT));
    Ok(Box::new(Encrypted(stream.into())))
}

fn failed(error: io::Error) -> HandshakeError {
    match rustls_error(&error) {
        Some(why) if is_about_certificates(why) => HandshakeError::Certificate(why.to_string()),
        Some(why) => HandshakeError::Tls(why.to_string()),
        None => error.into(),
    }
}

fn rustls_error(error: &io::Error) -> Option<&RustlsError> {
    error.get_ref()?.downcast_ref()
}

/// Whether what the peer sent makes no sense, and not the peer says so of what it got.
fn is_about_records(error: &RustlsError) -> bool {
    !matches!(error, RustlsError::AlertReceived(_))
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

/// A transport in TLS.
struct Encrypted(TlsStream<Records>);

impl Transport for Encrypted {
    fn taken(&self) -> Option<u64> {
        self.0.get_ref().0.below.taken()
    }

    fn held(&self) -> usize {
        let records = self.0.get_ref().0;
        records.held() + records.below.held()
    }

    fn intake(&self) -> Option<Rc<Intake>> {
        self.0.get_ref().0.below.intake()
    }

    fn signs(&mut self) -> Signs {
        let records = self.0.get_mut().0;
        Signs { alive: std::mem::take(&mut records.come), part: records.part() }
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            // A peer that closed its side without TLS's word for it. Whether a frame was cut is seen in
            // the frames, as on a bare socket.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) if rustls_error(&error).is_some_and(is_about_records) => {
                let why = CloseReason::Protocol(FrameError::Malformed("a TLS record"));
                Poll::Ready(Err(io::Error::other(why)))
            }
            read => read,
        }
    }
}

writes_through!(Encrypted, 0);
