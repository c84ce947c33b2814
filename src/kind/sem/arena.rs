//! Memory that others may cut short: mappings of semaphore files behind a guard.
//!
//! Whoever may write a file in /dev/shm may truncate it at any moment, and touching a page that the
//! file no longer has is SIGBUS. All such pages lie in one reserved stretch of addresses. The
//! handler of SIGBUS looks whether the address is in there; if so it puts a page of zeroes in the
//! place and notes that the mapping is torn, so that the access goes on and the request that made
//! it ends with an error. A SIGBUS from anywhere else is passed on.

use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::{Errno, Error, Result};
use crate::quota::{Quota, Share};

/// How many files can be mapped at a time.
const SLOTS: usize = 32_768;

/// The reserved stretch; 0 until there is one. For the handler, which may take no lock.
static START: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(0);
static TORN: [AtomicBool; SLOTS] = [const { AtomicBool::new(false) }; SLOTS];
/// The slots that have been used and are free again, and how many have been used at all.
static FREE: Mutex<(Vec<usize>, usize)> = Mutex::new((Vec::new(), 0));

/// Reserves the addresses and installs the handler, once.
fn prepare() -> Result<()> {
    static PREPARED: OnceLock<std::result::Result<(), Errno>> = OnceLock::new();
    let prepared = PREPARED.get_or_init(|| {
        let page = sys::page_size();
        let start = sys::reserve(page * SLOTS)?;
        PAGE.store(page, Ordering::SeqCst);
        START.store(start, Ordering::SeqCst);
        sys::install_handler()
    });
    Ok((*prepared)?)
}

/// The slot that an address is in. Called by the handler.
fn slot_of(address: usize) -> Option<usize> {
    let (start, page) = (START.load(Ordering::SeqCst), PAGE.load(Ordering::SeqCst));
    let offset = address.checked_sub(start)?;
    (start != 0 && offset < page * SLOTS).then(|| offset / page)
}

/// The first page of a file, shared with everybody who has it mapped.
#[derive(Debug)]
pub struct Mapping {
    slot: usize,
    _share: Share,
}

impl Mapping {
    /// Maps a file that is open for reading and writing, for the user `uid`. `ENOMEM` if they have
    /// too many.
    pub fn new(file: BorrowedFd<'_>, uid: u32) -> Result<Self> {
        prepare()?;
        let share = Quota::mappings().take_many(uid, 2)?;
        let slot = {
            let mut free = FREE.lock();
            match free.0.pop() {
                Some(slot) => slot,
                None if free.1 < SLOTS => {
                    free.1 += 1;
                    free.1 - 1
                }
                None => {
                    return Err(Error::because(
                        Errno::ENOMEM,
                        format!("{SLOTS} semaphores are in use at a time already"),
                    ));
                }
            }
        };
        let mapping = Self { slot, _share: share };
        TORN[slot].store(false, Ordering::SeqCst);
        sys::map(mapping.address(), PAGE.load(Ordering::SeqCst), file)?;
        Ok(mapping)
    }

    fn address(&self) -> usize {
        START.load(Ordering::SeqCst) + self.slot * PAGE.load(Ordering::SeqCst)
    }

    /// The first eight bytes.
    pub fn word(&self) -> &AtomicU64 {
        sys::word(self)
    }

    /// Whether the file has been cut short under the mapping, whose contents mean nothing any more.
    pub fn is_torn(&self) -> bool {
        TORN[self.slot].load(Ordering::SeqCst)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        sys::unmap(self.address(), PAGE.load(Ordering::SeqCst));
        FREE.lock().0.push(self.slot);
    }
}

#[allow(unsafe_code)]
mod sys {
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Mapping, PAGE, TORN, slot_of};
    use crate::error::Errno;

    /// What SIGBUS did before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    pub(super) fn page_size() -> usize {
        // SAFETY: takes an integer.
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
    }

    /// mmap(2).
    unsafe fn mmap(
        address: usize,
        length: usize,
        protection: i32,
        flags: i32,
        fd: i32,
    ) -> Result<usize, Errno> {
        let address = address as *mut libc::c_void;
        // SAFETY: the caller answers for what is mapped over.
        let mapped = unsafe { libc::mmap(address, length, protection, flags, fd, 0) };
        if mapped == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(mapped as usize) }
    }

    /// Addresses with nothing behind them.
    pub(super) fn reserve(length: usize) -> Result<usize, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the kernel chooses addresses that are free.
        unsafe { mmap(0, length, libc::PROT_NONE, flags, -1) }
    }

    /// Maps a file's first page at a reserved address.
    pub(super) fn map(address: usize, page: usize, file: BorrowedFd<'_>) -> Result<(), Errno> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: the slot is the caller's own; nothing refers to it yet.
        unsafe { mmap(address, page, protection, flags, file.as_raw_fd()).map(drop) }
    }

    /// Leaves a reserved address with nothing behind it.
    pub(super) fn unmap(address: usize, page: usize) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the slot's mapping is being dropped, so nothing refers to it any more. Should it
        // fail, the page stays mapped until the slot is used again.
        let _ = unsafe { mmap(address, page, libc::PROT_NONE, flags, -1) };
    }

    pub(super) fn word(mapping: &Mapping) -> &AtomicU64 {
        // SAFETY: a readable and writable page is mapped there as long as the mapping lives, the
        // file's or the handler's; it is aligned, and shared memory is only accessed atomically.
        unsafe { AtomicU64::from_ptr(mapping.address() as *mut u64) }
    }

    pub(super) fn install_handler() -> Result<(), Errno> {
        // SAFETY: all-zero sigactions are valid; the handler fits SA_SIGINFO and does nothing that a
        // signal handler may not.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let mut before: libc::sigaction = std::mem::zeroed();
            Errno::result(libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before))?;
            let _ = BEFORE.set(before);
            Errno::result(libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()))?;
        }
        Ok(())
    }

    extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        // SAFETY: the kernel passes a valid siginfo.
        let address = unsafe { (*info).si_addr() } as usize;
        if let Some(slot) = slot_of(address) {
            TORN[slot].store(true, Ordering::SeqCst);
            let page = PAGE.load(Ordering::SeqCst);
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // SAFETY: the page is a mapping's, whose users access it atomically and look at the
            // mark when they have done so. errno is this thread's, put back as it was.
            let replaced = unsafe {
                let errno = libc::__errno_location();
                let before = *errno;
                let replaced = mmap(address & !(page - 1), page, protection, flags, -1);
                *errno = before;
                replaced
            };
            if replaced.is_ok() {
                return;
            }
        }
        // Somebody else's: it happens again at once, to whom it belongs.
        // SAFETY: `BEFORE` holds what was installed before, or nothing, which is the default.
        unsafe {
            match BEFORE.get() {
                Some(before) => libc::sigaction(signal, before, std::ptr::null_mut()),
                None => libc::signal(signal, libc::SIG_DFL) as i32,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    fn file() -> File {
        let fd = nix::sys::memfd::memfd_create("arena", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
        let file = File::from(fd.unwrap());
        file.set_len(32).unwrap();
        file
    }

    #[test]
    fn a_file_cut_short_is_noticed_and_nothing_dies() {
        let file = file();
        let mapping = Mapping::new(file.as_fd(), 0).unwrap();
        mapping.word().store(7, Ordering::SeqCst);
        assert!(!mapping.is_torn());
        file.set_len(0).unwrap();
        mapping.word().fetch_add(1, Ordering::SeqCst);
        assert!(mapping.is_torn());
        file.set_len(32).unwrap();
        let again = Mapping::new(file.as_fd(), 0).unwrap();
        assert_eq!(again.word().load(Ordering::SeqCst), 0);
        assert!(!again.is_torn());
    }

    #[test]
    fn slots_are_used_again() {
        let file = file();
        for round in 0..2 * SLOTS as u64 {
            let mapping = Mapping::new(file.as_fd(), 0).unwrap();
            assert_eq!(mapping.word().fetch_add(1, Ordering::SeqCst), round);
        }
    }

    #[test]
    fn threads_that_meet_a_cut_all_survive() {
        let file = file();
        for _ in 0..50 {
            file.set_len(32).unwrap();
            let mapping = Mapping::new(file.as_fd(), 0).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while !mapping.is_torn() {
                            mapping.word().fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
                file.set_len(0).unwrap();
            });
        }
    }
}
