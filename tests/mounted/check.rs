//! `ipcfs --check`: what it says is what a mount does.

use std::collections::HashMap;

use crate::common::{BINARY, World, eventually};

/// The lines as point, verdict and text; the exit status.
fn check(world: &World, before: &str, arguments: &str) -> (HashMap<String, (String, String)>, i32) {
    let output = world.attempt(&format!("cd /; {before} {BINARY} --check {arguments}"));
    let status = output.status.code().unwrap();
    let text = output.text();
    let (lines, last) = text.split_once("\n\n").unwrap_or_else(|| panic!("{text}{output:?}"));
    let verdict = if status == 0 { "A mount would work.\n" } else { "A mount would not work.\n" };
    assert_eq!(last, verdict, "{text}");
    // Aligned: the verdicts stand below each other, and so do the texts.
    let place = lines.find("  ok ").unwrap();
    let mut found = HashMap::new();
    for line in lines.lines() {
        let (point, rest) = line.split_at(place);
        let (verdict, text) = rest.split_at(8);
        let verdict = verdict.trim();
        assert!(matches!(verdict, "ok" | "no" | "low" | "FAIL"), "{line}");
        assert!(!text.is_empty() && !text.starts_with(' '), "{line}");
        let twice = found.insert(point.trim().into(), (verdict.into(), text.into()));
        assert!(twice.is_none(), "{line}");
    }
    (found, status)
}

/// A user with a name, which fusermount3 wants, and a directory of theirs; `$USER` runs a command
/// as them.
const USER: &str = "
    cp /etc/passwd $SCRATCH/passwd; echo tester:x:4242:4242::/:/bin/sh >> $SCRATCH/passwd
    mount --bind $SCRATCH/passwd /etc/passwd
    chmod 755 $SCRATCH; mkdir -p $SCRATCH/user/run $SCRATCH/user/mnt; cp $IPCFS $SCRATCH/user/ipcfs
    chown -R 4242:4242 $SCRATCH/user";

/// Runs the rest of the command line as that user.
pub(super) const AS_USER: &str = "TMPDIR=$SCRATCH/user XDG_RUNTIME_DIR=$SCRATCH/user/run setpriv --reuid=4242 \
                       --regid=4242 --clear-groups";

pub(super) fn with_user(world: &World) {
    world.run(&format!("cd /; IPCFS={BINARY}\n{USER}"));
}

#[test]
fn root_is_told_that_all_is_well_and_nothing_is_left() {
    let world = World::unmounted();
    let (found, status) = check(&world, "", "");
    assert_eq!(status, 0, "{found:?}");
    for point in [
        "kernel",
        "/dev/fuse",
        "mount",
        "request timeout",
        "mq",
        "shm",
        "sem",
        "fifo",
        "sysv/msg",
        "sysv/sem",
        "sysv/shm",
        "private mqueue",
        "map_files",
        "MSG_COPY",
        "mq_bytes",
        "daemon_descriptors",
    ] {
        assert_eq!(found[point].0, "ok", "{point}: {}", found[point].1);
    }
    // The limits are those of ctl/limits, by the same names, and each but the built-in ones says
    // how it is raised.
    for (point, how) in [
        ("mq_queues", "sysctl fs.mqueue.queues_max="),
        ("mq_maxmsg", "sysctl fs.mqueue.msg_max="),
        ("shm_bytes", "mount -o remount,size="),
        ("sysv_msg_queues", "sysctl kernel.msgmni="),
        ("sysv_sem_sets", "sysctl kernel.sem, the fourth number"),
        ("sysv_shm_size", "sysctl kernel.shmmax="),
        ("daemon_descriptors", "ulimit -n"),
        ("daemon_mappings", "sysctl vm.max_map_count="),
    ] {
        assert!(found[point].1.contains(how), "{point}: {}", found[point].1);
    }
    world.run("cd /; ! grep ipcfs /proc/self/mounts; ! ls -d ${TMPDIR:-/tmp}/ipcfs-check-*; ipcs");
    assert_eq!(world.run("cd /; ipcs -q | grep -c 0x; true"), "0\n");
    // The guard of the trial goes as well.
    eventually("nobody is left", || {
        !world.attempt(&format!("cd /; pgrep -f '{BINARY} --check'")).status.success()
    });
    // A mount that is there stays undisturbed.
    world.run(&format!(
        "cd /; {BINARY} $M; echo kept > $M/mq/q; {BINARY} --check $M > /dev/null
         cat $M/mq/q; umount $M; ! mountpoint -q $M"
    ));
}

#[test]
fn what_the_options_say_is_taken_into_account() {
    let world = World::unmounted();
    let (found, _) = check(&world, "", "-o no_passthrough $M");
    assert_eq!(found["passthrough"].0, "no");
    assert!(found["passthrough"].1.contains("switched off by -o no_passthrough"));
    assert!(found["mount"].1.contains("tried on /"), "{found:?}");
    let (found, _) = check(&world, "touch $SCRATCH/f;", "-o fifo_dir=$SCRATCH/f");
    assert_eq!(found["fifo"].0, "no");
    assert!(found["fifo"].1.contains("cannot be opened"), "{found:?}");
    let output = world.attempt(&format!("cd /; {BINARY} --check -o frobnicate"));
    assert_eq!(output.status.code(), Some(1));
    // Another namespace's limits, and one that cannot be entered.
    let container = world.start("exec unshare --ipc --mount sleep 1000");
    eventually("it is there", || {
        let same = format!("[ /proc/{0}/ns/ipc -ef /proc/self/ns/ipc ]", container.id());
        !world.attempt(&format!("cd /; {same}")).status.success()
    });
    world.run(&format!(
        "cd /; nsenter -t {} -i sh -c 'echo 77 > /proc/sys/fs/mqueue/queues_max'",
        container.id()
    ));
    let (found, status) = check(&world, "", &format!("--ipc-ns {}", container.id()));
    assert!(status == 0 && found["mq_queues"].1.starts_with("0 of 77;"), "{found:?}");
    let (found, status) = check(&world, "", "--ipc-ns /etc/passwd");
    assert_eq!(status, 1);
    assert!(found["mount"].1.contains("is no IPC namespace"), "{found:?}");
}

#[test]
fn each_thing_that_is_missing_has_its_line_with_what_to_do() {
    let world = World::unmounted();
    let without_fuse = "mount -t tmpfs tmpfs /dev && mkdir /dev/shm &&";
    for (before, arguments, point, verdict, text) in [
        ("", "/nonexistent", "mount", "FAIL", "mkdir -p /nonexistent"),
        ("", "/etc/passwd", "mount", "FAIL", "is not a directory"),
        ("unshare --mount sh -c '\"$@\"' x", "", "mount", "ok", "tried on"),
        (
            "mount --bind /dev/null /dev/fuse && rm() { umount /dev/fuse; } && trap rm EXIT &&",
            "",
            "mount",
            "FAIL",
            "mounting on",
        ),
        (
            "mount --bind /dev/null /usr/bin/fusermount3 && trap 'umount /usr/bin/fusermount3' EXIT &&",
            "",
            "fusermount3",
            "no",
            "install the package fuse3",
        ),
        (
            "echo user_allow_other > $SCRATCH/c; mount --bind $SCRATCH/c /etc/fuse.conf &&",
            "",
            "allow_other",
            "ok",
            "users may give it",
        ),
        ("setpriv --bounding-set=-sys_admin", "", "mount", "FAIL", "CAP_SYS_ADMIN"),
        ("setpriv --bounding-set=-sys_admin", "", "mq", "no", "mount -t mqueue none /dev/mqueue"),
        (
            "setpriv --bounding-set=-sys_admin,-checkpoint_restore",
            "",
            "map_files",
            "no",
            "CAP_CHECKPOINT_RESTORE",
        ),
        (
            "echo 1 > /proc/sys/fs/mqueue/queues_max; python3 -c 'import ctypes, ctypes.util
ctypes.CDLL(None).mq_open(b\"/one\", 0o102, 0o600, None)';",
            "",
            "mq_queues",
            "low",
            "1 of 1; to raise it: sysctl fs.mqueue.queues_max=N",
        ),
        (
            "cp -r /proc/sys/fs/mqueue $SCRATCH; mount -t tmpfs tmpfs /proc/sys/fs
             cp -r $SCRATCH/mqueue /proc/sys/fs; mkdir /proc/sys/fs/fuse
             echo 60 > /proc/sys/fs/fuse/default_request_timeout; trap 'umount /proc/sys/fs' EXIT;",
            "",
            "request timeout",
            "no",
            "sysctl fs.fuse.default_request_timeout=0",
        ),
        (without_fuse, "", "/dev/fuse", "FAIL", "modprobe fuse"),
    ] {
        let (found, status) = check(&world, before, arguments);
        let (seen, sentence) = &found[point];
        assert!(seen == verdict && sentence.contains(text), "{before} {point}: {seen} {sentence}");
        let fails = found.values().any(|(verdict, _)| verdict == "FAIL");
        assert_eq!(status != 0, fails, "{before}: {found:?}");
    }
}

/// A device that is root's alone, in the place of everybody's.
const OTHERS_DEVICE: &str = "
    mknod -m 600 $SCRATCH/fuse c 10 229; mount --bind $SCRATCH/fuse /dev/fuse
    trap 'umount /dev/fuse' EXIT;";

#[test]
fn its_verdict_is_what_a_mount_does() {
    let world = World::unmounted();
    with_user(&world);
    let user_allow = "echo user_allow_other > $SCRATCH/c; mount --bind $SCRATCH/c /etc/fuse.conf;";
    let user = AS_USER;
    let no_fusermount =
        "mount --bind /dev/null /usr/bin/fusermount3; trap 'umount /usr/bin/fusermount3' EXIT;";
    for (conditions, who, arguments, works) in [
        ("", "", "$M", true),
        ("", "", "-o ro,allow_other $M", true),
        ("", "", "/nonexistent", false),
        ("", "setpriv --bounding-set=-sys_admin", "$M", false),
        ("", user, "$SCRATCH/user/mnt", true),
        // Root's directory.
        ("", user, "$M", false),
        ("", user, "-o allow_other $SCRATCH/user/mnt", false),
        (user_allow, user, "-o allow_other $SCRATCH/user/mnt", true),
        (no_fusermount, user, "$SCRATCH/user/mnt", false),
        (
            "mount --bind $SCRATCH /etc; trap 'umount -l /etc' EXIT;",
            user,
            "$SCRATCH/user/mnt",
            false,
        ),
        (OTHERS_DEVICE, user, "$SCRATCH/user/mnt", false),
    ] {
        let script = format!(
            "cd /; {conditions}
             {who} $SCRATCH/user/ipcfs --check {arguments} > $SCRATCH/out; echo $?
             {who} $SCRATCH/user/ipcfs {arguments} 2> $SCRATCH/errors; echo $?
             grep -q ' fuse.ipcfs ' /proc/self/mounts && umount {place} && echo mounted
             cat $SCRATCH/out $SCRATCH/errors",
            place = arguments.rsplit(' ').next().unwrap()
        );
        let printed = world.run(&script);
        let expected = if works { "0\n0\nmounted\n" } else { "1\n1\nkernel" };
        assert!(printed.starts_with(expected), "{conditions} {who} {arguments}: {printed}");
        let complaint = printed.lines().find_map(|line| line.strip_prefix("ipcfs: "));
        assert_eq!(complaint.is_none(), works, "{printed}");
        // And the reason is the same.
        assert!(works || printed.matches(complaint.unwrap()).count() > 1, "{printed}");
    }
}

#[test]
fn a_user_is_told_what_they_have_to_do_without() {
    let world = World::unmounted();
    with_user(&world);
    let (found, status) = check(&world, AS_USER, "");
    assert_eq!(status, 0, "{found:?}");
    assert_eq!(found["passthrough"].0, "no");
    assert!(found["passthrough"].1.contains("CAP_SYS_ADMIN"), "{found:?}");
    assert_eq!((found["map_files"].0.as_str(), found["MSG_COPY"].0.as_str()), ("no", "ok"));
    assert_eq!(found["private mqueue"].0, "no");
    // Nothing is left of the trial.
    world.run("cd /; ! grep ipcfs /proc/self/mounts; ! ls -d $SCRATCH/user/ipcfs-check-*");
}
