"""Arrays that must be there, the results of a call, and flat views of memory for functions that ignore the axes."""

from __future__ import annotations

from collections.abc import Sequence
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


# --- results as `_calls.Call` takes them ------------------------------------------------------------------------------

New = tuple[tuple[int, ...], tuple[int, ...], np.dtype]


def new(shape: tuple[int, ...], dtype: np.dtype, axes: tuple[int, ...] | None = None) -> New:
    """A result to be allocated; its memory runs through `axes` from slow to fast, or is C-contiguous."""
    return shape, tuple(range(len(shape))) if axes is None else axes, dtype


def gradients(
    needs: tuple[bool, ...], out: object, made: Sequence[New], **inputs: np.ndarray
) -> tuple[np.ndarray | New | None, ...]:
    """Check the arrays that gradients of input, weight and bias are to be written to; the others are to be `made`."""
    if not isinstance(out, (tuple, list)) or len(out) != 3:
        check.fail("out", "three arrays or None, for the gradients of input, weight and bias", repr(out))
    results: list[np.ndarray | New | None] = []
    for needed, given, (shape, axes, dtype) in zip(needs, out, made, strict=True):
        if given is None:
            results.append((shape, axes, dtype) if needed else None)
            continue
        if not needed:
            check.fail("out", "None for a gradient that is not needed", f"an array of shape {np.shape(given)}")
        others = {f"out[{i}]": other for i, other in enumerate(out) if other is not given}
        check.destination(given, shape, dtype, **inputs, **others)
        contiguous(given, axes)
        results.append(given)
    return tuple(results)


def zeros(results: tuple[np.ndarray | New | None, ...]) -> tuple[np.ndarray | None, ...]:
    """What a sum over nothing leaves in results."""
    arrays = []
    for result in results:
        if isinstance(result, tuple):
            result, _ = empty(*result)
        if result is not None:
            result.fill(0)
        arrays.append(result)
    return tuple(arrays)
