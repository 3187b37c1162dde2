"""fastcnn beside PyTorch on this machine: each alone in a process, in turns, results compared before times.

    python benchmarks/compare_torch.py convolutions     the convolutions of well-known networks, three passes each
    python benchmarks/compare_torch.py --help           everything else

benchmarks/README.md says how the two sides are treated. Without PyTorch, fastcnn runs alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import sys

from comparison import sides
from comparison.report import Report

COMMANDS = {
    "convolutions": "the convolutions of well-known networks, in three passes: speed and error",
    "steps": "whole training steps, evaluation, layers, an optimizer, and peak memory",
    "error": "relative error against float64 on each kernel path, by the length of the sum",
    "bits": "hashes of trained weights, for several numbers of threads on each kernel path",
    "memory": "peak memory of a convolution's forward and backward pass",
    "passes": "where the time of a ResNet-20 step goes, and the bytes that it moves; fastcnn alone",
    "training": "networks trained on MNIST and CIFAR-10, the same recipe on both sides: wall-clock time, accuracy",
    "loader": "the loader with augmentation beside the steps that it feeds; fastcnn alone",
}
ALONE = ("bits", "passes", "loader")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare fastcnn with PyTorch.",
        epilog="\n".join(f"  {name:13} {summary}" for name, summary in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", nargs="?", choices=COMMANDS, default="convolutions", metavar="COMMAND", help="see below")
    add("--threads", type=int, default=2, metavar="N", help="threads of each side (default: 2)")
    add("--seconds", type=float, default=2.0, metavar="X", help="time for each row (default: 2)")
    add("--filter", default="", metavar="TEXT", help="only the rows with TEXT in their name")
    add("--cpu-time", action="store_true", help="measure processor time; for --threads 1 on a machine that is busy")
    add("--isa", metavar="PATH", help="fastcnn's kernel path; avx2 holds PyTorch to AVX2 as well")
    precisions = ("highest", "high", "medium")
    add("--precision", choices=precisions, default="highest", help="of fastcnn's float32 convolutions")
    add("--no-compile", action="store_true", help="leave torch.compile out of the steps")
    add("--data", metavar="FOLDER", help="where the images for training are, beside the folders that fastcnn looks in")
    add("--epochs", type=int, metavar="N", help="of training, instead of the recipe's")
    add("--json", metavar="FILE", help="save the figures, all turns among them")
    add("--chart", metavar="FILE", help="save a PNG chart of the ratios (needs matplotlib)")
    options = parser.parse_args(arguments)
    if options.chart and not importlib.util.find_spec("matplotlib"):
        parser.error("--chart needs matplotlib: pip install matplotlib")
    for name in ("threads", "seconds", "epochs"):
        if getattr(options, name) is not None and not getattr(options, name) > 0:
            parser.error(f"--{name}: expected a positive number, got {getattr(options, name)}")
    if options.cpu_time and options.threads != 1:
        parser.error("--cpu-time needs --threads 1: the time of threads that wait for each other would count twice")
    return options


def add_header(options: argparse.Namespace, report: Report) -> None:
    """Print what each side is, as its process says."""
    with sides.worker(sides.OURS, options) as worker:
        for name, value in sides.about(worker, sides.OURS, options).items():
            report.add_header(f"fastcnn: {name}" if name != "fastcnn" else name, value)
    if options.command in ALONE:
        return
    if not sides.has_torch():
        report.add_header("PyTorch", "not installed: fastcnn runs alone (pip install torch for the comparison)")
        return
    with sides.worker(sides.THEIRS, options) as worker:
        for name, value in sides.about(worker, sides.THEIRS, options).items():
            report.add_header(f"PyTorch: {name}", value)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; the exit status is 1 where a row failed."""
    options = parse(arguments)
    command = importlib.import_module(f"comparison.{options.command}")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(options.json, "w", encoding="utf-8")) if options.json else None
        report = Report("compare_torch", sys.argv[1:] if arguments is None else arguments)
        add_header(options, report)
        report.add_header("clock", "processor time" if options.cpu_time else "wall time")
        command.run(options, report)
        if file:
            report.save_json(file)
        if options.chart:
            report.save_chart(options.chart)
    return report.status()


if __name__ == "__main__":
    sys.exit(main())
