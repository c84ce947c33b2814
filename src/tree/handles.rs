//! Open files and directories, by the handle number that the kernel keeps for us.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::nodes::NodeId;
use crate::caller::Caller;
use crate::error::{Errno, Result, fail};
use crate::map::Map;
use crate::quota::Share;
use crate::vfs::{DirEntry, Handle};

/// The number of an open file or directory. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// An open file.
pub struct OpenFile {
    /// The id that it was opened by.
    pub node: NodeId,
    /// Whether it is open for writing.
    pub write: bool,
    /// Whether it goes by the message, so that reading ahead would take one.
    pub messages: bool,
    /// Whether somebody has asked to be told when it is ready.
    pub polled: AtomicBool,
    /// Who opened it.
    pub opener: Caller,
    /// What serves it.
    pub handle: Arc<dyn Handle>,
    /// Its share of what its opener may have open.
    pub share: Share,
    /// Its share of what its opener may have in memory, if it keeps anything there.
    pub memory: Option<Share>,
}

/// An open directory: what was there when it was read from its beginning.
pub struct OpenDir {
    /// The id that it was opened by.
    pub node: NodeId,
    /// The listing, read when it is first needed and again after rewinddir(3), and its share of
    /// what its opener may have in memory.
    pub entries: Mutex<Option<(Arc<[DirEntry]>, Share)>>,
    /// Who opened it.
    pub opener: u32,
    /// Its share of what its opener may have open.
    pub share: Share,
}

/// The table of one sort of handle.
pub struct Handles<T> {
    table: RwLock<Map<Fh, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { table: RwLock::default(), next: AtomicU64::new(1) }
    }
}

impl<T> Handles<T> {
    /// A number for a handle to be.
    pub fn number(&self) -> Fh {
        Fh(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a handle.
    pub fn insert(&self, fh: Fh, handle: T) {
        self.table.write().insert(fh, Arc::new(handle));
    }

    /// A handle by its number; `EBADF` for one that was never given or is closed.
    pub fn get(&self, fh: Fh) -> Result<Arc<T>> {
        match self.table.read().get(&fh) {
            Some(handle) => Ok(Arc::clone(handle)),
            None => fail(Errno::EBADF),
        }
    }

    /// Takes a handle out.
    pub fn remove(&self, fh: Fh) -> Result<Arc<T>> {
        self.table.write().remove(&fh).ok_or(Errno::EBADF.into())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_not_given_is_refused() {
        let handles = Handles::default();
        let fh = handles.number();
        handles.insert(fh, "one");
        assert_eq!(*handles.get(fh).unwrap(), "one");
        handles.remove(fh).unwrap();
        assert_eq!(handles.get(fh).unwrap_err().errno(), Errno::EBADF);
        assert_eq!(handles.remove(fh).unwrap_err().errno(), Errno::EBADF);
        assert_ne!(handles.number(), fh);
        assert!(handles.is_empty());
    }
}
