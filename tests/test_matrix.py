"""Convolutions on a matrix unit: the split into bf16, errors, special values, bits, and the precision setting.

The tests of the unit run where FASTCNN_ISA names a path with one. In other processes one test runs them in a process of
its own, on the unit or on its model, where the CPU and the build have either.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from windows import channels_last, in_order

import fastcnn
from fastcnn import functional as F
from fastcnn import reference
from fastcnn.kernels import isa, matrix

on_the_unit = pytest.mark.skipif(not isa.has_matrix_unit(), reason="FASTCNN_ISA names no path with a matrix unit")
PATHS = [path for path in isa.available() if path.startswith("amx")]
PASSES = ["forward", "backward-data", "backward-weight"]
BOUNDS = {"highest": 5e-7, "high": 1e-5, "medium": 3e-3}  # root mean square, relative to the result's
TINY = 2.0**-126  # the least normal float32


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture(autouse=True)
def precision():
    """A function that sets the precision until the test's end."""
    yield fastcnn.set_float32_matmul_precision
    fastcnn.set_float32_matmul_precision("highest")


@pytest.mark.skipif(isa.has_matrix_unit(), reason="these tests run on one already")
@pytest.mark.parametrize("path", PATHS or [pytest.param(None, marks=pytest.mark.skip("no matrix unit, no model"))])
def test_in_a_process_on_the_unit(path):
    # The child must not start one in turn, whatever path it runs on.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not in_a_process"]
    done = subprocess.run(command, env={**os.environ, "FASTCNN_ISA": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


# --- the setting ----------------------------------------------------------------------------------------------------


def test_precision_is_kept_and_shown(precision, capsys):
    assert fastcnn.get_float32_matmul_precision() == "highest"
    for name in ("medium", "high", "highest"):
        precision(name)
        assert fastcnn.get_float32_matmul_precision() == name
        assert fastcnn.show_config("dicts")["float32 matmul precision"] == name


@pytest.mark.parametrize("wrong", ["Highest", "", "bf16", None, 3, ["high"]])
def test_wrong_precisions(precision, wrong):
    precision("high")
    with pytest.raises(ValueError, match="precision: expected 'highest', 'high' or 'medium', got "):
        precision(wrong)
    assert fastcnn.get_float32_matmul_precision() == "high"


def all_passes(x, weight, dy, **arguments):
    return F.conv2d(x, weight, **arguments), *F.conv2d_backward(dy, x, weight, **arguments)


def test_where_precision_changes_results(precision):
    """On the unit, in float32; elsewhere so small a convolution is the same at each."""
    for dtype in (np.float32, np.float64):
        x, weight, dy = (normal(*size, dtype=dtype) for size in ((1, 32, 9, 9), (32, 32, 3, 3), (1, 32, 7, 7)))
        found = {}
        for name in BOUNDS:
            precision(name)
            found[name] = all_passes(x, weight, dy)
        for name in ("high", "medium"):
            for got, highest in zip(found[name][:3], found["highest"][:3], strict=True):
                assert np.array_equal(got, highest) != (dtype == np.float32 and isa.has_matrix_unit())


# --- the split ------------------------------------------------------------------------------------------------------


def planes_of(x, count):
    """The bf16 planes of rows of 32 floats, as floats, and what `split` says is their largest magnitude."""
    out = np.empty((count, len(x), 16, 2), np.uint16)
    peak = matrix.split(x, count, out.view(np.uint8).reshape(-1))
    floats = (out.astype(np.uint32) << 16).view(np.float32)
    return floats.transpose(0, 1, 3, 2).reshape(count, len(x), 32), np.uint32(peak).view(np.float32)


@on_the_unit
def test_three_parts_are_the_number(rng):
    """For exponents whose last bit is a normal number, and as far as bf16's rounding does not overflow."""
    bits = rng.integers(0, 1 << 23, (4096, 32), dtype=np.uint32)
    bits |= rng.integers(24, 254, bits.shape, dtype=np.uint32) << 23
    bits |= rng.integers(0, 2, bits.shape, dtype=np.uint32) << 31
    bits[0, :5] = 0, 0x7F7F7FFF, 0x0C000000, 0x0C000001, 0x3F800000
    bits[1, :5] = 0x3F808000, 0x3F808001, 0x3F817FFF, 0x3F818000, 0x3FFFFFFF
    x = bits.view(np.float32)
    for count in (1, 2, 3):
        parts, peak = planes_of(x, count)
        assert peak == np.abs(x).max()
        rest = x.astype(np.float64) - parts.astype(np.float64).sum(0)
        assert np.all(np.abs(rest) <= np.abs(x) * [0, 2.0**-8, 2.0**-16, 0][count])
        # Each part is the bf16 number nearest to what the parts before it left.
        left = x.astype(np.float64) - parts[:-1].astype(np.float64).sum(0)
        assert np.all(np.abs(rest) <= np.maximum(np.abs(left) * 2.0**-8, 0))


@on_the_unit
def test_halves_round_to_even():
    x = np.zeros((1, 32), np.float32)
    x.view(np.uint32)[0, :4] = 0x3F808000, 0x3F818000, 0xBF808000, 0xBF818000
    assert_array_equal(planes_of(x, 1)[0][0, 0, :4].view(np.uint32), [0x3F800000, 0x3F820000, 0xBF800000, 0xBF820000])


@on_the_unit
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_the_peak_shows_what_is_not_finite(value):
    x = np.ones((7, 32), np.float32)
    x[3, 21] = value
    peak = planes_of(x, 3)[1]
    assert np.isnan(peak) if np.isnan(value) else peak == np.inf


@on_the_unit
def test_the_thread_keeps_its_tiles():
    before, between, again, after = matrix.configurations()
    assert before == after == bytes(64)
    assert between == again
    assert between[0] == 1  # the palette: tiles were configured


# --- errors ---------------------------------------------------------------------------------------------------------


def error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def one_pass(which, x, weight, dy, f=F, **arguments):
    if which == "forward":
        return f.conv2d(x, weight, **arguments)
    place = PASSES.index(which) - 1
    return f.conv2d_backward(dy, x, weight, **arguments, needs=[i == place for i in range(3)])[place]


@on_the_unit
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("length", [9, 36, 144, 576, 1152, 4608])
def test_errors_by_length_of_the_sum(which, length, precision):
    n, channels, outputs = {
        "forward": (1, length // 9, 32),
        "backward-data": (1, 32, length // 9),
        "backward-weight": (length // 9, 32, 32),
    }[which]
    size = 3 if which == "backward-weight" else 9
    x = channels_last(normal(n, channels, size, size))
    dy = channels_last(normal(n, outputs, size, size, seed=1))
    weight = normal(outputs, channels, 3, 3, seed=2)
    expected = one_pass(which, *(array.astype(np.float64) for array in (x, weight, dy)), padding=1)
    for name, bound in BOUNDS.items():
        precision(name)
        assert error(one_pass(which, x, weight, dy, padding=1), expected) < bound


GEOMETRIES = {
    "rows past a block": ((1, 32, 70, 40), (33, 32, 3, 3), {"padding": 1}),
    "wide": ((1, 40, 5, 1100), (32, 40, 3, 1), {"padding": (1, 0)}),
    "columns past a block": ((1, 512, 3, 120), (32, 512, 3, 3), {"padding": 1}),
    "pixels": ((3, 64, 19, 21), (80, 64, 1, 1), {}),
    "pixels, strided": ((3, 64, 19, 21), (80, 64, 1, 1), {"stride": (2, 3)}),
    "strided": ((2, 48, 17, 23), (64, 48, 3, 5), {"stride": (2, 3), "padding": (1, 2)}),
    "dilated": ((2, 32, 17, 23), (32, 32, 3, 2), {"dilation": (2, 3), "padding": 2}),
    "strided and dilated": ((2, 32, 23, 20), (32, 32, 3, 3), {"stride": (4, 2), "dilation": (3, 2), "padding": 3}),
    "groups": ((2, 96, 11, 10), (128, 48, 3, 3), {"groups": 2, "padding": 1}),
    "a stride beyond the window": ((2, 32, 16, 16), (48, 32, 2, 2), {"stride": 3}),
    "batches": ((40, 64, 14, 14), (64, 64, 3, 3), {"padding": 1}),
}


@on_the_unit
@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("size", "kernel", "arguments"), GEOMETRIES.values(), ids=list(GEOMETRIES))
def test_geometries_and_threads(size, kernel, arguments, order, precision, threads):
    """Right at each precision, and the same bits for any number of threads."""
    x, weight = in_order(normal(*size), order), normal(*kernel, seed=1)
    bias = normal(kernel[0], seed=2)
    exact = F.conv2d(x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64), **arguments)
    dy = in_order(normal(*exact.shape, seed=3), order)
    exact = exact, *F.conv2d_backward(*(array.astype(np.float64) for array in (dy, x, weight)), **arguments)
    for name, bound in BOUNDS.items():
        precision(name)
        results = []
        for count in (1, 2, 3, 8):
            threads(count)
            results.append((F.conv2d(x, weight, bias, **arguments), *F.conv2d_backward(dy, x, weight, **arguments)))
        for got, expected in zip(results[0], exact, strict=True):
            assert error(got, expected) < bound
        for other in results[1:]:
            for got, expected in zip(other, results[0], strict=True):
                assert_array_equal(got, expected)


# --- special values -------------------------------------------------------------------------------------------------


@on_the_unit
@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(3.4e38), np.float32(1e-40), np.float32(-1e-45)])
def test_special_values(value, name, precision):
    """As fp32 arithmetic has them, in whichever operand they are."""
    precision(name)
    for operand in range(3):
        x, dy = np.ones((1, 32, 9, 9), np.float32), np.ones((1, 32, 7, 7), np.float32)
        weight = np.full((32, 32, 3, 3), 2, np.float32)
        if abs(value) < 1:  # nothing beside it: a denormal is all that there is
            (x, weight, dy)[operand][...] = 0
        (x, weight, dy)[operand][0, 7, 2, 1] = value
        double = [array.astype(np.float64) for array in (x, weight, dy)]
        got = all_passes(channels_last(x), weight, channels_last(dy))
        with np.errstate(all="ignore"):
            expected = reference.conv2d(*double[:2]), *reference.conv2d_backward(double[2], *double[:2])
            expected = [array.astype(np.float32) for array in expected]
        for place, (one, other) in enumerate(zip(got, expected, strict=True)):
            if operand != 1 or place != 1 or np.isfinite(value):  # an infinite weight meets zeros around the gradient
                # Denormals may be off by the rounding of Winograd's transforms, to which the sums may be left.
                assert_allclose(one, other, rtol=0, atol=8 * 2.0**-149)


@on_the_unit
@pytest.mark.parametrize("name", BOUNDS)
def test_sums_that_only_bf16_would_overflow(name, precision):
    """The largest floats round to infinity in bf16; large products of both signs leave a finite sum."""
    precision(name)
    largest = np.finfo(np.float32).max
    x, weight = np.zeros((1, 32, 4, 4), np.float32), np.zeros((32, 32, 1, 1), np.float32)
    x[:, 0], weight[:, 0] = largest, 1
    assert_array_equal(F.conv2d(x, weight), np.full((1, 32, 4, 4), largest))
    x[:, :2], weight[:, 0], weight[:, 1] = 2.0**83, 2.0**43, -(2.0**43)
    assert_array_equal(F.conv2d(x, weight), np.zeros((1, 32, 4, 4), np.float32))


@on_the_unit
@pytest.mark.parametrize("scale", [2.0**-130, 2.0**-100, 2.0**-60, 2.0**-40])
@pytest.mark.parametrize("which", PASSES)
def test_small_numbers_keep_their_digits(which, scale):
    """Operands, or their products, near the range's end: no digit is lost that fp32 arithmetic would keep."""
    x, weight = normal(1, 32, 9, 9), normal(32, 32, 3, 3, seed=1)
    dy = normal(1, 32, 7, 7, seed=2)
    for factors in ((scale, 1, 1), (1, scale, 1), (1, 1, scale), (scale, scale, scale)):
        operands = [array * np.float32(factor) for array, factor in zip((x, weight, dy), factors, strict=True)]
        expected = one_pass(which, *(array.astype(np.float64) for array in operands))
        got = one_pass(which, *operands)
        # A sum of up to 288 products, each rounded to a multiple of the least denormal.
        assert_allclose(got, expected, rtol=1e-4, atol=288 * 2.0**-149 + 2e-6 * np.abs(expected).max())


@on_the_unit
def test_what_is_flushed_is_as_small_as_documented():
    """Tiny numbers beside large ones in one block."""
    x, weight = np.full((1, 32, 9, 9), 2e-38, np.float32), normal(32, 32, 3, 3)
    x[0, :, 0, 0] = 100
    expected = F.conv2d(x.astype(np.float64), weight.astype(np.float64))
    away = np.abs(F.conv2d(x, weight) - expected)[:, :, 1:, 1:]  # of the windows without the large number
    assert away.max() <= 6 * 288 * TINY * 100


@on_the_unit
def test_signs_of_zeros():
    """A sum of zeros is +0 unless the bias makes it something else, as in the other paths."""
    for zero in (0.0, -0.0):
        x, weight = np.full((1, 32, 5, 5), zero, np.float32), normal(32, 32, 3, 3)
        got = F.conv2d(x, weight, np.full(32, -0.0, np.float32))
        assert not got.any()
        assert not np.signbit(got).any()
