"""Backward-data at the edges of an image, where weights are not finite.

Algorithm   The implementations of backward-data read grad_output as if zeros surrounded it. A pixel near an edge so has
            products of weights with zeros that are in no window. They are 0, but NaN where the weight is infinite or
            NaN. If there is such a weight, the pixels that may have such a product and are NaN are computed again, as
            sums over the windows that exist.
Detection   The weight makes NaN of some pixel of every image. So either the weights are searched, or the first image's
            gradient, whichever is shorter; the weights decide, but only if something is found there.
Ownership   A task is one channel of one image.
Bits        A pixel follows from the weights and its own windows: not from other images, nor the number of threads.
"""

from cython cimport floating
from cython.parallel cimport prange

from .geometry cimport Window
from .jobs cimport Image, all_finite, image_of
from .threads cimport threads_for


cdef inline bint _leaves(Py_ssize_t tap, Py_ssize_t size, Py_ssize_t windows, Py_ssize_t padding, Py_ssize_t stride,
                         Py_ssize_t dilation) noexcept nogil:
    """Whether a pixel of this axis would have the tap of a window before the first or behind the last."""
    cdef Py_ssize_t start = tap * dilation - padding, first = start % stride, last
    if first < 0:
        first += stride
    if first >= size:  # no pixel's phase
        return False
    last = first + (size - 1 - first) // stride * stride
    return first < start or (last - start) // stride >= windows


cdef inline bint _any_leaves(const Window* g) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(g.kh):
        if _leaves(i, g.h, g.oh, g.ph, g.sh, g.dh):
            return True
    for i in range(g.kw):
        if _leaves(i, g.w, g.ow, g.pw, g.sw, g.dw):
            return True
    return False


cdef bint _finite_edges(const floating* grad_input, const Window* g) noexcept nogil:
    """Whether the outer pixels of an image are finite: `stride` rows or columns on every side, or all pixels."""
    cdef Py_ssize_t y, row = g.w * g.c, few = min(g.sw, g.w) * g.c
    if not g.channels_last:
        return all_finite(grad_input, g.c * g.h * g.w)
    for y in range(g.h):
        if y < g.sh or y >= g.h - g.sh:
            if not all_finite(grad_input + y * row, row):
                return False
        elif not all_finite(grad_input + y * row, few) or not all_finite(grad_input + (y + 1) * row - few, few):
            return False
    return True


cdef bint _finite_outer_taps(const floating* weight, const Window* g, Py_ssize_t kernels) noexcept nogil:
    """Whether the weights of all taps are finite that some pixel would have of a window that does not exist."""
    cdef Py_ssize_t i, j, k
    cdef bint leaves
    cdef floating value
    for i in range(g.kh):
        leaves = _leaves(i, g.h, g.oh, g.ph, g.sh, g.dh)
        for j in range(g.kw):
            if not leaves and not _leaves(j, g.w, g.ow, g.pw, g.sw, g.dw):
                continue
            for k in range(kernels):
                value = weight[(k * g.kh + i) * g.kw + j]
                if value - value != 0:
                    return False
    return True


cdef void _plane(const floating* grad, const floating* weight, floating* plane, const Image* source, const Image* dest,
                 const Window* g, Py_ssize_t outputs, Py_ssize_t w_output) noexcept nogil:
    """One task: the pixels of `plane` that are NaN and have fewer windows than taps."""
    cdef Py_ssize_t y, x, i, j, top, left, o
    cdef const floating* place
    cdef const floating* w
    cdef floating* pixel
    cdef double total
    cdef bint outer
    for y in range(g.h):
        for x in range(g.w):
            pixel = plane + y * source.row + x * source.pixel
            if pixel[0] == pixel[0]:
                continue
            total = 0
            outer = False
            for i in range(g.kh):
                top = y + g.ph - i * g.dh
                if top % g.sh:
                    continue
                for j in range(g.kw):
                    left = x + g.pw - j * g.dw
                    if left % g.sw:
                        continue
                    if top < 0 or left < 0 or top // g.sh >= g.oh or left // g.sw >= g.ow:
                        outer = True
                        continue
                    place = grad + top // g.sh * dest.row + left // g.sw * dest.pixel
                    w = weight + i * g.kw + j
                    for o in range(outputs):
                        total += place[o * dest.channel] * w[o * w_output]
                if total != total:
                    break
            if outer:
                pixel[0] = <floating>total


cdef void mend_edges(const floating* grad_output, const floating* weight, floating* grad_input, const Window* g,
                     Py_ssize_t outputs, Py_ssize_t groups, int threads) noexcept nogil:
    """Remove from grad_input what weights that are not finite made of zeros around grad_output."""
    cdef Py_ssize_t inputs = g.c // groups, window = g.kh * g.kw, image, channel, task, tasks = g.n * g.c
    cdef Image source, dest
    if not _any_leaves(g):
        return
    if outputs * inputs * window > g.c * g.h * g.w and _finite_edges(grad_input, g):
        return
    if all_finite(weight, outputs * inputs * window) or _finite_outer_taps(weight, g, outputs * inputs):
        return
    outputs //= groups
    source = image_of(g.c, g.h, g.w, g.channels_last)
    dest = image_of(outputs * groups, g.oh, g.ow, g.channels_last)
    for task in prange(tasks, schedule="static", num_threads=min(threads, threads_for(tasks, tasks * g.h * g.w))):
        image = task // g.c
        channel = task % g.c
        _plane(grad_output + image * dest.image + channel // inputs * outputs * dest.channel,
               weight + (channel // inputs * outputs * inputs + channel % inputs) * window,
               grad_input + image * source.image + channel * source.channel, &source, &dest, g, outputs,
               inputs * window)
