//! Where a controlled scheduler may let another CPU run: every place at which CPUs meet (locks, words
//! of the frame table) tells the hook of its thread first. The machine's own traits tell the rest.
//! Without a hook nothing happens.

use core::cell::Cell;
use core::sync::atomic::AtomicU64;

/// A place between two steps of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// About to take a lock of this rank, see [`crate::lock`].
    Lock(u8),
    /// The lock is somebody else's: the CPU waits.
    Waiting,
    /// About to read `count` words of the frame table, the first at this address.
    Read(usize, usize),
    /// About to change the word of the frame table at this address: a compare-and-swap or a store.
    Write(usize),
}

std::thread_local! {
    static HOOK: Cell<Option<fn(Point)>> = const { Cell::new(None) };
}

/// Sets the hook of this thread.
pub fn set(hook: Option<fn(Point)>) {
    HOOK.set(hook);
}

/// Tells the hook; false if there is none.
pub fn point(point: Point) -> bool {
    HOOK.get().is_some_and(|hook| {
        hook(point);
        true
    })
}

/// [`Point::Read`] of these words.
pub(crate) fn read(words: &[AtomicU64]) {
    point(Point::Read(words.as_ptr().addr(), words.len()));
}

/// [`Point::Write`] of this word.
pub(crate) fn write(word: &AtomicU64) {
    point(Point::Write(core::ptr::from_ref(word).addr()));
}

/// Takes a lock of `rank` by `try_lock`, under the hook. `None` if there is no hook.
pub(crate) fn take<G>(rank: u8, try_lock: impl Fn() -> Option<G>) -> Option<G> {
    if !point(Point::Lock(rank)) {
        return None;
    }
    loop {
        if let Some(guard) = try_lock() {
            return Some(guard);
        }
        point(Point::Waiting);
    }
}
