//! poll(2), select(2) and epoll(7).
//!
//! What is not ready the kernel asks to be told of. A worker then waits for the object as a reader or
//! writer would, taking nothing, and tells. One worker per open file that is polled.
//!
//! Who waits for edges (`EPOLLET`) asks once and then reads or writes until `EAGAIN`: after that the
//! kernel asks no more by itself, so that a file that has been polled is watched anew after each read
//! and write that leaves nothing more to be done.

use std::sync::Arc;

use fuser::PollNotifier;
use parking_lot::Mutex;

use crate::block::Blocker;
use crate::error::{Errno, Result};
use crate::map::Map;
use crate::tree::handles::Fh;
use crate::vfs::Handle;

/// What one waits for; the rest (`POLLERR`, `POLLHUP`) always counts as asked for.
const AWAITED: i16 = libc::POLLIN | libc::POLLRDNORM | libc::POLLOUT | libc::POLLWRNORM;

/// A file that is polled, until it is closed.
struct Watch {
    notifier: PollNotifier,
    /// What has been asked for.
    events: i16,
    /// What is being waited for, and by which job of the workers'.
    waiting: Option<(i16, u64)>,
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

    /// Tells `notifier` once one of `events` that is not `ready` may hold; counts as a waiting
    /// request of `uid`.
    ///
    /// Fails with `EAGAIN` where the user has too many requests waiting already.
    pub(super) fn watch(
        self: &Arc<Self>,
        uid: u32,
        fh: Fh,
        handle: &Arc<dyn Handle>,
        notifier: PollNotifier,
        (events, ready): (i16, i16),
    ) -> Result<()> {
        let events = events & AWAITED;
        let mut watches = self.watches.lock();
        let watch = watches.entry(fh).or_insert_with(|| Watch {
            notifier: notifier.clone(),
            events: 0,
            waiting: None,
        });
        watch.notifier = notifier;
        watch.events |= events;
        let waiting = watch.waiting.map_or(0, |(waiting, _)| waiting);
        if events & !ready & !waiting == 0 {
            return Ok(());
        }
        self.wait(uid, fh, handle, watch, waiting | events & !ready)
    }

    /// Looks after those who wait for edges, now that the file has been read or written: what has
    /// been asked for and does not hold any more is waited for again.
    pub(super) fn rearm(self: &Arc<Self>, uid: u32, fh: Fh, handle: &Arc<dyn Handle>) {
        let mut watches = self.watches.lock();
        let Some(watch) = watches.get_mut(&fh) else { return };
        let waiting = watch.waiting.map_or(0, |(waiting, _)| waiting);
        let asked = watch.events & !waiting;
        let missing = if asked == 0 { 0 } else { asked & !handle.poll(asked) };
        // Who polls again is told what is wrong.
        if missing != 0 && self.wait(uid, fh, handle, watch, waiting | missing).is_err() {
            let _ = watch.notifier.clone().notify();
        }
    }

    /// Has a worker wait for `events`, in the place of one that waits for less.
    fn wait(
        self: &Arc<Self>,
        uid: u32,
        fh: Fh,
        handle: &Arc<dyn Handle>,
        watch: &mut Watch,
        events: i16,
    ) -> Result<()> {
        if let Some((_, job)) = watch.waiting.take() {
            self.blocker.cancel(job, Errno::EINTR);
        }
        let job = self.blocker.internal_id();
        let (me, handle) = (Arc::clone(self), Arc::clone(handle));
        self.blocker.submit(job, uid, None, move |flight| {
            // Told in any case but a cancellation: what went wrong, the next call will say.
            let outcome = flight.until_cancelled(|| handle.wait_ready(events));
            if outcome.is_ok() || flight.cancelled().is_none() {
                me.tell(fh, job);
            }
        })?;
        watch.waiting = Some((events, job));
        Ok(())
    }

    /// Ends the watch on a file that is closed.
    pub(super) fn forget(&self, fh: Fh) {
        let watch = self.watches.lock().remove(&fh);
        if let Some((_, job)) = watch.and_then(|watch| watch.waiting) {
            self.blocker.cancel(job, Errno::EINTR);
        }
    }

    fn tell(&self, fh: Fh, job: u64) {
        let mut watches = self.watches.lock();
        let Some(watch) = watches.get_mut(&fh) else { return };
        if watch.waiting.is_some_and(|(_, waiting)| waiting == job) {
            watch.waiting = None;
            let notifier = watch.notifier.clone();
            drop(watches);
            let _ = notifier.notify();
        }
    }
}
