//! `mq/NAME`: POSIX message queues, `mq_open("/NAME")` (`mq_overview(7)`).
//!
//! | operation | effect |
//! | --- | --- |
//! | `write` | sends one message at priority 0 (`mq_send(3)`) |
//! | `read` | takes the oldest message of the highest priority (`mq_receive(3)`), then end of file |
//! | `truncate` to 0 | discards what is queued; another size is `EINVAL` |
//! | size | bytes queued |
//!
//! The queues are reached through their own file system (ipc/mqueue.c), mounted privately where
//! that is permitted, else through a mounted /dev/mqueue. A descriptor opened there is a full
//! message queue descriptor.

mod cost;
mod quiet;
#[allow(unsafe_code)]
mod sys;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;

use self::quiet::Quiet;
use super::control::{self, Access, Control, ControlDir, Serve};
use super::drain::{Drain, NotEmpty};
use super::fsdir::{self, FsDir};
use super::lines::{LinesFile, Tags};
use super::message::{MessageFile, Messages, check_length};
use super::rights::Rights;
use super::{Attributes, Feature, Kind, Limit, Options, Profile, shared_mode, sysctl};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::status::Fields;
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, DirEntry, FileType, How, Io, Item, Object, ObjectId, Opened,
    Traces, Wait, Waits,
};

/// The kind's profile.
pub const PROFILE: Profile = Profile {
    path: "mq",
    about: "POSIX message queues",
    texts: false,
    children: Children::PerWriter,
    attributes: &["maxmsg", "msgsize"],
    features: &[Feature {
        name: "private mqueue",
        about: "message queues without a mounted /dev/mqueue",
        probe: || Ok(sys::mount_privately().map(drop)?),
        without: "message queues need a mounted /dev/mqueue",
    }],
    open,
};

/// The queues of the current IPC namespace.
pub struct Queues {
    dir: FsDir,
    options: Options,
    quiet: Quiet,
}

fn open(options: &Options) -> Result<Arc<dyn Kind>> {
    let dir = match sys::mount_privately() {
        Ok(dir) => dir,
        Err(errno) => sys::open_mounted().map_err(|_| {
            Error::because(
                errno,
                "no message queues: mounting them privately is not permitted and no mqueue file \
                 system is mounted on /dev/mqueue; as root: mkdir -p /dev/mqueue && mount -t \
                 mqueue none /dev/mqueue",
            )
        })?,
    };
    let (dir, quiet) = (FsDir::new(dir), Quiet::default());
    Ok(Arc::new(Queues { dir, options: options.clone(), quiet }))
}

impl Kind for Queues {
    fn make(&self, caller: Caller, name: &[u8], mode: u32, attributes: &Attributes) -> Result<()> {
        let given = |name| attributes.get(name).map(|value| value.try_into().unwrap_or(i64::MAX));
        let maxmsg = given("maxmsg").or(self.options.mq_maxmsg);
        let msgsize = given("msgsize").or(self.options.mq_msgsize);
        let size = match (maxmsg, msgsize) {
            (None, None) => None,
            _ => Some((
                maxmsg.map_or_else(|| sys::default("msg_default"), Ok)?,
                msgsize.map_or_else(|| sys::default("msgsize_default"), Ok)?,
            )),
        };
        let c_name = fsdir::c_name(name)?;
        // A queue is charged to the real user of the process that makes it.
        caller
            .act_as_process(|| sys::create(&c_name, mode, size))
            .map_err(|error| self.explain(error, caller, size))
    }

    fn limits(&self, caller: Caller) -> Vec<Limit> {
        let mut limits = Vec::new();
        if let (Ok(most), Ok(there)) = (sysctl("fs/mqueue/queues_max"), self.dir.list(Wait::Block))
        {
            let raise = "sysctl fs.mqueue.queues_max=N";
            limits.push(Limit::used("mq_queues", most, there.len() as u64, raise));
        }
        for (name, file, raise) in [
            ("mq_maxmsg", "msg_max", "sysctl fs.mqueue.msg_max=N"),
            ("mq_msgsize", "msgsize_max", "sysctl fs.mqueue.msgsize_max=N"),
        ] {
            let max = sysctl(&format!("fs/mqueue/{file}"));
            limits.extend(max.map(|max| Limit::each(name, max, raise)));
        }
        let (_, used) = self.charged_to(caller.uid);
        let raise = "ulimit -q BYTES; msgqueue in limits.conf(5); LimitMSGQUEUE= of a unit";
        limits.push(Limit { name: "mq_bytes", max: limit(caller), used: Some(used), raise });
        limits
    }
}

/// Whether queues of the size that the mount options say can be made: by a daemon that may pass the
/// configured limits, up to the built-in ones (`mq_overview(7)`).
pub(super) fn check(options: &Options) -> Result<()> {
    let resource = caps::Capability::CAP_SYS_RESOURCE;
    let raised = caps::has_cap(None, caps::CapSet::Effective, resource).unwrap_or(false);
    for (name, value, file, built_in) in [
        ("mq_maxmsg", options.mq_maxmsg, "msg_max", 65_536),
        ("mq_msgsize", options.mq_msgsize, "msgsize_max", 16_777_216),
    ] {
        let Some(value) = value else { continue };
        let most = if raised { built_in } else { sys::default(file).unwrap_or(built_in) };
        if value > most {
            let how = match raised {
                true => "which is the kernel's own limit".into(),
                false => format!("or have it raised: sysctl fs.mqueue.{file}=N"),
            };
            let sentence =
                format!("mount option {name}: {value} is too much; give {most} at most, {how}");
            return Err(Error::because(Errno::EINVAL, sentence));
        }
    }
    Ok(())
}

/// What the caller may spend on queues; `None` for all they like.
fn limit(caller: Caller) -> Option<u64> {
    // Root's queues are made by the daemon itself.
    if caller.uid == 0 { sys::own_limit() } else { cost::limit(caller) }
}

/// The smaller one of two numbers of the queues' configuration.
fn smaller(one: &str, other: &str) -> Result<i64> {
    Ok(sys::default(one)?.min(sys::default(other)?))
}

impl Queues {
    /// How many of a user's queues there are, and what they are charged.
    fn charged_to(&self, uid: u32) -> (usize, u64) {
        let cost = |entry: DirEntry| {
            let queue = self.dir.open(&entry.name, OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok()?;
            let owner = nix::sys::stat::fstat(&queue).ok()?.st_uid;
            let sys::Attributes { maxmsg, msgsize, .. } = sys::attributes(queue.as_fd()).ok()?;
            (owner == uid).then(|| cost::of(maxmsg as u64, msgsize as u64))
        };
        let costs: Vec<u64> =
            self.dir.list(Wait::Block).unwrap_or_default().into_iter().filter_map(cost).collect();
        (costs.len(), costs.iter().sum())
    }

    /// Says which limit a queue that could not be made was over.
    fn explain(&self, error: Error, caller: Caller, size: Option<(i64, i64)>) -> Error {
        let most = |name: &str| sysctl(&format!("fs/mqueue/{name}")).unwrap_or(0);
        let sentence = match (error.errno(), size) {
            (Errno::EMFILE, size) => {
                // The defaults are cut to what is permitted.
                let size = size.map_or_else(
                    || {
                        let msgsize = smaller("msgsize_default", "msgsize_max")?;
                        Ok((smaller("msg_default", "msg_max")?, msgsize))
                    },
                    Ok::<_, Error>,
                );
                let (Some(limit), Ok((maxmsg, msgsize))) = (limit(caller), size) else {
                    return error;
                };
                let cost = cost::of(maxmsg as u64, msgsize as u64);
                cost::exceeded(caller.uid, limit, cost, self.charged_to(caller.uid))
            }
            (Errno::ENOSPC, _) => {
                let there = self.dir.list(Wait::Block).map_or(0, |there| there.len());
                format!("there are {there} queues; fs.mqueue.queues_max is {}", most("queues_max"))
            }
            (Errno::EOVERFLOW, None) => return fsdir::explain_unmapped(error, caller),
            (Errno::EINVAL | Errno::EOVERFLOW, Some((maxmsg, msgsize))) => {
                let (mut msg_max, mut msgsize_max) = (most("msg_max"), most("msgsize_max"));
                if caller.uid == 0 && cost::is_unlimited() {
                    // Root may go beyond, up to what is built in.
                    msg_max = msg_max.max(HARD_MSGMAX);
                    msgsize_max = msgsize_max.max(HARD_MSGSIZEMAX);
                }
                format!(
                    "maxmsg={maxmsg} must be 1 to {msg_max} (fs.mqueue.msg_max) and \
                     msgsize={msgsize} 1 to {msgsize_max} (fs.mqueue.msgsize_max)"
                )
            }
            _ => return error,
        };
        Error::because(error.errno(), sentence)
    }
}

/// What root may go up to whatever the configuration says (`HARD_MSGMAX`, `HARD_MSGSIZEMAX`).
const HARD_MSGMAX: u64 = 65_536;
const HARD_MSGSIZEMAX: u64 = 16 * 1024 * 1024;

impl Dir for Queues {
    fn attr(&self) -> Result<Attr> {
        // As the kernel's own directory: everybody may make, only owners may remove.
        Ok(Attr::directory(0, shared_mode()))
    }

    fn children(&self) -> Children {
        PROFILE.children
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        if let Some(known) = self.quiet.recall(name) {
            let attr = self.dir.stat(name);
            match attr.as_ref().ok().and_then(|attr| known.size(attr)) {
                Some(size) => return Ok(Attr { size, ..attr? }),
                None => self.quiet.forget(name),
            }
        }
        let time = SystemTime::now();
        let opened = self.dir.open(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK);
        match opened {
            Ok(queue) => {
                let attr = queue_attr(&queue)?;
                let again = || Some(fsdir::attr(&nix::sys::stat::fstat(&queue).ok()?));
                self.quiet.learn(name, time, &attr, again);
                Ok(attr)
            }
            // A user's daemon may not open what is not theirs; the name can be seen all the same.
            Err(error) if error.errno() == Errno::EACCES => {
                Ok(Attr { size: 0, ..self.dir.stat(name)? })
            }
            Err(error) => Err(error),
        }
    }

    fn item(self: Arc<Self>, name: &[u8], attr: &Attr) -> Result<Item> {
        let queue = Queue { kind: self, name: name.into(), ident: attr.ident };
        Ok(Item::Object(Arc::new(queue)))
    }

    fn list(&self, wait: Wait) -> Result<Vec<DirEntry>> {
        let mut entries = self.dir.list(wait)?;
        entries.retain(|entry| entry.file_type == FileType::Regular);
        Ok(entries)
    }

    fn makes_slowly(&self) -> bool {
        // By a process.
        true
    }

    fn create(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.make(caller, name, mode, &Attributes::default())
    }

    fn remove(&self, caller: Caller, name: &[u8]) -> Result<()> {
        self.dir.remove(caller, name)
    }
}

/// A queue by its name.
struct Queue {
    kind: Arc<Queues>,
    name: Box<[u8]>,
    ident: u64,
}

impl Queue {
    /// Opens the queue, if the name still stands for it.
    fn descriptor(&self, flags: OFlag) -> Result<(OwnedFd, Attr)> {
        let queue = self.kind.dir.open(&self.name, flags)?;
        let attr = fsdir::attr(&nix::sys::stat::fstat(&queue)?);
        if attr.ident == self.ident { Ok((queue, attr)) } else { fail(Errno::ESTALE) }
    }

    /// Opens the queue to take or send messages. If that is permitted, for both: what a killed
    /// reader took is to be given back, and how many bytes are queued only a reader is told.
    fn descriptor_to(&self, read: bool, write: bool) -> Result<(Descriptor, Attr)> {
        let opened = match self.descriptor(OFlag::O_RDWR) {
            Err(error) if error.errno() == Errno::EACCES && read != write => {
                self.descriptor(if read { OFlag::O_RDONLY } else { OFlag::O_WRONLY })
            }
            opened => opened,
        };
        let (fd, attr) = opened?;
        Ok((Descriptor::new(fd), attr))
    }

    fn lines(&self, cx: &Cx, how: &How, tagged: bool) -> Result<Opened> {
        let (queue, _) = self.descriptor_to(how.read, how.write)?;
        let file = LinesFile::new(queue, &TAGS, tagged, cx, how);
        Ok(Opened { handle: Arc::new(file), io: Io::Messages })
    }

    /// Discards what is queued at this moment.
    fn discard(&self) -> Result<()> {
        let (queue, _) = self.descriptor(OFlag::O_RDWR | OFlag::O_NONBLOCK)?;
        let sys::Attributes { queued, msgsize, .. } = sys::attributes(queue.as_fd())?;
        let mut message = Vec::new();
        for _ in 0..queued {
            match sys::receive(queue.as_fd(), msgsize, &mut message, Wait::Try) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl Object for Queue {
    fn attr(&self) -> Result<Attr> {
        let attr = self.kind.find(&self.name)?;
        if attr.ident == self.ident { Ok(attr) } else { fail(Errno::ENOENT) }
    }

    fn change(&self, cx: &Cx, change: &Change) -> Result<()> {
        match change.size {
            None => {}
            Some(0) => {
                Rights::from(&Object::attr(self)?).check_taking(cx.caller)?;
                self.discard()?;
            }
            Some(size) => {
                return Err(Error::because(
                    Errno::EINVAL,
                    format!("a queue cannot be made {size} bytes long; 0 discards what is queued"),
                ));
            }
        }
        self.kind.dir.change(cx.caller, &self.name, self.ident, change)
    }

    fn open(&self, _cx: &Cx, how: &How) -> Result<Opened> {
        let (queue, attr) = self.descriptor_to(how.read, how.write)?;
        how.verify(&attr)?;
        let seekable = !how.write;
        let file = MessageFile::new(queue, 0, seekable);
        Ok(Opened { handle: Arc::new(file), io: Io::Messages })
    }

    fn controls(self: Arc<Self>) -> Option<Arc<dyn Dir>> {
        Some(Arc::new(ControlDir::new(self, CONTROLS)))
    }

    fn id(&self) -> Option<ObjectId> {
        Some(ObjectId { kind: PROFILE.path, ident: self.ident })
    }

    fn traces(&self) -> Result<Traces> {
        let file = self.kind.dir.identify(&self.name, self.ident)?;
        Ok(Traces { file: Some(file), waits: Some(Waits::Queue), ..Traces::default() })
    }

    fn status(&self) -> Result<Fields> {
        let (queue, attr) = self.descriptor(OFlag::O_RDONLY)?;
        let attributes = sys::attributes(queue.as_fd())?;
        let info = sys::info(queue.as_fd())?;
        Ok(Fields::default()
            .text("name", &*self.name)
            .mode(attr.mode)
            .number("uid", attr.uid)
            .number("gid", attr.gid)
            .number("maxmsg", attributes.maxmsg)
            .number("msgsize", attributes.msgsize as u64)
            .number("curmsgs", attributes.queued)
            .number("bytes", info.bytes)
            .number("notify_pid", info.notify_pid)
            .number("notify_signal", info.notify_signal)
            .times(&attr))
    }
}

/// `ctl/mq/NAME/`.
const CONTROLS: &[Control<Queue>] = &[
    Control {
        name: "status",
        access: Access::Read,
        about: "what is known of the queue, as name=value lines",
        serve: Serve::Sh(Queue::status),
    },
    Control {
        name: "status.json",
        access: Access::Read,
        about: "the same as JSON",
        serve: Serve::Json(Queue::status),
    },
    control::users(),
    control::waiters(),
    Control {
        name: "lines",
        access: Access::ReadWrite,
        about: "a stream of lines: each is one message",
        serve: Serve::Open(|queue, cx, how| queue.lines(cx, how, false)),
    },
    Control {
        name: "tagged",
        access: Access::ReadWrite,
        about: "the same with PRIORITY<TAB> before each line",
        serve: Serve::Open(|queue, cx, how| queue.lines(cx, how, true)),
    },
    Control {
        name: "drain",
        access: Access::Read,
        about: "takes all that is queued now, as lines",
        serve: Serve::Open(|queue, _, _| {
            let file = Drain::new(queue.descriptor_to(true, false)?.0)?;
            Ok(Opened { handle: Arc::new(file), io: Io::Messages })
        }),
    },
    Control {
        name: "wait",
        access: Access::Read,
        about: "ends when the queue is not empty; takes nothing",
        serve: Serve::Open(|queue, _, _| {
            let file = NotEmpty::new(queue.descriptor_to(true, false)?.0);
            Ok(Opened { handle: Arc::new(file), io: Io::Messages })
        }),
    },
    Control {
        name: "priority",
        access: Access::Write,
        about: "priority/P sends at priority P",
        serve: Serve::Numbers {
            valid: 0..=PRIORITY_MAX,
            listed: |_| Ok(vec![0]),
            open: |queue, priority, _, how| {
                let (queue, _) = queue.descriptor_to(how.read, how.write)?;
                let file = MessageFile::control(queue, priority, false);
                Ok(Opened { handle: Arc::new(file), io: Io::Messages })
            },
        },
    },
];

/// The highest priority (`sysconf(_SC_MQ_PRIO_MAX)` - 1).
const PRIORITY_MAX: i64 = 32767;

static TAGS: Tags = Tags { name: "priority", valid: 0..=PRIORITY_MAX, default: 0 };

/// How long what is left at a close waits for room before it looks whether the queue is there
/// still, and how often it does so again when it is not.
const A_WAIT: Duration = Duration::from_secs(1);
const REMOVED_WAITS: u32 = 3;

/// An open queue, blocking; `Wait::Try` is a wait that is over already.
struct Descriptor {
    fd: OwnedFd,
    /// The longest message, which never changes; asked for when it is first needed.
    msgsize: OnceLock<usize>,
}

impl Descriptor {
    fn new(fd: OwnedFd) -> Self {
        Self { fd, msgsize: OnceLock::new() }
    }

    fn msgsize(&self) -> Result<usize> {
        if let Some(size) = self.msgsize.get() {
            Ok(*size)
        } else {
            let size = sys::attributes(self.fd.as_fd())?.msgsize;
            Ok(*self.msgsize.get_or_init(|| size))
        }
    }

    fn too_long(&self, length: usize) -> Error {
        match (check_length(length), self.msgsize()) {
            (Err(error), _) | (Ok(()), Err(error)) => error,
            (Ok(()), Ok(msgsize)) => Error::because(
                Errno::EMSGSIZE,
                format!("the message has {length} bytes, the queue takes {msgsize}"),
            ),
        }
    }
}

impl Messages for Descriptor {
    fn send(&self, cx: &Cx, tag: i64, data: &[u8]) -> Result<()> {
        sys::send(self.fd.as_fd(), tag as u32, data, cx.wait).map_err(|errno| match errno {
            Errno::EMSGSIZE => self.too_long(data.len()),
            errno => errno.into(),
        })
    }

    fn send_left(&self, cx: &Cx, tag: i64, data: &[u8]) -> Result<()> {
        if cx.wait == Wait::Try {
            return self.send(cx, tag, data);
        }
        // A removed queue stays as long as somebody has it open, who may read it still; nobody says
        // who has. Whoever does takes a message now and then.
        let mut left = REMOVED_WAITS;
        loop {
            match sys::send_within(self.fd.as_fd(), tag as u32, data, A_WAIT) {
                Err(Errno::ETIMEDOUT) if nix::sys::stat::fstat(&self.fd)?.st_nlink > 0 => {}
                Err(Errno::ETIMEDOUT) if left > 0 => left -= 1,
                Err(Errno::ETIMEDOUT) => {
                    let reason = "the queue was full, has been removed, and nobody reads it";
                    return Err(Error::because(Errno::EIDRM, reason));
                }
                Err(Errno::EMSGSIZE) => return Err(self.too_long(data.len())),
                done => return Ok(done?),
            }
        }
    }

    fn receive(&self, cx: &Cx, message: &mut Vec<u8>) -> Result<i64> {
        let msgsize = self.msgsize()?;
        Ok(i64::from(sys::receive(self.fd.as_fd(), msgsize, message, cx.wait)?))
    }

    fn attr(&self) -> Result<Attr> {
        queue_attr(&self.fd)
    }

    fn longest(&self) -> Result<usize> {
        self.msgsize()
    }

    fn queued(&self) -> Result<u64> {
        Ok(sys::attributes(self.fd.as_fd())?.queued)
    }

    fn poll(&self, events: i16) -> i16 {
        sys::poll(self.fd.as_fd(), events, 0).unwrap_or(0)
    }

    fn wait_ready(&self, events: i16) -> Result<()> {
        Ok(sys::poll(self.fd.as_fd(), events, -1).map(drop)?)
    }
}

/// The attributes of an open queue, its size being the bytes queued.
fn queue_attr(queue: &OwnedFd) -> Result<Attr> {
    let attr = fsdir::attr(&nix::sys::stat::fstat(queue)?);
    let fd = queue.as_fd();
    // An empty queue need not be read, and reading it would touch its times.
    let size = match sys::attributes(fd)?.queued {
        0 => 0,
        _ => match sys::queued_bytes(fd) {
            Err(Errno::EBADF) => 0, // Open for writing alone.
            bytes => bytes?,
        },
    };
    Ok(Attr { size, ..attr })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::sys::{Info, parse_bytes, parse_info};

    #[test]
    fn the_queues_file_is_understood() {
        let text = "QSIZE:129        NOTIFY:0     SIGNO:10    NOTIFY_PID:8260  \n";
        assert_eq!(parse_info(text), Info { bytes: 129, notify_pid: 8260, notify_signal: 10 });
        assert_eq!(parse_info("nonsense"), Info::default());
        assert_eq!(parse_bytes(text.as_bytes()), 129);
        assert_eq!(parse_bytes(b"nonsense"), 0);
    }

    proptest! {
        #[test]
        fn the_queues_file_says_the_same_in_both_ways(bytes: u64, pid: u32, signal: u32) {
            // ipc/mqueue.c, mqueue_read_file
            let text = format!("QSIZE:{bytes:<10} NOTIFY:{:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n", 0);
            prop_assert_eq!(parse_info(&text), Info { bytes, notify_pid: pid, notify_signal: signal });
            prop_assert_eq!(parse_bytes(text.as_bytes()), bytes);
        }

        #[test]
        fn any_text_is_understood_somehow(text in "(QSIZE:)?[0-9]{0,25}\\PC{0,9}") {
            parse_info(&text);
            parse_bytes(text.as_bytes());
        }
    }
}
