"""Memory of the functions' results, and how much of it is in use."""

from __future__ import annotations

import math
import sys

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.kernels.memory import Block, restart_peak, smallest_block, used_bytes

__all__ = ["allocate", "restart_peak", "used_bytes"]

_SMALLEST = smallest_block()


def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an uninitialised C-contiguous array, as `numpy.empty`, whose memory is used again when it dies."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size > sys.maxsize:
        raise MemoryError(f"no memory for an array of {size} bytes")
    if size < _SMALLEST:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, Block(size))  # type: ignore[arg-type]  # any buffer will do
