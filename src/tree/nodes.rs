//! Node ids: what the kernel calls the things it has looked up.
//!
//! The kernel counts its look-ups of each id and says when it forgets some; an id whose count has
//! come to zero is gone, so that the table holds no more than the kernel does.
//!
//! Objects of a [`Children::PerWriter`] directory share one id as long as nobody has it open for
//! writing. While somebody has, each look-up gets an id of its own, since the kernel holds the lock
//! of the inode, thus of the id, for as long as a write waits. Once such an id has been closed, it
//! can be the shared one in its turn: the kernel knows the name by it, and any other answer to the
//! next look-up would cost it a second one.
//!
//! A user may have the kernel look up a million names. So the table is a tree, which grows and
//! shrinks piece by piece: a hash table that large takes a quarter of a second to move, and everybody
//! would wait for that.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::contest::Contests;
use super::handles::Fh;
use crate::error::{Errno, Result, fail};
use crate::vfs::{Attr, Children, Item, ObjectId};

/// A node id, as the kernel gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the mount (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(1);
}

/// An object in its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    parent: NodeId,
    ident: u64,
}

/// What all ids of one object have in common.
struct Ids {
    /// The id that look-ups share, if there is one now.
    shared: Option<NodeId>,
    /// How many ids there are.
    count: u32,
    /// The inode number that all of them show.
    ino: u64,
}

/// So many ids are a crowd.
const LARGE: usize = 256;

/// A node as the tree sees it.
#[derive(Clone)]
pub struct Node {
    /// What it stands for.
    pub item: Item,
    /// The directory that it was found in.
    pub parent: NodeId,
    /// The name that it was last found under.
    pub name: Arc<[u8]>,
    /// The attributes that the kernel was last told.
    pub attr: Attr,
}

struct Entry {
    node: Node,
    lookups: u64,
    writers: u32,
    children: Children,
    /// Files that are open by this id, oldest first.
    opens: Vec<Fh>,
    /// Entries that have this one as their parent: it must not go before them.
    held: u64,
    /// The inode number that the kernel was last told; it shows that of a file that stays open.
    told: u64,
    /// How often the item has been replaced, and which one of the parent's this one is of: what is
    /// in a control directory goes by the name of its object.
    version: u64,
    within: u64,
}

struct Table {
    entries: BTreeMap<NodeId, Entry>,
    places: BTreeMap<Place, Ids>,
    contests: Contests<Place>,
    next: u64,
    /// How many entries there were before a crowd of them was forgotten.
    most: usize,
}

/// The table of nodes.
pub struct Nodes {
    table: Mutex<Table>,
}

/// The answer to a look-up.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The id to tell the kernel.
    pub id: NodeId,
    /// Whether the attributes may serve the rest of the caller's path walk: the id is the
    /// object's own and nobody has it open, who could see them grow old by fstat(2).
    pub settled: bool,
}

/// What is about to be opened.
pub struct Begun {
    /// What the id stands for.
    pub item: Item,
    /// The attributes that the kernel has been told, and has checked.
    pub attr: Attr,
    /// A file that is open by the same id.
    pub other: Option<Fh>,
}

impl Nodes {
    /// A table that knows the root.
    pub fn new(root: Item, attr: Attr) -> Self {
        let node = Node { item: root, parent: NodeId::ROOT, name: Arc::default(), attr };
        let entry = Entry {
            node,
            lookups: 1,
            writers: 0,
            children: Children::Fixed,
            opens: Vec::new(),
            held: 0,
            told: 1,
            version: 0,
            within: 0,
        };
        let table = Table {
            entries: BTreeMap::from([(NodeId::ROOT, entry)]),
            places: BTreeMap::new(),
            contests: Contests::new(),
            next: NodeId::ROOT.0 + 1,
            most: 1,
        };
        Self { table: Mutex::new(table) }
    }

    /// The node of an id; `ESTALE` for one that the kernel should have forgotten.
    pub fn get(&self, id: NodeId) -> Result<Node> {
        match self.table.lock().entries.get(&id) {
            Some(entry) => Ok(entry.node.clone()),
            None => fail(Errno::ESTALE),
        }
    }

    /// The item of an id alone.
    pub fn item(&self, id: NodeId) -> Result<Item> {
        match self.table.lock().entries.get(&id) {
            Some(entry) => Ok(entry.node.item.clone()),
            None => fail(Errno::ESTALE),
        }
    }

    /// Counts a look-up of `name`, which has `attr` in `parent`, and gives its id. `item` is asked
    /// only if the object is not known, or it or its directory has another name by now.
    pub fn look_up(
        &self,
        parent: NodeId,
        name: &[u8],
        attr: &Attr,
        children: Children,
        item: impl FnOnce() -> Result<Item>,
    ) -> Result<Found> {
        let place = Place { parent, ident: attr.ident };
        let mut table = self.table.lock();
        let table = &mut *table;
        let per_writer = children == Children::PerWriter;
        let mut own = per_writer && table.contests.is_on(&place);
        let within = table.entries.get(&parent).map_or(0, |parent| parent.version);
        let shared = table.places.get(&place).and_then(|ids| ids.shared);
        if let Some((id, entry)) = shared.and_then(|id| Some((id, table.entries.get_mut(&id)?))) {
            own |= per_writer && entry.writers > 0;
            if !own {
                if &*entry.node.name != name || entry.within != within {
                    entry.node.item = item()?;
                    entry.node.name = name.into();
                    entry.version += 1;
                    entry.within = within;
                }
                entry.node.attr = *attr;
                entry.lookups += 1;
                return Ok(Found { id, settled: entry.opens.is_empty() });
            }
        }
        let node = Node { item: item()?, parent, name: name.into(), attr: *attr };
        Ok(Found { id: table.insert(node, children, place, !own), settled: !own })
    }

    /// Counts `count` look-ups less.
    pub fn forget(&self, id: NodeId, count: u64) {
        if id == NodeId::ROOT {
            return;
        }
        let mut table = self.table.lock();
        if let Some(entry) = table.entries.get_mut(&id) {
            entry.lookups = entry.lookups.saturating_sub(count);
        }
        table.remove_if_unused(id);
        table.give_back();
    }

    /// Notes that `fh` has `id` open. For writing, `ESTALE` if somebody has it open for writing
    /// already: the kernel then looks up once more and gets an id of its own.
    /// The thread `pid` is let in nevertheless when it comes with the same id again.
    pub fn begin_open(&self, id: NodeId, fh: Fh, write: bool, pid: u32) -> Result<Begun> {
        let mut table = self.table.lock();
        let table = &mut *table;
        let Some(entry) = table.entries.get_mut(&id) else { return fail(Errno::ESTALE) };
        let place = entry.node.place();
        if write && entry.children == Children::PerWriter {
            if entry.writers > 0 && table.contests.sends_away(place, id, pid) {
                return fail(Errno::ESTALE);
            }
            table.contests.let_in(&place, pid);
        }
        let (item, attr) = (entry.node.item.clone(), entry.node.attr);
        let begun = Begun { item, attr, other: entry.opens.last().copied() };
        entry.opens.push(fh);
        entry.writers += u32::from(write);
        Ok(begun)
    }

    /// The counterpart of [`Nodes::begin_open`].
    pub fn end_open(&self, id: NodeId, fh: Fh, write: bool) {
        let mut table = self.table.lock();
        let table = &mut *table;
        let Some(entry) = table.entries.get_mut(&id) else { return };
        entry.opens.retain(|open| *open != fh);
        entry.writers = entry.writers.saturating_sub(u32::from(write));
        if entry.opens.is_empty() && entry.children == Children::PerWriter {
            let place = entry.node.place();
            table.share(id, place);
        }
    }

    /// The inode number that all ids of an object show.
    pub fn ino(&self, id: NodeId) -> u64 {
        let mut table = self.table.lock();
        let table = &mut *table;
        let Some(entry) = table.entries.get_mut(&id) else { return id.0 };
        entry.told = table.places.get(&entry.node.place()).map_or(id.0, |ids| ids.ino);
        entry.told
    }

    /// Whether the kernel may keep the attributes of an id.
    pub fn is_fixed(&self, id: NodeId) -> bool {
        self.table.lock().entries.get(&id).is_some_and(|entry| entry.children == Children::Fixed)
    }

    /// The file that was opened last by `id`, if one is still open.
    pub fn opened(&self, id: NodeId) -> Option<Fh> {
        self.table.lock().entries.get(&id)?.opens.last().copied()
    }

    /// Remembers attributes that the kernel is told outside of a look-up.
    pub fn refresh(&self, id: NodeId, attr: &Attr) {
        if let Some(entry) = self.table.lock().entries.get_mut(&id) {
            entry.node.attr = *attr;
        }
    }

    /// The inode numbers that the kernel may show objects' files by: each id's own, which comes with
    /// a look-up, and the one that it was told since.
    pub fn inodes(&self) -> Vec<(ObjectId, u64)> {
        let mut inodes = Vec::new();
        self.walk(|id, entry| {
            let Some(object) = entry.object() else { return };
            inodes.push((object, id.0));
            if entry.told != id.0 {
                inodes.push((object, entry.told));
            }
        });
        inodes
    }

    /// The objects that are open.
    pub fn open(&self) -> Vec<ObjectId> {
        let mut open = Vec::new();
        self.walk(|_, entry| open.extend(entry.object().filter(|_| !entry.opens.is_empty())));
        open
    }

    /// Visits all entries, some of them at a time, so that nobody waits for the whole walk.
    fn walk(&self, mut visit: impl FnMut(NodeId, &Entry)) {
        const AT_A_TIME: usize = 1024;
        let mut last = None;
        loop {
            let table = self.table.lock();
            let rest = (last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            let mut visited = 0;
            for (id, entry) in table.entries.range(rest).take(AT_A_TIME) {
                visit(*id, entry);
                last = Some(*id);
                visited += 1;
            }
            if visited < AT_A_TIME {
                return;
            }
        }
    }

    /// How many ids the kernel knows.
    pub fn len(&self) -> usize {
        self.table.lock().entries.len()
    }

    /// Never: there is always the root.
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl Entry {
    /// The object that it stands for, if it is one.
    fn object(&self) -> Option<ObjectId> {
        match &self.node.item {
            Item::Object(object) => object.id(),
            _ => None,
        }
    }
}

impl Node {
    fn place(&self) -> Place {
        Place { parent: self.parent, ident: self.attr.ident }
    }
}

impl Table {
    fn insert(&mut self, node: Node, children: Children, place: Place, shared: bool) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        let new = Ids { shared: None, count: 0, ino: id.0 };
        let ids = self.places.entry(place).or_insert(new);
        ids.count += 1;
        if shared {
            ids.shared = Some(id);
        }
        let mut within = 0;
        if let Some(parent) = self.entries.get_mut(&node.parent) {
            parent.held += 1;
            within = parent.version;
        }
        let entry = Entry {
            node,
            lookups: 1,
            writers: 0,
            children,
            opens: Vec::new(),
            held: 0,
            told: id.0,
            version: 0,
            within,
        };
        self.entries.insert(id, entry);
        self.most = self.most.max(self.entries.len());
        id
    }

    /// Has memory given back once most of a crowd of ids is forgotten.
    fn give_back(&mut self) {
        if self.most > LARGE && self.entries.len() < self.most / 8 {
            self.most = self.entries.len();
            crate::memory::give_back_soon();
        }
    }

    /// Makes an id that nobody has open any more the shared one, unless that has no writer either.
    fn share(&mut self, id: NodeId, place: Place) {
        let Some(ids) = self.places.get_mut(&place) else { return };
        if ids.shared == Some(id) {
            return;
        }
        let shared = ids.shared.and_then(|shared| self.entries.get(&shared));
        if shared.is_none_or(|shared| shared.writers > 0) {
            ids.shared = Some(id);
            ids.ino = id.0;
        }
    }

    fn remove_if_unused(&mut self, mut id: NodeId) {
        while let Some(entry) = self.entries.get(&id) {
            if entry.lookups > 0 || entry.held > 0 || id == NodeId::ROOT {
                return;
            }
            let Some(entry) = self.entries.remove(&id) else { return };
            crate::memory::freed(size_of::<Entry>());
            let place = entry.node.place();
            if let Some(ids) = self.places.get_mut(&place) {
                ids.count -= 1;
                if ids.shared == Some(id) {
                    ids.shared = None;
                }
                if ids.count == 0 {
                    self.places.remove(&place);
                }
            }
            id = entry.node.parent;
            if let Some(parent) = self.entries.get_mut(&id) {
                parent.held = parent.held.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Nodes {
        Nodes::new(Item::Link((*b"root").into()), Attr::directory(0, 0o755))
    }

    fn look_up(nodes: &Nodes, name: &str, ident: u64) -> Found {
        let item = || Ok(Item::Link(name.as_bytes().into()));
        let attr = Attr::file(ident, 0o600);
        nodes.look_up(NodeId::ROOT, name.as_bytes(), &attr, Children::PerWriter, item).unwrap()
    }

    #[test]
    fn look_ups_share_an_id_until_somebody_writes() {
        let nodes = nodes();
        let first = look_up(&nodes, "a", 7).id;
        assert_eq!(look_up(&nodes, "a", 7).id, first);
        nodes.begin_open(first, Fh(1), true, 7).unwrap();
        let own = look_up(&nodes, "a", 7);
        assert_ne!(own.id, first);
        assert!(!own.settled);
        assert_ne!(look_up(&nodes, "a", 7).id, own.id);
        assert_eq!(nodes.ino(own.id), nodes.ino(first));
        nodes.end_open(first, Fh(1), true);
        assert_eq!(look_up(&nodes, "a", 7).id, first);
    }

    #[test]
    fn an_id_of_its_own_is_shared_once_it_has_been_closed() {
        let nodes = nodes();
        let first = look_up(&nodes, "a", 7).id;
        nodes.begin_open(first, Fh(1), true, 7).unwrap();
        let own = look_up(&nodes, "a", 7).id;
        let another = look_up(&nodes, "a", 7).id;
        nodes.begin_open(own, Fh(2), true, 7).unwrap();
        nodes.end_open(own, Fh(2), true);
        assert_eq!(look_up(&nodes, "a", 7).id, own);
        assert_eq!(nodes.ino(first), own.0);
        nodes.begin_open(another, Fh(3), true, 7).unwrap();
        nodes.end_open(another, Fh(3), true);
        assert_eq!(look_up(&nodes, "a", 7).id, own, "there is one to share already");
        nodes.end_open(first, Fh(1), true);
        nodes.forget(first, 1);
        assert_eq!(look_up(&nodes, "a", 7).id, own);
        nodes.forget(own, 4);
        nodes.forget(another, 1);
        assert_eq!(nodes.len(), 1);
        assert!(nodes.table.lock().places.is_empty());
    }

    #[test]
    fn a_second_writer_of_an_id_is_sent_to_look_up_again() {
        let nodes = nodes();
        let id = look_up(&nodes, "a", 7).id;
        nodes.begin_open(id, Fh(1), true, 7).unwrap();
        let refused = |fh, pid| nodes.begin_open(id, fh, true, pid).map(drop).unwrap_err().errno();
        assert_eq!(refused(Fh(1), 7), Errno::ESTALE);
        nodes.begin_open(id, Fh(2), true, 7).unwrap();
        nodes.end_open(id, Fh(2), true);
        assert_eq!(refused(Fh(2), 8), Errno::ESTALE);
        nodes.end_open(id, Fh(1), true);
        assert_ne!(look_up(&nodes, "a", 7).id, id, "nobody else is to be sent away");
        nodes.begin_open(id, Fh(1), true, 7).unwrap();
    }

    #[test]
    fn a_million_look_ups_leave_nothing_once_forgotten() {
        let nodes = nodes();
        let id = look_up(&nodes, "a", 7).id;
        for _ in 1..1_000_000 {
            look_up(&nodes, "a", 7);
        }
        assert_eq!(nodes.len(), 2);
        nodes.forget(id, 1_000_000);
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes.table.lock().places.len(), 0);
    }

    #[test]
    fn another_object_of_the_same_name_is_another_node() {
        let nodes = nodes();
        let old = look_up(&nodes, "a", 7).id;
        let new = look_up(&nodes, "a", 8).id;
        assert_ne!(old, new);
        nodes.forget(old, 1);
        assert_eq!(nodes.get(old).map(|_| ()).unwrap_err().errno(), Errno::ESTALE);
        assert_eq!(look_up(&nodes, "a", 8).id, new);
    }

    #[test]
    fn a_renamed_object_keeps_its_id_and_answers_to_its_new_name() {
        let nodes = nodes();
        let id = look_up(&nodes, "a", 7).id;
        assert_eq!(look_up(&nodes, "b", 7).id, id);
        assert_eq!(&*nodes.get(id).unwrap().name, b"b");
    }

    #[test]
    fn what_is_in_a_renamed_directory_is_found_anew() {
        let nodes = nodes();
        let file = |dir, target: &str| {
            let item = || Ok(Item::Link(target.as_bytes().into()));
            let attr = Attr::file(2, 0o600);
            let found = nodes.look_up(dir, b"status", &attr, Children::PerWriter, item).unwrap();
            let Item::Link(target) = nodes.item(found.id).unwrap() else { panic!() };
            (found.id, target)
        };
        let dir = look_up(&nodes, "a", 7).id;
        let (id, target) = file(dir, "a/status");
        assert_eq!((&*target, file(dir, "again")), (&b"a/status"[..], (id, target.clone())));
        assert_eq!(look_up(&nodes, "b", 7).id, dir);
        assert_eq!(file(dir, "b/status"), (id, (*b"b/status").into()));
        assert_eq!(file(dir, "again"), (id, (*b"b/status").into()));
    }

    #[test]
    fn a_directory_stays_as_long_as_something_in_it() {
        let nodes = nodes();
        let dir = look_up(&nodes, "dir", 1).id;
        let item = || Ok(Item::Link((*b"x").into()));
        let attr = Attr::file(2, 0o600);
        let child = nodes.look_up(dir, b"x", &attr, Children::Stable, item).unwrap().id;
        nodes.forget(dir, 1);
        assert!(nodes.get(dir).is_ok());
        nodes.forget(child, 1);
        assert_eq!(nodes.len(), 1);
    }

    #[test]
    fn forgetting_what_is_unknown_or_too_much_does_no_harm() {
        let nodes = nodes();
        nodes.forget(NodeId(99), 5);
        nodes.forget(NodeId::ROOT, 5);
        let id = look_up(&nodes, "a", 7).id;
        nodes.forget(id, 100);
        assert_eq!(nodes.len(), 1);
    }
}
