//! Proxies, scale-out, deploys, observation, testing.
