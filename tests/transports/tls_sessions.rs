//! TLS sessions that are resumed, and those that must not be.

use std::fs;
use std::io;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::io::AsyncWriteExt;
use zinxide::rustls::client::Resumption;
use zinxide::rustls::pki_types::CertificateDer;
use zinxide::rustls::pki_types::pem::PemObject;
use zinxide::rustls::version::{TLS12, TLS13};
use zinxide::rustls::{ClientConfig, DEFAULT_VERSIONS, HandshakeKind};
use zinxide::{CloseReason, HandshakeError, PeerCertificates, Settings};

use super::support::Watched;
use super::tls::{Files, dial, echo};

/// Connects, gets something back, which has the session's tickets before it, and leaves. Returns how the
/// handshake went.
async fn visit(config: &Arc<ClientConfig>, port: u16) -> io::Result<HandshakeKind> {
    let mut stream = dial(Arc::clone(config).into(), port).await?;
    echo(&mut stream).await?;
    let kind = stream.get_ref().1.handshake_kind();
    stream.shutdown().await?;
    kind.ok_or_else(|| io::ErrorKind::NotConnected.into())
}

/// A client with sessions of its own.
fn client(like: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = like.clone();
    config.resumption = Resumption::in_memory_sessions(1);
    Arc::new(config)
}

/// How many handshakes of these clients were of which kind.
async fn crowd(clients: &[Arc<ClientConfig>], port: u16) -> (usize, usize) {
    let kinds: Vec<_> = stream::iter(clients)
        .map(|client| visit(client, port))
        .buffer_unordered(32)
        .collect()
        .await;
    let of = |kind| kinds.iter().filter(|got| got.as_ref().unwrap() == &kind).count();
    (of(HandshakeKind::Full), of(HandshakeKind::Resumed))
}

#[actix::test]
async fn a_crowd_that_comes_again_resumes_its_sessions_also_after_a_new_certificate() {
    const CROWD: usize = 1000;
    let files = Files::new("crowd");
    let settings = Settings { max_conn: 100, ..files.settings() };
    let watched = Watched::start(settings).await;
    let (handle, port) = (watched.server.handle().clone(), watched.port(0));
    let like = files.config(None, DEFAULT_VERSIONS);
    let clients: Vec<_> = (0..CROWD).map(|_| client(&like)).collect();
    assert_eq!(crowd(&clients, port).await, (CROWD, 0));
    let (some, others) = clients.split_at(CROWD / 2);
    assert_eq!(crowd(some, port).await, (0, some.len()));
    files.renew();
    handle.reload_tls().unwrap();
    assert_eq!(crowd(others, port).await, (0, others.len()));
    // Those who do not know the new certificate, and have no session, do not get in.
    visit(&client(&like), port).await.unwrap_err();
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_client_that_resumes_is_known_by_the_certificate_that_it_has_shown_before() {
    let files = Files::new("resumed");
    files.client("known");
    let settings = Settings { tls_client_ca: files.path("known.pem"), ..files.settings() };
    let mut watched = Watched::start(settings).await;
    let port = watched.port(0);
    let known = CertificateDer::from_pem_file(files.path("known-client.pem")).unwrap();
    for version in [&TLS12, &TLS13] {
        let own = Some(("known-client.pem", "known-client-key.pem"));
        let client = client(&files.config(own, &[version]));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut stream = dial(Arc::clone(&client).into(), port).await.unwrap();
            echo(&mut stream).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{version:?}");
            let shown = watched.started().await.property::<PeerCertificates>().unwrap();
            assert_eq!(shown.leaf(), Some(known.as_ref()));
            // A new certificate of the server's changes nothing for those that it knows.
            files.renew();
            watched.server.handle().reload_tls().unwrap();
        }
    }
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_client_of_a_root_that_was_taken_out_does_not_get_in_by_a_session() {
    let files = Files::new("roots");
    files.client("old");
    files.client("new");
    fs::copy(files.path("old.pem"), files.path("ca.pem")).unwrap();
    let settings = Settings { tls_client_ca: files.path("ca.pem"), ..files.settings() };
    let mut watched = Watched::start(settings).await;
    let (handle, port) = (watched.server.handle().clone(), watched.port(0));
    for version in [&TLS12, &TLS13] {
        let of = |name: &str| {
            let (cert, key) = (format!("{name}-client.pem"), format!("{name}-client-key.pem"));
            client(&files.config(Some((&cert, &key)), &[version]))
        };
        let (old, new) = (of("old"), of("new"));
        assert_eq!(visit(&old, port).await.unwrap(), HandshakeKind::Full);
        assert_eq!(visit(&old, port).await.unwrap(), HandshakeKind::Resumed);
        fs::copy(files.path("new.pem"), files.path("ca.pem")).unwrap();
        handle.reload_tls().unwrap();
        visit(&old, port).await.unwrap_err();
        let why = loop {
            match watched.removed().await {
                CloseReason::PeerClosed => {}
                why => break why,
            }
        };
        assert!(matches!(why, CloseReason::Handshake(HandshakeError::Certificate(_))), "{why}");
        assert_eq!(visit(&new, port).await.unwrap(), HandshakeKind::Full);
        // Another set of roots again: nothing that was issued under the one before is taken.
        let both = ["old.pem", "new.pem"].map(|name| fs::read(files.path(name)).unwrap());
        files.write("ca.pem", both.concat());
        handle.reload_tls().unwrap();
        assert_eq!(visit(&new, port).await.unwrap(), HandshakeKind::Full);
        assert_eq!(visit(&new, port).await.unwrap(), HandshakeKind::Resumed);
        fs::copy(files.path("old.pem"), files.path("ca.pem")).unwrap();
        handle.reload_tls().unwrap();
    }
    watched.server.stop().await.unwrap();
}
