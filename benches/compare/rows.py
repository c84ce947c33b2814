"""Requests, messages, semaphores. To add a row, add a line to one of these functions; __main__.py
lists them all."""

import os
import subprocess
import sys
import time

from report import Row
from world import LONGEST, M, MIB, NOOP, SAME, TMPFS


def requests(b):
    """One request after the other, client and servers on one processor"""
    if "mq" not in b.kinds:
        return
    b.queue("q", 300, 64)
    mq, null, same = M / "mq/q", NOOP / "null", SAME / "null"

    def pair(work, other=null, *queue):
        return (
            lambda: b.clock(work, mq, 64, b.span, "/q"),
            lambda: b.clock(work, other, 64, b.span, *queue),
        )

    def costs(work):
        """What one operation costs each of the servers."""

        def costs_of(pid, file):
            return b.cost(pid, lambda: b.clock("-n", 200, work, file, 64, 0, "/q"), 200)

        ours, noop = costs_of(b.daemon, mq), costs_of(b.noop, null)
        return f"each costs ipcfs {ours}, the no-op {noop}"

    def row(name, work, goal=None, counted=False):
        ours, peer = pair(work)
        note = (lambda: costs(work)) if counted else ""
        return Row(name, ours, "no-op FUSE", peer, goal, pinned=True, note=note)

    yield row("write, 64 bytes", "write", 1.2, counted=True)
    yield row("open, write, close", "open-write-close", 1.3, counted=True)
    yield Row(
        "open, write, close",
        *pair("open-write-close")[:1],
        "no-op FUSE with ipcfs's system calls",
        pair("open-write-close", same, "/q")[1],
        pinned=True,
    )
    yield row("the same while another writes", "open-write-close-beside", counted=True)
    yield row("read a message and its end of file", "read")
    yield Row(
        "stat of a queue at work",
        lambda: b.clock("stat-at-work", mq, b.span, "/q"),
        "no-op FUSE",
        lambda: b.clock("stat", null, b.span),
        pinned=True,
    )
    yield Row(
        "stat of a queue at rest",
        lambda: b.clock("stat-at-rest", mq, b.span, "/q"),
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
            plot=True,
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

    def taking(body, count=count):
        return lambda: b.shell(body, count, before=lambda: b.fill("q", count))

    echo = loop(f"echo x > {M}/mq/q")
    sender = loop(f"{b.bin}/send /q x")
    python = f"""{sys.executable} -c 'import posix_ipc; posix_ipc.MessageQueue("/q")."""
    sends, receives = python + """send("x")'""", python + """receive()'"""
    read, receiver = taking(f"read -r line < {M}/mq/q"), taking(f"{b.bin}/receive /q > /dev/null")
    for name, ours, beside, peer, goal in [
        ("echo > mq/q", echo, "compiled C sender", sender, 1 / 5),
        ("echo > mq/q", echo, "Python line", loop(sends, few), 1 / 300),
        ("echo > mq/q", echo, "no-op FUSE", loop(f"echo x > {NOOP}/null"), None),
        ("read < mq/q", read, "compiled C receiver", receiver, None),
        ("read < mq/q", read, "Python line", taking(receives, few), None),
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

        yield Row(
            f"lines of {length} bytes",
            stream(file, file),
            "plain pipe",
            stream(None, None),
            plot=True,
        )
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
            plot=True,
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
                plot=True,
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
