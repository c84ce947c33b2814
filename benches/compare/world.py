"""The mounts that are compared, and the ways to take time."""

import contextlib
import errno
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bounds import Cost
from report import Result

M = Path("/run/bench/ipc")  # ipcfs
FORWARDED = Path("/run/bench/forwarded")  # ipcfs -o no_passthrough
NOOP_MOUNT, SAME_MOUNT = Path("/run/bench/noop"), Path("/run/bench/same")
NOOP = NOOP_MOUNT / "dir"  # A no-op FUSE file system.
SAME = SAME_MOUNT / "dir"  # Another, that makes ipcfs's system calls on the queue "q".
TMPFS = Path("/run/bench/tmpfs")
MQUEUE = Path("/run/bench/mqueue")
KINDS = ["mq", "shm", "sem", "fifo", "sysv/msg", "sysv/sem", "sysv/shm"]
POSSIBLE_NAME = {"sysv/msg": "0x7", "sysv/sem": "0x7", "sysv/shm": "0x7"}
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LONGEST = 30  # Seconds that a single measurement may take.


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
        self.daemon = self.noop = 0

    # Starting and ending.

    def set_up(self):
        for directory in ["/dev/shm", "/run"]:
            run("mount", "-t", "tmpfs", "tmpfs", directory)
        for directory in [M, FORWARDED, NOOP_MOUNT, SAME_MOUNT, TMPFS, MQUEUE]:
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
        self.noop = self.start(self.bin / "noop", "-n", "10000", NOOP_MOUNT).pid
        self.start(self.bin / "noop", "-q", MQUEUE / "q", SAME_MOUNT)
        self.daemon = self.start_ipcfs(M)
        self.wait_for_mount(NOOP_MOUNT)
        self.wait_for_mount(SAME_MOUNT)
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
        for mountpoint in [FORWARDED, M, NOOP_MOUNT, SAME_MOUNT]:
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

    def cost(self, pid, work, times):
        """What `work`, which is `times` operations, costs a server."""
        return Cost(pid, work, times)

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
                note = self.note_of(row)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            return Result(row, trouble=f"failed: {brief(error)}")
        result = Result(row, ours=statistics.median(ours for ours, _ in pairs), note=note)
        if row.peer:
            result.peer = statistics.median(peer for _, peer in pairs)
            result.ratio = statistics.median(ours / peer for ours, peer in pairs)
        return result


    @staticmethod
    def note_of(row):
        if not callable(row.note):
            return row.note
        try:
            return row.note()
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            return f"what it costs could not be counted: {brief(error)}"


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
