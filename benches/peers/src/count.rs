//! An allocator that counts the bytes that are in use, while it is told to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// The system's allocator. Where it does not count, that costs a look at a line that nobody writes.
struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static IN_USE: AtomicIsize = AtomicIsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        IN_USE.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What the allocator takes for a block of this size: glibc's header, rounded up to 16.
fn size_of(layout: Layout) -> isize {
    isize::try_from((layout.size() + 8).next_multiple_of(16).max(32)).unwrap_or(isize::MAX)
}

// SAFETY: every call is passed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size_of(layout));
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-size_of(layout));
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size_of(layout));
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(-size_of(layout));
        if let Ok(new) = Layout::from_size_align(size, layout.align()) {
            count(size_of(new));
        }
        // SAFETY: the caller's contract is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Bytes that `work` left in use, the allocator's own included, and what it made.
pub fn bytes_of<R>(work: impl FnOnce() -> R) -> (isize, R) {
    IN_USE.store(0, Ordering::Relaxed);
    IS_COUNTING.store(true, Ordering::SeqCst);
    let made = work();
    IS_COUNTING.store(false, Ordering::SeqCst);
    (IN_USE.load(Ordering::Relaxed), made)
}
