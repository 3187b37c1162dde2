"""Checks, output sizes and memory orders that every function of `fastcnn.functional` shares.

Every error is `<argument>: expected <what>, got <what came>`.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NoReturn, SupportsIndex, cast

import numpy as np

from fastcnn.functional._memory import allocate

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# DLPack's numbers for memory that the CPU reads: its own, pinned for CUDA or for ROCm, and CUDA's managed memory.
_HOST_DEVICES = (1, 3, 11, 13)


# Elements of an array, and multiply-adds of a call, that the kernels' offsets and counts have room for.
MOST_ELEMENTS = 1 << 44
MOST_WORK = 1 << 62

# Axes that an array of NumPy may have: lists in lists of more levels are no array.
_MOST_AXES = 64


def fail(name: str, expected: str, got: object, error: type[Exception] = ValueError) -> NoReturn:
    """Raise `error` in the one wording that all checks use."""
    raise error(f"{name}: expected {expected}, got {got}")


def shown(value: object) -> str:
    """repr(value), for messages: shortened, and also where there is none."""
    try:
        text = repr(value)
    except Exception:  # of tuples in tuples a thousand deep, or of a class of the caller's
        return f"a {type(value).__name__}"
    return text if len(text) <= 400 else text[:200] + " ... " + text[-100:]


# --- arrays ---------------------------------------------------------------------------------------------------------


def array(name: str, value: object, wanted: str = "a NumPy array of float32 or float64") -> np.ndarray:
    """Return an array, or the view of one that shares its memory by the array interface, a buffer or DLPack.

    The result is an ndarray proper: a subclass (a matrix, a memmap) may index, slice and multiply otherwise. Lists and
    the like are refused rather than guessed at: a list has no float type of its own.
    """
    if type(value) is np.ndarray:
        return value
    if issubclass(type(value), np.ndarray):  # isinstance also believes an object's own __class__
        return plain(name, cast(np.ndarray, value))
    kind = type(value).__name__
    try:
        shared = _shared(name, value)
    except MemoryError:
        raise
    except Exception as error:  # whatever the methods of a class of the caller's raise
        fail(name, wanted, f"{kind} that NumPy cannot share: {error}", TypeError)
    if shared is None:
        fail(name, wanted, kind, TypeError)
    if type(shared) is not np.ndarray:
        return plain(name, shared)
    if shared.size and not shared.ctypes.data:
        fail(name, wanted, f"{kind} whose memory begins at NULL", TypeError)
    return shared


def plain(name: str, value: np.ndarray) -> np.ndarray:
    """Return the memory of an ndarray of a subclass as an ndarray proper; refuse a masked array that masks something.

    Raises
    ------
    TypeError
        If elements are masked: without the mask they would count.
    """
    kind = type(value).__name__
    try:
        mask = np.asarray(
            np.ma.getmask(value) if isinstance(value, np.ma.MaskedArray) else getattr(value, "mask", False)
        )
    except Exception as error:
        fail(name, "an array", f"{kind} whose mask cannot be read: {error}", TypeError)
    if mask.dtype == np.bool_ and mask.any():
        fail(name, "an array without masked elements", f"{kind} that masks some; fill or drop them first", TypeError)
    return np.asarray(value)


def array_like(name: str, value: object, order: Literal["K", "C"] = "K") -> np.ndarray:
    """Return what `numpy.asarray` makes of arrays, numbers and lists of them, without masked elements lost."""
    _refuse_masks(name, value, 0)
    try:
        result = np.asarray(value, order=order)
    except MemoryError:
        raise
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        fail(name, "an array, or lists of numbers", f"{type(value).__name__}: {error}", kind)
    if result.size and not result.ctypes.data:
        fail(name, "an array", f"{type(value).__name__} whose memory begins at NULL", TypeError)
    return result


def _refuse_masks(name: str, value: object, depth: int) -> None:
    if issubclass(type(value), np.ndarray):
        if type(value) is not np.ndarray:
            plain(name, cast(np.ndarray, value))
    elif isinstance(value, (list, tuple)) and depth < _MOST_AXES:
        for item in value:
            if not isinstance(item, (int, float)):
                _refuse_masks(name, item, depth + 1)


def _shared(name: str, value: object) -> np.ndarray | None:
    """An array in the memory that an object shows by a protocol; None where it has none of them."""
    if hasattr(type(value), "__array_interface__") or hasattr(value, "__array_interface__"):
        return _of_interface(value)
    try:
        return np.asarray(memoryview(value))  # type: ignore[arg-type]
    except TypeError:
        pass
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        return None
    kind = type(value).__name__
    if getattr(value, "requires_grad", False):
        fail(name, "a tensor without gradient, as detach() returns it", f"{kind} that requires grad", TypeError)
    device = int(value.__dlpack_device__()[0])
    if device not in _HOST_DEVICES:
        fail(name, "an array in the CPU's memory", f"{kind} on a device of DLPack's type {device}", TypeError)
    return np.from_dlpack(value)


class _Interface:
    """What an object said of its memory, said once."""

    def __init__(self, interface: dict, owner: object) -> None:
        self.__array_interface__, self.owner = interface, owner


def _of_interface(value: Any) -> np.ndarray:
    """The array that an array interface describes; it may not reach beyond a buffer that it names, or is."""
    interface = value.__array_interface__
    if not isinstance(interface, dict):
        raise TypeError("its array interface is no dict")
    data = interface.get("data")
    if isinstance(data, tuple):
        return np.asarray(_Interface(interface, value))
    view = memoryview(value if data is None else data)
    interface = {**interface, "data": view}
    start = operator.index(interface.get("offset", 0))
    result = np.asarray(_Interface(interface, value))
    low = high = start
    for extent, stride in zip(result.shape, result.strides, strict=True):
        low, high = low + min(0, (extent - 1) * stride), high + max(0, (extent - 1) * stride)
    if result.size and not 0 <= low <= high + result.itemsize <= view.nbytes:
        raise ValueError(f"its elements reach beyond its {view.nbytes} bytes")
    return result


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
        if type(value) is not np.ndarray:
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


def destination(
    out: object, size: tuple[int, ...], dtype: np.dtype, same: Sequence[object] = (), /, **given: object
) -> np.ndarray:
    """Check an array that a result of this shape and type is to be written to; return its memory as an ndarray proper.

    It may overlap none of the arguments, which come as the caller gave them: not even one that is read from a copy, in
    the machine's byte order. But it may be, element for element, one of those in `same`.
    """
    if not issubclass(type(out), np.ndarray):
        fail("out", f"a NumPy array of {dtype}", type(out).__name__, TypeError)
    out = array("out", out)
    if out.dtype != dtype:
        fail("out", f"an array of {dtype}", out.dtype, TypeError)
    shape("out", out, size)
    if not (out.flags.writeable and out.flags.aligned):
        fail("out", "a writable, aligned array", "one that is not")
    for name, argument in given.items():
        if argument is None or isinstance(argument, (list, tuple)):
            continue
        value = array(name, argument)
        if any(argument is other for other in same) and same_memory(out, value):
            continue
        if overlap(out, value):
            fail("out", f"memory apart from {name}", "an array that overlaps it")
    return out


def same_memory(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether each element of the one is the other's at the same place: then an element may take its own place."""
    same = a.dtype == b.dtype and a.shape == b.shape and a.strides == b.strides
    return same and a.ctypes.data == b.ctypes.data


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have a byte in common; also where it would take long to find out that they have none."""
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # any int will do
    except np.exceptions.TooHardError:
        return True


def apart(written: Mapping[str, np.ndarray | None], **others: np.ndarray | None) -> None:
    """Check that no array which is written to overlaps another one."""
    arrays = {name: array for name, array in {**written, **others}.items() if array is not None}
    for name, value in written.items():
        for other_name, other in arrays.items():
            if value is not None and name != other_name and overlap(value, other):
                fail(name, f"memory apart from {other_name}", "an array that overlaps it")


def float_type(name: str, value: object) -> np.dtype:
    """Check that a type is float32 or float64."""
    try:
        dtype = np.dtype(value)  # type: ignore[call-overload]
    except Exception:  # as one's own classes raise
        fail(name, "float32 or float64", shown(value), TypeError)
    if dtype not in FLOATS:
        fail(name, "float32 or float64", dtype, TypeError)
    return dtype


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


def fits(name: str, size: tuple[int, ...]) -> None:
    """Refuse a shape of more elements than any memory holds, before anything is allocated.

    The limit, 2**44, is that of the kernels too (include/fastcnn/geometry.h): what they compute from sizes below it
    fits in 64 bits.
    """
    total = 1
    for extent in size:
        total *= max(int(extent), 1)
    if total > MOST_ELEMENTS:
        fail(name, "a shape whose bytes fit in memory addresses", f"{tuple(size)}: {total} elements, over 2**44")


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
        fail(name, wanted, shown(value), TypeError)
    if not minimum <= number <= sys.maxsize:
        fail(name, wanted, shown(value))
    return number


def integers(name: str, value: object, count: int, minimum: int, least: int = 1) -> tuple[int, ...]:
    """Check an int, or a sequence of `least` or `count` of them, and return `count` ints (one stands for all).

    As in torch, windows take a sequence of one, and output sizes do not.
    """
    if isinstance(value, (tuple, list)):
        if len(value) not in (least, count):
            fail(name, f"an int or {count} of them", shown(value))
        numbers = tuple([integer(name, item, minimum) for item in value])  # a list is quicker than a generator
        return numbers if len(numbers) == count else numbers * count
    return (integer(name, value, minimum),) * count


def shape_argument(name: str, value: object, *lengths: int) -> tuple[int, ...]:
    """Check a shape given as an argument: a sequence of non-negative ints of one of the lengths."""
    if not isinstance(value, (tuple, list)) or len(value) not in lengths:
        fail(name, f"a tuple of {' or '.join(map(str, lengths))} ints", shown(value))
    return tuple(integer(name, item, 0) for item in value)


def needs(value: object) -> tuple[bool, bool, bool]:
    """Check which of the gradients of input, weight and bias are asked for."""
    if (
        isinstance(value, (tuple, list))
        and len(value) == 3
        and all(isinstance(item, (bool, np.bool_)) for item in value)
    ):
        return bool(value[0]), bool(value[1]), bool(value[2])
    fail("needs", "three bools, for the gradients of input, weight and bias", shown(value))


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


def near(size: int, places: int, kernel: int, stride: int, before: int, dilation: int) -> tuple[int, int, int]:
    """Return stride, padding and dilation of one axis with which windows read the same, but reach less far outside.

    Output y and tap i read element y*stride + i*dilation - before, or padding where there is none. With a stride or
    dilation greater than the axis, few pairs (y, i) read an element, and smaller numbers can give all of them the same.
    Kernels copy what lies under a window, padding included, and a far tap would have them clear its whole way.

    Notes
    -----
    If the pairs that read elements span the plane, stride and dilation are small already: below twice size * kernel and
    size * places. Else they lie on a line (y0 + t*a, i0 - t*b), elements g = a*stride - b*dilation apart. With u and w
    such that a*w + b*u = 1, stride b*q + g*w and dilation a*q - g*u keep the elements of that line for every q, and the
    m-th parallel line lies m*q elements away: q is chosen so that all of those lie outside.
    """
    stride = stride if places > 1 else 1  # which mean nothing there
    dilation = dilation if kernel > 1 else 1
    if max(stride, dilation) <= size:
        return stride, before, dilation
    if places < kernel:  # their roles are the same
        dilation, before, stride = near(size, kernel, places, dilation, before, stride)
        return stride, before, dilation
    first, a, b = None, 0, 0
    nearest, farthest = max(0, (before - (places - 1) * stride) // dilation), (before + size - 1) // dilation
    for i in range(nearest, min(kernel, farthest + 1)):
        start = before - i * dilation
        low, high = max(0, -(-start // stride)), min(places - 1, (start + size - 1) // stride)
        for y in (low, high) if low < high else (low,) if low == high else ():
            if first is None:
                first = y, i
            elif not a and not b:
                common = math.gcd(y - first[0], i - first[1])
                a, b = abs(y - first[0]) // common, abs(i - first[1]) // common
            elif (y - first[0]) * b + (i - first[1]) * a:
                return stride, before, dilation
    if first is None:  # nothing but padding: elements -1, size, 2*size + 1, ...
        return (kernel * (size + 1) if places > 1 else 1), 1, (size + 1 if kernel > 1 else 1)
    y0, i0 = first
    element = y0 * stride + i0 * dilation - before
    if not a and not b:
        stride, dilation = kernel * size, size
    else:
        w = pow(a, -1, b) if b > 1 else 1 - b
        u = (1 - a * w) // b if b else 0
        steps = min(places // a if a else places, kernel // b if b else places) + 1
        g = a * stride - b * dilation
        q = size + abs(g) * (steps + 1)
        stride, dilation = b * q + g * w, a * q - g * u
    return stride, y0 * stride + i0 * dilation - element, dilation


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
        If what the windows of an image reach over is too large for the kernels' offsets.
    """
    # The stride of an only output and the dilation of an only tap mean nothing, and could overflow in a kernel.
    stride = tuple([s if o > 1 else 1 for s, o in zip(stride, places, strict=True)])
    dilation = tuple([d if k > 1 else 1 for d, k in zip(dilation, kernel, strict=True)])
    reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(places, stride, kernel, dilation, strict=True)]
    fits("padding", (input_shape[1], *map(max, reach, before)))
    (n, c, h, w), (oh, ow), (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (
        input_shape, places, kernel, stride, before, dilation,
    )  # fmt: skip
    return {
        "n": n, "c": c, "h": h, "w": w, "oh": oh, "ow": ow, "kh": kh, "kw": kw, "sh": sh, "sw": sw,
        "ph": ph, "pw": pw, "dh": dh, "dw": dw, "channels_last": channels_last, "algorithm": 0,
    }  # fmt: skip
