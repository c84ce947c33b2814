//! Segments that have just been made by `open` with `O_CREAT`, and whose size is still to be said.
//!
//! Such a segment exists, with one page; through the mount it is an empty file until its size is
//! settled. What is done first with an open file of it decides:
//!
//! | first use | size |
//! | --- | --- |
//! | `ftruncate(2)` (`truncate -s`, `dd seek=`), `fallocate(2)` | what it says |
//! | `write(2)` | just enough for it |
//! | none (`touch`), or somebody attaches the page (`shmat(2)`) | the page |
//!
//! For another size than a page, the segment is removed and made again, which keeps it from being
//! counted twice where there is room for one. All who open it through the mount meanwhile share one
//! [`Birth`], which attaches nothing before the size is settled, and so follow it to the segment that
//! it becomes; who has only looked it up finds that one by [`Births::now`](super::births::Births::now). Once anybody has attached
//! the segment in C, or its owner has been changed, it stays as it is.
//!
//! # Large writes
//!
//! A write of more than a mebibyte comes in several requests, and `cp`, `cat` and `dd` write a large
//! file piece by piece. So after a first piece of at least [`PIECE`] bytes, more that comes right
//! behind it by the same open file makes the segment longer: it is collected in a memory file
//! (`memfd_create(2)`, charged to its writer) and becomes the segment when the file is closed, flushed
//! or used in another way. Until then the segment is there with its first piece for those who attach
//! it, with all that has come for those who read it through the mount. If somebody has attached it by
//! then, or there is no room for it, the close says so.
//!
//! Such an open file cannot be mapped (`ENODEV`): the kernel wants to know what to map at the open,
//! and the segment may still change.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::memfd::MFdFlags;
use nix::sys::uio::{pread, pwrite};
use parking_lot::{Mutex, MutexGuard};

use super::{
    SegmentFile, Segments, change_segment, check_size, no_such_size, removed, segment_attr, sized,
    sys,
};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::quota::{Quota, Share};
use crate::vfs::{Attr, Change, Cx, Handle, How, Wait};

/// What may be the first piece of something larger: `cat` writes twice as much, `cp` and `dd bs=1M`
/// more.
const PIECE: usize = 64 << 10;

/// What is copied at a time.
const CHUNK: usize = 1 << 20;

/// Whether nobody but the daemon, `attached` times, has anything to do with a segment, so that it may
/// be made again.
pub(super) fn is_untouched(segment: &libc::shmid_ds, attached: u64) -> bool {
    let perm = &segment.shm_perm;
    let me = std::process::id() as i32;
    segment.shm_nattch == attached
        && (segment.shm_lpid == 0 || segment.shm_lpid == me)
        && (perm.uid, perm.gid) == (perm.cuid, perm.cgid)
        && u32::from(perm.mode) & sys::DEST == 0
}

/// A segment whose size is to be settled: one for all who have it open.
pub(super) struct Birth {
    kind: Arc<Segments>,
    creator: Caller,
    /// What fstat(2) shows. Never held for long.
    shown: Mutex<Shown>,
    /// Held by a worker for as long as it copies.
    state: Mutex<State>,
    /// Whether it could not be given the size that it was to have: then it is not left behind.
    failed: AtomicBool,
}

#[derive(Clone, Copy)]
struct Shown {
    id: i32,
    length: Length,
}

#[derive(Clone, Copy)]
enum Length {
    /// None has been said, and no process has closed the file yet.
    None,
    /// That which the kernel has.
    Own,
    /// This much has come.
    SoFar(u64),
}

impl Length {
    fn of(self, segment: &libc::shmid_ds) -> u64 {
        match self {
            Self::None if is_untouched(segment, 0) => 0,
            Self::None | Self::Own => segment.shm_segsz as u64,
            Self::SoFar(length) => length,
        }
    }
}

enum State {
    /// Nothing has happened yet: the segment of one page.
    Page,
    /// It has been written by the open file of this number from its beginning to its end, and that
    /// may go on.
    Written(Arc<SegmentFile>, u64),
    /// It goes on.
    Growing(Growing),
    /// The segment has its size.
    Settled(Arc<SegmentFile>),
}

struct Growing {
    memory: OwnedFd,
    length: u64,
    share: Share,
    writer: u64,
}

impl Growing {
    fn read(&self, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let room = self.length.saturating_sub(at).min(size as u64) as usize;
        let start = out.len();
        out.resize(start + room, 0);
        let outcome = pread(&self.memory, &mut out[start..], at as i64);
        out.truncate(start + *outcome.as_ref().unwrap_or(&0));
        Ok(outcome.map(drop)?)
    }

    /// Writes; behind the end only for who has written all of it.
    fn write(&mut self, me: u64, at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        let end = at.saturating_add(data.len() as u64);
        let end = if me == self.writer && at <= self.length { end } else { end.min(self.length) };
        if at >= end {
            return Err(no_room(self.length));
        }
        if end > sys::longest() {
            return Err(too_long(end));
        }
        self.share.add(end.saturating_sub(self.length) as usize)?;
        while at + (*done as u64) < end {
            let from = at + *done as u64;
            let piece = &data[*done..(end - at) as usize];
            *done += pwrite(&self.memory, piece, from as i64)?;
            self.length = self.length.max(at + *done as u64);
        }
        Ok(())
    }
}

/// A write that would begin where the segment ends.
pub(super) fn no_room(size: u64) -> Error {
    let sentence = format!(
        "the segment has {size} bytes and cannot grow; `truncate -s` makes one of any size"
    );
    Error::because(Errno::ENOSPC, sentence)
}

fn too_long(size: u64) -> Error {
    let sentence =
        format!("the segment would have {size} bytes; kernel.shmmax is {}", sys::longest());
    Error::because(Errno::ENOSPC, sentence)
}

impl Birth {
    /// That of the segment `id`, which `creator` has just made.
    pub(super) fn new(kind: Arc<Segments>, creator: Caller, id: i32) -> Arc<Self> {
        Arc::new(Self {
            kind,
            creator,
            shown: Mutex::new(Shown { id, length: Length::None }),
            state: Mutex::new(State::Page),
            failed: AtomicBool::new(false),
        })
    }

    /// The size to be shown.
    pub(super) fn size(&self, segment: &libc::shmid_ds) -> u64 {
        let length = self.shown.lock().length;
        length.of(segment)
    }

    /// Its identifier now.
    pub(super) fn id(&self) -> i32 {
        self.shown.lock().id
    }

    fn show(&self, length: Length) {
        self.shown.lock().length = length;
    }

    fn segment(&self) -> Result<libc::shmid_ds> {
        sys::stat(self.id()).map_err(removed)
    }

    /// The state, which a worker may have for a while.
    fn state(&self, cx: &Cx) -> Result<MutexGuard<'_, State>> {
        match cx.wait {
            Wait::Try => self.state.try_lock().ok_or(Error::deferred()),
            Wait::Block => Ok(self.state.lock()),
        }
    }

    /// Makes the segment again with another size. If that cannot be, it is as it was, but for what has
    /// been written to it.
    fn replace(self: &Arc<Self>, segment: &libc::shmid_ds, size: u64) -> Result<()> {
        let mut shown = self.shown.lock();
        let births = &self.kind.births;
        let (key, mode) = (segment.shm_perm.__key, u32::from(segment.shm_perm.mode) & 0o777);
        let old = shown.id;
        let make = |size| self.kind.new_segment(self.creator, key, mode, size);
        if size == 0 || size > sys::longest() {
            self.failed.store(true, Ordering::SeqCst);
            return Err(no_such_size(size));
        }
        let _making = births.making();
        let made = self.creator.act(|| {
            sys::remove(old).map_err(removed)?;
            match make(size) {
                Ok(new) => Ok((new, None)),
                Err(error) => match make(segment.shm_segsz as u64) {
                    Ok(again) => Ok((again, Some(error))),
                    Err(_) => Err(error),
                },
            }
        });
        self.failed.store(!matches!(made, Ok((_, None))), Ordering::SeqCst);
        let (new, error) = made?;
        shown.id = new;
        births.follow(self, old, new);
        error.map_or(Ok(()), Err)
    }

    /// Gives the page this size, or lets it be as large as it is, and attaches it.
    fn sized(self: &Arc<Self>, size: Option<u64>) -> Result<Arc<SegmentFile>> {
        let segment = self.segment()?;
        let own = segment.shm_segsz as u64;
        if let Some(size) = size.filter(|size| *size != own) {
            if !is_untouched(&segment, 0) {
                check_size(&segment, size)?;
            }
            self.replace(&segment, size)?;
        }
        let file = SegmentFile::open(&self.kind, self.id(), self.creator, true)?;
        self.failed.store(false, Ordering::SeqCst);
        self.show(Length::Own);
        Ok(Arc::new(file))
    }

    /// The segment, whose size is settled from now on: `size` bytes, if it can still be chosen. What
    /// has been collected is left to a worker to copy.
    fn settle(
        self: &Arc<Self>,
        cx: &Cx,
        state: &mut State,
        size: Option<u64>,
    ) -> Result<Arc<SegmentFile>> {
        let file = match state {
            State::Settled(file) => return Ok(Arc::clone(file)),
            State::Page => self.sized(size)?,
            State::Written(file, _) => Arc::clone(file),
            State::Growing(_) if cx.wait == Wait::Try => return Err(Error::deferred()),
            State::Growing(growing) => {
                let collected = self.grow(growing);
                if collected.is_err() {
                    *state = State::Page;
                    self.show(Length::Own);
                }
                collected?
            }
        };
        *state = State::Settled(Arc::clone(&file));
        self.kind.births.forget(self.id());
        Ok(file)
    }

    /// Makes what has been collected the segment.
    fn grow(self: &Arc<Self>, growing: &Growing) -> Result<Arc<SegmentFile>> {
        let segment = self.segment()?;
        if !is_untouched(&segment, 0) {
            let sentence = format!(
                "somebody has attached the segment, or given it away, before all of it was there: it \
                 keeps its {} bytes; `truncate -s` makes it as long as it is to be",
                segment.shm_segsz
            );
            return Err(Error::because(Errno::ENOSPC, sentence));
        }
        self.replace(&segment, growing.length)?;
        // Until all is in there.
        self.failed.store(true, Ordering::SeqCst);
        let file = SegmentFile::open(&self.kind, self.id(), self.creator, true)?;
        let mut piece = vec![0; CHUNK];
        let mut at = 0;
        while at < growing.length {
            let length = pread(&growing.memory, &mut piece, at as i64)?;
            if length == 0 {
                return fail(Errno::EIO);
            }
            file.write_all(at, &piece[..length])?;
            at += length as u64;
        }
        self.failed.store(false, Ordering::SeqCst);
        self.show(Length::Own);
        Ok(Arc::new(file))
    }

    /// Begins to collect what comes behind the end of `file`.
    fn collect(&self, file: &SegmentFile, writer: u64) -> Result<Growing> {
        let memory = nix::sys::memfd::memfd_create("segment", MFdFlags::MFD_CLOEXEC)?;
        let share = Quota::collected().take_many(self.creator.uid, file.size() as usize)?;
        let mut growing = Growing { memory, length: 0, share, writer };
        let mut piece = Vec::new();
        while growing.length < file.size() {
            piece.clear();
            file.read_some(growing.length, CHUNK, &mut piece)?;
            let mut done = 0;
            while done < piece.len() {
                let at = growing.length + done as u64;
                done += pwrite(&growing.memory, &piece[done..], at as i64)?;
            }
            growing.length += done as u64;
        }
        Ok(growing)
    }

    /// Takes a segment away that could not be made as it was to be.
    fn clean_up(&self, state: &State) {
        if !matches!(state, State::Page) || !self.failed.swap(false, Ordering::SeqCst) {
            return;
        }
        let id = self.id();
        if sys::stat(id).is_ok_and(|segment| is_untouched(&segment, 0)) {
            let _ = self.creator.act(|| Ok(sys::remove(id)?));
            self.kind.births.forget(id);
        }
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        self.kind.births.forget(self.id());
    }
}

/// A segment whose size was not settled when it was opened.
pub(super) struct FreshFile {
    birth: Arc<Birth>,
    /// Tells it from the others.
    number: u64,
    append: bool,
}

impl FreshFile {
    /// Opens one.
    pub(super) fn new(birth: Arc<Birth>, how: &How) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { birth, number, append: how.append }
    }
}

impl Handle for FreshFile {
    fn attr(&self) -> Option<Result<Attr>> {
        let shown = self.birth.shown.lock();
        let attr = sys::stat(shown.id)
            .map_err(removed)
            .map(|segment| sized(segment_attr(&segment, shown.id), shown.length.of(&segment)));
        Some(attr)
    }

    fn truncate(&self, cx: &Cx, size: u64) -> Option<Result<()>> {
        let truncate = || {
            let mut state = self.birth.state(cx)?;
            match &*state {
                State::Growing(growing) if growing.length == size => return Ok(()),
                _ => {}
            }
            let file = self.birth.settle(cx, &mut state, Some(size))?;
            drop(state);
            file.truncate(cx, size).unwrap_or(Ok(()))
        };
        Some(truncate())
    }

    fn change(&self, caller: Caller, change: &Change) -> Option<Result<()>> {
        Some(change_segment(caller, self.birth.id(), change))
    }

    fn allocate(&self, cx: &Cx, mode: i32, offset: u64, length: u64) -> Result<()> {
        if mode != 0 {
            return fail(Errno::EOPNOTSUPP);
        }
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        let file = self.birth.settle(cx, &mut *self.birth.state(cx)?, Some(end))?;
        if end <= file.size() { Ok(()) } else { Err(no_room(file.size())) }
    }

    fn read(&self, cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let mut state = self.birth.state(cx)?;
        if let State::Growing(growing) = &*state {
            return growing.read(at, size, out);
        }
        if matches!(&*state, State::Page) {
            let segment = self.birth.segment()?;
            if is_untouched(&segment, 0) {
                // A page of zeroes, which may still become another.
                let length = self.birth.shown.lock().length.of(&segment);
                let room = length.saturating_sub(at).min(size as u64) as usize;
                out.resize(out.len() + room, 0);
                return Ok(());
            }
        }
        let file = match &*state {
            State::Written(file, _) => Arc::clone(file),
            _ => self.birth.settle(cx, &mut state, None)?,
        };
        drop(state);
        file.read(cx, at, size, out)
    }

    fn write(&self, cx: &Cx, at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        let mut state = self.birth.state(cx)?;
        let end = at.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        if let State::Written(file, writer) = &*state {
            let goes_on = *writer == self.number && at == file.size();
            let untouched = || self.birth.segment().map(|segment| is_untouched(&segment, 1));
            if goes_on && end <= sys::longest() && untouched()? {
                if cx.wait == Wait::Try {
                    return Err(Error::deferred());
                }
                let growing = self.birth.collect(file, self.number)?;
                *state = State::Growing(growing);
            }
        }
        if let State::Growing(growing) = &mut *state {
            let outcome = growing.write(self.number, at, data, done);
            self.birth.show(Length::SoFar(growing.length));
            return outcome;
        }
        if matches!(&*state, State::Page) {
            // With O_APPEND the kernel may have seen the page in the meantime.
            let at = if self.append { 0 } else { at };
            let file = self.birth.sized(Some(at.saturating_add(data.len() as u64)))?;
            let whole = at == 0 && data.len() >= PIECE && file.size() == data.len() as u64;
            let outcome = file.write(cx, at, data, done);
            if whole && outcome.is_ok() {
                *state = State::Written(file, self.number);
            } else {
                *state = State::Settled(file);
                self.birth.kind.births.forget(self.birth.id());
            }
            return outcome;
        }
        let file = self.birth.settle(cx, &mut state, None)?;
        drop(state);
        file.write(cx, at, data, done)
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<i64> {
        let file = match self.birth.state.try_lock().as_deref() {
            Some(State::Settled(file) | State::Written(file, _)) => Some(Arc::clone(file)),
            _ => None,
        };
        if let Some(file) = file {
            return file.seek(offset, whence);
        }
        let length = self.attr().map_or(Ok(0), |attr| attr.map(|attr| attr.size))?;
        match whence {
            libc::SEEK_DATA | libc::SEEK_HOLE if offset < 0 || offset as u64 >= length => {
                fail(Errno::ENXIO)
            }
            libc::SEEK_DATA => Ok(offset),
            libc::SEEK_HOLE => Ok(length as i64),
            _ => fail(Errno::EINVAL),
        }
    }

    fn is_heavy(&self) -> bool {
        match self.birth.state.try_lock().as_deref() {
            Some(State::Settled(file) | State::Written(file, _)) => file.is_heavy(),
            Some(State::Page) => false,
            Some(State::Growing(_)) | None => true,
        }
    }

    fn flushes(&self) -> bool {
        true
    }

    fn flush(&self, cx: &Cx) -> Result<()> {
        self.finish(cx)
    }

    fn finish(&self, cx: &Cx) -> Result<()> {
        let mut state = self.birth.state(cx)?;
        let outcome = match &*state {
            State::Written(_, writer) | State::Growing(Growing { writer, .. })
                if *writer == self.number =>
            {
                self.birth.settle(cx, &mut state, None).map(drop)
            }
            State::Page => {
                // The maker has done with it: it has a page, as far as is known.
                self.birth.show(Length::Own);
                Ok(())
            }
            _ => Ok(()),
        };
        if !outcome.as_ref().is_err_and(Error::is_deferred) {
            self.birth.clean_up(&state);
        }
        outcome
    }
}
