"""Infinities, NaN and products that overflow: they reach the elements that they reach in the reference, and no others.

The reference pads with zeros and multiplies by them, so 0 times infinity is NaN in the forward pass and in the weights'
gradient; in the input's gradient no window lies outside of grad_output, and there is nothing to multiply.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from windows import convolutions, in_order, windows_of_three

from fastcnn import functional as F
from fastcnn import reference
from fastcnn.functional.conv import _conv_window
from fastcnn.functional.pooling import _geometry as pool_geometry
from fastcnn.kernels import conv, isa, winners

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in the reference

INF, NAN = math.inf, math.nan
PASSES = ("forward", "backward_data", "backward_weight")
every_order = pytest.mark.parametrize("order", ["NCHW", "NHWC"])
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])

# Input, weight and options. Every implementation is chosen for some of them on every instruction set, with and without
# padding, strides, groups, overhanging blocks: see test_the_cases_reach_every_implementation.
CASES = {
    "stride": ((2, 16, 7, 9), (16, 16, 3, 3), {"padding": 1, "stride": 2}),
    "dilation": ((2, 20, 8, 9), (33, 20, 3, 2), {"padding": (2, 1), "stride": (2, 1), "dilation": (1, 2)}),
    "small": ((1, 12, 8, 9), (20, 12, 3, 3), {"padding": 1}),
    "chunks": ((1, 200, 5, 5), (40, 200, 3, 3), {"padding": 1, "stride": 2}),
    "no padding": ((1, 12, 8, 9), (20, 12, 3, 3), {}),
    "groups": ((2, 12, 9, 8), (30, 4, 3, 3), {"groups": 3, "padding": 1}),
    "few outputs": ((2, 20, 9, 20), (3, 20, 3, 3), {"padding": 1}),
    "winograd": ((2, 32, 7, 8), (40, 32, 3, 3), {"padding": 1}),
    "winograd 2x4": ((1, 16, 8, 16), (32, 16, 3, 3), {"padding": 1}),
    "winograd, no padding": ((2, 32, 9, 10), (40, 32, 3, 3), {}),
    "winograd, groups": ((2, 64, 9, 10), (64, 32, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, 40, 7, 8), (40, 1, 3, 3), {"groups": 40, "padding": 1}),
    "depthwise, stride": ((2, 21, 7, 8), (21, 1, 3, 3), {"groups": 21, "padding": 1, "stride": 2}),
    "pixels": ((4, 24, 6, 7), (36, 24, 1, 1), {}),
    "pixels, stride": ((2, 24, 6, 7), (36, 24, 1, 1), {"stride": 2}),
    "pixels, padding": ((2, 24, 5, 5), (17, 24, 1, 1), {"padding": 1}),
    "grey": ((3, 1, 14, 14), (6, 1, 5, 5), {"padding": 2}),
    "colour": ((2, 3, 12, 14), (20, 3, 3, 3), {"padding": 1}),
    "colour, stride": ((2, 3, 17, 18), (20, 3, 7, 7), {"padding": 3, "stride": 2}),
    "six channels": ((2, 6, 14, 14), (16, 6, 5, 5), {}),
    "few both": ((2, 3, 12, 33), (3, 3, 3, 3), {"padding": 2}),
    "pixels no window reads": ((2, 2, 13, 22), (30, 2, 2, 2), {"padding": 1, "stride": (3, 4)}),
    "few, groups": ((2, 12, 12, 13), (15, 4, 3, 4), {"padding": 1, "groups": 3}),
    "few, dilation": ((2, 4, 15, 14), (7, 4, 5, 3), {"padding": (2, 1), "stride": (2, 1), "dilation": (2, 1)}),
    "same": ((2, 5, 8, 9), (20, 5, 4, 4), {"padding": "same"}),
    "one window": ((2, 6, 8, 9), (10, 6, 8, 9), {"padding": 1}),
    "taps that meet nothing": ((2, 9, 3, 4), (18, 9, 5, 5), {"padding": 2, "stride": 3}),
}


def numbers(shape, dtype, seed=0):
    """Small whole numbers, zeros among them: sums of their products are exact in whatever order."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def positions(shape):
    """First element and last, one in the middle, a corner of the last image's (or filter's) first channel."""
    corner = (shape[0] - 1, *[0] * max(0, len(shape) - 2), shape[-1] - 1)[-len(shape) :]
    return [tuple(0 for _ in shape), tuple(s - 1 for s in shape), tuple(s // 2 for s in shape), corner]


def same_values(got, expected, what):
    """Infinities and NaN exactly; other numbers within the rounding of the largest one."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, what
    assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=f"NaN of {what}")
    infinite = np.isinf(expected) | np.isinf(got)
    assert_array_equal(got[infinite], expected[infinite], err_msg=f"infinities of {what}")
    finite = np.isfinite(expected)
    if finite.any():
        bound = (1e-5 if got.dtype == np.float32 else 1e-13) * max(1, np.abs(expected[finite]).max())
        difference = np.abs(got[finite] / 2 - expected[finite] / 2).max()  # which does not overflow
        assert difference <= bound, f"{what}: {difference}"


def all_same(got, expected, what):
    for name, one, other in zip(("first", "second", "third", "fourth"), got, expected, strict=False):
        same_values(one, other, f"{name} result, {what}")


def chosen(size, kernel, options, order, dtype):
    """For each pass the implementations that it tries, in order."""
    x, weight = in_order(np.zeros(size, dtype), order), np.zeros(kernel, dtype)
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    _, window, _ = _conv_window(
        x, weight, *(options[name] for name in ("stride", "padding", "dilation", "groups")), 2, None
    )
    return {name: conv.implementations(name, window, kernel[0], options["groups"], x.itemsize) for name in PASSES}


def test_the_cases_reach_every_implementation():
    reached = {name: set() for name in PASSES}
    padded = set()
    for size, kernel, options in CASES.values():
        for order in ("NCHW", "NHWC"):
            for dtype in (np.float32, np.float64):
                for name, tried in chosen(size, kernel, options, order, dtype).items():
                    reached[name].update(tried)
                    if options.get("padding"):
                        padded.update((name, one) for one in tried)
    unit = {"matrix"} if isa.has_matrix_unit() else set()
    assert reached["forward"] == {"winograd", "planar", "depthwise", "direct"} | unit
    assert reached["backward_data"] == {"winograd", "planar", "spread", "depthwise", "direct"} | unit
    assert reached["backward_weight"] == {"winograd", "ring", "point", "depthwise", "direct"} | unit
    assert len(padded) == sum(map(len, reached.values())) - 1  # point.pyx has no padding


@every_dtype
@every_order
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("who", ["input", "weight", "bias", "grad_output"])
def test_convolution(case, order, dtype, who):
    size, kernel, options = CASES[case]
    clean = {"input": numbers(size, dtype), "weight": numbers(kernel, dtype, 1), "bias": numbers(kernel[:1], dtype, 2)}
    clean["grad_output"] = numbers(reference.conv2d(clean["input"], clean["weight"], None, **options).shape, dtype, 3)
    # Wherever it is met by 2 or 3, the product overflows. Winograd's algorithm has a bound of its own for such values.
    tried = chosen(size, kernel, options, order, dtype)
    values = [INF, -INF, NAN]
    if not any("winograd" in names for names in tried.values()):
        values.append(2.0 ** (127 if dtype == np.float32 else 1023))
    for value in values:
        for position in positions(clean[who].shape):
            arrays = {name: array.copy() for name, array in clean.items()}
            arrays[who][position] = value
            x, weight, bias, dy = arrays.values()
            expected = (
                reference.conv2d(x, weight, bias, **options),
                *reference.conv2d_backward(dy, x, weight, **options),
            )
            x, dy = in_order(x, order), in_order(dy, order)
            got = F.conv2d(x, weight, bias, **options), *F.conv2d_backward(dy, x, weight, **options)
            all_same(got, expected, f"{value} at {position}, {tried}")


@st.composite
def spoilt(draw, problem):
    """Arrays of a drawn convolution, of whole numbers, with single values or whole slices that are not finite."""
    x, weight, bias, options, dtype = draw(problem)
    order = draw(st.sampled_from(["NCHW", "NHWC"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if x.ndim == 3:
        options = {name: value[0] if isinstance(value, tuple) else value for name, value in options.items()}
    y = (reference.conv2d if x.ndim == 4 else reference.conv1d)(x, weight, None, **options)
    shapes = x.shape, weight.shape, y.shape, weight.shape[:1]
    arrays = [rng.integers(-3, 4, shape).astype(dtype) for shape in shapes]
    for _ in range(draw(st.integers(1, 4))):
        array = arrays[draw(st.integers(0, 3))]
        if array.size:
            position = [int(rng.integers(extent)) for extent in array.shape]
            if array.ndim > 1 and draw(st.integers(0, 3)) == 0:  # a channel, a row, a column ...
                position[draw(st.integers(0, array.ndim - 1))] = slice(None)
            array[tuple(position)] = draw(st.sampled_from([INF, -INF, NAN]))
    return *arrays, None if bias is None else arrays[3], options, order


@given(spoilt(st.one_of(convolutions(), windows_of_three())))
def test_drawn_convolutions(case):
    x, weight, dy, _, bias, options, order = case
    expected = reference.conv2d(x, weight, bias, **options), *reference.conv2d_backward(dy, x, weight, **options)
    x, dy = in_order(x, order), in_order(dy, order)
    got = F.conv2d(x, weight, bias, **options), *F.conv2d_backward(dy, x, weight, **options)
    all_same(got, expected, str(options))


@given(spoilt(convolutions(dims=1)))
def test_drawn_sequences(case):
    x, weight, dy, _, bias, options, _ = case
    expected = reference.conv1d(x, weight, bias, **options), *reference.conv1d_backward(dy, x, weight, **options)
    all_same((F.conv1d(x, weight, bias, **options), *F.conv1d_backward(dy, x, weight, **options)), expected, "1-D")


@every_dtype
@every_order
def test_an_image_does_not_depend_on_others(dtype, order, threads):
    """Weights that are not finite, and images of which one is not: the bits of each are those that it has alone."""
    for size, kernel, options in CASES.values():
        weight = np.random.default_rng(1).standard_normal(kernel).astype(dtype)
        weight[0, 0, 0, 0], weight[-1, -1, -1, -1] = INF, NAN
        x = np.random.default_rng(2).standard_normal((3, *size[1:])).astype(dtype)
        dy = np.random.default_rng(3).standard_normal(reference.conv2d(x, weight, **options).shape).astype(dtype)
        dy[1, :, 0] = NAN
        x, dy = in_order(x, order), in_order(dy, order)
        results = []
        for count in (1, 3):
            threads(count)
            results.append(F.conv2d_backward(dy, x, weight, **options, needs=(True, False, False))[0])
        assert_array_equal(results[0], results[1])
        if isa.has_matrix_unit() and dtype == np.float32:
            continue  # which leaves all images to the other implementations where one is not finite
        for image in (0, 2):
            alone = F.conv2d_backward(dy[image : image + 1], x[image : image + 1], weight, **options)[0]
            assert_array_equal(results[0][image], alone[0])


# --- fused functions --------------------------------------------------------------------------------------------------

POOLED = {
    "lenet, first": ((3, 1, 16, 16), (6, 1, 5, 5), {}, (2,)),
    "lenet, padding": ((3, 1, 14, 14), (6, 1, 5, 5), {"padding": 2}, (2,)),
    "lenet, second": ((5, 6, 14, 14), (16, 6, 5, 5), {}, (2,)),
    "colour": ((4, 3, 13, 12), (8, 3, 3, 3), {"padding": 1}, (2,)),
    "stride": ((3, 3, 17, 15), (7, 3, 4, 3), {"padding": (1, 2), "stride": (2, 1)}, (3,)),
    "one window": ((2, 2, 7, 8), (5, 2, 3, 3), {}, ((5, 3), 7)),
    "overlapping": ((3, 4, 12, 13), (9, 4, 3, 3), {"padding": 1}, (3, 2)),
    "winograd": ((2, 16, 8, 8), (32, 16, 3, 3), {"padding": 1}, (3, 2, 1)),
    "groups": ((2, 8, 10, 10), (12, 4, 3, 3), {"padding": 1, "groups": 2}, (2,)),
}


def test_the_pooled_cases_reach_both_implementations():
    fits = set()
    for size, kernel, options, pool in POOLED.values():
        x, weight = np.zeros(size, np.float32), np.zeros(kernel, np.float32)
        options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
        _, window, made = _conv_window(x, weight, *options.values(), 2, None)
        then = pool_geometry(made, 2, *pool).window(made, False)
        fits.add(winners.fit(window, then, options["groups"], 4))
    assert fits == {True, False}


def pooled(arrays, options, pool, relu, order):
    """Both passes of convolution and max-pool; backward with the reference's taps, which say where a gradient goes."""
    x, weight, bias, dy = arrays
    output, taps = reference.conv2d_max_pool(x, weight, bias, **options, pool=pool, relu=relu)
    expected = output, *reference.conv2d_max_pool_backward(dy, taps, x, weight, **options, pool=pool, relu=relu)
    x, dy, taps = in_order(x, order), in_order(dy, order), in_order(taps, order)
    output, own = F.conv2d_max_pool(x, weight, bias, **options, pool=pool, relu=relu)
    got = output, *F.conv2d_max_pool_backward(dy, taps, x, weight, **options, pool=pool, relu=relu)
    all_same(got, expected, f"{options}, {pool}, {relu}")
    separate = F.max_pool2d_taps(F.conv2d(x, weight, bias, **options), *pool, relu=relu)
    assert_array_equal(own, separate[1])


@every_dtype
@every_order
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", POOLED)
def test_convolution_and_max_pool(case, relu, order, dtype):
    size, kernel, options, pool = POOLED[case]
    clean = [numbers(size, dtype), numbers(kernel, dtype, 1), numbers(kernel[:1], dtype, 2)]
    clean.append(numbers(reference.conv2d_max_pool(*clean[:2], **options, pool=pool)[0].shape, dtype, 3))
    for who in range(4):
        for value in (INF, NAN):
            for position in positions(clean[who].shape):
                arrays = [array.copy() for array in clean]
                arrays[who][position] = value
                pooled(arrays, options, pool, relu, order)


@given(
    spoilt(convolutions()),
    st.sampled_from([(2,), (2, 1), (3, 2), ((2, 3),), ((4, 4),), ((1, 5), (2, 5))]),
    st.booleans(),
)
def test_drawn_convolutions_and_max_pools(case, pool, relu):
    x, weight, dy, _, bias, options, order = case
    kernel = pool[0] if isinstance(pool[0], tuple) else (pool[0], pool[0])
    if dy.shape[2] < kernel[0] or dy.shape[3] < kernel[1]:
        return
    shape = reference.max_pool2d(dy, *pool).shape
    pooled((x, weight, bias, dy[:, :, : shape[2], : shape[3]]), options, pool, relu, order)


NORMED = {
    name: CASES[name]
    for name in ("stride", "winograd", "winograd 2x4", "depthwise", "pixels", "grey", "colour", "few both", "groups")
}


@every_dtype
@every_order
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", NORMED)
def test_convolution_and_batch_norm(case, relu, order, dtype):
    """conv2d_norm, norm_conv2d with its statistics, and norm_conv2d_backward with its sums."""
    size, kernel, options = NORMED[case]
    channels, outputs = size[1], kernel[0]
    clean = {"input": numbers(size, dtype), "weight": numbers(kernel, dtype, 1), "bias": numbers((outputs,), dtype, 2)}
    clean["grad_output"] = numbers(reference.conv2d(clean["input"], clean["weight"], None, **options).shape, dtype, 3)
    clean["before"] = np.abs(numbers((3, channels), dtype, 4)) + 1
    clean["after"] = np.abs(numbers((3, outputs), dtype, 5)) + dtype(1.25)  # a mean that no output is, to the bit
    for who in clean:
        for value in (INF, NAN):
            for position in positions(clean[who].shape)[:3]:
                arrays = {name: array.copy() for name, array in clean.items()}
                arrays[who][position] = value
                x, weight, bias, dy, before, after = arrays.values()
                what = f"{value} at {position} of {who}"
                expected = (
                    reference.conv2d_norm(x, weight, bias, *after, **options, relu=relu),
                    *reference.norm_conv2d(x, *before, weight, bias, **options, relu=relu, statistics=True),
                )
                grads = reference.norm_conv2d_backward(dy, x, *before, weight, **options, relu=relu, sums=True)
                x, dy = in_order(x, order), in_order(dy, order)
                got = (
                    F.conv2d_norm(x, weight, bias, *after, **options, relu=relu),
                    *F.norm_conv2d(x, *before, weight, bias, **options, relu=relu, statistics=True),
                )
                for one, other, name in zip(got, expected, ("conv2d_norm", "norm_conv2d", "statistics"), strict=True):
                    same_values(one.astype(dtype), other.astype(dtype), f"{name}, {what}")
                got = F.norm_conv2d_backward(dy, x, *before, weight, **options, relu=relu, sums=True)
                for one, other in zip(got, grads, strict=True):
                    same_values(one.astype(dtype), other.astype(dtype), f"norm_conv2d_backward, {what}")


@every_dtype
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 7, 5), (3, 40, 33), (64, 90, 120), (5, 1, 9), (128, 84, 10)]
)
def test_linear(rows, inputs, outputs, dtype):
    clean = [numbers((rows, inputs), dtype), numbers((outputs, inputs), dtype, 1), numbers((outputs,), dtype, 2)]
    clean.append(numbers((rows, outputs), dtype, 3))
    for who in range(4):
        for value in (INF, -INF, NAN):
            for position in positions(clean[who].shape):
                for relu in (False, True):
                    x, weight, bias, dy = arrays = [array.copy() for array in clean]
                    arrays[who][position] = value
                    y = reference.linear(x, weight, bias, relu=relu)
                    same_values(F.linear(x, weight, bias, relu=relu), y, "linear")
                    expected = reference.linear_backward(dy, x, weight, relu=y if relu else None)
                    got = F.linear_backward(dy, x, weight, relu=y if relu else None)
                    all_same(got, expected, f"{value} at {position} of {who}")


# --- all other functions ----------------------------------------------------------------------------------------------

PLANES, VECTOR = (2, 5, 7, 6), (5,)


def updated(function, arrays, **options):
    """What a function that works in place makes of its arrays."""
    arrays = [array.copy() for array in arrays]
    returned = function(*arrays, **options)
    return *arrays, *([] if returned is None else [np.float64(returned)])


def indices_of(reference_input, *window):
    return reference.max_pool2d(reference_input, *window, return_indices=True)[1]


MARKS = numbers((2, 5, 3, 3), np.int64, 7) % 4
# The shapes of the arrays that get a value which is not finite, and the call, of `functional` or of the reference.
FUNCTIONS = {
    "im2col": ((PLANES,), lambda M, x: M.im2col(x, 3, 1, 1, 2)),
    "col2im": (((2, 45, 12),), lambda M, x: M.col2im(x, (7, 6), 3, 1, 1, 2)),
    "max_pool2d": ((PLANES,), lambda M, x: M.max_pool2d(x, 3, 2, 1, return_indices=True)),
    "max_pool2d_taps": ((PLANES,), lambda M, x: M.max_pool2d_taps(x, 2, relu=True)),
    "max_pool2d_backward": (
        ((2, 5, 4, 3),),
        lambda M, dy: M.max_pool2d_backward(dy, indices_of(numbers(PLANES, dy.dtype), 3, 2, 1), PLANES),
    ),
    "max_pool2d_taps_backward": (
        ((2, 5, 3, 3),),
        lambda M, dy: M.max_pool2d_taps_backward(dy, MARKS.astype(np.uint8), PLANES, 2),
    ),
    "max_pool2d_taps_backward, overlapping": (
        ((2, 5, 6, 5),),
        lambda M, dy: M.max_pool2d_taps_backward(dy, np.full(dy.shape, 3, np.uint8), PLANES, 2, 1),
    ),
    "max_unpool2d": (
        ((2, 5, 3, 3),),
        lambda M, x: M.max_unpool2d(x, indices_of(numbers((2, 5, 6, 6), x.dtype), 2), 2),
    ),
    "max_unpool2d_backward": (
        ((2, 5, 6, 6),),
        lambda M, dy: M.max_unpool2d_backward(dy, indices_of(numbers((2, 5, 6, 6), dy.dtype), 2)),
    ),
    "avg_pool2d": ((PLANES,), lambda M, x: M.avg_pool2d(x, 3, 2, 1)),
    "avg_pool2d, whole": ((PLANES,), lambda M, x: M.avg_pool2d(x, 2)),
    "avg_pool2d_backward": (((2, 5, 4, 3),), lambda M, dy: M.avg_pool2d_backward(dy, PLANES, 3, 2, 1)),
    "avg_pool2d_backward, whole": (((2, 5, 3, 3),), lambda M, dy: M.avg_pool2d_backward(dy, PLANES, 2)),
    "adaptive_avg_pool2d": ((PLANES,), lambda M, x: M.adaptive_avg_pool2d(x, (3, 4))),
    "adaptive_avg_pool2d, one": ((PLANES,), lambda M, x: M.adaptive_avg_pool2d(x, 1)),
    "adaptive_avg_pool2d_backward": (
        ((2, 5, 3, 4),),
        lambda M, dy: M.adaptive_avg_pool2d_backward(dy, PLANES),
    ),
    "batch_norm": (
        (PLANES, VECTOR, VECTOR),
        lambda M, x, weight, bias: M.batch_norm(x, None, None, weight, bias, True, return_saved=True),
    ),
    "batch_norm, evaluation": (
        (PLANES, VECTOR, VECTOR, VECTOR, VECTOR),
        lambda M, x, mean, var, weight, bias: M.batch_norm(x, mean, np.abs(var), weight, bias),
    ),
    "batch_norm_apply": (
        (PLANES, VECTOR, VECTOR, VECTOR, PLANES),
        lambda M, x, *vectors: M.batch_norm_apply(x, *vectors[:3], residual=vectors[3], relu=True),
    ),
    "batch_norm_backward": (
        (PLANES, PLANES, VECTOR, VECTOR, VECTOR),
        lambda M, dy, x, weight, mean, invstd: M.batch_norm_backward(dy, x, weight, mean, invstd),
    ),
    "batch_norm_backward, ReLU": (
        (PLANES, PLANES, VECTOR, VECTOR, VECTOR, PLANES),
        lambda M, dy, x, weight, mean, invstd, y: M.batch_norm_backward(
            dy, x, weight, mean, invstd, relu=np.maximum(y, 0), return_masked=True
        ),
    ),
    "batch_norm_backward, evaluation": (
        (PLANES, PLANES, VECTOR, VECTOR, VECTOR),
        lambda M, dy, x, weight, mean, invstd: M.batch_norm_backward(dy, x, weight, mean, invstd, False),
    ),
    "add": ((PLANES, PLANES), lambda M, x, y: M.add(x, y)),
    "relu_backward": ((PLANES, PLANES), lambda M, dy, y: M.relu_backward(dy, np.maximum(y, 0))),
    "leaky_relu_backward": ((PLANES, PLANES), lambda M, dy, x: M.leaky_relu_backward(dy, x, 0.5)),
    "sigmoid_backward": ((PLANES,), lambda M, dy: M.sigmoid_backward(dy, np.full_like(dy, 0.25))),
    "tanh_backward": ((PLANES,), lambda M, dy: M.tanh_backward(dy, np.full_like(dy, 0.5))),
    "gelu_backward": ((PLANES,), lambda M, dy: M.gelu_backward(dy, np.full_like(dy, 0.5))),
    "silu_backward": ((PLANES,), lambda M, dy: M.silu_backward(dy, np.full_like(dy, 0.5))),
    "dropout": ((PLANES,), lambda M, x: M.dropout(x, 0.5, rng=np.random.default_rng(0))),
    "dropout_backward": (
        (PLANES,),
        lambda M, dy: M.dropout_backward(dy, (numbers(PLANES, np.int64, 8) > 0).astype(np.uint8), 0.5),
    ),
    "softmax": (((4, 9),), lambda M, x: M.softmax(x)),
    "log_softmax": ((PLANES,), lambda M, x: M.log_softmax(x, 1)),
    "softmax_backward": (((4, 9), (4, 9)), lambda M, dy, y: M.softmax_backward(dy, y)),
    "log_softmax_backward": (((4, 9), (4, 9)), lambda M, dy, y: M.log_softmax_backward(dy, y)),
    "mse_loss": (((4, 9), (4, 9)), lambda M, x, y: M.mse_loss(x, y)),
    "sgd_update": (((70,), (70,)), lambda M, *a: updated(lambda p, g: M.sgd_update(p, g, None, 0.5), a)),
    "sgd_update, momentum": (
        ((70,), (70,), (70,)),
        lambda M, *a: updated(M.sgd_update, a, lr=0.5, momentum=0.5, weight_decay=0.5, nesterov=True),
    ),
    "adam_update": (
        ((70,), (70,), (70,), (70,)),
        lambda M, p, g, mean, square: updated(M.adam_update, (p, g, mean, np.abs(square)), step=3, lr=0.5),
    ),
    "clip_grad_norm": (((70,),), lambda M, g: updated(M.clip_grad_norm, (g,), max_norm=2.0)),
}


@every_dtype
@every_order
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name, order, dtype):
    shapes, call = FUNCTIONS[name]
    for who, shape in enumerate(shapes):
        for value in (INF, -INF, NAN):
            for position in positions(shape):
                arrays = [numbers(shape, dtype, seed) for seed, shape in enumerate(shapes)]
                arrays[who][position] = value
                expected = call(reference, *arrays)
                if order == "NHWC":
                    arrays = [in_order(array, order) if array.ndim == 4 else array for array in arrays]
                got = call(F, *arrays)
                expected, got = ((one,) if not isinstance(one, tuple) else one for one in (expected, got))
                for one, other in zip(got, expected, strict=True):
                    same_values(one, np.asarray(other, np.asarray(one).dtype), f"{name}, {value} at {who}{position}")


SCORES = [
    [-INF, -INF, -INF], [INF, 0, 1], [INF, INF, 0], [NAN, 0, 1], [-INF, 0, 1], [-INF, -INF, 5], [INF, -INF, 0],
    [3, 3, -3], [NAN, INF, -INF],
]  # fmt: skip


@every_dtype
@pytest.mark.parametrize("weight", [None, [1, 0, 2]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy(reduction, smoothing, weight, dtype):
    """As in torch, but for the gradient of an ignored target: 0 whatever the scores, where torch has NaN from some."""
    torch = pytest.importorskip("torch")
    scores, weight = np.array(SCORES, dtype), None if weight is None else np.array(weight, dtype)
    for targets in ([0] * 9, [1] * 9, [2] * 9, [0, -100, 1, -100, 0, 2, -100, 1, -100], [-100] * 9):
        for rows in (slice(None), *(slice(i, i + 1) for i in range(9))):
            x, target = scores[rows], np.array(targets[rows])
            tensor = torch.tensor(x, requires_grad=True)
            options = {"reduction": reduction, "label_smoothing": smoothing}
            to_weight = None if weight is None else torch.tensor(weight)
            loss = torch.nn.functional.cross_entropy(tensor, torch.tensor(target), to_weight, **options)
            loss.sum().backward()
            grad = np.where((target == -100)[:, None], 0, tensor.grad.numpy())
            for module in (F, reference):
                got = module.cross_entropy(x, target, weight, **options)
                same_values(np.asarray(got[0], dtype), loss.detach().numpy(), f"loss of {x} for {target}")
                same_values(got[1], grad, f"gradient of {x} for {target}")
