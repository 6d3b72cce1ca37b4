//! A certificate of the test's own, the files of the book with TLS, and clients that trust it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use testkit::proxy::{Kind, of_the_book};

/// For `localhost`, in files that a proxy reads.
pub struct Certificate {
    folder: TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let folder = tempfile::tempdir().unwrap();
        let write = |name, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("both.pem", &format!("{cert}{key}"));
        write("cert.pem", &cert);
        write("key.pem", &key);
        let der = made.cert.der().clone();
        Self { folder, der }
    }

    /// The file of the book, changed as `tls.conf` shows.
    pub fn config(&self, kind: Kind) -> String {
        let (config, name) = (of_the_book(kind), format!("{kind:?}").to_lowercase());
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../book/src/production/proxies/tls.conf");
        let text = std::fs::read_to_string(path).unwrap();
        let (_, region) = text.split_once(&format!("ANCHOR: {name}\n")).unwrap();
        let (region, _) = region.split_once("# ANCHOR_END").unwrap();
        let with = |at: &str, keep: bool, text: &str| {
            assert_eq!(config.matches(at).count(), 1, "{at}");
            config.replace(
                at,
                &if keep {
                    format!("{text}{at}")
                } else {
                    text.to_owned()
                },
            )
        };
        let config = match kind {
            Kind::Nginx => with("        listen 127.0.0.1:8080;\n", false, region),
            Kind::Caddy => {
                config.replace("\tbind 127.0.0.1\n", &format!("\tbind 127.0.0.1\n{region}"))
            }
            Kind::Haproxy => with("    bind 127.0.0.1:8080\n", false, region),
            Kind::Envoy => {
                let socket = indented(region, 10);
                config.replace(
                    "        - filters:",
                    &format!("        - {}\n          filters:", socket.trim()),
                )
            }
        };
        config.replace("/etc/ssl/app", &self.folder.path().display().to_string())
    }

    /// A connection that speaks `alpn`.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        alpn: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector(alpn).connect(addr).await
    }

    pub fn connector(&self, alpn: &str) -> Connector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Connector {
            alpn: alpn.as_bytes().to_vec(),
            tls: TlsConnector::from(Arc::new(config)),
        }
    }
}

fn indented(text: &str, by: usize) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{:by$}{line}\n", "")).collect()
}

/// Connects with TLS.
#[derive(Clone)]
pub struct Connector {
    alpn: Vec<u8>,
    tls: TlsConnector,
}

impl Connector {
    pub async fn connect(&self, addr: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(addr).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = self.tls.connect(name, socket).await?;
        // What the server chose, not what was offered.
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&*self.alpn));
        Ok(stream)
    }

    /// An HTTP/2 connection; it lives until the sender and all responses are dropped.
    pub async fn http2(&self, addr: SocketAddr) -> std::io::Result<SendRequest<Empty<Bytes>>> {
        let stream = TokioIo::new(self.connect(addr).await?);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
        let (sender, connection) = handshake.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// A GET of `path` over HTTP/2.
pub fn get(addr: SocketAddr, path: &str) -> http::Request<Empty<Bytes>> {
    let uri = format!("https://localhost:{}{path}", addr.port());
    http::Request::get(uri).body(Empty::new()).unwrap()
}

/// Reads `body` until `needle` has come.
pub async fn read_until(body: &mut Incoming, seen: &mut String, needle: &str) {
    while !seen.contains(needle) {
        let frame = super::within(needle, body.frame()).await;
        let frame = frame.unwrap_or_else(|| panic!("ended before {needle}: {seen}"));
        let data = frame.unwrap().into_data().unwrap_or_default();
        seen.push_str(std::str::from_utf8(&data).unwrap());
    }
}
