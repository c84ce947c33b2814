//! mq/: POSIX message queues.

use std::time::{Duration, Instant};

use crate::common::{Running, THREADS, World, eventually, long};

/// What a blocked command may take to end after a signal.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A queue of ten messages that is full.
fn full(world: &World, name: &str) {
    world.run(&format!("touch mq/{name}; for i in {{1..10}}; do echo $i > mq/{name}; done"));
}

#[test]
fn touch_echo_cat_and_rm() {
    let world = World::new();
    world.run("touch mq/jobs && [ -e mq/jobs ] && ! [ -s mq/jobs ] && touch mq/jobs");
    world.run("echo hello > mq/jobs; [ -s mq/jobs ]");
    assert_eq!(world.run("stat -c %s mq/jobs; ls mq"), "6\njobs\n");
    assert_eq!(world.run("cat mq/jobs"), "hello\n");
    world.run("! [ -s mq/jobs ]; rm mq/jobs; ! [ -e mq/jobs ]; [ -z \"$(ls mq)\" ]");
}

#[test]
fn c_and_the_shell_meet_at_the_same_queue() {
    let world = World::new();
    world.c("mq", &["create", "/q", "4", "100", "0600"]);
    world.c("mq", &["send", "/q", "3", "low"]);
    world.c("mq", &["send", "/q", "9", "high"]);
    assert_eq!(world.run("cat mq/q; cat mq/q"), "highlow");
    world.run("printf %s 'from the shell' > mq/q");
    assert_eq!(world.c("mq", &["receive", "/q"]), "0:from the shell");
    world.run("chmod 640 mq/q; chown 1234:4321 mq/q");
    let attr = world.c("mq", &["attr", "/q"]);
    assert_eq!(attr, "maxmsg=4 msgsize=100 curmsgs=0 mode=0640 uid=1234 gid=4321\n");
    world.run("touch mq/mine");
    world.c("mq", &["unlink", "/mine"]);
    assert_eq!(world.run("ls mq"), "q\n");
}

#[test]
fn python_and_the_shell_meet_at_the_same_queue() {
    let world = World::new();
    world.run("echo from the shell > mq/py");
    let script = "import posix_ipc, os
q = posix_ipc.MessageQueue('/py')
print(q.receive())
q.send(b'from python', priority=7)
print(os.stat('mq/py').st_size, q.current_messages)
fd = os.open('mq/py', os.O_RDONLY)
q.send('more')
print(os.fstat(fd).st_size)";
    assert_eq!(world.python(script), "(b'from the shell\\n', 0)\n11 1\n15\n");
    assert_eq!(world.run("cat mq/py"), "from python");
    world.python("import posix_ipc; posix_ipc.unlink_message_queue('/py')");
    world.run("! [ -e mq/py ]");
}

#[test]
fn a_new_queue_belongs_to_its_maker_with_the_umask_honoured() {
    let world = World::new();
    world.run("umask 027; setpriv --reuid=1234 --regid=4321 --clear-groups touch mq/a");
    assert_eq!(world.run("stat -c '%a %u %g' mq/a"), "640 1234 4321\n");
    world.run("umask 0; setpriv --reuid=1234 --regid=4321 --clear-groups sh -c 'echo > mq/b'");
    assert_eq!(world.run("stat -c '%a %u %g' mq/b"), "666 1234 4321\n");
}

#[test]
fn the_permissions_are_the_queues_supplementary_groups_included() {
    let world = World::new();
    world.run("echo secret > mq/q; chown 0:4321 mq/q; chmod 660 mq/q");
    world.run("setpriv --reuid=1234 --regid=99 --groups=4321 sh -c 'echo in > mq/q'");
    let denied = world.fail("setpriv --reuid=1235 --regid=99 --clear-groups cat mq/q");
    assert!(denied.contains("Permission denied"), "{denied}");
    world.fail("setpriv --reuid=1235 --regid=99 --clear-groups rm -f mq/q");
    world.fail("setpriv --reuid=1235 --regid=99 --clear-groups chmod 777 mq/q");
    assert_eq!(world.run("cat mq/q; cat mq/q"), "secret\nin\n");
}

#[test]
fn one_read_is_one_message_then_end_of_file_also_in_pieces() {
    let world = World::new();
    world.run("printf abcdef > mq/q; printf gh > mq/q");
    let script = "import os
fd = os.open('mq/q', os.O_RDONLY)
print([os.read(fd, 4) for _ in range(3)], [os.read(fd, 100) for _ in range(2)])";
    assert_eq!(world.python(script), "[b'abcd', b'ef', b''] [b'gh', b'']\n");
    world.run("printf abcdef > mq/q; printf gh > mq/q");
    let script = script.replace("O_RDONLY", "O_RDWR");
    assert_eq!(world.python(&script), "[b'abcd', b'ef', b''] [b'gh', b'']\n");
}

#[test]
fn a_shells_read_takes_a_line_and_leaves_the_rest() {
    let world = World::new();
    for shell in ["bash", "dash"] {
        // Bash's own printf would send each line by itself.
        world.run("/usr/bin/printf 'one\\ntwo\\n' > mq/q; echo three > mq/q");
        let script = format!("{shell} -c 'read a; read b; echo \"$a-$b\"' < mq/q");
        assert_eq!(world.run(&script), "one-two\n");
        assert_eq!(world.run("cat mq/q"), "three\n");
    }
}

#[test]
fn counting_and_tailing_take_nothing_that_they_have_not_seen() {
    let world = World::new();
    world.run("printf abc > mq/q");
    world.run("timeout 10 cp mq/q $SCRATCH/copy");
    assert_eq!(world.run("cat $SCRATCH/copy; stat -c %s mq/q"), "abc0\n");
    world.run("printf abc > mq/q; timeout 10 cat mq/q > mq/other");
    assert_eq!(world.run("timeout 10 cat mq/other"), "abc");
}

#[test]
fn messages_are_bytes_of_any_value_and_length_up_to_msgsize() {
    let world = World::new();
    world.c("mq", &["create", "/q", "4", "1000", "0600"]);
    world.run("head -c 1000 /dev/urandom > $SCRATCH/sent; cat $SCRATCH/sent > mq/q");
    world.run("timeout 10 cat mq/q | cmp - $SCRATCH/sent");
    let error = world.fail("head -c 1001 /dev/zero > mq/q");
    assert!(error.contains("Message too long"), "{error}");
    world.run("! [ -s mq/q ]");
    world.run(
        "/usr/bin/printf 'a\\0b\\n\\0' > mq/q; [ $(cat mq/q | od -An -tx1 | tr -d ' \\n') = 6100620a00 ]",
    );
    world.c("mq", &["empty", "/q"]);
    world.run("echo next > mq/q");
    assert_eq!(world.run("timeout 10 cat mq/q; timeout 10 cat mq/q"), "next\n");
}

#[test]
fn a_long_message_is_whole_or_refused_wherever_its_bytes_begin() {
    let world = World::alone();
    world.run("echo 4194304 > /proc/sys/fs/mqueue/msgsize_max");
    // More than that, RLIMIT_MSGQUEUE does not let through.
    world.c("mq", &["create", "/big", "1", "300000", "0600"]);
    let script = "import os, mmap
fd = os.open('mq/big', os.O_WRONLY)
page = mmap.mmap(-1, 4 << 20)
def send(at, length):
    try:
        return os.write(fd, memoryview(page)[at:at + length])
    except OSError as error:
        return error.strerror
for at in (0, 1, 4095):
    print(*[send(at, length) for length in (300001, 255 * 4096 + 1, 2 << 20, 300000)], flush=True)
    os.system('timeout 10 cat mq/big | wc -c')";
    let expected = "Message too long Message too long Message too long 300000\n300000\n".repeat(3);
    assert_eq!(world.python(script), expected);
}

#[test]
fn truncate_to_nothing_discards_and_any_other_size_is_refused() {
    let world = World::new();
    world.run("echo a > mq/q; echo b > mq/q; truncate -s 0 mq/q; ! [ -s mq/q ]");
    assert!(world.fail("truncate -s 5 mq/q").contains("Invalid argument"));
    world.run("echo a > mq/q; : > mq/q");
    assert_eq!(world.run("cat mq/q"), "a\n", "O_TRUNC destroys nothing");
}

#[test]
fn what_makes_no_sense_is_refused_at_once_and_loses_nothing() {
    let world = World::new();
    world.run("echo a > mq/q");
    for command in [
        "mkdir mq/d",
        "ln mq/q mq/r",
        "ln -s q mq/r",
        "mv mq/q mq/r",
        "mv mq/q shm/q",
        "mkfifo mq/f",
        "rmdir mq",
        "mv mq/q fifo/",
    ] {
        let error = world.fail(command);
        assert!(error.contains("Operation not permitted"), "{command}: {error}");
    }
    let script = "import os, mmap, fcntl
fd = os.open('mq/q', os.O_RDWR)
def attempt(call):
    try:
        call()
        print('done')
    except OSError as error:
        print(os.strerror(error.errno))
attempt(lambda: mmap.mmap(fd, 1, mmap.MAP_SHARED))
attempt(lambda: os.getxattr('mq/q', 'user.x'))
attempt(lambda: os.posix_fallocate(fd, 0, 10))
attempt(lambda: os.pwrite(fd, b'x', 5))
attempt(lambda: fcntl.ioctl(fd, 0x5401, b'    '))
attempt(lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))";
    let expected = "No such device\nOperation not supported\nIllegal seek\n\
                    Illegal seek\nInappropriate ioctl for device\ndone\n";
    assert_eq!(world.python(script), expected);
    assert_eq!(world.run("cat mq/q"), "a\n");
}

#[test]
fn unusual_names_work_and_impossible_ones_are_refused() {
    let world = World::new();
    let names = "names=(\"$(printf '%255s' x | tr ' ' n)\" 'with  blanks' $'new\\nline' $'\\xff\\xfe' .hidden '*' '-rf')";
    let script = format!(
        "{names}; for n in \"${{names[@]}}\"; do printf %s ${{#n}} > \"mq/$n\"; done; ls -A mq | wc -l
         for n in \"${{names[@]}}\"; do [ \"$(cat \"mq/$n\")\" = ${{#n}} ] && rm -- \"mq/$n\" || exit 1; done; ls -A mq | wc -l"
    );
    assert_eq!(world.run(&script), "8\n0\n", "one of the seven names has a line break");
    let error = world.fail("touch mq/$(printf '%256s' x | tr ' ' n)");
    assert!(error.contains("File name too long"), "{error}");
}

#[test]
fn full_limits_give_the_errno_of_the_c_call() {
    let world = World::alone();
    world.run("echo 3 > /proc/sys/fs/mqueue/queues_max");
    // The limit counts for those without CAP_SYS_RESOURCE, like the caller and the daemon alike.
    let made = "setpriv --reuid=1234 --regid=4321 --clear-groups sh -c 'touch mq/a mq/b mq/c && ! touch mq/d'";
    world.run(made);
    assert_eq!(world.run("ls mq | wc -l"), "3\n");
    world.run("rm mq/*; echo 256 > /proc/sys/fs/mqueue/queues_max");
    let error = world.fail("for i in {1..200}; do touch mq/$i || exit 1; done");
    assert!(error.contains("Too many open files"), "{error}");
}

/// Starts `script`, waits until it blocks, ends it by `signal` and returns how long that took.
fn interrupted(world: &World, script: &str, signal: i32) -> Duration {
    let before = world.waiting();
    let mut blocked = world.start(script);
    eventually("it waits", || world.waiting() == before + 1);
    let start = Instant::now();
    blocked.signal(signal);
    blocked.wait();
    let took = start.elapsed();
    eventually("nobody waits", || world.waiting() == before);
    took
}

#[test]
fn a_blocked_reader_or_writer_ends_at_once_and_has_taken_and_sent_nothing() {
    let world = World::new();
    world.run("touch mq/empty");
    full(&world, "full");
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL, libc::SIGHUP] {
        for script in ["exec cat mq/empty", "exec bash -c 'echo 11 > mq/full'"] {
            let took: Vec<_> = (0..3).map(|_| interrupted(&world, script, signal)).collect();
            // Of three the best, since on a loaded machine the scheduler takes its time as well; or
            // each of them.
            let took = *long(took.iter().min(), took.iter().max()).unwrap();
            assert!(took < AT_ONCE, "{script}, signal {signal}: {took:?}");
        }
    }
    assert_eq!(world.attempt("timeout 0.1 cat mq/empty").status.code(), Some(124));
    assert_eq!(world.run("for i in {1..10}; do cat mq/full; done | tail -n 1"), "10\n");
    world.run("! [ -s mq/full ] && ! [ -s mq/empty ]");
}

#[test]
fn everybody_passes_a_blocked_writer() {
    let world = World::new();
    full(&world, "q");
    let mut writers: Vec<Running> = Vec::new();
    for (index, letter) in ["a", "b", "c"].iter().enumerate() {
        writers.push(world.start(&format!("exec bash -c 'echo {letter} > mq/q'")));
        eventually("it waits", || world.waiting() == index + 1);
    }
    let start = Instant::now();
    world.run("chmod 640 mq/q && [ $(stat -c %a mq/q) = 640 ] && touch mq/q");
    let error = world.fail("echo x | dd of=mq/q oflag=nonblock conv=notrunc status=none");
    assert!(error.contains("Resource temporarily unavailable"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
    writers[1].signal(libc::SIGINT);
    writers[1].wait();
    world.run("for i in {1..10}; do cat mq/q; done");
    assert!(writers[0].wait().success() && writers[2].wait().success());
    assert_eq!(world.run("cat mq/q; cat mq/q"), "a\nc\n");
    world.run("! [ -s mq/q ]");
}

#[test]
fn a_stopped_reader_goes_on_and_an_ignored_signal_does_not_wake_it() {
    let world = World::new();
    world.run("touch mq/q");
    let mut reader = world.start("trap '' USR2; exec cat mq/q");
    eventually("it waits", || world.waiting() == 1);
    reader.signal(libc::SIGUSR2);
    reader.signal(libc::SIGSTOP);
    reader.signal(libc::SIGCONT);
    eventually("it waits again", || world.waiting() == 1 && reader.is_asleep());
    world.run("echo after > mq/q");
    assert!(reader.wait().success());
    assert_eq!(reader.output().text(), "after\n");
}

#[test]
fn twenty_writers_and_five_readers_lose_and_double_nothing() {
    let world = World::new();
    world.run("touch mq/q");
    let readers: Vec<_> = (0..5)
        .map(|_| {
            world.start("for ((i = 0; i < 2000; i++)); do read -r line < mq/q; echo $line; done")
        })
        .collect();
    let writers: Vec<_> = (0..20)
        .map(|writer| {
            world.start(&format!("for i in {{1..500}}; do echo {writer}-$i > mq/q || exit 1; done"))
        })
        .collect();
    for writer in writers {
        let output = writer.output();
        assert!(output.status.success(), "{}", output.errors);
    }
    let mut lines: Vec<String> = Vec::new();
    for reader in readers {
        lines.extend(reader.output().text().lines().map(String::from));
    }
    lines.sort_unstable();
    let mut expected: Vec<String> =
        (0..20).flat_map(|writer| (1..=500).map(move |i| format!("{writer}-{i}"))).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

/// As many readers as that, blocked on one queue, in one process group.
pub fn crowd(world: &World, count: usize) -> Running {
    let readers = world
        .start(&format!("for ((i = 0; i < {count}; i++)); do cat mq/q > /dev/null & done; wait"));
    eventually("all of them wait", || world.waiting() == count);
    readers
}

#[test]
fn a_thousand_blocked_readers_get_one_message_each() {
    let world = World::new();
    world.run("touch mq/q; cat /dev/null > mq/q");
    let (memory, descriptors) = (world.daemon_status("VmRSS"), world.daemon_descriptors());
    let mut readers = crowd(&world, 1000);
    let peak = world.daemon_status("VmRSS");
    assert!(peak < 64 * 1024, "{peak} KiB");
    world.c("mq", &["many", "/q", "0", "1000"]);
    assert!(readers.wait().success());
    world.run("! [ -s mq/q ]");
    eventually("the workers are gone", || world.daemon_status("Threads") == THREADS);
    let after = world.daemon_status("VmRSS");
    assert!(after < memory + 4 * 1024, "{memory} KiB before, {after} KiB after");
    eventually("the files are closed", || world.daemon_descriptors() <= descriptors);
}

#[test]
fn poll_select_and_epoll_wake_when_there_is_something() {
    let world = World::new();
    let script = "import os, select, threading, time
fd = os.open('mq/q', os.O_RDWR | os.O_CREAT)
epoll = select.epoll(); epoll.register(fd, select.EPOLLIN)
print(epoll.poll(0), select.select([fd], [fd], [], 0) == ([], [fd], []))
def later():
    time.sleep(0.1)
    os.system('echo x > mq/q')
threading.Thread(target=later).start()
print(epoll.poll(10) == [(fd, select.EPOLLIN)], os.stat('mq/q').st_size, os.read(fd, 10), os.read(fd, 10))
print(epoll.poll(0.05))
for i in range(10): os.write(fd, b'x')
poll = select.poll(); poll.register(fd, select.POLLOUT)
print(poll.poll(0))
def drain():
    time.sleep(0.1)
    os.system('cat mq/q > /dev/null')
threading.Thread(target=drain).start()
print(poll.poll(10000) == [(fd, select.POLLOUT)])";
    let expected = "[] True\nTrue 2 b'x\\n' b''\n[]\n[]\nTrue\n";
    assert_eq!(world.python(script), expected);
    assert_eq!(world.waiting(), 0);
}

#[test]
fn a_removed_queue_goes_on_for_those_who_have_it_open() {
    let world = World::new();
    let script = "import os
fd = os.open('mq/q', os.O_RDWR | os.O_CREAT)
os.unlink('mq/q')
os.write(fd, b'still here')
print(os.fstat(fd).st_size, os.read(fd, 100), os.path.exists('mq/q'))
os.close(os.open('mq/q', os.O_RDWR | os.O_CREAT))
print(os.read(fd, 9), os.stat('mq/q').st_size)
os.write(fd, b'old')
print(os.stat('mq/q').st_size, os.read(fd, 9))";
    assert_eq!(world.python(script), "10 b'still here' False\nb'' 0\n0 b'old'\n");
    let mut reader = world.start("exec cat mq/q");
    eventually("it waits", || world.waiting() == 1);
    world.run("rm mq/q");
    reader.signal(libc::SIGTERM);
    reader.wait();
    eventually("nobody waits", || world.waiting() == 0);
}

#[test]
fn look_ups_leave_nothing_behind() {
    let world = World::new();
    world.run("touch mq/q; stat mq/q > /dev/null");
    let before = world.daemon_status("VmRSS");
    world.python("import os\nfor i in range(100_000): os.stat('mq/q')");
    // With a writer, each look-up has an id of its own.
    world.python(
        "import os\nfd = os.open('mq/q', os.O_WRONLY)\nfor i in range(50_000): os.stat('mq/q')",
    );
    let after = world.daemon_status("VmRSS");
    assert!(after < before + 2048, "{before} KiB before, {after} KiB after");
}

#[test]
fn an_idle_daemon_is_small_and_takes_no_time() {
    let world = World::new();
    world.run("echo x > mq/q; cat mq/q; ls -lR . > /dev/null");
    let rss = world.daemon_status("VmRSS");
    assert!(rss < 10 * 1024, "{rss} KiB");
}

#[test]
fn everything_survives_unmounting_and_a_kill() {
    let mut world = World::new();
    world.run("echo first > mq/q; chmod 600 mq/q");
    let mut daemon = world.take_daemon();
    daemon.signal(libc::SIGTERM);
    daemon.wait();
    world.mount(&[]);
    world.run("echo second > mq/q");
    let mut daemon = world.take_daemon();
    daemon.signal(libc::SIGKILL);
    daemon.wait();
    world.mount(&[]);
    assert_eq!(world.run("stat -c %a mq/q; cat mq/q; cat mq/q"), "600\nfirst\nsecond\n");
}

#[test]
fn a_users_own_mount_works_with_a_mounted_dev_mqueue() {
    let world = World::unmounted();
    world.run("chmod 755 $SCRATCH; chown nobody:nogroup $M");
    let script = format!(
        "cd /; export HOME=/tmp; mkdir -p /dev/mqueue; mount -t mqueue none /dev/mqueue
         as='setpriv --reuid=nobody --regid=nogroup --clear-groups'
         cp {} $SCRATCH/ipcfs
         $as $SCRATCH/ipcfs $M && $as sh -c \"echo mine > $M/mq/u; ls -l $M/mq; cat $M/mq/u; timeout 0.1 cat $M/mq/u\"
         echo $?; ls $M 2>&1; $as fusermount3 -u $M; umount -l /dev/mqueue; rmdir /dev/mqueue 2> /dev/null; true",
        crate::common::BINARY
    );
    let printed = world.run(&script);
    assert!(printed.contains("mine\n124\n"), "{printed}");
}

#[test]
fn options_set_the_size_of_new_queues() {
    let world = World::with(&["-o", "mq_maxmsg=3,mq_msgsize=77"]);
    world.run("touch mq/q");
    assert!(world.c("mq", &["attr", "/q"]).starts_with("maxmsg=3 msgsize=77 "));
}

#[test]
fn a_read_only_mount_refuses_to_write() {
    let world = World::with(&["-o", "ro"]);
    world.c("mq", &["create", "/q", "3", "100", "0600"]);
    assert!(world.fail("echo x > mq/q").contains("Read-only file system"));
    assert!(world.fail("rm -f mq/q").contains("Read-only file system"));
}

#[test]
fn appending_sends_a_message_however_many_there_are() {
    let world = World::new();
    world.run("echo one >> mq/q; echo two >> mq/q; exec 5>>mq/q; stat mq/q; echo three >&5");
    assert_eq!(world.run("cat mq/q; cat mq/q; cat mq/q"), "one\ntwo\nthree\n");
    // By the descriptor itself, which is not looked up again.
    world.run("exec > mq/q; echo four > /proc/self/fd/1; echo five | tee /proc/self/fd/1");
    assert_eq!(world.run("cat mq/q; cat mq/q; cat mq/q"), "four\nfive\nfive\n");
}

#[test]
fn who_waits_for_edges_is_told_again_once_all_is_read_or_written() {
    let world = World::new();
    world.run("echo 'mq/q maxmsg=4 msgsize=16' > ctl/create; touch sysv/msg/7");
    // Python's epoll as runtimes use it: asked once, then read or written until EAGAIN.
    let script = "import os, posix_ipc, select, sysv_ipc, threading
posix, system_v = posix_ipc.MessageQueue('/q'), sysv_ipc.MessageQueue(7)
def all_of(call):
    try:
        while True: call()
    except BlockingIOError: pass
for path, send, take in (('mq/q', posix.send, posix.receive), ('ctl/mq/q/lines', posix.send, posix.receive),
                         ('sysv/msg/7', system_v.send, system_v.receive)):
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    epoll = select.epoll()
    epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    assert epoll.poll(60) == [(fd, select.EPOLLOUT)], path
    for number in range(5):
        threading.Timer(0.05, send, (b'm',)).start()
        (told, events), = epoll.poll(60)
        assert events & select.EPOLLIN, (path, number, events)
        all_of(lambda: os.read(fd, 100))
    if path == 'mq/q':
        all_of(lambda: os.write(fd, b'x'))
        while epoll.poll(0.2): pass
        threading.Timer(0.05, take).start()
        (told, events), = epoll.poll(60)
        assert events & select.EPOLLOUT, events
        all_of(lambda: os.read(fd, 100))
    os.close(fd)
    epoll.close()";
    world.python(script);
    eventually("nothing is watched any more", || world.waiting() == 0);
}
