"""PyTorch, if it is installed: its settings, and arrays in its memory orders."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# First, so that the OpenMP runtime that both sides may share is the one that PyTorch brings, as it sets it up.
try:
    import torch
except ImportError:
    torch = None

# What was set when the OpenMP runtime was loaded; importing fastcnn sets GOMP_SPINCOUNT for a runtime that is not.
VARIABLES = (
    "FASTCNN_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS",
)  # fmt: skip
ENVIRONMENT = {name: os.environ[name] for name in VARIABLES if name in os.environ}

import fastcnn  # noqa: E402
from fastcnn.benchmark import SETTLE, Timing, interleave, machine  # noqa: E402


def set_threads(count: int) -> None:
    fastcnn.set_num_threads(count)
    if torch is not None:
        torch.set_num_threads(count)


def set_precision(name: str) -> None:
    """Of fastcnn's convolutions; PyTorch's take bf16 products where that is the peer: at 'medium'."""
    fastcnn.set_float32_matmul_precision(name)
    if torch is not None and name == "medium":
        torch.backends.mkldnn.conv.fp32_precision = "bf16"


def openmp_runtimes() -> set[str]:
    """Paths of the OpenMP runtimes that are loaded, where the system tells (Linux)."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as file:
            paths = {line.split()[-1] for line in file}
    except OSError:
        return set()
    return {path for path in paths if re.match(r"lib(g|i)?omp\d*[.-]", os.path.basename(path))}


def timer(options: argparse.Namespace) -> Callable[..., Timing]:
    """Return the timer of all tables: of a dict of callables and, if wanted, seconds.

    Between turns it waits for the other side's threads to sleep, unless both sides have the same threads.
    """
    clock = time.process_time if options.cpu_time else time.perf_counter
    settle = 0.0 if len(openmp_runtimes()) == 1 else SETTLE
    return lambda sides, seconds=options.seconds: interleave(sides, seconds, clock=clock, settle=settle)


def header() -> dict[str, str]:
    """Return what the figures depend on."""
    found = machine()
    if torch is None:
        found["torch"] = "not installed: fastcnn runs alone (pip install torch==2.13.0 for the comparison)"
    else:
        found |= {
            "torch": torch.__version__,
            "torch threads": str(torch.get_num_threads()),
            "torch instruction set": torch.backends.cpu.get_cpu_capability(),
            "torch float32 products": torch.get_float32_matmul_precision(),
            "torch convolutions": torch.backends.mkldnn.conv.fp32_precision,
        }
        found["OpenMP runtimes"] = ", ".join(sorted(openmp_runtimes())) or "unknown"
    found["environment"] = ", ".join(f"{name}={value}" for name, value in ENVIRONMENT.items()) or "-"
    return found


def tensor(array: np.ndarray, channels_last: bool = False) -> Any:
    """Return a tensor with memory of its own, in one of PyTorch's memory orders."""
    value = torch.from_numpy(np.array(array, order="C"))
    return value.to(memory_format=torch.channels_last) if channels_last and value.ndim == 4 else value


def numpy(value: Any) -> np.ndarray:
    """Return a result of either side as an array."""
    return value.detach().numpy() if torch is not None and isinstance(value, torch.Tensor) else np.asarray(value)


def error(got: Any, expected: np.ndarray) -> float:
    """Root mean square of the difference, relative to that of what was expected."""
    return float(np.linalg.norm(numpy(got) - expected) / np.linalg.norm(expected))
