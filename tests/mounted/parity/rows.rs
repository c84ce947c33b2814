//! The table: what is done, what it gives in C, and what through the mount.

mod posix;
mod system_v;

use super::Expect::{Differs, Same};
use super::{Kind, Row, Step};

/// Of what differs on purpose, why it does.
mod why {
    pub const EMPTY: &str = "a write of no bytes never reaches a FUSE file system";
    pub const PIECES: &str = "a file's reader gets a message in pieces, never cut off";
    pub const PERHAPS: &str = "the errno of a file that is opened with O_NONBLOCK is EAGAIN";
    pub const LENGTH: &str = "too long is EMSGSIZE for queues of either kind";
    pub const STICKY: &str =
        "unlink(2) says EPERM in a sticky directory; the C library makes EACCES of it";
    pub const SIZE: &str =
        "the size is what the object holds, not that of the kernel's or libc's record";
    pub const PAGE: &str =
        "what is a text made when it is read shows the size of a page, as in /sys";
    pub const NO_FILE: &str = "there is no such file: a name that cannot be is not found";
    pub const FILE: &str =
        "a file's rights are checked when it is opened, and it is open for that alone";
    pub const PLAIN: &str = "nothing but objects is in the directory";
    pub const MASK: &str = "a file's mode is cut by the umask; System V calls know none";
    pub const OWNER: &str = "chown(2) and chmod(2) ask for the owner, and giving away is root's";
    pub const SEEN: &str = "names and attributes are for everybody to see, as in /proc/sysvipc";
    pub const TOUCH: &str = "an open without O_EXCL asks for no size";
    pub const DIR: &str = "that is the name of a directory, or of a file in one";
    pub const KINDS: &str = "what is a semaphore is no shared memory as well";
    pub const GONE: &str = "EIDRM says what has happened, though it was before the call";
    pub const KEYS: &str = "an object without a key has no name to make it by";
    pub const TEXT: &str = "a number with a sign is no value: what cannot be parsed is EINVAL";
}

fn same(kind: Kind, call: &'static str, steps: &'static [Step], native: &'static str) -> Row {
    Row { kind, call, steps, native, mount: Same }
}

fn differs(
    kind: Kind,
    call: &'static str,
    steps: &'static [Step],
    native: &'static str,
    outcome: &'static str,
    why: &'static str,
) -> Row {
    Row { kind, call, steps, native, mount: Differs { outcome, why } }
}

/// All rows.
pub fn rows() -> Vec<Row> {
    [posix::rows(), system_v::rows()].into_iter().flatten().collect()
}
