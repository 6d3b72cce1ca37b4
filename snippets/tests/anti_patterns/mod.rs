//! Wrong twins: code as people write it, a test that shows the harm, and the same scenario passing
//! with the pattern. The three lines `Wrong:`, `Harm:`, `Instead:` of each file feed the book.

mod disconnect_hidden_by_proxy;
mod envoy_route_timeout;
mod eof_as_completion_behind_a_proxy;
mod nginx_default_buffering;
mod nginx_gzip_of_streams;
