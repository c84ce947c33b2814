//! What the daemon gives up once the mount works.
//!
//! Root's daemon keeps the capabilities that its work needs and drops the rest for good. Whoever
//! runs it, its memory, in which everybody's messages pass by, cannot be looked into (ptrace(2),
//! core(5)).

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, setrlimit};

use crate::caller;

/// What is kept, and what for.
const KEPT: &[Capability] = &[
    // Acting for the caller.
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    // Opening what the kernel has let the caller open, under modes that do not let root.
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_IPC_OWNER,
    // chown, chmod and times for who may.
    Capability::CAP_CHOWN,
    Capability::CAP_FOWNER,
    // Passthrough, a segment's own file, unmounting.
    Capability::CAP_SYS_ADMIN,
    // Who has an object open (`users`, `orphans`) is told to who may trace.
    Capability::CAP_SYS_PTRACE,
    // Root's own limits are no limits to root's messages either.
    Capability::CAP_SYS_RESOURCE,
];

/// Gives up what is not needed. What cannot be given up is no reason not to serve.
pub fn drop_unneeded() {
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
    if !caller::privileged() {
        // A user's daemon needs fusermount3, which is setuid, to unmount.
        return;
    }
    let _ = nix::sys::prctl::set_no_new_privs();
    if let Err(error) = drop_capabilities() {
        log::warn!("capabilities that are not needed could not be dropped: {error}");
    }
}

fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let kept: CapsHashSet = KEPT.iter().copied().collect();
    for capability in caps::all() {
        // A bounding set cannot be changed everywhere; what the process has is what counts.
        if !kept.contains(&capability) {
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    let held = caps::read(None, CapSet::Permitted)?;
    let left: CapsHashSet = held.intersection(&kept).copied().collect();
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)
}
