//! The kinds of IPC object, one file each, and the table of them all.
//!
//! A kind is a [`Dir`] whose names are objects. What the rest of the program needs to know of it
//! beyond that is data: its [`Profile`]. A new kind is a new file and a line of [`KINDS`].

pub mod control;
mod drain;
mod fifo;
mod fsdir;
pub mod gather;
mod hold;
pub mod lines;
pub mod message;
mod mq;
mod rights;
pub mod sem;
pub mod shared;
mod shm;
mod state;
pub mod sysv;
mod value_text;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::fsdir::FsDir;
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::vfs::{Attr, Children, Dir, DirEntry, Item, Wait};

/// What the mount options say about the kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-o mq_maxmsg=`: messages that a queue made by `touch` holds; else the kernel's default.
    pub mq_maxmsg: Option<i64>,
    /// `-o mq_msgsize=`: bytes that a message of a queue made by `touch` may have.
    pub mq_msgsize: Option<i64>,
    /// `-o link_dir=`: where the names of System V keys are kept; else in `/run/ipcfs`, or below
    /// `$XDG_RUNTIME_DIR`.
    pub link_dir: Option<PathBuf>,
    /// `-o fifo_dir=`: where the named pipes are kept.
    pub fifo_dir: Option<PathBuf>,
    /// `--ipc-ns`: whose objects, if not those of the daemon's own namespaces.
    pub namespace: Option<Namespace>,
}

impl Options {
    /// Whether what the options ask for can be had; the error is a sentence that names the one that
    /// cannot. What they do not ask for a mount does without.
    pub fn check(&self) -> Result<()> {
        mq::check(self)?;
        if let Some(directory) = &self.fifo_dir {
            state::names(directory).map_err(|error| of_option("fifo_dir", &error))?;
        }
        if let Some(directory) = &self.link_dir {
            state::private(directory).map_err(|error| of_option("link_dir", &error))?;
        }
        Ok(())
    }

    /// Opens /dev/shm, where the C library of the namespace keeps `what`: POSIX shared memory and
    /// semaphores (`shm_overview(7)`).
    fn shm_dir(&self, what: &str) -> Result<FsDir> {
        let (root, root_name) = match &self.namespace {
            None => (Path::new("/"), String::new()),
            Some(Namespace { root: Some(root), .. }) => (&**root, root.display().to_string()),
            Some(Namespace { root: None, .. }) => {
                let reason = format!(
                    "no {what}: a namespace given by a path does not say whose /dev/shm belongs to \
                     it; give --ipc-ns the id of a process in it"
                );
                return Err(Error::because(Errno::EOPNOTSUPP, reason));
            }
        };
        FsDir::within(root, Path::new("dev/shm")).map_err(|error| {
            let directory = format!("{root_name}/dev/shm");
            let reason = format!(
                "no {what}: {directory}: {}; as root: mkdir -p {directory} && mount -t tmpfs -o \
                 mode=1777 tmpfs {directory}",
                error.errno().desc()
            );
            Error::because(error.errno(), reason)
        })
    }
}

/// The same error, said of a mount option.
fn of_option(name: &str, error: &Error) -> Error {
    let what = error.what().unwrap_or(error.errno().desc());
    Error::because(error.errno(), format!("mount option {name}: {what}"))
}

/// Another IPC namespace (`ipc_namespaces(7)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The namespace's file.
    pub file: PathBuf,
    /// The root directory of a process in it, if one is known.
    pub root: Option<PathBuf>,
}

impl Namespace {
    /// By the id of a process in it, or by the path of the namespace's file.
    pub fn new(text: impl AsRef<OsStr>) -> Self {
        let path = text.as_ref();
        let process = path.to_str().and_then(|text| match text.parse::<u32>() {
            Ok(pid) => Some(format!("/proc/{pid}")),
            Err(_) => {
                text.strip_suffix("/ns/ipc").filter(|it| it.starts_with("/proc/")).map(Into::into)
            }
        });
        match process {
            Some(process) => Self {
                file: PathBuf::from(format!("{process}/ns/ipc")),
                root: Some(PathBuf::from(format!("{process}/root"))),
            },
            None => Self { file: PathBuf::from(path), root: None },
        }
    }
}

/// The permissions of a directory in which everybody may make objects and only owners may remove
/// them.
///
/// Root's daemon removes and renames as the caller, so that the kernel keeps the second half. The
/// directory does not show the sticky bit then: with it, `fs.protected_regular` and
/// `fs.protected_fifos` (`proc_sys_fs(5)`) would refuse `echo >` on what another user owns and lets
/// the caller write, which the C calls do not.
pub fn shared_mode() -> u32 {
    if crate::caller::privileged() { 0o777 } else { 0o1777 }
}

/// The attributes of such a directory that is a directory of the file system as well.
pub fn shared_directory(attr: Attr) -> Attr {
    Attr { mode: attr.mode & (!0o1777 | shared_mode()), ..attr }
}

/// A kind as the directory that it is. Every [`Dir`] has it; the language itself converts one to the
/// other from Rust 1.86 on.
pub trait AsDir {
    /// The same, as a directory.
    fn as_dir(self: Arc<Self>) -> Arc<dyn Dir>;
}

impl<T: Dir + 'static> AsDir for T {
    fn as_dir(self: Arc<Self>) -> Arc<dyn Dir> {
        self
    }
}

/// A directory of objects of one kind.
pub trait Kind: Dir + AsDir {
    /// Makes an object with attributes, owned by the caller: what [`Dir::create`] does with none.
    /// The attributes are among those of the kind's [`Profile`].
    fn make(&self, caller: Caller, name: &[u8], mode: u32, attributes: &Attributes) -> Result<()>;

    /// The limits for objects of this kind, and how much of each is in use.
    fn limits(&self, _caller: Caller) -> Vec<Limit> {
        Vec::new()
    }
}

/// A limit of the kernel or of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is limited: `mq_queues`. The limit is shown as `mq_queues_max`, its use as `mq_queues`.
    pub name: &'static str,
    /// The limit; `None` if there is none.
    pub max: Option<u64>,
    /// How much of it is in use, where that can be said.
    pub used: Option<u64>,
    /// How the administrator raises it; nothing, if it is built in.
    pub raise: &'static str,
}

impl Limit {
    /// A limit whose use is known.
    pub fn used(name: &'static str, max: u64, used: u64, raise: &'static str) -> Self {
        Self { name, max: Some(max), used: Some(used), raise }
    }

    /// A limit for each object.
    pub fn each(name: &'static str, max: u64, raise: &'static str) -> Self {
        Self { name, max: Some(max), used: None, raise }
    }
}

/// Something that not every machine allows, and that a kind does without where it has to.
pub struct Feature {
    /// What it is called.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Tries it out, by the same code as when it is needed; changes nothing.
    pub probe: fn() -> Result<()>,
    /// What follows where it is missing.
    pub without: &'static str,
}

/// A number of the kernel's configuration, below /proc/sys.
pub fn sysctl(path: &str) -> Result<u64> {
    Ok(sysctls(path)?.first().copied().unwrap_or(0))
}

/// The numbers of one file of the kernel's configuration.
pub fn sysctls(path: &str) -> Result<Vec<u64>> {
    let text = std::fs::read_to_string(format!("/proc/sys/{path}"))?;
    Ok(text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect())
}

/// Attributes of an object to be made, by their names in `ctl/create`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<(&'static str, u64)>);

impl Attributes {
    /// Sets an attribute.
    pub fn set(&mut self, name: &'static str, value: u64) {
        self.0.push((name, value));
    }

    /// An attribute, if it was given; the last one counts.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// All that were given, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().copied()
    }
}

/// What the rest of the program knows about a kind.
pub struct Profile {
    /// Its directory below the mount, `/` between the parts.
    pub path: &'static str,
    /// What it holds, in a few words.
    pub about: &'static str,
    /// Whether its files are texts about the object, which holds no bytes of its own.
    pub texts: bool,
    /// How its names become node ids.
    pub children: Children,
    /// What [`Kind::make`] takes beside the mode, all of them numbers.
    pub attributes: &'static [&'static str],
    /// What it does better with.
    pub features: &'static [Feature],
    /// Finds out what this machine allows and opens the kind; fails with the reason why there are
    /// no such objects here.
    pub open: fn(&Options) -> Result<Arc<dyn Kind>>,
}

/// All kinds, in the order in which they are listed.
pub const KINDS: [Profile; 7] = [
    mq::PROFILE,
    shm::PROFILE,
    sem::PROFILE,
    fifo::PROFILE,
    sysv::msg::PROFILE,
    sysv::sem::PROFILE,
    sysv::shm::PROFILE,
];

/// Opens a kind; one that cannot be had is an empty directory that says why.
pub fn open(profile: &'static Profile, options: &Options) -> Arc<dyn Kind> {
    (profile.open)(options).unwrap_or_else(|error| {
        if error.what().is_some() {
            log::warn!("{}: {error}", profile.path);
        }
        Arc::new(Missing { profile, reason: error.what().map(Into::into) })
    })
}

/// A kind that this machine does not have.
struct Missing {
    profile: &'static Profile,
    reason: Option<String>,
}

impl Kind for Missing {
    fn make(&self, _: Caller, _: &[u8], _: u32, _: &Attributes) -> Result<()> {
        let about = self.profile.about;
        let reason = self.reason.clone().unwrap_or_else(|| format!("{about}: not available"));
        Err(Error::because(Errno::EOPNOTSUPP, reason))
    }
}

impl Dir for Missing {
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::directory(0, shared_mode()))
    }

    fn children(&self) -> Children {
        self.profile.children
    }

    fn find(&self, _name: &[u8]) -> Result<Attr> {
        fail(Errno::ENOENT)
    }

    fn item(self: Arc<Self>, _name: &[u8], _attr: &Attr) -> Result<Item> {
        fail(Errno::ENOENT)
    }

    fn list(&self, _wait: Wait) -> Result<Vec<DirEntry>> {
        Ok(Vec::new())
    }

    fn create(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.make(caller, name, mode, &Attributes::default())
    }

    fn make_fifo(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.create(caller, name, mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_given_by_a_process_or_a_path() {
        let by_pid = Namespace::new("12");
        assert_eq!(by_pid.file, PathBuf::from("/proc/12/ns/ipc"));
        assert_eq!(by_pid.root, Some(PathBuf::from("/proc/12/root")));
        assert_eq!(Namespace::new("/proc/12/ns/ipc"), by_pid);
        assert_eq!(Namespace::new("/run/ns/x").root, None);
    }

    #[test]
    fn each_kind_has_a_directory_of_its_own() {
        let mut paths: Vec<_> = KINDS.iter().map(|kind| kind.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), KINDS.len());
        assert!(KINDS.iter().all(|kind| !kind.about.is_empty()));
    }
}
