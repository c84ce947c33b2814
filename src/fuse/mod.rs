//! The FUSE side: decodes requests, asks the tree, replies. It decides nothing.
//!
//! Each request is first tried without waiting, in the loop that received it. What would block is
//! handed to [`crate::block`], with the reply.

pub mod interrupt;
mod order;
pub mod passthrough;
mod poll;
mod reply;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, Notifier, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use self::passthrough::Passthrough;
use self::poll::Polls;
use self::reply::{Asked, Late, Refuse};
use crate::block::{Blocker, Errand};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result};
use crate::escape;
use crate::fault;
use crate::tree::handles::Fh;
use crate::tree::nodes::NodeId;
use crate::tree::{Entry, Opening, Tree};
use crate::vfs::{Attr, Change, Cx, FileType, Io, SetTime, Wait};

/// The largest write that comes in one request. The kernel sends no more than 256 pages.
const MAX_WRITE: u32 = 256 * 4096;

/// How long the kernel may keep a name that never changes.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);
/// Names and attributes of objects are asked for each time.
const NEVER: Duration = Duration::ZERO;
/// Attributes that came with a look-up serve the rest of that path walk: the kernel rounds this up
/// to a tick of its clock. An open ends it, so that fstat(2) asks anew.
const THIS_WALK: Duration = Duration::from_nanos(1);

/// The file system as fuser sees it.
#[derive(Clone)]
pub struct Adapter {
    tree: Arc<Tree>,
    blocker: Arc<Blocker>,
    polls: Arc<Polls>,
    passthrough: Arc<Passthrough>,
    notifier: Arc<OnceLock<Notifier>>,
    at_end: Arc<dyn Fn() + Send + Sync>,
}

impl Adapter {
    /// Serves `tree`; `notifier` is to be set before requests other than the first are served.
    /// `at_end` is called when there will be none any more.
    pub fn new(
        tree: Arc<Tree>,
        blocker: Arc<Blocker>,
        passthrough: Arc<Passthrough>,
        notifier: Arc<OnceLock<Notifier>>,
        at_end: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let polls = Arc::new(Polls::new(Arc::clone(&blocker)));
        Self { tree, blocker, polls, passthrough, notifier, at_end }
    }

    /// What was asked for, for the log and `ctl/errors`.
    fn asked(
        &self,
        what: &'static str,
        request: &Request,
        id: INodeNo,
        name: Option<&OsStr>,
    ) -> Asked {
        let mut path = self.tree.path(NodeId(id.0));
        if let Some(name) = name {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(&escape::line(name.as_bytes()));
        }
        Asked { what, path, caller: caller(request) }
    }

    /// What a request that is to wait waits for; nothing, if it only takes its time.
    fn errand(request: &Request, id: INodeNo, write: bool, error: &Error) -> Option<Errand> {
        (!error.is_deferred()).then_some(Errand {
            pid: request.pid(),
            uid: request.uid(),
            node: id.0,
            write,
        })
    }

    /// Whether an operation that could not be done at once is to be done by a worker.
    fn is_to_wait(error: &Error, nonblock: bool) -> bool {
        error.would_block() && (!nonblock || error.is_deferred())
    }

    fn entry_reply(reply: ReplyEntry, entry: &Entry) {
        let id = entry.found.id;
        let attr = file_attr(id.0, &entry.attr);
        let (name_life, attr_life) = if entry.fixed {
            (FOREVER, FOREVER)
        } else if entry.found.settled {
            (NEVER, THIS_WALK)
        } else {
            (NEVER, NEVER)
        };
        reply.entry_with_ttls(&attr_life, &name_life, &attr, Generation(0));
    }

    fn attr_reply(&self, reply: ReplyAttr, id: NodeId, attr: &Attr) {
        let life = if self.tree.is_fixed(id) { FOREVER } else { NEVER };
        reply.attr(&life, &file_attr(self.tree.ino(id), attr));
    }

    fn open_reply(&self, reply: ReplyOpen, id: NodeId, opening: &Opening, flags: i32) {
        // The attributes have done their duty in the path walk; an fstat is to ask again. After
        // O_TRUNC the kernel takes the size for unknown by itself (fs/fuse/file.c, fuse_open).
        if flags & libc::O_TRUNC == 0 {
            if let Some(notifier) = self.notifier.get() {
                let _ = notifier.inval_inode(INodeNo(id.0), -1, 0);
            }
        }
        let fh = FileHandle(opening.fh.0);
        match self.passthrough.backing(id, opening, |file| reply.open_backing(file)) {
            Some(backing) => {
                reply.opened_passthrough(fh, passthrough::flags(&opening.io), &backing);
            }
            None => reply.opened(fh, open_flags(opening)),
        }
    }

    fn create_reply(&self, reply: ReplyCreate, entry: &Entry, opening: &Opening) {
        let id = entry.found.id;
        let attr = file_attr(id.0, &entry.attr);
        let (none, fh) = (Generation(0), FileHandle(opening.fh.0));
        match self.passthrough.backing(id, opening, |file| reply.open_backing(file)) {
            Some(backing) => {
                let flags = passthrough::flags(&opening.io);
                reply.created_passthrough(&NEVER, &attr, none, fh, flags, &backing);
            }
            None => reply.created(&NEVER, &attr, none, fh, open_flags(opening)),
        }
    }
}

/// How the kernel is to treat an open file that it asks the handle for.
fn open_flags(opening: &Opening) -> FopenFlags {
    let mut direct = FopenFlags::FOPEN_DIRECT_IO;
    if !opening.finishes {
        direct |= FopenFlags::FOPEN_NOFLUSH;
    }
    match opening.io {
        Io::Messages if opening.write => {
            // Without a position, two processes that share the file do not wait for each other;
            // one that only reads has a position, for shells that read ahead and seek back.
            direct | FopenFlags::FOPEN_STREAM | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        }
        _ => direct,
    }
}

thread_local! {
    /// What a request loop reads into.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Whoever closes, with what was left unfinished.
fn closing(request: &Request) -> Asked {
    Asked { what: "close", path: String::new(), caller: caller(request) }
}

/// What was unfinished at a close could not be finished, and nobody is there any more to be told.
fn lost(asked: impl FnOnce() -> Asked, error: &Error) {
    log::warn!("what was unfinished at a close is lost: {error}");
    reply::note(asked, error);
}

/// Runs a handler so that a panic ends that request (fuser answers `EIO` for the reply that is
/// dropped) and not the loop.
fn safely(handler: impl FnOnce()) {
    let handle = || {
        fault::strike(&handler, "");
        handler();
    };
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(handle)).is_err() {
        log::error!("a request panicked; it is answered with EIO");
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn try_cx(request: &Request, flags: i32) -> Cx {
    Cx { caller: caller(request), wait: Wait::Try, nonblock: flags & libc::O_NONBLOCK != 0 }
}

fn file_attr(ino: u64, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.file_type),
        perm: attr.mode as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn file_type(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Symlink => fuser::FileType::Symlink,
    }
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(time),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // `>` is to be told from an explicit truncate; a dead mount is to say so.
        for wanted in [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ABORT_ERROR,
        ] {
            if config.add_capabilities(wanted).is_err() {
                log::warn!("this kernel's FUSE lacks {wanted:?}");
            }
        }
        let _ = config.set_max_write(MAX_WRITE);
        self.passthrough.negotiate(config);
        Ok(())
    }

    fn destroy(&mut self) {
        (self.at_end)();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        safely(|| match self.tree.look_up(NodeId(parent.0), name.as_bytes()) {
            Ok(entry) => Self::entry_reply(reply, &entry),
            // The answer to a question rather than a failure.
            Err(error) if error.errno() == Errno::ENOENT => reply.error(fuser::Errno::ENOENT),
            Err(error) => {
                reply.refuse(|| self.asked("look up", request, parent, Some(name)), &error);
            }
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        safely(|| self.tree.forget(NodeId(ino.0), count));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let id = NodeId(ino.0);
        safely(|| match self.tree.attr(id, fh.map(|fh| Fh(fh.0))) {
            Ok(attr) => self.attr_reply(reply, id, &attr),
            Err(error) => reply.refuse(|| self.asked("stat", request, ino, None), &error),
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let id = NodeId(ino.0);
        let change =
            Change { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time) };
        let fh = fh.map(|fh| Fh(fh.0));
        safely(|| match self.tree.change(caller(request), id, fh, change) {
            Ok(attr) => self.attr_reply(reply, id, &attr),
            Err(error) => reply.refuse(|| self.asked("change", request, ino, None), &error),
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        safely(|| match self.tree.read_link(NodeId(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.refuse(|| self.asked("readlink", request, ino, None), &error),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let file_type = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => FileType::Regular,
            libc::S_IFIFO => FileType::Fifo,
            _ => return reply.error(fuser::Errno::EPERM),
        };
        let cx = try_cx(request, 0);
        let make = move |cx: &Cx, name: &[u8], tree: &Tree| {
            tree.make(cx, NodeId(parent.0), name, file_type, mode & 0o7777)
        };
        safely(|| match make(&cx, name.as_bytes(), &self.tree) {
            Ok(entry) => Self::entry_reply(reply, &entry),
            Err(error) if error.is_deferred() => {
                let cx = Cx { wait: Wait::Block, ..cx };
                let asked = self.asked("make", request, parent, Some(name));
                let (tree, name) = (Arc::clone(&self.tree), name.as_bytes().to_vec());
                let late = Late::new(reply);
                let _ = self.blocker.submit(request.unique().0, move |flight| {
                    let outcome = flight.until_cancelled(|| make(&cx, &name, &tree));
                    let Some(reply) = late.take() else { return };
                    match outcome {
                        Ok(entry) => Self::entry_reply(reply, &entry),
                        Err(error) => reply.refuse(|| asked, &error),
                    }
                });
            }
            Err(error) => {
                reply.refuse(|| self.asked("make", request, parent, Some(name)), &error);
            }
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let error = Error::because(Errno::EPERM, "objects are in the directories that there are");
        reply.refuse(|| self.asked("mkdir", request, parent, Some(name)), &error);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.tree.remove(caller(request), NodeId(parent.0), name.as_bytes());
        safely(|| match remove() {
            Ok(()) => reply.ok(),
            Err(error) => {
                reply.refuse(|| self.asked("remove", request, parent, Some(name)), &error);
            }
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let error = Error::because(Errno::EPERM, "the directories are always there");
        reply.refuse(|| self.asked("rmdir", request, parent, Some(name)), &error);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let make = || {
            let target = target.as_os_str().as_bytes();
            self.tree.make_link(caller(request), NodeId(parent.0), name.as_bytes(), target)
        };
        safely(|| match make() {
            Ok(entry) => Self::entry_reply(reply, &entry),
            Err(error) => {
                reply.refuse(|| self.asked("link", request, parent, Some(name)), &error);
            }
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(fuser::Errno::EINVAL);
        }
        let replace = flags.is_empty();
        let rename = || {
            let from = (NodeId(parent.0), name.as_bytes());
            let to = (NodeId(new_parent.0), new_name.as_bytes());
            self.tree.rename(caller(request), from, to, replace)
        };
        safely(|| match rename() {
            Ok(()) => reply.ok(),
            Err(error) => {
                reply.refuse(|| self.asked("rename", request, parent, Some(name)), &error);
            }
        });
    }

    fn link(
        &self,
        request: &Request,
        _ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let error = Error::because(Errno::EPERM, "an object has one name");
        reply.refuse(|| self.asked("link", request, parent, Some(name)), &error);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let id = NodeId(ino.0);
        let cx = try_cx(request, flags.0);
        safely(|| match self.tree.open(&cx, id, flags.0) {
            Ok(opening) => self.open_reply(reply, id, &opening, flags.0),
            Err(error) if Self::is_to_wait(&error, cx.nonblock) => {
                let cx = Cx { wait: Wait::Block, ..cx };
                let (me, late) = (self.clone(), Late::new(reply));
                let asked = self.asked("open", request, ino, None);
                let errand = Self::errand(request, ino, false, &error);
                let _ = self.blocker.submit_errand(request.unique().0, errand, move |flight| {
                    let outcome = flight.until_cancelled(|| me.tree.open(&cx, id, flags.0));
                    let Some(reply) = late.take() else { return };
                    match outcome {
                        Ok(opening) => me.open_reply(reply, id, &opening, flags.0),
                        Err(error) => reply.refuse(|| asked, &error),
                    }
                });
            }
            Err(error) => reply.refuse(|| self.asked("open", request, ino, None), &error),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let cx = try_cx(request, flags);
        let create = move |cx: &Cx, name: &[u8], tree: &Tree| {
            tree.create(cx, NodeId(parent.0), name, mode & 0o7777, flags)
        };
        safely(|| match create(&cx, name.as_bytes(), &self.tree) {
            Ok((entry, opening)) => self.create_reply(reply, &entry, &opening),
            Err(error) if error.is_deferred() => {
                let cx = Cx { wait: Wait::Block, ..cx };
                let asked = self.asked("create", request, parent, Some(name));
                let (me, name, late) = (self.clone(), name.as_bytes().to_vec(), Late::new(reply));
                let _ = self.blocker.submit(request.unique().0, move |flight| {
                    let outcome = flight.until_cancelled(|| create(&cx, &name, &me.tree));
                    let Some(reply) = late.take() else { return };
                    match outcome {
                        Ok((entry, opening)) => me.create_reply(reply, &entry, &opening),
                        Err(error) => reply.refuse(|| asked, &error),
                    }
                });
            }
            Err(error) => {
                reply.refuse(|| self.asked("create", request, parent, Some(name)), &error);
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let cx = try_cx(request, flags.0);
        safely(|| {
            let file = match self.tree.file(NodeId(ino.0), Fh(fh.0)) {
                // A read of the page cache, for a private mapping: it would take a message that
                // nobody has asked for. read(2) comes with an owner.
                Ok(file) if file.messages && lock_owner.is_none() => {
                    return reply.error(fuser::Errno::EIO);
                }
                Ok(file) => file,
                Err(error) => {
                    return reply.refuse(|| self.asked("read", request, ino, None), &error);
                }
            };
            let size = size as usize;
            let mut out = BUFFER.take();
            out.clear();
            let outcome = file.handle.read(&cx, offset, size, &mut out);
            match outcome {
                Err(error) if out.is_empty() && Self::is_to_wait(&error, cx.nonblock) => {
                    let cx = Cx { wait: Wait::Block, ..cx };
                    let late = Late::new(reply);
                    let asked = self.asked("read", request, ino, None);
                    let errand = Self::errand(request, ino, false, &error);
                    let _ = self.blocker.submit_errand(request.unique().0, errand, move |flight| {
                        let mut out = Vec::new();
                        let outcome = flight
                            .until_cancelled(|| file.handle.read(&cx, offset, size, &mut out));
                        let Some(reply) = late.take() else { return };
                        match outcome {
                            Err(error) if out.is_empty() => reply.refuse(|| asked, &error),
                            _ if flight.cancelled().is_some() && cx.caller.is_dying() => {
                                // Answered first: giving back may have to wait for room.
                                reply.error(fuser::Errno::EINTR);
                                flight.finish();
                                file.handle.unread(&out);
                            }
                            _ => reply.data(&out),
                        }
                    });
                }
                Err(error) if out.is_empty() => {
                    reply.refuse(|| self.asked("read", request, ino, None), &error);
                }
                _ => reply.data(&out),
            }
            BUFFER.set(out);
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let cx = try_cx(request, flags.0);
        safely(|| {
            let file = match self.tree.file(NodeId(ino.0), Fh(fh.0)) {
                Ok(file) => file,
                Err(error) => {
                    return reply.refuse(|| self.asked("write", request, ino, None), &error);
                }
            };
            // With `O_APPEND` the kernel makes it the size, which says nothing about a message.
            let append = file.messages && flags.0 & libc::O_APPEND != 0;
            let offset = if append { 0 } else { offset };
            let mut done = 0;
            let outcome = file.handle.write(&cx, offset, data, &mut done);
            match outcome {
                Err(error) if Self::is_to_wait(&error, cx.nonblock) => {
                    let cx = Cx { wait: Wait::Block, ..cx };
                    let (late, data) = (Late::new(reply), data.to_vec());
                    let asked = self.asked("write", request, ino, None);
                    let errand = Self::errand(request, ino, true, &error);
                    let _ = self.blocker.submit_errand(request.unique().0, errand, move |flight| {
                        let outcome = flight
                            .until_cancelled(|| file.handle.write(&cx, offset, &data, &mut done));
                        let Some(reply) = late.take() else { return };
                        match outcome {
                            Err(error) if done == 0 => reply.refuse(|| asked, &error),
                            _ => reply.written(done as u32),
                        }
                    });
                }
                Err(error) if done == 0 => {
                    reply.refuse(|| self.asked("write", request, ino, None), &error);
                }
                _ => reply.written(done as u32),
            }
        });
    }

    fn flush(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Any close, not only the last one: what is unfinished stays so.
        safely(|| {
            let file = self.tree.file(NodeId(ino.0), Fh(fh.0));
            if file.is_ok_and(|file| file.handle.finishes() == Some(true)) {
                order::expect_release();
            }
            reply.ok();
        });
    }

    fn release(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let fh = Fh(fh.0);
        let cx = try_cx(request, 0);
        safely(|| {
            self.polls.forget(fh);
            self.passthrough.release(fh);
            match self.tree.release(fh) {
                Ok(file) => {
                    let closed = || Asked {
                        what: "close",
                        path: self.tree.path(file.node),
                        caller: file.opener,
                    };
                    match file.handle.finish(&cx) {
                        Err(error) if error.would_block() => {
                            let cx = Cx { wait: Wait::Block, ..cx };
                            let (id, asked) = (self.blocker.internal_id(), closed());
                            let (uid, unfinished) = (file.opener.uid, Arc::clone(&file));
                            let submitted = self.blocker.submit_for(uid, id, move |flight| {
                                let finish = || unfinished.handle.finish(&cx);
                                if let Err(error) = flight.until_cancelled(finish) {
                                    lost(|| asked, &error);
                                }
                            });
                            if let Err(error) = submitted {
                                lost(closed, &error);
                            }
                        }
                        Err(error) => lost(closed, &error),
                        Ok(()) => {}
                    }
                    reply.ok();
                }
                Err(error) => reply.refuse(|| closing(request), &error),
            }
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // The objects live in memory; there is nothing further to write to.
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        safely(|| match self.tree.open_dir(caller(request), NodeId(ino.0)) {
            Ok(fh) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
            Err(error) => reply.refuse(|| self.asked("list", request, ino, None), &error),
        });
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let id = NodeId(ino.0);
        let fill = |reply: &mut ReplyDirectory| -> Result<()> {
            let entries = self.tree.read_dir(id, Fh(fh.0), offset == 0)?;
            let dots = [(id, "."), (self.tree.parent(id)?, "..")];
            let dots = dots
                .iter()
                .map(|(id, name)| (INodeNo(id.0), fuser::FileType::Directory, OsStr::new(name)));
            let names = entries.iter().map(|entry| {
                // Zero would mean that there is no such entry (getdents(2)).
                let ino = INodeNo(entry.ident.max(1));
                (ino, file_type(entry.file_type), OsStr::from_bytes(&entry.name))
            });
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            for (index, (ino, file_type, name)) in dots.chain(names).enumerate().skip(from) {
                if reply.add(ino, index as u64 + 1, file_type, name) {
                    break;
                }
            }
            Ok(())
        };
        safely(|| match fill(&mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.refuse(|| self.asked("list", request, ino, None), &error),
        });
    }

    fn releasedir(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        safely(|| match self.tree.release_dir(Fh(fh.0)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.refuse(|| closing(request), &error),
        });
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    // `ENOSYS` is remembered by the kernel, which says `EOPNOTSUPP` from then on.
    fn setxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn getxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn removexattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn poll(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        notifier: PollNotifier,
        events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        safely(|| match self.tree.file(NodeId(ino.0), Fh(fh.0)) {
            Ok(file) => {
                let events = events.bits() as i16;
                let ready = file.handle.poll(events);
                if ready == 0 && flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY) {
                    let (uid, handle) = (file.opener.uid, Arc::clone(&file.handle));
                    self.polls.watch(uid, Fh(fh.0), handle, notifier, events);
                }
                reply.poll(PollEvents::from_bits_retain(u32::from(ready as u16)));
            }
            Err(error) => reply.refuse(|| self.asked("poll", request, ino, None), &error),
        });
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = || self.tree.file(NodeId(ino.0), Fh(fh.0))?.handle.seek(offset, whence);
        safely(|| match seek() {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.refuse(|| self.asked("seek", request, ino, None), &error),
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let cx = try_cx(request, 0);
        safely(|| {
            let file = match self.tree.file(NodeId(ino.0), Fh(fh.0)) {
                Ok(file) => file,
                Err(error) => {
                    return reply.refuse(|| self.asked("fallocate", request, ino, None), &error);
                }
            };
            match file.handle.allocate(&cx, mode, offset, length) {
                Ok(()) => reply.ok(),
                Err(error) if Self::is_to_wait(&error, cx.nonblock) => {
                    let cx = Cx { wait: Wait::Block, ..cx };
                    let late = Late::new(reply);
                    let asked = self.asked("fallocate", request, ino, None);
                    let _ = self.blocker.submit(request.unique().0, move |flight| {
                        let outcome = flight
                            .until_cancelled(|| file.handle.allocate(&cx, mode, offset, length));
                        let Some(reply) = late.take() else { return };
                        match outcome {
                            Ok(()) => reply.ok(),
                            Err(error) => reply.refuse(|| asked, &error),
                        }
                    });
                }
                Err(error) => {
                    reply.refuse(|| self.asked("fallocate", request, ino, None), &error);
                }
            }
        });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        _offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        _offset_out: u64,
        _length: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // Between messages there are borders that it would not keep; `cat` and `cp` then read and
        // write. For plain bytes the kernel does it itself.
        let files = [(ino_in, fh_in), (ino_out, fh_out)];
        safely(|| {
            let messages = files.iter().any(|(ino, fh)| {
                self.tree.file(NodeId(ino.0), Fh(fh.0)).is_ok_and(|file| file.messages)
            });
            let errno = if messages { Errno::EINVAL } else { Errno::EOPNOTSUPP };
            reply.error(fuser::Errno::from_i32(errno as i32));
        });
    }
}
