//! A directory of a kernel file system whose files are IPC objects: the message queues' own file
//! system, /dev/shm, the directory where the named pipes are kept.
//!
//! Any user may put anything there, so nothing is followed, nothing is waited for, and what has
//! been opened is compared with what the kernel has checked (openat2(2), `Attr::ident`).

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::NixPath;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;

use crate::caller::{self, Caller};
use crate::error::{Errno, Error, Result, fail};
use crate::proc;
use crate::vfs::{Attr, Change, DirEntry, FileId, FileType, MANY, SetTime, Wait};

/// The directory, pinned by a descriptor.
pub struct FsDir {
    fd: OwnedFd,
    /// The device of what belongs to it; that of another is mounted over a name.
    device: Option<u64>,
}

impl FsDir {
    /// The directory that `fd` stands for.
    pub fn new(fd: OwnedFd) -> Self {
        let device = nix::sys::stat::fstat(&fd).ok().map(|stat| stat.st_dev);
        Self { fd, device }
    }

    /// The directory that a path leads to now for those who have `root` for their root directory,
    /// who cannot make it lead out of there; what is mounted there later is another one.
    pub fn within(root: &Path, path: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(root, flags, Mode::empty())?;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        Ok(Self::new(nix::fcntl::openat2(&root, path, how)?))
    }

    /// The directory's own attributes.
    pub fn attr(&self) -> Result<Attr> {
        Ok(attr(&nix::sys::stat::fstat(&self.fd)?))
    }

    /// Opens a file without following links or crossing mounts, and with `O_NONBLOCK` without
    /// waiting.
    ///
    /// `ELOOP` for a symbolic link, `EXDEV` for something mounted over the name, with `O_NONBLOCK`
    /// `EBUSY` for a file under a lease.
    pub fn open(&self, name: &[u8], flags: OFlag) -> Result<OwnedFd> {
        with_c_name(name, |name| sys::open_beneath(self.fd.as_fd(), name, flags, 0))
            .map_err(opening)
    }

    /// Pins what a name stands for, which opens nothing of it, and tells its attributes.
    pub fn pin(&self, name: &[u8]) -> Result<(OwnedFd, Attr)> {
        let pin = self.open(name, OFlag::O_PATH)?;
        let attr = attr(&nix::sys::stat::fstat(&pin)?);
        Ok((pin, attr))
    }

    /// Makes a regular file as the caller and opens it. `EEXIST` for a name that stands for
    /// anything: without `O_EXCL`, what somebody has put there would be opened
    /// (`fs.protected_regular` refuses that to root).
    pub fn create(&self, caller: Caller, name: &[u8], mode: u32) -> Result<OwnedFd> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NONBLOCK;
        let make = |name: &CStr| sys::open_beneath(self.fd.as_fd(), name, flags, mode & 0o7777);
        let made = caller.act(|| match with_c_name(name, make) {
            // Something is mounted over it.
            Err(Errno::EXDEV) => fail(Errno::EEXIST),
            made => Ok(made?),
        });
        made.map_err(|error| explain_unmapped(error, caller))
    }

    /// Makes a named pipe as the caller.
    pub fn make_fifo(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        caller.act(|| Ok(nix::unistd::mkfifoat(&self.fd, OsStr::from_bytes(name), mode)?))
    }

    /// Renames as the caller; `EEXIST` unless `replace`, if the new name stands for anything.
    pub fn rename(&self, caller: Caller, from: &[u8], to: &[u8], replace: bool) -> Result<()> {
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        let (from, to) = (OsStr::from_bytes(from), OsStr::from_bytes(to));
        caller.act(|| Ok(nix::fcntl::renameat2(&self.fd, from, &self.fd, to, flags)?))
    }

    /// Renames as the caller where only some names are visible: `target` is what looking the new
    /// one up gave. What is hidden has not been seen, and is not replaced (`EEXIST`).
    pub fn rename_visible(
        &self,
        caller: Caller,
        from: &[u8],
        to: &[u8],
        replace: bool,
        target: Result<Attr>,
    ) -> Result<()> {
        let visible = match target {
            Ok(_) => true,
            Err(error) if error.errno() == Errno::ENOENT => false,
            Err(error) => return Err(error),
        };
        self.rename(caller, from, to, replace && visible)
    }

    /// Which file a name stands for, if it is the one with this inode number.
    pub fn identify(&self, name: &[u8], inode: u64) -> Result<FileId> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let stat = nix::sys::stat::fstatat(&self.fd, OsStr::from_bytes(name), flags)?;
        if stat.st_ino != inode {
            return fail(Errno::ENOENT);
        }
        Ok(FileId { device: stat.st_dev, inode })
    }

    /// The attributes of a name; `size` and `blocks` are the file's. `ENOENT` for another file
    /// system's file that is mounted over it.
    pub fn stat(&self, name: &[u8]) -> Result<Attr> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let stat = nix::sys::stat::fstatat(&self.fd, OsStr::from_bytes(name), flags)?;
        if self.device.is_some_and(|device| device != stat.st_dev) {
            return fail(Errno::ENOENT);
        }
        Ok(attr(&stat))
    }

    /// The same of a file of this type; `ENOENT` for any other. One call, where [`FsDir::pin`] takes
    /// three: a listing asks for each name.
    pub fn find(&self, name: &[u8], file_type: FileType) -> Result<Attr> {
        let attr = self.stat(name)?;
        if attr.file_type == file_type { Ok(attr) } else { fail(Errno::ENOENT) }
    }

    /// Whether it gives no inode number twice: tmpfs counts. Elsewhere that of a removed file may be
    /// the next one's.
    pub fn counts_inodes(&self) -> bool {
        let kind = nix::sys::statfs::fstatfs(&self.fd).map(|stat| stat.filesystem_type());
        kind.is_ok_and(|kind| kind == nix::sys::statfs::TMPFS_MAGIC)
    }

    /// Everything in it but `.` and `..`.
    pub fn list(&self, wait: Wait) -> Result<Vec<DirEntry>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let here = sys::open_beneath(self.fd.as_fd(), c".", flags, 0)?;
        let mut entries = Vec::new();
        for entry in nix::dir::Dir::from_fd(here)?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let file_type = match entry.file_type() {
                Some(nix::dir::Type::File) => FileType::Regular,
                Some(nix::dir::Type::Directory) => FileType::Directory,
                Some(nix::dir::Type::Fifo) => FileType::Fifo,
                _ => FileType::Symlink,
            };
            if entries.len() == MANY && wait == Wait::Try {
                return Err(Error::deferred());
            }
            entries.push(DirEntry { name: name.to_vec(), ident: entry.ino(), file_type });
        }
        Ok(entries)
    }

    /// Makes a file that holds `content` from the moment on at which its name appears, owned by the
    /// caller. `EEXIST` if there is something of that name, whatever it is.
    pub fn make(&self, caller: Caller, name: &[u8], mode: u32, content: &[u8]) -> Result<()> {
        let name = c_name(name)?;
        let make = || {
            let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
            let mode = Mode::from_bits_truncate(mode & 0o7777);
            let file = std::fs::File::from(nix::fcntl::openat(&self.fd, ".", flags, mode)?);
            file.write_all_at(content, 0)?;
            let (file, follow) = (OwnedFd::from(file), AtFlags::AT_SYMLINK_FOLLOW);
            let here = nix::fcntl::AT_FDCWD;
            Ok(nix::unistd::linkat(here, &*path_of(&file), &self.fd, &*name, follow)?)
        };
        caller.act(make).map_err(|error| explain_unmapped(error, caller))
    }

    /// Changes mode, owner and times of the file that the kernel has checked, and of no other:
    /// `ESTALE` if the name stands for something else by now.
    pub fn change(&self, caller: Caller, name: &[u8], ident: u64, change: &Change) -> Result<()> {
        let (pin, attr) = self.pin(name)?;
        if attr.ident != ident {
            return fail(Errno::ESTALE);
        }
        change_pinned(caller, &pin, change)
    }

    /// Removes a name as the caller, so that the directory's sticky bit protects what is not
    /// theirs, whatever the name stands for by now.
    pub fn remove(&self, caller: Caller, name: &[u8]) -> Result<()> {
        let flags = nix::unistd::UnlinkatFlags::NoRemoveDir;
        caller.act(|| Ok(nix::unistd::unlinkat(&self.fd, OsStr::from_bytes(name), flags)?))
    }
}

/// Opens what `pin` stands for, whatever its name stands for by now; without waiting, `EBUSY` for a
/// file under a lease.
pub fn reopen(pin: &OwnedFd, flags: OFlag) -> Result<OwnedFd> {
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    nix::fcntl::open(&*path_of(pin), flags, Mode::empty()).map_err(opening)
}

/// A path to what a descriptor stands for, also when it is `O_PATH` (proc(5)).
fn path_of(pin: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", pin.as_raw_fd())
}

fn opening(errno: Errno) -> Error {
    match errno {
        // Not to be tried again: the holder has 45 seconds (/proc/sys/fs/lease-break-time).
        Errno::EAGAIN => {
            Error::because(Errno::EBUSY, "somebody holds a lease on it (fcntl(2), F_SETLEASE)")
        }
        errno => errno.into(),
    }
}

/// Changes mode, owner and times of the file that `pin` stands for.
pub fn change_pinned(caller: Caller, pin: &OwnedFd, change: &Change) -> Result<()> {
    if change.uid.is_some() || change.gid.is_some() {
        // As root: whether the group is one of the caller's is known to the kernel alone, which
        // has checked it.
        let uid = change.uid.map(Into::into);
        let gid = change.gid.map(Into::into);
        nix::unistd::fchownat(pin, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
    }
    // Neither chmod nor utimensat takes an O_PATH descriptor by itself.
    let path = path_of(pin);
    if let Some(mode) = change.mode {
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        let flags = nix::sys::stat::FchmodatFlags::FollowSymlink;
        let set = || Ok(nix::sys::stat::fchmodat(nix::fcntl::AT_FDCWD, &*path, mode, flags)?);
        match keeping_set_gid(caller, pin, mode)?.act(set) {
            Err(error) if error.errno() == Errno::EPERM && disarms(pin, mode)? => set()?,
            done => done?,
        }
    }
    if change.atime.is_some() || change.mtime.is_some() {
        let (atime, mtime) = (timespec(change.atime), timespec(change.mtime));
        let flags = nix::sys::stat::UtimensatFlags::FollowSymlink;
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &*path, &atime, &mtime, flags)?;
    }
    Ok(())
}

/// Who is to set a mode. The kernel takes the set-group-ID bit away unless the group is one of those of
/// the process that sets it (fs/attr.c, `setattr_prepare`): the caller's supplementary groups are not
/// those of the daemon's thread, and its capability (`CAP_FSETID`) is not the daemon's. So who has the
/// group acts with it as their own. That they are the owner, the kernel checks.
fn keeping_set_gid(caller: Caller, pin: &OwnedFd, mode: Mode) -> Result<Caller> {
    if !mode.contains(Mode::S_ISGID) || !caller::privileged() {
        return Ok(caller);
    }
    let gid = nix::sys::stat::fstat(pin)?.st_gid;
    let has_group = || {
        gid == caller.gid
            || caller.uid == 0
            || proc::groups(caller.pid).is_some_and(|groups| groups.contains(&gid))
    };
    Ok(if has_group() { Caller { gid, ..caller } } else { caller })
}

/// Whether a mode takes nothing but the set-ID bits away: the kernel's own doing, for whoever writes
/// to the file (fs/attr.c, `ATTR_KILL_SUID`). A chmod by those who are not the owner it refuses by
/// itself.
fn disarms(pin: &OwnedFd, mode: Mode) -> Result<bool> {
    let before = Mode::from_bits_truncate(nix::sys::stat::fstat(pin)?.st_mode & 0o7777);
    Ok(before.contains(mode) && SET_IDS.contains(before - mode))
}

const SET_IDS: Mode = Mode::S_ISUID.union(Mode::S_ISGID);

/// Takes the set-ID bits of a file away that `caller` writes to by way of the daemon, as the kernel
/// does for those who write themselves.
pub fn disarm(caller: Caller, file: &OwnedFd) -> Result<()> {
    if caller.uid == 0 || !caller::privileged() {
        return Ok(());
    }
    let mode = Mode::from_bits_truncate(nix::sys::stat::fstat(file)?.st_mode & 0o7777);
    if mode.intersects(SET_IDS) {
        nix::sys::stat::fchmod(file, mode - SET_IDS)?;
    }
    Ok(())
}

impl AsFd for FsDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The attributes that stat(2) gave.
pub fn attr(stat: &nix::sys::stat::FileStat) -> Attr {
    let file_type = match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => FileType::Regular,
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFIFO => FileType::Fifo,
        _ => FileType::Symlink,
    };
    Attr {
        ident: stat.st_ino,
        file_type,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// Seconds and nanoseconds since 1970 as a time; what is out of range becomes 1970.
pub fn time(seconds: i64, nanoseconds: i64) -> SystemTime {
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0).min(999_999_999);
    let since = if let Ok(seconds) = u64::try_from(seconds) {
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
    } else {
        let base = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(seconds.unsigned_abs()));
        base.and_then(|base| base.checked_add(Duration::new(0, nanoseconds)))
    };
    since.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A name as C has it; `ENOENT` for one with a NUL byte, which no object can have.
pub fn c_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Errno::ENOENT.into())
}

/// The same for the time of a call, without allocating.
fn with_c_name<T>(
    name: &[u8],
    call: impl FnOnce(&CStr) -> std::result::Result<T, Errno>,
) -> std::result::Result<T, Errno> {
    match name.with_nix_path(call) {
        Ok(done) => done,
        Err(_) => Err(Errno::ENOENT),
    }
}

/// Says what it means that an object could not be made (`EOVERFLOW`, `user_namespaces(7)`).
pub fn explain_unmapped(error: Error, caller: Caller) -> Error {
    if error.errno() != Errno::EOVERFLOW || error.what().is_some() {
        return error;
    }
    let Caller { uid, gid, .. } = caller;
    Error::because(
        Errno::EOVERFLOW,
        format!(
            "the user namespace that these objects belong to does not know uid {uid} or gid {gid}; \
             make them as one of its users"
        ),
    )
}

fn timespec(time: Option<SetTime>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(SetTime::Now) => TimeSpec::UTIME_NOW,
        Some(SetTime::To(time)) => match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => TimeSpec::new(after.as_secs() as i64, i64::from(after.subsec_nanos())),
            Err(before) => {
                // The nanoseconds count forwards.
                let before = before.duration();
                let (seconds, nanoseconds) = (before.as_secs() as i64, before.subsec_nanos());
                match i64::from(nanoseconds) {
                    0 => TimeSpec::new(-seconds, 0),
                    nanoseconds => TimeSpec::new(-seconds - 1, 1_000_000_000 - nanoseconds),
                }
            }
        },
    }
}

#[allow(unsafe_code)]
mod sys {
    use std::ffi::CStr;
    use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

    use nix::fcntl::OFlag;

    use crate::error::Errno;

    /// openat2(2) with everything refused that could lead elsewhere or wait.
    pub(super) fn open_beneath(
        dir: BorrowedFd<'_>,
        name: &CStr,
        flags: OFlag,
        mode: u32,
    ) -> Result<OwnedFd, Errno> {
        // O_PATH goes with O_CLOEXEC and O_NOFOLLOW alone.
        let always = if flags.contains(OFlag::O_PATH) {
            OFlag::O_CLOEXEC
        } else {
            OFlag::O_CLOEXEC | OFlag::O_NOCTTY
        };
        // SAFETY: all zeroes is a valid open_how.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = (flags | always).bits() as u64;
        how.mode = u64::from(mode);
        how.resolve = libc::RESOLVE_BENEATH
            | libc::RESOLVE_NO_SYMLINKS
            | libc::RESOLVE_NO_MAGICLINKS
            | libc::RESOLVE_NO_XDEV;
        // SAFETY: the name ends with NUL, `how` is of the size given and outlives the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                name.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel has just given us this descriptor; nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_out_of_range_do_not_panic() {
        assert_eq!(time(0, 0), SystemTime::UNIX_EPOCH);
        assert_eq!(time(-1, 0), SystemTime::UNIX_EPOCH - Duration::from_secs(1));
        time(i64::MAX, i64::MAX);
        time(i64::MIN, -1);
    }

    #[test]
    fn a_time_is_set_to_the_nanosecond_before_1970_as_well() {
        for (seconds, nanoseconds) in
            [(5, 7), (0, 0), (-1, 0), (-1, 999_999_999), (-2, 800_000_000)]
        {
            let set = timespec(Some(SetTime::To(time(seconds, nanoseconds))));
            assert_eq!(set, TimeSpec::new(seconds, nanoseconds));
        }
    }

    #[test]
    fn a_name_with_nul_is_no_name() {
        assert_eq!(c_name(b"a\0b").unwrap_err().errno(), Errno::ENOENT);
    }
}
