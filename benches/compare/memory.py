"""Shared memory and named pipes: what the daemon stays out of."""

import os
from pathlib import Path

from report import Row
from world import FORWARDED, GIB, KIB, M, MIB, NOOP, TMPFS, run


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


def dd(b, way, path, count):
    """dd from or to a file."""
    ends = (path, "/dev/null") if way == "from" else ("/dev/zero", path)
    return lambda: b.command(
        "dd", f"if={ends[0]}", f"of={ends[1]}", "bs=1M", f"count={count}", "conv=notrunc"
    )


def shared_memory(b):
    """Shared memory"""
    size = 64 * MIB if b.quick else GIB
    count = size // MIB
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
        for way in ["from", "to"]:
            yield Row(
                f"shm dd bs=1M {way}, {count} MiB",
                dd(b, way, M / "shm/big", count),
                "/dev/shm",
                dd(b, way, native, count),
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
        # Both are a program that starts, goes through the segment once and ends.
        for way, work in [("from", "shmat-load-once"), ("to", "shmat-store-once")]:
            yield Row(
                f"sysv/shm dd bs=1M {way}, {count} MiB",
                dd(b, way, file, count),
                "C program: shmat, memcpy",
                lambda work=work: b.command(b.bin / "measure", work, "0x77", size),
                1 / 0.5,
                rounds=3,
            )
        yield from blocks(b, "sysv/shm", file, "0x77", works + mapped, goals)
        write = lambda path: lambda: b.clock("pwrite", path, MIB, 64 * MIB, b.span)
        yield Row(
            "sysv/shm write, 1 MiB",
            write(file),
            "no-op FUSE",
            write(NOOP / "null"),
            pinned=True,
            note="the bytes are copied twice, into the daemon and into the segment: the kernel must "
            "not write by itself, since that could make the segment's file grow. And memcpy in a "
            "mapping that has all its pages is faster than read(2) and write(2) can be, through the "
            "mount or not: the rows of /dev/shm above have their times. dd beside a program that "
            "attaches the segment first, as it has to, is what the goal is about",
        )
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
