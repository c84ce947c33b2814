//! Errors on their way out: the one place where an [`Error`] becomes an errno and a log line.

use fuser::{
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyWrite,
};

use crate::caller::Caller;
use crate::error::{Errno, Error};
use crate::monitor::{self, Failure, Monitor};

/// What was asked for, and by whom.
pub(super) struct Asked {
    pub(super) what: &'static str,
    /// Relative to the mount, escaped.
    pub(super) path: String,
    pub(super) caller: Caller,
}

/// Logs an error, and notes it for `ctl/errors` if it is worth it.
pub(super) fn note(asked: impl FnOnce() -> Asked, error: &Error) {
    let notable = Monitor::is_notable(error.errno());
    if !notable && !log::log_enabled!(log::Level::Debug) {
        return;
    }
    let Asked { what, path, caller } = asked();
    log::debug!("{what} {path} (pid {}, uid {}): {error}", caller.pid, caller.uid);
    if notable {
        let who = (caller.uid, caller.pid);
        monitor::get().note(Failure::new(what, path, who, error));
    }
}

/// A reply that can be an error.
pub(super) trait Refuse: Sized {
    /// Sends the errno.
    fn send(self, errno: fuser::Errno);

    /// Answers with an error and notes it, with what was asked for.
    fn refuse(self, asked: impl FnOnce() -> Asked, error: &Error) {
        note(asked, error);
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
