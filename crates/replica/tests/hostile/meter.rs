//! The peak memory of an operation, on the thread that runs it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Meter;

#[global_allocator]
static METER: Meter = Meter;

/// The counters of a thread that is ending no longer exist.
fn count(bytes: isize) {
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

#[allow(unsafe_code, reason = "there is no safe way to be the allocator; everything is handed on to the system's")]
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(place, layout) }
    }
}

/// The peak number of bytes that this thread held at once during `act`, beyond those that it held before.
pub fn peak_bytes(act: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    act();
    (PEAK.get() - before).max(0) as usize
}

#[test]
fn what_was_claimed_is_seen_even_if_it_is_given_back() {
    let claim = |bytes: usize| drop(std::hint::black_box(Vec::<u8>::with_capacity(bytes)));
    assert!((1 << 20..2 << 20).contains(&peak_bytes(|| claim(1 << 20))));
    assert!(peak_bytes(|| claim(10)) < 1000);
}
