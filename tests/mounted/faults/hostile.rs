//! What any user may put into /dev/shm: not followed, not waited for, not crashed by.

use super::prompt;
use crate::common::{Running, World, eventually, python};

/// Does everything to every name, each at once, and prints what could be read.
const RUMMAGE: &str = r"
import errno, os, sys, time
names = ['link', 'dangling', 'loop', 'pipe', 'dir', 'socket', 'device', 'mounted', 'leased',
         'empty', 'short', 'odd', 'junk', 'forged', 'hole', 'mine', '.', '..']
slowest, read, failed = (0, ''), set(), set()
def attempt(what, name, work, timed=True):
    global slowest
    start = time.monotonic()
    try:
        outcome = work()
        if isinstance(outcome, bytes): read.add((name, outcome))
    except OSError as error: failed.add(errno.errorcode[error.errno])
    # A walk through /proc takes its time, which a worker has.
    if timed: slowest = max(slowest, (time.monotonic() - start, f'{what} {name}'))
def opened(path, flags, work):
    file = os.open(path, flags)
    try: return work(file)
    finally: os.close(file)
for kind in ('shm', 'sem'):
    for name in names:
        path = f'{kind}/{name}'
        attempt('stat', path, lambda: os.stat(path) and None)
        attempt('lstat', path, lambda: os.lstat(path) and None)
        if name not in ('.', '..'):
            attempt('read', path, lambda: opened(path, os.O_RDONLY, lambda f: os.read(f, 100)))
            attempt('write', path, lambda: opened(path, os.O_WRONLY, lambda f: os.write(f, b'+1')))
            attempt('make', path, lambda: opened(path, os.O_RDWR | os.O_CREAT, lambda f: None))
            attempt('make anew', path, lambda: opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, lambda f: None))
            attempt('truncate', path, lambda: os.truncate(path, 0))
            attempt('chmod', path, lambda: os.chmod(path, 0o777))
            attempt('chown', path, lambda: os.chown(path, 0, 0))
            attempt('status', path, lambda: opened(f'ctl/{path}/status', os.O_RDONLY, lambda f: None))
            attempt('users', path, lambda: opened(f'ctl/{path}/users', os.O_RDONLY, lambda f: None), False)
            attempt('rename', path, lambda: os.rename(path, f'{kind}/renamed'))
            attempt('rename', path, lambda: os.rename(f'{kind}/renamed', path))
            attempt('rename onto', path, lambda: os.rename(f'{kind}/other', path))
            attempt('unlink', path, lambda: os.unlink(path))
    attempt('list', kind, lambda: os.listdir(kind) and None)
for path in ('ctl/summary', 'ctl/orphans', 'ctl/metrics', 'ctl/limits'):
    attempt('read', path, lambda: opened(path, os.O_RDONLY, lambda f: None), False)
print(*sorted(read), file=sys.stderr)
print(*sorted(failed), file=sys.stderr)
print(f'{slowest[0]} {slowest[1]}')
";

#[test]
fn what_lies_about_in_dev_shm_is_neither_followed_nor_waited_for() {
    let world = World::new();
    world.run(
        "echo secret > $SCRATCH/secret; chmod 600 $SCRATCH/secret; cd /dev/shm
         litter() {
             ln -s $SCRATCH/secret $1link; ln -s nowhere $1dangling; ln -s $1loop $1loop
             mkfifo $1pipe; mkdir $1dir; mknod $1device c 1 3
             python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('$1socket')\"
             touch $1mounted; mount --bind $SCRATCH/secret $1mounted
             touch $1empty; head -c 16 /dev/urandom > $1short; head -c 31 /dev/urandom > $1odd
             head -c 32 /dev/urandom > $1junk
             head -c 32 /dev/zero | tr '\\0' '\\377' > $1forged; truncate -s 32 $1hole
             truncate -s 32 $1leased $1mine
         }
         litter; litter sem.; touch sem.. sem...; truncate -s 32 other sem.other",
    );
    // A lease stays for 45 seconds against who waits.
    let lease = "import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
files = [os.open(f'/dev/shm/{name}', os.O_RDWR) for name in ('leased', 'sem.leased')]
for file in files: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open(os.environ['SCRATCH'] + '/ready', 'w').close()
signal.pause()";
    let mut command = world.command(python());
    command.arg("-c").arg(lease);
    let mut holder = Running::start(command);
    eventually("they are leased", || world.scratch().join("ready").exists());

    // A name that something is mounted over is there and cannot be opened.
    assert_eq!(
        world.run("ls shm | grep -v mounted | tr '\\n' ' '"),
        "empty forged hole junk leased mine odd other short "
    );
    let as_user = "import os; os.setgroups([]); os.setgid(99); os.setuid(1234)";
    let as_user = world.python(&format!("{as_user}\n{RUMMAGE}"));
    let mut command = world.command(python());
    command.arg("-c").arg(RUMMAGE);
    let as_root = Running::start(command).output();
    assert!(as_root.status.success(), "{}", as_root.errors);
    for slowest in [as_user, as_root.text()] {
        let (seconds, what) = slowest.split_once(' ').unwrap();
        let seconds: f64 = seconds.parse().unwrap();
        assert!(seconds < prompt().as_secs_f64(), "{what}: {seconds} s");
    }
    assert!(!as_root.errors.contains("secret"), "{}", as_root.errors);
    let failed = as_root.errors.lines().last().unwrap();
    assert_eq!(failed, "EACCES EBUSY EEXIST EINVAL EIO ENOENT");
    assert!(holder.ended().is_none());
    // What is hidden is as it was.
    let hidden = "cat $SCRATCH/secret; cd /dev/shm
        for p in '' sem.; do
            [ -L ${p}link ] && [ -L ${p}dangling ] && [ -L ${p}loop ] && [ -p ${p}pipe ] &&
            [ -d ${p}dir ] && [ -S ${p}socket ] && [ -c ${p}device ] && [ -e ${p}mounted ] || exit 1
        done; [ -e sem.. ] && [ -e sem... ]";
    assert_eq!(world.run(hidden), "secret\n");
    assert_eq!(
        world.run("echo x > shm/file; cat shm/file; echo 1 > sem/good; cat sem/good"),
        "x\n1\n"
    );
    world.run("umount /dev/shm/mounted /dev/shm/sem.mounted");
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
    os.stat('shm')
    print(outcome, time.monotonic() - start, flush=True)
    os._exit(0)
os.waitpid(pid, 0)";
    let printed = world.python(script);
    let (outcome, seconds) = printed.trim().rsplit_once(' ').unwrap();
    assert_eq!(outcome, "Device or resource busy");
    assert!(seconds.parse::<f64>().unwrap() < prompt().as_secs_f64(), "{printed}");
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
