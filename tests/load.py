"""Mixed load on a mounted tree, every step of which is checked.

usage: load.py SECONDS CROWD

To be run by root in the mount's directory, with an IPC namespace and a /dev/shm of its own; CROWD is
the compiled tests/clients/crowd.c. Each actor is a process that goes through its round again and
again, with objects of its own. Prints how many rounds each has made; the exit status is 1 if one
has seen something that must not be.
"""

import collections
import ctypes
import errno
import fcntl
import mmap
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
import traceback

import posix_ipc
import sysv_ipc

# What takes longer hangs, even on a machine with much else to do.
DEADLINE = 60
PR_SET_PDEATHSIG = 1
# The user who means no good.
EVIL = 4000

ACTORS = []


def actor(function):
    ACTORS.append(function)
    return function


def eventually(what, condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f'it never happened that {what}'
        time.sleep(0.01)


libc = ctypes.CDLL(None, use_errno=True)


def start(script, *arguments):
    """A bash script in a process group of its own that does not outlive the actor."""
    command = ['bash', '-c', script, 'bash', *arguments]
    pipe, none = subprocess.PIPE, subprocess.DEVNULL

    def prepare():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # Whoever runs this in the background may have had it ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(command, stdin=none, stdout=pipe, stderr=pipe, start_new_session=True,
                            preexec_fn=prepare)


def finish(process):
    """What it has printed; it has to succeed."""
    try:
        output, errors = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == 0, (process.args, process.returncode, errors.decode())
    return output.decode()


def run(script, *arguments):
    return finish(start(script, *arguments))


def kill(process, how=signal.SIGKILL):
    try:
        os.killpg(process.pid, how)
    except ProcessLookupError:
        pass
    process.communicate(timeout=DEADLINE)


def kill_at_random(processes):
    random.shuffle(processes)
    for process in processes:
        time.sleep(random.uniform(0, 0.01))
        kill(process)


def read(path):
    with open(path, 'rb', buffering=0) as file:
        return file.readall()


def write(path, data):
    with open(path, 'wb', buffering=0) as file:
        file.write(data)


def make_queue(name):
    """RLIMIT_MSGQUEUE may be used up by others, or by queues that the kernel is still removing."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            return os.close(os.open(f'mq/{name}', os.O_RDONLY | os.O_CREAT, 0o666))
        except OSError as error:
            if error.errno != errno.EMFILE or time.monotonic() > end:
                raise
            time.sleep(0.05)


def remove(*paths):
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def waiters(path, count):
    """Waits until as many wait for an object, as the object itself says."""
    def as_many():
        return read(f'ctl/{path}/waiters').count(b'\n') == count
    eventually(f'{count} wait for {path}', as_many)


# POSIX message queues.


@actor
def shell_messages():
    make_queue('shell')
    writer = start('for i in {1..15}; do echo $i > mq/shell; done')
    got = run('for i in {1..15}; do cat mq/shell; done')
    finish(writer)
    assert got.split() == [str(i) for i in range(1, 16)], got
    os.unlink('mq/shell')


@actor
def python_messages():
    make_queue('python')
    queue = posix_ipc.MessageQueue('/python')
    sent = [bytes([random.randrange(256)]) * random.randint(1, 1024) for _ in range(8)]
    for message in sent:
        queue.send(message, priority=3)
    assert [read('mq/python') for _ in sent] == sent
    for message in sent:
        write('mq/python', message)
    assert [queue.receive() for _ in sent] == [(message, 0) for message in sent]
    queue.close()
    os.unlink('mq/python')


@actor
def lines():
    make_queue('lines')
    reader = start('head -n 100 ctl/mq/lines/lines | sha1sum')
    run('seq 100 > ctl/mq/lines/lines')
    assert finish(reader) == run('seq 100 | sha1sum')
    os.unlink('mq/lines')


@actor
def crowd():
    make_queue('crowd')
    reader = start('timeout 60 head -n 60 ctl/mq/crowd/lines | wc -l')
    writers = start('"$@" 2>&1', sys.argv[2], 'mq/crowd', '60', 'one\n')
    written = finish(writers)
    assert written == '60\n', written
    assert finish(reader) == '60\n'
    os.unlink('mq/crowd')


@actor
def killed_readers():
    make_queue('killed')
    path = random.choice(['mq/killed', 'ctl/mq/killed/lines', 'ctl/mq/killed/wait'])
    readers = [start('exec cat "$1"', path) for _ in range(8)]
    waiters('mq/killed', 8)
    kill_at_random(readers)
    sent = [f'{i}\n' for i in range(10)]
    for message in sent:
        write('mq/killed', message.encode())
    assert read('ctl/mq/killed/drain').decode().splitlines(True) == sent
    # Killed while messages come: what nobody has got is still there.
    readers = [start('exec cat mq/killed') for _ in range(4)]
    for message in sent[:6]:
        write('mq/killed', message.encode())
    kill_at_random(readers)
    left = read('ctl/mq/killed/drain').splitlines()
    assert 2 <= len(left) == len(set(left)), left
    os.unlink('mq/killed')


@actor
def killed_writers():
    make_queue('full')
    for i in range(10):
        write('mq/full', b'%d\n' % i)
    writers = [start('exec printf late > mq/full') for _ in range(5)]
    writers += [start('exec echo late > ctl/mq/full/lines') for _ in range(2)]
    waiters('mq/full', 7)
    kill_at_random(writers)
    assert read('ctl/mq/full/drain') == b''.join(b'%d\n' % i for i in range(10))
    os.unlink('mq/full')


@actor
def stopped_reader():
    make_queue('stopped')
    reader = start('exec dd if=mq/stopped bs=1024 count=1 status=none')
    waiters('mq/stopped', 1)
    os.killpg(reader.pid, signal.SIGSTOP)
    time.sleep(random.uniform(0, 0.05))
    os.killpg(reader.pid, signal.SIGCONT)
    # It was interrupted, and says so or goes on.
    if reader.poll() is None:
        write('mq/stopped', b'late')
    output, errors = reader.communicate(timeout=DEADLINE)
    assert output == b'late' or b'Interrupted' in errors, (output, errors)
    os.unlink('mq/stopped')


@actor
def poll():
    make_queue('poll')
    queue = os.open('mq/poll', os.O_RDWR | os.O_NONBLOCK)
    poller = select.epoll()
    poller.register(queue, select.EPOLLIN)
    assert poller.poll(0) == []
    writer = start('sleep 0.0$((RANDOM % 10)); printf now > mq/poll')
    assert poller.poll(DEADLINE) == [(queue, select.EPOLLIN)]
    assert os.read(queue, 100) == b'now'
    finish(writer)
    poller.close()
    os.close(queue)
    os.unlink('mq/poll')


# System V message queues.


@actor
def types():
    queue = sysv_ipc.MessageQueue(0x5001, sysv_ipc.IPC_CREAT)
    for kind in (3, 2, 1):
        queue.send(b'native %d' % kind, type=kind)
        write(f'ctl/sysv/msg/0x5001/type/{kind}', b'mounted %d' % kind)
    assert read('ctl/sysv/msg/0x5001/peek').count(b'\n') == 6
    for path, expected in (('type/2', b'native 2'), ('type/-1', b'native 1'),
                           ('except/3', b'mounted 2'), ('type/0', b'native 3')):
        file = os.open(f'ctl/sysv/msg/0x5001/{path}', os.O_RDONLY)
        got = os.read(file, 1024)
        os.close(file)
        assert got == expected, (path, got)
    assert queue.receive(type=1) == (b'mounted 1', 1)
    assert read('sysv/msg/0x5001') == b'mounted 3'
    os.unlink('sysv/msg/0x5001')


@actor
def removed_under_readers():
    write('ctl/create', b'sysv/msg/0x5002\n')
    readers = [start('exec cat sysv/msg/0x5002') for _ in range(3)]
    waiters('sysv/msg/0x00005002', 3)
    os.unlink('sysv/msg/0x5002')
    for reader in readers:
        _, errors = reader.communicate(timeout=DEADLINE)
        assert b'Identifier removed' in errors, errors


# Semaphores.


@actor
def semaphores():
    write('sem/wait', b'0')
    takers = [start('echo -1 > sem/wait') for _ in range(4)]
    waiters('sem/wait', 4)
    doomed = takers.pop()
    kill(doomed, random.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
    native = posix_ipc.Semaphore('/wait')
    for _ in takers:
        native.release()
    for taker in takers:
        finish(taker)
    assert read('sem/wait') == b'0\n'
    native.close()
    os.unlink('sem/wait')


@actor
def sets():
    write('ctl/create', b'sysv/sem/0x5003 nsems=3\n')
    write('sysv/sem/0x5003', b'= 0 1 5')
    takers = [start("echo '0 -1, 2 -1' > sysv/sem/0x5003") for _ in range(3)]
    waiters('sysv/sem/0x00005003', 3)
    kill(takers.pop())
    write('sysv/sem/0x5003', b'0 +2')
    for taker in takers:
        finish(taker)
    assert read('sysv/sem/0x5003') == b'0 1 3\n'
    sysv_ipc.Semaphore(0x5003).remove()


@actor
def holders_that_die():
    write('sem/lock', b'1')
    write('ctl/create', b'sysv/sem/0x5004\n')
    write('sysv/sem/0x5004', b'= 1')
    for path, value in (('ctl/sem/lock/hold', 'sem/lock'),
                        ('ctl/sysv/sem/0x5004/hold/0', 'sysv/sem/0x5004')):
        holders = [start('exec 9< "$1"; exec sleep 600', path) for _ in range(4)]
        eventually(f'{value} is held', lambda value=value: read(value) == b'0\n')
        kill_at_random(holders)
        eventually(f'{value} is given back', lambda value=value: read(value) == b'1\n')
    remove('sem/lock', 'sysv/sem/0x5004')


# Shared memory.


@actor
def mappings():
    size = 1 << random.randint(12, 18)
    write('ctl/create', b'shm/map size=%d\nsysv/shm/0x5005 size=%d\n' % (size, size))
    posix = posix_ipc.SharedMemory('/map')
    segment = sysv_ipc.SharedMemory(0x5005)
    with open('shm/map', 'r+b') as one, open('sysv/shm/0x5005', 'r+b') as other:
        data = os.urandom(64)
        place = random.randrange(size - 64)
        with mmap.mmap(one.fileno(), size) as mounted, mmap.mmap(posix.fd, size) as native:
            mounted[place:place + 64] = data
            assert native[place:place + 64] == data
        with mmap.mmap(other.fileno(), size) as mounted:
            segment.write(data, place)
            assert mounted[place:place + 64] == data
        one.seek(place)
        assert one.read(64) == data
    posix.close_fd()
    segment.detach()
    remove('shm/map', 'sysv/shm/0x5005')


# Pipes.


@actor
def pipes():
    run('mkfifo fifo/pipe')
    reader = start('sha1sum < fifo/pipe')
    sent = run('head -c 300000 /dev/urandom | tee fifo/pipe | sha1sum')
    assert finish(reader) == sent
    openers = [start('exec cat fifo/pipe') for _ in range(4)]
    kill_at_random(openers)
    os.unlink('fifo/pipe')


# All kinds.


@actor
def churn():
    native = {
        'mq/n': lambda: posix_ipc.MessageQueue('/n', posix_ipc.O_CREX, max_message_size=64).close(),
        'shm/n': lambda: posix_ipc.SharedMemory('/n', posix_ipc.O_CREX, size=100).close_fd(),
        'sem/n': lambda: posix_ipc.Semaphore('/n', posix_ipc.O_CREX).close(),
        'sysv/msg/0x5006': lambda: sysv_ipc.MessageQueue(0x5006, sysv_ipc.IPC_CREX),
        'sysv/sem/0x5006': lambda: sysv_ipc.Semaphore(0x5006, sysv_ipc.IPC_CREX),
        'sysv/shm/0x5006': lambda: sysv_ipc.SharedMemory(0x5006, sysv_ipc.IPC_CREX, size=100).detach(),
    }
    for path, make in native.items():
        for how in range(3):
            try:
                if how == 0:
                    make()
                elif how == 1:
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                else:
                    write('ctl/create', path.encode())
            except (OSError, posix_ipc.Error) as error:
                # The limit on queues, as in make_queue.
                if getattr(error, 'errno', None) == errno.EMFILE or 'fulfill' in str(error):
                    continue
                raise
            os.chmod(path, 0o640)
            os.chown(path, 5, 6)
            found = os.stat(path)
            assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o640, 5, 6), found
            read(f'ctl/{path}/status.json')
            os.unlink(path)
            assert not os.path.exists(path), path
    run('touch fifo/n shm/n sem/n; mv fifo/n fifo/m; mv shm/n shm/m; mv sem/n sem/m'
        '; rm fifo/m shm/m sem/m')


@actor
def listings():
    commands = ['ls -lR', 'find . -ls', 'cat ctl/summary', 'cat ctl/summary.json', 'cat ctl/metrics',
                'cat ctl/limits', 'cat ctl/errors', 'cat ctl/orphans.json',
                'cat ctl/*/*/status ctl/*/*/users ctl/*/*/waiters']
    listing = start(f'{random.choice(commands)} > /dev/null')
    _, errors = listing.communicate(timeout=DEADLINE)
    # Gone, or replaced by another, between two steps; or the hostile user's.
    gone = rb'No such file or directory|Stale file handle|Identifier removed|/evil'
    for line in errors.splitlines():
        assert re.search(gone, line), line


@actor
def orphans():
    # What has no attachment is certain everywhere; what is open nowhere only where the daemon sees
    # every process.
    objects = ['sysv/shm/0x00005008']
    if os.readlink('/proc/self/ns/pid') == 'pid:[4026531836]':
        objects += ['shm/orphan', 'sem/orphan']
    users = 'for i; do exec {file}<> $i; echo "$i size=64" | sed s/size=64//; done; exec sleep 600'
    run('for i; do truncate -s 64 $i 2> /dev/null || echo 1 > $i; done', *objects)
    maker = start(users, *objects)
    def listed(): return set(read('ctl/orphans').decode(errors='replace').splitlines())
    eventually('they are in use', lambda: not listed() & set(objects))
    kill(maker)
    eventually('they are orphans', lambda: listed() >= set(objects))
    remove(*objects)


# A user who means no good.

# What an errno may never be, but for a semaphore that is no semaphore (any more).
BROKEN = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENOSYS}


def refused(function, *arguments, may=()):
    """Does what may fail, but must fail properly; returns the errno."""
    try:
        result = function(*arguments)
        if function is os.open:
            os.close(result)
    except OSError as error:
        broken = error.errno in BROKEN or (error.errno == errno.EIO and errno.EIO not in may)
        assert not broken, (function.__name__, arguments, error)
        return error.errno
    except ValueError:
        return errno.EINVAL
    return 0


def try_others_objects():
    for path in ('mq/private', 'shm/private', 'sem/private', 'sysv/msg/0x5007', 'sysv/shm/0x5007'):
        for attempt in (lambda: os.open(path, os.O_RDONLY), lambda: os.open(path, os.O_WRONLY),
                        lambda: os.open(f'ctl/{path}/status', os.O_RDONLY),
                        lambda: os.unlink(path), lambda: os.chmod(path, 0o666),
                        lambda: os.chown(path, EVIL, EVIL), lambda: os.truncate(path, 0),
                        lambda: os.rename(path, path + 'x')):
            got = refused(attempt)
            assert got in (errno.EACCES, errno.EPERM), (path, errno.errorcode.get(got, got))


def put_junk_into_dev_shm():
    os.symlink('/etc/shadow', '/dev/shm/evil-link')
    os.symlink('/etc/shadow', '/dev/shm/sem.evil-link')
    os.mkfifo('/dev/shm/evil-pipe')
    os.mkdir('/dev/shm/evil-dir')
    for name, size in (('short', 16), ('odd', 31), ('long', 33), ('forged', 32), ('empty', 0)):
        write(f'/dev/shm/sem.evil-{name}', b'\xff' * size)
    for name in ('shm/evil-link', 'shm/evil-pipe', 'shm/evil-dir', 'sem/evil-link'):
        assert refused(os.open, name, os.O_RDONLY) != 0, name
    for name in ('short', 'odd', 'long', 'forged', 'empty'):
        refused(read, f'sem/evil-{name}', may=[errno.EIO])
        refused(write, f'sem/evil-{name}', b'-1', may=[errno.EIO])
        refused(write, f'ctl/sem/evil-{name}/try', b'+1', may=[errno.EIO])


def cut_a_semaphore():
    write('sem/evil', b'1')
    end = time.monotonic() + 0.2

    def cut():
        while time.monotonic() < end:
            os.truncate('/dev/shm/sem.evil', 0)
            os.truncate('/dev/shm/sem.evil', 32)

    cutter = threading.Thread(target=cut)
    cutter.start()
    while time.monotonic() < end:
        for path, value in (('ctl/sem/evil/try', b'-1'), ('sem/evil', b'+3'), ('sem/evil', b'7')):
            refused(write, path, value, may=[errno.EIO])
        refused(read, 'sem/evil', may=[errno.EIO])
    cutter.join()


def write_nonsense():
    make_queue('evil')
    kinds = ['mq', 'shm', 'sem', 'fifo', 'sysv/msg', 'sysv/sem', 'sysv/shm', 'ctl', 'ctl/mq']
    names = [os.urandom(9).replace(b'/', b'').replace(b'\0', b''), b'n' * 255, b'n' * 256, b'a\nb',
             b'-1', b'id-99999', b'0x', b'99999999999999999999', b'..']
    for kind in kinds:
        for name in names:
            path = kind.encode() + b'/' + name
            if refused(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NONBLOCK) == 0:
                refused(os.unlink, path)
            refused(os.mkdir, path)
            refused(os.link, 'mq/evil', path)
    for _ in range(10):
        refused(write, 'ctl/create', os.urandom(random.randint(1, 5000)))
        refused(write, 'ctl/create', b'mq/evil-%d maxmsg=%d' % (random.randrange(9), 10 ** 18))
    refused(write, 'mq/evil', b'\0' * (2 << 20))
    for name in os.listdir('ctl/mq/evil'):
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
            try:
                file = os.open(f'ctl/mq/evil/{name}', flags | os.O_NONBLOCK)
            except OSError:
                continue
            refused(os.write, file, os.urandom(100))
            refused(os.read, file, 10)
            refused(os.pread, file, 10, 1 << 60)
            refused(os.ftruncate, file, 1 << 40)
            refused(os.posix_fallocate, file, 0, 1 << 40)
            refused(mmap.mmap, file, 4096)
            refused(os.setxattr, file, 'user.x', b'x')
            refused(fcntl.ioctl, file, 0x5401, b'\0' * 64)
            refused(os.copy_file_range, file, file, 10)
            refused(os.lseek, file, 1 << 62, os.SEEK_SET)
            # What has begun as a line may be none.
            refused(os.close, file)
    refused(read, 'ctl/mq/evil/drain')


def hoard_and_block():
    """Leaves files open and threads waiting, for the kernel to clear away."""
    for path in ('mq/evil', 'ctl/mq/evil', 'ctl/mq/evil/lines'):
        for _ in range(60):
            os.open(path, os.O_RDONLY)
    for _ in range(20):
        file = os.open('mq/evil', os.O_RDONLY)
        buffer = ctypes.create_string_buffer(10)
        threading.Thread(target=libc.read, args=(file, buffer, 10), daemon=True).start()
    time.sleep(random.uniform(0, 0.05))
    os.kill(os.getpid(), signal.SIGKILL)


@actor
def hostile_user():
    private = ('mq/private', 'shm/private', 'sem/private', 'sysv/msg/0x5007', 'sysv/shm/0x5007')
    old = os.umask(0o077)
    make_queue('private')
    for path in private[1:]:
        write(path, b'1')
    os.umask(old)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(EVIL, EVIL, EVIL)
            os.setresuid(EVIL, EVIL, EVIL)
            try_others_objects()
            put_junk_into_dev_shm()
            cut_a_semaphore()
            write_nonsense()
            hoard_and_block()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    run('find /dev/shm -ignore_readdir_race -user $1 -delete', str(EVIL))
    for kind in ('mq', 'fifo', 'sysv/msg', 'sysv/sem', 'sysv/shm'):
        with os.scandir(kind.encode()) as entries:
            for entry in entries:
                try:
                    if entry.stat(follow_symlinks=False).st_uid == EVIL:
                        os.unlink(entry.path)
                except FileNotFoundError:
                    pass
    remove(*private)
    assert os.WIFSIGNALED(status), 'see above'


def main():
    end = time.monotonic() + float(sys.argv[1])
    children = {}
    for function in ACTORS:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            failed = 0
            while time.monotonic() < end and not failed:
                try:
                    function()
                    os.write(writer, b'.')
                except BaseException:
                    failed = 1
                    print(f'{function.__name__}:', file=sys.stderr)
                    traceback.print_exc()
                    sys.stderr.flush()
            os._exit(failed)
        os.close(writer)
        children[child] = (function.__name__, reader)
    rounds = collections.Counter()
    failures = 0
    readers = {reader: name for name, reader in children.values()}
    while readers:
        for reader in select.select(list(readers), [], [])[0]:
            data = os.read(reader, 4096)
            rounds[readers[reader]] += len(data)
            if not data:
                del readers[reader]
    for child in children:
        failures += os.waitpid(child, 0)[1] != 0
    for function in ACTORS:
        print(f'{function.__name__:24}{rounds[function.__name__]:8} rounds')
    return min(failures, 1)


if __name__ == '__main__':
    sys.exit(main())
