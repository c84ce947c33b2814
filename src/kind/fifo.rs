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
//! nobody ever opens. So each change is one system call of that file system, done as the caller,
//! and whenever the daemon is killed, a name is there as it was or as it was to be.
//!
//! The state directory is `-o fifo_dir=PATH`, else `/run/ipcfs/fifo`, for a user
//! `$XDG_RUNTIME_DIR/ipcfs/fifo`. It has to be the daemon's own, and one in which others cannot
//! remove what is not theirs. What is in it but FIFOs is ignored.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::control::{Access, Control, ControlDir, Serve};
use super::fsdir::{self, FsDir};
use super::{Attributes, Kind, Options, Profile};
use crate::caller::{self, Caller};
use crate::error::{Errno, Error, Result, fail};
use crate::status::Fields;
use crate::vfs::{Attr, Change, Children, Cx, Dir, DirEntry, FileType, How, Item, Object, Opened};

/// The kind's profile.
pub const PROFILE: Profile = Profile {
    path: "fifo",
    about: "named pipes",
    // The pipe hangs on the inode.
    children: Children::Stable,
    attributes: &[],
    open,
};

/// The names of the pipes.
pub struct Pipes {
    dir: FsDir,
}

fn open(options: &Options) -> Result<Arc<dyn Kind>> {
    let dir = FsDir::new(match &options.fifo_dir {
        Some(path) => state_directory(path)?,
        None => default_directory()?,
    });
    let entries = dir.list()?;
    let foreign = entries.iter().filter(|entry| entry.file_type != FileType::Fifo).count();
    if foreign > 0 {
        log::warn!("fifo: {foreign} entries of the state directory are no FIFOs and are ignored");
    }
    Ok(Arc::new(Pipes { dir }))
}

/// `/run/ipcfs/fifo`, or a user's own. The directory above is the daemon's alone, so that users
/// reach what is in it through the mount only.
fn default_directory() -> Result<OwnedFd> {
    let base = if caller::privileged() {
        PathBuf::from("/run")
    } else {
        match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(path) if Path::new(&path).is_absolute() => path.into(),
            _ => {
                return Err(Error::because(
                    Errno::ENOENT,
                    "no named pipes: there is nowhere to keep their names, since XDG_RUNTIME_DIR \
                     is not set; give a directory with -o fifo_dir=PATH",
                ));
            }
        }
    };
    let above = base.join("ipcfs");
    own_directory(&above, 0o700)?;
    state_directory(&above.join("fifo"))
}

/// Everybody makes and removes their own pipes in root's, and one user in a user's.
fn state_directory(path: &Path) -> Result<OwnedFd> {
    own_directory(path, if caller::privileged() { 0o1777 } else { 0o755 })
}

/// Opens a directory, which is made with `mode` if it is missing, and refuses one that could be
/// played with: a link, another's, one in which others may remove what is not theirs.
fn own_directory(path: &Path, mode: u32) -> Result<OwnedFd> {
    let refuse = |errno: Errno, why: &str| {
        let sentence = format!("no named pipes: their state directory {} {why}", path.display());
        Error::because(errno, sentence)
    };
    match nix::unistd::mkdir(path, Mode::from_bits_truncate(mode)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(refuse(errno, &format!("cannot be made: {}", errno.desc()))),
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = match nix::fcntl::open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(errno) => {
            let linked = fs::symlink_metadata(path).is_ok_and(|data| data.is_symlink());
            return Err(match linked {
                true => refuse(Errno::ELOOP, "is a symbolic link; give the directory itself"),
                false => refuse(errno, &format!("cannot be opened: {}", errno.desc())),
            });
        }
    };
    let attr = fsdir::attr(&nix::sys::stat::fstat(&dir)?);
    if attr.uid != crate::owner().0 {
        return Err(refuse(Errno::EPERM, "belongs to somebody else; remove it or chown it"));
    }
    if attr.mode & 0o022 != 0 && attr.mode & 0o1000 == 0 {
        let why = "lets others remove what is not theirs; chmod go-w it, or chmod +t";
        return Err(refuse(Errno::EPERM, why));
    }
    Ok(dir)
}

impl Pipes {
    /// Pins the FIFO of that name; `ENOENT` for what is none.
    fn pin(&self, name: &[u8]) -> Result<(OwnedFd, Attr)> {
        match self.dir.pin(name) {
            Ok((pin, attr)) if attr.file_type == FileType::Fifo => {
                let ident = sys::identity(&pin, attr.ident)?;
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
        self.dir.make_fifo(caller, name, mode)
    }
}

impl Dir for Pipes {
    fn attr(&self) -> Result<Attr> {
        self.dir.attr()
    }

    fn children(&self) -> Children {
        PROFILE.children
    }

    fn makes(&self) -> FileType {
        FileType::Fifo
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        Ok(self.pin(name)?.1)
    }

    fn item(self: Arc<Self>, name: &[u8], attr: &Attr) -> Result<Item> {
        let pipe = Pipe { kind: self, name: name.into(), ident: attr.ident };
        Ok(Item::Object(Arc::new(pipe)))
    }

    fn list(&self) -> Result<Vec<DirEntry>> {
        let mut entries = self.dir.list()?;
        entries.retain(|entry| entry.file_type == FileType::Fifo);
        Ok(entries)
    }

    fn create(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.dir.make_fifo(caller, name, mode)
    }

    fn make_fifo(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.dir.make_fifo(caller, name, mode)
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

    fn change(&self, caller: Caller, change: &Change) -> Result<()> {
        if change.size.is_some() {
            return fail(Errno::EINVAL);
        }
        let (pin, attr) = self.kind.pin(&self.name)?;
        if attr.ident != self.ident {
            return fail(Errno::ESTALE);
        }
        fsdir::change_pinned(caller, &pin, change)
    }

    fn open(&self, _cx: &Cx, _how: &How) -> Result<Opened> {
        // The kernel opens the pipe by itself, without asking.
        fail(Errno::ENXIO)
    }

    fn controls(self: Arc<Self>) -> Option<Arc<dyn Dir>> {
        Some(Arc::new(ControlDir::new(self, CONTROLS)))
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
    use std::os::unix::fs::{PermissionsExt, symlink};

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
    fn a_directory_that_could_be_played_with_is_refused_with_what_to_do() {
        let scratch = scratch("hostile");
        let sentence = |path: &Path| own_directory(path, 0o700).unwrap_err().to_string();
        let open = scratch.join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(sentence(&open).contains("chmod go-w"));
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(own_directory(&open, 0o700).is_ok());
        symlink(&open, scratch.join("link")).unwrap();
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
        let _ = fs::remove_dir_all(scratch);
    }

    #[test]
    fn what_is_no_fifo_is_not_there() {
        let scratch = scratch("foreign");
        let pipes = Pipes { dir: FsDir::at(&scratch).unwrap() };
        fs::write(scratch.join("file"), "kept").unwrap();
        symlink("/etc/passwd", scratch.join("link")).unwrap();
        pipes.create(me(), b"pipe", 0o600).unwrap();
        assert_eq!(pipes.list().unwrap().len(), 1);
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
        let scratch = scratch("again");
        let pipes = Pipes { dir: FsDir::at(&scratch).unwrap() };
        let mut known = std::collections::HashSet::new();
        for _ in 0..100 {
            pipes.create(me(), b"pipe", 0o600).unwrap();
            assert!(known.insert(pipes.find(b"pipe").unwrap().ident));
            pipes.remove(me(), b"pipe").unwrap();
        }
        let _ = fs::remove_dir_all(scratch);
    }
}
