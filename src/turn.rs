//! One at a time, for those who may have to wait long: a lock whose wait a signal ends.
//!
//! A worker that waits for an ordinary mutex cannot be cancelled ([`crate::block`]). Whoever waits
//! for their turn here gets `EINTR` like in any other system call.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

pub(crate) use self::sys::{wait_while, wake_one};
use crate::error::{Errno, Result, fail};
use crate::kind::shared::Shared;
use crate::vfs::Wait;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Taken, and somebody may be waiting.
const AWAITED: u32 = 2;

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct Turn(AtomicU32);

/// It is the holder's turn until this is dropped.
#[derive(Debug)]
pub struct Held<'a>(&'a AtomicU32);

/// Whose turn it is among the requests of one user that take long.
pub fn of_user(uid: u32) -> Arc<Turn> {
    static TURNS: OnceLock<Shared<u32, Turn>> = OnceLock::new();
    TURNS.get_or_init(Shared::default).get_or(uid, Turn::default(), |_| true)
}

impl Turn {
    /// Waits for the turn. `EAGAIN` if it is somebody else's and `wait` forbids to wait; `EINTR`
    /// after a signal.
    pub fn take(&self, wait: Wait) -> Result<Held<'_>> {
        let word = &self.0;
        if word.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Ok(Held(word));
        }
        if wait == Wait::Try {
            return fail(Errno::EAGAIN);
        }
        while word.swap(AWAITED, Ordering::Acquire) != FREE {
            sys::wait_while(word, AWAITED)?;
        }
        Ok(Held(word))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.0.swap(FREE, Ordering::Release) == AWAITED {
            sys::wake_one(self.0);
        }
    }
}

#[allow(unsafe_code)]
mod sys {
    use std::sync::atomic::AtomicU32;

    use crate::error::Errno;

    /// Waits as long as the word has this value, unless woken; `EINTR` after a signal.
    pub(crate) fn wait_while(word: &AtomicU32, value: u32) -> Result<(), Errno> {
        let none = std::ptr::null::<libc::timespec>();
        let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word outlives the call; the kernel only reads it.
        let done = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), wait, value, none) };
        match Errno::result(done) {
            // It has changed before the wait began.
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Wakes one who waits for the word.
    pub(crate) fn wake_one(word: &AtomicU32) {
        let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the kernel uses the address to find who waits and does not touch the word.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), wake, 1) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::block::Blocker;

    #[test]
    fn a_taken_turn_is_refused_to_who_may_not_wait() {
        let turn = Turn::default();
        let held = turn.take(Wait::Try).unwrap();
        assert_eq!(turn.take(Wait::Try).unwrap_err().errno(), Errno::EAGAIN);
        drop(held);
        assert!(turn.take(Wait::Try).is_ok());
    }

    #[test]
    fn the_wait_for_a_turn_ends_when_it_is_cancelled() {
        let blocker = Blocker::for_tests();
        let turn = Arc::new(Turn::default());
        let held = turn.take(Wait::Try).unwrap();
        let (send, receive) = mpsc::channel();
        let waiting = Arc::clone(&turn);
        blocker
            .submit(1, 0, None, move |flight| {
                let outcome = flight.until_cancelled(|| waiting.take(Wait::Block).map(drop));
                send.send(outcome.unwrap_err().errno()).unwrap();
            })
            .unwrap();
        assert!(blocker.cancel(1, Errno::EINTR));
        let errno = receive.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(errno, Errno::EINTR);
        drop(held);
    }

    #[test]
    fn each_gets_a_turn_and_nobody_two_at_once() {
        let turn = Turn::default();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let held = turn.take(Wait::Block).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
    }
}
