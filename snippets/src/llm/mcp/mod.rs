//! A streaming MCP server: Streamable HTTP as revision 2026-07-28 of the Model Context Protocol requires it.
//!
//! Use it to see what the transport demands of a stream, or as a server of a few tools without an
//! SDK. Promises: one endpoint, POST only; every request stands alone (no session, no handshake, no
//! resumption); a tool's progress and result come on the response to its own request; closing that
//! response cancels the tool at once. Files: `request` (what is refused), `server`; and
//! `sse/streams`.

mod request;
mod server;

pub use request::{PROTOCOL_VERSION, Rejection, Request};
pub use server::{MAX_REQUEST_BYTES, Server, Tool, ToolEvent, router};
