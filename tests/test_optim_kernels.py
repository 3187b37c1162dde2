"""The updates of parameters and the clipping of gradients: against the reference, torch's formulas, threads, errors."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from layouts import close, concurrent_callers_agree, dtypes, each_thread_count_agrees, laid_out, normal
from numpy.testing import assert_allclose, assert_array_equal

from fastcnn import functional as F
from fastcnn import reference

every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
rates = st.sampled_from([0.0, 1e-3, 0.1, 1.0])
sizes = st.sampled_from([0, 1, 2, 15, 16, 17, 1000, 4096, 4097, 9001])


@given(
    size=sizes,
    dtype=dtypes,
    lr=rates,
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    dampening=st.sampled_from([0.0, 0.3]),
    weight_decay=rates,
    nesterov=st.booleans(),
)
def test_sgd_against_reference(size, dtype, lr, momentum, dampening, weight_decay, nesterov):
    assume(not nesterov or (momentum and not dampening))
    param, buffer = normal(size, dtype), np.full(size, math.nan, dtype) if momentum else None
    expected, expected_buffer = param.copy(), None if buffer is None else buffer.copy()
    for step in range(3):
        grad = normal(size, dtype, step + 1)
        settings = (lr, momentum, dampening, weight_decay, nesterov)
        assert F.sgd_update(param, grad, buffer, *settings, first_step=step == 0) is None
        reference.sgd_update(expected, grad, expected_buffer, *settings, first_step=step == 0)
        close(param, expected, 8, floor=1)
        if momentum:
            close(buffer, expected_buffer, 8, floor=1)
        assert_array_equal(grad, normal(size, dtype, step + 1))


@given(
    size=sizes,
    dtype=dtypes,
    lr=rates,
    betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.5, 0.0)]),
    eps=st.sampled_from([1e-8, 1e-3]),
    weight_decay=rates,
    decoupled=st.booleans(),
)
def test_adam_against_reference(size, dtype, lr, betas, eps, weight_decay, decoupled):
    arrays = [normal(size, dtype), np.zeros(size, dtype), np.zeros(size, dtype)]
    expected = [array.copy() for array in arrays]
    for step in (1, 2, 3):
        grad = normal(size, dtype, step)
        assert F.adam_update(arrays[0], grad, *arrays[1:], step, lr, *betas, eps, weight_decay, decoupled) is None
        reference.adam_update(expected[0], grad, *expected[1:], step, lr, *betas, eps, weight_decay, decoupled)
        for got, want in zip(arrays, expected, strict=True):
            close(got, want, 64, floor=1)
        arrays = [array.copy() for array in expected]  # rounding errors of one step, not of all
        assert_array_equal(grad, normal(size, dtype, step))


def test_first_step_of_momentum_is_the_gradient():
    """torch fills the buffer with the first gradient, without dampening."""
    param, buffer = np.array([1.0]), np.array([math.nan])
    F.sgd_update(param, np.array([2.0]), buffer, 0.1, momentum=0.9, dampening=0.5, first_step=True)
    assert_allclose(param, 0.8)
    assert_allclose(buffer, 2.0)
    F.sgd_update(param, np.array([2.0]), buffer, 0.1, momentum=0.9, dampening=0.5)
    assert_allclose(buffer, 0.9 * 2 + 0.5 * 2)
    assert_allclose(param, 0.8 - 0.1 * 2.8)


def test_nesterov_by_hand():
    param, buffer = np.array([1.0]), np.array([3.0])
    F.sgd_update(param, np.array([2.0]), buffer, 0.1, momentum=0.5, weight_decay=0.25, nesterov=True)
    gradient = 2 + 0.25 * 1
    assert_allclose(buffer, 0.5 * 3 + gradient)
    assert_allclose(param, 1 - 0.1 * (gradient + 0.5 * (1.5 + gradient)))


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_by_hand(decoupled):
    param, mean, square = np.array([1.0]), np.array([0.5]), np.array([0.25])
    F.adam_update(param, np.array([2.0]), mean, square, 3, 0.1, 0.8, 0.9, 1e-3, 0.25, decoupled)
    gradient = 2.0 if decoupled else 2.25
    first, second = 0.8 * 0.5 + 0.2 * gradient, 0.9 * 0.25 + 0.1 * gradient**2
    assert_allclose(mean, first)
    assert_allclose(square, second)
    corrected = first / (1 - 0.8**3) / (math.sqrt(second / (1 - 0.9**3)) + 1e-3)
    assert_allclose(param, (0.975 if decoupled else 1) - 0.1 * corrected)


def test_unused_terms_are_left_out():
    """Without weight decay a parameter that is not finite stays out of the state; without Nesterov so does 0 * inf."""
    param, buffer = np.array([math.inf, 1.0]), np.array([1.0, 1.0])
    F.sgd_update(param, np.array([1.0, math.inf]), buffer, 0.1, momentum=0.5)
    assert_array_equal(buffer, [1.5, math.inf])
    assert_array_equal(param, [math.inf, -math.inf])
    param, mean, square = np.array([math.inf]), np.zeros(1), np.zeros(1)
    F.adam_update(param, np.array([1.0]), mean, square, 1, 0.1)
    assert np.isfinite([mean, square]).all()


@every_dtype
@pytest.mark.parametrize("size", [10_000, 100_003])
def test_threads_and_concurrent_callers(size, dtype, threads):
    grad = normal(size, dtype)

    def call():
        arrays = [normal(size, dtype, seed) for seed in (1, 2, 3)]
        F.sgd_update(arrays[0], grad, arrays[1], 0.1, 0.9, weight_decay=0.1, nesterov=True)
        F.adam_update(arrays[0], grad, arrays[1], np.square(arrays[2], out=arrays[2]), 2, 0.1, weight_decay=0.1)
        clipped = grad.copy()
        return (*arrays, clipped, F.clip_grad_norm(clipped, 1.0))

    *_, clipped, norm = each_thread_count_agrees(threads, call)
    assert norm == pytest.approx(math.sqrt(np.square(grad, dtype=float).sum()), rel=1e-14)
    close(clipped, grad * dtype(1 / (norm + 1e-6)))
    threads(2)
    concurrent_callers_agree(call)


# --- clipping -------------------------------------------------------------------------------------------------------


@given(size=sizes, dtype=dtypes, scale=st.sampled_from([1e-3, 1.0, 1e3]), max_norm=st.sampled_from([0.0, 0.5, 20.0]))
def test_clip_against_reference(size, dtype, scale, max_norm):
    grad = normal(size, dtype) * dtype(scale)
    expected = grad.copy()
    expected_norm = reference.clip_grad_norm(expected, max_norm)
    norm = F.clip_grad_norm(grad, max_norm)
    assert type(norm) is float
    assert norm == pytest.approx(expected_norm, rel=1e-13)
    close(grad, expected)
    assert np.linalg.norm(grad.astype(float)) <= max(max_norm * (1 + 1e-6), 0)


def test_a_small_gradient_is_not_touched():
    grad = normal(5000, np.float32)
    before = grad.copy()
    F.clip_grad_norm(grad, 1e3)
    assert_array_equal(grad, before)


def test_the_norm_does_not_overflow_float32():
    grad = np.array([3e30, 4e30], np.float32)
    assert F.clip_grad_norm(grad, 1.0) == pytest.approx(5e30)
    assert_allclose(grad, [0.6, 0.8], rtol=1e-6)


@every_dtype
def test_a_norm_that_is_not_finite(dtype):
    """torch multiplies by max_norm / norm all the same."""
    grad = np.array([1.0, math.inf, -2.0], dtype)
    assert F.clip_grad_norm(grad, 1.0) == math.inf
    assert_array_equal(grad, [0.0, math.nan, 0.0])
    grad = np.array([1.0, math.nan], dtype)
    assert math.isnan(F.clip_grad_norm(grad, 1.0))
    assert_array_equal(grad, [math.nan, math.nan])


# --- wrong arguments ------------------------------------------------------------------------------------------------


def read_only(array):
    array.flags.writeable = False
    return array


P = np.ones(4, np.float32)
SGD = {"param": P, "grad": P + 1, "momentum_buffer": P + 2, "lr": 0.1, "momentum": 0.9}
ADAM = {"param": P, "grad": P + 1, "exp_avg": P + 2, "exp_avg_sq": P + 3, "step": 1, "lr": 0.1}
CLIP = {"grad": P, "max_norm": 1.0}
F32 = "a NumPy array of float32 or float64"
CONTIGUOUS = "a contiguous, aligned vector in native byte order"
BELOW_ONE = "a number from 0 to below 1"
NOT_NEGATIVE = "a finite number of at least 0"
BAD = [
    (F.sgd_update, SGD, {"param": [1.0]}, TypeError, f"param: expected {F32}, got list"),
    (F.sgd_update, SGD, {"grad": None}, TypeError, f"grad: expected {F32}, got None"),
    (F.sgd_update, SGD, {"grad": P[:3]}, ValueError, "grad: expected 4 elements as param, got 3"),
    (F.sgd_update, SGD, {"grad": P.astype(float)}, TypeError, "grad: expected float32 as param, got float64"),
    (F.sgd_update, SGD, {"param": P[None]}, ValueError, "param: expected 1-D array, got shape (1, 4)"),
    (
        F.sgd_update,
        SGD,
        {"param": np.ones(8, np.float32)[::2]},
        ValueError,
        f"param: expected {CONTIGUOUS}, got strides (8,)",
    ),
    (
        F.sgd_update,
        SGD,
        {"param": laid_out(P, "byte-swapped")},
        ValueError,
        f"param: expected {CONTIGUOUS}, got strides (4,)",
    ),
    (
        F.sgd_update,
        SGD,
        {"param": read_only(P.copy())},
        ValueError,
        "param: expected a writable array, got a read-only one",
    ),
    (
        F.sgd_update,
        SGD,
        {"momentum_buffer": read_only(P.copy())},
        ValueError,
        "momentum_buffer: expected a writable array, got a read-only one",
    ),
    (
        F.sgd_update,
        SGD,
        {"momentum_buffer": None},
        ValueError,
        "momentum_buffer: expected an array, as momentum is 0.9, got None",
    ),
    (F.sgd_update, SGD, {"momentum_buffer": P[1:]}, ValueError, "momentum_buffer: expected 4 elements as param, got 3"),
    (F.sgd_update, SGD, {"lr": -0.1}, ValueError, f"lr: expected {NOT_NEGATIVE}, got -0.1"),
    (F.sgd_update, SGD, {"lr": "fast"}, TypeError, f"lr: expected {NOT_NEGATIVE}, got 'fast'"),
    (F.sgd_update, SGD, {"momentum": -1}, ValueError, f"momentum: expected {NOT_NEGATIVE}, got -1"),
    (F.sgd_update, SGD, {"dampening": math.nan}, ValueError, "dampening: expected a finite number, got nan"),
    (F.sgd_update, SGD, {"weight_decay": math.inf}, ValueError, f"weight_decay: expected {NOT_NEGATIVE}, got inf"),
    (F.sgd_update, SGD, {"nesterov": 1}, TypeError, "nesterov: expected a bool, got 1"),
    (F.sgd_update, SGD, {"first_step": None}, TypeError, "first_step: expected a bool, got None"),
    (
        F.sgd_update,
        SGD,
        {"nesterov": True, "dampening": 0.5},
        ValueError,
        "nesterov: expected True only with momentum and dampening 0, got momentum 0.9, dampening 0.5",
    ),
    (
        F.sgd_update,
        SGD,
        {"nesterov": True, "momentum": 0},
        ValueError,
        "nesterov: expected True only with momentum and dampening 0, got momentum 0.0, dampening 0.0",
    ),
    (F.adam_update, ADAM, {"exp_avg": None}, TypeError, f"exp_avg: expected {F32}, got None"),
    (F.adam_update, ADAM, {"exp_avg_sq": P[:2]}, ValueError, "exp_avg_sq: expected 4 elements as param, got 2"),
    (
        F.adam_update,
        ADAM,
        {"exp_avg": read_only(P.copy())},
        ValueError,
        "exp_avg: expected a writable array, got a read-only one",
    ),
    (F.adam_update, ADAM, {"step": 0}, ValueError, "step: expected a positive int, got 0"),
    (F.adam_update, ADAM, {"step": 1.0}, TypeError, "step: expected a positive int, got 1.0"),
    (F.adam_update, ADAM, {"lr": -1}, ValueError, f"lr: expected {NOT_NEGATIVE}, got -1"),
    (F.adam_update, ADAM, {"beta1": 1}, ValueError, f"beta1: expected {BELOW_ONE}, got 1"),
    (F.adam_update, ADAM, {"beta2": 1.0}, ValueError, f"beta2: expected {BELOW_ONE}, got 1.0"),
    (F.adam_update, ADAM, {"beta2": 2}, ValueError, f"beta2: expected {BELOW_ONE}, got 2"),
    (F.adam_update, ADAM, {"eps": -1}, ValueError, f"eps: expected {NOT_NEGATIVE}, got -1"),
    (F.adam_update, ADAM, {"weight_decay": -1}, ValueError, f"weight_decay: expected {NOT_NEGATIVE}, got -1"),
    (F.adam_update, ADAM, {"decoupled": "yes"}, TypeError, "decoupled: expected a bool, got 'yes'"),
    (
        F.clip_grad_norm,
        CLIP,
        {"grad": read_only(P.copy())},
        ValueError,
        "grad: expected a writable array, got a read-only one",
    ),
    (F.clip_grad_norm, CLIP, {"grad": P[None]}, ValueError, "grad: expected 1-D array, got shape (1, 4)"),
    (F.clip_grad_norm, CLIP, {"max_norm": -1}, ValueError, f"max_norm: expected {NOT_NEGATIVE}, got -1"),
    (F.clip_grad_norm, CLIP, {"max_norm": None}, TypeError, f"max_norm: expected {NOT_NEGATIVE}, got None"),
]


@pytest.mark.parametrize(("function", "arguments", "wrong", "error", "message"), BAD)
def test_wrong_arguments(function, arguments, wrong, error, message):
    with pytest.raises(error) as raised:
        function(**{**arguments, **wrong})
    assert str(raised.value) == message
    assert_array_equal(P, np.ones(4))


def test_right_settings_do_not_speak_for_equal_ones_of_another_type():
    for right, wrong in (({"lr": 1.0}, {"lr": True}), ({"nesterov": False}, {"nesterov": 0}), ({}, {"lr": [1.0]})):
        for _ in range(2):
            F.sgd_update(**{**SGD, "param": P.copy(), **right})
        with pytest.raises(TypeError, match=f"^{next(iter(wrong))}: expected a "):
            F.sgd_update(**{**SGD, "param": P.copy(), **wrong})


def test_what_is_only_read_may_be_read_only():
    param, grad = np.ones(3), read_only(np.ones(3))
    F.sgd_update(param, grad, None, 0.5)
    F.adam_update(param, grad, np.zeros(3), np.zeros(3), 1, 0.5)
    assert_allclose(param, 0, atol=1e-7)
