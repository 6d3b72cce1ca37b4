//! The address of the client, also behind proxies.
//!
//! Use it wherever addresses are counted or logged. Guarantees: without [`TrustedProxies`] it is the address of the TCP peer;
//! with them, the last address in `X-Forwarded-For` that none of your own proxies has. A client can write anything into that
//! header, but only in front of the entries that your proxies append. Needs a server that adds `ConnectInfo`:
//! `listen.rs`, or `into_make_service_with_connect_info`.

// ANCHOR: client_ip
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::{HeaderMap, StatusCode, request::Parts};

/// Entries of `X-Forwarded-For` that are read, from the end: more hops than any real path has.
const MAX_HOPS: usize = 16;

/// A block of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| "not an IP address")?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| "not a prefix length")?,
            None => most,
        };
        if bits > most {
            return Err("prefix length above 32 (IPv4) or 128 (IPv6)");
        }
        Ok(Self { address, bits })
    }
}

impl Network {
    /// Whether `address` is in it; an IPv4 address is the same in both spellings.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differ = match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                u128::from(own.to_bits() ^ other.to_bits()) << 96
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => own.to_bits() ^ other.to_bits(),
            _ => return false,
        };
        differ.leading_zeros() >= self.bits
    }
}

/// Your own proxies: `.layer(Extension(TrustedProxies::new([…])))`. Every address in these blocks is believed, so they must hold
/// nothing from which a client can connect.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[Network]>);

impl TrustedProxies {
    /// The blocks from which your proxies connect.
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// The client of a connection from `peer` with these headers.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .map(|line| line.to_str().unwrap_or_default())
            .collect();
        let entries = lines.iter().rev().flat_map(|line| line.rsplit(','));
        let mut client = peer.to_canonical();
        for entry in entries.take(MAX_HOPS) {
            // Each trusted hop has appended the address that it saw; what an untrusted one says counts for nothing.
            if !self.0.iter().any(|network| network.contains(client)) {
                break;
            }
            let Some(address) = address(entry.trim()) else {
                break;
            };
            client = address;
        }
        client
    }
}

/// `192.0.2.1`, `2001:db8::1`, and with a port as some proxies write it.
fn address(entry: &str) -> Option<IpAddr> {
    let address = entry.parse().ok().or_else(|| {
        let socket: SocketAddr = entry.parse().ok()?;
        Some(socket.ip())
    });
    address.map(|address| address.to_canonical())
}

/// The client's address, for limits and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientIp(pub IpAddr);

impl ClientIp {
    /// What to count by: one customer has a whole /64 of IPv6, so that, and not its 2⁶⁴ addresses.
    pub fn network(self) -> IpAddr {
        match self.0 {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
            v4 => v4,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for ClientIp {
    /// A server that adds no `ConnectInfo` is a mistake in `main`.
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() else {
            tracing::error!("the server adds no ConnectInfo<SocketAddr>");
            return Err((
                StatusCode::INTERNAL_SERVER_ERROR,
                "address of the client unknown",
            ));
        };
        let client = match parts.extensions.get::<TrustedProxies>() {
            Some(proxies) => proxies.client(peer.ip(), &parts.headers),
            None => peer.ip().to_canonical(),
        };
        Ok(Self(client))
    }
}
// ANCHOR_END: client_ip
