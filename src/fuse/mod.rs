//! The FUSE side: decodes requests, asks the tree, replies. It decides nothing.
//!
//! Each request is first tried without waiting, in the loop that received it. What would block is
//! handed to [`crate::block`], with the reply.

pub mod answer;
pub mod interrupt;
pub mod lanes;
pub mod passthrough;
mod poll;
mod reply;
mod requests;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    FileAttr, FileHandle, FopenFlags, Generation, INodeNo, Notifier, ReplyAttr, ReplyCreate,
    ReplyEntry, ReplyOpen, Request, TimeOrNow,
};

use self::lanes::Lanes;
use self::passthrough::Passthrough;
use self::poll::Polls;
use self::reply::{Asked, Late, Refuse};
use crate::block::{self, Blocker, Errand, Flight};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result};
use crate::escape;
use crate::fault;
use crate::tree::nodes::NodeId;
use crate::tree::{Entry, Opening, Tree};
use crate::vfs::{Attr, Cx, FileType, Io, SetTime, Wait};

/// The largest write that comes in one request. The kernel sends no more than 256 pages.
const MAX_WRITE: u32 = 256 * 4096;

/// How long the kernel may keep a name that never changes.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);
/// Names and attributes of objects are asked for each time.
const NEVER: Duration = Duration::ZERO;
/// Attributes that came with a look-up serve the rest of that path walk: the kernel rounds this up
/// to a tick of its clock. An open ends it, so that fstat(2) asks anew.
const THIS_WALK: Duration = Duration::from_nanos(1);

/// What a request asks for.
#[derive(Clone, Copy)]
struct Ask<'a> {
    /// In a word: `open`.
    what: &'static str,
    /// The node that it is about, or the directory of the name.
    id: INodeNo,
    name: Option<&'a OsStr>,
    /// open(2)'s flags, where it has any.
    flags: i32,
}

impl<'a> Ask<'a> {
    fn of(what: &'static str, id: INodeNo) -> Self {
        Self { what, id, name: None, flags: 0 }
    }

    fn named(what: &'static str, directory: INodeNo, name: &'a OsStr) -> Self {
        Self { name: Some(name), ..Self::of(what, directory) }
    }

    fn with(self, flags: i32) -> Self {
        Self { flags, ..self }
    }
}

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
    fn asked(&self, request: &Request, ask: &Ask<'_>) -> Asked {
        let mut path = self.tree.path(NodeId(ask.id.0));
        if let Some(name) = ask.name {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(&escape::line(name.as_bytes()));
        }
        Asked { what: ask.what, path, caller: caller(request) }
    }

    /// Does what is asked for, at once or, where that is not possible, by a worker, and answers.
    fn serve<R: Refuse + Send + 'static, T>(
        &self,
        request: &Request,
        ask: &Ask<'_>,
        reply: R,
        work: impl Fn(&Tree, &Cx) -> Result<T> + Send + 'static,
        answer: impl FnOnce(&Self, R, T) + Send + 'static,
    ) {
        safely(|| {
            let cx = try_cx(request, ask.flags);
            match work(&self.tree, &cx) {
                Ok(done) => answer(self, reply, done),
                Err(error) if is_to_wait(&error, &cx) => {
                    let me = self.clone();
                    self.wait(request, ask, error, reply, move |flight, late, asked| {
                        let cx = Cx { wait: Wait::Block, ..cx };
                        let outcome = flight.until_cancelled(|| work(&me.tree, &cx));
                        let Some(reply) = late.take() else { return };
                        match outcome {
                            Ok(done) => answer(&me, reply, done),
                            Err(error) => reply.refuse(|| asked, &error),
                        }
                    });
                }
                Err(error) => self.refuse(request, ask, reply, &error),
            }
        });
    }

    /// Hands a request that could not be done at once, for the reason `error`, to a worker. One that
    /// only takes its time waits for nothing.
    fn wait<R: Refuse + Send + 'static>(
        &self,
        request: &Request,
        ask: &Ask<'_>,
        error: Error,
        reply: R,
        work: impl FnOnce(&Flight, Late<R>, Asked) + Send + 'static,
    ) {
        let errand = (!error.is_deferred()).then_some(Errand {
            pid: request.pid(),
            uid: request.uid(),
            node: ask.id.0,
            write: ask.what == "write",
        });
        let (late, asked) = (Late::new(reply), self.asked(request, ask));
        let place = error.into_place();
        let job = move |flight: &Flight| {
            block::bring(place);
            work(flight, late, asked);
        };
        // If there is no worker to be had, the reply says so when it is dropped.
        let id = request.unique().0;
        let _ = self.blocker.submit(id, request.uid(), errand, job);
        if Lanes::get().was_interrupted(id) {
            self.blocker.cancel(id, Errno::EINTR);
        }
    }

    fn refuse<R: Refuse>(&self, request: &Request, ask: &Ask<'_>, reply: R, error: &Error) {
        reply.refuse(|| self.asked(request, ask), error);
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
                reply.opened_passthrough(fh, passthrough::flags(opening), &backing);
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
                let flags = passthrough::flags(opening);
                reply.created_passthrough(&NEVER, &attr, none, fh, flags, &backing);
            }
            None => reply.created(&NEVER, &attr, none, fh, open_flags(opening)),
        }
    }
}

/// How the kernel is to treat an open file that it asks the handle for.
fn open_flags(opening: &Opening) -> FopenFlags {
    let mut direct = FopenFlags::FOPEN_DIRECT_IO;
    if !opening.flushes {
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

/// Whether an operation that could not be done at once is to be done by a worker.
fn is_to_wait(error: &Error, cx: &Cx) -> bool {
    error.would_block() && (!cx.nonblock || error.is_deferred())
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
        TimeOrNow::SpecificTime(time) => SetTime::To(rectified(time)),
    }
}

/// A time as it was meant: of one before 1970 fuser 0.18 lets the nanoseconds count backwards, as the
/// seconds do (its time.rs has that to be done yet).
fn rectified(time: SystemTime) -> SystemTime {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(_) => time,
        Err(before) => time + 2 * Duration::from_nanos(before.duration().subsec_nanos().into()),
    }
}
