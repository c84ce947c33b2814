//! `drain` and `wait`: a queue looked at from outside.
//!
//! `drain` gives all that is queued at the moment it is opened, as lines, then end of file; it never
//! blocks. `wait` blocks until the queue is not empty, gives nothing and takes nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use super::gather::Gather;
use super::message::Messages;
use crate::error::{Errno, Result, fail};
use crate::vfs::{Cx, Handle, Wait};

/// An open `drain`.
pub struct Drain<Q> {
    queue: Q,
    reader: Gather,
    /// How many messages are still to be taken.
    left: AtomicU64,
}

impl<Q: Messages> Drain<Q> {
    /// Everything that is queued now.
    pub fn new(queue: Q) -> Result<Self> {
        let left = AtomicU64::new(queue.queued()?);
        Ok(Self { queue, reader: Gather::new(false, true), left })
    }

    fn take(&self, cx: &Cx, message: &mut Vec<u8>) -> Result<i64> {
        let one_less = |left: u64| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            return fail(Errno::EAGAIN);
        }
        self.queue.receive(&Cx { wait: Wait::Try, ..*cx }, message)
    }
}

impl<Q: Messages> Handle for Drain<Q> {
    fn read(&self, cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let longest = self.queue.longest()?;
        let receive = |cx: &Cx, message: &mut Vec<u8>| self.take(cx, message);
        match self.reader.read(cx, at, size, out, longest, receive) {
            // Others were quicker, or that was all.
            Err(error) if error.would_block() => Ok(()),
            done => done,
        }
    }

    fn unread(&self, bytes: &[u8]) {
        self.reader.unread(&self.queue, bytes);
    }
}

/// An open `wait`.
pub struct NotEmpty<Q> {
    queue: Q,
}

impl<Q: Messages> NotEmpty<Q> {
    /// Until `queue` is not empty.
    pub fn new(queue: Q) -> Self {
        Self { queue }
    }
}

impl<Q: Messages> Handle for NotEmpty<Q> {
    fn read(&self, cx: &Cx, _at: u64, _size: usize, _out: &mut Vec<u8>) -> Result<()> {
        loop {
            // Not by poll, to which a queue that is gone is ready.
            if self.queue.queued()? > 0 {
                return Ok(());
            }
            if cx.wait == Wait::Try {
                return fail(Errno::EAGAIN);
            }
            self.queue.wait_ready(libc::POLLIN)?;
        }
    }

    fn poll(&self, events: i16) -> i16 {
        self.queue.poll(events & (libc::POLLIN | libc::POLLRDNORM))
    }

    fn wait_ready(&self, events: i16) -> Result<()> {
        self.queue.wait_ready(events & (libc::POLLIN | libc::POLLRDNORM))
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::fake::{CX, Fake};
    use super::*;

    fn read(handle: &dyn Handle, at: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        handle.read(&CX, at, 4096, &mut out).map(|()| out)
    }

    #[test]
    fn it_gives_what_was_queued_at_the_beginning_and_ends() {
        let queue = Fake::default();
        queue.send(&CX, 0, b"a").unwrap();
        queue.send(&CX, 0, b"b").unwrap();
        let drain = Drain::new(queue).unwrap();
        drain.queue.send(&CX, 0, b"later").unwrap();
        assert_eq!(read(&drain, 0).unwrap(), b"a\n");
        assert_eq!(read(&drain, 2).unwrap(), b"b\n");
        assert_eq!(read(&drain, 4).unwrap(), b"");
        assert_eq!(drain.queue.queued().unwrap(), 1);
        assert_eq!(read(&Drain::new(Fake::default()).unwrap(), 0).unwrap(), b"");
    }

    #[test]
    fn waiting_ends_with_a_message_and_takes_none() {
        let wait = NotEmpty::new(Fake::default());
        assert_eq!(read(&wait, 0).unwrap_err().errno(), Errno::EAGAIN);
        wait.queue.send(&CX, 0, b"a").unwrap();
        assert_eq!(read(&wait, 0).unwrap(), b"");
        assert_eq!(wait.queue.queued().unwrap(), 1);
    }
}
