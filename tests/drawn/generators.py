"""Generators of calls for `calls.py`: one for each public function, their memory layouts, and how to spoil one."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from unittest import mock

import numpy as np

import fastcnn
from fastcnn import functional as F
from fastcnn import reference
from fastcnn.kernels import isa

MATRIX_UNIT = isa.has_matrix_unit()
PUBLIC = tuple(F.__all__)


class Draw:
    """The random numbers of one draw, and what all its arrays have in common."""

    def __init__(self, seed, index):
        self.rng = np.random.default_rng([seed, index, 1])
        self.dtype = np.dtype(self.pick([np.float32, np.float32, np.float64]))
        self.values = self.pick(["normal"] * 10 + ["positive", "positive", "whole", "whole", "wide", "wide", "zeros"])
        self.special = self.chance(0.12)
        self.note = ""
        self.told = ""

    def integer(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability):
        return bool(self.rng.random() < probability)

    def pick(self, choices):
        return choices[int(self.rng.integers(len(choices)))]

    def floats(self, *shape):
        """Numbers of the draw's type and kind."""
        kind, rng = self.values, self.rng
        if kind == "whole":
            values = rng.integers(-4, 5, shape).astype(np.float64)
        elif kind == "zeros":
            values = np.zeros(shape)
        else:
            values = rng.standard_normal(shape)
            if kind == "positive":
                values = np.abs(values)
            elif kind == "wide":
                values = values * 10.0 ** rng.uniform(-5, 5, shape)
        values = np.asarray(values).astype(self.dtype)
        if self.special and values.size and self.chance(0.5):
            for _ in range(self.integer(1, 3)):
                place = int(rng.integers(values.size))
                values.reshape(-1)[place] = self.pick([np.nan, np.inf, -np.inf, -0.0, 1e-40, 1e30])
        return values

    def positive(self, *shape):
        return (np.abs(self.rng.standard_normal(shape)) + 0.25).astype(self.dtype)

    def extent(self, most=14):
        return self.integer(1, most)

    def channels(self, most=80):
        """Near the numbers of elements that registers, panels and chunks hold."""
        if self.chance(0.4):
            return self.integer(1, 6)
        base = self.pick([8, 16, 24, 32, 48, 64])
        return max(1, min(most, base + self.pick([-1, 0, 0, 1, 5])))

    def images(self, channels=None):
        """(N, C, H, W): mostly small; of some, the bytes are near those at which calls are cut into parts."""
        c = self.channels() if channels is None else channels
        n, h, w = self.integer(0, 3), self.extent(), self.extent()
        roll = self.rng.random()
        if roll < 0.04:
            elements = 2 ** self.pick([12, 14, 15, 16, 17, 18]) + self.pick([-1, 0, 1]) * c
            n = self.pick([1, 1, 2, 3, 16, 17])
            w = self.pick([1, 7, 16, 33, 64, 100, 257])
            h = max(1, elements // (n * c * w))
        elif roll < 0.07:
            n = self.pick([15, 16, 17, 33])
        return n, c, h, w

    def batched(self, array):
        """The batch, or of some draws its first image alone."""
        return array[0] if len(array) and self.chance(0.2) else array


@dataclass
class Case:
    arguments: dict


@dataclass
class Spec:
    """One function: its generator, and what may be checked of it."""

    name: str
    make: Callable
    function: Callable
    reference: Callable
    scale: Callable | None  # (arguments in float64, expected) -> magnitudes summed; None: equal to the bit
    factor: float = 16.0  # roundings of those magnitudes that are allowed
    out: str | None = None  # 'one', or 'tuple' of `out_count`
    out_count: int = 1
    in_place: tuple = ()  # arguments that `out` may be
    written: tuple = ()  # arguments that are updated
    strict: tuple = ()  # arguments that must be contiguous, aligned and native
    images: tuple = ()  # arguments whose channels may run fastest
    sizes: tuple = ()  # arguments that are sizes
    convolves: bool = False  # its float32 products may be less exact, and its tiles share errors
    far: bool = False  # far geometries can be compared, by gathering
    check: Callable | None = None  # a comparison of its own
    weight: float = 1.0  # how often it is drawn
    is_public: bool = True
    parameters: tuple = ("input",)  # with whose names errors begin


SPECS: dict[str, Spec] = {}


def draws(name, *, scale="magnitudes", **options):
    """Decorator: `generate(draw)` makes the arguments of the public function `name`."""

    def register(generate):
        twin = options.pop("reference", None) or partial(_twin, name)
        magnitudes = partial(_of_magnitudes, twin) if scale == "magnitudes" else scale
        SPECS[name] = Spec(name, lambda draw: Case(generate(draw)), getattr(F, name), twin, magnitudes,
                           parameters=tuple(inspect.signature(getattr(F, name)).parameters), **options)  # fmt: skip
        return generate

    return register


def _twin(name, **arguments):
    """The reference's function, which has one algorithm."""
    arguments.pop("algorithm", None)
    return getattr(reference, name)(**arguments)


def absolute(value):
    if isinstance(value, np.ndarray):
        return np.abs(value) if value.dtype.kind == "f" else value
    return tuple(map(absolute, value)) if isinstance(value, tuple) else value


def _of_magnitudes(twin, arguments, want):
    """What a function that multiplies and adds returns for the magnitudes of its arguments."""
    return twin(**{name: absolute(value) for name, value in arguments.items()})


def begin(seed, index, only):
    """The draw of a number, and the name of its function."""
    names = [name for name in SPECS if (name in only if only else SPECS[name].is_public)]
    if not names:
        raise SystemExit(f"--only: no such function among {', '.join(SPECS)}")
    weights = np.array([SPECS[name].weight for name in names])
    name = np.random.default_rng([seed, index, 0]).choice(names, p=weights / weights.sum())
    return Draw(seed, index), str(name)


def set_threads(count):
    fastcnn.set_num_threads(count)


def set_precision(draw):
    precision = draw.pick(["highest"] * 8 + ["high", "medium"])
    fastcnn.set_float32_matmul_precision(precision)


def precision_factor(spec, dtype):
    """How many more roundings a convolution may have at the precision that is set."""
    precision = fastcnn.get_float32_matmul_precision()
    if not spec.convolves or dtype != np.float32:
        return 1
    if MATRIX_UNIT:
        return {"highest": 2, "high": 64, "medium": 1 << 15}[precision]
    return 1 if precision == "highest" else 8


def root(array):
    """The memory that an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


# --- memory layouts -------------------------------------------------------------------------------------------------


class Subclass(np.ndarray):
    """A subclass that adds nothing."""


def lay_out(draw, name, value, spec):
    """The same values in some layout of memory (of 'broadcast', those of the first slice)."""
    if isinstance(value, tuple):
        return tuple(lay_out(draw, name, item, spec) for item in value)
    if not isinstance(value, np.ndarray) or value.dtype == object:
        return value
    kinds = ["contiguous"] * 4 + ["last"] * 4
    if name in spec.strict:
        kinds = ["contiguous"]
    elif name in spec.written:
        kinds = ["contiguous"] * 4 + ["gaps", "reversed", "unaligned", "swapped"]
    else:
        kinds += ["axes", "gaps", "reversed", "read-only", "read-only", "unaligned", "swapped", "subclass"]
        if value.dtype.kind == "f":
            kinds.append("broadcast")
    return arranged(draw, value, draw.pick(kinds))


def arranged(draw, array, kind):
    if kind == "last" and array.ndim > 1:
        axes = (0, *range(2, array.ndim), 1) if array.ndim > 2 else (1, 0)
        return np.array(array.transpose(axes), order="C").transpose(np.argsort(axes))
    if kind == "axes":
        axes = draw.rng.permutation(array.ndim)
        return np.array(array.transpose(axes), order="C").transpose(np.argsort(axes))
    if kind == "gaps":
        steps = [draw.integer(1, 3) for _ in array.shape]
        wide = np.full([size * step for size, step in zip(array.shape, steps, strict=True)],
                       np.nan if array.dtype.kind == "f" else 0, array.dtype)  # fmt: skip
        view = wide[(..., *(slice(None, None, step) for step in steps))]
        view[...] = array
        return view
    if kind == "reversed":
        axes = tuple(axis for axis in range(array.ndim) if draw.chance(0.6))
        return np.flip(np.array(np.flip(array, axes)), axes)
    if kind == "unaligned" and array.size:
        memory = np.zeros(array.nbytes + array.itemsize, np.uint8)
        view = memory[1 : array.nbytes + 1].view(array.dtype).reshape(array.shape)
        view[...] = array
        return view
    if kind == "swapped" and array.dtype.kind == "f":
        return array.astype(array.dtype.newbyteorder())
    if kind == "broadcast" and array.ndim:
        axis = draw.integer(0, array.ndim - 1)
        return np.broadcast_to(np.array(array.take([0], axis)) if array.shape[axis] else array, array.shape)
    copy = np.array(array)
    if kind == "read-only":
        copy.flags.writeable = False
    return copy.view(Subclass) if kind == "subclass" else copy


def other_order(arguments, spec):
    """The arguments, the images in the other one of the two memory orders, the rest as they are."""
    turned = dict(arguments)
    for name in spec.images:
        array = arguments.get(name)
        if isinstance(array, np.ndarray) and array.ndim > 2:
            plain = np.array(np.asarray(array))
            plain = plain.astype(plain.dtype.newbyteorder("="))
            is_last = np.moveaxis(array, 1, -1).flags.c_contiguous
            turned[name] = plain if is_last else arranged(None, plain, "last")
    return turned


def describe(arguments):
    return ", ".join(f"{name}={_described(value)}" for name, value in arguments.items())


def _described(value):
    if isinstance(value, np.ndarray):
        kind = "" if type(value) is np.ndarray else f" {type(value).__name__}"
        flags = "" if value.flags.writeable else " read-only"
        return f"<{value.dtype.str} {value.shape} strides {value.strides}{kind}{flags}>"
    if isinstance(value, tuple) and any(isinstance(item, np.ndarray) for item in value):
        return f"({', '.join(map(_described, value))})"
    if callable(value) and not isinstance(value, type):
        return "rng"
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested deeply, or an int of too many digits
        text = f"a {type(value).__name__} that is too long to show"
    return text if len(text) < 80 else text[:77] + "..."


# --- spoilt arguments -----------------------------------------------------------------------------------------------

HOSTILE = [0, -1, -2, 2**15, 2**16 + 1, 2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**33 - 1, 2**40, 2**50 - 1, 2**50, 2**53,
           2**54, 2**54 + 1, 2**55, 2**60, 2**61, 2**62, 2**62 + 1, 2**63 - 2, 2**63 - 1, 2**63, 2**64 - 1, 2**64,
           2**64 + 1, 2**65, -(2**31), -(2**63), -(2**64), 10**400]  # fmt: skip


class Index:
    """What only has `__index__`."""

    def __index__(self):
        return 2


def _hostile_number(draw):
    kind = draw.integer(0, 9)
    if kind < 5:
        return draw.pick(HOSTILE)
    if kind == 5:
        return draw.pick([np.int8, np.int64, np.uint8, np.uint64])(draw.integer(0, 4))
    if kind == 6:
        return draw.pick([True, False, np.True_, np.bool_(False)])
    return draw.pick([1.0, 2.5, np.float64(2), math.nan, math.inf, -0.0, None, "2", "", b"1", 1 + 0j, Fraction(2),
                      Decimal(1), Index(), [], {}, object(), np.array(2), np.array([2]), np.array(2.0), range(2),
                      np.uint64(2**64 - 1), np.int64(-(2**63)), slice(1), int, "x" * 40, "\ud800"])  # fmt: skip


def _hostile_size(draw, value):
    """A number, or a tuple of a wrong or right length that holds one."""
    if draw.chance(0.45):
        return _hostile_number(draw)
    length = draw.integer(0, 5) if not isinstance(value, tuple) or draw.chance(0.3) else len(value)
    items = [draw.integer(1, 3) for _ in range(length)]
    if isinstance(value, tuple) and length == len(value):
        items = list(value)
    if items and draw.chance(0.8):
        items[draw.integer(0, len(items) - 1)] = _hostile_number(draw)
    if draw.chance(0.05):
        items = [tuple(items)]
    return draw.pick([tuple, tuple, list])(items)


def _nested():
    value = 1
    for _ in range(100_000):
        value = (value,)
    return value


def _hostile_real(draw, value):
    return draw.pick(
        [
            math.nan,
            math.inf,
            -math.inf,
            -1.0,
            -1e-300,
            2.0,
            10**400,
            -(10**400),
            True,
            np.True_,
            None,
            "0.1",
            1j,
            Fraction(1, 3),
            Decimal("0.5"),
            np.float32(0.5),
            np.float64(0.25),
            np.int64(1),
            np.array(0.5),
            np.array([0.5]),
            [0.5],
            (0.1, 0.2),
            b"1",
            0,
            1,
            object(),
            1e308,
            5e-324,
        ]
    )


def _hostile_flag(draw, value):
    return draw.pick([0, 1, None, "yes", "", np.True_, np.False_, 1.0, [True], (), np.array(True), object()])


def _hostile_text(draw, value):
    return draw.pick(
        [
            "",
            "Mean",
            "foo",
            None,
            0,
            b"mean",
            ["mean"],
            ("none",),
            "mean\0",
            "x" * 100,
            "\ud800",
            np.str_("sum"),
            True,
            object(),
            "same",
            "valid",
            "tanh",
            "none",
        ]
    )


def _hostile_array(draw, name, array):
    kind = draw.integer(0, 13)
    draw.note = f"{name} spoilt ({kind})"
    if kind == 0:
        other = draw.pick([np.int64, np.int32, np.float16, np.complex64, np.bool_, np.longdouble, np.uint8, np.float32,
                           np.float64, ">f8", "M8[s]"])  # fmt: skip
        if np.dtype(other).kind == "M":
            return np.zeros(array.shape, other)
        return np.where(np.isfinite(array), np.clip(array, -9, 9), 0).astype(other)
    if kind == 1:
        return array[None]
    if kind == 2:
        return array[0] if array.ndim and len(array) else array.reshape(-1)
    if kind in (3, 4) and array.ndim:
        axis = draw.integer(0, array.ndim - 1)
        if draw.chance(0.5):
            return np.concatenate([array, array.take([0], axis)], axis) if array.shape[axis] else array
        return array.take(range(max(0, array.shape[axis] - 1)), axis)
    if kind == 5 and array.ndim:
        return array.take([], draw.integer(0, array.ndim - 1))
    if kind == 6 and array.ndim > 1:
        return array.swapaxes(*draw.rng.choice(array.ndim, 2, replace=False))
    if kind == 7:
        return draw.pick([array.tolist(), None, "array", 3, 2.5, (), b"abcd", {}, object(), np.ndarray, iter([1.0])])
    if kind == 8:
        return np.matrix(array.reshape(-1, array.shape[-1]) if array.size and array.ndim else np.zeros((2, 2)))
    if kind == 9:
        mask = draw.pick([False, True])
        return np.ma.array(array, mask=draw.rng.random(array.shape) < 0.3 if mask else np.ma.nomask)
    if kind == 10:
        return array.view(Subclass)
    if kind == 11:
        return array.astype(object)
    if kind == 12:
        record = np.zeros(array.shape, [("a", array.dtype), ("b", np.uint8)])
        record["a"] = array
        return draw.pick([record, record["a"], array.view(np.recarray)])
    return draw.pick(
        [
            memoryview(np.ascontiguousarray(array)) if array.dtype.isnative else array,
            np.array(1.0, array.dtype),
            np.zeros((1,) * 9, array.dtype),
            np.zeros((0,), array.dtype),
            np.float32(1),
            np.zeros(()),
        ]
    )


def _hostile_out(draw, spec, arguments):
    """A function that makes a wrong `out` for a result."""
    arrays = [value for value in arguments.values() if type(value) is np.ndarray and value.dtype.kind == "f"]
    kind = draw.integer(0, 9)
    extra = draw.integer(0, 1 << 30)
    if arrays:
        victim = draw.pick(arrays)

    def wrong(array):
        if kind == 0:
            return array.astype(np.float64 if array.dtype == np.float32 else np.float32)
        if kind == 1:
            array.flags.writeable = False
            return array
        if kind == 2:
            return arranged(draw, array, "unaligned")
        if kind == 3:
            return array.astype(array.dtype.newbyteorder())
        if kind == 4:
            return np.broadcast_to(array.reshape(-1)[:1], array.shape) if array.size and array.ndim else array
        if kind == 5:
            return arranged(draw, array, ["axes", "gaps", "reversed", "last"][extra % 4])
        if kind == 6:
            return draw.pick([np.zeros((*array.shape, 1), array.dtype), array.reshape(-1), array[None]])
        if kind == 7:
            return draw.pick([array.tolist(), 3, "out", (), [None], object(), np.matrix(np.zeros((2, 2)))])
        if kind == 8 and arrays and victim.size:  # memory of an argument, at some offset where it is long enough
            memory = root(victim)
            if memory.flags.c_contiguous and memory.nbytes >= array.nbytes and array.nbytes:
                flat = memory.reshape(-1).view(np.uint8)
                most = (memory.nbytes - array.nbytes) // array.itemsize
                start = extra % (most + 1) * array.itemsize
                return flat[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            return None
        return np.array(array).view(Subclass)

    def make(result):
        results = result if isinstance(result, tuple) else (result,)
        if spec.out == "one":
            return wrong(np.empty_like(results[0], subok=False))
        choice = extra % 8
        many = [None if part is None else np.empty_like(part) for part in results[: spec.out_count]]
        present = [i for i, part in enumerate(many) if part is not None]
        if choice == 0 or not present:
            return draw.pick([(), (None,), None, 3, tuple(many) * 2, "out"])
        i = present[extra // 8 % len(present)]
        if choice == 1:
            return tuple(many[i] if part is not None else None for part in many) if len(present) > 1 else None
        many[i] = wrong(many[i])
        return tuple(many) if many[i] is not None else None

    draw.note = f"out spoilt ({kind}, {extra % 8})"
    return make


def spoil(draw, arguments, spec):
    """Make one argument wrong, or odd; return what makes an `out`, where that is the one."""
    names = list(arguments)
    if spec.out and draw.chance(0.25):
        return _hostile_out(draw, spec, arguments)
    name = draw.pick(names)
    if spec.sizes and draw.chance(0.4):
        given = [size for size in spec.sizes if size in arguments]
        name = draw.pick(given) if given else name
    value = arguments[name]
    draw.note = f"{name} spoilt"
    if name in spec.sizes:
        arguments[name] = _nested() if draw.chance(0.004) else _hostile_size(draw, value)
        if draw.chance(0.5) and len(spec.sizes) > 1:  # two at once: what overflows is often a product
            other = draw.pick([size for size in spec.sizes if size in arguments])
            arguments[other] = _hostile_size(draw, arguments[other])
            draw.note = f"{name}, {other} spoilt"
    elif isinstance(value, np.ndarray):
        with np.errstate(all="ignore"):
            arguments[name] = _hostile_array(draw, name, value)
    elif isinstance(value, bool):
        arguments[name] = _hostile_flag(draw, value)
    elif isinstance(value, float):
        arguments[name] = _hostile_real(draw, value)
    elif isinstance(value, str):
        arguments[name] = _hostile_text(draw, value)
    elif isinstance(value, tuple):
        items = list(value)
        if items and isinstance(items[0], np.ndarray):
            items[0] = _hostile_array(draw, name, items[0])
            arguments[name] = draw.pick([tuple(items), tuple(items[:1]), items])
        else:
            arguments[name] = draw.pick([_hostile_size(draw, value), tuple(items[:-1]), (*items, True), items, None, 1])
    elif callable(value):
        arguments[name] = draw.pick([3, "rng", np.random, object()])
    elif value is None:
        arguments[name] = draw.pick([3, "none", object(), [1.0], np.zeros(3), 1.5])
    else:
        arguments[name] = _hostile_size(draw, value)
    return None


# --- geometry -------------------------------------------------------------------------------------------------------


def is_near(spec, arguments):
    """Whether the reference, which pads and slices, can compute it."""
    cost = 1.0
    for name in spec.sizes:
        value = arguments.get(name)
        items = value if isinstance(value, tuple) else (value,)
        for item in items:
            if name != "groups" and isinstance(item, int) and not isinstance(item, bool):
                cost *= max(1, abs(item)) if name in ("padding", "kernel_size", "output_size", "input_shape") else 1
                if name == "dilation":
                    cost *= max(1, abs(item))
    pool = arguments.get("pool")
    if isinstance(pool, tuple):
        for item in pool:
            for number in item if isinstance(item, tuple) else (item,):
                if isinstance(number, int):
                    cost *= max(1, abs(number))
    return cost < 3e6


def _reads(size, places, kernel, stride, before, dilation):
    """Which element each tap of each place reads along one axis, `size` for none."""
    at = [[o * stride - before + k * dilation for k in range(kernel)] for o in range(places)]
    return np.array([[position if 0 <= position < size else size for position in row] for row in at], np.intp)


def _far_geometry(input, weight, stride, padding, dilation):
    kernel = weight.shape[2:]
    stride, dilation = reference._pair(stride), reference._pair(dilation)
    sides = reference._sides(padding, kernel, stride, dilation)
    places = [
        (n + sum(s) - d * (k - 1) - 1) // t + 1
        for n, s, d, k, t in zip(input.shape[2:], sides, dilation, kernel, stride, strict=True)
    ]
    if min(places) < 1 or math.prod(places) > 1e5:
        raise MemoryError
    return [_reads(*axis) for axis in
            zip(input.shape[2:], places, kernel, stride, [s[0] for s in sides], dilation, strict=True)]  # fmt: skip


def _far_columns(input, rows, columns, groups):
    """As the reference's, by indices: (N, groups, C/groups * kh * kw, oh * ow)."""
    padded = np.pad(input, [(0, 0), (0, 0), (0, 1), (0, 1)])
    windows = padded[:, :, rows[:, :, None, None], columns[None, None]]  # n, c, oh, kh, ow, kw
    n, c = input.shape[:2]
    rows_of_columns, columns = c // groups * windows.shape[3] * windows.shape[5], len(rows) * len(columns)
    return windows.transpose(0, 1, 3, 5, 2, 4).reshape(n, groups, rows_of_columns, columns)


def _far_conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if input.ndim == 3:
        return _far_conv2d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    rows, columns = _far_geometry(input, weight, stride, padding, dilation)
    found = weight.reshape(groups, len(weight) // groups, -1) @ _far_columns(input, rows, columns, groups)
    output = found.reshape(len(input), len(weight), len(rows), len(columns))
    return output if bias is None else output + bias[:, None, None]


def _far_conv2d_backward(grad_output, input, weight, stride=1, padding=0, dilation=1, groups=1, *,
                         needs=(True, True, True), out=(None, None, None)):  # fmt: skip
    if input.ndim == 3:
        grads = _far_conv2d_backward(grad_output[None], input[None], weight, stride, padding, dilation, groups,
                                     needs=needs)  # fmt: skip
        return (None if grads[0] is None else grads[0][0], *grads[1:])
    rows, columns = _far_geometry(input, weight, stride, padding, dilation)
    n, c, h, w = input.shape
    kh, kw = weight.shape[2:]
    grads = grad_output.reshape(n, groups, len(weight) // groups, len(rows) * len(columns))
    grad_input = grad_weight = None
    if needs[0]:
        each = weight.reshape(groups, len(weight) // groups, -1).swapaxes(1, 2) @ grads
        each = each.reshape(n, c, kh, kw, len(rows), len(columns)).transpose(0, 1, 4, 2, 5, 3)
        padded = np.zeros((n, c, h + 1, w + 1), grads.dtype)
        np.add.at(padded, (slice(None), slice(None), rows[:, :, None, None], columns[None, None]), each)
        grad_input = padded[:, :, :h, :w]
    if needs[1]:
        grad_weight = (grads @ _far_columns(input, rows, columns, groups).swapaxes(2, 3)).sum(0).reshape(weight.shape)
    return grad_input, grad_weight, grad_output.sum((0, 2, 3)) if needs[2] else None


@contextlib.contextmanager
def gathering():
    """The reference's convolutions by indices, whatever the geometry."""
    with (
        mock.patch.object(reference, "conv2d", _far_conv2d),
        mock.patch.object(reference, "conv2d_backward", _far_conv2d_backward),
    ):
        yield


# --- convolution ----------------------------------------------------------------------------------------------------


def _largest_near(array, reach):
    """For each pixel the largest magnitude within `reach` pixels; what is not finite counts as nothing."""
    array = np.where(np.isfinite(array), np.abs(array), 0)
    for axis in (-2, -1):
        size = array.shape[axis]
        found = array
        for step in range(1, min(reach, size - 1) + 1):
            moved = np.zeros_like(array)
            low, high = [slice(None)] * array.ndim, [slice(None)] * array.ndim
            low[axis], high[axis] = slice(None, -step), slice(step, None)
            moved[tuple(low)] = array[tuple(high)]
            found = np.maximum(found, moved)
            moved = np.zeros_like(array)
            moved[tuple(high)] = array[tuple(low)]
            found = np.maximum(found, moved)
        array = found
    return array


def _tiles(weight, stride, dilation):
    """Whether Winograd's algorithm may take it, whose errors are relative to the largest in a tile."""
    ones = (1, (1, 1))
    return weight.shape[2:] == (3, 3) and stride in ones and dilation in ones


def _conv_scale(name, arguments, want):
    """Magnitudes summed; where tiles share errors, with each pixel's replaced by the largest near it, as in padding."""
    given = {key: absolute(value) for key, value in arguments.items()}
    if not _tiles_of(arguments) or arguments.get("algorithm") == "direct":
        return _twin(name, **given)
    kernel = given["weight"]
    largest = np.where(np.isfinite(kernel), kernel, 0).max(axis=(-2, -1), keepdims=True)
    given["weight"] = np.where(np.isfinite(kernel), largest, np.inf)
    sides = reference._sides(given.get("padding", 0), (3, 3), (1, 1), (1, 1))
    if max(map(max, sides)) > 100:
        return _twin(name, **given)
    x = reference._pad(given["input"], sides)
    given["input"], given["padding"] = np.fmax(x, _largest_near(x, 5)), 0
    if "grad_output" in given:
        given["grad_output"] = np.fmax(given["grad_output"], _largest_near(given["grad_output"], 5))
    found = _twin(name, **given)
    if "grad_output" in given and found[0] is not None:
        (top, _), (left, _) = sides
        h, w = arguments["input"].shape[-2:]
        found = (found[0][..., top : top + h, left : left + w], *found[1:])
    return found


def _tiles_of(arguments):
    weight = arguments["weight"]
    return weight.ndim == 4 and weight.size and _tiles(weight, arguments.get("stride", 1), arguments.get("dilation", 1))


def _geometry(draw, dims, most=14, batches=None):
    """Shapes and options of a convolution."""
    roll = draw.rng.random()
    groups = draw.pick([1, 1, 1, 1, 2, 3])
    winograd = dims == 2 and roll < 0.3
    if winograd:
        ic, oc = draw.integer(16, 40), draw.integer(16, 40)
        kernel, stride, dilation = (3, 3), (1, 1), (1, 1)
        padding = (draw.integer(0, 2), draw.integer(0, 2))
        size = (draw.integer(4, 26), draw.integer(4, 26))
    else:
        ic, oc = draw.channels(70), draw.channels(70)
        if roll < 0.4:  # depthwise
            groups, ic, oc = draw.integer(2, 40), 1, draw.pick([1, 1, 2])
        elif roll < 0.5:
            ic = draw.integer(1, 4)
        elif groups > 1:
            ic, oc = draw.integer(1, 20), draw.integer(1, 20)
        kernel = draw.pick([(1, 1), (1, 1), (3, 3), (3, 3), (5, 5), None, None])
        kernel = tuple(draw.integer(1, 4) for _ in range(2)) if kernel is None else kernel
        stride = draw.pick([(1, 1), (1, 1), (2, 2), (draw.integer(1, 5), draw.integer(1, 5))])
        dilation = draw.pick([(1, 1), (1, 1), (1, 1), (draw.integer(1, 3), draw.integer(1, 3))])
        padding = draw.pick([(0, 0), tuple(k // 2 for k in kernel), (draw.integer(0, 3), draw.integer(0, 3))])
        size = (draw.extent(most), draw.extent(most))
    n = draw.integer(0, 3) if batches is None else batches
    if draw.chance(0.06):  # more pixels: several blocks, parts and chunks
        elements = 2 ** draw.pick([14, 15, 16, 17])
        n = draw.pick([1, 1, 2, 5, 16, 17, 33])
        width = draw.pick([1, 8, 31, 64, 130])
        size = (max(4, elements // (n * groups * ic * width)), width)
    if not winograd and draw.chance(0.03):  # more channels than one chunk sums
        ic, groups, size, n = draw.pick([127, 128, 129, 255, 257, 300, 513]), 1, (draw.extent(6), draw.extent(6)), 1
    if dims == 1:
        kernel, stride, dilation, padding, size = ((a[1],) for a in (kernel, stride, dilation, padding, size))
    size = tuple(max(s, d * (k - 1) + 1 - 2 * p) for s, k, p, d in zip(size, kernel, padding, dilation, strict=True))
    work = n * math.prod(size) * groups * ic * oc * math.prod(kernel)
    if work > 2e7:
        oc = max(1, int(oc * 2e7 / work))
    if draw.chance(0.1) and all(s == 1 for s in stride):
        padding = draw.pick(["same", "valid"])
        size = tuple(max(s, d * (k - 1) + 1) for s, k, d in zip(size, kernel, dilation, strict=True))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    options |= {"algorithm": draw.pick(["auto", "direct"])} if draw.chance(0.3) else {}
    options = {key: value[0] if isinstance(value, tuple) and (len(set(value)) == 1 and draw.chance(0.5)) else value
               for key, value in options.items()}  # fmt: skip
    return (n, groups * ic, *size), (groups * oc, ic, *kernel), options


def _output_shape(size, kernel, options):
    dims = len(size) - 2
    one = np.zeros((1, kernel[1] * options["groups"], *size[2:]))
    weight = np.zeros((options["groups"], *kernel[1:]))
    made = _twin(f"conv{dims}d", input=one, weight=weight, **options)
    return (size[0], kernel[0], *made.shape[2:])


def _needs(draw):
    return tuple(draw.chance(0.8) for _ in range(3))


_CONV_OPTIONS = ("stride", "padding", "dilation", "groups", "algorithm")
_CONV_SIZES = ("stride", "padding", "dilation", "groups")


def _convolution(dims):
    def generate(draw):
        size, kernel, options = _geometry(draw, dims)
        x, weight = draw.floats(*size), draw.floats(*kernel)
        bias = draw.floats(kernel[0]) if draw.chance(0.5) else None
        return {"input": draw.batched(x), "weight": weight, "bias": bias, **options}

    def backward(draw):
        size, kernel, options = _geometry(draw, dims)
        dy = draw.floats(*_output_shape(size, kernel, options))
        x, weight = draw.floats(*size), draw.floats(*kernel)
        if size[0] and draw.chance(0.2):
            x, dy = x[0], dy[0]
        return {"grad_output": dy, "input": x, "weight": weight, **options, "needs": _needs(draw)}

    name = f"conv{dims}d"
    common = {"convolves": True, "far": True, "sizes": _CONV_SIZES, "factor": 24.0, "weight": 3 if dims == 2 else 1}
    images = {"images": ("input", "grad_output")} if dims == 2 else {}
    draws(name, scale=partial(_conv_scale, name), out="one", **common, **images)(generate)
    draws(f"{name}_backward", scale=partial(_conv_scale, f"{name}_backward"), out="tuple", out_count=3, **common,
          **images)(backward)  # fmt: skip


_convolution(1)
_convolution(2)


def _window(draw, dims=2, pooling=False, size=None):
    """Options of a window, and the size of an image that it fits."""
    kernel = tuple(draw.integer(1, 4) for _ in range(dims))
    if draw.chance(0.3):
        kernel = (draw.pick([2, 3]),) * dims
    stride = tuple(draw.integer(1, 4) for _ in range(dims))
    dilation = tuple(draw.pick([1, 1, 2, 3]) for _ in range(dims))
    padding = tuple(draw.integer(0, k // 2 if pooling else 3) for k in kernel)
    if size is None:
        size = tuple(draw.extent() for _ in range(dims))
    size = tuple(max(s, d * (k - 1) + 1 - (0 if pooling else 2 * p), 1)
                 for s, d, k, p in zip(size, dilation, kernel, padding, strict=True))  # fmt: skip
    return {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}, size


_WINDOW_SIZES = ("kernel_size", "dilation", "padding", "stride", "output_size")


def _lined(options, dims):
    """An int for a tuple of one."""
    return (
        {k: v[0] if isinstance(v, tuple) and len(v) == 1 else v for k, v in options.items()} if dims == 1 else options
    )


def _unfolding(dims):
    suffix = "" if dims == 2 else "1d"

    def im2col(draw):
        options, size = _window(draw, dims)
        n, c, *_ = draw.images(draw.integer(1, 20))
        return {"input": draw.batched(draw.floats(n if n < 4 else 1, c, *size)), **_lined(options, dims)}

    def col2im(draw):
        options, size = _window(draw, dims)
        n, c = draw.integer(0, 3), draw.integer(1, 20)
        shape = getattr(reference, f"im2col{suffix}")(np.zeros((1, c, *size)), **_lined(options, dims)).shape
        return {"input": draw.batched(draw.floats(n, *shape[1:])), "output_size": size if dims == 2 else size[0],
                **_lined(options, dims)}  # fmt: skip

    images = {"images": ("input",)} if dims == 2 else {}
    draws(f"im2col{suffix}", scale=None, sizes=_WINDOW_SIZES, **images)(im2col)
    draws(f"col2im{suffix}", sizes=_WINDOW_SIZES)(col2im)


_unfolding(1)
_unfolding(2)


# --- fused functions ------------------------------------------------------------------------------------------------


def _parted(draw, size, kernel):
    """Of some draws, images enough for several parts (PART_BYTES of norm_conv)."""
    n, c, h, w = size
    if draw.chance(0.02):
        n = draw.pick([2, 3, 4, 9])
        c_group = kernel[1]
        w = draw.pick([32, 64])
        h = max(h, (1 << draw.pick([18, 19, 20])) // (n * c * w))
        outputs = max(1, min(kernel[0], int(3e7 / (n * h * w * c_group * kernel[2] * kernel[3]))))
        kernel = (max(outputs, 1), *kernel[1:])
    return (n, c, h, w), kernel


def _exact_if(draw, wanted):
    """Numbers whose normalised values are exact, so that ReLU's mask is no question of rounding."""
    if wanted:
        draw.values, draw.special = "whole", False


def _norm_geometry(draw):
    size, kernel, options = _geometry(draw, 2)
    parted, fewer = _parted(draw, size, kernel)
    if options["groups"] == 1 and options["padding"] not in ("same", "valid"):
        size, kernel = parted, fewer
    return size, kernel, options


def _factors_of(draw, channels, names=("mean", "scale", "shift")):
    """Mean, scale and shift: whole multiples of 1/4."""
    if draw.values == "whole":
        return {name: (draw.rng.integers(-6, 7, channels) / 4).astype(draw.dtype) for name in names}
    return {name: draw.floats(channels) for name in names}


def _normed(arguments):
    """Magnitudes of what is convolved."""
    x = np.abs(arguments["input"])
    mean, scale, shift = (np.abs(arguments[name])[:, None, None] for name in ("mean", "scale", "shift"))
    return (x + mean) * scale + shift


def _norm_conv_scale(arguments, want):
    weight = {"weight": arguments["weight"]}
    options = {key: arguments[key] for key in _CONV_OPTIONS if key in arguments}
    inner = {"input": _normed(arguments), "bias": arguments.get("bias"), **weight, **options}
    scale = _conv_scale("conv2d", inner, None)
    if not arguments.get("statistics"):
        return scale
    if not scale.size:
        return scale, np.zeros((2, len(arguments["weight"])))
    most = scale.max(axis=(0, 2, 3))
    return scale, np.stack([most, most * most])


@draws("norm_conv2d", scale=_norm_conv_scale, convolves=True, far=True, sizes=_CONV_SIZES, factor=24.0, weight=2,
       images=("input",))  # fmt: skip
def _(draw):
    relu = draw.chance(0.5)
    draw.special = draw.special and not relu
    size, kernel, options = _norm_geometry(draw)
    factors = _factors_of(draw, size[1])
    bias = draw.floats(kernel[0]) if draw.chance(0.5) else None
    statistics = draw.chance(0.5) and not draw.special
    return {"input": draw.floats(*size), **factors, "weight": draw.floats(*kernel), "bias": bias, **options,
            "relu": relu, "statistics": statistics}  # fmt: skip


def _norm_conv_backward_scale(arguments, want):
    options = {key: arguments[key] for key in _CONV_OPTIONS if key in arguments}
    inner = {"grad_output": arguments["grad_output"], "input": _normed(arguments), "weight": arguments["weight"]}
    scale = _conv_scale("conv2d_backward", {**inner, **options, "needs": arguments["needs"]}, None)
    if not arguments.get("sums"):
        return scale
    x, mean = np.abs(arguments["input"]), np.abs(arguments["mean"])[:, None, None]
    return *scale, np.stack([scale[0].sum((0, 2, 3)), (scale[0] * (x + mean)).sum((0, 2, 3))])


@draws("norm_conv2d_backward", scale=_norm_conv_backward_scale, convolves=True, far=True, sizes=_CONV_SIZES,
       factor=24.0, weight=2, images=("input", "grad_output"))  # fmt: skip
def _(draw):
    relu = draw.chance(0.5)
    _exact_if(draw, relu)
    size, kernel, options = _norm_geometry(draw)
    dy = draw.floats(*_output_shape(size, kernel, options))
    needs = _needs(draw)
    return {
        "grad_output": dy,
        "input": draw.floats(*size),
        **_factors_of(draw, size[1]),
        "weight": draw.floats(*kernel),
        **options,
        "relu": relu,
        "needs": needs,
        "sums": needs[0] and draw.chance(0.5),
    }


def _conv_norm_scale(arguments, want):
    inner = {key: arguments[key] for key in ("input", "weight", "bias", *_CONV_OPTIONS) if key in arguments}
    made = _conv_scale("conv2d", inner, None)
    mean, scale, shift = (np.abs(arguments[name])[:, None, None] for name in ("mean", "scale", "shift"))
    residual = 0 if arguments["residual"] is None else np.abs(arguments["residual"])
    return (made + mean) * scale + shift + residual


@draws("conv2d_norm", scale=_conv_norm_scale, convolves=True, far=True, sizes=_CONV_SIZES, factor=24.0, weight=2,
       images=("input", "residual"))  # fmt: skip
def _(draw):
    size, kernel, options = _geometry(draw, 2)
    bias = draw.floats(kernel[0]) if draw.chance(0.5) else None
    residual = draw.floats(*_output_shape(size, kernel, options)) if draw.chance(0.5) else None
    return {"input": draw.floats(*size), "weight": draw.floats(*kernel), "bias": bias, **_factors_of(draw, kernel[0]),
            **options, "residual": residual, "relu": draw.chance(0.5)}  # fmt: skip


def _pool_geometry(draw, size):
    """A pool's tuple over images of this size."""
    windows = [k for k in range(1, 4) if k <= min(size)]
    kernel = tuple(draw.pick([w for w in windows if w <= s]) for s in size)
    if draw.chance(0.5):
        kernel = (min(kernel),) * 2
    stride = kernel if draw.chance(0.6) else tuple(draw.integer(1, 3) for _ in range(2))
    padding = tuple(draw.integer(0, k // 2) for k in kernel) if draw.chance(0.3) else (0, 0)
    return (kernel, stride, padding, 1, draw.chance(0.3))[: draw.pick([1, 2, 3, 5])]


def _conv_pool_check(case, arguments, result, want, dtype):
    """Maxima within the convolution's bound; each tap names an element that near to the maximum, or none."""
    from calls import Wrong, compare

    inner = {key: arguments[key] for key in ("input", "weight", "bias", *_CONV_OPTIONS) if key in arguments}
    made = _twin("conv2d", **inner)
    bound = _conv_scale("conv2d", inner, None)
    finite = np.isfinite(bound)
    bound = np.where(finite, bound, np.max(bound, where=finite, initial=0))
    factor = 24.0 * precision_factor(SPECS["conv2d_max_pool"], dtype)
    pool, relu = arguments["pool"], arguments["relu"]
    largest = reference.max_pool2d(bound, *pool)
    compare("", result[0], want[0], largest, factor, dtype)
    if not np.isfinite(made).all():
        return
    if not arguments["taps"]:
        if result[1] is not None:
            raise Wrong("taps that nobody asked for")
        return
    taps = np.asarray(result[1])
    if taps.dtype != want[1].dtype or taps.shape != want[1].shape:
        raise Wrong(f"taps of {taps.dtype} {taps.shape}, expected {want[1].dtype} {want[1].shape}")
    none = (255 if taps.dtype == np.uint8 else -1) if relu else None
    allowed = 2 * factor * np.finfo(dtype).eps * largest + 64 * np.finfo(dtype).tiny
    eye = reference.max_pool2d(made, *pool)
    chosen = np.full(taps.shape, -np.inf)
    kernel, stride, dilation, sides, places = reference._pool_geometry(made.shape[-2:], *_padded_pool(pool))
    padded = reference._pad(made, sides, -np.inf)
    for number, where in enumerate(reference._tap_slices(kernel, stride, dilation, places)):
        chosen = np.where(taps == number, padded[where], chosen)
    right = chosen >= eye - allowed
    if none is not None:
        right = np.where(taps == none, eye <= allowed, right & (eye >= -allowed))
    if not right.all():
        place = tuple(int(i) for i in np.argwhere(~right)[0])
        raise Wrong(f"taps: at {place} {taps[place]} with {chosen[place]!r}, the maximum is {eye[place]!r}")


def _padded_pool(pool):
    defaults = (None, None, 0, 1, False)
    return (*pool, *defaults[len(pool) :])


@draws("conv2d_max_pool", scale=None, check=_conv_pool_check, convolves=True, sizes=_CONV_SIZES, weight=2)
def _(draw):
    size, kernel, options = _geometry(draw, 2)
    x, weight = draw.floats(*size), draw.floats(*kernel)
    bias = draw.floats(kernel[0]) if draw.chance(0.5) else None
    pool = _pool_geometry(draw, _output_shape(size, kernel, options)[2:])
    return {"input": draw.batched(x), "weight": weight, "bias": bias, **options, "pool": pool,
            "relu": draw.chance(0.5), "taps": draw.chance(0.8)}  # fmt: skip


def _conv_pool_backward_scale(arguments, want):
    options = {key: arguments[key] for key in _CONV_OPTIONS if key in arguments}
    made = _twin("conv2d", input=arguments["input"], weight=arguments["weight"], **options)
    grad = reference.max_pool2d_taps_backward(np.abs(arguments["grad_output"]), arguments["taps"], made.shape,
                                              *arguments["pool"], relu=arguments["relu"])  # fmt: skip
    inner = {"grad_output": grad, "input": arguments["input"], "weight": arguments["weight"], **options}
    return _conv_scale("conv2d_backward", {**inner, "needs": arguments["needs"]}, None)


@draws("conv2d_max_pool_backward", scale=_conv_pool_backward_scale, convolves=True, sizes=_CONV_SIZES, factor=24.0,
       out="tuple", out_count=3, weight=2)  # fmt: skip
def _(draw):
    size, kernel, options = _geometry(draw, 2)
    x, weight = draw.floats(*size), draw.floats(*kernel)
    made = draw.rng.standard_normal(_output_shape(size, kernel, options))
    pool, relu = _pool_geometry(draw, made.shape[2:]), draw.chance(0.5)
    output, taps = reference.max_pool2d_taps(made, *pool, relu=relu)
    dy = draw.floats(*output.shape)
    if size[0] and draw.chance(0.2):
        x, dy, taps = x[0], dy[0], taps[0]
    return {"grad_output": dy, "taps": taps, "input": x, "weight": weight, **options, "pool": pool, "relu": relu,
            "needs": _needs(draw)}  # fmt: skip


# --- pooling --------------------------------------------------------------------------------------------------------


def _pooled(draw, dims, dilated=True):
    n, c, *size = draw.images()
    options, size = _window(draw, dims, pooling=True, size=tuple(size[2 - dims :]))
    if not dilated:
        options.pop("dilation")
    if draw.chance(0.3):
        options["stride"] = options["kernel_size"]
    if draw.chance(0.3):
        options.pop("stride")
    options["ceil_mode"] = draw.chance(0.4)
    return (n, c, *size), _lined(options, dims)


_POOL_SIZES = ("kernel_size", "stride", "padding", "dilation", "input_shape", "output_size")


def _fits_inside(size, options, dims):
    """Whether each window holds an element; a dilated one can step over a short input."""
    try:
        getattr(reference, f"max_pool{dims}d")(np.zeros((1, 1, *size[2:])), **options)
    except ValueError:
        return False
    return True


def _max_pooled(draw, dims):
    size, options = _pooled(draw, dims)
    if not _fits_inside(size, options, dims):
        options["dilation"] = 1
    return size, options


def _pools(dims):
    images = {"images": ("input", "grad_output")} if dims == 2 else {}
    common = {"sizes": _POOL_SIZES, **images}
    max_pool, avg_pool = f"max_pool{dims}d", f"avg_pool{dims}d"

    @draws(max_pool, scale=None, out="one", **common)
    def _(draw):
        size, options = _max_pooled(draw, dims)
        return {"input": draw.batched(draw.floats(*size)), **options}

    @draws(f"{max_pool}_backward", **common)
    def _(draw):
        size, options = _max_pooled(draw, dims)
        x = draw.batched(draw.rng.standard_normal(size))
        output, indices = getattr(reference, max_pool)(x, **options, return_indices=True)
        return {"grad_output": draw.floats(*output.shape), "indices": indices, "input_shape": x.shape}

    @draws(f"max_unpool{dims}d", scale=None, **common)
    def _(draw):
        size, options = _max_pooled(draw, dims)
        options = {k: v for k, v in options.items() if k not in ("dilation", "ceil_mode")}
        x = draw.batched(draw.rng.standard_normal(size))
        output, indices = getattr(reference, max_pool)(x, **options, return_indices=True)
        unpooled = x.shape[-dims:]
        return {"input": draw.floats(*output.shape), "indices": indices, **options,
                "output_size": unpooled if dims == 2 else unpooled[0]}  # fmt: skip

    @draws(f"max_unpool{dims}d_backward", scale=None, **common)
    def _(draw):
        size, options = _max_pooled(draw, dims)
        x = draw.batched(draw.rng.standard_normal(size))
        _, indices = getattr(reference, max_pool)(x, **options, return_indices=True)
        return {"grad_output": draw.floats(*x.shape), "indices": indices}

    @draws(avg_pool, out="one", scale=partial(_average_scale, avg_pool), **common)
    def _(draw):
        size, options = _pooled(draw, dims, dilated=False)
        return {"input": draw.batched(draw.floats(*size)), **options, **_divisor(draw, dims)}

    @draws(f"{avg_pool}_backward", scale=partial(_average_scale, f"{avg_pool}_backward"), **common)
    def _(draw):
        size, options = _pooled(draw, dims, dilated=False)
        options |= _divisor(draw, dims)
        shape = getattr(reference, avg_pool)(np.zeros((1, 1, *size[2:])), **options).shape
        dy, size = draw.floats(*size[:2], *shape[2:]), tuple(size)
        if size[0] and draw.chance(0.2):
            dy, size = dy[0], size[1:]
        return {"grad_output": dy, "input_shape": size, **options}

    adaptive = f"adaptive_avg_pool{dims}d"

    @draws(adaptive, **common)
    def _(draw):
        n, c, *size = draw.images()
        outputs = tuple(draw.integer(1, 9) for _ in range(dims))
        if dims == 2 and draw.chance(0.3):
            outputs = draw.pick([1, (None, outputs[1]), (outputs[0], None), outputs[0]])
        return {"input": draw.batched(draw.floats(n, c, *size[2 - dims :])),
                "output_size": outputs if dims == 2 else outputs[0]}  # fmt: skip

    @draws(f"{adaptive}_backward", **common)
    def _(draw):
        n, c, *size = draw.images()
        shape, outputs = (n, c, *size[2 - dims :]), tuple(draw.integer(1, 9) for _ in range(dims))
        dy = draw.floats(n, c, *outputs)
        if n and draw.chance(0.2):
            dy, shape = dy[0], shape[1:]
        return {"grad_output": dy, "input_shape": shape}


def _average_scale(name, arguments, want):
    given = {key: absolute(value) for key, value in arguments.items()}
    if given.get("divisor_override") is not None:
        given["divisor_override"] = abs(given["divisor_override"])
    return getattr(reference, name)(**given)


def _divisor(draw, dims):
    options = {"count_include_pad": draw.chance(0.5)}
    if dims == 2 and draw.chance(0.2):
        options["divisor_override"] = draw.pick([1, 3, -2, 100])
    return options


_pools(1)
_pools(2)


@draws("max_pool2d_taps", scale=None, out="tuple", out_count=2, sizes=_POOL_SIZES, images=("input",))
def _(draw):
    size, options = _max_pooled(draw, 2)
    if draw.chance(0.03):  # more taps than a byte numbers
        options = {"kernel_size": draw.pick([(16, 16), (15, 17), (17, 17)]), "stride": draw.integer(1, 3)}
        size = (1, draw.integer(1, 4), draw.integer(17, 24), draw.integer(17, 24))
    return {"input": draw.batched(draw.floats(*size)), **options, "relu": draw.chance(0.5)}


@draws("max_pool2d_taps_backward", sizes=_POOL_SIZES, images=("grad_output",))
def _(draw):
    size, options = _max_pooled(draw, 2)
    relu = draw.chance(0.5)
    x = draw.batched(draw.rng.standard_normal(size))
    output, taps = reference.max_pool2d_taps(x, **options, relu=relu)
    return {"grad_output": draw.floats(*output.shape), "taps": taps, "input_shape": x.shape, **options, "relu": relu}


# --- batch norm -----------------------------------------------------------------------------------------------------


def _normed_shape(draw):
    n, c, h, w = draw.images()
    return draw.pick([(n, c), (n, c, w), (n, c, h, w), (n, c, h, w)])


def _over_channels(vector, ndim):
    return vector.reshape(-1, *[1] * (ndim - 2))


def _norm_scale(arguments, want):
    """Of output (or of the factors), statistics, and the updated running statistics."""
    x = arguments["input"]
    factors = {key: value for key, value in arguments.items() if key != "return_saved"}
    if arguments.get("running_mean") is not None:
        factors |= {key: factors[key].copy() for key in ("running_mean", "running_var")}
    mean, invstd, scale, shift = reference.batch_norm_factors(**factors)
    size = np.abs(x).max(axis=(0, *range(2, x.ndim))) if x.size else np.zeros(x.shape[1])
    around = size + np.abs(mean)
    rough = 1 + np.square(around * invstd) * 2**-20  # a variance that is small beside the mean
    running = {"running_mean": around, "running_var": around * around + 1}
    for key, value in running.items():
        if arguments.get(key) is not None:
            running[key] = (value + np.abs(arguments[key])) * (1 + abs(arguments.get("momentum", 0.1)))
    if "return_saved" not in arguments:
        moved = around * np.abs(scale) * rough  # the shift makes up for the rounding of the mean
        return [(around, invstd * rough, np.abs(scale) * rough, np.abs(shift) + moved), running]
    wide = [_over_channels(v, x.ndim) for v in (np.abs(mean), np.abs(scale) * rough, np.abs(shift))]
    if arguments["training"] and x.size:  # what is lost where the mean is summed
        wide[0] = np.maximum(wide[0], np.abs(x).mean(axis=(0, *range(2, x.ndim)), keepdims=True)[0])
    output = (np.abs(x) + wide[0]) * wide[1] + wide[2]
    return [(output, around, invstd * rough) if arguments["return_saved"] else output, running]


def _norm_arguments(draw):
    shape = _normed_shape(draw)
    training = draw.chance(0.6)
    if training and math.prod(shape) == shape[1]:
        shape = (shape[0] + 1, *shape[1:])
    draw.special = draw.special and not training
    if draw.values == "wide":
        draw.values = "normal"
    c = shape[1]
    running = draw.chance(0.7) or not training
    return {
        "input": draw.floats(*shape),
        "running_mean": draw.floats(c) if running else None,
        "running_var": draw.positive(c) if running else None,
        "weight": draw.floats(c) if draw.chance(0.7) else None,
        "bias": draw.floats(c) if draw.chance(0.7) else None,
        "training": training,
        "momentum": draw.pick([0.1, 0.0, 1.0, 0.37]),
        "eps": draw.pick([1e-5, 1e-3, 0.5]),
    }


_RUNNING = ("running_mean", "running_var")


@draws("batch_norm", scale=_norm_scale, written=_RUNNING, out="one", images=("input",))
def _(draw):
    return {**_norm_arguments(draw), "return_saved": draw.chance(0.5)}


@draws("batch_norm_factors", scale=_norm_scale, written=_RUNNING, images=("input",))
def _(draw):
    return _norm_arguments(draw)


def _apply_scale(arguments, want):
    x = arguments["input"]
    mean, scale, shift = (_over_channels(np.abs(arguments[name]), x.ndim) for name in ("mean", "scale", "shift"))
    residual = 0 if arguments["residual"] is None else np.abs(arguments["residual"])
    return (np.abs(x) + mean) * scale + shift + residual


@draws("batch_norm_apply", scale=_apply_scale, out="one", in_place=("input", "residual"), images=("input", "residual"))
def _(draw):
    shape = _normed_shape(draw)
    residual = draw.floats(*shape) if draw.chance(0.5) else None
    return {"input": draw.floats(*shape), **_factors_of(draw, shape[1]), "residual": residual, "relu": draw.chance(0.5)}


def _norm_backward_scale(arguments, want):
    x, dy = arguments["input"], np.abs(arguments["grad_output"])
    mean, invstd = (_over_channels(arguments[name], x.ndim) for name in ("mean", "invstd"))
    weight = 1 if arguments["weight"] is None else _over_channels(np.abs(arguments["weight"]), x.ndim)
    xhat = (np.abs(x) + np.abs(mean)) * np.abs(invstd)
    axes = (0, *range(2, x.ndim))
    count = max(x.size // x.shape[1], 1)
    sums, products = dy.sum(axis=axes), (dy * xhat).sum(axis=axes)
    if arguments.get("sums") is not None:
        sums, products = (
            sums + np.abs(arguments["sums"][0]),
            products + np.abs(arguments["sums"][1] * arguments["invstd"]),
        )
    wide = [_over_channels(value / count, x.ndim) for value in (sums, products)]
    grad = (dy + wide[0] + xhat * wide[1]) * weight * np.abs(invstd)
    return (grad, products, sums, dy) if arguments["return_masked"] else (grad, products, sums)


@draws(
    "batch_norm_backward",
    scale=_norm_backward_scale,
    out="tuple-first",
    in_place=("input", "grad_output"),
    images=("input", "grad_output"),
)
def _(draw):
    shape = _normed_shape(draw)
    c = shape[1]
    relu = draw.pick([None, None, "output", "factors"])
    _exact_if(draw, relu == "factors")
    draw.special = False
    vectors = _factors_of(draw, c)
    masked = draw.chance(0.5)
    sums = None
    if draw.chance(0.3) and shape[0] and not (masked and relu):
        sums = draw.rng.standard_normal((2, c))
    given = draw.floats(*shape) if relu == "output" else (vectors["scale"], vectors["shift"]) if relu else None
    return {"grad_output": draw.floats(*shape), "input": draw.floats(*shape),
            "weight": draw.floats(c) if draw.chance(0.6) else None, "mean": vectors["mean"], "invstd": draw.positive(c),
            "training": draw.chance(0.7), "relu": given, "return_masked": masked, "sums": sums}  # fmt: skip


# --- activations ----------------------------------------------------------------------------------------------------


def _any_shape(draw, most=5):
    if draw.chance(0.4):
        return draw.images()
    if draw.chance(0.06):
        return (2 ** draw.pick([12, 13, 15]) + draw.pick([-1, 0, 1, 7]),)
    return tuple(draw.integer(0, 9) if draw.chance(0.1) else draw.integer(1, 7) for _ in range(draw.integer(0, most)))


def _activation(name, saved, scale, exact=False, **more):
    def forward(draw):
        return {"input": draw.floats(*_any_shape(draw)), **{key: make(draw) for key, make in more.items()}}

    def backward(draw):
        shape = _any_shape(draw)
        value = draw.floats(*shape)
        return {
            "grad_output": draw.floats(*shape),
            saved: np.asarray(np.clip(value, -1, 1)) if saved == "output" else value,
            **{key: make(draw) for key, make in more.items()},
        }

    def forward_scale(arguments, want):
        return scale(arguments["input"], want)

    def backward_scale(arguments, want):
        return np.abs(want) + np.abs(arguments["grad_output"]) * (1 + np.minimum(np.abs(arguments[saved]), 1e3))

    draws(name, scale=None if exact else forward_scale, out="one", in_place=("input",), images=("input",))(forward)
    draws(f"{name}_backward", scale=None if exact else backward_scale, images=("grad_output", saved))(backward)


_activation("relu", "output", None, exact=True)
_activation("leaky_relu", "input", lambda x, want: np.abs(x) + np.abs(want),
            negative_slope=lambda draw: draw.pick([0.01, 0.0, -1.5, 1.0, 0.3]))  # fmt: skip
_activation("sigmoid", "output", lambda x, want: np.abs(want) + 1e-3)
_activation("tanh", "output", lambda x, want: np.abs(want))
_activation("gelu", "input", lambda x, want: np.abs(x), approximate=lambda draw: draw.pick(["none", "tanh"]))
_activation("silu", "input", lambda x, want: np.abs(x))


@draws("add", out="one", in_place=("input", "other"), images=("input", "other"))
def _(draw):
    shape = _any_shape(draw)
    return {"input": draw.floats(*shape), "other": draw.floats(*shape)}


@draws("dropout", scale=lambda arguments, want: (*(np.abs(w) for w in want[:1]), None)
       if isinstance(want, tuple) else np.abs(want), images=("input",))  # fmt: skip
def _(draw):
    draw.special = False
    seed = draw.integer(0, 1 << 40)
    return {"input": draw.floats(*_any_shape(draw)), "p": draw.pick([0.5, 0.0, 1.0, 0.1, 0.75, 1e-9]),
            "training": draw.chance(0.9), "rng": partial(np.random.default_rng, seed),
            "return_mask": draw.chance(0.6)}  # fmt: skip


@draws("dropout_backward", scale=lambda arguments, want: np.abs(want), images=("grad_output", "mask"))
def _(draw):
    draw.special = False
    shape = _any_shape(draw)
    mask = draw.rng.integers(0, 2, shape).astype(np.uint8)
    return {"grad_output": draw.floats(*shape), "mask": np.asarray(mask), "p": draw.pick([0.5, 0.0, 1.0, 0.1])}


# --- linear ---------------------------------------------------------------------------------------------------------


def _linear_shapes(draw):
    rows = draw.pick([1, 2, 3, 4, 5, 15, 16, 17, 33]) if draw.chance(0.8) else draw.integer(0, 64)
    features = draw.channels() if draw.chance(0.9) else draw.pick([1023, 1024, 1025, 2049])
    outputs = draw.channels() if draw.chance(0.95) else draw.pick([127, 128, 130])
    lead = draw.pick([(), (rows,), (rows,), (rows,), (2, rows)])
    return lead, features, outputs


@draws("linear", out="one")
def _(draw):
    lead, features, outputs = _linear_shapes(draw)
    bias = draw.floats(outputs) if draw.chance(0.6) else None
    return {"input": draw.floats(*lead, features), "weight": draw.floats(outputs, features), "bias": bias,
            "relu": draw.chance(0.3)}  # fmt: skip


def _linear_backward_scale(arguments, want):
    grad = np.abs(arguments["grad_output"])
    if arguments["relu"] is not None:
        grad = np.where(arguments["relu"] <= 0, 0, grad)
    return reference.linear_backward(grad, *(np.abs(arguments[name]) for name in ("input", "weight")),
                                     needs=arguments["needs"])  # fmt: skip


@draws("linear_backward", scale=_linear_backward_scale, out="tuple", out_count=3)
def _(draw):
    lead, features, outputs = _linear_shapes(draw)
    relu = draw.floats(*lead, outputs) if draw.chance(0.3) else None
    return {"grad_output": draw.floats(*lead, outputs), "input": draw.floats(*lead, features),
            "weight": draw.floats(outputs, features), "relu": relu, "needs": _needs(draw)}  # fmt: skip


def _joined(draw, shape):
    first = draw.integer(0, max(len(shape) - 1, 0))
    last = draw.integer(first, max(len(shape) - 1, 0))
    return {"start_dim": first - draw.pick([0, len(shape)]), "end_dim": last - draw.pick([0, len(shape)])}


@draws("flatten", scale=None, sizes=("start_dim", "end_dim"), images=("input",))
def _(draw):
    shape = draw.images() if draw.chance(0.7) else (*_any_shape(draw), 2)
    return {"input": draw.floats(*shape), **_joined(draw, shape)}


@draws("flatten_backward", scale=None, sizes=("input_shape", "start_dim", "end_dim"))
def _(draw):
    shape = draw.images() if draw.chance(0.7) else (*_any_shape(draw), 2)
    joined = _joined(draw, shape)
    made = reference.flatten(np.zeros(shape), **joined)
    return {"grad_output": draw.floats(*made.shape), "input_shape": shape, **joined, "channels_last": draw.chance(0.5)
            and len(shape) > 2}  # fmt: skip


# --- softmax and losses ---------------------------------------------------------------------------------------------


def _softmax_shape(draw):
    shape = _any_shape(draw)
    shape = shape if shape else (draw.integer(1, 5),)
    return shape, draw.integer(-len(shape), len(shape) - 1)


def _exponent_scale(arguments, want):
    x, dim = arguments["input"], arguments["dim"]
    if not x.size:
        return np.zeros(x.shape)
    largest = np.abs(np.where(np.isfinite(x), x, 0)).max(axis=dim, keepdims=True)
    return np.abs(want) + largest + math.log((x.shape[dim] if x.ndim else 1) + 1)


def _softmax_scale(arguments, want):
    return np.abs(want) * _exponent_scale(arguments, 0) + 1e-6


def _softmax_backward_scale(arguments, want):
    y, dy = np.abs(arguments["output"]), np.abs(arguments["grad_output"])
    return y * (dy + (dy * y).sum(axis=arguments["dim"], keepdims=True))


def _log_softmax_backward_scale(arguments, want):
    y, dy = arguments["output"], np.abs(arguments["grad_output"])
    return dy + np.exp(y) * (1 + np.abs(y)) * dy.sum(axis=arguments["dim"], keepdims=True)


def _softmaxes():
    def forward(draw):
        shape, dim = _softmax_shape(draw)
        return {"input": draw.floats(*shape), "dim": dim}

    def backward(logarithm, draw):
        shape, dim = _softmax_shape(draw)
        draw.special = False
        if draw.values == "wide":
            draw.values = "normal"
        x = draw.rng.standard_normal(shape)
        twin = reference.log_softmax if logarithm else reference.softmax
        made = (twin(x, dim) if x.size else x).astype(draw.dtype)
        return {"grad_output": draw.floats(*shape), "output": made, "dim": dim}

    for name, scale, backward_scale in (("softmax", _softmax_scale, _softmax_backward_scale),
                                        ("log_softmax", _exponent_scale, _log_softmax_backward_scale)):  # fmt: skip
        twin, back = getattr(reference, name), getattr(reference, f"{name}_backward")
        images = {"images": ("input",), "sizes": ("dim",)}
        draws(name, scale=scale, reference=partial(_of_something, twin), **images)(forward)
        draws(f"{name}_backward", scale=backward_scale, reference=partial(_of_something, back), sizes=("dim",))(
            partial(backward, name == "log_softmax")
        )


def _of_something(twin, **arguments):
    """The reference takes a maximum, which an empty array has not."""
    first = next(iter(arguments.values()))
    return twin(**arguments) if first.size else np.empty_like(first)


_softmaxes()


def _entropy(input, target, *arguments, **options):
    """The reference, for scores without a batch and of no targets, too."""
    if input.ndim == 1:
        loss, grad = reference.cross_entropy(input[None], np.asarray(target)[None], *arguments, **options)
        return (loss[0] if isinstance(loss, np.ndarray) else loss), grad[0]
    if not input.size:
        nothing = {"mean": math.nan, "sum": 0.0, "none": np.zeros(target.shape)}
        return nothing[options.get("reduction", "mean")], np.zeros(input.shape)
    return reference.cross_entropy(input, target, *arguments, **options)


def _entropy_scale(arguments, want):
    x, weight = arguments["input"], arguments["weight"]
    axis = min(x.ndim - 1, 1)
    most = 1.0 if weight is None else float(np.max(np.abs(weight)))
    with np.errstate(all="ignore"):
        finite = np.where(np.isfinite(x), np.abs(x), 0)
        each = (2 * finite.max(axis=axis) + math.log(x.shape[axis]) + 1) * most if x.size else np.zeros(())
    loss, grad = np.abs(want[0]), np.abs(want[1])
    divisor = 1.0
    if arguments["reduction"] == "mean" and x.size:
        counted = arguments["target"] != arguments["ignore_index"]
        classes = np.where(counted, arguments["target"], 0)
        weights = np.ones(x.shape[axis]) if weight is None else weight
        divisor = float((weights[classes] * counted).sum()) or 1.0
    if arguments["reduction"] == "none":
        return loss + each, grad + np.expand_dims(each, axis) if x.size else grad
    total = float(np.sum(each)) / divisor if x.size else 0.0
    return total + loss, grad + (np.expand_dims(each, axis) / divisor if x.size else 0)


@draws("cross_entropy", scale=_entropy_scale, reference=_entropy, sizes=("ignore_index",), images=("input",), weight=2)
def _(draw):
    if draw.special:
        draw.values = "normal"
    classes = draw.pick([1, 2, 10, 15, 16, 17, 100])
    n = draw.integer(0, 9) if draw.chance(0.9) else draw.pick([400, 4096, 4097])
    extra = tuple(draw.integer(1, 5) for _ in range(draw.pick([0, 0, 0, 1, 2])))
    shape = (n, classes, *extra)
    target = draw.rng.integers(0, classes, (n, *extra)).astype(
        draw.pick([np.int64, np.int64, np.int32, np.uint8, np.int16])
    )
    ignore = draw.pick([-100, -100, 0, classes - 1])
    if target.dtype.kind == "i" and ignore == -100 and draw.chance(0.3):
        target[draw.rng.random(target.shape) < draw.pick([0.3, 1.0])] = ignore
    x = draw.floats(*shape)
    if not extra and n and draw.chance(0.1):
        x, target = x[0], np.asarray(target[0])
    return {"input": x, "target": np.asarray(target), "weight": draw.positive(classes) if draw.chance(0.4) else None,
            "ignore_index": ignore, "reduction": draw.pick(["mean", "sum", "none"]),
            "label_smoothing": draw.pick([0.0, 0.0, 0.1, 1.0])}  # fmt: skip


def _mse_scale(arguments, want):
    difference = np.abs(arguments["input"]) + np.abs(arguments["target"])
    count = max(difference.size, 1) if arguments["reduction"] == "mean" else 1
    each = difference * difference
    return (each if arguments["reduction"] == "none" else each.sum() / count), 2 * difference / count


@draws("mse_loss", scale=_mse_scale, images=("input", "target"))
def _(draw):
    shape = _any_shape(draw)
    return {
        "input": draw.floats(*shape),
        "target": draw.floats(*shape),
        "reduction": draw.pick(["mean", "sum", "none"]),
    }


# --- updates --------------------------------------------------------------------------------------------------------


def _vector_size(draw):
    return draw.integer(0, 70) if draw.chance(0.9) else 2 ** draw.pick([12, 13, 15]) + draw.pick([-1, 0, 1, 17])


def _sgd_scale(arguments, want):
    given = {key: absolute(value) for key, value in arguments.items()}
    given["momentum_buffer"] = given["momentum_buffer"] if arguments["momentum"] else None
    step = given["grad"] + arguments["weight_decay"] * np.abs(arguments["param"])
    kept = given["momentum_buffer"] if given["momentum_buffer"] is not None and not arguments["first_step"] else 0
    buffer = arguments["momentum"] * kept + (1 + abs(arguments["dampening"])) * step
    scales = {"param": given["param"] + arguments["lr"] * (step + buffer)}
    return [(), scales | ({"momentum_buffer": kept + buffer} if given["momentum_buffer"] is not None else {})]


def _no_result(twin, **arguments):
    twin(**arguments)
    return ()


def _changes_nothing(function, **arguments):
    value = function(**arguments)
    return () if value is None else value


@draws(
    "sgd_update",
    scale=_sgd_scale,
    written=("param", "momentum_buffer"),
    strict=("param", "grad", "momentum_buffer"),
    reference=partial(_no_result, reference.sgd_update),
)
def _(draw):
    size = _vector_size(draw)
    momentum = draw.pick([0.0, 0.9, 0.5])
    nesterov = momentum > 0 and draw.chance(0.3)
    return {"param": draw.floats(size), "grad": draw.floats(size),
            "momentum_buffer": draw.floats(size) if momentum or draw.chance(0.2) else None,
            "lr": draw.pick([0.1, 1e-3, 0.0]), "momentum": momentum,
            "dampening": 0.0 if nesterov else draw.pick([0.0, 0.5]), "weight_decay": draw.pick([0.0, 1e-2]),
            "nesterov": nesterov, "first_step": draw.chance(0.2)}  # fmt: skip


def _adam_scale(arguments, want):
    p, g = np.abs(arguments["param"]), np.abs(arguments["grad"])
    m, v = np.abs(arguments["exp_avg"]), arguments["exp_avg_sq"]
    g = g + arguments["weight_decay"] * p
    step = arguments["lr"] / (1 - arguments["beta1"] ** arguments["step"])
    root = np.sqrt(v) / math.sqrt(1 - arguments["beta2"] ** arguments["step"]) + arguments["eps"]
    least = np.sqrt(np.maximum(v - 4 * g * g * (1 - arguments["beta2"]), 0))
    known = np.where(least > 0, (m + g) / root, (m + g) / np.maximum(root, 1e-12))
    return [(), {"param": p + step * known * 2, "exp_avg": m + g, "exp_avg_sq": v + g * g}]


@draws(
    "adam_update",
    scale=_adam_scale,
    written=("param", "exp_avg", "exp_avg_sq"),
    sizes=("step",),
    strict=("param", "grad", "exp_avg", "exp_avg_sq"),
    reference=partial(_no_result, reference.adam_update),
)
def _(draw):
    size = _vector_size(draw)
    if draw.values in ("wide", "zeros"):
        draw.values = "normal"
    draw.special = False
    return {"param": draw.floats(size), "grad": draw.floats(size), "exp_avg": draw.floats(size),
            "exp_avg_sq": draw.positive(size), "step": draw.pick([1, 2, 10, 1000]), "lr": draw.pick([0.1, 1e-3]),
            "beta1": draw.pick([0.9, 0.0]), "beta2": draw.pick([0.999, 0.5]), "eps": draw.pick([1e-8, 1e-3]),
            "weight_decay": draw.pick([0.0, 1e-2]), "decoupled": draw.chance(0.5)}  # fmt: skip


def _clip_scale(arguments, want):
    norm = math.sqrt(np.square(np.abs(arguments["grad"])).sum())
    return [(max(norm, want) if math.isfinite(norm) else norm), {"grad": np.abs(arguments["grad"])}]


@draws("clip_grad_norm", scale=_clip_scale, written=("grad",), strict=("grad",))
def _(draw):
    draw.special = False
    return {"grad": draw.floats(_vector_size(draw)), "max_norm": draw.pick([1.0, 0.0, 1e-3, 1e6])}


# --- images ---------------------------------------------------------------------------------------------------------


def _image_batch(images, indices, scale=1.0, mean=0.0, std=1.0, shift=None, flip=None, cutout=None, dtype=np.float32,
                 out=None):  # fmt: skip
    """What the docstring of `image_batch` says, image by image."""
    _, c, h, w = images.shape
    mean, std = (np.broadcast_to(np.asarray(v, np.float64), (c,))[:, None, None] for v in (mean, std))
    batch = np.empty((len(indices), c, h, w), np.float64)
    for number, index in enumerate(np.asarray(indices)):
        top, left = (0, 0) if shift is None else (int(v) for v in shift[number])
        moved = np.zeros((c, h, w))
        rows, columns = np.arange(h) + top, np.arange(w) + left
        inside_rows, inside_columns = (rows >= 0) & (rows < h), (columns >= 0) & (columns < w)
        if inside_rows.any() and inside_columns.any():
            moved[:, np.ix_(inside_rows, inside_columns)[0], np.ix_(inside_rows, inside_columns)[1]] = images[index][
                :, rows[inside_rows][:, None], columns[inside_columns][None]
            ]
        if flip is not None and flip[number]:
            moved = moved[:, :, ::-1]
        batch[number] = (moved * scale - mean) / std
        if cutout is not None:
            top, left, bottom, right = np.clip(cutout[number], 0, (h, w, h, w))
            batch[number, :, top:bottom, left:right] = 0
    return batch


def _image_scale(arguments, want):
    std = np.min(np.abs(np.asarray(arguments["std"], np.float64)))
    largest = np.max(np.abs(arguments["images"]).astype(np.float64), initial=0) * arguments["scale"]
    return np.full(want.shape, (largest + np.max(np.abs(np.asarray(arguments["mean"], np.float64)))) / std)


def _image_check(case, arguments, result, want, dtype):
    from calls import compare

    kind = np.dtype(arguments["dtype"])
    compare("", result, want, _image_scale(arguments, want), 8, kind)


@draws("image_batch", scale=None, check=_image_check, reference=_image_batch, out="one")
def _(draw):
    draw.special = False
    count, c, h, w = draw.integer(1, 5), draw.pick([1, 3, 3, 4, 9]), draw.extent(20), draw.extent(40)
    n = draw.integer(0, 6)
    images = draw.floats(count, c, h, w)
    if draw.chance(0.5):
        images = draw.rng.integers(0, 256, images.shape).astype(np.uint8)
    far = draw.pick([3, 3, 50])
    return {"images": images, "indices": draw.rng.integers(0, count, n), "scale": draw.pick([1.0, 1 / 255]),
            "mean": draw.pick([0.0, 0.5, (0.1,) * c]), "std": draw.pick([1.0, 0.25, (0.5,) * c]),
            "shift": draw.rng.integers(-far, far + 1, (n, 2)) if draw.chance(0.6) else None,
            "flip": draw.rng.random(n) < 0.5 if draw.chance(0.6) else None,
            "cutout": draw.rng.integers(-3, 20, (n, 4)) if draw.chance(0.4) else None,
            "dtype": draw.pick([np.float32, np.float32, np.float64])}  # fmt: skip


# --- draws that fail, by which the tests see that failures are noticed ----------------------------------------------


def _self_test(name, function):
    SPECS[name] = Spec(name, lambda draw: Case({"input": draw.floats(3, 4)}), function, reference.relu, None,
                       is_public=False)  # fmt: skip


def _crash(input):
    import ctypes

    return ctypes.string_at(1)


def _write(input):
    output = np.maximum(input, 0)
    np.asarray(root(input)).flags.writeable = True
    root(input)[...] += 1
    return output


_self_test("self-test-crash", _crash)
_self_test("self-test-wrong", lambda input: np.maximum(input, 1))
_self_test("self-test-writes", _write)
for _spec in SPECS.values():
    if _spec.out == "tuple-first":  # a tuple of results, `out` for the first of them
        _spec.out = "one"
    if _spec.written and _spec.reference.__class__ is partial and _spec.reference.func is _no_result:
        _spec.function = partial(_changes_nothing, _spec.function)
