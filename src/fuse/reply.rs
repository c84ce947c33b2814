//! Errors on their way out: the one place where an [`Error`] becomes an errno and a log line.

use fuser::{
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyWrite,
};

use crate::error::{Errno, Error};

/// A reply that can be an error.
pub(super) trait Refuse: Sized {
    /// Sends the errno.
    fn send(self, errno: fuser::Errno);

    /// Answers with an error and logs it, with what was asked for.
    fn refuse(self, asked: impl FnOnce() -> String, error: &Error) {
        log::debug!("{}: {error}", asked());
        self.send(fuser::Errno::from_i32(error.errno() as i32));
    }
}

macro_rules! refuse {
    ($($reply:ty),*) => { $(
        impl Refuse for $reply {
            fn send(self, errno: fuser::Errno) {
                self.error(errno);
            }
        }
    )* };
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyPoll,
    ReplyWrite
);

/// A reply on its way to a worker. Should the worker never come to be, the answer is `EAGAIN`; if
/// it panics, `EIO`.
pub(super) struct Late<R: Refuse>(Option<R>);

impl<R: Refuse> Late<R> {
    pub(super) fn new(reply: R) -> Self {
        Self(Some(reply))
    }

    /// The reply, now that there is something to say.
    pub(super) fn take(mut self) -> Option<R> {
        self.0.take()
    }
}

impl<R: Refuse> Drop for Late<R> {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            let errno = if std::thread::panicking() { Errno::EIO } else { Errno::EAGAIN };
            reply.send(fuser::Errno::from_i32(errno as i32));
        }
    }
}
