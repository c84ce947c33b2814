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
mod fault;
pub mod fuse;
pub mod journal;
pub mod kind;
pub mod map;
pub mod memory;
pub mod monitor;
pub mod notify;
pub mod number;
pub mod privilege;
pub mod proc;
pub mod quota;
pub mod status;
pub mod tickets;
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

static READ_ONLY: OnceLock<()> = OnceLock::new();

/// To be called at the start if the mount is read-only.
pub fn set_read_only() {
    let _ = READ_ONLY.set(());
}

/// Whether the mount is read-only (`-o ro`).
pub fn is_read_only() -> bool {
    READ_ONLY.get().is_some()
}

/// The daemon's user and group: the owner of directories and ctl files.
pub fn owner() -> (u32, u32) {
    static OWNER: OnceLock<(u32, u32)> = OnceLock::new();
    *OWNER.get_or_init(|| (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()))
}
