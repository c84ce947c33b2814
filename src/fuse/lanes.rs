//! Who fetches requests, and who waits for whom.
//!
//! One thread fetches requests and handles each before it fetches the next: that is the fastest way,
//! as nothing that a handler does should take long. Now and then something does all the same: a call
//! on a file in /dev/shm waits for a lock of that file's, which any user may hold for as long as they
//! like; a table with a million entries grows. No list of such cases is complete. So a watchdog looks
//! whether the thread is still busy with the same request after [`TICK`], and if so has another one
//! fetch from then on. The user whose request it was gets a lane of their own for a while: their next
//! requests are handled by one thread, one after the other, and nobody else waits for those.
//!
//! ```text
//! kernel --> the one who fetches --> handles it            (the usual case)
//!                   |
//!                   `--> the user's lane, if they have one --> a thread of that lane handles it
//! ```
//!
//! Threads that neither fetch nor have a lane stand by. There are [`THREADS`] in all; one user keeps at
//! most two of them.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Errno;

/// How many threads there are.
pub const THREADS: usize = 16;
/// The watchdog's interval: a request is let go on for one to two of them before another thread
/// fetches.
const TICK: Duration = Duration::from_millis(2);
/// After so many intervals without a request the watchdog sleeps until there is one.
const QUIET: u32 = 50;
/// How long a user keeps a lane after the last request that has taken long.
const LANE: Duration = Duration::from_millis(200);
/// The most that waits in a lane, in requests and in bytes; beyond that the answer is `EAGAIN`.
const LONGEST: usize = 16_384;
const LARGEST: usize = 64 << 20;

/// A request's header, as far as it matters here (linux/fuse.h, `fuse_in_header`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked for.
    pub opcode: u32,
    /// The request's id.
    pub unique: u64,
    /// Who asks.
    pub uid: u32,
}

impl Header {
    /// The length of the whole header in bytes.
    pub const SIZE: usize = 40;

    /// The header that a request begins with, if it has one.
    pub fn of(request: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(request.get(at..at + 4)?.try_into().ok()?));
        let unique = u64::from_ne_bytes(request.get(8..16)?.try_into().ok()?);
        Some(Self { opcode: word(4)?, unique, uid: word(24)? })
    }

    /// Whether it is about the connection or what the kernel has forgotten, and no user's.
    fn is_nobodys(self) -> bool {
        const FORGET: u32 = 2;
        const INIT: u32 = 26;
        const DESTROY: u32 = 38;
        const NOTIFY_REPLY: u32 = 41;
        const BATCH_FORGET: u32 = 42;
        matches!(self.opcode, FORGET | INIT | DESTROY | NOTIFY_REPLY | BATCH_FORGET)
    }

    /// Whether it has to be handled, whatever becomes of the answer.
    fn is_close(self) -> bool {
        const RELEASE: u32 = 18;
        const RELEASEDIR: u32 = 29;
        matches!(self.opcode, RELEASE | RELEASEDIR)
    }
}

/// Where requests come from and answers go.
pub trait Device {
    /// Fetches a request into `buffer`; blocks until there is one.
    fn fetch(&self, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Answers a request with an errno alone.
    fn refuse(&self, unique: u64, errno: Errno);

    /// Looks at a request that is no user's matter; `true` if it has been seen to.
    fn inspect(&self, request: &[u8]) -> bool;
}

/// What a thread is busy with.
#[derive(Clone, Copy, Default)]
enum Busy {
    /// Nothing.
    #[default]
    Idle,
    /// With a request that it has fetched, as long as the pulse has this value.
    Fetched { pulse: u64, unique: u64 },
    /// With a request of a lane.
    InLane { uid: u32, unique: u64 },
}

thread_local! {
    static BUSY: Cell<Busy> = const { Cell::new(Busy::Idle) };
}

/// A user's requests that wait for each other.
struct Lane {
    waiting: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    /// Whether a thread is at one of them.
    busy: bool,
    until: Instant,
}

impl Lane {
    fn new() -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, busy: false, until: Instant::now() + LANE }
    }
}

#[derive(Default)]
struct Table {
    /// Nobody fetches.
    vacant: bool,
    lanes: HashMap<u32, Lane>,
    /// Users in whose lane something waits and nobody is at it.
    ready: VecDeque<u32>,
    /// What has been taking long and goes on, with whose it is.
    late: HashMap<u64, u32>,
    /// Interrupts of requests that are being handled, for the case that these begin to wait.
    interrupted: Vec<u64>,
    /// Those who stand by. The last one is woken first, so that as few as possible have memory that
    /// they have used once.
    standby: Vec<Thread>,
}

impl Table {
    /// Wakes one who stands by, since there is something to do.
    fn wake(&mut self) {
        if let Some(thread) = self.standby.pop() {
            thread.unpark();
        }
    }
}

/// The threads and what they are at.
pub struct Lanes {
    /// Even: a request is being fetched. Odd: the last one is being handled. It never has the same
    /// value twice.
    pulse: AtomicU64,
    /// Whose request that is, and which.
    uid: AtomicU32,
    unique: AtomicU64,
    /// 1: the watchdog sleeps.
    asleep: AtomicU32,
    /// How many lanes and late requests there are.
    unusual: AtomicUsize,
    table: Mutex<Table>,
}

/// What one who stood by is to do.
enum Call {
    /// Fetch; the pulse's value.
    Fetch(u64),
    /// Handle this request, which is in the buffer.
    Handle(usize),
}

impl Lanes {
    fn new() -> Self {
        Self {
            pulse: AtomicU64::new(0),
            uid: AtomicU32::new(0),
            unique: AtomicU64::new(0),
            asleep: AtomicU32::new(0),
            unusual: AtomicUsize::new(0),
            table: Mutex::new(Table { vacant: true, ..Table::default() }),
        }
    }

    /// Those of the mount.
    pub fn get() -> &'static Self {
        static LANES: OnceLock<Lanes> = OnceLock::new();
        LANES.get_or_init(Self::new)
    }

    /// The next request that this thread is to handle, the one before being done.
    pub fn next(&self, device: &impl Device, buffer: &mut [u8]) -> Result<usize, Errno> {
        let fetching = match BUSY.take() {
            Busy::Idle => None,
            Busy::Fetched { pulse, unique } => {
                let next = pulse + 1;
                let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
                let goes_on = self.pulse.compare_exchange(pulse, next, success, failure).is_ok();
                if !goes_on {
                    // The watchdog has had another one fetch.
                    self.end(unique, None);
                }
                goes_on.then_some(next)
            }
            Busy::InLane { uid, unique } => {
                self.end(unique, Some(uid));
                None
            }
        };
        let pulse = match fetching {
            Some(pulse) => pulse,
            None => match self.stand_by(buffer) {
                Call::Fetch(pulse) => pulse,
                Call::Handle(length) => return Ok(length),
            },
        };
        loop {
            let length = match device.fetch(buffer) {
                Ok(length) => length,
                Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => continue,
                Err(errno) => {
                    // The others are to find that out, too.
                    let mut table = self.table.lock();
                    table.vacant = true;
                    table.wake();
                    return Err(errno);
                }
            };
            let request = &buffer[..length];
            if device.inspect(request) {
                continue;
            }
            let Some(header) = Header::of(request) else { return Ok(length) };
            let unusual = self.unusual.load(Ordering::Relaxed) > 0 && !header.is_nobodys();
            if unusual && self.queue(device, header, request) {
                continue;
            }
            self.uid.store(header.uid, Ordering::Relaxed);
            self.unique.store(header.unique, Ordering::Relaxed);
            BUSY.set(Busy::Fetched { pulse: pulse + 1, unique: header.unique });
            self.pulse.store(pulse + 1, Ordering::SeqCst);
            if self.asleep.load(Ordering::SeqCst) == 1 {
                self.asleep.store(0, Ordering::SeqCst);
                crate::turn::wake_one(&self.asleep);
            }
            return Ok(length);
        }
    }

    /// Waits until there is something to do.
    fn stand_by(&self, buffer: &mut [u8]) -> Call {
        let me = std::thread::current();
        // It may be long until it is used again.
        crate::memory::discard(buffer);
        loop {
            let mut table = self.table.lock();
            table.standby.retain(|thread| thread.id() != me.id());
            if table.vacant {
                table.vacant = false;
                if !table.ready.is_empty() {
                    table.wake();
                }
                // Nobody else writes it now: it is even, and the watchdog leaves it alone.
                return Call::Fetch(self.pulse.load(Ordering::SeqCst));
            }
            while let Some(uid) = table.ready.pop_front() {
                let Some(lane) = table.lanes.get_mut(&uid).filter(|lane| !lane.busy) else {
                    continue;
                };
                let Some((unique, request)) = lane.waiting.pop_front() else { continue };
                lane.bytes -= request.len();
                lane.busy = true;
                table.late.insert(unique, uid);
                if !table.ready.is_empty() {
                    table.wake();
                }
                self.count(&table);
                drop(table);
                buffer[..request.len()].copy_from_slice(&request);
                BUSY.set(Busy::InLane { uid, unique });
                return Call::Handle(request.len());
            }
            table.standby.push(me.clone());
            drop(table);
            std::thread::park();
        }
    }

    /// Puts a request into its user's lane, if they have one.
    fn queue(&self, device: &impl Device, header: Header, request: &[u8]) -> bool {
        let mut table = self.table.lock();
        let Some(lane) = table.lanes.get_mut(&header.uid) else { return false };
        let full = lane.waiting.len() >= LONGEST || lane.bytes + request.len() > LARGEST;
        if full && !header.is_close() {
            drop(table);
            device.refuse(header.unique, Errno::EAGAIN);
            return true;
        }
        lane.bytes += request.len();
        lane.waiting.push_back((header.unique, request.to_vec()));
        if !lane.busy && lane.waiting.len() == 1 {
            table.ready.push_back(header.uid);
            table.wake();
        }
        true
    }

    /// A request that has been late, or in the lane of `uid`, is done.
    fn end(&self, unique: u64, uid: Option<u32>) {
        let mut table = self.table.lock();
        table.late.remove(&unique);
        table.interrupted.retain(|interrupted| *interrupted != unique);
        if let Some(lane) = uid.and_then(|uid| table.lanes.get_mut(&uid)) {
            lane.busy = false;
            let waits = !lane.waiting.is_empty();
            if let (true, Some(uid)) = (waits, uid) {
                table.ready.push_back(uid);
                table.wake();
            }
        }
        self.count(&table);
    }

    /// Sees to the interrupt of a request that is in a lane or late: `true` if it is one. One that has
    /// not begun is given up; one that has begun ends should it begin to wait
    /// ([`Lanes::was_interrupted`]).
    pub fn interrupt(&self, device: &impl Device, request: u64) -> bool {
        if self.unusual.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut table = self.table.lock();
        if table.late.contains_key(&request) {
            table.interrupted.push(request);
            return true;
        }
        for lane in table.lanes.values_mut() {
            let place = lane.waiting.iter().position(|(unique, _)| *unique == request);
            // A close is done whoever waits for it.
            let place = place.filter(|place| {
                Header::of(&lane.waiting[*place].1).is_some_and(|header| !header.is_close())
            });
            if let Some((unique, bytes)) = place.and_then(|place| lane.waiting.remove(place)) {
                lane.bytes -= bytes.len();
                drop(table);
                device.refuse(unique, Errno::EINTR);
                return true;
            }
        }
        false
    }

    /// Whether an interrupt of a request has come while it was being handled.
    pub fn was_interrupted(&self, request: u64) -> bool {
        self.unusual.load(Ordering::Relaxed) > 0 && self.table.lock().interrupted.contains(&request)
    }

    fn count(&self, table: &Table) {
        self.unusual.store(table.lanes.len() + table.late.len(), Ordering::Relaxed);
    }

    /// The watchdog's life.
    pub fn watch(&self) {
        let (mut last, mut quiet) = (self.pulse.load(Ordering::SeqCst), 0);
        loop {
            std::thread::sleep(TICK);
            let pulse = self.pulse.load(Ordering::SeqCst);
            match (pulse == last, pulse % 2) {
                (true, 1) => self.replace(pulse),
                (true, _) => quiet += 1,
                (false, _) => quiet = 0,
            }
            last = pulse;
            if self.unusual.load(Ordering::Relaxed) > 0 {
                self.close_lanes();
            } else if quiet >= QUIET {
                self.asleep.store(1, Ordering::SeqCst);
                while self.asleep.load(Ordering::SeqCst) == 1
                    && self.pulse.load(Ordering::SeqCst) == last
                {
                    let _ = crate::turn::wait_while(&self.asleep, 1);
                }
                self.asleep.store(0, Ordering::SeqCst);
                quiet = 0;
            }
        }
    }

    /// Has another thread fetch, if the one who has fetched last is still busy with that.
    fn replace(&self, pulse: u64) {
        let (uid, unique) = (self.uid.load(Ordering::Relaxed), self.unique.load(Ordering::Relaxed));
        let mut table = self.table.lock();
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        if self.pulse.compare_exchange(pulse, pulse + 1, success, failure).is_err() {
            return;
        }
        table.late.insert(unique, uid);
        table.lanes.entry(uid).or_insert_with(Lane::new).until = Instant::now() + LANE;
        table.vacant = true;
        self.count(&table);
        table.wake();
    }

    /// Takes away the lanes of those who have not been late for a while.
    fn close_lanes(&self) {
        let mut table = self.table.lock();
        let Table { lanes, late, .. } = &mut *table;
        let now = Instant::now();
        lanes.retain(|uid, lane| {
            now < lane.until
                || lane.busy
                || !lane.waiting.is_empty()
                || late.values().any(|other| other == uid)
        });
        self.count(&table);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::{Arc, mpsc};

    use super::*;

    /// Requests in memory, and the answers.
    struct Fake {
        requests: Mutex<mpsc::Receiver<Vec<u8>>>,
        refused: Mutex<Vec<(u64, Errno)>>,
        lanes: Arc<Lanes>,
    }

    const INTERRUPT: u32 = 36;
    const READ: u32 = 15;

    impl Device for Fake {
        fn fetch(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
            let request = self.requests.lock().recv().map_err(|_| Errno::ENODEV)?;
            buffer[..request.len()].copy_from_slice(&request);
            Ok(request.len())
        }
        fn refuse(&self, unique: u64, errno: Errno) {
            self.refused.lock().push((unique, errno));
        }
        fn inspect(&self, request: &[u8]) -> bool {
            let header = Header::of(request).unwrap();
            // For these tests the uid of an interrupt is the request that it is about.
            header.opcode == INTERRUPT && self.lanes.interrupt(self, u64::from(header.uid))
        }
    }

    fn request(opcode: u32, unique: u64, uid: u32) -> Vec<u8> {
        let mut bytes = vec![0; Header::SIZE];
        bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
        bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
        bytes[24..28].copy_from_slice(&uid.to_ne_bytes());
        bytes
    }

    /// A mount whose handlers tell of what they handle; those of uid 1 go on once `go_on` says so.
    struct Mount {
        device: Arc<Fake>,
        send: Option<mpsc::Sender<Vec<u8>>>,
        handled: mpsc::Receiver<(u64, bool)>,
        go_on: Arc<AtomicBool>,
        threads: Vec<std::thread::JoinHandle<()>>,
    }

    fn mount(threads: usize) -> Mount {
        let lanes = Arc::new(Lanes::new());
        let (send, requests) = mpsc::channel();
        let (tell, handled) = mpsc::channel();
        let device = Arc::new(Fake {
            requests: Mutex::new(requests),
            refused: Mutex::default(),
            lanes: Arc::clone(&lanes),
        });
        let go_on = Arc::new(AtomicBool::new(false));
        let thread = |_| {
            let (lanes, device) = (Arc::clone(&lanes), Arc::clone(&device));
            let (tell, go_on) = (tell.clone(), Arc::clone(&go_on));
            std::thread::spawn(move || {
                let mut buffer = [0; 256];
                while let Ok(length) = lanes.next(&*device, &mut buffer) {
                    let header = Header::of(&buffer[..length]).unwrap();
                    while header.uid == 1 && !go_on.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    let _ = tell.send((header.unique, lanes.was_interrupted(header.unique)));
                }
            })
        };
        let threads = (0..threads).map(thread).collect();
        let watched = Arc::clone(&lanes);
        // It has no end; it goes with the tests.
        std::thread::spawn(move || watched.watch());
        Mount { device, send: Some(send), handled, go_on, threads }
    }

    impl Mount {
        fn send(&self, opcode: u32, unique: u64, uid: u32) {
            self.send.as_ref().unwrap().send(request(opcode, unique, uid)).unwrap();
        }
        fn next(&self) -> (u64, bool) {
            self.handled.recv_timeout(Duration::from_secs(10)).unwrap()
        }
        fn end(mut self) {
            self.send = None;
            for thread in self.threads.drain(..) {
                thread.join().unwrap();
            }
        }
    }

    #[test]
    fn nobody_waits_for_one_who_is_late_but_they_themselves() {
        let mount = mount(4);
        for unique in 0..1000 {
            mount.send(READ, unique, 2);
        }
        for unique in 0..1000 {
            assert_eq!(mount.next(), (unique, false), "in their order");
        }
        // It hangs; more of the same user's, and others'.
        mount.send(READ, 2001, 1);
        for unique in 0..100 {
            mount.send(READ, 3000 + unique, 2);
        }
        for unique in 0..100 {
            assert_eq!(mount.next(), (3000 + unique, false));
        }
        for unique in 2002..2006 {
            mount.send(READ, unique, 1);
        }
        // Which shows that these have been fetched.
        mount.send(READ, 4000, 2);
        assert_eq!(mount.next(), (4000, false));
        // One that has not begun is given up, one that has begun is told.
        mount.send(INTERRUPT, 1, 2004);
        mount.send(INTERRUPT, 1, 2001);
        mount.send(READ, 4001, 2);
        assert_eq!(mount.next(), (4001, false));
        assert_eq!(*mount.device.refused.lock(), [(2004, Errno::EINTR)]);
        mount.go_on.store(true, Ordering::SeqCst);
        let mut rest: Vec<_> = (0..4).map(|_| mount.next()).collect();
        // The lane begins with 2002, beside 2001.
        rest.sort_unstable();
        assert_eq!(rest, [(2001, true), (2002, false), (2003, false), (2005, false)]);
        let lanes = Arc::clone(&mount.device.lanes);
        let start = Instant::now();
        while lanes.unusual.load(Ordering::SeqCst) > 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "the lane stays");
            std::thread::sleep(Duration::from_millis(1));
        }
        mount.send(READ, 5000, 1);
        assert_eq!(mount.next(), (5000, false));
        mount.end();
    }

    #[test]
    fn a_request_without_a_header_is_nobodys() {
        assert_eq!(Header::of(&[0; 16]), None);
        let header = Header::of(&request(READ, 7, 8)).unwrap();
        assert_eq!(header, Header { opcode: READ, unique: 7, uid: 8 });
        assert!(!header.is_nobodys());
        assert!(Header::of(&request(42, 0, 0)).unwrap().is_nobodys());
    }
}
