//! Sending to and receiving from a System V queue: all of its messages, or those of some types.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::msg::{Queues, RECEIVER, SENDER, sys};
use super::watch::Look;
use super::{Family, Origin};
use crate::error::{Errno, Error, Result, fail};
use crate::kind::message::Messages;
use crate::vfs::{Attr, Cx, Wait};

/// Which messages are to be received (msgrcv(2)).
#[derive(Clone, Copy, Debug)]
pub(super) struct Select {
    /// msgrcv's `msgtyp`.
    pub(super) number: i64,
    /// `MSG_EXCEPT`.
    pub(super) except: bool,
}

impl Select {
    /// The oldest of any type.
    pub(super) const ANY: Self = Self { number: 0, except: false };

    fn takes(self, tag: i64) -> bool {
        match self.number {
            0 => true,
            1.. => (tag == self.number) != self.except,
            _ => tag <= self.number.saturating_neg(),
        }
    }
}

/// What a message is received into at first: `kernel.msgmax` is as large by default.
const FIRST_ROOM: usize = 8192;

/// A queue, some of whose messages are received.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) kind: Arc<Queues>,
    pub(super) id: i32,
    pub(super) origin: Option<Origin>,
    pub(super) select: Select,
    /// The queue as it was when a message to be received was found far behind others.
    pub(super) found: Arc<Mutex<Option<Snapshot>>>,
}

/// What changes when a queue does: how much is queued, who sent and received last, and when.
pub(super) type Snapshot = (u64, u64, i32, i32, i64, i64);

fn snapshot(queue: &libc::msqid_ds) -> Snapshot {
    let last = (queue.msg_lspid, queue.msg_lrpid);
    let used = (queue.msg_qnum, queue.__msg_cbytes);
    (used.0, used.1, last.0, last.1, queue.msg_stime, queue.msg_rtime)
}

impl Endpoint {
    /// The queue as it is; `EIDRM` if it is gone, or the identifier is another's by now.
    fn stat(&self) -> Result<libc::msqid_ds> {
        let queue = sys::stat(self.id).map_err(removed)?;
        match self.origin {
            Some(origin) => origin.check(&queue.msg_perm).map(|()| queue),
            None => fail(Errno::EIDRM),
        }
    }

    fn refused(&self, errno: Errno, tag: i64, length: usize) -> Error {
        match errno {
            Errno::EINVAL if tag < 1 => Error::because(
                Errno::EINVAL,
                format!("messages have types from 1 up; {tag} only selects what to receive"),
            ),
            Errno::EINVAL if sys::stat(self.id).is_ok() => {
                let most = sys::longest().unwrap_or(0);
                let sentence = format!("the message has {length} bytes; kernel.msgmax is {most}");
                Error::because(Errno::EMSGSIZE, sentence)
            }
            errno => removed(errno),
        }
    }

    /// Whether there is a message to be received; counts the system calls that it takes.
    fn is_readable(&self, queue: &libc::msqid_ds, wait: Wait, cost: &mut u32) -> bool {
        if queue.msg_qnum == 0 || self.select.number == 0 {
            return queue.msg_qnum > 0;
        }
        let mut message = Vec::new();
        // Looking at the messages one by one takes longer the further they are. What is beyond some,
        // who waits for it in a worker finds, and says so here.
        let most = if wait == Wait::Try { LOOKED_AT } else { LOOKED_FOR };
        for index in 0..most {
            *cost = cost.saturating_add(1);
            match peek(self.id, index, &mut message) {
                Ok(Some(tag)) if self.select.takes(tag) => {
                    *self.found.lock() = (index >= LOOKED_AT).then(|| snapshot(queue));
                    return true;
                }
                Ok(Some(_)) => {}
                Ok(None) => return false,
                // What is wrong, the read will say.
                Err(_) => return true,
            }
        }
        *self.found.lock() == Some(snapshot(queue))
    }

    /// Which of `events` hold now; counts the system calls that it takes.
    fn look(&self, events: i16, wait: Wait, cost: &mut u32) -> i16 {
        *cost += 1;
        let Ok(queue) = self.stat() else {
            return libc::POLLERR | libc::POLLHUP | events;
        };
        let mut ready = 0;
        let readable = events & (libc::POLLIN | libc::POLLRDNORM);
        if readable != 0 && self.is_readable(&queue, wait, cost) {
            ready |= readable;
        }
        let used = queue.__msg_cbytes.max(queue.msg_qnum);
        if used < queue.msg_qbytes {
            ready |= events & (libc::POLLOUT | libc::POLLWRNORM);
        }
        ready
    }
}

/// How many messages poll looks at, in the request loop, for one that would be selected.
const LOOKED_AT: i64 = 64;
/// How many of them a worker looks at: the kernel goes through the queue for each.
const LOOKED_FOR: i64 = 4096;

fn nowait(wait: Wait) -> i32 {
    match wait {
        Wait::Try => libc::IPC_NOWAIT,
        Wait::Block => 0,
    }
}

impl Messages for Endpoint {
    fn send(&self, cx: &Cx, tag: i64, data: &[u8]) -> Result<()> {
        self.stat()?;
        sys::send(self.id, tag, data, nowait(cx.wait))
            .map_err(|errno| self.refused(errno, tag, data.len()))?;
        self.kind.note(self.id, SENDER, cx);
        Ok(())
    }

    fn receive(&self, cx: &Cx, message: &mut Vec<u8>) -> Result<i64> {
        let except = if self.select.except { libc::MSG_EXCEPT } else { 0 };
        let flags = except | nowait(cx.wait);
        self.stat()?;
        loop {
            let room = self.kind.room.load(Ordering::Relaxed).max(FIRST_ROOM);
            match sys::receive(self.id, self.select.number, flags, room, message) {
                Ok(tag) => {
                    self.kind.note(self.id, RECEIVER, cx);
                    message.shrink_to(2 * FIRST_ROOM);
                    return Ok(tag);
                }
                Err(Errno::ENOMSG) => return fail(Errno::EAGAIN),
                // It is still there.
                Err(Errno::E2BIG) => self.kind.room.store(2 * room, Ordering::Relaxed),
                Err(errno) => return Err(removed(errno)),
            }
        }
    }

    fn attr(&self) -> Result<Attr> {
        self.kind.attr(self.id).map_err(|error| removed(error.errno()))
    }

    fn longest(&self) -> Result<usize> {
        Ok(sys::longest()?)
    }

    fn queued(&self) -> Result<u64> {
        Ok(self.stat()?.msg_qnum)
    }

    fn poll(&self, events: i16) -> i16 {
        self.look(events, Wait::Try, &mut 0)
    }

    fn wait_ready(&self, events: i16) -> Result<()> {
        let me = self.clone();
        self.kind.watch.wait(move || {
            let mut cost = 0;
            let ready = me.look(events, Wait::Block, &mut cost) != 0;
            Look { ready, cost }
        })
    }
}

/// Copies message number `index` of the queue; `None` if there are not so many.
pub(super) fn peek(id: i32, index: i64, message: &mut Vec<u8>) -> Result<Option<i64>> {
    let mut room = message.capacity().max(FIRST_ROOM);
    loop {
        match sys::receive(id, index, libc::MSG_COPY | libc::IPC_NOWAIT, room, message) {
            Ok(tag) => return Ok(Some(tag)),
            Err(Errno::ENOMSG) => return Ok(None),
            Err(Errno::E2BIG) => room *= 2,
            Err(Errno::ENOSYS) => {
                return Err(Error::because(
                    Errno::EOPNOTSUPP,
                    "this kernel cannot copy messages (CONFIG_CHECKPOINT_RESTORE)",
                ));
            }
            Err(Errno::EINVAL) if sys::stat(id).is_ok() => {
                let sentence = format!(
                    "message {} of the queue is longer than kernel.msgmax, which is {} now: the kernel \
                     does not copy it",
                    index.saturating_add(1),
                    sys::longest().unwrap_or(0),
                );
                return Err(Error::because(Errno::EMSGSIZE, sentence));
            }
            Err(errno) => return Err(removed(errno)),
        }
    }
}

/// The kernel says `EINVAL` of an identifier that it does not know any more.
pub(super) fn removed(errno: Errno) -> Error {
    if errno == Errno::EINVAL { Errno::EIDRM.into() } else { errno.into() }
}

#[cfg(test)]
mod tests {
    use super::Select;

    #[test]
    fn what_is_selected_is_what_msgrcv_would_take() {
        let any = Select::ANY;
        assert!(any.takes(1) && any.takes(i64::MAX));
        let five = Select { number: 5, except: false };
        assert!(five.takes(5) && !five.takes(4));
        let not_five = Select { number: 5, except: true };
        assert!(!not_five.takes(5) && not_five.takes(4));
        let up_to_five = Select { number: -5, except: false };
        assert!(up_to_five.takes(1) && up_to_five.takes(5) && !up_to_five.takes(6));
        assert!(Select { number: i64::MIN, except: false }.takes(i64::MAX));
    }
}
