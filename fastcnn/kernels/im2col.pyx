"""im2col and col2im: every window as a column, and the sum of columns back into the image.

columns has shape (n, c*kh*kw, oh*ow), C-contiguous; row (channel, i, j) holds what tap (i, j) reads at every place.

Tiling and ownership: one task is one plane (image, channel). In im2col it writes the kh*kw rows of its channel; in
col2im it zeroes its plane and adds those rows into it, tap after tap. A plane has one owner, so overlapping windows
meet no other thread and the order of the sum is fixed by the shape.

With windows of one pixel, each of a channels-last image, both are a transposition. Then a task is a block of an image's
channels.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from .geometry cimport Window, end_inside, first_inside
from .threads cimport max_threads, threads_for, usable


cdef extern from "micro/transpose.h" nogil:
    void transpose_f32 "fastcnn_transpose_f32"(const float*, Py_ssize_t, float*, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void transpose_f64 "fastcnn_transpose_f64"(const double*, Py_ssize_t, double*, Py_ssize_t, Py_ssize_t, Py_ssize_t)


# Channels of an image that are transposed by one task: a line of the cache.
cdef Py_ssize_t CHANNELS = 16


cdef inline bint _is_transposition(const Window* g) noexcept nogil:
    return (g.channels_last and g.kh == 1 and g.kw == 1 and g.sh == 1 and g.sw == 1 and g.ph == 0 and g.pw == 0
            and g.oh == g.h and g.ow == g.w)


cdef inline void _transpose(const floating* source, Py_ssize_t source_step, floating* target, Py_ssize_t target_step,
                            Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    if floating is float:
        transpose_f32(source, source_step, target, target_step, rows, columns)
    else:
        transpose_f64(source, source_step, target, target_step, rows, columns)


cdef inline void _transpose_images(const floating* source, floating* target, bint to_planes, const Window* g,
                                   int threads) noexcept nogil:
    """Images (h*w, c) to planes (c, h*w), or back."""
    cdef Py_ssize_t pixels = g.h * g.w, size = pixels * g.c, blocks = (g.c + CHANNELS - 1) // CHANNELS
    cdef Py_ssize_t task, tasks = g.n * blocks, image, first, channels
    for task in prange(tasks, schedule="static", num_threads=min(usable(threads), threads_for(tasks, g.n * size))):
        image, first = task // blocks * size, task % blocks * CHANNELS
        channels = min(CHANNELS, g.c - first)
        if to_planes:
            _transpose(source + image + first, g.c, target + image + first * pixels, pixels, pixels, channels)
        else:
            _transpose(source + image + first * pixels, pixels, target + image + first, g.c, channels, pixels)


cdef inline void _plane_to_columns(const floating* plane, Py_ssize_t row_step, Py_ssize_t column_step,
                                   floating* columns, const Window* g) noexcept nogil:
    cdef Py_ssize_t i, j, x, y, top, left, row, first, end, step = g.sw * column_step
    cdef const floating* source
    for i in range(g.kh):
        top = i * g.dh - g.ph
        for j in range(g.kw):
            left = j * g.dw - g.pw
            first = min(first_inside(left, g.sw), g.ow)
            end = max(first, end_inside(left, g.sw, g.ow, g.w))
            for y in range(g.oh):
                row = top + y * g.sh
                if row < 0 or row >= g.h:
                    memset(columns, 0, g.ow * sizeof(floating))
                else:
                    source = plane + row * row_step + left * column_step
                    for x in range(first):
                        columns[x] = 0
                    if step == 1:
                        memcpy(columns + first, source + first, (end - first) * sizeof(floating))
                    else:
                        for x in range(first, end):
                            columns[x] = source[x * step]
                    for x in range(end, g.ow):
                        columns[x] = 0
                columns += g.ow


cdef inline void _columns_to_plane(const floating* columns, floating* plane, Py_ssize_t row_step,
                                   Py_ssize_t column_step, const Window* g) noexcept nogil:
    cdef Py_ssize_t i, j, x, y, top, left, row, first, end, step = g.sw * column_step
    cdef floating* target
    for y in range(g.h):
        for x in range(g.w):
            plane[y * row_step + x * column_step] = 0
    for i in range(g.kh):
        top = i * g.dh - g.ph
        for j in range(g.kw):
            left = j * g.dw - g.pw
            first = min(first_inside(left, g.sw), g.ow)
            end = end_inside(left, g.sw, g.ow, g.w)
            for y in range(g.oh):
                row = top + y * g.sh
                if 0 <= row < g.h:
                    target = plane + row * row_step + left * column_step
                    if step == 1:  # a loop of its own, for the compiler to vectorise
                        for x in range(first, end):
                            target[x] += columns[x]
                    else:
                        for x in range(first, end):
                            target[x * step] += columns[x]
                columns += g.ow


cdef inline Py_ssize_t _plane_offset(Py_ssize_t plane, const Window* g) noexcept nogil:
    """Offset of plane number `plane` = image*c + channel."""
    if g.channels_last:
        return plane // g.c * g.h * g.w * g.c + plane % g.c
    return plane * g.h * g.w


cdef void im2col_ptr(const floating* input, floating* columns, const Window* g, int threads) noexcept nogil:
    """columns (n, c*kh*kw, oh*ow) from input (n, c, h, w) in the memory order that `g` names."""
    cdef Py_ssize_t plane, planes = g.n * g.c
    cdef Py_ssize_t size = g.kh * g.kw * g.oh * g.ow
    cdef Py_ssize_t column_step = g.c if g.channels_last else 1
    if _is_transposition(g):
        _transpose_images(input, columns, True, g, threads)
        return
    for plane in prange(planes, schedule="static",
                        num_threads=min(usable(threads), threads_for(planes, planes * size))):
        _plane_to_columns(input + _plane_offset(plane, g), g.w * column_step, column_step, columns + plane * size, g)


cdef void col2im_ptr(const floating* columns, floating* output, const Window* g, int threads) noexcept nogil:
    """output (n, c, h, w) in the memory order that `g` names: each pixel the sum of the column entries that read it."""
    cdef Py_ssize_t plane, planes = g.n * g.c
    cdef Py_ssize_t size = g.kh * g.kw * g.oh * g.ow
    cdef Py_ssize_t column_step = g.c if g.channels_last else 1
    if _is_transposition(g):
        _transpose_images(columns, output, False, g, threads)
        return
    for plane in prange(planes, schedule="static",
                        num_threads=min(usable(threads), threads_for(planes, planes * (size + g.h * g.w)))):
        _columns_to_plane(columns + plane * size, output + _plane_offset(plane, g), g.w * column_step, column_step, g)


def im2col(const floating[:, :, :, :] input, floating[:, :, ::1] columns, Window g):
    """im2col(input, columns, g): fill `columns` (n, c*kh*kw, oh*ow); `functional` checks the arguments."""
    with nogil:
        im2col_ptr(&input[0, 0, 0, 0], &columns[0, 0, 0], &g, max_threads())


def col2im(const floating[:, :, ::1] columns, floating[:, :, :, :] output, Window g):
    """col2im(columns, output, g): overwrite `output` (n, c, h, w); `functional` checks the arguments."""
    with nogil:
        col2im_ptr(&columns[0, 0, 0], &output[0, 0, 0, 0], &g, max_threads())
