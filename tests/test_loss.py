"""Softmax, cross-entropy and squared error: against the reference and finite differences; threads, layouts, errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import (
    LAYOUTS,
    arrays,
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
from windows import channels_last

from fastcnn import functional as F
from fastcnn import reference

every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_softmax = pytest.mark.parametrize("name", ["softmax", "log_softmax"])
reductions = st.sampled_from(["mean", "sum", "none"])
NAN, INF = math.nan, math.inf


# --- softmax --------------------------------------------------------------------------------------------------------


@every_softmax
@given(data=st.data(), x=arrays(least_dims=1, largest=20))
def test_softmax_against_reference(name, data, x):
    dim = data.draw(st.integers(-x.ndim, x.ndim - 1))
    y = getattr(F, name)(x, dim)
    assert y.shape == x.shape
    dy = normal(x.shape, x.dtype, 1)
    dx = getattr(F, f"{name}_backward")(dy, y, dim)
    assert dx.shape == x.shape
    if x.size:
        close(y, getattr(reference, name)(x, dim), 16)
        close(dx, getattr(reference, f"{name}_backward")(dy, y, dim), 32, floor=1)


@every_softmax
@every_dtype
@pytest.mark.parametrize("size", [(700, 10), (3, 16), (5, 17), (40, 1000), (2, 50_001), (1, 1), (70_000, 1)])
def test_softmax_rows(name, size, dtype, threads):
    x, dy = 3 * normal(size, dtype), normal(size, dtype, 1)

    def call():
        y = getattr(F, name)(x)
        return y, getattr(F, f"{name}_backward")(dy, y)

    y, dx = each_thread_count_agrees(threads, call)
    close(y, getattr(reference, name)(x.astype(float)).astype(dtype))
    expected = getattr(reference, f"{name}_backward")(dy.astype(float), y.astype(float)).astype(dtype)
    close(dx, expected, 8, floor=math.sqrt(size[1]))
    concurrent_callers_agree(call, repeats=2)


@every_softmax
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_softmax_layouts(name, layout, dim, dtype):
    x, dy = (laid_out(normal((3, 4, 5, 6), dtype, seed), layout) for seed in (0, 1))
    plain_x, plain_dy = (np.array(array, dtype, order="C") for array in (x, dy))
    y = getattr(F, name)(x, dim)
    assert_array_equal(y, getattr(F, name)(plain_x, dim))
    dx = getattr(F, f"{name}_backward")(dy, y, dim)
    assert_array_equal(dx, getattr(F, f"{name}_backward")(plain_dy, y.copy(order="C"), dim))
    if layout in ("contiguous", "channels-last", "read-only", "byte-swapped", "unaligned"):
        assert same_order(y, x)
        assert same_order(dx, x)


@every_softmax
def test_softmax_finite_differences(name):
    x, weights = 2 * normal((2, 5, 3)), normal((2, 5, 3), seed=1)
    dx = getattr(F, f"{name}_backward")(weights, getattr(F, name)(x, 1), 1)
    assert_allclose(dx, difference(lambda v: float((getattr(F, name)(v, 1) * weights).sum()), x), atol=1e-8)


@every_dtype
def test_softmax_special_values(dtype):
    x = np.array([[1e4, 0, -1e4], [-INF, 0, 0], [NAN, 0, 1], [INF, 0, 1], [-INF, -INF, -INF]], dtype)
    undefined = [NAN, NAN, NAN]
    expected = np.array([[1, 0, 0], [0, 0.5, 0.5], undefined, undefined, undefined], dtype)
    assert_array_equal(F.softmax(x), expected)
    half = math.log(0.5)
    expected = np.array([[0, -1e4, -2e4], [-INF, half, half], undefined, undefined, undefined], dtype)
    assert_allclose(F.log_softmax(x), expected, rtol=1e-6)
    wide = np.zeros((1, 100), dtype)
    wide[0, 77] = NAN
    assert np.isnan(F.softmax(wide)).all()


@every_softmax
def test_softmax_of_a_number_and_of_nothing(name):
    number = np.array(3.0)
    y = getattr(F, name)(number)
    assert y.shape == ()
    assert y == (1 if name == "softmax" else 0)
    assert getattr(F, f"{name}_backward")(number, y) == 0
    for size in ((0, 3), (3, 0), (2, 0, 3)):
        for dim in range(len(size)):
            empty = np.zeros(size, np.float32)
            assert getattr(F, name)(empty, dim).shape == size
            assert getattr(F, f"{name}_backward")(empty, empty, dim).shape == size


# --- cross-entropy --------------------------------------------------------------------------------------------------


@st.composite
def classifications(draw):
    """(input, target, weight, reduction, label_smoothing)."""
    dtype, classes = draw(dtypes), draw(st.sampled_from([1, 2, 3, 10, 16, 33, 100]))
    shape = (draw(st.integers(0, 9)), *draw(st.lists(st.integers(0, 5), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = 3 * rng.standard_normal((shape[0], classes, *shape[1:]))
    target = rng.integers(0, classes, shape)
    if draw(st.booleans()):
        target[rng.random(shape) < 0.4] = -100
    kinds = [np.int64, np.int32, np.int16, np.int8]
    weight = rng.uniform(0, 2, classes).astype(dtype) if draw(st.booleans()) else None
    smoothing = draw(st.sampled_from([0.0, 0.1, 1.0]))
    x = laid_out(x.astype(dtype), draw(layouts))
    return x, target.astype(draw(st.sampled_from(kinds))), weight, draw(reductions), smoothing


@given(problem=classifications())
def test_cross_entropy_against_reference(problem):
    x, target, weight, reduction, smoothing = problem
    before = x.copy(), target.copy()
    loss, grad = F.cross_entropy(x, target, weight, reduction=reduction, label_smoothing=smoothing)
    wide = None if weight is None else weight.astype(float)
    expected = reference.cross_entropy(
        x.astype(float), target.astype(int), wide, reduction=reduction, label_smoothing=smoothing
    )
    if reduction == "none":
        close(loss, expected[0].astype(x.dtype), 8, floor=1)
    else:
        assert type(loss) is float
        assert_allclose(loss, expected[0], rtol=1e-5 if x.dtype == np.float32 else 1e-13, atol=1e-12)
    close(grad, expected[1].astype(x.dtype), 16, floor=1 if reduction != "mean" else 1 / max(target.size, 1))
    assert_array_equal(x, before[0])
    assert_array_equal(target, before[1])


@pytest.mark.parametrize("size", [(6, 4), (2, 3, 4), (2, 4, 3, 2)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [True, False])
def test_cross_entropy_finite_differences(size, smoothing, reduction, weighted, rng):
    x = normal(size)
    target = rng.integers(0, size[1], (size[0], *size[2:]))
    target.flat[1] = -7
    weight = rng.uniform(0.5, 2, size[1]) if weighted else None

    def loss(v):
        return F.cross_entropy(v, target, weight, -7, reduction, smoothing)[0]

    _, grad = F.cross_entropy(x, target, weight, -7, reduction, smoothing)
    assert_allclose(grad, difference(loss, x), atol=1e-8)


def test_cross_entropy_known_values():
    x = np.log(np.array([[0.2, 0.8], [0.5, 0.5]]))
    loss, grad = F.cross_entropy(x, np.array([1, 0]))
    assert loss == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)
    assert_allclose(grad, np.array([[0.2, -0.2], [-0.5, 0.5]]) / 2)
    loss, grad = F.cross_entropy(x, np.array([1, 0]), np.array([3.0, 1.0]))
    assert loss == pytest.approx(-(math.log(0.8) + 3 * math.log(0.5)) / 4)
    loss, _ = F.cross_entropy(x, np.array([1, 0]), reduction="none", label_smoothing=0.5)
    assert_allclose(loss, [-0.75 * math.log(0.8) - 0.25 * math.log(0.2), -math.log(0.5)])


def test_cross_entropy_of_one_sample_without_a_batch():
    loss, grad = F.cross_entropy(np.array([0.0, 0.0]), np.array(1))
    assert loss == pytest.approx(math.log(2))
    assert_allclose(grad, [0.5, -0.5])
    loss, grad = F.cross_entropy(np.array([0.0, 0.0]), np.array(1), reduction="none")
    assert loss.shape == ()


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])
def test_cross_entropy_takes_every_integer_type(kind):
    x, target = normal((4, 3, 5)), np.random.default_rng(0).integers(0, 3, (4, 5))
    loss, grad = F.cross_entropy(x, target)
    loss_of_kind, grad_of_kind = F.cross_entropy(x, target.astype(kind))
    assert loss_of_kind == loss
    assert_array_equal(grad_of_kind, grad)
    loss, grad = F.cross_entropy(x, np.where(target == 1, -100, target))
    loss_of_kind, grad_of_kind = F.cross_entropy(x, target.astype(kind), ignore_index=1)
    assert loss_of_kind == loss
    assert_array_equal(grad_of_kind, grad)


@every_dtype
def test_cross_entropy_of_large_scores(dtype):
    x = np.array([[1e4, 0, -1e4], [1e4, 0, -1e4], [1e4 + 1, 1e4, 1e4]], dtype)
    loss, grad = F.cross_entropy(x, np.array([0, 2, 0]), reduction="none")
    assert_allclose(loss, [0, 2e4, math.log(1 + 2 / math.e)], rtol=1e-6)
    assert_allclose(grad[:2], [[0, 0, 0], [1, 0, -1]])
    loss, _ = F.cross_entropy(x[:1], np.array([0]), label_smoothing=0.3)
    assert loss == pytest.approx(3e3)


@pytest.mark.parametrize("classes", [2, 15, 16, 17, 35])
@every_dtype
def test_a_large_score_at_any_place(classes, dtype):
    """The maximum is found at every index of a row: exponentials of the other elements do not overflow."""
    x = np.eye(classes, dtype=dtype) * dtype(1e5)
    places = np.arange(classes)
    assert_array_equal(F.softmax(x), np.eye(classes))
    assert_array_equal(F.log_softmax(x), (np.eye(classes) - 1) * 1e5)
    loss, grad = F.cross_entropy(x, places)
    assert loss == 0
    assert not grad.any()


@every_dtype
def test_cross_entropy_of_what_is_not_finite(dtype):
    x = np.array([[NAN, 0, 1], [INF, 0, 1], [-INF, 0, 0], [-INF, 0, 0], [0, 0, NAN]], dtype)
    target = np.array([1, 1, 0, 1, -100])
    loss, grad = F.cross_entropy(x, target, reduction="none")
    assert_allclose(loss, [NAN, NAN, INF, math.log(2), 0], rtol=1e-6)
    undefined = [NAN, NAN, NAN]
    assert_allclose(grad, [undefined, undefined, [-1, 0.5, 0.5], [0, -0.5, 0.5], [0, 0, 0]])
    loss, _ = F.cross_entropy(x[3:], target[3:])
    assert loss == pytest.approx(math.log(2))
    loss, _ = F.cross_entropy(x, target, reduction="sum")
    assert math.isnan(loss)
    loss, _ = F.cross_entropy(x[2:4], target[2:4], label_smoothing=0.1)
    assert loss == INF


def test_cross_entropy_of_no_targets():
    for x, target in ((np.zeros((0, 3)), np.zeros(0, int)), (np.ones((2, 3)), np.full(2, -100))):
        for weight in (None, np.ones(3)):
            loss, grad = F.cross_entropy(x, target, weight)
            assert math.isnan(loss)
            assert_array_equal(grad, np.zeros_like(x))
            loss, grad = F.cross_entropy(x, target, weight, reduction="sum")
            assert loss == 0
            loss, grad = F.cross_entropy(x, target, weight, reduction="none")
            assert_array_equal(loss, np.zeros(len(x)))
    loss, grad = F.cross_entropy(np.zeros((1, 2)), np.array([0]), np.array([0.0, 1.0]))  # weights that add up to 0
    assert math.isnan(loss)
    assert np.isnan(grad).all()


@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_cross_entropy_layouts(layout, reduction, dtype):
    x = laid_out(normal((3, 4, 5, 6), dtype), layout)
    plain = np.array(x, dtype, order="C")
    target = np.random.default_rng(0).integers(0, 4, (3, 5, 6))
    weight = np.array([1, 2, 0.5, 3], dtype)
    other_weight = laid_out(weight, "reversed" if layout == "broadcast" else layout)
    loss, grad = F.cross_entropy(x, np.asfortranarray(target), other_weight, reduction=reduction)
    expected_loss, expected_grad = F.cross_entropy(plain, target, weight, reduction=reduction)
    assert_array_equal(grad, expected_grad)
    # The order of memory is the order of the sum over the losses, and so may change a last bit.
    assert_allclose(loss, expected_loss, rtol=0 if reduction == "none" else 1e-14)
    if layout in ("contiguous", "channels-last", "read-only", "byte-swapped", "unaligned"):
        assert same_order(grad, x)


@every_dtype
@pytest.mark.parametrize("size", [(5000, 10), (300, 1000), (3, 40_000)])
def test_cross_entropy_threads(size, dtype, threads, rng):
    x, target = normal(size, dtype), rng.integers(0, size[1], size[0])
    weight = rng.uniform(0.5, 2, size[1]).astype(dtype)

    def call():
        return F.cross_entropy(x, target, weight, label_smoothing=0.1)

    loss, grad = each_thread_count_agrees(threads, call)
    expected = reference.cross_entropy(x.astype(float), target, weight.astype(float), label_smoothing=0.1)
    assert loss == pytest.approx(expected[0], rel=1e-6)
    close(grad, expected[1].astype(dtype), 8)
    threads(2)
    concurrent_callers_agree(call, repeats=2)


# --- squared error --------------------------------------------------------------------------------------------------


@given(x=arrays(), reduction=reductions, layout=layouts)
def test_mse_against_reference(x, reduction, layout):
    target = laid_out(normal(x.shape, x.dtype, 1), layout)
    loss, grad = F.mse_loss(x, target, reduction)
    expected = reference.mse_loss(x.astype(float), target.astype(float), reduction)
    if reduction == "none":
        close(loss, np.asarray(expected[0], x.dtype))
    else:
        assert type(loss) is float
        assert_allclose(loss, expected[0], rtol=1e-6 if x.dtype == np.float32 else 1e-13)
    close(grad, np.asarray(expected[1], x.dtype))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mse_finite_differences(reduction):
    x, target = normal((3, 4)), normal((3, 4), seed=1)
    _, grad = F.mse_loss(x, target, reduction)
    assert_allclose(grad, difference(lambda v: F.mse_loss(v, target, reduction)[0], x), atol=1e-8)


def test_mse_special_values():
    loss, grad = F.mse_loss(np.zeros((0, 3)), np.zeros((0, 3)))
    assert math.isnan(loss)
    assert grad.shape == (0, 3)
    assert F.mse_loss(np.zeros(0), np.zeros(0), "sum")[0] == 0
    loss, grad = F.mse_loss(np.array([NAN, INF, 1.0]), np.zeros(3), "none")
    assert_array_equal(loss, [NAN, INF, 1])
    assert_array_equal(grad, [NAN, INF, 2])


@every_dtype
def test_mse_threads_and_layouts(dtype, threads):
    x, target = channels_last(normal((9, 17, 31, 30), dtype)), normal((9, 17, 31, 30), dtype, 1)

    def call():
        return F.mse_loss(x, target)

    loss, grad = each_thread_count_agrees(threads, call)
    assert same_order(grad, x)
    expected = reference.mse_loss(x.astype(float), target.astype(float))
    assert loss == pytest.approx(expected[0], rel=1e-6)
    close(grad, expected[1].astype(dtype))
    threads(2)
    concurrent_callers_agree(call)


# --- wrong arguments ------------------------------------------------------------------------------------------------

X = np.zeros((2, 3), np.float32)
T = np.array([0, 1])
F32 = "a NumPy array of float32 or float64"
CLASSES = "target: expected class numbers from 0 to 2, or ignore_index -100, got"
BAD = [
    (F.softmax, ([1.0],), TypeError, f"input: expected {F32}, got list"),
    (F.softmax, (None,), TypeError, f"input: expected {F32}, got None"),
    (F.softmax, (X, 2), ValueError, "dim: expected an int from -2 to 1, got 2"),
    (F.softmax, (X, -3), ValueError, "dim: expected an int from -2 to 1, got -3"),
    (F.log_softmax, (X, 1.0), TypeError, "dim: expected an int, got 1.0"),
    (F.log_softmax, (X, None), TypeError, "dim: expected an int, got None"),
    (F.softmax_backward, (X, X[:1]), ValueError, "grad_output: expected shape (1, 3), got (2, 3)"),
    (F.softmax_backward, (X, X, 7), ValueError, "dim: expected an int from -2 to 1, got 7"),
    (F.log_softmax_backward, (X.astype(float), X), TypeError, "grad_output: expected float32 as output, got float64"),
    (F.log_softmax_backward, (X, None), TypeError, f"output: expected {F32}, got None"),
    (F.cross_entropy, (None, T), TypeError, f"input: expected {F32}, got None"),
    (F.cross_entropy, (T, T), TypeError, "input: expected an array of float32 or float64, got int64"),
    (
        F.cross_entropy,
        (np.array(1.0), T),
        ValueError,
        "input: expected shape (N, C), (N, C, d1, ...) or (C,), got shape ()",
    ),
    (F.cross_entropy, (X[:, :0], T), ValueError, "input: expected at least one class, got shape (2, 0)"),
    (F.cross_entropy, (X, [0, 1]), TypeError, "target: expected an array of integers, got list"),
    (F.cross_entropy, (X, T.astype(float)), TypeError, "target: expected an array of integers, got float64"),
    (F.cross_entropy, (X, T > 0), TypeError, "target: expected an array of integers, got bool"),
    (F.cross_entropy, (X, T[:1]), ValueError, "target: expected shape (2,), got (1,)"),
    (F.cross_entropy, (X, T[None]), ValueError, "target: expected shape (2,), got (1, 2)"),
    (F.cross_entropy, (X, np.array([0, 3])), ValueError, f"{CLASSES} 3 at position (1,)"),
    (F.cross_entropy, (X, np.array([-1, 7])), ValueError, f"{CLASSES} -1 at position (0,)"),
    (F.cross_entropy, (X, np.array([-100, 200], np.int16)), ValueError, f"{CLASSES} 200 at position (1,)"),
    (
        F.cross_entropy,
        (X, np.array([1, 2**64 - 100], np.uint64)),
        ValueError,
        f"{CLASSES} {2**64 - 100} at position (1,)",
    ),
    (
        F.cross_entropy,
        (np.zeros((1, 3, 2, 2)), np.array([[[0, 1], [5, 2]]])),
        ValueError,
        f"{CLASSES} 5 at position (0, 1, 0)",
    ),
    (F.cross_entropy, (X[0], np.array(4)), ValueError, f"{CLASSES} 4 at position ()"),
    (F.cross_entropy, (X, T, X[0, :2]), ValueError, "weight: expected shape (3,), got (2,)"),
    (F.cross_entropy, (X, T, np.ones(3)), TypeError, "weight: expected float32 as input, got float64"),
    (F.cross_entropy, (X, T, [1, 1, 1]), TypeError, f"weight: expected {F32}, got list"),
    (F.cross_entropy, (X, T, None, None), TypeError, "ignore_index: expected an int of 64 bits, got None"),
    (F.cross_entropy, (X, T, None, 2**63), ValueError, f"ignore_index: expected an int of 64 bits, got {2**63}"),
    (F.cross_entropy, (X, T, None, -1, "avg"), ValueError, "reduction: expected 'mean', 'sum' or 'none', got 'avg'"),
    (F.cross_entropy, (X, T, None, -1, None), ValueError, "reduction: expected 'mean', 'sum' or 'none', got None"),
    (
        F.cross_entropy,
        (X, T, None, -1, "sum", 1.5),
        ValueError,
        "label_smoothing: expected a number from 0 to 1, got 1.5",
    ),
    (F.mse_loss, (X, None), TypeError, f"target: expected {F32}, got None"),
    (F.mse_loss, (X, X[:1]), ValueError, "target: expected shape (2, 3), got (1, 3)"),
    (F.mse_loss, (X, X.astype(float)), TypeError, "target: expected float32 as input, got float64"),
    (F.mse_loss, (X, X, "max"), ValueError, "reduction: expected 'mean', 'sum' or 'none', got 'max'"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), BAD)
def test_wrong_arguments(function, arguments, error, message):
    with pytest.raises(error) as raised:
        function(*arguments)
    assert str(raised.value) == message
