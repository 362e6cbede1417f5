//! Whom a client trusts, and who it says it is.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::ConnectError;
use crate::conn::HandshakeError;
use crate::secret::{shown, shown_path};
use crate::transport::tls::credentials::{self, BadIdentity};
use crate::transport::{Boxed, tls};

/// Whom a client trusts, and who it says it is.
///
/// By default, the server must have a certificate for the host of the endpoint, signed by one of the
/// roots that the system trusts; and the client has none.
///
/// ```
/// # fn f(pem: Vec<u8>) {
/// use zinxide::client::Tls;
///
/// let tls = Tls::new().roots_pem(pem).server_name("game.example.com");
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "it is given to a client"]
pub struct Tls {
    roots: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
    accept_any: bool,
    provider: Option<Arc<CryptoProvider>>,
}

impl Tls {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these roots, one certificate or more in PEM, and no longer those of the system. A text of which
    /// a part cannot be read is an error when the client is started: [`ConnectError::Tls`].
    pub fn roots_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// Shows this certificate to a server that asks for one: the chain in PEM, the client's own first,
    /// and its private key in PEM, not encrypted. What cannot be read, or a key that is not the certificate's, is an
    /// error when the client is started: [`ConnectError::Tls`], which quotes neither.
    pub fn client_certificate_pem(
        mut self,
        chain: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((chain.into(), key.into()));
        self
    }

    /// The name that the server's certificate must have, if it is not the host of the endpoint. One that is
    /// no name is an error when the client is started: [`ConnectError::Tls`].
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Takes any server for the right one, whatever its certificate: **whoever is on the way to the
    /// server can read and change everything**. For tests on one's own machine.
    pub fn dangerously_accept_any_certificate(mut self) -> Self {
        self.accept_any = true;
        self
    }

    /// Has this do the cryptography, in place of ring with all that it can do: a library of one's own, or fewer
    /// cipher suites. See [`Server::tls_provider`](crate::Server::tls_provider). One with which no version of
    /// TLS can be spoken is an error when the client is started: [`ConnectError::Tls`].
    pub fn provider(mut self, provider: impl Into<Arc<CryptoProvider>>) -> Self {
        self.provider = Some(provider.into());
        self
    }

    pub(super) fn set_up(self, host: &str) -> Result<TlsSetup, ConnectError> {
        let server_name = self.server_name.clone().unwrap_or_else(|| host.to_owned());
        let named = ServerName::try_from(server_name.clone());
        let server_name = named.map_err(|error| {
            ConnectError::Tls(format!("the name {:?}: {error}", shown(&server_name)))
        })?;
        let config = self.config().map_err(ConnectError::Tls)?;
        Ok(TlsSetup { config: Arc::new(config), server_name })
    }

    fn config(self) -> Result<ClientConfig, String> {
        let text = |error: rustls::Error| error.to_string();
        let provider = self.provider.unwrap_or_else(credentials::default_provider);
        let algorithms = provider.signature_verification_algorithms;
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(text)?;
        let config = if self.accept_any {
            config.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(algorithms)))
        } else {
            config.with_root_certificates(roots(self.roots.as_deref())?)
        };
        match self.identity {
            None => Ok(config.with_no_client_auth()),
            Some((chain, key)) => {
                let identity = credentials::identity(&chain, &key, &provider);
                let identity = identity.map_err(|error| match error {
                    BadIdentity::Chain(why) => format!("the client's certificate: {why}"),
                    BadIdentity::Key(why) => format!("the client's key: {why}"),
                    BadIdentity::Pair(why) => format!("the client's certificate and key: {why}"),
                })?;
                Ok(config.with_client_cert_resolver(identity))
            }
        }
    }
}

/// The roots in this PEM, or else those of the system.
fn roots(pem: Option<&[u8]>) -> Result<RootCertStore, String> {
    if let Some(pem) = pem {
        return credentials::roots(pem).map_err(|why| format!("the roots: {why}"));
    }
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Systems have roots that make no sense, among others that do.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(String::new, unread);
        return Err(format!("the system trusts nobody{why}"));
    }
    Ok(roots)
}

/// Why the system's roots cannot be read. `SSL_CERT_FILE` may name a private key by mistake, and errors about
/// PEM quote it.
fn unread(error: &rustls_native_certs::Error) -> String {
    use rustls_native_certs::ErrorKind;
    match &error.kind {
        ErrorKind::Io { inner, path } => format!(": {}: {inner}", shown_path(path).display()),
        ErrorKind::Pem(_) => ": a file of theirs is not PEM".to_owned(),
        _ => format!(": {}", error.context),
    }
}

/// What every handshake of a client needs.
pub(super) struct TlsSetup {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl TlsSetup {
    pub(super) async fn connect(&self, below: Boxed) -> Result<Boxed, HandshakeError> {
        tls::connect(&self.config, self.server_name.clone(), below).await
    }
}

impl fmt::Debug for Tls {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("own_roots", &self.roots.is_some())
            .field("client_certificate", &self.identity.is_some())
            .field("server_name", &self.server_name.as_deref().map(shown))
            .field("accept_any_certificate", &self.accept_any)
            .field("own_provider", &self.provider.is_some())
            .finish()
    }
}

/// Looks at signatures only, so that the server at least has the key of the certificate it shows.
#[derive(Debug)]
struct AcceptAny(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
