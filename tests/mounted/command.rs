//! The command: mounting, its errors, its end.

use crate::check::{AS_USER, with_user};
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
fn neither_the_daemon_nor_its_guard_keeps_what_the_caller_has_open() {
    let world = World::unmounted();
    // A lock that is given back, and a pipe that ends.
    let script = format!(
        "cd /; exec 9> $SCRATCH/lock; flock 9; {BINARY} $M; exec 9>&-
         flock -w 20 $SCRATCH/lock echo free; umount $M
         ({BINARY} $M) 3>&1 4>&1 | cat
         for pid in $(pgrep -f '^{BINARY} '$M); do ls -l /proc/$pid/fd; done | grep -c $SCRATCH
         umount $M"
    );
    assert_eq!(world.run(&script), "free\n0\n");
    // Nor does the guard of one in the foreground.
    let script = format!(
        "cd $SCRATCH; exec 9> $SCRATCH/lock; {BINARY} -f $M & until [ -d $M/mq ]; do :; done
         for pid in $(pgrep -f '^{BINARY} -f '$M); do [ $pid = $! ] || ls -l /proc/$pid/{{fd,cwd}}; done |
         grep -c $SCRATCH; umount $M; wait"
    );
    assert_eq!(world.run(&script), "0\n");
}

#[test]
fn places_may_be_called_anything() {
    let world = World::unmounted();
    let script = format!(
        "cd /; place=$SCRATCH/$(printf 'a b\\\\\\377'); mkdir \"$place\"; cd $SCRATCH
         fifos=$(printf 'f\\376'); touch \"$fifos.ns\"; mount --bind /proc/self/ns/ipc \"$fifos.ns\"
         {BINARY} -o fifo_dir=\"$fifos\" --ipc-ns \"$fifos.ns\" \"$place\" 2> /dev/null; cd \"$place\"
         mkfifo fifo/x; ls \"$SCRATCH/$fifos\"; touch mq/q
         exec 9< mq/q; cut -f 2 ctl/mq/q/users; exec 9<&-; cd /
         kill -9 $(pgrep -of '^{BINARY} .*a b'); while grep -q 'a.040b' /proc/self/mounts; do :; done
         umount \"$SCRATCH/$fifos.ns\""
    );
    assert_eq!(world.run(&script), "x\nbash\ncut\n");
}

#[test]
fn as_a_helper_it_takes_what_mount_hands_over() {
    let world = World::unmounted();
    world.run(&format!("ln -s {BINARY} $SCRATCH/mount.ipcfs"));
    // `mount -f`: no more than a look at the command line.
    world.run(
        "cd /; $SCRATCH/mount.ipcfs ipcfs $M -fv -o rw,nofail -t fuse.ipcfs; ! mountpoint -q $M",
    );
    let error = world.fail("cd /; $SCRATCH/mount.ipcfs ipcfs $M -f -o nope");
    assert!(error.starts_with("ipcfs: unknown mount option \"nope\";"), "{error}");
    let script = "cd /; $SCRATCH/mount.ipcfs src $M -sv -o rw,ro,rw,nosymfollow,iversion -t ipcfs
                  findmnt -nro SOURCE,FSTYPE $M; echo x > $M/mq/q; umount $M";
    assert_eq!(world.run(script), "src fuse.ipcfs\n");
    // `mount -N`: where the helper does not run.
    let other = world.start("exec unshare --mount sleep 1000");
    let there = format!("/proc/{}/ns/mnt", other.id());
    eventually("it is there", || {
        !world.attempt(&format!("[ {there} -ef /proc/self/ns/mnt ]")).status.success()
    });
    let script = format!(
        "cd /; $SCRATCH/mount.ipcfs ipcfs $M -N {there} -o rw; ! mountpoint -q $M
         nsenter --mount={there} findmnt -no FSTYPE $M; nsenter --mount={there} umount $M"
    );
    assert_eq!(world.run(&script), "fuse.ipcfs\n");
    let error = world.fail("cd /; $SCRATCH/mount.ipcfs ipcfs $M -N 4194305");
    assert!(error.contains("mount namespace"), "{error}");
}

#[test]
fn one_more_mount_at_the_same_place_is_said() {
    let world = World::unmounted();
    let printed = world.run(&format!("cd /; {BINARY} $M; {BINARY} $M 2>&1; umount $M; umount $M"));
    assert!(printed.contains("is mounted on") && printed.lines().count() == 1, "{printed}");
}

#[test]
fn a_user_is_told_in_one_sentence_why_there_is_no_mount() {
    let world = World::unmounted();
    with_user(&world);
    world.run(
        "mkdir -m 1777 $SCRATCH/sticky; mkdir -m 755 $SCRATCH/roots; mkdir -m 700 $SCRATCH/closed
         mkdir $SCRATCH/closed/mnt; mkdir -m 555 $SCRATCH/user/fixed
         chown 4242 $SCRATCH/user/fixed $SCRATCH/closed/mnt",
    );
    let ipcfs = format!("cd /; {AS_USER} $SCRATCH/user/ipcfs");
    for (place, complaint) in [
        ("$SCRATCH/sticky", "which is not yours; give a directory of your own"),
        ("$SCRATCH/roots", "which is not yours"),
        ("$SCRATCH/closed/mnt", "no permission to reach"),
        ("$SCRATCH/user/fixed", "give a directory of your own"),
        ("$SCRATCH/user/none", "mkdir -p"),
        ("-o mq_msgsize=1T $SCRATCH/user/mnt", "is not a number"),
        ("-o allow_other $SCRATCH/user/mnt", "in /etc/fuse.conf"),
    ] {
        let error = world.fail(&format!("{ipcfs} {place}"));
        assert!(error.starts_with("ipcfs: ") && error.contains(complaint), "{place}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // What every user's mount does without is no warning; RUST_LOG=info tells.
    let printed = world.run(&format!("{ipcfs} $SCRATCH/user/mnt 2>&1"));
    assert!(!printed.contains("shared memory"), "{printed}");
    let error = world.fail(&format!("{ipcfs} $SCRATCH/user/mnt"));
    assert!(error.contains("is mounted on") && error.contains("fusermount3 -u"), "{error}");
    world.run("umount $SCRATCH/user/mnt");
    let script =
        format!("cd /; RUST_LOG=info {AS_USER} $SCRATCH/user/ipcfs $SCRATCH/user/mnt 2>&1");
    let printed = world.run(&script);
    assert!(printed.contains("shared memory: forwarded by the daemon"), "{printed}");
    world.run("umount $SCRATCH/user/mnt");
}

#[test]
fn what_the_options_ask_for_and_cannot_be_had_is_refused() {
    let world = World::unmounted();
    world.run("touch $SCRATCH/file");
    for (before, options, complaint) in [
        ("", "-o fifo_dir=$SCRATCH/file", "mount option fifo_dir: the state directory"),
        ("", "-o link_dir=$SCRATCH/none/below", "mount option link_dir: the state directory"),
        ("", "-o mq_maxmsg=65537", "mount option mq_maxmsg: 65537 is too much; give "),
        ("", "-o mq_msgsize=16777217", "mount option mq_msgsize: 16777217 is too much"),
        (
            "setpriv --bounding-set=-sys_resource",
            "-o mq_maxmsg=11",
            "give 10 at most, or have it raised: sysctl fs.mqueue.msg_max=N",
        ),
        ("ulimit -n 20;", "", "20 descriptors (RLIMIT_NOFILE) are too few"),
    ] {
        let output = world.attempt(&format!("cd /; {before} {BINARY} {options} $M"));
        assert_eq!(output.status.code(), Some(1), "{options}: {}", output.errors);
        assert!(output.errors.contains(complaint), "{options}: {}", output.errors);
        assert_eq!(output.errors.lines().count(), 1, "{}", output.errors);
        let check = world.attempt(&format!("cd /; {before} {BINARY} --check {options} $M"));
        assert_eq!(check.status.code(), Some(1), "{options}: {}", check.text());
        assert!(check.text().contains(complaint), "{options}: {}", check.text());
    }
    world.run("! mountpoint -q $M");
}

#[test]
fn its_complaints_are_one_sentence_with_what_to_do() {
    let world = World::unmounted();
    let complaint = |arguments: &str, status: i32| {
        let output = world.attempt(&format!("cd /; {BINARY} {arguments}"));
        assert_eq!(output.status.code(), Some(status), "{}", output.errors);
        let sentence = output.errors.starts_with("ipcfs: ") && output.errors.lines().count() == 1;
        assert!(sentence || status == 2, "{}", output.errors);
        output.errors
    };
    assert!(complaint("$M/none", 1).contains("mkdir -p"));
    assert!(complaint("/etc/passwd", 1).contains("is not a directory"));
    assert!(complaint("-o frobnicate $M", 1).contains("unknown mount option \"frobnicate\";"));
    assert!(complaint("-o remount $M", 1).contains("umount"));
    assert!(complaint("-o mq_maxmsg $M", 1).contains("wants a value: mq_maxmsg=N"));
    assert!(complaint("-o ro=1 $M", 1).contains("ro takes no value"));
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
