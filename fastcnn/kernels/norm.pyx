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

A tile's statistics are taken of differences from a centre near its own mean, so that float32 data of mean 1000 and
deviation 1 loses nothing. (Differences above 1e18 would overflow float32's square.) The tiles' means and squares make
the batch's as Chan, Golub and LeVeque say: no tile waits for another, so a convolution may have them taken of a part of
its output while that is in the cache (batch_norm_part_ptr).
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.math cimport isfinite, isinf, sqrt

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
    SAMPLES = 8


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
    """Rows of `partials`, each of 3*c doubles, that a shape needs."""
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


cdef inline Py_ssize_t _channels(Tile t) noexcept nogil:
    return min(t.width, t.period)


cdef inline void _tile_sums(const floating* x, const floating* dy, int mask, const floating* y, const floating* m,
                            const floating* s, const floating* b, floating* masked, Tile t, double* first,
                            double* second, const Lanes* lanes) noexcept nogil:
    """Two sums for each of the tile's channels; m, s and b are laid out for its columns."""
    cdef Py_ssize_t i, j, at, channels = _channels(t)
    cdef Rows rows = Rows(0, t.stride, t.width)
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


cdef inline void _tile_grad_sums(const floating* x, const floating* dy, int mask, const floating* y,
                                 const floating* centre, const floating* scale, const floating* shift,
                                 floating* masked, Tile t, double* partials, const Lanes* lanes) noexcept nogil:
    """Set the tile's partials: of each of its channels, sums of the masked dy and of its product with x - centre."""
    cdef floating[PANEL] m, s, b
    cdef double[PANEL] first, second
    cdef Py_ssize_t j
    _columns(centre, t, m)
    _columns(scale, t, s)
    _columns(shift, t, b)
    _tile_sums(x, dy, mask, y, m, s, b, masked, t, first, second, lanes)
    for j in range(_channels(t)):
        partials[3 * j] = first[j]
        partials[3 * j + 1] = second[j]


cdef inline void _tile_statistics(const floating* x, Tile t, double* partials, const Lanes* lanes) noexcept nogil:
    """Set the tile's partials: mean of each of its channels, sum of squares of the differences from it, and centre.

    The mean is less the centre, which is the mean over SAMPLES rows. However few elements stand out, and be they the
    sampled ones, that is some deviations from the tile's mean at the most: the squares keep what they measure.
    """
    cdef floating[PANEL] centre
    cdef double[PANEL] first, second
    cdef Py_ssize_t i, j, k, channels = _channels(t), rows = t.rows if t.rows else 1
    cdef Py_ssize_t width = t.width if t.rows else t.tail
    cdef double count = <double>((t.rows * t.width + t.tail) // channels), off
    cdef const floating* row
    for j in range(channels):
        first[j] = 0
    for k in range(SAMPLES):
        row = x + t.start + k * rows // SAMPLES * t.stride
        for i in range(width // channels):
            for j in range(channels):
                first[j] += row[i * channels + j]
    for j in range(channels):
        centre[j] = <floating>(first[j] / (SAMPLES * (width // channels)))
        if centre[j] - centre[j] != 0:  # not finite
            centre[j] = 0
    for j in range(channels, t.width):
        centre[j] = centre[j - channels]
    _tile_sums(x, <const floating*>NULL, FASTCNN_MASK_NONE, <const floating*>NULL, <const floating*>centre,
               <const floating*>NULL, <const floating*>NULL, <floating*>NULL, t, first, second, lanes)
    for j in range(channels):
        off = first[j] / count
        partials[3 * j] = off
        partials[3 * j + 1] = second[j] - off * first[j]
        partials[3 * j + 2] = centre[j]


cdef inline Py_ssize_t _block_pixels(Py_ssize_t block, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                                     bint channels_last) noexcept nogil:
    """Pixels of an image that the tiles of a row of `partials` have; but for the last, that of any other block."""
    cdef Py_ssize_t pixels, segments
    if channels_last:
        pixels = _joined(c) // c * ROWS
        return min(pixels, n * plane - block * pixels)
    segments = _ceil(plane, SEGMENT)
    return min(<Py_ssize_t>SEGMENT, plane - block % segments * SEGMENT)


cdef inline void _whole_tiles(Py_ssize_t image, Py_ssize_t end, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                              bint channels_last, Py_ssize_t* tiles) noexcept nogil:
    """The first of the tiles that lie in images image..end alone, and the one after their last."""
    cdef Py_ssize_t each, pixels
    if channels_last:
        each, pixels = _ceil(_joined(c), PANEL), _joined(c) // c * ROWS
        tiles[0] = _ceil(image * plane, pixels) * each
        tiles[1] = (_ceil(end * plane, pixels) if end == n else end * plane // pixels) * each
    else:
        each = c * _ceil(plane, SEGMENT)
        tiles[0], tiles[1] = image * each, end * each


cdef inline void _sums_of_tiles(Py_ssize_t first_tile, Py_ssize_t end, const floating* x, const floating* dy, int mask,
                                const floating* y, const floating* centre, const floating* scale,
                                const floating* shift, floating* masked, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                                bint channels_last, double* partials, const Lanes* lanes) noexcept nogil:
    """The partials of some tiles: their statistics where dy is NULL.

    From the end to the start: what was written last may still be in the cache, and what is read last here will be when
    the second pass begins.
    """
    cdef Py_ssize_t i
    cdef double* place
    cdef Tile t
    for i in range(end - 1, first_tile - 1, -1):
        t = _tile(i, n, c, plane, channels_last)
        place = partials + 3 * (t.block * c + t.channel)
        if dy == NULL:
            _tile_statistics(x, t, place, lanes)
        else:
            _tile_grad_sums(x, dy, mask, y, centre, scale, shift, masked, t, place, lanes)


cdef inline void _sums(const floating* x, const floating* dy, int mask, const floating* y, const floating* centre,
                       const floating* scale, const floating* shift, floating* masked, Py_ssize_t n, Py_ssize_t c,
                       Py_ssize_t plane, bint channels_last, double* partials) noexcept nogil:
    """The partials of all tiles, a share of neighbouring ones on each thread."""
    cdef Py_ssize_t i, tiles = _tiles(n, c, plane, channels_last), shares = threads_for(tiles, n * c * plane)
    cdef const Lanes* lanes = fastcnn_norm_for(micro().name)
    for i in prange(shares, schedule="static", num_threads=shares):
        _sums_of_tiles(i * tiles // shares, (i + 1) * tiles // shares, x, dy, mask, y, centre, scale, shift, masked, n,
                       c, plane, channels_last, partials, lanes)


cdef void batch_norm_part_ptr(const floating* input, const floating* grad_output, int mask, const floating* output,
                              const floating* mean, const floating* scale, const floating* shift, Py_ssize_t image,
                              Py_ssize_t end, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                              double* partials) noexcept nogil:
    """The partials of the tiles that lie in images image..end alone, by one thread.

    They are those that batch_statistics_ptr (where grad_output is NULL) or batch_norm_sums_ptr would take. Arrays are
    given from their start, n images of them.
    """
    cdef Py_ssize_t tiles[2]
    _whole_tiles(image, end, n, c, plane, channels_last, tiles)
    _sums_of_tiles(tiles[0], tiles[1], input, grad_output, mask, output, mean, scale, shift, <floating*>NULL, n, c,
                   plane, channels_last, partials, fastcnn_norm_for(micro().name))


cdef void batch_norm_seam_ptr(const floating* input, const floating* grad_output, int mask, const floating* output,
                              const floating* mean, const floating* scale, const floating* shift, Py_ssize_t image,
                              Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                              double* partials) noexcept nogil:
    """The partials of the tiles across the start of an image, which parts that end and start there leave out."""
    cdef Py_ssize_t before[2]
    cdef Py_ssize_t after[2]
    _whole_tiles(0, image, n, c, plane, channels_last, before)
    _whole_tiles(image, n, n, c, plane, channels_last, after)
    _sums_of_tiles(before[1], after[0], input, grad_output, mask, output, mean, scale, shift, <floating*>NULL, n, c,
                   plane, channels_last, partials, fastcnn_norm_for(micro().name))


cdef inline void _merge_statistics(const double* partials, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                                   bint channels_last, double* mean, double* var) noexcept nogil:
    """A channel's, in the order of the blocks; means are told from the first one's centre."""
    cdef Py_ssize_t block, blocks = batch_norm_blocks(n, c, plane, channels_last)
    cdef double pixels, off, total = 0
    for block in range(blocks):
        pixels = <double>_block_pixels(block, n, c, plane, channels_last)
        total += (partials[3 * block * c + 2] - partials[2] + partials[3 * block * c]) * pixels
    total /= <double>(n * plane)
    mean[0] = partials[2] + total
    var[0] = 0
    for block in range(blocks):
        pixels = <double>_block_pixels(block, n, c, plane, channels_last)
        off = partials[3 * block * c + 2] - partials[2] + partials[3 * block * c] - total
        var[0] += partials[3 * block * c + 1] + pixels * off * off
    var[0] /= <double>(n * plane)
    var[0] = 0 if var[0] < 0 else var[0]  # NaN stays


cdef void batch_norm_merge_ptr(const double* partials, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                               bint channels_last, double* mean, double* var) noexcept nogil:
    """Mean and biased variance of each channel from the statistics of all tiles."""
    cdef Py_ssize_t i, blocks = batch_norm_blocks(n, c, plane, channels_last)
    for i in prange(c, schedule="static", num_threads=threads_for(c, 8 * blocks * c)):
        _merge_statistics(partials + 3 * i, n, c, plane, channels_last, mean + i, var + i)


cdef void batch_statistics_ptr(const floating* input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                               double* partials, double* mean, double* var) noexcept nogil:
    """Mean and biased variance of each channel; `partials` (batch_norm_blocks * 3c) is scratch."""
    cdef const floating* none = NULL
    _sums(input, none, FASTCNN_MASK_NONE, none, none, none, none, <floating*>NULL, n, c, plane, channels_last, partials)
    batch_norm_merge_ptr(partials, n, c, plane, channels_last, mean, var)


cdef void batch_norm_factors_ptr(const double* mean, const double* var, const floating* weight, const floating* bias,
                                 double eps, Py_ssize_t c, floating* factors) noexcept nogil:
    """factors (4, c): mean, 1 / sqrt(var + eps), and scale and shift of output = (input - mean) * scale + shift.

    `mean` is rounded, and `shift` makes up for it where that is finite. NULL for a weight of 1 and a bias of 0.
    """
    cdef Py_ssize_t i
    cdef double scale, lost
    for i in range(c):
        scale = 1 / sqrt(var[i] + eps)
        factors[i] = <floating>mean[i]
        factors[c + i] = <floating>scale
        if weight != NULL:
            scale *= weight[i]
        factors[2 * c + i] = <floating>scale
        lost = (factors[i] - mean[i]) * scale
        if lost - lost != 0:  # of an infinite mean or scale, of which nothing was lost
            lost = 0
        factors[3 * c + i] = <floating>((0 if bias == NULL else bias[i]) + lost)


cdef void move_running_ptr(const double* batch, double factor, double momentum, Py_ssize_t c,
                           floating* running) noexcept nogil:
    """running = (1 - momentum) * running + momentum * factor * batch."""
    cdef Py_ssize_t i
    for i in range(c):
        running[i] = <floating>((1 - momentum) * running[i] + momentum * (factor * batch[i]))


cdef Py_ssize_t batch_norm_overflow_ptr(const double* statistics, Py_ssize_t count, double momentum, Py_ssize_t c,
                                        const floating* running_var) noexcept nogil:
    """The first channel of finite mean whose variance, or new running variance, overflows; c if there is none.

    `statistics` (2, c) are those of a batch of `count`, more than one unless `running_var` is NULL.
    """
    cdef Py_ssize_t i
    cdef floating moved = 0
    cdef double factor = 1 if running_var == NULL else count / <double>(count - 1)
    for i in range(c):
        if running_var != NULL:
            moved = <floating>((1 - momentum) * running_var[i] + momentum * (factor * statistics[c + i]))
        if isfinite(statistics[i]) and (isinf(moved) or not isfinite(statistics[c + i])):
            return i
    return c


cdef inline void _total(const double* partials, Py_ssize_t blocks, Py_ssize_t stride, double* first,
                        double* second) noexcept nogil:
    cdef Py_ssize_t i
    first[0] = 0
    second[0] = 0
    for i in range(blocks):
        first[0] += partials[i * stride]
        second[0] += partials[i * stride + 1]


cdef void batch_norm_total_ptr(const double* partials, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                               bint channels_last, double* first, double* second) noexcept nogil:
    """Two sums for each channel from those of all tiles, in their order."""
    cdef Py_ssize_t i, blocks = batch_norm_blocks(n, c, plane, channels_last)
    for i in prange(c, schedule="static", num_threads=threads_for(c, 2 * blocks * c)):
        _total(partials + 3 * i, blocks, 3 * c, first + i, second + i)


cdef void batch_norm_sums_ptr(const floating* grad_output, const floating* input, int mask, const floating* output,
                              const floating* mean, const floating* scale, const floating* shift, floating* masked,
                              Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last, double* partials,
                              double* grad_sum, double* product_sum) noexcept nogil:
    """For each channel the sums of the gradient g and of g * (input - mean).

    g is grad_output where `mask` lets it through (see micro/norm.h; `output` is read for the one kind of mask, `scale`
    and `shift` for the other), elsewhere 0; it goes to `masked` unless that is NULL.
    """
    _sums(input, grad_output, mask, output, mean, scale, shift, masked, n, c, plane, channels_last, partials)
    batch_norm_total_ptr(partials, n, c, plane, channels_last, grad_sum, product_sum)


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
                              floating* grad_input, bint together, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane,
                              bint channels_last) noexcept nogil:
    """grad_input = (g - grad_mean - (input - mean) * slope) * grad_scale, g as in `batch_norm_sums_ptr`.

    Where `slope` is NULL, g * grad_scale. `grad_input` may be `grad_output` or `input`. The threads go through the
    tiles from the first on, all `together`, or each through a share, as batch_norm_sums_ptr has left them in its cache.
    """
    cdef Py_ssize_t i, tiles = _tiles(n, c, plane, channels_last)
    cdef const Lanes* lanes = fastcnn_norm_for(micro().name)
    cdef int threads = threads_for(tiles, 3 * n * c * plane)
    for i in prange(tiles, schedule="static", chunksize=1 if together else _ceil(tiles, threads), num_threads=threads):
        _grad_tile(grad_output, input, mask, output, mean, scale, shift, grad_mean, slope, grad_scale, grad_input,
                   _tile(i, n, c, plane, channels_last), lanes)


# --- doors for memoryviews; arguments are trusted, `functional` checks them ------------------------------------------


cdef inline const floating* _start(const floating[::1] array) noexcept nogil:
    if array is None:
        return NULL
    return &array[0]


def blocks(Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last):
    """blocks(n, c, plane, channels_last): how many rows of 3*c doubles `partials` needs."""
    return batch_norm_blocks(n, c, plane, channels_last)


def batch_statistics(const floating[::1] input, Py_ssize_t n, Py_ssize_t c, Py_ssize_t plane, bint channels_last,
                     double[:, ::1] partials, double[:, ::1] statistics):
    """batch_statistics(input, n, c, plane, channels_last, partials, statistics): mean, var overwritten."""
    with nogil:
        batch_statistics_ptr(&input[0], n, c, plane, channels_last, &partials[0, 0], &statistics[0, 0],
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


def overflow(const double[:, ::1] statistics, Py_ssize_t count, double momentum, const floating[::1] running_var):
    """overflow(statistics, count, momentum, running_var): the first channel whose variance overflows, or -1."""
    cdef Py_ssize_t c = statistics.shape[1]
    cdef Py_ssize_t i = batch_norm_overflow_ptr(&statistics[0, 0], count, momentum, c, _start(running_var))
    return i if i < c else -1


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
                            &slopes[1, 0] if training else <floating*>NULL, &slopes[2, 0], &grad_input[0], False, n, c,
                            plane, channels_last)
