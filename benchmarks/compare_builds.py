"""Two builds of fastcnn beside each other: whole training steps and convolutions, results compared before times.

    python benchmarks/compare_builds.py --before PATH --after PATH

A PATH is a folder with a built `fastcnn` in it (a checkout, or what `pip install --target` filled), or an interpreter
that imports one. benchmarks/README.md says how the two are treated.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from comparison import builds
from comparison.report import Report


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare two builds of fastcnn: ratios of times, after over before.")
    add = parser.add_argument
    path = "folder that holds a built fastcnn, or an interpreter that imports one"
    add("--before", required=True, metavar="PATH", help=path)
    add("--after", required=True, metavar="PATH", help="the same; BEFORE again shows the noise")
    add("--threads", type=int, default=2, metavar="N", help="threads of each side (default: 2)")
    add("--seconds", type=float, default=3.0, metavar="X", help="time for each row (default: 3)")
    add("--processes", type=int, default=3, metavar="N", help="pairs of processes for each row (default: 3)")
    add("--filter", default="", metavar="TEXT", help="only the rows with TEXT in their name")
    add("--precision", choices=("highest", "high", "both"), default="both", help="of float32 convolutions")
    add("--isa", metavar="PATH", help="kernel path of both sides: avx512, avx2, generic")
    add("--cpu-time", action="store_true", help="measure processor time; for --threads 1 on a machine that is busy")
    add("--json", metavar="FILE", help="save the figures, all turns among them")
    options = parser.parse_args(arguments)
    for name in ("threads", "seconds", "processes"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name}: expected a positive number, got {getattr(options, name)}")
    if options.cpu_time and options.threads != 1:
        parser.error("--cpu-time needs --threads 1: the time of threads that wait for each other would count twice")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit status is 1 where a row failed."""
    options = parse(arguments)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(options.json, "w", encoding="utf-8")) if options.json else None
        report = Report("compare_builds", sys.argv[1:] if arguments is None else arguments)
        report.add_header("clock", "processor time" if options.cpu_time else "wall time")
        builds.run(options, report)
        if file:
            report.save_json(file)
    return report.status()


if __name__ == "__main__":
    sys.exit(main())
