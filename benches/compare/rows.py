"""What is measured. To add a row, add a line to one of the functions that SECTIONS lists."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

from report import Row
from world import FORWARDED, GIB, KIB, KINDS, LONGEST, M, MIB, MQUEUE, NOOP, TMPFS, run


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


def afterwards(b):
    """When all that is over"""
    yield Row(
        "memory after the listings",
        lambda: resident(b.daemon),
        unit="MiB",
        rounds=1,
        note="the kernel keeps what ls -l has looked up in its cache until it needs the memory, and "
        "for as long the daemon keeps a node for each",
    )


SECTIONS = [
    requests,
    anywhere,
    shells,
    lines,
    semaphores,
    shared_memory,
    pipes,
    daemon,
    listings,
    afterwards,
]
