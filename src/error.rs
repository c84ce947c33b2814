//! The one error type: an errno for programs, and optionally a sentence for people.
//!
//! Every layer passes it on unchanged, so that the errno a caller sees is the one the
//! kernel or the C call gave.

use std::fmt;
use std::io;

pub use nix::errno::Errno;

use crate::tickets::Ticket;

/// What went wrong: the errno of the C call, and the sentence that errno cannot say.
#[derive(Debug)]
pub struct Error {
    errno: Errno,
    again: Again,
    what: Option<Box<str>>,
    place: Option<Box<Ticket>>,
}

/// What an `EAGAIN` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// To be done again by a worker, if the caller may wait.
    IfWaiting,
    /// To be done again by a worker in any case.
    ByWorker,
    /// Nothing: it is the answer.
    Never,
}

/// The result of every fallible operation in ipcfs.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that its errno says all about.
    pub const fn new(errno: Errno) -> Self {
        Self { errno, again: Again::IfWaiting, what: None, place: None }
    }

    /// An error with the sentence that its errno cannot say.
    pub fn because(errno: Errno, what: impl Into<Box<str>>) -> Self {
        Self { what: Some(what.into()), ..Self::new(errno) }
    }

    /// `EAGAIN` for one who has a place among those who wait, and keeps it when a worker does it
    /// again.
    pub fn in_turn(place: Ticket) -> Self {
        Self { place: Some(Box::new(place)), ..Self::new(Errno::EAGAIN) }
    }

    /// The place among those who wait, if there is one.
    pub fn into_place(self) -> Option<Ticket> {
        self.place.map(|place| *place)
    }

    /// Not an error: the work takes too long for the request loop (a walk through /proc, say) and
    /// is to be done again with [`Wait::Block`](crate::vfs::Wait::Block) by a worker, even for a
    /// file that is open with `O_NONBLOCK`, since it waits for nobody.
    pub const fn deferred() -> Self {
        Self { errno: Errno::EAGAIN, again: Again::ByWorker, what: None, place: None }
    }

    /// `EAGAIN` as the answer, whether the caller would wait or not: what `try` and `tryhold` say.
    pub const fn not_now() -> Self {
        Self { errno: Errno::EAGAIN, again: Again::Never, what: None, place: None }
    }

    /// The errno to answer with.
    pub const fn errno(&self) -> Errno {
        self.errno
    }

    /// The sentence, if there is one.
    pub fn what(&self) -> Option<&str> {
        self.what.as_deref()
    }

    /// Whether the operation could not be done at once (`EAGAIN`) and may be done later.
    pub fn would_block(&self) -> bool {
        self.errno == Errno::EAGAIN && self.again != Again::Never
    }

    /// What it is to who looks for an object or at it: `ENOENT` where the object has gone in that
    /// moment, which the System V calls say by `EIDRM`, or by `EINVAL` of an identifier that is not in
    /// use any more. An error that comes with a sentence is about something that is there.
    #[must_use]
    pub fn absent(self) -> Self {
        match self.errno {
            Errno::EINVAL | Errno::EIDRM if self.what.is_none() => Self::new(Errno::ENOENT),
            _ => self,
        }
    }

    /// Whether this is [`Error::deferred`].
    pub const fn is_deferred(&self) -> bool {
        matches!(self.again, Again::ByWorker)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Some(what) => write!(f, "{:?}: {what}", self.errno),
            None => write!(f, "{:?}: {}", self.errno, self.errno.desc()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::new(errno)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(raw) => Self::new(Errno::from_raw(raw)),
            None => Self::because(Errno::EIO, error.to_string()),
        }
    }
}

/// Shorthand for `Err(Error::new(errno))`.
pub const fn fail<T>(errno: Errno) -> Result<T> {
    Err(Error::new(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errno_survives_every_conversion() {
        assert_eq!(Error::from(Errno::EMSGSIZE).errno(), Errno::EMSGSIZE);
        let io = io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(Error::from(io).errno(), Errno::ENOSPC);
        assert_eq!(Error::from(io::Error::other("no errno")).errno(), Errno::EIO);
    }

    #[test]
    fn who_looks_at_what_has_gone_finds_nothing_and_other_errors_stay() {
        for errno in [Errno::EINVAL, Errno::EIDRM, Errno::ENOENT] {
            assert_eq!(Error::new(errno).absent().errno(), Errno::ENOENT);
        }
        for errno in [Errno::EACCES, Errno::EINVAL] {
            let error = Error::because(errno, "no");
            assert_eq!(error.absent().to_string(), format!("{errno:?}: no"));
        }
        assert!(Error::deferred().absent().is_deferred());
    }

    #[test]
    fn the_sentence_is_shown_after_the_errno() {
        let error = Error::because(Errno::EMFILE, "too many queues");
        assert_eq!(error.to_string(), "EMFILE: too many queues");
        assert_eq!(Error::new(Errno::ENOENT).to_string(), "ENOENT: No such file or directory");
    }
}
