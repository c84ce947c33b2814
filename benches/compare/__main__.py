"""ipcfs beside what it competes with: called by scripts/bench in namespaces of its own.

Each row is a work, done by ipcfs and by a peer in turn (A B A B ..); the table shows the medians of
both and the median of the pairs' ratios, ipcfs's time over the peer's.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from memory import pipes, shared_memory
from objects import afterwards, daemon, listings
from report import print_tables, write_markdown, write_svg
from rows import anywhere, lines, requests, semaphores, shells
from world import Bench, brief

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
