"""Winograd's F(2x4, 3x3) of float32 and, below the precision 'highest', F(4x4, 3x3): errors, bits, special values."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from windows import channels_last, in_order

import fastcnn
from fastcnn import functional as F
from fastcnn import reference
from fastcnn.kernels import isa

PASSES = ["forward", "backward-data", "backward-weight"]
# Root mean square, relative to the result's; the products of a matrix unit err more.
BOUNDS = {"highest": 5e-7, "high": 1e-5 if isa.has_matrix_unit() else 2.2e-6}


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture(autouse=True)
def precision():
    """A function that sets the precision until the test's end; 'high' at first."""
    fastcnn.set_float32_matmul_precision("high")
    yield fastcnn.set_float32_matmul_precision
    fastcnn.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("path", isa.available())
def test_every_instruction_set(path):
    """The other tests of this file, in a process of its own for each path that the CPU has."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not every"]
    done = subprocess.run(command, env={**os.environ, "FASTCNN_ISA": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def all_passes(x, weight, dy, bias=None, f=F, **arguments):
    return f.conv2d(x, weight, bias, **arguments), *f.conv2d_backward(dy, x, weight, **arguments)


def in_double(x, weight, dy, **arguments):
    return all_passes(*(array.astype(np.float64) for array in (x, weight, dy)), **arguments)


def error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


@pytest.mark.skipif(isa.has_matrix_unit(), reason="the matrix unit multiplies otherwise at each precision")
def test_it_is_taken_below_highest_and_of_float32_only(precision):
    x, weight, dy = normal(4, 16, 32, 32), normal(24, 16, 3, 3), normal(4, 24, 32, 32)
    for dtype in (np.float32, np.float64):
        operands = [channels_last(array.astype(dtype)) for array in (x, weight, dy)]
        operands[1] = np.ascontiguousarray(operands[1])
        found = {}
        for name in ("highest", "high", "medium"):
            precision(name)
            found[name] = all_passes(*operands, padding=1)
        for highest, high, medium in zip(*found.values(), strict=True):
            assert_array_equal(high, medium)
            if highest.ndim > 1:
                assert np.array_equal(high, highest) == (dtype == np.float64)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("length", [144, 576, 2304, 4608])
def test_errors_by_length_of_the_sum(which, length, relu, name, precision):
    """Of numbers about 0, and of positive ones, whose sums are longer than their differences."""
    precision(name)
    n, size, channels, outputs = {
        "forward": (8, 16, length // 9, 16),
        "backward-data": (8, 16, 16, length // 9),
        "backward-weight": (length // 16, 8, 16, 16),  # four times the length
    }[which]
    x, dy = channels_last(normal(n, channels, size, size)), channels_last(normal(n, outputs, size, size, seed=1))
    weight = normal(outputs, channels, 3, 3, seed=2)
    if relu:
        x, dy = np.maximum(x, 0), np.maximum(dy, 0)
    place = PASSES.index(which)
    got, expected = all_passes(x, weight, dy, padding=1)[place], in_double(x, weight, dy, padding=1)[place]
    assert error(got, expected) < BOUNDS[name]


@pytest.mark.skipif(isa.has_matrix_unit(), reason="the matrix unit rounds whole numbers otherwise")
@pytest.mark.parametrize(("size", "dtype", "exact"), [(32, np.float32, False), (5, np.float32, True),
                                                      (32, np.float64, True)])  # fmt: skip
def test_whole_numbers_tell_the_tiles_at_highest(size, dtype, exact, precision):
    """In tiles of 2x2 their sums are exact; of 2x4, which float32 takes unless they overhang, they are rounded."""
    precision("highest")
    draw = np.random.default_rng(0)
    x, weight, dy = (draw.integers(-9, 10, s).astype(dtype) for s in
                     [(16, 16, size, size), (32, 16, 3, 3), (16, 32, size, size)])  # fmt: skip
    operands = channels_last(x), weight, channels_last(dy)
    for got, want in list(zip(all_passes(*operands, padding=1), in_double(*operands, padding=1), strict=True))[:3]:
        assert np.array_equal(got, want) == exact
        assert error(got, want) < BOUNDS["highest"]


# Tiles that overhang, more padding than a tile has rows, images together in a block, columns in blocks, windows at one
# edge alone, many channels and outputs, groups, channels that fill no register.
GEOMETRIES = {
    "tiles": ((4, 32, 32, 32), (16, 32, 3, 3), {"padding": 1}),
    "overhanging": ((8, 40, 23, 26), (35, 40, 3, 3), {"padding": 1}),
    "three of four": ((40, 24, 7, 11), (48, 24, 3, 3), {"padding": 1}),
    "no padding": ((3, 48, 34, 29), (24, 48, 3, 3), {}),
    "padding": ((3, 32, 20, 21), (32, 32, 3, 3), {"padding": (7, 6)}),
    "small images": ((150, 64, 4, 4), (16, 64, 3, 3), {"padding": 1}),
    "columns in blocks": ((1, 64, 8, 1100), (32, 64, 3, 3), {"padding": (1, 0)}),
    "many": ((20, 160, 12, 12), (290, 160, 3, 3), {"padding": 1}),
    "groups": ((4, 96, 24, 24), (144, 32, 3, 3), {"padding": 1, "groups": 3}),
}


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("size", "kernel", "arguments"), GEOMETRIES.values(), ids=list(GEOMETRIES))
def test_geometries_and_threads(size, kernel, arguments, order, precision, threads):
    """Right everywhere, and the same bits for any number of threads."""
    x, weight, bias = in_order(normal(*size), order), normal(*kernel, seed=1), normal(kernel[0], seed=2)
    dy = in_order(normal(*F.conv2d(x, weight, **arguments).shape, seed=3), order)
    expected = in_double(x, weight, dy, **arguments)
    expected = expected[0] + bias.astype(np.float64)[:, None, None], *expected[1:]
    found = {}
    for name, bound in BOUNDS.items():
        precision(name)
        threads(1)
        found[name] = all_passes(x, weight, dy, bias, **arguments)
        for got, want in zip(found[name], expected, strict=True):
            assert error(got, want) < bound
            assert_allclose(got, want, rtol=0, atol=(5e-5 if isa.has_matrix_unit() else 2e-5) * np.abs(want).max())
        for count in (2, 3, 8):
            threads(count)
            for got, want in zip(all_passes(x, weight, dy, bias, **arguments), found[name], strict=True):
                assert_array_equal(got, want)
    for i, (high, highest) in enumerate(zip(found["high"], found["highest"], strict=True)):
        assert i == 3 or not np.array_equal(high, highest)  # so F(4x4) was tested, but for the bias


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(3.4e38), np.float32(1e33)])
@pytest.mark.parametrize("operand", range(3))
@pytest.mark.parametrize("name", BOUNDS)
def test_special_values(value, operand, name, precision):
    """As in fp32 arithmetic: what shares a tile with an infinity, NaN or huge number keeps its digits."""
    precision(name)
    x, dy = np.ones((4, 16, 32, 32), np.float32), np.ones((4, 16, 32, 32), np.float32)
    weight = np.full((16, 16, 3, 3), 2, np.float32)
    (x, weight, dy)[operand][0, 7, 2, 1] = value
    x, dy = channels_last(x), channels_last(dy)
    got = all_passes(x, weight, dy, padding=1)
    with np.errstate(all="ignore"):
        expected = in_double(x, weight, dy, f=reference, padding=1)
        expected = [array.astype(np.float32) for array in expected]
    for place, (one, other) in enumerate(zip(got, expected, strict=True)):
        if operand != 1 or place != 1 or np.isfinite(value):  # an infinite weight meets zeros around the gradient
            assert_allclose(one, other, rtol=1e-6)


def test_the_precision_may_change_at_any_time(precision):
    """Between the two calls that ask for the scratch and use it, too: results are those of one of the two."""
    x, weight = channels_last(normal(4, 16, 32, 32)), normal(24, 16, 3, 3)
    results = []
    for name in ("highest", "high"):
        precision(name)
        results.append(F.conv2d(x, weight, padding=1))
    stop = threading.Event()

    def change():
        while not stop.is_set():
            precision("highest")
            precision("high")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            got = F.conv2d(x, weight, padding=1)
            assert any(np.array_equal(got, result) for result in results)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_what_comes_after_the_sums(order):
    """Batch norm, residual and ReLU are done once, also where sums are made again directly."""
    x, weight = in_order(normal(9, 16, 18, 23), order), normal(40, 16, 3, 3, seed=1)
    columns = [np.abs(normal(40, seed=i)) for i in range(3)]
    for value in (0, 1e33, np.nan):
        x[0, 0, 1, 1] += np.float32(value)
        made = F.conv2d(x, weight, padding=1)
        options = {"relu": True, "residual": in_order(normal(*made.shape, seed=2), order)}
        got = F.conv2d_norm(x, weight, None, *columns, padding=1, **options)
        assert_array_equal(got, F.batch_norm_apply(made, *columns, **options))
