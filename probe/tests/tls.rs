//! https and wss: a certificate of one's own, HTTP/2 by ALPN, and what is said when nobody vouches for it.

use std::net::SocketAddr;
use std::sync::Arc;

use stream_probe::{Kind, Options, Target, Trust, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::support::{assert_failed, assert_passed, probe, sse, ws};

/// TLS in front of a plain service; its certificate as PEM.
async fn secure(to: SocketAddr) -> (SocketAddr, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                socket.set_nodelay(true)?;
                let mut secure = acceptor.accept(socket).await?;
                let mut plain = TcpStream::connect(to).await?;
                plain.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut secure, &mut plain).await
            });
        }
    });
    (addr, made.cert.pem().into_bytes())
}

/// The options for the same service behind TLS; the certificate names localhost.
async fn behind_tls(mut options: Options, to: SocketAddr) -> Options {
    let (addr, pem) = secure(to).await;
    let url = format!("https://localhost:{}{}", addr.port(), options.target.path);
    options.target = Target::parse(&url).unwrap();
    options.target.trust = Trust::Authorities(pem);
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_service_passes_behind_tls() {
    let events = async {
        let service = sse::Service::start(sse::Fault::Http2).await;
        let mut options = behind_tls(service.options(), service.addr).await;
        options.skip = crate::support::without_stalls();
        let report = probe(Kind::Sse, &options).await;
        assert_failed(&report, &[]);
        assert_passed(&report, "sse-http2-works");
    };
    let sockets = async {
        let service = ws::Service::start(ws::Fault::Http2).await;
        let mut options = behind_tls(service.options(), service.addr).await;
        options.skip = ["ws-silent-peer-dropped", "ws-heartbeat"]
            .map(str::to_owned)
            .into();
        let report = probe(Kind::Ws, &options).await;
        assert_failed(&report, &[]);
        assert_passed(&report, "ws-http2-connect");
        let seen = report
            .findings
            .iter()
            .find(|f| f.check.id == "ws-http2-connect");
        assert_eq!(
            seen.unwrap().evidence,
            "extended CONNECT is answered with 200"
        );
    };
    // A service that speaks HTTP/2, and whose route does not.
    let get_only = async {
        let service = ws::Service::start(ws::Fault::Http2GetOnly).await;
        let mut options = behind_tls(service.options(), service.addr).await;
        options.only = vec!["ws-http2-connect".to_owned()];
        assert_failed(&probe(Kind::Ws, &options).await, &["ws-http2-connect"]);
    };
    tokio::join!(events, sockets, get_only);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_to_believe_is_said() {
    let service = ws::Service::start(ws::Fault::None).await;
    let mut options = behind_tls(service.options(), service.addr).await;
    options.only = vec!["ws-handshake".to_owned()];
    assert_passed(&probe(Kind::Ws, &options).await, "ws-handshake");

    let failure = async |options: &Options| {
        let run = stream_probe::run(Kind::Ws, options, None).await;
        run.map(|report| report.ids(Verdict::Passed).len())
            .unwrap_err()
            .to_string()
    };
    options.target.trust = Trust::System;
    let said = failure(&options).await;
    assert!(
        said.contains("certificate") && said.contains("--cacert"),
        "{said}"
    );
    options.target.trust = Trust::Anybody;
    options.target.host = "127.0.0.1".to_owned();
    assert_passed(&probe(Kind::Ws, &options).await, "ws-handshake");

    // What a server without TLS answers to a ClientHello.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    options.target = Target::parse(&format!("https://{}/ws", plain.local_addr().unwrap())).unwrap();
    let answer = async {
        let (mut socket, _) = plain.accept().await.unwrap();
        let _ = socket.read(&mut [0; 2048]).await;
        let refusal = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n";
        drop(socket.write_all(refusal).await);
    };
    let (said, ()) = tokio::join!(failure(&options), answer);
    assert!(said.contains("does it speak TLS"), "{said}");
}
