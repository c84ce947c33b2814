//! Which name is what, and what is open: the file system without FUSE.
//!
//! The tree asks directories and objects ([`crate::vfs`]) and keeps two tables: the nodes that the
//! kernel knows and the handles that are open. It names no IPC call and knows no kind.

mod contest;
pub mod ctl;
pub mod fixed;
pub mod handles;
pub mod nodes;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use self::ctl::CtlKind;
use self::fixed::{FixedDir, Text};
use self::handles::{Fh, Handles, OpenDir, OpenFile};
use self::nodes::{Begun, Found, NodeId, Nodes};
use crate::caller::Caller;
use crate::ctl::Kinds;
use crate::error::{Errno, Error, Result, fail};
use crate::escape;
use crate::kind::{self, KINDS, Options};
use crate::monitor::Mounted;
use crate::quota::{Quota, Share};
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, DirEntry, FileType, How, Io, Item, ObjectId, Wait,
};

/// The longest name, as everywhere (`NAME_MAX`); the FUSE protocol itself would let 1024 through.
const NAME_MAX: usize = 255;

/// After a listing of so many names, what they took goes back to the kernel.
const LONG: usize = 4096;

/// What a look-up found.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The node id and whether its attributes may be trusted for the rest of the path walk.
    pub found: Found,
    /// The attributes.
    pub attr: Attr,
    /// Whether the name is one that never changes.
    pub fixed: bool,
}

/// An opened file.
pub struct Opening {
    /// Its number.
    pub fh: Fh,
    /// Whether it is open for writing.
    pub write: bool,
    /// Whether its closes are to be told ([`Handle::flush`](crate::vfs::Handle::flush)).
    pub flushes: bool,
    /// Who moves its data.
    pub io: Io,
}

/// The whole tree.
pub struct Tree {
    nodes: Nodes,
    files: Handles<OpenFile>,
    dirs: Handles<OpenDir>,
    quota: Arc<Quota>,
    memory: Arc<Quota>,
}

impl Tree {
    /// The tree of all kinds.
    pub fn new(options: &Options, quota: Arc<Quota>) -> Self {
        Self::with_root(quota, Item::Dir(Arc::new(FixedDir::new(root_entries(options)))))
    }

    fn with_root(quota: Arc<Quota>, root: Item) -> Self {
        let nodes = Nodes::new(root, Attr::directory(0, 0o755));
        let (files, dirs) = (Handles::default(), Handles::default());
        let memory = Arc::clone(Quota::memory());
        Self { nodes, files, dirs, quota, memory }
    }

    fn dir(&self, id: NodeId) -> Result<Arc<dyn Dir>> {
        match self.nodes.item(id)? {
            Item::Dir(dir) => Ok(dir),
            _ => fail(Errno::ENOTDIR),
        }
    }

    /// Looks a name up and counts the look-up.
    pub fn look_up(&self, parent: NodeId, name: &[u8]) -> Result<Entry> {
        let dir = self.dir(parent)?;
        check_name(name)?;
        let attr = dir.find(name)?;
        self.enter(parent, dir, name, attr)
    }

    fn enter(&self, parent: NodeId, dir: Arc<dyn Dir>, name: &[u8], attr: Attr) -> Result<Entry> {
        let children = match (dir.children(), attr.file_type) {
            (children, FileType::Regular) => children,
            (Children::PerWriter, _) => Children::Stable,
            (children, _) => children,
        };
        let found = self.nodes.look_up(parent, name, &attr, children, || dir.item(name, &attr))?;
        Ok(Entry { found, attr, fixed: children == Children::Fixed })
    }

    /// The kernel forgets `count` look-ups of an id.
    pub fn forget(&self, id: NodeId, count: u64) {
        self.nodes.forget(id, count);
    }

    /// The number that `stat` shows for a node: the same for all ids of an object.
    pub fn ino(&self, id: NodeId) -> u64 {
        self.nodes.ino(id)
    }

    /// Whether the kernel may keep the attributes of a node: they never change.
    pub fn is_fixed(&self, id: NodeId) -> bool {
        self.nodes.is_fixed(id)
    }

    /// The attributes of a node, or of an open file whose name may be gone.
    ///
    /// `ESTALE` for one that is gone and that nobody has open: whoever is on the way to it by its
    /// name is to look that up again, and finds what has it by now.
    pub fn attr(&self, id: NodeId, fh: Option<Fh>) -> Result<Attr> {
        // fstat(2) comes without the handle; one that is open by this id serves as well.
        let open = fh.or_else(|| self.nodes.opened(id)).and_then(|fh| self.file(id, fh).ok());
        let node = self.nodes.get(id)?;
        let attr = match (open.as_ref().and_then(|file| file.handle.attr()), &node.item) {
            (Some(attr), _) => attr?,
            // One that a process has open is not looked up again.
            (None, Item::Dir(dir)) => dir.attr()?,
            (None, Item::Object(object)) => match (object.attr(), &open) {
                // What has been opened is there still.
                (Err(error), Some(_)) if error.errno() == Errno::ENOENT => node.attr,
                // A pipe that is open, of which the daemon is not told.
                (Err(error), None) if is_gone(&error) && node.attr.file_type == FileType::Fifo => {
                    Attr { nlink: 0, ..node.attr }
                }
                (attr, _) => attr.map_err(looked_up_again)?,
            },
            (None, Item::Link(_)) => node.attr,
        };
        let length = open.and_then(|file| file.handle.length());
        let attr = Attr { size: length.unwrap_or(attr.size), ..attr };
        self.nodes.refresh(id, &Attr { ident: node.attr.ident, ..attr });
        Ok(attr)
    }

    /// Changes attributes and returns the new ones.
    pub fn change(&self, cx: &Cx, id: NodeId, fh: Option<Fh>, mut change: Change) -> Result<Attr> {
        let (node, caller) = (self.nodes.get(id)?, cx.caller);
        let object = match &node.item {
            Item::Object(object) => object,
            Item::Dir(_) | Item::Link(_) => return fail(Errno::EPERM),
        };
        if let (Some(fh), Some(size)) = (fh, change.size) {
            if let Some(done) = self.file(id, fh)?.handle.truncate(cx, size) {
                done?;
                change.size = None;
            }
        } else if change.size.is_some() {
            object.check_rights(caller, false, true)?;
        }
        if change != Change::default() {
            // As for attributes; but the size only by a file that is open for writing, as above.
            let open = self.nodes.opened(id).filter(|_| change.size.is_none());
            let open = open.and_then(|fh| self.file(id, fh).ok());
            match open.and_then(|file| file.handle.change(caller, &change)) {
                Some(done) => done?,
                None => {
                    object.change(cx, &change).map_err(|error| say_whose(error, &node.attr))?;
                }
            }
        }
        self.attr(id, fh)
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, id: NodeId) -> Result<Arc<[u8]>> {
        match self.nodes.item(id)? {
            Item::Link(target) => Ok(target),
            _ => fail(Errno::EINVAL),
        }
    }

    /// Makes an object, a named pipe (mknod(2)) and counts the look-up of it.
    pub fn make(
        &self,
        cx: &Cx,
        parent: NodeId,
        name: &[u8],
        file_type: FileType,
        mode: u32,
    ) -> Result<Entry> {
        let dir = self.dir(parent)?;
        check_name(name)?;
        may_take_time(cx, &*dir)?;
        match file_type {
            FileType::Regular if dir.makes() == FileType::Regular => {
                dir.make_file(cx.caller, name, mode)?;
            }
            FileType::Fifo => dir.make_fifo(cx.caller, name, mode)?,
            _ => return fail(Errno::EPERM),
        }
        let attr = dir.find(name).map_err(looked_up_again)?;
        self.enter(parent, dir, name, attr)
    }

    /// Makes a symbolic link and counts the look-up of it.
    pub fn make_link(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry> {
        let dir = self.dir(parent)?;
        check_name(name)?;
        dir.make_link(caller, name, target)?;
        let attr = dir.find(name)?;
        self.enter(parent, dir, name, attr)
    }

    /// Makes an object and opens it (`O_CREAT`).
    ///
    /// `ESTALE` where the kernel is to look the name up again and open what it finds, since it has
    /// not checked the caller against it: somebody else has made it in the meantime, or it is a
    /// pipe, which the kernel opens itself.
    pub fn create(
        &self,
        cx: &Cx,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, Opening)> {
        let dir = self.dir(parent)?;
        check_name(name)?;
        let regular = dir.makes() == FileType::Regular;
        if !regular && flags & libc::O_EXCL != 0 {
            // Looking it up again, the kernel would say that it exists.
            return Err(Error::because(
                Errno::EPERM,
                "a pipe is made by mkfifo, or without O_EXCL",
            ));
        }
        may_take_time(cx, &*dir)?;
        // Before anything is made that could then not be opened.
        let share = self.quota.take(cx.caller.uid)?;
        let attr = create_anew(&*dir, cx.caller, name, mode, flags & libc::O_EXCL != 0)?;
        if !regular {
            return fail(Errno::ESTALE);
        }
        if attr.uid != cx.caller.uid && crate::caller::privileged() {
            // Not what has just been made: somebody has put theirs in its place.
            return fail(Errno::ESTALE);
        }
        let entry = self.enter(parent, dir, name, attr)?;
        match self.open_as(cx, entry.found.id, flags, Some(share)) {
            Ok(opening) => Ok((entry, opening)),
            Err(error) => {
                // The kernel does not learn of this look-up.
                self.nodes.forget(entry.found.id, 1);
                Err(error)
            }
        }
    }

    /// Removes a name.
    pub fn remove(&self, caller: Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        let dir = self.dir(parent)?;
        dir.remove(caller, name).map_err(|error| whose(error, &*dir, name))
    }

    /// Renames within a directory; from one to another is `EPERM`, never `EXDEV`, which would make
    /// `mv` copy and delete.
    pub fn rename(
        &self,
        caller: Caller,
        from: (NodeId, &[u8]),
        to: (NodeId, &[u8]),
        replace: bool,
    ) -> Result<()> {
        if from.0 != to.0 {
            let sentence = "an object stays in its directory, which says what it is";
            return Err(Error::because(Errno::EPERM, sentence));
        }
        check_name(to.1)?;
        let dir = self.dir(from.0)?;
        dir.rename(caller, from.1, to.1, replace).map_err(|error| {
            // Either may be somebody else's; the one that is replaced is the less obvious one.
            let theirs = |name| dir.find(name).is_ok_and(|attr| attr.uid != caller.uid);
            whose(error, &*dir, if theirs(to.1) { to.1 } else { from.1 })
        })
    }

    /// Opens a file; `flags` are open(2)'s.
    pub fn open(&self, cx: &Cx, id: NodeId, flags: i32) -> Result<Opening> {
        self.open_as(cx, id, flags, None)
    }

    /// Opens a file; who has just made it comes with its share of what may be open.
    fn open_as(&self, cx: &Cx, id: NodeId, flags: i32, made: Option<Share>) -> Result<Opening> {
        let created = made.is_some();
        let share = made.map_or_else(|| self.quota.take(cx.caller.uid), Ok)?;
        let fh = self.files.number();
        let write = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let Begun { item, attr, other } = self.nodes.begin_open(id, fh, write, cx.caller.pid)?;
        let how = How { created, ..How::new(flags, attr) };
        let reopen = || self.file(id, other?).ok()?.handle.reopen(cx, &how);
        let open = || match item {
            Item::Object(object) => {
                if !created {
                    object.check_rights(cx.caller, how.read, how.write)?;
                }
                match object.open(cx, &how) {
                    // What is there and cannot be opened would be looked up again for nothing.
                    Err(error) if is_gone(&error) && object.attr().is_err() => fail(Errno::ESTALE),
                    opened => opened,
                }
            }
            Item::Dir(_) => fail(Errno::EISDIR),
            Item::Link(_) => fail(Errno::ELOOP),
        };
        let opened = match open() {
            Err(error) if error.errno() == Errno::ESTALE => reopen().unwrap_or(Err(error)),
            opened => opened,
        };
        let charged = opened.and_then(|opened| {
            let memory = match opened.handle.memory() {
                0 => None,
                bytes => Some(self.memory.take_many(cx.caller.uid, bytes)?),
            };
            Ok((memory, opened))
        });
        match charged {
            Ok((memory, opened)) => {
                let flushes = opened.handle.flushes();
                let file = OpenFile {
                    node: id,
                    write: how.write,
                    messages: matches!(opened.io, Io::Messages),
                    polled: AtomicBool::new(false),
                    opener: cx.caller,
                    handle: opened.handle,
                    share,
                    memory,
                };
                self.files.insert(fh, file);
                Ok(Opening { fh, write: how.write, flushes, io: opened.io })
            }
            Err(error) => {
                self.nodes.end_open(id, fh, how.write);
                Err(say_whose(error, &how.checked))
            }
        }
    }

    /// An open file; `EBADF` if it is not one of this node.
    pub fn file(&self, id: NodeId, fh: Fh) -> Result<Arc<OpenFile>> {
        let file = self.files.get(fh)?;
        if file.node == id { Ok(file) } else { fail(Errno::EBADF) }
    }

    /// Closes a file for the last time. What it has unfinished is sent by its handle's `finish`.
    pub fn release(&self, fh: Fh) -> Result<Arc<OpenFile>> {
        let file = self.files.remove(fh)?;
        self.nodes.end_open(file.node, fh, file.write);
        Ok(file)
    }

    /// Opens a directory.
    pub fn open_dir(&self, caller: Caller, id: NodeId) -> Result<Fh> {
        self.dir(id)?;
        let share = self.quota.take(caller.uid)?;
        let fh = self.dirs.number();
        let opener = caller.uid;
        self.dirs.insert(fh, OpenDir { node: id, entries: Mutex::default(), opener, share });
        Ok(fh)
    }

    /// The entries of an open directory; read anew if `rewind`.
    pub fn read_dir(&self, cx: &Cx, id: NodeId, fh: Fh, rewind: bool) -> Result<Arc<[DirEntry]>> {
        let open = self.dirs.get(fh)?;
        if open.node != id {
            return fail(Errno::EBADF);
        }
        if let Some((entries, _)) = open.entries.lock().as_ref().filter(|_| !rewind) {
            return Ok(Arc::clone(entries));
        }
        let listed: Arc<[DirEntry]> = self.dir(id)?.list(cx.wait)?.into();
        let names: usize = listed.iter().map(|entry| entry.name.capacity()).sum();
        let share = self.memory.take_many(open.opener, names + size_of_val(&*listed))?;
        *open.entries.lock() = Some((Arc::clone(&listed), share));
        Ok(listed)
    }

    /// The directory above a directory.
    pub fn parent(&self, id: NodeId) -> Result<NodeId> {
        Ok(self.nodes.get(id)?.parent)
    }

    /// Closes a directory.
    pub fn release_dir(&self, fh: Fh) -> Result<()> {
        let dir = self.dirs.remove(fh)?;
        let long = dir.entries.lock().as_ref().is_some_and(|(entries, _)| entries.len() > LONG);
        drop(dir);
        if long {
            crate::memory::give_back();
        }
        Ok(())
    }

    /// The path of a node below the mount, escaped for a line of text.
    pub fn path(&self, id: NodeId) -> String {
        let mut parts = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            let Ok(node) = self.nodes.get(at) else { break };
            parts.push(escape::line(&node.name));
            at = node.parent;
        }
        parts.reverse();
        parts.join("/")
    }
}

/// Makes an object and says what has been made. `ESTALE` if somebody else has made it, unless that
/// is to be an error.
fn create_anew(
    dir: &dyn Dir,
    caller: Caller,
    name: &[u8],
    mode: u32,
    exclusively: bool,
) -> Result<Attr> {
    /// What comes and goes all the time is not waited for.
    const TRIES: usize = 8;
    for _ in 0..TRIES {
        match dir.create(caller, name, mode) {
            Ok(()) => {}
            Err(error) if error.errno() != Errno::EEXIST || exclusively => return Err(error),
            Err(_) if dir.find(name).is_ok() => return fail(Errno::ESTALE),
            // Removed since.
            Err(_) => continue,
        }
        match dir.find(name) {
            Err(error) if is_gone(&error) => {}
            found => return found,
        }
    }
    // What has the name and is not shown, a link in /dev/shm say, stays in the way.
    fail(Errno::EEXIST)
}

/// Whether an object is not there any more.
fn is_gone(error: &Error) -> bool {
    matches!(error.errno(), Errno::ENOENT | Errno::ESTALE)
}

/// What becomes of the error when an object has gone since its name was looked up: at `ESTALE` the
/// kernel looks the name up once more.
fn looked_up_again(error: Error) -> Error {
    if is_gone(&error) { Errno::ESTALE.into() } else { error }
}

/// Leaves to a worker what is made slowly.
fn may_take_time(cx: &Cx, dir: &dyn Dir) -> Result<()> {
    let for_another = crate::caller::privileged() && cx.caller.uid != 0;
    if cx.wait == Wait::Try && for_another && dir.makes_slowly() {
        return Err(Error::deferred());
    }
    Ok(())
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() <= NAME_MAX {
        return Ok(());
    }
    Err(Error::because(
        Errno::ENAMETOOLONG,
        format!("the name has {} bytes; {NAME_MAX} are the most", name.len()),
    ))
}

/// The same of the object of a name.
fn whose(error: Error, dir: &dyn Dir, name: &[u8]) -> Error {
    match dir.find(name) {
        Ok(attr) => say_whose(error, &attr),
        Err(_) => error,
    }
}

/// Says whose object it is that somebody may not do something to.
fn say_whose(error: Error, attr: &Attr) -> Error {
    if error.what().is_some() || !matches!(error.errno(), Errno::EACCES | Errno::EPERM) {
        return error;
    }
    let Attr { uid, gid, mode, .. } = attr;
    let sentence = format!("it belongs to uid {uid} and gid {gid} and has mode {mode:04o}");
    Error::because(error.errno(), sentence)
}

impl Mounted for Tree {
    fn quota(&self) -> &Quota {
        &self.quota
    }

    fn memory(&self) -> &Quota {
        &self.memory
    }

    fn object(&self, node: u64) -> Option<ObjectId> {
        match self.nodes.item(NodeId(node)).ok()? {
            Item::Object(object) => object.id(),
            _ => None,
        }
    }

    fn inodes(&self) -> Vec<(ObjectId, u64)> {
        self.nodes.inodes()
    }

    fn open(&self) -> Vec<ObjectId> {
        self.nodes.open()
    }

    fn load(&self) -> (usize, usize) {
        (self.nodes.len(), self.files.len() + self.dirs.len())
    }
}

type Entries = Vec<(&'static str, Item)>;

/// The root's entries: the kinds at their paths, the same paths once more below ctl/, and how to
/// use them.
fn root_entries(options: &Options) -> Entries {
    let (mut root, mut ctl) = (Entries::new(), Entries::new());
    root.push(("README", Item::Object(Arc::new(Text(include_str!("readme.txt"))))));
    ctl.push(("README", Item::Object(Arc::new(Text(include_str!("readme-ctl.txt"))))));
    let kinds: Kinds =
        KINDS.iter().map(|profile| (profile, kind::open(profile, options))).collect();
    let dirs =
        kinds.iter().map(|(profile, kind)| (profile.path, Item::Dir(Arc::clone(kind).as_dir())));
    place(&mut root, dirs);
    ctl.extend(crate::ctl::entries(&kinds));
    let dirs = kinds
        .iter()
        .map(|(profile, kind)| (profile.path, Item::Dir(Arc::new(CtlKind::new(Arc::clone(kind))))));
    place(&mut ctl, dirs);
    root.push(("ctl", Item::Dir(Arc::new(FixedDir::new(ctl)))));
    root
}

/// Puts directories at their paths; those whose path has two parts share the one above.
fn place(entries: &mut Entries, dirs: impl Iterator<Item = (&'static str, Item)>) {
    let mut groups: Vec<(&'static str, Entries)> = Vec::new();
    for (path, dir) in dirs {
        match path.split_once('/') {
            None => entries.push((path, dir)),
            Some((group, name)) => match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, entries)) => entries.push((name, dir)),
                None => groups.push((group, vec![(name, dir)])),
            },
        }
    }
    for (group, members) in groups {
        entries.push((group, Item::Dir(Arc::new(FixedDir::new(members)))));
    }
}
