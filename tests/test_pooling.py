"""Pooling: against the reference, written-out rules, finite differences, and every wrong argument."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import (
    LAYOUTS,
    close,
    concurrent_callers_agree,
    difference,
    each_thread_count_agrees,
    laid_out,
    normal,
    same_order,
)
from numpy.testing import assert_allclose, assert_array_equal
from windows import channels_last, dtypes, in_order, orders

from fastcnn import functional as F
from fastcnn import reference
from fastcnn.functional import _checks
from fastcnn.kernels import isa
from fastcnn.kernels import pooling as kernels

# Lanes of every register length are filled, overlapped, and left over.
CHANNELS = [1, 2, 3, 5, 8, 15, 16, 17, 20, 31, 33, 64, 70]

MAX = {1: (F.max_pool1d, reference.max_pool1d), 2: (F.max_pool2d, reference.max_pool2d)}
MAX_BACKWARD = {
    1: (F.max_pool1d_backward, reference.max_pool1d_backward),
    2: (F.max_pool2d_backward, reference.max_pool2d_backward),
}
UNPOOL = {1: (F.max_unpool1d, reference.max_unpool1d), 2: (F.max_unpool2d, reference.max_unpool2d)}
UNPOOL_BACKWARD = {
    1: (F.max_unpool1d_backward, reference.max_unpool1d_backward),
    2: (F.max_unpool2d_backward, reference.max_unpool2d_backward),
}
AVG = {1: (F.avg_pool1d, reference.avg_pool1d), 2: (F.avg_pool2d, reference.avg_pool2d)}
AVG_BACKWARD = {
    1: (F.avg_pool1d_backward, reference.avg_pool1d_backward),
    2: (F.avg_pool2d_backward, reference.avg_pool2d_backward),
}
ADAPTIVE = {
    1: (F.adaptive_avg_pool1d, reference.adaptive_avg_pool1d),
    2: (F.adaptive_avg_pool2d, reference.adaptive_avg_pool2d),
}
ADAPTIVE_BACKWARD = {
    1: (F.adaptive_avg_pool1d_backward, reference.adaptive_avg_pool1d_backward),
    2: (F.adaptive_avg_pool2d_backward, reference.adaptive_avg_pool2d_backward),
}


def argument(values):
    """A geometry argument as it is written: an int in one dimension, a pair in two."""
    return values[0] if len(values) == 1 else tuple(values)


@st.composite
def windows(draw, dims, dilated=True, largest=25):
    """A shape and the keyword arguments of a pooling window, which it need not fit."""

    def pick(low, high):
        return [draw(st.integers(low, high)) for _ in range(dims)]

    kernel, stride, size = pick(1, 5), pick(1, 6), pick(1, largest)
    arguments = {
        "kernel_size": argument(kernel),
        "stride": draw(st.sampled_from([argument(stride), None])),
        "padding": argument([draw(st.integers(0, k // 2)) for k in kernel]),
        "ceil_mode": draw(st.booleans()),
    }
    if dilated:
        arguments["dilation"] = argument(pick(1, 3))
    return (draw(st.integers(1, 2)), draw(st.sampled_from(CHANNELS)), *size), arguments


@st.composite
def values(draw, shape):
    """An array full of ties, NaN and infinities, or of standard normals; in either memory order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(dtypes)
    x = rng.integers(-2, 3, shape).astype(dtype) if draw(st.booleans()) else rng.standard_normal(shape).astype(dtype)
    for special in (np.inf, -np.inf, np.nan):
        if draw(st.booleans()):
            x[rng.random(shape) < 0.3] = special
    return in_order(x, draw(orders))


def both(functions, *arguments, **keywords):
    """Results of functional and reference; None where the reference refuses, and then functional must as well."""
    function, oracle = functions
    try:
        expected = oracle(*arguments, **keywords)
    except ValueError:
        with pytest.raises(ValueError, match=r"(kernel_size|dilation): expected"):
            function(*arguments, **keywords)
        return None
    return function(*arguments, **keywords), expected


def taps_arguments(arguments):
    """The keyword arguments of a 1-D pool for the 2-D functions over one row."""
    rest = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    return {
        name: (rest[name], value) if name in rest and not isinstance(value, tuple) and value is not None else value
        for name, value in arguments.items()
    }


# --- max-pooling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
@given(data=st.data())
def test_max_pool_against_reference(dims, data):
    shape, arguments = data.draw(windows(dims))
    x = data.draw(values(shape))
    results = both(MAX[dims], x, **arguments, return_indices=True)
    if results is None:
        return
    (output, indices), (expected, expected_indices) = results
    assert_array_equal(output, expected)
    assert_array_equal(indices, expected_indices)
    assert output.dtype == x.dtype
    assert indices.dtype == np.int64
    assert_array_equal(MAX[dims][0](x, **arguments), expected)
    for result in (output, indices):
        assert same_order(result, x)

    grad = in_order(normal(output.shape, x.dtype), data.draw(orders))
    placed = MAX_BACKWARD[dims][0](grad, indices, shape)
    close(placed, MAX_BACKWARD[dims][1](grad, indices, shape))
    assert same_order(placed, x)

    rows = (lambda array: array) if dims == 2 else (lambda array: array[:, :, None, :])
    arguments = taps_arguments(arguments)
    tap_output, taps = F.max_pool2d_taps(rows(x), **arguments)
    assert_array_equal(tap_output, rows(expected))
    assert_array_equal(taps, reference.max_pool2d_taps(rows(x), **arguments)[1])
    assert taps.dtype == np.uint8
    assert same_order(taps, rows(x))
    routed = F.max_pool2d_taps_backward(rows(grad), taps, rows(x).shape, **arguments)
    close(routed, rows(placed))
    assert same_order(routed, rows(x))


@given(data=st.data())
def test_relu_inside_max_pool(data):
    """ReLU before the pooling or after it: the same values, and to the bit the same gradients."""
    shape, arguments = data.draw(windows(2))
    x = data.draw(values(shape))
    if data.draw(st.booleans()):
        x -= x.dtype.type(1)  # more windows without anything above 0
    results = both((F.max_pool2d_taps, reference.max_pool2d_taps), x, **arguments, relu=True)
    if results is None:
        return
    (output, taps), (expected, expected_taps) = results
    assert_array_equal(output, expected)
    assert_array_equal(taps, expected_taps)
    assert not np.signbit(output[output == 0]).any()
    grad = in_order(normal(output.shape, x.dtype), data.draw(orders))
    routed = F.max_pool2d_taps_backward(grad, taps, shape, **arguments, relu=True)
    close(routed, reference.max_pool2d_taps_backward(grad, taps, shape, **arguments, relu=True))

    positive = F.relu(x)
    before, before_taps = F.max_pool2d_taps(positive, **arguments)
    assert_array_equal(output, before)
    assert_array_equal(output, F.relu(F.max_pool2d(x, **arguments)))
    grad_relu = F.max_pool2d_taps_backward(grad, before_taps, shape, **arguments)
    assert_array_equal(routed, F.relu_backward(grad_relu, positive))
    maxima, after_taps = F.max_pool2d_taps(x, **arguments)
    after = F.max_pool2d_taps_backward(F.relu_backward(grad, F.relu(maxima)), after_taps, shape, **arguments)
    assert_array_equal(routed, after)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("kernel", "dtype"), [((15, 17), np.uint8), (16, np.int32), (20, np.int32)])
def test_no_tap_of_large_windows(kernel, dtype, order):
    x = in_order(normal((2, 3, 40, 40)), order)
    x[0] = -1
    x[1, 0, 3, 4] = np.nan
    output, taps = F.max_pool2d_taps(x, kernel, relu=True)
    expected, expected_taps = reference.max_pool2d_taps(x, kernel, relu=True)
    assert taps.dtype == dtype
    assert_array_equal(output, expected)
    assert_array_equal(taps, expected_taps)
    assert (taps[0] == np.array(-1).astype(dtype)).all()
    grad = F.max_pool2d_taps_backward(normal(output.shape), taps, x.shape, kernel, relu=True)
    assert not grad[0].any()
    assert_array_equal(grad, reference.max_pool2d_taps_backward(normal(output.shape), taps, x.shape, kernel))
    if kernel != 16:  # without ReLU, 256 taps are numbered by uint8, 255 being one of them
        with pytest.raises(ValueError, match="taps: expected taps inside the input"):
            F.max_pool2d_taps_backward(output, taps, x.shape, kernel)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_mean_gradients_in_the_order_asked_for(order, channels_last):
    grad = in_order(normal((3, 20, 2, 2)), order)
    for got, expected in (
        (
            F.avg_pool2d_backward(grad, (3, 20, 5, 5), 2, channels_last=channels_last),
            reference.avg_pool2d_backward(grad, (3, 20, 5, 5), 2, channels_last=channels_last),
        ),
        (
            F.adaptive_avg_pool2d_backward(grad, (3, 20, 5, 5), channels_last=channels_last),
            reference.adaptive_avg_pool2d_backward(grad, (3, 20, 5, 5), channels_last=channels_last),
        ),
    ):
        close(got, expected)
        assert got.transpose(0, 2, 3, 1).flags.c_contiguous == channels_last
        assert got.flags.c_contiguous != channels_last
    with pytest.raises(TypeError, match="channels_last: expected a bool, got 1"):
        F.adaptive_avg_pool2d_backward(grad, (3, 20, 5, 5), channels_last=1)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_windows_of_more_than_256_taps(dtype, channels, order):
    x = in_order(normal((2, channels, 40, 35), dtype), order)
    arguments = {"kernel_size": (16, 17), "stride": (3, 2), "padding": (8, 0), "dilation": (1, 2)}
    output, taps = F.max_pool2d_taps(x, **arguments)
    expected, expected_taps = reference.max_pool2d_taps(x, **arguments)
    assert taps.dtype == np.int32
    assert_array_equal(output, expected)
    assert_array_equal(taps, expected_taps)
    grad = normal(output.shape, dtype, 1)
    expected = reference.max_pool2d_taps_backward(grad, taps, x.shape, **arguments)
    close(F.max_pool2d_taps_backward(grad, taps, x.shape, **arguments), expected, tolerance=50)
    _, indices = F.max_pool2d(x, **arguments, return_indices=True)
    close(F.max_pool2d_backward(grad, indices, x.shape), expected, tolerance=50)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_maxima_and_taps_into_arrays_that_are_given(order):
    x = in_order(normal((3, 6, 8, 9), np.float32), order)
    expected = F.max_pool2d_taps(x, 2, relu=True)
    for wanted in [(True, True), (True, False), (False, True)]:
        out = tuple(np.full_like(array, 7) if to else None for array, to in zip(expected, wanted, strict=True))
        for _ in range(2):
            got = F.max_pool2d_taps(x, 2, relu=True, out=out)
            for one, array, other in zip(got, out, expected, strict=True):
                assert array is None or one is array
                assert_array_equal(one, other)
    y, taps = expected
    memory = np.zeros(y.size, np.float32)
    first, second = (np.ndarray(y.shape, a.dtype, memory, 0, a.strides) for a in expected)
    for out, message in [
        (y, "out: expected two arrays or None, for the output and the taps, got array"),
        ((y, taps[:2]), "out: expected shape (3, 6, 4, 4), got (2, 6, 4, 4)"),
        ((y, y), "out: expected an array of uint8, got float32"),
        ((y, taps.transpose(0, 1, 3, 2)), "out: expected C" if order == "NCHW" else "out: expected channels-last"),
        ((first, second), "out: expected memory apart from out[0], got an array that overlaps it"),
    ]:
        with pytest.raises((TypeError, ValueError)) as raised:
            F.max_pool2d_taps(x, 2, relu=True, out=out)
        assert str(raised.value).startswith(message)


def between_guards(size, dtype, channels_last=True):
    """An array (N, C, H, W), and the memory that it lies in the middle of."""
    memory = np.full(math.prod(size) + 128, 77, dtype)
    n, c, h, w = size
    array = memory[64:-64].reshape((n, h, w, c) if channels_last else size)
    return (array.transpose(0, 3, 1, 2) if channels_last else array), memory


FEW = [
    (2, 2, (28, 28)), (2, 2, (5, 11)), (2, 2, (2, 6)), (3, 3, (10, 17)), ((2, 4), (2, 4), (5, 35)),
    ((1, 2), (1, 2), (3, 9)), ((3, 2), (2, 3), (9, 20)), (3, 2, (9, 40)), (2, 6, (8, 44)), (5, 5, (15, 52)),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "stride", "size"), FEW)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_channels(kernel, stride, size, dtype):
    """Several places in a register: ties, NaN, what is left over, and nothing is written beyond."""
    for channels in range(2, 10):
        x = channels_last(np.round(normal((3, channels, *size), dtype), 1))
        x[1, 0, 1, 1::3], x[2, -1, :, 2] = np.nan, -1
        for relu in (False, True):
            expected, expected_taps = reference.max_pool2d_taps(x, kernel, stride, relu=relu)
            y, y_memory = between_guards(expected.shape, dtype)
            taps, taps_memory = between_guards(expected.shape, np.uint8)
            F.max_pool2d_taps(x, kernel, stride, relu=relu, out=(y, taps))
            assert_array_equal(y, expected)
            assert_array_equal(taps, expected_taps)
            dx, dx_memory = between_guards(x.shape, dtype)
            dy = channels_last(normal(y.shape, dtype, 1))
            dy[0, 0, 0, 0], dy[-1, -1, -1, -1] = np.inf, np.nan
            two = [(value, value) if isinstance(value, int) else value for value in (kernel, stride)]
            window = _checks.window(x.shape, y.shape[2:], *two, (0, 0), (1, 1), True)
            assert kernels.max_pool_taps_backward(dy, taps, dx, window, relu)
            expected = reference.max_pool2d_taps_backward(dy, taps, x.shape, kernel, stride, relu=relu)
            assert_allclose(dx, expected, rtol=1e-6, atol=1e-6)
            assert all((m[:64] == 77).all() and (m[-64:] == 77).all() for m in (y_memory, taps_memory, dx_memory))
            assert_array_equal(F.max_pool2d(x, kernel, stride), F.max_pool2d_taps(x, kernel, stride)[0])
            dx[...] = 5
            taps[2, -1, -1, 0] = math.prod(two[0])
            assert not kernels.max_pool_taps_backward(dy, taps, dx, window, relu)
            assert (dx == 5).all()


def test_few_channels_and_threads(threads):
    x = channels_last(normal((3, 5, 90, 70), np.float32))

    def call():
        y, taps = F.max_pool2d_taps(x, 2, relu=True)
        return y, taps, F.max_pool2d_taps_backward(y, taps, x.shape, 2, relu=True)

    each_thread_count_agrees(threads, call)


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("relu", [False, True])
def test_each_wrong_tap_is_seen(channels, relu):
    """Of windows that padding cuts off on one side or two, every tap that is not inside the image."""
    shape = (1, channels, 5, 6)
    y, taps = F.max_pool2d_taps(channels_last(normal(shape, np.float32)), 3, 2, 1, relu=relu)
    for row, column, number in np.ndindex(*y.shape[2:], 256):
        i, j = 2 * row - 1 + number // 3, 2 * column - 1 + number % 3
        right = (0 <= i < 5 and 0 <= j < 6 and number < 9) or (relu and number == 255)
        wrong = taps.copy()
        wrong[0, channels // 2, row, column] = number
        try:
            F.max_pool2d_taps_backward(y, wrong, shape, 3, 2, 1, relu=relu)
            assert right
        except ValueError:
            assert not right


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [1, 4, 16, 19])
def test_special_values(channels, order):
    """The contract, case by case, in every lane."""

    def pool(rows, kernel, **arguments):
        x = np.broadcast_to(np.array(rows, np.float32), (1, channels, *np.shape(rows)))
        output, indices = F.max_pool2d(in_order(x, order), kernel, **arguments, return_indices=True)
        same, taps = F.max_pool2d_taps(in_order(x, order), kernel, **arguments)
        assert_array_equal(output, same)
        for lane in range(1, channels):
            for result in (output, indices, taps):
                assert_array_equal(result[:, lane], result[:, 0])
        return output[0, 0].tolist(), indices[0, 0].tolist(), taps[0, 0].tolist()

    inf, nan = np.inf, np.nan
    # Of equals the first in row-major order wins, and -0.0 equals 0.0.
    assert pool([[1, 2], [2, 2]], 2) == ([[2]], [[1]], [[1]])
    assert pool([[-0.0, 0.0], [-1, -0.0]], 2)[1] == [[0]]
    # A NaN is the maximum, and the first of them wins, whatever comes before or after.
    for rows, place in (([[5, nan], [inf, 1]], 1), ([[nan, 9], [9, nan]], 0), ([[inf, 3], [nan, nan]], 2)):
        output, indices, taps = pool(rows, 2)
        assert np.isnan(output[0][0])
        assert indices == taps == [[place]]
    # Padding is never chosen: not before negative numbers, not before -inf, and its NaN-free zeros do not exist.
    output, indices, taps = pool([[-inf, -inf], [-inf, -inf]], 3, stride=2, padding=1)
    assert output == [[-inf]]
    assert indices == [[0]]
    assert taps == [[4]]
    output, indices, taps = pool([[-5, -7, -6]], 3, stride=1, padding=1)
    assert output == [[-5, -5, -6]]
    assert indices == [[0, 0, 2]]
    assert taps == [[4, 3, 4]]
    # A ceil-mode window keeps what lies inside; one that would start in the right padding is dropped.
    assert pool([[1, 2, 3]], (1, 2), ceil_mode=True) == ([[2, 3]], [[1, 2]], [[1, 0]])
    assert pool([[1, 2, 3, 4]], (1, 2), stride=(1, 3), padding=(0, 1), ceil_mode=True)[0] == [[1, 4]]


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [2, 16])
def test_overlapping_windows_add(channels, order):
    x = in_order(np.broadcast_to([[0.0, 9.0, 0.0], [0.0, 0.0, 0.0]], (2, channels, 2, 3)), order)
    output, taps = F.max_pool2d_taps(x, (2, 3), stride=1, padding=(1, 1))
    assert_array_equal(output, np.full_like(output, 9) * [[[1], [1], [0]]])
    grad = np.arange(1.0, output.size + 1).reshape(output.shape)
    result = F.max_pool2d_taps_backward(grad, taps, x.shape, (2, 3), stride=1, padding=(1, 1))
    assert_array_equal(result[:, :, 0, 1], grad[:, :, :2].sum((2, 3)))
    assert_array_equal(result.sum((2, 3)), grad.sum((2, 3)))


# --- max-unpooling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
@given(data=st.data())
def test_max_unpool_against_reference(dims, data):
    sizes = st.lists(st.integers(1, 6), min_size=dims, max_size=dims).map(tuple)
    small, kernel, stride = data.draw(sizes), data.draw(sizes), data.draw(sizes)
    shape = (data.draw(st.integers(1, 3)), data.draw(st.sampled_from(CHANNELS)), *small)
    usual = [(n - 1) * s + k for n, s, k in zip(small, stride, kernel, strict=True)]
    size = [data.draw(st.integers(max(1, u - s + 1), u + s - 1)) for u, s in zip(usual, stride, strict=True)]
    area, count = int(np.prod(size)), int(np.prod(small))
    if area < count:
        return
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    indices = np.stack([rng.permutation(area)[:count] for _ in range(shape[0] * shape[1])]).reshape(shape)
    dtype = data.draw(dtypes)
    x, indices = in_order(normal(shape, dtype), data.draw(orders)), in_order(indices, data.draw(orders))
    arguments = {"kernel_size": argument(kernel), "stride": argument(stride), "output_size": tuple(size)}
    function, oracle = UNPOOL[dims]
    output = function(x, indices, **arguments)
    assert_array_equal(output, oracle(x, indices, **arguments))
    assert same_order(output, indices)
    assert_array_equal(function(x, indices, **{**arguments, "output_size": output.shape}), output)
    function, oracle = UNPOOL_BACKWARD[dims]
    grad = in_order(normal(output.shape, dtype, 1), data.draw(orders))
    before = grad.copy()
    assert_array_equal(function(grad, indices), oracle(grad, indices))
    assert_array_equal(grad, before)
    assert_array_equal(function(output, indices), x)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_unpool_undoes_pool(order):
    x = in_order(normal((2, 18, 9, 11)), order)
    output, indices = F.max_pool2d(x, (2, 3), return_indices=True)
    back = F.max_unpool2d(output, indices, (2, 3), output_size=(9, 11))
    assert_array_equal(back[back != 0], x[back != 0])
    assert (back != 0).sum() == output.size
    with pytest.raises(ValueError, match="indices: expected places in the plane, 0 to 71"):
        F.max_unpool2d(output, indices, (2, 3))  # 8 x 9 by default: too small for these


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_the_last_of_repeated_indices_stays(order):
    x = in_order(normal((2, 17, 2, 3)), order)
    indices = np.broadcast_to([[3, 1, 3], [1, 3, 5]], x.shape)
    output = F.max_unpool2d(x, indices, 2)
    expected = np.zeros((2, 17, 24))
    expected[..., [1, 3, 5]] = x[..., 1, :]
    assert_array_equal(output, expected.reshape(2, 17, 4, 6))
    grad = normal(output.shape, seed=1)
    gradient = F.max_unpool2d_backward(grad, indices)
    assert_array_equal(gradient[..., 0, :], 0)
    assert_array_equal(gradient[..., 1, :], grad[..., 0, [1, 3, 5]])


# --- average pooling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
@given(data=st.data())
def test_avg_pool_against_reference(dims, data):
    shape, arguments = data.draw(windows(dims, dilated=False))
    arguments["count_include_pad"] = data.draw(st.booleans())
    if dims == 2:
        arguments["divisor_override"] = data.draw(st.sampled_from([None, None, 1, 7, -2]))
    x = in_order(normal(shape, data.draw(dtypes), data.draw(st.integers(0, 2**32))), data.draw(orders))
    results = both(AVG[dims], x, **arguments)
    if results is None:
        return
    output, expected = results
    close(output, expected, tolerance=20, floor=1)
    assert same_order(output, x)
    grad = in_order(normal(output.shape, x.dtype, 1), data.draw(orders))
    function, oracle = AVG_BACKWARD[dims]
    gradient = function(grad, shape, **arguments)
    close(gradient, oracle(grad, shape, **arguments), tolerance=20, floor=1)
    assert same_order(gradient, grad)


@pytest.mark.parametrize("dims", [1, 2])
@given(data=st.data())
def test_adaptive_avg_pool_against_reference(dims, data):
    sizes = st.lists(st.integers(1, 30), min_size=dims, max_size=dims).map(tuple)
    shape = (data.draw(st.integers(1, 2)), data.draw(st.sampled_from(CHANNELS)), *data.draw(sizes))
    places = data.draw(sizes)
    x = in_order(normal(shape, data.draw(dtypes), data.draw(st.integers(0, 2**32))), data.draw(orders))
    function, oracle = ADAPTIVE[dims]
    output = function(x, argument(places))
    close(output, oracle(x, argument(places)), tolerance=20, floor=1)
    assert output.shape == (*shape[:2], *places)
    assert same_order(output, x)
    grad = in_order(normal(output.shape, x.dtype, 1), data.draw(orders))
    function, oracle = ADAPTIVE_BACKWARD[dims]
    gradient = function(grad, shape)
    close(gradient, oracle(grad, shape), tolerance=20, floor=1)
    assert same_order(gradient, grad)


def test_the_divisor_of_both_passes():
    """Windows over padding, over the edge in ceil mode, over both: the divisor is read off a pooling of ones."""
    ones = np.ones((1, 2, 5, 7))
    for arguments in (
        {},
        {"count_include_pad": False},
        {"ceil_mode": True},
        {"ceil_mode": True, "count_include_pad": False},
    ):
        window = {"kernel_size": 4, "stride": 2, "padding": 2, **arguments}
        sums = F.avg_pool2d(ones, **window, divisor_override=1)
        divisors = sums / F.avg_pool2d(ones, **window)
        grad = normal(divisors.shape)
        gradient = F.avg_pool2d_backward(grad, ones.shape, **window)
        shared = F.avg_pool2d_backward(grad / divisors, ones.shape, **window, divisor_override=1)
        assert_allclose(gradient, shared, rtol=1e-13)
        if "count_include_pad" in arguments:
            assert_array_equal(divisors, sums)
    # The second window, of elements 3, 4, two padded ones and one beyond, counts no more than four.
    column = np.arange(1.0, 5).reshape(1, 1, 4)
    assert_array_equal(F.avg_pool1d(column, 5, 4, 2, ceil_mode=True), [[[6 / 5, 7 / 4]]])
    assert_array_equal(F.avg_pool1d(column, 5, 4, 2, ceil_mode=True, count_include_pad=False), [[[2, 3.5]]])


def test_means_of_large_planes_are_accurate():
    """A float32 sum of 50,000 elements, one after the other, would lose three digits."""
    plane = (1 + normal((1, 20, 240, 210), np.float32) / 100).astype(np.float32)
    exact = plane.astype(np.float64).mean((2, 3), keepdims=True)
    for order in ("NCHW", "NHWC"):
        assert_allclose(F.adaptive_avg_pool2d(in_order(plane, order), 1), exact, rtol=3e-6)


# --- gradients ------------------------------------------------------------------------------------------------------

GRADIENTS = [
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": 1, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": (1, 0), "ceil_mode": True},
    {"kernel_size": (2, 3), "stride": (4, 1)},
]


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("arguments", GRADIENTS)
def test_gradients_against_finite_differences(arguments, order):
    rng = np.random.default_rng(0)
    x = in_order(rng.permutation(2 * 3 * 6 * 5).reshape(2, 3, 6, 5) / 10, order)  # no ties, however small the step
    for dilation in (1, 2):
        if dilation == 2 and arguments["kernel_size"] == (2, 3):
            continue
        window = {**arguments, "dilation": dilation}
        output, indices = F.max_pool2d(x, **window, return_indices=True)
        grad = normal(output.shape)
        numeric = difference(lambda array, w=window, g=grad: (F.max_pool2d(array, **w) * g).sum(), x)
        assert_allclose(F.max_pool2d_backward(grad, indices, x.shape), numeric, atol=1e-7)
        _, taps = F.max_pool2d_taps(x, **window)
        assert_allclose(F.max_pool2d_taps_backward(grad, taps, x.shape, **window), numeric, atol=1e-7)
    for more in ({}, {"count_include_pad": False}, {"divisor_override": 5}):
        window = {**arguments, **more}
        grad = normal(F.avg_pool2d(x, **window).shape)
        numeric = difference(lambda array, w=window, g=grad: (F.avg_pool2d(array, **w) * g).sum(), x)
        assert_allclose(F.avg_pool2d_backward(grad, x.shape, **window), numeric, atol=1e-7)


@pytest.mark.parametrize("size", [1, (2, 3), (6, 5), (7, 4), (13, 2)])
def test_adaptive_gradients_against_finite_differences(size):
    x = normal((2, 3, 6, 5))
    grad = normal(F.adaptive_avg_pool2d(x, size).shape, seed=1)
    numeric = difference(lambda array: (F.adaptive_avg_pool2d(array, size) * grad).sum(), x)
    assert_allclose(F.adaptive_avg_pool2d_backward(grad, x.shape), numeric, atol=1e-7)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_unpool_gradients_against_finite_differences(order):
    """With indices that repeat: only what stays in the output has a gradient."""
    x = in_order(normal((2, 3, 3, 4)), order)
    indices = np.random.default_rng(0).integers(0, 20, x.shape)
    output = F.max_unpool2d(x, indices, 2, stride=(2, 1))
    grad = normal(output.shape, seed=1)
    numeric = difference(lambda array: (F.max_unpool2d(array, indices, 2, stride=(2, 1)) * grad).sum(), x)
    assert (numeric == 0).any()
    assert_allclose(F.max_unpool2d_backward(grad, indices), numeric, atol=1e-7)


# --- threads, instruction sets, arrays ------------------------------------------------------------------------------

# Shapes and windows that are cut into runs, lanes and tasks in different ways.
TILINGS = [
    ((4, 16, 32, 32), {"kernel_size": 2}),
    ((1, 64, 57, 49), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((2, 40, 33, 31), {"kernel_size": (3, 5), "stride": 1, "padding": (1, 2)}),
    ((3, 7, 60, 61), {"kernel_size": (2, 3), "stride": (3, 4), "ceil_mode": True}),
    ((1, 1, 90, 400), {"kernel_size": (1, 4), "stride": (1, 2), "padding": (0, 2)}),
    ((1, 150, 1, 700), {"kernel_size": (1, 3), "stride": (1, 3)}),
    ((40, 33, 9, 8), {"kernel_size": (9, 8)}),
]


def every_pass(x, arguments):
    """All results of all poolings over one input."""
    shape = x.shape
    output, indices = F.max_pool2d(x, **arguments, return_indices=True)
    _, taps = F.max_pool2d_taps(x, **arguments)
    grad = in_order(normal(output.shape, x.dtype, 1), "NHWC" if same_order(x, channels_last(x)) else "NCHW")
    placed = F.max_pool2d_backward(grad, indices, shape)
    routed = F.max_pool2d_taps_backward(grad, taps, shape, **arguments)
    mean = F.avg_pool2d(x, **arguments, count_include_pad=False)
    shared = F.avg_pool2d_backward(grad, shape, **arguments, count_include_pad=False)
    adaptive = F.adaptive_avg_pool2d(x, (2, 3))
    spread = F.adaptive_avg_pool2d_backward(adaptive, shape)
    kernel = tuple(n - o + 1 for n, o in zip(shape[2:], output.shape[2:], strict=True))
    unpooled = F.max_unpool2d(grad, indices, kernel, stride=1)
    taken = F.max_unpool2d_backward(x, indices)
    return output, indices, taps, placed, routed, mean, shared, adaptive, spread, unpooled, taken


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("shape", "arguments"), TILINGS)
def test_every_tiling(shape, arguments, order, threads):
    x = in_order(normal(shape, np.float32), order)
    results = each_thread_count_agrees(threads, lambda: every_pass(x, arguments))
    output, indices, taps, placed, routed, mean, shared, adaptive, spread, unpooled, _ = results
    expected, expected_indices = reference.max_pool2d(x, **arguments, return_indices=True)
    assert_array_equal(output, expected)
    assert_array_equal(indices, expected_indices)
    assert_array_equal(taps, reference.max_pool2d_taps(x, **arguments)[1])
    grad = normal(output.shape, x.dtype, 1)
    expected = reference.max_pool2d_backward(grad, indices, shape)
    close(placed, expected)
    close(routed, expected)
    close(mean, reference.avg_pool2d(x, **arguments, count_include_pad=False), tolerance=20, floor=1)
    expected = reference.avg_pool2d_backward(grad, shape, **arguments, count_include_pad=False)
    close(shared, expected, tolerance=20, floor=1)
    close(adaptive, reference.adaptive_avg_pool2d(x, (2, 3)), tolerance=20, floor=1)
    close(spread, reference.adaptive_avg_pool2d_backward(adaptive, shape), tolerance=20, floor=1)
    assert_array_equal(unpooled != 0, placed != 0)


@pytest.mark.parametrize("path", isa.available())
def test_every_instruction_set(path):
    """Tilings and special values once more, in a process of its own for each path that the CPU has."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    command += ["-k", "tiling or special or more_than_256 or finite_differences"]
    done = subprocess.run(command, env={**os.environ, "FASTCNN_ISA": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{2 * len(TILINGS) + 8 + 8 + 2 * len(GRADIENTS) + 5 + 2} passed" in done.stdout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_any_layout(layout):
    x = normal((3, 17, 8, 6))
    plain = laid_out(x, layout).copy(order="C").astype(np.float64)
    for got, want in zip(every_pass(laid_out(x, layout), {"kernel_size": 3, "stride": 2, "padding": 1}),
                         every_pass(plain, {"kernel_size": 3, "stride": 2, "padding": 1}), strict=True):  # fmt: skip
        assert_allclose(got, want, rtol=1e-14)
    _, taps = F.max_pool2d_taps(plain, 2)
    _, indices = F.max_pool2d(plain, 2, return_indices=True)
    grad = normal(taps.shape, seed=1)
    if layout not in ("gaps", "byte-swapped", "broadcast"):  # of whole numbers, there are none
        expected = F.max_pool2d_taps_backward(grad, taps, x.shape, 2)
        assert_array_equal(
            F.max_pool2d_taps_backward(laid_out(grad, layout), laid_out(taps, layout), x.shape, 2), expected
        )
        assert_array_equal(F.max_pool2d_backward(laid_out(grad, layout), laid_out(indices, layout), x.shape), expected)


def test_the_gradient_of_one_pixel_keeps_the_order_it_was_made_in():
    """After a global pool both orders are the same bytes; the strides tell which one the model uses."""
    x = channels_last(normal((4, 20, 6, 6)))
    pooled = F.adaptive_avg_pool2d(x, 1)
    assert same_order(F.adaptive_avg_pool2d_backward(pooled, x.shape), x)
    reshaped = np.zeros((4, 20)).reshape(4, 20, 1, 1)
    assert F.adaptive_avg_pool2d_backward(reshaped, x.shape).flags.c_contiguous
    assert F.avg_pool2d_backward(reshaped, x.shape, 6).flags.c_contiguous
    _, taps = F.max_pool2d_taps(x, 6)
    assert same_order(F.max_pool2d_taps_backward(reshaped, taps, x.shape, 6), x)


def test_one_pixel_images_and_windows():
    x = normal((3, 5, 1, 1))
    assert_array_equal(F.max_pool2d(x, 1), x)
    assert_array_equal(F.max_pool2d(x, 3, stride=5, padding=1), x)
    assert_array_equal(F.avg_pool2d(x, 2, 1, 1, count_include_pad=False), np.broadcast_to(x, (3, 5, 2, 2)))
    assert_array_equal(F.adaptive_avg_pool2d(x, (2, 2)), np.broadcast_to(x, (3, 5, 2, 2)))
    assert_array_equal(F.max_pool2d(x, 1, stride=2**62, dilation=2**62), x)
    wide = normal((1, 2, 1, 9))
    assert_array_equal(F.max_pool2d(wide, (1, 2**20), padding=(0, 2**19)), wide.max(3, keepdims=True))
    assert_array_equal(F.max_pool2d(wide, (1, 3), stride=(7, 2**62)), wide[..., :3].max(3, keepdims=True))


def test_unbatched_and_empty():
    x = normal((5, 8, 9))
    for function in (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d):
        assert_array_equal(function(x, 2), function(x[None], 2)[0])
        assert function(np.zeros((0, 5, 8, 9)), 2).shape == (0, *function(x, 2).shape)
    for function in (F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d):
        assert_array_equal(function(x[0], 2), function(x[:1], 2)[0])
        assert function(np.zeros((0, 8, 9)), 2).shape == (0, *function(x[0], 2).shape)
    none = np.zeros((0, 5, 8, 9))
    output, indices = F.max_pool2d(none, 2, return_indices=True)
    output, taps = F.max_pool2d_taps(none, 2)
    assert output.shape == indices.shape == taps.shape == (0, 5, 4, 4)
    assert F.max_pool2d_backward(output, indices, none.shape).shape == none.shape
    assert F.max_pool2d_taps_backward(output, taps, none.shape, 2).shape == none.shape
    assert F.avg_pool2d_backward(output, none.shape, 2).shape == none.shape
    assert F.adaptive_avg_pool2d_backward(output, none.shape).shape == none.shape
    assert F.max_unpool2d(output, indices, 2).shape == (0, 5, 8, 8)
    assert F.max_unpool2d_backward(none, indices).shape == indices.shape
    output, indices = F.max_pool2d(x, 2, return_indices=True)
    assert_array_equal(F.max_pool2d_backward(output, indices, x.shape),
                       F.max_pool2d_backward(output[None], indices[None], (1, *x.shape))[0])  # fmt: skip
    assert_array_equal(F.max_unpool2d(output, indices, 2, output_size=(8, 9)),
                       F.max_pool2d_backward(output, indices, x.shape))  # fmt: skip
    assert_array_equal(F.avg_pool2d_backward(output, x.shape, 2),
                       F.avg_pool2d_backward(output[None], (1, *x.shape), 2)[0])  # fmt: skip
    line, places = F.max_pool1d(x[0], 2, return_indices=True)
    assert_array_equal(F.max_unpool1d_backward(F.max_unpool1d(line, places, 2, output_size=9), places), line)


def test_concurrent_callers():
    x = channels_last(normal((4, 24, 30, 30), np.float32))
    concurrent_callers_agree(lambda: every_pass(x, {"kernel_size": 3, "stride": 2, "padding": 1}))


# --- wrong arguments ------------------------------------------------------------------------------------------------

X = np.zeros((2, 3, 6, 8))
OUT, INDICES = F.max_pool2d(X, 2, return_indices=True)
TAPS = F.max_pool2d_taps(X, 2)[1]


def changed(array, value):
    """A copy whose last element is `value`."""
    array = array.copy()
    array[(-1,) * array.ndim] = value
    return array


WINDOWS = [
    ({"kernel_size": 0}, ValueError, "kernel_size: expected a positive int, got 0"),
    ({"kernel_size": (3, 0)}, ValueError, "kernel_size: expected a positive int, got 0"),
    ({"kernel_size": 2.0}, TypeError, "kernel_size: expected a positive int, got 2.0"),
    ({"kernel_size": (1, 2, 3)}, ValueError, r"kernel_size: expected an int or 2 of them, got \(1, 2, 3\)"),
    ({"kernel_size": 7}, ValueError, r"kernel_size: expected a window that fits the input's \(6, 8\) with padding"),
    ({"kernel_size": 2**20, "padding": 2**19}, ValueError, "kernel_size: expected at most 2147483647 taps, got"),
    ({"kernel_size": 2**64}, ValueError, "kernel_size: expected a positive int, got 18446744073709551616"),
    ({"stride": 0}, ValueError, "stride: expected a positive int, got 0"),
    ({"stride": (2, -1)}, ValueError, "stride: expected a positive int, got -1"),
    ({"stride": "2"}, TypeError, "stride: expected a positive int, got '2'"),
    ({"padding": -1}, ValueError, "padding: expected a non-negative int, got -1"),
    ({"padding": 2}, ValueError, r"padding: expected at most half of kernel_size \(2, 2\), got \(2, 2\)"),
    ({"padding": (0, 2)}, ValueError, r"padding: expected at most half of kernel_size \(2, 2\), got \(0, 2\)"),
    ({"ceil_mode": 1}, TypeError, "ceil_mode: expected a bool, got 1"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WINDOWS)
def test_wrong_windows(arguments, error, message):
    arguments = {"kernel_size": 2, **arguments}
    for call in (
        lambda: F.max_pool2d(X, **arguments),
        lambda: F.max_pool2d(X, **arguments, return_indices=True),
        lambda: F.max_pool2d_taps(X, **arguments),
        lambda: F.max_pool2d_taps_backward(OUT, TAPS, X.shape, **arguments),
        lambda: F.avg_pool2d(X, **arguments),
        lambda: F.avg_pool2d_backward(OUT, X.shape, **arguments),
    ):
        with pytest.raises(error, match=message):
            call()


HUGE = np.broadcast_to(0.0, (1, 1, 2**16, 2**16))
WRONG = {
    F.max_pool2d: [
        ((X, 2, 1, 0, 0), ValueError, "dilation: expected a positive int, got 0"),
        ((X, 2, 1, 0, 2**62), ValueError, "kernel_size: expected a window that fits"),
        (
            (X[..., :2], 2, 1, (0, 1), (1, 3)),
            ValueError,
            r"dilation: expected every window to hold an element of the input's \(6, 2\), got \(1, 3\)",
        ),
        ((X, 2, 2, 0, 1, False, 1), TypeError, "return_indices: expected a bool, got 1"),
        ((HUGE, 2, 2, 0, 1, False, True), ValueError, "input: expected planes of at most 2147483647 elements where"),
        ((None, 2), TypeError, "input: expected a NumPy array of float32 or float64, got None"),
        ((X.tolist(), 2), TypeError, "input: expected a NumPy array of float32 or float64, got list"),
        ((X.astype(int), 2), TypeError, "input: expected an array of float32 or float64, got int64"),
        ((X[0, 0], 2), ValueError, r"input: expected 4-D or 3-D array, got shape \(6, 8\)"),
        ((X[:, :0], 2), ValueError, "input: expected no extent of zero but the batch's, got shape"),
    ],
    F.max_pool1d: [
        ((X, 2), ValueError, "input: expected 3-D or 2-D array, got shape"),
        ((X[0], (2, 2)), ValueError, r"kernel_size: expected an int or 1 of them, got \(2, 2\)"),
    ],
    F.max_pool2d_backward: [
        ((OUT, INDICES[:1], X.shape), ValueError, r"indices: expected shape \(2, 3, 3, 4\), got \(1, 3, 3, 4\)"),
        ((OUT, INDICES.astype(np.int32), X.shape), TypeError, "indices: expected an array of int64, got int32"),
        ((OUT, INDICES.tolist(), X.shape), TypeError, "indices: expected a NumPy array of int64, got list"),
        (
            (OUT, changed(INDICES, 48), X.shape),
            ValueError,
            "indices: expected places in the plane, 0 to 47, got v.* 48",
        ),
        (
            (OUT, changed(INDICES, -1), X.shape),
            ValueError,
            "indices: expected places in the plane, 0 to 47, got v.* -1",
        ),
        ((OUT, changed(INDICES, -(2**63)), X.shape), ValueError, "indices: expected places in the plane, 0 to 47"),
        ((OUT, INDICES, (2, 3, 6)), ValueError, "input_shape: expected a tuple of 4 ints"),
        ((OUT, INDICES, (2, 3, 6, 0)), ValueError, "input_shape: expected no extent of zero but the batch's"),
        ((OUT, INDICES, (2, 3, 6, 8.0)), TypeError, "input_shape: expected a non-negative int, got 8.0"),
        ((OUT, INDICES, (2, 3, 2**40, 2**40)), ValueError, "input_shape: expected a shape whose bytes fit"),
        ((OUT, INDICES, (2, 4, 6, 8)), ValueError, "grad_output: expected the images and channels of input_shape"),
        ((OUT[0, 0], INDICES[0, 0], (6, 8)), ValueError, "grad_output: expected 4-D or 3-D array"),
    ],
    F.max_pool2d_taps_backward: [
        ((OUT, TAPS[:, :2], X.shape, 2), ValueError, r"taps: expected shape \(2, 3, 3, 4\), got"),
        ((OUT, TAPS.astype(np.int32), X.shape, 2), TypeError, "taps: expected an array of uint8, got int32"),
        ((OUT, None, X.shape, 2), TypeError, "taps: expected a NumPy array of uint8, got None"),
        ((OUT[:, :, :2], TAPS, X.shape, 2), ValueError, r"grad_output: expected shape \(2, 3, 3, 4\), got"),
        ((OUT, TAPS, (2, 3, 6, 9, 1), 2), ValueError, "input_shape: expected a tuple of 4 ints"),
    ],
    F.avg_pool2d: [
        ((X[:, :, :0], 1), ValueError, "input: expected no extent of zero but the batch's, got shape"),
        ((X, 2, 2, 0, False, None), TypeError, "count_include_pad: expected a bool, got None"),
        ((X, 2, 2, 0, False, True, 0), ValueError, "divisor_override: expected an int other than 0"),
        ((X, 2, 2, 0, False, True, 1.5), TypeError, "divisor_override: expected an int other than 0, got 1.5"),
        ((X, 2, 2, 0, False, True, 2**40), ValueError, "divisor_override: expected an int other than 0, up to"),
    ],
    F.avg_pool2d_backward: [
        ((OUT[:, :, :2], X.shape, 2), ValueError, r"grad_output: expected shape \(2, 3, 3, 4\), got"),
    ],
    F.avg_pool1d_backward: [
        ((OUT[0], (3, 4, 8), 2), ValueError, r"grad_output: expected shape \(3, 4, 4\), got \(3, 3, 4\)"),
    ],
    F.adaptive_avg_pool2d: [
        ((X, 0), ValueError, "output_size: expected a positive int, got 0"),
        ((X, (None, -2)), ValueError, "output_size: expected a positive int, got -2"),
        ((X, (1, 2, 3)), ValueError, "output_size: expected an int or 2 of them"),
        ((X, None), TypeError, "output_size: expected a positive int, got None"),
        ((X, 2**40), ValueError, "output_size: expected a shape whose bytes fit"),
    ],
    F.adaptive_avg_pool2d_backward: [
        ((OUT, (2, 2, 6, 8)), ValueError, "grad_output: expected the images and channels of input_shape"),
    ],
    F.max_unpool2d: [
        (
            (OUT, INDICES, 2, None, 0, (6, 10)),
            ValueError,
            r"output_size: expected sizes within \(\(5, 7\), \(7, 9\)\), got \(6, 10\)",
        ),
        ((OUT, INDICES, 2, None, 0, (4, 8)), ValueError, "output_size: expected sizes within"),
        ((OUT, INDICES, 2, None, 0, (6,)), ValueError, "output_size: expected an int or 2 of them"),
        ((OUT, INDICES, 2, None, 0, (6, 0)), ValueError, "output_size: expected a positive int, got 0"),
        ((OUT, INDICES, 2, 0), ValueError, "stride: expected a positive int, got 0"),
        ((OUT, INDICES, 0), ValueError, "kernel_size: expected a positive int, got 0"),
        ((OUT, INDICES, 2**62), ValueError, "output_size: expected a shape whose bytes fit"),
        ((OUT, INDICES, 2, 2, -1), ValueError, "padding: expected a non-negative int, got -1"),
        ((OUT, INDICES, 2, 2, 3), ValueError, "padding: expected a positive output size, where kernel_size"),
        ((OUT, changed(INDICES, 48), 2), ValueError, "indices: expected places in the plane, 0 to 47"),
        ((OUT, INDICES[..., :2], 2), ValueError, r"indices: expected shape \(2, 3, 3, 4\), got"),
    ],
    F.max_unpool2d_backward: [
        ((X, changed(INDICES, 48)), ValueError, "indices: expected places in the plane, 0 to 47"),
        ((X, INDICES[:, :2]), ValueError, r"indices: expected the images and channels \(2, 3\) of grad_output"),
        ((X, INDICES[0]), ValueError, "indices: expected 4-D array"),
        ((X, OUT), TypeError, "indices: expected an array of int64, got float64"),
    ],
}


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [(function, *row) for function, rows in WRONG.items() for row in rows],
)
def test_wrong_arguments(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [3, 40])
def test_indices_outside_the_plane_write_nowhere(channels, order):
    """In every lane and at every place, also where the far end of the address space is meant."""
    x = in_order(normal((3, channels, 4, 6)), order)
    output, indices = F.max_pool2d(x, 2, return_indices=True)
    for wrong in (24, 2**31, 2**62, -1, -25, -(2**63)):
        for place in ((0, 0, 0, 0), (1, channels - 1, 0, 2), (2, channels // 2, 1, 1)):
            bad = indices.copy(order="K")
            bad[place] = wrong
            for call in (
                lambda bad=bad: F.max_pool2d_backward(output, bad, x.shape),
                lambda bad=bad: F.max_unpool2d(output, bad, 2),
                lambda bad=bad: F.max_unpool2d_backward(x, bad),
            ):
                with pytest.raises(ValueError, match="indices: expected places in the plane, 0 to 23, got values from"):
                    call()


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [3, 16])
def test_taps_outside_their_window(channels, order):
    """A tap beyond the window, in the padding above, left, below or right, or in the overhang of a ceil-mode window."""
    window = {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True}
    x = in_order(normal((2, channels, 6, 5)), order)
    output, taps = F.max_pool2d_taps(x, **window)
    assert taps.shape[2:] == (3, 2)
    F.max_pool2d_taps_backward(output, taps, x.shape, **window)
    for place, wrong in (((1, 0), 9), ((1, 1), 255), ((0, 1), 1), ((1, 0), 3), ((2, 1), 3), ((2, 0), 8), ((0, 0), 6)):
        bad = taps.copy(order="K")
        bad[1, channels - 1][place] = wrong
        with pytest.raises(ValueError, match="taps: expected taps inside the input, of windows of 9, got one that is"):
            F.max_pool2d_taps_backward(output, bad, x.shape, **window)
