//! What the daemon gives up once the mount works.
//!
//! Root's daemon keeps the capabilities that its work needs and drops the rest for good, and forbids
//! itself the system calls that it has no use for any more and an intruder would (seccomp(2)).
//! Whoever runs it, its memory, in which everybody's messages pass by, cannot be looked into
//! (ptrace(2), core(5)).

use std::collections::BTreeMap;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

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
    keep(KEPT);
}

/// Gives up all but what unmounting takes: the guard's part.
pub fn keep_unmounting() {
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if caller::privileged() {
        // The way to the mountpoint may lead through directories that are closed to root.
        keep(&[Capability::CAP_SYS_ADMIN, Capability::CAP_DAC_READ_SEARCH]);
    }
}

fn keep(kept: &[Capability]) {
    let _ = nix::sys::prctl::set_no_new_privs();
    if let Err(error) = drop_capabilities(kept) {
        log::warn!("capabilities that are not needed could not be dropped: {error}");
    }
}

/// System calls that root's daemon makes no more once it serves. What it needs is not listed, since
/// that is the C library's to choose and changes with it; this list is only ever too short.
const FORBIDDEN: &[i64] = &[
    // Other programs, and other processes' memory and descriptors.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_userfaultfd,
    // Mounts, but for unmounting, and namespaces.
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_by_handle_at,
    // The machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    // Large parts of the kernel that have nothing to do with this.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
];

/// Forbids what is not needed to serve, for all threads there are and those to come (`EPERM`).
/// Where the machine has no such filter, there is none.
pub fn forbid_unneeded() {
    if !caller::privileged() {
        // That would take the right to run fusermount3.
        return;
    }
    let applied = filter().and_then(|filter| Ok(seccompiler::apply_filter_all_threads(&filter)?));
    if let Err(error) = applied {
        log::warn!("system calls that are not needed could not be forbidden: {error}");
    }
}

fn filter() -> Result<BpfProgram, Box<dyn std::error::Error>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    // The log and the service manager are on this machine.
    let local = libc::AF_UNIX as u64;
    let elsewhere = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, local)?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![elsewhere])?]);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let target = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refused, target)?.try_into()?)
}

fn drop_capabilities(kept: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let kept: CapsHashSet = kept.iter().copied().collect();
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_forbidden_is_refused_and_the_rest_is_not() {
        let outcomes = std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").map(drop);
            let local = std::os::unix::net::UnixDatagram::unbound().map(drop);
            let program = Command::new("true").status().map(drop);
            let file = std::fs::read("/proc/self/status").map(drop);
            [socket, program, local, file].map(|outcome| outcome.map_err(|e| e.raw_os_error()))
        });
        let refused = Err(Some(libc::EPERM));
        assert_eq!(outcomes.join().unwrap(), [refused, refused, Ok(()), Ok(())]);
    }
}
