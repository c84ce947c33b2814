"""ipcfs beside what it competes with: called by scripts/bench in namespaces of its own.

Each row is a work, done by ipcfs and by a peer in turn (A B A B ..); the table shows the medians of
both and the median of the pairs' ratios, ipcfs's time over the peer's. To add a row, add a line to
one of the functions that are listed in SECTIONS.
"""

import argparse
import contextlib
import errno
import itertools
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Callable, Optional

M = Path("/run/bench/ipc")  # ipcfs
FORWARDED = Path("/run/bench/forwarded")  # ipcfs -o no_passthrough
NOOP = Path("/run/bench/noop")
TMPFS = Path("/run/bench/tmpfs")
MQUEUE = Path("/run/bench/mqueue")
KINDS = ["mq", "shm", "sem", "fifo", "sysv/msg", "sysv/sem", "sysv/shm"]
POSSIBLE_NAME = {"sysv/msg": "0x7", "sysv/sem": "0x7", "sysv/shm": "0x7"}
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LONGEST = 30  # Seconds that a single measurement may take.


# ---- rows ---------------------------------------------------------------------------------------


@dataclass
class Row:
    """A work, and whom it is compared with. Times are in nanoseconds."""

    name: str
    ours: Callable[[], float]
    beside: str = ""
    peer: Optional[Callable[[], float]] = None
    goal: Optional[float] = None  # What the ratio, or without a peer the value, may be at most.
    enough: Optional[float] = None  # A value of ours that meets the goal whatever the ratio.
    unit: str = "ns"
    pinned: bool = False  # Client and servers on one processor.
    rounds: Optional[int] = None
    note: str = ""  # What bounds it.


@dataclass
class Result:
    row: Row
    ours: float = 0.0
    peer: Optional[float] = None
    ratio: Optional[float] = None
    trouble: str = ""

    @property
    def met(self):
        if self.row.goal is None or self.trouble:
            return None
        if self.row.enough is not None and self.ours <= self.row.enough:
            return True
        measured = self.ours if self.ratio is None else self.ratio
        return measured <= self.row.goal

    def cells(self):
        row = self.row
        if self.trouble:
            return [row.name, self.trouble, row.beside, "", "", show_goal(row), ""]
        met = {None: "", True: "met", False: "NOT met"}[self.met]
        peer = "" if self.peer is None else show(self.peer, row.unit)
        ratio = "" if self.ratio is None else show_ratio(self.ratio)
        return [row.name, show(self.ours, row.unit), row.beside, peer, ratio, show_goal(row), met]


HEADINGS = ["work", "ipcfs", "beside", "peer", "ratio", "goal", ""]


def show(value, unit):
    if unit != "ns":
        return f"{value:.1f} {unit}"
    for limit, divisor, name in [(1e3, 1, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")]:
        if value < limit:
            return f"{value / divisor:.3g} {name}"
    return f"{value / 1e9:.3g} s"


def show_ratio(ratio):
    return f"{ratio:.2f}" if ratio >= 0.5 else f"1/{1 / ratio:.3g}"


def show_goal(row):
    if row.goal is None:
        return ""
    if row.peer is None:
        return "<= " + show(row.goal, row.unit)
    enough = "" if row.enough is None else f" or {show(row.enough, row.unit)}"
    return "<= " + show_ratio(row.goal) + enough


# ---- what runs ------------------------------------------------------------------------------------


class Bench:
    """The mounts, and the ways to take time."""

    def __init__(self, options):
        self.options = options
        self.bin = Path(options.bin)
        self.quick = options.quick
        self.span = 40 if options.quick else 120  # Milliseconds of one measurement.
        self.rounds = 3 if options.quick else 7
        self.processes = []
        self.kinds = set()
        self.notes = []
        self.daemon = 0

    # Starting and ending.

    def set_up(self):
        for directory in ["/dev/shm", "/run"]:
            run("mount", "-t", "tmpfs", "tmpfs", directory)
        for directory in [M, FORWARDED, NOOP, TMPFS, MQUEUE]:
            directory.mkdir(parents=True)
        run("mount", "-t", "mqueue", "none", MQUEUE)
        limits = {
            "fs/mqueue/queues_max": "20000",
            "fs/mqueue/msg_max": "2000",
            "kernel/msgmni": "32000",
            "kernel/shmmni": "32000",
            "kernel/sem": "32000 1024000000 500 32000",
        }
        for name, value in limits.items():
            with contextlib.suppress(OSError):
                Path("/proc/sys", name).write_text(value)
        self.start(self.bin / "noop", "-n", "10000", NOOP)
        self.daemon = self.start_ipcfs(M)
        self.wait_for_mount(NOOP)
        for kind in KINDS:
            probe = M / kind / POSSIBLE_NAME.get(kind, "probe")
            try:
                if kind == "fifo":
                    os.mkfifo(probe)
                else:
                    os.close(os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600))
                probe.unlink()
                self.kinds.add(kind)
            except OSError as error:
                reason = errno.errorcode.get(error.errno, error.errno)
                self.note(f"{kind}: no such objects here ({reason}); its rows are left out")
        if "shm" in self.kinds and not self.forwarded():
            self.note("shm: no -o no_passthrough here; the rows of forwarded files are left out")

    def note(self, text):
        self.notes.append(text)
        print(f"bench: {text}", file=sys.stderr)

    def start(self, *command, **how):
        process = subprocess.Popen([str(word) for word in command], **how)
        self.processes.append(process)
        return process

    def start_ipcfs(self, mountpoint, *options):
        process = self.start(self.options.ipcfs, "-f", *options, mountpoint, stderr=subprocess.PIPE)
        self.wait_for_mount(mountpoint, process)
        return process.pid

    def wait_for_mount(self, mountpoint, process=None):
        deadline = time.monotonic() + 10
        while not os.path.ismount(mountpoint):
            if process and process.poll() is not None:
                raise RuntimeError(process.stderr.read().decode().strip())
            if time.monotonic() > deadline:
                raise RuntimeError(f"{mountpoint} is not mounted after 10 s")
            time.sleep(0.005)

    def forwarded(self):
        if not os.path.ismount(FORWARDED):
            try:
                self.start_ipcfs(FORWARDED, "-o", "no_passthrough")
            except RuntimeError:
                return False
        return True

    def close(self):
        for mountpoint in [FORWARDED, M, NOOP]:
            if os.path.ismount(mountpoint):
                subprocess.run(["umount", "-l", mountpoint], check=False)
        for process in self.processes:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()

    # One measurement each; all return nanoseconds.

    def clock(self, *work):
        """What benches/peers/measure.c prints first."""
        return self.clocks(*work)[0]

    def clocks(self, *work):
        output = run(self.bin / "measure", *work)
        return [float(word) for word in output.split()]

    def shell(self, body, count, before=lambda: None, after=lambda: None):
        """One turn of a loop of bash's."""
        before()
        script = f"""
            start=$EPOCHREALTIME
            for ((i = 0; i < {count}; i++)); do
                {body}
            done
            end=$EPOCHREALTIME
            echo $(( (${{end/./}} - ${{start/./}}) * 1000 ))
        """
        nanoseconds = float(run("bash", "-c", script))
        after()
        return nanoseconds / count

    def command(self, *words):
        """A command from its start to its end."""
        start = time.perf_counter_ns()
        run(*words)
        return time.perf_counter_ns() - start

    # Queues: filled and emptied by the C interface.

    def queue(self, name, maxmsg, msgsize):
        if not (MQUEUE / name).exists():
            run(self.bin / "measure", "queue", "/" + name, maxmsg, msgsize)

    def empty(self, name):
        self.posix_queue(name, lambda queue: [queue.receive() for _ in range(queue.current_messages)])

    def fill(self, name, count, message=b"x\n"):
        self.empty(name)
        self.posix_queue(name, lambda queue: [queue.send(message) for _ in range(count)])

    def posix_queue(self, name, work):
        import posix_ipc

        queue = posix_ipc.MessageQueue("/" + name)
        try:
            work(queue)
        finally:
            queue.close()

    # Processors.

    @contextlib.contextmanager
    def on_one_processor(self, really):
        """The servers and what is started from here share a processor."""
        if not really:
            yield
            return
        everywhere = os.sched_getaffinity(0)
        tasks = [
            int(task)
            for process in self.processes
            if process.poll() is None
            for task in os.listdir(f"/proc/{process.pid}/task")
        ]
        self.set_affinity([0, *tasks], {max(everywhere)})
        try:
            yield
        finally:
            self.set_affinity([0, *tasks], everywhere)

    @staticmethod
    def set_affinity(tasks, processors):
        for task in tasks:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(task, processors)

    # Rows.

    def measure(self, row):
        pairs = []
        try:
            with self.on_one_processor(row.pinned):
                for _ in range(row.rounds or self.rounds):
                    ours = row.ours()
                    pairs.append((ours, row.peer() if row.peer else None))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            return Result(row, trouble=f"failed: {brief(error)}")
        result = Result(row, ours=statistics.median(ours for ours, _ in pairs))
        if row.peer:
            result.peer = statistics.median(peer for _, peer in pairs)
            result.ratio = statistics.median(ours / peer for ours, peer in pairs)
        return result


def run(*command):
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, timeout=LONGEST, check=False)
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise RuntimeError(f"{Path(words[0]).name}: {why}")
    return done.stdout.decode(errors="replace")


def brief(error):
    if isinstance(error, subprocess.TimeoutExpired):
        return f"over {LONGEST} s"
    return str(error).splitlines()[-1][:90] if str(error) else type(error).__name__


# ---- the rows, by section ---------------------------------------------------------------------------


def requests(b):
    """One request after the other, client and servers on one processor"""
    if "mq" not in b.kinds:
        return
    b.queue("q", 300, 64)
    mq, null = M / "mq/q", NOOP / "null"

    def pair(work, size=64):
        return (
            lambda: b.clock(work, mq, size, b.span, "/q"),
            lambda: b.clock(work, null, size, b.span),
        )

    def row(name, work, goal=None, note="", pinned=True):
        ours, peer = pair(work)
        return Row(name, ours, "no-op FUSE", peer, goal, pinned=pinned, note=note)

    yield row("write, 64 bytes", "write", 1.2)
    yield row("open, write, close", "open-write-close", 1.3, note=OPEN_NOTE)
    yield row("the same while another writes", "open-write-close-beside", note=OPEN_NOTE)
    yield row("read a message and its end of file", "read")
    yield Row(
        "stat",
        lambda: b.clock("stat", mq, b.span),
        "no-op FUSE",
        lambda: b.clock("stat", null, b.span),
        pinned=True,
    )
    yield Row(
        "write, 64 bytes",
        pair("write")[0],
        "mq_send",
        lambda: b.clock("mq-send", "/q", 64, b.span),
        pinned=True,
    )
    yield Row(
        "read a message and its end of file",
        pair("read")[0],
        "mq_receive",
        lambda: b.clock("mq-receive", "/q", 64, b.span),
        pinned=True,
    )


OPEN_NOTE = (
    "both send LOOKUP, OPEN, WRITE, RELEASE; ipcfs makes nine system calls beyond the no-op's: for "
    "the look-up openat2, fstat, mq_getsetattr, read of QSIZE, close; for the open openat2, fstat "
    "and the invalidation of the attributes; mq_timedsend; for the release close"
)


def anywhere(b):
    """The same with the processes where the scheduler puts them"""
    if "mq" not in b.kinds:
        return
    b.queue("q", 300, 64)
    for name, work in [("write, 64 bytes", "write"), ("open, write, close", "open-write-close")]:
        yield Row(
            name,
            lambda work=work: b.clock(work, M / "mq/q", 64, b.span, "/q"),
            "no-op FUSE",
            lambda work=work: b.clock(work, NOOP / "null", 64, b.span),
        )
    for name in ["ping", "pong"]:
        b.queue(name, 8, 64)
    rounds = 300 if b.quick else 2000
    for index, percentile in enumerate(["50th", "99th"]):
        yield Row(
            f"ping-pong over two queues, {percentile} percentile",
            lambda index=index: b.clocks("pingpong", M / "mq/ping", M / "mq/pong", rounds)[index],
            "mq_send, mq_receive",
            lambda index=index: b.clocks("pingpong", "mq:/ping", "mq:/pong", rounds)[index],
        )


def shells(b):
    """From the shell, bash and the servers on one processor; per message"""
    if "mq" not in b.kinds:
        return
    b.queue("q", 300, 64)
    count = 100 if b.quick else 250
    few = 2 if b.quick else 4

    def loop(body, count=count):
        return lambda: b.shell(body, count, after=lambda: b.empty("q"))

    def taking(body):
        return lambda: b.shell(body, count, before=lambda: b.fill("q", count))

    echo = loop(f"echo x > {M}/mq/q")
    sender = loop(f"{b.bin}/send /q x")
    python = f"""{sys.executable} -c 'import posix_ipc; posix_ipc.MessageQueue("/q").send("x")'"""
    read, receiver = taking(f"read -r line < {M}/mq/q"), taking(f"{b.bin}/receive /q > /dev/null")
    for name, ours, beside, peer, goal in [
        ("echo > mq/q", echo, "compiled C sender", sender, 1 / 5),
        ("echo > mq/q", echo, "Python line", loop(python, few), 1 / 300),
        ("echo > mq/q", echo, "no-op FUSE", loop(f"echo x > {NOOP}/null"), None),
        ("read < mq/q", read, "compiled C receiver", receiver, None),
    ]:
        yield Row(f"loop of {name}", ours, beside, peer, goal, pinned=True)
    yield Row("loop of echo > mq/q, anywhere", echo, "compiled C sender", sender, 1 / 5)


def lines(b):
    """Streams of lines: one writer (cat of a file), one reader (cat), per message"""
    if not (M / "ctl/mq").is_dir():
        return
    for length, depth, goal in [(100, 200, 1 / 5), (4096, 16, None)]:
        name = f"lines-{length}"
        b.queue(name, depth, length)
        file = M / f"ctl/mq/{name}/lines"
        if not file.exists():
            b.note("ctl/mq/NAME/lines: not there yet; its rows are left out")
            return
        count = (20_000 if b.quick else 100_000) * 100 // (length + 2000 * (length > 100))
        text = TMPFS / name
        text.write_bytes(b"x" * (length - 1) + b"\n" if length > 100 else b"x" * 99 + b"\n")
        text.write_bytes(text.read_bytes() * count)

        def stream(target, source, text=text, count=count):
            return lambda: stream_of_lines(b, text, target, source, count)

        yield Row(f"lines of {length} bytes", stream(file, file), "plain pipe", stream(None, None))
        if goal:
            yield Row(
                f"lines of {length} bytes",
                stream(file, file),
                "a call per message",
                lambda: b.clock("write", M / "mq/q", 64, b.span, "/q")
                + b.clock("read", M / "mq/q", 64, b.span, "/q"),
                goal,
                enough=1e9 / 150_000,
            )


def stream_of_lines(b, text, target, source, count):
    """Nanoseconds per line from `cat text > target` to `cat source`."""
    wanted = text.stat().st_size
    start = time.perf_counter_ns()
    if source:
        reader = subprocess.Popen(["cat", source], stdout=subprocess.PIPE)
        writer = subprocess.Popen(["dd", f"if={text}", f"of={target}", "bs=64K", "status=none"])
    else:
        writer = subprocess.Popen(["cat", text], stdout=subprocess.PIPE)
        reader = subprocess.Popen(["cat"], stdin=writer.stdout, stdout=subprocess.PIPE)
        writer.stdout.close()
    ending = time.monotonic() + LONGEST
    try:
        got = 0
        while got < wanted and time.monotonic() < ending:
            part = os.read(reader.stdout.fileno(), MIB)
            if not part:
                break
            got += len(part)
        if got < wanted:
            raise RuntimeError(f"{got} of {wanted} bytes have come")
        return (time.perf_counter_ns() - start) / count
    finally:
        for process in [reader, writer]:
            process.kill()
            process.wait()
        reader.stdout.close()


def semaphores(b):
    """Semaphores and locks"""
    null = NOOP / "null"
    lock = TMPFS / "lock"
    lock.touch()
    if "sem" in b.kinds:
        (M / "sem/s").write_text("1\n")
        file = M / "sem/s"
        pair = lambda: 2 * b.clock("words", file, "+1\n", "-1\n", b.span)
        yield Row(
            "sem: +1 or -1 on an open file",
            lambda: b.clock("words", file, "+1\n", "-1\n", b.span),
            "no-op FUSE",
            lambda: b.clock("words", null, "+1\n", "-1\n", b.span),
            pinned=True,
        )
        yield Row(
            "sem: +1 and -1",
            pair,
            "sem_post, sem_wait",
            lambda: b.clock("post-wait", "/s", b.span),
            pinned=True,
            note="uncontended, the C calls stay in user space",
        )
        yield Row(
            "sem: +1 and -1", pair, "flock(2) twice", lambda: b.clock("flock", lock, b.span), pinned=True
        )
        hold = M / "ctl/sem/s/hold"
        if hold.exists():
            yield Row(
                "hold: open and close",
                lambda: b.clock("open-close", hold, b.span),
                "open, flock, close",
                lambda: b.clock("open-flock-close", lock, b.span),
                pinned=True,
            )
            count = 100 if b.quick else 400
            yield Row(
                "hold in a shell: exec 9< and 9<&-",
                lambda: b.shell(f"exec 9< {hold}; exec 9<&-", count),
                "flock(1) on a file",
                lambda: b.shell(f"exec 9< {lock}; flock 9; exec 9<&-", count),
            )
        else:
            b.note("ctl/sem/NAME/hold: not there yet; its rows are left out")
    if "sysv/sem" in b.kinds:
        file = M / "sysv/sem/0x5"
        file.touch()
        yield Row(
            "sysv/sem: one operation on an open file",
            lambda: b.clock("words", file, "0 +1\n", "0 -1\n", b.span),
            "no-op FUSE",
            lambda: b.clock("words", null, "0 +1\n", "0 -1\n", b.span),
            pinned=True,
        )


def blocks(b, what, ours, native, works, goals):
    """Rows of reads, writes and mapped accesses at several sizes."""
    sizes = [(64, MIB), (4 * KIB, MIB), (MIB, 64 * MIB), (MIB, GIB)]
    names = {64: "64 B", 4 * KIB: "4 KiB", MIB: "1 MiB"}
    for size, span in sizes[: 3 if b.quick else 4]:
        for name, work, peer_work in works:
            of = "" if span < GIB else " of 1 GiB"
            yield Row(
                f"{what} {name}, {names[size]}{of}",
                lambda work=work, size=size, span=span: b.clock(work, ours, size, span, b.span),
                "shmat, memcpy" if peer_work.startswith("shmat") else "/dev/shm",
                lambda work=peer_work, size=size, span=span: b.clock(
                    work, native, size, span, b.span
                ),
                goals.get((name, size)),
                rounds=3 if span == GIB else None,
                pinned=True,
            )


def shared_memory(b):
    """Shared memory"""
    size = 64 * MIB if b.quick else GIB
    goals = {
        ("read", 4 * KIB): 1.7,
        ("write", 4 * KIB): 1.7,
        ("read", MIB): 1 / 0.95,
        ("write", MIB): 1 / 0.95,
        ("load", MIB): 1 / 0.95,
        ("store", MIB): 1 / 0.95,
        ("load", 4 * KIB): 1 / 0.95,
        ("store", 4 * KIB): 1 / 0.95,
    }
    works = [("read", "pread", "pread"), ("write", "pwrite", "pwrite")]
    mapped = [("load", "load", "load"), ("store", "store", "store")]
    native = Path("/dev/shm/big")
    if "shm" in b.kinds:
        native.touch()
        os.truncate(native, size)
        yield from blocks(b, "shm", M / "shm/big", native, works + mapped, goals)
        count = size // MIB

        def copy(source, target):
            return lambda: b.command(
                "dd", f"if={source}", f"of={target}", "bs=1M", f"count={count}", "conv=notrunc"
            )

        for way in ["from", "to"]:
            file = lambda path, way=way: (path, "/dev/null") if way == "from" else ("/dev/zero", path)
            yield Row(
                f"shm dd bs=1M {way}, {count} MiB",
                copy(*file(M / "shm/big")),
                "/dev/shm",
                copy(*file(native)),
                1 / 0.9,
                rounds=3,
            )
        if b.forwarded():
            for name, work, peer_work in works:
                yield Row(
                    f"shm {name}, 4 KiB, forwarded",
                    lambda work=work: b.clock(work, FORWARDED / "shm/big", 4 * KIB, MIB, b.span),
                    "/dev/shm",
                    lambda work=work: b.clock(work, native, 4 * KIB, MIB, b.span),
                    pinned=True,
                )
        native.unlink()
    if "sysv/shm" in b.kinds:
        run(b.bin / "measure", "segment", "0x77", size)
        file = M / "sysv/shm/0x00000077"
        works = [("read", "pread", "shmat-load"), ("write", "pwrite", "shmat-store")]
        mapped = [("load", "load", "shmat-load"), ("store", "store", "shmat-store")]
        goals = {
            ("read", MIB): 1 / 0.5,
            ("write", MIB): 1 / 0.5,
            ("load", MIB): 1 / 0.95,
            ("store", MIB): 1 / 0.95,
        }
        yield from blocks(b, "sysv/shm", file, "0x77", works + mapped, goals)
        file.unlink()


def pipes(b):
    """Named pipes"""
    if "fifo" not in b.kinds:
        return
    amount = (128 if b.quick else 512) * MIB
    ours, native = M / "fifo/pipe", TMPFS / "pipe"
    os.mkfifo(ours)
    os.mkfifo(native)
    for size in [4 * KIB, 64 * KIB]:

        def through(pipe, size=size):
            script = f"""
                dd if={pipe} of=/dev/null bs={size} status=none &
                dd if=/dev/zero of={pipe} bs={size} count={amount // size} status=none && wait
            """
            return lambda: b.command("bash", "-c", script)

        yield Row(
            f"fifo, {amount // MIB} MiB by {size // KIB} KiB",
            through(ours),
            "FIFO on tmpfs",
            through(native),
            1 / 0.97,
        )


def listings(b):
    """Listings, ls and the servers on one processor"""
    sizes = [10, 1000] if b.quick else [10, 1000, 10_000]
    peer = {"sysv/msg": "-q", "sysv/sem": "-s", "sysv/shm": "-m"}
    for queue in MQUEUE.iterdir():
        queue.unlink()
    for size in sizes:
        directory = TMPFS / f"files-{size}"
        directory.mkdir()
        for number in range(size):
            (directory / f"many-{number}").touch()
    for kind in [kind for kind in KINDS if kind in b.kinds]:
        for size in sizes:
            if kind == "sysv/shm" and size > 4096:
                size = 4096
            run(b.bin / "measure", "make", M / "fifo" if kind == "fifo" else kind, size)
            count = 3 if size > 1000 else None
            for listing in (["ls"], ["ls", "-l"]):
                native = directory_of(size, sizes)
                other = ["ipcs", peer[kind]] if kind in peer else [*listing, native]
                beside = f"ipcs {peer[kind]}" if kind in peer else "as many files on tmpfs"
                goal = 4 if size > 1000 and listing != ["ls"] and kind not in peer else None
                if kind in peer and listing == ["ls"] and size > 1000:
                    goal = 3
                yield Row(
                    f"{' '.join(listing)} {kind}, {size:,}",
                    lambda listing=listing, kind=kind: b.command(*listing, M / kind),
                    beside,
                    lambda other=other: b.command(*other),
                    goal,
                    pinned=True,
                    rounds=count,
                    note=LIST_NOTE if goal == 4 else "",
                )
            if size > 1000:
                yield Row(
                    f"ls -l {kind}, {size:,}",
                    lambda kind=kind: b.command("ls", "-l", M / kind),
                    "no-op FUSE, 10,000",
                    lambda: b.command("ls", "-l", NOOP),
                    pinned=True,
                    rounds=count,
                )
        remove_all(kind)


LIST_NOTE = (
    "ls asks for the attributes of each name, which the kernel may not keep, so that there is a "
    "request for each; the no-op's listing shows what that costs at the least"
)


def directory_of(size, sizes):
    return TMPFS / f"files-{min(sizes, key=lambda known: abs(known - size))}"


def remove_all(kind):
    """Removes the objects of a kind by other means than ipcfs where there are some."""
    directory = {"mq": MQUEUE, "shm": Path("/dev/shm"), "sem": Path("/dev/shm")}.get(kind)
    if directory:
        for file in directory.iterdir():
            file.unlink()
    elif kind == "fifo":
        for file in (M / "fifo").iterdir():
            file.unlink()
    else:
        letter = {"sysv/msg": "msg", "sysv/sem": "sem", "sysv/shm": "shm"}[kind]
        run("ipcrm", f"--all={letter}")


def daemon(b):
    """The daemon itself"""
    again = itertools.count()

    def start():
        mountpoint = Path(f"/run/bench/again-{next(again)}")
        mountpoint.mkdir()
        begin = time.perf_counter_ns()
        run(b.options.ipcfs, mountpoint)
        spent = time.perf_counter_ns() - begin
        run("umount", mountpoint)
        return spent

    yield Row("start to ready", start, goal=30e6, rounds=5 if b.quick else 15)
    if "mq" not in b.kinds:
        return
    b.queue("crowd", 100, 64)
    rounds = 50 if b.quick else 200
    one = lambda: b.clock("wake", M / "mq/crowd", 1, "/crowd", rounds)
    for count in [0, 100, 1000] + ([] if b.quick else [4000]):
        crowd = None
        if count:
            crowd = subprocess.Popen(
                [b.bin / "measure", "block", str(M / "mq/crowd"), str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            crowd.stdout.readline()
        of = f"{count:,} blocked readers"
        most = 160.0 if count == 4000 else 10.0 if count == 0 else None
        yield Row(f"memory with {of}", lambda: resident(b.daemon), goal=most, unit="MiB", rounds=1)
        busy = 0.1 if count in (0, 4000) else None
        yield Row(f"CPU with {of}", lambda: load(b.daemon, b.quick), goal=busy, unit="%", rounds=1)
        if crowd:
            crowd.stdin.close()
            crowd.kill()
            crowd.wait()
    for count in [1000] + ([] if b.quick else [4000]):
        yield Row(
            f"wake-up of one of {count:,}",
            lambda count=count: b.clock("wake", M / "mq/crowd", count, "/crowd", rounds),
            "wake-up of the only one",
            one,
            3,
            rounds=3,
        )
    for count in [1, 1000] + ([] if b.quick else [4000]):
        yield Row(
            f"wake-up of one of {count:,}",
            lambda count=count: b.clock("wake", M / "mq/crowd", count, "/crowd", rounds),
            "mq_receive, as many",
            lambda count=count: b.clock("wake", "mq:/crowd", count, "/crowd", rounds),
            rounds=3,
        )


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def load(pid, quick):
    """Processor time in per cent of the time that passes."""

    def spent():
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, start = spent(), time.monotonic()
    time.sleep(0.5 if quick else 2)
    return 100 * (spent() - before) / (time.monotonic() - start)


SECTIONS = [requests, anywhere, shells, lines, semaphores, shared_memory, pipes, listings, daemon]


# ---- what is printed and written --------------------------------------------------------------------


def aligned(rows):
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    rights = {1, 3, 4}
    for row in rows:
        cells = [
            cell.rjust(width) if index in rights else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ]
        yield "  ".join(cells).rstrip()


def print_tables(sections):
    everything = [HEADINGS, *(result.cells() for _, results in sections for result in results)]
    lines_left = aligned(everything)
    print(next(lines_left))
    for title, results in sections:
        print(f"\n{title}")
        for line in itertools.islice(lines_left, len(results)):
            print(line)
    goals = [result.met for _, results in sections for result in results if result.met is not None]
    print(f"\n{sum(goals)} of {len(goals)} goals met")


PREFACE = """\
# ipcfs beside what it competes with

Written by `scripts/bench`; anybody can run it (root, about three minutes). All numbers are of one
run on this machine:

{machine}

Each row is measured in turn, ipcfs then the peer, several times; shown are the medians of both and
the median of the ratios of neighbours, which is ipcfs's time over the peer's: 1 is as fast, 1/5 is
five times as fast. A goal is what the ratio (or, without a peer, the value) may be at most.

* **no-op FUSE** is a file system that does nothing, written in C with libfuse 3's low-level
  interface, one thread, direct_io ([noop.c](../benches/peers/noop.c)): what FUSE costs at the
  least. Like ipcfs it lets the kernel keep names and attributes for 0 s, since anybody may change
  the objects at any time, and has no flush handler, so that the kernel sends both the same
  requests.
* *On one processor* means that the client and the servers share one. The time is then that of the
  work. Elsewhere the scheduler is free to put them on two, and on an idle virtual machine most of
  the time goes into waking the other one, up to ten times as much as the request itself; which of
  the two happens changes from run to run, for ipcfs and for its peers.
* The compiled C sender and receiver ([send.c](../benches/peers/send.c),
  [receive.c](../benches/peers/receive.c)) do nothing but `mq_open` and `mq_send` or `mq_receive`;
  the shell starts one for each message, as scripts do. The Python line is
  `python3 -c 'import posix_ipc; ...'`.
* What the clock does in each row is in [measure.c](../benches/peers/measure.c) and
  [side_by_side.py](../benches/side_by_side.py).
"""


def machine():
    def first(path, key):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                if line.startswith(key):
                    return line.split(":", 1)[1].strip()
        return "unknown"

    memory = int(first("/proc/meminfo", "MemTotal").split()[0]) / MIB
    virtual = "virtual" if " hypervisor" in first("/proc/cpuinfo", "flags") else "physical"
    return [
        ("processor", f"{os.cpu_count()} x {first('/proc/cpuinfo', 'model name')}, {virtual} machine"),
        ("memory", f"{memory:.0f} GiB"),
        ("kernel", f"Linux {platform.release()}"),
        ("date", date.today().isoformat()),
    ]


def write_markdown(path, sections, notes, plotted):
    parts = [PREFACE.format(machine="\n".join(f"* {name}: {value}" for name, value in machine()))]
    if plotted:
        parts.append("![ratios](benchmarks.svg)\n")
    for title, results in sections:
        parts.append(f"## {title}\n")
        parts.append("| work | ipcfs | beside | peer | ratio | goal | |\n|---|--:|---|--:|--:|--:|---|")
        parts[-1] += "".join(f"\n| {' | '.join(result.cells())} |" for result in results) + "\n"
        bounds = dict.fromkeys(
            f"{result.row.name}: {result.row.note}." for result in results if result.row.note
        )
        parts.extend(f"{bound}\n" for bound in bounds)
    if notes:
        parts.append("## Left out\n")
        parts.append("".join(f"* {note}\n" for note in notes))
    path.write_text("\n".join(parts))


def write_svg(path, sections):
    """The ratios as bars from 1, on a logarithmic scale, with each goal as a mark."""
    import math
    from xml.sax.saxutils import escape

    bars = [
        (title, result)
        for title, results in sections
        for result in results
        if result.ratio is not None
    ]
    width, left, line = 920, 430, 17
    low = min(0.5, *(result.ratio for _, result in bars))
    high = max(2.0, *(result.ratio for _, result in bars))
    scale = (width - left - 70) / math.log(high / low)
    at = lambda ratio: left + 30 + scale * math.log(ratio / low)
    out, y, last = [], 46, None
    for title, result in bars:
        if title != last:
            y += line
            out.append(f'<text x="8" y="{y}" class="title">{escape(title)}</text>')
            y += line
            last = title
        one, end = at(1), at(result.ratio)
        color = {None: "#8a94a6", True: "#3a9d5d", False: "#cf5b3c"}[result.met]
        name = f"{result.row.name}  /  {result.row.beside}"
        out.append(f'<text x="{left}" y="{y}" class="name">{escape(name)}</text>')
        out.append(
            f'<rect x="{min(one, end):.1f}" y="{y - 10}" width="{max(1, abs(end - one)):.1f}" '
            f'height="11" fill="{color}"/>'
        )
        if result.row.goal is not None:
            goal = at(min(max(result.row.goal, low), high))
            out.append(f'<path d="M{goal:.1f} {y - 12}v15" stroke="#222" stroke-width="1.5"/>')
        out.append(
            f'<text x="{max(one, end) + 5:.1f}" y="{y}">{escape(show_ratio(result.ratio))}</text>'
        )
        y += line
    head = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 10}">
<style>text {{ font: 11px sans-serif; fill: #222 }} .name {{ text-anchor: end }} .title {{ font-weight: bold }}</style>
<rect width="{width}" height="{y + 10}" fill="#fff"/>
<text x="8" y="20" class="title">ipcfs's time over the peer's (logarithmic; left of the line ipcfs is faster)</text>
<text x="8" y="36">green: goal met; red: not met; grey: no goal; black mark: the goal</text>
<path d="M{at(1):.1f} 44V{y}" stroke="#222"/>
"""
    path.write_text(head + "\n".join(out) + "\n</svg>\n")


def rows_of(section, bench):
    try:
        yield from section(bench)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        bench.note(f"{section.__name__}: the rest is left out: {brief(error)}")


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--ipcfs", required=True, help="the binary to measure")
    parser.add_argument("--quick", action="store_true", help="a short run that writes nothing")
    parser.add_argument("--plot", action="store_true", help="draw docs/benchmarks.svg")
    parser.add_argument("word", nargs="?", help="only rows with this in their name")
    options = parser.parse_args()
    os.environ["LC_ALL"] = "C"
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    bench = Bench(options)
    sections = []
    began = time.monotonic()
    try:
        bench.set_up()
        for section in SECTIONS:
            title = section.__doc__
            results = []
            for row in rows_of(section, bench):
                if options.word and options.word not in row.name:
                    continue
                results.append(bench.measure(row))
                if sys.stderr.isatty():
                    elapsed = time.monotonic() - began
                    print(f"\r\033[K{elapsed:4.0f} s  {row.name}", end="", file=sys.stderr)
            if results:
                sections.append((title, results))
    except KeyboardInterrupt:
        print("\nbench: interrupted", file=sys.stderr)
        return 130
    finally:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        bench.close()

    print_tables(sections)
    whole = not (options.quick or options.word)
    if whole:
        write_markdown(Path("docs/benchmarks.md"), sections, bench.notes, options.plot)
    if whole and options.plot:
        write_svg(Path("docs/benchmarks.svg"), sections)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return int(any(result.trouble for _, results in sections for result in results))


if __name__ == "__main__":
    sys.exit(main())
