//! Parity: what there is in C and through the mount is done both ways, and the outcomes compared:
//! errno, bytes and the state that is left.
//!
//! A [`Row`] is a list of [`Step`]s on a fresh object, which [`native::Native`] does by the C calls
//! and [`mount::Mounted`] through the mount. Whose outcome differs says so, with the reason.

mod calls;
mod files;
mod limits;
mod mount;
mod native;
mod rights;
mod rows;
mod system_v;

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use self::calls::Result;
use self::mount::Mounted;
use self::native::Native;
use crate::common::World;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Mq,
    Shm,
    Sem,
    Fifo,
    Msg,
    Set,
    Segment,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Mq, Self::Shm, Self::Sem, Self::Fifo, Self::Msg, Self::Set, Self::Segment];

    fn is_system_v(self) -> bool {
        matches!(self, Self::Msg | Self::Set | Self::Segment)
    }

    /// Its directory in the mount.
    fn dir(self) -> &'static str {
        match self {
            Self::Mq => "mq",
            Self::Shm => "shm",
            Self::Sem => "sem",
            Self::Fifo => "fifo",
            Self::Msg => "sysv/msg",
            Self::Set => "sysv/sem",
            Self::Segment => "sysv/shm",
        }
    }

    /// The name that its objects have here, if nothing else is said.
    fn name(self) -> &'static [u8] {
        if self.is_system_v() { b"119" } else { b"o" }
    }
}

/// Who does something.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
    groups: &'static [u32],
}

const ROOT: &User = &User { uid: 0, gid: 0, groups: &[0] };
/// The owner.
const A: &User = &User { uid: 41_001, gid: 41_001, groups: &[] };
/// Somebody else.
const B: &User = &User { uid: 41_002, gid: 41_002, groups: &[] };
/// Somebody else whose primary group is A's.
const P: &User = &User { uid: 41_003, gid: 41_001, groups: &[] };
/// Somebody else who is in A's group as well.
const S: &User = &User { uid: 41_004, gid: 41_004, groups: &[41_001] };

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    R,
    W,
    RW,
}

impl Access {
    const ALL: [Self; 3] = [Self::R, Self::W, Self::RW];

    fn flags(self) -> i32 {
        match self {
            Self::R => libc::O_RDONLY,
            Self::W => libc::O_WRONLY,
            Self::RW => libc::O_RDWR,
        }
    }
}

/// What is done to an object. Nothing waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another user goes on.
    By(&'static User),
    /// The umask from now on.
    Umask(u32),
    /// The name of the object, or its key, from now on.
    Named(&'static [u8]),

    /// Makes it if it is missing.
    Make(u32),
    /// Makes it; there must not be one.
    MakeNew(u32),
    /// Makes one with attributes; there must not be one.
    MakeWith(&'static [(&'static str, u64)]),
    /// Opens it, for the steps that follow.
    Open(Access),
    /// Opens it for this and closes it.
    Try(Access),
    Remove,
    Rename(&'static str),
    Link(&'static str),
    Symlink(&'static str),
    Mkdir(&'static str),
    Chmod(u32),
    /// `KEEP` keeps.
    Chown(u32, u32),
    /// Mode, owner, size.
    Stat,

    /// Sends a message with a priority or of a type.
    Send(i64, &'static str),
    /// Sends one of that many bytes.
    SendLong(usize),
    Receive,
    ReceiveInto(usize),
    /// By type, as msgrcv(2) has it.
    ReceiveOf(i64),
    ReceiveExcept(i64),
    Qbytes(u64),

    Post,
    TryWait,
    Value,
    /// One semop.
    Operate(&'static [(u16, i16)]),
    /// One semop of that many operations.
    OperateMany(usize),
    SetValue(u16, i32),
    SetValues(&'static [u16]),
    Values,

    Write(&'static str),
    WriteAt(u64, &'static str),
    Read(usize),
    ReadAt(u64, usize),
    Seek(i64, i32),
    Truncate(i64),
    Map(i32, i32),
    Allocate(i32, i64, i64),
    Lock,
    Sync,
}

impl Step {
    /// Whether it is done to the name, whatever is open.
    fn is_by_name(&self) -> bool {
        matches!(
            self,
            Self::Rename(_)
                | Self::Link(_)
                | Self::Symlink(_)
                | Self::Mkdir(_)
                | Self::Chmod(_)
                | Self::Chown(..)
                | Self::Stat
        )
    }
}

/// Leaves an owner as it is (chown(2)).
const KEEP: u32 = u32::MAX;

/// One of the two ways.
pub trait Side: Send {
    /// What a step gives.
    fn step(&mut self, step: &Step) -> Result<String>;
}

/// A line of the table.
pub struct Row {
    kind: Kind,
    call: &'static str,
    steps: &'static [Step],
    /// What the steps give in C, and after a semicolon what is left.
    native: &'static str,
    mount: Expect,
}

/// What they give through the mount.
enum Expect {
    Same,
    Differs {
        outcome: &'static str,
        /// The reason, which is part of the interface.
        why: &'static str,
    },
}

/// Does something as somebody.
fn by<T: Send>(user: &User, what: impl FnOnce() -> T + Send) -> T {
    if user == ROOT {
        return what();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            calls::become_user(user.uid, user.gid, user.groups);
            what()
        });
        thread.join().unwrap()
    })
}

fn text(outcome: Result<String>) -> String {
    match outcome {
        Ok(text) if text.is_empty() => "ok".into(),
        Ok(text) => text,
        Err(errno) => format!("{errno:?}"),
    }
}

/// Bytes that can be printed, the beginning of many.
fn shown(bytes: &[u8]) -> String {
    const MANY: usize = 24;
    match bytes {
        [] => "''".into(),
        _ if bytes.iter().all(|byte| *byte == 0) => format!("{} zeroes", bytes.len()),
        _ if bytes.len() > MANY => {
            format!("'{}'...{}", bytes[..8].escape_ascii(), bytes.len())
        }
        _ => format!("'{}'", bytes.escape_ascii()),
    }
}

/// What came of each step, and what is left.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    said: Vec<(Step, String)>,
    left: String,
}

impl Outcome {
    fn said(&self) -> String {
        self.said.iter().map(|(_, said)| &**said).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.said(), self.left)
    }
}

/// Does the steps, and says what came of each.
fn play(side: &mut dyn Side, steps: &[Step]) -> Vec<(Step, String)> {
    let umask = |mode| nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mode));
    umask(0o022);
    let (mut user, mut said) = (ROOT, Vec::new());
    for step in steps {
        match step {
            Step::By(other) => user = other,
            Step::Umask(mode) => drop(umask(*mode)),
            Step::Named(_) => drop(side.step(step)),
            step => said.push((*step, text(by(user, || side.step(step))))),
        }
    }
    umask(0o022);
    said
}

/// A mount, and places for what is done in C.
struct Field {
    world: World,
}

impl Field {
    /// With these mount options beside those that make queues small.
    fn new(options: &str) -> Self {
        let world = World::with(&["-o", &format!("mq_maxmsg=2,mq_msgsize=16{options}")]);
        world.run(
            "mkdir -m 1777 $SCRATCH/mqueue $SCRATCH/fifo; mount -t mqueue none $SCRATCH/mqueue
             chmod 755 $SCRATCH",
        );
        Self { world }
    }

    fn native(&self, kind: Kind) -> Native {
        Native::new(kind, self.world.scratch())
    }

    fn mounted(&self, kind: Kind) -> Mounted {
        Mounted::new(kind, self.world.path())
    }

    /// What the steps give in C and through the mount, on fresh objects.
    fn outcomes(&self, kind: Kind, steps: &[Step]) -> [Outcome; 2] {
        // The one thing that C does not reach are the mount's pipes.
        let pipes = if kind == Kind::Fifo { Path::new("/run/ipcfs") } else { self.world.scratch() };
        let outcome = |side: &mut dyn Side, mut observer: Native| {
            let said = play(side, steps);
            for step in steps.iter().filter(|step| matches!(step, Step::Named(_))) {
                observer.step(step).unwrap();
            }
            let left = observer.left();
            self.clear();
            Outcome { said, left }
        };
        [
            outcome(&mut self.native(kind), self.native(kind)),
            outcome(&mut self.mounted(kind), Native::new(kind, pipes)),
        ]
    }

    fn clear(&self) {
        let scratch = self.world.scratch();
        let places = [scratch.join("mqueue"), scratch.join("fifo")];
        for dir in places.into_iter().chain(["/dev/shm", "/run/ipcfs/fifo"].map(PathBuf::from)) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                if std::fs::remove_file(&path).is_err() {
                    std::fs::remove_dir(&path).unwrap();
                }
            }
        }
        system_v::remove_all();
    }
}

#[test]
fn each_call_has_the_same_outcome_in_c_and_through_the_mount() {
    let field = Field::new("");
    let mut wrong = String::new();
    let rows = rows::rows();
    for Row { kind, call, steps, native, mount } in &rows {
        let [c, mounted] = field.outcomes(*kind, steps);
        let (expected, why) = match mount {
            Expect::Same => (native, "as in C"),
            Expect::Differs { outcome, why } => {
                assert_ne!(outcome, native, "{call}: what differs?");
                (outcome, *why)
            }
        };
        if c.to_string() != *native || mounted.to_string() != *expected {
            let _ = write!(
                wrong,
                "\n{kind:?}, {call}: {steps:?}\n  in C:     {c}\n  expected: {native}\n  \
                 mounted:  {mounted}\n  expected: {expected} ({why})\n"
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let differ = rows.iter().filter(|row| matches!(row.mount, Expect::Differs { .. })).count();
    println!("{} rows, of which {differ} differ, each for its reason", rows.len());
}

#[test]
fn shared_memory_that_the_daemon_forwards_is_the_same_but_for_shared_mappings() {
    let field = Field::new(",no_passthrough");
    for Row { kind, call, steps, mount, .. } in rows::rows() {
        if ![Kind::Shm, Kind::Segment].contains(&kind) || !matches!(mount, Expect::Same) {
            continue;
        }
        let [mut native, mounted] = field.outcomes(kind, steps);
        for (step, said) in &mut native.said {
            if let Step::Map(_, flags) = step {
                if *flags & libc::MAP_SHARED != 0 && said == "ok" {
                    *said = "ENODEV".into();
                }
            }
        }
        assert_eq!(native.to_string(), mounted.to_string(), "{kind:?}, {call}: {steps:?}");
    }
}

/// A step that there is not for a kind.
fn not_here(kind: Kind, step: &Step) -> ! {
    panic!("{kind:?} has no {step:?}")
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL))
}
