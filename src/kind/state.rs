//! Directories where names are kept that the kernel has no place for: named pipes, names of keys.
//!
//! A name there is a file of the right type, and each change is one system call of that file system,
//! done as the caller. So whenever the daemon is killed, a name is there as it was or as it was to
//! be, and the sticky bit protects the names of others.
//!
//! They are below `/run/ipcfs`, for a user `$XDG_RUNTIME_DIR/ipcfs`. Whatever is to be trusted with
//! names has to be the daemon's own and a place where others cannot remove what is not theirs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::fsdir;
use crate::caller::{self, Caller};
use crate::error::{Errno, Error, Result};

/// Where the directories are, if this process has a place for them.
pub fn base() -> Result<PathBuf> {
    if caller::privileged() {
        return Ok("/run/ipcfs".into());
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(path) if Path::new(&path).is_absolute() => Ok(Path::new(&path).join("ipcfs")),
        _ => Err(Error::because(
            Errno::ENOENT,
            "there is nowhere to keep names, since XDG_RUNTIME_DIR is not set",
        )),
    }
}

/// Makes a directory that nobody else looks into, so that users reach what is below it through the
/// mount only.
pub fn private(path: &Path) -> Result<OwnedFd> {
    make(path, 0o700)
}

/// Makes a directory of names: everybody makes and removes their own in root's, and one user in a
/// user's.
pub fn names(path: &Path) -> Result<OwnedFd> {
    make(path, if caller::privileged() { 0o1777 } else { 0o755 })
}

fn make(path: &Path, mode: u32) -> Result<OwnedFd> {
    match nix::unistd::mkdir(path, Mode::from_bits_truncate(mode)) {
        Ok(()) | Err(Errno::EEXIST) => open(path),
        Err(errno) => Err(refuse(path, errno, &format!("cannot be made: {}", errno.desc()))),
    }
}

/// Opens a directory and refuses one that could be played with: a link, another's, one in which
/// others may remove what is not theirs. `ENOENT` if there is none.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(path, flags, Mode::empty()).map_err(|errno| {
        // O_DIRECTORY says of a link that it is none.
        if path.is_symlink() {
            refuse(path, Errno::ELOOP, "is a symbolic link; give the directory itself")
        } else {
            refuse(path, errno, &format!("cannot be opened: {}", errno.desc()))
        }
    })?;
    let attr = fsdir::attr(&nix::sys::stat::fstat(&dir)?);
    if attr.uid != crate::owner().0 {
        return Err(refuse(path, Errno::EPERM, "belongs to somebody else; remove it or chown it"));
    }
    if attr.mode & 0o022 != 0 && attr.mode & 0o1000 == 0 {
        let why = "lets others remove what is not theirs; chmod go-w it, or chmod +t";
        return Err(refuse(path, Errno::EPERM, why));
    }
    Ok(dir)
}

/// Whether a user may make another name in a directory of names: not if less than half of the files
/// that its file system can have would be left, since others keep theirs there (`/run`). Its owner
/// may, and so may anybody where there is no limit.
pub fn check_room(caller: Caller, dir: impl AsFd) -> Result<()> {
    if caller.uid == crate::owner().0 {
        return Ok(());
    }
    let disk = nix::sys::statfs::fstatfs(dir)?;
    let (files, free) = (disk.files(), disk.files_free());
    if files == 0 || free > files / 2 {
        return Ok(());
    }
    let sentence = format!(
        "{free} of the {files} files that there can be where names are kept are left; the second half \
         is not for users"
    );
    Err(Error::because(Errno::ENOSPC, sentence))
}

fn refuse(path: &Path, errno: Errno, why: &str) -> Error {
    Error::because(errno, format!("the state directory {} {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_directory_that_could_be_played_with_is_refused_with_what_to_do() {
        let scratch = std::env::temp_dir().join(format!("ipcfs-state-{}", std::process::id()));
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir(&scratch).unwrap();
        let sentence = |path: &Path| private(path).unwrap_err().to_string();
        let wide = scratch.join("wide");
        fs::create_dir(&wide).unwrap();
        fs::set_permissions(&wide, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(sentence(&wide).contains("chmod go-w"));
        fs::set_permissions(&wide, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(private(&wide).is_ok());
        symlink(&wide, scratch.join("link")).unwrap();
        assert!(sentence(&scratch.join("link")).contains("symbolic link"));
        fs::write(scratch.join("file"), "").unwrap();
        assert!(sentence(&scratch.join("file")).contains("cannot be opened"));
        if caller::privileged() {
            let others = scratch.join("others");
            fs::create_dir(&others).unwrap();
            std::os::unix::fs::chown(&others, Some(4242), None).unwrap();
            assert!(sentence(&others).contains("belongs to somebody else"));
        }
        assert!(sentence(&scratch.join("a/b")).contains("cannot be made"));
        assert_eq!(open(&scratch.join("none")).unwrap_err().errno(), Errno::ENOENT);
        let _ = fs::remove_dir_all(scratch);
    }
}
