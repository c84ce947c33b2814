//! Keeping the daemon small, and freeing what is large where nobody waits for it.

use crate::monitor;

/// As much shared memory, in bytes, takes the kernel a millisecond or two to free, and several times
/// that where many do so at a time: for longer no request is to be kept waiting by another.
pub const HEAVY: u64 = 16 << 20;

/// Has a worker drop what may be the last hold on much shared memory, if there is any.
pub fn free_later<T: Send + 'static>(holder: Option<T>) {
    if let (Some(holder), Some(blocker)) = (holder, monitor::get().blocker()) {
        blocker.later(move || drop(holder));
    }
}

#[allow(unsafe_code)]
mod sys {
    /// One heap for all threads: a thousand workers are not to open a heap each (mallopt(3)).
    pub(super) fn one_arena() {
        // SAFETY: mallopt takes two integers; called before there is a second thread.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }

    /// Gives what is free back to the kernel (`malloc_trim(3)`).
    pub(super) fn trim() {
        // SAFETY: malloc_trim may be called at any time by any thread.
        unsafe { libc::malloc_trim(64 * 1024) };
    }
}

/// To be called once at the start.
pub fn keep_small() {
    sys::one_arena();
}

/// To be called when a crowd has left: of workers, of nodes, of names.
pub fn give_back() {
    sys::trim();
}
