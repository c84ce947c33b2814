//! The process that unmounts what the daemon leaves behind, however it ends.
//!
//! It looks at the mount table rather than be told that all is well: a daemon whose connection has
//! ended, as by `umount -f` of a busy mount, may still be mounted.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, pipe2, setsid};

use super::{Complaint, sys, unmount};
use crate::error::Errno;
use crate::privilege;

/// The daemon's end of the pipe to it; the guard acts when the last one of these is closed.
pub(super) struct Guard {
    alive: File,
}

impl Guard {
    /// Starts it, before there are threads and before there is a mount.
    pub(super) fn start(mountpoint: &Path) -> Result<Self, Complaint> {
        let none = |errno: Errno| format!("no guard process is to be had: {}", errno.desc());
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(none)?;
        match sys::fork().map_err(none)? {
            ForkResult::Parent { child } => {
                drop(reader);
                let _ = nix::sys::wait::waitpid(child, None);
                Ok(Self { alive: File::from(writer) })
            }
            ForkResult::Child => {
                drop(writer);
                // A child of the daemon's child belongs to init, which clears up after it.
                if !matches!(sys::fork(), Ok(ForkResult::Child)) {
                    sys::exit_now();
                }
                sys::leave_terminal();
                sys::keep_only(&reader);
                let _ = setsid();
                // Or it would keep that file system mounted.
                let _ = std::env::set_current_dir("/");
                let _ = nix::sys::prctl::set_name(c"ipcfs-guard");
                privilege::keep_unmounting();
                let mut told = Vec::new();
                let _ = File::from(reader).read_to_end(&mut told);
                match <[u8; 8]>::try_from(&*told) {
                    Ok(device) => unmount::detach_device(u64::from_ne_bytes(device)),
                    // Killed between mounting and saying so, or never mounted.
                    Err(_) => {
                        let _ = unmount::detach_dead(mountpoint);
                    }
                }
                sys::exit_now();
            }
        }
    }

    /// Tells it which device the mount is.
    pub(super) fn watch(&self, device: u64) {
        let _ = (&self.alive).write_all(&device.to_ne_bytes());
    }
}
