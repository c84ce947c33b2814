//! Hostile input and broken surroundings.
//!
//! | fault | test |
//! | --- | --- |
//! | a thousand readers killed; a signal races a message | [`readers`] |
//! | stopped and continued; a signal that is ignored or blocked | [`waiting`] |
//! | the daemon killed, stopped, sent SIGTERM; unmounting meanwhile | [`daemon`] |
//! | removed, chmod, chown while somebody waits | [`waiting`] |
//! | lengths of messages and their bytes | `parity`, `mq`, `sysv_msg` |
//! | groups, owners, namespaces, names that change hands | `users`, `parity` |
//! | what lies about in /dev/shm; semaphores forged and cut; a full /dev/shm | [`hostile`], `shm`, `sem` |
//! | twenty thousand objects; two thousand processes; listing meanwhile | [`many`] |
//! | few descriptors | [`daemon`] |
//! | each limit of the kernel | `parity` |
//! | a handler panics | [`panic`] |
//! | what files are for and objects are not | [`meaningless`] |
//! | the daemon's /proc/PID | `users` |
//!
//! With `IPCFS_LONG=1` the numbers are whole and the times strict.

mod daemon;
mod hostile;
mod many;
mod meaningless;
mod panic;
mod readers;
mod waiting;

use std::time::Duration;

use crate::common::long;

/// What nobody's doings may make another's request take longer than; more than that where other
/// tests have the processors.
fn prompt() -> Duration {
    long(Duration::from_secs(1), Duration::from_millis(50))
}
