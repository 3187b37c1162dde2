"""Arrays that must be there, and flat views of memory for the functions to which the order of axes does not matter."""

from __future__ import annotations

from typing import cast

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional._memory import allocate
from fastcnn.functional._types import Array


def required(**arrays: Array | None) -> list[np.ndarray]:
    """Check arrays as `floats` does, where none may be None."""
    for name, array in arrays.items():
        if array is None:
            check.fail(name, "a NumPy array of float32 or float64", None, TypeError)
    return cast(list[np.ndarray], check.floats(**arrays))


def memory_axes(array: np.ndarray) -> tuple[int, ...]:
    """Return the axes from the slowest to the fastest in memory; the natural order where the array has gaps."""
    natural = tuple(range(array.ndim))
    if array.ndim == 4 and check.is_channels_last(array):
        return (0, 2, 3, 1)
    if array.flags.c_contiguous:
        return natural
    axes = tuple(sorted(natural, key=lambda axis: -array.strides[axis]))
    return axes if array.transpose(axes).flags.c_contiguous else natural


def flat(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the elements as a contiguous vector, the last of `axes` running fastest; copied only where needed."""
    return np.ascontiguousarray(array.transpose(axes)).reshape(-1)


def contiguous(out: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the flat view of an `out` whose memory must run through `axes` from slow to fast."""
    view = out.transpose(axes)
    if not view.flags.c_contiguous:
        check.fail("out", f"contiguous memory, its axes {axes} from slow to fast", f"strides {out.strides}")
    return view.reshape(-1)


def empty(shape: tuple[int, ...], axes: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Allocate an array whose memory runs through `axes` from slow to fast; return it and the flat view of it."""
    buffer = allocate(tuple(shape[axis] for axis in axes), dtype)
    return buffer.transpose(sorted(axes, key=axes.__getitem__)), buffer.reshape(-1)
