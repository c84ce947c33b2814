//! `limits`: each limit of the kernel and of the daemon, and its use.

use super::Kinds;
use crate::caller::Caller;
use crate::kind::{Limit, sysctl};
use crate::monitor;
use crate::quota::Quota;
use crate::status::Fields;

/// All limits, as they are for `caller`; each name is there once.
pub(super) fn all(kinds: &Kinds, caller: Caller) -> Vec<Limit> {
    let mut limits: Vec<_> = kinds.iter().flat_map(|(_, kind)| kind.limits(caller)).collect();
    limits.extend(own());
    limits.extend(shares(caller.uid));
    limits
}

/// What limits the daemon itself.
pub fn own() -> Vec<Limit> {
    use nix::sys::resource::{Resource, getrlimit};
    let mut limits = Vec::new();
    let used = std::fs::read_dir("/proc/self/fd").map(|files| files.count() as u64);
    if let (Ok((soft, _)), Ok(used)) = (getrlimit(Resource::RLIMIT_NOFILE), used) {
        let raise = "ulimit -n N; nofile in limits.conf(5); LimitNOFILE= of a unit";
        limits.push(Limit::used("daemon_descriptors", soft, used, raise));
    }
    // A request that waits is a thread, whose stack and its guard page are two mappings.
    let raise = "sysctl vm.max_map_count=N";
    let maps = std::fs::read("/proc/self/maps").ok();
    let used = maps.map(|maps| maps.split(|byte| *byte == b'\n').count() as u64 - 1);
    let all = |max| Limit { name: "daemon_mappings", max: Some(max), used, raise };
    limits.extend(sysctl("vm/max_map_count").map(all));
    limits
}

/// What a user may take of the daemon, and has taken.
fn shares(uid: u32) -> Vec<Limit> {
    let share = |name, quota: &Quota, raise| {
        let (max, used) = quota.of(uid);
        let max = (max != usize::MAX).then_some(max as u64);
        Limit { name, max, used: Some(used as u64), raise }
    };
    let monitor = monitor::get();
    let mut limits = Vec::new();
    if let Some(blocker) = monitor.blocker() {
        limits.push(share("daemon_waiting", blocker.quota(), "-o max_blocked=N"));
    }
    if let Some(mounted) = monitor.mounted() {
        limits.push(share("daemon_open_files", mounted.quota(), "-o max_handles=N"));
        limits.push(share("daemon_listing_bytes", mounted.memory(), ""));
    }
    limits.push(share("daemon_unfinished_bytes", Quota::collected(), ""));
    let raise = "sysctl vm.max_map_count=N";
    limits.push(share("daemon_mappings_share", Quota::mappings(), raise));
    limits
}

/// The limits, and how much of each is in use.
pub(super) fn fields(kinds: &Kinds, caller: Caller) -> Fields {
    let mut fields = Fields::default();
    for Limit { name, max, used, .. } in all(kinds, caller) {
        let most = format!("{name}_max");
        fields = match max {
            Some(max) => fields.number(&most, max),
            None => fields.text(&most, "unlimited"),
        };
        if let Some(used) = used {
            fields = fields.number(name, used);
        }
    }
    fields
}
