"""The reference against loops written out from the definitions, hand-computed cases and finite differences."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastcnn import reference as R


def differences(function, x, step=1e-6):
    """Central finite differences of a function of an array that returns a number."""
    gradient = np.empty_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)) / (2 * step)
    return gradient


def assert_gradient(function, x, grad_output, gradient, step=1e-6):
    """`gradient` is that of the scalar ``sum(function(x) * grad_output)``."""
    numeric = differences(lambda x: float((function(x) * grad_output).sum()), x, step)
    assert gradient.shape == x.shape
    assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-7)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def distinct(seed, *shape):
    """Values 1 apart, so that no step below 1/2 changes which is largest."""
    return np.random.default_rng(seed).permutation(math.prod(shape)).reshape(shape).astype(float)


@st.composite
def windows(draw, *, pool=False):
    """Geometry of one plane: sizes, kernel, stride, padding, dilation, each a pair, and ceil_mode."""
    ceil_mode = draw(st.booleans()) if pool else False
    axes = []
    for _ in range(2):
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        axis = (
            draw(st.integers(1, 7)),
            kernel,
            draw(st.integers(1, 5)),
            draw(st.integers(0, kernel // 2 if pool else 3)),
            dilation,
        )
        room = axis[0] + 2 * axis[3] - dilation * (kernel - 1) - 1
        assume(room >= 0)
        axes.append(axis)
    return (*zip(*axes, strict=True), ceil_mode)


def positions(out, size, kernel, stride, padding, dilation=1):
    """The places that window `out` reads along one axis."""
    return [out * stride - padding + tap * dilation for tap in range(kernel)]


# --- output sizes ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 6), st.data(), st.integers(1, 3), st.booleans())
def test_output_size_counts_windows(size, kernel, stride, data, dilation, ceil_mode):
    padding = data.draw(st.integers(0, kernel // 2 if ceil_mode else 4))
    end, reach = size + padding, dilation * (kernel - 1) + 1
    starts = range(-padding, end, stride)
    if ceil_mode:  # a window counts if the one before leaves something over, and it starts before the right padding
        counted = [start for start in starts if start - stride + reach < end and start < size]
    else:
        counted = [start for start in starts if start + reach <= end]
    if counted:
        assert R.output_size(size, kernel, stride, padding, dilation, ceil_mode) == len(counted)
    else:
        with pytest.raises(ValueError, match="input: expected at least one window"):
            R.output_size(size, kernel, stride, padding, dilation, ceil_mode)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((224, 7, 2, 3), 112),
        ((112, 3, 2, 1), 56),
        ((55, 3, 2, 0, 1, False), 27),
        ((56, 3, 2, 0, 1, True), 28),
        ((5, 2, 2, 0, 1, True), 3),
        ((4, 1, 2, 0, 1, True), 2),
        ((3, 2, 2, 1, 1, True), 2),
        ((1, 3, 3, 0, 1, True), 1),
    ],
)
def test_output_size_known(args, expected):
    assert R.output_size(*args) == expected


# --- im2col and col2im ----------------------------------------------------------------------------------------------


@given(windows())
def test_im2col_and_col2im(geometry):
    size, kernel, stride, padding, dilation, _ = geometry
    x = normal(1, 2, 3, *size)
    columns = R.im2col(x, kernel, dilation, padding, stride)
    out = [R.output_size(*axis) for axis in zip(size, kernel, stride, padding, dilation, strict=True)]
    expected = np.zeros((2, 3, *kernel, *out))
    for y, z in np.ndindex(*out):
        for i, j in np.ndindex(*kernel):
            row = y * stride[0] - padding[0] + i * dilation[0]
            col = z * stride[1] - padding[1] + j * dilation[1]
            if 0 <= row < size[0] and 0 <= col < size[1]:
                expected[:, :, i, j, y, z] = x[:, :, row, col]
    assert_array_equal(columns, expected.reshape(2, 3 * kernel[0] * kernel[1], out[0] * out[1]))

    other = normal(2, *columns.shape)
    folded = R.col2im(other, size, kernel, dilation, padding, stride)
    assert folded.shape == x.shape
    assert_allclose((folded * x).sum(), (other * columns).sum(), rtol=1e-10, atol=1e-10)


def test_im2col_rows_are_channel_then_tap():
    x = np.arange(8.0).reshape(1, 2, 2, 2)
    assert_array_equal(R.im2col(x, (1, 2))[0], [[0, 2], [1, 3], [4, 6], [5, 7]])


def test_fold_of_unfold_counts_the_windows_over_each_element():
    columns = R.im2col1d(np.ones((1, 1, 5)), 3, padding=1)
    assert_array_equal(R.col2im1d(columns, 5, 3, padding=1), [[[2, 3, 3, 3, 2]]])


def test_im2col_unbatched_and_empty():
    x = normal(0, 2, 4, 5)
    columns = R.im2col(x, (2, 3))
    assert_array_equal(columns, R.im2col(x[None], (2, 3))[0])
    assert_array_equal(R.col2im(columns, (4, 5), (2, 3)), R.col2im(columns[None], (4, 5), (2, 3))[0])
    assert R.im2col(np.zeros((0, 2, 4, 5)), (2, 3)).shape == (0, 12, 9)
    assert R.col2im(np.zeros((0, 12, 9)), (4, 5), (2, 3)).shape == (0, 2, 4, 5)


# --- convolution ----------------------------------------------------------------------------------------------------


def loop_conv2d(x, weight, bias, stride, before, dilation, groups, out):
    o_channels, g_channels, kh, kw = weight.shape
    output = np.zeros((len(x), o_channels, *out))
    for image, o, y, z in np.ndindex(*output.shape):
        first = o // (o_channels // groups) * g_channels
        total = bias[o]
        for c, i, j in itertools.product(range(g_channels), range(kh), range(kw)):
            row = y * stride[0] - before[0] + i * dilation[0]
            col = z * stride[1] - before[1] + j * dilation[1]
            if 0 <= row < x.shape[2] and 0 <= col < x.shape[3]:
                total += weight[o, c, i, j] * x[image, first + c, row, col]
        output[image, o, y, z] = total
    return output


GROUPS = st.sampled_from([(2, 3, 1), (4, 2, 2), (3, 3, 3), (2, 4, 2), (2, 6, 2)])


@settings(max_examples=60)
@given(windows(), GROUPS)
def test_conv2d(geometry, channels):
    size, kernel, stride, padding, dilation, _ = geometry
    c_in, c_out, groups = channels
    x, weight, bias = normal(0, 2, c_in, *size), normal(1, c_out, c_in // groups, *kernel), normal(2, c_out)
    out = [R.output_size(*axis) for axis in zip(size, kernel, stride, padding, dilation, strict=True)]
    expected = loop_conv2d(x, weight, bias, stride, padding, dilation, groups, out)
    assert_allclose(R.conv2d(x, weight, bias, stride, padding, dilation, groups), expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=40)
@given(windows(), GROUPS)
def test_conv2d_backward(geometry, channels):
    size, kernel, stride, padding, dilation, _ = geometry
    c_in, c_out, groups = channels
    x, weight, bias = normal(0, 2, c_in, *size), normal(1, c_out, c_in // groups, *kernel), normal(2, c_out)
    options = (stride, padding, dilation, groups)
    g = normal(3, *R.conv2d(x, weight, bias, *options).shape)
    grad_input, grad_weight, grad_bias = R.conv2d_backward(g, x, weight, *options)
    assert_gradient(lambda x: R.conv2d(x, weight, bias, *options), x, g, grad_input)
    assert_gradient(lambda w: R.conv2d(x, w, bias, *options), weight, g, grad_weight)
    assert_gradient(lambda b: R.conv2d(x, weight, b, *options), bias, g, grad_bias)


@settings(max_examples=40)
@given(windows(), st.sampled_from([1, 2]))
def test_conv1d_is_conv2d_on_a_row(geometry, groups):
    (size, _), (kernel, _), (stride, _), (padding, _), (dilation, _), _ = geometry
    x, weight, bias = normal(0, 2, 4, size), normal(1, 6, 4 // groups, kernel), normal(2, 6)
    options = (stride, padding, dilation, groups)
    output = R.conv1d(x, weight, bias, *options)
    out = [1, R.output_size(size, kernel, stride, padding, dilation)]
    expected = loop_conv2d(
        x[:, :, None], weight[:, :, None], bias, (1, stride), (0, padding), (1, dilation), groups, out
    )
    assert_allclose(output, expected[:, :, 0], rtol=1e-10, atol=1e-12)
    g = normal(3, *output.shape)
    grad_input, grad_weight, grad_bias = R.conv1d_backward(g, x, weight, *options)
    assert_gradient(lambda x: R.conv1d(x, weight, bias, *options), x, g, grad_input)
    assert_gradient(lambda w: R.conv1d(x, w, bias, *options), weight, g, grad_weight)
    assert_gradient(lambda b: R.conv1d(x, weight, b, *options), bias, g, grad_bias)


@pytest.mark.parametrize(("kernel", "dilation"), [((3, 5), 1), ((2, 4), 1), ((2, 3), (3, 2)), ((1, 1), 1)])
def test_conv2d_same(kernel, dilation):
    x, weight = normal(0, 1, 2, 6, 5), normal(1, 3, 2, *kernel)
    output = R.conv2d(x, weight, padding="same", dilation=dilation)
    assert output.shape == (1, 3, 6, 5)
    spread = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    before = [d * (k - 1) // 2 for k, d in zip(kernel, spread, strict=True)]  # an odd zero goes right or below
    expected = loop_conv2d(x, weight, np.zeros(3), (1, 1), before, spread, 1, (6, 5))
    assert_allclose(output, expected, rtol=1e-10, atol=1e-12)
    g = normal(2, *output.shape)
    grad_input, grad_weight, _ = R.conv2d_backward(g, x, weight, padding="same", dilation=dilation)
    assert_gradient(lambda x: R.conv2d(x, weight, padding="same", dilation=dilation), x, g, grad_input)
    assert_gradient(lambda w: R.conv2d(x, w, padding="same", dilation=dilation), weight, g, grad_weight)


def test_conv1d_same_puts_the_odd_zero_on_the_right():
    x, weight = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1.0, 10.0]]])
    assert_array_equal(R.conv1d(x, weight, padding="same"), [[[21, 32, 3]]])
    assert_array_equal(R.conv1d(x, weight, padding="valid"), [[[21, 32]]])
    with pytest.raises(ValueError, match="padding: expected"):
        R.conv1d(x, weight, stride=2, padding="same")


def test_conv_settings_as_tuples():
    x, weight = normal(0, 1, 1, 9), normal(1, 1, 1, 2)
    assert_array_equal(R.conv1d(x, weight, None, (2,), (1,), (3,)), R.conv1d(x, weight, None, 2, 1, 3))
    x, weight = normal(0, 1, 1, 7, 9), normal(1, 1, 1, 2, 3)
    assert_array_equal(R.conv2d(x, weight, None, [2, 2], (1, 1), (1, 1)), R.conv2d(x, weight, None, 2, 1, 1))


def test_conv_needs_unbatched_and_empty():
    x, weight = normal(0, 3, 4, 5), normal(1, 2, 3, 2, 2)
    assert_array_equal(R.conv2d(x, weight), R.conv2d(x[None], weight)[0])
    g = normal(2, 2, 3, 4)
    everything = R.conv2d_backward(g, x, weight)
    assert everything[0].shape == x.shape
    for needs in itertools.product([True, False], repeat=3):
        some = R.conv2d_backward(g, x, weight, needs=needs)
        assert [a is not None for a in some] == list(needs)
        for a, b in zip(some, everything, strict=True):
            assert a is None or np.array_equal(a, b)
        some = R.conv1d_backward(g[:, 0], x[:, 0], weight[:, :, 0], needs=needs)
        assert [a is not None for a in some] == list(needs)
    x, g = np.zeros((0, 3, 4, 5)), np.zeros((0, 2, 3, 4))
    assert R.conv2d(x, weight).shape == (0, 2, 3, 4)
    grad_input, grad_weight, grad_bias = R.conv2d_backward(g, x, weight)
    assert grad_input.shape == x.shape
    assert not grad_weight.any()
    assert not grad_bias.any()


# --- max pooling ----------------------------------------------------------------------------------------------------


def loop_max_pool2d(x, kernel, stride, padding, dilation, out):
    """Outputs, indices and taps by reading every window in row-major order."""
    output = np.empty((*x.shape[:2], *out))
    indices, taps = np.empty(output.shape, int), np.empty(output.shape, int)
    for n, c, y, z in np.ndindex(*output.shape):
        best = None
        for i, j in np.ndindex(*kernel):
            row, col = y * stride[0] - padding[0] + i * dilation[0], z * stride[1] - padding[1] + j * dilation[1]
            if not (0 <= row < x.shape[2] and 0 <= col < x.shape[3]):
                continue
            value = x[n, c, row, col]
            if best is None or (not math.isnan(best[0]) and (value > best[0] or math.isnan(value))):
                best = value, row * x.shape[3] + col, i * kernel[1] + j
        output[n, c, y, z], indices[n, c, y, z], taps[n, c, y, z] = best
    return output, indices, taps


def assume_real_elements(size, kernel, stride, padding, dilation, out):
    for axis in range(2):
        for window in range(out[axis]):
            places = positions(window, size[axis], kernel[axis], stride[axis], padding[axis], dilation[axis])
            assume(any(0 <= place < size[axis] for place in places))


@given(windows(pool=True), st.sampled_from(["ties", "distinct", "special"]))
def test_max_pool2d(geometry, kind):
    size, kernel, stride, padding, dilation, ceil_mode = geometry
    args = (kernel, stride, padding, dilation, ceil_mode)
    out = [R.output_size(*axis, ceil_mode) for axis in zip(size, kernel, stride, padding, dilation, strict=True)]
    assume_real_elements(size, kernel, stride, padding, dilation, out)
    x = distinct(0, 2, 2, *size)
    if kind == "ties":
        x %= 3
    elif kind == "special":
        x = np.random.default_rng(1).choice([-np.inf, -np.inf, -1.0, np.inf, np.nan], size=x.shape)
    output, indices = R.max_pool2d(x, *args, return_indices=True)
    expected, expected_indices, expected_taps = loop_max_pool2d(x, kernel, stride, padding, dilation, out)
    assert_array_equal(output, expected)
    assert_array_equal(indices, expected_indices)
    assert indices.dtype == np.int64
    assert_array_equal(R.max_pool2d(x, *args), expected)
    output, taps = R.max_pool2d_taps(x, *args)
    assert_array_equal(output, expected)
    assert_array_equal(taps, expected_taps)
    assert taps.dtype == np.uint8

    g = normal(2, *output.shape)
    grad_input = R.max_pool2d_backward(g, indices, x.shape)
    assert_allclose(R.max_pool2d_taps_backward(g, taps, x.shape, *args), grad_input, rtol=1e-12, atol=1e-12)
    if kind == "distinct":
        assert_gradient(lambda x: R.max_pool2d(x, *args), x, g, grad_input, step=0.25)


@given(windows(pool=True))
def test_max_pool1d_is_max_pool2d_on_a_row(geometry):
    (size, _), (kernel, _), (stride, _), (padding, _), (dilation, _), ceil_mode = geometry
    out = R.output_size(size, kernel, stride, padding, dilation, ceil_mode)
    assume_real_elements((1, size), (1, kernel), (1, stride), (0, padding), (1, dilation), (1, out))
    x = distinct(0, 2, 2, size)
    output, indices = R.max_pool1d(x, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
    expected, expected_indices, _ = loop_max_pool2d(
        x[:, :, None], (1, kernel), (1, stride), (0, padding), (1, dilation), (1, out)
    )
    assert_array_equal(output, expected[:, :, 0])
    assert_array_equal(indices, expected_indices[:, :, 0])
    assert_array_equal(R.max_pool1d(x, kernel, stride, padding, dilation, ceil_mode), output)
    g = normal(1, *output.shape)
    grad_input = R.max_pool1d_backward(g, indices, x.shape)
    assert_gradient(
        lambda x: R.max_pool1d(x, kernel, stride, padding, dilation, ceil_mode), x, g, grad_input, step=0.25
    )


def test_max_pool_chooses_the_first_of_equals():
    x = np.array([[[[1.0, 7.0, 7.0], [7.0, 7.0, 0.0]]]])
    _, indices = R.max_pool2d(x, (2, 2), 1, return_indices=True)
    assert_array_equal(indices, [[[[1, 1]]]])
    assert_array_equal(
        R.max_pool2d_backward(np.array([[[[2.0, 3.0]]]]), indices, x.shape)[0, 0], [[0, 5, 0], [0, 0, 0]]
    )


def test_max_pool_first_nan_wins():
    x = np.array([[[[np.inf, np.nan], [5.0, np.nan]]]])
    output, indices = R.max_pool2d(x, 2, return_indices=True)
    assert np.isnan(output).all()
    assert indices.item() == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_max_pool_never_chooses_padding(dtype):
    x = np.full((1, 1, 3, 3), -np.inf, dtype)
    output, indices = R.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert_array_equal(output, np.full((1, 1, 2, 2), -np.inf))
    assert_array_equal(indices, [[[[0, 1], [3, 4]]]])  # the first element of each window that is not padding
    assert output.dtype == dtype


def test_max_pool_window_without_elements_is_refused():
    with pytest.raises(ValueError, match="padding: expected every window to hold an element"):
        R.max_pool1d(np.zeros((1, 1, 3)), 2, 1, padding=1, dilation=4)


def test_max_pool_taps_beyond_a_byte():
    x = distinct(0, 1, 1, 17, 16)
    _, taps = R.max_pool2d_taps(x, (17, 16))
    assert taps.dtype == np.int32
    assert taps.item() == x.argmax()
    _, taps = R.max_pool2d_taps(x, 16, 16)
    assert taps.dtype == np.uint8


def test_max_pool_unbatched_and_empty():
    x = normal(0, 3, 4, 6)
    output, indices = R.max_pool2d(x, 2, return_indices=True)
    batched, batched_indices = R.max_pool2d(x[None], 2, return_indices=True)
    assert_array_equal(output, batched[0])
    assert_array_equal(indices, batched_indices[0])
    assert_array_equal(
        R.max_pool2d_backward(output, indices, x.shape),
        R.max_pool2d_backward(batched, batched_indices, (1, 3, 4, 6))[0],
    )
    empty = np.zeros((0, 3, 4, 6))
    output, indices = R.max_pool2d(empty, 2, return_indices=True)
    assert output.shape == indices.shape == (0, 3, 2, 3)
    assert R.max_pool2d_backward(output, indices, empty.shape).shape == empty.shape
    output, taps = R.max_pool2d_taps(empty, 2)
    assert R.max_pool2d_taps_backward(output, taps, empty.shape, 2).shape == empty.shape
    assert R.max_unpool2d(output, indices, 2).shape == empty.shape
    assert R.max_unpool2d_backward(empty, indices).shape == output.shape


def test_max_unpool_known():
    """The examples of torch's documentation."""
    x = np.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    output, indices = R.max_pool2d(x, 2, return_indices=True)
    restored = [[0, 0, 0, 0], [0, 6, 0, 8], [0, 0, 0, 0], [0, 14, 0, 16]]
    assert_array_equal(R.max_unpool2d(output, indices, 2)[0, 0], restored)
    assert R.max_unpool2d(output, indices, 2, output_size=(1, 1, 5, 5)).shape == (1, 1, 5, 5)
    x = np.arange(1.0, 10.0).reshape(1, 1, 9)
    output, indices = R.max_pool1d(x, 2, 2, return_indices=True)
    assert_array_equal(R.max_unpool1d(output, indices, 2, 2), [[[0, 2, 0, 4, 0, 6, 0, 8]]])
    for size in (9, (9,), (1, 1, 9)):
        assert_array_equal(R.max_unpool1d(output, indices, 2, 2, output_size=size), [[[0, 2, 0, 4, 0, 6, 0, 8, 0]]])


@pytest.mark.parametrize("stride", [None, 1])  # by 1 the windows overlap, and indices repeat
def test_max_unpool_backward(stride):
    settings = ((3, 2), stride, 0, (6, 4))
    _, indices = R.max_pool2d(distinct(0, 2, 3, 6, 4), (3, 2), stride, return_indices=True)
    assert (len(np.unique(indices[0, 0])) < indices[0, 0].size) == (stride == 1)
    x, g = normal(1, *indices.shape), normal(2, 2, 3, 6, 4)
    assert_gradient(lambda x: R.max_unpool2d(x, indices, *settings), x, g, R.max_unpool2d_backward(g, indices))
    _, indices = R.max_pool1d(distinct(0, 2, 3, 6), 3, stride, return_indices=True)
    x, g = normal(1, *indices.shape), normal(2, 2, 3, 6)
    assert_gradient(lambda x: R.max_unpool1d(x, indices, 3, stride, 0, 6), x, g, R.max_unpool1d_backward(g, indices))


# --- average pooling ------------------------------------------------------------------------------------------------


@given(windows(pool=True), st.booleans(), st.sampled_from([None, 1, 7, -2]))
def test_avg_pool2d(geometry, count_include_pad, divisor_override):
    size, kernel, stride, padding, _, ceil_mode = geometry
    args = (kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    out = [R.output_size(*axis, 1, ceil_mode) for axis in zip(size, kernel, stride, padding, strict=True)]
    x = normal(0, 2, 2, *size)
    expected = np.zeros((2, 2, *out))
    for y, z in np.ndindex(*out):
        rows = positions(y, size[0], kernel[0], stride[0], padding[0])
        cols = positions(z, size[1], kernel[1], stride[1], padding[1])
        margin = padding if count_include_pad else (0, 0)
        counted = sum(
            -margin[0] <= r < size[0] + margin[0] and -margin[1] <= c < size[1] + margin[1] for r in rows for c in cols
        )
        for r, c in itertools.product(rows, cols):
            if 0 <= r < size[0] and 0 <= c < size[1]:
                expected[:, :, y, z] += x[:, :, r, c]
        expected[:, :, y, z] /= divisor_override or counted
    output = R.avg_pool2d(x, *args)
    assert_allclose(output, expected, rtol=1e-10, atol=1e-12)
    g = normal(1, *output.shape)
    assert_gradient(lambda x: R.avg_pool2d(x, *args), x, g, R.avg_pool2d_backward(g, x.shape, *args))


@given(windows(pool=True), st.booleans())
def test_avg_pool1d(geometry, count_include_pad):
    (size, _), (kernel, _), (stride, _), (padding, _), _, ceil_mode = geometry
    args = (kernel, stride, padding, ceil_mode, count_include_pad)
    x = normal(0, 2, 3, size)
    output = R.avg_pool1d(x, *args)
    row = ((1, kernel), (1, stride), (0, padding), ceil_mode, count_include_pad)
    assert_array_equal(output, R.avg_pool2d(x[:, :, None], *row)[:, :, 0])
    g = normal(1, *output.shape)
    assert_gradient(lambda x: R.avg_pool1d(x, *args), x, g, R.avg_pool1d_backward(g, x.shape, *args))


def test_avg_pool_divisors():
    x = np.ones((1, 1, 5))
    assert_array_equal(R.avg_pool1d(np.arange(1.0, 8.0).reshape(1, 1, 7), 3, 2), [[[2, 4, 6]]])
    assert_allclose(R.avg_pool1d(x, 3, 2, 1), [[[2 / 3, 1, 2 / 3]]])
    assert_array_equal(R.avg_pool1d(x, 3, 2, 1, count_include_pad=False), [[[1, 1, 1]]])
    # The third window, at 3 to 6, holds elements 3 and 4, padding 5, and an overhang that is not counted.
    assert_allclose(R.avg_pool1d(x, 4, 2, 1, ceil_mode=True), [[[3 / 4, 1, 2 / 3]]])
    assert_array_equal(R.avg_pool1d(x, 4, 2, 1, ceil_mode=True, count_include_pad=False), [[[1, 1, 1]]])
    assert_array_equal(R.avg_pool2d(np.ones((1, 1, 2, 2)), 2, divisor_override=1), [[[[4]]]])
    # A window of one element with stride 2 does not leave the input in ceil mode.
    assert_array_equal(R.avg_pool1d(np.arange(4.0)[None, None], 1, 2, ceil_mode=True), [[[0, 2]]])


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_adaptive_avg_pool2d(size, out):
    x = normal(0, 2, 2, *size)
    expected = np.empty((2, 2, *out))
    for y, z in np.ndindex(*out):
        rows = slice(math.floor(y * size[0] / out[0]), math.ceil((y + 1) * size[0] / out[0]))
        cols = slice(math.floor(z * size[1] / out[1]), math.ceil((z + 1) * size[1] / out[1]))
        expected[:, :, y, z] = x[:, :, rows, cols].mean(axis=(2, 3))
    output = R.adaptive_avg_pool2d(x, out)
    assert_allclose(output, expected, rtol=1e-10, atol=1e-12)
    g = normal(1, *output.shape)
    assert_gradient(lambda x: R.adaptive_avg_pool2d(x, out), x, g, R.adaptive_avg_pool2d_backward(g, x.shape))
    x, g = x[:, :, 0], g[:, :, 0]
    assert_gradient(lambda x: R.adaptive_avg_pool1d(x, out[1]), x, g, R.adaptive_avg_pool1d_backward(g, x.shape))


def test_adaptive_avg_pool_arguments():
    x = normal(0, 2, 3, 4, 6)
    assert_array_equal(R.adaptive_avg_pool2d(x, (None, 3)), R.adaptive_avg_pool2d(x, (4, 3)))
    assert_allclose(R.adaptive_avg_pool2d(x, 1)[..., 0, 0], x.mean(axis=(2, 3)))
    assert_array_equal(R.adaptive_avg_pool2d(x[0], 2), R.adaptive_avg_pool2d(x, 2)[0])
    assert_array_equal(R.adaptive_avg_pool1d(x[0], (2,)), R.adaptive_avg_pool1d(x[0], 2))
    assert R.adaptive_avg_pool2d(np.zeros((0, 3, 4, 6)), 2).shape == (0, 3, 2, 2)
    assert R.adaptive_avg_pool2d_backward(np.zeros((0, 3, 2, 2)), (0, 3, 4, 6)).shape == (0, 3, 4, 6)


# --- batch norm -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 5), (2, 3, 4, 2)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(shape, training, affine):
    x = normal(0, *shape) * 3 + 1
    running_mean, running_var = normal(1, 3), normal(2, 3) ** 2 + 0.5
    weight, bias = (normal(3, 3), normal(4, 3)) if affine else (None, None)

    def forward(x, weight=weight, bias=bias):
        return R.batch_norm(x, running_mean.copy(), running_var.copy(), weight, bias, training)

    new_mean, new_var = running_mean.copy(), running_var.copy()
    output, mean, invstd = R.batch_norm(x, new_mean, new_var, weight, bias, training, return_saved=True)
    rows = np.moveaxis(x, 1, -1).reshape(-1, 3)
    if training:
        assert_allclose(mean, rows.mean(axis=0))
        assert_allclose(invstd, 1 / np.sqrt(rows.var(axis=0) + 1e-5))
        assert_allclose(new_mean, 0.9 * running_mean + 0.1 * rows.mean(axis=0))
        assert_allclose(new_var, 0.9 * running_var + 0.1 * rows.var(axis=0, ddof=1))
    else:
        assert_array_equal(mean, running_mean)
        assert_allclose(invstd, 1 / np.sqrt(running_var + 1e-5))
        assert_array_equal(new_mean, running_mean)
        assert_array_equal(new_var, running_var)
    expected = (rows - mean) * invstd
    if affine:
        expected = expected * weight + bias
    assert_allclose(np.moveaxis(output, 1, -1).reshape(-1, 3), expected, rtol=1e-10, atol=1e-12)

    g = normal(5, *shape)
    grad_input, grad_weight, grad_bias = R.batch_norm_backward(g, x, weight, mean, invstd, training)
    assert_gradient(forward, x, g, grad_input)
    ones, zeros = np.ones(3), np.zeros(3)
    assert_gradient(lambda w: forward(x, w, zeros), ones if weight is None else weight, g, grad_weight)
    assert_gradient(lambda b: forward(x, ones, b), zeros if bias is None else bias, g, grad_bias)


def test_batch_norm_small_batches():
    running_mean, running_var = np.full(2, 3.0), np.full(2, 5.0)
    empty = np.zeros((0, 2, 4, 4))
    output, mean, invstd = R.batch_norm(empty, running_mean, running_var, training=True, return_saved=True)
    assert output.shape == empty.shape
    grad_input, grad_weight, grad_bias = R.batch_norm_backward(empty, empty, None, mean, invstd)
    assert grad_input.shape == empty.shape
    assert not grad_weight.any()
    assert not grad_bias.any()
    with pytest.raises(ValueError, match="input: expected more than one value per channel"):
        R.batch_norm(np.zeros((1, 2)), running_mean, running_var, training=True)
    assert_array_equal(running_mean, [3, 3])
    assert_array_equal(running_var, [5, 5])
    assert_allclose(R.batch_norm(np.full((1, 2), 8.0), running_mean, running_var, eps=0), np.full((1, 2), 5**0.5))


# --- activations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (R.relu, lambda g, x, y: R.relu_backward(g, y)),
        (R.leaky_relu, lambda g, x, y: R.leaky_relu_backward(g, x)),
        (lambda x: R.leaky_relu(x, 0.3), lambda g, x, y: R.leaky_relu_backward(g, x, 0.3)),
        (R.sigmoid, lambda g, x, y: R.sigmoid_backward(g, y)),
        (R.tanh, lambda g, x, y: R.tanh_backward(g, y)),
        (R.gelu, lambda g, x, y: R.gelu_backward(g, x)),
        (lambda x: R.gelu(x, "tanh"), lambda g, x, y: R.gelu_backward(g, x, "tanh")),
        (R.silu, lambda g, x, y: R.silu_backward(g, x)),
        (R.softmax, lambda g, x, y: R.softmax_backward(g, y)),
        (R.log_softmax, lambda g, x, y: R.log_softmax_backward(g, y)),
        (lambda x: R.softmax(x, 1), lambda g, x, y: R.softmax_backward(g, y, 1)),
        (lambda x: R.log_softmax(x, 0), lambda g, x, y: R.log_softmax_backward(g, y, 0)),
    ],
)
def test_activation_gradients(forward, backward):
    x, g = normal(0, 2, 3, 4) * 2, normal(1, 2, 3, 4)
    output = forward(x)
    assert_gradient(forward, x, g, backward(g, x, output))
    single = x.astype(np.float32)
    output = forward(single)
    assert output.dtype == np.float32
    assert_allclose(output, forward(x), rtol=1e-4, atol=1e-6)
    assert backward(g.astype(np.float32), single, output).dtype == np.float32


def test_activation_values():
    assert_allclose(R.gelu(np.array([1.0, -1.0, 3.0])), [0.8413447460685429, -0.15865525393145707, 2.9959503])
    assert_allclose(R.gelu(np.array([-10.0])), [-10 * 7.61985302416052e-24], rtol=1e-9)
    assert_allclose(R.silu(np.array([1.0])), [0.7310585786300049])
    assert_allclose(R.sigmoid(np.array([-40.0, 40.0])), [4.248354255291589e-18, 1.0], rtol=1e-12)
    assert_array_equal(R.relu(np.array([np.nan, -np.inf, np.inf])), [np.nan, 0, np.inf])
    assert_array_equal(R.relu_backward(np.array([1.0, 1.0, 1.0]), np.array([0.0, -0.0, 1e-300])), [0, 0, 1])
    assert_allclose(R.softmax(np.log([[1.0, 2.0, 5.0]])), [[0.125, 0.25, 0.625]])
    assert_allclose(np.exp(R.log_softmax(np.log([[1.0, 2.0, 5.0]]))), [[0.125, 0.25, 0.625]])
    far = np.array([-np.inf, -1e30, 1e30, np.inf])
    assert_array_equal(R.gelu_backward(np.ones(4), far), [0, 0, 1, 1])
    assert_array_equal(R.gelu_backward(np.ones(4), far, "tanh"), [0, 0, 1, 1])
    assert_array_equal(R.silu_backward(np.ones(4), far), [0, 0, 1, 1])
    assert R.gelu(np.zeros((0, 3))).shape == (0, 3)
    assert R.softmax(np.zeros((0, 3))).shape == (0, 3)


# --- dropout --------------------------------------------------------------------------------------------------------


class FixedSeed:
    """Stands in for a generator that draws one known number."""

    def __init__(self, seed):
        self.seed = np.uint64(seed)
        self.draws = 0

    def integers(self, low, high, dtype):
        assert (low, high, dtype) == (0, 2**64, np.uint64)
        self.draws += 1
        return self.seed


def test_dropout_bits_are_splitmix64():
    """The generator's published first outputs for the seed 1234567."""
    published = [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip
    for p in (0.1, 0.25, 0.5, 0.8):
        rng = FixedSeed(1234567)
        output, mask = R.dropout(np.full((1, 5), 3.0), p, rng=rng, return_mask=True)
        kept = [value / 2**64 < 1 - p for value in published]
        assert mask[0].tolist() == kept
        assert mask.dtype == np.uint8
        assert_allclose(output[0], np.where(kept, 3 / (1 - p), 0))
        assert rng.draws == 1


def test_dropout_counts_elements_in_logical_order():
    x = normal(0, 2, 4, 4, 3).transpose(0, 3, 1, 2)
    _, mask = R.dropout(x, rng=FixedSeed(7), return_mask=True)
    _, flat = R.dropout(x.ravel(), rng=FixedSeed(7), return_mask=True)
    assert_array_equal(mask.ravel(), flat)


def test_dropout_rates_and_modes():
    x = np.ones(100_000, np.float32)
    output, mask = R.dropout(x, 0.3, rng=np.random.default_rng(0), return_mask=True)
    assert output.dtype == np.float32
    assert abs(mask.mean() - 0.7) < 0.01
    assert abs(output.mean() - 1) < 0.01
    assert_array_equal(R.dropout(x, 0.0), x)
    assert not R.dropout(x, 1.0).any()
    unchanged, mask = R.dropout(x, 0.3, training=False, return_mask=True)
    assert mask is None
    assert_array_equal(unchanged, x)
    assert unchanged is not x
    assert R.dropout(np.zeros((0, 3))).shape == (0, 3)


def test_dropout_backward():
    x, g = normal(0, 3, 4), normal(1, 3, 4)
    _, mask = R.dropout(x, 0.4, rng=FixedSeed(9), return_mask=True)
    assert 0 < mask.sum() < mask.size
    gradient = R.dropout_backward(g, mask, 0.4)
    assert_gradient(lambda x: R.dropout(x, 0.4, rng=FixedSeed(9)), x, g, gradient)
    assert_array_equal(R.dropout_backward(g, None, 0.4), g)
    assert not R.dropout_backward(g, np.zeros(g.shape, np.uint8), 1.0).any()


# --- linear ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (0,)])
def test_linear(lead):
    x, weight, bias = normal(0, *lead, 4), normal(1, 3, 4), normal(2, 3)
    output = R.linear(x, weight, bias)
    assert output.shape == (*lead, 3)
    g = normal(3, *lead, 3)
    grad_input, grad_weight, grad_bias = R.linear_backward(g, x, weight)
    assert_gradient(lambda x: R.linear(x, weight, bias), x, g, grad_input)
    assert_gradient(lambda w: R.linear(x, w, bias), weight, g, grad_weight)
    assert_gradient(lambda b: R.linear(x, weight, b), bias, g, grad_bias)
    for needs in itertools.product([True, False], repeat=3):
        assert [a is not None for a in R.linear_backward(g, x, weight, needs=needs)] == list(needs)


# --- losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spatial", [(), (2, 3)])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(spatial, weighted, label_smoothing, reduction):
    x = normal(0, 4, 5, *spatial) * 2
    target = np.random.default_rng(1).integers(0, 5, (4, *spatial))
    target[1] = -1
    weight = np.random.default_rng(2).random(5) + 0.1 if weighted else None
    args = (target, weight, -1, reduction, label_smoothing)
    loss, gradient = R.cross_entropy(x, *args)

    w = np.ones(5) if weight is None else weight
    losses, divisor = np.zeros(target.shape), 0.0
    for place in np.ndindex(*target.shape):
        t = target[place]
        logits = x[(place[0], slice(None), *place[1:])]
        if t >= 0:
            negative = np.log(np.exp(logits).sum()) - logits
            losses[place] = (1 - label_smoothing) * w[t] * negative[t] + label_smoothing / 5 * (w * negative).sum()
            divisor += w[t]
    expected = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / divisor}[reduction]
    assert_allclose(loss, expected, rtol=1e-10)
    assert isinstance(loss, np.ndarray if reduction == "none" else float)

    numeric = differences(lambda x: float(np.sum(R.cross_entropy(x, *args)[0])), x)
    assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-7)
    single = None if weight is None else weight.astype(np.float32)
    loss, gradient = R.cross_entropy(x.astype(np.float32), target, single, *args[2:])
    assert gradient.dtype == np.float32
    assert_allclose(loss, expected, rtol=1e-4)


def test_cross_entropy_values():
    loss, gradient = R.cross_entropy(np.log([[1.0, 2.0, 5.0]]), np.array([2]))
    assert_allclose(loss, math.log(8 / 5))
    assert_allclose(gradient, [[0.125, 0.25, -0.375]])
    loss, gradient = R.cross_entropy(np.array([[1000.0, 0.0]]), np.array([1]))
    assert loss == 1000
    assert_array_equal(gradient, [[1, -1]])
    for x, target in ((np.zeros((0, 3)), np.zeros(0, int)), (np.zeros((2, 3)), np.full(2, -100))):
        loss, gradient = R.cross_entropy(x, target)
        assert math.isnan(loss)
        assert gradient.shape == x.shape
        assert not gradient.any()
    with pytest.raises(ValueError, match="target: expected classes from 0 to 2"):
        R.cross_entropy(np.zeros((1, 3)), np.array([3]))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_loss(reduction):
    x, target = normal(0, 3, 4), normal(1, 3, 4)
    loss, gradient = R.mse_loss(x, target, reduction)
    squares = (x - target) ** 2
    assert_allclose(loss, {"none": squares, "sum": squares.sum(), "mean": squares.mean()}[reduction])
    assert_allclose(gradient, differences(lambda x: np.sum(R.mse_loss(x, target, reduction)[0]), x), atol=1e-8)


def test_mse_loss_of_nothing():
    loss, gradient = R.mse_loss(np.zeros((0, 2)), np.zeros((0, 2)))
    assert math.isnan(loss)
    assert gradient.shape == (0, 2)


# --- updates --------------------------------------------------------------------------------------------------------


def test_sgd_update():
    param, buffer = np.array([1.0]), np.zeros(1)
    R.sgd_update(param, np.array([2.0]), buffer, 0.1, 0.9, 0.5, first_step=True)
    assert_allclose([param, buffer], [[0.8], [2.0]])  # undamped at first
    R.sgd_update(param, np.array([1.0]), buffer, 0.1, 0.9, 0.5)
    assert_allclose([param, buffer], [[0.8 - 0.23], [2.3]])  # 0.9 * 2 + 0.5 * 1
    param, buffer = np.array([1.0]), np.array([2.0])
    R.sgd_update(param, np.array([1.0]), buffer, 0.1, 0.9, nesterov=True)
    assert_allclose([param, buffer], [[1 - 0.1 * (1 + 0.9 * 2.8)], [2.8]])
    param, grad = np.array([1.0]), np.array([1.0])
    R.sgd_update(param, grad, None, 0.1, weight_decay=0.5)
    assert_allclose([param, grad], [[0.85], [1.0]])


@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_update(decoupled):
    lr, b1, b2, eps, decay = 0.01, 0.8, 0.95, 1e-3, 0.1
    param, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    expected = [[1.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]
    for step, grads in enumerate([(0.5, -1.0), (0.1, 3.0), (-0.7, 0.0)], start=1):
        grad = np.array(grads)
        R.adam_update(param, grad, m, v, step, lr, b1, b2, eps, decay, decoupled)
        assert_array_equal(grad, grads)
        for one, g in zip(expected, grads, strict=True):
            if decoupled:
                one[0] -= lr * decay * one[0]
            else:
                g += decay * one[0]
            one[1], one[2] = b1 * one[1] + (1 - b1) * g, b2 * one[2] + (1 - b2) * g * g
            one[0] -= lr * (one[1] / (1 - b1**step)) / (math.sqrt(one[2] / (1 - b2**step)) + eps)
    assert_allclose(np.stack([param, m, v], axis=1), expected, rtol=1e-12)


def test_clip_grad_norm():
    grad = np.array([3.0, 4.0], np.float32)
    assert R.clip_grad_norm(grad, 10.0) == 5
    assert_array_equal(grad, [3, 4])
    assert R.clip_grad_norm(grad, 0.5) == 5
    assert_allclose(grad, [0.3, 0.4], rtol=1e-6)
    grad = np.array([1e-20, 1e20], np.float32)
    assert R.clip_grad_norm(grad, 1e30) == pytest.approx(1e20)
    grad = np.array([1.0, np.nan])
    assert math.isnan(R.clip_grad_norm(grad, 1.0))
    assert np.isnan(grad).all()


# --- all ------------------------------------------------------------------------------------------------------------


def test_float32_stays_float32():
    x, weight = np.ones((2, 4, 6, 6), np.float32), np.ones((4, 2, 3, 3), np.float32)
    vector = np.ones(4, np.float32)
    output, mean, invstd = R.batch_norm(x, vector.copy(), vector.copy(), vector, vector, True, return_saved=True)
    convolved = R.conv2d(x, weight, vector, padding=1, groups=2)
    pooled, indices = R.max_pool2d(x, 3, 2, 1, return_indices=True)
    results = [
        output, mean, invstd, convolved, pooled,
        *R.batch_norm_backward(x, x, vector, mean, invstd),
        *R.conv2d_backward(convolved, x, weight, padding=1, groups=2),
        *R.conv1d_backward(x[:, :, 0], x[:, :, 0], weight[:, :, 0], padding=1, groups=2),
        R.max_pool2d_backward(pooled, indices, x.shape), R.max_unpool2d(pooled, indices, 3, 2, 1, (6, 6)),
        R.max_pool2d_taps_backward(*R.max_pool2d_taps(x, 2), x.shape, 2),
        R.avg_pool2d(x, 3, 2, 1), R.avg_pool2d_backward(R.avg_pool2d(x, 3, 2, 1), x.shape, 3, 2, 1),
        R.adaptive_avg_pool2d(x, 4), R.adaptive_avg_pool2d_backward(R.adaptive_avg_pool2d(x, 4), x.shape),
        R.dropout(x), R.linear(x, x[0, 0]), *R.linear_backward(x, x, x[0, 0]), R.mse_loss(x, x)[1],
    ]  # fmt: skip
    assert [result.dtype for result in results] == [np.float32] * len(results)


def test_arguments_are_left_alone():
    """Read-only arrays work, so nothing that is not meant to be updated is written to."""
    arrays = [normal(0, 2, 2, 5, 5), normal(1, 3, 2, 2, 2), normal(2, 3), normal(3, 2, 3, 4, 4)]
    for array in arrays:
        array.setflags(write=False)
    x, weight, bias, g = arrays
    assert R.conv2d(x, weight, bias).shape == g.shape
    R.conv2d_backward(g, x, weight)
    _, indices = R.max_pool2d(x, 2, return_indices=True)
    R.avg_pool2d(x, 2)
    R.batch_norm(x, None, None, training=True)
    R.relu_backward(x, x)
    R.max_pool2d_backward(R.max_pool2d(x, 2), indices, x.shape)


def test_doctests():
    failures, examples = doctest.testmod(R)
    assert examples > 40
    assert failures == 0
