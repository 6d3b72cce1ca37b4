//! Wrong twins: code as people write it, a test that shows the harm, and the same scenario passing
//! with the pattern. The three lines `Wrong:`, `Harm:`, `Instead:` of each file feed the book.

mod ws_close_without_draining;
mod ws_error_without_close;
mod ws_mutex_around_socket;
mod ws_no_origin_check;
mod ws_send_in_fanout;
mod ws_unbounded_queue;
mod ws_write_only;
