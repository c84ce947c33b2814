//! Unmounting, and the mounts of daemons that are dead.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;

use super::Complaint;
use crate::error::Errno;

/// Takes away what a killed daemon has left at the mountpoint.
pub(super) fn clear_dead_mount(mountpoint: &Path) -> Result<(), Complaint> {
    // One on top of the other, if the guard was killed as well, several times.
    for _ in 0..64 {
        if !is_dead(mountpoint) {
            return Ok(());
        }
        log::info!("{}: unmounting what a dead daemon has left", mountpoint.display());
        if detach_dead(mountpoint).is_err() {
            break;
        }
    }
    if !is_dead(mountpoint) {
        return Ok(());
    }
    Err(format!(
        "{0} is the mount of a daemon that is dead; unmount it first: umount -l {0}",
        mountpoint.display()
    ))
}

fn is_dead(mountpoint: &Path) -> bool {
    // The root's attributes may be cached; this is asked for each time.
    matches!(nix::sys::statfs::statfs(mountpoint), Err(Errno::ENOTCONN | Errno::ECONNABORTED))
}

/// What a path leads to: one mount, whatever comes on top of it later.
struct Pin(OwnedFd);

impl Pin {
    fn new(path: &Path) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open(path, flags, Mode::empty()).map(Self)
    }

    fn is_dead(&self) -> bool {
        let asked = nix::sys::statfs::fstatfs(&self.0);
        matches!(asked, Err(Errno::ENOTCONN | Errno::ECONNABORTED))
    }

    /// The mount's number in the mount table.
    fn mount(&self) -> Option<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
    }

    fn detach(&self, path: &Path) -> Result<(), Errno> {
        let own = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        match umount2(&*own, MntFlags::MNT_DETACH) {
            Err(Errno::EPERM) => unmount(path, true),
            done => done,
        }
    }
}

/// Unmounts what is at the mountpoint if it is dead, and nothing that is mounted there meanwhile.
pub(super) fn detach_dead(mountpoint: &Path) -> Result<(), Errno> {
    let pin = Pin::new(mountpoint)?;
    if pin.is_dead() { pin.detach(mountpoint) } else { Ok(()) }
}

/// Unmounts all mounts of a device whose daemon is dead, wherever they have been moved or bound to.
///
/// A path leads to the uppermost mount, so that one with another above it cannot be unmounted. It
/// does not show either: it is waited for until it would.
pub(super) fn detach_device(device: u64) {
    let Ok(mut table) = File::open(TABLE) else { return };
    // More than anybody has; or what is said to be done is not.
    let mut left = 1024;
    while left > 0 {
        left -= 1;
        let (mut detached, mut covered) = (false, false);
        for mount in mounts(&mut table).into_iter().rev().filter(|mount| mount.device == device) {
            match Pin::new(&mount.place) {
                Ok(pin) if pin.mount() == Some(mount.id) => {
                    // If it lives, that is another one, which has got the number.
                    detached |= pin.is_dead() && pin.detach(&mount.place).is_ok();
                }
                _ => covered = true,
            }
        }
        if detached {
            continue;
        }
        if !covered {
            return;
        }
        // That may take long; whoever ends all processes ends this one, too.
        let _ = SigSet::all().thread_unblock();
        let change = PollFlags::POLLPRI | PollFlags::POLLERR;
        match poll(&mut [PollFd::new(table.as_fd(), change)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// The mount table of this process's namespace (`proc_pid_mountinfo(5)`).
const TABLE: &str = "/proc/self/mountinfo";

/// A line of it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    device: u64,
    place: PathBuf,
    kind: Vec<u8>,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse().ok();
        let id = number(words.next()?)?;
        let device = std::str::from_utf8(words.nth(1)?).ok()?.split_once(':')?;
        let (major, minor) = (device.0.parse().ok()?, device.1.parse().ok()?);
        let place = unescape(words.nth(1)?);
        let kind = words.skip_while(|word| *word != b"-").nth(1)?.to_vec();
        let place = OsString::from_vec(place).into();
        Some(Self { id, device: libc::makedev(major, minor), place, kind })
    }
}

fn mounts(table: &mut File) -> Vec<Mount> {
    let mut text = Vec::new();
    let _ = table.rewind().and_then(|()| table.read_to_end(&mut text));
    text.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect()
}

/// Bytes that would part words are there as a backslash and three octal digits.
fn unescape(mut word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while let [first, rest @ ..] = word {
        let digits = rest.first_chunk().filter(|_| *first == b'\\');
        let digits = digits.and_then(|digits: &[u8; 3]| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        word = if byte.is_some() { &rest[3..] } else { rest };
        plain.push(byte.unwrap_or(*first));
    }
    plain
}

/// Whether an ipcfs is mounted at this very place, and nothing over it.
pub(super) fn is_mounted_at(place: &Path) -> bool {
    let Ok(mut table) = File::open(TABLE) else { return false };
    let id = Pin::new(place).ok().and_then(|pin| pin.mount());
    mounts(&mut table)
        .iter()
        .any(|mount| Some(mount.id) == id && mount.place == place && mount.kind == b"fuse.ipcfs")
}

/// Unmounts, by way of fusermount3 where the rights are missing.
pub(crate) fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), Errno> {
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(mountpoint, flags) {
        Err(Errno::EPERM) => {
            let Some(fusermount) = fusermount() else { return Err(Errno::EPERM) };
            let mut command = Command::new(fusermount);
            command.arg("-u").arg("-q").args(lazy.then_some("-z")).arg("--").arg(mountpoint);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            match command.status() {
                Ok(status) if status.success() => Ok(()),
                _ => Err(Errno::EBUSY),
            }
        }
        done => done,
    }
}

/// Where fusermount3 is, if it is.
pub(super) fn fusermount() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    places.extend(["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    places.into_iter().map(|place| place.join("fusermount3")).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_understood_whatever_a_place_is_called() {
        let line = b"36 35 0:98 / /mnt/a\\040b\\134\xff rw,noatime shared:1 - fuse.ipcfs ipcfs rw,user_id=0";
        let mount = Mount::parse(line).unwrap();
        let place = PathBuf::from(OsString::from_vec(b"/mnt/a b\\\xff".into()));
        let device = libc::makedev(0, 98);
        assert_eq!(mount, Mount { id: 36, device, place, kind: b"fuse.ipcfs".into() });
        assert_eq!(Mount::parse(b""), None);
        let mut table = File::open(TABLE).unwrap();
        let root = Pin::new(Path::new("/")).unwrap().mount();
        assert!(mounts(&mut table).iter().any(|mount| Some(mount.id) == root));
        assert!(!is_mounted_at(Path::new("/")));
    }
}
