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


@every_dtype
def test_statistics_that_are_given_take_the_place_of_the_batchs(dtype):
    x, statistics = normal((6, 3, 4, 5), dtype), np.array([[1.0, -2, 0], [4, 1, 0.25]])
    running_mean, running_var = np.zeros(3, dtype), np.ones(3, dtype)
    for twin in (F, reference):
        moved = running_mean.copy(), running_var.copy()
        mean, invstd, scale, shift = twin.batch_norm_factors(x, *moved, training=True, eps=0, statistics=statistics)
        assert_array_equal(mean, statistics[0])
        assert_array_equal(invstd, [0.5, 1, 2])
        assert_array_equal(scale, invstd)
        assert_array_equal(shift, np.zeros(3))
        assert_allclose(moved[0], 0.1 * statistics[0], rtol=1e-6)
        assert_allclose(moved[1], 0.9 + 0.1 * statistics[1] * 120 / 119, rtol=1e-6)
        # In evaluation they are not looked at.
        assert_array_equal(
            twin.batch_norm_factors(x, *moved, statistics=statistics), twin.batch_norm_factors(x, *moved)
        )


@every_dtype
def test_a_tile_far_from_the_others_costs_no_accuracy(dtype):
    """Each block of the statistics has a mean of its own."""
    x = normal((4000, 24), dtype) + np.arange(4000, dtype=dtype)[:, None] // 500 * 1000
    _, mean, invstd = F.batch_norm(x, None, None, training=True, eps=0, return_saved=True)
    exact = x.astype(np.longdouble)
    eps = np.finfo(dtype).eps
    assert_allclose(mean, exact.mean(0).astype(float), rtol=2 * eps)
    assert_allclose(invstd, (1 / exact.std(0)).astype(float), rtol=20 * eps)


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


# --- batch norm together with ReLU and a residual ---------------------------------------------------------------------


def bits(*arrays):
    return [np.ascontiguousarray(array).tobytes() for array in arrays]


def one_by_one(x, dy, running, weight, bias, training, residual, relu):
    """What the functions return one after another: output and gradients of input, weight, bias and residual."""
    y, mean, invstd = F.batch_norm(x, *running, weight, bias, training, return_saved=True)
    if residual is not None:
        y = y + residual
    if relu:
        y = F.relu(y)
        dy = F.relu_backward(dy, y)
    return y, *F.batch_norm_backward(dy, x, weight, mean, invstd, training), dy


def in_one(x, dy, running, weight, bias, training, residual, relu, again=False):
    mean, invstd, scale, shift = F.batch_norm_factors(x, *running, weight, bias, training)
    y = F.batch_norm_apply(x, mean, scale, shift, residual=residual, relu=relu)
    mask = ((scale, shift) if again else y) if relu else None
    return y, *F.batch_norm_backward(dy, x, weight, mean, invstd, training, relu=mask, return_masked=True)


@given(problem=problems(), training=st.booleans(), relu=st.booleans(), added=st.booleans(), order=layouts)
def test_in_one_is_one_by_one_to_the_bit(problem, training, relu, added, order):
    x, running_mean, running_var, weight, bias, dy = problem
    if training and x.size // x.shape[1] == 1:
        return
    residual = laid_out(normal(x.shape, x.dtype), order) if added else None
    sides = []
    for function in (one_by_one, in_one):
        running = running_mean.copy(), running_var.copy()
        sides.append([*function(x, dy, running, weight, bias, training, residual, relu), *running])
    assert bits(*sides[0]) == bits(*sides[1])
    if relu and not added:
        running = running_mean.copy(), running_var.copy()
        again = in_one(x, dy, running, weight, bias, training, None, True, again=True)
        assert bits(*again) == bits(*sides[0][:5])


@given(problem=problems(), training=st.booleans(), added=st.booleans(), relu=st.booleans())
def test_factors_and_apply_against_reference(problem, training, added, relu):
    x, running_mean, running_var, weight, bias, _ = problem
    if training and x.size // x.shape[1] == 1:
        return
    residual = normal(x.shape, x.dtype) if added else None
    expected_running = double(running_mean, running_var)
    factors = F.batch_norm_factors(x, running_mean, running_var, weight, bias, training)
    expected = reference.batch_norm_factors(x.astype(float), *expected_running, *double(weight, bias), training)
    condition = max(1.0, float(np.abs(x).max(initial=0) * expected[1].max()))
    for got, want in zip(factors[:3], expected[:3], strict=True):
        close(got, want.astype(x.dtype), 30, floor=1)
    for got, want in zip((running_mean, running_var), expected_running, strict=True):
        close(got, want.astype(x.dtype), 30, floor=float(np.abs(x).max(initial=0)) ** 2 + 1)
    got = F.batch_norm_apply(x, factors[0], *factors[2:], residual=residual, relu=relu)
    wide = None if residual is None else residual.astype(float)
    want = reference.batch_norm_apply(x.astype(float), *double(factors[0], *factors[2:]), residual=wide, relu=relu)
    close(got, want.astype(x.dtype), 30, floor=condition * 3)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_masked_gradients_against_reference(training, again):
    x, dy, weight, bias = normal((5, 7, 4, 3)), normal((5, 7, 4, 3), seed=1), normal(7, seed=2), normal(7, seed=3)
    mean, invstd, scale, shift = reference.batch_norm_factors(x, np.zeros(7), np.ones(7), weight, bias, training)
    output = reference.batch_norm_apply(x, mean, scale, shift, relu=True)
    relu = (scale, shift) if again else output
    expected = reference.batch_norm_backward(dy, x, weight, mean, invstd, training, relu=relu, return_masked=True)
    got = F.batch_norm_backward(dy, x, weight, mean, invstd, training, relu=relu, return_masked=True)
    for one, other in zip(got, expected, strict=True):
        assert_allclose(one, other, atol=1e-13)


@every_order
@every_dtype
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("size", TILINGS)
def test_every_tiling_in_one(size, again, dtype, order, threads):
    x, dy, residual = (in_order(normal(size, dtype, seed), order) for seed in range(3))
    weight, bias = normal(size[1], dtype, 3), normal(size[1], dtype, 4)
    arguments = x, dy, (None, None), weight, bias, True, None if again else residual, True
    got = each_thread_count_agrees(threads, lambda: in_one(*arguments, again))
    assert same_order(got[0], x)
    assert same_order(got[1], x)
    assert bits(*got) == bits(*one_by_one(*arguments))


@every_order
@every_dtype
def test_what_is_not_finite_in_one(dtype, order):
    x, dy, residual = (in_order(normal((6, 5, 7, 3), dtype, seed), order) for seed in range(3))
    residual[:, 0, 2] = math.inf
    residual[:, 1, 1] = -math.inf
    residual[0, 2, 3, 0] = x[4, 3, 0, 0] = dy[1, 1, 0, 0] = math.nan
    dy[2, 4, 1, 1] = math.inf
    for training in (True, False):
        running = np.zeros(5, dtype), np.ones(5, dtype)
        for added, again in ((residual, False), (None, False), (None, True)):
            arguments = x, dy, running, None, None, training, added, True
            with np.errstate(invalid="ignore"):
                got, want = in_one(*arguments, again), one_by_one(*arguments)
            for one, other in zip(got, want, strict=True):
                assert_array_equal(one, other)


@every_order
@pytest.mark.parametrize("which", ["input", "grad_output", "other"])
@pytest.mark.parametrize("mask", ["none", "output", "factors"])
def test_the_gradient_may_take_the_place_of_what_it_is_from(which, mask, order):
    x, dy = in_order(normal((9, 20, 6, 7), np.float32), order), in_order(normal((9, 20, 6, 7), np.float32, 1), order)
    mean, invstd, scale, shift = F.batch_norm_factors(x, None, None, training=True)
    relu = {"none": None, "output": F.batch_norm_apply(x, mean, scale, shift, relu=True), "factors": (scale, shift)}
    expected = F.batch_norm_backward(dy, x, None, mean, invstd, relu=relu[mask])
    out = {"input": x, "grad_output": dy, "other": np.empty_like(x)}[which]
    got = F.batch_norm_backward(dy, x, None, mean, invstd, relu=relu[mask], out=out)
    assert got[0] is out
    assert bits(*got) == bits(*expected)


@pytest.mark.parametrize("which", ["input", "residual"])
def test_the_output_may_take_the_place_of_what_it_is_from(which):
    x, residual, vectors = normal((9, 20, 6, 7)), normal((9, 20, 6, 7), seed=1), [normal(20, seed=s) for s in (2, 3, 4)]
    expected = F.batch_norm_apply(x, *vectors, residual=residual, relu=True)
    out = {"input": x, "residual": residual}[which]
    assert F.batch_norm_apply(x, *vectors, residual=residual, relu=True, out=out) is out
    assert_array_equal(out, expected)


def test_finite_differences_of_a_residual_and_relu():
    x, residual, dy = normal((3, 2, 2, 3)), normal((3, 2, 2, 3), seed=7), normal((3, 2, 2, 3), seed=1)
    weight, bias = normal(2, seed=2), normal(2, seed=3)

    def loss(x, residual, weight, bias):
        mean, _, scale, shift = F.batch_norm_factors(x, None, None, weight, bias, True)
        return float((F.batch_norm_apply(x, mean, scale, shift, residual=residual, relu=True) * dy).sum())

    _, dx, dw, db, dr = in_one(x, dy, (None, None), weight, bias, True, residual, True)
    assert_allclose(dx, difference(lambda v: loss(v, residual, weight, bias), x), atol=1e-7)
    assert_allclose(dr, difference(lambda v: loss(x, v, weight, bias), residual), atol=1e-7)
    assert_allclose(dw, difference(lambda v: loss(x, residual, v, bias), weight), atol=1e-7)
    assert_allclose(db, difference(lambda v: loss(x, residual, weight, v), bias), atol=1e-7)


X = np.zeros((4, 3, 2, 2), np.float32)
V = np.ones(3, np.float32)
Y = X.copy()
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


BAD_IN_ONE = [
    (lambda: F.batch_norm_factors(X, None, None), ValueError,
     "running_mean: expected an array, as training is False, got None"),
    (lambda: F.batch_norm_factors(X, V, V, statistics=X[0]), TypeError,
     "statistics: expected an array of float64, got float32"),
    (lambda: F.batch_norm_factors(X, V, V, statistics=np.zeros((2, 4))), ValueError,
     "statistics: expected shape (2, 3), got (2, 4)"),
    (lambda: F.batch_norm_factors(X, V, V, statistics=[V, V]), TypeError,
     "statistics: expected a NumPy array of float64, got list"),
    (lambda: F.batch_norm_backward(X, X, V, V, V, sums=np.zeros(3)), ValueError,
     "sums: expected shape (2, 3), got (3,)"),
    (lambda: F.batch_norm_backward(X, X, V, V, V, sums=np.zeros((2, 3)), relu=X, return_masked=True), ValueError,
     "sums: expected None, as the masked gradient is written where they are taken, got an array"),
    (lambda: F.batch_norm_apply(None, V, V, V), TypeError, f"input: expected {F32}, got None"),
    (lambda: F.batch_norm_apply(X, V[:1], V, V), ValueError, "mean: expected shape (3,), got (1,)"),
    (lambda: F.batch_norm_apply(X, V, X, V), ValueError, "scale: expected shape (3,), got (4, 3, 2, 2)"),
    (lambda: F.batch_norm_apply(X, V, V, None), TypeError, f"shift: expected {F32}, got None"),
    (lambda: F.batch_norm_apply(X, V, V, V, relu=1), TypeError, "relu: expected a bool, got 1"),
    (lambda: F.batch_norm_apply(X, V, V, V, residual=X[:1]), ValueError,
     "residual: expected shape (4, 3, 2, 2), got (1, 3, 2, 2)"),
    (lambda: F.batch_norm_apply(X, V, V, V, residual=X.astype(float)), TypeError,
     "residual: expected float32 as input, got float64"),
    (lambda: F.batch_norm_apply(X, V, V, V, out=X[:]), ValueError,
     "out: expected memory apart from input, got an array that overlaps it"),
    (lambda: F.batch_norm_apply(X, V, V, V, out=X[:1]), ValueError,
     "out: expected shape (4, 3, 2, 2), got (1, 3, 2, 2)"),
    (lambda: F.batch_norm_backward(X, X, V, V, V, relu=X[:1]), ValueError,
     "relu: expected shape (4, 3, 2, 2), got (1, 3, 2, 2)"),
    (lambda: F.batch_norm_backward(X, X, V, V, V, relu=(V,)), ValueError,
     "relu: expected an array, or scale and shift, got 1 of them"),
    (lambda: F.batch_norm_backward(X, X, V, V, V, relu=(V, V[:1])), ValueError,
     "relu: shift: expected shape (3,), got (1,)"),
    (lambda: F.batch_norm_backward(X, X, V, V, V, return_masked=1), TypeError, "return_masked: expected a bool, got 1"),
    (lambda: F.batch_norm_backward(X, X, V, V, V, relu=X, out=X[:, :, ::-1]), ValueError,
     "out: expected memory apart from input, got an array that overlaps it"),
    (lambda: F.batch_norm_backward(X.copy(), X.copy(), V, V, V, relu=X, out=X), ValueError,
     "out: expected memory apart from relu, got an array that overlaps it"),
    (lambda: F.batch_norm_backward(X, X, V, Y.ravel()[:3], V, out=Y), ValueError,
     "out: expected memory apart from mean, got an array that overlaps it"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD_IN_ONE)
def test_wrong_arguments_in_one(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
