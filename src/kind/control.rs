//! The files of an object's directory below ctl/: one table per kind.
//!
//! A table line says a file's name, whom it is for and what opening it does; everything else is
//! here.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::caller::Caller;
use crate::error::{Errno, Error, Result, fail};
use crate::number;
use crate::proc;
use crate::status::Fields;
use crate::turn;
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, DirEntry, FileType, Handle, How, Io, Item, MANY, Object,
    ObjectId, Opened, TEXT_SIZE, Wait,
};

/// One file, or one directory of numbered files, of an object of type `T`.
pub struct Control<T: 'static> {
    /// Its name.
    pub name: &'static str,
    /// Who may open it.
    pub access: Access,
    /// What it is for, in one line.
    pub about: &'static str,
    /// What it does.
    pub serve: Serve<T>,
}

/// Who may open a control file: its mode follows the object's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read by who may read the object.
    Read,
    /// Written by who may write the object.
    Write,
    /// Both.
    ReadWrite,
    /// Read by who may write the object: reading or opening it changes something.
    Alter,
}

impl Access {
    /// The permission bits of the control file of an object with these.
    pub const fn mode(self, object: u32) -> u32 {
        match self {
            Self::Read => object & 0o444,
            Self::Write => object & 0o222,
            Self::ReadWrite => object & 0o666,
            Self::Alter => (object & 0o222) << 1,
        }
    }
}

/// What a control file does.
pub enum Serve<T: 'static> {
    /// Shows the object's fields as lines for sh(1).
    Sh(fn(&T) -> Result<Fields>),
    /// Shows them as JSON.
    Json(fn(&T) -> Result<Fields>),
    /// Shows a text that takes time to gather: a worker does it.
    Slow(fn(&T, &Cx) -> Result<Vec<u8>>),
    /// Is a number to be read and set.
    Value {
        /// What it is now.
        show: fn(&T) -> Result<u64>,
        /// Makes it what the caller has written.
        store: fn(&T, Caller, u64) -> Result<()>,
    },
    /// Is opened as a file of its own.
    Open(fn(&Arc<T>, &Cx, &How) -> Result<Opened>),
    /// Is a directory of files named by numbers, any of `valid`; `listed` are shown.
    Numbers {
        /// The numbers that can be looked up.
        valid: RangeInclusive<i64>,
        /// The numbers that a listing shows.
        listed: fn(&T) -> Result<Vec<i64>>,
        /// Opens one.
        open: fn(&Arc<T>, i64, &Cx, &How) -> Result<Opened>,
    },
}

/// The directory of an object below ctl/.
pub struct ControlDir<T: 'static> {
    object: Arc<T>,
    table: &'static [Control<T>],
}

impl<T: Object> ControlDir<T> {
    /// The files of `table` for `object`.
    pub fn new(object: Arc<T>, table: &'static [Control<T>]) -> Self {
        Self { object, table }
    }

    fn attr_of(&self, index: usize, control: &Control<T>) -> Result<Attr> {
        let object = self.object.attr()?;
        let ident = index as u64;
        Ok(match control.serve {
            Serve::Numbers { .. } => directory_like(&object, ident),
            _ => control.file_like(&object, ident),
        })
    }
}

/// A directory that belongs to the object's owner and can be looked into by everybody.
pub fn directory_like(object: &Attr, ident: u64) -> Attr {
    Attr {
        ident,
        file_type: FileType::Directory,
        mode: 0o555,
        size: 0,
        blocks: 0,
        nlink: 2,
        ..*object
    }
}

impl<T> Control<T> {
    /// The attributes of the file for an object with these.
    fn file_like(&self, object: &Attr, ident: u64) -> Attr {
        let (file_type, mode) = (FileType::Regular, self.access.mode(object.mode));
        // A stream has no size: who archives the tree (tar) has no reason to wait for it to end.
        let size = match self.serve {
            Serve::Sh(_) | Serve::Json(_) | Serve::Slow(_) | Serve::Value { .. } => TEXT_SIZE,
            Serve::Open(_) | Serve::Numbers { .. } => 0,
        };
        Attr { ident, file_type, mode, size, blocks: size / 512, nlink: 1, ..*object }
    }
}

/// A directory that has been removed has nothing in it, and reading it is `ENOENT` (`iterate_dir` in
/// fs/readdir.c), which readdir(3) takes for its end. find(1) relies on that.
fn check_there(object: &impl Object) -> Result<()> {
    object.attr().map(drop).map_err(Error::absent)
}

impl<T: Object + 'static> Dir for ControlDir<T> {
    fn attr(&self) -> Result<Attr> {
        Ok(directory_like(&self.object.attr()?, 0))
    }

    fn children(&self) -> Children {
        Children::PerWriter
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        let named = |(_, control): &(usize, &Control<T>)| control.name.as_bytes() == name;
        match self.table.iter().enumerate().find(named) {
            Some((index, control)) => self.attr_of(index, control),
            None => fail(Errno::ENOENT),
        }
    }

    fn item(self: Arc<Self>, _name: &[u8], attr: &Attr) -> Result<Item> {
        let Some(control) = self.table.get(attr.ident as usize) else {
            return fail(Errno::ENOENT);
        };
        let object = Arc::clone(&self.object);
        Ok(match control.serve {
            Serve::Numbers { .. } => Item::Dir(Arc::new(NumberDir { object, control })),
            _ => Item::Object(Arc::new(ControlFile {
                object,
                control,
                ident: attr.ident,
                number: 0,
            })),
        })
    }

    fn list(&self, _wait: Wait) -> Result<Vec<DirEntry>> {
        check_there(&*self.object)?;
        let entry = |(index, control): (usize, &Control<T>)| DirEntry {
            name: control.name.into(),
            ident: index as u64,
            file_type: match control.serve {
                Serve::Numbers { .. } => FileType::Directory,
                _ => FileType::Regular,
            },
        };
        Ok(self.table.iter().enumerate().map(entry).collect())
    }
}

/// A directory of files named by numbers.
struct NumberDir<T: 'static> {
    object: Arc<T>,
    control: &'static Control<T>,
}

impl<T: Object + 'static> Dir for NumberDir<T> {
    fn attr(&self) -> Result<Attr> {
        Ok(directory_like(&self.object.attr()?, 0))
    }

    fn children(&self) -> Children {
        Children::PerWriter
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        let Serve::Numbers { valid, .. } = &self.control.serve else { return fail(Errno::ENOENT) };
        let number = std::str::from_utf8(name).ok().and_then(|name| name.parse::<i64>().ok());
        match number {
            // One spelling for each number, so that it has one node.
            Some(number) if valid.contains(&number) && number.to_string().as_bytes() == name => {
                Ok(self.control.file_like(&self.object.attr()?, number as u64))
            }
            _ => fail(Errno::ENOENT),
        }
    }

    /// `O_CREAT` of what is not there: the number is wrong.
    fn create(&self, _caller: Caller, name: &[u8], _mode: u32) -> Result<()> {
        let Serve::Numbers { valid, .. } = &self.control.serve else { return fail(Errno::EPERM) };
        let (first, last) = (valid.start(), valid.end());
        let name = crate::escape::line(name);
        let reason =
            format!("\"{name}\" is no number from {first} to {last}, in its shortest form");
        Err(Error::because(Errno::EINVAL, reason))
    }

    fn item(self: Arc<Self>, _name: &[u8], attr: &Attr) -> Result<Item> {
        Ok(Item::Object(Arc::new(ControlFile {
            object: Arc::clone(&self.object),
            control: self.control,
            ident: attr.ident,
            number: attr.ident as i64,
        })))
    }

    fn list(&self, wait: Wait) -> Result<Vec<DirEntry>> {
        let Serve::Numbers { listed, .. } = &self.control.serve else { return Ok(Vec::new()) };
        let entry = |number: i64| DirEntry {
            name: number.to_string().into(),
            ident: number as u64,
            file_type: FileType::Regular,
        };
        check_there(&*self.object)?;
        let numbers = listed(&self.object).map_err(Error::absent)?;
        if numbers.len() > MANY && wait == Wait::Try {
            return Err(Error::deferred());
        }
        Ok(numbers.into_iter().map(entry).collect())
    }
}

/// A control file.
struct ControlFile<T: 'static> {
    object: Arc<T>,
    control: &'static Control<T>,
    ident: u64,
    number: i64,
}

impl<T: Object> Object for ControlFile<T> {
    fn id(&self) -> Option<ObjectId> {
        // Who reads about an object does not use it.
        match self.control.serve {
            Serve::Open(_) | Serve::Numbers { .. } => self.object.id(),
            _ => None,
        }
    }

    fn attr(&self) -> Result<Attr> {
        Ok(self.control.file_like(&self.object.attr()?, self.ident))
    }

    fn change(&self, _cx: &Cx, change: &Change) -> Result<()> {
        // `>` and touch(1) are no reason to fail; modes and owners are the object's.
        if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() {
            return Err(Error::because(
                Errno::EPERM,
                "a file of ctl/ has the permissions of its object; change those",
            ));
        }
        Ok(())
    }

    fn check_rights(&self, caller: Caller, read: bool, write: bool) -> Result<()> {
        match self.control.access {
            Access::Alter => self.object.check_rights(caller, false, true),
            _ => self.object.check_rights(caller, read, write),
        }
    }

    fn open(&self, cx: &Cx, how: &How) -> Result<Opened> {
        how.verify(&self.attr()?)?;
        if self.control.access == Access::Alter && crate::is_read_only() {
            return fail(Errno::EROFS);
        }
        // Root is let through by the kernel whatever the mode says.
        let readable = !matches!(self.control.access, Access::Write);
        let writable = matches!(self.control.access, Access::Write | Access::ReadWrite);
        if (how.read && !readable) || (how.write && !writable) {
            return fail(Errno::EACCES);
        }
        let text = |text| Opened { handle: Arc::new(OpenText(text)), io: Io::Direct };
        match &self.control.serve {
            Serve::Sh(show) => Ok(text(show(&self.object).map_err(Error::absent)?.sh())),
            Serve::Json(show) => {
                Ok(text(json_text(&show(&self.object).map_err(Error::absent)?.json())))
            }
            Serve::Slow(show) => slow(cx, |cx| show(&self.object, cx).map_err(Error::absent)),
            Serve::Value { show, store } => {
                let object = Arc::clone(&self.object);
                let opener = cx.caller;
                let handle = OpenValue { object, opener, show: *show, store: *store };
                Ok(Opened { handle: Arc::new(handle), io: Io::Direct })
            }
            Serve::Open(open) => open(&self.object, cx, how),
            Serve::Numbers { open, .. } => open(&self.object, self.number, cx, how),
        }
    }
}

/// `users`: the processes that have the object open, mapped or attached.
pub const fn users<T: Object>() -> Control<T> {
    Control {
        name: "users",
        access: Access::Read,
        about: "the processes that have it open: PID, tab, command",
        serve: Serve::Slow(|object, cx| proc::users::list(object, cx)),
    }
}

/// `waiters`: the processes that wait for the object.
pub const fn waiters<T: Object>() -> Control<T> {
    Control {
        name: "waiters",
        access: Access::Read,
        about: "the processes that wait for it now: PID, tab, what for, tab, command",
        serve: Serve::Slow(|object, cx| proc::waiters::list(object, cx)),
    }
}

/// JSON as a file holds it.
pub fn json_text(value: &serde_json::Value) -> Vec<u8> {
    let mut text = format!("{value:#}").into_bytes();
    text.push(b'\n');
    text
}

/// The same for a list that may be long: one element at a time is in memory.
pub fn json_list(elements: impl Iterator<Item = serde_json::Value>) -> Vec<u8> {
    let mut text = String::from("[");
    for (index, element) in elements.enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        let lines: Vec<String> =
            format!("{element:#}").lines().map(|line| format!("  {line}")).collect();
        text.push_str(&lines.join("\n"));
    }
    text.push_str(if text.len() > 1 { "\n]\n" } else { "]\n" });
    text.into_bytes()
}

/// A file whose text takes time to gather: a worker does it at the open, so that fstat(2) knows how
/// long it is.
pub fn slow(cx: &Cx, show: impl Fn(&Cx) -> Result<Vec<u8>>) -> Result<Opened> {
    if cx.wait == Wait::Try {
        return Err(Error::deferred());
    }
    // One user's walks through /proc, however many they ask for, take one processor.
    let turns = turn::of_user(cx.caller.uid);
    let _turn = turns.take(Wait::Block)?;
    let text = show(cx)?;
    Ok(Opened { handle: Arc::new(OpenText(text)), io: Io::Direct })
}

/// Refuses what another writes to a file whose writes are done as the caller: `EPERM`.
///
/// The right to open it is that of the opener, who may have given it to a program that runs as
/// somebody else, root's setuid ones say, and does not know what it writes to.
pub fn as_opener(writer: Caller, opener: Caller) -> Result<()> {
    if (writer.uid, writer.gid) == (opener.uid, opener.gid) {
        return Ok(());
    }
    let Caller { uid, gid, .. } = opener;
    let reason = format!("it was opened by uid {uid} and gid {gid}, who alone may write to it");
    Err(Error::because(Errno::EPERM, reason))
}

/// A number to be read and set, open.
struct OpenValue<T> {
    object: Arc<T>,
    opener: Caller,
    show: fn(&T) -> Result<u64>,
    store: fn(&T, Caller, u64) -> Result<()>,
}

impl<T: Object> Handle for OpenValue<T> {
    fn read(&self, cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let value = (self.show)(&self.object)?;
        let text = format!("{value}\n").into_bytes();
        OpenText(text).read(cx, at, size, out)
    }

    fn write(&self, cx: &Cx, _at: u64, data: &[u8], done: &mut usize) -> Result<()> {
        let text = std::str::from_utf8(data.trim_ascii()).ok();
        let Some(value) = text.and_then(number::decimal) else {
            return Err(Error::because(Errno::EINVAL, "a decimal number is expected here"));
        };
        as_opener(cx.caller, self.opener)?;
        (self.store)(&self.object, cx.caller, value)?;
        *done = data.len();
        Ok(())
    }
}

/// A text as it was when it was opened.
pub struct OpenText(pub Vec<u8>);

impl Handle for OpenText {
    fn length(&self) -> Option<u64> {
        // Bash's `source` reads as many bytes as fstat(2) says.
        Some(self.0.len() as u64)
    }

    fn memory(&self) -> usize {
        self.0.len()
    }

    fn read(&self, _cx: &Cx, at: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let text = &self.0;
        let from = usize::try_from(at).map_or(text.len(), |at| at.min(text.len()));
        out.extend_from_slice(&text[from..text.len().min(from.saturating_add(size))]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_is_the_same_json_piece_by_piece() {
        let list = |elements: &[serde_json::Value]| {
            assert_eq!(json_list(elements.iter().cloned()), json_text(&elements.into()));
        };
        list(&[]);
        let object = serde_json::json!({ "name": "a\nb", "values": [1, [], {}] });
        list(std::slice::from_ref(&object));
        list(&[object, 7.into(), serde_json::Value::Null]);
    }

    #[test]
    fn who_may_open_a_control_follows_the_object() {
        assert_eq!(Access::Read.mode(0o640), 0o440);
        assert_eq!(Access::Write.mode(0o620), 0o220);
        assert_eq!(Access::ReadWrite.mode(0o751), 0o640);
        assert_eq!(Access::Alter.mode(0o620), 0o440);
    }

    /// An object with a number that can be set, and how often it has been.
    #[derive(Default)]
    struct Fake(Mutex<(u64, usize)>);

    impl Object for Fake {
        fn attr(&self) -> Result<Attr> {
            Ok(Attr::file(1, 0o600))
        }
        fn change(&self, _: &Cx, _: &Change) -> Result<()> {
            fail(Errno::EPERM)
        }
        fn open(&self, _: &Cx, _: &How) -> Result<Opened> {
            fail(Errno::EPERM)
        }
    }

    fn numbers(valid: RangeInclusive<i64>) -> NumberDir<Fake> {
        let open: fn(&Arc<Fake>, i64, &Cx, &How) -> Result<Opened> =
            |_, _, _, _| fail(Errno::EPERM);
        let serve = Serve::Numbers { valid, listed: |_| Ok(vec![]), open };
        let control = Control { name: "type", access: Access::Read, about: "", serve };
        NumberDir { object: Arc::default(), control: Box::leak(Box::new(control)) }
    }

    #[test]
    fn what_another_writes_to_an_open_file_is_not_done_as_either() {
        let object = Arc::new(Fake::default());
        let store = |object: &Fake, _, value| {
            object.0.lock().0 = value;
            Ok(())
        };
        let opener = Caller { uid: 7, gid: 8, pid: 1 };
        let file = OpenValue { object: Arc::clone(&object), opener, show: |_| Ok(0), store };
        for caller in [Caller { uid: 0, ..opener }, Caller { gid: 0, ..opener }] {
            let cx = Cx { caller, wait: Wait::Block, nonblock: false };
            let error = file.write(&cx, 0, b"5", &mut 0).unwrap_err();
            assert_eq!((error.errno(), object.0.lock().0), (Errno::EPERM, 0));
        }
        let cx = Cx { caller: Caller { pid: 2, ..opener }, wait: Wait::Block, nonblock: false };
        file.write(&cx, 0, b"5", &mut 0).unwrap();
        assert_eq!(object.0.lock().0, 5);
    }

    #[test]
    fn what_is_no_number_is_not_made() {
        for name in ["-6", "6", "abc", "05", "", "\n"] {
            let error = numbers(-5..=5).create(Caller::daemon(), name.as_bytes(), 0).unwrap_err();
            assert_eq!(error.errno(), Errno::EINVAL, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_number_has_one_name(number: i64, most in any::<i64>(), text in "[+-]?0{0,2}[0-9]{0,20}|\\PC{0,5}") {
            let dir = numbers(-5..=most.max(-5));
            for text in [number.to_string(), text] {
                let valid = text.parse().is_ok_and(|number| (-5..=most.max(-5)).contains(&number));
                let canonical = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
                let found = dir.find(text.as_bytes());
                prop_assert_eq!(found.is_ok(), valid && canonical, "{}", text);
                if let Ok(attr) = found {
                    prop_assert_eq!((attr.ident as i64).to_string(), text);
                }
            }
        }

        #[test]
        fn a_value_is_set_by_a_number_and_by_nothing_else(
            before: u64, number: u64, text in "[ \\n]{0,2}[+-]?[0-9]{0,21}[ \\n]?|\\PC{0,5}", bytes: Vec<u8>,
        ) {
            let object = Arc::new(Fake(Mutex::new((before, 0))));
            let show = |object: &Fake| Ok(object.0.lock().0);
            let store = |object: &Fake, _, value| {
                let mut state = object.0.lock();
                *state = (value, state.1 + 1);
                Ok(())
            };
            let opener = Caller::daemon();
            let file = OpenValue { object: Arc::clone(&object), opener, show, store };
            let cx = Cx { caller: Caller::daemon(), wait: Wait::Try, nonblock: false };
            for text in [text.into_bytes(), bytes] {
                let mut done = 0;
                let outcome = file.write(&cx, 0, &text, &mut done);
                let plain = text.trim_ascii();
                let digits = !plain.is_empty() && plain.iter().all(u8::is_ascii_digit);
                let fits = digits && plain.len() < 20;
                prop_assert!(outcome.is_err() || digits);
                prop_assert!(outcome.is_ok() || !fits);
                prop_assert_eq!(done, if outcome.is_ok() { text.len() } else { 0 });
            }
            prop_assert!(object.0.lock().1 > 0 || object.0.lock().0 == before);
            // What is read can be written.
            let mut done = 0;
            file.write(&cx, 0, format!("{number}\n").as_bytes(), &mut done).unwrap();
            let mut out = Vec::new();
            file.read(&cx, 0, 100, &mut out).unwrap();
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{number}\n"));
        }
    }
}
