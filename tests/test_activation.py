"""Activations and dropout: against the reference, exact values and finite differences; threads, layouts, errors."""

import math
from fractions import Fraction

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
    normal,
    same_order,
)
from numpy.testing import assert_allclose, assert_array_equal
from windows import channels_last

import fastcnn
from fastcnn import functional as F
from fastcnn import reference

# name, further arguments, whether the backward function wants the output
ACTIVATIONS = [
    ("relu", (), True),
    ("leaky_relu", (0.2,), False),
    ("leaky_relu", (-0.5,), False),
    ("sigmoid", (), True),
    ("tanh", (), True),
    ("gelu", ("none",), False),
    ("gelu", ("tanh",), False),
    ("silu", (), False),
]
every_activation = pytest.mark.parametrize(("name", "arguments", "wants_output"), ACTIVATIONS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def forward(name, x, arguments=(), module=F):
    return getattr(module, name)(x, *arguments)


def backward(name, dy, saved, arguments=(), module=F):
    return getattr(module, f"{name}_backward")(dy, saved, *arguments)


@every_activation
@given(x=arrays(), seed=st.integers(0, 99))
def test_against_reference(name, arguments, wants_output, x, seed):
    before = x.copy()
    y = forward(name, x, arguments)
    close(y, np.asarray(forward(name, x, arguments, reference)), 8, floor=1)  # the reference cancels where it is small
    dy = normal(x.shape, x.dtype, seed)
    saved = y if wants_output else x
    close(
        backward(name, dy, saved, arguments), np.asarray(backward(name, dy, saved, arguments, reference)), 32, floor=1
    )
    assert_array_equal(x, before)


@every_activation
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name, arguments, wants_output, dtype, layout):
    x = laid_out(normal((3, 4, 5, 6), dtype), layout)
    dy = laid_out(normal((3, 4, 5, 6), dtype, 1), layout)
    plain_x, plain_dy = np.array(x, dtype, order="C"), np.array(dy, dtype, order="C")
    y = forward(name, x, arguments)
    assert y.dtype == dtype
    assert_array_equal(y, forward(name, plain_x, arguments))
    saved, plain_saved = (y, y.copy(order="C")) if wants_output else (x, plain_x)
    dx = backward(name, dy, saved, arguments)
    assert_array_equal(dx, backward(name, plain_dy, plain_saved, arguments))
    if layout in ("contiguous", "channels-last", "read-only", "byte-swapped", "unaligned"):
        assert same_order(y, x)
        assert same_order(dx, x)
    else:
        assert y.flags.c_contiguous
    mixed = backward(name, plain_dy, saved, arguments)
    assert_array_equal(mixed, dx)
    assert same_order(mixed, dx)


def test_any_dense_order_is_kept():
    x = normal((3, 4, 5)).transpose(2, 0, 1)
    y = F.relu(x)
    assert y.strides == x.strides
    assert F.relu_backward(x, y).strides == x.strides
    one_channel = channels_last(normal((2, 1, 3, 3)))
    assert F.relu(one_channel).strides == one_channel.strides


@every_activation
def test_finite_differences(name, arguments, wants_output):
    x = np.concatenate([np.linspace(-6, 6, 40) + 0.01, normal(30), [-40.0, 40.0]])
    weights = normal(x.shape, seed=1)
    y = forward(name, x, arguments)
    dx = backward(name, weights, y if wants_output else x, arguments)
    assert_allclose(dx, difference(lambda x: float((forward(name, x, arguments) * weights).sum()), x), atol=1e-8)


def exact_sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def exact_gelu(x):
    """With erfc's argument to twice double's digits: its rounding alone would be x^2 units of the result's."""
    exact = -Fraction(x) * Fraction("0.70710678118654752440084436210484903928")
    a = float(exact)
    return 0.5 * x * (math.erfc(a) - 2 / math.sqrt(math.pi) * math.exp(-a * a) * float(exact - Fraction(a)))


EXACT = {
    "sigmoid": (exact_sigmoid, 3.0, 80),
    "tanh": (math.tanh, 3.0, 12),
    "gelu": (exact_gelu, 5.5, 12),
    "silu": (lambda x: x * exact_sigmoid(x), 3.5, 80),
}


@pytest.mark.parametrize("name", EXACT)
@every_dtype
def test_accuracy(name, dtype, rng):
    """Units in the last place, also where the result is small, which the comparison with the reference leaves out."""
    function, limit, reach = EXACT[name]
    small = rng.standard_normal(2000) * 10.0 ** rng.uniform(-20, 0, 2000)
    x = np.concatenate([np.linspace(-reach, reach, 6001), 3 * rng.standard_normal(4000), small]).astype(dtype)
    exact = np.array([function(float(value)) for value in x])
    if dtype == np.float64:
        limit += 1.0  # the exact values are double too
    error = np.abs(forward(name, x).astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(dtype))
    assert error.max() <= limit


@every_dtype
def test_special_values(dtype):
    nan, inf = math.nan, math.inf
    x = np.array([nan, -inf, -1e30, -0.0, 0.0, 1e30, inf], dtype)
    huge = float(dtype(1e30))
    assert_array_equal(F.relu(x), np.array([nan, 0, 0, 0, 0, huge, inf], dtype))
    assert_array_equal(F.leaky_relu(x, 0.5), np.array([nan, -inf, -huge / 2, 0, 0, huge, inf], dtype))
    assert_array_equal(F.sigmoid(x), np.array([nan, 0, 0, 0.5, 0.5, 1, 1], dtype))
    assert_array_equal(F.tanh(x), np.array([nan, -1, -1, 0, 0, 1, 1], dtype))
    assert_array_equal(np.signbit(F.tanh(x[3:5])), [True, False])
    for approximate in ("none", "tanh"):
        assert_array_equal(F.gelu(x, approximate)[[0, 2, 3, 4, 5]], np.array([nan, 0, 0, 0, huge], dtype))
    assert_array_equal(F.silu(x)[[0, 2, 3, 4, 5]], np.array([nan, 0, 0, 0, huge], dtype))


@every_dtype
def test_special_values_backward(dtype):
    nan, inf = math.nan, math.inf
    x = np.array([nan, -inf, -1e30, 0.0, 1e30, inf], dtype)
    dy = np.full(6, 3, dtype)
    assert_array_equal(F.relu_backward(dy, F.relu(x)), np.array([3, 0, 0, 0, 3, 3], dtype))
    assert_array_equal(F.leaky_relu_backward(dy, x, 0.5), np.array([1.5, 1.5, 1.5, 1.5, 3, 3], dtype))
    assert_array_equal(F.sigmoid_backward(dy, F.sigmoid(x)), np.array([nan, 0, 0, 0.75, 0, 0], dtype))
    assert_array_equal(F.tanh_backward(dy, F.tanh(x)), np.array([nan, 0, 0, 3, 0, 0], dtype))
    for approximate in ("none", "tanh"):
        assert_allclose(F.gelu_backward(dy, x, approximate), [nan, 0, 0, 1.5, 3, 3], atol=1e-30)
    assert_allclose(F.silu_backward(dy, x), [nan, 0, 0, 1.5, 3, 3], atol=1e-30)
    dy[:] = nan
    assert_array_equal(F.relu_backward(dy, F.relu(x)), np.array([nan, 0, 0, 0, nan, nan], dtype))


@every_activation
@every_dtype
def test_threads_and_concurrent_callers(name, arguments, wants_output, dtype, threads):
    x, dy = normal(100_003, dtype), normal(100_003, dtype, 1)

    def call():
        y = forward(name, x, arguments)
        return y, backward(name, dy, y if wants_output else x, arguments)

    y, dx = each_thread_count_agrees(threads, call)
    close(y, forward(name, x, arguments, reference), 8)
    close(dx, backward(name, dy, y if wants_output else x, arguments, reference), 32)
    threads(2)
    concurrent_callers_agree(call)


X = np.zeros((2, 3), np.float32)
BAD_ACTIVATIONS = [
    (F.relu, ([1.0],), TypeError, "input: expected a NumPy array of float32 or float64, got list"),
    (F.relu, (None,), TypeError, "input: expected a NumPy array of float32 or float64, got None"),
    (F.silu, (np.zeros(3, np.int32),), TypeError, "input: expected an array of float32 or float64, got int32"),
    (F.tanh, (np.zeros(3, np.float16),), TypeError, "input: expected an array of float32 or float64, got float16"),
    (F.leaky_relu, (X, "0.1"), TypeError, "negative_slope: expected a finite number, got '0.1'"),
    (F.leaky_relu, (X, math.nan), ValueError, "negative_slope: expected a finite number, got nan"),
    (F.leaky_relu_backward, (X, X, math.inf), ValueError, "negative_slope: expected a finite number, got inf"),
    (F.gelu, (X, "erf"), ValueError, "approximate: expected 'none' or 'tanh', got 'erf'"),
    (F.gelu, (X, None), ValueError, "approximate: expected 'none' or 'tanh', got None"),
    (F.gelu_backward, (X, X, True), ValueError, "approximate: expected 'none' or 'tanh', got True"),
    (F.relu_backward, (X[:1], X), ValueError, r"grad_output: expected shape \(2, 3\), got \(1, 3\)"),
    (F.relu_backward, (X.astype(float), X), TypeError, "grad_output: expected float32 as output, got float64"),
    (F.silu_backward, (X.astype(float), X), TypeError, "grad_output: expected float32 as input, got float64"),
    (F.sigmoid_backward, (X, None), TypeError, "output: expected a NumPy array of float32 or float64, got None"),
    (F.dropout, (X, -0.1), ValueError, "p: expected a number from 0 to 1, got -0.1"),
    (F.dropout, (X, 1.5), ValueError, "p: expected a number from 0 to 1, got 1.5"),
    (F.dropout, (X, "half"), TypeError, "p: expected a number from 0 to 1, got 'half'"),
    (F.dropout, (X, 0.5, "yes"), TypeError, "training: expected a bool, got 'yes'"),
    (F.dropout, (1.0,), TypeError, "input: expected a NumPy array of float32 or float64, got float"),
    (F.dropout_backward, (X, X), TypeError, "mask: expected an array of uint8, or None, got float32"),
    (F.dropout_backward, (X, [1]), TypeError, "mask: expected an array of uint8, or None, got list"),
    (F.dropout_backward, (X, np.ones(3, np.uint8)), ValueError, r"mask: expected shape \(2, 3\), got \(3,\)"),
    (F.dropout_backward, (X, np.ones((2, 3), np.uint8), 2), ValueError, "p: expected a number from 0 to 1, got 2"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), BAD_ACTIVATIONS)
def test_wrong_arguments(function, arguments, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        function(*arguments)


# --- dropout --------------------------------------------------------------------------------------------------------


@given(x=arrays(most_dims=5), p=st.sampled_from([0.0, 0.1, 0.5, 0.999, 1.0]), seed=st.integers(0, 2**32))
def test_dropout_against_reference(x, p, seed):
    rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
    y, mask = F.dropout(x, p, rng=rng, return_mask=True)
    expected, expected_mask = reference.dropout(x, p, rng=again, return_mask=True)
    assert rng.bit_generator.state == again.bit_generator.state
    close(y, np.asarray(expected))
    assert mask.dtype == np.uint8
    assert_array_equal(mask, expected_mask)
    dy = normal(x.shape, x.dtype, seed)
    close(F.dropout_backward(dy, mask, p), np.asarray(reference.dropout_backward(dy, mask, p)))


@given(dtype=dtypes, shape=st.tuples(*[st.integers(1, 9)] * 4))
def test_dropout_is_the_same_in_both_memory_orders(dtype, shape):
    x = normal(shape, dtype)
    plain, mask = F.dropout(x, 0.4, rng=np.random.default_rng(1), return_mask=True)
    other, other_mask = F.dropout(channels_last(x), 0.4, rng=np.random.default_rng(1), return_mask=True)
    assert_array_equal(plain, other)
    assert_array_equal(mask, other_mask)
    assert same_order(other, channels_last(x))
    assert same_order(other_mask, channels_last(x))
    assert_array_equal(F.dropout_backward(x, mask, 0.4), F.dropout_backward(channels_last(x), other_mask, 0.4))


@pytest.mark.parametrize("order", ["contiguous", "channels-last"])
def test_dropout_threads(order, threads):
    x = laid_out(normal((5, 17, 30, 40), np.float32), order)

    def call():
        y, mask = F.dropout(x, 0.3, rng=np.random.default_rng(2), return_mask=True)
        return y, mask, F.dropout_backward(x, mask, 0.3)

    y, mask, dx = each_thread_count_agrees(threads, call)
    close(y, reference.dropout(x, 0.3, rng=np.random.default_rng(2)))
    assert_array_equal(y, dx)
    assert abs(mask.mean() - 0.7) < 0.01
    concurrent_callers_agree(call)


def test_dropout_extremes(rng):
    x = np.array([1.0, math.nan, math.inf, -2.0])
    assert_array_equal(F.dropout(x, 1.0, rng=rng), np.zeros(4))
    assert_array_equal(F.dropout(x, 0.0, rng=rng), x)
    ones = np.ones(4, np.uint8)
    assert_array_equal(F.dropout_backward(x, ones - 1, 1.0), np.zeros(4))
    assert_array_equal(F.dropout_backward(x, ones, 0.0), x)


def test_dropout_keeps_the_mean_and_differs_from_call_to_call(rng):
    x = np.ones(100_000)
    first, second = F.dropout(x, 0.25, rng=rng), F.dropout(x, 0.25, rng=rng)
    assert set(np.unique(first)) == {0.0, 1 / 0.75}
    assert abs(first.mean() - 1) < 0.01
    assert abs(((first > 0) & (second > 0)).mean() - 0.75**2) < 0.01


def test_dropout_draws_one_number_in_training_only(rng):
    twin = np.random.default_rng(0)
    x = normal((3, 4))
    assert F.dropout(x, 0.5, training=False, rng=rng) is x
    output, mask = F.dropout(x, 0.5, training=False, rng=rng, return_mask=True)
    assert output is x
    assert mask is None
    assert F.dropout_backward(x, None) is x
    assert rng.bit_generator.state == twin.bit_generator.state
    F.dropout(x, 0.5, rng=rng)
    F.dropout(np.zeros((0, 3)), 0.5, rng=rng)
    twin.integers(0, 2**64, size=2, dtype=np.uint64)
    assert rng.bit_generator.state == twin.bit_generator.state


def test_dropout_of_the_default_generator():
    x = np.ones(64)
    fastcnn.manual_seed(3)
    first = F.dropout(x)
    fastcnn.manual_seed(3)
    assert_array_equal(F.dropout(x), first)
    with pytest.raises(TypeError, match=r"^rng: expected a numpy\.random\.Generator or None, got 3$"):
        F.dropout(x, rng=3)
