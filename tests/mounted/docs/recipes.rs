//! The cookbook: what its recipes find, and those that have to stand more than being run once.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{COOKBOOK, prelude, read};
use crate::common::{Running, World, deadline, eventually};

/// The tree on /mnt/ipc, the library where scripts/install puts it, an empty directory `home`, and
/// what recipes take for granted: files to fetch, a directory of the node exporter's, and `host`,
/// which answers ssh. It is this machine, in a network of its own.
pub fn world() -> (World, Vec<Running>) {
    let world = World::new();
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ipcfs.sh");
    world.run(&format!(
        "set -e
         mount -t tmpfs tmpfs /mnt; mkdir /mnt/ipc; mount --bind $M /mnt/ipc
         mount -t tmpfs tmpfs /usr/local/share; mkdir /usr/local/share/ipcfs
         cp {} /usr/local/share/ipcfs
         mount -t tmpfs tmpfs /var/lib; mkdir -p /var/lib/prometheus/node-exporter
         mkdir -m 700 $SCRATCH/home $SCRATCH/home/.ssh; cd $SCRATCH/home
         for file in hosts passwd group services; do echo file:///etc/$file; done > urls
         ssh-keygen -q -N '' -t ed25519 -f .ssh/id_ed25519
         cp .ssh/id_ed25519.pub .ssh/authorized_keys
         printf '%s\\n' 'Host host' 'HostName 127.0.0.1' 'StrictHostKeyChecking accept-new' \\
             'LogLevel ERROR' > .ssh/config
         chmod 600 .ssh/*
         sed \"s|^root:.*|root:x:0:0:root:$PWD:/bin/bash|\" /etc/passwd > $SCRATCH/passwd
         mount --bind $SCRATCH/passwd /etc/passwd",
        library.display()
    ));
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network of its own");
    let server = world.start(
        "cd /; busybox ip link set lo up; dropbearkey -t ed25519 -f $SCRATCH/key
         exec dropbear -F -E -p 127.0.0.1:22 -r $SCRATCH/key",
    );
    eventually("the server listens", || world.attempt("ssh host true").status.success());
    (world, vec![server])
}

/// The workers that have a file in the journal and live.
fn workers(home: &Path) -> Vec<String> {
    let journal = fs::read_dir(home.join("journal")).into_iter().flatten().flatten();
    let names = journal.map(|file| file.file_name().to_string_lossy().into_owned());
    let pids = names.filter_map(|name| Some(name.split_once('.')?.0.to_owned()));
    pids.filter(|pid| Path::new("/proc").join(pid).exists()).collect()
}

/// Runs the recipe and kills a worker after every few jobs, `with` its children or without; returns
/// the jobs that it names as lost.
fn run_job_queue(world: &World, recipe: &str, with: bool) -> Vec<String> {
    const JOBS: usize = 2000;
    let home = world.scratch().join("home");
    let lines = |name: &str| {
        let text = fs::read_to_string(home.join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let begin = format!("{}{}export JOBS={JOBS}", prelude(), COOKBOOK.before);
    let mut running = world.start(&format!("{begin}; set -e; exec 2> errors\n{recipe}"));
    let (mut done, mut kills, mut progress) = (0, 0, Instant::now());
    while running.ended().is_none() {
        thread::sleep(Duration::from_millis(1));
        let now = lines("done").len();
        if now > done {
            progress = Instant::now();
        }
        assert!(
            progress.elapsed() < deadline(),
            "after {now} jobs and {kills} kills nothing goes on"
        );
        // Not the last ones: whom nothing comes to for so long is to end.
        if now >= done + 20 && now < JOBS {
            let workers = workers(&home);
            let Some(worker) = workers.get(now % workers.len().max(1)) else { continue };
            let children = if with { format!("$(pgrep -P {worker})") } else { String::new() };
            world.attempt(&format!("kill -9 {worker} {children}"));
            (done, kills) = (now, kills + 1);
        }
    }
    let output = running.output();
    assert!(output.status.success(), "{output:?}");
    assert!(kills > JOBS / 40, "{kills} kills");
    let done: HashSet<_> = lines("done").into_iter().collect();
    let mut lost = lines("todo");
    assert_eq!(lost.len(), JOBS);
    lost.retain(|job| !done.contains(job));
    let expected = if lost.is_empty() { vec!["none is lost".to_owned()] } else { lost.clone() };
    assert_eq!(output.text().lines().collect::<Vec<_>>(), expected);
    assert_eq!(workers(&home), [""; 0]);

    // What the page says to do about them.
    let work = recipe.lines().find(|line| line.starts_with("work()")).unwrap();
    let again = "grep -vxFf done todo > /mnt/ipc/ctl/mq/jobs/lines";
    assert!(read(COOKBOOK.file).contains(&format!("`{again}`")));
    let library = recipe.lines().next().unwrap();
    world.run(&format!(
        "{begin}\n{library}\n{work}\n{again}; ipc_each -n /mnt/ipc/mq/jobs work
         ! grep -vxFf done todo && ! [ -s /mnt/ipc/mq/jobs ]"
    ));
    lost
}

#[test]
fn the_job_queue_does_each_job_though_workers_are_killed() {
    let blocks = COOKBOOK.blocks();
    let recipe = blocks.iter().find(|block| block.text.contains("ipc_each -w 2 -j")).unwrap();
    assert!(recipe.text.lines().count() <= 10);
    COOKBOOK.apart(&[], |world| {
        assert_eq!(run_job_queue(world, &recipe.text, false), [""; 0]);
    });
    // With the dd that has just taken it a job may be lost, but not without being named.
    COOKBOOK.apart(&[], |world| {
        run_job_queue(world, &recipe.text, true);
    });
}
