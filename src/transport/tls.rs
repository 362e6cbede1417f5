//! TLS under frames, by rustls.

pub(crate) mod credentials;
mod files;
mod pem;
mod records;

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::ServerConfig;
use tokio_rustls::rustls::{AlertDescription, ClientConfig, Error as RustlsError};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::io::poll_read_buf;

use super::{Boxed, Failed, Layer, Local, Overhead, Passed, Refused, Signs, Transport};
use crate::codec::FrameError;
use crate::conn::{CloseReason, Conn, HandshakeError, Intake};
use crate::conn_manager::AddError;
use crate::connection::ReadPool;
use crate::settings::Settings;
pub use files::TlsError;
pub(crate) use files::{Files, roots};
use records::Records;

/// What a connection keeps of what its peer does not take, beside its outbox: two records.
const KEPT: usize = 32 * 1024;

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
    /// How many times the files were begun to be read.
    begun: AtomicU64,
    in_use: RwLock<InUse>,
    /// Held by the thread of a reload, so that there is one at most.
    pub(crate) reloading: Arc<tokio::sync::Mutex<()>>,
}

struct InUse {
    config: Arc<ServerConfig>,
    /// Which of the times it was read.
    number: u64,
}

impl ServerTls {
    pub(crate) fn new(settings: &Settings) -> Result<Self, TlsError> {
        let files = Files::new(settings);
        let config = Arc::new(files.load()?);
        Ok(Self {
            files,
            begun: AtomicU64::new(0),
            in_use: RwLock::new(InUse { config, number: 0 }),
            reloading: Arc::default(),
        })
    }

    /// The files that are read.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// Reads the files again. Handshakes from now on are made with them, if they are good.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let config = Arc::new(self.files.load()?);
        let mut in_use = self.in_use.write().unwrap_or_else(PoisonError::into_inner);
        // One that began later and was faster has read what is newer.
        if number > in_use.number {
            *in_use = InUse { config, number };
        }
        Ok(())
    }

    fn acceptor(&self) -> TlsAcceptor {
        let in_use = self.in_use.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&in_use.config).into()
    }

    /// Shakes hands.
    async fn encrypt(&self, below: Boxed) -> Result<Encrypted, HandshakeError> {
        let mut stream = self.acceptor().accept(Records::new(below)).await.map_err(failed)?;
        stream.get_mut().1.set_buffer_limit(Some(KEPT));
        Ok(Encrypted::new(stream.into()))
    }
}

impl Layer for ServerTls {
    fn accept<'a>(
        &'a self,
        below: Boxed,
        conn: &'a Conn,
        _: &'a ReadPool,
    ) -> Local<'a, Result<Boxed, Failed>> {
        Box::pin(async move {
            let encrypted = self.encrypt(below).await?;
            if let Some(shown) = encrypted.stream.get_ref().1.peer_certificates() {
                let shown = shown.iter().map(|shown| shown.clone().into_owned()).collect();
                conn.set_property(PeerCertificates(shown));
            }
            Ok(Box::new(encrypted) as Boxed)
        })
    }

    fn refuse<'a>(&'a self, below: Boxed, _: &'a AddError, _: &'a ReadPool) -> Local<'a, Refused> {
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
    Ok(Box::new(Encrypted::new(stream.into())))
}

/// Why a handshake failed.
pub(crate) fn failed(error: io::Error) -> HandshakeError {
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

/// The most plaintext that a record has, RFC 8446, 5.1.
const RECORD: usize = 16 * 1024;

/// A transport in TLS.
///
/// What is written makes one record at a time, and no other before the socket has all of it. So what
/// the peer cannot use of what was written is known to the byte: the record that is not complete.
struct Encrypted {
    stream: TlsStream<Records>,
    /// Bytes that were written.
    given: u64,
    /// Bytes in records that the socket has.
    whole: u64,
    /// Bytes of the peer that were read here.
    plain: u64,
    /// All its bytes beside those, and those of them that are of the handshake until somebody asks.
    overhead: u64,
    handshake: u64,
}

impl Encrypted {
    fn new(stream: TlsStream<Records>) -> Self {
        let mut new = Self { stream, given: 0, whole: 0, plain: 0, overhead: 0, handshake: 0 };
        new.handshake = new.follow_overhead();
        new
    }

    /// How many bytes have come since this was asked that are no plaintext.
    fn follow_overhead(&mut self) -> u64 {
        // What is decrypted and not read is no overhead, and rustls knows how much that is.
        let state = match &mut self.stream {
            TlsStream::Server(stream) => stream.get_mut().1.process_new_packets(),
            TlsStream::Client(stream) => stream.get_mut().1.process_new_packets(),
        };
        let unread = state.map_or(0, |state| state.plaintext_bytes_to_read() as u64);
        let all = self.stream.get_ref().0.complete().saturating_sub(self.plain + unread);
        let before = std::mem::replace(&mut self.overhead, all);
        all.saturating_sub(before)
    }

    /// Whether the socket has all records.
    fn is_flushed(&self) -> bool {
        !self.stream.get_ref().1.wants_write()
    }

    fn note_flushed(&mut self) {
        if self.is_flushed() {
            self.whole = self.given;
        }
    }
}

impl Transport for Encrypted {
    fn poll_fill(
        &mut self,
        buffer: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match poll_read_buf(Pin::new(&mut self.stream), cx, buffer) {
            // A peer that closed its side without TLS's word for it. Whether a frame was cut is seen in
            // the frames, as on a bare socket.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Err(error)) if rustls_error(&error).is_some_and(is_about_records) => {
                let why = CloseReason::Protocol(FrameError::Malformed("a TLS record"));
                Poll::Ready(Err(io::Error::other(why)))
            }
            read => {
                if let Poll::Ready(Ok(n)) = read {
                    self.plain += n as u64;
                }
                read
            }
        }
    }

    fn passed(&self) -> Option<Passed> {
        Some(Passed { to_socket: self.stream.get_ref().0.taken, whole: self.whole })
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.stream.get_ref().0.below.socket()
    }

    fn held(&self) -> usize {
        let records = self.stream.get_ref().0;
        records.held() + records.below.held()
    }

    fn intake(&self) -> Option<Rc<Intake>> {
        self.stream.get_ref().0.below.intake()
    }

    fn signs(&mut self) -> Signs {
        let records = self.stream.get_mut().0;
        Signs { alive: std::mem::take(&mut records.come), part: records.part() }
    }

    fn take_overhead(&mut self) -> Overhead {
        let (handshake, bytes) = (std::mem::take(&mut self.handshake), self.follow_overhead());
        Overhead { handshake, bytes, controls: 0 }
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.is_flushed() {
            ready!(self.as_mut().poll_flush(cx))?;
        }
        let record = &buf[..buf.len().min(RECORD)];
        let n = ready!(Pin::new(&mut self.stream).poll_write(cx, record))?;
        self.given += n as u64;
        self.note_flushed();
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_flushed();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note_flushed();
        shut
    }
}
