//! The system calls; the C library's `mq_open` wants a name with a slash, the kernel's none.
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, SystemTime};

use crate::error::{Errno, Result as Outcome};
use crate::vfs::Wait;

/// What `mq_getattr(3)` tells.
pub(super) struct Attributes {
    pub(super) maxmsg: i64,
    pub(super) msgsize: usize,
    pub(super) queued: u64,
}

fn descriptor(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(result)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A mount of this IPC namespace's queues that is attached nowhere (fsmount(2)).
pub(super) fn mount_privately() -> Result<OwnedFd, Errno> {
    // SAFETY: C strings and integers; each result is checked.
    unsafe {
        let context =
            descriptor(libc::syscall(libc::SYS_fsopen, c"mqueue".as_ptr(), libc::FSOPEN_CLOEXEC))?;
        let none = std::ptr::null::<u8>();
        let create = libc::FSCONFIG_CMD_CREATE;
        Errno::result(libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            create,
            none,
            none,
            0,
        ))?;
        descriptor(libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
        ))
    }
}

/// /dev/mqueue, if the queues' file system is mounted there.
pub(super) fn open_mounted() -> Result<OwnedFd, Errno> {
    /// linux/magic.h does not have it; ipc/mqueue.c: "`MQUEUE_MAGIC`".
    const MQUEUE_MAGIC: i64 = 0x1980_0202;
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY;
    let dir = nix::fcntl::open("/dev/mqueue", flags, nix::sys::stat::Mode::empty())?;
    let magic = nix::sys::statfs::fstatfs(&dir)?.filesystem_type().0;
    if magic == MQUEUE_MAGIC { Ok(dir) } else { Err(Errno::ENODEV) }
}

/// A default that the kernel would take: /proc/sys/fs/mqueue.
pub(super) fn default(name: &str) -> Outcome<i64> {
    let text = std::fs::read_to_string(format!("/proc/sys/fs/mqueue/{name}"))?;
    text.trim().parse().map_err(|_| Errno::EIO.into())
}

/// What the daemon's user may spend on queues; `None` for all they like.
pub(super) fn own_limit() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit};
    let (limit, _) = getrlimit(Resource::RLIMIT_MSGQUEUE).ok()?;
    (limit != libc::RLIM_INFINITY).then_some(limit)
}

/// Makes a queue; `attributes` are the number of messages and their size, or the defaults.
pub(super) fn create(name: &CStr, mode: u32, attributes: Option<(i64, i64)>) -> Result<(), Errno> {
    // SAFETY: all zeroes is a valid mq_attr.
    let mut attr: libc::mq_attr = unsafe { std::mem::zeroed() };
    let attr = attributes.map_or(std::ptr::null(), |(maxmsg, msgsize)| {
        attr.mq_maxmsg = maxmsg;
        attr.mq_msgsize = msgsize;
        &raw const attr
    });
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    // SAFETY: the name ends with NUL, `attr` is null or outlives the call.
    let queue =
        unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, mode & 0o7777, attr) };
    descriptor(queue).map(drop)
}

/// When the wait is over: null for never, or a time that is over already.
fn deadline(wait: Wait) -> *const libc::timespec {
    static PAST: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    match wait {
        Wait::Try => &raw const PAST,
        Wait::Block => std::ptr::null(),
    }
}

fn expired(errno: Errno) -> Errno {
    if errno == Errno::ETIMEDOUT { Errno::EAGAIN } else { errno }
}

/// `mq_timedsend(3)`.
pub(super) fn send(
    queue: BorrowedFd<'_>,
    priority: u32,
    data: &[u8],
    wait: Wait,
) -> Result<(), Errno> {
    send_until(queue, priority, data, deadline(wait)).map_err(expired)
}

/// The same, waiting for so long at most: `ETIMEDOUT`.
pub(super) fn send_within(
    queue: BorrowedFd<'_>,
    priority: u32,
    data: &[u8],
    patience: Duration,
) -> Result<(), Errno> {
    let until = SystemTime::now() + patience;
    let since = until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let until = libc::timespec {
        tv_sec: libc::time_t::try_from(since.as_secs()).unwrap_or(0),
        tv_nsec: since.subsec_nanos().into(),
    };
    send_until(queue, priority, data, &raw const until)
}

/// `until` is null, or points to a time.
fn send_until(
    queue: BorrowedFd<'_>,
    priority: u32,
    data: &[u8],
    until: *const libc::timespec,
) -> Result<(), Errno> {
    let (fd, length) = (queue.as_raw_fd(), data.len());
    // SAFETY: the pointer and length are the slice's; the time is the caller's, who keeps it.
    let done = unsafe {
        libc::syscall(libc::SYS_mq_timedsend, fd, data.as_ptr(), length, priority, until)
    };
    Errno::result(done).map(drop)
}

/// `mq_timedreceive(3)` with `room` for the message; returns the priority.
pub(super) fn receive(
    queue: BorrowedFd<'_>,
    room: usize,
    message: &mut Vec<u8>,
    wait: Wait,
) -> Result<u32, Errno> {
    message.clear();
    message.reserve_exact(room);
    let mut priority = 0_u32;
    // SAFETY: the vector has room for `room` bytes, of which the kernel writes at most that
    // many and says how many.
    unsafe {
        let length = Errno::result(libc::syscall(
            libc::SYS_mq_timedreceive,
            queue.as_raw_fd(),
            message.as_mut_ptr(),
            room,
            &raw mut priority,
            deadline(wait),
        ))
        .map_err(expired)?;
        message.set_len(length as usize);
    }
    Ok(priority)
}

/// `mq_getattr(3)`.
pub(super) fn attributes(queue: BorrowedFd<'_>) -> Result<Attributes, Errno> {
    // SAFETY: all zeroes is a valid mq_attr, and the kernel fills in no more than that.
    unsafe {
        let mut attr: libc::mq_attr = std::mem::zeroed();
        let none = std::ptr::null::<libc::mq_attr>();
        Errno::result(libc::syscall(
            libc::SYS_mq_getsetattr,
            queue.as_raw_fd(),
            none,
            &raw mut attr,
        ))?;
        Ok(Attributes {
            maxmsg: attr.mq_maxmsg,
            msgsize: usize::try_from(attr.mq_msgsize).unwrap_or(0),
            queued: u64::try_from(attr.mq_curmsgs).unwrap_or(0),
        })
    }
}

/// What the queue's file says (`mq_overview(7)`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// The bytes queued.
    pub(super) bytes: u64,
    /// The process that `mq_notify(3)` tells, 0 for none.
    pub(super) notify_pid: u32,
    /// The signal that tells it, 0 for none.
    pub(super) notify_signal: u32,
}

/// Reads the queue's file.
pub(super) fn info(queue: BorrowedFd<'_>) -> Result<Info, Errno> {
    let mut text = [0; 128];
    let length = nix::sys::uio::pread(queue, &mut text, 0)?;
    Ok(parse_info(&String::from_utf8_lossy(&text[..length])))
}

/// The bytes queued alone, which each look-up asks for.
pub(super) fn queued_bytes(queue: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut text = [0; 128];
    let length = nix::sys::uio::pread(queue, &mut text, 0)?;
    Ok(parse_bytes(&text[..length]))
}

/// Understands the beginning of the queue's file, `QSIZE:129 `.
pub(super) fn parse_bytes(text: &[u8]) -> u64 {
    let digits = text.strip_prefix(b"QSIZE:").unwrap_or_default();
    digits.iter().take_while(|byte| byte.is_ascii_digit()).fold(0, |bytes: u64, digit| {
        bytes.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    })
}

/// Understands `QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260`.
pub(super) fn parse_info(text: &str) -> Info {
    let mut info = Info::default();
    // The numbers are padded with blanks on their right.
    for word in text.split_ascii_whitespace() {
        let Some((name, value)) = word.split_once(':') else { continue };
        match name {
            "QSIZE" => info.bytes = value.parse().unwrap_or(0),
            "SIGNO" => info.notify_signal = value.parse().unwrap_or(0),
            "NOTIFY_PID" => info.notify_pid = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    info
}

/// poll(2) on one descriptor; `timeout` in milliseconds, -1 for none.
pub(super) fn poll(queue: BorrowedFd<'_>, events: i16, timeout: i32) -> Result<i16, Errno> {
    let mut one = libc::pollfd { fd: queue.as_raw_fd(), events, revents: 0 };
    // SAFETY: one element, which outlives the call.
    Errno::result(unsafe { libc::poll(&raw mut one, 1, timeout) })?;
    Ok(one.revents)
}
