//! `sysv/sem/KEY`: System V semaphore sets, `semget(KEY)` (`sysvipc(7)`).
//!
//! | operation | effect |
//! | --- | --- |
//! | `read` | the values, separated by blanks, and a newline; never waits |
//! | `write` of `0 -1, 1 +2, 2 0` | one atomic `semop(2)`, waiting until all of it can be done |
//! | `write` of `= 1 0 3` | sets all values (`SETALL`) |
//! | `write` of `2 = 5` | sets one (`SETVAL`) |
//! | `truncate` | `EINVAL` |
//! | size | 4096: the text is made when it is read, as in /sys |
//! | times | last `semop`, last change |
//!
//! A new set has one semaphore with the value 0 (`ctl/create`: `nsems=`).
//!
//! | errno | reason |
//! | --- | --- |
//! | `EINVAL` | what has been written is none of the above; there are not as many semaphores as values, or none of the index to be set |
//! | `EFBIG` | there is no semaphore of that index to operate on or to hold |
//! | `E2BIG` | more operations than the kernel takes at a time (`kernel.sem`: 500) |
//! | `ERANGE` | a value would be over 32767 |
//! | `EIDRM` | the set has been removed, in the meantime or before |

pub mod grammar;
#[allow(unsafe_code)]
mod sys;

use std::sync::Arc;

use parking_lot::Mutex;

use self::grammar::{Operation, Step};
use super::actors::Actors;
use super::{Family, Objects, Origin, Times, change_perm, perm_attr, perm_status};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::kind::control::{self, Access, Control, ControlDir, Serve};
use crate::kind::hold::{self, Holds, Lock};
use crate::kind::shared::Shared;
use crate::kind::value_text::ValueText;
use crate::kind::{Attributes, Limit, Options, Profile, sysctls};
use crate::status::Fields;
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, Handle, How, Io, Object, ObjectId, Opened, TEXT_SIZE, Traces,
    Wait, Waits,
};

/// The kind's profile.
pub const PROFILE: Profile = Profile {
    path: "sysv/sem",
    about: "System V semaphore sets",
    texts: true,
    children: Children::PerWriter,
    attributes: &["nsems"],
    features: &[],
    open: |options: &Options| Objects::open(Sets::default(), options),
};

/// As many sets are listed in the request loop: each may be [`LARGE`].
const FEW: usize = 32;
/// So many values are made a text, so long a text is understood, in the request loop.
const SMALL: usize = 512;
const SHORT: usize = 4096;
/// Looking at a set of more takes the kernel longer than a request loop has: it looks at each
/// semaphore for the time of its last operation.
const LARGE: usize = 4096;

/// The sets of the current IPC namespace.
#[derive(Default)]
pub struct Sets {
    actors: Actors,
    /// Those who hold or want to hold a semaphore, by set and index.
    units: Shared<(i32, u16), Holds>,
}

impl Sets {
    /// `semop(2)` for `caller`.
    fn operate(&self, id: i32, steps: &[Step], caller: Caller, wait: Wait) -> Result<()> {
        sys::operate(id, steps, wait).map_err(|errno| match errno {
            Errno::E2BIG => too_many(steps.len()),
            Errno::EFBIG => out_of_set(id, steps).unwrap_or(errno.into()),
            Errno::ERANGE => out_of_range(id, steps).unwrap_or(errno.into()),
            errno => removed(id, errno),
        })?;
        for step in steps {
            self.note(id, step.index, caller);
        }
        Ok(())
    }

    fn note(&self, id: i32, index: u16, caller: Caller) {
        self.actors.note(id, u32::from(index), caller, sys::exists);
    }

    fn apply(&self, id: i32, operation: &Operation, caller: Caller, wait: Wait) -> Result<()> {
        match operation {
            Operation::Operate(steps) => self.operate(id, steps, caller, wait),
            Operation::SetAll(values) => {
                let nsems = count(id)?;
                if values.len() != nsems {
                    return Err(Error::because(
                        Errno::EINVAL,
                        format!("{} values for {nsems} semaphores", values.len()),
                    ));
                }
                sys::set_all(id, values).map_err(|errno| removed(id, errno))?;
                self.actors.note_all(id, caller, sys::exists);
                Ok(())
            }
            Operation::SetOne(index, value) => {
                let nsems = count(id)?;
                if usize::from(*index) >= nsems {
                    // As semctl(2) says, where semop(2) says EFBIG.
                    return Err(no_semaphore(Errno::EINVAL, i64::from(*index), nsems));
                }
                sys::set_one(id, *index, *value).map_err(|errno| removed(id, errno))?;
                self.note(id, *index, caller);
                Ok(())
            }
        }
    }
}

/// The kernel says `EINVAL` of an identifier that it does not know any more.
fn removed(id: i32, errno: Errno) -> Error {
    match errno {
        Errno::EINVAL if sys::stat(id).is_err() => Errno::EIDRM.into(),
        errno => errno.into(),
    }
}

/// One of the four numbers of `kernel.sem`.
fn most(index: usize) -> u64 {
    sysctls("kernel/sem").ok().and_then(|limits| limits.get(index).copied()).unwrap_or(0)
}

fn too_many(operations: usize) -> Error {
    let sentence = format!("{operations} operations; sysv_sem_operations_max is {}", most(2));
    Error::because(Errno::E2BIG, sentence)
}

/// What is to be said of an operation on a semaphore that the set does not have.
fn out_of_set(id: i32, steps: &[Step]) -> Option<Error> {
    let nsems = count(id).ok()?;
    let index = steps.iter().map(|step| step.index).find(|index| usize::from(*index) >= nsems)?;
    Some(no_semaphore(Errno::EFBIG, index.into(), nsems))
}

fn no_semaphore(errno: Errno, index: i64, nsems: usize) -> Error {
    let sentence = format!("there is no semaphore {index} among {nsems}; the first one is 0");
    Error::because(errno, sentence)
}

/// What is to be said of an operation after which a value would be too large. What others do at the
/// same time may have changed it by now.
fn out_of_range(id: i32, steps: &[Step]) -> Option<Error> {
    let most = i32::from(grammar::VALUE_MAX);
    steps.iter().find_map(|Step { index, change }| {
        let value = sys::about(id, usize::from(*index), libc::GETVAL).ok()?;
        (value + i32::from(*change) > most).then(|| {
            let sentence = format!("semaphore {index} is {value}; {change} more is over {most}");
            Error::because(Errno::ERANGE, sentence)
        })
    })
}

fn origin(id: i32) -> Option<Origin> {
    sys::stat(id).ok().map(|set| Origin::of(&set.sem_perm))
}

/// `EIDRM` if the set that was opened is gone, or its identifier is another's by now.
fn check(id: i32, origin: Option<Origin>) -> Result<()> {
    let set = sys::stat(id).map_err(|errno| removed(id, errno))?;
    origin.map_or(fail(Errno::EIDRM), |origin| origin.check(&set.sem_perm))
}

/// How many semaphores a set has.
fn count(id: i32) -> Result<usize> {
    let set = sys::stat(id).map_err(|errno| removed(id, errno))?;
    Ok(set.sem_nsems as usize)
}

fn values(id: i32) -> Result<Vec<u16>> {
    sys::values(id, count(id)?).map_err(|errno| removed(id, errno))
}

impl Family for Sets {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn table(&self) -> &'static str {
        "/proc/sysvipc/sem"
    }

    fn id_of(&self, key: i32) -> Result<i32> {
        Ok(sys::get(key, 0, 0)?)
    }

    fn attr(&self, id: i32) -> Result<Attr> {
        let set = sys::stat(id)?;
        let times = Times { read: set.sem_otime, write: set.sem_otime, change: set.sem_ctime };
        Ok(perm_attr(&set.sem_perm, id, TEXT_SIZE, times))
    }

    fn make(&self, _caller: Caller, key: i32, mode: u32, attributes: &Attributes) -> Result<()> {
        let nsems = attributes.get("nsems").unwrap_or(1);
        let wrong = |errno| match errno {
            Errno::EINVAL => {
                let sentence = format!("a set has from 1 to {} semaphores, not {nsems}", most(0));
                Error::because(Errno::EINVAL, sentence)
            }
            errno => Error::from(errno),
        };
        let count = i32::try_from(nsems).map_err(|_| wrong(Errno::EINVAL))?;
        sys::get(key, count, libc::IPC_CREAT | libc::IPC_EXCL | mode as i32).map_err(wrong)?;
        Ok(())
    }

    fn remove(&self, caller: Caller, id: i32) -> Result<()> {
        caller.act(|| Ok(sys::remove(id)?))
    }

    /// The kernel looks at each semaphore of each set that is listed.
    fn listed_at_once(&self) -> usize {
        FEW
    }

    fn limits(&self) -> Vec<Limit> {
        let (sets, semaphores) = sys::in_use().unwrap_or_default();
        vec![
            Limit::used("sysv_sem_sets", most(3), sets, "sysctl kernel.sem, the fourth number"),
            Limit::used(
                "sysv_sem_semaphores",
                most(1),
                semaphores,
                "sysctl kernel.sem, the second number",
            ),
            Limit::each("sysv_sem_nsems", most(0), "sysctl kernel.sem, the first number"),
            Limit::each("sysv_sem_operations", most(2), "sysctl kernel.sem, the third number"),
        ]
    }

    fn object(self: Arc<Self>, id: i32) -> Arc<dyn Object> {
        Arc::new(Set { kind: self, id })
    }
}

/// A set.
struct Set {
    kind: Arc<Sets>,
    id: i32,
}

impl Set {
    /// Opens the set's own file, or `try`, which never waits.
    fn opened(&self, how: &How, patient: bool) -> Opened {
        let io = if how.write { Io::Messages } else { Io::Direct };
        let set = sys::stat(self.id).ok();
        let handle = OpenSet {
            kind: Arc::clone(&self.kind),
            id: self.id,
            origin: set.map(|set| Origin::of(&set.sem_perm)),
            nsems: set.map_or(0, |set| set.sem_nsems as usize),
            patient,
            seekable: !how.write,
            text: Mutex::default(),
        };
        Opened { handle: Arc::new(handle), io }
    }

    /// One of the set's semaphores, to be held.
    fn unit(&self, index: i64) -> Result<Arc<Unit>> {
        match u16::try_from(index) {
            Ok(index) if usize::from(index) < count(self.id)? => {
                let holds = self.kind.units.get_or((self.id, index), Holds::default(), |_| true);
                let (kind, origin) = (Arc::clone(&self.kind), origin(self.id));
                Ok(Arc::new(Unit { kind, id: self.id, origin, index, holds }))
            }
            _ => Err(no_semaphore(Errno::EFBIG, index, count(self.id)?)),
        }
    }
}

impl Object for Set {
    fn attr(&self) -> Result<Attr> {
        self.kind.attr(self.id).map_err(Error::absent)
    }

    fn change(&self, cx: &Cx, change: &Change) -> Result<()> {
        if change.size.is_some() {
            return Err(Error::because(Errno::EINVAL, "a set of semaphores has no length"));
        }
        let mut set = sys::stat(self.id)?;
        let mut perm = set.sem_perm;
        change_perm(cx.caller, &mut perm, change, |perm| {
            set.sem_perm = *perm;
            Ok(sys::set(self.id, &set)?)
        })
    }

    fn check_rights(&self, caller: Caller, read: bool, write: bool) -> Result<()> {
        let Ok(set) = sys::stat(self.id) else { return Ok(()) };
        super::check_rights(&set.sem_perm, caller, read, write)
    }

    fn open(&self, _cx: &Cx, how: &How) -> Result<Opened> {
        how.verify(&self.attr()?)?;
        Ok(self.opened(how, true))
    }

    fn controls(self: Arc<Self>) -> Option<Arc<dyn Dir>> {
        Some(Arc::new(ControlDir::new(self, CONTROLS)))
    }

    fn id(&self) -> Option<ObjectId> {
        Some(ObjectId { kind: PROFILE.path, ident: self.id as u64 })
    }

    fn traces(&self) -> Result<Traces> {
        Ok(Traces { waits: Some(Waits::SystemVSemaphores(self.id)), ..Traces::default() })
    }

    fn unused(&self, gone: &dyn Fn(i64) -> bool) -> Result<Option<&'static str>> {
        for (index, value) in values(self.id)?.into_iter().enumerate() {
            let about = |what| sys::about(self.id, index, what);
            let about = |what| about(what).map_err(|errno| removed(self.id, errno));
            let pid = self.kind.actors.shown(self.id, index as u32, about(libc::GETPID)?);
            let waiting = about(libc::GETNCNT)? + about(libc::GETZCNT)?;
            if value != 0 || waiting != 0 || !gone(i64::from(pid)) {
                return Ok(None);
            }
        }
        Ok(Some("all values are 0, nobody waits, who used it last has ended"))
    }

    fn status(&self) -> Result<Fields> {
        let set = sys::stat(self.id)?;
        let values = values(self.id)?;
        let (mut pids, mut ncounts, mut zcounts) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..values.len() {
            let about = |what| sys::about(self.id, index, what);
            let about = |what| about(what).map_err(|errno| removed(self.id, errno));
            let pid = self.kind.actors.shown(self.id, index as u32, about(libc::GETPID)?);
            pids.push(i128::from(pid));
            ncounts.push(i128::from(about(libc::GETNCNT)?));
            zcounts.push(i128::from(about(libc::GETZCNT)?));
        }
        Ok(perm_status(&set.sem_perm, self.id)
            .number("nsems", set.sem_nsems)
            .numbers("semval", values.into_iter().map(i128::from))
            .numbers("sempid", pids)
            .numbers("semncnt", ncounts)
            .numbers("semzcnt", zcounts)
            .number("otime", set.sem_otime)
            .number("ctime", set.sem_ctime))
    }
}

/// The indices of a set.
fn indices(set: &Set) -> Result<Vec<i64>> {
    Ok((0..count(set.id)? as i64).collect())
}

/// `ctl/sysv/sem/KEY/`.
const CONTROLS: &[Control<Set>] = &[
    Control {
        name: "status",
        access: Access::Read,
        about: "what is known of the set and, in the order of their indices, of its semaphores",
        serve: Serve::Slow(|set, _| Ok(set.status()?.sh())),
    },
    Control {
        name: "status.json",
        access: Access::Read,
        about: "the same as JSON",
        serve: Serve::Slow(|set, _| Ok(control::json_text(&set.status()?.json()))),
    },
    control::users(),
    control::waiters(),
    Control {
        name: "try",
        access: Access::Write,
        about: "as the set, but EAGAIN instead of waiting",
        serve: Serve::Open(|set, _, how| Ok(set.opened(how, false))),
    },
    Control {
        name: "hold",
        access: Access::Alter,
        about: "hold/I: a lock that survives a crash: opening waits for one of semaphore I and \
                takes it, the last close gives it back",
        serve: Serve::Numbers {
            valid: 0..=u16::MAX as i64,
            listed: indices,
            open: |set, index, cx, _| hold::hold(set.unit(index)?, cx),
        },
    },
    Control {
        name: "tryhold",
        access: Access::Alter,
        about: "tryhold/I: as hold/I, but EAGAIN instead of waiting",
        serve: Serve::Numbers {
            valid: 0..=u16::MAX as i64,
            listed: indices,
            open: |set, index, cx, _| hold::try_hold(set.unit(index)?, cx),
        },
    },
];

/// A semaphore of a set, as something to hold.
struct Unit {
    kind: Arc<Sets>,
    id: i32,
    origin: Option<Origin>,
    index: u16,
    holds: Arc<Holds>,
}

impl Unit {
    fn add(&self, change: i16, caller: Caller, wait: Wait) -> Result<()> {
        check(self.id, self.origin)?;
        self.kind.operate(self.id, &[Step { index: self.index, change }], caller, wait)
    }
}

impl Lock for Unit {
    fn take(&self, caller: Caller, wait: Wait) -> Result<()> {
        self.add(-1, caller, wait)
    }

    fn give_back(&self, caller: Caller) {
        if let Err(error) = self.add(1, caller, Wait::Try) {
            log::debug!("a held unit could not be given back: {error}");
        }
    }

    fn holds(&self) -> &Holds {
        &self.holds
    }
}

/// An open set.
struct OpenSet {
    kind: Arc<Sets>,
    id: i32,
    origin: Option<Origin>,
    nsems: usize,
    /// Whether it waits; else it is `try`.
    patient: bool,
    /// Whether the file has a position: it is open for reading alone.
    seekable: bool,
    text: Mutex<ValueText>,
}

impl Handle for OpenSet {
    fn attr(&self) -> Option<Result<Attr>> {
        // A file of ctl/ has attributes of its own.
        let attr = || self.kind.attr(self.id).map_err(|error| removed(self.id, error.errno()));
        self.patient.then(attr)
    }

    fn truncate(&self, _cx: &Cx, _size: u64) -> Option<Result<()>> {
        self.patient.then(|| fail(Errno::EINVAL))
    }

    fn read(&self, cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        if self.nsems > SMALL && cx.wait == Wait::Try {
            return Err(Error::deferred());
        }
        check(self.id, self.origin)?;
        let text = || {
            let values: Vec<_> = values(self.id)?.iter().map(ToString::to_string).collect();
            Ok(format!("{}\n", values.join(" ")).into_bytes())
        };
        self.text.lock().read(self.seekable.then_some(at), size, out, text)
    }

    fn write(&self, cx: &Cx, _at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        if (data.len() > SHORT || self.nsems > LARGE) && cx.wait == Wait::Try {
            return Err(Error::deferred());
        }
        let operation = grammar::parse(data)?;
        // A worker may wait for others only if the caller may.
        let wait = if self.patient && !cx.nonblock { cx.wait } else { Wait::Try };
        check(self.id, self.origin)?;
        match self.kind.apply(self.id, &operation, cx.caller, wait) {
            Err(error) if error.would_block() && !self.patient => return Err(Error::not_now()),
            outcome => outcome?,
        }
        *done = data.len();
        Ok(())
    }
}
