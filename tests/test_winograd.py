"""Winograd's F(2x4, 3x3) of float32 and, below the precision 'highest', F(4x4, 3x3): errors, bits, special values."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from windows import channels_last, in_order

import fastcnn
from fastcnn import functional as F
from fastcnn import reference
from fastcnn.kernels import isa

PASSES = ["forward", "backward-data", "backward-weight"]
# Root mean square, relative to the result's, with room for what compilers do: 4.9e-7 and 2.1e-6 were found. The
# products of a matrix unit err more.
BOUNDS = {"highest": 6e-7, "high": 1e-5 if isa.has_matrix_unit() else 2.5e-6}


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture(autouse=True)
def precision():
    """A function that sets the precision until the test's end; 'high' at first."""
    fastcnn.set_float32_matmul_precision("high")
    yield fastcnn.set_float32_matmul_precision
    fastcnn.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("path", isa.available())
def test_every_instruction_set(path):
    """The other tests of this file, in a process of its own for each path that the CPU has."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not every"]
    done = subprocess.run(command, env={**os.environ, "FASTCNN_ISA": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def all_passes(x, weight, dy, bias=None, f=F, **arguments):
    return f.conv2d(x, weight, bias, **arguments), *f.conv2d_backward(dy, x, weight, **arguments)


def in_double(x, weight, dy, **arguments):
    return all_passes(*(array.astype(np.float64) for array in (x, weight, dy)), **arguments)


def error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


@pytest.mark.skipif(isa.has_matrix_unit(), reason="the matrix unit multiplies otherwise at each precision")
def test_it_is_taken_below_highest_and_of_float32_only(precision):
    x, weight, dy = normal(4, 16, 32, 32), normal(24, 16, 3, 3), normal(4, 24, 32, 32)
    for dtype in (np.float32, np.float64):
        operands = [channels_last(array.astype(dtype)) for array in (x, weight, dy)]
        operands[1] = np.ascontiguousarray(operands[1])
        found = {}
        for name in ("highest", "high", "medium"):
            precision(name)
            found[name] = all_passes(*operands, padding=1)
        for highest, high, medium in zip(*found.values(), strict=True):
            assert_array_equal(high, medium)
            if highest.ndim > 1:
                assert np.array_equal(high, highest) == (dtype == np.float64)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("length", [144, 576, 2304, 4608])
def test_errors_by_length_of_the_sum(which, length, relu, name, precision):
    """Of numbers about 0, and of positive ones, whose sums are longer than their differences."""
    precision(name)
    n, size, channels, outputs = {
        "forward": (8, 16, length // 9, 16),
        "backward-data": (8, 16, 16, length // 9),
        "backward-weight": (length // 16, 8, 16, 16),  # four times the length
    }[which]
    x, dy = channels_last(normal(n, channels, size, size)), channels_last(normal(n, outputs, size, size, seed=1))
    weight = normal(outputs, channels, 3, 3, seed=2)
    if relu:
        x, dy = np.maximum(x, 0), np.maximum(dy, 0)
    place = PASSES.index(which)
    got, expected = all_passes(x, weight, dy, padding=1)[place], in_double(x, weight, dy, padding=1)[place]
    assert error(got, expected) < BOUNDS[name]


@pytest.mark.skipif(isa.has_matrix_unit(), reason="the matrix unit rounds whole numbers otherwise")
@pytest.mark.parametrize(("size", "dtype", "exact"), [(32, np.float32, False), (5, np.float32, True),
                                                      (32, np.float64, True)])  # fmt: skip
def test_whole_numbers_tell_the_tiles_at_highest(size, dtype, exact, precision):
    """In tiles of 2x2 their sums are exact; of 2x4, which float32 takes unless they overhang, they are rounded."""
    precision("highest")
    draw = np.random.default_rng(0)
    x, weight, dy = (draw.integers(-9, 10, s).astype(dtype) for s in
                     [(16, 16, size, size), (32, 16, 3, 3), (16, 32, size, size)])  # fmt: skip
    operands = channels_last(x), weight, channels_last(dy)
    for got, want in list(zip(all_passes(*operands, padding=1), in_double(*operands, padding=1), strict=True))[:3]:
        assert np.array_equal(got, want) == exact
        assert error(got, want) < BOUNDS["highest"]


# Tiles that overhang, more padding than a tile has rows, images together in a block, columns in blocks, windows at one
# edge alone, many channels and outputs, groups, channels that fill no register.
GEOMETRIES = {
    "tiles": ((4, 32, 32, 32), (16, 32, 3, 3), {"padding": 1}),
    "overhanging": ((8, 40, 23, 26), (35, 40, 3, 3), {"padding": 1}),
    "three of four": ((40, 24, 7, 11), (48, 24, 3, 3), {"padding": 1}),
    "no padding": ((3, 48, 34, 29), (24, 48, 3, 3), {}),
    "padding": ((3, 32, 20, 21), (32, 32, 3, 3), {"padding": (7, 6)}),
    "small images": ((150, 64, 4, 4), (16, 64, 3, 3), {"padding": 1}),
    "columns in blocks": ((1, 64, 8, 1100), (32, 64, 3, 3), {"padding": (1, 0)}),
    "many": ((20, 160, 12, 12), (290, 160, 3, 3), {"padding": 1}),
    "groups": ((4, 96, 24, 24), (144, 32, 3, 3), {"padding": 1, "groups": 3}),
}


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("size", "kernel", "arguments"), GEOMETRIES.values(), ids=list(GEOMETRIES))
def test_geometries_and_threads(size, kernel, arguments, order, precision, threads):
    """Right everywhere, and the same bits for any number of threads."""
    x, weight, bias = in_order(normal(*size), order), normal(*kernel, seed=1), normal(kernel[0], seed=2)
    dy = in_order(normal(*F.conv2d(x, weight, **arguments).shape, seed=3), order)
    expected = in_double(x, weight, dy, **arguments)
    expected = expected[0] + bias.astype(np.float64)[:, None, None], *expected[1:]
    found = {}
    for name, bound in BOUNDS.items():
        precision(name)
        threads(1)
        found[name] = all_passes(x, weight, dy, bias, **arguments)
        for got, want in zip(found[name], expected, strict=True):
            assert error(got, want) < bound
            assert_allclose(got, want, rtol=0, atol=(5e-5 if isa.has_matrix_unit() else 2e-5) * np.abs(want).max())
        for count in (2, 3, 8):
            threads(count)
            for got, want in zip(all_passes(x, weight, dy, bias, **arguments), found[name], strict=True):
                assert_array_equal(got, want)
    for i, (high, highest) in enumerate(zip(found["high"], found["highest"], strict=True)):
        assert i == 3 or not np.array_equal(high, highest)  # so F(4x4) was tested, but for the bias


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(3.4e38), np.float32(1e33)])
@pytest.mark.parametrize("operand", range(3))
@pytest.mark.parametrize("name", BOUNDS)
def test_special_values(value, operand, name, precision):
    """As in fp32 arithmetic: what shares a tile with an infinity, NaN or huge number keeps its digits."""
    precision(name)
    x, dy = np.ones((4, 16, 32, 32), np.float32), np.ones((4, 16, 32, 32), np.float32)
    weight = np.full((16, 16, 3, 3), 2, np.float32)
    (x, weight, dy)[operand][0, 7, 2, 1] = value
    x, dy = channels_last(x), channels_last(dy)
    got = all_passes(x, weight, dy, padding=1)
    with np.errstate(all="ignore"):
        expected = in_double(x, weight, dy, f=reference, padding=1)
        expected = [array.astype(np.float32) for array in expected]
    for place, (one, other) in enumerate(zip(got, expected, strict=True)):
        if operand != 1 or place != 1 or np.isfinite(value):  # an infinite weight meets zeros around the gradient
            assert_allclose(one, other, rtol=1e-6)


def test_the_precision_may_change_at_any_time(precision):
    """Between the two calls that ask for the scratch and use it, too: results are those of one of the two."""
    x, weight = channels_last(normal(4, 16, 32, 32)), normal(24, 16, 3, 3)
    results = []
    for name in ("highest", "high"):
        precision(name)
        results.append(F.conv2d(x, weight, padding=1))
    stop = threading.Event()

    def change():
        while not stop.is_set():
            precision("highest")
            precision("high")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            got = F.conv2d(x, weight, padding=1)
            assert any(np.array_equal(got, result) for result in results)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_what_comes_after_the_sums(order):
    """Batch norm, residual and ReLU are done once, also where sums are made again directly."""
    x, weight = in_order(normal(9, 16, 18, 23), order), normal(40, 16, 3, 3, seed=1)
    columns = [np.abs(normal(40, seed=i)) for i in range(3)]
    for value in (0, 1e33, np.nan):
        x[0, 0, 1, 1] += np.float32(value)
        made = F.conv2d(x, weight, padding=1)
        options = {"relu": True, "residual": in_order(normal(*made.shape, seed=2), order)}
        got = F.conv2d_norm(x, weight, None, *columns, padding=1, **options)
        assert_array_equal(got, F.batch_norm_apply(made, *columns, **options))


# --- a large range of magnitudes ------------------------------------------------------------------------------------

# Of `set_conv_algorithm`: the error beside eps * (largest magnitude near) * (sum of the weights' magnitudes), and the
# range of magnitudes from which on sums are direct.
NEAR = {"highest": 16, "high": 64}
RANGE = 64
no_matrix_unit = pytest.mark.skipif(isa.has_matrix_unit(), reason="the matrix unit comes before Winograd's algorithm")


def peaks_of_windows(x, padding, groups=1):
    """The largest magnitude under each window of 3x3, over the channels of each group."""
    n, c, h, w = x.shape
    largest = np.abs(x).reshape(n, groups, c // groups, h, w).max(2).astype(np.float64)
    largest = np.pad(largest, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    return np.lib.stride_tricks.sliding_window_view(largest, (3, 3), (2, 3)).max((-1, -2))


def within_range(x, weight, dy, name, groups=1):
    """Check all passes of a padded convolution against the bounds for each element, by its own window."""
    eps, outputs, inputs = np.finfo(x.dtype).eps, len(weight) // groups, weight.shape[1]
    got = all_passes(x, weight, dy, padding=1, groups=groups)
    exact = in_double(x, weight, dy, padding=1, groups=groups)
    size = np.abs(weight).astype(np.float64).reshape(groups, outputs, inputs, 9)
    bound = RANGE * NEAR[name] * eps
    seen = np.repeat(peaks_of_windows(x, 1, groups), outputs, 1) * size.sum((2, 3)).reshape(-1, 1, 1)
    assert (np.abs(got[0] - exact[0]) <= bound * seen).all()
    seen = np.repeat(peaks_of_windows(dy, 1, groups), inputs, 1) * size.sum((1, 3)).reshape(-1, 1, 1)
    assert (np.abs(got[1] - exact[1]) <= bound * seen).all()
    n, _, h, w = x.shape
    most_x = np.abs(x).reshape(n, groups, inputs, h, w).max(2).astype(np.float64)
    most_dy = np.abs(dy).reshape(n, groups, outputs, h, w).max(2).astype(np.float64)
    _, met, _ = F.conv2d_backward(
        most_dy, most_x, np.ones((groups, 1, 3, 3)), padding=1, groups=groups, algorithm="direct"
    )
    assert (np.abs(got[2] - exact[2]) <= bound * np.repeat(met, outputs, 0)).all()
    return got


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", NEAR)
@pytest.mark.parametrize("kind", ["large pixels", "log-normal", "sparse", "tiny", "float64"])
def test_errors_are_relative_to_the_own_window(kind, name, order, precision):
    precision(name)
    draw, dtype = np.random.default_rng(0), np.float64 if kind == "float64" else np.float32

    def values(*shape):
        x, pixels = draw.standard_normal(shape), (shape[0], 1, *shape[2:])
        if kind in ("large pixels", "float64"):
            x = x * np.where(draw.random(pixels) < 0.01, 10.0 ** draw.integers(2, 18, pixels), 1)
        elif kind == "log-normal":
            x = x * np.exp(draw.normal(0, 4, pixels))
        elif kind == "sparse":
            x = x * (draw.random(pixels) < 0.1) * np.exp(draw.normal(0, 3, pixels))
        else:
            x = np.maximum(x, 0) * 1e-15
        return in_order(x.astype(dtype), order)

    for groups, channels, outputs, size in [(1, 40, 35, (23, 26)), (2, 16, 32, (18, 32)), (1, 17, 70, (12, 60))]:
        x, dy = values(3, groups * channels, *size), values(3, groups * outputs, *size)
        within_range(x, normal(groups * outputs, channels, 3, 3, dtype=dtype, seed=1), dy, name, groups)


@no_matrix_unit
@pytest.mark.parametrize("name", NEAR)
@pytest.mark.parametrize("value", [3e2, 1e6, 1e20, np.inf, np.nan])
def test_a_large_pixel_wherever_it_lies(value, name, precision):
    """At each pixel of a tile, at seams and edges: outputs whose windows lack it are as exact as without it."""
    precision(name)
    places = [(y, x) for y in range(9) for x in range(9)] + [(29, x) for x in range(25, 30)] + [(15, 16), (16, 15)]
    n, pixels = len(places), tuple(np.array(places).T)
    x = channels_last(normal(n, 16, 30, 30))
    dy, weight = channels_last(normal(n, 32, 30, 30, seed=1)), normal(32, 16, 3, 3, seed=2)
    elsewhere = np.ones((n, 30, 30), bool)
    for i, (row, column) in enumerate(places):
        elsewhere[i, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = False
    exact = in_double(x, weight, dy, padding=1)
    large_x, large_dy = x.copy(), dy.copy()
    large_x[np.arange(n), 3, pixels[0], pixels[1]] = value
    large_dy[np.arange(n), 5, pixels[0], pixels[1]] = value
    large_x, large_dy = channels_last(large_x), channels_last(large_dy)
    with np.errstate(all="ignore"):
        results = F.conv2d(large_x, weight, padding=1), F.conv2d_backward(large_dy, x, weight, padding=1)[0]
    for got, want in zip(results, exact, strict=False):
        error = np.abs(got - want).transpose(0, 2, 3, 1)[elsewhere]
        assert error.max() < 3e-6 * np.abs(want).max()
    # Of the gradient of the weights, taps that only padding met.
    x, dy = np.ones((2, 16, 32, 32), np.float32), np.ones((2, 16, 32, 32), np.float32)
    x[1, 3, 0, 0] = value
    got = F.conv2d_backward(channels_last(dy), channels_last(x), weight[:16], padding=1)[1]
    assert_allclose(got[:, :, 2, 2], 2 * 31 * 31, rtol=1e-6)
    assert_allclose(got[:, np.arange(16) != 3], in_double(np.ones_like(x), weight[:16], dy, padding=1)[2][:, 1:], 1e-6)
    x[1, 3, 0, 0] = 1
    dy[:] *= np.arange(32) % 5 != 0  # with places of zeros around
    dy[1, 3, 0, 0], dy[1, :, 1, :3] = (0 if value == np.inf else value), 0
    if np.isfinite(value):
        got = F.conv2d_backward(channels_last(dy), channels_last(x), weight[:16], padding=1)[1]
        want = in_double(x, weight[:16], dy, padding=1)[2]
        assert_allclose(got[3, :, 0, :], want[3, :, 0, :], rtol=1e-5)
        assert_allclose(got[3, :, :, 0], want[3, :, :, 0], rtol=1e-5)


@no_matrix_unit
@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("value", [1e6, np.inf, np.nan, 3e38])
def test_bits_do_not_depend_on_the_rest_of_a_batch(value, order, precision, threads):
    precision("highest")
    x, weight, bias = normal(6, 16, 19, 24), normal(48, 16, 3, 3, seed=1), normal(48, seed=2)
    x[4, 2, 7, 9] *= 3000
    without = F.conv2d(in_order(x, order), weight, bias, padding=1)
    x[2, 5, 10, 11] = value
    others = [0, 1, 3, 4, 5]
    with np.errstate(all="ignore"):
        for count in (1, 2, 3):
            threads(count)
            whole = F.conv2d(in_order(x, order), weight, bias, padding=1)
            assert_array_equal(whole[others], without[others])
            parts = [F.conv2d(in_order(part, order), weight, bias, padding=1) for part in (x[:2], x[2:3], x[3:])]
            assert_array_equal(np.concatenate(parts), whole)
            dy = in_order(normal(*whole.shape), order)
            grads = F.conv2d_backward(dy, in_order(x, order), weight, padding=1)
            if count == 1:
                first = grads
            for one, other in zip(grads, first, strict=True):
                assert_array_equal(one, other)


@no_matrix_unit
@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", NEAR)
def test_a_window_of_zeros_gives_the_bias(name, order, precision):
    precision(name)
    draw = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        x = (draw.standard_normal((3, 24, 27, 30)) * (draw.random((3, 1, 27, 30)) < 0.05)).astype(dtype)
        weight, bias = normal(40, 24, 3, 3, dtype=dtype), normal(40, dtype=dtype, seed=1)
        empty = np.repeat(peaks_of_windows(x, 1) == 0, 40, 1)
        assert 0.2 < empty.mean() < 0.8
        expected = np.broadcast_to(bias[:, None, None], empty.shape)
        got = F.conv2d(in_order(x, order), weight, bias, padding=1)
        assert_array_equal(got[empty], expected[empty])
        vectors = [np.abs(normal(40, dtype=dtype, seed=i)) for i in range(3)]
        made = F.conv2d_norm(in_order(x, order), weight, bias, *vectors, padding=1, relu=True)
        assert_array_equal(made, F.batch_norm_apply(got, *vectors, relu=True))
        source, back = normal(3, 40, 27, 30, dtype=dtype), normal(24, 40, 3, 3, dtype=dtype)
        grad = F.conv2d_backward(in_order(x, order), source, back, padding=1)[0]
        assert not grad[empty].any()


@no_matrix_unit
@pytest.mark.parametrize("name", NEAR)
def test_weights_whose_structure_outputs_show(name, precision):
    """Masked windows, unit impulses and weights of one sign: as the direct sums have them."""
    precision(name)
    x, dy = channels_last(normal(4, 32, 20, 22)), channels_last(normal(4, 32, 20, 22, seed=1))
    causal = normal(32, 32, 3, 3, seed=2)
    causal[:, :, 2] = causal[:, :, 1, 1:] = 0
    impulse = np.zeros((32, 32, 3, 3), np.float32)
    impulse[np.arange(32), np.arange(32), 1, 1] = 1
    one_output = normal(32, 32, 3, 3, seed=2)
    one_output[7] = np.abs(one_output[7])
    for weight in (causal, impulse, one_output, np.abs(one_output), -np.abs(one_output)):
        made = F.conv2d(x, weight, padding=1)
        assert_array_equal(made, F.conv2d(x, weight, padding=1, algorithm="direct"))
        back = np.ascontiguousarray(weight.transpose(1, 0, 2, 3))  # an output of backward-data is an input
        got = F.conv2d_backward(dy, x, back, padding=1, needs=(True, False, False))[0]
        want = F.conv2d_backward(dy, x, back, padding=1, needs=(True, False, False), algorithm="direct")[0]
        assert_array_equal(got, want)
        assert np.array_equal(F.conv2d(x, impulse, padding=1), x)
    changed = x.copy()
    changed[0, :, 9, 7] += 5
    before = np.ones((20, 22), bool)
    before[9, 8], before[10:] = False, False
    one, other = F.conv2d(x, causal, padding=1), F.conv2d(channels_last(changed), causal, padding=1)
    assert_array_equal(one[0][:, before], other[0][:, before])
    assert (F.conv2d(np.maximum(x, 0), np.abs(causal), padding=1) >= 0).all()


# --- the choice of the algorithm ------------------------------------------------------------------------------------


@pytest.fixture
def algorithm():
    yield fastcnn.set_conv_algorithm
    fastcnn.set_conv_algorithm("auto")


def direct_bound(x, weight, dy, bias, **arguments):
    """(K / 2 + 2) * eps * sum of |x| |w| for all passes."""
    sizes = all_passes(*(np.abs(a).astype(np.float64) for a in (x, weight, dy, bias)), f=reference, **arguments)
    steps = (
        weight[0].size,
        len(weight) // arguments.get("groups", 1) * weight[0, 0].size,
        dy[:, 0].size,
        dy[:, 0].size,
    )
    return [(k / 2 + 2) * np.finfo(x.dtype).eps * size for k, size in zip(steps, sizes, strict=True)]


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("size", "kernel", "arguments"),
    [
        ((3, 40, 19, 22), (35, 40, 3, 3), {"padding": 1}),
        ((2, 64, 12, 13), (64, 32, 3, 3), {"padding": 1, "groups": 2}),
        ((2, 3, 23, 26), (40, 3, 5, 5), {"padding": 2}),
        ((2, 64, 14, 14), (48, 64, 1, 1), {}),
        ((4, 40, 12, 17), (5, 40, 3, 3), {"padding": 1}),
        ((2, 32, 15, 17), (48, 32, 3, 3), {"stride": 2, "padding": 1}),
        ((2, 24, 15, 17), (24, 1, 3, 3), {"padding": 1, "groups": 24}),
        ((300, 16, 8, 8), (16, 16, 3, 3), {"padding": 1}),
    ],
)
def test_direct_errs_by_its_own_window_alone(size, kernel, arguments, dtype, order, precision):
    """Whatever the precision, and whatever implementation suits the shape."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal(size) * np.exp(draw.normal(0, 4, size))
    weight, bias = draw.standard_normal(kernel) * np.exp(draw.normal(0, 3, kernel)), draw.standard_normal(kernel[0])
    dy = draw.standard_normal(reference.conv2d(x, weight, **arguments).shape)
    dy *= np.exp(draw.normal(0, 4, dy.shape))
    x, weight, bias, dy = (a.astype(dtype) for a in (x, weight, bias, dy))
    found = {}
    for name in ("highest", "medium"):
        precision(name)
        operands = in_order(x, order), weight, in_order(dy, order), bias
        made = F.conv2d(operands[0], weight, bias, **arguments, algorithm="direct")
        found[name] = made, *F.conv2d_backward(operands[2], operands[0], weight, **arguments, algorithm="direct")
    exact = list(in_double(x, weight, dy, f=reference, **arguments))
    exact[0] = exact[0] + bias.astype(np.float64)[:, None, None]
    for high, medium, want, bound in zip(*found.values(), exact, direct_bound(x, weight, dy, bias, **arguments),
                                         strict=True):  # fmt: skip
        assert_array_equal(high, medium)
        assert (np.abs(high - want) <= bound + 1e-15 * np.abs(want)).all()


def test_the_setting_and_a_calls_own(algorithm):
    x, weight, dy = channels_last(normal(4, 32, 32, 32)), normal(32, 32, 3, 3), channels_last(normal(4, 32, 32, 32))
    vectors = [np.abs(normal(32, seed=i)) for i in range(3)]
    pool, pooled = (2,), normal(4, 32, 16, 16)
    taps = F.conv2d_max_pool(x, weight, padding=1, pool=pool)[1]
    signal = np.ascontiguousarray(x[:, :, 0])
    calls = [
        lambda **o: [F.conv2d(x, weight, padding=1, **o)],
        lambda **o: F.conv2d_backward(dy, x, weight, padding=1, **o),
        lambda **o: [F.conv2d_norm(x, weight, None, *vectors, padding=1, **o)],
        lambda **o: F.norm_conv2d(x, *vectors, weight, padding=1, statistics=True, **o),
        lambda **o: F.norm_conv2d_backward(dy, x, *vectors, weight, padding=1, sums=True, **o),
        lambda **o: F.conv2d_max_pool(x, weight, padding=1, pool=pool, **o),
        lambda **o: F.conv2d_max_pool_backward(pooled, taps, x, weight, padding=1, pool=pool, **o),
        lambda **o: [F.conv1d(signal, weight[:, :, 0], padding=1, **o)],
        lambda **o: F.conv1d_backward(signal, signal, weight[:, :, 0], padding=1, **o),
    ]
    for k, call in enumerate(calls):
        found = {name: call(algorithm=name) for name in ("auto", "direct")}
        for name in ("auto", "direct"):
            algorithm(name)
            assert fastcnn.get_conv_algorithm() == name
            assert fastcnn.show_config("dicts")["convolution algorithm"] == name
            for other in (None, "auto", "direct"):
                for one, two in zip(call(algorithm=other), found[other or name], strict=True):
                    assert_array_equal(one, two)
        if k < 6:
            assert any(not np.array_equal(one, two) for one, two in zip(*found.values(), strict=True)), k
        with pytest.raises(ValueError, match="algorithm: expected 'auto' or 'direct', got 'fast'"):
            call(algorithm="fast")
    algorithm("direct")
    conv = fastcnn.nn.Conv2d(32, 32, 3, padding=1, bias=False)
    conv.weight.data[...] = weight
    assert_array_equal(conv(x), F.conv2d(x, weight, padding=1, algorithm="direct"))
    for wrong in ("winograd", None, 1):
        with pytest.raises(ValueError, match="algorithm: expected 'auto' or 'direct', got"):
            algorithm(wrong)
    assert fastcnn.get_conv_algorithm() == "direct"


def test_the_algorithm_may_change_at_any_time(algorithm):
    """Between the query of the scratch and its use, too, of all passes."""
    calls = []
    for channels, outputs, kernel in ((16, 24, 3), (3, 40, 5), (64, 64, 1)):
        x, weight = channels_last(normal(4, channels, 32, 32)), normal(outputs, channels, kernel, kernel)
        dy = channels_last(normal(4, outputs, 32, 32))
        options = {"padding": kernel // 2}
        calls.append(lambda x=x, weight=weight, dy=dy, o=options: all_passes(x, weight, dy, **o))
    found = []
    for name in ("auto", "direct"):
        algorithm(name)
        found.append([call() for call in calls])
    stop = threading.Event()

    def change():
        while not stop.is_set():
            algorithm("auto")
            algorithm("direct")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(30):
            for call, *results in zip(calls, *found, strict=True):
                for got, *either in zip(call(), *results, strict=True):
                    assert any(np.array_equal(got, one) for one in either)
    finally:
        stop.set()
        thread.join()


@no_matrix_unit
def test_batch_norm_before_a_large_range(precision):
    """The range is that of what is convolved, not of what is read."""
    precision("highest")
    x, weight = channels_last(normal(4, 32, 20, 24)), normal(48, 32, 3, 3, seed=1)
    x[1, :, 5, 6], x[2, 3, 9, 9] = 1e7, 1e9
    vectors = np.zeros(32, np.float32), np.abs(normal(32)) + 0.1, normal(32, seed=3)
    for relu in (False, True):
        made = F.batch_norm_apply(x, *vectors, relu=relu)
        expected = F.conv2d(made, weight, padding=1)
        assert_array_equal(F.norm_conv2d(x, *vectors, weight, padding=1, relu=relu), expected)
        got = F.norm_conv2d_backward(expected, x, *vectors, weight, padding=1, relu=relu)
        for one, other in zip(got, F.conv2d_backward(expected, made, weight, padding=1), strict=True):
            assert_array_equal(one, other)
