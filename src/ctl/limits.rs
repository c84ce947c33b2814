//! `limits`: each limit of the kernel and of the daemon, and its use.

use super::Kinds;
use crate::caller::Caller;
use crate::kind::Limit;
use crate::monitor;
use crate::status::Fields;

/// All limits, as they are for `caller`.
pub(super) fn all(kinds: &Kinds, caller: Caller) -> Vec<Limit> {
    let mut limits: Vec<_> = kinds.iter().flat_map(|(_, kind)| kind.limits(caller)).collect();
    limits.extend(own());
    limits
}

/// What limits the daemon itself.
fn own() -> Option<Limit> {
    use nix::sys::resource::{Resource, getrlimit};
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let used = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(Limit::used("daemon_descriptors", soft, used))
}

/// The limits, and how many requests are waiting and files are open.
pub(super) fn fields(kinds: &Kinds, caller: Caller) -> Fields {
    let mut fields = Fields::default();
    for Limit { name, max, used } in all(kinds, caller) {
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
        fields = fields.number("daemon_waiting", blocker.in_flight() as u64);
    }
    if let Some(mounted) = monitor.mounted() {
        fields = fields.number("daemon_open_files", mounted.load().1 as u64);
    }
    fields
}
