//! The application's own cryptography under TLS.

use std::fs;
use std::sync::Arc;

use zinxide::client::{Client, ConnectError, Tls};
use zinxide::rustls::crypto::CryptoProvider;
use zinxide::rustls::crypto::ring::{self, cipher_suite};
use zinxide::rustls::version::TLS12;
use zinxide::rustls::{CipherSuite, DEFAULT_VERSIONS, SupportedCipherSuite};
use zinxide::{HandshakeError, Server, ServerError, TlsError};

use super::support::{Watched, at};
use super::tls::{Files, dial, echo};

/// A provider that can do no more than this.
fn only(suite: SupportedCipherSuite) -> CryptoProvider {
    CryptoProvider { cipher_suites: vec![suite], ..ring::default_provider() }
}

#[actix::test]
async fn the_applications_provider_says_what_a_server_speaks() {
    let files = Files::new("server-provider");
    let suite = cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    let server = Server::new(files.settings()).tls_provider(only(suite));
    let watched = Watched::serve(server).await;
    let config = Arc::new(files.config(None, DEFAULT_VERSIONS));
    let mut stream = dial(config.into(), watched.port(0)).await.unwrap();
    echo(&mut stream).await.unwrap();
    let spoken = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(spoken, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    let older = Arc::new(files.config(None, &[&TLS12]));
    let met = dial(Arc::clone(&older).into(), watched.port(0)).await;
    met.expect_err("there is no suite of TLS 1.2");
    watched.server.handle().reload_tls().unwrap();
    let met = dial(older.into(), watched.port(0)).await;
    met.expect_err("it is not forgotten at a reload");
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn the_applications_provider_says_what_a_client_speaks() {
    let files = Files::new("client-provider");
    let server = Server::new(files.settings())
        .tls_provider(only(cipher_suite::TLS13_CHACHA20_POLY1305_SHA256));
    let watched = Watched::serve(server).await;
    let url = format!("tls://localhost:{}", watched.port(0));
    let pem = fs::read(files.path("cert.pem")).unwrap();
    let connect = |suite| {
        let tls = Tls::new().roots_pem(pem.clone()).provider(only(suite));
        Client::builder(url.parse().unwrap()).tls(tls).connect()
    };
    connect(cipher_suite::TLS13_CHACHA20_POLY1305_SHA256).await.unwrap().close().await;
    let error = connect(cipher_suite::TLS13_AES_128_GCM_SHA256).await.map(drop).unwrap_err();
    assert!(matches!(error, ConnectError::Handshake(HandshakeError::Tls(_))), "{error}");
    watched.server.stop().await.unwrap();
}

#[actix::test]
async fn a_provider_that_can_do_nothing_is_an_error_at_the_start() {
    let files = Files::new("no-provider");
    let nothing = || CryptoProvider { cipher_suites: Vec::new(), ..ring::default_provider() };
    let server = Server::new(files.settings()).tls_provider(nothing());
    let error = server.bind().await.map(drop).unwrap_err();
    assert!(matches!(error, ServerError::Tls(TlsError::Provider(_))), "{error}");
    let pem = fs::read(files.path("cert.pem")).unwrap();
    let tls = Tls::new().roots_pem(pem).provider(nothing());
    let client = Client::builder("tls://localhost:1".parse().unwrap()).tls(tls);
    let error = client.connect().await.map(drop).unwrap_err();
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    // It is nobody's concern where there is no TLS.
    let plain = Server::new(at(&["tcp://127.0.0.1:0"])).tls_provider(nothing());
    drop(plain.bind().await.unwrap());
}
