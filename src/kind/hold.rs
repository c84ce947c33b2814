//! `hold` and `tryhold`: a semaphore's unit, held by an open file.
//!
//! Opening takes one, the last close gives it back. The kernel closes the files of whoever ends,
//! however it ends, so that a crash leaves no lock behind. Opens are served in their order
//! ([`Tickets`]). A process that is killed while its open is being answered has the file for an
//! instant and closes it (fs/fuse/file.c: the kernel waits for the answer of a request that has
//! been fetched, and an open that has succeeded is released), so nothing is lost there either.
//!
//! When the daemon ends, nothing is given back: the holders may be at work still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::block;
use crate::caller::Caller;
use crate::error::{Errno, Error, Result};
use crate::tickets::Tickets;
use crate::vfs::{Cx, Handle, Io, Opened, Wait};

/// What can be held.
pub trait Lock: Send + Sync + 'static {
    /// Takes one unit: `EAGAIN` if there is none and it may not wait, `EINTR` after a signal,
    /// nothing having been taken.
    fn take(&self, caller: Caller, wait: Wait) -> Result<()>;

    /// Gives one unit back. What has been removed meanwhile needs none.
    fn give_back(&self, caller: Caller);

    /// Who waits and who holds.
    fn holds(&self) -> &Holds;
}

/// Who waits for one lock and who holds it.
#[derive(Default)]
pub struct Holds {
    tickets: Tickets,
    holders: Mutex<Vec<u32>>,
}

impl Holds {
    /// Those who hold it, by the thread id that opened it, in the order in which they got it.
    pub fn holders(&self) -> Vec<u32> {
        self.holders.lock().clone()
    }

    /// How many wait for it behind the first one, who waits in the kernel.
    pub fn behind(&self) -> usize {
        self.tickets.len().saturating_sub(1)
    }
}

/// Opens `hold`: waits for a unit.
pub fn hold(lock: Arc<impl Lock>, cx: &Cx) -> Result<Opened> {
    match cx.wait {
        Wait::Try => {
            // Those who wait already come first.
            let taken = match lock.holds().tickets.is_empty() {
                true => lock.take(cx.caller, Wait::Try),
                false => Err(Errno::EAGAIN.into()),
            };
            match taken {
                Err(error) if error.would_block() && !cx.nonblock => {
                    let ticket = lock.holds().tickets.draw();
                    return Err(Error::in_turn(ticket.keeping(lock)));
                }
                taken => taken?,
            }
        }
        Wait::Block => {
            let ticket = block::place().unwrap_or_else(|| lock.holds().tickets.draw());
            ticket.wait()?;
            loop {
                match lock.take(cx.caller, Wait::Block) {
                    Err(error) if error.errno() == Errno::EINTR && !block::cancelled() => {}
                    taken => break taken?,
                }
            }
        }
    }
    Ok(held(lock, cx.caller))
}

/// Opens `tryhold`: a unit at once or `EAGAIN`, also while others wait, who came first.
pub fn try_hold(lock: Arc<impl Lock>, cx: &Cx) -> Result<Opened> {
    if !lock.holds().tickets.is_empty() {
        return Err(Error::not_now());
    }
    match lock.take(cx.caller, Wait::Try) {
        Err(error) if error.would_block() => Err(Error::not_now()),
        taken => {
            taken?;
            Ok(held(lock, cx.caller))
        }
    }
}

/// Those who hold a lock: `PID<TAB>COMMAND`, a line each. Who has passed the open file on to
/// another process and has ended is shown without a command.
pub fn list(holds: &Holds) -> Vec<u8> {
    let mut text = Vec::new();
    for thread in holds.holders() {
        let status = std::fs::read(format!("/proc/{thread}/status")).unwrap_or_default();
        let field = |name: &[u8]| {
            let mut lines = status.split(|byte| *byte == b'\n');
            lines.find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
        };
        // Blanks and newlines in a name are escaped in there.
        let (name, process) = (field(b"Name:"), field(b"Tgid:"));
        text.extend_from_slice(process.unwrap_or(thread.to_string().as_bytes()));
        text.push(b'\t');
        text.extend_from_slice(name.unwrap_or_default());
        text.push(b'\n');
    }
    text
}

fn held(lock: Arc<impl Lock>, caller: Caller) -> Opened {
    lock.holds().holders.lock().push(caller.pid);
    let handle = Held { lock, caller, given_back: AtomicBool::new(false) };
    Opened { handle: Arc::new(handle), io: Io::Direct }
}

/// A held unit.
struct Held<L> {
    lock: Arc<L>,
    caller: Caller,
    given_back: AtomicBool,
}

impl<L: Lock> Handle for Held<L> {
    fn read(&self, _cx: &Cx, _at: u64, _size: usize, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    // Not in Drop: the daemon drops its handles when it ends.
    fn finish(&self, _cx: &Cx) -> Result<()> {
        if self.given_back.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let mut holders = self.lock.holds().holders.lock();
        if let Some(index) = holders.iter().position(|pid| *pid == self.caller.pid) {
            holders.remove(index);
        }
        drop(holders);
        self.lock.give_back(self.caller);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::fail;

    /// Units in memory.
    struct Fake {
        units: Mutex<u32>,
        holds: Holds,
    }

    impl Lock for Fake {
        fn take(&self, _caller: Caller, _wait: Wait) -> Result<()> {
            let mut units = self.units.lock();
            match units.checked_sub(1) {
                Some(rest) => *units = rest,
                None => return fail(Errno::EAGAIN),
            }
            Ok(())
        }
        fn give_back(&self, _caller: Caller) {
            *self.units.lock() += 1;
        }
        fn holds(&self) -> &Holds {
            &self.holds
        }
    }

    const CX: Cx =
        Cx { caller: Caller { uid: 0, gid: 0, pid: 7 }, wait: Wait::Try, nonblock: false };

    fn fake(units: u32) -> Arc<Fake> {
        Arc::new(Fake { units: Mutex::new(units), holds: Holds::default() })
    }

    #[test]
    fn a_unit_is_held_until_the_close_and_given_back_once() {
        let lock = fake(1);
        let opened = hold(Arc::clone(&lock), &CX).ok().unwrap();
        assert_eq!(lock.holds.holders(), [7]);
        assert!(hold(Arc::clone(&lock), &CX).err().unwrap().would_block());
        opened.handle.finish(&CX).unwrap();
        opened.handle.finish(&CX).unwrap();
        drop(opened);
        assert_eq!(*lock.units.lock(), 1);
        assert!(lock.holds.holders().is_empty());
    }

    #[test]
    fn a_handle_that_is_dropped_with_the_daemon_gives_nothing_back() {
        let lock = fake(1);
        drop(hold(Arc::clone(&lock), &CX).ok().unwrap());
        assert_eq!(*lock.units.lock(), 0);
    }

    #[test]
    fn places_are_taken_in_the_order_of_the_requests_whoever_goes_on_first() {
        let lock = fake(0);
        let place = || hold(Arc::clone(&lock), &CX).err().unwrap().into_place().unwrap();
        let (first, second) = (place(), place());
        assert_eq!(lock.holds.tickets.len(), 2);
        first.wait().unwrap();
        drop(first);
        *lock.units.lock() = 1;
        block::bring(Some(second));
        let opened = hold(Arc::clone(&lock), &Cx { wait: Wait::Block, ..CX }).ok().unwrap();
        assert!(lock.holds.tickets.is_empty());
        opened.handle.finish(&CX).unwrap();
        let at_once = hold(Arc::clone(&lock), &Cx { nonblock: true, ..CX });
        assert!(at_once.is_ok());
        let refused = hold(Arc::clone(&lock), &Cx { nonblock: true, ..CX }).err().unwrap();
        assert!(refused.into_place().is_none(), "one who may not wait gets no place");
    }

    #[test]
    fn who_comes_later_does_not_pass_who_waits() {
        let lock = fake(1);
        let ticket = lock.holds.tickets.draw();
        assert!(hold(Arc::clone(&lock), &CX).err().unwrap().would_block());
        let refused = try_hold(Arc::clone(&lock), &CX).err().unwrap();
        assert_eq!(refused.errno(), Errno::EAGAIN);
        assert!(!refused.would_block(), "it is the answer, no reason to wait");
        drop(ticket);
        assert!(try_hold(Arc::clone(&lock), &CX).is_ok());
    }
}
