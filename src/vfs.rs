//! The vocabulary between the FUSE side, the tree and the kinds.
//!
//! A tree is made of three roles: a [`Dir`] knows names, an [`Object`] is what a name stands for,
//! a [`Handle`] is an open object. None of them knows FUSE. What a trait does by default is to
//! refuse, so that an implementation holds only what it can do.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use crate::caller::Caller;
use crate::error::{Errno, Result, fail};
use crate::status::Fields;

/// Whether an operation may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At once or `EAGAIN`: the request loop asks so, first of all.
    Try,
    /// As long as it takes: a worker asks so. A signal ends the wait with `EINTR`.
    Block,
}

/// Who asks and whether it may take time.
#[derive(Clone, Copy, Debug)]
pub struct Cx {
    /// Who asks.
    pub caller: Caller,
    /// Whether it may wait.
    pub wait: Wait,
    /// Whether the file is open with `O_NONBLOCK`.
    pub nonblock: bool,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file: everything that the daemon or a backing file reads and writes.
    Regular,
    /// A directory.
    Directory,
    /// A named pipe, served by the kernel's own pipe code.
    Fifo,
    /// A symbolic link: a name for a key.
    Symlink,
}

/// The attributes of a name, as stat(2) shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Which object this is: a number that no other object of the same directory has, nor will
    /// have soon (an inode number, a System V identifier with its sequence number). It tells
    /// whether a name still stands for the object that the kernel has checked.
    pub ident: u64,
    /// What kind of file.
    pub file_type: FileType,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes: queued in a queue, held by a segment.
    pub size: u64,
    /// Blocks of 512 bytes that are really there.
    pub blocks: u64,
    /// Number of names.
    pub nlink: u32,
    /// Last read.
    pub atime: SystemTime,
    /// Last write.
    pub mtime: SystemTime,
    /// Last change of attributes.
    pub ctime: SystemTime,
}

impl Attr {
    /// A directory of root's with these permissions, as old as the daemon.
    pub fn directory(ident: u64, mode: u32) -> Self {
        let born = crate::born();
        Self {
            ident,
            file_type: FileType::Directory,
            mode,
            uid: crate::owner().0,
            gid: crate::owner().1,
            size: 0,
            blocks: 0,
            nlink: 2,
            atime: born,
            mtime: born,
            ctime: born,
        }
    }

    /// A regular file of root's with these permissions, as old as the daemon.
    pub fn file(ident: u64, mode: u32) -> Self {
        Self { file_type: FileType::Regular, nlink: 1, ..Self::directory(ident, mode) }
    }

    /// What decides who may open it.
    pub fn access(&self) -> (u32, u32, u32) {
        (self.mode, self.uid, self.gid)
    }
}

/// The size that a text shows which is made when it is read: a page, as in sysfs.
///
/// Programs that copy by sendfile(2) (busybox's cat, Python's `shutil`) take a file of no bytes to be
/// empty and ask no further; that a whole page is a guess, others know (coreutils' wc and tail).
pub const TEXT_SIZE: u64 = 4096;

/// The attributes to change; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last write.
    pub mtime: Option<SetTime>,
}

/// A time to set, as for utimensat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time at which it is done.
    Now,
    /// This time.
    To(SystemTime),
}

/// How a file is to be opened.
#[allow(clippy::struct_excessive_bools)] // They are open(2)'s flags.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// `O_TRUNC`: it destroys nothing but the content of an ordinary file.
    pub truncate: bool,
    /// `O_APPEND`.
    pub append: bool,
    /// Whether this very open has made it.
    pub created: bool,
    /// The attributes that the kernel has checked the caller against: if the object opened has
    /// others, the answer is `ESTALE`, and the kernel looks up and checks again.
    pub checked: Attr,
}

impl How {
    /// What open(2)'s flags say, of an object that the kernel has checked with these attributes.
    pub fn new(flags: i32, checked: Attr) -> Self {
        let access = flags & libc::O_ACCMODE;
        Self {
            read: access != libc::O_WRONLY,
            write: access != libc::O_RDONLY,
            truncate: flags & libc::O_TRUNC != 0,
            append: flags & libc::O_APPEND != 0,
            created: false,
            checked,
        }
    }

    /// Fails with `ESTALE` if what has been opened is not what the kernel has checked.
    pub fn verify(&self, opened: &Attr) -> Result<()> {
        if opened.ident == self.checked.ident && opened.access() == self.checked.access() {
            Ok(())
        } else {
            fail(Errno::ESTALE)
        }
    }
}

/// Who moves an open file's data.
#[derive(Debug)]
pub enum Io {
    /// The handle, message by message: nothing is cached or read ahead.
    Messages,
    /// The handle, a text or bytes at offsets; nothing is cached, size 0 is no reason not to read.
    Direct,
    /// The kernel, straight to this file; falls back to the handle where passthrough is not to be
    /// had.
    Passthrough(Arc<OwnedFd>),
    /// mmap goes to this file, read and write come to the handle, which keeps the bounds.
    Mapped(Arc<OwnedFd>),
}

/// An opened object.
pub struct Opened {
    /// What serves it.
    pub handle: Arc<dyn Handle>,
    /// Who moves the data.
    pub io: Io,
}

/// What a name of a [`Dir`] stands for.
#[derive(Clone)]
pub enum Item {
    /// A directory.
    Dir(Arc<dyn Dir>),
    /// A file.
    Object(Arc<dyn Object>),
    /// A symbolic link and its target.
    Link(Arc<[u8]>),
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// As in [`Attr::ident`].
    pub ident: u64,
    /// What kind of file.
    pub file_type: FileType,
}

/// How the names of a directory become node ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// They are always there and never change: the kernel may keep them.
    Fixed,
    /// One id per object, however many have it open: what a mapping or a pipe hangs on.
    Stable,
    /// One id as long as nobody writes, then one for each look-up: the kernel holds an inode's
    /// lock while a write waits, and nobody is to wait for that.
    PerWriter,
}

/// As many names are listed in the request loop, at about a microsecond each.
pub const MANY: usize = 2048;

/// A directory.
pub trait Dir: Send + Sync {
    /// Its own attributes.
    fn attr(&self) -> Result<Attr>;

    /// How its names become node ids.
    fn children(&self) -> Children;

    /// The attributes of `name`; `ENOENT` if there is none.
    fn find(&self, name: &[u8]) -> Result<Attr>;

    /// What `name` stands for, `find` having given `attr`.
    fn item(self: Arc<Self>, name: &[u8], attr: &Attr) -> Result<Item>;

    /// All that is there now. Where that is more than [`MANY`] and `wait` does not permit to take
    /// time: [`Error::deferred`](crate::error::Error::deferred).
    fn list(&self, wait: Wait) -> Result<Vec<DirEntry>>;

    /// What [`Dir::create`] makes. A pipe cannot be the answer to an open that makes it, the kernel
    /// opens it by itself.
    fn makes(&self) -> FileType {
        FileType::Regular
    }

    /// Whether making an object for somebody else takes so long that a worker has to do it.
    fn makes_slowly(&self) -> bool {
        false
    }

    /// Makes an object with default attributes, owned by the caller. `EEXIST` if there is one.
    fn create(&self, _caller: Caller, _name: &[u8], _mode: u32) -> Result<()> {
        fail(Errno::EPERM)
    }

    /// The same for who does not open it (mknod(2)).
    fn make_file(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.create(caller, name, mode)
    }

    /// Makes a named pipe.
    fn make_fifo(&self, _caller: Caller, _name: &[u8], _mode: u32) -> Result<()> {
        fail(Errno::EPERM)
    }

    /// Makes a symbolic link.
    fn make_link(&self, _caller: Caller, _name: &[u8], _target: &[u8]) -> Result<()> {
        fail(Errno::EPERM)
    }

    /// Removes the object of that name.
    fn remove(&self, _caller: Caller, _name: &[u8]) -> Result<()> {
        fail(Errno::EPERM)
    }

    /// Renames within this directory; `replace` says whether an object that has the new name
    /// already may be replaced (`EEXIST` if not).
    fn rename(&self, _caller: Caller, _from: &[u8], _to: &[u8], _replace: bool) -> Result<()> {
        fail(Errno::EPERM)
    }
}

/// Which object something is about: an object and its control files have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// The kind's directory.
    pub kind: &'static str,
    /// [`Attr::ident`].
    pub ident: u64,
}

/// How /proc shows that a process uses an object other than through the mount.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    /// The file that stands for it: it can be open or mapped.
    pub file: Option<FileId>,
    /// The System V segment's identifier: it can be attached.
    pub segment: Option<i32>,
    /// What a process that waits for it is in.
    pub waits: Option<Waits>,
}

/// A file: `st_dev` and `st_ino`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device number.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
}

/// How one waits for an object in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// `mq_send(3)` and `mq_receive(3)` on a descriptor of the file.
    Queue,
    /// msgsnd(2) and msgrcv(2) on this identifier.
    SystemVQueue(i32),
    /// `sem_wait(3)`: a futex in a mapping of the file.
    Semaphore,
    /// semop(2) on this identifier.
    SystemVSemaphores(i32),
}

/// What a name stands for: an object of the kernel, or a file of ctl/.
pub trait Object: Send + Sync {
    /// Its attributes now; `ENOENT` if it is gone.
    fn attr(&self) -> Result<Attr>;

    /// Changes attributes of the real object.
    fn change(&self, cx: &Cx, change: &Change) -> Result<()>;

    /// Whether the caller may read or write it, where the calls of C ask for more than a file's
    /// mode says; that, the kernel has checked. One that is gone is for others to notice.
    fn check_rights(&self, _caller: Caller, _read: bool, _write: bool) -> Result<()> {
        Ok(())
    }

    /// Opens it. The kernel has checked the permissions.
    fn open(&self, cx: &Cx, how: &How) -> Result<Opened>;

    /// Its directory below ctl/.
    fn controls(self: Arc<Self>) -> Option<Arc<dyn Dir>> {
        None
    }

    /// Which object it is, or is a control file of.
    fn id(&self) -> Option<ObjectId> {
        None
    }

    /// How /proc shows who uses it.
    fn traces(&self) -> Result<Traces> {
        Ok(Traces::default())
    }

    /// Why the kernel's own record of the object lets one think that nobody uses it any more;
    /// `None` if somebody may. `gone` says whether a process has ended. Who has it open, mapped or
    /// waits for it is looked for besides.
    fn unused(&self, _gone: &dyn Fn(i64) -> bool) -> Result<Option<&'static str>> {
        Ok(Some("open nowhere"))
    }

    /// What is known of it: `ctl/KIND/NAME/status`. The names are the C interface's own.
    fn status(&self) -> Result<Fields> {
        fail(Errno::EOPNOTSUPP)
    }
}

/// An open object. Dropping it closes it.
pub trait Handle: Send + Sync {
    /// Its attributes, also when its name is gone; `None` where the name tells.
    fn attr(&self) -> Option<Result<Attr>> {
        None
    }

    /// How many bytes there are to be read, where the name tells all but that.
    fn length(&self) -> Option<u64> {
        None
    }

    /// Changes the size of the open file; `None` where [`Object::change`] does it.
    fn truncate(&self, _cx: &Cx, _size: u64) -> Option<Result<()>> {
        None
    }

    /// Opens the same object once more, its name being gone (`/proc/self/fd`, open(2)); `None`
    /// where that is not possible.
    fn reopen(&self, _cx: &Cx, _how: &How) -> Option<Result<Opened>> {
        None
    }

    /// Changes other attributes of the open file, whatever has become of its name; `None` where
    /// [`Object::change`] does it.
    fn change(&self, _caller: Caller, _change: &Change) -> Option<Result<()>> {
        None
    }

    /// Appends up to `size` bytes to `out`; none is end of file. `at` is the file position, which
    /// a stream ignores. What is in `out` when it fails has been read nevertheless.
    fn read(&self, _cx: &Cx, _at: u64, _size: usize, _out: &mut Vec<u8>) -> Result<()> {
        fail(Errno::EBADF)
    }

    /// Writes `data` from `done` on and counts what has been written there. What is counted when
    /// it fails has been written nevertheless.
    fn write(&self, _cx: &Cx, _at: u64, _data: &[u8], _done: &mut usize) -> Result<()> {
        fail(Errno::EBADF)
    }

    /// Gives back what the last `read` of `bytes` bytes took, since its reader has been killed
    /// before it could have them.
    fn unread(&self, _bytes: &[u8]) {}

    /// Which of `events` (poll(2)) hold now.
    fn poll(&self, events: i16) -> i16 {
        events & (libc::POLLIN | libc::POLLRDNORM | libc::POLLOUT | libc::POLLWRNORM)
    }

    /// Waits until one of `events` may hold; `EINTR` after a signal.
    fn wait_ready(&self, _events: i16) -> Result<()> {
        Ok(())
    }

    /// Whether its end may free more than [`HEAVY`](crate::memory::HEAVY) of shared memory.
    fn is_heavy(&self) -> bool {
        false
    }

    /// How many bytes it keeps in memory as long as it is open, beyond what each handle does.
    fn memory(&self) -> usize {
        0
    }

    /// Whether [`Handle::flush`] does something.
    fn flushes(&self) -> bool {
        false
    }

    /// Ends what is unfinished, at a close by the process that has opened the file, which waits for
    /// it. Others may have the file still.
    fn flush(&self, _cx: &Cx) -> Result<()> {
        Ok(())
    }

    /// Sends what is unfinished, at the last close.
    fn finish(&self, _cx: &Cx) -> Result<()> {
        Ok(())
    }

    /// `SEEK_DATA` and `SEEK_HOLE` (lseek(2)).
    fn seek(&self, _offset: i64, _whence: i32) -> Result<i64> {
        fail(Errno::EINVAL)
    }

    /// fallocate(2).
    fn allocate(&self, _cx: &Cx, _mode: i32, _offset: u64, _length: u64) -> Result<()> {
        fail(Errno::EOPNOTSUPP)
    }
}
