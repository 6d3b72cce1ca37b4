//! The items of the checklist that the probe checks; `cargo xtask sync` writes them from `checklist/*.jsonl`.

// An item without a row in `checks.rs` does not compile.
#![deny(dead_code)]

use crate::checks::Level;

pub(crate) struct Item {
	pub(crate) id: &'static str,
	pub(crate) level: Level,
	pub(crate) chapter: &'static str,
	pub(crate) title: &'static str,
}

macro_rules! items {
	($chapter:literal $($name:ident $level:ident $title:literal;)*) => {$(
		pub(crate) const $name: Item = {
			const NAME: &str = stringify!($name);
			const ID: [u8; NAME.len()] = id(NAME);
			Item { id: text(&ID), level: Level::$level, chapter: $chapter, title: $title }
		};
	)*};
}

/// `SSE_UTF8` as `sse-utf8`.
const fn id<const LENGTH: usize>(name: &str) -> [u8; LENGTH] {
	let (mut id, mut at) = ([b'-'; LENGTH], 0);
	while at < LENGTH {
		if name.as_bytes()[at] != b'_' {
			id[at] = name.as_bytes()[at].to_ascii_lowercase();
		}
		at += 1;
	}
	id
}

const fn text(id: &[u8]) -> &str {
	match std::str::from_utf8(id) {
		Ok(id) => id,
		Err(_) => "",
	}
}

items! { "sse/serve"
	SSE_CHARSET_UTF8 Must "No charset but UTF-8";
	SSE_LIMIT_COUNTS_STREAMS Must "The limit on open streams holds for the time that they are open";
	SSE_STATUS_200 Must "The stream is answered with 200";
	SSE_CONTENT_TYPE Must "Content-Type is text/event-stream";
	SSE_RETRY_SANE Must "retry is a sane number";
	SSE_RESERVED_NAMES Should "No event is named open or error";
	SSE_HEARTBEAT Should "A heartbeat during silence";
	SSE_HEARTBEAT_VISIBLE Should "The heartbeat can be seen by the client";
	SSE_NO_CONTENT_LENGTH Must "No Content-Length";
	SSE_HEADERS_BEFORE_FIRST_EVENT Must "Headers are sent before the first event";
	SSE_EVENTS_INCREMENTAL Must "Events arrive one by one";
	SSE_GZIP_INCREMENTAL Must "Events arrive one by one for clients that accept gzip";
	SSE_NOT_CACHED Should "Cache-Control forbids reuse";
	SSE_NO_TRANSFORM Should "Cache-Control: no-transform";
	SSE_NO_BUFFERING_HEADERS Should "X-Accel-Buffering: no";
	SSE_HTTP2_WORKS Must "The stream works over HTTP/2";
	SSE_HTTP2_STREAM_LIMIT Should "An HTTP/2 connection allows 100 streams";
}

items! { "sse/resume"
	SSE_IDS_UNIQUE Must "No id is used twice";
	SSE_IDS_ASCII Must "Ids survive the way back";
	SSE_RESUME_NO_GAP Must "Resume leaves no gap";
	SSE_RESUME_NO_DUPLICATE Must "Resume repeats nothing";
	SSE_CURSOR_GARBAGE Must "A garbage cursor does no harm";
	SSE_CURSOR_PAST Must "A cursor older than the log is answered";
	SSE_CURSOR_FUTURE Must "A cursor newer than the log is answered";
	SSE_LAG_IS_TOLD Must "A reader that fell behind is notified";
	SSE_IDS_PRESENT Should "Events have ids";
}

items! { "sse/fanout"
	SSE_FAN_OUT_ORDER Must "Every reader receives every event in one order";
	SSE_STALLED_READER_MEMORY Must "A stalled reader does not grow memory";
	SSE_STALLED_READER_ISOLATED Must "A stalled reader does not delay others";
}

items! { "sse/protect"
	SSE_CORS_CREDENTIALS Must "CORS headers are sane";
	SSE_ERRORS_CLEAN Must "Error bodies leak nothing";
}

items! { "sse/lifecycle"
	SSE_ENDS_CLEANLY Must "The stream is not cut";
	SSE_HEAD_FINISHES Should "HEAD starts no stream";
	SSE_SHUTDOWN_ENDS_STREAMS Must "Shutdown ends open streams";
	SSE_TERMINAL_EVENT Must "An end is announced, or reconnecting does not run the work again";
	SSE_RETRY_JITTER Should "retry differs between connections";
	SSE_DISCONNECT_NOTICED Must "Disconnects are noticed";
	SSE_RECONNECTS_SURVIVED Must "Many connects and disconnects do no harm";
}

items! { "sse/wire"
	SSE_UTF8 Must "The stream is UTF-8";
	SSE_KNOWN_FIELDS Must "Every line is a field of the standard";
	SSE_DATA_IN_EVERY_EVENT Must "Every named event has data";
	SSE_COMPLETE_LAST_EVENT Must "The last event is complete";
	SSE_NO_BOM Should "No byte order mark";
	SSE_LINE_ENDINGS Should "Lines end with LF";
}

items! { "websocket/serve"
	WS_FRAGMENTS_ACCEPTED Must "Fragments and interleaved control frames are accepted";
	WS_INVALID_UTF8_REFUSED Must "Invalid UTF-8 is refused";
	WS_UNMASKED_REFUSED Must "An unmasked frame is refused";
	WS_HANDSHAKE Must "The handshake is correct";
	WS_ONE_WRITER Must "The server can send while the client is silent";
	WS_VIOLATIONS_SURVIVED Must "A protocol violation ends one connection, not the service";
	WS_SHUTDOWN_1001 Must "Shutdown sends Close 1001";
	WS_MALFORMED_ISOLATED Must "A malformed message does not close other connections";
	WS_BINARY_HANDLED Must "A binary message is accepted or refused with a code";
	WS_VERSION_CHECKED Should "Another protocol version is refused";
	WS_PLAIN_GET_REFUSED Should "A plain GET is refused";
	WS_HTTP2_CONNECT Should "Extended CONNECT works where HTTP/2 announces it";
	WS_PING_ANSWERED Must "Ping is answered";
	WS_CLOSE_ANSWERED Must "Close is answered";
	WS_OVERSIZE_1009 Should "Oversize is answered with Close 1009";
	WS_INVALID_UTF8_1007 Should "Invalid UTF-8 is answered with Close 1007";
	WS_HEARTBEAT Should "The server sends a heartbeat";
	WS_QUEUE_BOUNDED Must "The queue of a reader that stalls is bounded";
	WS_OVERSIZE_REFUSED Must "An oversize message is refused";
	WS_SILENT_PEER_DROPPED Must "A silent peer is dropped";
	WS_DISCONNECT_NOTICED Must "Disconnects are noticed";
	WS_RECONNECTS_SURVIVED Must "Many connects and disconnects do no harm";
}

items! { "websocket/rooms"
	WS_STALLED_READER_ISOLATED Must "A stalled reader does not delay others";
}

items! { "websocket/protect"
	WS_ORIGIN_CHECKED Must "A foreign Origin is refused";
	WS_AUTH_REQUIRED Must "Missing credentials are refused";
	WS_ERRORS_CLEAN Must "Error bodies and close reasons leak nothing";
	WS_SUBPROTOCOL_NOT_ECHOED Should "An unknown subprotocol is not echoed";
	WS_FLOOD_LIMITED Should "A flood of messages is limited";
	WS_SUBPROTOCOL_SELECTED Must "An offered subprotocol is selected";
}

items! { "llm/relay"
	LLM_ONE_TERMINAL Must "Exactly one terminal event";
	LLM_PROVIDER_ERROR_VISIBLE Must "A provider error reaches the client";
	LLM_ERROR_TEXT_CLEAN Must "Error text leaks nothing";
	LLM_ABORT_STOPS_WORK Must "An abort closes the provider connection";
	LLM_FAILURES_SURVIVED Must "A provider that is cut off ends one answer, not the service";
	LLM_STATUS_200 Must "The stream is answered with 200";
	LLM_HEARTBEAT_BEFORE_TOKEN Should "A heartbeat while the model thinks";
	LLM_SLOW_READER_BOUNDED Must "A slow reader is bounded";
	LLM_CONTENT_TYPE Must "The answer is a streaming type";
	LLM_HEADERS_BEFORE_TOKEN Must "The head is sent before the first token";
	LLM_INCREMENTAL Must "Tokens arrive one by one";
	LLM_GZIP_INCREMENTAL Must "Tokens arrive one by one for clients that accept gzip";
	LLM_NO_BUFFERING_HEADERS Should "Nothing on the path may hold tokens back";
}

items! { "llm/browser"
	LLM_TRUNCATION_VISIBLE Must "A truncated answer does not look complete";
	LLM_SPLIT_UTF8 Must "Characters split over chunks arrive whole";
	LLM_UNSAFE_CHARACTERS Must "Unsafe characters arrive unchanged";
}
