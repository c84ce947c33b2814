//! The two kinds of message queue, as the C calls have them.

use std::fs;
use std::ops::RangeInclusive;

use nix::errno::Errno;
use proptest::prelude::*;

use super::sys::{self, Got};

/// How long a message may be.
pub const LONGEST: usize = 16;
/// How many messages a POSIX queue takes, and how many bytes a System V queue does at first.
pub const MESSAGES: usize = 3;
pub const BYTES: u64 = 40;

pub type Message = (i64, Vec<u8>);

/// Which message is to be taken (msgrcv(2)).
#[derive(Clone, Copy, Debug)]
pub struct Select {
    pub number: i64,
    pub except: bool,
}

pub const ANY: Select = Select { number: 0, except: false };

/// What can be seen of a queue: messages, bytes, capacity, mode, owner, group.
pub type Seen = (u64, u64, u64, u32, u32, u32);

/// What is different between the two kinds.
pub trait Native: Sized {
    /// The path below the mount.
    const PATH: &'static str;
    /// The directory of tags, the tags that there are, and that of a plain message.
    const TAGS: &'static str;
    const VALID: RangeInclusive<i64>;
    const PLAIN: i64;
    /// What C says when there is no message, and of one that is too long.
    const EMPTY: Errno;
    const TOO_LONG: Errno;
    /// What status calls messages, bytes and capacity.
    const FIELDS: [&'static str; 3];
    const CAPACITY: u64;
    /// Whether messages can be selected, looked at, and the capacity be changed.
    const SYSTEM_V: bool;

    fn prepare() {}
    fn make() -> Got<Self>;
    fn find() -> Got<Self>;
    fn remove(&self) -> Got<()>;
    fn send(&self, tag: i64, data: &[u8]) -> Got<()>;
    fn receive(&self, select: Select) -> Got<Message>;
    fn seen(&self) -> Got<Seen>;
    fn chmod(&self, mode: u32) -> Got<()>;
    fn chown(&self, uid: u32, gid: u32) -> Got<()>;
    fn set_capacity(&self, capacity: u64) -> Got<()>;
    /// Whether one more message fits.
    fn fits(messages: &[Message], capacity: u64, length: usize) -> bool;
    /// Which message would be taken.
    fn next(messages: &[Message], select: Select) -> Option<usize>;
    fn selects() -> BoxedStrategy<Select>;
}

pub struct Posix(sys::Mq);

impl Native for Posix {
    const PATH: &'static str = "mq/model";
    const TAGS: &'static str = "priority";
    const VALID: RangeInclusive<i64> = 0..=32767;
    const PLAIN: i64 = 0;
    const EMPTY: Errno = Errno::EAGAIN;
    const TOO_LONG: Errno = Errno::EMSGSIZE;
    const FIELDS: [&'static str; 3] = ["curmsgs", "bytes", "maxmsg"];
    const CAPACITY: u64 = MESSAGES as u64;
    const SYSTEM_V: bool = false;

    fn make() -> Got<Self> {
        sys::Mq::open("/model", Some((0o600, MESSAGES as i64, LONGEST as i64))).map(Self)
    }

    fn find() -> Got<Self> {
        sys::Mq::open("/model", None).map(Self)
    }

    fn remove(&self) -> Got<()> {
        sys::Mq::unlink("/model")
    }

    fn send(&self, tag: i64, data: &[u8]) -> Got<()> {
        self.0.send(tag as u32, data)
    }

    fn receive(&self, _: Select) -> Got<Message> {
        self.0.receive().map(|(priority, data)| (priority.into(), data))
    }

    fn seen(&self) -> Got<Seen> {
        let (maxmsg, _, curmsgs) = self.0.attributes()?;
        let stat = self.0.stat()?;
        // The file says how many bytes there are: `QSIZE:129 ...`.
        let mut text = [0; 128];
        let length = nix::sys::uio::pread(&self.0.0, &mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        let bytes =
            text.strip_prefix("QSIZE:").and_then(|rest| rest.split(' ').next()?.parse().ok());
        let (mode, uid, gid) = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
        Ok((curmsgs as u64, bytes.unwrap_or(u64::MAX), maxmsg as u64, mode, uid, gid))
    }

    fn chmod(&self, mode: u32) -> Got<()> {
        nix::sys::stat::fchmod(&self.0.0, nix::sys::stat::Mode::from_bits_truncate(mode))
    }

    fn chown(&self, uid: u32, gid: u32) -> Got<()> {
        nix::unistd::fchown(&self.0.0, Some(uid.into()), Some(gid.into()))
    }

    fn set_capacity(&self, _: u64) -> Got<()> {
        unreachable!("it is for life")
    }

    fn fits(messages: &[Message], capacity: u64, _: usize) -> bool {
        (messages.len() as u64) < capacity
    }

    fn next(messages: &[Message], _: Select) -> Option<usize> {
        let most = messages.iter().map(|(priority, _)| *priority).max()?;
        messages.iter().position(|(priority, _)| *priority == most)
    }

    fn selects() -> BoxedStrategy<Select> {
        Just(ANY).boxed()
    }
}

pub struct SystemV(sys::Msg);

/// The queue's key.
const KEY: i32 = 0x4d2;

impl Native for SystemV {
    const PATH: &'static str = "sysv/msg/0x000004d2";
    const TAGS: &'static str = "type";
    const VALID: RangeInclusive<i64> = 1..=i64::MAX;
    const PLAIN: i64 = 1;
    const EMPTY: Errno = Errno::ENOMSG;
    const TOO_LONG: Errno = Errno::EINVAL;
    const FIELDS: [&'static str; 3] = ["qnum", "cbytes", "qbytes"];
    const CAPACITY: u64 = BYTES;
    const SYSTEM_V: bool = true;

    fn prepare() {
        fs::write("/proc/sys/kernel/msgmax", LONGEST.to_string()).unwrap();
        fs::write("/proc/sys/kernel/msgmnb", BYTES.to_string()).unwrap();
    }

    fn make() -> Got<Self> {
        sys::Msg::get(KEY, libc::IPC_CREAT | libc::IPC_EXCL | 0o600).map(Self)
    }

    fn find() -> Got<Self> {
        sys::Msg::get(KEY, 0).map(Self)
    }

    fn remove(&self) -> Got<()> {
        self.0.remove()
    }

    fn send(&self, tag: i64, data: &[u8]) -> Got<()> {
        self.0.send(tag, data)
    }

    fn receive(&self, select: Select) -> Got<Message> {
        self.0.receive(select.number, if select.except { libc::MSG_EXCEPT } else { 0 })
    }

    fn seen(&self) -> Got<Seen> {
        let queue = self.0.stat()?;
        let perm = queue.msg_perm;
        let mode = u32::from(perm.mode);
        Ok((queue.msg_qnum, queue.__msg_cbytes, queue.msg_qbytes, mode, perm.uid, perm.gid))
    }

    fn chmod(&self, mode: u32) -> Got<()> {
        self.0.set(|queue| queue.msg_perm.mode = mode as _)
    }

    fn chown(&self, uid: u32, gid: u32) -> Got<()> {
        self.0.set(|queue| (queue.msg_perm.uid, queue.msg_perm.gid) = (uid, gid))
    }

    fn set_capacity(&self, capacity: u64) -> Got<()> {
        self.0.set(|queue| queue.msg_qbytes = capacity)
    }

    fn fits(messages: &[Message], capacity: u64, length: usize) -> bool {
        bytes(messages) + length as u64 <= capacity && (messages.len() as u64) < capacity
    }

    fn next(messages: &[Message], Select { number, except }: Select) -> Option<usize> {
        match number {
            0 => (!messages.is_empty()).then_some(0),
            1.. => messages.iter().position(|(tag, _)| (*tag == number) != except),
            _ => {
                let lowest = messages.iter().map(|(tag, _)| *tag).min()?;
                let wanted = lowest <= number.saturating_neg();
                messages.iter().position(|(tag, _)| wanted && *tag == lowest)
            }
        }
    }

    fn selects() -> BoxedStrategy<Select> {
        let number = prop_oneof![-3..4_i64, Just(i64::MIN), Just(i64::MAX)];
        // MSG_EXCEPT counts for types alone.
        let select = |(number, except)| Select { number, except: except && number > 0 };
        prop_oneof![Just(ANY), (number, any::<bool>()).prop_map(select)].boxed()
    }
}

/// How long they are together.
pub fn bytes(messages: &[Message]) -> u64 {
    messages.iter().map(|(_, data)| data.len() as u64).sum()
}
