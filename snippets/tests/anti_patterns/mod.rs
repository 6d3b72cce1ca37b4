//! Wrong twins: code as people write it, a test that shows the harm, and the same scenario passing
//! with the pattern. The three lines `Wrong:`, `Harm:`, `Instead:` of each file feed the book.
mod buffered_stands_still;
mod chunk_is_a_message;
mod detached_generation;
mod elapsed_and_on;
mod err_discards;
mod hot_loop;
mod select_restarts;

mod closed_loop_load;
mod csrf_json_by_hand;
mod disconnect_hidden_by_proxy;
mod envoy_route_timeout;
mod eof_as_completion_behind_a_proxy;
mod gauge_after_the_loop;
mod key_follows_redirect;
mod llm_error_text_to_client;
mod llm_mcp_detached_tool;
mod llm_parse_per_chunk;
mod llm_tool_call_before_stop;
mod llm_truncation_is_success;
mod llm_usage_summed;
mod nginx_default_buffering;
mod nginx_gzip_of_streams;
mod nginx_leaves_out_restarted_instance;
#[cfg(feature = "postgres")]
mod postgres_notify_in_the_transaction;
#[cfg(feature = "postgres")]
mod postgres_sequence_order;
mod proxy_retries_posts;
mod reconnect_storm;
#[cfg(feature = "redis")]
mod redis_blocking_on_shared_connection;
#[cfg(feature = "redis")]
mod redis_pubsub_keeps_nothing;
#[cfg(feature = "redis")]
mod redis_trimmed_cursor;
mod replay_without_owner;
mod retry_pays_twice;
mod sleep_for_luck;
mod sse_auth_once;
mod sse_cors_mirror;
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
mod sse_parse_per_chunk;
mod sse_raw_text_data;
mod sse_retry_reposts;
mod sse_send_await_in_loop;
mod sse_shutdown_waits;
mod sse_split_on_blank_line;
mod sse_subscribe_after_snapshot;
mod sse_ticket_in_logs;
mod sse_total_timeout;
mod sse_unbounded_queue;
mod sse_unchecked_event_fields;
mod ssrf_by_prefix;
mod stalled_reader_lives_on;
mod stop_stops_reading;
mod stream_counted_as_request;
mod tee_without_bound;
mod token_queue_without_bound;
mod total_timeout;
mod total_timeout_on_generation;
mod unbounded_queue;
mod unfold_under_compression;
mod work_dies_with_client;
mod ws_close_without_draining;
mod ws_error_without_close;
mod ws_inflate_without_bound;
mod ws_mutex_around_socket;
mod ws_no_origin_check;
mod ws_send_in_fanout;
mod ws_unbounded_queue;
mod ws_write_only;

// It serves the twins, and so stands among them.
#[path = "../stream_probe_twins.rs"]
mod stream_probe_twins;
