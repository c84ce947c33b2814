//! Small answers in one piece.
//!
//! fuser writes an answer as two pieces, header and content, with libc's `writev`. The kernel pins
//! the memory of each piece by itself (fs/fuse/dev.c, `fuse_copy_fill`), which takes longer than
//! copying a few bytes here; the C library's function is a cancellation point besides. So the binary
//! has its own `writev` (main.rs), which leads here. Nothing depends on it: if fuser should write
//! otherwise one day, answers take a tenth of a microsecond longer.

pub use sys::writev;

#[allow(unsafe_code)]
mod sys {
    use std::mem::MaybeUninit;

    /// The longest answer to a look-up is 144 bytes.
    const SMALL: usize = 256;

    /// writev(2); two small pieces are put together before.
    ///
    /// # Safety
    ///
    /// As for writev(2): `pieces` are `count` pieces of memory that can be read.
    pub unsafe fn writev(fd: i32, pieces: *const libc::iovec, count: i32) -> isize {
        if count == 2 {
            // SAFETY: there are two, the caller says.
            let [head, tail] = unsafe { pieces.cast::<[libc::iovec; 2]>().read() };
            let length = head.iov_len.saturating_add(tail.iov_len);
            if length <= SMALL {
                let mut whole = MaybeUninit::<[u8; SMALL]>::uninit();
                let start = whole.as_mut_ptr().cast::<u8>();
                // SAFETY: both can be read, the caller says, and there is room for both.
                unsafe {
                    start.copy_from_nonoverlapping(head.iov_base.cast(), head.iov_len);
                    let rest = start.add(head.iov_len);
                    rest.copy_from_nonoverlapping(tail.iov_base.cast(), tail.iov_len);
                }
                // SAFETY: that many bytes have just been put there.
                return unsafe { libc::syscall(libc::SYS_write, fd, start, length) } as isize;
            }
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { libc::syscall(libc::SYS_writev, fd, pieces, count) as isize }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};
    use std::os::fd::AsRawFd;

    #[allow(unsafe_code)]
    fn write(pieces: &[&[u8]]) -> Vec<u8> {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let count = slices.len() as i32;
        // SAFETY: an `IoSlice` is an iovec, and they outlive the call.
        let written = unsafe { super::writev(writer.as_raw_fd(), slices.as_ptr().cast(), count) };
        drop(writer);
        let mut read = Vec::new();
        std::fs::File::from(reader).read_to_end(&mut read).unwrap();
        assert_eq!(written, read.len() as isize);
        read
    }

    #[test]
    fn small_and_large_pieces_arrive_in_order_and_whole() {
        for sizes in [[16, 0], [0, 8], [16, 128], [16, 240], [16, 241], [300, 1], [1, 4000]] {
            let pieces = [vec![b'h'; sizes[0]], vec![b't'; sizes[1]]];
            assert_eq!(write(&[&pieces[0], &pieces[1]]), pieces.concat(), "{sizes:?}");
        }
        assert_eq!(write(&[b"one"]), b"one");
        assert_eq!(write(&[b"one", b"two", b"three"]), b"onetwothree");
    }

    #[test]
    #[allow(unsafe_code)]
    fn an_error_is_the_kernels() {
        let slices = [IoSlice::new(b"head"), IoSlice::new(b"tail")];
        // SAFETY: as above.
        assert_eq!(unsafe { super::writev(-1, slices.as_ptr().cast(), 2) }, -1);
        assert_eq!(crate::error::Errno::last(), crate::error::Errno::EBADF);
    }
}
