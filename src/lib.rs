//! ipcfs mounts every IPC mechanism of the running Linux kernel as files.
//!
//! `docs/architecture.md` describes the layers: `fuse` decodes requests and replies, `tree` knows
//! names and open files, `kind` the objects, `block` all waiting. `vfs` is what they talk in.

pub mod block;
pub mod caller;
pub mod check;
pub mod cli;
pub mod ctl;
pub mod daemon;
pub mod error;
pub mod escape;
pub mod fuse;
pub mod journal;
pub mod kind;
pub mod memory;
pub mod monitor;
pub mod notify;
pub mod privilege;
pub mod proc;
pub mod quota;
pub mod status;
pub mod tree;
pub mod turn;
pub mod vfs;

use std::sync::OnceLock;
use std::time::SystemTime;

/// When the daemon was started: the times of directories and ctl files.
pub fn born() -> SystemTime {
    static BORN: OnceLock<SystemTime> = OnceLock::new();
    *BORN.get_or_init(SystemTime::now)
}

/// The daemon's user and group: the owner of directories and ctl files.
pub fn owner() -> (u32, u32) {
    static OWNER: OnceLock<(u32, u32)> = OnceLock::new();
    *OWNER.get_or_init(|| (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()))
}
