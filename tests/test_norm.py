"""Batch norm: against the reference and finite differences; accuracy, running statistics, threads, layouts, errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import (
    LAYOUTS,
    close,
    concurrent_callers_agree,
    difference,
    dtypes,
    each_thread_count_agrees,
    laid_out,
    layouts,
    normal,
    same_order,
)
from numpy.testing import assert_allclose, assert_array_equal
from windows import channels_last, in_order, orders

from fastcnn import functional as F
from fastcnn import reference

every_order = pytest.mark.parametrize("order", ["NCHW", "NHWC"])
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def double(*arrays):
    return [None if array is None else array.astype(np.float64) for array in arrays]


def channel_axes(x):
    return (0, *range(2, x.ndim))


@st.composite
def problems(draw):
    """(input, running_mean, running_var, weight, bias, grad_output), of which weight and bias may be None."""
    dtype, channels = draw(dtypes), draw(st.sampled_from([1, 2, 3, 8, 16, 17, 63, 64, 65, 130, 257, 300, 520]))
    pixels = draw(st.lists(st.integers(0, 7), max_size=2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(0, 40 if channels < 20 else 5)), channels, *pixels)

    def vector(optional):
        return None if optional and draw(st.booleans()) else rng.standard_normal(channels).astype(dtype)

    x = rng.standard_normal(shape) * draw(st.sampled_from([0.1, 1.0, 30.0])) + draw(st.sampled_from([0, 5]))
    x, dy = (laid_out(array.astype(dtype), draw(layouts)) for array in (x, rng.standard_normal(shape)))
    running_var = rng.uniform(0.1, 3, channels).astype(dtype)
    return x, vector(False), running_var, vector(True), vector(True), dy


@given(problem=problems(), momentum=st.floats(0, 1))
def test_training_against_reference(problem, momentum):
    x, running_mean, running_var, weight, bias, dy = problem
    count = x.size // x.shape[1]
    if count == 1:
        return
    before = x.copy()
    expected_running = double(running_mean, running_var)
    expected = reference.batch_norm(
        x.astype(float), *expected_running, *double(weight, bias), True, momentum, return_saved=True
    )
    y, mean, invstd = F.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, return_saved=True)
    condition = max(1.0, float(np.abs(x).max(initial=0) * expected[2].max()))  # of x - mean, in deviations
    close(y, expected[0].astype(x.dtype), 30, floor=condition)
    close(mean, expected[1].astype(x.dtype), 30, floor=1)
    close(invstd, expected[2].astype(x.dtype), 60, floor=condition * expected[2].max())
    close(running_mean, expected_running[0].astype(x.dtype), 30, floor=1)
    close(running_var, expected_running[1].astype(x.dtype), 30, floor=1)
    grads = F.batch_norm_backward(dy, x, weight, mean, invstd)
    expected = reference.batch_norm_backward(*double(dy, x, weight, mean, invstd))
    for got, want, size in zip(grads, expected, (invstd.max(), count**0.5, count**0.5), strict=True):
        close(got, want.astype(x.dtype), 100, floor=float(size) * condition)
    assert_array_equal(x, before)


@given(problem=problems(), eps=st.sampled_from([0.0, 1e-5, 0.5]))
def test_evaluation_against_reference(problem, eps):
    x, running_mean, running_var, weight, bias, dy = problem
    unchanged = running_mean.copy(), running_var.copy()
    vectors = double(running_mean, running_var, weight, bias)
    expected = reference.batch_norm(x.astype(float), *vectors, False, eps=eps, return_saved=True)
    y, mean, invstd = F.batch_norm(x, running_mean, running_var, weight, bias, eps=eps, return_saved=True)
    close(y, expected[0].astype(x.dtype), 10, floor=float(np.abs(x).max(initial=0) * invstd.max() * 3))
    close(mean, running_mean)
    close(invstd, expected[2].astype(x.dtype))
    grads = F.batch_norm_backward(dy, x, weight, mean, invstd, training=False)
    expected = reference.batch_norm_backward(*double(dy, x, weight, mean, invstd), training=False)
    for got, want in zip(grads, expected, strict=True):
        close(got, want.astype(x.dtype), 100, floor=float(np.sqrt(x.size / x.shape[1])))
    assert_array_equal(running_mean, unchanged[0])
    assert_array_equal(running_var, unchanged[1])


# Shapes that the tiling treats apart: one tile and many, joined rows with and without a rest, panels of channels and a
# narrower last one, planes shorter than the lanes, planes in several segments, one pixel.
TILINGS = [
    (7, 3, 5, 7),
    (40, 16, 33, 21),
    (9, 10, 50, 50),
    (300, 63, 2, 3),
    (65, 64, 20, 20),
    (30, 300, 6, 7),
    (3, 1025, 9, 9),
    (700, 5, 3, 3),
    (2, 3, 150, 131),
    (1, 1, 200, 200),
    (3000, 40, 1, 1),
    (1, 2, 1, 70_000),
]


@every_order
@every_dtype
@pytest.mark.parametrize("size", TILINGS)
def test_every_tiling(size, dtype, order, threads):
    x, dy = in_order(normal(size, dtype) * 2 + 1, order), in_order(normal(size, dtype, 1), order)
    weight, bias = normal(size[1], dtype, 2), normal(size[1], dtype, 3)

    def call():
        y, mean, invstd = F.batch_norm(x, None, None, weight, bias, True, return_saved=True)
        return y, mean, invstd, *F.batch_norm_backward(dy, x, weight, mean, invstd)

    y, mean, invstd, dx, dw, db = each_thread_count_agrees(threads, call)
    assert same_order(y, x)
    assert same_order(dx, x)
    expected = reference.batch_norm(x.astype(float), None, None, *double(weight, bias), True, return_saved=True)
    limit = 8 if dtype == np.float32 else 200  # the reference adds up one after the other in float64
    for got, want in zip((y, mean, invstd), expected, strict=True):
        close(got, want.astype(dtype), limit)
    expected = reference.batch_norm_backward(*double(dy, x, weight, mean, invstd))
    terms = math.sqrt(x.size / size[1])
    for got, want, floor in zip((dx, dw, db), expected, (1, terms, terms), strict=True):
        close(got, want.astype(dtype), limit, floor=floor)


@pytest.mark.parametrize("size", [(4, 3), (4, 3, 5), (3, 2, 2, 3)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_finite_differences(size, training, layout):
    x, dy = laid_out(normal(size), layout), normal(size, seed=1)
    weight, bias = normal(size[1], seed=2), normal(size[1], seed=3)
    running = normal(size[1], seed=4), np.abs(normal(size[1], seed=5)) + 0.5

    def loss(x, weight, bias):
        statistics = (None, None) if training else running
        return float((F.batch_norm(x, *statistics, weight, bias, training) * dy).sum())

    _, mean, invstd = F.batch_norm(x, *(v.copy() for v in running), weight, bias, training, return_saved=True)
    dx, dw, db = F.batch_norm_backward(dy, x, weight, mean, invstd, training)
    assert_allclose(dx, difference(lambda v: loss(v, weight, bias), x), atol=1e-7)
    assert_allclose(dw, difference(lambda v: loss(x, v, bias), weight), atol=1e-7)
    assert_allclose(db, difference(lambda v: loss(x, weight, v), bias), atol=1e-7)


@every_order
@every_dtype
@pytest.mark.parametrize("mean", [0.0, 1000.0, -30_000.0])
def test_a_large_mean_costs_no_accuracy(mean, dtype, order):
    x = in_order((normal((32, 24, 30, 30)) + mean).astype(dtype), order)
    y, saved_mean, invstd = F.batch_norm(x, None, None, training=True, eps=0, return_saved=True)
    exact = x.astype(np.longdouble)
    exact_mean = exact.mean(channel_axes(x))
    centred = exact - exact_mean[:, None, None]
    deviation = np.sqrt(np.square(centred).mean(channel_axes(x)))
    eps = np.finfo(dtype).eps
    assert np.abs(saved_mean - exact_mean).max() <= eps * max(abs(mean), 1)
    assert np.abs(invstd * deviation - 1).max() <= (2 if dtype == np.float32 else 20) * eps
    # In float64 the mean itself has a rounding error of its own size.
    limit = 10 * eps * (1 if dtype == np.float32 else 1 + abs(mean))
    assert np.abs(y - centred / deviation[:, None, None]).max() <= limit


def test_a_sample_far_from_the_mean_costs_no_accuracy():
    """Zeros exactly at the pixels that the sums' centre is sampled from."""
    pixels = 300_000
    x = normal((pixels, 2), np.float32) + np.float32(1000)
    x[[int(0.6180339887498949 * k * pixels) % pixels for k in range(16)], 0] = 0
    _, mean, invstd = F.batch_norm(x, None, None, training=True, eps=0, return_saved=True)
    exact = x.astype(float)
    assert_allclose(mean, exact.mean(0), rtol=1e-7)
    assert_allclose(invstd, 1 / exact.std(0), rtol=1e-6)


@every_order
@every_dtype
def test_a_constant_channel_becomes_the_bias(dtype, order):
    x = in_order(np.broadcast_to(np.array([0.1, -7.3, 1e-8], dtype)[:, None, None], (5, 3, 7, 9)), order)
    bias = normal(3, dtype)
    y = F.batch_norm(x, None, None, None, bias, True)
    assert_array_equal(y, np.broadcast_to(bias[:, None, None], x.shape))


@every_order
@every_dtype
def test_what_is_not_finite_stays_in_its_channel(dtype, order):
    x = in_order(normal((6, 5, 7, 3), dtype), order)
    clean = F.batch_norm(x, None, None, training=True)
    broken = x.copy(order="K")
    broken[2, 1, 3, 1] = math.nan
    broken[0, 3, 0, 0] = math.inf  # the first pixel is one of the sample
    broken[4, 4, 6, 2] = -math.inf
    running_mean, running_var = np.zeros(5, dtype), np.ones(5, dtype)
    y, mean, invstd = F.batch_norm(broken, running_mean, running_var, training=True, return_saved=True)
    assert np.isnan(y[:, [1, 3, 4]]).all()
    assert_array_equal(y[:, [0, 2]], clean[:, [0, 2]])
    assert_array_equal(mean[[1, 3, 4]], [math.nan, math.inf, -math.inf])
    assert_array_equal(running_mean[[1, 3, 4]], [math.nan, math.inf, -math.inf])
    grads = F.batch_norm_backward(x, broken, None, mean, invstd)
    assert np.isnan(grads[0][:, [1, 3, 4]]).all()
    assert np.isfinite(grads[0][:, [0, 2]]).all()
    assert np.isnan(grads[1][[1, 3, 4]]).all()
    assert np.isfinite(grads[2]).all()


def test_evaluation_passes_gradients_whatever_the_input():
    x = np.array([[math.inf], [math.nan], [1.0]])
    dy = np.array([[1.0], [2.0], [3.0]])
    dx, _, db = F.batch_norm_backward(dy, x, np.array([2.0]), np.zeros(1), np.ones(1), training=False)
    assert_array_equal(dx, 2 * dy)
    assert_array_equal(db, [6.0])


@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS[:-1])
@pytest.mark.parametrize("size", [(6, 5), (4, 5, 6), (3, 5, 4, 2)])
def test_layouts(size, layout, dtype):
    plain, plain_dy = normal(size, dtype), normal(size, dtype, 1)
    x, dy = laid_out(plain, layout), laid_out(plain_dy, layout)
    vectors = [normal(5, dtype, seed) for seed in (2, 3)]
    weight, bias = (laid_out(vector, "reversed" if layout == "gaps" else layout) for vector in vectors)
    y, mean, invstd = F.batch_norm(x, None, None, weight, bias, True, return_saved=True)
    assert y.dtype == dtype
    assert y.dtype.isnative
    expected = F.batch_norm(plain, None, None, *vectors, True)
    grads = F.batch_norm_backward(dy, x, weight, mean, invstd)
    expected_grads = F.batch_norm_backward(plain_dy, plain, vectors[0], mean, invstd)
    # The order of memory is the order of the sums, and so may change a last bit.
    close(y, expected)
    for got, want in zip(grads, expected_grads, strict=True):
        close(got, want, 16)
    if layout in ("contiguous", "channels-last", "read-only") and (len(size), layout) != (2, "channels-last"):
        assert same_order(y, x)
        assert same_order(grads[0], x)
    mixed = F.batch_norm_backward(plain_dy, x, weight, mean, invstd)
    for got, want in zip(mixed, grads, strict=True):
        assert_array_equal(got, want)


def test_running_statistics_are_updated_in_place_whatever_their_layout():
    x = normal((8, 4, 3, 3), np.float32) * 2 + 1
    mean, var = x.mean((0, 2, 3), dtype=float), x.var((0, 2, 3), ddof=1, dtype=float)
    for layout in ("contiguous", "gaps", "byte-swapped", "unaligned"):
        running_mean, running_var = (laid_out(np.full(4, v, np.float32), layout) for v in (3, 5))
        F.batch_norm(x, running_mean, running_var, training=True, momentum=0.25)
        assert_allclose(running_mean.astype(float), 0.75 * 3 + 0.25 * mean, rtol=1e-6)
        assert_allclose(running_var.astype(float), 0.75 * 5 + 0.25 * var, rtol=1e-6)


@pytest.mark.parametrize("size", [(0, 3), (0, 3, 4), (0, 3, 4, 4), (4, 3, 0, 4)])
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch(size, training):
    x, running_mean, running_var = np.zeros(size, np.float32), np.full(3, 2, np.float32), np.full(3, 3, np.float32)
    y, mean, invstd = F.batch_norm(x, running_mean, running_var, training=training, return_saved=True)
    assert y.shape == size
    assert_array_equal(running_mean, [2, 2, 2])
    assert_array_equal(running_var, [3, 3, 3])
    dx, dw, db = F.batch_norm_backward(x, x, None, mean, invstd, training)
    assert dx.shape == size
    assert_array_equal(dw, np.zeros(3, np.float32))
    assert_array_equal(db, np.zeros(3, np.float32))


def test_concurrent_callers(threads):
    threads(2)
    x, dy = channels_last(normal((16, 20, 25, 25), np.float32)), normal((16, 20, 25, 25), np.float32, 1)

    def call():
        running = np.zeros(20, np.float32), np.ones(20, np.float32)
        y, mean, invstd = F.batch_norm(x, *running, training=True, return_saved=True)
        return (*running, y, *F.batch_norm_backward(dy, x, None, mean, invstd))

    concurrent_callers_agree(call)


@given(order=orders, size=st.tuples(st.integers(2, 4), *[st.integers(1, 4)] * 3))
def test_the_gradient_of_a_constant_is_zero(order, size):
    """Adding a constant to a channel, or scaling it, changes nothing: so the gradient is orthogonal to both."""
    x, dy = in_order(normal(size), order), in_order(normal(size, seed=1), order)
    _, mean, invstd = F.batch_norm(x, None, None, training=True, eps=0, return_saved=True)
    dx = F.batch_norm_backward(dy, x, None, mean, invstd)[0] / invstd[:, None, None]
    assert_allclose(dx.sum((0, 2, 3)), 0, atol=1e-9)
    assert_allclose((dx * x).sum((0, 2, 3)) * invstd, 0, atol=1e-7)


X = np.zeros((4, 3, 2, 2), np.float32)
V = np.ones(3, np.float32)
READ_ONLY = V.copy()
READ_ONLY.flags.writeable = False
F32 = "a NumPy array of float32 or float64"
BAD = [
    ((None, V, V), {}, TypeError, f"input: expected {F32}, got None"),
    (([1.0], V, V), {}, TypeError, f"input: expected {F32}, got list"),
    ((X.astype(int), V, V), {}, TypeError, "input: expected an array of float32 or float64, got int64"),
    ((X[0, 0, 0], V, V), {}, ValueError, "input: expected 2-D or 3-D or 4-D array, got shape (2,)"),
    ((X[:, :0], V, V), {}, ValueError, "input: expected at least one channel, got shape (4, 0, 2, 2)"),
    ((X, V.astype(float), V), {}, TypeError, "running_mean: expected float32 as input, got float64"),
    ((X, V[:2], V), {}, ValueError, "running_mean: expected shape (3,), got (2,)"),
    ((X, V, X), {}, ValueError, "running_var: expected shape (3,), got (4, 3, 2, 2)"),
    ((X, V, V, V[:1]), {}, ValueError, "weight: expected shape (3,), got (1,)"),
    ((X, V, V, V, V[:1]), {}, ValueError, "bias: expected shape (3,), got (1,)"),
    ((X, V, V, 1.0), {}, TypeError, f"weight: expected {F32}, got float"),
    ((X, V, V), {"training": 1}, TypeError, "training: expected a bool, got 1"),
    ((X, V, V), {"momentum": None}, TypeError, "momentum: expected a finite number, got None"),
    ((X, V, V), {"momentum": math.nan}, ValueError, "momentum: expected a finite number, got nan"),
    ((X, V, V), {"eps": -1e-5}, ValueError, "eps: expected a finite number of at least 0, got -1e-05"),
    ((X, V, V), {"eps": "small"}, TypeError, "eps: expected a finite number of at least 0, got 'small'"),
    ((X, None, None), {}, ValueError, "running_mean: expected an array, as training is False, got None"),
    (
        (X, None, V),
        {"training": True},
        ValueError,
        "running_mean: expected an array, as the other running statistic is given, got None",
    ),
    ((X, V, None), {}, ValueError, "running_var: expected an array, as the other running statistic is given, got None"),
    (
        (X[:1, :, :1, :1], V, V),
        {"training": True},
        ValueError,
        "input: expected more than one value per channel when training, got shape (1, 3, 1, 1)",
    ),
    (
        (X, V, READ_ONLY),
        {"training": True},
        ValueError,
        "running_var: expected a writable array when training, got a read-only one",
    ),
]


@pytest.mark.parametrize(("arguments", "keywords", "error", "message"), BAD)
def test_wrong_arguments(arguments, keywords, error, message):
    before = V.copy()
    with pytest.raises(error) as raised:
        F.batch_norm(*arguments, **keywords)
    assert str(raised.value) == message
    assert_array_equal(V, before)


BAD_BACKWARD = [
    ((None, X, V, V, V), TypeError, f"grad_output: expected {F32}, got None"),
    ((X, None, V, V, V), TypeError, f"input: expected {F32}, got None"),
    ((X, X, V, None, V), TypeError, f"mean: expected {F32}, got None"),
    ((X, X, V, V, None), TypeError, f"invstd: expected {F32}, got None"),
    ((X[:1], X, V, V, V), ValueError, "grad_output: expected shape (4, 3, 2, 2), got (1, 3, 2, 2)"),
    ((X.astype(float), X, V, V, V), TypeError, "grad_output: expected float32 as input, got float64"),
    ((X, X, V[:1], V, V), ValueError, "weight: expected shape (3,), got (1,)"),
    ((X, X, V, V[:1], V), ValueError, "mean: expected shape (3,), got (1,)"),
    ((X, X, V, V, V[:1]), ValueError, "invstd: expected shape (3,), got (1,)"),
    ((X, X, V, V, V, None), TypeError, "training: expected a bool, got None"),
    ((V, V, V, V, V), ValueError, "input: expected 2-D or 3-D or 4-D array, got shape (3,)"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_BACKWARD)
def test_wrong_arguments_backward(arguments, error, message):
    with pytest.raises(error) as raised:
        F.batch_norm_backward(*arguments)
    assert str(raised.value) == message
