//! What limits the daemon, and that it is enough.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Complaint;
use crate::quota::Quota;

/// As many descriptors and queues, and as large files, as the administrator permits.
///
/// Returns how many descriptors that is.
pub(crate) fn raise_limits() -> u64 {
    for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_MSGQUEUE, Resource::RLIMIT_FSIZE] {
        if let Ok((soft, hard)) = getrlimit(resource) {
            let unlimited = libc::RLIM_INFINITY;
            let msgqueue = resource == Resource::RLIMIT_MSGQUEUE;
            let raised = msgqueue && setrlimit(resource, unlimited, unlimited).is_ok();
            if !raised && soft < hard {
                let _ = setrlimit(resource, hard, hard);
            }
        }
    }
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// How many descriptors are open before there are clients, and some for what is still to come.
pub(super) fn open_descriptors() -> u64 {
    const TO_COME: u64 = 12;
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64) + TO_COME
}

/// With fewer, a listing would be an error for most.
pub(super) fn check_descriptors(handles: &Quota) -> Result<(), Complaint> {
    const LEAST: usize = 16;
    let (for_clients, _) = handles.of(0);
    if for_clients >= LEAST {
        return Ok(());
    }
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    Err(format!(
        "{limit} descriptors (RLIMIT_NOFILE) are too few, {for_clients} of them would be left for \
         files to be opened; allow more: ulimit -n 1024"
    ))
}

/// How long a request may wait, if the kernel has been told to end mounts that leave one waiting
/// for longer (`fuse_init_server_timeout` in fs/fuse/inode.c: the default unless the maximum is
/// less, and 15 s at least), and the sentence about it.
pub(crate) fn patience() -> Option<(Duration, Complaint)> {
    let [default, most] = ["default_request_timeout", "max_request_timeout"].map(|name| {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/fuse/{name}")).ok()?;
        text.trim().parse().ok().filter(|seconds: &u64| *seconds > 0)
    });
    let seconds = default.into_iter().chain(most).min()?.max(15);
    let patience = Duration::from_secs(seconds) * 3 / 4;
    let sentence = format!(
        "the kernel ends FUSE mounts that leave a request waiting for {seconds} s, so that what \
         waits for {patience:?} is answered with EAGAIN; to let it wait, mount after: sysctl \
         fs.fuse.default_request_timeout=0 fs.fuse.max_request_timeout=0"
    );
    Some((patience, sentence))
}
