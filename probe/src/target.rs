//! Where the service is, and connections to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use crate::patience::within;

/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// A URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
	/// `https` or `wss`.
	pub secure: bool,
	/// Name or address, without the brackets of IPv6.
	pub host: String,
	/// Port, given or by scheme.
	pub port: u16,
	/// Path and query, beginning with `/`.
	pub path: String,
	/// Whose certificates are believed.
	pub trust: Trust,
}

/// Which certificates of a secure target are believed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
	/// Those of the system's authorities, and of `SSL_CERT_FILE`.
	#[default]
	System,
	/// Those of the authorities in this PEM text, and no others.
	Authorities(Vec<u8>),
	/// Every certificate.
	Anybody,
}

/// Why a service cannot be probed at all.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
	/// Not a URL of the command's scheme; what to write instead.
	#[error("{0:?} is not an http(s) or ws(s) URL: {1}")]
	Url(String, String),
	/// The connection failed.
	#[error("cannot connect to {0}: {1}")]
	Connect(String, io::Error),
	/// Built without the feature `tls`.
	#[error("this stream-probe was built without TLS (feature `tls`)")]
	NoTls,
	/// The provider's address of `--upstream` cannot be bound.
	#[error("cannot listen on {0} for --upstream: {1}")]
	Listen(std::net::SocketAddr, io::Error),
}

impl Unreachable {
	/// No answer came in all the time there was.
	pub(crate) fn late(target: &Target, limit: Duration) -> Self {
		let text = format!("no answer within {} s", limit.as_secs());
		Self::Connect(target.authority(), io::Error::new(io::ErrorKind::TimedOut, text))
	}

	/// Whether nobody listens.
	pub(crate) fn is_refused(&self) -> bool {
		matches!(self, Unreachable::Connect(_, error) if error.kind() == io::ErrorKind::ConnectionRefused)
	}
}

impl Target {
	/// Takes `http`, `https`, `ws` and `wss` URLs apart.
	pub fn parse(url: &str) -> Result<Self, Unreachable> {
		let hinted = |hint: String| Unreachable::Url(url.to_owned(), hint);
		let wrong = || hinted("write one such as http://127.0.0.1:3000/events".to_owned());
		let (scheme, rest) = url.split_once("://").ok_or_else(|| hinted(format!("write http://{url}")))?;
		let secure = match scheme {
			"http" | "ws" => false,
			"https" | "wss" => true,
			_ => return Err(wrong()),
		};
		let rest = rest.split('#').next().unwrap_or_default();
		let end = rest.find(['/', '?']).unwrap_or(rest.len());
		let (authority, path) = rest.split_at(end);
		if authority.contains('@') {
			return Err(hinted("give the credentials with -H 'Authorization: Basic …'".to_owned()));
		}
		let (host, port) = if let Some(inner) = authority.strip_prefix('[') {
			let (host, after) = inner.split_once(']').ok_or_else(wrong)?;
			(host, after.strip_prefix(':'))
		} else {
			match authority.split_once(':') {
				Some((host, port)) => (host, Some(port)),
				None => (authority, None),
			}
		};
		if host.is_empty() || path.contains(char::is_whitespace) {
			return Err(wrong());
		}
		let port = match port {
			Some(port) => port.parse().map_err(|_| wrong())?,
			None if secure => 443,
			None => 80,
		};
		let path = match path {
			"" => "/".to_owned(),
			query if query.starts_with('?') => format!("/{query}"),
			path => path.to_owned(),
		};
		Ok(Self { secure, host: host.to_owned(), port, path, trust: Trust::System })
	}

	/// The value of the Host header.
	pub(crate) fn authority(&self) -> String {
		let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
		match (self.secure, self.port) {
			(false, 80) | (true, 443) => host,
			(_, port) => format!("{host}:{port}"),
		}
	}

	/// The same service, another path.
	pub(crate) fn with_path(&self, path: &str) -> Self {
		Self { path: path.to_owned(), ..self.clone() }
	}

	/// The target of a `Location` header.
	pub(crate) fn join(&self, location: &str) -> Result<Self, Unreachable> {
		if location.contains("://") {
			return Ok(Self { trust: self.trust.clone(), ..Self::parse(location)? });
		}
		if location.starts_with('/') {
			return Ok(self.with_path(location));
		}
		let path = self.path.split('?').next().unwrap_or("/");
		let folder = &path[..=path.rfind('/').unwrap_or(0)];
		Ok(self.with_path(&format!("{folder}{location}")))
	}

	/// Connects; `h2` asks for HTTP/2 by ALPN where the target is secure.
	pub(crate) async fn connect(&self, kind: Link) -> Result<Conn, Unreachable> {
		let failed = |error| Unreachable::Connect(self.authority(), error);
		let connecting = async {
			let tcp = self.tcp(kind).await.map_err(failed)?;
			self.secured(tcp, kind).await
		};
		// A host that drops packets, or a peer that never ends its TLS handshake, must not use up the run.
		let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} s", CONNECT.as_secs()));
		within(CONNECT, connecting).await.unwrap_or_else(|_| Err(failed(late())))
	}

	async fn secured(&self, tcp: TcpStream, kind: Link) -> Result<Conn, Unreachable> {
		let failed = |error| Unreachable::Connect(self.authority(), error);
		// The probe measures when bytes arrive: its own must not wait.
		tcp.set_nodelay(true).map_err(failed)?;
		if !self.secure {
			return Ok(Conn::Plain(tcp));
		}
		#[cfg(not(feature = "tls"))]
		let _ = kind;
		#[cfg(feature = "tls")]
		{
			let alpn: &[u8] = if kind == Link::Http2 { b"h2" } else { b"http/1.1" };
			let stream = tls::connect(self, tcp, alpn).await.map_err(|error| failed(explained(error)))?;
			Ok(Conn::Tls(Box::new(stream)))
		}
		#[cfg(not(feature = "tls"))]
		Err(Unreachable::NoTls)
	}

	async fn tcp(&self, kind: Link) -> io::Result<TcpStream> {
		let mut last = io::Error::other("the name has no address");
		for addr in tokio::net::lookup_host((self.host.as_str(), self.port)).await? {
			let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
			if kind == Link::Stalled {
				// Small, so that the service feels the stall early, and not below two segments of the loopback (64 KiB each):
				// a window under one segment makes the kernel wait between reads, once the reader reads again.
				socket.set_recv_buffer_size(128 * 1024)?;
			}
			match socket.connect(addr).await {
				Ok(stream) => return Ok(stream),
				Err(error) => last = error,
			}
		}
		Err(last)
	}
}

/// Says what to do about a certificate that nobody vouches for.
#[cfg(feature = "tls")]
fn explained(error: io::Error) -> io::Error {
	let text = error.to_string();
	let help = if text.contains("certificate") {
		"--cacert names the authority, --insecure accepts any"
	} else if text.contains("corrupt message") {
		"does it speak TLS on this port?"
	} else {
		return error;
	};
	io::Error::new(error.kind(), format!("{text} ({help})"))
}

impl std::fmt::Display for Target {
	fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
		let scheme = if self.secure { "https" } else { "http" };
		write!(f, "{scheme}://{}{}", self.authority(), self.path)
	}
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
	Http1,
	Http2,
	/// HTTP/1.1 with a receive buffer that does not grow.
	Stalled,
}

/// One connection.
pub(crate) enum Conn {
	Plain(TcpStream),
	#[cfg(feature = "tls")]
	Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Conn {
	/// Whether HTTP/2 was agreed on by ALPN.
	pub(crate) fn speaks_http2(&self) -> bool {
		match self {
			Conn::Plain(_) => false,
			#[cfg(feature = "tls")]
			Conn::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
		}
	}
}

impl AsyncRead for Conn {
	fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
		match self.get_mut() {
			Conn::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
			#[cfg(feature = "tls")]
			Conn::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
		}
	}
}

impl AsyncWrite for Conn {
	fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
		match self.get_mut() {
			Conn::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
			#[cfg(feature = "tls")]
			Conn::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
		}
	}

	fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
		match self.get_mut() {
			Conn::Plain(stream) => Pin::new(stream).poll_flush(cx),
			#[cfg(feature = "tls")]
			Conn::Tls(stream) => Pin::new(stream).poll_flush(cx),
		}
	}

	fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
		match self.get_mut() {
			Conn::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
			#[cfg(feature = "tls")]
			Conn::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
		}
	}
}

#[cfg(feature = "tls")]
mod tls {
	use std::io;
	use std::sync::{Arc, OnceLock};

	use tokio::net::TcpStream;
	use tokio_rustls::TlsConnector;
	use tokio_rustls::client::TlsStream;
	use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
	use tokio_rustls::rustls::crypto::{self, CryptoProvider};
	use tokio_rustls::rustls::pki_types::pem::PemObject;
	use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
	use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

	use super::{Target, Trust};

	/// The system's certificates; a private authority is named by `SSL_CERT_FILE`.
	fn roots() -> Arc<RootCertStore> {
		static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
		let load = || {
			let mut store = RootCertStore::empty();
			store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
			Arc::new(store)
		};
		Arc::clone(ROOTS.get_or_init(load))
	}

	fn authorities(pem: &[u8]) -> io::Result<Arc<RootCertStore>> {
		let mut store = RootCertStore::empty();
		for certificate in CertificateDer::pem_slice_iter(pem) {
			let certificate = certificate.map_err(io::Error::other)?;
			store.add(certificate).map_err(io::Error::other)?;
		}
		Ok(Arc::new(store))
	}

	/// Accepts every certificate; signatures are still checked.
	#[derive(Debug)]
	struct Anybody(Arc<CryptoProvider>);

	impl ServerCertVerifier for Anybody {
		fn verify_server_cert(
			&self,
			_: &CertificateDer<'_>,
			_: &[CertificateDer<'_>],
			_: &ServerName<'_>,
			_: &[u8],
			_: UnixTime,
		) -> Result<ServerCertVerified, Error> {
			Ok(ServerCertVerified::assertion())
		}

		fn verify_tls12_signature(
			&self,
			message: &[u8],
			certificate: &CertificateDer<'_>,
			signed: &DigitallySignedStruct,
		) -> Result<HandshakeSignatureValid, Error> {
			let algorithms = &self.0.signature_verification_algorithms;
			crypto::verify_tls12_signature(message, certificate, signed, algorithms)
		}

		fn verify_tls13_signature(
			&self,
			message: &[u8],
			certificate: &CertificateDer<'_>,
			signed: &DigitallySignedStruct,
		) -> Result<HandshakeSignatureValid, Error> {
			let algorithms = &self.0.signature_verification_algorithms;
			crypto::verify_tls13_signature(message, certificate, signed, algorithms)
		}

		fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
			let algorithms = &self.0.signature_verification_algorithms;
			algorithms.supported_schemes()
		}
	}

	pub(super) async fn connect(target: &Target, tcp: TcpStream, alpn: &[u8]) -> io::Result<TlsStream<TcpStream>> {
		// Named, since another crate of the build may have brought a second one.
		let provider = Arc::new(crypto::ring::default_provider());
		let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
			.with_safe_default_protocol_versions()
			.map_err(io::Error::other)?;
		let mut config = match &target.trust {
			Trust::System => builder.with_root_certificates(roots()),
			Trust::Authorities(pem) => builder.with_root_certificates(authorities(pem)?),
			Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
		}
		.with_no_client_auth();
		config.alpn_protocols = vec![alpn.to_vec()];
		let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
		TlsConnector::from(Arc::new(config)).connect(name, tcp).await
	}
}

#[cfg(test)]
mod tests {
	#![allow(clippy::unwrap_used)]
	use super::Target;

	#[test]
	fn urls_are_taken_apart() {
		let target = Target::parse("http://127.0.0.1:8080/a/b?c=d#e").unwrap();
		assert_eq!(target.authority(), "127.0.0.1:8080");
		assert_eq!(target.path, "/a/b?c=d");
		assert_eq!(target.join("x").unwrap().path, "/a/x");
		assert_eq!(target.join("/x").unwrap().path, "/x");
		let target = Target::parse("wss://[::1]?q").unwrap();
		assert_eq!((target.port, target.path.as_str()), (443, "/?q"));
		assert_eq!(target.authority(), "[::1]");
		for wrong in ["example.org", "ftp://x/", "http:///x", "http://a@b/", "http://x:y/"] {
			assert!(Target::parse(wrong).is_err(), "{wrong}");
		}
	}
}
