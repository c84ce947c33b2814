//! What a process has closed is closed for whatever it does next.
//!
//! The kernel does not wait for the answer to `FUSE_RELEASE`, but it puts the request into the queue
//! before close(2) returns, thus ahead of all that the process asks for afterwards. With more than
//! one request loop that order would be lost: `printf x > lines; cat drain` could find nothing. So a
//! loop that has fetched a request waits until the others are done with the releases that they
//! fetched before.
//!
//! Between the moment when a loop takes a release out of the kernel's queue and the moment when it
//! says so, another loop could overtake it. Where the last close matters
//! ([`crate::vfs::Handle::finishes`]), a `FUSE_FLUSH` has announced it, and for a while after that a
//! loop makes sure that the others are really asleep rather than on their way back from the kernel.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

/// How long after a flush its release may be expected: the process that closes is on its way.
const SOON: Duration = Duration::from_millis(100);
/// Nobody waits longer than this for a loop that does not come back: an answer out of order is
/// better than none.
const PATIENCE: Duration = Duration::from_millis(500);

const FUSE_RELEASE: u32 = 18;

/// A request loop.
struct Loop {
    tid: i32,
    /// Odd while it is in the system call that fetches a request, or just back from it. Each fetch
    /// has a number of its own: interrupts are dealt with between two of them.
    fetch: AtomicU64,
}

static LOOPS: RwLock<Vec<Arc<Loop>>> = RwLock::new(Vec::new());
/// Releases that have been fetched and not been dealt with.
static RELEASING: AtomicU32 = AtomicU32::new(0);
/// Until when a release is expected, in milliseconds since the daemon's start; 0 for not at all.
static EXPECTED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static ME: OnceLock<Arc<Loop>> = const { OnceLock::new() };
    static HAS_RELEASE: Cell<bool> = const { Cell::new(false) };
}

fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// A file is being closed whose last close matters.
pub(super) fn expect_release() {
    EXPECTED.store(now() + SOON.as_millis() as u64, Ordering::SeqCst);
}

/// This thread is about to fetch a request, having dealt with the one before.
pub(super) fn before_fetch() {
    if HAS_RELEASE.take() {
        RELEASING.fetch_sub(1, Ordering::SeqCst);
    }
    ME.with(|me| {
        let me = me.get_or_init(|| {
            let tid = nix::unistd::gettid().as_raw();
            let me = Arc::new(Loop { tid, fetch: AtomicU64::new(0) });
            LOOPS.write().push(Arc::clone(&me));
            me
        });
        let fetch = me.fetch.load(Ordering::SeqCst);
        me.fetch.store((fetch + 1) | 1, Ordering::SeqCst);
    });
}

/// This thread has fetched a request: returns when all that was fetched before and must come first
/// has been dealt with.
pub(super) fn after_fetch(opcode: u32) {
    let release = opcode == FUSE_RELEASE;
    if release {
        RELEASING.fetch_add(1, Ordering::SeqCst);
        HAS_RELEASE.set(true);
    }
    ME.with(|me| {
        if let Some(me) = me.get() {
            me.fetch.fetch_add(1, Ordering::SeqCst);
            if !release {
                wait_for_releases(me);
            }
        }
    });
}

fn wait_for_releases(me: &Arc<Loop>) {
    let expected = EXPECTED.load(Ordering::SeqCst);
    let start = Instant::now;
    if expected != 0 {
        if now() > expected {
            let _ = EXPECTED.compare_exchange(expected, 0, Ordering::SeqCst, Ordering::SeqCst);
        } else {
            let begun = start();
            for other in LOOPS.read().iter().filter(|other| !Arc::ptr_eq(other, me)) {
                let fetch = other.fetch.load(Ordering::SeqCst);
                while fetch % 2 == 1
                    && other.fetch.load(Ordering::SeqCst) == fetch
                    && !is_asleep(other.tid)
                    && begun.elapsed() < PATIENCE
                {
                    std::thread::yield_now();
                }
            }
        }
    }
    if RELEASING.load(Ordering::SeqCst) > 0 {
        let begun = start();
        while RELEASING.load(Ordering::SeqCst) > 0 && begun.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }
}

/// Whether a thread waits, rather than runs or is ready to (`/proc/PID/task/TID/stat`).
fn is_asleep(tid: i32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/self/task/{tid}/stat")) else { return true };
    // The name, which is in parentheses, may hold anything.
    let after_name = stat.iter().rposition(|byte| *byte == b')').map(|at| at + 2);
    after_name.and_then(|at| stat.get(at)).is_none_or(|state| matches!(state, b'S' | b'D'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_is_told_from_one_that_runs() {
        assert!(!is_asleep(nix::unistd::gettid().as_raw()));
        let (send, receive) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || {
            send.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = ended.recv();
        });
        let tid = receive.recv().unwrap();
        let begun = Instant::now();
        while !is_asleep(tid) {
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
        drop(end);
        sleeper.join().unwrap();
    }
}
