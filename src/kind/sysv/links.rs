//! Names for keys: `ln -s 0x4d2 sysv/msg/jobs`.
//!
//! They are symbolic links, kept by the file system in a directory of their own that only the
//! daemon looks into: `/run/ipcfs/sysv/msg` for root, `$XDG_RUNTIME_DIR/ipcfs/sysv/msg` for a user,
//! `-o link_dir=PATH` for `PATH/sysv/msg`. They outlive the daemon. It is made with the first link.
//! Whatever else may be in there is not shown.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::super::fsdir::FsDir;
use super::super::{Options, state};
use super::name::Name;
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::vfs::{Attr, DirEntry, FileType, Wait};

/// Tells the numbers of links (inode numbers) from those of objects (identifiers) of the same
/// directory.
const LINK: u64 = 1 << 63;

/// The links of one kind.
pub(super) struct Links {
    /// Where names are kept, if there is a place.
    base: Option<PathBuf>,
    /// The kind's directory below it.
    path: &'static str,
    /// The same, once it is there.
    dir: OnceLock<FsDir>,
}

impl Links {
    /// The links of the kind whose directory is `path`.
    pub(super) fn new(options: &Options, path: &'static str) -> Self {
        let base = options.link_dir.clone().map_or_else(state::base, Ok).ok();
        Self { base, path, dir: OnceLock::new() }
    }

    /// The directory, if it is there and can be trusted. If it cannot, making a link says why.
    fn dir(&self) -> Option<&FsDir> {
        if let Some(dir) = self.dir.get() {
            return Some(dir);
        }
        let dir = state::open(&self.base.as_ref()?.join(self.path)).ok()?;
        Some(self.dir.get_or_init(|| FsDir::new(dir)))
    }

    /// The directory, which is made if it is not there.
    fn made_dir(&self) -> Result<&FsDir> {
        if let Some(dir) = self.dir.get() {
            return Ok(dir);
        }
        let Some(base) = &self.base else {
            return Err(Error::because(
                Errno::EPERM,
                "there is no place to keep names in: XDG_RUNTIME_DIR is not set; -o link_dir=PATH \
                 gives one",
            ));
        };
        state::private(base)?;
        let place = base.join(self.path);
        if let Some(above) = place.parent() {
            state::private(above)?;
        }
        let dir = state::names(&place)?;
        Ok(self.dir.get_or_init(|| FsDir::new(dir)))
    }

    /// The attributes of a link.
    pub(super) fn find(&self, name: &[u8]) -> Result<Attr> {
        let target = self.target(name)?;
        let Some(dir) = self.dir() else { return fail(Errno::ENOENT) };
        let attr = dir.stat(name)?;
        Ok(Attr { ident: attr.ident | LINK, mode: 0o777, size: target.len() as u64, ..attr })
    }

    /// The key that a link stands for.
    pub(super) fn target(&self, name: &[u8]) -> Result<Vec<u8>> {
        let Some(dir) = self.dir() else { return fail(Errno::ENOENT) };
        match nix::fcntl::readlinkat(dir, OsStr::from_bytes(name)) {
            Ok(target) if is_key(target.as_bytes()) => Ok(target.into_encoded_bytes()),
            // Something else than a link.
            Ok(_) | Err(Errno::EINVAL) => fail(Errno::ENOENT),
            Err(errno) => Err(errno.into()),
        }
    }

    /// All of them.
    pub(super) fn list(&self, wait: Wait) -> Result<Vec<DirEntry>> {
        let Some(dir) = self.dir() else { return Ok(Vec::new()) };
        let mut entries = dir.list(wait)?;
        entries.retain(|entry| {
            entry.file_type == FileType::Symlink
                && Name::parse(&entry.name).is_none()
                && self.target(&entry.name).is_ok()
        });
        for entry in &mut entries {
            entry.ident |= LINK;
        }
        Ok(entries)
    }

    /// Makes a link as the caller.
    pub(super) fn make(&self, caller: Caller, name: &[u8], target: &[u8]) -> Result<()> {
        let dir = self.made_dir()?;
        state::check_room(caller, dir)?;
        let (name, target) = (OsStr::from_bytes(name), OsStr::from_bytes(target));
        caller.act(|| Ok(nix::unistd::symlinkat(target, dir, name)?))
    }

    /// Removes a link as the caller, so that the sticky bit protects those of others.
    pub(super) fn remove(&self, caller: Caller, name: &[u8]) -> Result<()> {
        self.target(name)?;
        let Some(dir) = self.dir() else { return fail(Errno::ENOENT) };
        dir.remove(caller, name)
    }

    /// Renames a link as the caller.
    pub(super) fn rename(
        &self,
        caller: Caller,
        from: &[u8],
        to: &[u8],
        replace: bool,
    ) -> Result<()> {
        self.target(from)?;
        let Some(dir) = self.dir() else { return fail(Errno::ENOENT) };
        dir.rename_visible(caller, from, to, replace, self.find(to))
    }
}

fn is_key(target: &[u8]) -> bool {
    matches!(Name::parse(target), Some(Name::Key(_)))
}
