"""PyTorch, if it is installed: its settings, and arrays in its memory orders."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import fastcnn
from fastcnn.benchmark import machine

try:
    import torch
except ImportError:
    torch = None

# Variables that change what either side does. compare_torch.py sets some of them.
VARIABLES = (
    "FASTCNN_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS",
)  # fmt: skip


def set_threads(count: int) -> None:
    fastcnn.set_num_threads(count)
    if torch is not None:
        torch.set_num_threads(count)


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
        }
    found["environment"] = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ) or "-"
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
