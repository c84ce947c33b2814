//! How many bytes are queued where nothing happens: known from the last time that somebody looked.
//!
//! To tell the size of a queue it has to be opened, asked and, if there is something in it, read,
//! and reading moves its access time. But the kernel notes the second of each send and receive as the
//! queue's last modification (ipc/mqueue.c). So if that second is over when the size is read, and is
//! still what the queue shows later on, nothing has happened since: what comes afterwards is noted
//! with a later one. The change time, which nobody can set, gives away a modification time that
//! somebody has set (utimensat(2)).

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::vfs::Attr;

/// The second that the kernel has noted is over, and so is the tick of its clock.
const OVER: Duration = Duration::from_millis(1020);
/// As many queues are remembered; then all are forgotten.
const MOST: usize = 16_384;

/// A queue that was quiet when it was last looked at.
#[derive(Clone, Copy)]
pub(super) struct Known {
    ident: u64,
    mtime: SystemTime,
    ctime: SystemTime,
    size: u64,
}

impl Known {
    /// The size, if nothing has happened to the queue, which has `attr` now.
    pub(super) fn size(&self, attr: &Attr) -> Option<u64> {
        let same = (attr.ident, attr.mtime, attr.ctime) == (self.ident, self.mtime, self.ctime);
        same.then_some(self.size)
    }
}

/// The queues that were quiet, by name.
#[derive(Default)]
pub(super) struct Quiet(Mutex<HashMap<Box<[u8]>, Known>>);

impl Quiet {
    /// What is remembered of a queue.
    pub(super) fn recall(&self, name: &[u8]) -> Option<Known> {
        self.0.lock().get(name).copied()
    }

    /// Forgets a queue that something has happened to.
    pub(super) fn forget(&self, name: &[u8]) {
        self.0.lock().remove(name);
    }

    /// Remembers the size of a queue if it was quiet at `time`. After that came `attr`, then the size
    /// was read, and now comes `again`.
    pub(super) fn learn(
        &self,
        name: &[u8],
        time: SystemTime,
        attr: &Attr,
        again: impl FnOnce() -> Option<Attr>,
    ) {
        let quiet = time.duration_since(attr.mtime).is_ok_and(|ago| ago > OVER);
        let Some(again) = quiet.then(again).flatten() else { return };
        if again.mtime != attr.mtime {
            return;
        }
        let Attr { ident, mtime, ctime, .. } = again;
        let mut known = self.0.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(name.into(), Known { ident, mtime, ctime, size: attr.size });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(size: u64, ago: Duration) -> Attr {
        let mtime = SystemTime::now() - ago;
        Attr { size, mtime, ctime: mtime, ..Attr::file(7, 0o600) }
    }

    #[test]
    fn what_is_quiet_is_remembered_until_something_happens() {
        let quiet = Quiet::default();
        let before = attr(3, Duration::from_secs(2));
        // Reading the size has changed this.
        let after = Attr { ctime: SystemTime::now(), size: 80, ..before };
        quiet.learn(b"q", SystemTime::now(), &before, || Some(after));
        let known = quiet.recall(b"q").unwrap();
        assert_eq!(known.size(&after), Some(3));
        assert_eq!(known.size(&before), None, "another change time");
        assert_eq!(known.size(&Attr { ident: 8, ..after }), None);
        assert_eq!(known.size(&Attr { mtime: after.ctime, ..after }), None);
        quiet.forget(b"q");
        assert!(quiet.recall(b"q").is_none());
    }

    #[test]
    fn what_has_just_happened_or_happens_meanwhile_is_not_remembered() {
        let quiet = Quiet::default();
        let now = attr(3, Duration::ZERO);
        quiet.learn(b"q", SystemTime::now(), &now, || panic!("it is not even looked at"));
        let future = Attr { mtime: SystemTime::now() + Duration::from_secs(9), ..now };
        quiet.learn(b"q", SystemTime::now(), &future, || panic!("nor what is to come"));
        let before = attr(3, Duration::from_secs(2));
        quiet.learn(b"q", SystemTime::now(), &before, || Some(now));
        quiet.learn(b"q", SystemTime::now(), &before, || None);
        assert!(quiet.recall(b"q").is_none());
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let quiet = Quiet::default();
        let attr = attr(0, Duration::from_secs(2));
        for number in 0..MOST as u32 + 10 {
            quiet.learn(&number.to_ne_bytes(), SystemTime::now(), &attr, || Some(attr));
        }
        assert_eq!(quiet.0.lock().len(), 10);
    }
}
