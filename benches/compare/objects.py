"""Many objects, and the daemon itself."""

import itertools
import os
import subprocess
import time
from pathlib import Path

from report import Row
from world import KINDS, M, MQUEUE, NOOP, TMPFS, brief, run


def listings(b):
    """Listings, ls and the servers on one processor"""
    sizes = [10, 1000] if b.quick else [10, 1000, 10_000]
    ipcs = {"sysv/msg": "-q", "sysv/sem": "-s", "sysv/shm": "-m"}
    for queue in MQUEUE.iterdir():
        queue.unlink()
    for size in sizes:
        (TMPFS / f"files-{size}").mkdir()
        for number in range(size):
            (TMPFS / f"files-{size}/many-{number}").touch()
    costs = {}
    for kind in [kind for kind in KINDS if kind in b.kinds]:
        for size in sizes:
            run(b.bin / "measure", "make", M / "fifo" if kind == "fifo" else kind, size)
            if kind == "mq":
                time.sleep(A_REST)
            large = size > 1000
            rounds = 5 if large else None
            for listing in (["ls"], ["ls", "-l"]):
                other, goal = [*listing, TMPFS / f"files-{size}"], 4 if listing[1:] else None
                beside = "as many files on tmpfs"
                if kind in ipcs:
                    other, goal = ["ipcs", ipcs[kind]], None if listing[1:] else 3
                    beside = " ".join(other)
                yield Row(
                    f"{' '.join(listing)} {kind}, {size:,}",
                    lambda listing=listing, kind=kind: b.command(*listing, M / kind),
                    beside,
                    lambda other=other: b.command(*other),
                    goal if large else None,
                    pinned=True,
                    rounds=rounds,
                    note=costs.get(kind, "") if large and listing[1:] else "",
                )
            if size == 1000:
                costs[kind] = cost_of_listing(b, kind, size)
            if large:
                yield Row(
                    f"ls -l {kind}, {size:,}",
                    lambda kind=kind: b.command("ls", "-l", M / kind),
                    "no-op FUSE, as many",
                    lambda: b.command("ls", "-l", NOOP),
                    pinned=True,
                    rounds=rounds,
                )
        remove_all(kind)


def cost_of_listing(b, kind, size):
    """What `ls -l` costs ipcfs for each name."""
    try:
        cost = b.cost(b.daemon, lambda: b.command("ls", "-l", M / kind), size)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"what it costs could not be counted: {brief(error)}"
    return f"each name costs ipcfs {cost}; {LIST_NOTE}"


A_REST = 1.2  # Seconds; what a queue holds that has been left alone for one, ipcfs remembers.
LIST_NOTE = "ls looks up each name, and the kernel may not keep what it has found"


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
