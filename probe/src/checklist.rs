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
	($chapter:literal $($name:ident $id:literal $level:ident $title:literal;)*) => {
		$(pub(crate) const $name: Item = Item { id: $id, level: Level::$level, chapter: $chapter, title: $title };)*
	};
}

items! { "sse/serve"
	SSE_CHARSET_UTF8 "sse-charset-utf8" Must "No charset but UTF-8";
	SSE_LIMIT_COUNTS_STREAMS "sse-limit-counts-streams" Must "The limit on open streams holds for the time that they are open";
	SSE_STATUS_200 "sse-status-200" Must "The stream is answered with 200";
	SSE_CONTENT_TYPE "sse-content-type" Must "Content-Type is text/event-stream";
	SSE_RETRY_SANE "sse-retry-sane" Must "retry is a sane number";
	SSE_RESERVED_NAMES "sse-reserved-names" Should "No event is named open or error";
	SSE_HEARTBEAT "sse-heartbeat" Should "A heartbeat during silence";
	SSE_HEARTBEAT_VISIBLE "sse-heartbeat-visible" Should "The heartbeat can be seen by the client";
	SSE_NO_CONTENT_LENGTH "sse-no-content-length" Must "No Content-Length";
	SSE_HEADERS_BEFORE_FIRST_EVENT "sse-headers-before-first-event" Must "Headers are sent before the first event";
	SSE_EVENTS_INCREMENTAL "sse-events-incremental" Must "Events arrive one by one";
	SSE_GZIP_INCREMENTAL "sse-gzip-incremental" Must "Events arrive one by one for clients that accept gzip";
	SSE_NOT_CACHED "sse-not-cached" Should "Cache-Control forbids reuse";
	SSE_NO_TRANSFORM "sse-no-transform" Should "Cache-Control: no-transform";
	SSE_NO_BUFFERING_HEADERS "sse-no-buffering-headers" Should "X-Accel-Buffering: no";
	SSE_HTTP2_WORKS "sse-http2-works" Must "The stream works over HTTP/2";
	SSE_HTTP2_STREAM_LIMIT "sse-http2-stream-limit" Should "An HTTP/2 connection allows 100 streams";
}

items! { "sse/resume"
	SSE_IDS_UNIQUE "sse-ids-unique" Must "No id is used twice";
	SSE_IDS_ASCII "sse-ids-ascii" Must "Ids survive the way back";
	SSE_RESUME_NO_GAP "sse-resume-no-gap" Must "Resume leaves no gap";
	SSE_RESUME_NO_DUPLICATE "sse-resume-no-duplicate" Must "Resume repeats nothing";
	SSE_CURSOR_GARBAGE "sse-cursor-garbage" Must "A garbage cursor does no harm";
	SSE_CURSOR_PAST "sse-cursor-past" Must "A cursor older than the log is answered";
	SSE_CURSOR_FUTURE "sse-cursor-future" Must "A cursor newer than the log is answered";
	SSE_LAG_IS_TOLD "sse-lag-is-told" Must "A reader that fell behind is notified";
	SSE_IDS_PRESENT "sse-ids-present" Should "Events have ids";
}

items! { "sse/fanout"
	SSE_FAN_OUT_ORDER "sse-fan-out-order" Must "Every reader receives every event in one order";
	SSE_STALLED_READER_MEMORY "sse-stalled-reader-memory" Must "A stalled reader does not grow memory";
	SSE_STALLED_READER_ISOLATED "sse-stalled-reader-isolated" Must "A stalled reader does not delay others";
}

items! { "sse/protect"
	SSE_CORS_CREDENTIALS "sse-cors-credentials" Must "CORS headers are sane";
	SSE_ERRORS_CLEAN "sse-errors-clean" Must "Error bodies leak nothing";
}

items! { "sse/lifecycle"
	SSE_ENDS_CLEANLY "sse-ends-cleanly" Must "The stream is not cut";
	SSE_HEAD_FINISHES "sse-head-finishes" Should "HEAD starts no stream";
	SSE_SHUTDOWN_ENDS_STREAMS "sse-shutdown-ends-streams" Must "Shutdown ends open streams";
	SSE_TERMINAL_EVENT "sse-terminal-event" Must "An end is announced, or reconnecting does not run the work again";
	SSE_RETRY_JITTER "sse-retry-jitter" Should "retry differs between connections";
	SSE_DISCONNECT_NOTICED "sse-disconnect-noticed" Must "Disconnects are noticed";
	SSE_RECONNECTS_SURVIVED "sse-reconnects-survived" Must "Many connects and disconnects do no harm";
}

items! { "sse/wire"
	SSE_UTF8 "sse-utf8" Must "The stream is UTF-8";
	SSE_KNOWN_FIELDS "sse-known-fields" Must "Every line is a field of the standard";
	SSE_DATA_IN_EVERY_EVENT "sse-data-in-every-event" Must "Every named event has data";
	SSE_COMPLETE_LAST_EVENT "sse-complete-last-event" Must "The last event is complete";
	SSE_NO_BOM "sse-no-bom" Should "No byte order mark";
	SSE_LINE_ENDINGS "sse-line-endings" Should "Lines end with LF";
}

items! { "websocket/serve"
	WS_FRAGMENTS_ACCEPTED "ws-fragments-accepted" Must "Fragments and interleaved control frames are accepted";
	WS_INVALID_UTF8_REFUSED "ws-invalid-utf8-refused" Must "Invalid UTF-8 is refused";
	WS_UNMASKED_REFUSED "ws-unmasked-refused" Must "An unmasked frame is refused";
	WS_HANDSHAKE "ws-handshake" Must "The handshake is correct";
	WS_ONE_WRITER "ws-one-writer" Must "The server can send while the client is silent";
	WS_VIOLATIONS_SURVIVED "ws-violations-survived" Must "A protocol violation ends one connection, not the service";
	WS_SHUTDOWN_1001 "ws-shutdown-1001" Must "Shutdown sends Close 1001";
	WS_MALFORMED_ISOLATED "ws-malformed-isolated" Must "A malformed message does not close other connections";
	WS_BINARY_HANDLED "ws-binary-handled" Must "A binary message is accepted or refused with a code";
	WS_VERSION_CHECKED "ws-version-checked" Should "Another protocol version is refused";
	WS_PLAIN_GET_REFUSED "ws-plain-get-refused" Should "A plain GET is refused";
	WS_HTTP2_CONNECT "ws-http2-connect" Should "Extended CONNECT works where HTTP/2 announces it";
	WS_PING_ANSWERED "ws-ping-answered" Must "Ping is answered";
	WS_CLOSE_ANSWERED "ws-close-answered" Must "Close is answered";
	WS_OVERSIZE_1009 "ws-oversize-1009" Should "Oversize is answered with Close 1009";
	WS_INVALID_UTF8_1007 "ws-invalid-utf8-1007" Should "Invalid UTF-8 is answered with Close 1007";
	WS_HEARTBEAT "ws-heartbeat" Should "The server sends a heartbeat";
	WS_QUEUE_BOUNDED "ws-queue-bounded" Must "The queue of a reader that stalls is bounded";
	WS_OVERSIZE_REFUSED "ws-oversize-refused" Must "An oversize message is refused";
	WS_SILENT_PEER_DROPPED "ws-silent-peer-dropped" Must "A silent peer is dropped";
	WS_DISCONNECT_NOTICED "ws-disconnect-noticed" Must "Disconnects are noticed";
	WS_RECONNECTS_SURVIVED "ws-reconnects-survived" Must "Many connects and disconnects do no harm";
}

items! { "websocket/rooms"
	WS_STALLED_READER_ISOLATED "ws-stalled-reader-isolated" Must "A stalled reader does not delay others";
}

items! { "websocket/protect"
	WS_ORIGIN_CHECKED "ws-origin-checked" Must "A foreign Origin is refused";
	WS_AUTH_REQUIRED "ws-auth-required" Must "Missing credentials are refused";
	WS_ERRORS_CLEAN "ws-errors-clean" Must "Error bodies and close reasons leak nothing";
	WS_SUBPROTOCOL_NOT_ECHOED "ws-subprotocol-not-echoed" Should "An unknown subprotocol is not echoed";
	WS_FLOOD_LIMITED "ws-flood-limited" Should "A flood of messages is limited";
	WS_SUBPROTOCOL_SELECTED "ws-subprotocol-selected" Must "An offered subprotocol is selected";
}

items! { "llm/relay"
	LLM_ONE_TERMINAL "llm-one-terminal" Must "Exactly one terminal event";
	LLM_PROVIDER_ERROR_VISIBLE "llm-provider-error-visible" Must "A provider error reaches the client";
	LLM_ERROR_TEXT_CLEAN "llm-error-text-clean" Must "Error text leaks nothing";
	LLM_ABORT_STOPS_WORK "llm-abort-stops-work" Must "An abort closes the provider connection";
	LLM_FAILURES_SURVIVED "llm-failures-survived" Must "A provider that is cut off ends one answer, not the service";
	LLM_STATUS_200 "llm-status-200" Must "The stream is answered with 200";
	LLM_HEARTBEAT_BEFORE_TOKEN "llm-heartbeat-before-token" Should "A heartbeat while the model thinks";
	LLM_SLOW_READER_BOUNDED "llm-slow-reader-bounded" Must "A slow reader is bounded";
	LLM_CONTENT_TYPE "llm-content-type" Must "The answer is a streaming type";
	LLM_HEADERS_BEFORE_TOKEN "llm-headers-before-token" Must "The head is sent before the first token";
	LLM_INCREMENTAL "llm-incremental" Must "Tokens arrive one by one";
	LLM_GZIP_INCREMENTAL "llm-gzip-incremental" Must "Tokens arrive one by one for clients that accept gzip";
	LLM_NO_BUFFERING_HEADERS "llm-no-buffering-headers" Should "Nothing on the path may hold tokens back";
}

items! { "llm/browser"
	LLM_TRUNCATION_VISIBLE "llm-truncation-visible" Must "A truncated answer does not look complete";
	LLM_SPLIT_UTF8 "llm-split-utf8" Must "Characters split over chunks arrive whole";
	LLM_UNSAFE_CHARACTERS "llm-unsafe-characters" Must "Unsafe characters arrive unchanged";
}
