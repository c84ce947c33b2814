//! `shm/NAME`: POSIX shared memory, `shm_open("/NAME")` (`shm_overview(7)`).
//!
//! | operation | effect |
//! | --- | --- |
//! | `read`, `write`, `mmap`, `lseek`, `ftruncate`, `fallocate` | the object's own, as of any file |
//! | `rename` | within the directory; what has the new name is replaced, if it is shared memory |
//! | a name that begins with `sem.` | not there, `EINVAL` where it would be made and `EPERM` where something would be renamed to it: a semaphore's |
//! | under a lease (`F_SETLEASE`) | `EBUSY`, where `shm_open` would wait for its end |
//!
//! The objects are the regular files of /dev/shm. What else there is (directories, symbolic links,
//! sockets, pipes, mounts) is not listed and never opened or followed.
//!
//! The kernel moves the data by itself where passthrough is to be had (`fuse/passthrough.rs`).
//! Where it is not, [`File`] forwards it by pread(2) and pwrite(2) and never maps it, so that
//! nobody can cut it short under the daemon.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, OFlag};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::Whence;

use super::control::{self, Access, Control, ControlDir, Serve};
use super::fsdir::{self, FsDir};
use super::{Attributes, Kind, Limit, Options, Profile, shared_directory};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::memory::{HEAVY, free_later};
use crate::status::Fields;
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, DirEntry, FileType, Handle, How, Io, Item, Object, ObjectId,
    Opened, Traces, Wait,
};

/// The kind's profile.
pub const PROFILE: Profile = Profile {
    path: "shm",
    about: "POSIX shared memory",
    texts: false,
    // A mapping hangs on the inode, and the backing file's id as well.
    children: Children::Stable,
    attributes: &["size"],
    features: &[],
    open,
};

/// What the C library's semaphores begin with in the same directory (`sem_open(3)`).
const SEMAPHORE: &[u8] = b"sem.";

/// The objects of /dev/shm as it was mounted when the daemon started.
pub struct Segments {
    dir: FsDir,
}

fn open(options: &Options) -> Result<Arc<dyn Kind>> {
    let dir = options.shm_dir("POSIX shared memory")?;
    Ok(Arc::new(Segments { dir }))
}

/// Fails with `errno` for a name that no shared memory can have.
fn check_name(name: &[u8], errno: Errno) -> Result<()> {
    if name.starts_with(SEMAPHORE) {
        return Err(Error::because(
            errno,
            "names that begin with \"sem.\" are the semaphores'; they are in sem/",
        ));
    }
    Ok(())
}

impl Segments {
    /// Pins the object of that name; `ENOENT` for what is none.
    fn pin(&self, name: &[u8]) -> Result<(OwnedFd, Attr)> {
        check_name(name, Errno::ENOENT)?;
        match self.dir.pin(name) {
            Ok((pin, attr)) if attr.file_type == FileType::Regular => Ok((pin, attr)),
            Ok(_) => fail(Errno::ENOENT),
            // A link; a mount over the name.
            Err(error) if matches!(error.errno(), Errno::ELOOP | Errno::EXDEV) => {
                fail(Errno::ENOENT)
            }
            Err(error) => Err(error),
        }
    }
}

impl Segments {
    /// Keeps an object whose name is about to go, if it is so large that freeing it takes long.
    fn keep(&self, name: &[u8], attr: &Attr) -> Option<OwnedFd> {
        if attr.blocks.saturating_mul(512) <= HEAVY {
            return None;
        }
        Some(self.pin(name).ok()?.0)
    }
}

impl Kind for Segments {
    fn make(&self, caller: Caller, name: &[u8], mode: u32, attributes: &Attributes) -> Result<()> {
        check_name(name, Errno::EINVAL)?;
        let file = self.dir.create(caller, name, mode)?;
        let Some(size) = attributes.get("size") else { return Ok(()) };
        truncate(&file, size).inspect_err(|_| {
            let _ = self.dir.remove(caller, name);
        })
    }

    fn limits(&self, _caller: Caller) -> Vec<Limit> {
        let Ok(disk) = nix::sys::statfs::fstatfs(self.dir.as_fd()) else { return Vec::new() };
        let block = disk.block_size() as u64;
        let (blocks, free) = (disk.blocks(), disk.blocks_free());
        let (files, free_files) = (disk.files(), disk.files_free());
        // Semaphores are in there as well. A size of 0 is that of a file system without a limit.
        let limit = |name, max: u64, free: u64, raise| Limit {
            name,
            max: (max > 0).then_some(max),
            used: (max > 0).then(|| max - free.min(max)),
            raise,
        };
        let (size, inodes) =
            ("mount -o remount,size=N /dev/shm", "mount -o remount,nr_inodes=N /dev/shm");
        vec![
            limit("shm_bytes", blocks * block, free * block, size),
            limit("shm_files", files, free_files, inodes),
        ]
    }
}

impl Dir for Segments {
    fn attr(&self) -> Result<Attr> {
        Ok(shared_directory(self.dir.attr()?))
    }

    fn children(&self) -> Children {
        PROFILE.children
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        check_name(name, Errno::ENOENT)?;
        self.dir.find(name, FileType::Regular)
    }

    fn item(self: Arc<Self>, name: &[u8], attr: &Attr) -> Result<Item> {
        let segment = Segment { kind: self, name: name.into(), ident: attr.ident };
        Ok(Item::Object(Arc::new(segment)))
    }

    fn list(&self, wait: Wait) -> Result<Vec<DirEntry>> {
        let mut entries = self.dir.list(wait)?;
        entries.retain(|entry| {
            entry.file_type == FileType::Regular && !entry.name.starts_with(SEMAPHORE)
        });
        Ok(entries)
    }

    fn create(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.make(caller, name, mode, &Attributes::default())
    }

    fn remove(&self, caller: Caller, name: &[u8]) -> Result<()> {
        let kept = self.keep(name, &self.find(name)?);
        let removed = self.dir.remove(caller, name);
        free_later(kept);
        removed
    }

    fn rename(&self, caller: Caller, from: &[u8], to: &[u8], replace: bool) -> Result<()> {
        // It would become a semaphore.
        check_name(to, Errno::EPERM)?;
        self.find(from)?;
        let target = self.find(to);
        let kept = target.as_ref().ok().and_then(|attr| self.keep(to, attr));
        let renamed = self.dir.rename_visible(caller, from, to, replace, target);
        free_later(kept);
        renamed
    }
}

/// A shared memory object by its name.
struct Segment {
    kind: Arc<Segments>,
    name: Box<[u8]>,
    ident: u64,
}

impl Segment {
    /// Opens the object, if the name still stands for it; nothing else is opened.
    fn descriptor(&self, flags: OFlag) -> Result<(OwnedFd, Attr)> {
        match self.kind.pin(&self.name) {
            Ok((pin, attr)) if attr.ident == self.ident => Ok((fsdir::reopen(&pin, flags)?, attr)),
            Ok(_) => fail(Errno::ESTALE),
            Err(error) if error.errno() == Errno::ENOENT => fail(Errno::ESTALE),
            Err(error) => Err(error),
        }
    }
}

impl Segment {
    /// Opens an object that this very open has made, though its mode forbids that: open(2) lets its
    /// maker have it nevertheless. Root may anyhow; a user's daemon gives itself the permission for
    /// a moment.
    fn admit(&self, caller: Caller, flags: OFlag) -> Result<(OwnedFd, Attr)> {
        let (pin, attr) = self.kind.pin(&self.name)?;
        if attr.ident != self.ident {
            return fail(Errno::ESTALE);
        }
        let set = |mode| {
            let change = Change { mode: Some(mode), ..Change::default() };
            fsdir::change_pinned(caller, &pin, &change)
        };
        set(attr.mode | 0o600)?;
        let file = fsdir::reopen(&pin, flags);
        set(attr.mode)?;
        Ok((file?, attr))
    }
}

impl Object for Segment {
    fn attr(&self) -> Result<Attr> {
        let attr = self.kind.find(&self.name)?;
        if attr.ident == self.ident { Ok(attr) } else { fail(Errno::ENOENT) }
    }

    fn change(&self, cx: &Cx, change: &Change) -> Result<()> {
        if let Some(size) = change.size {
            let (file, attr) = self.descriptor(OFlag::O_WRONLY)?;
            may_shrink(cx, attr.size, size)?;
            truncate(&file, size)?;
        }
        self.kind.dir.change(cx.caller, &self.name, self.ident, change)
    }

    fn open(&self, cx: &Cx, how: &How) -> Result<Opened> {
        if how.truncate {
            may_shrink(cx, how.checked.size, 0)?;
        }
        let (file, attr) = match self.descriptor(flags(how)) {
            Err(error) if error.errno() == Errno::EACCES && how.created => {
                self.admit(cx.caller, flags(how))?
            }
            descriptor => descriptor?,
        };
        File::open(cx.caller, file, &attr, how)
    }

    fn controls(self: Arc<Self>) -> Option<Arc<dyn Dir>> {
        Some(Arc::new(ControlDir::new(self, CONTROLS)))
    }

    fn id(&self) -> Option<ObjectId> {
        Some(ObjectId { kind: PROFILE.path, ident: self.ident })
    }

    fn traces(&self) -> Result<Traces> {
        let file = self.kind.dir.identify(&self.name, self.ident)?;
        Ok(Traces { file: Some(file), ..Traces::default() })
    }

    fn status(&self) -> Result<Fields> {
        let attr = self.attr()?;
        Ok(Fields::default()
            .text("name", &*self.name)
            .mode(attr.mode)
            .number("uid", attr.uid)
            .number("gid", attr.gid)
            .number("size", attr.size)
            .number("allocated", attr.blocks * 512)
            .times(&attr))
    }
}

/// `ctl/shm/NAME/`.
const CONTROLS: &[Control<Segment>] = &[
    Control {
        name: "status",
        access: Access::Read,
        about: "what is known of the object, as name=value lines",
        serve: Serve::Sh(Segment::status),
    },
    Control {
        name: "status.json",
        access: Access::Read,
        about: "the same as JSON",
        serve: Serve::Json(Segment::status),
    },
    control::users(),
];

/// An open object; moves data where the kernel does not.
struct File(Arc<OwnedFd>);

impl File {
    /// Serves what has been opened with these attributes, if it is what the kernel has checked.
    fn open(caller: Caller, file: OwnedFd, attr: &Attr, how: &How) -> Result<Opened> {
        how.verify(attr)?;
        if how.truncate {
            fsdir::disarm(caller, &file)?;
            truncate(&file, 0)?;
        }
        let file = Arc::new(file);
        Ok(Opened { handle: Arc::new(Self(Arc::clone(&file))), io: Io::Passthrough(file) })
    }
}

/// The flags to open the file with.
fn flags(how: &How) -> OFlag {
    let mut flags = match (how.read, how.write || how.truncate) {
        (true, false) => OFlag::O_RDONLY,
        (false, true) => OFlag::O_WRONLY,
        _ => OFlag::O_RDWR,
    };
    // The kernel knows where the end was; the end is where pwrite(2) finds it.
    flags.set(OFlag::O_APPEND, how.append);
    flags
}

/// Leaves it to a worker to make an object smaller. That takes as long as there are pages to be freed
/// and mappings to be looked through, and nothing tells how many of these there are.
fn may_shrink(cx: &Cx, before: u64, size: u64) -> Result<()> {
    if size < before && cx.wait == Wait::Try { Err(Error::deferred()) } else { Ok(()) }
}

fn truncate(file: &OwnedFd, size: u64) -> Result<()> {
    let Ok(size) = i64::try_from(size) else { return fail(Errno::EFBIG) };
    Ok(nix::unistd::ftruncate(file, size)?)
}

impl Handle for File {
    fn is_heavy(&self) -> bool {
        let heavy = |stat: nix::sys::stat::FileStat| {
            stat.st_nlink == 0 && stat.st_blocks.unsigned_abs().saturating_mul(512) > HEAVY
        };
        nix::sys::stat::fstat(&*self.0).is_ok_and(heavy)
    }

    fn attr(&self) -> Option<Result<Attr>> {
        let stat = nix::sys::stat::fstat(&*self.0);
        Some(stat.map(|stat| fsdir::attr(&stat)).map_err(Error::new))
    }

    fn truncate(&self, cx: &Cx, size: u64) -> Option<Result<()>> {
        let shrink = || {
            let before = nix::sys::stat::fstat(&*self.0)?.st_size;
            may_shrink(cx, u64::try_from(before).unwrap_or(0), size)?;
            truncate(&self.0, size)
        };
        Some(shrink())
    }

    fn reopen(&self, cx: &Cx, how: &How) -> Option<Result<Opened>> {
        let allowed = if how.truncate { may_shrink(cx, how.checked.size, 0) } else { Ok(()) };
        Some(allowed.and_then(|()| fsdir::reopen(&self.0, flags(how))).and_then(|file| {
            let attr = fsdir::attr(&nix::sys::stat::fstat(&file)?);
            Self::open(cx.caller, file, &attr, how)
        }))
    }

    fn change(&self, caller: Caller, change: &Change) -> Option<Result<()>> {
        Some(fsdir::change_pinned(caller, &self.0, change))
    }

    fn read(&self, _cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.resize(start + size, 0);
        let outcome = position(at).and_then(|at| Ok(pread(&*self.0, &mut out[start..], at)?));
        out.truncate(start + *outcome.as_ref().unwrap_or(&0));
        outcome.map(drop)
    }

    fn write(&self, cx: &Cx, at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        fsdir::disarm(cx.caller, &self.0)?;
        while *done < data.len() {
            let at = position(at.saturating_add(*done as u64))?;
            match pwrite(&*self.0, &data[*done..], at)? {
                0 => return fail(Errno::EIO),
                written => *done += written,
            }
        }
        Ok(())
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<i64> {
        let whence = match whence {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return fail(Errno::EINVAL),
        };
        // It moves this descriptor's position, which nothing else goes by.
        Ok(nix::unistd::lseek(&*self.0, offset, whence)?)
    }

    fn allocate(&self, cx: &Cx, mode: i32, offset: u64, length: u64) -> Result<()> {
        // Clearing a gigabyte takes a while, and ends with `EINTR` when it is to.
        if cx.wait == Wait::Try {
            return Err(Error::deferred());
        }
        let mode = FallocateFlags::from_bits_retain(mode);
        let length = i64::try_from(length).map_err(|_| Errno::EFBIG)?;
        Ok(nix::fcntl::fallocate(&*self.0, mode, position(offset)?, length)?)
    }
}

fn position(at: u64) -> Result<i64> {
    i64::try_from(at).map_err(|_| Errno::EFBIG.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments() -> Arc<Segments> {
        // No file system of the test's own is needed: any directory will do.
        let path =
            std::env::temp_dir().join(format!("ipcfs-shm-{:?}", std::thread::current().id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Arc::new(Segments { dir: FsDir::within("/".as_ref(), &path).unwrap() })
    }

    fn me() -> Caller {
        let (uid, gid) = crate::owner();
        Caller { uid, gid, pid: std::process::id() }
    }

    #[test]
    fn the_names_of_semaphores_are_neither_seen_nor_made() {
        let segments = segments();
        segments.dir.create(me(), b"sem.a", 0o600).unwrap();
        segments.create(me(), b"semaphore", 0o600).unwrap();
        assert_eq!(segments.find(b"sem.a").unwrap_err().errno(), Errno::ENOENT);
        assert_eq!(segments.create(me(), b"sem.b", 0o600).unwrap_err().errno(), Errno::EINVAL);
        let renamed = segments.rename(me(), b"semaphore", b"sem.c", true);
        assert_eq!(renamed.unwrap_err().errno(), Errno::EPERM);
        assert_eq!(segments.remove(me(), b"sem.a").unwrap_err().errno(), Errno::ENOENT);
        assert_eq!(segments.list(Wait::Block).unwrap().len(), 1);
    }

    #[test]
    fn one_that_cannot_have_its_size_is_not_made() {
        let segments = segments();
        let mut attributes = Attributes::default();
        attributes.set("size", u64::MAX);
        let made = segments.make(me(), b"a", 0o600, &attributes);
        assert_eq!(made.unwrap_err().errno(), Errno::EFBIG);
        assert_eq!(segments.find(b"a").unwrap_err().errno(), Errno::ENOENT);
        attributes.set("size", 12345);
        segments.make(me(), b"a", 0o600, &attributes).unwrap();
        assert_eq!(segments.find(b"a").unwrap().size, 12345);
    }

    #[test]
    fn what_is_hidden_is_not_replaced_by_a_rename() {
        let segments = segments();
        segments.create(me(), b"a", 0o600).unwrap();
        segments.dir.make_fifo(me(), b"hidden", 0o600).unwrap();
        let renamed = segments.rename(me(), b"a", b"hidden", true);
        assert_eq!(renamed.unwrap_err().errno(), Errno::EEXIST);
        segments.create(me(), b"b", 0o600).unwrap();
        assert_eq!(segments.rename(me(), b"a", b"b", false).unwrap_err().errno(), Errno::EEXIST);
        segments.rename(me(), b"a", b"b", true).unwrap();
        assert_eq!(segments.list(Wait::Block).unwrap().len(), 1);
    }

    #[test]
    fn positions_out_of_range_are_errors() {
        let segments = segments();
        let file = File(Arc::new(segments.dir.create(me(), b"a", 0o600).unwrap()));
        let cx = Cx { caller: me(), wait: Wait::Block, nonblock: false };
        let mut out = b"kept".to_vec();
        assert!(file.read(&cx, u64::MAX, 10, &mut out).is_err());
        assert_eq!(out, b"kept");
        let mut done = 0;
        assert!(file.write(&cx, u64::MAX, b"x", &mut done).is_err());
        assert!(file.allocate(&cx, 0, u64::MAX, 1).is_err());
        assert!(file.truncate(&cx, u64::MAX).unwrap().is_err());
        file.write(&cx, 3, b"abc", &mut done).unwrap();
        assert_eq!(done, 3);
        file.read(&cx, 2, 100, &mut out).unwrap();
        assert_eq!(out, b"kept\0abc");
    }
}
