//! `fifo/NAME`: named pipes (`fifo(7)`).
//!
//! | operation | effect |
//! | --- | --- |
//! | `mkfifo`, `open` with `O_CREAT` | makes one; with `O_EXCL` as well `EPERM`, which could not be answered with a pipe |
//! | `open`, `read`, `write` | the kernel's own pipe; the daemon sees no data |
//! | `rename` | within the directory; what has the new name is replaced |
//!
//! The pipe hangs on the mount's own inode, so two mounts have two pipes of one name. What outlives
//! the daemon is the name with its mode, owner and times: a FIFO in the state directory, which
//! nobody ever opens (`kind/state.rs`): `-o fifo_dir=PATH`, else `/run/ipcfs/fifo`, for a user
//! `$XDG_RUNTIME_DIR/ipcfs/fifo`. What is in it but FIFOs is ignored.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::control::{self, Access, Control, ControlDir, Serve};
use super::fsdir::{self, FsDir};
use super::{Attributes, Kind, Options, Profile, shared_directory, state};
use crate::caller::Caller;
use crate::error::{Errno, Result, fail};
use crate::status::Fields;
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, DirEntry, FileId, FileType, How, Item, Object, ObjectId,
    Opened, Traces, Wait,
};

/// The kind's profile.
pub const PROFILE: Profile = Profile {
    path: "fifo",
    about: "named pipes",
    texts: false,
    // The pipe hangs on the inode.
    children: Children::Stable,
    attributes: &[],
    features: &[],
    open,
};

/// The names of the pipes.
pub struct Pipes {
    dir: FsDir,
    /// Whether an inode number tells a pipe from all that were there before.
    counted: bool,
}

fn open(options: &Options) -> Result<Arc<dyn Kind>> {
    let dir = if let Some(path) = &options.fifo_dir {
        state::names(path)?
    } else {
        let base = state::base()?;
        state::private(&base)?;
        state::names(&base.join("fifo"))?
    };
    let dir = FsDir::new(dir);
    let entries = dir.list(Wait::Block)?;
    let foreign = entries.iter().filter(|entry| entry.file_type != FileType::Fifo).count();
    if foreign > 0 {
        log::warn!("fifo: {foreign} entries of the state directory are no FIFOs and are ignored");
    }
    Ok(Arc::new(Pipes::new(dir)))
}

impl Pipes {
    fn new(dir: FsDir) -> Self {
        let counted = dir.counts_inodes();
        Self { dir, counted }
    }

    /// Pins the FIFO of that name; `ENOENT` for what is none.
    fn pin(&self, name: &[u8]) -> Result<(OwnedFd, Attr)> {
        match self.dir.pin(name) {
            Ok((pin, attr)) if attr.file_type == FileType::Fifo => {
                let ident = match self.counted {
                    true => attr.ident,
                    false => sys::identity(&pin, attr.ident)?,
                };
                Ok((pin, Attr { ident, size: 0, ..attr }))
            }
            Ok(_) => fail(Errno::ENOENT),
            // A link; a mount over the name.
            Err(error) if matches!(error.errno(), Errno::ELOOP | Errno::EXDEV) => {
                fail(Errno::ENOENT)
            }
            Err(error) => Err(error),
        }
    }
}

impl Kind for Pipes {
    fn make(&self, caller: Caller, name: &[u8], mode: u32, _: &Attributes) -> Result<()> {
        state::check_room(caller, &self.dir)?;
        self.dir.make_fifo(caller, name, mode)
    }
}

impl Dir for Pipes {
    fn attr(&self) -> Result<Attr> {
        Ok(shared_directory(self.dir.attr()?))
    }

    fn children(&self) -> Children {
        PROFILE.children
    }

    fn makes(&self) -> FileType {
        FileType::Fifo
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        if !self.counted {
            return Ok(self.pin(name)?.1);
        }
        Ok(Attr { size: 0, ..self.dir.find(name, FileType::Fifo)? })
    }

    fn item(self: Arc<Self>, name: &[u8], attr: &Attr) -> Result<Item> {
        let pipe = Pipe { kind: self, name: name.into(), ident: attr.ident };
        Ok(Item::Object(Arc::new(pipe)))
    }

    fn list(&self, wait: Wait) -> Result<Vec<DirEntry>> {
        let mut entries = self.dir.list(wait)?;
        entries.retain(|entry| entry.file_type == FileType::Fifo);
        Ok(entries)
    }

    fn create(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.make(caller, name, mode, &Attributes::default())
    }

    fn make_fifo(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.make(caller, name, mode, &Attributes::default())
    }

    fn remove(&self, caller: Caller, name: &[u8]) -> Result<()> {
        self.find(name)?;
        self.dir.remove(caller, name)
    }

    fn rename(&self, caller: Caller, from: &[u8], to: &[u8], replace: bool) -> Result<()> {
        self.find(from)?;
        self.dir.rename_visible(caller, from, to, replace, self.find(to))
    }
}

/// A pipe by its name.
struct Pipe {
    kind: Arc<Pipes>,
    name: Box<[u8]>,
    ident: u64,
}

impl Object for Pipe {
    fn attr(&self) -> Result<Attr> {
        let attr = self.kind.find(&self.name)?;
        if attr.ident == self.ident { Ok(attr) } else { fail(Errno::ENOENT) }
    }

    fn change(&self, cx: &Cx, change: &Change) -> Result<()> {
        if change.size.is_some() {
            return fail(Errno::EINVAL);
        }
        let (pin, attr) = self.kind.pin(&self.name)?;
        if attr.ident != self.ident {
            return fail(Errno::ESTALE);
        }
        fsdir::change_pinned(cx.caller, &pin, change)
    }

    fn open(&self, _cx: &Cx, _how: &How) -> Result<Opened> {
        // The kernel opens the pipe by itself, without asking.
        fail(Errno::ENXIO)
    }

    fn controls(self: Arc<Self>) -> Option<Arc<dyn Dir>> {
        Some(Arc::new(ControlDir::new(self, CONTROLS)))
    }

    fn id(&self) -> Option<ObjectId> {
        Some(ObjectId { kind: PROFILE.path, ident: self.ident })
    }

    fn traces(&self) -> Result<Traces> {
        let (pin, _) = self.kind.pin(&self.name)?;
        let stat = nix::sys::stat::fstat(&pin)?;
        let file = FileId { device: stat.st_dev, inode: stat.st_ino };
        Ok(Traces { file: Some(file), ..Traces::default() })
    }

    fn status(&self) -> Result<Fields> {
        let attr = self.attr()?;
        Ok(Fields::default()
            .text("name", &*self.name)
            .mode(attr.mode)
            .number("uid", attr.uid)
            .number("gid", attr.gid)
            .times(&attr))
    }
}

/// `ctl/fifo/NAME/`.
const CONTROLS: &[Control<Pipe>] = &[
    Control {
        name: "status",
        access: Access::Read,
        about: "what is known of the pipe, as name=value lines",
        serve: Serve::Sh(Pipe::status),
    },
    Control {
        name: "status.json",
        access: Access::Read,
        about: "the same as JSON",
        serve: Serve::Json(Pipe::status),
    },
    control::users(),
];

#[allow(unsafe_code)]
mod sys {
    use std::hash::{DefaultHasher, Hasher};
    use std::os::fd::{AsRawFd, OwnedFd};

    use crate::error::Errno;

    /// A number for the file that no later one will have, as its inode number alone may: many file
    /// systems give that of a removed file to the next one, which is not to be taken for the same
    /// pipe by those who have it open. The file's handle has a generation besides
    /// (`name_to_handle_at(2)`); a file system without handles leaves the inode number.
    pub(super) fn identity(pin: &OwnedFd, inode: u64) -> Result<u64, Errno> {
        /// `struct file_handle` with room for the longest (`MAX_HANDLE_SZ`).
        #[repr(C)]
        struct Handle {
            bytes: u32,
            sort: i32,
            data: [u8; 128],
        }
        let mut handle = Handle { bytes: 128, sort: 0, data: [0; 128] };
        let mut mount = 0;
        // SAFETY: the path is an empty C string; `bytes` says how much room there is after the two
        // integers, of which the kernel fills in no more than that.
        let done = unsafe {
            libc::name_to_handle_at(
                pin.as_raw_fd(),
                c"".as_ptr(),
                (&raw mut handle).cast(),
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        match Errno::result(done) {
            Ok(_) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM) => return Ok(inode),
            Err(errno) => return Err(errno),
        }
        let mut hasher = DefaultHasher::new();
        hasher.write_i32(handle.sort);
        hasher.write(handle.data.get(..handle.bytes as usize).unwrap_or(&handle.data));
        Ok(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ipcfs-fifo-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    fn me() -> Caller {
        let (uid, gid) = crate::owner();
        Caller { uid, gid, pid: std::process::id() }
    }

    #[test]
    fn what_is_no_fifo_is_not_there() {
        let scratch = scratch("foreign");
        let pipes = Pipes::new(FsDir::within("/".as_ref(), &scratch).unwrap());
        fs::write(scratch.join("file"), "kept").unwrap();
        symlink("/etc/passwd", scratch.join("link")).unwrap();
        pipes.create(me(), b"pipe", 0o600).unwrap();
        assert_eq!(pipes.list(Wait::Block).unwrap().len(), 1);
        for name in [b"file", b"link"] {
            assert_eq!(pipes.find(name).unwrap_err().errno(), Errno::ENOENT);
            assert_eq!(pipes.remove(me(), name).unwrap_err().errno(), Errno::ENOENT);
            assert_eq!(pipes.create(me(), name, 0).unwrap_err().errno(), Errno::EEXIST);
            let renamed = pipes.rename(me(), b"pipe", name, true);
            assert_eq!(renamed.unwrap_err().errno(), Errno::EEXIST);
        }
        assert_eq!(fs::read(scratch.join("file")).unwrap(), b"kept");
        let _ = fs::remove_dir_all(scratch);
    }

    #[test]
    fn a_pipe_that_replaces_another_is_another() {
        for on_tmpfs in [false, true] {
            let scratch = if on_tmpfs { Path::new("/dev/shm") } else { &std::env::temp_dir() };
            replace_again_and_again(&scratch.join(format!("ipcfs-fifo-{}", std::process::id())));
        }
    }

    fn replace_again_and_again(scratch: &Path) {
        let _ = fs::remove_dir_all(scratch);
        fs::create_dir(scratch).unwrap();
        let pipes = Pipes::new(FsDir::within("/".as_ref(), scratch).unwrap());
        let mut known = std::collections::HashSet::new();
        for _ in 0..100 {
            pipes.create(me(), b"pipe", 0o600).unwrap();
            assert!(known.insert(pipes.find(b"pipe").unwrap().ident));
            pipes.remove(me(), b"pipe").unwrap();
        }
        let _ = fs::remove_dir_all(scratch);
    }
}
