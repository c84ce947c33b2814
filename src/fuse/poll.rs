//! poll(2), select(2) and epoll(7).
//!
//! When nothing is ready, the kernel asks to be told. A worker then waits for the object as a
//! reader or writer would, taking nothing, and tells. One worker per open file that is polled.

use std::sync::Arc;

use fuser::PollNotifier;
use parking_lot::Mutex;

use crate::block::Blocker;
use crate::error::Errno;
use crate::map::Map;
use crate::tree::handles::Fh;
use crate::vfs::Handle;

struct Watch {
    notifier: PollNotifier,
    events: i16,
    job: u64,
}

/// Who waits for what.
pub(super) struct Polls {
    blocker: Arc<Blocker>,
    watches: Mutex<Map<Fh, Watch>>,
}

impl Polls {
    pub(super) fn new(blocker: Arc<Blocker>) -> Self {
        Self { blocker, watches: Mutex::default() }
    }

    /// Tells `notifier` once one of `events` may hold; counts as a waiting request of `uid`.
    pub(super) fn watch(
        self: &Arc<Self>,
        uid: u32,
        fh: Fh,
        handle: Arc<dyn Handle>,
        notifier: PollNotifier,
        mut events: i16,
    ) {
        let mut watches = self.watches.lock();
        if let Some(watch) = watches.get_mut(&fh) {
            if events & !watch.events == 0 {
                watch.notifier = notifier;
                return;
            }
            events |= watch.events;
            self.blocker.cancel(watch.job, Errno::EINTR);
        }
        let job = self.blocker.internal_id();
        watches.insert(fh, Watch { notifier, events, job });
        drop(watches);
        let me = Arc::clone(self);
        let submitted = self.blocker.submit(job, uid, None, move |flight| {
            // Told in any case but a cancellation: what went wrong, the next call will say.
            let outcome = flight.until_cancelled(|| handle.wait_ready(events));
            if outcome.is_ok() || flight.cancelled().is_none() {
                me.tell(fh, job);
            }
        });
        if submitted.is_err() {
            // Better told too early than never.
            self.tell(fh, job);
        }
    }

    /// Ends the watch on a file that is closed.
    pub(super) fn forget(&self, fh: Fh) {
        if let Some(watch) = self.watches.lock().remove(&fh) {
            self.blocker.cancel(watch.job, Errno::EINTR);
        }
    }

    fn tell(&self, fh: Fh, job: u64) {
        let mut watches = self.watches.lock();
        if watches.get(&fh).is_some_and(|watch| watch.job == job) {
            if let Some(watch) = watches.remove(&fh) {
                drop(watches);
                let _ = watch.notifier.notify();
            }
        }
    }
}
