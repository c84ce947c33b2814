//! Waiting for a queue to become ready, of which the kernel has no way of telling: System V queues
//! have no descriptor.
//!
//! A blocked `msgrcv(2)` would tell at once, but take an empty message, and there is none that
//! waits for room without sending. So one of those who wait asks the kernel every [`INTERVAL`] how
//! many messages all queues have together, and if that has changed looks at the queues that somebody
//! waits for, which takes nothing from them; the others sleep. What leaves the sum as it was is noticed
//! as well: every other time the queues are looked at in any case, if there are messages. While nobody
//! waits, nobody looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Errno, Result};
use crate::turn::{wait_while, wake_one};

/// How long it takes, as a rule, until a message or room is noticed.
pub const INTERVAL: Duration = Duration::from_millis(5);
/// The same for each who waits, if that is more: all of it takes under 1 % of a processor.
const EACH: Duration = Duration::from_micros(90);
/// After so many intervals the queues are looked at though the sum is as it was: one message may have
/// come and another one gone.
const LEAST: u32 = 2;
/// The same where there is no message at all: only a queue's capacity may have changed.
const LEAST_EMPTY: u32 = 20;
/// What is waited for each system call that a look took: to find out whether there is a message of
/// a type, the whole queue may have to be copied.
const REST: Duration = Duration::from_micros(150);

/// What a look at a queue has found.
pub struct Look {
    /// Whether the wait is over.
    pub ready: bool,
    /// How many system calls that took.
    pub cost: u32,
}

/// Somebody who waits.
struct Waiter {
    /// Whether what it waits for is there.
    look: Box<dyn Fn() -> Look + Send + Sync>,
    state: AtomicU32,
    /// When it is to be looked at again.
    next: Mutex<Instant>,
}

impl Waiter {
    const ASLEEP: u32 = 0;
    /// It is to look for all.
    const LEADING: u32 = 1;
    /// What it waits for may be there.
    const READY: u32 = 2;

    /// Looks, if it is time to.
    fn is_ready(&self, now: Instant) -> bool {
        let mut next = self.next.lock();
        if now < *next {
            return false;
        }
        let Look { ready, cost } = (self.look)();
        *next = now + REST * cost;
        ready
    }

    fn turn(&self, state: u32) {
        self.state.store(state, Ordering::SeqCst);
        wake_one(&self.state);
    }
}

/// How many queues there are, and messages and bytes in all of them.
pub type Sum = [i32; 3];

/// How many intervals it is since all queues were looked at, and what the sum was before.
#[derive(Default)]
struct Last {
    intervals: u32,
    sum: Option<Sum>,
}

/// All who wait.
pub struct Watch {
    waiters: Mutex<Vec<Arc<Waiter>>>,
    sum: fn() -> Option<Sum>,
    last: Mutex<Last>,
}

impl Watch {
    /// Nobody yet. `sum` asks the kernel.
    pub fn new(sum: fn() -> Option<Sum>) -> Self {
        Self { waiters: Mutex::default(), sum, last: Mutex::default() }
    }

    /// Waits until `look` says so; `EINTR` after a signal.
    pub fn wait(&self, look: impl Fn() -> Look + Send + Sync + 'static) -> Result<()> {
        let state = AtomicU32::new(Waiter::ASLEEP);
        let next = Mutex::new(Instant::now());
        let me = Arc::new(Waiter { look: Box::new(look), state, next });
        {
            let mut waiters = self.waiters.lock();
            if waiters.is_empty() {
                me.turn(Waiter::LEADING);
            }
            waiters.push(Arc::clone(&me));
        }
        let outcome = loop {
            let result = match me.state.load(Ordering::SeqCst) {
                Waiter::ASLEEP => wait_while(&me.state, Waiter::ASLEEP),
                Waiter::LEADING => self.look(),
                _ => break Ok(()),
            };
            if let Err(errno) = result {
                break Err(errno.into());
            }
        };
        self.leave(&me);
        outcome
    }

    /// Sleeps for an interval and wakes those whose wait is over.
    fn look(&self) -> std::result::Result<(), Errno> {
        let waiting = self.waiters.lock().len() as u32;
        sys::pause(INTERVAL.max(EACH * waiting))?;
        let sum = (self.sum)();
        {
            let mut last = self.last.lock();
            last.intervals += 1;
            let least =
                if sum.is_some_and(|[_, messages, _]| messages == 0) { LEAST_EMPTY } else { LEAST };
            if sum.is_some() && sum == last.sum && last.intervals < least {
                return Ok(());
            }
            *last = Last { intervals: 0, sum };
        }
        let (all, now) = (self.waiters.lock().clone(), Instant::now());
        for waiter in all.iter().filter(|waiter| waiter.is_ready(now)) {
            waiter.turn(Waiter::READY);
        }
        Ok(())
    }

    /// Takes one out, and hands on the lead if it had it.
    fn leave(&self, me: &Arc<Waiter>) {
        let mut waiters = self.waiters.lock();
        let led = waiters.first().is_some_and(|first| Arc::ptr_eq(first, me));
        waiters.retain(|waiter| !Arc::ptr_eq(waiter, me));
        // The first one leads; whoever is ready leaves by itself, and hands on in its turn.
        if let (true, Some(next)) = (led, waiters.first()) {
            let asleep = Waiter::ASLEEP;
            let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
            if next.state.compare_exchange(asleep, Waiter::LEADING, success, failure).is_ok() {
                wake_one(&next.state);
            }
        }
    }
}

#[allow(unsafe_code)]
mod sys {
    use std::time::Duration;

    use crate::error::Errno;

    /// Sleeps for a while; `EINTR` after a signal.
    pub(super) fn pause(time: Duration) -> Result<(), Errno> {
        let time = libc::timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        // SAFETY: the time outlives the call; the remainder is not asked for.
        Errno::result(unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    #[test]
    fn each_is_woken_when_its_own_wait_is_over_whoever_leads() {
        let watch = Arc::new(Watch::new(|| Some([1; 3])));
        let flags: Vec<_> = (0..20).map(|_| Arc::new(AtomicBool::new(false))).collect();
        let (send, receive) = mpsc::channel();
        for (index, flag) in flags.iter().enumerate() {
            let (watch, flag, send) = (Arc::clone(&watch), Arc::clone(flag), send.clone());
            std::thread::spawn(move || {
                watch.wait(move || Look { ready: flag.load(Ordering::SeqCst), cost: 1 }).unwrap();
                send.send(index).unwrap();
            });
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while watch.waiters.lock().len() < flags.len() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        for (index, flag) in flags.iter().enumerate() {
            flag.store(true, Ordering::SeqCst);
            assert_eq!(receive.recv_timeout(Duration::from_secs(10)).unwrap(), index);
        }
        assert!(watch.waiters.lock().is_empty());
    }

    #[test]
    fn a_signal_ends_the_wait_and_the_lead_goes_on() {
        use crate::block::Blocker;
        let (watch, blocker) = (Arc::new(Watch::new(|| None)), Blocker::for_tests());
        let flag = Arc::new(AtomicBool::new(false));
        let (send, receive) = mpsc::channel();
        for id in 0..2 {
            let (watch, flag, send) = (Arc::clone(&watch), Arc::clone(&flag), send.clone());
            blocker
                .submit(id, 0, None, move |flight| {
                    let outcome = flight.until_cancelled(|| {
                        let flag = Arc::clone(&flag);
                        watch.wait(move || Look { ready: flag.load(Ordering::SeqCst), cost: 1 })
                    });
                    send.send((id, outcome.map_err(|error| error.errno()))).unwrap();
                })
                .unwrap();
        }
        let wait = Duration::from_secs(10);
        assert!(blocker.cancel(0, Errno::EINTR));
        assert_eq!(receive.recv_timeout(wait).unwrap(), (0, Err(Errno::EINTR)));
        flag.store(true, Ordering::SeqCst);
        assert_eq!(receive.recv_timeout(wait).unwrap(), (1, Ok(())));
    }
}
