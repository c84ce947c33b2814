"""A row of the table, and the forms in which the table is shown: text, Markdown, SVG."""

import contextlib
import itertools
import math
import os
import platform
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Callable, Optional, Union
from xml.sax.saxutils import escape

MIB = 1 << 20


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
    note: Union[str, Callable[[], str]] = ""  # What bounds it; a function finds it out afterwards.
    plot: bool = False  # Drawn even though it has no goal.


@dataclass
class Result:
    row: Row
    ours: float = 0.0
    peer: Optional[float] = None
    ratio: Optional[float] = None
    trouble: str = ""
    note: str = ""

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


def aligned(rows):
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    rights = {1, 3, 4}
    for row in rows:
        cells = [
            cell.rjust(width) if index in rights else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ]
        yield "  ".join(cells).rstrip()


def notes_of(results):
    notes = [f"{result.row.name}: {result.note}." for result in results if result.note]
    return dict.fromkeys(notes)


def print_tables(sections):
    everything = [HEADINGS, *(result.cells() for _, results in sections for result in results)]
    lines_left = aligned(everything)
    print(next(lines_left))
    for title, results in sections:
        print(f"\n{title}")
        for line in itertools.islice(lines_left, len(results)):
            print(line)
        for note in notes_of(results):
            print("*", note)
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
  least. It has ipcfs's shape, so that the kernel sends both the same requests: the kernel may keep
  no names, since anybody may change the objects at any time, and attributes for the rest of a path
  walk alone; it checks permissions itself; there is no flush handler. *With ipcfs's system calls* it
  makes, besides, exactly those that ipcfs cannot do without, so that it shows what bounds ipcfs.
* Where it says what something *costs*, that has been counted in the same run, after the times were
  taken: requests and system calls by strace(1), context switches by the kernel, of the server alone.
* Listed are objects at rest: nothing has been sent to the queues for a second.
* *On one processor* means that the client and the servers share one. The time is then that of the
  work. Elsewhere the scheduler is free to put them on two, and on an idle virtual machine most of
  the time goes into waking the other one, up to ten times as much as the request itself; which of
  the two happens changes from run to run, for ipcfs and for its peers.
* The compiled C sender and receiver ([send.c](../benches/peers/send.c),
  [receive.c](../benches/peers/receive.c)) do nothing but `mq_open` and `mq_send` or `mq_receive`;
  the shell starts one for each message, as scripts do. The Python line is
  `python3 -c 'import posix_ipc; ...'`.
* What the clock does in each row is in [measure.c](../benches/peers/measure.c) and
  [rows.py](../benches/compare/rows.py).
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
        notes = "".join(f"* {note}\n" for note in notes_of(results))
        if notes:
            parts.append(notes)
    if notes:
        parts.append("## Left out\n")
        parts.append("".join(f"* {note}\n" for note in notes))
    path.write_text("\n".join(parts))


def write_svg(path, sections):
    """The ratios as bars from 1, on a logarithmic scale, with each goal as a mark."""
    bars = [
        (title, result)
        for title, results in sections
        for result in results
        if result.ratio is not None and (result.row.plot or result.row.goal is not None)
    ]
    width, left, line = 920, 430, 17
    low = min(0.5, *(result.ratio for _, result in bars))
    high = max(2.0, *(result.ratio for _, result in bars))
    scale = (width - left - 90) / math.log(high / low)
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
        right = max(one, end)
        if result.row.goal is not None:
            goal = at(min(max(result.row.goal, low), high))
            right = max(right, goal)
            out.append(f'<path d="M{goal:.1f} {y - 12}v15" stroke="#222" stroke-width="1.5"/>')
        out.append(f'<text x="{right + 5:.1f}" y="{y}">{escape(show_ratio(result.ratio))}</text>')
        y += line
    head = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 10}">
<style>text {{ font: 11px sans-serif; fill: #222 }} .name {{ text-anchor: end }} .title {{ font-weight: bold }}</style>
<rect width="{width}" height="{y + 10}" fill="#fff"/>
<text x="8" y="20" class="title">ipcfs's time over the peer's (logarithmic; left of the line ipcfs is faster)</text>
<text x="8" y="36">green: goal met; red: not met; grey: no goal; black mark: the goal</text>
<path d="M{at(1):.1f} 44V{y}" stroke="#222"/>
"""
    path.write_text(head + "\n".join(out) + "\n</svg>\n")
