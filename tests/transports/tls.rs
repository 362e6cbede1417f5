//! TLS: certificates, those of clients, and files that are no good.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, CertifiedKey, DnType, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{
    ClientConfig, DEFAULT_VERSIONS, RootCertStore, SupportedProtocolVersion,
};
use zinxide::testing::{TestClient, within};
use zinxide::{
    ClientCert, CloseReason, Excess, Frame, HandshakeError, OverRate, PeerCertificates, Scheme,
    Server, ServerError, Settings, Silence, TlsError,
};

use super::support::{ECHO, Watched, at, frame};

/// PEM files of one test.
pub(crate) struct Files {
    folder: PathBuf,
}

impl Files {
    /// A folder of this name and of this process, with a certificate and its key.
    pub(crate) fn new(test: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("tls-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let files = Self { folder };
        files.renew();
        files
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.folder.join(name), text).unwrap();
    }

    /// Another certificate in place of the one that was there.
    pub(crate) fn renew(&self) {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        self.write("cert.pem", cert.pem());
        self.write("key.pem", signing_key.serialize_pem());
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            tls_cert: self.path("cert.pem"),
            tls_key: self.path("key.pem"),
            ..at(&["tls://127.0.0.1:0"])
        }
    }

    /// A client that trusts the certificate that is there now, and shows this one of its own.
    fn connector(&self, own: Option<(&str, &str)>) -> TlsConnector {
        Arc::new(self.config(own, DEFAULT_VERSIONS)).into()
    }

    /// What such a client is made of, if it speaks these versions of TLS.
    pub(crate) fn config(
        &self,
        own: Option<(&str, &str)>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("cert.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match own {
            None => config.with_no_client_auth(),
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_file(self.path(cert)).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path(key)).unwrap();
                config.with_client_auth_cert(vec![cert], key).unwrap()
            }
        }
    }

    pub(crate) async fn dial(&self, port: u16) -> io::Result<TlsStream<TcpStream>> {
        dial(self.connector(None), port).await
    }

    /// An authority of this name, and a client's certificate from it.
    pub(crate) fn client(&self, authority: &str) {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, authority);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["client".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        self.write(&format!("{authority}.pem"), issuer.pem());
        self.write(&format!("{authority}-client.pem"), cert.pem());
        self.write(&format!("{authority}-client-key.pem"), key.serialize_pem());
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub(crate) async fn dial(connector: TlsConnector, port: u16) -> io::Result<TlsStream<TcpStream>> {
    let socket = within(TcpStream::connect(("127.0.0.1", port))).await?;
    within(connector.connect("localhost".try_into().unwrap(), socket)).await
}

pub(crate) async fn echo(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let sent = frame(ECHO, b"there and back");
    stream.write_all(&sent).await?;
    let mut received = vec![0; sent.len()];
    within(stream.read_exact(&mut received)).await?;
    assert_eq!(received, sent);
    Ok(())
}

#[actix::test]
async fn frames_travel_in_tls_and_the_connection_knows_it() {
    let files = Files::new("frames");
    let mut watched = Watched::start(files.settings()).await;
    let mut stream = files.dial(watched.port(0)).await.unwrap();
    echo(&mut stream).await.unwrap();
    assert_eq!(watched.started().await.scheme(), Scheme::Tls);
    stream.shutdown().await.unwrap();
    assert_eq!(watched.removed().await, CloseReason::PeerClosed);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_closes_its_socket_without_a_word_of_tls_has_closed() {
    let files = Files::new("eof");
    let mut watched = Watched::start(files.settings()).await;
    let mut stream = files.dial(watched.port(0)).await.unwrap();
    stream.write_all(&frame(ECHO, b"x")).await.unwrap();
    stream.get_mut().0.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, frame(ECHO, b"x"), "what it sent before is answered");
    assert_eq!(watched.removed().await, CloseReason::PeerClosed);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_begins_a_record_and_does_not_end_it_is_closed() {
    let files = Files::new("record");
    let settings = Settings { frame_deadline_ms: 200, ..files.settings() };
    let mut watched = Watched::start(settings).await;
    let mut stream = files.dial(watched.port(0)).await.unwrap();
    echo(&mut stream).await.unwrap();
    // The header of a record of 100 bytes, and 3 of them.
    stream.get_mut().0.write_all(&[23, 3, 3, 0, 100, 1, 2, 3]).await.unwrap();
    assert_eq!(watched.removed().await, CloseReason::Silent(Silence::Frame));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn records_and_handshakes_count_as_bytes() {
    let files = Files::new("metered");
    // A burst of 8000 bytes, and next to nothing while the test runs.
    let settings = Settings {
        rate_bytes: 80,
        rate_burst_ms: 100_000,
        over_rate: OverRate::Close,
        ..files.settings()
    };
    let mut watched = Watched::start(settings).await;
    let mut stream = files.dial(watched.port(0)).await.unwrap();
    // In records as large as they may be, a burst is within the rate.
    let large = frame(ECHO, &[7; 3900]);
    stream.write_all(&[&large[..], &large].concat()).await.unwrap();
    let mut echoed = vec![0; 2 * large.len()];
    within(stream.read_exact(&mut echoed)).await.unwrap();
    drop(stream);
    assert_eq!(watched.removed().await, CloseReason::PeerClosed);
    // A record of a byte has more than twenty.
    let mut stream = files.dial(watched.port(0)).await.unwrap();
    for byte in frame(ECHO, &[7; 392]) {
        let sent = async {
            stream.write_all(&[byte]).await?;
            stream.flush().await
        };
        if sent.await.is_err() {
            break;
        }
    }
    assert_eq!(watched.removed().await, CloseReason::OverRate(Excess::Bytes));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn what_is_no_tls_ends_as_a_failed_handshake_without_hooks() {
    let files = Files::new("plain");
    let mut watched = Watched::start(files.settings()).await;
    let mut client = TestClient::connect(watched.server.addr()).await;
    client.send_bytes(b"GET / HTTP/1.1\r\n\r\n").await;
    let why = watched.removed().await;
    assert!(matches!(why, CloseReason::Handshake(HandshakeError::Tls(_))), "{why}");
    drop(TestClient::connect(watched.server.addr()).await);
    let why = watched.removed().await;
    assert_eq!(why, CloseReason::Handshake(HandshakeError::PeerClosed));
    let mut other = files.dial(watched.port(0)).await.unwrap();
    echo(&mut other).await.unwrap();
    assert!(watched.hooks.lock().unwrap().is_empty(), "nothing stopped that had started");
    let stats = watched.server.handle().stats();
    assert_eq!((stats.endings.handshake, stats.admitted), (2, 3));
    assert_eq!((stats.plain_http, stats.left_unspoken), (1, 1));
    assert_eq!((stats.handshakes.tls, stats.handshakes.peer_closed), (1, 1));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_handshake_has_a_deadline_and_holds_nobody_up() {
    let files = Files::new("late");
    let mut settings = files.settings();
    settings.handshake_deadline_ms = 300;
    settings.worker_pool_size = 1;
    let mut watched = Watched::start(settings).await;
    let mut silent = TestClient::connect(watched.server.addr()).await;
    echo(&mut files.dial(watched.port(0)).await.unwrap()).await.unwrap();
    assert_eq!(silent.recv().await, None);
    loop {
        match watched.removed().await {
            CloseReason::Handshake(why) => break assert_eq!(why, HandshakeError::Late),
            other => assert_eq!(other, CloseReason::PeerClosed),
        }
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn clear_conn_and_a_stop_end_handshakes_at_once() {
    let files = Files::new("clear");
    let mut watched = Watched::start(files.settings()).await;
    let mut silent = TestClient::connect(watched.server.addr()).await;
    let handle = watched.server.handle().clone();
    while handle.connections().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(within(handle.clear_conn()).await, 1);
    assert_eq!(watched.removed().await, CloseReason::Cleared);
    assert_eq!(silent.recv().await, None);
    let mut silent = TestClient::connect(watched.server.addr()).await;
    while handle.connections().is_empty() {
        tokio::task::yield_now().await;
    }
    let report = watched.server.stop().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(silent.recv().await, None);
    assert!(watched.hooks.lock().unwrap().is_empty());
}

#[actix::test]
async fn a_client_without_the_certificate_that_it_needs_is_not_let_in() {
    let files = Files::new("required");
    files.client("known");
    files.client("unknown");
    let settings = Settings { tls_client_ca: files.path("known.pem"), ..files.settings() };
    let mut watched = Watched::start(settings).await;
    let port = watched.port(0);
    for own in [None, Some(("unknown-client.pem", "unknown-client-key.pem"))] {
        let met = async { echo(&mut dial(files.connector(own), port).await?).await };
        met.await.unwrap_err();
        let why = watched.removed().await;
        assert!(matches!(why, CloseReason::Handshake(HandshakeError::Certificate(_))), "{why}");
    }
    let own = Some(("known-client.pem", "known-client-key.pem"));
    let mut client = dial(files.connector(own), port).await.unwrap();
    echo(&mut client).await.unwrap();
    let shown = watched.started().await.property::<PeerCertificates>().unwrap();
    let known = CertificateDer::from_pem_file(files.path("known-client.pem")).unwrap();
    assert_eq!(shown.leaf(), Some(known.as_ref()));
    assert_eq!(shown.chain().count(), 1);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_certificate_of_the_client_may_be_optional() {
    let files = Files::new("optional");
    files.client("known");
    files.client("unknown");
    let settings = Settings {
        tls_client_ca: files.path("known.pem"),
        tls_client_cert: ClientCert::Optional,
        ..files.settings()
    };
    let mut watched = Watched::start(settings).await;
    let port = watched.port(0);
    let mut client = files.dial(port).await.unwrap();
    echo(&mut client).await.unwrap();
    assert_eq!(watched.started().await.property::<PeerCertificates>(), None);
    let own = Some(("unknown-client.pem", "unknown-client-key.pem"));
    let met = async { echo(&mut dial(files.connector(own), port).await?).await };
    met.await.expect_err("one of another root is worse than none");
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn certificates_are_changed_without_a_restart() {
    let files = Files::new("reload");
    let watched = Watched::start(files.settings()).await;
    let (handle, port) = (watched.server.handle().clone(), watched.port(0));
    let mut before = files.dial(port).await.unwrap();
    let old = files.connector(None);
    files.renew();
    files.dial(port).await.expect_err("the new one is not in use");

    handle.reload_tls().unwrap();
    echo(&mut files.dial(port).await.unwrap()).await.unwrap();
    dial(old, port).await.expect_err("the old one is in use no more");
    echo(&mut before).await.expect("connections that were there stay");

    files.write("key.pem", "nothing of the kind");
    let error = handle.reload_tls().unwrap_err();
    assert!(matches!(error, TlsError::File { key: "tls_key", .. }), "{error}");
    echo(&mut files.dial(port).await.unwrap()).await.expect("the good one stays in use");
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_server_without_tls_has_nothing_to_reload() {
    let watched = Watched::start(at(&["tcp://127.0.0.1:0"])).await;
    assert!(matches!(watched.server.handle().reload_tls(), Err(TlsError::Unused)));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_file_that_is_no_good_is_an_error_at_the_start_that_names_it() {
    let files = Files::new("bad");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    files.write("other-key.pem", other.signing_key.serialize_pem());
    files.write("empty.pem", "");
    let cut = fs::read_to_string(files.path("cert.pem")).unwrap().replace("-----END", "");
    files.write("cut.pem", &cut);
    for (key, file, says) in [
        ("tls_cert", "nowhere.pem", "No such file"),
        ("tls_cert", "empty.pem", "no certificate"),
        ("tls_cert", "key.pem", "no certificate"),
        ("tls_cert", "cut.pem", "end"),
        ("tls_key", "nowhere.pem", "No such file"),
        ("tls_key", "cert.pem", "no private key"),
        ("tls_key", "other-key.pem", ""),
        ("tls_client_ca", "nowhere.pem", "No such file"),
        ("tls_client_ca", "key.pem", "no certificate"),
    ] {
        let mut settings = files.settings();
        let path = files.path(file);
        match key {
            "tls_cert" => settings.tls_cert = path.clone(),
            "tls_key" => settings.tls_key = path.clone(),
            _ => settings.tls_client_ca = path.clone(),
        }
        let error = Server::new(settings).bind().await.map(drop).unwrap_err();
        assert!(matches!(error, ServerError::Tls(_)), "{error}");
        let error = error.to_string();
        let names = if says.is_empty() { "tls_key" } else { &path };
        assert!(error.contains(key) && error.contains(names), "{error}");
        assert!(error.to_lowercase().contains(&says.to_lowercase()), "{error}");
    }
}

#[actix::test]
async fn a_peer_that_is_not_admitted_is_told_so_in_tls() {
    let files = Files::new("refused");
    let mut settings = files.settings();
    settings.max_conn = 1;
    let server = Server::new(settings).refusal(|why| Some(Frame::new(9, why.to_string())));
    let watched = Watched::serve(server).await;
    let mut first = files.dial(watched.port(0)).await.unwrap();
    echo(&mut first).await.unwrap();
    let mut second = files.dial(watched.port(0)).await.unwrap();
    let mut told = Vec::new();
    within(second.read_to_end(&mut told)).await.unwrap();
    assert_eq!(told, frame(9, b"the server is full: 1 connections"));
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_that_keeps_pace_behind_a_backlog_is_not_taken_for_one_that_does_not_read() {
    const CHUNK: usize = 4096;
    const CHUNKS: usize = 8 * 1024;
    let files = Files::new("backlog");
    let settings =
        Settings { max_msg_chan_bytes: 4 << 20, max_msg_chan_len: 1 << 20, ..files.settings() };
    let mut watched = Watched::start(settings).await;
    let mut stream = files.dial(watched.port(0)).await.unwrap();
    let conn = watched.started().await;
    // There is always something in the outbox, and all in all it would not hold all.
    let mut received = vec![0; CHUNK + 8];
    for _ in 0..64 {
        conn.send_buffered(1, vec![7; CHUNK]).unwrap();
    }
    for _ in 0..CHUNKS {
        conn.send_buffered(1, vec![7; CHUNK]).expect("it holds what the peer has not got");
        within(stream.read_exact(&mut received)).await.unwrap();
    }
    drop(stream);
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_peer_from_where_nobody_may_come_is_not_worth_a_handshake() {
    let files = Files::new("denied");
    let deny = vec!["127.0.0.0/8".parse().unwrap()];
    let settings = Settings { deny, ..files.settings() };
    let server = Server::new(settings).refusal(|why| Some(Frame::new(9, why.to_string())));
    let watched = Watched::serve(server).await;
    let met = files.dial(watched.port(0)).await;
    assert!(met.is_err());
    assert_eq!(watched.server.handle().stats().refusals.denied, 1);
    watched.server.stop().await.unwrap();
}
