//! Many users: the permissions are the kernel's, objects belong to who makes them, and nobody gets
//! in another's way.

use std::time::{Duration, Instant};

use crate::common::{Running, World, eventually, long, python};

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
fn the_files_of_ctl_are_for_those_who_have_the_object() {
    let world = World::new();
    for (path, make) in OBJECTS {
        world.run(&format!("umask 0; {make}; chgrp 4321 {path}; chmod 660 {path}"));
    }
    // Enough to hold, several times.
    world.run("echo 9 > sem/o; echo '= 9' > sysv/sem/123");
    let script = "import errno, os, stat, sys
os.setgroups([GROUP]); os.setgid(99); os.setuid(1234)
outcomes, count = set(), 0
for place, _, names in os.walk('ctl'):
    # Without an object's directory above it, it is everybody's.
    if place == 'ctl': continue
    if place.endswith('/type'): names += ['7', '-7']
    if place.endswith('/except'): names += ['7']
    if place.endswith('/priority'): names += ['7', '32767']
    for name in names:
        path = f'{place}/{name}'
        mode = os.stat(path).st_mode
        for flags, bit in ((os.O_RDONLY, 0o040), (os.O_WRONLY, 0o020)):
            if not mode & bit: continue
            count += 1
            try:
                os.close(os.open(path, flags | os.O_NONBLOCK))
                outcomes.add('ok')
            except OSError as error: outcomes.add((path, errno.errorcode[error.errno]) if GROUP == 4321 else errno.errorcode[error.errno])
print(count > 50, outcomes)";
    let run = |group: &str| world.python(&script.replace("GROUP", group));
    assert_eq!(run("4321"), "True {'ok'}\n");
    assert_eq!(run("98"), "True {'EACCES'}\n");
    assert_eq!(world.run("cat sem/o sysv/sem/123"), "9\n9\n", "what was held has been given back");
}

#[test]
fn a_root_of_a_user_namespace_is_not_root() {
    let world = World::new();
    world.run("chmod 755 $SCRATCH");
    // In a chroot the kernel permits no user namespaces at all.
    let chrooted = !world.attempt("unshare --user true").status.success();
    for (path, make) in OBJECTS {
        world.run(&format!("{make}; chmod 600 {path}"));
        for attempt in [
            format!("exec 3< {path}"),
            format!("exec 3<> {path}"),
            format!("chmod 666 {path}"),
            format!("rm -f {path}"),
            format!("cat ctl/{path}/status"),
        ] {
            let script = format!("unshare --user --map-root-user bash -c \"{attempt}\"");
            let error = world.fail(&as_user(&script, "99"));
            let refused = error.contains("ermission denied") || error.contains("not permitted");
            assert!(chrooted || refused, "{attempt}: {error}");
        }
        world.run(&format!("[ $(stat -c %a {path}) = 600 ]; rm {path}"));
        // What that root makes belongs to the user who it is.
        if !chrooted {
            let script =
                format!("unshare --user --map-root-user bash -c \"{}\"", make.replace('"', "\\\""));
            world.run(&as_user(&script, "99"));
            assert_eq!(world.run(&format!("stat -c %u {path}; rm {path}")), "1234\n", "{path}");
        }
    }
}

#[test]
fn a_caller_from_another_pid_namespace_is_served_as_any() {
    let world = World::new();
    let elsewhere = |script: &str| format!("unshare --pid --fork --mount-proc bash -ec '{script}'");
    for (path, make) in OBJECTS {
        // The daemon sees no process id of theirs: by root, by a user, by one of its groups.
        world.run(&elsewhere(&make.replace('\'', "")));
        world.run(&format!("chmod 660 {path}; chgrp 4321 {path}"));
        let (write, read) = match path {
            "fifo/o" => ("exec 3<>fifo/o", "exec 3<>fifo/o"),
            "sem/o" => ("echo +1 > sem/o", "cat sem/o"),
            "sysv/sem/0x0000007b" => ("echo 0 +1 > sysv/sem/123", "cat sysv/sem/123"),
            "shm/o" => ("echo x > shm/o", "cat shm/o"),
            "sysv/shm/0x0000007b" => ("printf y 1<>sysv/shm/123", "cat sysv/shm/123"),
            "mq/o" => ("echo x > mq/o", "timeout 10 cat mq/o"),
            _ => ("echo x > sysv/msg/123", "timeout 10 cat sysv/msg/123"),
        };
        for script in [write, read] {
            let inside = |groups: &str| {
                format!(
                    "unshare --pid --fork setpriv --reuid=1234 --regid=99 --groups={groups} bash -c \"{script}\""
                )
            };
            world.run(&elsewhere(script));
            world.run(&inside("99,4321"));
            let error = world.fail(&inside("99"));
            assert!(error.contains("Permission denied"), "{path}: {script}: {error}");
        }
        world.run(&format!("chmod 666 {path}"));
        let inside = format!(
            "unshare --pid --fork {}",
            as_user(&format!("{write}; cat ctl/{path}/status"), "99")
        );
        world.run(&inside);
    }
}

/// Objects of one name by turns: a secret one of another user's, and a public one.
const SWAP: &str = "import os, sys, time, posix_ipc, sysv_ipc
kind = sys.argv[1]
os.umask(0); os.setgroups([]); os.setgid(98); os.setuid(4000)
def turn(mode, text):
    if kind == 'mq':
        queue = posix_ipc.MessageQueue('/s', posix_ipc.O_CREX, mode=mode, max_messages=2, max_message_size=16)
        queue.send(text); queue.send(text); queue.close()
        posix_ipc.unlink_message_queue('/s')
    elif kind == 'sysv/msg':
        queue = sysv_ipc.MessageQueue(77, sysv_ipc.IPC_CREX, mode=mode)
        queue.send(text); queue.send(text); queue.remove()
    elif kind == 'sysv/shm':
        segment = sysv_ipc.SharedMemory(77, sysv_ipc.IPC_CREX, mode=0o600, size=6)
        segment.write(text); segment.mode = mode; segment.detach(); segment.remove()
    elif kind == 'sysv/sem':
        semaphore = sysv_ipc.Semaphore(77, sysv_ipc.IPC_CREX, mode=mode, initial_value=6 if mode == 0o600 else 1)
        semaphore.remove()
    else:
        path = '/dev/shm/s' if kind == 'shm' else '/dev/shm/sem.s'
        with open('/dev/shm/.new', 'wb') as file:
            value = (6 if mode == 0o600 else 1).to_bytes(4, 'little')
            file.write(text if kind == 'shm' else value + bytes(28))
        os.chmod('/dev/shm/.new', mode); os.rename('/dev/shm/.new', path); os.unlink(path)
while True:
    for mode, text in ((0o600, b'secret'), (0o644, b'public')):
        try: turn(mode, text)
        except (OSError, posix_ipc.Error): pass # The kernel takes its time to charge queues back.
";

#[test]
fn a_name_that_changes_hands_never_lets_in_who_may_not() {
    let world = World::new();
    let reader = "import errno, os, sys, time
path, tries, least = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setgroups([]); os.setgid(99); os.setuid(1234)
seen, public, i = set(), 0, 0
while i < tries or public < least:
    i += 1
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try: text = os.read(fd, 100)
        finally: os.close(fd)
        seen.add(text); public += text in (b'public', b'1\\n')
    except OSError as error:
        # Stale: it has changed hands twice during one open.
        expected = errno.ENOENT, errno.EACCES, errno.EAGAIN, errno.ESTALE, errno.EIDRM
        assert error.errno in expected, error
assert not seen & {b'secret', b'6\\n'}, seen
print('ok')";
    for (kind, name) in [
        ("mq", "s"),
        ("shm", "s"),
        ("sem", "s"),
        ("sysv/msg", "77"),
        ("sysv/sem", "77"),
        ("sysv/shm", "77"),
    ] {
        let python = |script: &str, arguments: &[&str]| {
            let mut command = world.command(python());
            command.arg("-c").arg(script).args(arguments);
            Running::start(command)
        };
        let mut swapper = python(SWAP, &[kind]);
        let tries = long("1500", "10000");
        let path = format!("{kind}/{name}");
        let output = python(reader, &[&path, tries, "20"]).output();
        assert_eq!(output.text(), "ok\n", "{kind}: {}", output.errors);
        assert!(swapper.ended().is_none(), "{}", swapper.errors());
        swapper.signal(libc::SIGKILL);
        swapper.wait();
    }
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
fn what_open_files_keep_is_charged_to_who_opened_them_and_given_back() {
    let world = World::new();
    world.run("echo 65536 > /proc/sys/fs/mqueue/msgsize_max");
    world.run("echo 'mq/q maxmsg=1 msgsize=60000 mode=0666' > ctl/create");
    let start = world.daemon_status("VmRSS");
    let script = "import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (6000, 6000))
os.setgroups([]); os.setgid(99); os.setuid(1234)
big, queue = b'#' * 60000, os.open('mq/q', os.O_WRONLY)
def begin(file): os.write(file, big)
def read(file):
    if not os.stat('mq/q').st_size: os.write(queue, big)
    os.read(file, 9)
def fill(path, how, use):
    files = []
    try:
        while len(files) < 5000:
            files.append(os.open(path, how))
            use(files[-1])
        why = 'no limit'
    except OSError as error: why = error.strerror
    print(why, 3500 < len(files) < 4400 or len(files))
    for file in files: os.close(file)
fill('ctl/create', os.O_WRONLY, begin)
fill('ctl/mq/q/lines', os.O_RDONLY, read)
fill('mq/q', os.O_RDONLY, read)
fill('ctl/mq/q/lines', os.O_WRONLY, begin)";
    assert_eq!(world.python(script), "Cannot allocate memory True\n".repeat(4));
    // The lines are waiting for room.
    world.run("rm mq/q");
    eventually("all is given back", || {
        world.daemon_status("VmRSS") < start + 40_000
            && world
                .run(
                    "setpriv --reuid=1234 --regid=99 --clear-groups sh -c \
                '. ctl/limits; echo $daemon_listing_bytes'",
                )
                .trim()
                == "0"
    });
}

#[test]
fn messages_that_might_be_large_are_read_all_the_same() {
    let world = World::new();
    world.run("echo 2147483647 > /proc/sys/kernel/msgmax");
    let script = "for file in sysv/msg/1 ctl/sysv/msg/1/lines ctl/sysv/msg/1/drain; do
        echo x > sysv/msg/1; head -n1 $file; done";
    assert_eq!(world.run(&as_user(script, "99")), "x\nx\nx\n");
}

#[test]
fn queues_are_charged_to_their_maker_and_not_to_root() {
    let world = World::alone();
    world.run("echo 8192 > /proc/sys/fs/mqueue/msgsize_default; chmod 777 $SCRATCH");
    let script = "ulimit -q 200000; touch mq/a mq/b && ! touch mq/c 2> $SCRATCH/error";
    world.run(&as_user(script, "99"));
    let error = world.run("cat $SCRATCH/error; cat ctl/errors");
    assert!(error.contains("Too many open files"), "{error}");
    assert!(error.contains("RLIMIT_MSGQUEUE of uid 1234 is 200000 bytes"), "{error}");
    assert_eq!(world.run("stat -c %u mq/a mq/b; ls mq"), "1234\n1234\na\nb\n");
}

#[test]
fn the_daemon_cannot_be_signalled_or_traced_by_those_it_acts_for() {
    let world = World::new();
    let daemon = world.daemon();
    // While it makes and removes things for them, under their ids.
    let script = "import ctypes, errno, os, signal, sys
libc, daemon = ctypes.CDLL(None, use_errno=True), int(DAEMON)
os.setgroups([]); os.setgid(99); os.setuid(1234)
if os.fork() == 0:
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    while True:
        for path in ('mq/t', 'sem/t', 'shm/t', 'sysv/msg/77', 'sysv/sem/77', 'sysv/shm/77'):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600)); os.chmod(path, 0o640); os.unlink(path)
def outcome(call, *arguments):
    ctypes.set_errno(0)
    return errno.errorcode[ctypes.get_errno()] if call(*arguments) < 0 else 'ok'
outcomes = set()
for round in range(300):
    for task in os.listdir(f'/proc/{daemon}/task'):
        task = int(task)
        outcomes.add(('kill', outcome(libc.kill, task, 0)))
        outcomes.add(('tgkill', outcome(libc.syscall, 234, daemon, task, 0)))
        outcomes.add(('ptrace', outcome(libc.ptrace, 16, task, 0, 0)))
    for name in ('environ', 'mem', 'maps', 'fd', 'root', 'cwd', 'exe', 'stack'):
        path = f'/proc/{daemon}/{name}'
        try:
            if name == 'fd': os.listdir(path)
            elif name in ('root', 'cwd', 'exe'): os.readlink(path)
            else: open(path, 'rb').read(1)
            outcomes.add((name, 'ok'))
        except OSError as error: outcomes.add((name, errno.errorcode[error.errno]))
outcomes = {(what, how) for what, how in outcomes if how not in ('EPERM', 'EACCES', 'ESRCH')}
print(outcomes or 'nothing')";
    let printed = world.python(&script.replace("DAEMON", &daemon.to_string()));
    assert_eq!(printed, "nothing\n");
    let status = world.run(&format!("cat /proc/{daemon}/status"));
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let effective = u64::from_str_radix(effective, 16).unwrap();
    let (net_admin, sys_module, sys_admin) = (1 << 12, 1 << 16, 1 << 21);
    assert_eq!(effective & (net_admin | sys_module | sys_admin), sys_admin, "{effective:x}");
}

#[test]
fn who_may_write_alone_takes_no_message_by_truncating() {
    let world = World::new();
    world.run("printf 'mq/q mode=0622\nsysv/msg/7 mode=0622\n' > ctl/create; echo kept > mq/q; echo kept > sysv/msg/7");
    let writer = "setpriv --reuid=4242 --regid=4242 --clear-groups";
    for queue in ["mq/q", "sysv/msg/7"] {
        world.run(&format!("{writer} sh -c 'echo more > {queue}'"));
        let refused = world.fail(&format!("{writer} truncate -s 0 {queue}"));
        assert!(refused.contains("Permission denied"), "{refused}");
        assert_eq!(world.run(&format!("chmod 666 {queue}; cat {queue}")), "kept\n");
        assert_eq!(
            world.run(&format!("{writer} truncate -s 0 {queue}; stat -c %s {queue}")),
            "0\n"
        );
    }
}

#[test]
fn queues_are_charged_by_the_limit_of_a_program_that_changes_its_group() {
    let world = World::alone();
    // Such a program's limit nobody but a privileged process may ask the kernel for.
    world.run(
        "cp $(which touch) $SCRATCH/touch; chgrp 4243 $SCRATCH/touch; chmod 2755 $SCRATCH/touch",
    );
    let user = "setpriv --reuid=4242 --regid=4242 --groups=4243 prlimit --msgqueue=0";
    for program in ["touch", "$SCRATCH/touch"] {
        let refused = world.fail(&format!("chmod 755 $SCRATCH; {user} {program} mq/q"));
        assert!(refused.contains("Too many open files"), "{refused}");
    }
}

#[test]
fn nobody_waits_for_a_lock_that_another_user_holds() {
    let world = World::new();
    world.run("touch mq/q");
    // Whoever allocates a file's memory holds its lock, for which a chmod waits.
    let script = "import os, subprocess, time
user = ['setpriv', '--reuid=4242', '--regid=4242', '--clear-groups']
def blocks():
    try: return os.stat('/dev/shm/big').st_blocks
    except FileNotFoundError: return 0
for size in ('1G', '2G', '4G'):
    holder = subprocess.Popen(user + ['fallocate', '-l', size, '/dev/shm/big'])
    while not blocks(): assert holder.poll() is None
    waiter = subprocess.Popen(user + ['chmod', '600', 'shm/big'])
    begin = time.monotonic()
    while time.monotonic() < begin + 0.05 and waiter.poll() is None: time.sleep(0.001)
    os.stat('mq/q')
    subprocess.run(user + ['cat', 'README'], stdout=subprocess.DEVNULL, check=True)
    waited = waiter.poll() is None and holder.poll() is None
    # The user's own next request waits, and is given up for a signal.
    other = subprocess.Popen(user + ['chmod', '644', 'shm/big'])
    other.kill()
    assert holder.wait() == 0 and waiter.wait() == 0
    other.wait()
    os.unlink('/dev/shm/big')
    if waited: break
else: raise Exception('nobody has waited')";
    world.python(script);
    world.run("ls -l shm; stat mq/q; touch shm/other");
}
