//! ctl/: a directory for each object, at the path that the object itself has.

use std::sync::Arc;

use crate::error::{Errno, Result, fail};
use crate::kind::Kind;
use crate::kind::control::directory_like;
use crate::vfs::{Attr, Children, Dir, DirEntry, FileType, Item, Wait};

/// The control directories of one kind's objects.
pub struct CtlKind {
    kind: Arc<dyn Kind>,
}

impl CtlKind {
    /// For the objects of `kind`.
    pub fn new(kind: Arc<dyn Kind>) -> Self {
        Self { kind }
    }
}

impl Dir for CtlKind {
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::directory(0, 0o755))
    }

    fn children(&self) -> Children {
        Children::Stable
    }

    fn find(&self, name: &[u8]) -> Result<Attr> {
        let object = self.kind.find(name)?;
        // A link names its key in this directory as well.
        if object.file_type == FileType::Symlink {
            return Ok(object);
        }
        Ok(directory_like(&object, object.ident))
    }

    fn item(self: Arc<Self>, name: &[u8], attr: &Attr) -> Result<Item> {
        match Arc::clone(&self.kind).item(name, attr)? {
            Item::Object(object) => match object.controls() {
                Some(dir) => Ok(Item::Dir(dir)),
                None => fail(Errno::ENOENT),
            },
            other => Ok(other),
        }
    }

    fn list(&self, wait: Wait) -> Result<Vec<DirEntry>> {
        let mut entries = self.kind.list(wait)?;
        for entry in &mut entries {
            if entry.file_type != FileType::Symlink {
                entry.file_type = FileType::Directory;
            }
        }
        Ok(entries)
    }
}
