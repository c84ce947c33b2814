//! What a mount needs, looked at before it is tried; what is missing is told with what to do.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Complaint, unmount};
use crate::caller;
use crate::cli::MountOptions;
use crate::error::Errno;
use crate::kind::Namespace;

/// A mount whose requirements have been looked at.
pub(crate) struct Prepared {
    pub(crate) mountpoint: PathBuf,
    pub(super) source: String,
    pub(super) options: MountOptions,
}

impl Prepared {
    pub(crate) fn new(
        given: &Path,
        source: String,
        options: MountOptions,
    ) -> Result<Self, Complaint> {
        unmount::clear_dead_mount(given)?;
        let mountpoint = match given.canonicalize() {
            Ok(path) => path,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                return Err(format!(
                    "{0} does not exist; make it first: mkdir -p {0}",
                    given.display()
                ));
            }
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                return Err(format!(
                    "no permission to reach {}; give a directory of your own",
                    given.display()
                ));
            }
            Err(error) => return Err(format!("{}: {}", given.display(), sentence(&error))),
        };
        if !mountpoint.is_dir() {
            return Err(format!("{} is not a directory; give one", given.display()));
        }
        check_device()?;
        if !caller::privileged() {
            check_fusermount()?;
            check_own(&mountpoint)?;
        }
        if unmount::is_mounted_at(&mountpoint) {
            let place = mountpoint.display();
            if !caller::privileged() {
                return Err(format!(
                    "an ipcfs is mounted on {place} already; to mount it anew: fusermount3 -u {place}"
                ));
            }
            log::warn!(
                "an ipcfs is mounted on {place} already, and this one goes on top of it; umount \
                 shows that one again"
            );
        }
        // Here, since the descriptors that the command was started with may lead to it.
        if let Some(namespace) = &options.kinds.namespace {
            enter(namespace)?;
        }
        Ok(Self { mountpoint, source, options })
    }
}

pub(super) fn sentence(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(raw) => Errno::from_raw(raw).desc().to_lowercase(),
        None => error.to_string(),
    }
}

pub(crate) fn check_device() -> Result<(), Complaint> {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => "/dev/fuse is missing; load the \
                kernel's FUSE module as root (modprobe fuse), or in a container pass the device in"
                .into(),
            Some(libc::EACCES | libc::EPERM) => "no permission to open /dev/fuse; ask the \
                administrator for access to it, or run ipcfs as root"
                .into(),
            _ => format!("/dev/fuse cannot be opened: {}", sentence(&error)),
        }),
    }
}

/// What a user's mount needs; it is to go away again as well.
pub(crate) fn check_fusermount() -> Result<PathBuf, Complaint> {
    let Some(fusermount) = unmount::fusermount() else {
        return Err(
            "fusermount3 is not installed, without which only root can mount; install the \
                    package fuse3"
                .into(),
        );
    };
    if !Path::new("/etc/mtab").exists() {
        return Err(
            "there is no /etc/mtab, without which fusermount3 unmounts nothing; as root: ln \
                    -s ../proc/self/mounts /etc/mtab"
                .into(),
        );
    }
    Ok(fusermount)
}

/// A user mounts on directories of their own: fusermount3 wants one that they may write to, and
/// theirs if it is sticky.
fn check_own(mountpoint: &Path) -> Result<(), Complaint> {
    let place = mountpoint.display();
    let data = mountpoint.metadata().map_err(|error| format!("{place}: {}", sentence(&error)))?;
    let writable = nix::unistd::access(mountpoint, nix::unistd::AccessFlags::W_OK).is_ok();
    let (sticky, mine) = (data.mode() & 0o1000 != 0, data.uid() == crate::owner().0);
    if writable && (mine || !sticky) {
        return Ok(());
    }
    Err(format!(
        "no permission to mount on {place}, which is not yours; give a directory of your own \
         (mkdir ~/ipc), or run ipcfs as root"
    ))
}

/// Enters an IPC namespace, for good; before there are threads, which would stay outside.
pub(crate) fn enter(namespace: &Namespace) -> Result<(), Complaint> {
    let path = namespace.file.display();
    let refused = || format!("no permission to enter the IPC namespace {path}; be root there");
    let file = File::open(&namespace.file).map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => refused(),
        _ => format!(
            "the IPC namespace {path} cannot be opened: {}; is the process there?",
            sentence(&error)
        ),
    })?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWIPC).map_err(|errno| match errno {
        Errno::EPERM => refused(),
        Errno::EINVAL => {
            format!("{path} is no IPC namespace; give a process id or /proc/PID/ns/ipc")
        }
        errno => format!("the IPC namespace {path} cannot be entered: {}", errno.desc()),
    })
}

/// Enters a mount namespace, as mount(8) wants it of its helpers (`-N`).
pub(super) fn enter_mounts(namespace: &Path) -> Result<(), Complaint> {
    let path = namespace.display();
    let refused =
        |why: &str| format!("the mount namespace {path} cannot be entered: {}", why.to_lowercase());
    let file = File::open(namespace).map_err(|error| refused(&sentence(&error)))?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|errno| refused(errno.desc()))
}
