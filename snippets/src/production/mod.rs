//! Proxies, scale-out, deploys, observation, testing.
//!
//! # Layout
//!
//! Start with `shared_log`, one log for several instances, on a `store` (`redis_log`, `nats_log`, `postgres_log`); then `topics`,
//! `presence`, `disconnects`, `channels`, `snapshot` and `feed`, which use it. To restart: `drain`. To observe: `observe`, `scrape`. To refuse: `cross_site`.
//! To test: `chaos`, a proxy that misbehaves, and `load`.

pub mod channels;
pub mod chaos;
pub mod chaos_connection;
pub mod chaos_flow;
pub mod cross_site;
pub mod disconnects;
pub mod drain;
pub mod feed;
pub mod load;
#[cfg(feature = "nats")]
pub mod nats_log;
pub mod observe;
#[cfg(feature = "postgres")]
pub mod postgres_log;
pub mod presence;
#[cfg(feature = "redis")]
pub mod redis_log;
pub mod scrape;
pub mod shared_log;
pub mod snapshot;
pub mod store;
pub mod topics;
pub mod topics_socket;
#[cfg(any(feature = "redis", feature = "postgres"))]
pub mod wakes;
