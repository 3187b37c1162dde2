"""What the tests of element-wise and per-channel functions share: memory layouts, random shapes, exact equality."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from windows import channels_last

THREADS = (1, 2, 3, 8)
LAYOUTS = ("contiguous", "channels-last", "gaps", "reversed", "read-only", "byte-swapped", "unaligned", "broadcast")

dtypes = st.sampled_from([np.float32, np.float64])
layouts = st.sampled_from(LAYOUTS[:5])


def laid_out(array, layout):
    """The same values in another layout of memory."""
    return np.asarray(_laid_out(array, layout))


def _laid_out(array, layout):
    if layout == "channels-last":
        return channels_last(array) if array.ndim > 2 else np.array(array, order="F")
    if layout == "gaps":
        wide = np.full([2 * size for size in array.shape], np.nan, array.dtype)
        wide[tuple(slice(None, None, 2) for _ in array.shape)] = array
        return wide[tuple(slice(None, None, 2) for _ in array.shape)]
    if layout == "reversed":
        return np.flip(np.array(np.flip(array)))
    if layout == "byte-swapped":
        return array.astype(array.dtype.newbyteorder())
    if layout == "unaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        raw[...] = array
        return raw
    copy = np.array(array)
    if layout == "read-only":
        copy.flags.writeable = False
    if layout == "broadcast":  # every slice along the first axis is the first
        return np.broadcast_to(copy[:1], array.shape)
    return copy


def same_order(output, input):
    """Whether the output's memory runs through the axes as the input's does; axes of one element lie anywhere."""
    wide = [axis for axis in range(input.ndim) if input.shape[axis] > 1]
    order = sorted(wide, key=lambda axis: -input.strides[axis])
    return order == sorted(wide, key=lambda axis: -output.strides[axis])


def normal(shape, dtype=np.float64, seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def close(got, expected, tolerance=4.0, floor=0.0):
    """Equal within `tolerance` roundings of the largest element, or of `floor`; equal in shape and type."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert_array_equal(np.isnan(got), np.isnan(expected))
    finite = np.isfinite(expected)
    assert_array_equal(got[~finite], expected[~finite])
    if finite.any():
        largest = max(np.abs(expected[finite]).max(), floor, np.finfo(got.dtype).tiny)
        assert np.abs(got - expected)[finite].max() <= tolerance * np.finfo(got.dtype).eps * largest


def each_thread_count_agrees(threads, call):
    """Call with 1, 2, 3 and 8 threads; all arrays of all results must be equal to the bit. Return the result."""
    results = []
    for count in THREADS:
        threads(count)
        results.append(call())
    for other in results[1:]:
        for a, b in zip(_arrays(results[0]), _arrays(other), strict=True):
            assert_array_equal(a.view(np.uint8), b.view(np.uint8))
    return results[0]


def concurrent_callers_agree(call, callers=4, repeats=5):
    """Call from several Python threads at once; all arrays of all results must be equal to the bit."""
    alone = _arrays(call())
    with ThreadPoolExecutor(callers) as pool:
        for future in [pool.submit(call) for _ in range(callers * repeats)]:
            for a, b in zip(alone, _arrays(future.result()), strict=True):
                assert_array_equal(a.view(np.uint8), b.view(np.uint8))


def _arrays(result):
    """The arrays and numbers of a result, C-contiguous so that their bytes can be compared."""
    parts = result if isinstance(result, tuple) else (result,)
    return [np.ascontiguousarray(part) for part in parts if part is not None]


def difference(function, array, step=1e-6):
    """Central finite differences of the scalar `function` with respect to every element."""
    result = np.zeros_like(array)
    for place in np.ndindex(*array.shape):
        up, down = array.copy(), array.copy()
        up[place] += step
        down[place] -= step
        result[place] = (function(up) - function(down)) / (2 * step)
    return result


@st.composite
def arrays(draw, least_dims=0, most_dims=5, largest=9, scale=3.0):
    """An array of random shape (extents of 0 included), type and layout."""
    shape = draw(st.lists(st.integers(0, largest), min_size=least_dims, max_size=most_dims))
    values = normal(tuple(shape), draw(dtypes), draw(st.integers(0, 2**32)))
    values *= values.dtype.type(scale)
    return laid_out(values, draw(layouts))
