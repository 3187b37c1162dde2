"""What the tests of sliding windows share: random geometries, memory orders, comparisons."""

import numpy as np
from hypothesis import strategies as st
from numpy.testing import assert_allclose


def channels_last(array):
    """The same (N, C, H, W) or (N, C, L) values in channels-last memory."""
    last = (0, *range(2, array.ndim), 1)
    return np.array(array.transpose(last), order="C", copy=True).transpose(0, array.ndim - 1, *range(1, array.ndim - 1))


def in_order(array, order):
    return channels_last(array) if order == "NHWC" else np.ascontiguousarray(array)


def close(got, expected, dtype):
    """Equal up to rounding, for sums of a few thousand products of standard normals."""
    assert got.dtype == dtype
    assert got.shape == expected.shape
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    assert_allclose(got, expected, rtol=tolerance, atol=tolerance * 10)


orders = st.sampled_from(["NCHW", "NHWC"])
dtypes = st.sampled_from([np.float32, np.float64])


@st.composite
def geometries(draw, dims=2, largest=12):
    """Kernel, stride, padding, dilation and size of an image that they fit, as tuples of `dims` ints."""

    def pick(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, stride, padding, dilation = pick(1, 4), pick(1, 5), pick(0, 3), pick(1, 3)
    size = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), max(largest, d * (k - 1) + 1)))
        for k, p, d in zip(kernel, padding, dilation, strict=True)
    )
    return kernel, stride, padding, dilation, size


@st.composite
def convolutions(draw, dims=2):
    """(input, weight, bias, keyword arguments, dtype) of a random convolution; channels cross the vector lengths."""
    kernel, stride, padding, dilation, size = draw(geometries(dims))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 9, 17]))
    few = st.integers(1, 4)
    each = few if groups > 1 else st.one_of(few, st.integers(5, 70))
    inputs, outputs = draw(each), draw(each)
    if draw(st.integers(0, 4)) == 0:  # depthwise, which has kernels of its own
        groups, inputs, outputs = draw(st.integers(2, 40)), 1, 1
    dtype, order = draw(dtypes), draw(orders)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    x = in_order(normal(draw(st.integers(0, 3)), groups * inputs, *size), order)
    weight = normal(groups * outputs, inputs, *kernel)
    bias = normal(groups * outputs) if draw(st.booleans()) else None
    return x, weight, bias, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}, dtype


@st.composite
def windows_of_three(draw):
    """(input, weight, bias, keyword arguments, dtype) of 3x3 windows with channels enough for Winograd's algorithm."""
    groups = draw(st.sampled_from([1, 1, 2]))
    inputs, outputs = draw(st.integers(16, 90)), draw(st.integers(16, 90))
    padding = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    size = tuple(draw(st.integers(max(1, 3 - 2 * p), 15)) for p in padding)
    dtype, order = draw(dtypes), draw(orders)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = in_order(rng.standard_normal((draw(st.integers(1, 5)), groups * inputs, *size)).astype(dtype), order)
    weight = rng.standard_normal((groups * outputs, inputs, 3, 3)).astype(dtype)
    bias = rng.standard_normal(groups * outputs).astype(dtype) if draw(st.booleans()) else None
    return x, weight, bias, {"padding": padding, "groups": groups}, dtype
