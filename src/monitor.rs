//! What the daemon knows about its own doing: what has failed, what is being waited for, how much
//! has been asked of it. There is one mount, so there is one of these.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::block::Blocker;
use crate::error::{Errno, Error};
use crate::quota::Quota;
use crate::vfs::ObjectId;

/// How many failures are kept for each user.
const KEPT: usize = 64;
/// For how many users.
const USERS: usize = 256;
/// More operation codes than there are (linux/fuse.h).
const OPCODES: usize = 64;

/// What the tree tells about the mount.
pub trait Mounted: Send + Sync {
    /// What each user may have open.
    fn quota(&self) -> &Quota;

    /// What each user may have in memory.
    fn memory(&self) -> &Quota;

    /// The object that a node stands for, or is a control file of.
    fn object(&self, node: u64) -> Option<ObjectId>;

    /// The inode numbers that each object's files have in the mount, its control files included.
    fn inodes(&self) -> Vec<(ObjectId, u64)>;

    /// The objects that are open, control files included.
    fn open(&self) -> Vec<ObjectId>;

    /// How many nodes the kernel knows, and how many files are open.
    fn load(&self) -> (usize, usize);
}

/// A failed operation.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When.
    pub time: SystemTime,
    /// Whose.
    pub uid: u32,
    /// By which thread or process.
    pub pid: u32,
    /// What was to be done: `open`.
    pub what: &'static str,
    /// To what, relative to the mount, escaped.
    pub path: String,
    /// What was answered.
    pub errno: Errno,
    /// The sentence, if there is one.
    pub sentence: Option<Box<str>>,
}

/// See the module.
pub struct Monitor {
    failures: Mutex<BTreeMap<u32, VecDeque<Failure>>>,
    failed: AtomicU64,
    requests: [AtomicU64; OPCODES],
    blocker: OnceLock<Arc<Blocker>>,
    mounted: OnceLock<Arc<dyn Mounted>>,
    device: AtomicU64,
}

static MONITOR: Monitor = Monitor {
    failures: Mutex::new(BTreeMap::new()),
    failed: AtomicU64::new(0),
    requests: [const { AtomicU64::new(0) }; OPCODES],
    blocker: OnceLock::new(),
    mounted: OnceLock::new(),
    device: AtomicU64::new(0),
};

/// The one there is.
pub fn get() -> &'static Monitor {
    &MONITOR
}

impl Monitor {
    /// Tells where to look, once.
    pub fn connect(&self, blocker: Arc<Blocker>, mounted: Arc<dyn Mounted>) {
        let _ = self.blocker.set(blocker);
        let _ = self.mounted.set(mounted);
    }

    /// Notes the mount's device number.
    pub fn set_device(&self, device: u64) {
        self.device.store(device, Ordering::Relaxed);
    }

    /// The mount's device number; 0 while it is not known.
    pub fn device(&self) -> u64 {
        self.device.load(Ordering::Relaxed)
    }

    /// Who waits for what.
    pub fn blocker(&self) -> Option<&Arc<Blocker>> {
        self.blocker.get()
    }

    /// The mount.
    pub fn mounted(&self) -> Option<&Arc<dyn Mounted>> {
        self.mounted.get()
    }

    /// Counts a request.
    pub fn request(&self, opcode: u32) {
        if let Some(count) = self.requests.get(opcode as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests of each operation code there have been.
    pub fn requests(&self) -> impl Iterator<Item = (u32, u64)> {
        let counts = self.requests.iter().map(|count| count.load(Ordering::Relaxed));
        (0..).zip(counts)
    }

    /// How many operations have failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether a failure is worth noting: not what could not be done at once, what has been
    /// interrupted, and what the kernel will try again.
    pub fn is_notable(errno: Errno) -> bool {
        !matches!(errno, Errno::EAGAIN | Errno::EINTR | Errno::ESTALE)
    }

    /// Notes a failure.
    pub fn note(&self, failure: Failure) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock();
        if failures.len() >= USERS && !failures.contains_key(&failure.uid) {
            // Whose last failure is the longest ago makes room.
            let last =
                |(uid, kept): (&u32, &VecDeque<Failure>)| (kept.back().map(|f| f.time), *uid);
            if let Some((_, uid)) = failures.iter().map(last).min() {
                failures.remove(&uid);
            }
        }
        let kept = failures.entry(failure.uid).or_default();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(failure);
    }

    /// The last failures of a user, newest last; root's are everybody's.
    pub fn failures(&self, uid: u32) -> Vec<Failure> {
        let failures = self.failures.lock();
        if uid != 0 {
            return failures.get(&uid).into_iter().flatten().cloned().collect();
        }
        let mut all: Vec<_> = failures.values().flatten().cloned().collect();
        drop(failures);
        all.sort_by_key(|failure| failure.time);
        all.drain(..all.len().saturating_sub(KEPT));
        all
    }
}

impl Failure {
    /// What has failed of whatever was asked.
    pub fn new(what: &'static str, path: String, (uid, pid): (u32, u32), error: &Error) -> Self {
        Self {
            time: SystemTime::now(),
            uid,
            pid,
            what,
            path,
            errno: error.errno(),
            sentence: error.what().map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(uid: u32, number: usize) -> Failure {
        Failure::new("open", number.to_string(), (uid, 1), &Error::new(Errno::EACCES))
    }

    #[test]
    fn the_last_are_kept_for_each_user_and_root_sees_all() {
        let monitor = Monitor {
            failures: Mutex::default(),
            failed: AtomicU64::new(0),
            requests: [const { AtomicU64::new(0) }; OPCODES],
            blocker: OnceLock::new(),
            mounted: OnceLock::new(),
            device: AtomicU64::new(0),
        };
        for number in 0..100 {
            monitor.note(failure(1000, number));
        }
        monitor.note(failure(1001, 100));
        let paths = |uid| monitor.failures(uid).into_iter().map(|f| f.path).collect::<Vec<_>>();
        assert_eq!((paths(1000).len(), paths(1000)[63].as_str()), (64, "99"));
        assert_eq!(paths(1001), ["100"]);
        assert_eq!((paths(0).len(), paths(0)[63].as_str()), (64, "100"));
        assert!(paths(1002).is_empty());
        for uid in 2000..3000 {
            monitor.note(failure(uid, 0));
        }
        assert!(monitor.failures.lock().len() <= USERS);
    }

    #[test]
    fn what_is_no_failure_is_not_noted() {
        assert!(!Monitor::is_notable(Errno::EAGAIN));
        assert!(Monitor::is_notable(Errno::EMSGSIZE));
    }
}
