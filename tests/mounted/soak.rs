//! The short form of `scripts/soak`: mixed load, after which the daemon is as it was before, and
//! stress-ng beside the mount.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Running, THREADS, World, compiled, eventually, python};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Descriptors and threads.
fn size(world: &World) -> (usize, u64) {
    (world.daemon_descriptors(), world.daemon_status("Threads"))
}

/// The daemon's children that have ended and that it has not taken note of.
fn zombies(daemon: u32) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let is_zombie = |stat: &String| {
        let (_, after_name) = stat.rsplit_once(')').unwrap();
        after_name.starts_with(&format!(" Z {daemon} "))
    };
    stats.filter(is_zombie).count()
}

#[test]
fn after_mixed_load_the_daemon_is_as_it_was() {
    let mut world = World::new();
    world.run("find . -ls; cat ctl/summary ctl/metrics");
    let mut before = size(&world);
    // Workers that have nothing to do end after a while.
    eventually("it has settled", || {
        let now = size(&world);
        before = before.min(now);
        now.1 <= THREADS
    });
    let memory = world.daemon_status("VmRSS");

    let mut load = world.command(python());
    load.arg("-B").arg(source("load.py")).arg("7").arg(compiled("crowd"));
    let load = Running::start(load).output();
    assert!(load.status.success(), "{}\n{}", load.text(), load.errors);
    // Everybody got something done.
    assert!(!load.text().contains(" 0 rounds"), "{}", load.text());

    eventually("descriptors and threads are back", || size(&world) <= before);
    world.run("echo 2 > /proc/sys/vm/drop_caches");
    eventually("memory is back", || world.daemon_status("VmRSS") < memory + 6 * 1024);
    assert_eq!(zombies(world.daemon()), 0);
    assert_eq!(world.run("ls mq shm sem fifo sysv/* | grep -v :; sed 1d ctl/summary").trim(), "");

    let daemon = world.take_daemon();
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.output().errors, "", "nobody's doings get into the log");
}

#[test]
fn stress_ng_finds_nothing_beside_the_mount_that_it_does_not_find_without() {
    let world = World::new();
    // stress-ng makes a thousand objects, so that a walk through all of their files takes its time.
    let loops = [
        "find . -ls > $SCRATCH/list 2>> $SCRATCH/errors; [ -s $SCRATCH/list ] || exit 1",
        "cat ctl/summary > $SCRATCH/summary || exit 1; echo >> $SCRATCH/rounds",
    ];
    let forever = |body| world.start(&format!("until [ -e $SCRATCH/stop ]; do {body}; done"));
    let listers = loops.map(forever);
    eventually("it is being listed", || world.scratch().join("rounds").exists());
    let script = source("stress.sh");
    let script = script.to_str().unwrap();
    let beside = world.start(&format!("exec {script} 5"));
    let without = world.start(&format!(
        "exec unshare --ipc --mount --propagation private \
         sh -c 'mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec {script} 5'"
    ));
    let (beside, without) = (beside.output(), without.output());
    assert!(without.status.success(), "{}", without.errors);
    assert_eq!(without.text().matches("has worked").count(), 7, "{}", without.text());
    assert_eq!(beside.text(), without.text());
    fs::write(world.scratch().join("stop"), "").unwrap();
    for mut lister in listers {
        assert!(lister.wait().success(), "{}", lister.errors());
    }
    world.run("[ $(wc -l < $SCRATCH/rounds) -ge 5 ]");
    world.fail("grep -v 'No such file or directory' $SCRATCH/errors");
}
