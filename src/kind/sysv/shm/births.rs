//! Which segments have no settled size yet, and what has become of those that were made again.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::Segments;
use super::fresh::{Birth, is_untouched};
use crate::caller::Caller;
use crate::error::{Errno, Result};

/// Who has made a segment opens it as soon as that.
const SOON: Duration = Duration::from_secs(1);

/// Who has looked up a segment that is then made again asks for it as soon as that; and as many of
/// them are remembered.
const SHORTLY: Duration = Duration::from_secs(5);
const RECENT: usize = 256;

/// All segments whose size is not settled, and those that have been made again lately.
#[derive(Default)]
pub(super) struct Births {
    table: Mutex<Table>,
    /// Held while a segment is made through the mount, or made again: in between its key has none.
    making: Mutex<()>,
    /// How many have been made again.
    replaced: AtomicU64,
}

#[derive(Default)]
struct Table {
    unsettled: HashMap<i32, Unsettled>,
    /// As many may be in there before those that nobody has opened are dropped.
    limit: usize,
    /// Which identifier has been followed by which, and when; the latest is the last.
    followed: VecDeque<(i32, i32, Instant)>,
}

enum Unsettled {
    /// Made by this caller, who is about to open it.
    Expected(Caller, Instant),
    Open(Weak<Birth>),
}

impl Births {
    /// Makes a segment that is going to be opened.
    pub(super) fn make(&self, caller: Caller, make: impl FnOnce() -> Result<i32>) -> Result<()> {
        let _making = self.making.lock();
        let id = make()?;
        let mut table = self.table.lock();
        table.unsettled.insert(id, Unsettled::Expected(caller, Instant::now()));
        if table.unsettled.len() > table.limit.max(RECENT) {
            table.unsettled.retain(|_, other| match other {
                Unsettled::Expected(_, since) => since.elapsed() < SOON,
                Unsettled::Open(birth) => birth.strong_count() > 0,
            });
            table.limit = 2 * table.unsettled.len();
        }
        Ok(())
    }

    /// Does `find` again if it finds nothing because a segment is just being made again.
    pub(super) fn find<T>(&self, find: impl Fn() -> Result<T>) -> Result<T> {
        let before = self.replaced.load(Ordering::SeqCst);
        match find() {
            Err(error) if error.errno() == Errno::ENOENT => {
                let busy = self.making.try_lock().is_none();
                if !busy && self.replaced.load(Ordering::SeqCst) == before {
                    return Err(error);
                }
                let _made = self.making.lock();
                find()
            }
            found => found,
        }
    }

    /// The birth that an open of the segment `id` takes part in; `None` if its size is settled.
    pub(super) fn join(&self, kind: &Arc<Segments>, id: i32, created: bool) -> Option<Arc<Birth>> {
        let mut table = self.table.lock();
        match table.unsettled.get(&id)? {
            Unsettled::Open(birth) => birth.upgrade(),
            Unsettled::Expected(_, since) if !created && since.elapsed() > SOON => {
                table.unsettled.remove(&id);
                None
            }
            Unsettled::Expected(creator, _) => {
                let birth = Birth::new(Arc::clone(kind), *creator, id);
                table.unsettled.insert(id, Unsettled::Open(Arc::downgrade(&birth)));
                Some(birth)
            }
        }
    }

    /// The size to be shown of a segment, if it is another than its own.
    pub(super) fn size(&self, id: i32, segment: &libc::shmid_ds) -> Option<u64> {
        let birth = match self.table.lock().unsettled.get(&id)? {
            Unsettled::Open(birth) => birth.upgrade()?,
            Unsettled::Expected(_, since) => {
                return (since.elapsed() < SOON && is_untouched(segment, 0)).then_some(0);
            }
        };
        Some(birth.size(segment))
    }

    /// The identifier of the segment that the segment `id` has become, or `id` itself.
    pub(super) fn now(&self, id: i32) -> i32 {
        let table = self.table.lock();
        let mut latest = table.followed.iter().rev();
        let found = latest.find(|(old, _, since)| *old == id && since.elapsed() < SHORTLY);
        found.map_or(id, |(_, new, _)| *new)
    }

    /// To be held while a segment is made again.
    pub(super) fn making(&self) -> MutexGuard<'_, ()> {
        self.making.lock()
    }

    /// Notes that `new` has taken the place of `old`.
    pub(super) fn follow(&self, birth: &Arc<Birth>, old: i32, new: i32) {
        let mut table = self.table.lock();
        for (_, target, _) in table.followed.iter_mut().filter(|(_, target, _)| *target == old) {
            *target = new;
        }
        if table.followed.len() == RECENT {
            table.followed.pop_front();
        }
        table.followed.push_back((old, new, Instant::now()));
        table.unsettled.remove(&old);
        table.unsettled.insert(new, Unsettled::Open(Arc::downgrade(birth)));
        self.replaced.fetch_add(1, Ordering::SeqCst);
    }

    /// Forgets a segment whose size is settled.
    pub(super) fn forget(&self, id: i32) {
        self.table.lock().unsettled.remove(&id);
    }
}
