//! The system calls on segments.

use std::io::{IoSlice, IoSliceMut};

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use crate::error::Errno;

/// linux/shm.h; libc does not have it.
const SHM_STAT_ANY: i32 = 15;
/// In the mode: to be destroyed after the last detach; locked in memory.
pub(super) const DEST: u32 = 0o1000;
pub(super) const LOCKED: u32 = 0o2000;

/// shmget(2).
pub(super) fn get(key: i32, size: u64, flags: i32) -> Result<i32, Errno> {
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    // SAFETY: takes three integers.
    Errno::result(unsafe { libc::shmget(key, size, flags) })
}

/// What is known of a segment; needs no permission.
pub(super) fn stat(id: i32) -> Result<libc::shmid_ds, Errno> {
    // SAFETY: all zeroes is a valid shmid_ds, which the kernel fills in.
    let (found, segment) = unsafe {
        let mut segment: libc::shmid_ds = std::mem::zeroed();
        (Errno::result(libc::shmctl(id, SHM_STAT_ANY, &raw mut segment))?, segment)
    };
    // It goes by the place in the table and says which segment it has found there.
    if found == id { Ok(segment) } else { Err(Errno::EIDRM) }
}

/// How many segments there are, and pages in all of them (`SHM_INFO`).
pub(super) fn in_use() -> Result<(u64, u64), Errno> {
    /// linux/shm.h; libc does not have it.
    const SHM_INFO: i32 = 14;
    // `struct shm_info`: an int, and five unsigned longs after it.
    let mut info = [0_u64; 6];
    // SAFETY: SHM_INFO fills in that structure, which has the array's size and alignment.
    let done = unsafe { libc::shmctl(0, SHM_INFO, info.as_mut_ptr().cast()) };
    Errno::result(done)?;
    let first: [u8; 8] = info[0].to_ne_bytes();
    let segments = first.first_chunk().map_or(0, |bytes: &[u8; 4]| i32::from_ne_bytes(*bytes));
    Ok((u64::try_from(segments).unwrap_or(0), info[1]))
}

/// `IPC_SET`: mode and owner.
pub(super) fn set(id: i32, segment: &libc::shmid_ds) -> Result<(), Errno> {
    let mut segment = *segment;
    // SAFETY: the kernel reads from the copy.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_SET, &raw mut segment) }).map(drop)
}

/// `IPC_RMID`.
pub(super) fn remove(id: i32) -> Result<(), Errno> {
    // SAFETY: the kernel looks at no pointer.
    let done = unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    Errno::result(done).map(drop)
}

/// The longest segment that may be made: `kernel.shmmax`.
pub(super) fn longest() -> u64 {
    // linux/shm.h, `struct shminfo64`; libc does not have it. The first number is shmmax.
    let mut info = [0_u64; 9];
    // SAFETY: IPC_INFO fills in nine unsigned longs.
    let done = unsafe { libc::shmctl(0, libc::IPC_INFO, info.as_mut_ptr().cast()) };
    if done < 0 { u64::MAX } else { info[0] }
}

/// A segment in this process's memory. Nothing here refers to that memory: it is copied from and
/// to by the kernel, at which others may write at the same time.
pub(super) struct Attachment(usize);

impl Attachment {
    /// shmat(2).
    pub(super) fn new(id: i32, write: bool) -> Result<Self, Errno> {
        let flags = if write { 0 } else { libc::SHM_RDONLY };
        // SAFETY: the kernel chooses a free address.
        let address = unsafe { libc::shmat(id, std::ptr::null(), flags) };
        if address as isize == -1 { Err(Errno::last()) } else { Ok(Self(address as usize)) }
    }

    pub(super) fn address(&self) -> usize {
        self.0
    }

    /// Copies from `at` on; the caller keeps the bounds.
    pub(super) fn read(&self, at: usize, data: &mut [u8]) -> Result<usize, Errno> {
        let there = RemoteIoVec { base: self.0 + at, len: data.len() };
        process_vm_readv(Pid::this(), &mut [IoSliceMut::new(data)], &[there])
    }

    /// Copies to `at` on; the caller keeps the bounds.
    pub(super) fn write(&self, at: usize, data: &[u8]) -> Result<usize, Errno> {
        let there = RemoteIoVec { base: self.0 + at, len: data.len() };
        process_vm_writev(Pid::this(), &[IoSlice::new(data)], &[there])
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // SAFETY: this is where the segment is attached, and nobody else detaches it.
        unsafe { libc::shmdt(self.0 as *const libc::c_void) };
    }
}
