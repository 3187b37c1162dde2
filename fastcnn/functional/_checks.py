"""Checks, output sizes and memory orders that every function of `fastcnn.functional` shares.

Every error is `<argument>: expected <what>, got <what came>`.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import NoReturn, SupportsIndex, cast

import numpy as np

from fastcnn.functional._memory import allocate

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# DLPack's numbers for memory that the CPU reads: its own, pinned for CUDA or for ROCm, and CUDA's managed memory.
_HOST_DEVICES = (1, 3, 11, 13)


def fail(name: str, expected: str, got: object, error: type[Exception] = ValueError) -> NoReturn:
    """Raise `error` in the one wording that all checks use."""
    raise error(f"{name}: expected {expected}, got {got}")


# --- arrays ---------------------------------------------------------------------------------------------------------


def array(name: str, value: object, wanted: str = "a NumPy array of float32 or float64") -> np.ndarray:
    """Return an array, or the view of one that shares its memory by the array interface, a buffer or DLPack.

    Lists and the like are refused rather than guessed at: a list has no float type of its own.
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__array_interface__"):
        return np.asarray(value)
    try:
        return np.asarray(memoryview(value))  # type: ignore[arg-type]
    except TypeError:
        pass
    kind = type(value).__name__
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        fail(name, wanted, kind, TypeError)
    if getattr(value, "requires_grad", False):
        fail(name, "a tensor without gradient, as detach() returns it", f"{kind} that requires grad", TypeError)
    try:
        device = int(value.__dlpack_device__()[0])
        shared = np.from_dlpack(value) if device in _HOST_DEVICES else None
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        fail(name, wanted, f"{kind} that NumPy cannot share: {error}", TypeError)
    if shared is None:
        fail(name, "an array in the CPU's memory", f"{kind} on a device of DLPack's type {device}", TypeError)
    return shared


def floats(**arrays: object) -> list[np.ndarray | None]:
    """Check that the named arguments (None is passed through) are float32 or float64 arrays of one type.

    They come back as NumPy arrays in the machine's byte order and aligned.
    """
    checked: list[np.ndarray | None] = []
    first: tuple[str, np.dtype] | None = None
    for name, value in arrays.items():
        if value is None:
            checked.append(None)
            continue
        if not isinstance(value, np.ndarray):
            value = array(name, value)
        native = value.dtype if value.dtype.isnative else value.dtype.newbyteorder("=")
        if native not in FLOATS:
            fail(name, "an array of float32 or float64", value.dtype, TypeError)
        if first is None:
            first = (name, native)
        elif native != first[1]:
            fail(name, f"{first[1]} as {first[0]}", value.dtype, TypeError)
        if not (value.dtype.isnative and value.flags.aligned):
            value = value.astype(native)
        checked.append(value)
    return checked


def destination(out: object, size: tuple[int, ...], dtype: np.dtype, **inputs: np.ndarray | None) -> None:
    """Check an array that a result of this shape and type is to be written to: it may overlap none of the inputs."""
    if not isinstance(out, np.ndarray):
        fail("out", f"a NumPy array of {dtype}", type(out).__name__, TypeError)
    if out.dtype != dtype:
        fail("out", f"an array of {dtype}", out.dtype, TypeError)
    shape("out", out, size)
    if not (out.flags.writeable and out.flags.aligned):
        fail("out", "a writable, aligned array", "one that is not")
    for name, value in inputs.items():
        if value is not None and np.shares_memory(out, value):
            fail("out", f"memory apart from {name}", "an array that overlaps it")


def ndim(name: str, array: np.ndarray, *allowed: int) -> None:
    """Check the number of dimensions."""
    if array.ndim not in allowed:
        fail(name, f"{' or '.join(str(n) + '-D' for n in allowed)} array", f"shape {array.shape}")


def shape(name: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    """Check the whole shape."""
    if array.shape != tuple(expected):
        fail(name, f"shape {tuple(expected)}", array.shape)


def is_channels_last(array: np.ndarray) -> bool:
    """Whether the memory of a 4-D (N, C, H, W) array is NHWC.

    With one channel, or with one pixel, both orders are the same bytes: then the strides tell how the array was made,
    so that a transposed NHWC array stays channels-last.
    """
    if not array.transpose(0, 2, 3, 1).flags.c_contiguous:
        return False
    if not array.flags.c_contiguous:
        return True
    step, channels = array.itemsize, array.shape[1]
    return array.strides[1] == step and array.strides[3] == channels * step and array.shape[2] * array.shape[3] > 1


def channels_run_fastest(array: np.ndarray) -> bool:
    """Whether an (N, C, ...) array is not C-contiguous but would be with its channels last."""
    return _channels_run_fastest(array.shape, array.strides, array.itemsize)


@lru_cache(maxsize=4096)  # a network asks for the same few, step after step
def _channels_run_fastest(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    axes = range(len(shape))
    if len(shape) < 3 or _is_contiguous(axes, shape, strides, itemsize):
        return False
    return _is_contiguous((0, *axes[2:], 1), shape, strides, itemsize)


def _is_contiguous(axes: Sequence[int], shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Whether the memory runs through the axes from slow to fast, as NumPy's flags tell it."""
    for axis in reversed(axes):
        if shape[axis] > 1 and strides[axis] != itemsize:
            return 0 in shape
        itemsize *= shape[axis]
    return True


def ordered(array: np.ndarray, channels_last: bool | None = None) -> tuple[np.ndarray, bool]:
    """Return a 4-D array in one of the two memory orders, and whether that is channels-last.

    Copied only where it has another order than the one asked for, or (None) than either.
    """
    have = is_channels_last(array)
    if channels_last is None:
        channels_last = have
    if channels_last:
        nhwc = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        return nhwc.transpose(0, 3, 1, 2), True
    return np.ascontiguousarray(array), False


def empty(size: tuple[int, ...], dtype: np.dtype, channels_last: bool) -> np.ndarray:
    """Allocate an (N, C, H, W) array in the memory order named."""
    if channels_last:
        n, c, h, w = size
        return allocate((n, h, w, c), dtype).transpose(0, 3, 1, 2)
    return allocate(size, dtype)


def in_order(out: np.ndarray, channels_last: bool) -> np.ndarray:
    """Check that the memory of an (N, C, H, W) `out` runs in the order named."""
    if not (out.transpose(0, 2, 3, 1) if channels_last else out).flags.c_contiguous:
        wanted = "channels-last memory" if channels_last else "C-contiguous memory"
        fail("out", f"{wanted}, as that of input is", f"strides {out.strides}")
    return out


def fits(name: str, size: tuple[int, ...], itemsize: int = 8) -> None:
    """Refuse a shape whose bytes overflow a signed pointer, before anything is allocated."""
    total = itemsize
    for extent in size:
        total *= max(int(extent), 1)
    if total > sys.maxsize:
        fail(name, "a shape whose bytes fit in memory addresses", tuple(size))


# --- whole numbers and pairs ----------------------------------------------------------------------------------------


def integer(name: str, value: object, minimum: int) -> int:
    """Check one whole number; NumPy integers are welcome, bool and float are not."""
    if type(value) is int and minimum <= value <= sys.maxsize:
        return value
    wanted = {0: "a non-negative int", 1: "a positive int", -(2**63): "an int of 64 bits"}.get(
        minimum, f"an int of at least {minimum}"
    )
    try:
        number = operator.index(cast(SupportsIndex, value))
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)):
        fail(name, wanted, repr(value), TypeError)
    if not minimum <= number <= sys.maxsize:
        fail(name, wanted, repr(value))
    return number


def integers(name: str, value: object, count: int, minimum: int) -> tuple[int, ...]:
    """Check an int, or a sequence of `count` of them, and return `count` ints (an int stands for all)."""
    if isinstance(value, (tuple, list)):
        if len(value) != count:
            fail(name, f"an int or {count} of them", repr(value))
        return tuple([integer(name, item, minimum) for item in value])  # a list is quicker than a generator
    return (integer(name, value, minimum),) * count


def shape_argument(name: str, value: object, *lengths: int) -> tuple[int, ...]:
    """Check a shape given as an argument: a sequence of non-negative ints of one of the lengths."""
    if not isinstance(value, (tuple, list)) or len(value) not in lengths:
        fail(name, f"a tuple of {' or '.join(map(str, lengths))} ints", repr(value))
    return tuple(integer(name, item, 0) for item in value)


def needs(value: object) -> tuple[bool, bool, bool]:
    """Check which of the gradients of input, weight and bias are asked for."""
    if (
        isinstance(value, (tuple, list))
        and len(value) == 3
        and all(isinstance(item, (bool, np.bool_)) for item in value)
    ):
        return bool(value[0]), bool(value[1]), bool(value[2])
    fail("needs", "three bools, for the gradients of input, weight and bias", repr(value))


# --- sliding windows ------------------------------------------------------------------------------------------------


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Return how many places a window has along one axis; zero or less where it does not fit.

    Parameters
    ----------
    size, kernel, stride, padding, dilation : int
        Of this axis; `padding` is the sum of both sides divided by two (torch pads both alike).
    ceil_mode : bool
        Count a last window that overhangs the right edge, unless it would start in the right padding.

    Notes
    -----
    The rule of `torch.nn.functional`: floor((size + 2*padding - dilation*(kernel-1) - 1) / stride) + 1, or the ceiling.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    places = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (places - 1) * stride >= size + padding:
        places -= 1
    return places


def window(
    input_shape: tuple[int, ...],
    places: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    before: tuple[int, ...],
    dilation: tuple[int, ...],
    channels_last: bool,
) -> dict[str, int]:
    """Return the kernels' geometry struct (include/fastcnn/geometry.h), as the dict that Cython turns into it.

    Raises
    ------
    ValueError
        If what the windows reach over is too large for the kernels' offsets.
    """
    # The stride of an only place and the dilation of an only tap mean nothing, and could overflow in a kernel.
    stride = tuple([s if o > 1 else 1 for s, o in zip(stride, places, strict=True)])
    dilation = tuple([d if k > 1 else 1 for d, k in zip(dilation, kernel, strict=True)])
    reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(places, stride, kernel, dilation, strict=True)]
    fits("padding", (*input_shape[:2], *map(max, reach, before)))
    (n, c, h, w), (oh, ow), (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (
        input_shape, places, kernel, stride, before, dilation,
    )  # fmt: skip
    return {
        "n": n, "c": c, "h": h, "w": w, "oh": oh, "ow": ow, "kh": kh, "kw": kw, "sh": sh, "sw": sw,
        "ph": ph, "pw": pw, "dh": dh, "dw": dw, "channels_last": channels_last,
    }  # fmt: skip
