"""The cases of docs/gradients.md: the page's own examples, and each case checked once more from its definition."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastcnn import functional, reference

PAGE = Path(__file__).parents[1] / "docs" / "gradients.md"


@pytest.fixture(params=[functional, reference], ids=["functional", "reference"], scope="module")
def F(request):
    return request.param


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def differences(loss, array, step=1e-6):
    """Central finite differences of a loss that reads `array`, moved one element at a time."""
    gradient = np.empty_like(array)
    for place in np.ndindex(array.shape):
        before = array[place]
        array[place] = before + step
        up = loss()
        array[place] = before - step
        down = loss()
        array[place] = before
        gradient[place] = (up - down) / (2 * step)
    return gradient


@pytest.mark.skipif(not PAGE.exists(), reason="the page is not part of an installed package")
def test_page():
    options = np.get_printoptions()
    try:
        failures, examples = doctest.testfile(str(PAGE), module_relative=False)
    finally:
        np.set_printoptions(**options)
    assert examples > 70
    assert failures == 0


# --- convolution and shared weights ---------------------------------------------------------------------------------


def test_smallest_convolution(F):
    x, weight = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[0.3, 0.5]]])
    assert_allclose(F.conv1d(x, weight), [[[1.3, 2.1]]])
    grad_input, grad_weight, grad_bias = F.conv1d_backward(np.array([[[-0.1, 0.2]]]), x, weight)
    assert_allclose(grad_weight, [[[0.3, 0.4]]])
    assert_allclose(grad_bias, [0.1])
    assert_allclose(grad_input, [[[-0.03, 0.01, 0.1]]])


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [((3, 3), 1, 0, 1), ((2, 3), (1, 2), (1, 0), 1), ((3, 2), 2, 1, (1, 2)), ((1, 1), 3, 0, 1)],
)
def test_shared_weight_gets_the_sum_of_unshared_weights(F, kernel, stride, padding, dilation):
    """An unshared network has a fully connected layer of its own for each image and position."""
    x, weight = normal(0, 2, 3, 6, 7), normal(1, 4, 3, *kernel)
    output = F.conv2d(x, weight, None, stride, padding, dilation)
    g = normal(2, *output.shape)
    grad_input, grad_weight, grad_bias = F.conv2d_backward(g, x, weight, stride, padding, dilation)

    dense = weight.reshape(4, -1)
    (sh, sw), (ph, pw), (dh, dw) = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation))
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    unshared, biases, grad_padded = [], [], np.zeros_like(padded)
    for n, row, col in np.ndindex(2, *output.shape[2:]):
        read = (
            n,
            slice(None),
            slice(row * sh, row * sh + dh * (kernel[0] - 1) + 1, dh),
            slice(col * sw, col * sw + dw * (kernel[1] - 1) + 1, dw),
        )
        window = padded[read]
        neurons = reference.linear(window.reshape(1, -1), dense)
        assert_allclose(neurons[0], output[n, :, row, col], rtol=1e-10, atol=1e-12)
        grad_window, grad_own, grad_own_bias = reference.linear_backward(
            g[n, :, row, col][None], window.reshape(1, -1), dense
        )
        unshared.append(grad_own.reshape(weight.shape))
        biases.append(grad_own_bias)
        grad_padded[read] += grad_window.reshape(window.shape)
    assert_allclose(grad_weight, np.sum(unshared, axis=0), rtol=1e-10, atol=1e-12)
    assert_allclose(grad_bias, np.sum(biases, axis=0), rtol=1e-10, atol=1e-12)
    inside = (..., slice(ph, ph + 6), slice(pw, pw + 7))
    assert_allclose(grad_input, grad_padded[inside], rtol=1e-10, atol=1e-12)
    if len(unshared) > 1:
        assert not np.allclose(unshared[0], unshared[1])


# --- max pooling ----------------------------------------------------------------------------------------------------


def test_max_pool_into_fully_connected(F):
    x = np.array([[[[1.0, 9.0, 2.0, 3.0], [4.0, 5.0, 8.0, 6.0]]]])
    weight = np.array([[1.0, 0.5], [2.0, -1.0], [-0.5, 1.0]])
    g = np.array([[2.0, 3.0, 6.0]])
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    grad_pooled, _, _ = F.linear_backward(g, pooled.reshape(1, 2), weight)
    for j in range(2):
        assert_allclose(grad_pooled[0, j], sum(g[0, i] * weight[i, j] for i in range(3)))
    assert_array_equal(grad_pooled, [[5, 4]])
    grad_input = F.max_pool2d_backward(grad_pooled.reshape(pooled.shape), indices, x.shape)
    assert_array_equal(grad_input[0, 0], [[0, 5, 0, 0], [0, 0, 4, 0]])

    def loss():
        pooled = F.max_pool2d(x, 2).reshape(1, 2)
        return float((F.linear(pooled, weight) * g).sum())

    assert_allclose(grad_input, differences(loss, x), atol=1e-7)


def test_max_pool_into_convolution(F):
    x = np.array([[[3.0, 5.0, 4.0, 4.0, 0.0, 7.0, 6.0, 2.0]]])
    pooled, indices = F.max_pool1d(x, 2, return_indices=True)
    g, weight = np.array([[[1.0, 2.0]]]), np.array([[[1.0, 10.0, 100.0]]])
    grad_pooled, _, _ = F.conv1d_backward(g, pooled, weight)
    assert_array_equal(grad_pooled, [[[1, 12, 120, 200]]])
    assert_array_equal(F.max_pool1d_backward(grad_pooled, indices, x.shape), [[[0, 1, 12, 0, 0, 120, 200, 0]]])


def test_max_pool_into_convolution_adds_over_windows(F):
    x, weight = np.random.default_rng(0).permutation(200.0 * np.arange(72)).reshape(1, 2, 6, 6), normal(1, 3, 2, 2, 2)
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    g = normal(2, 1, 3, 2, 2)
    expected = np.zeros_like(pooled)
    for o, row, col in np.ndindex(3, 2, 2):  # each output neuron and the window that it reads
        expected[0, :, row : row + 2, col : col + 2] += g[0, o, row, col] * weight[o]
    grad_pooled, _, _ = F.conv2d_backward(g, pooled, weight)
    assert_allclose(grad_pooled, expected, rtol=1e-10, atol=1e-12)
    grad_input = F.max_pool2d_backward(grad_pooled, indices, x.shape)
    numeric = differences(lambda: float((F.conv2d(F.max_pool2d(x, 2), weight) * g).sum()), x, step=1.0)
    assert_allclose(grad_input, numeric, atol=1e-8)


def test_max_pool_overlapping_windows(F):
    x = np.array([[[1.0, 5.0, 2.0, 4.0]]])
    _, indices = F.max_pool1d(x, 3, 1, return_indices=True)
    assert_array_equal(F.max_pool1d_backward(np.array([[[10.0, 20.0]]]), indices, x.shape), [[[0, 30, 0, 0]]])


def test_max_pool_ties_nan_and_padding(F):
    x = np.array([[[4.0, 4.0, 1.0, np.nan]]])
    output, indices = F.max_pool1d(x, 2, return_indices=True)
    assert_array_equal(output, [[[4, np.nan]]])
    assert_array_equal(F.max_pool1d_backward(np.array([[[1.0, 2.0]]]), indices, x.shape), [[[1, 0, 0, 2]]])
    output, indices = F.max_pool1d(np.full((1, 1, 2), -np.inf), 2, padding=1, return_indices=True)
    assert_array_equal(output, [[[-np.inf, -np.inf]]])
    assert_array_equal(indices, [[[0, 1]]])


# --- mean pooling ---------------------------------------------------------------------------------------------------


def test_mean_pool_keeps_the_sum_of_16_gradients_over_64_inputs(F):
    g = normal(0, 1, 1, 4, 4)
    spread = F.avg_pool2d_backward(g, (1, 1, 8, 8), 2)
    assert_allclose(spread, np.kron(g[0, 0], np.full((2, 2), 0.25))[None, None])
    assert_allclose(spread.sum(), g.sum())
    copied = np.kron(g[0, 0], np.ones((2, 2)))
    assert_allclose(copied.sum(), 4 * g.sum())

    x = normal(1, 1, 1, 8, 8)
    _, indices = F.max_pool2d(x, 2, return_indices=True)
    placed = F.max_pool2d_backward(g, indices, x.shape)
    assert_allclose(placed.sum(), g.sum())
    windows = x.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3)
    is_maximum = windows == windows.max(axis=(2, 3), keepdims=True)
    expected = (is_maximum * g[0, 0][:, :, None, None]).transpose(0, 2, 1, 3).reshape(8, 8)
    assert_array_equal(placed[0, 0], expected)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.data())
def test_pooling_keeps_the_sum_of_gradients(size, kernel, stride, data):
    """Any windows: where every element of a window is a real one, or the padding is not counted."""
    padding, ceil_mode = data.draw(st.integers(0, kernel // 2)), data.draw(st.booleans())
    shape = (2, 3, size + kernel, size + 3)
    x = normal(0, *shape)
    for F in (functional, reference):
        output, indices = F.max_pool2d(x, (kernel, 3), stride, (padding, 1), 1, ceil_mode, return_indices=True)
        g = normal(1, *output.shape)
        placed = F.max_pool2d_backward(g, indices, shape)
        spread = F.avg_pool2d_backward(g, shape, (kernel, 3), stride, (padding, 1), ceil_mode, False)
        assert_allclose(placed.sum(axis=(2, 3)), g.sum(axis=(2, 3)), rtol=1e-10, atol=1e-10)
        assert_allclose(spread.sum(axis=(2, 3)), g.sum(axis=(2, 3)), rtol=1e-10, atol=1e-10)


def test_mean_pool_loses_the_share_of_counted_padding(F):
    g = np.ones((1, 1, 3))
    assert_array_equal(F.avg_pool1d_backward(g, (1, 1, 4), 2, padding=1), [[[0.5, 0.5, 0.5, 0.5]]])
    real = F.avg_pool1d_backward(g, (1, 1, 4), 2, padding=1, count_include_pad=False)
    assert_array_equal(real, [[[1, 0.5, 0.5, 1]]])


# --- ReLU -----------------------------------------------------------------------------------------------------------


def test_relu_at_zero(F):
    x = np.array([-2.0, -0.0, 0.0, 5e-324, 3.0])
    output = F.relu(x)
    assert_array_equal(output, [0, 0, 0, 5e-324, 3])
    assert_array_equal(F.relu_backward(np.full(5, 5.0), output), [0, 0, 0, 5, 5])


# --- batch norm -----------------------------------------------------------------------------------------------------


def test_batch_norm_step_by_step(F):
    """Every operation of the forward pass on its own, then backward through each of them."""
    x, weight, bias = normal(0, 3, 2, 4, 5) * 2 + 1, np.array([2.0, -0.5]), np.array([10.0, 1.0])
    g, eps, count, axes = normal(1, *x.shape), 1e-5, 60, (0, 2, 3)
    output, saved_mean, saved_invstd = F.batch_norm(x, None, None, weight, bias, True, eps=eps, return_saved=True)

    def wide(vector):
        return vector[:, None, None]

    mean = x.sum(axis=axes) / count
    centred = x - wide(mean)
    var = (centred**2).sum(axis=axes) / count
    std = np.sqrt(var + eps)
    xhat = centred / wide(std)
    assert_allclose(output, wide(weight) * xhat + wide(bias), rtol=1e-10)
    assert_allclose(saved_mean, mean)
    assert_allclose(saved_invstd, 1 / std)

    grad_bias = g.sum(axis=axes)
    grad_weight = (g * xhat).sum(axis=axes)
    grad_xhat = g * wide(weight)
    grad_std = -(grad_xhat * centred).sum(axis=axes) / std**2
    grad_var = grad_std / (2 * std)
    grad_centred = grad_xhat / wide(std) + wide(grad_var) * 2 * centred / count
    grad_mean = -grad_centred.sum(axis=axes)
    grad_x = grad_centred + wide(grad_mean) / count

    results = F.batch_norm_backward(g, x, weight, saved_mean, saved_invstd)
    for result, expected in zip(results, (grad_x, grad_weight, grad_bias), strict=True):
        assert_allclose(result, expected, rtol=1e-9, atol=1e-12)
    assert_allclose(results[0].sum(axis=axes), 0, atol=1e-10)

    frozen = F.batch_norm_backward(g, x, weight, saved_mean, saved_invstd, training=False)
    for result, expected in zip(frozen, (grad_xhat / wide(std), grad_weight, grad_bias), strict=True):
        assert_allclose(result, expected, rtol=1e-9, atol=1e-12)


def test_batch_norm_small_numbers(F):
    x, weight, bias = np.array([[0.0], [0.0], [2.0], [2.0]]), np.array([2.0]), np.array([10.0])
    y, mean, invstd = F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-12, return_saved=True)
    assert_allclose(y.ravel(), [8, 8, 12, 12])
    g = np.array([[1.0], [3.0], [2.0], [6.0]])
    grad_input, grad_weight, grad_bias = F.batch_norm_backward(g, x, weight, mean, invstd)
    assert_allclose(grad_input.ravel(), [-2, 2, -4, 4])
    assert_allclose(grad_weight, [4])
    assert_allclose(grad_bias, [12])


# --- a whole network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("normalise", [False, True])
def test_chain(F, pool, normalise):
    """Convolution (batch norm), ReLU, pooling, linear and cross-entropy against finite differences."""
    images, labels = normal(0, 3, 2, 7, 8), np.array([0, 3, 1])
    p = {
        "conv.weight": normal(1, 4, 2, 3, 2) / 3,
        "conv.bias": normal(2, 4) / 3,
        "norm.weight": normal(3, 4) / 3 + 1,
        "norm.bias": normal(4, 4) / 3,
        "linear.weight": normal(5, 5, 32) / 3,
        "linear.bias": normal(6, 5) / 3,
    }
    window = {"kernel_size": 3, "stride": (2, 1), "padding": 1}  # overlapping: (4, 4) to (2, 4)

    def forward():
        saved = {}
        saved["conv"] = x = F.conv2d(images, p["conv.weight"], p["conv.bias"], stride=2, padding=(1, 0))
        if normalise:
            x, *saved["norm"] = F.batch_norm(
                x, None, None, p["norm.weight"], p["norm.bias"], training=True, return_saved=True
            )
        saved["active"] = x = F.relu(x)
        if pool == "max":
            x, saved["indices"] = F.max_pool2d(x, **window, return_indices=True)
        else:
            x = F.avg_pool2d(x, **window)
        saved["pooled"] = x
        saved["features"] = x = x.reshape(len(images), -1)
        return F.cross_entropy(F.linear(x, p["linear.weight"], p["linear.bias"]), labels), saved

    (_, grad), saved = forward()
    gradients = {}
    grad, gradients["linear.weight"], gradients["linear.bias"] = F.linear_backward(
        grad, saved["features"], p["linear.weight"]
    )
    grad = grad.reshape(saved["pooled"].shape)
    if pool == "max":
        grad = F.max_pool2d_backward(grad, saved["indices"], saved["active"].shape)
    else:
        grad = F.avg_pool2d_backward(grad, saved["active"].shape, **window)
    grad = F.relu_backward(grad, saved["active"])
    if normalise:
        grad, gradients["norm.weight"], gradients["norm.bias"] = F.batch_norm_backward(
            grad, saved["conv"], p["norm.weight"], *saved["norm"]
        )
    gradients["images"], gradients["conv.weight"], gradients["conv.bias"] = F.conv2d_backward(
        grad, images, p["conv.weight"], stride=2, padding=(1, 0)
    )
    for name, gradient in gradients.items():
        numeric = differences(lambda: forward()[0][0], images if name == "images" else p[name])
        assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-8, err_msg=name)
