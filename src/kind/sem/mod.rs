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
//! | size | 4096: the text is made when it is read, as in /sys |
//!
//! A new semaphore has the value 0 (`ctl/create`: `value=`). Those who wait for several are served
//! in their order; `-N` waits as long as it takes even while others come and take single ones.
//!
//! | errno | reason |
//! | --- | --- |
//! | `EINVAL` | what has been written is none of the above; or the file is not of a semaphore's size |
//! | `EOVERFLOW` | the value would be over `SEM_VALUE_MAX`, or the number written is |
//! | `EIO` | the file holds no semaphore or has been cut short |
//! | `ENOSPC` | /dev/shm is full, and the file has no page of its own yet |
//!
//! A semaphore is a file of 32 bytes, /dev/shm/sem.NAME, that programs map. Who may write it may
//! put anything into it and cut it short at any moment, so its memory is used behind a guard
//! ([`arena`]) and by code that trusts nothing in it ([`word`]).

mod arena;
pub mod grammar;
mod word;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::OFlag;
use parking_lot::Mutex;

use self::grammar::Operation;
use self::word::{State, Word};
use super::control::{self, Access, Control, ControlDir, Serve};
use super::fsdir::{self, FsDir};
use super::hold::{self, Holds, Lock};
use super::shared::Shared;
use super::value_text::ValueText;
use super::{Attributes, Kind, Limit, Options, Profile, shared_directory};
use crate::block;
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::status::Fields;
use crate::tickets::Tickets;
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, DirEntry, FileType, Handle, How, Io, Item, Object, ObjectId,
    Opened, TEXT_SIZE, Traces, Wait, Waits,
};

/// The kind's profile.
pub const PROFILE: Profile = Profile {
    path: "sem",
    about: "POSIX named semaphores",
    texts: true,
    children: Children::PerWriter,
    attributes: &["value"],
    features: &[],
    open,
};

/// What the C library puts before a semaphore's name.
const PREFIX: &[u8] = b"sem.";

/// The named semaphores of this machine.
struct Semaphores {
    dir: FsDir,
    /// By inode number: a mapping keeps the inode, so that its number stands for it.
    in_use: Shared<u64, Live>,
}

fn open(options: &Options) -> Result<Arc<dyn Kind>> {
    word::check_library()?;
    let dir = options.shm_dir("semaphores")?;
    Ok(Arc::new(Semaphores { dir, in_use: Shared::default() }))
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
    /// Pins a file that may be a semaphore; `ENOENT` for what is none.
    fn pin(&self, name: &[u8]) -> Result<(OwnedFd, Attr)> {
        match self.dir.pin(&file_name(name)?) {
            Ok((pin, attr)) if attr.file_type == FileType::Regular => Ok((pin, attr)),
            Ok(_) => fail(Errno::ENOENT),
            // A link; a mount over the name.
            Err(error) if matches!(error.errno(), Errno::ELOOP | Errno::EXDEV) => {
                fail(Errno::ENOENT)
            }
            Err(error) => Err(error),
        }
    }

    /// Pins the semaphore that has been looked up, or fails.
    fn semaphore(&self, name: &[u8], ident: u64) -> Result<(OwnedFd, Attr)> {
        let (pin, attr) = self.pin(name)?;
        if attr.ident != ident {
            return fail(Errno::ESTALE);
        }
        check_size(&attr)?;
        Ok((pin, attr))
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

/// Why it cannot be truncated.
fn no_length() -> Error {
    Error::because(Errno::EINVAL, "a semaphore has no length; write 0 to it to set it to 0")
}

impl Kind for Semaphores {
    fn limits(&self, _caller: Caller) -> Vec<Limit> {
        vec![Limit::each("sem_value", u64::from(grammar::VALUE_MAX), "")]
    }

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
            // The kernel would look for what is hidden from it again and again.
            Err(error) if error.errno() == Errno::EEXIST && self.pin(name).is_err() => {
                Err(Error::because(
                    Errno::EACCES,
                    "/dev/shm has something of that name that is no semaphore's file",
                ))
            }
            done => done,
        }
    }
}

impl Dir for Semaphores {
    fn attr(&self) -> Result<Attr> {
        Ok(shared_directory(self.dir.attr()?))
    }

    fn children(&self) -> Children {
        PROFILE.children
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        let attr = self.dir.find(&file_name(name)?, FileType::Regular)?;
        Ok(as_text(attr))
    }

    fn item(self: Arc<Self>, name: &[u8], attr: &Attr) -> Result<Item> {
        let semaphore = Semaphore { kind: self, name: name.into(), ident: attr.ident };
        Ok(Item::Object(Arc::new(semaphore)))
    }

    fn list(&self, wait: Wait) -> Result<Vec<DirEntry>> {
        let semaphore = |entry: DirEntry| {
            let name = entry.name.strip_prefix(PREFIX)?;
            let listed = entry.file_type == FileType::Regular && file_name(name).is_ok();
            listed.then(|| DirEntry { name: name.to_vec(), ..entry })
        };
        Ok(self.dir.list(wait)?.into_iter().filter_map(semaphore).collect())
    }

    fn create(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.make(caller, name, mode, &Attributes::default())
    }

    fn remove(&self, caller: Caller, name: &[u8]) -> Result<()> {
        self.pin(name)?;
        self.dir.remove(caller, &file_name(name)?)
    }

    fn rename(&self, caller: Caller, from: &[u8], to: &[u8], replace: bool) -> Result<()> {
        self.pin(from)?;
        let target = self.find(to);
        self.dir.rename_visible(caller, &file_name(from)?, &file_name(to)?, replace, target)
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
    fn live(&self, uid: u32) -> Result<(Arc<Live>, Attr)> {
        let (pin, attr) = self.kind.semaphore(&self.name, self.ident)?;
        if let Some(live) = self.kind.in_use.get(&self.ident).filter(|live| live.is_whole()) {
            return Ok((live, attr));
        }
        let live = Live::new(fsdir::reopen(&pin, OFlag::O_RDWR)?, uid)?;
        Ok((self.kind.in_use.get_or(self.ident, live, Live::is_whole), attr))
    }

    /// Opens the file to read the value.
    fn file(&self) -> Result<(OwnedFd, Attr)> {
        let (pin, attr) = self.kind.semaphore(&self.name, self.ident)?;
        Ok((fsdir::reopen(&pin, OFlag::O_RDONLY)?, attr))
    }

    /// Opens the semaphore's own file, or `try`, which never waits.
    fn open_file(&self, cx: &Cx, how: &How, patient: bool) -> Result<(Attr, Opened)> {
        let (source, attr) = if how.write {
            let (live, attr) = self.live(cx.caller.uid)?;
            (Source::Live(live), attr)
        } else {
            let (file, attr) = self.file()?;
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

    fn change(&self, cx: &Cx, change: &Change) -> Result<()> {
        if change.size.is_some() {
            return Err(no_length());
        }
        self.kind.dir.change(cx.caller, &file_name(&self.name)?, self.ident, change)
    }

    fn open(&self, cx: &Cx, how: &How) -> Result<Opened> {
        let (attr, opened) = self.open_file(cx, how, true)?;
        how.verify(&attr)?;
        Ok(opened)
    }

    fn controls(self: Arc<Self>) -> Option<Arc<dyn Dir>> {
        Some(Arc::new(ControlDir::new(self, CONTROLS)))
    }

    fn id(&self) -> Option<ObjectId> {
        Some(ObjectId { kind: PROFILE.path, ident: self.ident })
    }

    fn traces(&self) -> Result<Traces> {
        let file = self.kind.dir.identify(&file_name(&self.name)?, self.ident)?;
        Ok(Traces { file: Some(file), waits: Some(Waits::Semaphore), ..Traces::default() })
    }

    fn status(&self) -> Result<Fields> {
        let (file, attr) = self.file()?;
        let State { value, waiters } = word::read(file.as_fd())?;
        let live = self.kind.in_use.get(&self.ident);
        let behind = live.as_ref().map_or(0, |live| live.behind());
        let holders = live.map(|live| live.holds.holders());
        Ok(Fields::default()
            .text("name", &*self.name)
            .mode(attr.mode)
            .number("uid", attr.uid)
            .number("gid", attr.gid)
            .number("value", value)
            .number("nwaiters", u64::from(waiters) + behind as u64)
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
    control::users(),
    control::waiters(),
    Control {
        name: "try",
        access: Access::Write,
        about: "as the semaphore, but EAGAIN instead of waiting",
        serve: Serve::Open(|semaphore, cx, how| Ok(semaphore.open_file(cx, how, false)?.1)),
    },
    Control {
        name: "hold",
        access: Access::Alter,
        about: "a lock that survives a crash: opening waits for one and takes it, the last close \
                gives it back",
        serve: Serve::Open(|semaphore, cx, _| hold::hold(semaphore.live(cx.caller.uid)?.0, cx)),
    },
    Control {
        name: "tryhold",
        access: Access::Alter,
        about: "as hold, but EAGAIN instead of waiting",
        serve: Serve::Open(|semaphore, cx, _| hold::try_hold(semaphore.live(cx.caller.uid)?.0, cx)),
    },
    Control {
        name: "holders",
        access: Access::Read,
        about: "who has it through hold: PID, tab, command",
        serve: Serve::Slow(|semaphore, _| {
            let live = semaphore.kind.in_use.get(&semaphore.ident);
            Ok(live.map(|live| hold::list(&live.holds)).unwrap_or_default())
        }),
    },
];

/// The file's attributes as those of the text that is read through the mount.
fn as_text(attr: Attr) -> Attr {
    Attr { size: TEXT_SIZE, blocks: TEXT_SIZE / 512, ..attr }
}

/// A semaphore whose memory is mapped: one for all who use it, so that they have one queue.
struct Live {
    file: OwnedFd,
    word: Word,
    holds: Holds,
    /// Those who wait for several: one at a time in the kernel's queue.
    bulk: Tickets,
}

impl Live {
    fn new(file: OwnedFd, uid: u32) -> Result<Self> {
        let word = Word::new(&file, uid)?;
        Ok(Self { file, word, holds: Holds::default(), bulk: Tickets::default() })
    }

    fn is_whole(&self) -> bool {
        !self.word.is_torn()
    }

    /// How many wait here for their turn to wait in the kernel, which counts the others.
    fn behind(&self) -> usize {
        self.bulk.len().saturating_sub(1) + self.holds.behind()
    }

    /// `patient` is who goes on to wait for what is not to be had at once.
    fn apply(&self, operation: Operation, wait: Wait, patient: bool) -> Result<()> {
        self.try_apply(operation, wait, patient).map_err(|error| {
            let whole = || {
                let stat = nix::sys::stat::fstat(&self.file).ok()?;
                usize::try_from(stat.st_size).ok().filter(|size| *size >= word::SIZE)
            };
            if self.is_whole() || whole().is_none() {
                return error;
            }
            // Nobody has cut it: a file with a hole that could not be filled.
            Error::because(
                Errno::ENOSPC,
                "/dev/shm has no room for what the semaphore's file holds",
            )
        })
    }

    fn try_apply(&self, operation: Operation, wait: Wait, patient: bool) -> Result<()> {
        match (operation, wait) {
            (Operation::Set(value), _) => self.word.set(value),
            (Operation::Post(count), _) => self.word.post(count),
            (Operation::Take(count), Wait::Try) => {
                // Who waits for several comes before who begins to wait for several.
                let waits = patient && count > 1 && !self.bulk.is_empty();
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
        self.apply(Operation::Take(1), wait, true)
    }

    fn give_back(&self, _caller: Caller) {
        if let Err(error) = self.word.post(1) {
            log::debug!("a held unit could not be given back: {error}");
        }
    }

    fn holds(&self) -> &Holds {
        &self.holds
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

impl Handle for OpenSemaphore {
    fn attr(&self) -> Option<Result<Attr>> {
        if !self.patient {
            // A file of ctl/ has attributes of its own.
            return None;
        }
        let stat = nix::sys::stat::fstat(self.source.as_fd());
        Some(stat.map_err(Into::into).map(|stat| as_text(fsdir::attr(&stat))))
    }

    fn truncate(&self, _cx: &Cx, _size: u64) -> Option<Result<()>> {
        self.patient.then(|| Err(no_length()))
    }

    fn change(&self, caller: Caller, change: &Change) -> Option<Result<()>> {
        let file = match &self.source {
            Source::File(file) => file,
            Source::Live(live) => &live.file,
        };
        self.patient.then(|| fsdir::change_pinned(caller, file, change))
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
        let patient = self.patient && !cx.nonblock;
        let wait = if patient { cx.wait } else { Wait::Try };
        match live.apply(grammar::parse(data)?, wait, patient) {
            Err(error) if error.would_block() && !self.patient => return Err(Error::not_now()),
            outcome => outcome?,
        }
        *done = data.len();
        Ok(())
    }
}
