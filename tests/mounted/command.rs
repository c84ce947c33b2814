//! The command: mounting, its errors, its end.

use crate::common::{BINARY, World, eventually};

#[test]
fn it_returns_once_the_mount_works_and_ends_with_umount() {
    let world = World::unmounted();
    let script = format!("cd /; {BINARY} $M && ls $M && findmnt -no SOURCE,FSTYPE $M && umount $M");
    let listed = world.run(&script);
    assert!(listed.contains("mq\n") && listed.contains("sysv\n"), "{listed}");
    assert!(listed.contains("ipcfs") && listed.contains("fuse.ipcfs"), "{listed}");
}

#[test]
fn it_does_not_keep_its_callers_pipe_open() {
    let world = World::unmounted();
    assert_eq!(world.run(&format!("cd /; {BINARY} $M 2>&1 | cat; umount $M")), "");
}

#[test]
fn its_complaints_are_one_sentence_with_what_to_do() {
    let world = World::unmounted();
    let complaint = |arguments: &str, status: i32| {
        let output = world.attempt(&format!("cd /; {BINARY} {arguments}"));
        assert_eq!(output.status.code(), Some(status), "{}", output.errors);
        output.errors
    };
    assert!(complaint("$M/none", 1).contains("mkdir -p"));
    assert!(complaint("/etc/passwd", 1).contains("is not a directory"));
    assert!(complaint("-o frobnicate $M", 2).contains("frobnicate"));
    assert!(complaint("-o remount $M", 2).contains("umount"));
    assert!(complaint("--frobnicate $M", 2).contains("--frobnicate"));
    assert!(complaint("", 2).contains("MOUNTPOINT"));
    // Another's /dev/fuse: a node that does not exist.
    let gone = "mount -t tmpfs tmpfs /dev && ";
    let output = world.attempt(&format!("cd /; {gone} {BINARY} $M"));
    assert_eq!(output.status.code(), Some(1));
    assert!(output.errors.contains("/dev/fuse is missing"), "{}", output.errors);
}

#[test]
fn sigterm_unmounts_and_ends_with_0_also_with_files_open_and_readers_blocked() {
    let mut world = World::new();
    world.run("touch mq/q");
    let blocked: Vec<_> = (0..10).map(|_| world.start("cat mq/q")).collect();
    let mut blocked: Vec<_> = blocked.into_iter().collect();
    eventually("they wait", || world.waiting() == 10);
    let mut daemon = world.take_daemon();
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success());
    for reader in &mut blocked {
        assert!(!reader.wait().success());
    }
    world.run("! mountpoint -q $M");
}

#[test]
fn after_a_kill_clients_get_an_error_and_the_next_start_works() {
    let mut world = World::new();
    world.run("echo kept > mq/q; touch mq/empty");
    let mut reader = world.start("cat mq/empty");
    eventually("it waits", || world.waiting() == 1);
    let mut daemon = world.take_daemon();
    daemon.signal(libc::SIGKILL);
    daemon.wait();
    assert!(!reader.wait().success());
    world.run("cd /; until ! mountpoint -q $M && [ -d $M ]; do :; done");
    world.mount(&[]);
    assert_eq!(world.run("cat mq/q"), "kept\n");
}

#[test]
fn a_start_clears_what_a_killed_daemon_and_its_guard_have_left() {
    let world = World::unmounted();
    // Both are killed at once: nobody is left to unmount.
    let script = format!(
        "cd /; {BINARY} $M; pids=$(pgrep -f '{BINARY} '$M); kill -9 $pids
         until ! kill -0 $pids 2>/dev/null; do :; done
         stat $M 2>&1; {BINARY} $M && touch $M/mq/a && ls $M/mq && umount $M"
    );
    let printed = world.run(&script);
    assert!(printed.ends_with("a\n"), "{printed}");
}

#[test]
fn the_end_of_one_mount_leaves_the_one_below_it_alone() {
    let world = World::unmounted();
    let script = format!(
        "cd /; {BINARY} $M; {BINARY} $M; umount $M
         until [ $(pgrep -fc '^{BINARY} '$M) = 2 ]; do :; done
         mountpoint -q $M && echo still > $M/mq/q && cat $M/mq/q; umount $M; ! mountpoint -q $M"
    );
    assert_eq!(world.run(&script), "still\n");
}

#[test]
fn in_the_background_it_logs_to_the_systems_log() {
    let world = World::unmounted();
    let listen = "import os, socket
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind(os.environ['SCRATCH'] + '/log'); print('', flush=True)
while True: print(log.recv(2000).decode(), flush=True)";
    // Until it works it says what there is to say to whoever has started it.
    let script = format!(
        "cd /; mount -t tmpfs tmpfs /dev; mkdir /dev/shm; ln -s $SCRATCH/log /dev/log
         mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/fuse c 10 229
         python3 -c \"{listen}\" > $SCRATCH/lines & listener=$!
         until [ -s $SCRATCH/lines ]; do :; done
         export RUST_LOG=info
         {BINARY} $M 2>&1 | grep -om 1 'shared memory'
         kill $(pgrep -f '^{BINARY} '$M | head -n 1)
         until grep SIGTERM $SCRATCH/lines; do :; done
         kill $listener"
    );
    let printed = world.run(&script);
    let (before, after) = printed.split_once('\n').unwrap();
    assert_eq!(before, "shared memory");
    let pid = after.strip_prefix("<30>ipcfs[").and_then(|rest| rest.split_once("]: ")).unwrap();
    assert!(pid.1.contains(": unmounting after SIGTERM"), "{after}");
    pid.0.parse::<u32>().unwrap();
}
