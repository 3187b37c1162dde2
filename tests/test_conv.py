"""Convolution in all three passes: against the reference, finite differences, and every wrong argument."""

import ctypes
import itertools
import mmap
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from windows import channels_last, close, convolutions, in_order, windows_of_three

from fastcnn import functional as F
from fastcnn import reference
from fastcnn.kernels import isa


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@given(st.one_of(convolutions(), windows_of_three()))
def test_conv2d_against_reference(case):
    x, weight, bias, arguments, dtype = case
    output = F.conv2d(x, weight, bias, **arguments)
    close(output, reference.conv2d(x, weight, bias, **arguments), dtype)
    dy = normal(*output.shape, dtype=dtype, seed=1)
    expected = reference.conv2d_backward(dy, x, weight, **arguments)
    for got, want in zip(F.conv2d_backward(dy, x, weight, **arguments), expected, strict=True):
        close(got, want, dtype)


@given(convolutions(dims=1))
def test_conv1d_against_reference(case):
    x, weight, bias, arguments, dtype = case
    arguments = {name: value[0] if isinstance(value, tuple) else value for name, value in arguments.items()}
    output = F.conv1d(x, weight, bias, **arguments)
    close(output, reference.conv1d(x, weight, bias, **arguments), dtype)
    dy = normal(*output.shape, dtype=dtype, seed=1)
    expected = reference.conv1d_backward(dy, x, weight, **arguments)
    for got, want in zip(F.conv1d_backward(dy, x, weight, **arguments), expected, strict=True):
        close(got, want, dtype)


@pytest.mark.parametrize("kernel", [(2, 3), (4, 2), (3, 6)])
@pytest.mark.parametrize("dilation", [1, (3, 1), (1, 2)])
def test_same_padding_puts_the_odd_zero_at_the_end(kernel, dilation):
    x, weight = normal(2, 3, 8, 7), normal(4, 3, *kernel)
    options = {"padding": "same", "dilation": dilation}
    output = F.conv2d(x, weight, **options)
    assert output.shape == (2, 4, 8, 7)
    assert_allclose(output, reference.conv2d(x, weight, **options), atol=1e-12)
    dy = normal(*output.shape, seed=1)
    expected = reference.conv2d_backward(dy, x, weight, **options)
    for got, want in zip(F.conv2d_backward(dy, x, weight, **options), expected, strict=True):
        assert_allclose(got, want, atol=1e-12)
    row = F.conv1d(np.array([[[1.0, 2, 3]]]), np.array([[[10.0, 1]]]), padding="same")
    assert_array_equal(row, [[[12, 23, 30]]])


# Shapes that the tiling treats apart: several chunks of channels, several panels and a partial one, columns in blocks,
# one image cut over its panels, a long row of pixels (1x1), a window as large as the image, pixels no window reads.
TILINGS = [
    ((1, 200, 9, 9), (40, 200, 3, 3), {"padding": 1}),
    ((2, 70, 5, 5), (100, 70, 3, 3), {"padding": 1}),
    ((1, 300, 4, 4), (130, 300, 3, 3), {"padding": 1}),
    ((1, 3, 6, 3000), (8, 3, 5, 5), {"padding": 2}),
    ((1, 64, 1, 5000), (16, 64, 1, 9), {"padding": (0, 4)}),
    ((1, 1500, 2, 40), (5, 1500, 3, 3), {"padding": 1}),
    ((3, 24, 17, 19), (50, 24, 1, 1), {}),
    ((1, 8, 9, 7), (6, 8, 1, 1), {}),
    ((5, 300, 9, 8), (140, 300, 1, 1), {}),
    ((4, 64, 20, 20), (24, 64, 1, 1), {}),
    ((6, 40, 12, 15), (70, 20, 1, 1), {"groups": 2}),
    ((3, 24, 17, 19), (50, 24, 1, 1), {"stride": 2}),
    ((2, 24, 17, 19), (50, 24, 1, 1), {"padding": 1}),
    ((2, 6, 8, 9), (10, 6, 8, 9), {}),
    ((2, 4, 11, 13), (3, 4, 2, 2), {"stride": (5, 4)}),
    ((2, 4, 11, 13), (3, 4, 2, 3), {"stride": (4, 6), "dilation": (2, 3)}),
    ((2, 4, 3, 3), (3, 4, 1, 1), {"padding": 2, "stride": 2}),
    ((1, 700, 6, 20), (700, 1, 3, 3), {"padding": 1, "groups": 700}),
    ((1, 40, 30, 2000), (40, 1, 3, 5), {"padding": (1, 2), "groups": 40, "stride": (2, 1)}),
    ((1, 6, 9, 10), (12, 1, 3, 3), {"padding": 1, "groups": 6}),
    # Winograd's: tiles that overhang, images together in a block, columns in blocks, packed weights beyond the cache,
    # chunks of channels by sets of panels, groups.
    ((3, 40, 9, 12), (70, 40, 3, 3), {"padding": 1}),
    ((40, 24, 6, 6), (32, 24, 3, 3), {"padding": 1}),
    ((1, 48, 4, 900), (16, 48, 3, 3), {"padding": (1, 0)}),
    ((2, 160, 10, 10), (290, 160, 3, 3), {"padding": 1}),
    ((3, 64, 8, 8), (96, 32, 3, 3), {"padding": 2, "groups": 2}),
    # Few channels: LeNet's layers, blocks of rows, strides, gradients of many outputs, pixels that no window reads.
    ((20, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}),
    ((20, 6, 14, 14), (16, 6, 5, 5), {}),
    ((2, 3, 60, 61), (20, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 4, 50, 40), (7, 4, 5, 3), {"stride": (2, 1), "padding": 1, "dilation": (2, 1)}),
    ((1, 3, 9, 20), (400, 3, 3, 3), {"padding": 1}),
    ((2, 3, 23, 22), (30, 3, 2, 2), {"stride": (3, 4), "padding": 1}),
    ((3, 12, 20, 21), (15, 4, 3, 4), {"padding": 1, "groups": 3}),
    ((1, 2, 4, 2500), (2, 2, 3, 3), {"padding": (1, 7)}),
    # Sums over all 16 parts of the batch: of 1x1 windows, and of short ones.
    ((2, 20, 70, 64), (9, 20, 1, 1), {}),
    ((64, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}),
]


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("size", "kernel", "arguments"), TILINGS)
def test_every_tiling(size, kernel, arguments, order, threads):
    x, weight = in_order(normal(*size, dtype=np.float32), order), normal(*kernel, dtype=np.float32)
    bias = normal(kernel[0], dtype=np.float32, seed=2)
    results = []
    for count in (1, 2, 3, 8):
        threads(count)
        output = F.conv2d(x, weight, bias, **arguments)
        dy = normal(*output.shape, dtype=np.float32, seed=1)
        results.append((output, *F.conv2d_backward(dy, x, weight, **arguments)))
    double = [array.astype(np.float64) for array in (x, weight, bias, dy)]
    expected = (
        reference.conv2d(*double[:3], **arguments),
        *reference.conv2d_backward(double[3], *double[:2], **arguments),
    )
    for got, want in zip(results[0], expected, strict=True):
        assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert_array_equal(got, want)


# Shapes whose work is cut at every seam of an implementation, with a smaller piece at the end of each: blocks of rows
# and of columns (BLOCK_BYTES), chunks of channels (SUM_STEPS; PARTIAL_BYTES in backward-weight), panels, parts of
# panels and of images (TASKS, PART_PLACES), strips of the parts' sum (SUM_ROWS, SUM_OUTPUTS, TURNED).
SEAMS = {
    "chunks and panels": ((2, 40, 9, 11), (70, 40, 5, 5), {"padding": 2}),
    "blocks of rows": ((1, 20, 50, 261), (20, 20, 5, 5), {}),
    "blocks of columns": ((1, 20, 3, 3001), (9, 20, 3, 5), {"padding": (1, 2)}),
    "parts of panels": ((1, 20, 5, 5), (300, 20, 3, 3), {"stride": 2, "padding": 1}),
    "parts of images": ((37, 20, 5, 7), (36, 20, 4, 2), {}),
    "narrow chunks": ((3, 70, 8, 8), (330, 70, 5, 5), {"stride": 3, "padding": 2}),
    "groups": ((5, 36, 9, 10), (54, 12, 3, 3), {"groups": 3, "stride": 2}),
    "phases": ((2, 24, 15, 17), (40, 24, 4, 3), {"stride": (2, 3), "padding": 1}),
    "dilation": ((2, 24, 20, 21), (20, 24, 3, 3), {"dilation": (2, 3), "padding": (2, 3)}),
    "one row": ((1, 40, 1, 4001), (24, 40, 1, 7), {"padding": (0, 3)}),
    "depthwise chunks": ((2, 523, 7, 9), (523, 1, 3, 3), {"padding": 1, "groups": 523}),
    "depthwise blocks": ((2, 40, 31, 301), (40, 1, 3, 5), {"padding": 1, "groups": 40}),
    "points": ((2, 301, 31, 33), (139, 301, 1, 1), {}),
    "points of groups": ((3, 150, 13, 17), (78, 50, 1, 1), {"groups": 3}),
    "winograd": ((3, 150, 13, 14), (135, 150, 3, 3), {"padding": 1}),
    "winograd, small images": ((71, 33, 5, 4), (37, 33, 3, 3), {"padding": 1}),
    "winograd, wide": ((1, 40, 7, 1301), (18, 40, 3, 3), {"padding": 1}),
    "winograd, groups": ((4, 68, 12, 10), (70, 34, 3, 3), {"groups": 2}),
    "few channels": ((21, 3, 29, 28), (7, 3, 5, 5), {"padding": 2}),
    "few channels, many outputs": ((3, 3, 30, 33), (70, 3, 3, 3), {"padding": 1}),
    "few channels, strides": ((5, 3, 61, 40), (20, 3, 7, 7), {"stride": 2, "padding": 3}),
    "few channels, wide": ((1, 3, 5, 23001), (5, 3, 3, 3), {"padding": 1}),
    "few channels, groups": ((3, 12, 30, 41), (15, 4, 3, 4), {"padding": 1, "groups": 3}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", SEAMS)
def test_sums_at_seams(case, order, dtype):
    """Each product once: of whole numbers other than 0, so that none is lost in rounding."""
    size, kernel, arguments = SEAMS[case]
    draw = np.random.default_rng(0)

    def whole(*shape):
        return draw.choice(np.array([-2, -1, 1, 2], dtype), shape)

    x, weight, bias = in_order(whole(*size), order), whole(*kernel), whole(kernel[0])
    output = F.conv2d(x, weight, bias, **arguments)
    dy = in_order(whole(*output.shape), order)
    got = output, *F.conv2d_backward(dy, x, weight, **arguments)
    want = reference.conv2d(x, weight, bias, **arguments), *reference.conv2d_backward(dy, x, weight, **arguments)
    for one, other in zip(got, want, strict=True):
        assert np.abs(one - other).max() < 0.25  # 0 but for float32 by Winograd's algorithm or a matrix unit
        assert one.dtype == dtype


@pytest.mark.parametrize("path", isa.available())
def test_every_instruction_set(path):
    """The tilings, seams and special values once more, in a process of its own for each path that the CPU has."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "tiling or seams or special",
    ]
    done = subprocess.run(command, env={**os.environ, "FASTCNN_ISA": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{2 * len(TILINGS) + 4 * len(SEAMS) + 6} passed" in done.stdout


def test_a_path_the_cpu_lacks_is_an_error():
    done = subprocess.run(
        [sys.executable, "-c", "import fastcnn"],
        env={**os.environ, "FASTCNN_ISA": "sve9"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"FASTCNN_ISA: expected one of {', '.join(isa.available())} (what this CPU has), got 'sve9'" in done.stderr


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"padding": (1, 2)},
        {"stride": (2, 3), "padding": 1},
        {"dilation": (2, 1), "padding": (1, 0)},
        {"groups": 2, "stride": 2, "padding": 1},
        {"padding": "same"},
        {"padding": "same", "dilation": (1, 3)},
    ],
)
def test_gradients_against_finite_differences(arguments):
    x, weight, bias = normal(2, 4, 5, 7), normal(6, 4 // arguments.get("groups", 1), 3, 2, seed=1), normal(6, seed=2)
    dy = normal(*F.conv2d(x, weight, bias, **arguments).shape, seed=3)
    gradients = F.conv2d_backward(dy, x, weight, **arguments)
    for array, gradient in zip((x, weight, bias), gradients, strict=True):
        for place in itertools.islice(np.ndindex(array.shape), 0, None, 7):
            before = array[place]
            array[place] = before + 1e-6
            up = (F.conv2d(x, weight, bias, **arguments) * dy).sum()
            array[place] = before - 1e-6
            down = (F.conv2d(x, weight, bias, **arguments) * dy).sum()
            array[place] = before
            assert_allclose(gradient[place], (up - down) / 2e-6, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("needs", list(itertools.product([True, False], repeat=3)))
def test_needs(needs):
    x, weight, dy = normal(2, 4, 5, 7), normal(6, 4, 3, 2, seed=1), normal(2, 6, 3, 6, seed=3)
    every = F.conv2d_backward(dy, x, weight)
    for got, want, needed in zip(F.conv2d_backward(dy, x, weight, needs=needs), every, needs, strict=True):
        if needed:
            assert_array_equal(got, want)
        else:
            assert got is None


def test_error_of_long_sums_is_fp32s():
    """K from 9 to 4,608: at most twice the error that one rounding of each operand and the result would leave."""
    for channels in (1, 16, 64, 512):
        x, weight = normal(1, channels, 9, 9, dtype=np.float32), normal(16, channels, 3, 3, dtype=np.float32, seed=1)
        exact = reference.conv2d(x.astype(np.float64), weight.astype(np.float64), padding=1)
        got = F.conv2d(channels_last(x), weight, padding=1)
        assert np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)) < 1e-6


# --- arrays ---------------------------------------------------------------------------------------------------------


def test_output_keeps_the_memory_order():
    x, weight = normal(2, 3, 5, 7), normal(4, 3, 3, 3)
    assert F.conv2d(x, weight).flags.c_contiguous
    output = F.conv2d(channels_last(x), weight)
    assert output.transpose(0, 2, 3, 1).flags.c_contiguous
    grad_input, _, _ = F.conv2d_backward(np.ascontiguousarray(output), channels_last(x), weight)
    assert grad_input.transpose(0, 2, 3, 1).flags.c_contiguous
    one = channels_last(normal(2, 1, 5, 7))  # one channel: only the strides tell
    assert F.conv2d(one, normal(4, 1, 3, 3)).transpose(0, 2, 3, 1).flags.c_contiguous


def test_arrays_of_any_layout():
    x, weight, bias = normal(4, 6, 10, 14), normal(8, 3, 3, 3), normal(8)
    for array in (x, weight, bias):
        array.setflags(write=False)
    view = x[::2, ::-2, 1:8, ::2]
    expected = reference.conv2d(np.ascontiguousarray(view), weight[:, ::-1].copy(), bias[::-1].copy())
    assert_allclose(F.conv2d(view, weight[:, ::-1], bias[::-1]), expected)
    swapped = view.astype(">f8")
    assert_allclose(F.conv2d(swapped, weight[:, ::-1], bias[::-1]), expected)


def test_unbatched_and_empty():
    x, weight = normal(3, 5, 7), normal(4, 3, 3, 3)
    assert_array_equal(F.conv2d(x, weight), F.conv2d(x[None], weight)[0])
    dy = normal(4, 3, 5)
    for got, want in zip(F.conv2d_backward(dy, x, weight), F.conv2d_backward(dy[None], x[None], weight), strict=True):
        assert_array_equal(got, want.reshape(got.shape))
    assert F.conv1d(x[:, 0], weight[:, :, 0]).shape == (4, 5)
    none = np.zeros((0, 3, 5, 7))
    assert F.conv2d(none, weight).shape == (0, 4, 3, 5)
    grad_input, grad_weight, grad_bias = F.conv2d_backward(np.zeros((0, 4, 3, 5)), none, weight)
    assert grad_input.shape == none.shape
    assert not grad_weight.any()
    assert not grad_bias.any()


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("channels", "outputs"), [(20, 33), (20, 6), (5, 33)])
def test_special_values(channels, outputs, order):
    """What fp32 arithmetic gives: a NaN or an infinity reaches the windows that read it, and no others."""
    for value in (np.nan, np.inf, -np.inf, np.float32(3e38)):
        x, weight = np.ones((1, channels, 9, 9), np.float32), np.full((outputs, channels, 3, 3), 2, np.float32)
        x[0, 4, 4, 4] = value
        dy = np.ones((1, outputs, 7, 7), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = reference.conv2d(x, weight), *reference.conv2d_backward(dy, x, weight)
            dy[0, 3, 5, 2] = value
            expected_of_grad = reference.conv2d_backward(dy, np.ones_like(x), weight)
        x, dy = in_order(x, order), in_order(dy, order)
        got_of_grad = F.conv2d_backward(dy, np.ones_like(x), weight)
        dy = np.ones_like(dy)
        got = F.conv2d(x, weight), *F.conv2d_backward(dy, x, weight)
        for one, other in zip((*got, *got_of_grad), (*expected, *expected_of_grad), strict=True):
            assert_array_equal(one, other)


def test_values_that_only_the_transforms_overflow():
    """Sums of 4 large pixels are infinite, the convolution's own sums are not."""
    x = channels_last(np.full((1, 32, 8, 8), 2e38, np.float32))
    weight = np.zeros((32, 32, 3, 3), np.float32)
    weight[:, 0, 1, 1] = 1
    assert_array_equal(F.conv2d(x, weight), np.full((1, 32, 6, 6), np.float32(2e38)))


def test_concurrent_callers():
    cases = [(normal(2, c, 20, 20, seed=c), normal(c + 3, c, 3, 3, seed=c)) for c in range(1, 30)]
    expected = [F.conv2d(x, weight, padding=1) for x, weight in cases]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, want in zip(pool.map(lambda case: F.conv2d(*case, padding=1), cases), expected, strict=True):
                assert_array_equal(got, want)


# --- wrong arguments ------------------------------------------------------------------------------------------------

X, W = np.zeros((2, 4, 5, 7)), np.zeros((6, 4, 3, 3))
WRONG = [
    ((None, W), {}, TypeError, "input: expected a NumPy array of float32 or float64, got None"),
    ((X, None), {}, TypeError, "weight: expected a NumPy array of float32 or float64, got None"),
    ((X.tolist(), W), {}, TypeError, "input: expected a NumPy array of float32 or float64, got list"),
    ((X.astype(int), W), {}, TypeError, "input: expected an array of float32 or float64, got int64"),
    ((X, W.astype(np.float32)), {}, TypeError, "weight: expected float64 as input, got float32"),
    ((X[0, 0], W), {}, ValueError, r"input: expected 4-D or 3-D array, got shape \(5, 7\)"),
    ((X, W[0]), {}, ValueError, r"weight: expected 4-D array, got shape \(4, 3, 3\)"),
    ((X, W[:, :, :0]), {}, ValueError, r"weight: expected no extent of zero, got shape \(6, 4, 0, 3\)"),
    ((X, W[:, :3]), {}, ValueError, r"input: expected 3 \(of weight\) \* 1 \(groups\) channels, got shape"),
    ((X, W[:5, :2]), {"groups": 2}, ValueError, "groups: expected a divisor of the 5 output channels, got 2"),
    ((X, W), {"groups": 0}, ValueError, "groups: expected a positive int, got 0"),
    ((X, W), {"groups": 1.0}, TypeError, "groups: expected a positive int, got 1.0"),
    ((X, W, np.zeros(5)), {}, ValueError, r"bias: expected shape \(6,\), got \(5,\)"),
    ((X, W), {"stride": 0}, ValueError, "stride: expected a positive int, got 0"),
    ((X, W), {"stride": (1, 2, 3)}, ValueError, r"stride: expected an int or 2 of them, got \(1, 2, 3\)"),
    ((X, W), {"stride": np.array(3.0)}, TypeError, r"stride: expected a positive int, got array\(3.\)"),
    ((X, W), {"groups": np.zeros(2)}, TypeError, r"groups: expected a positive int, got array\(\[0., 0.\]\)"),
    ((X, W), {"stride": True}, TypeError, "stride: expected a positive int, got True"),
    ((X, W), {"padding": -1}, ValueError, "padding: expected a non-negative int, got -1"),
    (
        (X, W),
        {"padding": "full"},
        ValueError,
        "padding: expected an int, a tuple of int, 'same' or 'valid', got 'full'",
    ),
    ((X, W), {"padding": "same", "stride": 2}, ValueError, r"padding: expected 'same' only with stride 1, got stride"),
    ((X, W), {"dilation": 0}, ValueError, "dilation: expected a positive int, got 0"),
    ((X, W), {"dilation": 3}, ValueError, r"weight: expected a kernel that fits the padded input \(5, 7\)"),
    ((X[:, :, :0], W), {"padding": 2}, ValueError, "weight: expected a kernel that fits the padded input"),
    ((X, W), {"padding": 2**61}, ValueError, "input: expected a shape whose bytes fit in memory addresses, got"),
    ((X, W), {"padding": 2**70}, ValueError, "padding: expected a non-negative int, got"),
]


@pytest.mark.parametrize(("arrays", "arguments", "error", "message"), WRONG)
def test_wrong_arguments(arrays, arguments, error, message):
    with pytest.raises(error, match=message):
        F.conv2d(*arrays, **arguments)
    if len(arrays) == 2:
        with pytest.raises(error):
            F.conv2d_backward(np.zeros((2, 6, 3, 5)), *arrays, **arguments)


@pytest.mark.parametrize("stride", [2**31, 2**60, 2**61, 2**62, sys.maxsize])
@pytest.mark.parametrize("other", ["padding", "dilation", "stride"])
@pytest.mark.parametrize("channels", [1, 4, 300])
def test_numbers_near_the_limit_of_an_offset(stride, other, channels):
    """Refused, or computed right; they overflow nothing on the way."""
    x, weight = np.ones((2, channels, 8, 8), np.float32), np.ones((4, channels, 3, 3), np.float32)
    for size in (stride, stride - 1, 2**40):
        arguments = {"stride": stride, other: size}
        try:
            output = F.conv2d(x, weight, **arguments)
        except ValueError:
            with pytest.raises(ValueError, match=": expected"):
                F.im2col(x, 3, **arguments)
            continue
        padding = arguments.get("padding", 0)
        starts = [start - padding for start in range(0, 8 + 2 * padding - arguments.get("dilation", 1) * 2, stride)]
        assert output.shape[2:] == (len(starts), len(starts))
        one = [y for y, start in enumerate(starts) if -3 < start < 8]
        assert len(one) <= 1
        for y in one:
            window = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))[:, :, starts[y] + 2 :, starts[y] + 2 :][:, :, :3, :3]
            assert_array_equal(output[:, :, y : y + 1, y : y + 1], reference.conv2d(window, weight))
        assert np.count_nonzero(output) == 8 * len(one)
        if len(starts) <= 3:
            grads = F.conv2d_backward(output, x, weight, **arguments)
            assert np.count_nonzero(grads[1]) == (weight.size if one else 0)
            assert F.im2col(x, 3, **arguments).shape[2] == len(starts) ** 2


def test_wrong_gradients():
    with pytest.raises(ValueError, match=r"grad_output: expected shape \(2, 6, 3, 5\), got \(2, 6, 3, 4\)"):
        F.conv2d_backward(np.zeros((2, 6, 3, 4)), X, W)
    with pytest.raises(TypeError, match="input: expected float32 as grad_output, got float64"):
        F.conv2d_backward(np.zeros((2, 6, 3, 5), np.float32), X, W)
    with pytest.raises(ValueError, match="needs: expected three bools"):
        F.conv2d_backward(np.zeros((2, 6, 3, 5)), X, W, needs=(True, False))


# --- im2col, col2im -------------------------------------------------------------------------------------------------


@given(convolutions())
def test_im2col_and_col2im_against_reference(case):
    x, weight, _, arguments, dtype = case
    window = {"kernel_size": weight.shape[2:], **{k: arguments[k] for k in ("stride", "padding", "dilation")}}
    columns = F.im2col(x, **window)
    assert_array_equal(columns, reference.im2col(x, **window))
    back = F.col2im(columns, x.shape[2:], **window)
    close(back, reference.col2im(columns, x.shape[2:], **window), dtype)


def test_im2col_1d():
    x = normal(2, 3, 11)
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}
    columns = F.im2col1d(x, **window)
    assert_array_equal(columns, reference.im2col1d(x, **window))
    assert_allclose(F.col2im1d(columns, 11, **window), reference.col2im1d(columns, 11, **window))


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_im2col_bits_do_not_depend_on_threads(order, threads):
    x = in_order(normal(3, 8, 30, 31, dtype=np.float32), order)
    results = []
    for count in (1, 2, 3, 8):
        threads(count)
        columns = F.im2col(x, (3, 5), padding=(1, 2))
        results.append((columns, F.col2im(columns, (30, 31), (3, 5), padding=(1, 2))))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.im2col(X, (3, 0)), ValueError, "kernel_size: expected a positive int, got 0"),
        (lambda: F.im2col(X, 8), ValueError, r"kernel_size: expected a window that fits the padded image"),
        (lambda: F.im2col(X[0, 0], 2), ValueError, r"input: expected 4-D or 3-D array, got shape \(5, 7\)"),
        (
            lambda: F.col2im(X[0], (5, 7), 3),
            ValueError,
            r"input: expected a multiple of kernel height \* width = 9 rows",
        ),
        (lambda: F.col2im(np.zeros((1, 9, 14)), (5, 7), 3), ValueError, r"input: expected shape \(1, 9, 15\), got"),
        (lambda: F.col2im(np.zeros((1, 9, 14)), (5, 0), 3), ValueError, "output_size: expected a positive int, got 0"),
        (lambda: F.im2col1d(X, 3), ValueError, "input: expected 3-D or 2-D array"),
    ],
)
def test_wrong_windows(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- linear ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(1, 80), st.integers(1, 80), st.sampled_from([np.float32, np.float64]))
def test_linear_against_reference(n, features, outputs, dtype):
    x, weight, bias = (normal(*size, dtype=dtype) for size in ((n, features), (outputs, features), (outputs,)))
    close(F.linear(x, weight, bias), reference.linear(x, weight, bias), dtype)
    dy = normal(n, outputs, dtype=dtype, seed=1)
    expected = reference.linear_backward(dy, x, weight)
    for got, want in zip(F.linear_backward(dy, x, weight), expected, strict=True):
        close(got, want, dtype)


@given(st.integers(0, 40), st.integers(1, 80), st.integers(1, 40), st.sampled_from([np.float32, np.float64]))
def test_linear_behind_relu(n, features, outputs, dtype):
    x, weight, bias = (normal(*size, dtype=dtype) for size in ((n, features), (outputs, features), (outputs,)))
    y, dy = F.linear(x, weight, bias, relu=True), normal(n, outputs, dtype=dtype, seed=1)
    assert_array_equal(y, F.relu(F.linear(x, weight, bias)))
    close(y, reference.linear(x, weight, bias, relu=True), dtype)
    expected = F.linear_backward(F.relu_backward(dy, y), x, weight)
    reference_grads = reference.linear_backward(dy, x, weight, relu=y)
    for got, same, want in zip(F.linear_backward(dy, x, weight, relu=y), expected, reference_grads, strict=True):
        assert_array_equal(got, same)
        close(got, want, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("outputs", [1, 3, 19, 130])
@pytest.mark.parametrize("n", [1, 2, 4, 7, 16, 17, 600])
def test_linear_of_every_form(n, outputs, dtype, threads):
    """Sums in parts, each way to go through the images, and work for two threads: right, and the same bits."""
    x, weight, bias = (normal(*size, dtype=dtype) for size in ((n, 2053), (outputs, 2053), (outputs,)))
    dy = normal(n, outputs, dtype=dtype, seed=1)
    results = []
    for count in (1, 2):
        threads(count)
        results.append((F.linear(x, weight, bias), *F.linear_backward(dy, x, weight)))
    for one, two in zip(*results, strict=True):
        assert one.tobytes() == two.tobytes()
    expected = reference.linear(x, weight, bias), *reference.linear_backward(dy, x, weight)
    for got, want in zip(results[0], expected, strict=True):
        close(got, want, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_of_one_image_and_many_outputs(dtype, threads):
    """The input's gradient is then a sum in parts, over the outputs."""
    x, weight = normal(1, 21, dtype=dtype), normal(2500, 21, dtype=dtype, seed=1)
    dy = normal(1, 2500, dtype=dtype, seed=2)
    expected = reference.linear_backward(dy, x, weight)
    for count in (1, 2):
        threads(count)
        for got, want in zip(F.linear_backward(dy, x, weight), expected, strict=True):
            close(got, want, dtype)


def test_linear_takes_any_leading_axes():
    x, weight = normal(2, 3, 5), normal(4, 5)
    assert_allclose(F.linear(x, weight), x @ weight.T)
    assert_allclose(F.linear(x[0, 0], weight), x[0, 0] @ weight.T)
    assert F.linear_backward(normal(2, 3, 4), x, weight)[0].shape == x.shape


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ((X, np.zeros((3, 6))), ValueError, r"input: expected 6 features \(of weight\) in the last axis, got shape"),
        ((X, np.zeros((3, 0))), ValueError, "weight: expected no extent of zero"),
        ((X, W), ValueError, "weight: expected 2-D array"),
        ((X, np.zeros((3, 7)), np.zeros(4)), ValueError, r"bias: expected shape \(3,\), got \(4,\)"),
        ((X, np.zeros((3, 7), np.float32)), TypeError, "weight: expected float64 as input, got float32"),
    ],
)
def test_wrong_linear(arrays, error, message):
    with pytest.raises(error, match=message):
        F.linear(*arrays)


@pytest.mark.parametrize(
    ("relu", "error", "message"),
    [
        (np.zeros((2, 4)), ValueError, r"relu: expected shape \(2, 3\), got \(2, 4\)"),
        (np.zeros((2, 3), np.float32), TypeError, "relu: expected float64 as input, got float32"),
        (True, TypeError, "relu: expected a NumPy array of float32 or float64, got bool"),
    ],
)
def test_wrong_output_of_relu(relu, error, message):
    with pytest.raises(error, match=message):
        F.linear_backward(np.zeros((2, 3)), np.zeros((2, 7)), np.zeros((3, 7)), relu=relu)
    with pytest.raises(TypeError, match="relu: expected a bool, got 1"):
        F.linear(np.zeros((2, 7)), np.zeros((3, 7)), relu=1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for a page that cannot be read")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_is_read_past_a_gradient_of_groups(dtype):
    """Of groups that share a panel's width: registers of the last one end where the gradient does."""
    groups, outputs = 2, 64 // np.dtype(dtype).itemsize
    x, weight = channels_last(normal(8, 20, 7, 35, dtype=dtype)), normal(outputs, 10, 4, 5, dtype=dtype)
    made = channels_last(F.conv2d(x, weight, groups=groups))
    memory = mmap.mmap(-1, (made.nbytes // mmap.PAGESIZE + 2) * mmap.PAGESIZE)
    end = len(memory) - mmap.PAGESIZE
    dy = np.frombuffer(memory, dtype, made.size, end - made.nbytes).reshape(made.transpose(0, 2, 3, 1).shape)
    dy[...] = made.transpose(0, 2, 3, 1)
    page = ctypes.addressof(ctypes.c_char.from_buffer(memory, end))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    assert protect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    got = F.conv2d_backward(dy.transpose(0, 3, 1, 2), x, weight, groups=groups)
    for one, other in zip(got, F.conv2d_backward(made, x, weight, groups=groups), strict=True):
        assert_array_equal(one, other)
