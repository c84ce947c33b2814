//! What is done to a descriptor, wherever it came from.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, Flock, FlockArg, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{Gid, Uid, Whence};

use super::calls::{self, Result};
use super::{KEEP, Kind, Step, errno, not_here, shown};

/// open(2), not to wait.
pub fn open(path: &Path, flags: i32, mode: u32) -> Result<File> {
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    Ok(File::from(nix::fcntl::open(path, flags, Mode::from_bits_truncate(mode))?))
}

/// What is done by name.
pub fn by_name(kind: Kind, path: &Path, step: &Step) -> Result<String> {
    let beside = |name: &str| {
        path.with_file_name(match kind {
            // As glibc names them, where it is glibc's own directory.
            Kind::Sem if path.starts_with("/dev/shm") => format!("sem.{name}"),
            _ => name.into(),
        })
    };
    let done = match *step {
        Step::Rename(to) => std::fs::rename(path, beside(to)),
        Step::Link(to) => std::fs::hard_link(path, beside(to)),
        Step::Symlink(to) => std::os::unix::fs::symlink("elsewhere", beside(to)),
        Step::Mkdir(to) => {
            return mkdirat(AT_FDCWD, &beside(to), Mode::S_IRWXU).map(|()| String::new());
        }
        Step::Chmod(mode) => {
            let mode = Mode::from_bits_truncate(mode);
            return fchmodat(AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink)
                .map(|()| String::new());
        }
        Step::Chown(uid, gid) => {
            let uid = (uid != KEEP).then(|| Uid::from_raw(uid));
            let gid = (gid != KEEP).then(|| Gid::from_raw(gid));
            return nix::unistd::fchownat(AT_FDCWD, path, uid, gid, AtFlags::empty())
                .map(|()| String::new());
        }
        Step::Stat => {
            let stat = nix::sys::stat::stat(path)?;
            let (mode, size) = (stat.st_mode & 0o7777, stat.st_size);
            return Ok(format!("{mode:04o},{}:{},{size}", stat.st_uid, stat.st_gid));
        }
        _ => not_here(kind, step),
    };
    done.map(|()| String::new()).map_err(|error| errno(&error))
}

/// What is done by a descriptor.
pub fn by_descriptor(kind: Kind, file: &File, step: &Step) -> Result<String> {
    let failed = |error: std::io::Error| errno(&error);
    match *step {
        Step::Write(text) => Ok(nix::unistd::write(file, text.as_bytes())?.to_string()),
        Step::WriteAt(at, text) => {
            Ok(file.write_at(text.as_bytes(), at).map_err(failed)?.to_string())
        }
        Step::Read(length) => {
            let mut data = vec![0; length];
            let length = nix::unistd::read(file, &mut data)?;
            Ok(shown(&data[..length]))
        }
        Step::ReadAt(at, length) => {
            let mut data = vec![0; length];
            let length = file.read_at(&mut data, at).map_err(failed)?;
            Ok(shown(&data[..length]))
        }
        Step::Seek(to, whence) => {
            let whence = match whence {
                libc::SEEK_SET => Whence::SeekSet,
                libc::SEEK_CUR => Whence::SeekCur,
                libc::SEEK_END => Whence::SeekEnd,
                libc::SEEK_DATA => Whence::SeekData,
                _ => Whence::SeekHole,
            };
            Ok(nix::unistd::lseek(file, to, whence)?.to_string())
        }
        Step::Truncate(size) => nix::unistd::ftruncate(file, size).map(|()| String::new()),
        Step::Map(protection, flags) => {
            calls::map(file.as_fd(), protection, flags).map(|()| String::new())
        }
        Step::Allocate(mode, offset, length) => {
            let mode = FallocateFlags::from_bits_retain(mode);
            nix::fcntl::fallocate(file, mode, offset, length).map(|()| String::new())
        }
        Step::Sync => nix::unistd::fsync(file).map(|()| String::new()),
        Step::Lock => {
            // By way of another open file.
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
            let other = open(Path::new(&path), libc::O_RDONLY, 0)?;
            let now = FlockArg::LockExclusiveNonblock;
            let duplicate = file.try_clone().map_err(failed)?;
            let held = Flock::lock(duplicate, now).map_err(|(_, errno)| errno)?;
            let refused = Flock::lock(other, now).err().map_or("both", |(_, errno)| match errno {
                Errno::EWOULDBLOCK => "one",
                _ => "neither",
            });
            drop(held);
            Ok(refused.into())
        }
        _ => not_here(kind, step),
    }
}
