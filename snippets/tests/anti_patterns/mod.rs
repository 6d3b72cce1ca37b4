//! Wrong twins: code as people write it, a test that shows the harm, and the same scenario passing
//! with the pattern. The three lines `Wrong:`, `Harm:`, `Instead:` of each file feed the book.
mod buffered_stands_still;
mod chunk_is_a_message;
mod elapsed_and_on;
mod err_discards;
mod hot_loop;
mod select_restarts;
mod stalled_reader_lives_on;
mod tee_without_bound;
mod total_timeout;
mod unbounded_queue;
mod unfold_under_compression;
mod work_dies_with_client;
