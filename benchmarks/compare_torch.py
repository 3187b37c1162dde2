"""fastcnn beside PyTorch on this machine, in one run: same threads, same inputs, results compared before times.

    python benchmarks/compare_torch.py convolutions     the convolutions of well-known networks, three passes each
    python benchmarks/compare_torch.py --help           everything else

benchmarks/README.md says how the two sides are treated. Without PyTorch, fastcnn runs alone.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys

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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare fastcnn with PyTorch.",
        epilog="\n".join(f"  {name:13} {summary}" for name, summary in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", nargs="?", choices=COMMANDS, default="convolutions", metavar="COMMAND", help="see below")
    add("--threads", type=int, default=2, metavar="N", help="threads of each side (default: 2)")
    add("--seconds", type=float, default=1.5, metavar="X", help="time for each row (default: 1.5)")
    add("--filter", default="", metavar="TEXT", help="only the rows with TEXT in their name")
    add("--cpu-time", action="store_true", help="measure processor time; for --threads 1 on a machine that is busy")
    add("--isa", metavar="PATH", help="fastcnn's kernel path; avx2 holds PyTorch to AVX2 as well")
    precisions = ("highest", "high", "medium")
    add("--precision", choices=precisions, default="highest", help="of fastcnn's float32 convolutions")
    add("--no-compile", action="store_true", help="leave torch.compile out of the steps")
    add("--data", metavar="FOLDER", help="where the images for training are, beside the folders that fastcnn looks in")
    add("--epochs", type=int, metavar="N", help="of training, instead of the recipe's")
    add("--json", metavar="FILE", help="save the figures")
    add("--chart", metavar="FILE", help="save a PNG chart of the ratios (needs matplotlib)")
    options = parser.parse_args()
    if options.chart and not importlib.util.find_spec("matplotlib"):
        parser.error("--chart needs matplotlib: pip install matplotlib")
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs: expected a positive number, got {options.epochs}")
    if options.cpu_time and options.threads != 1:
        parser.error("--cpu-time needs --threads 1: the time of threads that wait for each other would count twice")
    return options


def set_environment(options: argparse.Namespace) -> None:
    """Set what the libraries read when they are loaded."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(options.threads))
    if options.isa:
        os.environ["FASTCNN_ISA"] = options.isa
    if options.isa == "avx2":
        os.environ |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def main() -> int:
    options = parse()
    set_environment(options)
    peer = importlib.import_module("comparison.peer")
    reports = importlib.import_module("comparison.report")
    command = importlib.import_module(f"comparison.{options.command}")
    peer.set_threads(options.threads)
    peer.set_precision(options.precision)
    options.time = peer.timer(options)
    report = reports.Report(options.command, peer.header())
    report.add_header("clock", "processor time" if options.cpu_time else "wall time")
    status = command.run(options, report)
    if options.json:
        report.save_json(options.json)
    if options.chart:
        report.save_chart(options.chart)
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
