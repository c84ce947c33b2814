//! Random sequences of operations, by the C calls and through the mount in turn, against a simple
//! model of the object. What an operation gives and, after most, everything that can be seen of the
//! object must be the model's, whichever way it is looked at.
//!
//! A failure prints the shortest sequence that was found. Two variables of the environment:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `IPCFS_MODEL_STEPS` | about how many operations each test does |
//! | `IPCFS_MODEL_SEED` | the number that the failure has printed: does the same again |

mod memory;
mod native;
mod queue;
mod semaphore;
#[allow(unsafe_code)]
mod sys;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use self::sys::Got;
use crate::common::{World, deadline};

/// How many operations each test does by default, and about how many of them with one object.
const STEPS: u64 = 1000;
const LENGTH: usize = 30;

/// What a comparison has found.
type Outcome = Result<(), TestCaseError>;

/// A kind of object and its model.
trait Model: Sized {
    /// An operation.
    type Step: Clone + Debug;

    /// What ipcfs is mounted with.
    const ARGUMENTS: &'static [&'static str] = &[];

    /// What has to be set up once.
    fn prepare() {}

    /// All operations.
    fn steps() -> BoxedStrategy<Self::Step>;

    /// A new object, and a model of it.
    fn new(world: &World) -> Self;

    /// Does one operation and compares what it gives.
    fn step(&mut self, step: &Self::Step) -> Outcome;

    /// Compares everything that can be seen.
    fn compare(&self) -> Outcome;
}

/// Tries a model out.
fn run<M: Model>() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect(name));
    let steps = number("IPCFS_MODEL_STEPS").unwrap_or(STEPS);
    let seed = number("IPCFS_MODEL_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let world = World::with(M::ARGUMENTS);
    M::prepare();
    let _watch = Watch::new(world.daemon(), steps);
    let config = ProptestConfig {
        cases: u32::try_from(steps.div_ceil(LENGTH as u64)).unwrap(),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 500,
        ..ProptestConfig::default()
    };
    // Looking at everything refreshes what the kernel may have kept, so not all steps do.
    let looks = prop::bool::weighted(0.7);
    let steps = vec((M::steps(), looks), 1..2 * LENGTH);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        let mut model = M::new(&world);
        for (number, (step, look)) in steps.iter().enumerate() {
            let look = *look || number + 1 == steps.len();
            let done = model.step(step).and_then(|()| if look { model.compare() } else { Ok(()) });
            done.map_err(|error| TestCaseError::fail(format!("step {number}, {step:?}: {error}")))?;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("IPCFS_MODEL_SEED={seed}: {error}");
    }
}

/// Ends the daemon, and with it whatever waits, when a test takes too long: nothing here should wait.
struct Watch(#[allow(dead_code)] mpsc::Sender<()>);

impl Watch {
    fn new(daemon: u32, steps: u64) -> Self {
        let (done, ended) = mpsc::channel();
        // Generously, for a machine that has something else to do.
        let time = deadline() * u32::try_from(steps / STEPS + 1).unwrap_or(u32::MAX);
        thread::spawn(move || {
            if ended.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
                let daemon = nix::unistd::Pid::from_raw(daemon as i32);
                let _ = nix::sys::signal::kill(daemon, nix::sys::signal::SIGKILL);
            }
        });
        Self(done)
    }
}

/// Who does it.
#[derive(Clone, Copy, Debug)]
enum By {
    C,
    Mount,
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![Just(By::C), Just(By::Mount)]
}

/// Compares one thing.
#[allow(clippy::needless_pass_by_value)] // What is compared is mostly made for it.
fn same<T: PartialEq + Debug>(what: &str, got: T, expected: T) -> Outcome {
    prop_assert!(got == expected, "{what}: {got:?}, and not {expected:?}");
    Ok(())
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// `open(2)` for reading, or with further flags for what they say, without waiting.
fn open(path: &Path, flags: i32) -> Got<File> {
    let access = flags & libc::O_ACCMODE;
    let mut options = OpenOptions::new();
    options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY);
    options.create(flags & libc::O_CREAT != 0).truncate(flags & libc::O_TRUNC != 0);
    options.append(flags & libc::O_APPEND != 0).mode(0o600);
    options.custom_flags(flags | libc::O_NONBLOCK).open(path).map_err(|error| errno(&error))
}

/// One `write(2)`.
fn write(path: &Path, data: impl AsRef<[u8]>) -> Got<usize> {
    open(path, libc::O_WRONLY)?.write(data.as_ref()).map_err(|error| errno(&error))
}

/// One `read(2)`.
fn read(file: &File, size: usize) -> Got<Vec<u8>> {
    let (mut file, mut data) = (file, vec![0; size]);
    let length = file.read(&mut data).map_err(|error| errno(&error))?;
    data.truncate(length);
    Ok(data)
}

/// What `cat` would print.
fn cat(path: &Path) -> Got<String> {
    fs::read_to_string(path).map_err(|error| errno(&error))
}

/// A file of `name=value` lines.
fn status(path: &Path) -> Got<BTreeMap<String, String>> {
    let text = cat(path)?;
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.into(), value.into()));
    Ok(text.lines().filter_map(pair).collect())
}

#[test]
fn posix_message_queue() {
    run::<queue::Queue<native::Posix>>();
}

#[test]
fn system_v_message_queue() {
    run::<queue::Queue<native::SystemV>>();
}

#[test]
fn posix_semaphore() {
    run::<semaphore::Named>();
}

#[test]
fn system_v_semaphore_set() {
    run::<semaphore::Set>();
}

#[test]
fn posix_shared_memory() {
    run::<memory::Object<true>>();
}

#[test]
fn posix_shared_memory_by_the_daemon() {
    run::<memory::Object<false>>();
}

#[test]
fn system_v_segment() {
    run::<memory::Segment<true>>();
}

#[test]
fn system_v_segment_by_the_daemon() {
    run::<memory::Segment<false>>();
}
