"""Arrays that must be there, the results of a call, and flat views of memory for functions that ignore the axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import DTypeLike

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


def new_images(size: tuple[int, ...], dims: int, batched: bool, channels_last: bool, dtype: DTypeLike) -> New:
    """An (N, C, H, W) result as a caller sees it: without the height where `dims` is 1, without N unless `batched`."""
    shape = seen(size, dims, batched)
    axes = tuple(range(len(shape)))
    channel = 1 if batched else 0
    if channels_last:
        axes = (*axes[:channel], *axes[channel + 1 :], channel)
    return new(shape, np.dtype(dtype), axes)


def seen(size: tuple[int, ...], dims: int, batched: bool) -> tuple[int, ...]:
    """The shape that a caller sees of an (N, C, H, W) array."""
    size = size if dims == 2 else size[:2] + size[3:]
    return size if batched else size[1:]


def gradients(
    needs: tuple[bool, ...], out: object, made: Sequence[New], **given: object
) -> tuple[np.ndarray | New | None, ...]:
    """Check the arrays that gradients of input, weight and bias are to be written to; the others are to be `made`."""
    if not isinstance(out, (tuple, list)) or len(out) != 3:
        check.fail("out", "three arrays or None, for the gradients of input, weight and bias", check.shown(out))
    results: list[np.ndarray | New | None] = []
    for needed, target, (shape, axes, dtype) in zip(needs, out, made, strict=True):
        if target is None:
            results.append((shape, axes, dtype) if needed else None)
            continue
        if not needed:
            check.fail("out", "None for a gradient that is not needed", f"an array of shape {np.shape(target)}")
        others = {f"out[{i}]": other for i, other in enumerate(out) if i != len(results)}
        contiguous(check.destination(target, shape, dtype, **given, **others), axes)
        results.append(target)
    return tuple(results)


def zeros(results: tuple[np.ndarray | New | None, ...]) -> np.ndarray | tuple[np.ndarray | None, ...]:
    """What calls on nothing return: sums over nothing, and arrays without elements."""
    arrays = []
    for result in results:
        array = empty(*result)[0] if isinstance(result, tuple) else result
        if array is not None and array.size:
            np.asarray(array).fill(0)
        arrays.append(array)
    return arrays[0] if len(arrays) == 1 and arrays[0] is not None else tuple(arrays)
