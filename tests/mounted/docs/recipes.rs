//! The cookbook: what its recipes find, and those that have to stand more than being run once.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{COOKBOOK, prelude};
use crate::common::{DEADLINE, Running, World, eventually};

/// The tree on /mnt/ipc, the library where scripts/install puts it, an empty directory `home`, and
/// what a recipe takes for granted: `host`, which answers ssh (this machine does), the URLs of files
/// to fetch, and a directory of the node exporter's.
pub fn world() -> World {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network of its own");
    let world = World::new();
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ipcfs.sh");
    world.run(&format!(
        "mount -t tmpfs tmpfs /mnt; mkdir /mnt/ipc; mount --bind $M /mnt/ipc
         mount -t tmpfs tmpfs /usr/local/share; mkdir /usr/local/share/ipcfs
         cp {} /usr/local/share/ipcfs
         mount -t tmpfs tmpfs /var/lib; mkdir -p /var/lib/prometheus/node-exporter
         cd $SCRATCH; chmod 755 .; mkdir home; cd home
         for file in hosts passwd group services; do echo file:///etc/$file; done > urls",
        library.display()
    ));
    world
}
