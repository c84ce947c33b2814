"""What bounds a row: the requests, system calls and context switches that an operation costs."""

import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

# linux/fuse.h, enum fuse_opcode: what the works here lead to.
OPERATIONS = {
    1: "LOOKUP", 2: "FORGET", 3: "GETATTR", 14: "OPEN", 15: "READ", 16: "WRITE", 18: "RELEASE",
    22: "GETXATTR", 25: "FLUSH", 27: "OPENDIR", 28: "READDIR", 29: "RELEASEDIR", 42: "BATCH_FORGET",
}  # fmt: skip
CALL = re.compile(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed>)")
# What is fetched from the FUSE device is read into a buffer of a megabyte and more.
FETCHED = re.compile(r'"((?:\\x[0-9a-f]{2}){8})"\.\.\., (\d{7,})\) = \d+$')


class Cost:
    """A server's requests and system calls by name, and its context switches, per operation."""

    def __init__(self, pid, work, times):
        before = switches(pid)
        work()
        self.switches = (switches(pid) - before) / times
        requests, calls = traced(pid, work)
        self.requests = {name: count / times for name, count in requests.items()}
        self.calls = {name: count / times for name, count in calls.items()}

    def __str__(self):
        total = sum(self.calls.values())
        return (
            f"{listed(self.requests)}; {number(total)} system calls ({listed(self.calls)}); "
            f"{number(self.switches)} context switches"
        )


def number(value):
    return f"{value:.1f}".removesuffix(".0")


def listed(counts):
    """`LOOKUP, WRITE 2`; what happens less than once in twenty times is left out."""
    shown = [(name, count) for name, count in counts.items() if count >= 0.05]
    shown.sort(key=lambda pair: -pair[1])
    return ", ".join(f"{name} {number(count)}".removesuffix(" 1") for name, count in shown)


def tasks(pid):
    return list(Path(f"/proc/{pid}/task").iterdir())


def field(task, name):
    for line in (task / "status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"{task} has no {name}")


def switches(pid):
    """Of its own accord, for want of a request, or because who has been answered goes first."""
    names = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
    return sum(field(task, name) for task in tasks(pid) for name in names)


def traced(pid, work):
    """The FUSE requests that a process fetches and the system calls that it makes meanwhile."""
    with tempfile.NamedTemporaryFile("r") as trace:
        command = ["strace", "-f", "-qq", "-xx", "-s", "8", "-o", trace.name, "-p", str(pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            while any(field(task, "TracerPid") == 0 for task in tasks(pid)):
                if tracer.poll() is not None:
                    raise RuntimeError(tracer.stderr.read().decode().strip() or "strace has failed")
                time.sleep(0.002)
            work()
        finally:
            tracer.terminate()
            tracer.wait()
        return read_trace(trace)


def read_trace(lines):
    requests, calls = Counter(), Counter()
    for line in lines:
        call = CALL.match(line)
        if not call or line.endswith("<unfinished ...>\n") or " <detached ...>" in line:
            continue
        calls[call[1]] += 1
        fetched = call[1] == "read" and FETCHED.search(line.rstrip())
        if fetched:
            opcode = int(fetched[1].replace("\\x", "")[8:10], 16)
            requests[OPERATIONS.get(opcode, f"operation {opcode}")] += 1
    return requests, calls
