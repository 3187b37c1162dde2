"""Functions that go together: against the reference and one after another, finite differences, threads, errors."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from layouts import LAYOUTS, arrays, difference, each_thread_count_agrees, laid_out, normal, same_order
from numpy.testing import assert_allclose, assert_array_equal
from windows import convolutions, in_order

import fastcnn
from fastcnn import functional as F
from fastcnn import reference
from fastcnn.functional import fused
from fastcnn.functional._calls import Call, remembered
from fastcnn.kernels import isa


@pytest.fixture
def kernels(monkeypatch):
    """The names of the kernels that fused functions call, which remember nothing from before."""
    names = []

    def call(kernel, *arguments, **options):
        names.append(kernel)
        return Call(kernel, *arguments, **options)

    for function in ("_conv_pool", "_conv_pool_backward"):
        monkeypatch.setattr(fused, function, remembered(getattr(fused, function).check))
    monkeypatch.setattr(fused, "Call", call)
    return names


every_order = pytest.mark.parametrize("order", ["NCHW", "NHWC"])


def vectors(channels, dtype):
    return [normal(channels, dtype, seed) for seed in (5, 6, 7)]


@given(problem=convolutions(), relu=st.booleans(), part=st.sampled_from([1, 3000, 2**20]))
def test_norm_conv2d_against_reference(problem, relu, part):
    x, weight, bias, geometry, dtype = problem
    before, fused.PART = fused.PART, part
    try:
        columns = vectors(x.shape[1], dtype)
        y = F.norm_conv2d(x, *columns, weight, bias, **geometry, relu=relu)
        dy = normal(y.shape, dtype, 8)
        got = y, *F.norm_conv2d_backward(dy, x, *columns, weight, **geometry, relu=relu)
    finally:
        fused.PART = before
    expected = (
        reference.norm_conv2d(x, *columns, weight, bias, **geometry, relu=relu),
        *reference.norm_conv2d_backward(dy, x, *columns, weight, **geometry, relu=relu),
    )
    assert min(y.shape) == 1 or same_order(y, x)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == dtype
        largest = np.abs(other).max(initial=1)
        assert_allclose(one / largest, other / largest, atol=1e-4 if dtype == np.float32 else 1e-12)


@every_order
@pytest.mark.parametrize("part", [20_000, 2**20])
def test_norm_conv2d_and_threads(order, part, threads, monkeypatch):
    monkeypatch.setattr(fused, "PART", part)
    x, weight, columns = in_order(normal((13, 16, 9, 11), np.float32), order), normal((24, 16, 3, 3)), vectors(16, "f")
    weight = weight.astype(np.float32)

    def call():
        y = F.norm_conv2d(x, *columns, weight, padding=1, relu=True)
        return y, *F.norm_conv2d_backward(y, x, *columns, weight, padding=1, relu=True)

    each_thread_count_agrees(threads, call)


READ_NORMED = {
    "overhanging": ((5, 32, 13, 10), (40, 32, 3, 3), {"padding": 1}),
    "channels in chunks": ((6, 200, 9, 7), (72, 200, 3, 3), {"padding": 1}),
    "groups, wide": ((2, 48, 6, 90), (60, 16, 3, 3), {"padding": 2, "groups": 3}),
    "no padding": ((4, 20, 18, 22), (33, 20, 3, 3), {}),
}


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", READ_NORMED)
def test_norm_conv2d_to_the_bit(shape, relu, dtype, precision, threads, monkeypatch):
    """Where Winograd's algorithm does the batch norm in what it reads: all images at once, the padding not normed."""
    if isa.has_matrix_unit():
        pytest.skip("the matrix unit does these")

    def agree(one, other, value):
        if value == 0:
            assert_array_equal(one, other)
        else:  # by the direct sums, and in parts
            assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other[np.isfinite(other)]).max())

    size, kernel, options = READ_NORMED[shape]
    monkeypatch.setattr(fused, "PART", 10_000)
    x, weight = in_order(normal(size, dtype), "NHWC"), normal(kernel, dtype, 1)
    columns, bias = vectors(size[1], dtype), normal(kernel[:1], dtype, 2)
    fastcnn.set_float32_matmul_precision(precision)
    try:
        for value in (0, math.inf, math.nan):
            x[0, 0, 1, 1] += dtype(value)
            with np.errstate(invalid="ignore"):
                made = F.batch_norm_apply(x, *columns, relu=relu)
            y = F.conv2d(made, weight, bias, **options)
            got = each_thread_count_agrees(
                threads, lambda: F.norm_conv2d(x, *columns, weight, bias, **options, relu=relu)
            )
            agree(got, y, value)
            dy = np.where(np.isfinite(y), y, 0)
            expected = F.conv2d_backward(dy, made, weight, **options)
            got = each_thread_count_agrees(
                threads, lambda dy=dy: F.norm_conv2d_backward(dy, x, *columns, weight, **options, relu=relu)
            )
            for one, other in zip(got, expected, strict=True):
                agree(one, other, value)
            for needs in [(True, False, False), (False, False, True), (False, True, False)]:
                some = F.norm_conv2d_backward(dy, x, *columns, weight, **options, relu=relu, needs=needs)
                for one, other, needed in zip(some, got, needs, strict=True):
                    assert_array_equal(one, other if needed else None)
    finally:
        fastcnn.set_float32_matmul_precision("highest")


# Of parts that one thread does each, with 20_000 bytes a part; others otherwise.
APART = {
    "depthwise": ((85, 4, 9, 7), (4, 1, 3, 3), {"padding": 1, "groups": 4}),
    "depthwise, stride 2": ((85, 4, 9, 7), (8, 1, 3, 3), {"padding": 1, "groups": 4, "stride": 2}),
    "1x1": ((85, 4, 9, 7), (5, 4, 1, 1), {}),
    "no images": ((0, 4, 9, 7), (5, 4, 1, 1), {}),
}


@every_order
@pytest.mark.parametrize("part", [20_000, fused.PART])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [*APART, *READ_NORMED])
def test_norm_conv2d_and_the_sums_of_batch_norm(shape, relu, dtype, part, order, threads, monkeypatch):
    """They are to the bit those that batch norm takes itself, and so is all but what is summed over parts."""
    size, kernel, options = (APART | READ_NORMED)[shape]
    x, weight = in_order(normal(size, dtype), order), normal(kernel, dtype, 1)
    columns, bias = vectors(size[1], dtype), normal(kernel[:1], dtype, 2)
    monkeypatch.setattr(fused, "PART", part)
    mean, scale, shift = columns

    def call():
        y, statistics = F.norm_conv2d(x, *columns, weight, bias, **options, relu=relu, statistics=True)
        return y, statistics, *F.norm_conv2d_backward(y, x, *columns, weight, **options, relu=relu, sums=True)

    y, statistics, *grads, sums = each_thread_count_agrees(threads, call)
    made = F.batch_norm_apply(x, *columns, relu=relu)
    assert_array_equal(y, F.conv2d(made, weight, bias, **options))
    expected = F.conv2d_backward(y, made, weight, **options)
    assert_array_equal(grads[0], expected[0])
    for got, want in zip(grads, expected, strict=True):
        assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max(initial=1))
    got, want = (F.batch_norm_factors(y, None, None, training=True, statistics=s) for s in (statistics, None))
    for one, other in zip(got, want, strict=True):
        assert_array_equal(one, other)
    mask = (scale, shift) if relu else None
    got, want = (F.batch_norm_backward(grads[0], x, None, mean, scale, relu=mask, sums=s) for s in (sums, None))
    for one, other in zip(got, want, strict=True):
        assert_array_equal(one, other)
    if not x.size:
        return
    _, statistics_twin = reference.norm_conv2d(x, *columns, weight, bias, **options, relu=relu, statistics=True)
    assert_allclose(statistics, statistics_twin, rtol=1e-4, atol=1e-4)
    *_, sums_twin = reference.norm_conv2d_backward(y, x, *columns, weight, **options, relu=relu, sums=True)
    assert_allclose(sums, sums_twin, rtol=1e-4, atol=1e-4 * np.abs(sums_twin).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiles_across_the_seams_of_parts_that_are_larger(dtype, threads, monkeypatch):
    """Parts of one thread that hold whole tiles of batch norm, so that a tile lies across one seam alone."""
    x, weight = in_order(normal((33, 64, 20, 20), dtype), "NHWC"), normal((64, 1, 3, 3), dtype, 1)
    mean, scale, shift = columns = vectors(64, dtype)
    monkeypatch.setattr(fused, "PART", 8 * x[0].nbytes)
    options = {"padding": 1, "groups": 64, "relu": True}

    def call():
        y, statistics = F.norm_conv2d(x, *columns, weight, **options, statistics=True)
        dx, _, _, sums = F.norm_conv2d_backward(y, x, *columns, weight, **options, sums=True)
        return y, statistics, dx, sums

    y, statistics, dx, sums = each_thread_count_agrees(threads, call)
    expected = F.batch_norm_factors(y, None, None, training=True)
    assert_array_equal(F.batch_norm_factors(y, None, None, training=True, statistics=statistics), expected)
    got, want = (F.batch_norm_backward(dx, x, None, mean, scale, relu=(scale, shift), sums=s) for s in (sums, None))
    for one, other in zip(got, want, strict=True):
        assert_array_equal(one, other)


def test_norm_conv2d_without_the_gradient_of_the_input(monkeypatch):
    monkeypatch.setattr(fused, "PART", 20_000)
    size, kernel, options = APART["depthwise"]
    x, weight, columns = in_order(normal(size), "NHWC"), normal(kernel, seed=1), vectors(size[1], "d")
    y = F.norm_conv2d(x, *columns, weight, **options)
    every = F.norm_conv2d_backward(y, x, *columns, weight, **options)
    for needs in [(False, True, True), (True, False, False), (False, False, True), (False, False, False)]:
        some = F.norm_conv2d_backward(y, x, *columns, weight, **options, needs=needs)
        for one, other, needed in zip(some, every, needs, strict=True):
            assert_array_equal(one, other if needed else None)


def test_norm_conv2d_finite_differences(monkeypatch):
    monkeypatch.setattr(fused, "PART", 100)
    x, weight, columns = normal((3, 2, 4, 3)), normal((3, 2, 2, 2), seed=1), vectors(2, "d")
    bias = normal(3, seed=2)
    dy = normal((3, 3, 3, 2), seed=3)

    def loss(made, weight, bias):
        return float((F.conv2d(made, weight, bias) * dy).sum())

    made = F.batch_norm_apply(x, *columns, relu=True)
    dx, dw, db = F.norm_conv2d_backward(dy, x, *columns, weight, relu=True)
    assert_allclose(F.norm_conv2d(x, *columns, weight, bias, relu=True), F.conv2d(made, weight, bias), atol=1e-12)
    assert_allclose(dx, difference(lambda v: loss(v, weight, bias), made), atol=1e-7)
    assert_allclose(dw, difference(lambda v: loss(made, v, bias), weight), atol=1e-7)
    assert_allclose(db, difference(lambda v: loss(made, weight, v), bias), atol=1e-7)


@pytest.mark.parametrize("part", [1, 2**20])
def test_norm_conv2d_gradients_that_are_not_needed(part, monkeypatch):
    monkeypatch.setattr(fused, "PART", part)
    x, weight, columns = normal((3, 2, 4, 3)), normal((3, 2, 2, 2), seed=1), vectors(2, "d")
    dy = normal((3, 3, 3, 2), seed=3)
    every = F.norm_conv2d_backward(dy, x, *columns, weight)
    for needs in [(True, False, True), (False, True, False), (False, False, False)]:
        some = F.norm_conv2d_backward(dy, x, *columns, weight, needs=needs)
        for one, other, needed in zip(some, every, needs, strict=True):
            assert (one is not None) == needed
            if needed:
                assert_array_equal(one, other)


def test_parts_of_every_other_image(monkeypatch):
    """Each of them alone is in another order than all of them."""
    monkeypatch.setattr(fused, "PART", 1)
    x, weight, columns = in_order(normal((6, 3, 5, 4)), "NHWC")[::2], normal((2, 3, 2, 2)), vectors(3, "d")
    y = F.norm_conv2d(x, *columns, weight)
    assert_allclose(y, reference.norm_conv2d(x, *columns, weight), atol=1e-12)
    for got, expected in zip(
        F.norm_conv2d_backward(y, x, *columns, weight),
        reference.norm_conv2d_backward(y, x, *columns, weight),
        strict=True,
    ):
        assert_allclose(got, expected, atol=1e-11)
    pooled, taps = F.conv2d_max_pool(x, weight, pool=(2,))
    assert_array_equal(taps, reference.conv2d_max_pool(x, weight, pool=(2,))[1])
    for got, expected in zip(
        F.conv2d_max_pool_backward(pooled, taps, x, weight, pool=(2,)),
        reference.conv2d_max_pool_backward(pooled, taps, x, weight, pool=(2,)),
        strict=True,
    ):
        assert_allclose(got, expected, atol=1e-12)


def test_a_wrong_tap_of_a_later_part_changes_nothing(kernels, monkeypatch):
    monkeypatch.setattr(fused, "PART", 1)
    x, weight = in_order(normal((3, 2, 5, 4)), "NHWC"), normal((2, 2, 2, 2))
    pooled, taps = F.conv2d_max_pool(x, weight, pool=(2, 1))
    taps[2, 0, 0, 0] = 9
    out = np.zeros_like(x), np.zeros_like(weight), np.zeros(2)
    with pytest.raises(ValueError, match=r"^taps: "):
        F.conv2d_max_pool_backward(pooled, taps, x, weight, pool=(2, 1), out=out)
    assert kernels == ["conv_pool", "conv_pool_backward"]  # the one that has parts
    assert not any(array.any() for array in out)


@given(
    problem=convolutions(),
    pool=st.sampled_from([(1,), (2,), (3, 2, 1), ((2, 1), 1, (1, 0), 1, True), ([1, 2], [2, 1])]),
    relu=st.booleans(),
    part=st.sampled_from([1, 3000, 2**20]),
)
def test_conv2d_max_pool_against_reference(problem, pool, relu, part):
    x, weight, bias, geometry, dtype = problem
    conv = F.conv2d(x, weight, bias, **geometry)
    kernel = pool[0] if isinstance(pool[0], (tuple, list)) else (pool[0],) * 2
    assume(all(size >= k for size, k in zip(conv.shape[2:], kernel, strict=True)))
    before, fused.PART = fused.PART, part
    try:
        y, taps = F.conv2d_max_pool(x, weight, bias, **geometry, pool=pool, relu=relu)
        alone, none = F.conv2d_max_pool(x, weight, bias, **geometry, pool=pool, relu=relu, taps=False)
        dy = normal(y.shape, dtype, 8)
        got = F.conv2d_max_pool_backward(dy, taps, x, weight, **geometry, pool=pool, relu=relu)
    finally:
        fused.PART = before
    assert none is None
    assert alone.tobytes() == y.tobytes()
    maxima, winners = F.max_pool2d_taps(conv, *pool, relu=relu)
    assert_array_equal(taps, winners)
    assert_array_equal(y, maxima)
    assert min(y.shape) == 1 or same_order(y, x)
    expected = reference.conv2d_max_pool_backward(dy, taps, x, weight, **geometry, pool=pool, relu=relu)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == dtype
        largest = np.abs(other).max(initial=1)
        assert_allclose(one / largest, other / largest, atol=1e-4 if dtype == np.float32 else 1e-12)


WINNERS = {  # shapes of input and weight, convolution, pool
    "woven rows": ((5, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}, (2,)),
    "woven rows of little": ((3, 1, 7, 6), (3, 1, 3, 2), {"stride": (1, 2)}, ((2, 2),)),
    "few channels": ((35, 6, 14, 14), (16, 6, 5, 5), {}, (2,)),
    "a window of seven": ((3, 3, 15, 13), (17, 3, 7, 7), {"padding": (1, 3), "stride": 2}, (2,)),
    "pixels without a window": ((4, 2, 11, 12), (5, 2, 2, 2), {"stride": 3, "padding": (0, 1)}, (2,)),
    "three columns of taps": ((1, 4, 12, 13), (8, 4, 3, 3), {"padding": 1}, ((2, 3),)),
    "a window of one": ((5, 3, 9, 8), (11, 3, 1, 1), {}, (2,)),
}


@every_order
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", WINNERS)
def test_conv2d_max_pool_gradients_from_the_winners(name, relu, dtype, order, threads, kernels):
    shape, weight_shape, geometry, pool = WINNERS[name]
    x, weight = in_order(normal(shape, dtype), order), normal(weight_shape, dtype, 1)
    y, taps = F.conv2d_max_pool(x, weight, **geometry, pool=pool, relu=relu)
    dy = in_order(normal(y.shape, dtype, 2), order)
    got = each_thread_count_agrees(
        threads, lambda: F.conv2d_max_pool_backward(dy, taps, x, weight, **geometry, pool=pool, relu=relu)
    )
    assert kernels == ["conv_pool", "winners_backward"]
    expected = reference.conv2d_max_pool_backward(dy, taps, x, weight, **geometry, pool=pool, relu=relu)
    for one, other in zip(got, expected, strict=True):
        largest = np.abs(other).max()
        assert_allclose(one / largest, other / largest, atol=2e-6 if dtype == np.float32 else 1e-14)
    assert same_order(got[0], x)
    taps.flat[-1] = 4 if pool == (2,) else 6 if pool[0] == (2, 3) else 9
    with pytest.raises(ValueError, match=r"^taps: expected taps inside the input"):
        F.conv2d_max_pool_backward(dy, taps, x, weight, **geometry, pool=pool, relu=relu)


@every_order
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("shape", "weight_shape", "dtype"),
    [((21, 1, 28, 28), (6, 1, 5, 5), np.float32), ((40, 3, 24, 24), (24, 3, 3, 3), np.float64)],
    ids=["a part a thread", "parts of all threads"],
)
def test_conv2d_max_pool_in_parts(shape, weight_shape, dtype, relu, order, threads):
    x, weight = in_order(normal(shape, dtype), order), normal(weight_shape, dtype, 1)
    bias = normal(weight_shape[0], dtype, 2)
    got = each_thread_count_agrees(threads, lambda: F.conv2d_max_pool(x, weight, bias, padding=1, pool=(2,), relu=relu))
    expected = F.max_pool2d_taps(F.conv2d(x, weight, bias, padding=1), 2, relu=relu)
    for one, other in zip(got, expected, strict=True):
        assert_array_equal(one, other)
    options = {"padding": 1, "pool": (2,), "relu": relu, "taps": False}
    (alone,) = each_thread_count_agrees(threads, lambda: F.conv2d_max_pool(x, weight, bias, **options)[:1])
    assert_array_equal(alone, expected[0])


@every_order
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pool", [(2, 1), (17, 3)], ids=["taps of a byte", "taps of four"])
def test_conv2d_max_pool_gradients_are_sums_of_parts(pool, dtype, order, threads, kernels, monkeypatch):
    """To the bit, and the parts are as even as can be."""
    x, weight = in_order(normal((7, 3, 24, 23), dtype), order), normal((6, 3, 3, 2), dtype, 1)
    y, taps = F.conv2d_max_pool(x, weight, padding=1, pool=pool, relu=True)
    size = (6, 24, 24)
    monkeypatch.setattr(fused, "PART", 7 * math.prod(size) * x.itemsize // 3)  # a third
    expected = None
    for part in (slice(0, 2), slice(2, 4), slice(4, 7)):
        dy = F.max_pool2d_taps_backward(y[part], taps[part], (len(y[part]), *size), *pool, relu=True)
        one = F.conv2d_backward(dy, x[part], weight, padding=1)
        if expected:
            one = np.concatenate((expected[0], one[0])), expected[1] + one[1], expected[2] + one[2]
        expected = one
    for needs in [(True, True, True), (True, False, False), (False, False, True)]:
        got = each_thread_count_agrees(
            threads,
            lambda needs=needs: F.conv2d_max_pool_backward(
                y, taps, x, weight, padding=1, pool=pool, relu=True, needs=needs
            ),
        )
        for one, other, needed in zip(got, expected, needs, strict=True):
            assert_array_equal(one, other if needed else None)
    assert set(kernels) == {"conv_pool", "conv_pool_backward"}


def test_lists_and_tuples_take_the_same_way():
    """Of a batch of several parts, which is cut into them where the places that won alone are not enough."""
    x, weight = normal((400, 6, 14, 14), np.float32), normal((16, 6, 5, 5), np.float32, 1)
    y, taps = F.conv2d_max_pool(x, weight, pool=(2,))
    expected = F.conv2d_max_pool_backward(y, taps, x, weight, pool=(2,))
    for options in ({"pool": [[2, 2]]}, {"pool": (2,), "stride": [1, 1]}):
        got = F.conv2d_max_pool_backward(y, taps, x, weight, **options)
        for one, other in zip(got, expected, strict=True):
            assert_array_equal(one, other)


def test_a_gradient_that_is_infinite_stays_under_its_window():
    x, weight = in_order(normal((3, 6, 14, 14), np.float32), "NHWC"), normal((16, 6, 5, 5), np.float32, 1)
    y, taps = F.conv2d_max_pool(x, weight, pool=(2,))
    dy = normal(y.shape, np.float32, 2)
    dx, _, db = F.conv2d_max_pool_backward(dy, taps, x, weight, pool=(2,))
    dy[1, 9, 2, 3], taps[1, 9, 2, 3] = np.inf, 2
    got = F.conv2d_max_pool_backward(dy, taps, x, weight, pool=(2,))
    hit = np.zeros(dx.shape, bool)
    hit[1, :, 5:10, 6:11] = True
    assert np.array_equal(np.isinf(got[0]), hit)
    assert np.isfinite(got[0][~hit]).all()
    assert_allclose(got[0][0], dx[0], atol=1e-5)
    assert got[2][9] == np.inf
    assert_allclose(np.delete(got[2], 9), np.delete(db, 9), rtol=1e-6)


@pytest.mark.parametrize("pool", [(2,), (2, 1)])
@pytest.mark.parametrize("part", [1, 2000, 2**20])
def test_conv2d_max_pool_into_arrays_that_are_given(pool, part, threads, kernels, monkeypatch):
    monkeypatch.setattr(fused, "PART", part)
    x, weight = in_order(normal((7, 2, 9, 8), np.float32), "NHWC"), normal((6, 2, 3, 3), np.float32)
    y, taps = F.conv2d_max_pool(x, weight, pool=pool, relu=True)
    calls = {}
    for needs in [(True, True, True), (False, True, False), (True, False, True)]:
        out = tuple(
            np.full_like(a, np.nan) if n else None for a, n in zip((x, weight, weight[:, 0, 0, 0]), needs, strict=True)
        )
        got = F.conv2d_max_pool_backward(y, taps, x, weight, pool=pool, relu=True, needs=needs, out=out)
        assert all(a is b for a, b in zip(got, out, strict=True))
        for name, one in enumerate(got):
            if one is not None:
                assert_array_equal(one, calls.setdefault(name, one))
    each_thread_count_agrees(threads, lambda: F.conv2d_max_pool_backward(y, taps, x, weight, pool=pool, relu=True))
    assert set(kernels) == {"conv_pool", "winners_backward" if pool == (2,) else "conv_pool_backward"}
    three = F.conv2d_max_pool(x[0], weight, pool=pool, relu=True)
    assert_array_equal(three[0], y[0])
    dx = F.conv2d_max_pool_backward(three[0], three[1], x[0], weight, pool=pool, relu=True)[0]
    assert_allclose(dx, calls[0][0], atol=1e-5)


@given(problem=convolutions(), relu=st.booleans(), residual=st.booleans())
def test_conv2d_norm_against_reference(problem, relu, residual):
    x, weight, bias, geometry, dtype = problem
    columns = vectors(weight.shape[0], dtype)
    made = F.conv2d(x, weight, bias, **geometry)
    options = {"relu": relu, "residual": normal(made.shape, dtype, 8) if residual else None}
    got = F.conv2d_norm(x, weight, bias, *columns, **geometry, **options)
    expected = reference.conv2d_norm(x, weight, bias, *columns, **geometry, **options)
    assert got.dtype == dtype
    assert min(got.shape) == 1 or same_order(got, x)
    largest = np.abs(expected).max(initial=1)
    assert_allclose(got / largest, expected / largest, atol=1e-4 if dtype == np.float32 else 1e-12)
    assert_array_equal(got, F.batch_norm_apply(made, *columns, **options))


# Input, weight and options of every way to do a convolution: direct sums (of several chunks, of parts of the panels),
# Winograd's, long rows of pixels, groups, depthwise, few outputs.
WAYS = {
    "direct": ((3, 16, 11, 9), (16, 16, 3, 3), {"padding": 1}),
    "of several chunks": ((2, 200, 7, 9), (40, 200, 3, 3), {"stride": 2, "padding": 1}),
    "in parts": ((1, 32, 3, 3), (200, 32, 2, 2), {}),
    "winograd": ((5, 32, 13, 10), (40, 32, 3, 3), {"padding": 1}),
    "pixels": ((4, 24, 6, 7), (36, 24, 1, 1), {}),
    "groups": ((3, 12, 9, 8), (30, 4, 3, 3), {"groups": 3}),
    "depthwise": ((3, 40, 9, 8), (40, 1, 3, 3), {"groups": 40, "stride": 2}),
    "depthwise of several chunks": ((1, 600, 6, 7), (600, 1, 3, 3), {"groups": 600, "padding": 1}),
    "wide": ((1, 16, 3, 300), (20, 16, 2, 3), {"padding": 1}),
    "few outputs": ((3, 5, 12, 33), (3, 5, 3, 3), {"padding": 2}),
}


@every_order
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("way", WAYS)
def test_conv2d_norm_to_the_bit(way, dtype, order, threads):
    """Also of what is not finite, which Winograd's way leaves to the direct sums: nothing is added twice."""
    size, kernel, options = WAYS[way]
    x, weight = in_order(normal(size, dtype), order), normal(kernel, dtype, 1)
    columns, bias = vectors(kernel[0], dtype), normal(kernel[:1], dtype, 2)
    for value in (0, math.inf, math.nan, -math.inf):
        x[0, 0, 1, 1] += dtype(value)
        with np.errstate(invalid="ignore"):
            made = F.conv2d(x, weight, bias, **options)
            residual = in_order(normal(made.shape, dtype, 3), order)
            for given in ({"relu": True, "residual": residual}, {"residual": residual}, {"relu": True}, {}):
                got = each_thread_count_agrees(
                    threads, lambda given=given: F.conv2d_norm(x, weight, bias, *columns, **options, **given)
                )
                assert_array_equal(got, F.batch_norm_apply(made, *columns, **given))


@given(x=arrays(scale=1e3), layout=st.sampled_from(LAYOUTS[:5]))
def test_add(x, layout):
    other = laid_out(normal(x.shape, x.dtype, 9), layout)
    total = F.add(x, other)
    assert_array_equal(total, reference.add(x, other))
    assert total.dtype == x.dtype
    if layout == "contiguous":
        out = x.copy()
        assert F.add(out, other, out=out) is out
        assert_array_equal(out, total)
        assert F.add(x, other, out=other) is other
        assert_array_equal(other, total)


def test_add_and_threads(threads):
    x, other = normal((9, 50, 200), np.float32), normal((9, 50, 200), np.float32, 1)
    x[0, 0, :3], other[0, 0, :3] = (math.inf, math.nan, math.inf), (-math.inf, 1, 1)
    with np.errstate(invalid="ignore"):
        assert_array_equal(each_thread_count_agrees(threads, lambda: F.add(x, other)), x + other)


X, W, V = np.zeros((4, 3, 5, 5), np.float32), np.zeros((2, 3, 2, 2), np.float32), np.ones(3, np.float32)
DY = np.zeros((4, 2, 4, 4), np.float32)
TAPS = np.zeros((4, 2, 2, 2), np.uint8)
F32 = "a NumPy array of float32 or float64"


def pool_backward(dy, taps, **options):
    return F.conv2d_max_pool_backward(dy, taps, X, W, pool=(2,), **options)


BAD = [
    (lambda: F.add(X, X[:1]), ValueError, "other: expected shape (4, 3, 5, 5), got (1, 3, 5, 5)"),
    (lambda: pool_backward(DY[0, :, :2, :2], TAPS[0]), ValueError,
     "grad_output: expected 4-D array, got shape (2, 2, 2)"),
    (lambda: F.add(X, None), TypeError, f"other: expected {F32}, got None"),
    (lambda: F.add(X, X.astype(float)), TypeError, "other: expected float32 as input, got float64"),
    (lambda: F.add(X, X, out=X[:]), ValueError, "out: expected memory apart from input, got an array that overlaps it"),
    (lambda: F.norm_conv2d(X[0], V, V, V, W), ValueError, "input: expected 4-D array, got shape (3, 5, 5)"),
    (lambda: F.norm_conv2d(X, V[:1], V, V, W), ValueError, "mean: expected shape (3,), got (1,)"),
    (lambda: F.norm_conv2d(X, V, V, V, W[:, :2]), ValueError,
     "input: expected 2 (of weight) * 1 (groups) channels, got shape (4, 3, 5, 5)"),
    (lambda: F.norm_conv2d(X, V, V, V, None), TypeError, f"weight: expected {F32}, got None"),
    (lambda: F.norm_conv2d(X, V, V, V, W, relu=0), TypeError, "relu: expected a bool, got 0"),
    (lambda: F.norm_conv2d(X, V, V, V, W, statistics=1), TypeError, "statistics: expected a bool, got 1"),
    (lambda: F.norm_conv2d_backward(DY, X, V, V, V, W, sums=1), TypeError, "sums: expected a bool, got 1"),
    (lambda: F.norm_conv2d_backward(DY, X, V, V, V, W, sums=True, needs=(False, True, True)), ValueError,
     "sums: expected False, as the gradient that they are of is not needed, got True"),
    (lambda: F.conv2d_norm(X[0], W, None, V[:2], V[:2], V[:2]), ValueError,
     "input: expected 4-D array, got shape (3, 5, 5)"),
    (lambda: F.conv2d_norm(X, W[0], None, V[:2], V[:2], V[:2]), ValueError,
     "weight: expected 4-D array, got shape (3, 2, 2)"),
    (lambda: F.conv2d_norm(X, W, V, V[:2], V[:2], V[:2]), ValueError, "bias: expected shape (2,), got (3,)"),
    (lambda: F.conv2d_norm(X, W, None, V, V[:2], V[:2]), ValueError, "mean: expected shape (2,), got (3,)"),
    (lambda: F.conv2d_norm(X, W, None, V[:2], None, V[:2]), TypeError, f"scale: expected {F32}, got None"),
    (lambda: F.conv2d_norm(X, W, None, V[:2], V[:2], V[:2].astype(float)), TypeError,
     "shift: expected float32 as input, got float64"),
    (lambda: F.conv2d_norm(X, W, None, V[:2], V[:2], V[:2], residual=DY[:1]), ValueError,
     "residual: expected shape (4, 2, 4, 4), got (1, 2, 4, 4)"),
    (lambda: F.conv2d_norm(X, W, None, V[:2], V[:2], V[:2], residual=DY.astype(float)), TypeError,
     "residual: expected float32 as input, got float64"),
    (lambda: F.conv2d_norm(X, W, None, V[:2], V[:2], V[:2], relu=0), TypeError, "relu: expected a bool, got 0"),
    (lambda: F.norm_conv2d_backward(DY, X, V, V, V, W, relu=0), TypeError, "relu: expected a bool, got 0"),
    (lambda: F.norm_conv2d_backward(DY[:3], X, V, V, V, W), ValueError,
     "grad_output: expected shape (4, 2, 4, 4), got (3, 2, 4, 4)"),
    (lambda: F.norm_conv2d_backward(DY, X, V, V, V, W, needs=1), TypeError,
     "needs: expected three bools, for the gradients of input, weight and bias, got 1"),
    (lambda: F.conv2d_max_pool(X, W, pool=2), ValueError,
     "pool: expected a tuple of kernel_size, stride, padding, dilation, ceil_mode or the first of them, got 2"),
    (lambda: F.conv2d_max_pool(X, W, pool=(9,)), ValueError,
     "pool: kernel_size: expected a window that fits the input's (4, 4) with padding (0, 0), got (9, 9)"),
    (lambda: F.conv2d_max_pool(X, W[:, :2], pool=(2,)), ValueError,
     "input: expected 2 (of weight) * 1 (groups) channels, got shape (4, 3, 5, 5)"),
    (lambda: F.conv2d_max_pool(X[0, 0], W, pool=(2,)), ValueError,
     "input: expected 4-D or 3-D array, got shape (5, 5)"),
    (lambda: F.conv2d_max_pool(X, W, [1, "1"], pool=(2,)), TypeError, f"bias: expected {F32}, got list"),
    (lambda: F.conv2d_max_pool(X, W, stride=(1, []), pool=(2,)), TypeError, "stride: expected a positive int, got []"),
    (lambda: F.conv2d_max_pool(X, W, pool=(2,), relu=0), TypeError, "relu: expected a bool, got 0"),
    (lambda: pool_backward(DY, TAPS), ValueError, "grad_output: expected shape (4, 2, 2, 2), got (4, 2, 4, 4)"),
    (lambda: pool_backward(DY[:3, :, :2, :2], TAPS), ValueError,
     "grad_output: expected shape (4, 2, 2, 2), got (3, 2, 2, 2)"),
    (lambda: pool_backward(DY[:, :, :2, :2], None), TypeError,
     "taps: expected a NumPy array of uint8, got NoneType"),
    (lambda: pool_backward(DY[:, :, :2, :2], TAPS[:3]), ValueError,
     "taps: expected shape (4, 2, 2, 2), got (3, 2, 2, 2)"),
    (lambda: pool_backward(DY[:, :, :2, :2], TAPS + 4), ValueError,
     "taps: expected taps inside the input, of windows of 4, got one that is not, among values from 4 to 4"),
    (lambda: pool_backward(DY[:, :, :2, :2], TAPS, out=(X[:], None, None)), ValueError,
     "out: expected memory apart from input, got an array that overlaps it"),
    (lambda: pool_backward(DY[:, :, :2, :2], TAPS, out=(None, W[:1].copy(), None)), ValueError,
     "out: expected shape (2, 3, 2, 2), got (1, 3, 2, 2)"),
]  # fmt: skip


@pytest.mark.parametrize("part", [1, 2**20])
@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_wrong_arguments(call, error, message, part, monkeypatch):
    monkeypatch.setattr(fused, "PART", part)
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert str(raised.value) == message
