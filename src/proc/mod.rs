//! Who uses an object and who waits for it, from /proc.
//!
//! /proc is looked at with the ids of whoever asks, so that it lets them see what it always does
//! (proc(5): another's descriptors are not for them, `hidepid` hides whole processes). Of what is on
//! its way through a socket (unix(7), `SCM_RIGHTS`) or registered with an `io_uring` it shows only that
//! there is something.
//!
//! A process is looked at by one of its threads: the first may have ended before the others, and
//! shows nothing then.
//!
//! Walking through it takes time: workers do it.

pub mod users;
pub mod waiters;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use crate::caller::Caller;
use crate::error::Result;
use crate::monitor;
use crate::vfs::{FileId, Object, ObjectId, Traces};

/// An object that is looked for.
#[derive(Clone, Debug, Default)]
pub struct Target {
    id: Option<ObjectId>,
    traces: Traces,
    /// Its inode numbers in the mount.
    inodes: Vec<u64>,
}

/// What is to be looked for where several objects are.
pub struct Targets {
    all: Vec<Target>,
    /// Which of them a file stands for.
    files: HashMap<FileId, usize>,
    /// The inode numbers of these, whatever their device.
    inodes: HashSet<u64>,
    segments: HashMap<i32, usize>,
    ids: HashMap<ObjectId, usize>,
}

impl Targets {
    /// For these objects.
    pub fn new<'a>(objects: impl IntoIterator<Item = &'a dyn Object>) -> Self {
        let mut all: Vec<Target> = objects
            .into_iter()
            .map(|object| Target {
                id: object.id(),
                // One that is gone leaves none.
                traces: object.traces().unwrap_or_default(),
                inodes: Vec::new(),
            })
            .collect();
        let ids: HashMap<_, _> = all
            .iter()
            .enumerate()
            .filter_map(|(index, target)| Some((target.id?, index)))
            .collect();
        for (id, inode) in monitor::get().mounted().map(|tree| tree.inodes()).unwrap_or_default() {
            if let Some(&index) = ids.get(&id) {
                all[index].inodes.push(inode);
            }
        }
        let device = monitor::get().device();
        let (mut files, mut segments) = (HashMap::new(), HashMap::new());
        for (index, target) in all.iter().enumerate() {
            let mounted = target.inodes.iter().map(|&inode| FileId { device, inode });
            files.extend(mounted.chain(target.traces.file).map(|file| (file, index)));
            segments.extend(target.traces.segment.map(|segment| (segment, index)));
        }
        let inodes = files.keys().map(|file| file.inode).collect();
        Self { all, files, inodes, segments, ids }
    }

    /// Which of them are open in the mount, by whomever: also by a descriptor that is on its way
    /// from one process to another.
    pub fn open(&self) -> Vec<bool> {
        let mut open = vec![false; self.all.len()];
        for id in monitor::get().mounted().map(|tree| tree.open()).unwrap_or_default() {
            if let Some(&index) = self.ids.get(&id) {
                open[index] = true;
            }
        }
        open
    }

    /// Whether one can be used by having a file of another file system open.
    pub fn is_file(&self, index: usize) -> bool {
        self.all.get(index).is_some_and(|target| target.traces.file.is_some())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// The processes that the caller is shown, this one excepted.
fn processes() -> Result<Vec<u32>> {
    let me = std::process::id();
    let mut processes = numbers("/proc")?;
    processes.retain(|pid| *pid != me);
    processes.sort_unstable();
    Ok(processes)
}

/// The entries of a directory that are numbers.
fn numbers(path: impl AsRef<Path>) -> Result<Vec<u32>> {
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(std::fs::read_dir(path)?.flatten().filter_map(number).collect())
}

/// A process, to be looked at below `/proc/PID/task/TID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    /// One of its threads that lives.
    thread: u32,
}

impl Process {
    /// Its open descriptors, as far as they are shown, by a thread that has them: all of its threads
    /// have the same, unless one has left the others (unshare(2), `CLONE_FILES`).
    fn tables(pid: u32) -> Vec<(Self, Vec<u32>)> {
        let mut tables = vec![Self::look(pid)];
        let threads = numbers(format!("/proc/{pid}/task")).unwrap_or_default();
        if threads.len() > 1 {
            for thread in threads {
                let known = |(one, _): &(Self, _)| sys::share_files(one.thread, thread);
                if !tables.iter().any(known) {
                    let apart = Self { pid, thread };
                    tables.push((apart, apart.descriptors()));
                }
            }
        }
        tables
    }

    /// By its first thread that lives, with its open descriptors as far as they are shown.
    fn look(pid: u32) -> (Self, Vec<u32>) {
        let first = Self { pid, thread: pid };
        let open = first.descriptors();
        if !open.is_empty() || first.lives() {
            return (first, open);
        }
        let threads = numbers(format!("/proc/{pid}/task")).unwrap_or_default();
        let mut others = threads.into_iter().map(|thread| Self { pid, thread });
        match others.find(|thread| thread.lives()) {
            Some(other) => (other, other.descriptors()),
            None => (first, open),
        }
    }

    /// The path of what the kernel tells of it.
    fn path(self, what: &str) -> String {
        let Self { pid, thread } = self;
        format!("/proc/{pid}/task/{thread}/{what}")
    }

    fn descriptors(self) -> Vec<u32> {
        numbers(self.path("fd")).unwrap_or_default()
    }

    /// Whether the thread has not ended: one that has ended may be there still (`Z`, `X`).
    fn lives(self) -> bool {
        // `PID (COMMAND) STATE ...`; what is in the parentheses may hold some itself.
        let text = std::fs::read(self.path("stat")).unwrap_or_default();
        let after = text.iter().rposition(|byte| *byte == b')').map_or(text.len(), |at| at + 1);
        text[after..].trim_ascii_start().first().is_some_and(|state| !b"ZXx".contains(state))
    }

    /// Whether the caller may look into it (`PTRACE_MODE_READ`).
    fn may_see(self, caller: Caller) -> bool {
        caller.act(|| Ok(std::fs::read_dir(self.path("fd"))?)).is_ok()
    }

    /// Whether its System V identifiers are ours: those of another namespace are others.
    fn shares_namespace(self) -> bool {
        let theirs = std::fs::read_link(self.path("ns/ipc")).ok();
        theirs.is_some() && theirs == std::fs::read_link("/proc/thread-self/ns/ipc").ok()
    }

    fn descriptor(self, descriptor: u32) -> Descriptor {
        Descriptor::read(&self.path(&format!("fdinfo/{descriptor}")))
    }

    /// The file that a descriptor stands for, if it may be one of `targets`. Only then is it asked
    /// for, and never from its file system, which might hang.
    fn file(self, targets: &Targets, number: u32, shown: &Descriptor) -> Option<FileId> {
        shown.inode.filter(|inode| targets.inodes.contains(inode))?;
        sys::file_id(Path::new(&self.path(&format!("fd/{number}"))))
    }
}

/// What /proc shows of an open descriptor.
#[derive(Debug, Default, PartialEq, Eq)]
struct Descriptor {
    inode: Option<u64>,
    /// It holds other open files, which are shown nowhere: on their way through a socket, or
    /// registered with an `io_uring`.
    holds_others: bool,
}

impl Descriptor {
    fn read(path: &str) -> Self {
        let mut text = [0; 512];
        let Ok(mut file) = std::fs::File::open(path) else { return Self::default() };
        let length = file.read(&mut text).unwrap_or(0);
        let begin = &text[..length];
        if begin.windows(RING.len()).any(|part| part == RING) {
            // A ring's is long.
            let mut all = begin.to_vec();
            let _ = file.take(LONGEST).read_to_end(&mut all);
            return Self::parse(&all);
        }
        Self::parse(begin)
    }

    /// Understands `ino:\t5`, `scm_fds: 1` of a socket, and `UserFiles:\t1` of a ring.
    fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let field = |name| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().parse::<u64>().ok()
        };
        let passed = field("scm_fds:").unwrap_or(0) > 0;
        // A ring that is busy may not tell.
        let registered = text.as_bytes().windows(RING.len()).any(|part| part == RING)
            && field("UserFiles:").is_none_or(|files| files > 0);
        Self { inode: field("ino:"), holds_others: passed || registered }
    }
}

/// What an `io_uring`'s fdinfo begins with.
const RING: &[u8] = b"\nSqMask:";
/// As much of it is read, with all the requests that are shown before what is looked for.
const LONGEST: u64 = 16 << 20;

/// Whether more may be written to a file of which the process of `closer` has just closed a
/// descriptor: by `writer`, a thread of another that has written to it last, or by itself, which has
/// another descriptor of a file with a path like this. `true` where that cannot be seen.
///
/// For a shell, `>&3` ends with a close of what stays open as 3.
pub fn goes_on(writer: u32, closer: u32, is: impl Fn(&Path) -> bool) -> bool {
    if writer != closer && is_there(writer) {
        return true;
    }
    let Ok(open) = std::fs::read_dir(format!("/proc/{closer}/fd")) else { return true };
    let path = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
    open.flatten().filter_map(path).any(|path| is(&path))
}

/// Whether there is a thread of this number, which may have ended.
pub fn is_there(thread: u32) -> bool {
    Path::new(&format!("/proc/{thread}")).exists()
}

/// The name of a process, as `PID<TAB>COMMAND` shows it.
pub fn command(pid: u32) -> String {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    crate::escape::line(name.strip_suffix(b"\n").unwrap_or(&name))
}

/// The process of a thread, as long as it lives: requests name the thread.
pub fn process_of(thread: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    process.trim().parse().ok()
}

/// The supplementary groups of a thread; `None` if it cannot be seen from here.
pub fn groups(thread: u32) -> Option<Vec<u32>> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"))?;
    groups.split_ascii_whitespace().map(|group| group.parse().ok()).collect()
}

/// Whether a process has ended. The daemon stands for one that it does not know any more.
pub fn is_gone(pid: i64) -> bool {
    pid <= 0 || pid == i64::from(std::process::id()) || !Path::new(&format!("/proc/{pid}")).exists()
}

pub use sys::file_id;

#[allow(unsafe_code)]
mod sys {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use crate::vfs::FileId;

    /// Whether two threads have the same open files, in one table (kcmp(2)); what cannot be told is
    /// taken for the same.
    pub(super) fn share_files(one: u32, other: u32) -> bool {
        /// linux/kcmp.h
        const KCMP_FILES: i32 = 2;
        if one == other {
            return true;
        }
        // SAFETY: takes five integers.
        let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) };
        // 1 and 2 say which of them comes first.
        order <= 0
    }

    /// What a path stands for, from what the kernel knows already: no file system is asked.
    pub fn file_id(path: &Path) -> Option<FileId> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        // SAFETY: all zeroes is a valid statx, which the kernel fills in; the path ends with NUL.
        let stat = unsafe {
            let mut stat: libc::statx = std::mem::zeroed();
            let done = libc::statx(
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT,
                libc::STATX_INO,
                &raw mut stat,
            );
            (done == 0).then_some(stat)?
        };
        let device = libc::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        Some(FileId { device, inode: stat.stx_ino })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_descriptor_is_told_by_its_file_and_only_if_it_is_looked_for() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let data = file.metadata().unwrap();
        let id = FileId { device: data.dev(), inode: data.ino() };
        let mut targets = Targets::new([]);
        let me = Process::look(std::process::id()).0;
        let number = file.as_raw_fd() as u32;
        let shown = me.descriptor(number);
        assert_eq!(me.file(&targets, number, &shown), None);
        targets.inodes.insert(id.inode);
        assert_eq!(me.file(&targets, number, &shown), Some(id));
    }

    #[test]
    fn the_kernels_lines_about_a_descriptor_are_understood() {
        let parse = |text: &str| {
            let Descriptor { inode, holds_others } = Descriptor::parse(text.as_bytes());
            (inode, holds_others)
        };
        let begin = "pos:\t0\nflags:\t02\nmnt_id:\t9\nino:\t31\n";
        assert_eq!(parse(begin), (Some(31), false));
        assert_eq!(parse(&format!("{begin}scm_fds: 0\n")), (Some(31), false));
        assert_eq!(parse(&format!("{begin}scm_fds: 2\n")), (Some(31), true));
        let ring = format!("{begin}SqMask:\t0x3\nSqHead:\t0\n");
        assert_eq!(parse(&format!("{ring}UserFiles:\t0\nUserBufs:\t0\n")), (Some(31), false));
        assert_eq!(parse(&format!("{ring}UserFiles:\t1\n    0: mqueue\n")), (Some(31), true));
        assert_eq!(parse(&ring), (Some(31), true), "it does not tell");
        assert_eq!(parse("nonsense"), (None, false));
    }

    #[test]
    fn a_descriptor_on_its_way_through_a_socket_is_seen() {
        use std::os::unix::net::UnixStream;

        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let (sender, receiver) = UnixStream::pair().unwrap();
        let me = Process::look(std::process::id()).0;
        let shown = || me.descriptor(receiver.as_raw_fd() as u32).holds_others;
        assert!(!shown());
        let passed = [sender.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&passed)];
        let bytes = [std::io::IoSlice::new(b"x")];
        sendmsg::<()>(sender.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).unwrap();
        assert!(shown());
    }

    #[test]
    fn who_is_gone_is_told_from_who_lives() {
        assert!(!is_gone(1));
        assert!(is_gone(0) && is_gone(i64::from(u32::MAX)));
        assert_eq!(process_of(std::process::id()), Some(std::process::id()));
        assert_eq!(process_of(u32::MAX), None);
    }
}
