//! Hostile input and broken surroundings.

mod meaningless;

use std::time::{Duration, Instant};

use crate::common::{Output, World, eventually};

/// What nobody's doings may make another's `stat` take longer than.
const PROMPT: Duration = Duration::from_millis(50);

#[test]
fn what_lies_about_in_dev_shm_is_neither_followed_nor_waited_for() {
    let world = World::new();
    world.run(
        "cd /dev/shm; ln -s /etc/passwd link; mkfifo pipe; mkdir dir; echo x > file
         ln -s /etc/shadow sem.link; mkfifo sem.pipe; mkdir sem.dir; touch sem.empty
         head -c 16 /dev/urandom > sem.short; head -c 31 /dev/urandom > sem.odd
         head -c 32 /dev/zero | tr '\\0' '\\377' > sem.forged; touch 'sem..' 'sem...'
         echo y > target; touch mounted; mount --bind target mounted",
    );
    assert_eq!(world.run("ls shm | grep -v mounted"), "file\ntarget\n");
    for name in [
        "shm/link",
        "shm/pipe",
        "shm/dir",
        "shm/mounted",
        "sem/link",
        "sem/pipe",
        "sem/dir",
        "sem/empty",
        "sem/short",
        "sem/odd",
        "sem/forged",
    ] {
        let start = Instant::now();
        let output: Output = world.attempt(&format!("timeout 5 cat {name}"));
        assert!(
            !output.status.success() && output.status.code() != Some(124),
            "{name}: {output:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(1), "{name}: {:?}", start.elapsed());
        world.attempt(&format!("timeout 5 bash -c 'echo +1 > {name}'; timeout 5 rm -f {name}"));
    }
    world.run("grep -q root /etc/passwd && [ -s /etc/shadow ] && [ -s /dev/shm/target ]");
    assert_eq!(world.run("cat shm/file; echo 1 > sem/good; cat sem/good"), "x\n1\n");
}

#[test]
fn a_leased_file_is_an_error_and_not_a_wait() {
    let world = World::new();
    let script = "import fcntl, os, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
open('/dev/shm/leased', 'w').close()
fd = os.open('/dev/shm/leased', os.O_RDONLY)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
pid = os.fork()
if pid == 0:
    start = time.monotonic()
    try:
        os.close(os.open('shm/leased', os.O_WRONLY))
        outcome = 'opened'
    except OSError as error:
        outcome = error.strerror
    print(outcome != 'opened', time.monotonic() - start < 1, flush=True)
    start = time.monotonic()
    os.stat('shm')
    print(time.monotonic() - start < 0.05, flush=True)
    os._exit(0)
os.waitpid(pid, 0)";
    assert_eq!(world.python(script), "True True\nTrue\n");
}

#[test]
fn a_semaphore_cut_while_in_use_is_an_error_and_the_daemon_lives() {
    let world = World::new();
    let script = "import os, threading
open('sem/s', 'w').write('5')
stop = False
def cut():
    while not stop:
        os.truncate('/dev/shm/sem.s', 0)
        os.truncate('/dev/shm/sem.s', 32)
thread = threading.Thread(target=cut); thread.start()
for i in range(3000):
    for operation in ('+1', '7', '-1'):
        try:
            fd = os.open('ctl/sem/s/try', os.O_WRONLY)
            try: os.write(fd, operation.encode())
            finally: os.close(fd)
        except OSError: pass
    try: open('sem/s').read()
    except (OSError, ValueError): pass
stop = True; thread.join()
os.unlink('/dev/shm/sem.s')
open('sem/t', 'w').write('3')
print(open('sem/t').read().strip())";
    assert_eq!(world.python(script), "3\n");
}

#[test]
fn nobody_waits_for_another_users_blocked_request() {
    let world = World::new();
    world.run("touch mq/q sysv/msg/1; echo 0 > sem/s; for i in {1..10}; do echo x > mq/q; done");
    let _blocked: Vec<_> = (0..10)
        .flat_map(|_| {
            ["exec cat sysv/msg/1", "exec bash -c 'echo -1 > sem/s'", "exec bash -c 'echo > mq/q'"]
        })
        .map(|script| world.start(script))
        .collect();
    eventually("thirty wait", || world.waiting() == 30);
    let script = "import os, time
times = []
for i in range(2000):
    for path in ('mq/q', 'sem/s', 'sysv/msg/1', 'mq', 'ctl'):
        start = time.monotonic()
        os.stat(path)
        times.append(time.monotonic() - start)
print(sorted(times)[-20])";
    // But for the few that the scheduler has delayed.
    let slow: f64 = world.python(script).trim().parse().unwrap();
    assert!(slow < PROMPT.as_secs_f64(), "{slow} s");
}

#[test]
fn few_descriptors_are_an_error_to_the_client_and_not_the_daemons_end() {
    let mut world = World::unmounted();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 1024, 20_000)
        .unwrap();
    world.mount(&["-o", "max_handles=40"]);
    let limit = format!("prlimit --pid {} --nofile=64:64", world.daemon());
    world.run(&format!("touch mq/q; {limit}"));
    let script = "import os
files, refused = [], 0
for i in range(200):
    try: files.append(os.open('mq/q', os.O_RDONLY))
    except OSError as error:
        assert error.strerror == 'Too many open files', error
        refused += 1
print(refused > 0)
for fd in files: os.close(fd)";
    assert_eq!(world.python(script), "True\n");
    eventually("it has recovered", || world.attempt("echo x > mq/q && cat mq/q").status.success());
}

#[test]
fn unmounting_while_somebody_waits() {
    let mut world = World::new();
    world.run("touch mq/q");
    let mut reader = world.start("exec cat mq/q");
    eventually("it waits", || world.waiting() == 1);
    let error = world.fail("cd /; umount $M");
    assert!(error.contains("busy"), "{error}");
    assert!(reader.ended().is_none());
    let mut daemon = world.take_daemon();
    world.run("cd /; umount -l $M");
    assert!(reader.ended().is_none());
    reader.signal(libc::SIGTERM);
    reader.wait();
    assert!(daemon.wait().success(), "the daemon ends with the last client");
}

#[test]
fn forced_unmounting_ends_the_waiting_and_the_daemon() {
    let mut world = World::new();
    world.run("touch mq/q");
    let mut reader = world.start("exec cat mq/q");
    eventually("it waits", || world.waiting() == 1);
    let mut daemon = world.take_daemon();
    world.attempt("cd /; umount -f $M");
    let start = Instant::now();
    assert!(!reader.wait().success());
    assert!(start.elapsed() < Duration::from_secs(2));
    daemon.wait();
}

#[test]
fn after_a_kill_ten_blocked_clients_get_their_error_at_once() {
    let mut world = World::new();
    world.run("touch mq/q");
    let mut readers: Vec<_> = (0..10).map(|_| world.start("exec cat mq/q")).collect();
    eventually("they wait", || world.waiting() == 10);
    let mut daemon = world.take_daemon();
    let start = Instant::now();
    daemon.signal(libc::SIGKILL);
    for reader in &mut readers {
        reader.wait();
    }
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    daemon.wait();
    for reader in readers {
        let errors = reader.output().errors;
        assert!(errors.contains("Software caused connection abort"), "{errors}");
    }
    world.mount(&[]);
    world.run("echo x > mq/q && cat mq/q");
}

#[test]
fn a_stopped_daemon_goes_on_where_it_was() {
    let world = World::new();
    world.run("touch mq/q");
    let mut reader = world.start("exec cat mq/q");
    eventually("it waits", || world.waiting() == 1);
    let daemon = world.daemon();
    world.run(&format!("kill -STOP {daemon}"));
    let mut writer = world.start("exec bash -c 'echo late > mq/q'");
    eventually("it waits for the daemon", || writer.is_asleep());
    world.run(&format!("kill -CONT {daemon}"));
    assert!(writer.wait().success() && reader.wait().success());
    assert_eq!(reader.output().text(), "late\n");
}

#[test]
fn listing_while_objects_come_and_go_never_fails_and_misses_none_that_stays() {
    let world = World::new();
    let script = "import os, threading, time
stay = {k: 'stay' for k in ('mq', 'shm', 'sem')}
for k in stay: os.close(os.open(f'{k}/stay', os.O_RDWR | os.O_CREAT))
stop = False
def churn(kind):
    i = 0
    while not stop:
        path = f'{kind}/n{i % 7}'
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        os.unlink(path)
        i += 1
threads = [threading.Thread(target=churn, args=(k,)) for k in stay]
for t in threads: t.start()
end = time.monotonic() + 3
rounds = 0
while time.monotonic() < end:
    rounds += 1
    for kind in stay:
        names = os.listdir(kind)
        assert 'stay' in names, names
        assert len(names) == len(set(names)), names
        for entry in os.scandir(kind):
            try: entry.stat()
            except FileNotFoundError: pass
stop = True
for t in threads: t.join()
print(rounds > 10)";
    assert_eq!(world.python(script), "True\n");
}

#[test]
fn a_crowd_of_writers_on_a_small_queue_all_get_through() {
    let world = World::new();
    world.run("touch mq/q");
    let mut writers = world.start("for i in {1..500}; do echo $i > mq/q & done; wait");
    let reader = world.start("for i in {1..500}; do cat mq/q; done | sort -n | uniq | wc -l");
    assert!(writers.wait().success());
    assert_eq!(reader.output().text(), "500\n");
    world.run("! [ -s mq/q ]");
}

#[test]
fn many_objects_are_all_listed_once() {
    let world = World::new();
    world.run("echo 3000 > /proc/sys/kernel/msgmni; echo '32000 1024000000 500 5000' > /proc/sys/kernel/sem");
    let script = "import os, sysv_ipc
for i in range(1, 2001):
    sysv_ipc.MessageQueue(i, sysv_ipc.IPC_CREX)
    sysv_ipc.Semaphore(i, sysv_ipc.IPC_CREX)
    sysv_ipc.SharedMemory(i, sysv_ipc.IPC_CREX, size=4096)
    open(f'/dev/shm/o{i}', 'w').close()
for kind in ('sysv/msg', 'sysv/sem', 'sysv/shm', 'shm'):
    names = os.listdir(kind)
    print(len(names), len(set(names)))";
    world.run("echo 3000 > /proc/sys/kernel/shmmni");
    let before = world.daemon_status("VmRSS");
    assert_eq!(world.python(script), "2000 2000\n".repeat(4));
    let start = Instant::now();
    world.run("ls -l sysv/msg sysv/sem sysv/shm shm > $SCRATCH/list; [ $(grep -c '^[-]' $SCRATCH/list) = 8000 ]");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    world.run("echo 3 > /proc/sys/vm/drop_caches");
    eventually("the nodes are forgotten", || world.daemon_status("VmRSS") < before + 6 * 1024);
}
