//! ctl/KIND/NAME/{users,waiters} and ctl/orphans: who uses what.

use crate::common::{Running, World, compiled, eventually, python};

const EACH: [&str; 7] =
    ["mq/q", "shm/m", "sem/s", "fifo/f", "sysv/msg/0x1", "sysv/sem/0x2", "sysv/shm/0x3"];

/// With an object of each kind.
fn world() -> World {
    let world = World::new();
    let rest = EACH[1..].join("\\n");
    world.run(&format!("printf 'mq/q maxmsg=9 msgsize=64\\n{rest} size=4K' > ctl/create"));
    world
}

/// A Python process that has done this and sleeps.
fn holder(world: &World, script: &str) -> Running {
    let python = python();
    let script = format!(
        "import posix_ipc, sysv_ipc, time, os, mmap, sys\n{script}\nprint('ready', flush=True)\ntime.sleep(1000)"
    );
    let name =
        format!("ready-{:x}", script.len() * 31 + script.bytes().map(usize::from).sum::<usize>());
    let file = world.scratch().join(&name);
    let _ = std::fs::remove_file(&file);
    let holder =
        world.start(&format!("exec {} -c \"{script}\" > $SCRATCH/{name}", python.display()));
    eventually("it has opened what it wants", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("ready"))
    });
    holder
}

/// A Python process that waits in this call.
fn waiter(world: &World, call: &str) -> Running {
    let script = format!("import posix_ipc, sysv_ipc\n{call}");
    world.start(&format!("exec {} -c \"{script}\"", python().display()))
}

fn users(world: &World, object: &str) -> String {
    world.run(&format!("cat ctl/{object}/users"))
}

fn waiters(world: &World, object: &str) -> String {
    world.run(&format!("cat ctl/{object}/waiters"))
}

fn line(process: &Running, rest: &str) -> String {
    format!("{}\t{rest}\n", process.id())
}

#[test]
fn a_pipe_that_somebody_waits_to_open_is_no_orphan() {
    let world = World::new();
    world.run("mkfifo fifo/waited-for");
    // Another test may be waiting for a pipe as well.
    eventually("it is one", || world.run("cat ctl/orphans") == "fifo/waited-for\n");
    let mut reader = world.start("exec cat fifo/waited-for");
    eventually("it is no orphan", || world.run("cat ctl/orphans").is_empty());
    reader.signal(libc::SIGTERM);
    reader.wait();
    eventually("it is one again", || world.run("cat ctl/orphans") == "fifo/waited-for\n");
}

#[test]
fn users_are_those_who_have_it_open_in_c() {
    let world = world();
    for object in EACH {
        assert_eq!(users(&world, object), "", "{object}: nobody, not even the reader");
    }
    let holders = [
        ("mq/q", "q = posix_ipc.MessageQueue('/q')"),
        // Mapped, the descriptor being closed.
        (
            "shm/m",
            "m = posix_ipc.SharedMemory('/m'); os.ftruncate(m.fd, 100); x = mmap.mmap(m.fd, 100); m.close_fd()",
        ),
        ("sem/s", "s = posix_ipc.Semaphore('/s')"),
        ("fifo/f", "f = os.open('fifo/f', os.O_RDWR)"),
        ("sysv/shm/0x3", "m = sysv_ipc.SharedMemory(3)"),
    ];
    for (object, script) in holders {
        let mut holder = holder(&world, script);
        assert_eq!(users(&world, object), line(&holder, "python"), "{object}");
        holder.signal(libc::SIGKILL);
        holder.wait();
        assert_eq!(users(&world, object), "", "{object}");
    }
}

#[test]
fn users_are_those_who_have_it_open_through_the_mount() {
    let world = world();
    let opens = [
        ("mq/q", "exec 3<mq/q"),
        ("mq/q", "exec 3>mq/q"),
        ("mq/q", "exec 3<ctl/mq/q/lines"),
        ("mq/q", "exec 3>ctl/mq/q/priority/7"),
        ("shm/m", "exec 3<>shm/m"),
        ("sem/s", "exec 3>sem/s"),
        ("fifo/f", "exec 3<>fifo/f"),
        ("sysv/msg/0x1", "exec 3<sysv/msg/1"),
        ("sysv/sem/0x2", "exec 3>sysv/sem/2"),
        ("sysv/shm/0x3", "exec 3<sysv/shm/3"),
    ];
    for (object, open) in opens {
        // A child that inherits it uses it as well; the object's other files are no use.
        let mut user = world
            .start(&format!("{open}; exec 4<ctl/{object}/status; read <<< x; sleep 1000 & wait"));
        let id = user.id();
        eventually(open, || {
            let users = users(&world, object);
            users.contains(&format!("{id}\tbash\n")) && users.contains("\tsleep\n")
        });
        assert_eq!(users(&world, object).lines().count(), 2, "{object}");
        user.signal(libc::SIGKILL);
        user.wait();
        eventually("it is gone", || users(&world, object).is_empty());
    }
    // Another object of the kind has none of them.
    let _user = world.start("exec 3<mq/q; exec sleep 1000");
    world.run("echo 'mq/other maxmsg=1 msgsize=1' > ctl/create");
    eventually("it is open", || !users(&world, "mq/q").is_empty());
    assert_eq!(users(&world, "mq/other"), "");
}

#[test]
fn waiters_are_told_in_c_and_through_the_mount() {
    let world = world();
    world.run("printf 'sysv/msg/9 qbytes=8\\nmq/full maxmsg=1 msgsize=64' > ctl/create");
    world.run("printf x > mq/full; printf 12345678 > sysv/msg/9");
    let cases = [
        ("mq/q", "posix_ipc.MessageQueue('/q').receive()", "cat mq/q", "receive"),
        ("mq/q", "posix_ipc.MessageQueue('/q').receive()", "cat ctl/mq/q/lines", "receive"),
        ("mq/full", "posix_ipc.MessageQueue('/full').send('x')", "tee mq/full <<< x", "send"),
        ("sem/s", "posix_ipc.Semaphore('/s').acquire()", "tee sem/s <<< -1", "wait"),
        ("sem/s", "posix_ipc.Semaphore('/s').acquire()", "cat ctl/sem/s/hold", "wait"),
        ("sysv/msg/0x1", "sysv_ipc.MessageQueue(1).receive()", "cat sysv/msg/1", "receive"),
        ("sysv/msg/0x9", "sysv_ipc.MessageQueue(9).send('x')", "tee sysv/msg/9 <<< x", "send"),
        ("sysv/sem/0x2", "sysv_ipc.Semaphore(2).acquire()", "tee sysv/sem/2 <<< '0 -1'", "wait"),
    ];
    for (object, call, command, what) in cases {
        let mut native = waiter(&world, call);
        let mut mounted = world.start(&format!("exec {command}"));
        let (id, name) = (mounted.id(), command.split(' ').next().unwrap());
        let mut expected =
            [line(&native, &format!("{what}\tpython")), format!("{id}\t{what}\t{name}\n")];
        expected.sort_by_key(|line| line.split('\t').next().unwrap().parse::<u32>().unwrap());
        eventually(command, || waiters(&world, object) == expected.concat());
        for process in [&mut native, &mut mounted] {
            process.signal(libc::SIGTERM);
            process.wait();
        }
        eventually("nobody waits any more", || waiters(&world, object).is_empty());
    }
}

/// `tests/clients/hidden.c`, when it is ready; `None` where the kernel does not let it.
fn hidden(world: &World, what: &str, path: &str) -> Option<Running> {
    let client = compiled("hidden");
    let script = format!("exec {} {what} {path} > $SCRATCH/hidden", client.display());
    let file = world.scratch().join("hidden");
    let _ = std::fs::remove_file(&file);
    let mut running = world.start(&script);
    let mut missing = false;
    eventually("it is ready", || {
        missing = running.ended().is_some_and(|status| status.code() == Some(77));
        missing || std::fs::read_to_string(&file).is_ok_and(|text| text == "ready\n")
    });
    (!missing).then_some(running)
}

/// The queue `q` as a file of the kernel's own.
fn mqueue(world: &World) -> String {
    world.run("mkdir $SCRATCH/mqueue && mount -t mqueue none $SCRATCH/mqueue");
    world.scratch().join("mqueue/q").to_str().unwrap().to_owned()
}

#[test]
fn a_process_whose_first_thread_has_ended_uses_what_it_uses() {
    let world = world();
    let queues = mqueue(&world);
    let files = [("mq/q", &*queues), ("shm/m", "/dev/shm/m"), ("fifo/f", "fifo/f")];
    for (object, file) in files {
        eventually("nobody uses it", || world.run("cat ctl/orphans").contains(object));
        let mut user = hidden(&world, "thread", file).unwrap();
        assert_eq!(users(&world, object), line(&user, "hidden"), "{object}");
        assert!(!world.run("cat ctl/orphans").contains(object), "{object}");
        // By the mount's own file as well.
        user.signal(libc::SIGKILL);
        user.wait();
        let user = hidden(&world, "thread", object).unwrap();
        assert_eq!(users(&world, object), line(&user, "hidden"), "{object}");
    }
    // A thread that shares no open files with the first.
    let apart = hidden(&world, "apart", "/dev/shm/m").unwrap();
    assert_eq!(users(&world, "shm/m"), line(&apart, "hidden"));
    assert!(!world.run("cat ctl/orphans").contains("shm/m"));
    let waiter = hidden(&world, "wait", "s").unwrap();
    let expected = line(&waiter, "wait\thidden");
    eventually("it waits", || waiters(&world, "sem/s") == expected);
    assert_eq!(users(&world, "sem/s"), line(&waiter, "hidden"));
    assert!(!world.run("cat ctl/orphans").contains("sem/s"));
}

#[test]
fn what_may_be_on_its_way_to_a_process_is_no_orphan() {
    // It makes other tests' objects doubtful as well.
    let world = World::alone();
    let queues = mqueue(&world);
    world.run("touch mq/q shm/m sem/s fifo/f sysv/shm/3");
    let all = "mq/q\nshm/m\nsem/s\nfifo/f\nsysv/shm/0x00000003\n";
    let orphans = || world.run("cat ctl/orphans");
    for (what, file) in [
        ("passed", &*queues),
        ("passed", "/dev/shm/m"),
        ("passed", "fifo/f"),
        ("ring", "/dev/shm/m"),
    ] {
        eventually("nobody uses them", || orphans() == all);
        let Some(mut holder) = hidden(&world, what, file) else {
            assert_eq!(what, "ring");
            continue;
        };
        assert_eq!(orphans(), "sysv/shm/0x00000003\n", "{what} {file}");
        holder.signal(libc::SIGKILL);
        holder.wait();
    }
    eventually("nobody uses them any more", || orphans() == all);
}

#[test]
fn a_user_sees_what_proc_shows_them() {
    let world = world();
    world.run("chmod 666 mq/q");
    let user = "setpriv --reuid=4242 --regid=4242 --clear-groups";
    let root = holder(&world, "q = posix_ipc.MessageQueue('/q')");
    let _reader = world.start("exec cat mq/q");
    let theirs = world.start(&format!("exec {user} cat mq/q"));
    let id = theirs.id();
    eventually("all are there", || waiters(&world, "mq/q").lines().count() == 2);
    assert_eq!(users(&world, "mq/q").lines().count(), 3);
    assert_eq!(world.run(&format!("{user} cat ctl/mq/q/users")), format!("{id}\tcat\n"));
    assert_eq!(world.run(&format!("{user} cat ctl/mq/q/waiters")), format!("{id}\treceive\tcat\n"));
    drop(root);
}

#[test]
fn a_command_is_one_line() {
    let world = world();
    let name = "a\\tb\\nc";
    let script = format!(
        "open('/proc/self/comm', 'w').write('{}'); q = posix_ipc.MessageQueue('/q')",
        "a\\\\tb\\\\nc"
    );
    let holder = holder(&world, &script);
    assert_eq!(users(&world, "mq/q"), line(&holder, name));
}

#[test]
fn orphans_are_what_nobody_uses_and_nothing_else() {
    let world = world();
    let orphans = || world.run("cat ctl/orphans");
    let others = [
        "mq/o",
        "shm/o",
        "sem/o",
        "fifo/o",
        "sysv/msg/0x00000011",
        "sysv/sem/0x00000012",
        "sysv/shm/0x00000013",
    ];
    let holders = [
        // Whoever makes a System V object is gone, as a shell's child is.
        holder(&world, "q = posix_ipc.MessageQueue('/q')"),
        holder(
            &world,
            "m = posix_ipc.SharedMemory('/m'); os.ftruncate(m.fd, 100); x = mmap.mmap(m.fd, 100); m.close_fd()",
        ),
        holder(&world, "s = posix_ipc.Semaphore('/s')"),
        holder(&world, "f = os.open('fifo/f', os.O_RDWR)"),
        holder(&world, "m = sysv_ipc.SharedMemory(3)"),
        waiter(&world, "sysv_ipc.MessageQueue(1).receive()"),
        waiter(&world, "sysv_ipc.Semaphore(2).acquire()"),
    ];
    eventually("they wait", || {
        !waiters(&world, "sysv/msg/0x1").is_empty() && !waiters(&world, "sysv/sem/0x2").is_empty()
    });
    assert_eq!(orphans(), "");
    world.run(&format!(
        "for f in {}; do (printf '%s' $f size=10 > /dev/null; touch $f); done; true",
        others.join(" ")
    ));
    world.run("rm mq/o; bash -c 'echo mq/o maxmsg=1 msgsize=1 > ctl/create; true'");
    let expected: Vec<_> = others.iter().map(|path| format!("{path}\n")).collect();
    // Somebody who waits to open a pipe, in another test, makes every pipe doubtful.
    eventually("the others are orphans", || orphans() == expected.concat());
    let json = world.run("jq -r '.[] | select(.path == \"mq/o\") | .reason' ctl/orphans.json");
    assert_eq!(json, "open nowhere\n");
    // One user of each in turn, through the mount, and it is none any more.
    let uses = [
        "exec 3<mq/o",
        "exec 3<shm/o",
        "exec 3>sem/o",
        "exec 3<>fifo/o",
        "exec 3<sysv/msg/0x11",
        "exec 3>sysv/sem/0x12",
        "exec 3<sysv/shm/0x13",
    ];
    for (path, open) in others.iter().zip(uses) {
        let mut opener = world.start(&format!("{open}; touch $SCRATCH/open; exec sleep 1000"));
        let file = world.scratch().join("open");
        eventually("it is open", || file.exists());
        std::fs::remove_file(file).unwrap();
        let rest: Vec<_> = expected.iter().filter(|line| line.trim() != *path).cloned().collect();
        eventually("it alone is in use", || orphans() == rest.concat());
        opener.signal(libc::SIGKILL);
        opener.wait();
        eventually("it is an orphan again", || orphans() == expected.concat());
    }
    // A message, a value, and they are none; who sent it is gone.
    world.run("bash -c 'echo x > sysv/msg/0x11; echo \"= 1\" > sysv/sem/0x12; true'");
    assert!(!orphans().contains("sysv/msg/") && !orphans().contains("sysv/sem/"));
    world.run("bash -c 'cat sysv/msg/0x11; echo \"= 0\" > sysv/sem/0x12; true'");
    world.run("xargs -rd'\\n' rm < ctl/orphans");
    let left = world.run("find mq shm sem fifo sysv -type f -o -type p | sort");
    assert_eq!(left.lines().count(), EACH.len(), "{left}");
    drop(holders);
}

#[test]
fn a_name_of_two_lines_is_no_orphans_path() {
    let world = World::new();
    world.run("touch sem/used $'sem/x\\nused' 'sem/a b'; bash -c 'exec 3>sem/used; sleep 1000' &
        until [ -s ctl/sem/used/users ] || [ -n \"$(cat ctl/sem/used/users)\" ]; do :; done
        cat ctl/orphans > $SCRATCH/orphans; xargs -rd'\\n' rm < ctl/orphans 2>/dev/null; kill %1; true");
    let listed = std::fs::read_to_string(world.scratch().join("orphans")).unwrap();
    assert_eq!(listed, "sem/a b\n$'sem/x\\nused'\n");
    assert_eq!(world.run("ls sem | head -n1; ls sem | wc -l"), "used\n3\n");
}
