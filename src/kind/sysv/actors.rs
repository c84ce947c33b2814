//! Who did it: the kernel names the daemon's process for what was done through the mount (`lspid`,
//! `lrpid`, `sempid`, shm's `lpid`), and the daemon knows whom it did it for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::caller::Caller;

/// Below this it is not worth looking for objects that have gone.
const FEW: usize = 64;

/// For how long the process of a thread is remembered: no thread id comes again that soon.
const FRESH: Duration = Duration::from_millis(500);

/// Whom the daemon acted for last, by object and by what it did (which is the family's to number).
#[derive(Default)]
pub struct Actors(Mutex<Table>);

#[derive(Default)]
struct Table {
    last: HashMap<i32, Acts>,
    /// As many objects as there may be before those that have gone are dropped.
    limit: usize,
    /// The thread whose process has been looked up last, that process, and when.
    known: Option<(u32, u32, Instant)>,
}

/// What was done to one object.
#[derive(Default)]
struct Acts {
    /// By whom all of it at once, before what is in `each`.
    all: Option<u32>,
    each: HashMap<u32, u32>,
}

impl Actors {
    /// Notes that `caller` did `what` to the object `id`. `exists` is asked now and then about
    /// others, once for each, so that nothing is kept of those that have gone.
    pub fn note(&self, id: i32, what: u32, caller: Caller, exists: impl Fn(i32) -> bool) {
        self.add(id, caller, exists, |acts, process| {
            acts.each.insert(what, process);
        });
    }

    /// The same for everything that can be done to the object.
    pub fn note_all(&self, id: i32, caller: Caller, exists: impl Fn(i32) -> bool) {
        self.add(id, caller, exists, |acts, process| {
            *acts = Acts { all: Some(process), each: HashMap::new() };
        });
    }

    fn add(
        &self,
        id: i32,
        caller: Caller,
        exists: impl Fn(i32) -> bool,
        add: impl FnOnce(&mut Acts, u32),
    ) {
        let mut table = self.0.lock();
        let process = table.process_of(caller.pid);
        add(table.last.entry(id).or_default(), process);
        if table.last.len() > table.limit.max(FEW) {
            table.last.retain(|other, _| *other == id || exists(*other));
            table.limit = 2 * table.last.len();
        }
    }

    /// The process to show where the kernel names `pid`: if that is the daemon, the one that it
    /// acted for.
    pub fn shown(&self, id: i32, what: u32, pid: i32) -> i32 {
        if pid != std::process::id() as i32 {
            return pid;
        }
        let table = self.0.lock();
        let actor = table.last.get(&id).and_then(|acts| acts.each.get(&what).copied().or(acts.all));
        actor.map_or(pid, |actor| actor as i32)
    }
}

impl Table {
    /// The process of a thread: requests name the thread, which may end before its process.
    fn process_of(&mut self, thread: u32) -> u32 {
        if sys::leads(thread) {
            return thread;
        }
        if let Some((known, process, since)) = self.known {
            if known == thread && since.elapsed() < FRESH {
                return process;
            }
        }
        let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let process = process.and_then(|process| process.trim().parse().ok()).unwrap_or(thread);
        self.known = Some((thread, process, Instant::now()));
        process
    }
}

#[allow(unsafe_code)]
mod sys {
    use crate::error::Errno;

    /// Whether a thread is the first one of its process, whose id is the process's: no signal is
    /// sent (`tgkill(2)`), which takes a fraction of what a look into /proc does.
    pub(super) fn leads(thread: u32) -> bool {
        let Ok(thread @ 1..) = i32::try_from(thread) else { return false };
        // SAFETY: takes three integers.
        let done = unsafe { libc::syscall(libc::SYS_tgkill, thread, thread, 0) };
        // It is there, and not to be signalled by the daemon.
        matches!(Errno::result(done), Ok(_) | Err(Errno::EPERM))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

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
    fn who_did_everything_did_each_until_another_did_it() {
        let me = std::process::id() as i32;
        let actors = Actors::default();
        actors.note(7, 1, Caller { pid: 1, ..CALLER }, |_| true);
        actors.note_all(7, CALLER, |_| true);
        actors.note(7, 2, Caller { pid: 1, ..CALLER }, |_| true);
        let shown = [0, 1, 2].map(|what| actors.shown(7, what, me));
        assert_eq!(shown, [u32::MAX as i32, u32::MAX as i32, 1]);
    }

    #[test]
    fn what_has_gone_is_forgotten_and_asked_for_once() {
        let actors = Actors::default();
        let asked = Cell::new(0);
        for id in 0..100_000 {
            for what in 0..3 {
                actors.note(id, what, CALLER, |_| {
                    asked.set(asked.get() + 1);
                    false
                });
            }
        }
        assert!(actors.0.lock().last.len() <= FEW + 1);
        assert!(asked.get() <= 100_000, "{} times", asked.get());
    }

    #[test]
    fn a_thread_stands_for_its_process_when_it_has_ended_as_well() {
        let actors = Actors::default();
        let noted = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let pid = nix::unistd::gettid().as_raw() as u32;
                actors.note(7, 0, Caller { pid, ..CALLER }, |_| true);
                pid
            });
            thread.join().unwrap()
        });
        let me = std::process::id();
        assert_ne!(noted, me);
        assert_eq!(actors.0.lock().last[&7].each[&0], me);
    }
}
