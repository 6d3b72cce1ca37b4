//! wip
use std::sync::Arc;

/// Who is connected; the authentication in front of an endpoint adds it to the request's extensions.
#[derive(Debug, Clone)]
pub struct User {
    /// Stable name; limits and rooms count by it.
    pub name: Arc<str>,
    /// May announce.
    pub admin: bool,
}
