//! `limits`: each limit of the kernel and of the daemon, and its use.

use super::Kinds;
use crate::caller::Caller;
use crate::kind::{Limit, sysctl};
use crate::monitor;
use crate::quota::Quota;
use crate::status::Fields;

/// All limits, as they are for `caller`.
pub(super) fn all(kinds: &Kinds, caller: Caller) -> Vec<Limit> {
    let mut limits: Vec<_> = kinds.iter().flat_map(|(_, kind)| kind.limits(caller)).collect();
    limits.extend(own());
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
    limits.extend(sysctl("vm/max_map_count").map(|max| Limit::each("daemon_mappings", max, raise)));
    limits
}

/// What the reader may take of the daemon, and has taken.
fn quota(fields: Fields, name: &str, max: usize, used: usize) -> Fields {
    let most = format!("{name}_max");
    let fields = match max {
        usize::MAX => fields.text(&most, "unlimited"),
        max => fields.number(&most, max as u64),
    };
    fields.number(name, used as u64)
}

/// The limits, and how many requests are waiting and files are open.
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
    let monitor = monitor::get();
    if let Some(blocker) = monitor.blocker() {
        let (max, used) = blocker.quota().of(caller.uid);
        fields = quota(fields, "daemon_waiting", max, used);
    }
    if let Some(mounted) = monitor.mounted() {
        let (max, used) = mounted.quota().of(caller.uid);
        fields = quota(fields, "daemon_open_files", max, used);
        let (max, used) = mounted.memory().of(caller.uid);
        fields = quota(fields, "daemon_listing_bytes", max, used);
    }
    let (max, used) = Quota::collected().of(caller.uid);
    fields = quota(fields, "daemon_unfinished_bytes", max, used);
    let (max, used) = Quota::mappings().of(caller.uid);
    quota(fields, "daemon_mappings", max, used)
}
