//! A segment that has just been made by `open` with `O_CREAT`, and whose size is still to be said.
//!
//! It exists, with one page. The first use of the open file decides:
//!
//! | first use | size |
//! | --- | --- |
//! | `ftruncate(2)` (`truncate -s`, `dd seek=`), `fallocate(2)` | what it says |
//! | `write(2)` | just enough for it, and for what follows in large pieces |
//! | anything else, or none (`touch`) | the page |
//!
//! For another size than a page, the segment is removed and made again. Nobody has it by then: if
//! anybody has attached it or changed its mode or owner meanwhile, it stays as it is. Who has only
//! looked up its identifier in that moment finds that it is gone (`EIDRM`).
//!
//! What comes in large pieces is gathered: a write of more than a mebibyte, which the kernel cuts
//! into several requests, and what `cp`, `cat` and `dd` write of a large file. A piece of less than
//! [`PIECE`] bytes, another operation, a close by who has opened it, the last close or more than [`GATHERED`] bytes end it, and
//! the segment is made as large as all of it together. It has one page until then.
//!
//! Such an open file cannot be mapped (`ENODEV`): the kernel wants to know what to map at the open,
//! and the segment may still change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::shm::{PAGE, SegmentFile, Segments, change_segment, check_size, segment_attr, sys};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::vfs::{Attr, Change, Cx, Handle, Wait};

/// What may be a piece of something larger: `cat` writes twice as much, `cp` and `dd bs=1M` more.
const PIECE: usize = 64 << 10;
/// The most that is gathered: it is kept in memory, and copied in one go.
const GATHERED: usize = 64 << 20;

/// What is gathered by all open files together: it is the daemon's memory, charged to nobody.
static TOGETHER: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are being gathered, counted in [`TOGETHER`] as long as this lives.
#[derive(Default)]
struct Gathered(Vec<u8>);

impl Gathered {
    /// Takes more; `false` if there is too much of all together.
    fn extend(&mut self, data: &[u8]) -> bool {
        if TOGETHER.fetch_add(data.len(), Ordering::Relaxed) + data.len() > GATHERED {
            TOGETHER.fetch_sub(data.len(), Ordering::Relaxed);
            return false;
        }
        self.0.extend_from_slice(data);
        true
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        TOGETHER.fetch_sub(self.0.len(), Ordering::Relaxed);
    }
}

/// A segment that has just been made, open.
pub(super) struct Fresh {
    kind: Arc<Segments>,
    caller: Caller,
    state: Mutex<State>,
}

enum State {
    /// Nothing has happened yet: the segment of one page.
    Page(i32),
    /// This much has come, and there may be more.
    Gathering(i32, Gathered),
    /// The segment has its size.
    Sized(Arc<SegmentFile>),
}

impl Fresh {
    /// For the segment `id`, which `caller` has just made.
    pub(super) fn new(kind: Arc<Segments>, id: i32, caller: Caller) -> Self {
        Self { kind, caller, state: Mutex::new(State::Page(id)) }
    }

    /// The segment, which has its size from now on: `size` bytes, if it can still be chosen.
    fn sized(&self, state: &mut State, size: Option<u64>) -> Result<Arc<SegmentFile>> {
        let (id, gathered) = match state {
            State::Sized(file) => return Ok(Arc::clone(file)),
            State::Page(id) => (*id, Gathered::default()),
            State::Gathering(id, gathered) => (*id, std::mem::take(gathered)),
        };
        *state = State::Page(id);
        let wanted = match gathered.0.len() as u64 {
            0 => size.unwrap_or(PAGE),
            length => length.max(size.unwrap_or(0)),
        };
        let id = if wanted == PAGE { id } else { self.replace(id, wanted)? };
        *state = State::Page(id);
        let file = Arc::new(SegmentFile::open(&self.kind, id, self.caller, true)?);
        *state = State::Sized(Arc::clone(&file));
        write_all(&file, 0, &gathered.0)?;
        Ok(file)
    }

    /// Makes the segment again with another size; returns the one to use.
    fn replace(&self, id: i32, size: u64) -> Result<i32> {
        let segment = sys::stat(id)?;
        let perm = &segment.shm_perm;
        let untouched = segment.shm_nattch == 0
            && segment.shm_lpid == 0
            && (perm.uid, perm.gid) == (perm.cuid, perm.cgid)
            && u32::from(perm.mode) & sys::DEST == 0;
        if !untouched {
            check_size(&segment, size)?;
        }
        let mode = u32::from(perm.mode) & 0o777;
        self.caller.act(|| {
            // Nothing is lost if there cannot be one of that size.
            sys::remove(self.kind.new_segment(self.caller, libc::IPC_PRIVATE, mode, size)?)?;
            sys::remove(id)?;
            self.kind.new_segment(self.caller, perm.__key, mode, size)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&SegmentFile) -> Result<T>) -> Result<T> {
        let file = self.sized(&mut self.state.lock(), None)?;
        work(&file)
    }

    /// Takes a piece of a write that may go on; `false` if it is none.
    fn gather(&self, state: &mut State, at: u64, data: &[u8]) -> Result<bool> {
        let (id, length) = match state {
            State::Page(id) => (*id, 0),
            State::Gathering(id, gathered) => (*id, gathered.0.len()),
            State::Sized(_) => return Ok(false),
        };
        let together = length + data.len();
        let goes_on = data.len() >= PIECE && together <= GATHERED;
        if at != length as u64 || (length == 0 && !goes_on) || together as u64 > sys::longest() {
            return Ok(false);
        }
        let taken = if let State::Gathering(_, gathered) = state {
            gathered.extend(data)
        } else {
            let mut gathered = Gathered::default();
            let taken = gathered.extend(data);
            *state = State::Gathering(id, gathered);
            taken
        };
        if !taken {
            // The segment is to be as large as what has come so far and this.
            return Ok(false);
        }
        if !goes_on {
            self.sized(state, None)?;
        }
        Ok(true)
    }
}

fn write_all(file: &SegmentFile, at: u64, data: &[u8]) -> Result<()> {
    let nobody = Caller { uid: 0, gid: 0, pid: 0 };
    let cx = Cx { caller: nobody, wait: crate::vfs::Wait::Block, nonblock: false };
    file.write(&cx, at, data, &mut 0)
}

impl Handle for Fresh {
    fn attr(&self) -> Option<Result<Attr>> {
        let state = self.state.lock();
        let (id, size) = match &*state {
            State::Sized(file) => return file.attr(),
            State::Page(id) => (*id, PAGE),
            State::Gathering(id, gathered) => (*id, gathered.0.len() as u64),
        };
        let attr = sys::stat(id).map(|segment| Attr { size, ..segment_attr(&segment, id) });
        Some(attr.map_err(Error::new))
    }

    fn truncate(&self, size: u64) -> Option<Result<()>> {
        let mut state = self.state.lock();
        let file = self.sized(&mut state, Some(size));
        drop(state);
        Some(file.and_then(|file| file.truncate(size).unwrap_or(Ok(()))))
    }

    fn change(&self, caller: Caller, change: &Change) -> Option<Result<()>> {
        let id = match &*self.state.lock() {
            State::Page(id) | State::Gathering(id, _) => *id,
            State::Sized(file) => file.id(),
        };
        Some(change_segment(caller, id, change))
    }

    fn allocate(&self, _cx: &Cx, mode: i32, offset: u64, length: u64) -> Result<()> {
        if mode != 0 {
            return fail(Errno::EOPNOTSUPP);
        }
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        let file = self.sized(&mut self.state.lock(), Some(end))?;
        if end <= file.size() { Ok(()) } else { fail(Errno::ENOSPC) }
    }

    fn read(&self, cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        self.with(|file| file.read(cx, at, size, out))
    }

    fn write(&self, cx: &Cx, at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        let mut state = self.state.lock();
        if self.gather(&mut state, at, data)? {
            *done = data.len();
            return Ok(());
        }
        let end = at.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        let file = self.sized(&mut state, Some(end))?;
        drop(state);
        file.write(cx, at, data, done)
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<i64> {
        self.with(|file| file.seek(offset, whence))
    }

    fn is_heavy(&self) -> bool {
        matches!(&*self.state.lock(), State::Sized(file) if file.is_heavy())
    }

    fn flushes(&self) -> bool {
        true
    }

    fn flush(&self, cx: &Cx) -> Result<()> {
        self.finish(cx)
    }

    fn finish(&self, cx: &Cx) -> Result<()> {
        let mut state = self.state.lock();
        match *state {
            // There may be much to copy.
            State::Gathering(..) if cx.wait == Wait::Try => Err(Error::deferred()),
            State::Gathering(..) => self.sized(&mut state, None).map(drop),
            _ => Ok(()),
        }
    }
}
