"""Batch norm: sums over all but the channels, and the pass that uses them, forward and backward.

Training reads memory twice each way: once for the sums, once to write the output. Evaluation is the second pass alone.

Tiling and ownership: memory is cut into tiles by its shape and order alone, and one task is one tile. Where channels
are last, a tile is up to ROWS rows of up to PANEL neighbouring channels; rows of few channels are joined to rows of at
least LANES columns first, so that any number of channels fills vectors. In NCHW order a tile is up to SEGMENT elements
of a plane, as rows of PLANE_LANES columns of one channel. A column is added up in its own type over RUN rows, then in
double. Each tile writes its sums to its own place in `partials`, and these are added in the order of the tiles: the
number of threads changes no bit. In the second pass a tile writes its own elements of the output.

Sums are taken of differences from a centre near the mean, so that float32 data of mean 1000 and deviation 1 loses
nothing. (Differences above 1e18 would overflow float32's square.)
"""

from cython cimport floating
from cython.parallel cimport prange

from .threads cimport threads_for

cdef enum:
    LANES = 64
    PANEL = 256
    ROWS = 256
    RUN = 64
    PLANE_LANES = 16
    SEGMENT = 16384
    SAMPLES = 16


cdef struct Tile:
    Py_ssize_t start             # offset of its first element
    Py_ssize_t rows, stride      # whole rows, and the step from one to the next
    Py_ssize_t width, tail       # columns; elements of one more, shorter row
    Py_ssize_t channel, period   # column j is of channel `channel` + j % `period`
    Py_ssize_t block             # its row of `partials`


cdef inline Py_ssize_t _ceil(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t _joined(Py_ssize_t c) noexcept nogil:
    """Columns of a row where channels are last: c, or its least multiple that fills the lanes."""
    return c * _ceil(LANES, c) if c < LANES else c


cdef Py_ssize_t batch_norm_blocks(Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last) noexcept nogil:
    """Rows of `partials`, each of 2*c doubles, that a shape needs."""
    if channels_last:
        return _ceil(_ceil(n * plane * c, _joined(c)), ROWS)
    return n * _ceil(plane, SEGMENT)


cdef inline Py_ssize_t _tiles(Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last) noexcept nogil:
    return batch_norm_blocks(n, c, plane, channels_last) * (_ceil(_joined(c), PANEL) if channels_last else c)


cdef inline Tile _tile(Py_ssize_t index, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                       bint channels_last) noexcept nogil:
    cdef Tile t
    cdef Py_ssize_t size = n * c * plane, panels, segments, length, row
    if channels_last:
        t.stride = _joined(c)
        panels = _ceil(t.stride, PANEL)
        t.width = _ceil(t.stride, panels)
        t.block = index // panels
        row = t.block * ROWS
        t.rows = min(<Py_ssize_t>ROWS, size // t.stride - row)
        t.tail = size % t.stride if t.rows < ROWS else 0  # never, where there is more than one panel
        t.channel = index % panels * t.width
        t.width = min(t.width, t.stride - t.channel)
        t.period = c
        t.start = row * t.stride + t.channel
    else:
        segments = _ceil(plane, SEGMENT)
        t.channel = index // segments % c
        t.block = index // (segments * c) * segments + index % segments
        t.start = index // segments * plane + index % segments * SEGMENT
        length = min(<Py_ssize_t>SEGMENT, plane - index % segments * SEGMENT)
        t.width = t.stride = PLANE_LANES
        t.rows = length // PLANE_LANES
        t.tail = length % PLANE_LANES
        t.period = 1
    return t


# --- sums -----------------------------------------------------------------------------------------------------------


cdef inline void _add_run(const floating* x, const floating* dy, const floating* centre, Py_ssize_t rows,
                          Py_ssize_t stride, Py_ssize_t width, double* first, double* second) noexcept nogil:
    """Add to each column's `first` and `second`: x - centre and its square, or dy and dy * (x - centre)."""
    cdef floating a[PANEL]
    cdef floating b[PANEL]
    cdef floating d0, d1, d2, d3
    cdef const floating* g
    cdef Py_ssize_t i = 0, j
    for j in range(width):
        a[j] = 0
        b[j] = 0
    while i + 4 <= rows:
        if dy == NULL:
            for j in range(width):
                d0 = x[j] - centre[j]
                d1 = x[j + stride] - centre[j]
                d2 = x[j + 2 * stride] - centre[j]
                d3 = x[j + 3 * stride] - centre[j]
                a[j] += (d0 + d1) + (d2 + d3)
                b[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
        else:
            g = dy + i * stride
            for j in range(width):
                d0 = x[j] - centre[j]
                d1 = x[j + stride] - centre[j]
                d2 = x[j + 2 * stride] - centre[j]
                d3 = x[j + 3 * stride] - centre[j]
                a[j] += (g[j] + g[j + stride]) + (g[j + 2 * stride] + g[j + 3 * stride])
                b[j] += (g[j] * d0 + g[j + stride] * d1) + (g[j + 2 * stride] * d2 + g[j + 3 * stride] * d3)
        i += 4
        x += 4 * stride
    while i < rows:
        if dy == NULL:
            for j in range(width):
                d0 = x[j] - centre[j]
                a[j] += d0
                b[j] += d0 * d0
        else:
            g = dy + i * stride
            for j in range(width):
                a[j] += g[j]
                b[j] += g[j] * (x[j] - centre[j])
        i += 1
        x += stride
    for j in range(width):
        first[j] += a[j]
        second[j] += b[j]


cdef inline void _tile_sums(const floating* x, const floating* dy, const floating* centre, Tile t,
                            double* partials) noexcept nogil:
    """Set the tile's partials: two sums for each of its channels; `centre` is an array over all channels."""
    cdef floating column_centre[PANEL]
    cdef double first[PANEL]
    cdef double second[PANEL]
    cdef Py_ssize_t i, j, channels = min(t.width, t.period)
    x += t.start
    if dy != NULL:
        dy += t.start
    for j in range(channels):
        column_centre[j] = centre[t.channel + j]
    for j in range(channels, t.width):
        column_centre[j] = column_centre[j - channels]
    for j in range(t.width):
        first[j] = 0
        second[j] = 0
    for i in range(_ceil(t.rows, RUN)):
        j = i * RUN * t.stride
        _add_run(x + j, dy if dy == NULL else dy + j, column_centre, min(<Py_ssize_t>RUN, t.rows - i * RUN), t.stride,
                 t.width, first, second)
    if t.tail:
        i = t.rows * t.stride
        _add_run(x + i, dy if dy == NULL else dy + i, column_centre, 1, t.stride, t.tail, first, second)
    for i in range(1, t.width // channels):
        for j in range(channels):
            first[j] += first[i * channels + j]
            second[j] += second[i * channels + j]
    for j in range(channels):
        partials[2 * j] = first[j]
        partials[2 * j + 1] = second[j]


cdef inline void _total(const double* partials, Py_ssize_t blocks, Py_ssize_t stride, double* first,
                        double* second) noexcept nogil:
    cdef Py_ssize_t i
    first[0] = 0
    second[0] = 0
    for i in range(blocks):
        first[0] += partials[i * stride]
        second[0] += partials[i * stride + 1]


cdef inline void _sums(const floating* x, const floating* dy, const floating* centre, Py_ssize_t n, Py_ssize_t c,
                       Py_ssize_t plane, bint channels_last, double* partials, double* first,
                       double* second) noexcept nogil:
    """Two sums for each channel, as `_add_run` describes them."""
    cdef Tile t
    cdef Py_ssize_t i, tiles = _tiles(n, c, plane, channels_last)
    cdef Py_ssize_t blocks = batch_norm_blocks(n, c, plane, channels_last)
    for i in prange(tiles, schedule="static", num_threads=threads_for(tiles, n * c * plane)):
        t = _tile(i, n, c, plane, channels_last)
        _tile_sums(x, dy, centre, t, partials + 2 * (t.block * c + t.channel))
    for i in prange(c, schedule="static", num_threads=threads_for(c, 2 * blocks * c)):
        _total(partials + 2 * i, blocks, 2 * c, first + i, second + i)


cdef inline void _sample_centre(const floating* x, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                                floating* centre) noexcept nogil:
    """Mean over SAMPLES pixels spread over the batch by the golden ratio; 0 where it is not finite."""
    cdef Py_ssize_t i, k, pixel, pixels = n * plane
    cdef double total
    for i in range(c):
        total = 0
        for k in range(SAMPLES):
            pixel = <Py_ssize_t>(0.6180339887498949 * k * pixels) % pixels
            total += x[pixel * c + i] if channels_last else x[(pixel // plane * c + i) * plane + pixel % plane]
        centre[i] = <floating>(total / SAMPLES)
        if centre[i] - centre[i] != 0:
            centre[i] = 0


cdef void batch_statistics_ptr(const floating* input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                               floating* centre, double* partials, double* mean, double* var) noexcept nogil:
    """Mean and biased variance of each channel; `centre` (c) and `partials` (batch_norm_blocks * 2c) are scratch.

    Where a mean turns out to be more than 8 deviations from its sampled centre, the sums are taken once more around
    the means.
    """
    cdef Py_ssize_t i
    cdef double count = <double>(n * plane), off
    cdef bint near
    _sample_centre(input, n, c, plane, channels_last, centre)
    for _ in range(2):
        _sums(input, <const floating*>NULL, centre, n, c, plane, channels_last, partials, mean, var)
        near = True
        for i in range(c):
            off = mean[i] / count
            mean[i] = centre[i] + off
            var[i] = var[i] / count - off * off
            var[i] = 0 if var[i] < 0 else var[i]  # NaN stays
            if off * off > 64 * var[i]:
                near = False
        if near:
            return
        for i in range(c):
            if mean[i] - mean[i] == 0:
                centre[i] = <floating>mean[i]


cdef void batch_norm_sums_ptr(const floating* grad_output, const floating* input, const floating* mean, Py_ssize_t n,
                              Py_ssize_t c, Py_ssize_t plane, bint channels_last, double* partials, double* grad_sum,
                              double* product_sum) noexcept nogil:
    """For each channel the sums of grad_output and of grad_output * (input - mean)."""
    _sums(input, grad_output, mean, n, c, plane, channels_last, partials, grad_sum, product_sum)


# --- the second pass ------------------------------------------------------------------------------------------------


cdef inline void _normalize_tile(const floating* x, const double* mean, const double* scale, const double* shift,
                                 floating* y, Tile t) noexcept nogil:
    cdef floating m[PANEL]
    cdef floating s[PANEL]
    cdef floating b[PANEL]
    cdef Py_ssize_t i, j, k
    for j in range(min(t.width, t.period)):
        k = t.channel + j
        m[j] = <floating>mean[k]
        s[j] = <floating>scale[k]
        b[j] = <floating>(shift[k] + (m[j] - mean[k]) * scale[k])
    x += t.start
    y += t.start
    if t.period == 1:
        for i in range(t.rows * t.stride + t.tail):
            y[i] = (x[i] - m[0]) * s[0] + b[0]
        return
    for j in range(t.period, t.width):
        m[j] = m[j - t.period]
        s[j] = s[j - t.period]
        b[j] = b[j - t.period]
    for _ in range(t.rows):
        for j in range(t.width):
            y[j] = (x[j] - m[j]) * s[j] + b[j]
        x += t.stride
        y += t.stride
    for j in range(t.tail):
        y[j] = (x[j] - m[j]) * s[j] + b[j]


cdef void normalize_ptr(const floating* input, const double* mean, const double* scale, const double* shift,
                        floating* output, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                        bint channels_last) noexcept nogil:
    """output = (input - mean) * scale + shift, with one mean, scale and shift for each channel."""
    cdef Py_ssize_t i, tiles = _tiles(n, c, plane, channels_last)
    for i in prange(tiles, schedule="static", num_threads=threads_for(tiles, 2 * n * c * plane)):
        _normalize_tile(input, mean, scale, shift, output, _tile(i, n, c, plane, channels_last))


cdef inline void _normalize_backward_tile(const floating* dy, const floating* x, const floating* mean,
                                          const double* grad_mean, const double* slope, const double* scale,
                                          floating* dx, Tile t) noexcept nogil:
    cdef floating m[PANEL]
    cdef floating g[PANEL]
    cdef floating k[PANEL]
    cdef floating s[PANEL]
    cdef Py_ssize_t i, j
    for j in range(min(t.width, t.period)):
        m[j] = mean[t.channel + j]
        g[j] = <floating>grad_mean[t.channel + j]
        k[j] = <floating>slope[t.channel + j]
        s[j] = <floating>scale[t.channel + j]
    dy += t.start
    x += t.start
    dx += t.start
    if t.period == 1:
        for i in range(t.rows * t.stride + t.tail):
            dx[i] = ((dy[i] - g[0]) - (x[i] - m[0]) * k[0]) * s[0]
        return
    for j in range(t.period, t.width):
        m[j] = m[j - t.period]
        g[j] = g[j - t.period]
        k[j] = k[j - t.period]
        s[j] = s[j - t.period]
    for _ in range(t.rows):
        for j in range(t.width):
            dx[j] = ((dy[j] - g[j]) - (x[j] - m[j]) * k[j]) * s[j]
        dy += t.stride
        x += t.stride
        dx += t.stride
    for j in range(t.tail):
        dx[j] = ((dy[j] - g[j]) - (x[j] - m[j]) * k[j]) * s[j]


cdef void normalize_backward_ptr(const floating* grad_output, const floating* input, const floating* mean,
                                 const double* grad_mean, const double* slope, const double* scale,
                                 floating* grad_input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                                 bint channels_last) noexcept nogil:
    """grad_input = (grad_output - grad_mean - (input - mean) * slope) * scale, these four given for each channel."""
    cdef Py_ssize_t i, tiles = _tiles(n, c, plane, channels_last)
    for i in prange(tiles, schedule="static", num_threads=threads_for(tiles, 3 * n * c * plane)):
        _normalize_backward_tile(grad_output, input, mean, grad_mean, slope, scale, grad_input,
                                 _tile(i, n, c, plane, channels_last))


# --- doors for memoryviews; arguments are trusted, `functional` checks them ------------------------------------------


def blocks(Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last):
    """blocks(n, c, plane, channels_last): how many rows of 2*c doubles `partials` needs."""
    return batch_norm_blocks(n, c, plane, channels_last)


def batch_statistics(const floating[::1] input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                     floating[::1] centre, double[:, ::1] partials, double[::1] mean, double[::1] var):
    """batch_statistics(input, n, c, plane, channels_last, centre, partials, mean, var): overwrite mean and var."""
    with nogil:
        batch_statistics_ptr(&input[0], n, c, plane, channels_last, &centre[0], &partials[0, 0], &mean[0], &var[0])


def normalize(const floating[::1] input, const double[::1] mean, const double[::1] scale, const double[::1] shift,
              floating[::1] output, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last):
    """normalize(input, mean, scale, shift, output, n, c, plane, channels_last): overwrite `output`."""
    with nogil:
        normalize_ptr(&input[0], &mean[0], &scale[0], &shift[0], &output[0], n, c, plane, channels_last)


def batch_norm_sums(const floating[::1] grad_output, const floating[::1] input, const floating[::1] mean, Py_ssize_t n,
                    Py_ssize_t c, Py_ssize_t plane, bint channels_last, double[:, ::1] partials, double[::1] grad_sum,
                    double[::1] product_sum):
    """batch_norm_sums(grad_output, input, mean, n, c, plane, channels_last, partials, grad_sum, product_sum)."""
    with nogil:
        batch_norm_sums_ptr(&grad_output[0], &input[0], &mean[0], n, c, plane, channels_last, &partials[0, 0],
                            &grad_sum[0], &product_sum[0])


def normalize_backward(const floating[::1] grad_output, const floating[::1] input, const floating[::1] mean,
                       const double[::1] grad_mean, const double[::1] slope, const double[::1] scale,
                       floating[::1] grad_input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last):
    """normalize_backward(...): overwrite `grad_input`; the arguments of `normalize_backward_ptr`."""
    with nogil:
        normalize_backward_ptr(&grad_output[0], &input[0], &mean[0], &grad_mean[0], &slope[0], &scale[0],
                               &grad_input[0], n, c, plane, channels_last)
