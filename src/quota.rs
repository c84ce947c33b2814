//! How much of the daemon one user may take, so that there is something left for the others.

use std::collections::hash_map::Entry;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::error::{Errno, Error, Result};
use crate::map::Map;

/// Descriptors that are kept free for look-ups and whatever else every request needs.
const RESERVE: u64 = 16;

/// The mount options about it; `None` is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `-o max_handles=`: files and directories that one user may have open.
    pub max_handles: Option<usize>,
    /// `-o max_blocked=`: requests of one user that may wait at a time.
    pub max_blocked: Option<usize>,
}

/// One thing that there is only so much of.
#[derive(Debug)]
pub struct Quota {
    what: &'static str,
    errno: Errno,
    each: usize,
    all: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_user: Map<u32, usize>,
}

/// What has been taken, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    quota: Arc<Quota>,
    uid: u32,
    amount: usize,
}

impl Quota {
    fn new(what: &'static str, errno: Errno, each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self { what, errno, each: each.min(all), all, taken: Mutex::default() })
    }

    /// Open files and directories. What the daemon's own limit on descriptors leaves is for all
    /// together, half of it for one user.
    pub fn handles(limits: &Limits, descriptors: u64, in_use: u64) -> Arc<Self> {
        let all = descriptors.saturating_sub(in_use + RESERVE) as usize;
        let each = limits.max_handles.unwrap_or(all / 2);
        Self::new("open files (max_handles)", Errno::EMFILE, each, all)
    }

    /// Requests that wait: a thread each.
    pub fn blocked(limits: &Limits) -> Arc<Self> {
        const EACH: usize = 8192;
        let each = limits.max_blocked.unwrap_or(EACH);
        Self::new("waiting requests (max_blocked)", Errno::EAGAIN, each, usize::MAX)
    }

    /// Bytes of what is kept for open directories, texts and messages: a listing of a million names
    /// has 100 MB.
    pub fn memory() -> &'static Arc<Self> {
        static MEMORY: OnceLock<Arc<Quota>> = OnceLock::new();
        MEMORY.get_or_init(|| {
            const EACH: usize = 256 << 20;
            Self::new("bytes of open listings, texts and messages", Errno::ENOMEM, EACH, 4 * EACH)
        })
    }

    /// Mappings of the daemon's memory (`vm.max_map_count`, `proc_sys_vm(5)`): an attached segment is
    /// one, a semaphore in use and a waiting request's stack are two each.
    pub fn mappings() -> &'static Arc<Self> {
        static MAPPINGS: OnceLock<Arc<Quota>> = OnceLock::new();
        MAPPINGS.get_or_init(|| {
            const DEFAULT: usize = 65_530;
            const OWN: usize = 1024;
            let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
            let most = most.and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT);
            let all = most.saturating_sub(OWN);
            Self::new("mappings of the daemon's memory", Errno::ENOMEM, all / 4, all)
        })
    }

    /// No limit, for what serves nobody else.
    pub fn unlimited() -> Arc<Self> {
        Self::new("", Errno::EAGAIN, usize::MAX, usize::MAX)
    }

    /// Takes one for a user; see [`Quota::take_many`].
    pub fn take(self: &Arc<Self>, uid: u32) -> Result<Share> {
        self.take_many(uid, 1)
    }

    /// Bytes of System V segments that are being written piece by piece (`kind/sysv/fresh.rs`): as much
    /// of the machine's memory as a user may fill until they are done.
    pub fn collected() -> &'static Arc<Self> {
        static COLLECTED: OnceLock<Arc<Quota>> = OnceLock::new();
        COLLECTED.get_or_init(|| {
            const LEAST: usize = 64 << 20;
            let all = std::fs::read_to_string("/proc/meminfo").ok();
            let all = all.as_deref().and_then(memory_of).unwrap_or(0).max(2 * LEAST);
            Self::new("bytes of unfinished segments", Errno::ENOMEM, all / 4, all / 2)
        })
    }

    /// Takes as much for a user; root's limit is that for all together. `EMFILE`, `EAGAIN` or
    /// `ENOMEM` when there is not so much left for them.
    pub fn take_many(self: &Arc<Self>, uid: u32, amount: usize) -> Result<Share> {
        self.add(uid, amount)?;
        Ok(Share { quota: Arc::clone(self), uid, amount })
    }

    fn add(&self, uid: u32, amount: usize) -> Result<()> {
        let mut taken = self.taken.lock();
        let Taken { all, by_user } = &mut *taken;
        let own = by_user.entry(uid).or_insert(0);
        let each = if uid == 0 { self.all } else { self.each };
        let exceeds = |used: usize, limit| used.saturating_add(amount) > limit;
        if exceeds(*own, each) || exceeds(*all, self.all) {
            let (what, own, all) = (self.what, *own, *all);
            if own == 0 {
                by_user.remove(&uid);
            }
            return Err(Error::because(
                self.errno,
                format!("uid {uid} has {own} {what} of {each}, all users together have {all}"),
            ));
        }
        *all += amount;
        *own += amount;
        Ok(())
    }

    fn subtract(&self, uid: u32, amount: usize) {
        let mut taken = self.taken.lock();
        taken.all = taken.all.saturating_sub(amount);
        if let Entry::Occupied(mut own) = taken.by_user.entry(uid) {
            *own.get_mut() = own.get().saturating_sub(amount);
            if *own.get() == 0 {
                own.remove();
            }
        }
    }

    /// How many a user may have, and has.
    pub fn of(&self, uid: u32) -> (usize, usize) {
        let own = self.taken.lock().by_user.get(&uid).copied().unwrap_or(0);
        (if uid == 0 { self.all } else { self.each }, own)
    }
}

impl Share {
    /// Takes as much more; see [`Quota::take_many`].
    pub fn add(&mut self, amount: usize) -> Result<()> {
        self.quota.add(self.uid, amount)?;
        self.amount += amount;
        Ok(())
    }
}

/// The bytes of the machine's memory, as /proc/meminfo has it.
fn memory_of(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

impl Drop for Share {
    fn drop(&mut self) {
        self.quota.subtract(self.uid, self.amount);
    }
}

/// Memory that grows and shrinks with what an open file keeps in it, charged to one user
/// ([`Quota::memory`]).
#[derive(Debug)]
pub struct Charge {
    quota: Arc<Quota>,
    uid: u32,
    amount: usize,
}

impl Charge {
    /// What this is rounded up to, so that not every byte is accounted for by itself.
    const STEP: usize = 4096;

    /// Of nothing yet.
    pub fn new(uid: u32) -> Self {
        Self { quota: Arc::clone(Quota::memory()), uid, amount: 0 }
    }

    /// From now on of so many bytes; `ENOMEM` where the user has not so much left.
    pub fn set(&mut self, bytes: usize) -> Result<()> {
        let amount = bytes.div_ceil(Self::STEP).saturating_mul(Self::STEP);
        match amount.checked_sub(self.amount) {
            Some(more) => self.quota.add(self.uid, more)?,
            None => self.quota.subtract(self.uid, self.amount - amount),
        }
        self.amount = amount;
        Ok(())
    }

    /// Takes over what another of the same user has been charged.
    pub fn absorb(&mut self, mut other: Self) {
        self.amount += std::mem::take(&mut other.amount);
    }

    /// Who is charged.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.quota.subtract(self.uid, self.amount);
        }
    }
}

/// A piece of text that waits in an open file for the rest of it, charged to one user.
#[derive(Debug)]
pub struct Kept {
    text: Vec<u8>,
    charge: Charge,
}

impl Kept {
    /// An empty one.
    pub fn new(uid: u32) -> Self {
        Self { text: Vec::new(), charge: Charge::new(uid) }
    }

    /// Adds to its end; `ENOMEM` where the user has no memory left for it, and it is as it was.
    pub fn extend(&mut self, more: &[u8]) -> Result<()> {
        let before = self.text.len();
        self.text.extend_from_slice(more);
        self.charge.set(self.text.capacity()).inspect_err(|_| {
            self.text.truncate(before);
            self.text.shrink_to_fit();
        })
    }

    /// Cuts it back to its first bytes.
    pub fn truncate(&mut self, length: usize) {
        self.text.truncate(length);
    }

    /// Empties it and frees what it took.
    pub fn clear(&mut self) {
        if self.text.capacity() > Charge::STEP {
            crate::memory::freed(self.text.capacity());
        }
        self.text = Vec::new();
        // Less is never refused.
        let _ = self.charge.set(0);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        crate::memory::freed(self.text.capacity());
    }
}

impl std::ops::Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_something_for_the_others_and_gets_it_back() {
        let quota = Quota::new("things", Errno::EMFILE, 2, 3);
        let mut one: Vec<_> = (0..2).map(|_| quota.take(7).unwrap()).collect();
        assert_eq!(quota.take(7).unwrap_err().errno(), Errno::EMFILE);
        let other = quota.take(8).unwrap();
        assert_eq!(quota.take(9).unwrap_err().errno(), Errno::EMFILE, "that was the last one");
        drop(other);
        one.pop();
        assert_eq!(quota.of(7), (2, 1));
        let _again = quota.take(7).unwrap();
        drop(one);
        assert_eq!(quota.of(8), (2, 0));
    }

    #[test]
    fn what_is_kept_is_charged_as_long_as_it_is_kept() {
        const UID: u32 = 4_200_001;
        let used = || Quota::memory().of(UID).1;
        let (most, _) = Quota::memory().of(UID);
        let mut kept = Kept::new(UID);
        kept.extend(b"a").unwrap();
        assert_eq!((&kept[..], used()), (&b"a"[..], Charge::STEP));
        kept.extend(&vec![b'x'; 100_000]).unwrap();
        assert!(used() >= 100_001, "{}", used());
        let rest = Quota::memory().take_many(UID, most - used()).unwrap();
        let error = kept.extend(&vec![b'x'; 1 << 20]).unwrap_err();
        assert_eq!((error.errno(), kept.len()), (Errno::ENOMEM, 100_001));
        drop(rest);
        kept.clear();
        assert_eq!((kept.len(), used()), (0, 0));
        kept.extend(b"b").unwrap();
        drop(kept);
        assert_eq!(used(), 0);
    }

    #[test]
    fn the_daemon_keeps_descriptors_for_itself() {
        let quota = Quota::handles(&Limits::default(), 64, 12);
        assert_eq!((quota.of(0).0, quota.of(1000).0), (36, 18));
        assert_eq!(Quota::handles(&Limits::default(), 10, 12).of(0).0, 0);
    }
}
