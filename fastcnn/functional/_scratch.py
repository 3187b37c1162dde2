"""Working memory of the kernels, kept for the next call: one buffer for each Python thread."""

from __future__ import annotations

import threading

import numpy as np

_local = threading.local()


def scratch(size: int) -> np.ndarray:
    """Return at least `size` bytes that belong to the calling thread until its next call of this function."""
    buffer = getattr(_local, "buffer", None)
    if buffer is None or buffer.size < size:
        buffer = _local.buffer = np.empty(max(size, 1 << 16), np.uint8)
    return buffer
