//! The C calls, none of which waits.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

/// What a call has given.
pub type Got<T> = Result<T, Errno>;

fn c_string(name: &str) -> CString {
    CString::new(name).unwrap()
}

fn descriptor(fd: i32) -> Got<OwnedFd> {
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A POSIX message queue, open for both.
pub struct Mq(pub OwnedFd);

impl Mq {
    /// Opens it, or makes it with a mode and the number and size of its messages.
    pub fn open(name: &str, make: Option<(u32, i64, i64)>) -> Got<Self> {
        let (name, flags) = (c_string(name), libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC);
        let Some((mode, maxmsg, msgsize)) = make else {
            // SAFETY: the name ends with NUL.
            return descriptor(unsafe { libc::mq_open(name.as_ptr(), flags) }).map(Self);
        };
        // SAFETY: all zeroes is a valid mq_attr.
        let mut attr: libc::mq_attr = unsafe { std::mem::zeroed() };
        (attr.mq_maxmsg, attr.mq_msgsize) = (maxmsg, msgsize);
        let flags = flags | libc::O_CREAT | libc::O_EXCL;
        // SAFETY: the name ends with NUL, `attr` outlives the call.
        descriptor(unsafe { libc::mq_open(name.as_ptr(), flags, mode, &raw const attr) }).map(Self)
    }

    pub fn unlink(name: &str) -> Got<()> {
        // SAFETY: the name ends with NUL.
        Errno::result(unsafe { libc::mq_unlink(c_string(name).as_ptr()) }).map(drop)
    }

    pub fn send(&self, priority: u32, data: &[u8]) -> Got<()> {
        // SAFETY: pointer and length are the slice's.
        let done = unsafe {
            libc::mq_send(self.0.as_raw_fd(), data.as_ptr().cast(), data.len(), priority)
        };
        Errno::result(done).map(drop)
    }

    pub fn receive(&self) -> Got<(u32, Vec<u8>)> {
        let (mut data, mut priority) = (vec![0; 8192], 0);
        // SAFETY: pointer and length are the vector's, `priority` outlives the call.
        let length = unsafe {
            let room = data.as_mut_ptr().cast();
            libc::mq_receive(self.0.as_raw_fd(), room, data.len(), &raw mut priority)
        };
        data.truncate(Errno::result(length)? as usize);
        Ok((priority, data))
    }

    /// How many messages it takes, how long they may be, how many there are.
    pub fn attributes(&self) -> Got<(i64, i64, i64)> {
        // SAFETY: all zeroes is a valid mq_attr, which the call fills in.
        let (done, attr) = unsafe {
            let mut attr: libc::mq_attr = std::mem::zeroed();
            (libc::mq_getattr(self.0.as_raw_fd(), &raw mut attr), attr)
        };
        Errno::result(done).map(|_| (attr.mq_maxmsg, attr.mq_msgsize, attr.mq_curmsgs))
    }

    pub fn stat(&self) -> Got<FileStat> {
        nix::sys::stat::fstat(&self.0)
    }
}

/// A System V message queue.
pub struct Msg(pub i32);

impl Msg {
    pub fn get(key: i32, flags: i32) -> Got<Self> {
        // SAFETY: takes two integers.
        Errno::result(unsafe { libc::msgget(key, flags) }).map(Self)
    }

    pub fn remove(&self) -> Got<()> {
        // SAFETY: the kernel looks at no pointer.
        let done = unsafe { libc::msgctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
        Errno::result(done).map(drop)
    }

    pub fn send(&self, tag: i64, data: &[u8]) -> Got<()> {
        let buffer = [&tag.to_ne_bytes(), data].concat();
        // SAFETY: the buffer holds the type and as many bytes as said.
        let done =
            unsafe { libc::msgsnd(self.0, buffer.as_ptr().cast(), data.len(), libc::IPC_NOWAIT) };
        Errno::result(done).map(drop)
    }

    /// `flags` may have `MSG_EXCEPT`.
    pub fn receive(&self, tag: i64, flags: i32) -> Got<(i64, Vec<u8>)> {
        let mut buffer = vec![0; 8 + 8192];
        let (room, flags) = (buffer.len() - 8, flags | libc::IPC_NOWAIT);
        // SAFETY: the buffer has room for the type and `room` bytes.
        let length = unsafe { libc::msgrcv(self.0, buffer.as_mut_ptr().cast(), room, tag, flags) };
        buffer.truncate(8 + Errno::result(length)? as usize);
        let (tag, data) = buffer.split_at(8);
        Ok((i64::from_ne_bytes(tag.try_into().unwrap()), data.to_vec()))
    }

    pub fn stat(&self) -> Got<libc::msqid_ds> {
        // SAFETY: all zeroes is a valid msqid_ds, which the call fills in.
        let (done, queue) = unsafe {
            let mut queue: libc::msqid_ds = std::mem::zeroed();
            (libc::msgctl(self.0, libc::IPC_STAT, &raw mut queue), queue)
        };
        Errno::result(done).map(|_| queue)
    }

    pub fn set(&self, change: impl FnOnce(&mut libc::msqid_ds)) -> Got<()> {
        let mut queue = self.stat()?;
        change(&mut queue);
        // SAFETY: the call reads from `queue`.
        Errno::result(unsafe { libc::msgctl(self.0, libc::IPC_SET, &raw mut queue) }).map(drop)
    }
}

/// A System V semaphore set.
pub struct Set(pub i32);

impl Set {
    pub fn get(key: i32, count: usize, flags: i32) -> Got<Self> {
        // SAFETY: takes three integers.
        Errno::result(unsafe { libc::semget(key, count as i32, flags) }).map(Self)
    }

    pub fn remove(&self) -> Got<()> {
        // SAFETY: the kernel looks at no pointer.
        Errno::result(unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) }).map(drop)
    }

    /// `semop(2)`, all or nothing.
    pub fn operate(&self, steps: &[(u16, i16)]) -> Got<()> {
        let operation = |&(index, change): &(u16, i16)| libc::sembuf {
            sem_num: index,
            sem_op: change,
            sem_flg: libc::IPC_NOWAIT as i16,
        };
        let mut steps: Vec<_> = steps.iter().map(operation).collect();
        // SAFETY: pointer and length are the vector's.
        let done = unsafe { libc::semop(self.0, steps.as_mut_ptr(), steps.len()) };
        Errno::result(done).map(drop)
    }

    /// There have to be as many values as semaphores.
    pub fn set_all(&self, values: &[u16]) -> Got<()> {
        // SAFETY: the caller has counted.
        Errno::result(unsafe { libc::semctl(self.0, 0, libc::SETALL, values.as_ptr()) }).map(drop)
    }

    pub fn set_one(&self, index: u16, value: i32) -> Got<()> {
        // SAFETY: the kernel looks at no pointer.
        let done = unsafe { libc::semctl(self.0, index.into(), libc::SETVAL, value) };
        Errno::result(done).map(drop)
    }

    pub fn values(&self, count: usize) -> Got<Vec<u16>> {
        let mut values = vec![0_u16; count];
        // SAFETY: there is room for as many values as there are semaphores.
        let done = unsafe { libc::semctl(self.0, 0, libc::GETALL, values.as_mut_ptr()) };
        Errno::result(done).map(|_| values)
    }
}

/// A POSIX semaphore.
pub struct Semaphore(*mut libc::sem_t);

impl Semaphore {
    pub fn open(name: &str) -> Got<Self> {
        // SAFETY: the name ends with NUL.
        Self::opened(unsafe { libc::sem_open(c_string(name).as_ptr(), 0) })
    }

    pub fn make(name: &str, mode: u32, value: u32) -> Got<Self> {
        let flags = libc::O_CREAT | libc::O_EXCL;
        // SAFETY: the name ends with NUL.
        Self::opened(unsafe { libc::sem_open(c_string(name).as_ptr(), flags, mode, value) })
    }

    fn opened(semaphore: *mut libc::sem_t) -> Got<Self> {
        if semaphore == libc::SEM_FAILED { Err(Errno::last()) } else { Ok(Self(semaphore)) }
    }

    pub fn unlink(name: &str) -> Got<()> {
        // SAFETY: the name ends with NUL.
        Errno::result(unsafe { libc::sem_unlink(c_string(name).as_ptr()) }).map(drop)
    }

    pub fn post(&self) -> Got<()> {
        // SAFETY: it is open as long as this lives.
        Errno::result(unsafe { libc::sem_post(self.0) }).map(drop)
    }

    pub fn try_wait(&self) -> Got<()> {
        // SAFETY: it is open as long as this lives.
        Errno::result(unsafe { libc::sem_trywait(self.0) }).map(drop)
    }

    pub fn value(&self) -> Got<u32> {
        let mut value = 0;
        // SAFETY: it is open as long as this lives; `value` outlives the call.
        Errno::result(unsafe { libc::sem_getvalue(self.0, &raw mut value) })?;
        Ok(value as u32)
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        // SAFETY: it is open, and nobody uses it any more.
        unsafe { libc::sem_close(self.0) };
    }
}

/// Memory that is shared with others.
pub struct Memory {
    start: *mut libc::c_void,
    length: usize,
    attached: bool,
}

impl Memory {
    /// Maps the beginning of a file.
    pub fn map(file: &impl AsRawFd, length: usize) -> Got<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let null = std::ptr::null_mut();
        // SAFETY: the kernel chooses the place.
        let start =
            unsafe { libc::mmap(null, length, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        Self::there(start, length, false)
    }

    /// Attaches a System V segment.
    pub fn attach(id: i32, length: usize) -> Got<Self> {
        // SAFETY: the kernel chooses the place.
        Self::there(unsafe { libc::shmat(id, std::ptr::null(), 0) }, length, true)
    }

    fn there(start: *mut libc::c_void, length: usize, attached: bool) -> Got<Self> {
        if start == libc::MAP_FAILED {
            Err(Errno::last())
        } else {
            Ok(Self { start, length, attached })
        }
    }

    /// The first `length` bytes. The file has to be as long.
    pub fn read(&self, length: usize) -> Vec<u8> {
        assert!(length <= self.length);
        let mut bytes = vec![0; length];
        // SAFETY: so much is mapped, and nobody changes it meanwhile.
        unsafe { bytes.as_mut_ptr().copy_from(self.start.cast(), length) };
        bytes
    }

    /// Writes at an offset. The file has to be as long.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.length);
        // SAFETY: so much is mapped, and nobody reads it meanwhile.
        unsafe { self.start.cast::<u8>().add(at).copy_from(bytes.as_ptr(), bytes.len()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it is there, and nobody uses it any more.
        unsafe {
            if self.attached {
                libc::shmdt(self.start);
            } else {
                libc::munmap(self.start, self.length);
            }
        }
    }
}

/// `shmget(2)`.
pub fn segment(key: i32, size: usize, flags: i32) -> Got<i32> {
    // SAFETY: takes integers.
    Errno::result(unsafe { libc::shmget(key, size, flags) })
}

pub fn segment_stat(id: i32) -> Got<libc::shmid_ds> {
    // SAFETY: all zeroes is a valid shmid_ds, which the call fills in.
    let (done, segment) = unsafe {
        let mut segment: libc::shmid_ds = std::mem::zeroed();
        (libc::shmctl(id, libc::IPC_STAT, &raw mut segment), segment)
    };
    Errno::result(done).map(|_| segment)
}

pub fn remove_segment(id: i32) -> Got<()> {
    // SAFETY: the kernel looks at no pointer.
    let done = unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    Errno::result(done).map(drop)
}

pub fn shm_open(name: &CStr, flags: i32, mode: u32) -> Got<OwnedFd> {
    // SAFETY: the name ends with NUL.
    descriptor(unsafe { libc::shm_open(name.as_ptr(), flags, mode) })
}

pub fn shm_unlink(name: &CStr) -> Got<()> {
    // SAFETY: the name ends with NUL.
    Errno::result(unsafe { libc::shm_unlink(name.as_ptr()) }).map(drop)
}
