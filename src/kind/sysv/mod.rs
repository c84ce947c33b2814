//! What the three System V kinds have in common: `sysv/msg/KEY`, `sysv/sem/KEY`, `sysv/shm/KEY`
//! (`sysvipc(7)`). [`name`] says how they are named.
//!
//! # Which object
//!
//! A key can be reused at any time; an identifier carries a sequence number, so that it stands for
//! one object for a long time. So a name is looked up once and what is done afterwards is done to
//! the identifier, which is the object's [`Attr::ident`].
//!
//! # Who may
//!
//! The kernel checks reading and writing against the object's mode before a request arrives. To
//! change or remove an object one must be its owner or its creator (`IPC_SET`, `IPC_RMID`), which
//! no directory mode expresses: the directories are open to everybody, and the daemon makes those
//! calls as the caller. Changing the mode is the owner's alone here, as for any file. What the
//! kernel's calls ask for beyond that is in [`rights`].

mod actors;
mod endpoint;
mod links;
pub mod msg;
pub mod name;
pub mod sem;
pub mod shm;
mod watch;

use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

use self::links::Links;
use self::name::{Name, name_of};
use super::fsdir::time;
use super::{Attributes, Kind, Limit, Options, Profile, rights, shared_mode};
use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::status::Fields;
use crate::vfs::{Attr, Change, Children, Dir, DirEntry, FileType, Item, Object, Wait};

/// About as many bytes has a line of a table in /proc/sysvipc.
const LINE: usize = 120;

/// What is different between the three kinds.
pub trait Family: Send + Sync + Sized + 'static {
    /// The kind's profile.
    fn profile(&self) -> &'static Profile;

    /// The kernel's list of them below /proc/sysvipc.
    fn table(&self) -> &'static str;

    /// The identifier of the object of a key (`msgget(key, 0)`, which asks for no permission);
    /// `ENOENT` if there is none.
    fn id_of(&self, key: i32) -> Result<i32>;

    /// The attributes of the object of an identifier (`MSG_STAT_ANY`, which asks for no permission;
    /// see [`perm_attr`]). `EINVAL` or `EIDRM` if it is gone.
    fn attr(&self, id: i32) -> Result<Attr>;

    /// Makes an object (`IPC_CREAT | IPC_EXCL`). Called under the caller's ids.
    fn make(&self, caller: Caller, key: i32, mode: u32, attributes: &Attributes) -> Result<()>;

    /// Makes an object with default attributes for who is about to open it. Called under the
    /// caller's ids.
    fn create(&self, caller: Caller, key: i32, mode: u32) -> Result<()> {
        self.make(caller, key, mode, &Attributes::default())
    }

    /// Removes an object (`IPC_RMID`) as the caller.
    fn remove(&self, caller: Caller, id: i32) -> Result<()>;

    /// As many objects are listed in the request loop.
    fn listed_at_once(&self) -> usize {
        256
    }

    /// The kernel's limits for these objects.
    fn limits(&self) -> Vec<Limit>;

    /// What an identifier stands for.
    fn object(self: Arc<Self>, id: i32) -> Arc<dyn Object>;
}

/// The directory of one of the three kinds.
pub struct Objects<F> {
    family: Arc<F>,
    links: Links,
}

impl<F: Family> Objects<F> {
    /// The directory of a family; fails where the kernel has no System V objects.
    pub fn open(family: F, options: &Options) -> Result<Arc<dyn Kind>> {
        let table = family.table();
        std::fs::metadata(table).map_err(|error| {
            Error::because(
                Error::from(error).errno(),
                format!(
                    "{table} is missing: /proc is not mounted, or this kernel is built without \
                     System V IPC"
                ),
            )
        })?;
        let links = Links::new(options, family.profile().path);
        Ok(Arc::new(Self { family: Arc::new(family), links }))
    }

    fn find_id(&self, name: Name) -> Result<i32> {
        match name {
            Name::Key(key) => self.family.id_of(key),
            Name::Id(id) => Ok(id),
        }
    }
}

/// Says which limits there are to what has been refused because of one.
fn say_limits(error: Error, limits: &[Limit]) -> Error {
    let wanted = |limit: &&Limit| match error.errno() {
        Errno::ENOSPC => limit.used.is_some(),
        Errno::EINVAL => limit.used.is_none(),
        _ => false,
    };
    let text = |limit: &Limit| {
        let max = limit.max.map_or_else(|| "unlimited".into(), |max| max.to_string());
        match limit.used {
            Some(used) => format!("{} is {used} of {max}", limit.name),
            None => format!("{}_max is {max}", limit.name),
        }
    };
    let numbers: Vec<_> = limits.iter().filter(wanted).map(text).collect();
    if numbers.is_empty() {
        return error;
    }
    let sentence = error.what().unwrap_or(error.errno().desc());
    Error::because(error.errno(), format!("{sentence} ({})", numbers.join(", ")))
}

impl<F: Family> Objects<F> {
    /// Has an object of a key made as the caller.
    fn make_with(
        &self,
        caller: Caller,
        name: &[u8],
        make: impl FnOnce(i32) -> Result<()>,
    ) -> Result<()> {
        match Name::parse(name) {
            Some(Name::Key(key)) => {
                caller.act(|| make(key)).map_err(|error| say_limits(error, &self.family.limits()))
            }
            Some(Name::Id(_)) => Err(Error::because(
                Errno::EINVAL,
                "identifiers are given out by the kernel; make an object by its key",
            )),
            None => Err(no_key(name)),
        }
    }
}

impl<F: Family> Kind for Objects<F> {
    fn limits(&self, _caller: Caller) -> Vec<Limit> {
        self.family.limits()
    }

    fn make(&self, caller: Caller, name: &[u8], mode: u32, attributes: &Attributes) -> Result<()> {
        let make = |key| self.family.make(caller, key, mode & 0o777, attributes);
        self.make_with(caller, name, make)
    }
}

fn no_key(name: &[u8]) -> Error {
    Error::because(
        Errno::EINVAL,
        format!(
            "\"{}\" is no key (0x4d2 or 1234, not 0); a link gives a key a name: ln -s 0x4d2 jobs",
            String::from_utf8_lossy(name).escape_debug()
        ),
    )
}

/// Refuses a link whose name would be taken for a key or an identifier.
fn check_link_name(name: &[u8]) -> Result<()> {
    let sentence = match Name::parse(name) {
        Some(_) => "that is a key or an identifier already",
        None if name::looks_like_one(name) => {
            "a link's name is not to be taken for a key: it begins with no digit, sign and digit, \
             blank or id-"
        }
        None => return Ok(()),
    };
    Err(Error::because(Errno::EINVAL, sentence))
}

/// Whether `ipcperms` gives a caller what a file's mode gives them.
fn check_rights(perm: &libc::ipc_perm, caller: Caller, read: bool, write: bool) -> Result<()> {
    let asked = rights::bits(read, write);
    rights::Rights::from(perm).check(caller, asked, asked)
}

impl<F: Family> Dir for Objects<F> {
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::directory(0, shared_mode()))
    }

    fn children(&self) -> Children {
        self.family.profile().children
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        match Name::parse(name) {
            Some(name) => self.family.attr(self.find_id(name)?).map_err(Error::absent),
            None => self.links.find(name),
        }
    }

    fn item(self: Arc<Self>, name: &[u8], attr: &Attr) -> Result<Item> {
        if attr.file_type == FileType::Symlink {
            return Ok(Item::Link(self.links.target(name)?.into()));
        }
        Ok(Item::Object(Arc::clone(&self.family).object(attr.ident as i32)))
    }

    fn list(&self, wait: Wait) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        let mut table = Vec::new();
        let at_once = self.family.listed_at_once() * LINE;
        let most = if wait == Wait::Try { at_once as u64 } else { u64::MAX };
        std::fs::File::open(self.family.table())?.take(most).read_to_end(&mut table)?;
        if table.len() as u64 == most {
            return Err(Error::deferred());
        }
        for (key, id) in parse_table(&table) {
            let name = name_of(key, id).into_bytes();
            entries.push(DirEntry { name, ident: id as u64, file_type: FileType::Regular });
        }
        entries.extend(self.links.list(wait)?);
        Ok(entries)
    }

    fn create(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.make_with(caller, name, |key| self.family.create(caller, key, mode & 0o777))
    }

    fn make_file(&self, caller: Caller, name: &[u8], mode: u32) -> Result<()> {
        self.make(caller, name, mode, &Attributes::default())
    }

    fn make_link(&self, caller: Caller, name: &[u8], target: &[u8]) -> Result<()> {
        check_link_name(name)?;
        if !matches!(Name::parse(target), Some(Name::Key(_))) {
            return Err(no_key(target));
        }
        self.links.make(caller, name, target)
    }

    fn remove(&self, caller: Caller, name: &[u8]) -> Result<()> {
        let Some(name) = Name::parse(name) else { return self.links.remove(caller, name) };
        let id = self.find_id(name)?;
        self.family.remove(caller, id).map_err(Error::absent)
    }

    fn rename(&self, caller: Caller, from: &[u8], to: &[u8], replace: bool) -> Result<()> {
        // The names of keys alone: an object's key is for life.
        if Name::parse(from).is_some() || Name::parse(to).is_some() {
            return fail(Errno::EPERM);
        }
        check_link_name(to)?;
        self.links.rename(caller, from, to, replace)
    }
}

/// The keys and identifiers of a table in /proc/sysvipc, in which they are the first two columns.
fn parse_table(text: &[u8]) -> impl Iterator<Item = (i32, i32)> {
    String::from_utf8_lossy(text)
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut columns = line.split_ascii_whitespace();
            Some((columns.next()?.parse().ok()?, columns.next()?.parse().ok()?))
        })
        .collect::<Vec<_>>()
        .into_iter()
}

/// The attributes of an object with these permissions. A time of 0 is that of nothing that has ever
/// happened; it becomes that of the last change of attributes, which is the creation at first.
pub fn perm_attr(perm: &libc::ipc_perm, id: i32, size: u64, times: Times) -> Attr {
    let shown = |seconds| if seconds == 0 { times.change } else { seconds };
    Attr {
        ident: id as u64,
        file_type: FileType::Regular,
        // Above these there are flags: SHM_DEST, SHM_LOCKED.
        mode: u32::from(perm.mode) & 0o777,
        uid: perm.uid,
        gid: perm.gid,
        size,
        blocks: size.div_ceil(512),
        nlink: 1,
        atime: to_time(shown(times.read)),
        mtime: to_time(shown(times.write)),
        ctime: to_time(times.change),
    }
}

/// An object's times, in seconds since 1970; 0 for never.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When it was last read.
    pub read: i64,
    /// When it was last written.
    pub write: i64,
    /// When its attributes were last changed.
    pub change: i64,
}

fn to_time(seconds: i64) -> SystemTime {
    time(seconds, 0)
}

/// The fields that each object's status begins with.
pub fn perm_status(perm: &libc::ipc_perm, id: i32) -> Fields {
    Fields::default()
        .text("name", name_of(perm.__key, id))
        .text("key", format!("0x{:08x}", perm.__key))
        .number("id", id)
        .mode(u32::from(perm.mode) & 0o777)
        .number("uid", perm.uid)
        .number("gid", perm.gid)
        .number("cuid", perm.cuid)
        .number("cgid", perm.cgid)
}

/// Applies a change of mode and owner to `perm` and has `set` make it real (`IPC_SET`) as the
/// caller, who is the owner, the creator or root. Times cannot be set, which touch(1) need not
/// know.
pub fn change_perm(
    caller: Caller,
    perm: &mut libc::ipc_perm,
    change: &Change,
    set: impl FnOnce(&libc::ipc_perm) -> Result<()>,
) -> Result<()> {
    if change.mode.is_none() && change.uid.is_none() && change.gid.is_none() {
        return Ok(());
    }
    if let Some(mode) = change.mode {
        perm.mode = (mode & 0o777) as _;
    }
    perm.uid = change.uid.unwrap_or(perm.uid);
    perm.gid = change.gid.unwrap_or(perm.gid);
    caller.act(|| set(perm))
}

/// Who made an object, and with which key: what an open file remembers beside the identifier.
///
/// The identifier's sequence number wraps around after some millions of objects (ipc/util.c), which
/// takes seconds. Without this, whoever kept a file of a removed object open could get at somebody
/// else's of the same identifier, since the daemon may use all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    key: libc::key_t,
    cuid: u32,
    cgid: u32,
}

impl Origin {
    /// The origin of the object with these permissions.
    pub(super) fn of(perm: &libc::ipc_perm) -> Self {
        Self { key: perm.__key, cuid: perm.cuid, cgid: perm.cgid }
    }

    /// `EIDRM` if the object that has the identifier now is another one.
    pub(super) fn check(self, perm: &libc::ipc_perm) -> Result<()> {
        if Self::of(perm) == self { Ok(()) } else { fail(Errno::EIDRM) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_table_is_understood() {
        let text = b"       key      msqid perms      cbytes       qnum lspid\n      1234          0   666           0          0     0\n        -1      32769   600          10          1     7\nnonsense\n\n";
        assert_eq!(parse_table(text).collect::<Vec<_>>(), [(1234, 0), (-1, 32769)]);
    }

    proptest! {
        #[test]
        fn any_table_is_understood(rows: Vec<(i32, i32)>, other: Vec<u8>) {
            let line = |(key, id): &(i32, i32)| format!("{key:10} {id:10}   666          0          0     0\n");
            let text = format!("       key      msqid perms\n{}", rows.iter().map(line).collect::<String>());
            prop_assert_eq!(parse_table(text.as_bytes()).collect::<Vec<_>>(), rows);
            parse_table(&other).for_each(drop);
        }
    }
}
