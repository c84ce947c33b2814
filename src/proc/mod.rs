//! Who uses an object and who waits for it, from /proc.
//!
//! /proc is looked at with the ids of whoever asks, so that it lets them see what it always does
//! (proc(5): another's descriptors are not for them, `hidepid` hides whole processes). What it
//! cannot show is a descriptor that is on its way through a socket (unix(7), `SCM_RIGHTS`).
//!
//! Walking through it takes time: workers do it.

pub mod users;
pub mod waiters;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

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

/// Whether the caller may look into a process (`PTRACE_MODE_READ`).
fn may_see(caller: Caller, pid: u32) -> bool {
    caller.act(|| Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?)).is_ok()
}

/// Whether a process's System V identifiers are ours: those of another namespace are others.
fn shares_namespace(pid: u32) -> bool {
    let namespace =
        |who: &str| -> Option<PathBuf> { std::fs::read_link(format!("/proc/{who}/ns/ipc")).ok() };
    namespace(&pid.to_string()).is_some_and(|theirs| Some(theirs) == namespace("thread-self"))
}

/// The file that a descriptor of a process stands for, if it may be one of `targets`. Only then is
/// it asked for, and never from its file system, which might hang.
fn descriptor(targets: &Targets, process: u32, descriptor: u32) -> Option<FileId> {
    let mut text = [0; 256];
    let path = format!("/proc/{process}/fdinfo/{descriptor}");
    let length = std::fs::File::open(path).ok()?.read(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text[..length]);
    let inode = text.lines().find_map(|line| line.strip_prefix("ino:"))?.trim().parse().ok()?;
    if !targets.inodes.contains(&inode) {
        return None;
    }
    sys::file_id(Path::new(&format!("/proc/{process}/fd/{descriptor}")))
}

pub use sys::file_id;

#[allow(unsafe_code)]
mod sys {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use crate::vfs::FileId;

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
        let me = std::process::id();
        assert_eq!(descriptor(&targets, me, file.as_raw_fd() as u32), None);
        targets.inodes.insert(id.inode);
        assert_eq!(descriptor(&targets, me, file.as_raw_fd() as u32), Some(id));
    }

    #[test]
    fn who_is_gone_is_told_from_who_lives() {
        assert!(!is_gone(1));
        assert!(is_gone(0) && is_gone(i64::from(u32::MAX)));
        assert_eq!(process_of(std::process::id()), Some(std::process::id()));
        assert_eq!(process_of(u32::MAX), None);
    }
}
