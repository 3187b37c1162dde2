"""Batch norm: sums over all but the channels, and the pass that uses them, forward and backward.

Training reads memory twice each way: once for the sums, once to write the output. Evaluation is the second pass alone.
What follows batch norm in a network is done in its passes: forward, a residual is added and ReLU taken in the second;
backward, ReLU's mask is read from its output, or computed again from the input, in both.

Tiling and ownership: memory is cut into tiles by its shape and order alone, and one task is one tile. Where channels
are last, a tile is up to ROWS rows of up to PANEL neighbouring channels; rows of few channels are joined to rows of at
least LANES columns first, so that any number of channels fills vectors. In NCHW order a tile is up to SEGMENT elements
of a plane, as rows of PLANE_LANES columns of one channel. A column is added up in its own type over RUN rows, then in
double. Each tile writes its sums to its own place in `partials`, and these are added in the order of the tiles: the
number of threads changes no bit. In the second pass a tile writes its own elements of the output. The rows of a tile
are micro/norm_lanes.h's, compiled for each instruction set.

Sums are taken of differences from a centre near the mean, so that float32 data of mean 1000 and deviation 1 loses
nothing. (Differences above 1e18 would overflow float32's square.)
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.math cimport sqrt

from .isa cimport micro
from .threads cimport threads_for


cdef extern from "micro/norm.h" nogil:
    ctypedef struct Rows "fastcnn_rows":
        Py_ssize_t rows, stride, width

    ctypedef struct Lanes "fastcnn_norm":
        void (*sums_f32)(const Rows*, const float*, const float*, double*, double*) noexcept nogil
        void (*sums_f64)(const Rows*, const double*, const double*, double*, double*) noexcept nogil
        void (*normalize_f32)(const Rows*, const float*, const float*, const float*, const float*, const float*, int,
                              float*) noexcept nogil
        void (*normalize_f64)(const Rows*, const double*, const double*, const double*, const double*, const double*,
                              int, double*) noexcept nogil
        void (*grad_sums_f32)(const Rows*, const float*, const float*, int, const float*, const float*, const float*,
                              const float*, float*, double*, double*) noexcept nogil
        void (*grad_sums_f64)(const Rows*, const double*, const double*, int, const double*, const double*,
                              const double*, const double*, double*, double*, double*) noexcept nogil
        void (*grad_f32)(const Rows*, const float*, const float*, int, const float*, const float*, const float*,
                         const float*, const float*, const float*, const float*, float*) noexcept nogil
        void (*grad_f64)(const Rows*, const double*, const double*, int, const double*, const double*, const double*,
                         const double*, const double*, const double*, const double*, double*) noexcept nogil

    const Lanes* fastcnn_norm_for(const char* isa)
    int FASTCNN_MASK_NONE, FASTCNN_MASK_OUTPUT, FASTCNN_MASK_AGAIN

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


cdef inline void _columns(const floating* channels, Tile t, floating* columns) noexcept nogil:
    """Lay what is given for each channel out for each column of the tile; nothing where nothing is given."""
    cdef Py_ssize_t j, count = min(t.width, t.period)
    if channels == NULL:
        return
    for j in range(count):
        columns[j] = channels[t.channel + j]
    for j in range(count, t.width):
        columns[j] = columns[j - count]


cdef inline const floating* _at(const floating* array, Py_ssize_t offset) noexcept nogil:
    return array if array == NULL else array + offset


# --- sums -----------------------------------------------------------------------------------------------------------


cdef inline void _add_rows(const Rows* rows, const floating* x, const floating* dy, int mask, const floating* y,
                           const floating* centre, const floating* scale, const floating* shift, floating* masked,
                           double* first, double* second, const Lanes* lanes) noexcept nogil:
    if floating is float:
        if dy == NULL:
            lanes.sums_f32(rows, x, centre, first, second)
        else:
            lanes.grad_sums_f32(rows, dy, x, mask, y, centre, scale, shift, masked, first, second)
    else:
        if dy == NULL:
            lanes.sums_f64(rows, x, centre, first, second)
        else:
            lanes.grad_sums_f64(rows, dy, x, mask, y, centre, scale, shift, masked, first, second)


cdef inline void _tile_sums(const floating* x, const floating* dy, int mask, const floating* y,
                            const floating* centre, const floating* scale, const floating* shift, floating* masked,
                            Tile t, double* partials, const Lanes* lanes) noexcept nogil:
    """Set the tile's partials: two sums for each of its channels; `centre` is an array over all channels."""
    cdef floating[PANEL] m, s, b
    cdef double[PANEL] first, second
    cdef Py_ssize_t i, j, at, channels = min(t.width, t.period)
    cdef Rows rows = Rows(0, t.stride, t.width)
    _columns(centre, t, m)
    _columns(scale, t, s)
    _columns(shift, t, b)
    for j in range(t.width):
        first[j] = 0
        second[j] = 0
    for i in range(_ceil(t.rows, RUN)):
        rows.rows = min(<Py_ssize_t>RUN, t.rows - i * RUN)
        at = t.start + i * RUN * t.stride
        _add_rows(&rows, x + at, _at(dy, at), mask, _at(y, at), m, s, b, <floating*>_at(masked, at), first, second,
                  lanes)
    if t.tail:
        rows.rows, rows.width = 1, t.tail
        at = t.start + t.rows * t.stride
        _add_rows(&rows, x + at, _at(dy, at), mask, _at(y, at), m, s, b, <floating*>_at(masked, at), first, second,
                  lanes)
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


cdef inline void _sums_of_tiles(Py_ssize_t first_tile, Py_ssize_t end, const floating* x, const floating* dy, int mask,
                                const floating* y, const floating* centre, const floating* scale,
                                const floating* shift, floating* masked, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                                bint channels_last, double* partials, const Lanes* lanes) noexcept nogil:
    cdef Py_ssize_t i
    cdef Tile t
    for i in range(end - 1, first_tile - 1, -1):
        t = _tile(i, n, c, plane, channels_last)
        _tile_sums(x, dy, mask, y, centre, scale, shift, masked, t, partials + 2 * (t.block * c + t.channel), lanes)


cdef inline void _sums(const floating* x, const floating* dy, int mask, const floating* y, const floating* centre,
                       const floating* scale, const floating* shift, floating* masked, Py_ssize_t n, Py_ssize_t c,
                       Py_ssize_t plane, bint channels_last, double* partials, double* first,
                       double* second) noexcept nogil:
    """Two sums for each channel: of x - centre and its square, or of the masked dy and its product with x - centre.

    Each thread goes from the end of its share to the start: what was written last may still be in its cache, and what
    is read last here will be when the second pass begins.
    """
    cdef Py_ssize_t i, tiles = _tiles(n, c, plane, channels_last)
    cdef Py_ssize_t blocks = batch_norm_blocks(n, c, plane, channels_last)
    cdef Py_ssize_t shares = threads_for(tiles, n * c * plane)
    cdef const Lanes* lanes = fastcnn_norm_for(micro().name)
    for i in prange(shares, schedule="static", num_threads=shares):
        _sums_of_tiles(i * tiles // shares, (i + 1) * tiles // shares, x, dy, mask, y, centre, scale, shift, masked, n,
                       c, plane, channels_last, partials, lanes)
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
    cdef const floating* none = NULL
    cdef Py_ssize_t i
    cdef double count = <double>(n * plane), off
    cdef bint near
    _sample_centre(input, n, c, plane, channels_last, centre)
    for _ in range(2):
        _sums(input, none, FASTCNN_MASK_NONE, none, centre, none, none, <floating*>NULL, n, c, plane, channels_last,
              partials, mean, var)
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


cdef void batch_norm_factors_ptr(const double* mean, const double* var, const floating* weight, const floating* bias,
                                 double eps, Py_ssize_t c, floating* factors) noexcept nogil:
    """factors (4, c): mean, 1 / sqrt(var + eps), and scale and shift of output = (input - mean) * scale + shift.

    `mean` is rounded, and `shift` makes up for it. NULL for a weight of 1 and a bias of 0.
    """
    cdef Py_ssize_t i
    cdef double scale
    for i in range(c):
        scale = 1 / sqrt(var[i] + eps)
        factors[i] = <floating>mean[i]
        factors[c + i] = <floating>scale
        if weight != NULL:
            scale *= weight[i]
        factors[2 * c + i] = <floating>scale
        factors[3 * c + i] = <floating>((0 if bias == NULL else bias[i]) + (factors[i] - mean[i]) * scale)


cdef void move_running_ptr(const double* batch, double factor, double momentum, Py_ssize_t c,
                           floating* running) noexcept nogil:
    """running = (1 - momentum) * running + momentum * factor * batch."""
    cdef Py_ssize_t i
    for i in range(c):
        running[i] = <floating>((1 - momentum) * running[i] + momentum * (factor * batch[i]))


cdef void batch_norm_sums_ptr(const floating* grad_output, const floating* input, int mask, const floating* output,
                              const floating* mean, const floating* scale, const floating* shift, floating* masked,
                              Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last, double* partials,
                              double* grad_sum, double* product_sum) noexcept nogil:
    """For each channel the sums of the gradient g and of g * (input - mean).

    g is grad_output where `mask` lets it through (see micro/norm.h; `output` is read for the one kind of mask, `scale`
    and `shift` for the other), elsewhere 0; it goes to `masked` unless that is NULL.
    """
    _sums(input, grad_output, mask, output, mean, scale, shift, masked, n, c, plane, channels_last, partials, grad_sum,
          product_sum)


cdef void batch_norm_slopes_ptr(const double* grad_sum, const double* product_sum, const floating* weight,
                                const floating* invstd, Py_ssize_t count, Py_ssize_t c, floating* grads,
                                floating* slopes) noexcept nogil:
    """grads (2, c): of weight and bias. slopes (3, c): what `batch_norm_grad_ptr` takes, of a batch of `count`."""
    cdef Py_ssize_t i
    cdef double scale, grad_weight
    for i in range(c):
        scale = invstd[i]
        grad_weight = scale * product_sum[i]
        grads[i] = <floating>grad_weight
        grads[c + i] = <floating>grad_sum[i]
        slopes[i] = <floating>(grad_sum[i] / count)
        slopes[c + i] = <floating>(scale * grad_weight / count)
        slopes[2 * c + i] = <floating>(scale if weight == NULL else weight[i] * scale)


# --- the second pass ------------------------------------------------------------------------------------------------


cdef inline void _normalize_tile(const floating* x, const floating* residual, const floating* mean,
                                 const floating* scale, const floating* shift, bint relu, floating* y, Tile t,
                                 const Lanes* lanes) noexcept nogil:
    cdef floating[PANEL] m, s, b
    cdef Rows rows = Rows(t.rows, t.stride, t.width)
    cdef Py_ssize_t at = t.start
    _columns(mean, t, m)
    _columns(scale, t, s)
    _columns(shift, t, b)
    for _ in range(2):  # the whole rows, then the shorter one
        if floating is float:
            lanes.normalize_f32(&rows, x + at, _at(residual, at), m, s, b, relu, y + at)
        else:
            lanes.normalize_f64(&rows, x + at, _at(residual, at), m, s, b, relu, y + at)
        if not t.tail:
            return
        at = t.start + t.rows * t.stride
        rows.rows, rows.width = 1, t.tail


cdef void batch_norm_apply_ptr(const floating* input, const floating* residual, const floating* mean,
                               const floating* scale, const floating* shift, bint relu, floating* output, Py_ssize_t n,
                               Py_ssize_t c, Py_ssize_t plane, bint channels_last) noexcept nogil:
    """output = (input - mean) * scale + shift [+ residual, unless NULL] [, not less than 0].

    There is one mean, scale and shift for each channel; `output` may be `input` or `residual`.
    """
    cdef Py_ssize_t i, tiles = _tiles(n, c, plane, channels_last)
    cdef const Lanes* lanes = fastcnn_norm_for(micro().name)
    for i in prange(tiles, schedule="static", num_threads=threads_for(tiles, 2 * n * c * plane)):
        _normalize_tile(input, residual, mean, scale, shift, relu, output, _tile(i, n, c, plane, channels_last), lanes)


cdef void after_places(const After* after, floating* places, Py_ssize_t channel, Py_ssize_t count, Py_ssize_t pixel,
                       Py_ssize_t channels) noexcept nogil:
    """Do to `channels` channels, from `channel` on, of `count` places, `pixel` apart, what comes after the sums."""
    cdef Rows rows = Rows(count, pixel, channels)
    cdef const Lanes* lanes = fastcnn_norm_for(micro().name)
    cdef const floating* mean = <const floating*>after.mean + channel
    cdef const floating* scale = <const floating*>after.scale + channel
    cdef const floating* shift = <const floating*>after.shift + channel
    cdef const floating* residual = _at(<const floating*>after.residual, places - <const floating*>after.output)
    if floating is float:
        lanes.normalize_f32(&rows, places, residual, mean, scale, shift, after.relu, places)
    else:
        lanes.normalize_f64(&rows, places, residual, mean, scale, shift, after.relu, places)


cdef inline void _grad_tile(const floating* dy, const floating* x, int mask, const floating* y, const floating* mean,
                            const floating* scale, const floating* shift, const floating* grad_mean,
                            const floating* slope, const floating* grad_scale, floating* dx, Tile t,
                            const Lanes* lanes) noexcept nogil:
    cdef floating[PANEL] m, s, b, gm, k, gs
    cdef const floating* slopes = slope if slope == NULL else <const floating*>k
    cdef Rows rows = Rows(t.rows, t.stride, t.width)
    cdef Py_ssize_t at = t.start
    _columns(mean, t, m)
    _columns(scale, t, s)
    _columns(shift, t, b)
    _columns(grad_mean, t, gm)
    _columns(slope, t, k)
    _columns(grad_scale, t, gs)
    for _ in range(2):
        if floating is float:
            lanes.grad_f32(&rows, dy + at, x + at, mask, _at(y, at), m, s, b, gm, slopes, gs, dx + at)
        else:
            lanes.grad_f64(&rows, dy + at, x + at, mask, _at(y, at), m, s, b, gm, slopes, gs, dx + at)
        if not t.tail:
            return
        at = t.start + t.rows * t.stride
        rows.rows, rows.width = 1, t.tail


cdef void batch_norm_grad_ptr(const floating* grad_output, const floating* input, int mask, const floating* output,
                              const floating* mean, const floating* scale, const floating* shift,
                              const floating* grad_mean, const floating* slope, const floating* grad_scale,
                              floating* grad_input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                              bint channels_last) noexcept nogil:
    """grad_input = (g - grad_mean - (input - mean) * slope) * grad_scale, g as in `batch_norm_sums_ptr`.

    Where `slope` is NULL, g * grad_scale. `grad_input` may be `grad_output` or `input`.
    """
    cdef Py_ssize_t i, tiles = _tiles(n, c, plane, channels_last)
    cdef const Lanes* lanes = fastcnn_norm_for(micro().name)
    for i in prange(tiles, schedule="static", num_threads=threads_for(tiles, 3 * n * c * plane)):
        _grad_tile(grad_output, input, mask, output, mean, scale, shift, grad_mean, slope, grad_scale, grad_input,
                   _tile(i, n, c, plane, channels_last), lanes)


# --- doors for memoryviews; arguments are trusted, `functional` checks them ------------------------------------------


cdef inline const floating* _start(const floating[::1] array) noexcept nogil:
    if array is None:
        return NULL
    return &array[0]


def blocks(Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last):
    """blocks(n, c, plane, channels_last): how many rows of 2*c doubles `partials` needs."""
    return batch_norm_blocks(n, c, plane, channels_last)


def batch_statistics(const floating[::1] input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                     floating[::1] centre, double[:, ::1] partials, double[:, ::1] statistics):
    """batch_statistics(input, n, c, plane, channels_last, centre, partials, statistics): mean, var overwritten."""
    with nogil:
        batch_statistics_ptr(&input[0], n, c, plane, channels_last, &centre[0], &partials[0, 0], &statistics[0, 0],
                             &statistics[1, 0])


def factors(floating[:, ::1] factors, const floating[::1] weight, const floating[::1] bias,
            const double[:, ::1] statistics, double eps):
    """factors(factors, weight, bias, statistics, eps): overwrite mean, invstd, scale, shift; weight, bias or None."""
    batch_norm_factors_ptr(&statistics[0, 0], &statistics[1, 0], _start(weight), _start(bias), eps, factors.shape[1],
                           &factors[0, 0])


def move_running(const double[:, ::1] statistics, Py_ssize_t count, double momentum, floating[::1] running_mean,
                 floating[::1] running_var):
    """move_running(statistics, count, momentum, running_mean, running_var): update both, as of a batch of `count`."""
    move_running_ptr(&statistics[0, 0], 1, momentum, running_mean.shape[0], &running_mean[0])
    move_running_ptr(&statistics[1, 0], count / <double>(count - 1), momentum, running_var.shape[0], &running_var[0])


def apply(const floating[::1] input, const floating[::1] residual, const floating[::1] mean,
          const floating[::1] scale, const floating[::1] shift, bint relu, floating[::1] output, Py_ssize_t n,
          Py_ssize_t c, Py_ssize_t plane, bint channels_last):
    """apply(input, residual, mean, scale, shift, relu, output, n, c, plane, channels_last): overwrite `output`."""
    cdef const floating* other = _start(residual)
    with nogil:
        batch_norm_apply_ptr(&input[0], other, &mean[0], &scale[0], &shift[0], relu, &output[0], n, c, plane,
                             channels_last)


def backward(const floating[::1] grad_output, const floating[::1] input, const floating[::1] output,
             const floating[::1] scale, const floating[::1] shift, const floating[::1] weight,
             const floating[::1] mean, const floating[::1] invstd, bint training, double[:, ::1] partials,
             double[:, ::1] sums, floating[:, ::1] slopes, floating[::1] masked, floating[:, ::1] grads,
             floating[::1] grad_input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last):
    """backward(...): both passes; overwrite grads (of weight and bias), grad_input and, unless None, masked.

    The mask is by `output`, or by `scale` and `shift`, or there is none where these are None. `partials`, `sums` (2, c)
    and `slopes` (3, c) are scratch.
    """
    cdef int mask = FASTCNN_MASK_AGAIN if scale is not None else FASTCNN_MASK_NONE
    cdef const floating* y = _start(output)
    cdef const floating* s = _start(scale)
    cdef const floating* b = _start(shift)
    cdef const floating* w = _start(weight)
    cdef const floating* g = &grad_output[0]
    cdef floating* kept = <floating*>_start(masked)
    if output is not None:
        mask = FASTCNN_MASK_OUTPUT
    with nogil:
        batch_norm_sums_ptr(g, &input[0], mask, y, &mean[0], s, b, kept, n, c, plane, channels_last, &partials[0, 0],
                            &sums[0, 0], &sums[1, 0])
        batch_norm_slopes_ptr(&sums[0, 0], &sums[1, 0], w, &invstd[0], n * plane, c, &grads[0, 0], &slopes[0, 0])
        if kept != NULL:
            g = kept
            mask = FASTCNN_MASK_NONE
        batch_norm_grad_ptr(g, &input[0], mask, y, &mean[0], s, b, &slopes[0, 0],
                            &slopes[1, 0] if training else <floating*>NULL, &slopes[2, 0], &grad_input[0], n, c, plane,
                            channels_last)
