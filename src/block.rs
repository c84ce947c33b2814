//! All waiting, cancelling and answering late.
//!
//! The request loop tries an operation without waiting. Only what would block is handed to a
//! worker: a thread that makes the blocking call itself, so that the caller waits in the kernel's
//! own queue and its turn comes when it would come in C. A request is cancelled (Ctrl-C, kill) by a
//! signal to its worker, whose system call then ends with `EINTR`. A signal that comes just before
//! the call is lost, so it is repeated until the worker has answered.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{Errno, Error, Result};
use crate::fault;
use crate::quota::{Quota, Share};

/// Idle workers kept for the next request that blocks; more than this many end at once.
const IDLE_WORKERS: usize = 4;
/// How long an idle worker stays.
const IDLE_TIME: Duration = Duration::from_secs(2);
/// A worker's stack. Only what it touches is memory. glibc keeps 40 MiB of stacks of ended threads:
/// the larger they are, the fewer are kept with the pages that they have touched.
const STACK: usize = 1024 * 1024;
/// As many workers leave enough memory behind for the heap to be trimmed.
const CROWD: usize = 64;
/// The pause between two signals to the same worker.
const REPEAT: Duration = Duration::from_millis(1);

/// A request that a worker is busy with.
#[derive(Debug, Default)]
pub struct Flight {
    /// The worker's thread id, 0 while it has none.
    tid: AtomicI32,
    /// 0: going on. -1: answered. Else the errno that it is to be ended with.
    state: AtomicI32,
    /// What it waits for, if that is an object.
    errand: Option<Errand>,
    /// Its share of what its user may have waiting.
    _share: Option<Share>,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errand {
    /// The thread that asked.
    pub pid: u32,
    /// Whose it is.
    pub uid: u32,
    /// The node that it asked about.
    pub node: u64,
    /// Whether it has something to write.
    pub write: bool,
}

impl Flight {
    const GOING: i32 = 0;
    const DONE: i32 = -1;

    /// The errno to end with, if it has been cancelled.
    pub fn cancelled(&self) -> Option<Errno> {
        match self.state.load(Ordering::SeqCst) {
            Self::GOING | Self::DONE => None,
            errno => Some(Errno::from_raw(errno)),
        }
    }

    fn is_done(&self) -> bool {
        self.state.load(Ordering::SeqCst) == Self::DONE
    }

    /// To be called when the request has been answered and there is still something to do: it
    /// cannot be cancelled any more.
    pub fn finish(&self) {
        self.state.store(Self::DONE, Ordering::SeqCst);
    }

    fn cancel(&self, errno: Errno) {
        let _ = self.state.compare_exchange(
            Self::GOING,
            errno as i32,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        self.signal();
    }

    fn signal(&self) {
        let tid = self.tid.load(Ordering::SeqCst);
        if tid != 0 {
            sys::signal_thread(tid);
        }
    }

    /// Repeats `step` over signals that were not meant for it.
    ///
    /// `EINTR` without a cancellation comes from stopping and continuing the daemon.
    pub fn until_cancelled<T>(&self, mut step: impl FnMut() -> Result<T>) -> Result<T> {
        fault::strike(&step, "-late");
        loop {
            if let Some(errno) = self.cancelled() {
                return Err(Error::new(errno));
            }
            match step() {
                Err(error) if error.errno() == Errno::EINTR => {}
                result => return result,
            }
        }
    }
}

thread_local! {
    /// What this thread, a worker, is busy with.
    static CURRENT: RefCell<Option<Arc<Flight>>> = const { RefCell::new(None) };
}

/// Whether the request that this thread works on has been cancelled: what tells `EINTR` by a
/// cancellation from `EINTR` by a stop of the daemon, where the wait is to go on at its place.
pub fn cancelled() -> bool {
    CURRENT.with_borrow(|flight| flight.as_ref().is_some_and(|flight| flight.cancelled().is_some()))
}

type Work = Box<dyn FnOnce(&Flight) + Send>;

struct Job {
    id: u64,
    flight: Arc<Flight>,
    work: Work,
}

#[derive(Default)]
struct State {
    flights: HashMap<u64, Arc<Flight>>,
    queue: VecDeque<Job>,
    idle: usize,
    cancelled: Vec<Arc<Flight>>,
    canceller: bool,
    closed: bool,
}

/// The workers and what they are busy with, by request id.
pub struct Blocker {
    state: Mutex<State>,
    wake: Condvar,
    wake_canceller: Condvar,
    internal: AtomicU64,
    workers: AtomicUsize,
    /// The most workers since there were none.
    peak: AtomicUsize,
    quota: Arc<Quota>,
}

impl Default for Blocker {
    fn default() -> Self {
        Self::new(Quota::unlimited())
    }
}

impl Blocker {
    /// With what each user may have waiting.
    pub fn new(quota: Arc<Quota>) -> Self {
        sys::install_signal();
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            wake_canceller: Condvar::new(),
            // The kernel's request ids are even and count up from 0; these count in the upper half.
            internal: AtomicU64::new(1 << 63),
            workers: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            quota,
        }
    }

    /// What each user may have waiting.
    pub fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }

    /// Has a worker do `work`, which `cancel(id, ..)` ends.
    ///
    /// Fails with `EAGAIN` where no thread is to be had or the user has too many requests waiting,
    /// `work` having been dropped; with
    /// `ECONNABORTED` after [`Blocker::close`].
    pub fn submit(
        self: &Arc<Self>,
        id: u64,
        work: impl FnOnce(&Flight) + Send + 'static,
    ) -> Result<()> {
        self.submit_errand(id, None, work)
    }

    /// As [`Blocker::submit`]; `errand` says what is being waited for ([`Blocker::errands`]).
    pub fn submit_errand(
        self: &Arc<Self>,
        id: u64,
        errand: Option<Errand>,
        work: impl FnOnce(&Flight) + Send + 'static,
    ) -> Result<()> {
        let share = errand.map(|errand| self.quota.take(errand.uid)).transpose()?;
        self.start(id, Flight { errand, _share: share, ..Flight::default() }, work)
    }

    /// As [`Blocker::submit`], for what may wait long although no request does: it counts as one of
    /// the user's that wait.
    pub fn submit_for(
        self: &Arc<Self>,
        uid: u32,
        id: u64,
        work: impl FnOnce(&Flight) + Send + 'static,
    ) -> Result<()> {
        let share = Some(self.quota.take(uid)?);
        self.start(id, Flight { _share: share, ..Flight::default() }, work)
    }

    fn start(
        self: &Arc<Self>,
        id: u64,
        flight: Flight,
        work: impl FnOnce(&Flight) + Send + 'static,
    ) -> Result<()> {
        let flight = Arc::new(flight);
        let job = Job { id, flight: Arc::clone(&flight), work: Box::new(work) };
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Error::new(Errno::ECONNABORTED));
            }
            state.flights.insert(id, flight);
            if state.idle > state.queue.len() {
                state.queue.push_back(job);
                self.wake.notify_one();
                return Ok(());
            }
        }
        let me = Arc::clone(self);
        let thread = std::thread::Builder::new().name("worker".into()).stack_size(STACK);
        if thread.spawn(move || me.worker(job)).is_err() {
            self.state.lock().flights.remove(&id);
            return Err(Error::because(
                Errno::EAGAIN,
                "no thread is to be had for a request that waits; too many are waiting",
            ));
        }
        Ok(())
    }

    /// An id for work that no request asked for.
    pub fn internal_id(&self) -> u64 {
        self.internal.fetch_add(1, Ordering::Relaxed)
    }

    /// Ends the request `id`, if a worker has it, with `errno`. Returns whether one has.
    pub fn cancel(self: &Arc<Self>, id: u64, errno: Errno) -> bool {
        let mut state = self.state.lock();
        let Some(flight) = state.flights.get(&id).cloned() else { return false };
        flight.cancel(errno);
        state.cancelled.push(flight);
        self.start_canceller(&mut state);
        true
    }

    /// Ends all that is waiting with `ECONNABORTED` and refuses what would wait from now on.
    pub fn close(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.closed = true;
        let all: Vec<_> = state.flights.values().cloned().collect();
        for flight in &all {
            flight.cancel(Errno::ECONNABORTED);
        }
        state.cancelled.extend(all);
        self.start_canceller(&mut state);
    }

    /// What is being waited for.
    pub fn errands(&self) -> Vec<Errand> {
        self.state.lock().flights.values().filter_map(|flight| flight.errand).collect()
    }

    /// How many requests are waiting.
    pub fn in_flight(&self) -> usize {
        self.state.lock().flights.len()
    }

    /// How many worker threads there are.
    pub fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    fn worker(self: Arc<Self>, first: Job) {
        sys::accept_signal();
        let workers = self.workers.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(workers, Ordering::Relaxed);
        let tid = nix::unistd::gettid().as_raw();
        let mut next = Some(first);
        while let Some(Job { id, flight, work }) = next.take() {
            flight.tid.store(tid, Ordering::SeqCst);
            CURRENT.set(Some(Arc::clone(&flight)));
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&flight)));
            if outcome.is_err() {
                log::error!("a worker panicked; its request is answered with EIO");
            }
            CURRENT.set(None);
            flight.finish();
            let mut state = self.state.lock();
            state.flights.remove(&id);
            if state.idle < IDLE_WORKERS && !state.closed {
                state.idle += 1;
                if state.queue.is_empty() {
                    self.wake.wait_for(&mut state, IDLE_TIME);
                }
                state.idle -= 1;
                next = state.queue.pop_front();
            }
        }
        if self.workers.fetch_sub(1, Ordering::Relaxed) == 1 {
            let peak = self.peak.swap(0, Ordering::Relaxed);
            if peak > CROWD {
                crate::memory::give_back();
            }
        }
    }

    fn start_canceller(self: &Arc<Self>, state: &mut State) {
        if state.canceller {
            self.wake_canceller.notify_one();
            return;
        }
        let me = Arc::clone(self);
        let thread = std::thread::Builder::new().name("canceller".into()).stack_size(STACK);
        state.canceller = thread.spawn(move || me.cancel_until_done()).is_ok();
    }

    /// Signals each cancelled worker again and again until it has answered.
    fn cancel_until_done(self: Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            state.cancelled.retain(|flight| !flight.is_done());
            if state.cancelled.is_empty() {
                let timed_out = self.wake_canceller.wait_for(&mut state, IDLE_TIME).timed_out();
                if timed_out && state.cancelled.is_empty() {
                    state.canceller = false;
                    return;
                }
            } else {
                self.wake_canceller.wait_for(&mut state, REPEAT);
                for flight in &state.cancelled {
                    flight.signal();
                }
            }
        }
    }
}

#[allow(unsafe_code)]
mod sys {
    /// The signal that ends a worker's system call. Nobody else's business: blocked everywhere but
    /// in workers.
    const CANCEL: i32 = libc::SIGUSR1;

    extern "C" fn nothing(_signal: i32) {}

    /// Installs a handler that does nothing, without `SA_RESTART`: the call ends with `EINTR`.
    pub(super) fn install_signal() {
        // SAFETY: an all-zero sigaction is a valid one (no flags, empty mask), and the handler
        // touches nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
            libc::sigaction(CANCEL, &raw const action, std::ptr::null_mut());
        }
    }

    /// Lets the signal through to this thread.
    pub(super) fn accept_signal() {
        // SAFETY: the set is initialised by sigemptyset before it is read.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, CANCEL);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        }
    }

    /// Sends the signal to a thread of this process; one that has ended meanwhile is no harm.
    pub(super) fn signal_thread(tid: i32) {
        // SAFETY: takes three integers. A thread id is only ever matched within this process.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, CANCEL) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A pipe that nobody writes to, read by a blocking system call: what a worker waits in.
    fn blocked_read(fd: &std::os::fd::OwnedFd) -> Result<usize> {
        let mut byte = [0];
        Ok(nix::unistd::read(fd, &mut byte)?)
    }

    #[test]
    fn a_cancelled_call_ends_with_its_errno_even_when_the_cancellation_is_early() {
        let blocker = Arc::new(Blocker::default());
        for round in 0..200 {
            let (reader, _writer) = nix::unistd::pipe().unwrap();
            let (send, receive) = mpsc::channel();
            blocker
                .submit(round, move |flight| {
                    let outcome = flight.until_cancelled(|| blocked_read(&reader));
                    send.send(outcome.unwrap_err().errno()).unwrap();
                })
                .unwrap();
            assert!(blocker.cancel(round, Errno::EINTR));
            let errno = receive.recv_timeout(Duration::from_secs(5)).unwrap();
            assert_eq!(errno, Errno::EINTR);
        }
    }

    #[test]
    fn closing_ends_all_and_refuses_more() {
        let blocker = Arc::new(Blocker::default());
        let (send, receive) = mpsc::channel();
        for id in 0..20 {
            let send = send.clone();
            let (reader, writer) = nix::unistd::pipe().unwrap();
            blocker
                .submit(id, move |flight| {
                    let _open = writer;
                    let outcome = flight.until_cancelled(|| blocked_read(&reader));
                    send.send(outcome.unwrap_err().errno()).unwrap();
                })
                .unwrap();
        }
        blocker.close();
        for _ in 0..20 {
            let errno = receive.recv_timeout(Duration::from_secs(5)).unwrap();
            assert_eq!(errno, Errno::ECONNABORTED);
        }
        assert_eq!(blocker.submit(99, |_| ()).unwrap_err().errno(), Errno::ECONNABORTED);
    }

    #[test]
    fn a_panic_ends_the_request_and_not_the_worker_pool() {
        let blocker = Arc::new(Blocker::default());
        blocker.submit(1, |_| panic!("on purpose")).unwrap();
        let (send, receive) = mpsc::channel();
        blocker.submit(2, move |_| send.send(()).unwrap()).unwrap();
        receive.recv_timeout(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn an_unknown_request_is_not_cancelled() {
        assert!(!Arc::new(Blocker::default()).cancel(7, Errno::EINTR));
    }
}
