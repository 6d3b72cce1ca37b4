//! The system's allocator, or jemalloc where the environment of the process asks for it, so that one
//! binary measures both.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, Ordering};

use tikv_jemallocator::Jemalloc;

struct Chosen;

#[global_allocator]
static ALLOCATOR: Chosen = Chosen;
static CHOICE: AtomicU8 = AtomicU8::new(0);

/// The same answer from the first allocation on; `getenv` does not allocate.
fn jemalloc() -> bool {
    match CHOICE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: the name ends in NUL, and nothing in this program changes the environment.
            let set = unsafe { !libc::getenv(c"SSE_BENCH_JEMALLOC".as_ptr()).is_null() };
            CHOICE.store(if set { 2 } else { 1 }, Ordering::Relaxed);
            set
        }
        choice => choice == 2,
    }
}

// SAFETY: every call goes to one and the same allocator.
unsafe impl GlobalAlloc for Chosen {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if jemalloc() {
            unsafe { Jemalloc.alloc(layout) }
        } else {
            unsafe { System.alloc(layout) }
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if jemalloc() {
            unsafe { Jemalloc.dealloc(at, layout) }
        } else {
            unsafe { System.dealloc(at, layout) }
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if jemalloc() {
            unsafe { Jemalloc.realloc(at, layout, size) }
        } else {
            unsafe { System.realloc(at, layout, size) }
        }
    }
}
