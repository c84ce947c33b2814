//! Every limit of the kernel: the errno of the C call, and the sentence that says which it was.
#![allow(clippy::enum_glob_use)] // It is a table.

use super::Access::*;
use super::Kind::*;
use super::Step::*;
use super::{A, Field, Kind, Step};
use crate::common::World;

/// A limit, how it is set, what runs into it, what comes of that in C and through the mount, and
/// what `ctl/errors` says of it.
type Row =
    (&'static str, &'static str, Kind, &'static [Step], &'static str, &'static str, &'static str);

/// They count for those who are not root. What differs is in the table of calls as well.
#[rustfmt::skip]
const LIMITS: &[Row] = &[
    ("queues_max", "echo 1 > /proc/sys/fs/mqueue/queues_max", Mq,
        &[By(A), Make(0o600), Named(b"other"), Make(0o600)],
        "ok ENOSPC", "ok ENOSPC", "there are 1 queues; fs.mqueue.queues_max is 1"),
    ("msg_max", "echo 3 > /proc/sys/fs/mqueue/msg_max", Mq, &[By(A), MakeWith(&[("maxmsg", 4)])],
        "EINVAL", "EINVAL", "maxmsg=4 must be 1 to 3 (fs.mqueue.msg_max)"),
    ("msgsize_max", "echo 200 > /proc/sys/fs/mqueue/msgsize_max", Mq,
        &[By(A), MakeWith(&[("msgsize", 201)])],
        "EINVAL", "EINVAL", "msgsize=201 1 to 200 (fs.mqueue.msgsize_max)"),
    ("msgmni", "echo 1 > /proc/sys/kernel/msgmni", Msg,
        &[By(A), Make(0o600), Named(b"120"), Make(0o600)],
        "ok ENOSPC", "ok ENOSPC", "sysv_msg_queues is 1 of 1"),
    ("msgmax", "echo 100 > /proc/sys/kernel/msgmax", Msg,
        &[By(A), Make(0o600), Open(RW), SendLong(100), SendLong(101)],
        "ok ok ok EINVAL", "ok ok ok EMSGSIZE", "kernel.msgmax"),
    ("msgmnb", "echo 100 > /proc/sys/kernel/msgmnb", Msg, &[By(A), Make(0o600), Qbytes(101)],
        "ok EPERM", "ok EPERM", "kernel.msgmnb"),
    ("semmni", "echo '32000 1024000000 500 1' > /proc/sys/kernel/sem", Set,
        &[By(A), Make(0o600), Named(b"120"), Make(0o600)],
        "ok ENOSPC", "ok ENOSPC", "sysv_sem_sets is 1 of 1"),
    ("semmns", "echo '32000 5 500 32000' > /proc/sys/kernel/sem", Set,
        &[By(A), MakeWith(&[("nsems", 6)])],
        "ENOSPC", "ENOSPC", "sysv_sem_semaphores is 0 of 5"),
    ("semmsl", "echo '5 1024000000 500 32000' > /proc/sys/kernel/sem", Set,
        &[By(A), MakeWith(&[("nsems", 6)])],
        "EINVAL", "EINVAL", "sysv_sem_nsems_max is 5"),
    ("semopm", "echo '32000 1024000000 5 32000' > /proc/sys/kernel/sem", Set,
        &[By(A), Make(0o600), Open(RW), OperateMany(5), OperateMany(6)],
        "ok ok ok E2BIG", "ok ok ok E2BIG", "sysv_sem_operations_max is 5"),
    ("shmmni", "echo 1 > /proc/sys/kernel/shmmni", Segment,
        &[By(A), Make(0o600), Named(b"120"), Make(0o600)],
        "ok ENOSPC", "ok ENOSPC", "sysv_shm_segments is 1 of 1"),
    ("shmmax", "echo 10000 > /proc/sys/kernel/shmmax", Segment,
        &[By(A), MakeWith(&[("size", 10_001)])],
        "EINVAL", "EINVAL", "sysv_shm_size_max is 10000"),
    ("shmall", "echo 2 > /proc/sys/kernel/shmall", Segment,
        &[By(A), MakeWith(&[("size", 8193)])],
        "ENOSPC", "ENOSPC", "of 2"),
];

#[test]
fn each_limit_is_the_errno_of_the_c_call_and_a_sentence() {
    let field = Field::new("");
    let world = &field.world;
    let files = "/proc/sys/fs/mqueue/*_max /proc/sys/kernel/msgm* /proc/sys/kernel/sem \
                 /proc/sys/kernel/shmm* /proc/sys/kernel/shmall";
    let save = world.run(&format!("for f in {files}; do echo \"echo '$(cat $f)' > $f\"; done"));
    for (limit, set, kind, steps, native, mounted, sentence) in LIMITS {
        world.run(set);
        let [c, mount] = field.outcomes(*kind, steps);
        assert_eq!(c.said(), *native, "{limit} in C");
        assert_eq!(mount.said(), *mounted, "{limit} through the mount");
        let line = world.run("tail -n1 ctl/errors");
        assert!(line.contains(sentence), "{limit}: {line}");
        world.run(&save);
    }
}

#[test]
fn the_limit_on_what_queues_may_use_is_that_of_the_c_call() {
    let world = World::new();
    world.run("chmod 755 $SCRATCH");
    let client = crate::common::compiled("mq");
    // 10 messages of 100 bytes: 1,960 bytes.
    let user = "setpriv --reuid=41005 --regid=41005 --clear-groups prlimit --msgqueue=3000";
    let native = format!(
        "cp {} $SCRATCH/mq; {user} bash -c '$SCRATCH/mq create /a 10 100 0600 && $SCRATCH/mq create /b 10 100 0600'",
        client.display()
    );
    let native = world.fail(&native);
    assert_eq!(native, "mq_open: Too many open files\n");
    world.run("rm mq/a");
    let make = |name| format!("echo mq/{name} maxmsg=10 msgsize=100 > ctl/create");
    let mounted = world.fail(&format!("{user} bash -c '{} && {}'", make("a"), make("b")));
    assert!(mounted.contains("Too many open files"), "{mounted}");
    let line = world.run("tail -n1 ctl/errors");
    let sentence =
        "RLIMIT_MSGQUEUE of uid 41005 is 3000 bytes; this queue needs 1,960; 1 queue uses 1,960";
    assert!(line.contains("EMFILE") && line.contains(sentence), "{line}");
}
