//! Interrupts: the requests that end other requests.
//!
//! fuser answers `FUSE_INTERRUPT` with `ENOSYS`, after which the kernel sends none any more and a
//! blocked process cannot even be killed. fuser fetches requests with libc's `read`, and the
//! binary's own `read` (main.rs) leads here: an interrupt is taken out before fuser sees it, at the
//! cost of one comparison per request.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::block::Blocker;
use crate::error::Errno;
use crate::monitor;

/// Not looking: no mount is being made.
const UNARMED: i32 = -2;
/// Looking for the descriptor that the first request (`FUSE_INIT`) comes from.
const ARMED: i32 = -1;

static DEVICE: AtomicI32 = AtomicI32::new(UNARMED);
static BLOCKER: OnceLock<Arc<Blocker>> = OnceLock::new();

/// Looks for the FUSE device from now on and cancels what `blocker` has in flight.
pub fn arm(blocker: Arc<Blocker>) {
    if BLOCKER.set(blocker).is_ok() {
        DEVICE.store(ARMED, Ordering::SeqCst);
    }
}

/// Whether the `FUSE_INIT` request has been seen. If not, fuser no longer reads through `read`, and
/// Ctrl-C would not work.
pub fn is_connected() -> bool {
    DEVICE.load(Ordering::SeqCst) >= 0
}

/// What becomes of an interrupt.
fn interrupt(blocker: &Arc<Blocker>, request: u64) -> Verdict {
    if blocker.cancel(request, Errno::EINTR) { Verdict::Taken } else { Verdict::Repeat }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It has been seen to.
    Taken,
    /// No worker has the request: it is being answered, or another thread is about to hand it to a
    /// worker. The kernel is asked to send the interrupt again, if it still matters.
    Repeat,
}

/// A request's header, as far as it matters here (linux/fuse.h, `fuse_in_header`).
struct Header {
    length: u32,
    opcode: u32,
    unique: u64,
}

const HEADER: usize = 40;
const FUSE_INIT: u32 = 26;
const FUSE_INTERRUPT: u32 = 36;

fn header(request: &[u8]) -> Option<Header> {
    let word = |at: usize| Some(u32::from_ne_bytes(request.get(at..at + 4)?.try_into().ok()?));
    Some(Header { length: word(0)?, opcode: word(4)?, unique: long(request, 8)? })
}

fn long(request: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(request.get(at..at + 8)?.try_into().ok()?))
}

/// Looks at what has been read from `fd`. `true` if it was an interrupt and the next request is to
/// be read.
fn inspect(fd: i32, request: &[u8]) -> bool {
    let device = DEVICE.load(Ordering::Relaxed);
    if device == UNARMED || (device != ARMED && device != fd) {
        return false;
    }
    let Some(header) = header(request) else { return false };
    if device == ARMED {
        if header.opcode == FUSE_INIT && header.length as usize == request.len() {
            DEVICE.store(fd, Ordering::SeqCst);
        }
        return false;
    }
    if header.opcode != FUSE_INTERRUPT {
        monitor::get().request(header.opcode);
        return false;
    }
    let Some(interrupted) = long(request, HEADER) else { return false };
    let Some(blocker) = BLOCKER.get() else { return false };
    if interrupt(blocker, interrupted) == Verdict::Repeat {
        sys::answer(fd, header.unique, Errno::EAGAIN);
    }
    true
}

pub use sys::read;

#[allow(unsafe_code)]
mod sys {
    use crate::error::Errno;

    /// read(2), but for interrupts on the FUSE device, which never reach the caller.
    ///
    /// # Safety
    ///
    /// As for read(2): `buffer` has room for `count` bytes.
    pub unsafe fn read(fd: i32, buffer: *mut libc::c_void, count: usize) -> isize {
        loop {
            // SAFETY: the caller's promise is passed on.
            let length = unsafe { libc::syscall(libc::SYS_read, fd, buffer, count) } as isize;
            if length < super::HEADER as isize {
                return length;
            }
            // SAFETY: the kernel has just written that many bytes there.
            let read = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length as usize) };
            if !super::inspect(fd, read) {
                return length;
            }
        }
    }

    /// Answers a request with an errno alone (linux/fuse.h, `fuse_out_header`).
    pub(super) fn answer(fd: i32, unique: u64, errno: Errno) {
        let mut reply = [0; 16];
        reply[..4].copy_from_slice(&16_u32.to_ne_bytes());
        reply[4..8].copy_from_slice(&(-(errno as i32)).to_ne_bytes());
        reply[8..].copy_from_slice(&unique.to_ne_bytes());
        // SAFETY: the buffer is as long as said. `ENOENT` (answered meanwhile) is as good.
        unsafe { libc::write(fd, reply.as_ptr().cast(), reply.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(body);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
        bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_device_is_known_by_its_first_request_and_interrupts_are_taken_out() {
        let fd = 12_345;
        assert!(!inspect(fd, &request(FUSE_INTERRUPT, 3, &2_u64.to_ne_bytes())));
        let blocker = Blocker::for_tests();
        arm(Arc::clone(&blocker));
        assert!(!is_connected());
        assert!(!inspect(fd, &request(FUSE_INIT, 2, &[0; 64])));
        assert!(is_connected());
        assert!(inspect(fd, &request(FUSE_INTERRUPT, 5, &4_u64.to_ne_bytes())));
        assert!(!inspect(fd + 1, &request(FUSE_INTERRUPT, 5, &4_u64.to_ne_bytes())));
        assert!(!inspect(fd, &request(15, 6, &[0; 40])));
        assert!(!inspect(fd, &[0; 8]));
    }

    #[test]
    fn an_interrupt_of_a_request_that_no_worker_has_is_to_be_repeated() {
        assert_eq!(interrupt(&Blocker::for_tests(), 4), Verdict::Repeat);
    }
}
