//! A semaphore's memory: what `sem_post(3)` and `sem_wait(3)` do to it, done here.
//!
//! The C library's own functions cannot be let near a file that anybody may have written: a forged
//! `sem_t` makes glibc call futex(2) with an operation of the forger's choice and abort the process
//! on the errno that comes back ("The futex facility returned an unexpected error code"). So this
//! is glibc's protocol (`nptl/sem_waitcommon.c`, `nptl/sem_post.c`; the layout of 64-bit machines,
//! `struct new_sem`), reading nothing but the first word:
//!
//! * The lower half of the word is the value, the upper half the number of those who wait.
//! * To take: subtract while the value is high enough. To wait: count oneself, then futex-wait for
//!   the value to change.
//! * To post: add; if somebody waits, futex-wake.
//!
//! Setting, posting several and taking several are one atomic step each, which the C interface does
//! not have. A taker of several waits until all are there and holds none until then, so two of them
//! cannot block each other with halves. It is woken by the same futex as those who wait for one; if
//! what is there is too little for it, it wakes one of those in its place, which it knows from its
//! own kind by the futex's bit mask.
//!
//! [`check_library`] compares all that with what the C library of this machine makes.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::arena::Mapping;
use super::grammar::VALUE_MAX;
use crate::error::{Errno, Error, Result, fail};

/// The size of a semaphore's file.
pub const SIZE: usize = size_of::<libc::sem_t>();

/// One who waits, in the word.
const WAITER: u64 = 1 << 32;

/// How often a value that changes under the hands is tried again. Whoever keeps it changing that
/// long is up to no good.
const PATIENCE: u32 = 10_000;

/// The futex bits of those who wait for several, and of nobody else alone.
const BULK: u32 = 1 << 1;
/// The futex bits that those who wait for several do not listen to.
const SINGLE: u32 = 1 << 0;
const EVERYBODY: u32 = u32::MAX;

/// The value in a word: `EIO` if no semaphore can have it.
fn value_in(word: u64) -> Result<u32> {
    let value = word as u32;
    if value <= VALUE_MAX {
        Ok(value)
    } else {
        Err(Error::because(
            Errno::EIO,
            format!("the file holds no semaphore: {value} is over {VALUE_MAX}, the largest value"),
        ))
    }
}

/// What a semaphore's file says at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The value.
    pub value: u32,
    /// How many wait for it to rise.
    pub waiters: u32,
}

/// Reads a semaphore's file without touching its memory.
pub fn read(file: BorrowedFd<'_>) -> Result<State> {
    let mut bytes = [0; size_of::<u64>()];
    if nix::sys::uio::pread(file, &mut bytes, 0)? < bytes.len() {
        return Err(cut_short());
    }
    let word = u64::from_ne_bytes(bytes);
    Ok(State { value: value_in(word)?, waiters: (word >> 32) as u32 })
}

fn cut_short() -> Error {
    Error::because(Errno::EIO, "the semaphore's file has been cut short")
}

/// What a new semaphore's file holds, by the C library.
pub fn fresh(value: u32) -> Result<[u8; SIZE]> {
    Ok(sys::init(value)?)
}

/// Fails if this machine's C library does not do what is done here.
pub fn check_library() -> Result<()> {
    let known = || -> Result<bool> {
        let word = |bytes: [u8; SIZE]| {
            bytes.first_chunk().map_or(u64::MAX, |first: &[u8; 8]| u64::from_ne_bytes(*first))
        };
        let [zero, five, six] = [fresh(0)?, fresh(5)?, sys::post(5)?].map(word);
        Ok(SIZE == 32 && zero == 0 && five == 5 && six == 6)
    };
    if cfg!(all(target_env = "gnu", target_pointer_width = "64")) && known()? {
        return Ok(());
    }
    Err(Error::because(
        Errno::EOPNOTSUPP,
        "no semaphores: this machine's C library does not keep them as the GNU C library does on \
         64-bit machines, and no other way is known here",
    ))
}

/// A semaphore that others have in use.
#[derive(Debug)]
pub struct Word {
    mapping: Mapping,
}

impl Word {
    /// Maps a semaphore's file, which is open for reading and writing, for the user `uid`.
    pub fn new(file: impl AsFd, uid: u32) -> Result<Self> {
        Ok(Self { mapping: Mapping::new(file.as_fd(), uid)? })
    }

    /// Whether the file has been cut short, so that this is of no use any more.
    pub fn is_torn(&self) -> bool {
        self.mapping.is_torn()
    }

    fn word(&self) -> &AtomicU64 {
        self.mapping.word()
    }

    fn load(&self) -> Result<u64> {
        let word = self.word().load(Ordering::SeqCst);
        if self.is_torn() { Err(cut_short()) } else { Ok(word) }
    }

    /// Replaces the word by what `next` makes of it and of its value; returns the old one. `None`
    /// leaves it.
    fn update(&self, next: impl Fn(u64, u32) -> Result<Option<u64>>) -> Result<Option<u64>> {
        let mut word = self.load()?;
        for _ in 0..PATIENCE {
            let Some(new) = next(word, value_in(word)?)? else { return Ok(None) };
            let order = Ordering::SeqCst;
            match self.word().compare_exchange(word, new, order, order) {
                _ if self.is_torn() => return Err(cut_short()),
                Ok(old) => return Ok(Some(old)),
                Err(seen) => word = seen,
            }
        }
        Err(Error::because(Errno::EIO, "the semaphore's file changes incessantly"))
    }

    fn wake(&self, old: Option<u64>, count: u32) {
        if old.is_some_and(|word| word >= WAITER) && count > 0 {
            sys::wake(self.word(), count, EVERYBODY);
        }
    }

    /// Sets the value and wakes as many as can take one.
    pub fn set(&self, value: u32) -> Result<()> {
        let old = self.update(|word, _| Ok(Some(word & !(WAITER - 1) | u64::from(value))))?;
        self.wake(old, value);
        Ok(())
    }

    /// Posts `count` times; `EOVERFLOW` if the value would be too large.
    pub fn post(&self, count: u32) -> Result<()> {
        let old = self.update(|word, value| {
            if value > VALUE_MAX - count {
                let reason = format!(
                    "{value} and {count} more are over {VALUE_MAX}, the largest value of a semaphore"
                );
                return Err(Error::because(Errno::EOVERFLOW, reason));
            }
            Ok(Some(word + u64::from(count)))
        })?;
        self.wake(old, count);
        Ok(())
    }

    /// Takes `count` if they are there.
    pub fn try_take(&self, count: u32) -> Result<bool> {
        let enough = |value| value >= count;
        let take = |word, value| Ok(enough(value).then(|| word - u64::from(count)));
        Ok(self.update(take)?.is_some())
    }

    /// Takes `count` when they are there; `EINTR` after a signal, none having been taken.
    pub fn take(&self, count: u32) -> Result<()> {
        if self.try_take(count)? {
            return Ok(());
        }
        let waiter = Waiter::new(self);
        let bits = if count > 1 { BULK } else { EVERYBODY };
        for _ in 0..PATIENCE {
            let word = self.load()?;
            let value = value_in(word)?;
            if value >= count {
                // What is taken and the one who no longer waits, in one step.
                let new = word.wrapping_sub(WAITER).wrapping_sub(u64::from(count));
                let order = Ordering::SeqCst;
                let taken = self.word().compare_exchange(word, new, order, order).is_ok();
                if self.is_torn() {
                    return Err(cut_short());
                }
                if taken {
                    waiter.has_left();
                    return Ok(());
                }
                continue;
            }
            match sys::wait(self.word(), value, bits) {
                Ok(()) if count > 1 && value_in(self.load()?)? < count => {
                    sys::wake(self.word(), 1, SINGLE);
                }
                Ok(()) | Err(Errno::EAGAIN) => {}
                Err(Errno::EFAULT) => return Err(cut_short()),
                Err(errno) => return Err(errno.into()),
            }
        }
        // A look at whether it is to go on.
        fail(Errno::EINTR)
    }
}

/// The mark that somebody waits, for as long as this lives.
struct Waiter<'a>(&'a Word);

impl<'a> Waiter<'a> {
    fn new(word: &'a Word) -> Self {
        word.word().fetch_add(WAITER, Ordering::SeqCst);
        Self(word)
    }

    /// The mark has gone already.
    fn has_left(self) {
        std::mem::forget(self);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.word().fetch_sub(WAITER, Ordering::SeqCst);
    }
}

#[allow(unsafe_code)]
mod sys {
    use std::sync::atomic::AtomicU64;

    use super::SIZE;
    use crate::error::Errno;

    /// Where the kernel finds the value.
    fn futex(word: &AtomicU64) -> *mut u32 {
        let halves = word.as_ptr().cast::<u32>();
        if cfg!(target_endian = "big") { halves.wrapping_add(1) } else { halves }
    }

    /// Waits while the value is `value` (futex(2)).
    pub(super) fn wait(word: &AtomicU64, value: u32, bits: u32) -> Result<(), Errno> {
        // SAFETY: the word outlives the call; the kernel reads it and answers EFAULT should the
        // page have gone. No timeout, no second word.
        let done = unsafe {
            libc::syscall(
                libc::SYS_futex,
                futex(word),
                libc::FUTEX_WAIT_BITSET,
                value,
                std::ptr::null::<libc::timespec>(),
                std::ptr::null::<u32>(),
                bits,
            )
        };
        Errno::result(done).map(drop)
    }

    /// Wakes up to `count` of those who listen to one of `bits`.
    pub(super) fn wake(word: &AtomicU64, count: u32, bits: u32) {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        // SAFETY: as above; that the page has gone is found out by who looks at it next.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                futex(word),
                libc::FUTEX_WAKE_BITSET,
                count,
                std::ptr::null::<libc::timespec>(),
                std::ptr::null::<u32>(),
                bits,
            )
        };
    }

    /// `sem_init(3)` for several processes, in memory of ours.
    fn with_semaphore(
        value: u32,
        work: impl FnOnce(*mut libc::sem_t) -> i32,
    ) -> Result<[u8; SIZE], Errno> {
        // SAFETY: all zeroes is a valid sem_t to initialise, and one may be looked at as bytes:
        // zeroed first, it has no uninitialised ones.
        unsafe {
            let mut semaphore: libc::sem_t = std::mem::zeroed();
            Errno::result(libc::sem_init(&raw mut semaphore, 1, value))?;
            Errno::result(work(&raw mut semaphore))?;
            Ok(std::mem::transmute::<libc::sem_t, [u8; SIZE]>(semaphore))
        }
    }

    pub(super) fn init(value: u32) -> Result<[u8; SIZE], Errno> {
        with_semaphore(value, |_| 0)
    }

    /// As [`init`], and posted once.
    pub(super) fn post(value: u32) -> Result<[u8; SIZE], Errno> {
        // SAFETY: the semaphore has just been initialised.
        with_semaphore(value, |semaphore| unsafe { libc::sem_post(semaphore) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = File::from(nix::sys::memfd::memfd_create("semaphore", flags).unwrap());
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn semaphore(value: u32) -> (File, Arc<Word>) {
        let file = file(&fresh(value).unwrap());
        let word = Arc::new(Word::new(&file, 0).unwrap());
        (file, word)
    }

    fn value(file: &File) -> u32 {
        read(file.as_fd()).unwrap().value
    }

    fn eventually(mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(20));
            thread::yield_now();
        }
    }

    #[test]
    fn this_machines_library_is_known() {
        check_library().unwrap();
    }

    #[test]
    fn all_or_none_is_taken_and_too_much_is_refused() {
        let (file, word) = semaphore(2);
        assert!(!word.try_take(3).unwrap());
        assert_eq!(value(&file), 2);
        assert!(word.try_take(2).unwrap());
        assert_eq!(value(&file), 0);
        word.set(VALUE_MAX).unwrap();
        assert_eq!(word.post(1).unwrap_err().errno(), Errno::EOVERFLOW);
        word.post(0).unwrap();
        assert_eq!(value(&file), VALUE_MAX);
    }

    #[test]
    fn setting_and_posting_wake_as_many_as_can_take() {
        let (file, word) = semaphore(0);
        let taken = Arc::new(AtomicU32::new(0));
        let waiters: Vec<_> = (0..10)
            .map(|_| {
                let (word, taken) = (Arc::clone(&word), Arc::clone(&taken));
                thread::spawn(move || {
                    while word.take(1).is_err() {}
                    taken.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        let waiting = |count| eventually(|| read(file.as_fd()).unwrap().waiters == count);
        waiting(10);
        word.set(3).unwrap();
        waiting(7);
        eventually(|| taken.load(Ordering::SeqCst) == 3);
        word.post(7).unwrap();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(read(file.as_fd()).unwrap(), State { value: 0, waiters: 0 });
    }

    #[test]
    fn who_waits_for_several_takes_none_before_and_wakes_who_waits_for_one() {
        let (file, word) = semaphore(0);
        let bulk = Arc::clone(&word);
        let bulk = thread::spawn(move || while bulk.take(3).is_err() {});
        eventually(|| read(file.as_fd()).unwrap().waiters == 1);
        for _ in 0..50 {
            let single = Arc::clone(&word);
            let single = thread::spawn(move || while single.take(1).is_err() {});
            eventually(|| read(file.as_fd()).unwrap().waiters == 2);
            // The kernel wakes who has waited longest: the one for whom it is too little.
            word.post(1).unwrap();
            eventually(|| single.is_finished());
        }
        word.post(2).unwrap();
        assert!(!bulk.is_finished());
        assert_eq!(value(&file), 2);
        word.post(1).unwrap();
        bulk.join().unwrap();
        assert_eq!(value(&file), 0);
    }

    #[test]
    fn forged_contents_are_an_error_and_junk_behind_the_word_is_ignored() {
        let forged = file(&[0xff; SIZE]);
        assert_eq!(read(forged.as_fd()).unwrap_err().errno(), Errno::EIO);
        let word = Word::new(&forged, 0).unwrap();
        for outcome in [word.set(1), word.post(1), word.take(1), word.try_take(1).map(drop)] {
            assert_eq!(outcome.unwrap_err().errno(), Errno::EIO);
        }
        let mut junk = [0xff; SIZE];
        junk[..8].copy_from_slice(&1_u64.to_ne_bytes());
        let junk = Word::new(file(&junk), 0).unwrap();
        junk.take(1).unwrap();
        junk.post(1).unwrap();
    }

    #[test]
    fn a_file_cut_short_is_an_error_each_time() {
        let (file, word) = semaphore(1);
        file.set_len(0).unwrap();
        assert_eq!(read(file.as_fd()).unwrap_err().errno(), Errno::EIO);
        assert_eq!(word.post(1).unwrap_err().errno(), Errno::EIO);
        assert_eq!(word.take(1).unwrap_err().errno(), Errno::EIO);
        assert!(word.is_torn());
    }
}
