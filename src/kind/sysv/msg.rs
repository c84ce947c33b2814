//! `sysv/msg/KEY`: System V message queues, `msgget(KEY)` (`sysvipc(7)`).
//!
//! | operation | effect |
//! | --- | --- |
//! | `write` | sends one message of type 1 (`msgsnd(2)`) |
//! | `read` | takes the oldest message of any type (`msgrcv(2)`), then end of file |
//! | `truncate` to 0 | discards what is queued; another size is `EINVAL` |
//! | size | bytes queued |
//! | times | last `msgrcv`, last `msgsnd`, last change |
//!
//! A message longer than `kernel.msgmax` is `EMSGSIZE`, as for every queue here, where `msgsnd(2)`
//! says `EINVAL`. One who waits for a queue that is removed gets `EIDRM`; so does whoever comes
//! later. Readiness for poll(2) is noticed within [`watch::INTERVAL`](super::watch::INTERVAL).

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::actors::Actors;
use super::endpoint::{Endpoint, Select, peek, removed};
use super::watch::Watch;
use super::{Family, Objects, Origin, Times, change_perm, perm_attr, perm_status};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result};
use crate::kind::control::{self, Access, Control, ControlDir, Serve};
use crate::kind::drain::{Drain, NotEmpty};
use crate::kind::gather::Batch;
use crate::kind::lines::{LinesFile, Tags};
use crate::kind::message::MessageFile;
use crate::kind::rights::Rights;
use crate::kind::{Attributes, Feature, Limit, Options, Profile, sysctl};
use crate::status::Fields;
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, How, Io, Object, ObjectId, Opened, Traces, Wait, Waits,
};

/// The kind's profile.
pub const PROFILE: Profile = Profile {
    path: "sysv/msg",
    about: "System V message queues",
    texts: false,
    children: Children::PerWriter,
    attributes: &["qbytes"],
    features: &[Feature {
        name: "MSG_COPY",
        about: "looking at queued messages: ctl/sysv/msg/KEY/peek",
        probe: probe_copy,
        without: "ctl/sysv/msg/KEY/peek shows no messages",
    }],
    open: |options: &Options| Objects::open(Queues::default(), options),
};

/// As many messages are discarded in the request loop.
const FEW: u64 = 256;

/// What `write` sends.
const PLAIN: i64 = 1;

/// The queues of the current IPC namespace.
pub struct Queues {
    actors: Actors,
    pub(super) watch: Watch,
    /// Room to receive into: a message that did not fit has made it larger.
    pub(super) room: AtomicUsize,
}

/// What [`Actors`] are asked for.
pub(super) const SENDER: u32 = 0;
pub(super) const RECEIVER: u32 = 1;

impl Default for Queues {
    fn default() -> Self {
        let watch = Watch::new(|| sys::in_use().ok());
        Self { actors: Actors::default(), watch, room: AtomicUsize::default() }
    }
}

impl Queues {
    pub(super) fn note(&self, id: i32, what: u32, cx: &Cx) {
        self.actors.note(id, what, cx.caller, |id| sys::stat(id).is_ok());
    }
}

impl Family for Queues {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn table(&self) -> &'static str {
        "/proc/sysvipc/msg"
    }

    fn id_of(&self, key: i32) -> Result<i32> {
        Ok(sys::get(key, 0)?)
    }

    fn attr(&self, id: i32) -> Result<Attr> {
        Ok(queue_attr(&sys::stat(id)?, id))
    }

    fn make(&self, _: Caller, key: i32, mode: u32, attributes: &Attributes) -> Result<()> {
        let id = sys::get(key, libc::IPC_CREAT | libc::IPC_EXCL | mode as i32)?;
        let Some(qbytes) = attributes.get("qbytes") else { return Ok(()) };
        set_qbytes(id, qbytes).inspect_err(|_| {
            let _ = sys::remove(id);
        })
    }

    fn remove(&self, caller: Caller, id: i32) -> Result<()> {
        caller.act(|| Ok(sys::remove(id)?))
    }

    fn limits(&self) -> Vec<Limit> {
        let max = |name| sysctl(&format!("kernel/{name}")).unwrap_or(0);
        let [queues, ..] = sys::in_use().unwrap_or_default();
        let count = u64::try_from(queues).unwrap_or(0);
        vec![
            Limit::used("sysv_msg_queues", max("msgmni"), count, "sysctl kernel.msgmni=N"),
            Limit::each("sysv_msg_size", max("msgmax"), "sysctl kernel.msgmax=N"),
            Limit::each("sysv_msg_qbytes", max("msgmnb"), "sysctl kernel.msgmnb=N"),
        ]
    }

    fn object(self: Arc<Self>, id: i32) -> Arc<dyn Object> {
        Arc::new(Queue { kind: self, id })
    }
}

/// Copies from a queue that nobody sees for longer than it takes.
fn probe_copy() -> Result<()> {
    let id = sys::get(libc::IPC_PRIVATE, 0o600)?;
    let copied = peek(id, 0, &mut Vec::new());
    let _ = sys::remove(id);
    copied.map(drop)
}

/// Bytes queued are what the file holds.
fn queue_attr(queue: &libc::msqid_ds, id: i32) -> Attr {
    let (read, write, change) = (queue.msg_rtime, queue.msg_stime, queue.msg_ctime);
    perm_attr(&queue.msg_perm, id, queue.__msg_cbytes, Times { read, write, change })
}

fn set_qbytes(id: i32, qbytes: u64) -> Result<()> {
    let mut queue = sys::stat(id).map_err(removed)?;
    queue.msg_qbytes = qbytes;
    sys::set(id, &queue).map_err(|errno| match errno {
        Errno::EPERM => {
            let most = sysctl("kernel/msgmnb").unwrap_or(0);
            let sentence = format!(
                "qbytes={qbytes}: the owner and the creator may set it up to kernel.msgmnb, which is \
                 {most}, and more needs CAP_SYS_RESOURCE"
            );
            Error::because(Errno::EPERM, sentence)
        }
        errno => removed(errno),
    })
}

/// A queue.
struct Queue {
    kind: Arc<Queues>,
    id: i32,
}

impl Queue {
    fn messages(&self, select: Select) -> Endpoint {
        let origin = sys::stat(self.id).ok().map(|queue| Origin::of(&queue.msg_perm));
        let (kind, found) = (Arc::clone(&self.kind), Arc::default());
        Endpoint { kind, id: self.id, origin, select, found }
    }

    /// Opens a file of ctl/ that sends with `tag` and takes what `select` says.
    fn selected(&self, how: &How, tag: i64, select: Select) -> Opened {
        let file = MessageFile::control(self.messages(select), tag, !how.write);
        Opened { handle: Arc::new(file), io: Io::Messages }
    }

    fn lines(&self, cx: &Cx, how: &How, tagged: bool) -> Opened {
        let file = LinesFile::new(self.messages(Select::ANY), &TAGS, tagged, cx, how);
        Opened { handle: Arc::new(file), io: Io::Messages }
    }

    /// Discards what is queued at this moment; a worker does it if that is much.
    fn discard(&self, cx: &Cx) -> Result<()> {
        let queued = sys::stat(self.id)?.msg_qnum;
        if queued > FEW && cx.wait == Wait::Try {
            return Err(Error::deferred());
        }
        let mut discarded = 0;
        let outcome = loop {
            if discarded == queued {
                break Ok(());
            }
            match sys::discard_one(self.id) {
                Ok(()) => discarded += 1,
                Err(Errno::ENOMSG) => break Ok(()),
                Err(errno) => break Err(errno.into()),
            }
        };
        if discarded > 0 {
            self.kind.note(self.id, RECEIVER, cx);
        }
        outcome
    }

    /// All messages that are queued, none of which is taken.
    fn peek(&self, _cx: &Cx) -> Result<Vec<u8>> {
        let (mut lines, mut message) = (Batch::default(), Vec::new());
        for index in 0.. {
            let Some(tag) = peek(self.id, index, &mut message)? else { break };
            lines.push(true, tag, &message);
        }
        Ok(lines.text)
    }

    fn qbytes(&self) -> Result<u64> {
        Ok(sys::stat(self.id).map_err(removed)?.msg_qbytes)
    }

    fn set_qbytes(&self, caller: Caller, qbytes: u64) -> Result<()> {
        caller.act(|| set_qbytes(self.id, qbytes))
    }
}

impl Object for Queue {
    fn attr(&self) -> Result<Attr> {
        self.kind.attr(self.id).map_err(Error::absent)
    }

    fn change(&self, cx: &Cx, change: &Change) -> Result<()> {
        match change.size {
            None => {}
            Some(0) => {
                Rights::from(&sys::stat(self.id)?.msg_perm).check_taking(cx.caller)?;
                self.discard(cx)?;
            }
            Some(size) => {
                return Err(Error::because(
                    Errno::EINVAL,
                    format!("a queue cannot be made {size} bytes long; 0 discards what is queued"),
                ));
            }
        }
        let mut queue = sys::stat(self.id)?;
        let mut perm = queue.msg_perm;
        change_perm(cx.caller, &mut perm, change, |perm| {
            queue.msg_perm = *perm;
            Ok(sys::set(self.id, &queue)?)
        })
    }

    fn check_rights(&self, caller: Caller, read: bool, write: bool) -> Result<()> {
        let Ok(queue) = sys::stat(self.id) else { return Ok(()) };
        super::check_rights(&queue.msg_perm, caller, read, write)
    }

    fn open(&self, _cx: &Cx, how: &How) -> Result<Opened> {
        // Gone since it was looked up: whatever has the name now is to be looked up in its turn.
        how.verify(&self.kind.attr(self.id).map_err(|_| Errno::ESTALE)?)?;
        let file = MessageFile::new(self.messages(Select::ANY), PLAIN, !how.write);
        Ok(Opened { handle: Arc::new(file), io: Io::Messages })
    }

    fn controls(self: Arc<Self>) -> Option<Arc<dyn Dir>> {
        Some(Arc::new(ControlDir::new(self, CONTROLS)))
    }

    fn id(&self) -> Option<ObjectId> {
        Some(ObjectId { kind: PROFILE.path, ident: self.id as u64 })
    }

    fn traces(&self) -> Result<Traces> {
        Ok(Traces { waits: Some(Waits::SystemVQueue(self.id)), ..Traces::default() })
    }

    fn unused(&self, gone: &dyn Fn(i64) -> bool) -> Result<Option<&'static str>> {
        let queue = sys::stat(self.id)?;
        let actor = |what, pid| self.kind.actors.shown(self.id, what, pid);
        let last = [actor(SENDER, queue.msg_lspid), actor(RECEIVER, queue.msg_lrpid)];
        let idle = queue.msg_qnum == 0 && last.iter().all(|pid| gone(i64::from(*pid)));
        Ok(idle.then_some("empty, nobody waits, the last sender and receiver have ended"))
    }

    fn status(&self) -> Result<Fields> {
        let queue = sys::stat(self.id)?;
        let actor = |what, pid| self.kind.actors.shown(self.id, what, pid);
        Ok(perm_status(&queue.msg_perm, self.id)
            .number("qnum", queue.msg_qnum)
            .number("cbytes", queue.__msg_cbytes)
            .number("qbytes", queue.msg_qbytes)
            .number("lspid", actor(SENDER, queue.msg_lspid))
            .number("lrpid", actor(RECEIVER, queue.msg_lrpid))
            .number("stime", queue.msg_stime)
            .number("rtime", queue.msg_rtime)
            .number("ctime", queue.msg_ctime))
    }
}

/// `ctl/sysv/msg/KEY/`.
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
        serve: Serve::Open(|queue, cx, how| Ok(queue.lines(cx, how, false))),
    },
    Control {
        name: "tagged",
        access: Access::ReadWrite,
        about: "the same with TYPE<TAB> before each line",
        serve: Serve::Open(|queue, cx, how| Ok(queue.lines(cx, how, true))),
    },
    Control {
        name: "drain",
        access: Access::Read,
        about: "takes all that is queued now, as lines",
        serve: Serve::Open(|queue, _, _| {
            let file = Drain::new(queue.messages(Select::ANY))?;
            Ok(Opened { handle: Arc::new(file), io: Io::Messages })
        }),
    },
    Control {
        name: "wait",
        access: Access::Read,
        about: "ends when the queue is not empty; takes nothing",
        serve: Serve::Open(|queue, _, _| {
            let file = NotEmpty::new(queue.messages(Select::ANY));
            Ok(Opened { handle: Arc::new(file), io: Io::Messages })
        }),
    },
    Control {
        name: "type",
        access: Access::ReadWrite,
        about: "type/T: sends with type T; takes the oldest of type T, of the lowest up to -T, 0 any",
        serve: Serve::Numbers {
            valid: i64::MIN..=i64::MAX,
            listed: |_| Ok(vec![0]),
            open: |queue, number, _, how| {
                Ok(queue.selected(how, number, Select { number, except: false }))
            },
        },
    },
    Control {
        name: "except",
        access: Access::Read,
        about: "except/T: takes the oldest that is not of type T",
        serve: Serve::Numbers {
            valid: 1..=i64::MAX,
            listed: |_| Ok(Vec::new()),
            open: |queue, number, _, how| {
                Ok(queue.selected(how, PLAIN, Select { number, except: true }))
            },
        },
    },
    Control {
        name: "peek",
        access: Access::Read,
        about: "every queued message after its type and a tab; takes none",
        serve: Serve::Slow(Queue::peek),
    },
    Control {
        name: "qbytes",
        access: Access::ReadWrite,
        about: "the queue's capacity in bytes",
        serve: Serve::Value { show: Queue::qbytes, store: Queue::set_qbytes },
    },
];

static TAGS: Tags = Tags { name: "type", valid: 1..=i64::MAX, default: PLAIN };

#[allow(unsafe_code)]
pub(super) mod sys {
    use crate::error::Errno;

    /// linux/msg.h; libc does not have it.
    const MSG_STAT_ANY: i32 = 13;

    /// Before a message's bytes comes its type.
    const TAG: usize = size_of::<libc::c_long>();

    /// msgget(2).
    pub(in super::super) fn get(key: i32, flags: i32) -> Result<i32, Errno> {
        // SAFETY: takes two integers.
        Errno::result(unsafe { libc::msgget(key, flags) })
    }

    /// What is known of a queue; needs no permission.
    pub(in super::super) fn stat(id: i32) -> Result<libc::msqid_ds, Errno> {
        // SAFETY: all zeroes is a valid msqid_ds, which the kernel fills in.
        let (found, queue) = unsafe {
            let mut queue: libc::msqid_ds = std::mem::zeroed();
            (Errno::result(libc::msgctl(id, MSG_STAT_ANY, &raw mut queue))?, queue)
        };
        // It goes by the place in the table and says which queue it has found there.
        if found == id { Ok(queue) } else { Err(Errno::EIDRM) }
    }

    /// `IPC_SET`: mode, owner and capacity.
    pub(in super::super) fn set(id: i32, queue: &libc::msqid_ds) -> Result<(), Errno> {
        let mut queue = *queue;
        // SAFETY: the kernel reads from the copy.
        Errno::result(unsafe { libc::msgctl(id, libc::IPC_SET, &raw mut queue) }).map(drop)
    }

    /// `IPC_RMID`.
    pub(in super::super) fn remove(id: i32) -> Result<(), Errno> {
        // SAFETY: the kernel looks at no pointer.
        let done = unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        Errno::result(done).map(drop)
    }

    /// `kernel.msgmax` of this namespace.
    pub(in super::super) fn longest() -> Result<usize, Errno> {
        // SAFETY: all zeroes is a valid msginfo, which is what IPC_INFO fills in.
        let info = unsafe {
            let mut info: libc::msginfo = std::mem::zeroed();
            Errno::result(libc::msgctl(0, libc::IPC_INFO, (&raw mut info).cast()))?;
            info
        };
        Ok(usize::try_from(info.msgmax).unwrap_or(0))
    }

    /// How many queues there are, and messages and bytes in all of them (`MSG_INFO`).
    pub(in super::super) fn in_use() -> Result<[i32; 3], Errno> {
        // SAFETY: as above, for MSG_INFO.
        let info = unsafe {
            let mut info: libc::msginfo = std::mem::zeroed();
            Errno::result(libc::msgctl(0, libc::MSG_INFO, (&raw mut info).cast()))?;
            info
        };
        Ok([info.msgpool, info.msgmap, info.msgtql])
    }

    /// msgsnd(2).
    pub(in super::super) fn send(id: i32, tag: i64, data: &[u8], flags: i32) -> Result<(), Errno> {
        let mut buffer = Vec::with_capacity(TAG + data.len());
        buffer.extend_from_slice(&tag.to_ne_bytes());
        buffer.extend_from_slice(data);
        // SAFETY: the buffer holds the type and as many bytes as said; the kernel reads it byte
        // by byte.
        let done = unsafe { libc::msgsnd(id, buffer.as_ptr().cast(), data.len(), flags) };
        Errno::result(done).map(drop)
    }

    /// msgrcv(2) into `message` with `room` for its bytes; returns the type.
    pub(in super::super) fn receive(
        id: i32,
        number: i64,
        flags: i32,
        room: usize,
        message: &mut Vec<u8>,
    ) -> Result<i64, Errno> {
        message.clear();
        message.reserve_exact(TAG + room);
        // SAFETY: the vector has room for the type and `room` bytes, of which the kernel writes
        // the type and as many as it says.
        unsafe {
            let length =
                Errno::result(libc::msgrcv(id, message.as_mut_ptr().cast(), room, number, flags))?;
            message.set_len(TAG + length as usize);
        }
        let mut tag = [0; TAG];
        tag.copy_from_slice(&message[..TAG]);
        message.drain(..TAG);
        Ok(libc::c_long::from_ne_bytes(tag))
    }

    /// Takes a message, if there is one, and drops it.
    pub(in super::super) fn discard_one(id: i32) -> Result<(), Errno> {
        let mut tag = [0; TAG];
        let flags = libc::IPC_NOWAIT | libc::MSG_NOERROR;
        // SAFETY: there is room for the type, and none of the bytes are asked for.
        let done = unsafe { libc::msgrcv(id, tag.as_mut_ptr().cast(), 0, 0, flags) };
        Errno::result(done).map(drop)
    }
}
