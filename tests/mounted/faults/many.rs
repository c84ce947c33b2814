//! Many objects, many processes, much coming and going.

use std::time::{Duration, Instant};

use crate::common::{THREADS, World, eventually, long};

/// Makes objects; queues by four users, since one may have 8,445 of the smallest (97 bytes of
/// `RLIMIT_MSGQUEUE` each).
const MAKE: &str = r"
import os, sys, posix_ipc, sysv_ipc
queues, segments = int(sys.argv[1]), int(sys.argv[2])
for uid in range(4):
    if os.fork() == 0:
        os.setgroups([]); os.setgid(48300 + uid); os.setuid(48300 + uid)
        for i in range(uid, queues, 4):
            posix_ipc.MessageQueue(f'/q{i}', posix_ipc.O_CREX, mode=0o600, max_messages=1, max_message_size=1).close()
        os._exit(0)
for uid in range(4): assert os.wait()[1] == 0
for key in range(1, queues + 1):
    sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX)
    sysv_ipc.Semaphore(key, sysv_ipc.IPC_CREX)
for key in range(1, segments + 1):
    sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, size=1)
for i in range(queues):
    os.close(os.open(f'/dev/shm/o{i}', os.O_CREAT | os.O_EXCL, 0o600))
    with open(f'/dev/shm/sem.s{i}', 'xb') as file: file.write(bytes(32))
";

#[test]
fn thousands_of_objects_are_all_listed_once_and_quickly() {
    let world = World::new();
    let (queues, segments) = (long(2000, 20_000), long(2000, 4096));
    world.run(
        "echo 32000 > /proc/sys/fs/mqueue/queues_max; echo 32000 > /proc/sys/kernel/msgmni
         echo '32000 1024000000 500 32000' > /proc/sys/kernel/sem; echo 8192 > /proc/sys/kernel/shmmni",
    );
    let make = format!("import sys; sys.argv = ['', {queues}, {segments}]\n{MAKE}");
    world.python(&make);
    let before = world.daemon_status("VmRSS");
    let mut peak = before;
    for (kind, count) in [
        ("mq", queues),
        ("sysv/msg", queues),
        ("sysv/sem", queues),
        ("sysv/shm", segments),
        ("shm", queues),
        ("sem", queues),
    ] {
        let start = Instant::now();
        world.run(&format!("ls -l {kind} > $SCRATCH/list"));
        let took = start.elapsed();
        // Complete, and each once.
        let listed =
            world.run("grep -c ^- $SCRATCH/list; grep ^- $SCRATCH/list | sort -u -k9 | wc -l");
        assert_eq!(listed, format!("{count}\n{count}\n"), "{kind}");
        let memory = world.daemon_status("VmRSS");
        peak = peak.max(memory);
        println!("{kind}: ls -l of {count} in {took:?}, {memory} KiB");
        assert!(took < long(Duration::from_secs(10), Duration::from_secs(2)), "{kind}: {took:?}");
    }
    println!("{before} KiB before, {peak} KiB at most");
    assert!(peak < before + 96 * 1024, "{before} KiB before, {peak} KiB at most");
    world.run("echo 3 > /proc/sys/vm/drop_caches");
    eventually("the nodes are forgotten", || world.daemon_status("VmRSS") < before + 8 * 1024);
}

#[test]
fn listing_while_objects_come_and_go_never_fails_and_misses_none_that_stays() {
    let world = World::new();
    let script = "import errno, os, threading, time
kinds = {'mq': 'stay', 'shm': 'stay', 'sem': 'stay', 'fifo': 'stay',
         'sysv/msg': '0x00000999', 'sysv/sem': '0x00000999', 'sysv/shm': '0x00000999'}
def make(path):
    if path.startswith('fifo/'): os.mkfifo(path)
    else: os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
for kind, name in kinds.items(): make(f'{kind}/{name}')
stop, failed = False, []
def churn(kind):
    i = 0
    try:
        while not stop:
            path = f'{kind}/{i % 7 + 1}'
            try: make(path)
            except OSError as error:
                # The kernel takes its time to charge removed queues back.
                if error.errno == errno.EMFILE and kind == 'mq': continue
                raise
            os.unlink(path)
            i += 1
    except OSError as error: failed.append(error)
threads = [threading.Thread(target=churn, args=(kind,)) for kind in kinds]
for thread in threads: thread.start()
end = time.monotonic() + SECONDS
rounds = 0
while time.monotonic() < end:
    rounds += 1
    for kind, name in kinds.items():
        for place in (kind, f'ctl/{kind}'):
            names = os.listdir(place)
            assert name in names, names
            assert len(names) == len(set(names)), names
        for entry in os.scandir(kind):
            try: entry.stat()
            except FileNotFoundError: pass
stop = True
for thread in threads: thread.join()
assert not failed, failed
print(rounds > 10)";
    let script = script.replace("SECONDS", long("3", "60"));
    assert_eq!(world.python(&script), "True\n");
    assert_eq!(world.run("cut -f4 ctl/errors | grep -c EIO; :"), "0\n");
}

#[test]
fn a_crowd_of_writers_on_a_small_queue_all_get_through() {
    let world = World::new();
    world.run("touch mq/q");
    let count = long(500, 2000);
    let crowd = world.client("crowd", &["mq/q", &count.to_string(), "x"]);
    eventually("all wait but for the ten", || world.waiting() == count - 10);
    let script = format!("for ((i = 0; i < {count}; i++)); do cat mq/q; done | wc -c");
    assert_eq!(world.run(&script), format!("{count}\n"));
    assert_eq!(crowd.output().text(), format!("{count}\n"), "all have sent theirs");
    world.run("! [ -s mq/q ]");
    eventually("the workers are gone", || world.daemon_status("Threads") == THREADS);
}

#[test]
fn nobody_waits_for_a_page_that_is_mapped_a_hundred_thousand_times_to_be_cut() {
    let world = World::new();
    let script = "import ctypes, os, threading, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
open('shm/page', 'wb').write(bytes(4096))
crowd = []
for _ in range(10):
    reader, writer = os.pipe()
    crowd.append(os.fork())
    if crowd[-1] == 0:
        fd = os.open('shm/page', os.O_RDWR)
        for _ in range(10000): ctypes.c_char.from_address(libc.mmap(None, 4096, 3, 1, fd, 0)).value
        os.write(writer, b'x'); os.close(reader)
        time.sleep(1000)
    os.close(writer); os.read(reader, 1); os.close(reader)
waited, cut = [0], False
def others():
    while not cut:
        start = time.monotonic(); os.path.exists('mq/none'); waited.append(time.monotonic() - start)
thread = threading.Thread(target=others, daemon=True); thread.start()
start = time.monotonic()
open('shm/page', 'wb').close()
took = time.monotonic() - start
cut = True; thread.join()
for pid in crowd: os.kill(pid, 9)
print(int(took * 1000), int(max(waited) * 1000))";
    let printed = world.python(script);
    let numbers: Vec<u64> = printed.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let (took, waited) = (numbers[0], numbers[1]);
    eprintln!("cut in {took} ms, another waited for {waited} ms at most");
    // What is done in the loop takes another as long as who has asked for it.
    assert!(waited < took / 2 || took < 20, "{printed}");
}
