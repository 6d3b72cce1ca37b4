//! Every check of the probe: what it looks for, and what to change if it fails. `checklist.rs` has the rest of each.

use crate::checklist;

/// What kind of endpoint a check is for; also the name of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
	/// `stream-probe sse`
	Sse,
	/// `stream-probe ws`
	Ws,
	/// `stream-probe llm`
	Llm,
}

/// What a failure means for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
	/// A failure is a defect: exit code 1.
	Must,
	/// A failure is a warning: exit code 0, unless `--strict`.
	Should,
}

impl Kind {
	/// What the prefix of an id says.
	const fn of(id: &str) -> Self {
		match id.as_bytes() {
			[b's', ..] => Kind::Sse,
			[b'w', ..] => Kind::Ws,
			_ => Kind::Llm,
		}
	}
}

impl Level {
	/// `must` or `should`.
	pub fn name(self) -> &'static str {
		match self {
			Level::Must => "must",
			Level::Should => "should",
		}
	}
}

/// One check.
#[derive(Debug)]
pub struct Check {
	/// Which command runs it.
	pub kind: Kind,
	/// The id of the checklist item.
	pub id: &'static str,
	/// What a failure means.
	pub level: Level,
	/// `<topic>/<pattern>`: the chapter that shows how to do it right.
	pub chapter: &'static str,
	/// What is asked of the service.
	pub title: &'static str,
	/// What the probe looks for on the wire.
	pub looks_for: &'static str,
	/// What to change if it fails, whatever the service is written in.
	pub fix: &'static str,
}

/// The check with this id.
pub fn find(id: &str) -> Option<&'static Check> {
	CHECKS.iter().copied().find(|check| check.id == id)
}

/// One constant for each check, and [`CHECKS`], which holds them all. An id that the checklist does not have does not compile.
macro_rules! checks {
    ($($name:ident $looks_for:literal $fix:literal;)*) => {
        $(
            /// A check; [`Check::looks_for`] says which.
            pub const $name: &Check = &Check {
                kind: Kind::of(checklist::$name.id),
                id: checklist::$name.id,
                level: checklist::$name.level,
                chapter: checklist::$name.chapter,
                title: checklist::$name.title,
                looks_for: $looks_for,
                fix: $fix,
            };
        )*

        /// All checks, in the order in which they are reported.
        pub const CHECKS: &[&Check] = &[$($name),*];
    };
}

checks! {
	SSE_STATUS_200
		"the status after redirects; every other status ends an EventSource permanently"
		"return 200 for every stream that starts; 204 stops an EventSource, any other status ends it";
	SSE_CONTENT_TYPE
		"the media type; with any other one an EventSource fails and never retries"
		"send `Content-Type: text/event-stream`";
	SSE_CHARSET_UTF8
		"a charset parameter other than utf-8, which ends an EventSource"
		"remove the charset parameter, or set it to utf-8";
	SSE_NOT_CACHED
		"no-cache or no-store in Cache-Control"
		"send `Cache-Control: no-cache, no-transform`";
	SSE_NO_TRANSFORM
		"no-transform, without which a middleware that compresses may hold events back"
		"send `Cache-Control: no-cache, no-transform`; if the framework sets its own value, replace it in a middleware that runs after the handler";
	SSE_NO_BUFFERING_HEADERS
		"the header that makes nginx pass events on at once; a proxy in front of the probe may have consumed it"
		"send `X-Accel-Buffering: no` with the stream";
	SSE_NO_CONTENT_LENGTH
		"a Content-Length on the stream, which means that the answer was collected first"
		"write the events as they happen instead of returning one finished body";
	SSE_HEADERS_BEFORE_FIRST_EVENT
		"a response head that waits for the first event: `open`, fetch and proxy timers wait with it"
		"flush the headers and a comment or `retry:` line as soon as the request is accepted";
	SSE_EVENTS_INCREMENTAL
		"events that arrive in one burst at the end, or a published event that does not arrive"
		"flush after each event, in the application and in each proxy on the path (nginx: `proxy_buffering off`)";
	SSE_GZIP_INCREMENTAL
		"the same stream asked with Accept-Encoding: gzip, as every browser does; compressed data is inflated as it arrives"
		"exclude text/event-stream from compression, or flush the compressor after each event";
	SSE_UTF8
		"bytes that a client must replace with U+FFFD"
		"encode events as UTF-8, and never cut a character between two writes";
	SSE_NO_BOM
		"a BOM at the start: one is allowed, and crashes or confuses some parsers"
		"write UTF-8 without a byte order mark";
	SSE_LINE_ENDINGS
		"lines that end with a lone CR: allowed, and hidden from clients that split on LF (CRLF is fine)"
		"end each line with LF";
	SSE_KNOWN_FIELDS
		"lines that no client reads: unknown or misspelt fields, and data that broke over a line without its `data:`"
		"send data as JSON on one line, or begin each of its lines with `data:`";
	SSE_DATA_IN_EVERY_EVENT
		"`event:` without `data:`, which never fires"
		"give each event a `data:` line, such as `data: {}`";
	SSE_COMPLETE_LAST_EVENT
		"a stream that ends inside an event, which the client drops"
		"end the last event with a blank line before you end the response";
	SSE_RESERVED_NAMES
		"names that fire the native listeners of an EventSource"
		"rename the event, for example to `stream_error`";
	SSE_RETRY_SANE
		"retry values that are not digits (ignored), below 100 ms (a storm) or above an hour"
		"send `retry:` in digits only: milliseconds, such as 3000";
	SSE_RETRY_JITTER
		"the same retry on every connection: after a restart all clients reconnect at the same moment"
		"send each connection its own random `retry:`, such as 1500 to 4500";
	SSE_ENDS_CLEANLY
		"an end without the last chunk (a panic, an error item, a killed process) while the probe was reading"
		"catch errors in the stream, send them as an event, and end the response normally";
	SSE_TERMINAL_EVENT
		"a stream that ends, and runs again from the start when an EventSource reconnects, with no terminal event and no 204"
		"send a last event, such as `event: done`, on which the client closes, and answer its reconnect with 204";
	SSE_HEARTBEAT
		"silence longer than --heartbeat with no byte sent"
		"send an event or a comment after each 15 s of silence";
	SSE_HEARTBEAT_VISIBLE
		"heartbeats that are comments while the client is an EventSource (--client eventsource)"
		"send the heartbeat as a named event, such as `event: ping` with data, instead of a comment";
	SSE_HEAD_FINISHES
		"a HEAD request that is not answered, has a body, or whose handler never ends; work that it began and left running is not on the wire"
		"answer HEAD with the headers alone, without starting the stream";
	SSE_IDS_PRESENT
		"events without id where the service promises resume (--resumable)"
		"give each event an `id:`";
	SSE_IDS_UNIQUE
		"two events with the same id: a client cut between them loses the second"
		"number events per log, not per connection, and give no two events the same id";
	SSE_IDS_ASCII
		"ids that Last-Event-ID does not carry back unchanged: not printable ASCII, spaces at the ends, longer than 1 KiB"
		"use short ids of printable ASCII without spaces at the ends, such as a sequence number";
	SSE_RESUME_NO_GAP
		"a reconnect with Last-Event-ID that does not begin with the event after it, and announces no reset"
		"keep the last events in a log; on a reconnect, send those after `Last-Event-ID`, then the live ones";
	SSE_RESUME_NO_DUPLICATE
		"a reconnect with Last-Event-ID that sends an event up to it again, or one event twice"
		"on a reconnect, send only events after `Last-Event-ID`; number events per log, not per connection";
	SSE_CURSOR_GARBAGE
		"5xx, no answer or a broken stream for a Last-Event-ID that the service never gave out"
		"parse `Last-Event-ID` without trusting it; treat a value that you never sent as a cursor that is too old";
	SSE_CURSOR_PAST
		"a reconnect from before the first event that silently leaves out events"
		"if the log no longer holds the events after `Last-Event-ID`, send a `reset` event first, so that the client reloads its state";
	SSE_CURSOR_FUTURE
		"a reconnect from an id beyond the end that stays silent while other readers receive"
		"treat a `Last-Event-ID` beyond the end of the log as unusable: send a `reset` event, then the live events";
	SSE_FAN_OUT_ORDER
		"a published event that one of two readers misses, or another order (--publish)"
		"publish each event once, in one order, to every subscriber";
	SSE_STALLED_READER_ISOLATED
		"a reader next to one that reads nothing: it must continue to receive (needs megabytes of events: --publish)"
		"write to each reader from a bounded queue of its own; never await one reader's socket in the loop over all";
	SSE_STALLED_READER_MEMORY
		"resident memory of --pid while one reader reads nothing and megabytes are sent"
		"bound each reader's queue in bytes; if it is full, end that stream or send a `reset`";
	SSE_LAG_IS_TOLD
		"events missing on a reader that stalled and reads again, without a reset, a cut or an event that says so (needs ids and megabytes: --publish)"
		"if events were dropped for a slow reader, send it a `reset` event or end its stream";
	SSE_DISCONNECT_NOTICED
		"open file descriptors of --pid after 50 connects and disconnects"
		"on the request's close or abort signal, remove the listener and end the handler";
	SSE_RECONNECTS_SURVIVED
		"a stream that is still answered after 50 connects and disconnects"
		"release timers, listeners and database connections of each stream when its client disconnects";
	SSE_LIMIT_COUNTS_STREAMS
		"one stream more than --limit N that is not refused with 429 or 503, and a permit that is not free again after a disconnect"
		"count a stream until it ends, not until its headers are sent; answer the next one with 503 and `Retry-After`";
	SSE_HTTP2_WORKS
		"where ALPN or prior knowledge gives HTTP/2: a header that it forbids, an event that arrives over HTTP/1.1 only, or a connection that ends with one cancelled stream"
		"set no `Connection`, `Keep-Alive` or `Transfer-Encoding` header yourself, and flush each event over HTTP/2 too";
	SSE_HTTP2_STREAM_LIMIT
		"SETTINGS_MAX_CONCURRENT_STREAMS below 100, which the tabs of one browser share (RFC 9113, section 6.5.2)"
		"allow at least 100 concurrent streams per HTTP/2 connection";
	SSE_CORS_CREDENTIALS
		"`*` together with credentials, or any foreign Origin echoed with credentials"
		"allow credentials for a fixed list of Origins; do not repeat the request's Origin unchecked";
	SSE_ERRORS_CLEAN
		"stack traces, source paths and internals in the bodies of error responses and in events of failures"
		"return a fixed text and a request id to the client, and log the rest";
	SSE_SHUTDOWN_ENDS_STREAMS
		"an open stream after SIGTERM to --pid: it must end, with its last chunk, within 10 s (--shutdown)"
		"on SIGTERM, end each open stream with a last event and its last chunk, then close the server";
	WS_HANDSHAKE
		"101, Upgrade, Connection, Sec-WebSocket-Accept, nothing chosen that was not offered"
		"let a WebSocket library perform the handshake";
	WS_VERSION_CHECKED
		"a handshake with Sec-WebSocket-Version: 12 that succeeds"
		"answer another Sec-WebSocket-Version with 426 and `Sec-WebSocket-Version: 13`";
	WS_PLAIN_GET_REFUSED
		"a 5xx or no answer for a request without Upgrade"
		"answer a request without Upgrade with 426 or 400";
	WS_ORIGIN_CHECKED
		"an open socket for the Origin of another site, with the cookie of the user (--cookie), or any but --origin"
		"compare the complete Origin with a list of your own pages, and answer others with 403";
	WS_AUTH_REQUIRED
		"an open socket without the --cookie or Authorization header that was given"
		"authenticate in the handshake, or close with 4401 before anything is sent";
	WS_SUBPROTOCOL_SELECTED
		"none, or one that was not offered: a browser fails the connection (--subprotocol)"
		"answer with the one offered subprotocol that you speak";
	WS_SUBPROTOCOL_NOT_ECHOED
		"an unknown name selected because it was offered: a token in that header would be sent back"
		"select only a subprotocol that you know; never the first one that is offered";
	WS_PING_ANSWERED
		"a Pong with the same payload (RFC 6455, 5.5.2)"
		"answer each Ping with a Pong of the same payload; keep reading while you write";
	WS_CLOSE_ANSWERED
		"a Close frame in answer to Close, then the end of the connection (RFC 6455, 7.1)"
		"answer Close with Close, then end the connection";
	WS_ONE_WRITER
		"a published message (--publish) that comes only when the client has sent something: a lock is held around the socket"
		"give each socket one writer that takes messages from a queue, and a reader of its own";
	WS_FRAGMENTS_ACCEPTED
		"a message in three frames with a Ping between them (RFC 6455, 5.4)"
		"assemble fragments, and answer control frames between them";
	WS_OVERSIZE_REFUSED
		"a frame announced as 256 MiB: the service must end the connection before 20 MiB have been sent"
		"set the maximum message size of your library, such as `maxPayload` in ws";
	WS_OVERSIZE_1009
		"the close code; without one the client sees 1006"
		"close with 1009 if a message is too large";
	WS_INVALID_UTF8_REFUSED
		"a text message that is not UTF-8: the connection must end (RFC 6455, 8.1)"
		"reject a text message that is not UTF-8: do not skip the validation";
	WS_INVALID_UTF8_1007
		"the close code; without one the client sees 1006"
		"close with 1007 if a text message is not UTF-8";
	WS_UNMASKED_REFUSED
		"a frame without mask: the connection must end (RFC 6455, 5.1)"
		"close with 1002 if a client's frame has no mask";
	WS_VIOLATIONS_SURVIVED
		"other connections and new ones after unmasked, oversize and invalid frames"
		"handle the socket's error event; a violation ends that connection only";
	WS_BINARY_HANDLED
		"a connection dropped without a Close frame after a binary message"
		"accept a binary message, or close with 1003";
	WS_MALFORMED_ISOLATED
		"a second connection while the first sends JSON that does not parse"
		"catch parse errors per message, and answer or close that connection only";
	WS_HEARTBEAT
		"no frame at all during --heartbeat seconds of silence"
		"send a Ping every 20 to 30 s";
	WS_SILENT_PEER_DROPPED
		"a connection that answers nothing, still open after --idle seconds"
		"end a connection that answered none of the last Pings";
	WS_STALLED_READER_ISOLATED
		"the Pong of a second connection, and what is published (--publish), while the first sends and reads nothing"
		"write to each socket from a bounded queue of its own; never await one socket in the loop over all";
	WS_QUEUE_BOUNDED
		"resident memory of --pid while one connection sends megabytes and reads nothing, and megabytes that lie ready for it when it reads again"
		"bound what is queued for one socket (`bufferedAmount` in ws), and close the socket beyond it";
	WS_FLOOD_LIMITED
		"5,000 messages at once: a close code, an error message, or a service that stops reading"
		"limit messages per second and connection, and close with 1008 or answer with an error beyond it";
	WS_ERRORS_CLEAN
		"stack traces, source paths and internals in refused handshakes, error messages and close reasons"
		"send a fixed text and a request id, and log the rest";
	WS_HTTP2_CONNECT
		"SETTINGS_ENABLE_CONNECT_PROTOCOL with a route that refuses CONNECT (RFC 8441)"
		"route the socket for CONNECT as well as GET, or do not announce extended CONNECT";
	WS_DISCONNECT_NOTICED
		"open file descriptors of --pid after 50 connects and disconnects"
		"remove the socket from every room and stop its timers on its close event";
	WS_RECONNECTS_SURVIVED
		"a handshake that still succeeds after 50 connections cut without Close"
		"release everything that belongs to a connection when it ends without Close";
	WS_SHUTDOWN_1001
		"a Close frame with 1001 or 1012 within 10 s of SIGTERM to --pid (--shutdown)"
		"on SIGTERM, close each socket with 1001, then exit";
	LLM_STATUS_200
		"the status of the POST"
		"answer a valid request with 200; if it is refused, send 4xx before the stream starts";
	LLM_CONTENT_TYPE
		"text/event-stream, application/x-ndjson, application/jsonl, application/json-seq or text/plain; no Content-Length"
		"send text/event-stream, or application/x-ndjson, without Content-Length";
	LLM_NO_BUFFERING_HEADERS
		"X-Accel-Buffering: no and Cache-Control: no-transform"
		"send `X-Accel-Buffering: no` and `Cache-Control: no-cache, no-transform`";
	LLM_INCREMENTAL
		"the whole answer in one burst; with --upstream each token must arrive before the next one is sent"
		"forward each token as it arrives from the provider, and flush after it";
	LLM_GZIP_INCREMENTAL
		"the same with Accept-Encoding: gzip, as every browser asks; tokens that are held back, or an answer without its end (--upstream)"
		"exclude the stream from compression, or flush the compressor after each token";
	LLM_HEADERS_BEFORE_TOKEN
		"a response head that waits for the model; with --upstream the model is held back"
		"send the headers before you await the provider";
	LLM_HEARTBEAT_BEFORE_TOKEN
		"silence longer than --heartbeat before the first token"
		"send a comment or a `ping` event while the model is silent";
	LLM_ONE_TERMINAL
		"none, or more than one; [DONE] after a typed terminal event belongs to it (--terminal names your own)"
		"end each answer with exactly one event that states its outcome";
	LLM_TRUNCATION_VISIBLE
		"the success terminal after the provider was cut in the middle (--upstream)"
		"send the success event only after the provider's own end; otherwise send an error event";
	LLM_PROVIDER_ERROR_VISIBLE
		"200 and a normal end although the provider answered 500 (--upstream)"
		"if the provider fails, send an error event, or 502 if nothing has been sent";
	LLM_FAILURES_SURVIVED
		"a service that can no longer be connected to after the provider's connection was cut in the middle (--upstream)"
		"catch errors of the provider's stream, and end that answer only";
	LLM_ABORT_STOPS_WORK
		"the provider connection 5 s after the client has gone, while the model is silent (--upstream)"
		"pass the request's abort signal to the provider's request";
	LLM_SLOW_READER_BOUNDED
		"how much the service takes from the provider while the client reads nothing: at most 32 MiB (--upstream)"
		"read from the provider only as fast as the client reads (pipe with backpressure)";
	LLM_ERROR_TEXT_CLEAN
		"keys, provider text, stack traces and paths in the answers to a bad request and to a provider error"
		"map provider errors to fixed texts, and log the originals";
	LLM_SPLIT_UTF8
		"an emoji sent by the provider one byte at a time (--upstream)"
		"decode with one streaming decoder, such as `TextDecoder` with `stream: true`, or pass the bytes on";
	LLM_UNSAFE_CHARACTERS
		"line breaks, quotes, event-stream syntax, HTML, U+2028 and NUL in tokens (--upstream)"
		"send each token as JSON";
}
