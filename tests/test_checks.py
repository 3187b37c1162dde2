"""Arguments that are no plain array, sizes that overflow, numbers of threads out of range, results that overlap."""

import ctypes
import math
import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_doors import Window, call
from windows import channels_last

import fastcnn
from fastcnn import DataLoader, nn, optim, reference
from fastcnn import functional as F
from fastcnn.functional import _checks as check


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def in_a_process(code, **environment):
    """Run code in a process of its own; a crash or a hang is an error. Returns what it printed."""
    start = "import numpy as np\nfrom fastcnn import functional as F, nn\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start + textwrap.dedent(code)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


# --- one call of every function that takes arrays -------------------------------------------------------------------

X, ROWS, W, B = normal(2, 4, 6, 6), normal(2, 4, 6), normal(3, 4, 3, 3, seed=1), normal(3, seed=2)
W1, V = W[:, :, 0].copy(), np.abs(normal(4, seed=3)) + 0.5
DY, DY1 = normal(2, 3, 4, 4, seed=4), normal(2, 3, 4, seed=5)
POOLED, INDICES = F.max_pool2d(X, 2, return_indices=True)
POOLED1, INDICES1 = F.max_pool1d(ROWS, 2, return_indices=True)
TAPS = F.max_pool2d_taps(X, 2)[1]
CONVPOOLED, CONVTAPS = F.conv2d_max_pool(X, W, B, pool=(2,))
FLAT, M = normal(5, 4), normal(3, 4, seed=6)
ZERO, ONE = np.zeros(4), np.ones(4)
STATISTICS = np.stack([ZERO, ONE])
CALLS = {
    "add": ({"input": X, "other": X + 1}, {}),
    "adaptive_avg_pool1d": ({"input": ROWS}, {"output_size": 2}),
    "adaptive_avg_pool1d_backward": ({"grad_output": ROWS[:, :, :2].copy()}, {"input_shape": ROWS.shape}),
    "adaptive_avg_pool2d": ({"input": X}, {"output_size": 2}),
    "adaptive_avg_pool2d_backward": ({"grad_output": POOLED}, {"input_shape": X.shape}),
    "avg_pool1d": ({"input": ROWS}, {"kernel_size": 2}),
    "avg_pool1d_backward": ({"grad_output": POOLED1}, {"input_shape": ROWS.shape, "kernel_size": 2}),
    "avg_pool2d": ({"input": X}, {"kernel_size": 2}),
    "avg_pool2d_backward": ({"grad_output": POOLED}, {"input_shape": X.shape, "kernel_size": 2}),
    "batch_norm": ({"input": FLAT, "running_mean": ZERO, "running_var": ONE, "weight": V, "bias": V}, {}),
    "batch_norm_factors": (
        {"input": FLAT, "running_mean": ZERO, "running_var": ONE, "weight": V, "bias": V, "statistics": STATISTICS},
        {},
    ),
    "batch_norm_apply": ({"input": FLAT, "mean": V, "scale": V, "shift": V + 1, "residual": FLAT + 1}, {}),
    "batch_norm_backward": (
        {"grad_output": FLAT, "input": FLAT + 1, "weight": V, "mean": V, "invstd": V, "relu": FLAT + 2},
        {},
    ),
    "col2im": ({"input": F.im2col(X, 2)}, {"output_size": (6, 6), "kernel_size": 2}),
    "col2im1d": ({"input": F.im2col1d(ROWS, 2)}, {"output_size": 6, "kernel_size": 2}),
    "conv1d": ({"input": ROWS, "weight": W1, "bias": B}, {}),
    "conv1d_backward": ({"grad_output": DY1, "input": ROWS, "weight": W1}, {}),
    "conv2d": ({"input": X, "weight": W, "bias": B}, {}),
    "conv2d_backward": ({"grad_output": DY, "input": X, "weight": W}, {}),
    "conv2d_max_pool": ({"input": X, "weight": W, "bias": B}, {"pool": (2,)}),
    "conv2d_max_pool_backward": (
        {"grad_output": CONVPOOLED, "taps": CONVTAPS, "input": X, "weight": W},
        {"pool": (2,)},
    ),
    "conv2d_norm": (
        {"input": X, "weight": W, "bias": B, "mean": B, "scale": B, "shift": B + 1, "residual": DY},
        {},
    ),
    "cross_entropy": ({"input": FLAT, "target": np.array([0, 1, 2, 3, 0]), "weight": V}, {}),
    "dropout_backward": ({"grad_output": X, "mask": (X > 0).astype(np.uint8)}, {}),
    "flatten": ({"input": X}, {}),
    "flatten_backward": ({"grad_output": X.reshape(2, -1)}, {"input_shape": X.shape, "start_dim": 1}),
    "gelu": ({"input": X}, {}),
    "gelu_backward": ({"grad_output": X, "input": X + 1}, {}),
    "im2col": ({"input": X}, {"kernel_size": 2}),
    "im2col1d": ({"input": ROWS}, {"kernel_size": 2}),
    "image_batch": (
        {
            "images": X, "indices": np.array([1, 0, 1]), "shift": np.array([[0, 1]] * 3),
            "flip": np.array([True, False, True]), "cutout": np.array([[0, 0, 2, 2]] * 3),
        },
        {"dtype": np.float64},
    ),
    "leaky_relu": ({"input": X}, {}),
    "leaky_relu_backward": ({"grad_output": X, "input": X + 1}, {}),
    "linear": ({"input": FLAT, "weight": M, "bias": B}, {}),
    "linear_backward": (
        {"grad_output": normal(5, 3), "input": FLAT, "weight": M, "relu": normal(5, 3, seed=1)},
        {},
    ),
    "log_softmax": ({"input": FLAT}, {}),
    "log_softmax_backward": ({"grad_output": FLAT, "output": FLAT + 1}, {}),
    "max_pool1d": ({"input": ROWS}, {"kernel_size": 2}),
    "max_pool1d_backward": ({"grad_output": POOLED1, "indices": INDICES1}, {"input_shape": ROWS.shape}),
    "max_pool2d": ({"input": X}, {"kernel_size": 2}),
    "max_pool2d_backward": ({"grad_output": POOLED, "indices": INDICES}, {"input_shape": X.shape}),
    "max_pool2d_taps": ({"input": X}, {"kernel_size": 2}),
    "max_pool2d_taps_backward": (
        {"grad_output": POOLED, "taps": TAPS},
        {"input_shape": X.shape, "kernel_size": 2},
    ),
    "max_unpool1d": ({"input": POOLED1, "indices": INDICES1}, {"kernel_size": 2}),
    "max_unpool1d_backward": ({"grad_output": ROWS, "indices": INDICES1}, {}),
    "max_unpool2d": ({"input": POOLED, "indices": INDICES}, {"kernel_size": 2}),
    "max_unpool2d_backward": ({"grad_output": X, "indices": INDICES}, {}),
    "mse_loss": ({"input": X, "target": X + 1}, {}),
    "norm_conv2d": ({"input": X, "mean": V, "scale": V, "shift": V, "weight": W, "bias": B}, {}),
    "norm_conv2d_backward": (
        {"grad_output": DY, "input": X, "mean": V, "scale": V, "shift": V, "weight": W},
        {},
    ),
    "relu": ({"input": X}, {}),
    "relu_backward": ({"grad_output": X, "output": X + 1}, {}),
    "sigmoid": ({"input": X}, {}),
    "sigmoid_backward": ({"grad_output": X, "output": X + 1}, {}),
    "silu": ({"input": X}, {}),
    "silu_backward": ({"grad_output": X, "input": X + 1}, {}),
    "softmax": ({"input": FLAT}, {}),
    "softmax_backward": ({"grad_output": FLAT, "output": FLAT + 1}, {}),
    "tanh": ({"input": X}, {}),
    "tanh_backward": ({"grad_output": X, "output": X + 1}, {}),
}  # fmt: skip
# Functions that write to arguments or draw random numbers are tested separately, below.
OTHERS = {"adam_update", "clip_grad_norm", "dropout", "sgd_update"}
ARGUMENTS = [(name, argument) for name, (arrays, _) in CALLS.items() for argument in arrays]


def test_every_function_is_called():
    assert CALLS.keys() | OTHERS == set(F.__all__)


def flattened(result):
    return [item for item in (result if isinstance(result, tuple) else (result,)) if item is not None]


def outcome(name, changes):
    arrays, options = CALLS[name]
    return flattened(getattr(F, name)(**{**arrays, **options, **changes}))


class Hostile(np.ndarray):
    """Says other things of itself than NumPy's own code finds."""

    def __getitem__(self, key):
        raise AssertionError("indexed")

    def __array_function__(self, function, types, arguments, options):
        return NotImplemented

    def __array_ufunc__(self, *arguments, **options):
        raise AssertionError("a ufunc")

    def transpose(self, *axes):
        raise AssertionError("transposed")

    def reshape(self, *shape, **options):
        raise AssertionError("reshaped")

    def astype(self, *arguments, **options):
        raise AssertionError("converted")

    shape = property(lambda self: (10**6,) * 3)
    strides = property(lambda self: (1,))
    ndim = property(lambda self: 3)
    size = property(lambda self: 10**9)
    dtype = property(lambda self: np.dtype(np.int8))


class Remembering(np.ndarray):
    """As in NumPy's documents: an attribute of its own, handed on."""

    def __array_finalize__(self, other):
        self.info = getattr(other, "info", None)


class Pretender:
    """No array, though isinstance(…, np.ndarray) says so."""

    __class__ = np.ndarray


def memmap(array, tmp_path):
    mapped = np.memmap(tmp_path / "array", array.dtype, "w+", shape=array.shape)
    mapped[...] = array
    return mapped


SUBCLASSES = {
    "hostile": lambda array, _: array.view(Hostile),
    "remembering": lambda array, _: array.view(Remembering),
    "recarray": lambda array, _: array.view(np.recarray),
    "memmap": memmap,
    "unmasked": lambda array, _: np.ma.array(array),
    "false mask": lambda array, _: np.ma.array(array, mask=np.zeros(array.shape, bool)),
}


@pytest.mark.parametrize("kind", SUBCLASSES)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_subclasses_are_converted(name, argument, kind, tmp_path):
    want = outcome(name, {})
    for _ in range(2):
        got = outcome(name, {argument: SUBCLASSES[kind](CALLS[name][0][argument], tmp_path)})
        for g, w in zip(got, want, strict=True):
            assert type(g) in (np.ndarray, float)
            assert_array_equal(g, w)


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_masked_elements_are_refused(name, argument):
    array = CALLS[name][0][argument]
    masked = np.ma.array(array)
    masked[(0,) * array.ndim] = np.ma.masked
    with pytest.raises(TypeError, match=rf"^{argument}: expected an array without masked elements, got MaskedArray"):
        outcome(name, {argument: masked})
    if hasattr(reference, name):
        arrays, options = CALLS[name]
        with pytest.raises(TypeError, match=rf"^{argument}: expected an array without masked elements"):
            getattr(reference, name)(**{**arrays, **options, argument: masked})


@pytest.mark.parametrize("name", [name for name, (arrays, _) in CALLS.items() if "input" in arrays])
def test_matrices(name):
    """Two axes whatever is asked of them: they broke the heap."""
    arrays, options = CALLS[name]
    if arrays["input"].ndim != 2:
        return
    matrix = arrays["input"].view(np.matrix)
    for got, want in zip(outcome(name, {"input": matrix}), outcome(name, {}), strict=True):
        assert_array_equal(got, want)
    want = flattened(getattr(reference, name)(**arrays, **options))
    got = flattened(getattr(reference, name)(**{**arrays, "input": matrix}, **options))
    for g, w in zip(got, want, strict=True):
        assert_array_equal(g, w)


def test_matrices_and_the_heap():
    printed = in_a_process("""
        import gc
        x = np.random.default_rng(0).standard_normal((4, 6))
        for _ in range(5):
            kept = [F.batch_norm(np.matrix(x), None, None, training=True), F.max_pool1d(np.matrix(x), 2),
                    F.conv1d(np.matrix(x), np.ones((2, 4, 3))), F.linear(np.matrix(x), np.matrix(np.ones((3, 6)))),
                    nn.MaxPool1d(2)(np.matrix(x)), nn.Flatten(0)(np.matrix(x)),
                    nn.BatchNorm1d(6, dtype=np.float64)(np.matrix(x))]
            junk = [bytearray(i) for i in range(3000)]
            del junk
            gc.collect()
        print(all(type(k) is np.ndarray for k in kept))
    """)
    assert printed == "True\n"


# --- objects that say that they are arrays ---------------------------------------------------------------------------


class Interface:
    def __init__(self, **interface):
        self.__array_interface__ = {"version": 3, "typestr": "<f8", **interface}


class Raises:
    @property
    def __array_interface__(self):
        raise RuntimeError("no")


class NoDict:
    __array_interface__ = 3


class Device:
    def __dlpack__(self, **options):
        return 1

    def __dlpack_device__(self):
        return "cpu"


class Reads:
    """An interface that says something else each time that it is read."""

    def __init__(self):
        self.data, self.times = np.ones(4), 0

    @property
    def __array_interface__(self):
        self.times += 1
        size = 4 if self.times == 1 else 10**9
        return {"version": 3, "typestr": "<f8", "shape": (size,), "data": (self.data.ctypes.data, True)}


BYTES = np.arange(4.0).tobytes()
LIARS = {
    "null": Interface(shape=(4,), data=(0, False)),
    "more than the buffer": Interface(shape=(5,), data=BYTES),
    "strides beyond the buffer": Interface(shape=(4,), strides=(16,), data=BYTES),
    "strides before the buffer": Interface(shape=(4,), strides=(-8,), data=BYTES),
    "offset": Interface(shape=(4,), data=BYTES, offset=8),
    "no data": Interface(shape=(4,)),
    "other type": Interface(shape=(4,), typestr="<x9", data=BYTES),
    "integers": Interface(shape=(4,), typestr="<i8", data=BYTES),
    "objects": Interface(shape=(1,), typestr="|O8", data=(0, False)),
    "no shape": Interface(data=BYTES),
    "negative": Interface(shape=(-4,), data=BYTES),
    "raises": Raises(),
    "no dict": NoDict(),
    "device": Device(),
    "pretender": Pretender(),
    "object array": np.array([1.0, None], object),
    "list": [1.0, 2.0],
    "number": 1.0,
    "string": "abc",
    "class": np.ndarray,
}


@pytest.mark.parametrize("kind", LIARS)
def test_liars_are_refused(kind):
    for call_of in (F.relu, F.softmax, lambda x: F.linear(np.ones((2, 4)), np.ones((3, 4)), x)):
        with pytest.raises(TypeError, match=r"^(input|bias): expected "):
            call_of(LIARS[kind])
    with pytest.raises((TypeError, ValueError), match=r"^indices: expected "):
        F.image_batch(X, LIARS[kind] if kind not in ("integers", "list") else [0.5])


def test_honest_ones():
    buffer = bytearray(BYTES)
    assert_array_equal(F.relu(Interface(shape=(4,), data=buffer)), np.arange(4.0))
    assert_array_equal(F.relu(Interface(shape=(4,), strides=(-8,), offset=24, data=buffer)), np.arange(4.0)[::-1])
    assert_array_equal(F.relu(Interface(shape=(2, 2), strides=(0, 8), data=buffer)), [[0, 1], [0, 1]])
    assert F.relu(Interface(shape=(0, 3), data=(0, False))).shape == (0, 3)
    assert F.relu(np.float64(3).reshape(())).shape == ()
    assert_array_equal(F.relu(Reads()), np.ones(4))


def test_pandas_and_the_like():
    """What only converts, as a column of pandas' own types with gaps does, is refused."""

    class Series:
        def __array__(self, dtype=None, copy=None):
            return np.ones(3)

    with pytest.raises(TypeError, match="input: expected a NumPy array of float32 or float64, got Series"):
        F.relu(Series())


# --- where else arrays enter ------------------------------------------------------------------------------------------

MASKED = np.ma.array([[1.0, 1e20, 2.0, 3.0]] * 2, mask=[[False, True, False, False]] * 2)
MATRIX = normal(3, 4).view(np.matrix)


@pytest.mark.parametrize(
    "enter",
    [
        lambda x: nn.Parameter(x),
        lambda x: nn.Parameter([x[0], x[1]]),
        lambda x: setattr(nn.Parameter(np.zeros((2, 4))), "data", x),
        lambda x: setattr(nn.Parameter(np.zeros((2, 4))), "grad", x),
        lambda x: nn.Parameter(np.zeros((2, 4))).accumulate(x),
        lambda x: nn.Linear(4, 2, dtype=np.float64).load_state_dict({"weight": x, "bias": np.zeros(2)}),
        lambda x: nn.Linear(4, 2, dtype=np.float64)(x),
        lambda x: nn.Sequential(nn.Identity())(x),
        lambda x: nn.Flatten()(x),
        lambda x: nn.MaxPool1d(2)(x),
        lambda x: nn.AdaptiveAvgPool1d(2)(x),
        lambda x: nn.BatchNorm1d(4, dtype=np.float64)(x),
        lambda x: nn.Residual(nn.ReLU())(x),
        lambda x: nn.CrossEntropyLoss()(x, np.array([0, 1])),
        lambda x: nn.CrossEntropyLoss(weight=x[0])(np.ones((2, 4)), np.array([0, 1])),
        lambda x: nn.CrossEntropyLoss()(np.ones((2, 4)), np.ma.array([0, 1], mask=[True, False])),
        lambda x: nn.MSELoss()(np.ones((2, 4)), x),
        lambda x: nn.gradcheck(nn.ReLU(), x),
        lambda x: DataLoader((x, np.array([0, 1])), 1, dtype=np.float64),
        lambda x: DataLoader((np.ones((2, 4)), x), 1),
        lambda x: DataLoader((np.ones((2, 4)), [x[0], x[1]]), 1),
        lambda x: DataLoader((np.ones((2, 4)), np.array([0, 1])), 1, mean=x[0]),
        lambda x: DataLoader((np.ones((2, 4)), np.array([0, 1])), 1).preprocessing.raw(x),
        lambda x: F.image_batch(X, [np.ma.masked, 0]),
        lambda x: F.sgd_update(x[0], np.ones(4), None, 0.1),
        lambda x: F.clip_grad_norm(x[0], 1.0),
        lambda x: F.dropout(x, 0.5),
        lambda x: fastcnn.Trainer(nn.Linear(4, 2, dtype=np.float64), optim.SGD([nn.Parameter(np.zeros(1))])).predict(x),
    ],
)
def test_masks_are_refused_elsewhere(enter):
    with pytest.raises(TypeError, match="expected an array without masked elements, got "):
        enter(MASKED)


def test_matrices_elsewhere():
    plain = np.asarray(MATRIX)
    assert type(nn.Parameter(MATRIX).data) is np.ndarray
    layer = nn.Linear(4, 2, dtype=np.float64)
    assert_array_equal(layer(MATRIX), layer(plain))
    layer.load_state_dict({"weight": np.ones((2, 4)).view(np.matrix), "bias": [0.0, 1.0]})
    assert_array_equal(layer.weight.data, np.ones((2, 4)))
    pool = nn.MaxPool1d(2)
    assert_array_equal(pool(MATRIX), pool(plain))
    pool(plain)
    assert_array_equal(pool.backward(np.ones((3, 2)).view(np.matrix)).sum(1), [2, 2, 2])
    loader = DataLoader((MATRIX, np.array([0, 1, 2])), 3, dtype=np.float64)
    assert_array_equal(next(loader.epoch(0))[0], plain)
    trainer = fastcnn.Trainer(layer, optim.SGD(layer.parameters(), lr=0.1))
    assert_array_equal(trainer.predict(MATRIX), layer(plain))
    param = np.ones((1, 4)).view(np.matrix)
    F.sgd_update(np.asarray(param)[0].view(Remembering), np.ones(4), None, 0.5)
    assert_array_equal(param, [[0.5] * 4])


def test_whole_numbers_that_would_wrap():
    with pytest.raises(ValueError, match="indices: expected values from 0 to 1, got"):
        F.image_batch(X, np.array([0, 2**64 - 1], np.uint64))
    far = F.image_batch(X, [0], shift=np.array([[2**64 - 1, 0]], np.uint64), dtype=np.float64)
    assert not far.any()
    with pytest.raises(ValueError, match="expected targets of 64-bit integers with sign"):
        DataLoader((np.ones((2, 4)), np.array([0, 2**64 - 1], np.uint64)), 1)
    with pytest.raises(ValueError, match="target: expected class numbers"):
        F.cross_entropy(FLAT, np.array([0, 1, 2, 3, 2**64 - 100], np.uint64))


# --- results ----------------------------------------------------------------------------------------------------------


OUTS = {
    "add": X.shape, "avg_pool1d": (2, 4, 3), "avg_pool2d": (2, 4, 3, 3), "batch_norm": FLAT.shape,
    "batch_norm_apply": FLAT.shape, "batch_norm_backward": FLAT.shape, "conv1d": (2, 3, 4), "conv2d": (2, 3, 4, 4),
    "gelu": X.shape, "leaky_relu": X.shape, "linear": (5, 3), "max_pool1d": (2, 4, 3), "max_pool2d": (2, 4, 3, 3),
    "relu": X.shape, "sigmoid": X.shape, "silu": X.shape, "tanh": X.shape,
}  # fmt: skip


@pytest.mark.parametrize("name", OUTS)
def test_out_overlaps_nothing(name):
    """Of each argument: by its first element, by its last, by being a part of it."""
    arrays, options = CALLS[name]
    shape, size = OUTS[name], math.prod(OUTS[name])
    for argument, array in arrays.items():
        for shift in (0, 1, array.size - 1):
            memory = np.zeros(size + array.size + 1)
            own = memory[:size].reshape(shape)
            where = memory[size - 1 - shift if size > shift else 0 :][: array.size].reshape(array.shape)
            where[...] = array
            if not np.shares_memory(own, where) or (own.shape == where.shape and own.ctypes.data == where.ctypes.data):
                continue
            before = memory.copy()
            for _ in range(2):
                with pytest.raises(ValueError, match=f"^out: expected memory apart from {argument}, got an array"):
                    getattr(F, name)(**{**arrays, **options, argument: where}, out=own)
                assert_array_equal(memory, before)
                getattr(F, name)(**arrays, **options, out=np.empty(shape))  # remembered, and no help to the next


def odd_outs(shape):
    size = math.prod(shape)
    unaligned = np.zeros(size * 8 + 1, np.uint8)[1:].view(np.float64).reshape(shape)
    read_only = np.zeros(shape)
    read_only.flags.writeable = False
    masked = np.ma.zeros(shape)
    masked[(0,) * len(shape)] = np.ma.masked
    return {
        "unaligned": unaligned,
        "read only": read_only,
        "swapped": np.zeros(shape, ">f8"),
        "float32": np.zeros(shape, np.float32),
        "shape": np.zeros((*shape, 1)),
        "gaps": np.zeros((*shape, 2))[..., 0],
        "one element": np.lib.stride_tricks.as_strided(np.zeros(1), shape, (0,) * len(shape)),
        "masked": masked,
        "list": np.zeros(shape).tolist(),
        "interface": Interface(shape=shape, data=bytearray(size * 8)),
        "pretender": Pretender(),
    }


@pytest.mark.parametrize("name", OUTS)
def test_odd_outs_are_refused(name):
    arrays, options = CALLS[name]
    for out in odd_outs(OUTS[name]).values():
        with pytest.raises((TypeError, ValueError), match=r"^out: expected "):
            getattr(F, name)(**arrays, **options, out=out)


@pytest.mark.parametrize("kind", SUBCLASSES)
@pytest.mark.parametrize("name", OUTS)
def test_out_of_a_subclass(name, kind, tmp_path):
    """Is written to, and returned itself."""
    arrays, options = CALLS[name]
    memory = np.zeros(OUTS[name])
    out = SUBCLASSES[kind](memory, tmp_path)
    result = getattr(F, name)(**arrays, **options, out=out)
    assert (result[0] if isinstance(result, tuple) else result) is out
    assert_array_equal(np.asarray(out), flattened(getattr(F, name)(**arrays, **options))[0])


def test_out_may_be_the_input_but_overlap_no_other():
    memory = normal(30)
    x, shifted = memory[:20].reshape(5, 4), memory[4:24].reshape(5, 4)
    apart = "^out: expected memory apart from "
    with pytest.raises(ValueError, match=apart + "other"):
        F.add(x, shifted, out=x)
    with pytest.raises(ValueError, match=apart + "residual"):
        F.batch_norm_apply(x, V, V, V, residual=shifted, out=x)
    with pytest.raises(ValueError, match=apart + "input"):
        F.batch_norm_apply(shifted, V, V, V, residual=x, out=x)
    with pytest.raises(ValueError, match=apart + "input"):
        F.batch_norm_backward(x, shifted, V, V, V, out=x)
    want = F.add(x, FLAT)
    assert F.add(x, FLAT, out=x) is x
    assert_array_equal(x, want)


@pytest.mark.parametrize("name", OUTS)
def test_out_apart_from_what_is_copied(name):
    """Byte-swapped and unaligned arguments are read from copies; to overwrite them is refused all the same."""
    arrays, options = CALLS[name]
    shape = OUTS[name]
    for argument, array in arrays.items():
        size = max(math.prod(shape), array.size)
        memory = np.zeros(size)
        swapped = memory[: array.size].view(">f8").reshape(array.shape)
        swapped[...] = array
        before = memory.copy()
        with pytest.raises(ValueError, match=f"^out: expected memory apart from {argument}, got an array"):
            getattr(F, name)(**{**arrays, **options, argument: swapped}, out=memory[: math.prod(shape)].reshape(shape))
        assert_array_equal(memory, before)
        want = flattened(getattr(F, name)(**arrays, **options))
        for g, w in zip(outcome(name, {argument: swapped}), want, strict=True):
            assert_array_equal(g, w)


def test_what_is_returned_is_not_overwritten():
    with pytest.raises(ValueError, match=r"^out: expected memory apart from grad_output, which is returned"):
        F.batch_norm_backward(FLAT, FLAT + 1, V, V, V, return_masked=True, out=FLAT)


def test_gradients_apart_from_each_other():
    x, dy = normal(4, 4), normal(4, 4, seed=1)
    one = np.zeros((4, 4))
    for out in ((one, one, None), (one, None, one[1])):
        with pytest.raises(ValueError, match=r"^out: expected memory apart from out\[\d\], got"):
            F.linear_backward(dy, x, x + 1, needs=[o is not None for o in out], out=out)
    image = normal(1, 1, 3, 3)
    with pytest.raises(ValueError, match=r"^out: expected memory apart from input, got"):
        F.max_pool2d_taps(image, 1, out=(image, None))


def test_image_batch_out():
    """Overlapped its input and was misaligned without an error."""
    images = channels_last(np.zeros((4, 1, 3, 3), np.float32))
    assert_array_equal(F.image_batch(X.astype(">f8"), [1, 0], dtype=np.float64), X[::-1])
    for out in (images, images[:4], images[2:4]):
        with pytest.raises(ValueError, match=r"^out: expected memory apart from images, got an array that overlaps it"):
            F.image_batch(images, list(range(len(out))), out=out)
    for out in odd_outs((2, 4, 6, 6)).values():
        with pytest.raises((TypeError, ValueError), match=r"^out: expected "):
            F.image_batch(X, [1, 0], dtype=np.float64, out=out)
    out = channels_last(np.zeros((2, 4, 6, 6)))
    assert F.image_batch(X, [1, 0], dtype=np.float64, out=out) is out
    assert_array_equal(out, X[::-1])
    raw = np.zeros(9 * 2 * 4 * 36 + 1, np.uint8)[1 : 1 + 8 * 2 * 4 * 36]
    unaligned = raw.view(np.float64).reshape(2, 6, 6, 4).transpose(0, 3, 1, 2)
    with pytest.raises(ValueError, match=r"^out: expected a writable, aligned array"):
        F.image_batch(X, [1, 0], dtype=np.float64, out=unaligned)


def test_what_is_updated_in_place_overlaps_nothing():
    memory = np.zeros(20)
    a, b, c, d = memory[:5], memory[4:9], memory[10:15], memory[15:]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^param: expected memory apart from grad"):
            F.sgd_update(a, b, None, 0.1)
        with pytest.raises(ValueError, match=r"^momentum_buffer: expected memory apart from grad"):
            F.sgd_update(c, a, b, 0.1, 0.9)
        with pytest.raises(ValueError, match=r"^exp_avg: expected memory apart from exp_avg_sq"):
            F.adam_update(c, d, a, b, 1, 0.1)
        with pytest.raises(ValueError, match=r"^running_mean: expected memory apart from running_var"):
            F.batch_norm_factors(normal(3, 5), a, b, training=True)
        with pytest.raises(ValueError, match=r"^running_mean: expected memory apart from running_var"):
            F.batch_norm(normal(3, 5), a, b, training=True)
        assert not memory.any()
        # The right calls are remembered, and do not speak for wrong ones.
        F.sgd_update(c, d, None, 0.1)
        F.sgd_update(c, d, a, 0.1, 0.9)
        F.adam_update(a, c, d, np.zeros(5), 1, 0.1)
        F.batch_norm_factors(normal(3, 5), np.zeros(5), np.ones(5), training=True)
        memory[:] = 0


# --- sizes of one element ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tuple, list])
def test_one_element_means_all_axes(kind):
    def one(n):
        return kind([n])

    same = [
        (F.avg_pool2d, (X,), {"kernel_size": 3, "stride": 2, "padding": 1}),
        (F.max_pool2d, (X,), {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}),
        (F.conv2d, (X, W), {"stride": 2, "padding": 1, "dilation": 2}),
        (F.conv2d_backward, (normal(2, 3, 2, 2), X, W), {"stride": 2, "padding": 1, "dilation": 2}),
        (F.im2col, (X,), {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}),
        (F.col2im, (F.im2col(X, 3, padding=1), (6, 6)), {"kernel_size": 3, "padding": 1}),
        (F.max_unpool2d, (POOLED, INDICES), {"kernel_size": 2, "stride": 2, "padding": 0}),
        (F.avg_pool2d_backward, (POOLED, X.shape), {"kernel_size": 2}),
        (F.max_pool2d_taps_backward, (POOLED, TAPS, X.shape), {"kernel_size": 2, "stride": 2}),
        (F.conv1d, (ROWS, W1), {"stride": 2, "padding": 1, "dilation": 2}),
        (F.norm_conv2d, (X, V, V, V, W), {"stride": 2, "padding": 1, "dilation": 2}),
        (F.conv2d_norm, (X, W, B, B, B, B), {"stride": 2, "padding": 1, "dilation": 2}),
    ]
    for function, arrays, sizes in same:
        for chosen in ([*sizes], *([name] for name in sizes)):
            got = function(*arrays, **{name: one(n) if name in chosen else n for name, n in sizes.items()})
            for g, w in zip(flattened(got), flattened(function(*arrays, **sizes)), strict=True):
                assert_array_equal(g, w)
            twin = getattr(reference, function.__name__)
            got = twin(*arrays, **{name: one(n) if name in chosen else n for name, n in sizes.items()})
            for g, w in zip(flattened(got), flattened(twin(*arrays, **sizes)), strict=True):
                assert_array_equal(g, w)
    got = F.conv2d_max_pool(X, W, pool=(one(2), one(1), one(1)))
    assert_array_equal(got[0], F.conv2d_max_pool(X, W, pool=(2, 1, 1))[0])
    layers = [
        (nn.Conv2d(4, 3, one(3), one(2), one(1), one(1), dtype=np.float64), (2, 3, 3, 3)),
        (nn.MaxPool2d(one(3), one(2), one(1), one(1)), (2, 4, 3, 3)),
        (nn.AvgPool2d(one(3), one(2), one(1)), (2, 4, 3, 3)),
    ]
    for layer, shape in layers:
        assert layer(X).shape == shape
        assert len(layer.kernel_size) == len(layer.padding) == len(layer.stride) == 2


def test_as_torch_takes_them():
    torch = pytest.importorskip("torch")
    x, w = torch.from_numpy(X), torch.from_numpy(W)
    for name, arrays, ours, options in (
        ("avg_pool2d", (x,), (X,), {"kernel_size": (2,), "stride": (1,), "padding": (1,)}),
        ("max_pool2d", (x,), (X,), {"kernel_size": [2], "stride": [1], "padding": [1], "dilation": [1]}),
        ("conv2d", (x, w), (X, W), {"stride": (2,), "padding": (1,), "dilation": (2,)}),
    ):
        want = getattr(torch.nn.functional, name)(*arrays, **options).numpy()
        assert_allclose(getattr(F, name)(*ours, **options), want, rtol=1e-12, atol=1e-12)
    for name, ours in (("adaptive_avg_pool2d", (X, (2,))), ("max_unpool2d", (POOLED, INDICES, 2, 2, 0, (6,)))):
        arguments = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in ours]
        with pytest.raises((RuntimeError, ValueError)):
            getattr(torch.nn.functional, name)(*arguments)
        with pytest.raises(ValueError, match=r"^output_size: expected an int or 2 of them"):
            getattr(F, name)(*ours)


# --- sizes that overflow ----------------------------------------------------------------------------------------------


def read_by(size, places, kernel, stride, before, dilation):
    """For each output and tap the element that it reads, or -1."""
    element = np.arange(places)[:, None] * stride + np.arange(kernel) * dilation - before
    return np.where((element >= 0) & (element < size), element, -1)


def test_near_windows_read_the_same():
    draw = random.Random(0)
    far = 0
    for _ in range(20_000):
        size, kernel = draw.randint(1, 9), draw.randint(1, 6)
        stride = draw.choice([draw.randint(1, 40), draw.randint(1, 9), 2 ** draw.randint(0, 8)])
        near_stride = [stride, stride + 1, max(1, stride - 1), 2 * stride]
        dilation = draw.choice([draw.randint(1, 40), draw.randint(1, 9), 2 ** draw.randint(0, 8), *near_stride])
        before = draw.choice([draw.randint(0, 200), dilation * draw.randint(0, kernel), stride * draw.randint(0, 5)])
        room = size + before + draw.choice([before, draw.randint(0, 200)]) - dilation * (kernel - 1) - 1
        places = room // stride + 1
        if not 1 <= places <= 60:
            continue
        axis = size, places, kernel
        got = check.near(*axis, stride, before, dilation)
        assert got[0] >= 1
        assert got[1] >= 0
        assert got[2] >= 1
        assert_array_equal(read_by(*axis, *got), read_by(*axis, stride, before, dilation), err_msg=str(axis))
        far += max(stride, dilation) > size
        reach = (places - 1) * got[0] + (kernel - 1) * got[2]
        assert reach <= 8 * math.prod(axis)
    assert far > 5000


FAR = [
    {"padding": 2**22, "dilation": 2**22},
    {"padding": 2**22 + 1, "dilation": 2**22},
    {"padding": 2**61, "dilation": 2**61},
    {"padding": 2**22, "stride": 2**21, "dilation": 2**22},
    {"padding": 2**40, "stride": 2**39, "dilation": 2**39},
    {"padding": 2**32, "stride": 2**30, "dilation": 2**31},
    {"padding": 2**30, "stride": 2**29},
    {"padding": (2**22, 0), "dilation": (2**22, 1)},
    {"padding": "same", "dilation": 2**20},
    {"padding": "same", "dilation": 2**61},
]


def by_definition(x, weight, stride=1, padding=0, dilation=1):
    """The convolution of a small image by loops over outputs and taps, in ints that do not overflow."""
    kernel = weight.shape[2:]
    pair = [value if isinstance(value, tuple) else (value, value) for value in (stride, dilation)]
    (sh, sw), (dh, dw) = pair
    total = dh * (kernel[0] - 1), dw * (kernel[1] - 1)
    if padding == "same":
        before, both = (total[0] // 2, total[1] // 2), total
    else:
        before = padding if isinstance(padding, tuple) else (padding, padding)
        both = before[0] * 2, before[1] * 2
    oh, ow = ((size + b - t - 1) // s + 1 for size, b, t, s in zip(x.shape[2:], both, total, (sh, sw), strict=True))
    output = np.zeros((len(x), len(weight), oh, ow))
    for y, v, i, j in np.ndindex(oh, ow, *kernel):
        row, column = y * sh + i * dh - before[0], v * sw + j * dw - before[1]
        inside = 0 <= row < x.shape[2] and 0 <= column < x.shape[3]
        pixel = x[:, :, row, column] if inside else np.zeros(x.shape[:2])
        output[:, :, y, v] += pixel @ weight[:, :, i, j].T
    return output


@pytest.mark.parametrize("options", FAR)
@pytest.mark.parametrize("order", [np.ascontiguousarray, channels_last])
@pytest.mark.parametrize("channels", [1, 4, 20])
def test_far_windows(options, order, channels):
    """Right, and at once: what lies between taps that far apart is not copied."""
    x, w = normal(2, channels, 4, 5), normal(3, channels, 3, 3, seed=1)
    want = by_definition(x, w, **options)
    assert_allclose(F.conv2d(order(x), w, **options), want, rtol=1e-12, atol=1e-12)
    dy = normal(*want.shape, seed=2)
    dx, dw, _ = F.conv2d_backward(order(dy), order(x), w, **options)
    assert_allclose((dx * x).sum(), (dy * want).sum(), rtol=1e-10, atol=1e-10)
    assert_allclose((dw * w).sum(), (dy * want).sum(), rtol=1e-10, atol=1e-10)
    pixel = np.zeros_like(x)
    pixel[1, channels - 1, 2, 3] = 1
    assert_allclose(dx[1, channels - 1, 2, 3], (by_definition(pixel, w, **options) * dy).sum(), rtol=1e-10, atol=1e-12)
    if not isinstance(options["padding"], str):
        columns = F.im2col(order(x), 3, options.get("dilation", 1), options["padding"], options.get("stride", 1))
        assert_allclose((w.reshape(3, -1) @ columns).reshape(want.shape), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_far_taps_that_are_not_finite(value):
    """An infinite or NaN weight times padding is NaN, wherever the tap lies."""
    x, w = normal(1, 1, 4, 4), normal(1, 1, 3, 3)
    w[0, 0, 0, 0] = value
    assert np.isnan(F.conv2d(x, w, padding=2**22, dilation=2**22)).all()
    assert np.isnan(F.conv2d(x, w, padding=9, dilation=9)).all()


def test_the_two_that_died():
    printed = in_a_process("""
        import time
        start = time.perf_counter()
        y = F.conv1d(np.ones((1, 3, 4)), np.ones((5, 3, 2)), None, 1, 2**54, 2**55)
        print(y.shape == (1, 5, 4) and not y.any())
        print(F.conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)), None, 1, 2**22, 2**22).sum())
        print(time.perf_counter() - start < 5)
    """)
    assert printed == "True\n16.0\nTrue\n"


HOSTILE = [0, -1, 2**31 - 1, 2**31, 2**32, 2**44, 2**50, 2**54, 2**61, 2**62, 2**63 - 1, 2**63, 2**64, 10**400]


def test_hostile_sizes():
    """Every option of every window, one and two at a time: an error that names an argument, or an answer."""
    printed = in_a_process(f"""
        import itertools, time
        try:  # what is legal but large fails early
            import resource
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, resource.RLIM_INFINITY))
        except (ImportError, OSError):
            pass
        hostile = {HOSTILE}
        x, rows, w = np.ones((1, 1, 4, 4)), np.ones((1, 1, 4)), np.ones((1, 1, 2, 2))
        functions = {{
            "conv2d": (lambda **o: F.conv2d(x, w, **o), ["stride", "padding", "dilation", "groups"]),
            "conv1d": (lambda **o: F.conv1d(rows, w[0], **o), ["stride", "padding", "dilation", "groups"]),
            "im2col": (lambda **o: F.im2col(x, **dict(kernel_size=2) | o),
                       ["kernel_size", "stride", "padding", "dilation"]),
            "col2im": (lambda **o: F.col2im(np.ones((1, 4, 9)), **dict(kernel_size=2, output_size=4) | o),
                       ["output_size", "kernel_size", "stride", "padding", "dilation"]),
            "max_pool2d": (lambda **o: F.max_pool2d(x, **dict(kernel_size=2) | o),
                           ["kernel_size", "stride", "padding", "dilation"]),
            "avg_pool2d": (lambda **o: F.avg_pool2d(x, **dict(kernel_size=2) | o),
                           ["kernel_size", "stride", "padding", "divisor_override"]),
            "avg_pool1d": (lambda **o: F.avg_pool1d(rows, ceil_mode=True, **dict(kernel_size=2) | o),
                           ["kernel_size", "stride", "padding"]),
            "adaptive": (lambda **o: F.adaptive_avg_pool2d(x, **o), ["output_size"]),
            "unpool": (lambda **o: F.max_unpool2d(x, np.zeros((1, 1, 4, 4), np.int64), **dict(kernel_size=2) | o),
                       ["kernel_size", "stride", "padding", "output_size"]),
            "flatten": (lambda **o: F.flatten(x, **o), ["start_dim", "end_dim"]),
            "softmax": (lambda **o: F.softmax(x, **o), ["dim"]),
            "cross_entropy": (lambda **o: F.cross_entropy(np.ones((2, 3)), np.array([0, 1]), **o), ["ignore_index"]),
            "taps": (lambda **o: F.max_pool2d_taps_backward(
                np.ones((1, 1, 1, 1)), np.zeros((1, 1, 1, 1), np.uint8), (1, 1, o.pop("h", 2), o.pop("v", 2)),
                **dict(kernel_size=2) | o), ["h", "v", "kernel_size", "stride", "dilation"]),
            "avg_backward": (lambda **o: F.avg_pool2d_backward(
                np.ones((1, 1, 1, 1)), (1, 1, o.pop("h", 2), 2), **dict(kernel_size=2) | o),
                ["h", "kernel_size", "stride"]),
            "indices": (lambda h: F.max_pool2d_backward(
                np.ones((1, 1, 1, 1)), np.zeros((1, 1, 1, 1), np.int64), (1, 1, h, 2)), ["h"]),
        }}
        count = 0
        for name, (function, options) in functions.items():
            chosen = [{{o: v}} for o in options for v in hostile]
            for a, b in itertools.combinations(options, 2):
                chosen += [{{a: v, b: u}} for v in hostile[2:] for u in hostile[3::3]]
            for arguments in chosen:
                start = time.perf_counter()
                try:
                    result = function(**arguments)
                    assert sum(r.nbytes for r in result if isinstance(r, np.ndarray)) < 2**32
                except (TypeError, ValueError) as error:
                    assert ": expected" in str(error) or "axes" in str(error), (name, arguments, error)
                except MemoryError as error:
                    assert "bytes" in str(error) or "allocate" in str(error), (name, arguments, error)
                assert time.perf_counter() - start < 20, (name, arguments)
                count += 1
        print(count > 1000)
    """)
    assert printed == "True\n"


def test_sizes_of_everything_else():
    printed = in_a_process("""
        from fastcnn import DataLoader, optim, random
        from fastcnn.functional._memory import allocate
        from fastcnn.kernels.memory import Block
        wrong = [
            lambda: nn.Linear(10**10, 10**10), lambda: nn.Linear(2**63, 1), lambda: nn.Conv2d(10**10, 10**10, 3),
            lambda: nn.Conv2d(1, 1, 2**40), lambda: nn.Conv2d(1, 1, (2**62, 2**62)), lambda: nn.BatchNorm2d(10**16),
            lambda: nn.Parameter.empty((2**40, 2**40), np.float32), lambda: nn.Parameter.empty((2**44, 1), np.float64),
            lambda: Block(2**62), lambda: Block(2**63 - 1), lambda: Block(-1), lambda: Block(2**50),
            lambda: allocate((2**62, 2), np.float64), lambda: allocate((2**64,), np.float32),
            lambda: F.adaptive_avg_pool2d(np.ones((1, 1, 2, 2)), (2**21, 2**21)),
            lambda: F.im2col(np.ones((1, 1, 4, 4)), 2, padding=2**21),
            lambda: F.conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 2, 2)), padding=2**20),
            lambda: nn.summary(nn.ReLU(), (2**40, 2**40)), lambda: nn.plan(nn.ReLU(), (2**40, 2**40)),
            lambda: DataLoader((np.ones((2, 4)), np.array([0, 1])), 2**64), lambda: F.dropout(np.ones(3), 10**400),
            lambda: F.adam_update(*[np.ones(3) for _ in range(4)], 2**64, 0.1),
        ]
        for number, function in enumerate(wrong):
            try:
                function()
            except (TypeError, ValueError) as error:
                assert ": expected" in str(error), (number, error)
            except MemoryError as error:
                assert "bytes" in str(error) or "allocate" in str(error), (number, error)
            else:
                raise AssertionError(number)
        print(len(wrong))
    """)
    assert int(printed) > 15


def test_options_in_tuples_a_hundred_thousand_deep():
    printed = in_a_process("""
        deep, wide = (), (1,) * 10**6
        for _ in range(10**6):
            deep = (deep,)
        x, w = np.ones((1, 1, 4, 4)), np.ones((1, 1, 2, 2))
        count = 0
        for option in (deep, (1, deep), [deep], wide):
            for call in (
                lambda: F.conv2d(x, w, None, option), lambda: F.conv2d(x, w, padding=option),
                lambda: F.avg_pool2d(x, option),
                lambda: F.relu(x, out=option), lambda: F.relu(option), lambda: F.conv2d_backward(x, x, w, needs=option),
                lambda: F.conv2d_max_pool(x, w, pool=option), lambda: F.flatten(x, option), lambda: F.im2col(x, option),
                lambda: F.softmax(x, option), lambda: F.sgd_update(x[0, 0, 0], x[0, 0, 1], None, option),
                lambda: F.adam_update(x[0, 0, 0], x[0, 0, 1], x[0, 0, 2], x[0, 0, 3], 1, option),
                lambda: F.max_pool2d_backward(x, np.zeros(x.shape, np.int64), option),
                lambda: F.cross_entropy(x, option),
                lambda: F.image_batch(x, [0], mean=option), lambda: F.image_batch(x, [0], dtype=option),
                lambda: nn.Conv2d(1, 1, option), lambda: nn.MaxPool2d(2, option), lambda: nn.Linear(1, option),
                lambda: F.batch_norm(x, None, None, training=True, eps=option),
            ):
                try:
                    call()
                except (TypeError, ValueError, RecursionError) as error:
                    assert ": expected" in str(error) or isinstance(error, RecursionError), error
                    assert len(str(error)) < 2000
                else:
                    raise AssertionError
                count += 1
        print(count)
        while deep:
            deep = deep[0]
    """)
    assert int(printed) == 80


# --- pointers ---------------------------------------------------------------------------------------------------------


def window(**changes):
    usual = {
        "n": 2, "c": 4, "h": 9, "w": 7, "oh": 5, "ow": 4, "kh": 3, "kw": 2, "sh": 2, "sw": 2, "ph": 1, "pw": 1,
        "dh": 1, "dw": 1,
    }  # fmt: skip
    return Window(**usual | changes)


def guarded(size):
    """Bytes that are followed by marked ones."""
    memory = np.full(size + 4096, 0xA5, np.uint8)
    return memory, memory[:size]


@pytest.mark.parametrize("threads", [0, -1, -(2**31), 1, 2, 4096, 5000, 2**31 - 1])
def test_any_number_of_threads(threads):
    """Too few and too many count as 1 and 4096, in what is asked for scratch and in what runs."""
    x, w = normal(2, 4, 9, 7), normal(6, 2, 3, 2, seed=1)
    options = {"stride": 2, "padding": 1, "groups": 2}
    want = F.conv2d(x, w, None, **options)
    dy = normal(*want.shape, seed=2)
    grads = F.conv2d_backward(dy, x, w, **options)
    g = window()

    def scratch(which):
        size = call("conv_scratch", which, g, 6, 2, threads, 8, result=ctypes.c_ssize_t)
        clamped = max(1, min(threads, 4096))
        assert size == call("conv_scratch", which, g, 6, 2, clamped, 8, result=ctypes.c_ssize_t)
        return guarded(size)

    y, dx, dw, db = np.empty_like(want), np.empty_like(x), np.empty_like(w), np.empty(6)
    memory, used = scratch(0)
    call("conv_forward_f64", x, w, None, y, g, 6, 2, used, threads)
    assert_array_equal(y, want)
    assert (memory[len(used) :] == 0xA5).all()
    memory, used = scratch(1)
    call("conv_backward_data_f64", dy, w, dx, g, 6, 2, used, threads)
    assert_array_equal(dx, grads[0])
    assert (memory[len(used) :] == 0xA5).all()
    memory, used = scratch(2)
    call("conv_backward_weight_f64", dy, x, dw, db, g, 6, 2, used, threads)
    assert_array_equal(dw, grads[1])
    assert_array_equal(db, grads[2])
    assert (memory[len(used) :] == 0xA5).all()
    columns = np.empty((2, 24, 20))
    call("im2col_f64", x, columns, g, threads)
    assert_array_equal(columns, F.im2col(x, (3, 2), padding=1, stride=2))
    call("col2im_f64", columns, dx, g, threads)
    pooled, tags = np.empty((2, 4, 5, 4)), np.empty((2, 4, 5, 4), np.int64)
    call("max_pool_f64", x, pooled, tags, 8, g, threads)
    assert call("max_pool_backward_f64", pooled, tags, dx, g, threads, result=ctypes.c_ssize_t) == 0
    taps = np.empty((2, 4, 5, 4), np.uint8)
    call("max_pool_f64", x, pooled, taps, 1, g, threads)
    call("max_pool_taps_backward_f64", pooled, taps, 1, dx, g, threads)
    call("avg_pool_f64", x, pooled, g, 1, 0, threads)
    assert_array_equal(pooled, F.avg_pool2d(x, (3, 2), 2, 1))
    call("avg_pool_backward_f64", pooled, dx, g, 1, 0, threads)
    call("adaptive_avg_pool_f64", x, pooled, g, threads)
    assert_array_equal(pooled, F.adaptive_avg_pool2d(x, (5, 4)))
    call("adaptive_avg_pool_backward_f64", pooled, dx, g, threads)


def complaint(name, *arguments):
    found = call(name, *arguments, result=ctypes.c_char_p)
    return None if found is None else found.decode()


def conv_complaint(outputs=6, groups=2, **changes):
    return complaint("check_conv", window(**changes), outputs, groups)


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, None),
        ({"sh": 0}, "sh, sw: expected at least 1"),
        ({"sw": -1}, "sh, sw: expected at least 1"),
        ({"dh": 0}, "dh, dw: expected at least 1"),
        ({"ph": -1}, "ph, pw: expected at least 0"),
        ({"kw": 0}, "kh, kw: expected at least 1"),
        ({"n": 0}, "n, c, h, w: expected at least 1"),
        ({"h": -5}, "n, c, h, w: expected at least 1"),
        ({"oh": 0}, "oh, ow: expected at least 1"),
        ({"algorithm": 2}, None),
        ({"algorithm": 3}, "algorithm: expected FASTCNN_DEFAULT"),
        ({"algorithm": -1}, "algorithm: expected FASTCNN_DEFAULT"),
        ({"groups": 0}, "groups: expected at least 1"),
        ({"groups": -2}, "groups: expected at least 1"),
        ({"outputs": 0}, "outputs: expected at least 1"),
        ({"outputs": 7}, "groups: expected a divisor of c and of outputs"),
        ({"groups": 3}, "groups: expected a divisor of c and of outputs"),
        ({"n": 2**62}, "n, c, h, w: expected at most 2^44 elements"),
        ({"n": 2**61, "c": 2**61, "h": 2**61, "w": 2**61, "groups": 1}, "n, c, h, w: expected at most 2^44 elements"),
        ({"oh": 2**62}, "n, c, oh, ow: expected at most 2^44 elements"),
        ({"outputs": 2**62, "groups": 2}, "outputs, c, kh, kw: expected weights of at most 2^44 elements"),
        ({"sh": 2**62}, "sh, sw, ph, pw, dh, dw: expected windows over at most 2^44 elements"),
        ({"dw": 2**63 - 1}, "sh, sw, ph, pw, dh, dw: expected windows over at most 2^44 elements"),
        ({"ph": 2**63 - 1}, "sh, sw, ph, pw, dh, dw: expected windows over at most 2^44 elements"),
        ({"outputs": 2**36, "n": 1, "c": 2, "h": 1, "w": 1, "oh": 1, "ow": 1, "kh": 2**5, "kw": 1}, None),
        ({"outputs": 2**30, "n": 2**10, "c": 2, "oh": 1, "ow": 1, "kh": 2**10, "kw": 2}, None),
    ],
)
def test_check_conv(changes, start):
    got = conv_complaint(**changes)
    assert got == start or (start is not None and got.startswith(start))
    scratch = call(
        "conv_scratch", 0, window(**{k: v for k, v in changes.items() if k not in ("outputs", "groups")}),
        changes.get("outputs", 6), changes.get("groups", 2), 1, 8, result=ctypes.c_ssize_t,
    )  # fmt: skip
    assert (scratch == -1) == (start is not None)


def test_scratch_of_other_elements():
    assert call("conv_scratch", 0, window(), 6, 2, 1, 2, result=ctypes.c_ssize_t) == -1
    assert call("conv_scratch", 0, window(), 6, 2, 1, 0, result=ctypes.c_ssize_t) == -1


def test_check_conv_bounds_the_work():
    sizes = {"n": 2**20, "c": 2**20, "h": 1, "w": 1, "oh": 1, "ow": 1, "kh": 1, "kw": 1, "ph": 0, "pw": 0}
    assert conv_complaint(2**21, 1, **sizes) is None
    assert conv_complaint(2**22, 1, **sizes).startswith("n, outputs, oh, ow, c, kh, kw: expected at most 2^62")


@pytest.mark.parametrize(
    ("tag_bytes", "changes", "start"),
    [
        (0, {}, None),
        (8, {}, None),
        (2, {}, "tag_bytes: expected 0, 1, 4 or 8"),
        (1, {"kh": 129, "oh": 1, "ph": 64}, "tag_bytes: expected 4 or 8"),
        (4, {"kh": 129, "oh": 1, "ph": 64}, None),
        (4, {"kh": 2**31, "oh": 1}, "kh, kw: expected at most 2^31 taps"),
        (8, {"h": 2**31, "n": 1, "c": 1}, "h, w: expected planes below 2^31 elements"),
        (0, {"sh": 0}, "sh, sw: expected at least 1"),
        (0, {"oh": 7}, "oh, ow, ph, pw: expected every window to hold an element"),
        (0, {"ph": 4}, "oh, ow, ph, pw: expected every window to hold an element"),
        (0, {"dh": 11, "oh": 1}, "oh, ow, ph, pw: expected every window to hold an element"),
        (0, {"dh": 8, "oh": 1}, None),
    ],
)
def test_check_pool(tag_bytes, changes, start):
    got = complaint("check_pool", window(**changes), tag_bytes)
    assert got == start or (start is not None and got.startswith(start))


def test_check_pool_agrees_with_functional():
    """Windows that functional takes are right, and those that hold no element are wrong, as loops over taps find."""
    draw = random.Random(1)
    for _ in range(3000):
        h, kh, sh, dh, ph, oh = (draw.randint(1, n) for n in (8, 5, 6, 9, 6, 6))
        ph -= 1
        meets = all(any(0 <= y * sh - ph + i * dh < h for i in range(kh)) for y in range(oh))
        g = window(n=1, c=1, h=h, w=1, oh=oh, ow=1, kh=kh, kw=1, sh=sh, sw=1, ph=ph, pw=0, dh=dh, dw=1)
        assert (complaint("check_pool", g, 0) is None) == meets, (h, oh, kh, sh, ph, dh)


def test_other_checks():
    assert complaint("check_im2col", window()) is None
    assert complaint("check_im2col", window(sw=0)).startswith("sh, sw: expected")
    assert complaint("check_im2col", window(kh=2**20, kw=2**20)).startswith("kh, kw: expected columns of at most 2^44")
    assert complaint("check_adaptive", Window(n=1, c=1, h=2, w=2, oh=3, ow=3)) is None
    assert complaint("check_adaptive", Window(n=1, c=1, h=2, w=2, oh=2**40, ow=2**40)).startswith("n, c, oh, ow")
