//! Wrong twins: code as people write it, a test that shows the harm, and the same scenario passing
//! with the pattern. The three lines `Wrong:`, `Harm:`, `Instead:` of each file feed the book.
mod buffered_stands_still;
mod chunk_is_a_message;
mod detached_generation;
mod elapsed_and_on;
mod err_discards;
mod hot_loop;
mod select_restarts;

mod disconnect_hidden_by_proxy;
mod envoy_route_timeout;
mod eof_as_completion_behind_a_proxy;
mod nginx_default_buffering;
mod nginx_gzip_of_streams;
#[cfg(feature = "redis")]
mod redis_blocking_on_shared_connection;
#[cfg(feature = "redis")]
mod redis_trimmed_cursor;
mod sse_auth_once;
mod sse_cors_mirror;
mod retry_pays_twice;
mod sse_cursor_dropped;
mod sse_cursor_stored_apart;
mod sse_detached_producer;
mod sse_empty_terminal_event;
mod sse_error_item;
mod sse_error_text;
mod sse_head_starts_work;
mod sse_heartbeat_burst;
mod sse_ids_without_epoch;
mod sse_lag_hidden;
mod sse_lazy_receiver;
mod sse_limit_by_layer;
mod sse_raw_text_data;
mod sse_shutdown_waits;
mod sse_subscribe_after_snapshot;
mod sse_ticket_in_logs;
mod sse_unchecked_event_fields;
mod ws_close_without_draining;
mod ws_error_without_close;
mod ws_mutex_around_socket;
mod ws_no_origin_check;
mod ws_send_in_fanout;
mod ws_unbounded_queue;
mod ws_write_only;
mod stalled_reader_lives_on;
mod stop_stops_reading;
mod tee_without_bound;
mod token_queue_without_bound;
mod total_timeout;
mod total_timeout_on_generation;
mod unbounded_queue;
mod unfold_under_compression;
mod work_dies_with_client;
