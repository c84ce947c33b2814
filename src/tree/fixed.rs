//! What is always there: the directories above the kinds, and texts.

use std::sync::Arc;

use crate::error::{Errno, Result, fail};
use crate::kind::control::OpenText;
use crate::vfs::{
    Attr, Change, Children, Cx, Dir, DirEntry, FileType, How, Io, Item, Object, Opened, Wait,
};

/// A directory whose entries never change.
pub struct FixedDir {
    entries: Vec<(&'static str, Item)>,
}

impl FixedDir {
    /// A directory of these entries, in this order.
    pub fn new(entries: Vec<(&'static str, Item)>) -> Self {
        Self { entries }
    }
}

fn attr_of(ident: u64, item: &Item) -> Result<Attr> {
    let attr = match item {
        Item::Dir(dir) => dir.attr()?,
        Item::Object(object) => object.attr()?,
        Item::Link(target) => {
            let link = Attr::file(ident, 0o777);
            Attr { file_type: FileType::Symlink, size: target.len() as u64, ..link }
        }
    };
    Ok(Attr { ident, ..attr })
}

impl Dir for FixedDir {
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::directory(0, 0o755))
    }

    fn children(&self) -> Children {
        Children::Fixed
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        for (index, (known, item)) in self.entries.iter().enumerate() {
            if known.as_bytes() == name {
                return attr_of(index as u64, item);
            }
        }
        fail(Errno::ENOENT)
    }

    fn item(self: Arc<Self>, _name: &[u8], attr: &Attr) -> Result<Item> {
        match self.entries.get(attr.ident as usize) {
            Some((_, item)) => Ok(item.clone()),
            None => fail(Errno::ENOENT),
        }
    }

    fn list(&self, _wait: Wait) -> Result<Vec<DirEntry>> {
        let entry = |(index, (name, item)): (usize, &(&str, Item))| {
            let file_type = attr_of(index as u64, item)?.file_type;
            Ok(DirEntry { name: name.as_bytes().to_vec(), ident: index as u64, file_type })
        };
        self.entries.iter().enumerate().map(entry).collect()
    }
}

/// A text to read.
pub struct Text(pub &'static str);

impl Object for Text {
    fn attr(&self) -> Result<Attr> {
        Ok(Attr { size: self.0.len() as u64, ..Attr::file(0, 0o444) })
    }

    fn change(&self, _cx: &Cx, _change: &Change) -> Result<()> {
        fail(Errno::EPERM)
    }

    fn open(&self, _cx: &Cx, how: &How) -> Result<Opened> {
        if how.write {
            return fail(Errno::EACCES);
        }
        let handle = OpenText(self.0.into());
        Ok(Opened { handle: Arc::new(handle), io: Io::Direct })
    }
}
