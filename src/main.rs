//! The command `ipcfs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ipcfs::daemon::main()
}

#[allow(unsafe_code)]
mod shim {
    /// Stands in for the C library's read(2), so that fuser's loop goes through
    /// [`ipcfs::fuse::interrupt::read`], which takes the interrupts out.
    ///
    /// # Safety
    ///
    /// As for read(2): `buffer` has room for `count` bytes.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn read(fd: i32, buffer: *mut libc::c_void, count: usize) -> isize {
        // SAFETY: the caller's promise is passed on.
        unsafe { ipcfs::fuse::interrupt::read(fd, buffer, count) }
    }

    /// Stands in for the C library's writev(2), so that fuser's answers go through
    /// [`ipcfs::fuse::answer::writev`], which puts small ones together.
    ///
    /// # Safety
    ///
    /// As for writev(2): `pieces` are `count` pieces of memory that can be read.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn writev(fd: i32, pieces: *const libc::iovec, count: i32) -> isize {
        // SAFETY: the caller's promise is passed on.
        unsafe { ipcfs::fuse::answer::writev(fd, pieces, count) }
    }
}
