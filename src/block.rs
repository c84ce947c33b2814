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
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Errno, Error, Result};
use crate::fault;
use crate::quota::{Quota, Share};
use crate::tickets::Ticket;

/// Idle workers kept for the next request that blocks; more than this many end at once.
const IDLE_WORKERS: usize = 4;
/// How long an idle worker stays.
const IDLE_TIME: Duration = Duration::from_secs(2);
/// A worker's stack. Only what it touches is memory. glibc keeps 40 MiB of stacks of ended threads:
/// the larger they are, the fewer are kept with the pages that they have touched.
const STACK: usize = 1024 * 1024;
/// A stack and the page that guards its end.
const STACK_MAPPINGS: usize = 2;
/// As many workers leave enough memory behind for the heap to be trimmed.
const CROWD: usize = 64;
/// The kernel's request ids are even and count up from 0; those of work that no request asked for
/// begin here.
const INTERNAL: u64 = 1 << 63;
/// The pause between two signals to the same worker.
const REPEAT: Duration = Duration::from_millis(1);

/// A request that a worker is busy with.
#[derive(Debug)]
pub struct Flight {
    /// When it began to wait.
    since: Instant,
    /// The worker's thread id, 0 while it has none.
    tid: AtomicI32,
    /// 0: going on. -1: answered. Else the errno that it is to be ended with.
    state: AtomicI32,
    /// What it waits for, if that is an object.
    errand: Option<Errand>,
    /// Its share of what its user may have waiting, and of the daemon's memory for its stack.
    _share: Option<(Option<Share>, Share)>,
}

impl Flight {
    fn new(errand: Option<Errand>, share: Option<(Option<Share>, Share)>) -> Self {
        let (tid, state) = (AtomicI32::new(0), AtomicI32::new(Self::GOING));
        Self { since: Instant::now(), tid, state, errand, _share: share }
    }
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
    /// The place that its request has among those who wait.
    static PLACE: RefCell<Option<Ticket>> = const { RefCell::new(None) };
}

/// To be called by a worker whose request has a place already.
pub fn bring(place: Option<Ticket>) {
    PLACE.set(place);
}

/// The place that this thread's request has among those who wait, if it has one.
pub fn place() -> Option<Ticket> {
    PLACE.take()
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
    /// How long a request may wait before it is answered with `EAGAIN`.
    patience: Option<Duration>,
}

impl Blocker {
    /// With what each user may have waiting, and for how long, if not as long as it takes.
    pub fn new(quota: Arc<Quota>, patience: Option<Duration>) -> Self {
        sys::install_signal();
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            wake_canceller: Condvar::new(),
            internal: AtomicU64::new(INTERNAL),
            workers: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            quota,
            patience,
        }
    }

    /// Starts the thread that ends waits. Without it nothing could be cancelled, so that this is
    /// done before anything waits; `EAGAIN` where no thread is to be had.
    pub fn start_canceller(self: &Arc<Self>) -> Result<()> {
        let me = Arc::clone(self);
        let thread = std::thread::Builder::new().name("canceller".into()).stack_size(STACK);
        thread.spawn(move || me.cancel_until_done()).map_err(Error::from)?;
        Ok(())
    }

    /// One without limits, as it works in the daemon.
    #[cfg(test)]
    #[allow(clippy::missing_panics_doc)]
    pub fn for_tests() -> Arc<Self> {
        let blocker = Arc::new(Self::new(Quota::unlimited(), None));
        blocker.start_canceller().unwrap();
        blocker
    }

    /// What each user may have waiting.
    pub fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }

    /// Has a worker do `work`, which `cancel(id, ..)` ends, for the user `uid`, of whose share of
    /// what may be waiting it takes one; `errand` says what is being waited for
    /// ([`Blocker::errands`]), if it waits for an object at all.
    ///
    /// Fails with `EAGAIN` where no thread is to be had or the user has too many requests waiting,
    /// `work` having been dropped; with `ECONNABORTED` after [`Blocker::close`].
    pub fn submit(
        self: &Arc<Self>,
        id: u64,
        uid: u32,
        errand: Option<Errand>,
        work: impl FnOnce(&Flight) + Send + 'static,
    ) -> Result<()> {
        let no_stack = |error: Error| match error.what() {
            Some(what) => Error::because(Errno::EAGAIN, what),
            None => Error::new(Errno::EAGAIN),
        };
        let stack = Quota::mappings().take_many(uid, STACK_MAPPINGS).map_err(no_stack)?;
        // A request that only takes its time waits for nobody.
        let waits = errand.is_some() || id >= INTERNAL;
        let waiting = waits.then(|| self.quota.take(uid)).transpose()?;
        self.start(id, Flight::new(errand, Some((waiting, stack))), work)
    }

    /// Has a worker do what nobody waits for.
    pub fn later(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        let _ = self.start(self.internal_id(), Flight::new(None, None), |_| work());
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
        self.wake_canceller.notify_one();
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
        self.wake_canceller.notify_one();
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
            drop(place());
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

    /// Signals each cancelled worker again and again until it has answered, and cancels those that
    /// have waited for too long.
    fn cancel_until_done(self: Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            state.cancelled.retain(|flight| !flight.is_done());
            match (state.cancelled.is_empty(), self.patience) {
                (false, _) => drop(self.wake_canceller.wait_for(&mut state, REPEAT)),
                (true, Some(patience)) => {
                    let pause = patience.div_f64(8.0).max(REPEAT);
                    self.wake_canceller.wait_for(&mut state, pause);
                    let late: Vec<_> = state.late(patience).collect();
                    for flight in &late {
                        flight.cancel(Errno::EAGAIN);
                    }
                    state.cancelled.extend(late);
                }
                (true, None) => self.wake_canceller.wait(&mut state),
            }
            for flight in &state.cancelled {
                flight.signal();
            }
        }
    }
}

impl State {
    /// The kernel's requests that have waited for longer than this and have not been cancelled.
    fn late(&self, patience: Duration) -> impl Iterator<Item = Arc<Flight>> {
        let late = move |(id, flight): &(&u64, &Arc<Flight>)| {
            **id < INTERNAL && flight.cancelled().is_none() && flight.since.elapsed() > patience
        };
        self.flights.iter().filter(late).map(|(_, flight)| Arc::clone(flight))
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
        let blocker = Blocker::for_tests();
        for round in 0..200 {
            let (reader, _writer) = nix::unistd::pipe().unwrap();
            let (send, receive) = mpsc::channel();
            blocker
                .submit(round, 0, None, move |flight| {
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
    fn what_waits_for_too_long_is_told_so() {
        let blocker = Arc::new(Blocker::new(Quota::unlimited(), Some(Duration::from_millis(50))));
        blocker.start_canceller().unwrap();
        let (send, receive) = mpsc::channel();
        for id in [2, INTERNAL] {
            let (reader, writer) = nix::unistd::pipe().unwrap();
            let send = send.clone();
            blocker
                .submit(id, 0, None, move |flight| {
                    let _open = writer;
                    let outcome = flight.until_cancelled(|| blocked_read(&reader));
                    send.send((id, outcome.unwrap_err().errno())).unwrap();
                })
                .unwrap();
        }
        let next = || receive.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(next(), (2, Errno::EAGAIN));
        assert!(receive.recv_timeout(Duration::from_millis(200)).is_err(), "that is no request");
        blocker.close();
        assert_eq!(next(), (INTERNAL, Errno::ECONNABORTED));
    }

    #[test]
    fn closing_ends_all_and_refuses_more() {
        let blocker = Blocker::for_tests();
        let (send, receive) = mpsc::channel();
        for id in 0..20 {
            let send = send.clone();
            let (reader, writer) = nix::unistd::pipe().unwrap();
            blocker
                .submit(id, 0, None, move |flight| {
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
        assert_eq!(blocker.submit(99, 0, None, |_| ()).unwrap_err().errno(), Errno::ECONNABORTED);
    }

    #[test]
    fn a_panic_ends_the_request_and_not_the_worker_pool() {
        let blocker = Blocker::for_tests();
        blocker.submit(1, 0, None, |_| panic!("on purpose")).unwrap();
        let (send, receive) = mpsc::channel();
        blocker.submit(2, 0, None, move |_| send.send(()).unwrap()).unwrap();
        receive.recv_timeout(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn an_unknown_request_is_not_cancelled() {
        assert!(!Blocker::for_tests().cancel(7, Errno::EINTR));
    }
}
