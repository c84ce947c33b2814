//! Each request, and what answers it.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::reply::{Asked, Refuse};
use super::{
    Adapter, Ask, MAX_WRITE, caller, file_type, is_to_wait, reply, safely, set_time, try_cx,
};
use crate::block::Flight;
use crate::error::{Errno, Error};
use crate::memory::free_later;
use crate::tree::Tree;
use crate::tree::handles::{Fh, OpenFile};
use crate::tree::nodes::NodeId;
use crate::vfs::{Change, Cx, DirEntry, FileType, Wait};

thread_local! {
    /// What a request loop reads into.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Adapter {
    /// To be called after a read or write: what somebody polls may have to be watched anew.
    fn rearm(&self, file: &OpenFile, fh: FileHandle) {
        if file.polled.load(Ordering::Relaxed) {
            self.polls.rearm(file.opener.uid, Fh(fh.0), &file.handle);
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // `>` is to be told from an explicit truncate; a dead mount is to say so; and that there are no
        // file capabilities is to be asked once, not at each write to shared memory. (What a write or
        // a chown takes away with them, the set-ID bits, the real object loses by itself.)
        for wanted in [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ABORT_ERROR,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
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
                self.refuse(request, &Ask::named("look up", parent, name), reply, &error);
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
            Err(error) => self.refuse(request, &Ask::of("stat", ino), reply, &error),
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
        let work = move |tree: &Tree, cx: &Cx| tree.change(cx, id, fh, change);
        self.serve(request, &Ask::of("change", ino), reply, work, move |me, reply, attr| {
            me.attr_reply(reply, id, &attr);
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        safely(|| match self.tree.read_link(NodeId(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => self.refuse(request, &Ask::of("readlink", ino), reply, &error),
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
        let (parent_id, bytes) = (NodeId(parent.0), name.as_bytes().to_vec());
        let work =
            move |tree: &Tree, cx: &Cx| tree.make(cx, parent_id, &bytes, file_type, mode & 0o7777);
        self.serve(request, &Ask::named("make", parent, name), reply, work, |_, reply, entry| {
            Self::entry_reply(reply, &entry);
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
        self.refuse(request, &Ask::named("mkdir", parent, name), reply, &error);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.tree.remove(caller(request), NodeId(parent.0), name.as_bytes());
        safely(|| match remove() {
            Ok(()) => reply.ok(),
            Err(error) => {
                self.refuse(request, &Ask::named("remove", parent, name), reply, &error);
            }
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let error = Error::because(Errno::EPERM, "the directories are always there");
        self.refuse(request, &Ask::named("rmdir", parent, name), reply, &error);
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
            Err(error) => self.refuse(request, &Ask::named("link", parent, name), reply, &error),
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
            Err(error) => self.refuse(request, &Ask::named("rename", parent, name), reply, &error),
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
        self.refuse(request, &Ask::named("link", parent, name), reply, &error);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (id, flags) = (NodeId(ino.0), flags.0);
        let work = move |tree: &Tree, cx: &Cx| tree.open(cx, id, flags);
        let ask = Ask::of("open", ino).with(flags);
        self.serve(request, &ask, reply, work, move |me, reply, opening| {
            me.open_reply(reply, id, &opening, flags);
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
        let (parent_id, bytes) = (NodeId(parent.0), name.as_bytes().to_vec());
        let work =
            move |tree: &Tree, cx: &Cx| tree.create(cx, parent_id, &bytes, mode & 0o7777, flags);
        let ask = Ask::named("create", parent, name).with(flags);
        self.serve(request, &ask, reply, work, |me, reply, (entry, opening)| {
            me.create_reply(reply, &entry, &opening);
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
        let ask = Ask::of("read", ino);
        safely(|| {
            let file = match self.tree.file(NodeId(ino.0), Fh(fh.0)) {
                // A read for the page cache, by a private mapping, sendfile(2) or splice(2): it would
                // take a message that nobody has asked for. read(2) comes with an owner.
                Ok(file) if file.messages && lock_owner.is_none() => {
                    return reply.error(fuser::Errno::EINVAL);
                }
                Ok(file) => file,
                Err(error) => return self.refuse(request, &ask, reply, &error),
            };
            let size = size as usize;
            let mut out = BUFFER.take();
            out.clear();
            match file.handle.read(&cx, offset, size, &mut out) {
                Err(error) if out.is_empty() && is_to_wait(&error, &cx) => {
                    let file = Arc::clone(&file);
                    self.wait(request, &ask, error, reply, move |flight, late, asked| {
                        let cx = Cx { wait: Wait::Block, ..cx };
                        let mut out = Vec::new();
                        let outcome = flight
                            .until_cancelled(|| file.handle.read(&cx, offset, size, &mut out));
                        let Some(reply) = late.take() else { return };
                        match outcome {
                            Err(error) if out.is_empty() => reply.refuse(|| asked, &error),
                            // The signal may have come after what it waited for, and its interrupt
                            // may still be on its way. Of whom cannot be seen the interrupt tells.
                            _ if cx.caller.is_dying().unwrap_or(flight.cancelled().is_some()) => {
                                // Answered first: giving back may have to wait for room.
                                reply.error(fuser::Errno::EINTR);
                                flight.finish();
                                file.handle.unread(&out);
                            }
                            _ => reply.data(&out),
                        }
                    });
                }
                Err(error) if out.is_empty() => self.refuse(request, &ask, reply, &error),
                _ => reply.data(&out),
            }
            self.rearm(&file, fh);
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
        let ask = Ask::of("write", ino);
        safely(|| {
            let file = match self.tree.file(NodeId(ino.0), Fh(fh.0)) {
                Ok(file) => file,
                Err(error) => return self.refuse(request, &ask, reply, &error),
            };
            // With `O_APPEND` the kernel makes it the size, which says nothing about a message.
            let append = file.messages && flags.0 & libc::O_APPEND != 0;
            let offset = if append { 0 } else { offset };
            let mut done = 0;
            match file.handle.write(&cx, offset, data, &mut done) {
                Err(error) if is_to_wait(&error, &cx) => {
                    let (data, file) = (data.to_vec(), Arc::clone(&file));
                    self.wait(request, &ask, error, reply, move |flight, late, asked| {
                        let cx = Cx { wait: Wait::Block, ..cx };
                        let outcome = flight
                            .until_cancelled(|| file.handle.write(&cx, offset, &data, &mut done));
                        let Some(reply) = late.take() else { return };
                        match outcome {
                            Err(error) if done == 0 => reply.refuse(|| asked, &error),
                            _ => reply.written(done as u32),
                        }
                    });
                }
                Err(error) if done == 0 => self.refuse(request, &ask, reply, &error),
                _ => reply.written(done as u32),
            }
            self.rearm(&file, fh);
        });
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Any close, not only the last one. That of the process that has opened the file waits for
        // what is unfinished, and learns what becomes of it.
        let (id, fh) = (NodeId(ino.0), Fh(fh.0));
        let work = move |tree: &Tree, cx: &Cx| match tree.file(id, fh)? {
            file if file.opener.pid == cx.caller.pid => file.handle.flush(cx),
            _ => Ok(()),
        };
        self.serve(request, &Ask::of("close", ino), reply, work, |_, reply, ()| reply.ok());
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
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
                    // For `ctl/errors`, should what is unfinished be lost: the one who has closed
                    // it is not there any more.
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
                            let work = move |flight: &Flight| {
                                let finish = || unfinished.handle.finish(&cx);
                                if let Err(error) = flight.until_cancelled(finish) {
                                    if flight.cancelled().is_some() {
                                        let path = &asked.path;
                                        log::warn!("{path}: lost at the end: what was unfinished");
                                    }
                                    reply::note(|| asked, &error);
                                }
                            };
                            let submitted = self.blocker.submit(id, uid, None, work);
                            if let Err(error) = submitted {
                                reply::note(closed, &error);
                            }
                        }
                        Err(error) => reply::note(closed, &error),
                        Ok(()) => {}
                    }
                    if file.handle.is_heavy() {
                        free_later(Some(file));
                    }
                    reply.ok();
                }
                Err(error) => self.refuse(request, &Ask::of("close", ino), reply, &error),
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
            Err(error) => self.refuse(request, &Ask::of("list", ino), reply, &error),
        });
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let (id, fh) = (NodeId(ino.0), Fh(fh.0));
        let work = move |tree: &Tree, cx: &Cx| {
            Ok((tree.read_dir(cx, id, fh, offset == 0)?, tree.parent(id)?))
        };
        let answer = move |_: &Self, mut reply: ReplyDirectory, (entries, above)| {
            let entries: Arc<[DirEntry]> = entries;
            let dots = [(id, "."), (above, "..")];
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
            reply.ok();
        };
        self.serve(request, &Ask::of("list", ino), reply, work, answer);
    }

    fn releasedir(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        safely(|| match self.tree.release_dir(Fh(fh.0)) {
            Ok(()) => reply.ok(),
            Err(error) => self.refuse(request, &Ask::of("close", ino), reply, &error),
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

    // `ENOSYS` is remembered by the kernel, which says `EOPNOTSUPP` from then on. But of access control
    // lists it would say that a file has none, rather than that there are no such things here, and ls
    // would look up each name once more to ask.
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
        reply.error(fuser::Errno::EOPNOTSUPP);
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
                if flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY) {
                    file.polled.store(true, Ordering::Relaxed);
                    let (uid, both) = (file.opener.uid, (events, ready));
                    let watched = self.polls.watch(uid, Fh(fh.0), &file.handle, notifier, both);
                    if let (0, Err(error)) = (ready, watched) {
                        return self.refuse(request, &Ask::of("poll", ino), reply, &error);
                    }
                }
                reply.poll(PollEvents::from_bits_retain(u32::from(ready as u16)));
            }
            Err(error) => self.refuse(request, &Ask::of("poll", ino), reply, &error),
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
            Err(error) => self.refuse(request, &Ask::of("seek", ino), reply, &error),
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
        let (id, fh) = (NodeId(ino.0), Fh(fh.0));
        let work = move |tree: &Tree, cx: &Cx| {
            tree.file(id, fh)?.handle.allocate(cx, mode, offset, length)
        };
        self.serve(request, &Ask::of("fallocate", ino), reply, work, |_, reply, ()| reply.ok());
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
