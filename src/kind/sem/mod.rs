//! `sem/NAME`: POSIX named semaphores, `sem_open("/NAME")` (`sem_overview(7)`).
//!
//! | operation | effect |
//! | --- | --- |
//! | `read` | the value and a newline, then end of file; never waits |
//! | `write` of `3` | sets the value; who waits and can go on does |
//! | `write` of `+N` | posts N times (`sem_post(3)`), all at once |
//! | `write` of `-N` | takes N (`sem_wait(3)`), all at once, waiting until so many are there |
//! | `rename` | within the directory |
//! | `truncate` | `EINVAL` |
//! | size | 0: the text is made when it is read, as in /proc |
//!
//! A new semaphore has the value 0 (`ctl/create`: `value=`). Those who wait for several are served
//! in their order; `-N` waits as long as it takes even while others come and take single ones.
//!
//! | errno | reason |
//! | --- | --- |
//! | `EINVAL` | what has been written is none of the above; or the file is not of a semaphore's size |
//! | `EOVERFLOW` | the value would be over `SEM_VALUE_MAX`, or the number written is |
//! | `EIO` | the file holds no semaphore or has been cut short |
//!
//! A semaphore is a file of 32 bytes, /dev/shm/sem.NAME, that programs map. Who may write it may
//! put anything into it and cut it short at any moment, so its memory is used behind a guard
//! ([`arena`]) and by code that trusts nothing in it ([`word`]).

mod arena;
mod grammar;
mod word;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use parking_lot::Mutex;

use self::grammar::Operation;
use self::word::{State, Word};
use super::control::{Access, Control, ControlDir, Serve};
use super::fsdir::{self, FsDir};
use super::hold::{self, Holds, Lock};
use super::tickets::Tickets;
use super::{Attributes, Kind, Options, Profile};
use crate::block;
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::status::Fields;
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, DirEntry, FileType, Handle, How, Io, Item, Object, Opened,
    Wait,
};

/// The kind's profile.
pub const PROFILE: Profile = Profile {
    path: "sem",
    about: "POSIX named semaphores",
    children: Children::PerWriter,
    attributes: &["value"],
    open,
};

/// What the C library puts before a semaphore's name.
const PREFIX: &[u8] = b"sem.";

/// The named semaphores of this machine.
struct Semaphores {
    dir: FsDir,
    in_use: Arc<InUse>,
}

fn open(_options: &Options) -> Result<Arc<dyn Kind>> {
    word::check_library()?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open("/dev/shm", flags, Mode::empty()).map_err(|errno| {
        Error::because(
            errno,
            "no semaphores: there is no /dev/shm; as root: mkdir -p /dev/shm && mount -t tmpfs \
             -o mode=1777 tmpfs /dev/shm",
        )
    })?;
    Ok(Arc::new(Semaphores { dir: FsDir::new(dir), in_use: Arc::default() }))
}

/// The file of a semaphore; `ENOENT` for the names that `sem_open` takes and no directory can list.
fn file_name(name: &[u8]) -> Result<Vec<u8>> {
    if matches!(name, b"" | b"." | b"..") {
        fail(Errno::ENOENT)
    } else {
        Ok([PREFIX, name].concat())
    }
}

impl Semaphores {
    /// The attributes of a file that may be a semaphore; `ENOENT` for what is not a regular file.
    fn stat(&self, name: &[u8]) -> Result<Attr> {
        let attr = self.dir.stat(&file_name(name)?)?;
        if attr.file_type == FileType::Regular { Ok(attr) } else { fail(Errno::ENOENT) }
    }

    /// Opens the file, which is the one that has been looked at, or fails.
    fn file(&self, name: &[u8], ident: u64, flags: OFlag) -> Result<(OwnedFd, Attr)> {
        // What is in the place of a regular file is not to be opened at all.
        self.stat(name)?;
        let file = self.dir.open(&file_name(name)?, flags | OFlag::O_NONBLOCK)?;
        let attr = fsdir::attr(&nix::sys::stat::fstat(&file)?);
        if attr.ident != ident || attr.file_type != FileType::Regular {
            return fail(Errno::ESTALE);
        }
        check_size(&attr)?;
        Ok((file, attr))
    }
}

/// Fails with what `sem_open(3)` says of a file that is no semaphore.
fn check_size(attr: &Attr) -> Result<()> {
    if attr.size == word::SIZE as u64 {
        return Ok(());
    }
    Err(Error::because(
        Errno::EINVAL,
        format!("the file has {} bytes, a semaphore {}", attr.size, word::SIZE),
    ))
}

impl Kind for Semaphores {
    fn make(&self, caller: Caller, name: &[u8], mode: u32, attributes: &Attributes) -> Result<()> {
        let value = attributes.get("value").unwrap_or(0);
        let content = match u32::try_from(value) {
            Ok(value) if value <= grammar::VALUE_MAX => word::fresh(value)?,
            _ => {
                return Err(Error::because(
                    Errno::EINVAL,
                    format!("value={value} is over {}", grammar::VALUE_MAX),
                ));
            }
        };
        let file = file_name(name)?;
        match self.dir.make(caller, &file, mode, &content) {
            Err(error) if error.errno() == Errno::EEXIST && self.is_taken_by_another(&file) => {
                Err(Error::because(
                    Errno::EACCES,
                    "/dev/shm has something of that name that is no file, so there can be no such \
                     semaphore",
                ))
            }
            made => made,
        }
    }
}

impl Semaphores {
    /// Whether a name stands for what no semaphore can be.
    fn is_taken_by_another(&self, file: &[u8]) -> bool {
        self.dir.stat(file).is_ok_and(|attr| attr.file_type != FileType::Regular)
    }
}

impl Dir for Semaphores {
    fn attr(&self) -> Result<Attr> {
        let attr = fsdir::attr(&nix::sys::stat::fstat(self.dir.as_fd())?);
        Ok(Attr { ident: 0, size: 0, blocks: 0, nlink: 2, ..attr })
    }

    fn children(&self) -> Children {
        PROFILE.children
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        Ok(Attr { size: 0, blocks: 0, ..self.stat(name)? })
    }

    fn item(self: Arc<Self>, name: &[u8], attr: &Attr) -> Result<Item> {
        let semaphore = Semaphore { kind: self, name: name.into(), ident: attr.ident };
        Ok(Item::Object(Arc::new(semaphore)))
    }

    fn list(&self) -> Result<Vec<DirEntry>> {
        let semaphore = |entry: DirEntry| {
            let name = entry.name.strip_prefix(PREFIX)?;
            let listed = entry.file_type == FileType::Regular && file_name(name).is_ok();
            listed.then(|| DirEntry { name: name.to_vec(), ..entry })
        };
        Ok(self.dir.list()?.into_iter().filter_map(semaphore).collect())
    }

    fn create(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.make(caller, name, mode, &Attributes::default())
    }

    fn remove(&self, caller: Caller, name: &[u8]) -> Result<()> {
        self.stat(name)?;
        self.dir.remove(caller, &file_name(name)?)
    }

    fn rename(&self, caller: Caller, from: &[u8], to: &[u8], replace: bool) -> Result<()> {
        self.stat(from)?;
        let (from, to) = (file_name(from)?, file_name(to)?);
        if self.is_taken_by_another(&to) {
            return fail(Errno::EEXIST);
        }
        self.dir.rename(caller, &from, &to, replace)
    }
}

/// A semaphore by its name.
struct Semaphore {
    kind: Arc<Semaphores>,
    name: Box<[u8]>,
    ident: u64,
}

impl Semaphore {
    /// The semaphore with its memory mapped.
    fn live(&self) -> Result<(Arc<Live>, Attr)> {
        let attr = self.kind.stat(&self.name)?;
        if attr.ident != self.ident {
            return fail(Errno::ESTALE);
        }
        check_size(&attr)?;
        if let Some(live) = self.kind.in_use.get(self.ident) {
            return Ok((live, attr));
        }
        let (file, attr) = self.kind.file(&self.name, self.ident, OFlag::O_RDWR)?;
        Ok((self.kind.in_use.add(self.ident, file)?, attr))
    }

    /// Opens the semaphore's own file, or `try`, which never waits.
    fn open_file(&self, how: &How, patient: bool) -> Result<(Attr, Opened)> {
        let (source, attr) = if how.write {
            let (live, attr) = self.live()?;
            (Source::Live(live), attr)
        } else {
            let (file, attr) = self.kind.file(&self.name, self.ident, OFlag::O_RDONLY)?;
            (Source::File(file), attr)
        };
        let io = if how.write { Io::Messages } else { Io::Direct };
        let handle = OpenSemaphore { source, patient, text: Mutex::default() };
        Ok((attr, Opened { handle: Arc::new(handle), io }))
    }
}

impl Object for Semaphore {
    fn attr(&self) -> Result<Attr> {
        let attr = self.kind.find(&self.name)?;
        if attr.ident == self.ident { Ok(attr) } else { fail(Errno::ENOENT) }
    }

    fn change(&self, caller: Caller, change: &Change) -> Result<()> {
        if change.size.is_some() {
            return Err(Error::because(
                Errno::EINVAL,
                "a semaphore has no length; write 0 to it to set it to 0",
            ));
        }
        self.kind.dir.change(caller, &file_name(&self.name)?, self.ident, change)
    }

    fn open(&self, _cx: &Cx, how: &How) -> Result<Opened> {
        let (attr, opened) = self.open_file(how, true)?;
        how.verify(&attr)?;
        Ok(opened)
    }

    fn controls(self: Arc<Self>) -> Option<Arc<dyn Dir>> {
        Some(Arc::new(ControlDir::new(self, CONTROLS)))
    }

    fn status(&self) -> Result<Fields> {
        let (file, attr) = self.kind.file(&self.name, self.ident, OFlag::O_RDONLY)?;
        let State { value, waiters } = word::read(file.as_fd())?;
        let holders = self.kind.in_use.get(self.ident).map(|live| live.holds.holders());
        Ok(Fields::default()
            .text("name", &*self.name)
            .mode(attr.mode)
            .number("uid", attr.uid)
            .number("gid", attr.gid)
            .number("value", value)
            .number("nwaiters", waiters)
            .number("nholders", holders.map_or(0, |holders| holders.len()) as u64)
            .times(&attr))
    }
}

/// `ctl/sem/NAME/`.
const CONTROLS: &[Control<Semaphore>] = &[
    Control {
        name: "status",
        access: Access::Read,
        about: "what is known of the semaphore, as name=value lines",
        serve: Serve::Sh(Semaphore::status),
    },
    Control {
        name: "status.json",
        access: Access::Read,
        about: "the same as JSON",
        serve: Serve::Json(Semaphore::status),
    },
    Control {
        name: "try",
        access: Access::Write,
        about: "as the semaphore, but EAGAIN instead of waiting",
        serve: Serve::Open(|semaphore, _, how| Ok(semaphore.open_file(how, false)?.1)),
    },
    Control {
        name: "hold",
        access: Access::Alter,
        about: "a lock that survives a crash: opening waits for one and takes it, the last close \
                gives it back",
        serve: Serve::Open(|semaphore, cx, _| hold::hold(semaphore.live()?.0, cx)),
    },
    Control {
        name: "tryhold",
        access: Access::Alter,
        about: "as hold, but EAGAIN instead of waiting",
        serve: Serve::Open(|semaphore, cx, _| hold::try_hold(semaphore.live()?.0, cx)),
    },
    Control {
        name: "holders",
        access: Access::Read,
        about: "who has it through hold: PID, tab, command",
        serve: Serve::Slow(|semaphore, _| {
            let live = semaphore.kind.in_use.get(semaphore.ident);
            Ok(live.map(|live| hold::list(&live.holds)).unwrap_or_default())
        }),
    },
];

/// A semaphore whose memory is mapped: one for all who use it, so that they have one queue.
struct Live {
    file: OwnedFd,
    word: Word,
    holds: Holds,
    /// Those who wait for several: one at a time in the kernel's queue.
    bulk: Tickets,
    ident: u64,
    in_use: Arc<InUse>,
}

impl Live {
    fn apply(&self, operation: Operation, wait: Wait) -> Result<()> {
        match (operation, wait) {
            (Operation::Set(value), _) => self.word.set(value),
            (Operation::Post(count), _) => self.word.post(count),
            (Operation::Take(count), Wait::Try) => {
                let waits = count > 1 && !self.bulk.is_empty();
                if !waits && self.word.try_take(count)? { Ok(()) } else { fail(Errno::EAGAIN) }
            }
            (Operation::Take(count), Wait::Block) if count <= 1 => self.word.take(count),
            (Operation::Take(count), Wait::Block) => {
                let ticket = self.bulk.draw();
                ticket.wait()?;
                loop {
                    match self.word.take(count) {
                        Err(error) if error.errno() == Errno::EINTR && !block::cancelled() => {}
                        taken => return taken,
                    }
                }
            }
        }
    }
}

impl Lock for Live {
    fn take(&self, _caller: Caller, wait: Wait) -> Result<()> {
        self.apply(Operation::Take(1), wait)
    }

    fn give_back(&self) {
        if let Err(error) = self.word.post(1) {
            log::debug!("a held unit could not be given back: {error}");
        }
    }

    fn holds(&self) -> &Holds {
        &self.holds
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.in_use.forget(self.ident);
    }
}

/// The semaphores that are mapped, by inode number: the mapping keeps the inode, so that its number
/// stands for it.
#[derive(Default)]
struct InUse(Mutex<HashMap<u64, Weak<Live>>>);

impl InUse {
    fn get(&self, ident: u64) -> Option<Arc<Live>> {
        let live = self.0.lock().get(&ident).and_then(Weak::upgrade)?;
        (!live.word.is_torn()).then_some(live)
    }

    fn add(self: &Arc<Self>, ident: u64, file: OwnedFd) -> Result<Arc<Live>> {
        let word = Word::new(&file)?;
        let (holds, bulk) = (Holds::default(), Tickets::default());
        let live = Arc::new(Live { file, word, holds, bulk, ident, in_use: Arc::clone(self) });
        let mut table = self.0.lock();
        match table.get(&ident).and_then(Weak::upgrade) {
            Some(other) if !other.word.is_torn() => {
                // Somebody was quicker. Ours goes once the table is free.
                drop(table);
                Ok(other)
            }
            other => {
                table.insert(ident, Arc::downgrade(&live));
                drop(table);
                drop(other);
                Ok(live)
            }
        }
    }

    fn forget(&self, ident: u64) {
        let mut table = self.0.lock();
        if table.get(&ident).is_some_and(|live| live.strong_count() == 0) {
            table.remove(&ident);
        }
    }
}

/// Where an open file reads the value.
enum Source {
    File(OwnedFd),
    Live(Arc<Live>),
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::File(file) => file.as_fd(),
            Self::Live(live) => live.file.as_fd(),
        }
    }
}

/// An open semaphore.
struct OpenSemaphore {
    source: Source,
    /// Whether it waits; else it is `try`.
    patient: bool,
    text: Mutex<ValueText>,
}

/// The value as a text: what the reader of a value reads.
#[derive(Default)]
pub(super) struct ValueText {
    text: Vec<u8>,
    /// Where a reader without a position is.
    position: usize,
}

impl ValueText {
    /// Serves a read at `at`, or where the last one ended: a read from the beginning shows the value
    /// as it is then.
    pub(super) fn read(
        &mut self,
        at: Option<u64>,
        size: usize,
        out: &mut Vec<u8>,
        text: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<()> {
        let at = at.map_or(self.position, |at| usize::try_from(at).unwrap_or(usize::MAX));
        if at == 0 {
            self.text = text()?;
        }
        let from = at.min(self.text.len());
        let part = &self.text[from..self.text.len().min(from.saturating_add(size))];
        out.extend_from_slice(part);
        // End of file once, then anew.
        self.position = if part.is_empty() { 0 } else { from + part.len() };
        Ok(())
    }
}

impl Handle for OpenSemaphore {
    fn attr(&self) -> Option<Result<Attr>> {
        if !self.patient {
            // A file of ctl/ has attributes of its own.
            return None;
        }
        let stat = nix::sys::stat::fstat(self.source.as_fd());
        Some(stat.map_err(Into::into).map(|stat| Attr { size: 0, blocks: 0, ..fsdir::attr(&stat) }))
    }

    fn truncate(&self, _size: u64) -> Option<Result<()>> {
        self.patient.then(|| fail(Errno::EINVAL))
    }

    fn read(&self, _cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let value = || {
            let state = word::read(self.source.as_fd())?;
            Ok(format!("{}\n", state.value).into_bytes())
        };
        let at = matches!(self.source, Source::File(_)).then_some(at);
        self.text.lock().read(at, size, out, value)
    }

    fn write(&self, cx: &Cx, _at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        let Source::Live(live) = &self.source else { return fail(Errno::EBADF) };
        let wait = if self.patient { cx.wait } else { Wait::Try };
        match live.apply(grammar::parse(data)?, wait) {
            Err(error) if error.would_block() && !self.patient => return Err(Error::not_now()),
            outcome => outcome?,
        }
        *done = data.len();
        Ok(())
    }
}
