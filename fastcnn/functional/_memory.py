"""Memory of the functions' results, and their working memory."""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import DTypeLike

from fastcnn.kernels.memory import Block

_local = threading.local()


def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an uninitialised C-contiguous array, as `numpy.empty`, whose memory is used again when it dies."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < 4096:  # the C library serves these from memory that it keeps as well
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, Block(size))  # type: ignore[arg-type]  # any buffer will do


def scratch(size: int) -> np.ndarray:
    """Return at least `size` bytes that belong to the calling thread until its next call of this function."""
    buffer = getattr(_local, "buffer", None)
    if buffer is None or buffer.size < size:
        buffer = _local.buffer = np.empty(max(size, 1 << 16), np.uint8)
    return buffer
