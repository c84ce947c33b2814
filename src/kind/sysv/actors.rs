//! Who did it: the kernel names the daemon's process for what was done through the mount (`lspid`,
//! `lrpid`, `sempid`, shm's `lpid`), and the daemon knows whom it did it for.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::caller::Caller;

/// Below this it is not worth looking for objects that have gone.
const FEW: usize = 64;

/// Whom the daemon acted for last, by object and by what it did (which is the family's to number).
#[derive(Default)]
pub struct Actors(Mutex<Table>);

#[derive(Default)]
struct Table {
    last: HashMap<(i32, u32), u32>,
    /// As many entries as there may be before those of gone objects are dropped.
    limit: usize,
}

impl Actors {
    /// Notes that `caller` did `what` to the object `id`. `exists` is asked now and then about
    /// others, so that nothing is kept of those that have gone.
    pub fn note(&self, id: i32, what: u32, caller: Caller, exists: impl Fn(i32) -> bool) {
        let mut table = self.0.lock();
        if table.last.insert((id, what), caller.pid).is_none()
            && table.last.len() > table.limit.max(FEW)
        {
            table.last.retain(|(other, _), _| *other == id || exists(*other));
            table.limit = 2 * table.last.len();
        }
    }

    /// The process to show where the kernel names `pid`: if that is the daemon, the one that it
    /// acted for.
    pub fn shown(&self, id: i32, what: u32, pid: i32) -> i32 {
        if pid != std::process::id() as i32 {
            return pid;
        }
        let actor = self.0.lock().last.get(&(id, what)).copied();
        actor.map_or(pid, |actor| process_of(actor) as i32)
    }
}

/// The process of a thread, as long as it lives: requests name the thread.
fn process_of(thread: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    process.and_then(|process| process.trim().parse().ok()).unwrap_or(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: Caller = Caller { uid: 0, gid: 0, pid: u32::MAX };

    #[test]
    fn the_daemon_is_replaced_by_whom_it_acted_for_and_nobody_else_is() {
        let me = std::process::id() as i32;
        let actors = Actors::default();
        assert_eq!(actors.shown(7, 0, me), me);
        actors.note(7, 0, CALLER, |_| true);
        assert_eq!(actors.shown(7, 0, me), u32::MAX as i32);
        assert_eq!(actors.shown(7, 1, me), me);
        assert_eq!(actors.shown(7, 0, 1), 1);
    }

    #[test]
    fn what_has_gone_is_forgotten() {
        let actors = Actors::default();
        for id in 0..100_000 {
            actors.note(id, 0, CALLER, |_| false);
        }
        assert!(actors.0.lock().last.len() <= FEW + 1);
    }
}
