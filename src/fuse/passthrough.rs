//! Passthrough: the kernel moves an open file's data to and from a backing file by itself
//! (fs/fuse/passthrough.c), so that read, write and mmap are that file's own.
//!
//! The kernel demands that all who have one node open at the same time use the same backing id
//! (fs/fuse/iomode.c), so an id belongs to the node: the first open makes it, and it is given back
//! when the last of them is released.
//!
//! Where passthrough is not to be had, reads and writes come to the handle, and a shared mapping
//! is refused by the kernel (`ENODEV`), since it could not be coherent.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use fuser::{BackingId, FopenFlags, InitFlags, KernelConfig};
use parking_lot::Mutex;

use crate::error::{Errno, Error, Result};
use crate::map::Map;
use crate::tree::Opening;
use crate::tree::handles::Fh;
use crate::tree::nodes::NodeId;
use crate::vfs::Io;

/// How many file systems may lie between a backing file and its storage, and this one above them.
const STACK_DEPTH: u32 = 1;

/// Whether passthrough is in force, and the backing ids in use.
pub struct Passthrough {
    wanted: bool,
    offered: AtomicBool,
    in_force: AtomicBool,
    ids: Mutex<Ids<BackingId>>,
}

impl Passthrough {
    /// Not in force before [`Passthrough::probe`]; never if it is not `wanted`.
    pub fn new(wanted: bool) -> Self {
        Self {
            wanted,
            offered: AtomicBool::new(false),
            in_force: AtomicBool::new(false),
            ids: Mutex::default(),
        }
    }

    /// Asks the kernel for it, at the first request.
    pub(super) fn negotiate(&self, config: &mut KernelConfig) {
        if !self.wanted {
            return;
        }
        let offered = config.set_max_stack_depth(STACK_DEPTH).is_ok()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        self.offered.store(offered, Ordering::Relaxed);
    }

    /// Finds out by a trial whether this kernel and this process's rights allow it; the error says
    /// why not. `device` is the mount's /dev/fuse.
    pub fn probe(&self, device: BorrowedFd<'_>) -> Result<()> {
        if !self.wanted {
            return Err(Error::because(Errno::EOPNOTSUPP, "switched off by -o no_passthrough"));
        }
        if !self.offered.load(Ordering::Relaxed) {
            return Err(Error::because(
                Errno::EOPNOTSUPP,
                "this kernel's FUSE has no passthrough, which came with Linux 6.9 \
                 (CONFIG_FUSE_PASSTHROUGH)",
            ));
        }
        let file = nix::sys::memfd::memfd_create(c"ipcfs", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
        match BackingId::create_raw(device, &file) {
            Ok(id) => {
                sys::close_backing(device, id)?;
                self.in_force.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                Err(Error::because(Errno::EPERM, "passthrough needs CAP_SYS_ADMIN, which root has"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The backing id for an open file, if its data is to pass through; kept until
    /// [`Passthrough::release`]. `register` makes one of a descriptor.
    pub(super) fn backing(
        &self,
        node: NodeId,
        opening: &Opening,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        if !self.in_force.load(Ordering::Relaxed) || matches!(opening.io, Io::Messages) {
            return None;
        }
        // As long as one is passed through, the kernel takes no other of the same node; nor may one
        // come to be passed through whose node another has open that is not.
        let mut ids = self.ids.lock();
        let (Io::Passthrough(file) | Io::Mapped(file)) = &opening.io else {
            return ids.join(node, opening.fh);
        };
        if ids.plain.contains_key(&node) {
            return ids.join(node, opening.fh);
        }
        match ids.take(node, opening.fh, || register(file.as_fd())) {
            Ok(id) => Some(id),
            Err(error) => {
                log::warn!("passthrough of an open file is refused, it is forwarded: {error}");
                None
            }
        }
    }

    /// The counterpart of [`Passthrough::backing`].
    pub(super) fn release(&self, fh: Fh) {
        if self.in_force.load(Ordering::Relaxed) {
            self.ids.lock().release(fh);
        }
    }
}

/// How the kernel is to treat a file that is passed through.
pub(super) fn flags(opening: &Opening) -> FopenFlags {
    let mut passed = FopenFlags::FOPEN_PASSTHROUGH;
    if !opening.flushes {
        passed |= FopenFlags::FOPEN_NOFLUSH;
    }
    match opening.io {
        Io::Passthrough(_) => passed,
        // Direct I/O takes precedence for read and write; a mapping is passed through.
        _ => passed | FopenFlags::FOPEN_DIRECT_IO,
    }
}

/// The backing ids in use, by node and by open file.
struct Ids<T> {
    nodes: Map<NodeId, Weak<T>>,
    files: Map<Fh, (NodeId, Arc<T>)>,
    /// Open files that are not passed through, and how many a node has.
    others: Map<Fh, NodeId>,
    plain: Map<NodeId, usize>,
}

impl<T> Default for Ids<T> {
    fn default() -> Self {
        let (nodes, files) = (Map::default(), Map::default());
        Self { nodes, files, others: Map::default(), plain: Map::default() }
    }
}

impl<T> Ids<T> {
    /// The node's id, which `make` makes if nobody has the node open.
    fn take(
        &mut self,
        node: NodeId,
        fh: Fh,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<Arc<T>> {
        let id = match self.nodes.get(&node).and_then(Weak::upgrade) {
            Some(id) => id,
            None => Arc::new(make()?),
        };
        self.nodes.insert(node, Arc::downgrade(&id));
        self.files.insert(fh, (node, Arc::clone(&id)));
        Ok(id)
    }

    /// The node's id, if it has one; else the file is none that is passed through.
    fn join(&mut self, node: NodeId, fh: Fh) -> Option<Arc<T>> {
        let Some(id) = self.nodes.get(&node).and_then(Weak::upgrade) else {
            self.others.insert(fh, node);
            *self.plain.entry(node).or_insert(0) += 1;
            return None;
        };
        self.files.insert(fh, (node, Arc::clone(&id)));
        Some(id)
    }

    /// Drops the file's hold on its id, if it has one.
    fn release(&mut self, fh: Fh) {
        if let Some(node) = self.others.remove(&fh) {
            if let Some(count) = self.plain.get_mut(&node) {
                *count -= 1;
                if *count == 0 {
                    self.plain.remove(&node);
                }
            }
            return;
        }
        let Some((node, id)) = self.files.remove(&fh) else { return };
        // Whoever else holds it is another open file, or a reply on its way that is one already.
        drop(id);
        if self.nodes.get(&node).is_some_and(|id| id.strong_count() == 0) {
            self.nodes.remove(&node);
        }
    }
}

#[allow(unsafe_code)]
mod sys {
    use std::os::fd::{AsRawFd, BorrowedFd};

    use crate::error::Errno;

    /// linux/fuse.h: `_IOW(229, 2, uint32_t)`.
    const FUSE_DEV_IOC_BACKING_CLOSE: libc::c_ulong = (1 << 30) | (4 << 16) | (229 << 8) | 2;

    /// Gives a backing id back.
    pub(super) fn close_backing(device: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
        // SAFETY: the kernel reads four bytes from the pointer, which `id` has.
        let done =
            unsafe { libc::ioctl(device.as_raw_fd(), FUSE_DEV_IOC_BACKING_CLOSE, &raw const id) };
        Errno::result(done).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_has_one_id_as_long_as_somebody_has_it_open() {
        let mut ids = Ids::default();
        let first = Arc::as_ptr(&ids.take(NodeId(2), Fh(1), || Ok(10)).unwrap());
        let again = ids.take(NodeId(2), Fh(2), || panic!("it is there already")).unwrap();
        assert_eq!(Arc::as_ptr(&again), first);
        drop(again);
        assert_eq!(*ids.take(NodeId(3), Fh(3), || Ok(11)).unwrap(), 11);
        ids.release(Fh(1));
        assert_eq!(*ids.take(NodeId(2), Fh(4), || panic!("Fh(2) has it")).unwrap(), 10);
        ids.release(Fh(2));
        ids.release(Fh(4));
        assert_eq!(*ids.take(NodeId(2), Fh(5), || Ok(12)).unwrap(), 12);
    }

    #[test]
    fn nothing_is_left_after_the_last_release() {
        let mut ids = Ids::default();
        for fh in 0..100 {
            ids.take(NodeId(fh % 7), Fh(fh), || Ok(())).unwrap();
        }
        for fh in 0..200 {
            ids.release(Fh(fh));
        }
        assert!(ids.nodes.is_empty() && ids.files.is_empty());
    }

    #[test]
    fn an_id_that_cannot_be_made_leaves_nothing() {
        let mut ids: Ids<()> = Ids::default();
        assert!(ids.take(NodeId(2), Fh(1), || Err(io::Error::other("no"))).is_err());
        assert!(ids.nodes.is_empty() && ids.files.is_empty());
    }
}
