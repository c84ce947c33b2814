//! Who came first is served first: a queue of waiting workers.
//!
//! The kernel's own queues serve whoever asks at the right moment. Where the order matters, one
//! worker at a time, the first of the queue, waits in the kernel; the others wait here for their
//! turn. A signal ends that wait as it ends a system call.
//!
//! A place is taken by the request loop, in which requests come in their order, and goes along to the
//! worker ([`Error::in_turn`](crate::error::Error::in_turn), [`block::place`]): workers begin in any.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::block;
use crate::error::{Errno, Result};

const WAITING: u32 = 0;
const FIRST: u32 = 1;

/// The queue.
#[derive(Clone, Debug, Default)]
pub struct Tickets {
    waiting: Arc<Mutex<VecDeque<Arc<AtomicU32>>>>,
}

impl Tickets {
    /// Whether nobody has a place.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// How many wait, the first one included.
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Takes the last place.
    pub fn draw(&self) -> Ticket {
        let mut waiting = self.waiting.lock();
        let state = if waiting.is_empty() { FIRST } else { WAITING };
        let turn = Arc::new(AtomicU32::new(state));
        waiting.push_back(Arc::clone(&turn));
        Ticket { queue: self.clone(), turn, kept: None }
    }
}

/// A place in the queue, which is left when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    queue: Tickets,
    turn: Arc<AtomicU32>,
    /// What the queue belongs to.
    #[allow(dead_code)] // It is kept.
    kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl Ticket {
    /// The same, which keeps what its queue belongs to as long as it lives, so that whoever comes next
    /// finds that queue.
    #[must_use]
    pub fn keeping(mut self, kept: Arc<dyn Any + Send + Sync>) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Waits until this is the first; `EINTR` if the request is cancelled.
    pub fn wait(&self) -> Result<()> {
        while self.turn.load(Ordering::SeqCst) == WAITING {
            if sys::wait(&self.turn, WAITING) == Err(Errno::EINTR) && block::cancelled() {
                return Err(Errno::EINTR.into());
            }
        }
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting.lock();
        waiting.retain(|turn| !Arc::ptr_eq(turn, &self.turn));
        if let Some(first) = waiting.front() {
            if first.swap(FIRST, Ordering::SeqCst) == WAITING {
                sys::wake(first);
            }
        }
    }
}

#[allow(unsafe_code)]
mod sys {
    use std::sync::atomic::AtomicU32;

    use crate::error::Errno;

    /// Waits while `word` is `value` (futex(2)); unlike a condition variable's, this wait ends with
    /// `EINTR` on a signal.
    pub(super) fn wait(word: &AtomicU32, value: u32) -> Result<(), Errno> {
        // SAFETY: the word outlives the call; no timeout, no second word.
        let done = unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
                value,
                std::ptr::null::<libc::timespec>(),
                std::ptr::null::<u32>(),
                libc::FUTEX_BITSET_MATCH_ANY,
            )
        };
        Errno::result(done).map(drop)
    }

    /// Ends the wait of whoever waits for `word`.
    pub(super) fn wake(word: &AtomicU32) {
        let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: as above.
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
    fn turns_come_in_the_order_of_the_tickets() {
        let tickets = Tickets::default();
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let first = tickets.draw();
            first.wait().unwrap();
            for number in 0..20 {
                let (drawn, is_drawn) = mpsc::channel();
                let (tickets, order) = (&tickets, &order);
                scope.spawn(move || {
                    let ticket = tickets.draw();
                    drawn.send(()).unwrap();
                    ticket.wait().unwrap();
                    order.lock().push(number);
                });
                is_drawn.recv().unwrap();
            }
            assert!(order.lock().is_empty());
            drop(first);
        });
        assert_eq!(order.into_inner(), (0..20).collect::<Vec<_>>());
        assert!(tickets.is_empty());
    }

    #[test]
    fn a_cancelled_wait_leaves_the_queue_and_the_next_moves_up() {
        let tickets = Arc::new(Tickets::default());
        let blocker = Blocker::for_tests();
        let (send, outcomes) = mpsc::channel();
        let first = tickets.draw();
        for id in [1, 2] {
            let (tickets, send) = (Arc::clone(&tickets), send.clone());
            let (drawn, is_drawn) = mpsc::channel();
            blocker
                .submit(id, 0, None, move |flight| {
                    let outcome = flight.until_cancelled(|| {
                        let ticket = tickets.draw();
                        drawn.send(()).unwrap();
                        ticket.wait()
                    });
                    send.send((id, outcome.is_ok())).unwrap();
                })
                .unwrap();
            is_drawn.recv().unwrap();
        }
        blocker.cancel(1, Errno::EINTR);
        let next = || outcomes.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(next(), (1, false));
        drop(first);
        assert_eq!(next(), (2, true));
    }
}
