//! Many users: the permissions are the kernel's, objects belong to who makes them, and nobody gets
//! in another's way.

use std::time::{Duration, Instant};

use crate::common::{World, eventually};

/// Runs a script as uid 1234 with these groups, the first being the primary one.
fn as_user(script: &str, groups: &str) -> String {
    let primary = groups.split(',').next().unwrap_or("99");
    format!("setpriv --reuid=1234 --regid={primary} --groups={groups} bash -c '{script}'")
}

/// One object of each kind, made by root with mode 0660 for group 4321.
const OBJECTS: [(&str, &str); 7] = [
    ("mq/o", "echo x > mq/o"),
    ("shm/o", "echo x > shm/o"),
    ("sem/o", "echo 1 > sem/o"),
    ("fifo/o", "mkfifo fifo/o"),
    ("sysv/msg/0x0000007b", "echo x > sysv/msg/123"),
    ("sysv/sem/0x0000007b", "echo \"= 1\" > sysv/sem/123"),
    ("sysv/shm/0x0000007b", "printf x > sysv/shm/123"),
];

#[test]
fn a_supplementary_group_lets_in_and_its_absence_keeps_out() {
    let world = World::new();
    for (path, make) in OBJECTS {
        world.run(&format!("umask 0; {make}; chgrp 4321 {path}; chmod 660 {path}"));
        let (read, write) = match path {
            "fifo/o" => ("exec 3<>fifo/o", "exec 3<>fifo/o"),
            "sem/o" => ("cat sem/o", "echo 1 > sem/o"),
            "sysv/sem/0x0000007b" => ("cat sysv/sem/123", "echo \"0 = 1\" > sysv/sem/123"),
            "mq/o" => ("timeout 5 cat mq/o", "echo x > mq/o"),
            "shm/o" => ("cat shm/o", "echo x > shm/o"),
            "sysv/msg/0x0000007b" => ("timeout 5 cat sysv/msg/123", "echo x > sysv/msg/123"),
            _ => ("cat sysv/shm/123", "printf y 1<> sysv/shm/123"),
        };
        for script in [write, read] {
            world.run(&as_user(script, "99,4321"));
            let error = world.fail(&as_user(script, "99,98"));
            assert!(error.contains("Permission denied"), "{path}, {script}: {error}");
        }
        let status = format!("cat ctl/{path}/status");
        world.run(&as_user(&status, "99,4321"));
        let error = world.fail(&as_user(&status, "99,98"));
        assert!(error.contains("Permission denied"), "{path}: {error}");
        for script in [format!("chmod 666 {path}"), format!("rm -f {path}")] {
            world.fail(&as_user(&script, "99,4321"));
        }
        world.run(&format!("[ -e {path} ] && [ $(stat -c %a {path}) = 660 ]"));
    }
}

#[test]
fn what_a_user_makes_is_theirs_with_their_group_and_umask() {
    let world = World::new();
    for (path, make) in OBJECTS {
        let make = make.replace('\'', "");
        world.run(&as_user(&format!("umask 027; {make}"), "4321"));
        let expected = "640 1234 4321\n";
        assert_eq!(world.run(&format!("stat -c \"%a %u %g\" {path}")), expected, "{path}");
        world.run(&as_user(&format!("chmod 600 {path} && rm {path}"), "4321"));
        world.run(&format!("! [ -e {path} ]"));
    }
}

#[test]
fn a_root_of_a_user_namespace_is_not_root() {
    let world = World::new();
    world.run("echo secret > mq/q; chmod 600 mq/q; chmod 755 $SCRATCH");
    let script = "unshare --user --map-root-user bash -c \"id -u; cat mq/q\"";
    let error = world.fail(&as_user(script, "99"));
    // In a chroot the kernel permits no user namespaces at all.
    let chrooted = !world.attempt("unshare --user true").status.success();
    assert!(chrooted || error.contains("Permission denied"), "{error}");
    // Another pid namespace, from which the daemon sees no pid of the caller.
    world.run("unshare --pid --fork bash -c 'echo from elsewhere > mq/q'");
    assert_eq!(world.run("cat mq/q; cat mq/q"), "secret\nfrom elsewhere\n");
}

#[test]
fn a_name_that_changes_hands_never_lets_in_who_may_not() {
    let world = World::new();
    // A private queue and a public one take turns at one name; what the user reads through
    // the mount must never be the private one's.
    let swap = "import posix_ipc, os, time
os.umask(0); os.setgroups([]); os.setgid(98); os.setuid(4000)
end = time.monotonic() + 4
while time.monotonic() < end:
    for mode, text in ((0o600, b'secret'), (0o644, b'public')):
        try: q = posix_ipc.MessageQueue('/s', posix_ipc.O_CREX, mode=mode)
        except OSError: continue # The kernel takes its time to charge removed queues back.
        q.send(text); q.send(text); q.close()
        posix_ipc.unlink_message_queue('/s')
";
    let swapper = {
        let mut command = world.command(crate::common::python());
        command.arg("-c").arg(swap);
        crate::common::Running::start(command)
    };
    let reader = "import errno, os, time
os.setgroups([]); os.setgid(99); os.setuid(1234)
seen = set(); tries = 0
end = time.monotonic() + 4
while time.monotonic() < end:
    tries += 1
    try:
        fd = os.open('mq/s', os.O_RDONLY | os.O_NONBLOCK)
        seen.add(os.read(fd, 100))
        os.close(fd)
    except OSError as error:
        # Stale: it has changed hands twice during one open.
        assert error.errno in (errno.ENOENT, errno.EACCES, errno.EAGAIN, errno.ESTALE), error
assert b'secret' not in seen, seen
print(tries > 1000, b'public' in seen)";
    assert_eq!(world.python(reader), "True True\n");
    let swapped = swapper.output();
    assert!(swapped.status.success(), "{}", swapped.errors);
}

#[test]
fn one_users_blocked_requests_and_open_files_leave_room_for_the_others() {
    let world = World::with(&["-o", "max_blocked=20,max_handles=50"]);
    world.run("umask 0; touch mq/q mq/other; chmod 666 mq/q; chmod 777 $SCRATCH");
    let crowd = "for i in {1..30}; do cat mq/q 2>> $SCRATCH/errors & done; wait";
    let _crowd = world.start(&as_user(crowd, "99"));
    eventually("twenty wait and ten are refused", || {
        let errors = std::fs::read_to_string(world.scratch().join("errors")).unwrap_or_default();
        world.waiting() == 20 && errors.matches("Resource temporarily unavailable").count() == 10
    });
    let hoard = "import os
os.setgroups([]); os.setgid(99); os.setuid(1235)
files = []
try:
    while len(files) < 1000: files.append(os.open('mq/q', os.O_RDONLY))
except OSError as error: print(len(files), error.strerror)
os.close(files.pop())
files.append(os.open('mq/q', os.O_RDONLY))";
    assert_eq!(world.python(hoard), "50 Too many open files\n");
    let start = Instant::now();
    world.run("stat mq/other > /dev/null; echo x > mq/other; cat mq/other");
    assert!(start.elapsed() < Duration::from_secs(2));
    let limits = world.run("grep daemon_ ctl/limits");
    assert!(
        limits.contains("daemon_waiting=0") && limits.contains("daemon_open_files="),
        "{limits}"
    );
}

#[test]
fn queues_are_charged_to_their_maker_and_not_to_root() {
    let world = World::alone();
    world.run("echo 8192 > /proc/sys/fs/mqueue/msgsize_default; chmod 777 $SCRATCH");
    let script = "ulimit -q 200000; touch mq/a mq/b && ! touch mq/c 2> $SCRATCH/error";
    world.run(&as_user(script, "99"));
    let error = world.run("cat $SCRATCH/error; cat ctl/errors");
    assert!(error.contains("Too many open files"), "{error}");
    assert!(error.contains("RLIMIT_MSGQUEUE of uid 1234 is 200,000 bytes"), "{error}");
    assert_eq!(world.run("stat -c %u mq/a mq/b; ls mq"), "1234\n1234\na\nb\n");
}

#[test]
fn the_daemon_cannot_be_signalled_or_traced_by_those_it_acts_for() {
    let world = World::new();
    let daemon = world.daemon();
    let script = format!(
        "for i in {{1..100}}; do touch mq/t$((i % 5)); rm -f mq/t$((i % 5)); done &
         while kill -0 $! 2> /dev/null; do
             for task in /proc/{daemon}/task/*; do
                 kill -0 ${{task##*/}} 2> /dev/null && {{ echo signalled; exit 1; }}
             done
             cat /proc/{daemon}/environ 2> /dev/null && exit 1
         done; true"
    );
    world.run(&as_user(&script.replace('\'', ""), "99"));
    let status = world.run(&format!("cat /proc/{daemon}/status"));
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let effective = u64::from_str_radix(effective, 16).unwrap();
    let (net_admin, sys_module, sys_admin) = (1 << 12, 1 << 16, 1 << 21);
    assert_eq!(effective & (net_admin | sys_module | sys_admin), sys_admin, "{effective:x}");
}
