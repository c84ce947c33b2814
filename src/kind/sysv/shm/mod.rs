//! `sysv/shm/KEY`: System V shared memory segments, `shmget(KEY)` (`sysvipc(7)`).
//!
//! | operation | effect |
//! | --- | --- |
//! | `read`, `write`, `lseek` | as of a file; the size is fixed: a write is cut at the end, one that starts there is `ENOSPC` |
//! | `mmap` | shares the pages with every process that has the segment through `shmat(2)` |
//! | `truncate` to its size | nothing; another size is `EINVAL` |
//! | times | last `shmat`, last `shmdt`, last change |
//!
//! # Birth
//!
//! The kernel fixes a segment's size when it is made, while a file is made first and gets its size
//! afterwards. So `open` with `O_CREAT` makes a segment of one page at once, and the first write or
//! truncation ([`fresh`]) replaces it by one of another size.
//!
//! # Open files
//!
//! An open file is an attachment (`nattch`), so that a segment that is removed lives on until it is
//! closed, listed as `id-N` with `status=dest`. A mapping is the kernel's own business and counts
//! as none once the file is closed; it keeps its pages all the same.
//!
//! Data goes to and from the segment's own file, which is reached through `/proc/self/map_files`
//! (`proc_pid_map_files(5)`): the kernel maps it by itself, and reads it where the file is open for
//! reading alone; what is written comes to the daemon, since the kernel would let the file grow
//! beyond the segment. The daemon writes to the file, too: through the attachment it would have to
//! fault in each page first, which takes longer than to copy it. Where the file is not to be had or
//! the segment is one of huge pages, everything goes by way of the attachment, with
//! `process_vm_readv(2)` and `process_vm_writev(2)`, which end in an errno and not in a signal when
//! there is no memory; shared mappings through the mount are refused then.

mod births;
mod fresh;
#[allow(unsafe_code)]
mod sys;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::Whence;
use parking_lot::Mutex;

use self::births::Births;
use self::fresh::{Birth, FreshFile, no_room};
use super::actors::Actors;
use super::{Family, Objects, Times, change_perm, perm_attr, perm_status};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::kind::control::{self, Access, Control, ControlDir, Serve};
use crate::kind::rights::{self, Rights};
use crate::kind::{Attributes, Feature, Limit, Options, Profile, sysctl};
use crate::memory::{HEAVY, free_later};
use crate::quota::{Quota, Share};
use crate::status::Fields;
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, Handle, How, Io, Object, ObjectId, Opened, Traces,
};

/// The kind's profile.
pub const PROFILE: Profile = Profile {
    path: "sysv/shm",
    about: "System V shared memory segments",
    texts: false,
    // A mapping hangs on the inode, and the backing file's id as well.
    children: Children::Stable,
    attributes: &["size"],
    features: &[Feature {
        name: "map_files",
        about: "a segment's own file: mmap through the mount",
        probe: probe_own_file,
        without: "segments cannot be mapped (mmap) through the mount, and are copied to be read; it \
                  takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, which root has",
    }],
    open: |options: &Options| Objects::open(Segments::default(), options),
};

/// The size of a segment that is made without one: a page.
const PAGE: u64 = 4096;

/// The segments of the current IPC namespace.
#[derive(Default)]
pub struct Segments {
    actors: Actors,
    /// Those whose size is not settled.
    births: Births,
}

/// What [`Actors`] are asked for.
const CREATOR: u32 = 0;
const LAST: u32 = 1;

impl Segments {
    fn note(&self, id: i32, what: u32, caller: Caller) {
        self.actors.note(id, what, caller, |id| sys::stat(id).is_ok());
    }

    /// Makes a segment. Called under the caller's ids.
    fn new_segment(&self, caller: Caller, key: i32, mode: u32, size: u64) -> Result<i32> {
        let flags = libc::IPC_CREAT | libc::IPC_EXCL | mode as i32;
        let id = sys::get(key, size, flags).map_err(|errno| match errno {
            Errno::EINVAL => no_such_size(size),
            Errno::ENOSPC => Error::because(
                Errno::ENOSPC,
                "there are kernel.shmmni segments, or they have kernel.shmall pages, already",
            ),
            errno => errno.into(),
        })?;
        self.note(id, CREATOR, caller);
        Ok(id)
    }
}

/// What shmget(2) says by `EINVAL`.
fn no_such_size(size: u64) -> Error {
    let most = sys::longest();
    let sentence = format!("a segment has from 1 to {most} bytes (kernel.shmmax), not {size}");
    Error::because(Errno::EINVAL, sentence)
}

impl Family for Segments {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn table(&self) -> &'static str {
        "/proc/sysvipc/shm"
    }

    fn id_of(&self, key: i32) -> Result<i32> {
        self.births.find(|| Ok(sys::get(key, 0, 0)?))
    }

    fn attr(&self, id: i32) -> Result<Attr> {
        let segment = sys::stat(id)?;
        let attr = segment_attr(&segment, id);
        Ok(self.births.size(id, &segment).map_or(attr, |size| sized(attr, size)))
    }

    fn create(&self, caller: Caller, key: i32, mode: u32) -> Result<()> {
        // Where there may be none of a page, one that is as large as may be; it gets its size yet.
        let size = PAGE.min(sys::longest()).max(1);
        self.births.make(caller, || self.new_segment(caller, key, mode, size))
    }

    fn make(&self, caller: Caller, key: i32, mode: u32, attributes: &Attributes) -> Result<()> {
        let size = attributes.get("size").unwrap_or(PAGE);
        self.new_segment(caller, key, mode, size).map(drop)
    }

    fn remove(&self, caller: Caller, id: i32) -> Result<()> {
        let size = sys::stat(id).map_or(0, |segment| segment.shm_segsz as u64);
        // The last detach frees it. Attached as the daemon: its mode may give the caller nothing.
        let kept = (size > HEAVY).then(|| sys::Attachment::new(id, false).ok()).flatten();
        let removed = caller.act(|| Ok(sys::remove(id)?));
        free_later(kept);
        removed
    }

    fn limits(&self) -> Vec<Limit> {
        let max = |name| sysctl(&format!("kernel/{name}")).unwrap_or(0);
        let (segments, pages) = sys::in_use().unwrap_or_default();
        vec![
            Limit::used("sysv_shm_segments", max("shmmni"), segments, "sysctl kernel.shmmni=N"),
            Limit::used("sysv_shm_pages", max("shmall"), pages, "sysctl kernel.shmall=N"),
            Limit::each("sysv_shm_size", max("shmmax"), "sysctl kernel.shmmax=N"),
        ]
    }

    fn object(self: Arc<Self>, id: i32) -> Arc<dyn Object> {
        Arc::new(Segment { kind: self, id, birth: Mutex::default() })
    }
}

fn segment_attr(segment: &libc::shmid_ds, id: i32) -> Attr {
    let (read, write, change) = (segment.shm_atime, segment.shm_dtime, segment.shm_ctime);
    perm_attr(&segment.shm_perm, id, segment.shm_segsz as u64, Times { read, write, change })
}

/// The same with a size that it does not have yet.
fn sized(attr: Attr, size: u64) -> Attr {
    Attr { size, blocks: size.div_ceil(512), ..attr }
}

/// The kernel says `EINVAL` of an identifier that it does not know any more.
fn removed(errno: Errno) -> Error {
    if errno == Errno::EINVAL { Errno::EIDRM.into() } else { errno.into() }
}

/// A segment.
struct Segment {
    kind: Arc<Segments>,
    id: i32,
    /// That which open files of it take part in.
    birth: Mutex<Weak<Birth>>,
}

/// Refuses what the kernel has no way of doing.
fn check_size(segment: &libc::shmid_ds, size: u64) -> Result<()> {
    if size == segment.shm_segsz as u64 {
        return Ok(());
    }
    Err(Error::because(
        Errno::EINVAL,
        format!(
            "a segment keeps the size that it was made with, {} bytes; remove it and make it anew",
            segment.shm_segsz
        ),
    ))
}

/// Changes mode and owner.
fn change_segment(caller: Caller, id: i32, change: &Change) -> Result<()> {
    let mut segment = sys::stat(id).map_err(removed)?;
    if let Some(size) = change.size {
        check_size(&segment, size)?;
    }
    let mut perm = segment.shm_perm;
    change_perm(caller, &mut perm, change, |perm| {
        segment.shm_perm = *perm;
        sys::set(id, &segment).map_err(removed)
    })
}

impl Segment {
    /// The identifier, or that of the segment which has been made in its place with another size.
    fn now(&self) -> i32 {
        let birth = self.birth.lock().upgrade();
        birth.map_or_else(|| self.kind.births.now(self.id), |birth| birth.id())
    }

    /// Opens the segment that has this identifier.
    fn open_now(&self, id: i32, cx: &Cx, how: &How) -> Result<Opened> {
        let gone = |_| Error::new(Errno::ESTALE);
        let attr = Attr { ident: self.id as u64, ..self.kind.attr(id).map_err(gone)? };
        how.verify(&attr)?;
        if let Some(birth) = self.kind.births.join(&self.kind, id, how.created) {
            *self.birth.lock() = Arc::downgrade(&birth);
            let fresh = FreshFile::new(birth, how);
            return Ok(Opened { handle: Arc::new(fresh), io: Io::Direct });
        }
        let file = SegmentFile::open(&self.kind, id, cx.caller, how.write);
        let file = file.map_err(|error| match error.errno() {
            // Removed since then.
            Errno::EINVAL | Errno::EIDRM => Errno::ESTALE.into(),
            _ => error,
        })?;
        // Only a write could make the segment's file grow.
        let passed = if how.write { Io::Mapped } else { Io::Passthrough };
        let io = file.file.clone().map_or(Io::Direct, passed);
        Ok(Opened { handle: Arc::new(file), io })
    }
}

impl Object for Segment {
    fn attr(&self) -> Result<Attr> {
        let attr = self.kind.attr(self.now()).map_err(Error::absent)?;
        Ok(Attr { ident: self.id as u64, ..attr })
    }

    fn change(&self, cx: &Cx, change: &Change) -> Result<()> {
        change_segment(cx.caller, self.now(), change)
    }

    fn check_rights(&self, caller: Caller, read: bool, write: bool) -> Result<()> {
        // shmat(2) knows of reading alone and of both.
        let (asked, needed) = (rights::bits(read, write), rights::bits(true, write));
        let Ok(segment) = sys::stat(self.now()) else { return Ok(()) };
        Rights::from(&segment.shm_perm).check(caller, asked, needed)
    }

    fn open(&self, cx: &Cx, how: &How) -> Result<Opened> {
        // Gone since it was looked up: whatever has the name now is to be looked up in its turn,
        // unless it is the same made anew in that moment.
        let id = self.now();
        match self.open_now(id, cx, how) {
            Err(error) if error.errno() == Errno::ESTALE && self.now() != id => {
                self.open_now(self.now(), cx, how)
            }
            opened => opened,
        }
    }

    fn controls(self: Arc<Self>) -> Option<Arc<dyn Dir>> {
        Some(Arc::new(ControlDir::new(self, CONTROLS)))
    }

    fn id(&self) -> Option<ObjectId> {
        Some(ObjectId { kind: PROFILE.path, ident: self.now() as u64 })
    }

    fn traces(&self) -> Result<Traces> {
        Ok(Traces { segment: Some(self.now()), ..Traces::default() })
    }

    fn unused(&self, gone: &dyn Fn(i64) -> bool) -> Result<Option<&'static str>> {
        let id = self.now();
        let segment = sys::stat(id)?;
        let actor = |what, pid| self.kind.actors.shown(id, what, pid);
        let last = [actor(CREATOR, segment.shm_cpid), actor(LAST, segment.shm_lpid)];
        let idle = segment.shm_nattch == 0 && last.iter().all(|pid| gone(i64::from(*pid)));
        Ok(idle.then_some("attached nowhere, its creator and its last user have ended"))
    }

    fn status(&self) -> Result<Fields> {
        let id = self.now();
        let segment = sys::stat(id)?;
        let mode = u32::from(segment.shm_perm.mode);
        let status = match (mode & sys::DEST != 0, mode & sys::LOCKED != 0) {
            (true, true) => "dest,locked",
            (true, false) => "dest",
            (false, true) => "locked",
            (false, false) => "",
        };
        let actor = |what, pid| self.kind.actors.shown(id, what, pid);
        Ok(perm_status(&segment.shm_perm, id)
            .number("size", segment.shm_segsz as u64)
            .number("nattch", segment.shm_nattch)
            .text("status", status)
            .number("cpid", actor(CREATOR, segment.shm_cpid))
            .number("lpid", actor(LAST, segment.shm_lpid))
            .number("atime", segment.shm_atime)
            .number("dtime", segment.shm_dtime)
            .number("ctime", segment.shm_ctime))
    }
}

/// `ctl/sysv/shm/KEY/`.
const CONTROLS: &[Control<Segment>] = &[
    Control {
        name: "status",
        access: Access::Read,
        about: "what is known of the segment, as name=value lines",
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

/// A segment, open.
struct SegmentFile {
    id: i32,
    attachment: sys::Attachment,
    _share: Share,
    size: u64,
    /// The segment's own file, where it is to be had.
    file: Option<Arc<OwnedFd>>,
}

impl SegmentFile {
    /// Attaches a segment.
    fn open(kind: &Segments, id: i32, caller: Caller, write: bool) -> Result<Self> {
        let share = Quota::mappings().take(caller.uid)?;
        let attachment = sys::Attachment::new(id, write).map_err(removed)?;
        kind.note(id, LAST, caller);
        // What it is cannot change any more.
        let size = sys::stat(id).map_err(removed)?.shm_segsz as u64;
        let file = own_file(attachment.address(), size, write);
        let file = file.inspect_err(|error| log::debug!("no file of a segment: {error}"));
        let file = file.ok().map(Arc::new);
        Ok(Self { id, attachment, size, file, _share: share })
    }

    /// Its size in bytes.
    fn size(&self) -> u64 {
        self.size
    }

    /// Reads up to `size` bytes from `at` on, which are appended to `out`.
    fn read_some(&self, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let room = self.size.saturating_sub(at).min(size as u64) as usize;
        let start = out.len();
        out.resize(start + room, 0);
        let outcome = match &self.file {
            Some(file) => pread(file.as_fd(), &mut out[start..], at as i64),
            None => self.attachment.read(at as usize, &mut out[start..]),
        };
        out.truncate(start + *outcome.as_ref().unwrap_or(&0));
        Ok(outcome.map(drop)?)
    }

    /// Writes all of `data`, which ends where the segment does or before.
    fn write_all(&self, at: u64, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            match self.write_at(at + done as u64, &data[done..])? {
                0 => return fail(Errno::EIO),
                written => done += written,
            }
        }
        Ok(())
    }

    /// Writes some of `data`, which ends where the segment does or before.
    fn write_at(&self, at: u64, data: &[u8]) -> std::result::Result<usize, Errno> {
        match &self.file {
            Some(file) => pwrite(file.as_fd(), data, at as i64),
            None => self.attachment.write(at as usize, data),
        }
    }
}

/// The file behind an attachment at `address`, if this process may open it and it takes read(2) and
/// write(2).
fn own_file(address: usize, size: u64, write: bool) -> Result<OwnedFd> {
    /// linux/magic.h: `TMPFS_MAGIC`; huge pages are elsewhere, and their files take no write(2).
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let end = address + size.next_multiple_of(PAGE) as usize;
    let path = format!("/proc/self/map_files/{address:x}-{end:x}");
    let flags = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    let file = nix::fcntl::open(&*path, flags | OFlag::O_CLOEXEC, Mode::empty())?;
    let magic = nix::sys::statfs::fstatfs(&file)?.filesystem_type().0;
    if magic == TMPFS_MAGIC { Ok(file) } else { fail(Errno::EINVAL) }
}

/// Tries that with a segment that nobody sees for longer than it takes.
fn probe_own_file() -> Result<()> {
    let id = sys::get(libc::IPC_PRIVATE, PAGE, 0o600)?;
    let attachment = sys::Attachment::new(id, true);
    let _ = sys::remove(id);
    own_file(attachment?.address(), PAGE, true)?;
    Ok(())
}

impl Handle for SegmentFile {
    fn is_heavy(&self) -> bool {
        self.size > HEAVY
    }

    fn attr(&self) -> Option<Result<Attr>> {
        let attr = sys::stat(self.id).map(|segment| segment_attr(&segment, self.id));
        Some(attr.map_err(removed))
    }

    fn truncate(&self, _cx: &Cx, size: u64) -> Option<Result<()>> {
        let checked = sys::stat(self.id).map_err(removed);
        Some(checked.and_then(|segment| check_size(&segment, size)))
    }

    fn read(&self, _cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        self.read_some(at, size, out)
    }

    fn write(&self, _cx: &Cx, at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        let room = self.size.saturating_sub(at.saturating_add(*done as u64));
        let end = data.len().min(done.saturating_add(usize::try_from(room).unwrap_or(usize::MAX)));
        if room == 0 && *done < data.len() {
            return Err(no_room(self.size));
        }
        while *done < end {
            let from = at + *done as u64;
            let written = self.write_at(from, &data[*done..end])?;
            if written == 0 {
                return fail(Errno::EIO);
            }
            *done += written;
        }
        Ok(())
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<i64> {
        let whence = match whence {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return fail(Errno::EINVAL),
        };
        match &self.file {
            // It moves this descriptor's position, which nothing else goes by.
            Some(file) => Ok(nix::unistd::lseek(file.as_fd(), offset, whence)?),
            None if offset < 0 || offset as u64 >= self.size => fail(Errno::ENXIO),
            None if matches!(whence, Whence::SeekData) => Ok(offset),
            None => Ok(self.size as i64),
        }
    }
}
