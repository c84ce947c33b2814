//! Keeping the daemon small, and freeing what is large where nobody waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// What is large is memory of its own: on the heap a large buffer that is hardly used costs as
    /// much as there was free at its place, which has to be cleared (mallopt(3)).
    pub(super) fn keep_large_apart() {
        const LARGE: i32 = 1 << 20;
        // SAFETY: as above.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }

    /// Gives the whole pages of a buffer back (madvise(2), `MADV_DONTNEED`): they are zeroes then.
    pub(super) fn discard(buffer: &mut [u8]) {
        const PAGE: usize = 4096;
        let ahead = buffer.as_ptr().align_offset(PAGE);
        let Some(length) = buffer.len().checked_sub(ahead) else { return };
        let pages = length / PAGE * PAGE;
        // SAFETY: these pages are the buffer's alone, and bytes may have any value.
        unsafe {
            let start = buffer.as_mut_ptr().add(ahead);
            libc::madvise(start.cast(), pages, libc::MADV_DONTNEED);
        }
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
    sys::keep_large_apart();
    // Of large buffers little is used: a huge page for each would be most of what the daemon has.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Gives back what a buffer takes that nobody needs for now; what is in it is lost.
pub fn discard(buffer: &mut [u8]) {
    sys::discard(buffer);
}

/// To be called when a crowd has left: of workers, of nodes, of names.
pub fn give_back() {
    sys::trim();
}

/// To be told of what has been freed of that which a user can have much of: after enough of it, a
/// worker gives it back to the kernel. The heap is locked for as long, so it is done piece by piece.
pub fn freed(bytes: usize) {
    static FREED: AtomicUsize = AtomicUsize::new(0);
    const ENOUGH: usize = 4 << 20;
    if FREED.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) < ENOUGH {
        return;
    }
    FREED.store(0, Ordering::Relaxed);
    give_back_soon();
}

/// Has a worker give back what is free.
pub fn give_back_soon() {
    if let Some(blocker) = monitor::get().blocker() {
        blocker.later(give_back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_discarded_is_zeroes_and_its_surroundings_are_as_they_were() {
        let mut bytes = vec![7_u8; 64 * 4096];
        discard(&mut bytes[100..63 * 4096]);
        assert!(bytes[..100].iter().chain(&bytes[63 * 4096..]).all(|byte| *byte == 7));
        assert_eq!(bytes[32 * 4096], 0);
        discard(&mut bytes[..10]);
        discard(&mut []);
    }
}
