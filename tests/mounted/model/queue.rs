//! Message queues: a list of tagged messages, and a file of lines that stays open.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::collection::vec;
use proptest::prelude::*;

use super::native::{ANY, BYTES, LONGEST, MESSAGES, Message, Native, Select, bytes};
use super::sys::Got;
use super::{By, Model, Outcome, by, cat, errno, open, read, same, status, write};
use crate::common::{World, eventually};

fn line((_, data): &Message) -> Vec<u8> {
    let end: &[u8] = if data.ends_with(b"\n") { b"" } else { b"\n" };
    [data, end].concat()
}

fn tagged(message: &Message) -> Vec<u8> {
    [format!("{}\t", message.0).as_bytes(), &line(message)].concat()
}

#[derive(Clone, Debug)]
pub enum Step {
    /// Sends a message: the C call; the queue's file; that of the tag.
    Send(Way, i64, Vec<u8>),
    /// Takes one, in pieces of so many bytes where it is by a file.
    Receive(By, Select, usize),
    /// Writes to the lines that are open, and reads from them.
    WriteLines(Vec<u8>),
    ReadLines(usize),
    /// Closes them and opens them again.
    CloseLines,
    /// Sends these lines, takes all.
    WriteTagged(Vec<Message>),
    ReadTagged,
    Drain,
    Truncate(u64),
    Chmod(By, u32),
    Chown(By, u32, u32),
    /// Sets the capacity of a System V queue.
    Capacity(By, u64),
    /// Removes it and makes it anew.
    Renew(By, Make),
}

#[derive(Clone, Copy, Debug)]
pub enum Way {
    C,
    File,
    Tag,
}

#[derive(Clone, Copy, Debug)]
pub enum Make {
    C,
    Touch,
    Create,
}

pub struct Queue<N: Native> {
    mount: PathBuf,
    native: N,
    /// Open all the time.
    lines: Option<File>,
    messages: Vec<Message>,
    capacity: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    /// What the lines have been written without a newline, and have not been read of.
    unfinished: Vec<u8>,
    pending: Vec<u8>,
}

impl<N: Native> Queue<N> {
    fn file(&self) -> PathBuf {
        self.mount.join(N::PATH)
    }

    fn control(&self, name: &str) -> PathBuf {
        self.mount.join("ctl").join(N::PATH).join(name)
    }

    /// What sending through the mount has to give.
    fn accept(&mut self, tag: i64, data: &[u8]) -> Got<()> {
        if !N::VALID.contains(&tag) {
            return Err(Errno::EINVAL);
        }
        if data.len() > LONGEST {
            return Err(Errno::EMSGSIZE);
        }
        if !N::fits(&self.messages, self.capacity, data.len()) {
            return Err(Errno::EAGAIN);
        }
        self.messages.push((tag, data.to_vec()));
        Ok(())
    }

    fn take(&mut self, select: Select) -> Option<Message> {
        N::next(&self.messages, select).map(|place| self.messages.remove(place))
    }

    /// All messages in the order in which they come.
    fn take_all(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.take(ANY)).collect()
    }

    fn send(&mut self, way: Way, tag: i64, data: &[u8]) -> Outcome {
        let (tag, done) = match way {
            Way::C => (tag, self.native.send(tag, data)),
            Way::File => (N::PLAIN, write(&self.file(), data).map(drop)),
            Way::Tag => {
                let path = self.control(&format!("{}/{tag}", N::TAGS));
                (tag, write(&path, data).map(drop))
            }
        };
        let expected = match way {
            // Only what is a priority has a file.
            Way::Tag if !N::SYSTEM_V && !N::VALID.contains(&tag) => Err(Errno::ENOENT),
            // What is empty does not reach a FUSE file system.
            Way::File | Way::Tag if data.is_empty() => Ok(()),
            Way::File | Way::Tag => self.accept(tag, data),
            Way::C => self.accept(tag, data).map_err(|errno| match errno {
                Errno::EMSGSIZE => N::TOO_LONG,
                errno => errno,
            }),
        };
        same("sent", done, expected)
    }

    fn receive(&mut self, by: By, select: Select, size: usize) -> Outcome {
        let expected = self.take(select);
        let Select { number, except } = select;
        let path = match number {
            0 => self.file(),
            _ if except => self.control(&format!("except/{number}")),
            _ => self.control(&format!("type/{number}")),
        };
        match by {
            By::C => same("received", self.native.receive(select), expected.ok_or(N::EMPTY)),
            By::Mount => {
                let file = open(&path, libc::O_RDONLY)
                    .map_err(|errno| TestCaseError::fail(errno.desc()))?;
                let mut data = Vec::new();
                let outcome = loop {
                    match read(&file, size) {
                        Ok(piece) if piece.is_empty() => break Ok(data),
                        Ok(piece) => data.extend(piece),
                        Err(errno) => break Err(errno),
                    }
                };
                same("read", outcome, expected.map(|(_, data)| data).ok_or(Errno::EAGAIN))
            }
        }
    }

    fn write_lines(&mut self, data: &[u8]) -> Outcome {
        let Some(mut file) = self.lines.as_ref() else { return Ok(()) };
        let done = file.write(data).map_err(|error| errno(&error));
        let mut count = 0;
        let outcome = loop {
            let rest = &data[count..];
            let end = rest.iter().position(|byte| *byte == b'\n');
            let whole = [&self.unfinished, &rest[..end.unwrap_or(rest.len())]].concat();
            if whole.len() > LONGEST {
                self.unfinished.clear();
                break Err(Errno::EMSGSIZE);
            }
            let Some(end) = end else {
                self.unfinished = whole;
                break Ok(data.len());
            };
            if let Err(errno) = self.accept(N::PLAIN, &whole) {
                break Err(errno);
            }
            self.unfinished.clear();
            count += end + 1;
        };
        // What has been sent counts more than what could not be.
        same("lines written", done, outcome.or(if count > 0 { Ok(count) } else { outcome }))
    }

    fn read_lines(&mut self, size: usize) -> Outcome {
        let Some(file) = &self.lines else { return Ok(()) };
        let done = read(file, size);
        if self.pending.is_empty() {
            self.pending = self.take(ANY).as_ref().map(line).unwrap_or_default();
        }
        if self.pending.is_empty() {
            return same("lines read", done, Err(Errno::EAGAIN));
        }
        let piece = self.pending.drain(..size.min(self.pending.len())).collect();
        same("lines read", done, Ok(piece))
    }

    fn close_lines(&mut self) {
        // What is unfinished is sent at the close, which would wait for room.
        let last = std::mem::take(&mut self.unfinished);
        if !last.is_empty() && !N::fits(&self.messages, self.capacity, last.len()) {
            self.unfinished = last;
            return;
        }
        self.lines = None;
        self.pending.clear();
        if !last.is_empty() {
            self.messages.push((N::PLAIN, last));
        }
        // Closing a file is not waited for by the C calls.
        let count = self.messages.len() as u64;
        eventually("the last line is sent", || self.native.seen().unwrap().0 == count);
        self.open_lines();
    }

    fn open_lines(&mut self) {
        self.lines = Some(open(&self.control("lines"), libc::O_RDWR).unwrap());
    }

    fn write_tagged(&mut self, messages: &[Message]) -> Outcome {
        let lines: Vec<_> = messages.iter().map(tagged).collect();
        let done = write(&self.control("tagged"), lines.concat());
        let (mut count, mut refused) = (0, None);
        for ((tag, data), line) in messages.iter().zip(lines) {
            if let Err(errno) = self.accept(*tag, data) {
                refused = Some(errno);
                break;
            }
            count += line.len();
        }
        let expected = match refused {
            Some(errno) if count == 0 => Err(errno),
            _ => Ok(count),
        };
        same("tagged lines written", done, expected)
    }

    fn renew(&mut self, by: By, make: Make) {
        self.empty();
        match by {
            By::C => self.native.remove().unwrap(),
            By::Mount => fs::remove_file(self.file()).unwrap(),
        }
        let native = made(&self.mount, make);
        let owner = nix::unistd::geteuid().as_raw();
        self.messages.clear();
        self.unfinished.clear();
        self.pending.clear();
        (self.native, self.capacity) = (native, N::CAPACITY);
        (self.mode, self.uid, self.gid) = (0o600, owner, nix::unistd::getegid().as_raw());
        self.open_lines();
    }

    /// Nothing is to wait for room when the lines are closed.
    fn empty(&mut self) {
        while self.native.receive(ANY).is_ok() {}
        self.lines = None;
    }
}

/// A new queue.
fn made<N: Native>(mount: &Path, make: Make) -> N {
    let path = mount.join(N::PATH);
    let attributes = match N::SYSTEM_V {
        true => format!("qbytes={BYTES}"),
        false => format!("maxmsg={MESSAGES} msgsize={LONGEST}"),
    };
    match make {
        Make::C => return N::make().unwrap(),
        Make::Touch => drop(open(&path, libc::O_CREAT | libc::O_WRONLY).unwrap()),
        Make::Create => {
            let line = format!("{} mode=0600 {attributes}\n", N::PATH);
            assert_eq!(write(&mount.join("ctl/create"), &line), Ok(line.len()));
        }
    }
    N::find().unwrap()
}

impl<N: Native> Drop for Queue<N> {
    fn drop(&mut self) {
        self.empty();
        let _ = self.native.remove();
    }
}

impl<N: Native> Model for Queue<N> {
    type Step = Step;

    // So that `touch` makes what C does.
    const ARGUMENTS: &'static [&'static str] = &["-o", "mq_maxmsg=3,mq_msgsize=16"];

    fn prepare() {
        N::prepare();
    }

    fn steps() -> BoxedStrategy<Step> {
        let data = || {
            let byte = prop_oneof![Just(b'\n'), any::<u8>()];
            prop_oneof![4 => vec(byte.clone(), 0..8), 1 => vec(byte, LONGEST - 1..LONGEST + 2)]
        };
        let plain = || {
            data().prop_map(|mut data| {
                data.retain(|byte| *byte != b'\n');
                data
            })
        };
        let tag = || {
            let some = [*N::VALID.end(), N::VALID.end().wrapping_add(1), N::VALID.start() - 1];
            prop_oneof![8 => 1..4_i64, 1 => prop::sample::select(some.to_vec())]
        };
        let way = prop_oneof![Just(Way::C), Just(Way::File), Just(Way::Tag)];
        let make = prop_oneof![Just(Make::C), Just(Make::Touch), Just(Make::Create)];
        let capacity = match N::SYSTEM_V {
            true => (by(), 1..=BYTES).prop_map(|(by, bytes)| Step::Capacity(by, bytes)).boxed(),
            false => Just(Step::Drain).boxed(),
        };
        let id = || prop_oneof![Just(0_u32), 1..70_000_u32];
        prop_oneof![
            8 => (way, tag(), data()).prop_map(|(way, tag, data)| Step::Send(way, tag, data)),
            6 => (by(), N::selects(), 1..24_usize)
                .prop_map(|(by, select, size)| Step::Receive(by, select, size)),
            4 => data().prop_map(Step::WriteLines),
            4 => (1..24_usize).prop_map(Step::ReadLines),
            1 => Just(Step::CloseLines),
            2 => vec((tag(), plain()), 1..4).prop_map(Step::WriteTagged),
            1 => Just(Step::ReadTagged),
            1 => Just(Step::Drain),
            1 => prop_oneof![3 => Just(0), 1 => any::<u64>().prop_map(|size| size >> 1)]
                .prop_map(Step::Truncate),
            1 => (by(), 0..=0o777_u32).prop_map(|(by, mode)| Step::Chmod(by, mode)),
            1 => (by(), id(), id()).prop_map(|(by, uid, gid)| Step::Chown(by, uid, gid)),
            1 => capacity,
            1 => (by(), make).prop_map(|(by, make)| Step::Renew(by, make)),
        ]
        .boxed()
    }

    fn new(world: &World) -> Self {
        let mut queue = Self {
            mount: world.path(),
            native: made(&world.path(), Make::C),
            lines: None,
            messages: Vec::new(),
            capacity: N::CAPACITY,
            mode: 0o600,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            unfinished: Vec::new(),
            pending: Vec::new(),
        };
        queue.open_lines();
        queue
    }

    fn step(&mut self, step: &Step) -> Outcome {
        let file = self.file();
        match step {
            Step::Send(way, tag, data) => self.send(*way, *tag, data),
            Step::Receive(by, select, size) => self.receive(*by, *select, *size),
            Step::WriteLines(data) => self.write_lines(data),
            Step::ReadLines(size) => self.read_lines(*size),
            Step::CloseLines => {
                self.close_lines();
                Ok(())
            }
            Step::WriteTagged(messages) => self.write_tagged(messages),
            Step::ReadTagged => {
                let done = open(&self.control("tagged"), libc::O_RDONLY)
                    .and_then(|file| read(&file, 1 << 16));
                let text = self.take_all().iter().map(tagged).collect::<Vec<_>>().concat();
                let expected = if text.is_empty() { Err(Errno::EAGAIN) } else { Ok(text) };
                same("tagged lines read", done, expected)
            }
            Step::Drain => {
                let done = fs::read(self.control("drain")).map_err(|error| errno(&error));
                let text = self.take_all().iter().map(line).collect::<Vec<_>>().concat();
                same("drained", done, Ok(text))
            }
            Step::Truncate(size) => {
                let expected = if *size == 0 { Ok(()) } else { Err(Errno::EINVAL) };
                if expected.is_ok() {
                    self.messages.clear();
                }
                same("truncated", nix::unistd::truncate(&file, *size as i64), expected)
            }
            Step::Chmod(by, mode) => {
                self.mode = *mode;
                let mode = Permissions::from_mode(*mode);
                let done = match by {
                    By::C => self.native.chmod(self.mode),
                    By::Mount => fs::set_permissions(&file, mode).map_err(|error| errno(&error)),
                };
                same("mode changed", done, Ok(()))
            }
            Step::Chown(by, uid, gid) => {
                (self.uid, self.gid) = (*uid, *gid);
                let done = match by {
                    By::C => self.native.chown(*uid, *gid),
                    By::Mount => {
                        nix::unistd::chown(&file, Some((*uid).into()), Some((*gid).into()))
                    }
                };
                same("owner changed", done, Ok(()))
            }
            Step::Capacity(by, capacity) => {
                self.capacity = *capacity;
                let done = match by {
                    By::C => self.native.set_capacity(*capacity),
                    By::Mount => write(&self.control("qbytes"), format!("{capacity}\n")).map(drop),
                };
                same("capacity changed", done, Ok(()))
            }
            Step::Renew(by, make) => {
                self.renew(*by, *make);
                Ok(())
            }
        }
    }

    fn compare(&self) -> Outcome {
        let (count, bytes) = (self.messages.len() as u64, bytes(&self.messages));
        let expected = (count, bytes, self.capacity, self.mode, self.uid, self.gid);
        same("as C sees it", self.native.seen(), Ok(expected))?;

        let status = status(&self.control("status")).unwrap_or_default();
        let field = |name: &str| status.get(name).cloned().unwrap_or_default();
        let number = |name: &str| field(name).parse::<u64>().ok();
        let numbers = N::FIELDS.map(number);
        same("status", numbers, [Some(count), Some(bytes), Some(self.capacity)])?;
        let owner = (number("uid"), number("gid"));
        same("owner in status", owner, (Some(self.uid.into()), Some(self.gid.into())))?;
        same("mode in status", field("mode"), format!("{:04o}", self.mode))?;

        let file = self.lines.as_ref().unwrap();
        let paths = [fs::metadata(self.file()), file.metadata()];
        for (path, (what, size)) in paths.iter().zip([("stat", bytes), ("fstat of lines", 0)]) {
            let Ok(stat) = path else { return same(what, path.is_ok(), true) };
            if what == "stat" {
                let seen = (stat.size(), stat.mode() & 0o7777, stat.uid(), stat.gid());
                same(what, seen, (size, self.mode, self.uid, self.gid))?;
            } else {
                let seen = (stat.size(), stat.mode() & 0o7777);
                same(what, seen, (size, self.mode & 0o666))?;
            }
        }

        let mut ready = [PollFd::new(file.as_fd(), PollFlags::POLLIN | PollFlags::POLLOUT)];
        let done = poll(&mut ready, PollTimeout::ZERO).map(drop);
        let events = ready[0].revents().unwrap_or(PollFlags::empty());
        let mut expected = PollFlags::empty();
        expected.set(PollFlags::POLLIN, count > 0 || !self.pending.is_empty());
        expected.set(PollFlags::POLLOUT, N::fits(&self.messages, self.capacity, 1));
        same("poll", (done, events), (Ok(()), expected))?;

        let wait = open(&self.control("wait"), libc::O_RDONLY).and_then(|file| read(&file, 1));
        same("wait", wait, if count > 0 { Ok(vec![]) } else { Err(Errno::EAGAIN) })?;
        if N::SYSTEM_V {
            let text = self.messages.iter().map(tagged).collect::<Vec<_>>().concat();
            let peek = fs::read(self.control("peek")).map_err(|error| errno(&error));
            same("peek", peek, Ok(text))?;
            same("qbytes", cat(&self.control("qbytes")), Ok(format!("{}\n", self.capacity)))?;
        }
        let directory = self.mount.join(N::PATH.rsplit_once('/').unwrap().0);
        let names = fs::read_dir(directory).map(|entries| entries.flatten().count());
        same("listed", names.ok(), Some(1))
    }
}
