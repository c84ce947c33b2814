//! Who asks, and acting as them for one call.
//!
//! The kernel has checked the caller's permissions before a request arrives
//! (`default_permissions`), supplementary groups included. What is created, removed or chmod'ed is
//! done under the caller's effective ids besides, so that the object belongs to them and the kernel
//! checks once more. Only the effective ids change: with the real uid changed too, the caller could
//! signal the daemon (kill(2)), and with the fsuid alone, System V objects would belong to root.

use std::sync::OnceLock;

use crate::error::{Errno, Result};

/// The process that sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id; supplementary groups are not known here.
    pub gid: u32,
    /// Thread id in the daemon's pid namespace; 0 if it is not visible there.
    pub pid: u32,
}

impl Caller {
    /// The daemon itself.
    pub fn daemon() -> Self {
        let (uid, gid) = crate::owner();
        Self { uid, gid, pid: std::process::id() }
    }

    /// Does `work` with this caller's effective uid and gid, if the daemon is root.
    ///
    /// Fails with the errno of setresuid(2) or setresgid(2), nothing having been done.
    pub fn act<T>(self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let _acting = Acting::begin(self)?;
        work()
    }

    /// Does `work` in a process of its own that has all ids of the caller, and its limit on message
    /// queues: what the kernel charges to the real user (getrlimit(2), `RLIMIT_MSGQUEUE`) is then
    /// charged to the caller and not to root. Only if the daemon is root and the caller is not.
    ///
    /// `work` runs between fork and exit of a process with threads: it may make system calls and
    /// nothing else. Fails with its errno, or that of fork(2).
    pub fn act_as_process(
        self,
        work: impl FnOnce() -> std::result::Result<(), Errno>,
    ) -> Result<()> {
        if !privileged() || self.uid == 0 {
            return self.act(|| Ok(work()?));
        }
        Ok(sys::in_child(self, self.queue_limit(), work)?)
    }

    /// What the caller may spend on message queues, in bytes (getrlimit(2), `RLIMIT_MSGQUEUE`). Of one
    /// whose limit is not to be seen it is what the kernel gives everybody at first, not the daemon's.
    fn queue_limit(self) -> u64 {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.pid));
        limits.ok().and_then(|text| parse_queue_limit(&text)).unwrap_or(MQ_BYTES_MAX)
    }

    /// Whether the caller has been hit by a deadly signal: what is answered now, it will not see.
    ///
    /// `None` where it is not to be seen (another pid namespace).
    pub fn is_dying(self) -> Option<bool> {
        if self.pid == 0 {
            return None;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        Some(status.map_or(true, |status| is_deadly(&status)))
    }
}

/// linux/mqueue.h
const MQ_BYTES_MAX: u64 = 819_200;

/// Understands `Max msgqueue size         819200               819200               bytes`, or
/// `unlimited`, of /proc/PID/limits (proc(5)).
pub fn parse_queue_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max msgqueue size"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(libc::RLIM_INFINITY),
        bytes => bytes.parse().ok(),
    }
}

/// Whether what /proc/PID/status shows is the end of the process.
fn is_deadly(status: &str) -> bool {
    let set = |field: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("");
        u64::from_str_radix(value.trim(), 16).unwrap_or(0)
    };
    let bit = |signal: i32| 1_u64 << (signal - 1);
    // These stop a process, or do nothing to it, unless they are caught.
    let harmless = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    let harmless = harmless.into_iter().map(bit).sum::<u64>();
    let kept_off = set("SigBlk:") | set("SigIgn:") | set("SigCgt:") | harmless;
    // Most deadly signals reach each thread as a pending SIGKILL (kernel/signal.c, complete_signal);
    // those that leave a core do not, nor do those of a traced process.
    let deadly = bit(libc::SIGKILL) | !kept_off;
    (set("SigPnd:") | set("ShdPnd:")) & deadly != 0
        || status.contains("\nState:\tZ")
        || status.contains("\nState:\tX")
}

/// Whether this process is root and therefore acts for others. Fixed at the first call.
pub fn privileged() -> bool {
    static PRIVILEGED: OnceLock<bool> = OnceLock::new();
    *PRIVILEGED.get_or_init(|| nix::unistd::geteuid().is_root())
}

/// The effective ids of this thread are the caller's as long as this lives.
struct Acting {
    changed: bool,
}

impl Acting {
    fn begin(caller: Caller) -> Result<Self> {
        if caller.uid == u32::MAX || caller.gid == u32::MAX {
            // To setresuid(2) that is no id, and the work would be done as root.
            return Err(Errno::EOVERFLOW.into());
        }
        if !privileged() || (caller.uid == 0 && caller.gid == 0) {
            return Ok(Self { changed: false });
        }
        // The group first: once the uid is gone, so is the right to change it.
        sys::set_effective_gid(caller.gid)?;
        let acting = Self { changed: true };
        sys::set_effective_uid(caller.uid)?;
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        let back = |done: std::result::Result<(), Errno>| {
            if done.is_err() {
                // Going on under somebody's ids would give them what the next caller makes.
                std::process::abort();
            }
        };
        if self.changed {
            back(sys::set_effective_uid(0));
            back(sys::set_effective_gid(0));
        }
    }
}

#[allow(unsafe_code)]
mod sys {
    //! By raw system call: the libc wrappers change every thread of the process.
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::ForkResult;

    use super::Caller;
    use crate::error::Errno;

    pub(super) fn in_child(
        caller: Caller,
        queue_limit: u64,
        work: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        // SAFETY: the child makes system calls only and ends by _exit.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => loop {
                match waitpid(child, Some(WaitPidFlag::WUNTRACED)) {
                    Err(Errno::EINTR) => {}
                    // Its ids are the caller's, who may stop it; nobody waits for that.
                    Ok(WaitStatus::Stopped(..)) => kill(child, Signal::SIGKILL)?,
                    Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                    Ok(WaitStatus::Exited(_, errno)) => return Err(Errno::from_raw(errno)),
                    Ok(_) => return Err(Errno::EIO),
                    Err(errno) => return Err(errno),
                }
            },
            ForkResult::Child => {
                // What the daemon has open must not live on in a process that the caller may stop.
                // SAFETY: takes integers; nothing in this process uses a descriptor any more.
                unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
                let done = become_caller(caller, queue_limit).and_then(|()| work());
                let status = done.map_or_else(|errno| errno as i32, |()| 0);
                // SAFETY: _exit may be called at any time.
                unsafe { libc::_exit(status) }
            }
        }
    }

    /// Takes on the caller's ids, real ones included, and its limit on message queues.
    fn become_caller(caller: Caller, queue_limit: u64) -> Result<(), Errno> {
        let Caller { uid, gid, .. } = caller;
        let limit = libc::rlimit { rlim_cur: queue_limit, rlim_max: queue_limit };
        // SAFETY: integers, and a struct that outlives the calls.
        unsafe {
            // More than the daemon itself may have, where it may not give it: that is what there is.
            libc::setrlimit(libc::RLIMIT_MSGQUEUE, &raw const limit);
            Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            // Root's id stays as the saved one: the daemon may kill it, the caller not trace it.
            Errno::result(libc::syscall(libc::SYS_setresuid, uid, uid, 0))?;
        }
        Ok(())
    }

    pub(super) fn set_effective_uid(uid: u32) -> Result<(), Errno> {
        // SAFETY: takes three integers and touches no memory of ours.
        let done = unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
        Errno::result(done).map(drop)
    }

    pub(super) fn set_effective_gid(gid: u32) -> Result<(), Errno> {
        // SAFETY: as above.
        let done = unsafe { libc::syscall(libc::SYS_setresgid, -1, gid, -1) };
        Errno::result(done).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_caller_is_not_dying_and_an_absent_one_is() {
        let me = Caller { uid: 0, gid: 0, pid: std::process::id() };
        assert_eq!(me.is_dying(), Some(false));
        assert_eq!(Caller { pid: u32::MAX, ..me }.is_dying(), Some(true));
        assert_eq!(Caller { pid: 0, ..me }.is_dying(), None);
    }

    #[test]
    fn a_pending_signal_is_deadly_unless_it_is_kept_off_or_harmless() {
        let status = |state: &str, pending: u64, blocked: u64, ignored: u64, caught: u64| {
            format!(
                "Name:\tx\nState:\t{state}\nSigPnd:\t{:016x}\nShdPnd:\t{pending:016x}\n\
                 SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n",
                0
            )
        };
        let bit = |signal: i32| 1_u64 << (signal - 1);
        assert!(!is_deadly(&status("S (sleeping)", 0, 0, 0, 0)));
        assert!(is_deadly(&status("Z (zombie)", 0, 0, 0, 0)));
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGQUIT, libc::SIGRTMAX()] {
            let bit = bit(signal);
            assert!(is_deadly(&status("S (sleeping)", bit, 0, 0, 0)), "{signal}");
            let kept_off = [(bit, 0, 0), (0, bit, 0), (0, 0, bit)];
            for (blocked, ignored, caught) in kept_off {
                let deadly = is_deadly(&status("S (sleeping)", bit, blocked, ignored, caught));
                assert_eq!(deadly, signal == libc::SIGKILL, "{signal}");
            }
        }
        for signal in [libc::SIGCHLD, libc::SIGTSTP, libc::SIGCONT] {
            assert!(!is_deadly(&status("T (stopped)", bit(signal), 0, 0, 0)), "{signal}");
        }
    }

    #[test]
    fn a_process_of_its_own_has_all_ids_of_the_caller() {
        let who = Caller { uid: 4242, gid: 4243, pid: std::process::id() };
        let check = || {
            let uid = nix::unistd::getuid().as_raw();
            if uid == 4242 || !privileged() { Err(Errno::EXFULL) } else { Ok(()) }
        };
        assert_eq!(who.act_as_process(check).unwrap_err().errno(), Errno::EXFULL);
        who.act_as_process(|| Ok(())).unwrap();
    }

    #[test]
    fn the_limit_on_queues_is_the_callers_and_a_finite_one_where_it_is_not_to_be_seen() {
        let me = Caller { uid: 0, gid: 0, pid: std::process::id() };
        assert!(me.queue_limit() > 0);
        assert_eq!(Caller { pid: u32::MAX, ..me }.queue_limit(), MQ_BYTES_MAX);
        let line = |bytes: &str| {
            format!("Max locked memory 1 1 bytes\nMax msgqueue size  {bytes}  9  bytes\n")
        };
        assert_eq!(parse_queue_limit(&line("4711")), Some(4711));
        assert_eq!(parse_queue_limit(&line("unlimited")), Some(libc::RLIM_INFINITY));
        assert_eq!(parse_queue_limit(&line("x")), None);
        assert_eq!(parse_queue_limit(""), None);
    }

    #[test]
    fn acting_is_undone_for_this_thread() {
        let before = (nix::unistd::geteuid(), nix::unistd::getegid());
        let who = Caller { uid: 4242, gid: 4243, pid: 1 };
        let seen = who.act(|| Ok((nix::unistd::geteuid(), nix::unistd::getegid()))).unwrap();
        if privileged() {
            assert_eq!((seen.0.as_raw(), seen.1.as_raw()), (4242, 4243));
        }
        assert_eq!(before, (nix::unistd::geteuid(), nix::unistd::getegid()));
    }
}
