//! Interrupts: the requests that end other requests.
//!
//! fuser answers `FUSE_INTERRUPT` with `ENOSYS`, after which the kernel sends none any more and a
//! blocked process cannot even be killed. fuser fetches requests with libc's `read`, and the
//! binary's own `read` (main.rs) leads here: an interrupt is taken out before fuser sees it, at the
//! cost of one comparison per request. Which thread gets which request is decided here as well
//! ([`lanes`](super::lanes)).

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use super::lanes::{Device, Header, Lanes};
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
fn interrupt(blocker: &Arc<Blocker>, lanes: &Lanes, device: &impl Device, request: u64) -> Verdict {
    if blocker.cancel(request, Errno::EINTR) || lanes.interrupt(device, request) {
        Verdict::Taken
    } else {
        Verdict::Repeat
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It has been seen to.
    Taken,
    /// Nobody has the request: it is being answered. The kernel is asked to send the interrupt again,
    /// if it still matters.
    Repeat,
}

const FUSE_INIT: u32 = 26;
const FUSE_INTERRUPT: u32 = 36;

/// Looks for the first request in what has been read from `fd`.
fn look_for_init(fd: i32, request: &[u8]) {
    let length = request.get(..4).and_then(|bytes| bytes.try_into().ok());
    let whole = length.is_some_and(|length| u32::from_ne_bytes(length) as usize == request.len());
    if whole && Header::of(request).is_some_and(|header| header.opcode == FUSE_INIT) {
        DEVICE.store(fd, Ordering::SeqCst);
    }
}

/// Looks at a request. `true` if it was an interrupt and the next one is to be fetched.
fn inspect(device: &impl Device, lanes: &Lanes, request: &[u8]) -> bool {
    let Some(header) = Header::of(request) else { return false };
    if header.opcode != FUSE_INTERRUPT {
        monitor::get().request(header.opcode);
        return false;
    }
    let body = request.get(Header::SIZE..Header::SIZE + 8);
    let interrupted = body.and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    let (Some(interrupted), Some(blocker)) = (interrupted, BLOCKER.get()) else { return false };
    if interrupt(blocker, lanes, device, interrupted) == Verdict::Repeat {
        device.refuse(header.unique, Errno::EAGAIN);
    }
    true
}

/// The FUSE device by its descriptor.
struct Fuse(i32);

impl Device for Fuse {
    fn fetch(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        sys::fetch(self.0, buffer)
    }

    fn refuse(&self, unique: u64, errno: Errno) {
        sys::answer(self.0, unique, errno);
    }

    fn inspect(&self, request: &[u8]) -> bool {
        inspect(self, Lanes::get(), request)
    }
}

pub use sys::read;

#[allow(unsafe_code)]
mod sys {
    use std::sync::atomic::Ordering;

    use super::{ARMED, DEVICE, Fuse};
    use crate::error::Errno;
    use crate::fuse::lanes::Lanes;

    /// read(2); on the FUSE device, the next request that this thread is to handle ([`Lanes`]), which
    /// is never an interrupt.
    ///
    /// # Safety
    ///
    /// As for read(2): `buffer` has room for `count` bytes.
    pub unsafe fn read(fd: i32, buffer: *mut libc::c_void, count: usize) -> isize {
        let device = DEVICE.load(Ordering::Relaxed);
        if device == fd {
            // SAFETY: the caller's promise; whoever reads requests has a buffer that has been
            // written before (fuser, read_buf.rs).
            let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), count) };
            return match Lanes::get().next(&Fuse(fd), buffer) {
                Ok(length) => length as isize,
                Err(errno) => {
                    errno.set();
                    -1
                }
            };
        }
        // SAFETY: the caller's promise is passed on.
        let length = unsafe { libc::syscall(libc::SYS_read, fd, buffer, count) } as isize;
        if device == ARMED && length > 0 {
            // SAFETY: the kernel has just written that many bytes there.
            let read = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length as usize) };
            super::look_for_init(fd, read);
        }
        length
    }

    /// read(2) into a slice.
    pub(super) fn fetch(fd: i32, buffer: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: the pointer and length are the slice's.
        let length =
            unsafe { libc::syscall(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len()) };
        Ok(Errno::result(length)? as usize)
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
    use parking_lot::Mutex;

    use super::*;

    /// A device that has nothing to fetch.
    #[derive(Default)]
    struct Fake(Mutex<Vec<(u64, Errno)>>);

    impl Device for Fake {
        fn fetch(&self, _: &mut [u8]) -> Result<usize, Errno> {
            Err(Errno::ENODEV)
        }
        fn refuse(&self, unique: u64, errno: Errno) {
            self.0.lock().push((unique, errno));
        }
        fn inspect(&self, _: &[u8]) -> bool {
            false
        }
    }

    fn request(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; Header::SIZE];
        bytes.extend_from_slice(body);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
        bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_device_is_known_by_its_first_request_and_interrupts_are_taken_out() {
        let (fd, device) = (12_345, Fake::default());
        let blocker = Blocker::for_tests();
        arm(Arc::clone(&blocker));
        look_for_init(fd, &request(15, 2, &[0; 64]));
        look_for_init(fd, &[0; 8]);
        assert!(!is_connected());
        look_for_init(fd, &request(FUSE_INIT, 2, &[0; 64]));
        assert!(is_connected());
        let lanes = Lanes::get();
        assert!(inspect(&device, lanes, &request(FUSE_INTERRUPT, 5, &4_u64.to_ne_bytes())));
        // Nobody has that request: the interrupt is to be repeated.
        assert_eq!(*device.0.lock(), [(5, Errno::EAGAIN)]);
        assert!(!inspect(&device, lanes, &request(15, 6, &[0; 40])));
        assert!(!inspect(&device, lanes, &request(FUSE_INTERRUPT, 5, &[])));
        assert!(!inspect(&device, lanes, &[0; 8]));
    }
}
