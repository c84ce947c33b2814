//! System V objects by their calls.

use super::calls::{self, Attached, Result};
use super::{Access, KEEP, Kind, Step, not_here, shown};

/// A queue, a set or a segment by its identifier.
#[derive(Clone, Copy)]
pub struct Object {
    kind: Kind,
    id: i32,
}

impl Object {
    /// `msgget(2)` and the like, of one that is there.
    pub fn get(kind: Kind, key: i32, flags: i32) -> Result<Self> {
        let id = match kind {
            Kind::Msg => calls::msgget(key, flags)?,
            Kind::Set => calls::semget(key, 0, flags)?,
            _ => calls::shmget(key, 0, flags)?,
        };
        Ok(Self { kind, id })
    }

    /// `msgget(2)` and the like, of a new one.
    pub fn make(kind: Kind, key: i32, flags: i32, attributes: &[(&str, u64)]) -> Result<()> {
        let value = |default| attributes.first().map_or(default, |(_, value)| *value);
        match kind {
            Kind::Msg => {
                let id = calls::msgget(key, flags)?;
                let Some(&(_, qbytes)) = attributes.first() else { return Ok(()) };
                let mut queue = calls::msg_stat(id)?;
                queue.msg_qbytes = qbytes;
                calls::msg_set(id, queue)
            }
            Kind::Set => calls::semget(key, value(1) as i32, flags).map(drop),
            _ => calls::shmget(key, value(4096) as usize, flags).map(drop),
        }
    }

    /// `shmat(2)`, which checks more than `shmget(2)`.
    pub fn attach(self, access: Access) -> Result<()> {
        if self.kind != Kind::Segment {
            return Ok(());
        }
        let flags = if access == Access::R { libc::SHM_RDONLY } else { 0 };
        Attached::new(self.id, flags).map(drop)
    }

    pub fn remove(self) -> Result<()> {
        match self.kind {
            Kind::Msg => calls::msg_remove(self.id),
            Kind::Set => calls::sem_remove(self.id),
            _ => calls::shm_remove(self.id),
        }
    }

    /// Sets mode and owner.
    fn change(self, change: impl Fn(&mut libc::ipc_perm)) -> Result<()> {
        match self.kind {
            Kind::Msg => {
                let mut queue = calls::msg_stat(self.id)?;
                change(&mut queue.msg_perm);
                calls::msg_set(self.id, queue)
            }
            Kind::Set => {
                let mut set = calls::sem_stat(self.id)?;
                change(&mut set.sem_perm);
                calls::sem_set(self.id, set)
            }
            _ => {
                let mut segment = calls::shm_stat(self.id)?;
                change(&mut segment.shm_perm);
                calls::shm_set(self.id, segment)
            }
        }
    }

    /// Mode, owner, size.
    fn stat(self) -> Result<(String, u64)> {
        let (perm, size) = match self.kind {
            Kind::Msg => {
                let queue = calls::msg_stat(self.id)?;
                (queue.msg_perm, queue.__msg_cbytes)
            }
            Kind::Set => (calls::sem_stat(self.id)?.sem_perm, 0),
            _ => {
                let segment = calls::shm_stat(self.id)?;
                (segment.shm_perm, segment.shm_segsz as u64)
            }
        };
        // Above these are flags of the kernel's.
        Ok((format!("{:04o},{}:{}", perm.mode & 0o777, perm.uid, perm.gid), size))
    }

    /// What is left, messages included.
    pub fn look(self) -> Result<String> {
        let (mut text, _) = self.stat()?;
        match self.kind {
            Kind::Msg => {
                while let Ok((tag, data)) = calls::msgrcv(self.id, 8192, 0, 0) {
                    text.push_str(&format!(" {tag}:{}", shown(&data)));
                }
            }
            Kind::Set => text.push_str(&format!(" {:?}", calls::sem_values(self.id)?)),
            _ => {
                let attached = Attached::new(self.id, libc::SHM_RDONLY)?;
                text.push_str(&format!(" {}", shown(attached.bytes())));
            }
        }
        Ok(text)
    }

    pub fn step(self, step: &Step) -> Result<String> {
        let nothing = |()| String::new();
        let bytes = |(_, data): (i64, Vec<u8>)| shown(&data);
        let id = self.id;
        match *step {
            Step::Stat => self.stat().map(|(text, size)| format!("{text},{size}")),
            // The kernel keeps its flags there whatever is asked for.
            Step::Chmod(mode) => self.change(|perm| perm.mode = mode as _).map(nothing),
            Step::Chown(uid, gid) => {
                let change = |perm: &mut libc::ipc_perm| {
                    perm.uid = if uid == KEEP { perm.uid } else { uid };
                    perm.gid = if gid == KEEP { perm.gid } else { gid };
                };
                self.change(change).map(nothing)
            }
            Step::Send(tag, text) => calls::msgsnd(id, tag, text.as_bytes()).map(nothing),
            Step::SendLong(length) => calls::msgsnd(id, 1, &vec![b'x'; length]).map(nothing),
            Step::Receive => calls::msgrcv(id, 64, 0, 0).map(bytes),
            Step::ReceiveInto(room) => calls::msgrcv(id, room, 0, 0).map(bytes),
            Step::ReceiveOf(number) => calls::msgrcv(id, 64, number, 0).map(bytes),
            Step::ReceiveExcept(number) => {
                calls::msgrcv(id, 64, number, libc::MSG_EXCEPT).map(bytes)
            }
            Step::Qbytes(qbytes) => {
                let mut queue = calls::msg_stat(id)?;
                queue.msg_qbytes = qbytes;
                calls::msg_set(id, queue).map(nothing)
            }
            Step::Operate(steps) => calls::semop(id, steps).map(nothing),
            Step::OperateMany(count) => calls::semop(id, &vec![(0, 1); count]).map(nothing),
            Step::SetValue(index, value) => calls::sem_set_value(id, index, value).map(nothing),
            Step::SetValues(values) => calls::sem_set_values(id, values).map(nothing),
            Step::Values => calls::sem_values(id).map(|values| format!("{values:?}")),
            _ => not_here(self.kind, step),
        }
    }
}

/// The identifiers of all that there are.
fn all(kind: Kind) -> Vec<i32> {
    let table = match kind {
        Kind::Msg => "msg",
        Kind::Set => "sem",
        _ => "shm",
    };
    let text = std::fs::read_to_string(format!("/proc/sysvipc/{table}")).unwrap();
    let id = |line: &str| line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    text.lines().skip(1).map(id).collect()
}

/// How many there are.
pub fn count(kind: Kind) -> usize {
    all(kind).len()
}

/// Removes all that there are.
pub fn remove_all() {
    for kind in [Kind::Msg, Kind::Set, Kind::Segment] {
        for id in all(kind) {
            Object { kind, id }.remove().unwrap();
        }
    }
}
