//! Every object there is, and what its status says that other files of ctl/ show as well.

use std::sync::Arc;

use super::Kinds;
use crate::caller::Caller;
use crate::status::{Field, Fields};
use crate::vfs::{Attr, FileType, Item, Object, Wait};

/// An object that was there a moment ago.
pub(super) struct Found {
    pub(super) kind: &'static str,
    pub(super) name: Vec<u8>,
    pub(super) attr: Attr,
    /// How many bytes it holds.
    pub(super) size: u64,
    pub(super) object: Arc<dyn Object>,
}

impl Drop for Found {
    fn drop(&mut self) {
        // There may be a million, and each has parts of its own.
        crate::memory::freed(2 * size_of::<Self>() + self.name.capacity());
    }
}

impl Found {
    /// Its path below the mount.
    pub(super) fn path(&self) -> Vec<u8> {
        [self.kind.as_bytes(), b"/", &self.name].concat()
    }
}

/// All objects, by kind and name. What disappears meanwhile is left out.
pub(super) fn objects(kinds: &Kinds) -> Vec<Found> {
    let mut found = Vec::new();
    for (profile, kind) in kinds.iter() {
        let Ok(mut entries) = kind.list(Wait::Block) else { continue };
        entries.retain(|entry| entry.file_type != FileType::Symlink);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let Ok(attr) = kind.find(&entry.name) else { continue };
            if let Ok(Item::Object(object)) = Arc::clone(kind).item(&entry.name, &attr) {
                let size = if profile.texts { 0 } else { attr.size };
                found.push(Found { kind: profile.path, name: entry.name, attr, size, object });
            }
        }
    }
    found
}

/// What is in an object, as far as the caller may know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// How many messages are queued.
    pub(super) messages: Option<i128>,
    /// How many bytes they have.
    pub(super) bytes: Option<i128>,
    /// How many messages, and how many bytes, the queue takes.
    pub(super) most: (Option<i128>, Option<i128>),
    /// The values of a semaphore or a set.
    pub(super) values: Vec<i128>,
    /// How often a segment is attached.
    pub(super) attached: Option<i128>,
    /// The processes that used it last.
    pub(super) last: Vec<i128>,
}

/// What a status says. `None` if the object is gone.
pub(super) fn facts(found: &Found, reader: &Reader) -> Option<Facts> {
    if !reader.may_read(&found.attr) {
        return Some(Facts::default());
    }
    match found.object.status() {
        Ok(fields) => Some(Facts::new(&fields)),
        Err(error) if matches!(error.errno(), crate::error::Errno::EACCES) => {
            Some(Facts::default())
        }
        Err(_) => None,
    }
}

impl Facts {
    fn new(fields: &Fields) -> Self {
        let number = |name: &str| match fields.get(name) {
            Some(Field::Number(number)) => Some(*number),
            _ => None,
        };
        let numbers = |name: &str| match fields.get(name) {
            Some(Field::Numbers(numbers)) => numbers.clone(),
            _ => Vec::new(),
        };
        let mut values = numbers("semval");
        values.extend(number("value"));
        let mut last = match (number("stime"), number("rtime")) {
            (Some(sent), Some(received)) if received > sent => number("lrpid"),
            (Some(_), Some(_)) => number("lspid"),
            _ => number("lpid"),
        }
        .map_or_else(|| numbers("sempid"), |pid| vec![pid]);
        last.retain(|pid| *pid > 0);
        last.sort_unstable();
        last.dedup();
        Self {
            messages: number("curmsgs").or_else(|| number("qnum")),
            bytes: number("bytes").or_else(|| number("cbytes")).or_else(|| number("size")),
            most: (number("maxmsg"), number("qbytes")),
            values,
            attached: number("nattch"),
            last,
        }
    }
}

/// Who reads: what is in an object is for those who may read it, what it is for everybody, as in a
/// listing.
pub(super) struct Reader {
    uid: u32,
    groups: Vec<u32>,
}

impl Reader {
    pub(super) fn new(caller: Caller) -> Self {
        // The request knows one group only; the caller waits for the answer, so these are theirs.
        let status = std::fs::read_to_string(format!("/proc/{}/status", caller.pid));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or("");
        let mut groups: Vec<u32> =
            line.split_ascii_whitespace().filter_map(|group| group.parse().ok()).collect();
        groups.push(caller.gid);
        Self { uid: caller.uid, groups }
    }

    fn may_read(&self, attr: &Attr) -> bool {
        let bits = if self.uid == attr.uid {
            attr.mode >> 6
        } else if self.groups.contains(&attr.gid) {
            attr.mode >> 3
        } else {
            attr.mode
        };
        self.uid == 0 || bits & 4 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_an_object_is_for_who_may_read_it() {
        let attr = |mode| Attr { uid: 1000, gid: 100, ..Attr::file(1, mode) };
        let reader = |uid, group| Reader { uid, groups: vec![group] };
        assert!(reader(1000, 5).may_read(&attr(0o400)) && !reader(1001, 5).may_read(&attr(0o440)));
        assert!(reader(1001, 100).may_read(&attr(0o040)) && reader(1001, 5).may_read(&attr(0o004)));
        assert!(!reader(1000, 100).may_read(&attr(0o044)), "the owner's bits are the owner's");
        assert!(reader(0, 0).may_read(&attr(0)));
    }

    #[test]
    fn a_status_is_understood() {
        let queue = Fields::default()
            .number("qnum", 2)
            .number("cbytes", 10)
            .number("qbytes", 100)
            .number("lspid", 7)
            .number("lrpid", 8)
            .number("stime", 5)
            .number("rtime", 6);
        let facts = Facts::new(&queue);
        assert_eq!(
            (facts.messages, facts.bytes, facts.most),
            (Some(2), Some(10), (None, Some(100)))
        );
        assert_eq!(facts.last, [8]);
        let set = Fields::default().numbers("semval", [1, 0]).numbers("sempid", [9, 0]);
        let facts = Facts::new(&set);
        assert_eq!((facts.values, facts.last), (vec![1, 0], vec![9]));
    }
}
