//! The C calls, as safe functions; errors are errno.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

/// What a call gives.
pub type Result<T> = std::result::Result<T, Errno>;

/// Makes this thread, and no other, somebody else's. libc's own functions would change them all.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) {
    let none = u32::MAX;
    // SAFETY: the kernel reads as many groups as said; the rest are integers.
    let done = unsafe {
        libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0
            && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
            && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
    };
    assert!(done, "{uid}:{gid}: {}", Errno::last());
    assert_ne!(uid, none);
}

pub fn mq_open(name: &CStr, flags: i32, mode: u32, size: Option<(i64, i64)>) -> Result<OwnedFd> {
    // SAFETY: all-zero attributes are valid; the name and they live through the call, and what
    // comes of it belongs to nobody else.
    unsafe {
        let mut attributes: libc::mq_attr = std::mem::zeroed();
        if let Some((maxmsg, msgsize)) = size {
            (attributes.mq_maxmsg, attributes.mq_msgsize) = (maxmsg, msgsize);
        }
        let at = if size.is_some() { &raw const attributes } else { ptr::null() };
        let fd = Errno::result(libc::mq_open(name.as_ptr(), flags, mode, at))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

pub fn mq_unlink(name: &CStr) -> Result<()> {
    // SAFETY: the name lives through the call.
    Errno::result(unsafe { libc::mq_unlink(name.as_ptr()) }).map(drop)
}

pub fn mq_send(queue: BorrowedFd<'_>, data: &[u8], priority: u32) -> Result<()> {
    let at = data.as_ptr().cast();
    // SAFETY: as many bytes are there as said.
    Errno::result(unsafe { libc::mq_send(queue.as_raw_fd(), at, data.len(), priority) }).map(drop)
}

pub fn mq_receive(queue: BorrowedFd<'_>, room: usize) -> Result<(u32, Vec<u8>)> {
    let (mut data, mut priority) = (vec![0; room], 0);
    let at = data.as_mut_ptr().cast();
    // SAFETY: there is as much room as said.
    let length = unsafe { libc::mq_receive(queue.as_raw_fd(), at, room, &raw mut priority) };
    data.truncate(Errno::result(length)? as usize);
    Ok((priority, data))
}

pub fn shm_open(name: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    // SAFETY: the name lives through the call; the descriptor belongs to nobody else.
    unsafe {
        let fd = Errno::result(libc::shm_open(name.as_ptr(), flags, mode))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

pub fn shm_unlink(name: &CStr) -> Result<()> {
    // SAFETY: the name lives through the call.
    Errno::result(unsafe { libc::shm_unlink(name.as_ptr()) }).map(drop)
}

/// An open named semaphore.
#[derive(Debug)]
pub struct Semaphore(*mut libc::sem_t);

// SAFETY: a semaphore is there to be used by many threads.
unsafe impl Send for Semaphore {}

impl Semaphore {
    pub fn open(name: &CStr, flags: i32, mode: u32, value: u32) -> Result<Self> {
        // SAFETY: the name lives through the call.
        let semaphore = unsafe { libc::sem_open(name.as_ptr(), flags, mode, value) };
        if semaphore == libc::SEM_FAILED { Err(Errno::last()) } else { Ok(Self(semaphore)) }
    }

    pub fn post(&self) -> Result<()> {
        // SAFETY: it is open.
        Errno::result(unsafe { libc::sem_post(self.0) }).map(drop)
    }

    pub fn try_wait(&self) -> Result<()> {
        // SAFETY: it is open.
        Errno::result(unsafe { libc::sem_trywait(self.0) }).map(drop)
    }

    pub fn value(&self) -> Result<i32> {
        let mut value = 0;
        // SAFETY: it is open, and there is room for the value.
        Errno::result(unsafe { libc::sem_getvalue(self.0, &raw mut value) })?;
        Ok(value)
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        // SAFETY: it is open, and nobody uses it from now on.
        unsafe { libc::sem_close(self.0) };
    }
}

pub fn sem_unlink(name: &CStr) -> Result<()> {
    // SAFETY: the name lives through the call.
    Errno::result(unsafe { libc::sem_unlink(name.as_ptr()) }).map(drop)
}

pub fn msgget(key: i32, flags: i32) -> Result<i32> {
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::msgget(key, flags) })
}

pub fn msg_stat(id: i32) -> Result<libc::msqid_ds> {
    // SAFETY: all zeroes is a valid msqid_ds, which the kernel fills in.
    unsafe {
        let mut queue: libc::msqid_ds = std::mem::zeroed();
        Errno::result(libc::msgctl(id, libc::IPC_STAT, &raw mut queue))?;
        Ok(queue)
    }
}

pub fn msg_set(id: i32, mut queue: libc::msqid_ds) -> Result<()> {
    // SAFETY: the kernel reads from it.
    Errno::result(unsafe { libc::msgctl(id, libc::IPC_SET, &raw mut queue) }).map(drop)
}

pub fn msg_remove(id: i32) -> Result<()> {
    // SAFETY: the kernel looks at no pointer.
    Errno::result(unsafe { libc::msgctl(id, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
}

/// Without waiting.
pub fn msgsnd(id: i32, tag: i64, data: &[u8]) -> Result<()> {
    let mut buffer = tag.to_ne_bytes().to_vec();
    buffer.extend_from_slice(data);
    let at = buffer.as_ptr().cast();
    // SAFETY: the type and as many bytes as said are there; the kernel reads byte by byte.
    Errno::result(unsafe { libc::msgsnd(id, at, data.len(), libc::IPC_NOWAIT) }).map(drop)
}

/// Without waiting.
pub fn msgrcv(id: i32, room: usize, number: i64, flags: i32) -> Result<(i64, Vec<u8>)> {
    const TAG: usize = size_of::<libc::c_long>();
    let mut buffer = vec![0_u8; TAG + room];
    let (at, flags) = (buffer.as_mut_ptr().cast(), flags | libc::IPC_NOWAIT);
    // SAFETY: there is room for the type and as many bytes as said.
    let length = Errno::result(unsafe { libc::msgrcv(id, at, room, number, flags) })?;
    let data = buffer[TAG..TAG + length as usize].to_vec();
    Ok((i64::from_ne_bytes(buffer[..TAG].try_into().unwrap()), data))
}

pub fn semget(key: i32, count: i32, flags: i32) -> Result<i32> {
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::semget(key, count, flags) })
}

pub fn sem_stat(id: i32) -> Result<libc::semid_ds> {
    // SAFETY: all zeroes is a valid semid_ds, which the kernel fills in.
    unsafe {
        let mut set: libc::semid_ds = std::mem::zeroed();
        Errno::result(libc::semctl(id, 0, libc::IPC_STAT, &raw mut set))?;
        Ok(set)
    }
}

pub fn sem_set(id: i32, mut set: libc::semid_ds) -> Result<()> {
    // SAFETY: the kernel reads from it.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_SET, &raw mut set) }).map(drop)
}

pub fn sem_remove(id: i32) -> Result<()> {
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }).map(drop)
}

pub fn sem_values(id: i32) -> Result<Vec<u16>> {
    let mut values = vec![0_u16; 32_000];
    // SAFETY: there is room for the largest set.
    Errno::result(unsafe { libc::semctl(id, 0, libc::GETALL, values.as_mut_ptr()) })?;
    values.truncate(sem_stat(id)?.sem_nsems as usize);
    Ok(values)
}

pub fn sem_set_values(id: i32, values: &[u16]) -> Result<()> {
    let mut all = vec![0_u16; 32_000];
    all[..values.len()].copy_from_slice(values);
    // SAFETY: there are as many values as the largest set has.
    Errno::result(unsafe { libc::semctl(id, 0, libc::SETALL, all.as_ptr()) }).map(drop)
}

pub fn sem_set_value(id: i32, index: u16, value: i32) -> Result<()> {
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::semctl(id, i32::from(index), libc::SETVAL, value) }).map(drop)
}

/// Without waiting.
pub fn semop(id: i32, steps: &[(u16, i16)]) -> Result<()> {
    let step = |&(sem_num, sem_op): &(u16, i16)| libc::sembuf {
        sem_num,
        sem_op,
        sem_flg: libc::IPC_NOWAIT as i16,
    };
    let mut steps: Vec<_> = steps.iter().map(step).collect();
    // SAFETY: as many operations are there as said.
    Errno::result(unsafe { libc::semop(id, steps.as_mut_ptr(), steps.len()) }).map(drop)
}

pub fn shmget(key: i32, size: usize, flags: i32) -> Result<i32> {
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::shmget(key, size, flags) })
}

pub fn shm_stat(id: i32) -> Result<libc::shmid_ds> {
    // SAFETY: all zeroes is a valid shmid_ds, which the kernel fills in.
    unsafe {
        let mut segment: libc::shmid_ds = std::mem::zeroed();
        Errno::result(libc::shmctl(id, libc::IPC_STAT, &raw mut segment))?;
        Ok(segment)
    }
}

pub fn shm_set(id: i32, mut segment: libc::shmid_ds) -> Result<()> {
    // SAFETY: the kernel reads from it.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_SET, &raw mut segment) }).map(drop)
}

pub fn shm_remove(id: i32) -> Result<()> {
    // SAFETY: the kernel looks at no pointer.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
}

/// An attached segment.
pub struct Attached {
    at: *mut u8,
    size: usize,
}

// SAFETY: memory of its own, for whoever holds it.
unsafe impl Send for Attached {}

impl Attached {
    pub fn new(id: i32, flags: i32) -> Result<Self> {
        let size = shm_stat(id).map_or(0, |segment| segment.shm_segsz);
        // SAFETY: the kernel chooses a free address.
        let at = unsafe { libc::shmat(id, ptr::null(), flags) };
        if at as isize == -1 { Err(Errno::last()) } else { Ok(Self { at: at.cast(), size }) }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are attached, and these tests have nobody who writes meanwhile.
        unsafe { std::slice::from_raw_parts(self.at, self.size) }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: this is where it is attached.
        unsafe { libc::shmdt(self.at.cast()) };
    }
}

/// Maps a page of a file and unmaps it again.
pub fn map(file: BorrowedFd<'_>, protection: i32, flags: i32) -> Result<()> {
    // SAFETY: the kernel chooses a free address; nobody looks at what is there.
    unsafe {
        let at = libc::mmap(ptr::null_mut(), 4096, protection, flags, file.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        libc::munmap(at, 4096);
    }
    Ok(())
}
