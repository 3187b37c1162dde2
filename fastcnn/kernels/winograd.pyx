"""Convolution of 3x3 windows by Winograd's F(2x2, 3x3), F(2x4, 3x3) and F(4x4, 3x3), in three passes.

The job is conv.pyx's. Its places are cut into tiles: of 2x2, each of which reads a 4x4 tile of the source and takes 16
multiplications where the sum has 36; of float32 of 2x4, which read 4x6 and take 24 for 72, where that saves enough; and
of float32 where the precision is below 'highest' of 4x4, which read 6x6 and take 36 for 144. The transforms, and where
they come from, are in micro/winograd.h and winograd4.h; the products are those of micro/tile.h:

  forward, data      V = transformed source, U = transformed weights; for each of the 16, 24 or 36 positions M = V U, a
                     matrix product of tiles x channels by channels x outputs; the places are the transformed M
  backward-weight    V as before, Y = transformed gradient; for each position the sum over tiles V' Y; the gradient of
                     the weights is the transformed sum, made once at the end

Tiling: a block of tiles is transformed at once into a thread's scratch, V[position][tile][channel], sized to stay in
the L2 cache beside one panel's M (or the block's Y); the packed U is walked panel by panel, its positions inside.

Ownership: in the first two passes a task is (image, group, block of tiles, part of the panels) and alone writes its
places; parts transform the source again, which costs a panel's products an eighth. In backward-weight a task is (group,
chunk of channels, part of the blocks) with partial sums of its own, added in order of the parts. All of it follows from
the shape: no bit depends on the thread count.

Rounding: F(2x2, 3x3) has fewer additions in a chain than the direct sum and errs less than it in forward and data. In
backward-weight the nine taps share their sums: each errs by the rounding of the largest. F(2x4, 3x3) errs 1.8 times as
much, by the rounding of the largest of the six pixels that a line of its tile reads; sums in parts of few steps keep
it within 5e-7, which F(2x2, 3x3) leaves at 256 channels. F(4x4, 3x3) errs two to eight times as much as F(2x2, 3x3),
and in each pass by the rounding of the largest in a tile.

Range: so the errors of a tile are relative to its largest magnitude. A tile is marked (micro/guard.h) where that is
more than 2**FASTCNN_RANGE times the smallest nonzero maximum of its windows, or not finite. After all tasks, marked
tiles get direct sums, as do those with a result beyond 1e30 or not finite. The sum of a window of zeros beside other
pixels is its bias. Each tile is judged by its own values: bits do not depend on what else a call computes. In backward-
weight a task's marked tiles are zeros in its transformed sums; their direct sums are added after those. There the
ranges of x and of dy count together, and a call is given up where a transformed sum is beyond 1e30 or not finite.
Weights with a tap of zeros, or of one sign, take direct sums for the whole call (_shares_too_much): no tile shows what
they need.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from .isa cimport Sum, Winograd4, is_highest, micro
from .jobs cimport (
    ALIGN, Job, aligned, copy_pixels, fetch_far, fetch_places, lanes_of, pieces, put_tile, round_up, run_tile,
)
from .norm cimport after_places
from .threads cimport thread_index, threads_for


cdef extern from "micro/guard.h" nogil:
    enum:
        WIDE "FASTCNN_WIDE"
        EMPTY "FASTCNN_EMPTY"

    ctypedef struct Guard "fastcnn_guard":
        void (*peaks_f32)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, float*,
                          Py_ssize_t) noexcept nogil
        int (*marks_f32)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, float*,
                         uint8_t*) noexcept nogil
        int (*weight_marks_f32)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, const float*, Py_ssize_t,
                                Py_ssize_t, Py_ssize_t, float*, uint8_t*) noexcept nogil
        void (*peaks_f64)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, double*,
                          Py_ssize_t) noexcept nogil
        int (*marks_f64)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t,
                         double*, uint8_t*) noexcept nogil
        int (*weight_marks_f64)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, const double*,
                                Py_ssize_t, Py_ssize_t, Py_ssize_t, double*, uint8_t*) noexcept nogil

    const Guard* fastcnn_guard_for(const char* isa)

# Bytes of a block's transformed tiles: less than half of an L2 cache of 1 MB, the least of a core with AVX-512 today.
# Fewer, to some bound, where they and the weights, which each block reads, are more together than NEAR_BYTES.
cdef Py_ssize_t BLOCK_BYTES = 3 << 17
cdef Py_ssize_t LEAST_BLOCK_BYTES = 1 << 18
cdef Py_ssize_t NEAR_BYTES = 5 << 17
# The same in backward-weight, where the tiles are what each sum runs over: the longer, the fewer visits to its result.
cdef Py_ssize_t WEIGHT_BLOCK_BYTES = 3 << 18
# Bytes of a task's partial sums in backward-weight.
cdef Py_ssize_t PARTIAL_BYTES = 1 << 19
# Tasks that a call is cut into where its shape allows.
cdef Py_ssize_t TASKS = 16
# Tiles of a part in backward-weight, at least, where there are more than two parts.
cdef Py_ssize_t PART_TILES = 16
# More bytes of packed weights than an L2 cache holds beside a block; then as many tiles and panels at once, at least.
cdef Py_ssize_t FAR_BYTES = 1 << 20
cdef Py_ssize_t FAR_TILES = 32
cdef Py_ssize_t FAR_WIDTH = 2
# Steps of a sum where tiles are 2x4. Longer, and rounding errors are more than 'highest' allows; shorter, and visits to
# the result cost.
cdef Py_ssize_t SUM_STEPS = 64
# The same in backward-weight, whose nine taps share their sums' errors; and of any pass where registers are the
# shortest: there may be no fused multiply-add, and each product is rounded.
cdef Py_ssize_t WEIGHT_SUM_STEPS = 48
cdef Py_ssize_t ROUNDED_SUM_STEPS = 40
# Channels of weights that are brought into order at a time.
cdef Py_ssize_t PACK_CHANNELS = 16
# Channels of a direct sum, nine products each, between two visits to the output.
cdef Py_ssize_t DIRECT_CHANNELS = 48
# A transformed sum beyond this may have overflowed where the direct ones do not.
cdef double HUGE = 1e30
# Fewer channels, outputs or tiles than these, and the transforms cost more than the products save (measured).
cdef Py_ssize_t FEWEST_CHANNELS = 16
cdef Py_ssize_t FEWEST_PRODUCTS = 512  # channels times outputs, in forward and data
cdef Py_ssize_t FEWEST_TILES = 16
# What the transforms of weights, or of their gradient, cost beside the products of a tile (measured, with F(4x4)).
cdef Py_ssize_t CONSTANT = 80
cdef Py_ssize_t WEIGHT_CONSTANT = 40


cdef enum:
    TEMP_ROWS = 3  # of peaks, that marks are made with


cdef struct Plan:
    const Guard* guard                          # what finds the tiles of a large range
    const Winograd4* four                       # the transforms of tiles with 4 columns, or NULL: tiles of 2x2
    Py_ssize_t step_y, step_x, side, positions  # of a tile: rows and columns of places, rows it reads; products
    Py_ssize_t sum                              # channels, or tiles, of a sum, which is then added to those before
    Py_ssize_t panel, panels                    # outputs of a panel; panels of a group
    Py_ssize_t width, sets                      # panels done side by side; such sets
    Py_ssize_t parts                            # the sets are cut into, or (backward-weight) the blocks
    Py_ssize_t chunk, chunks                    # channels of a task; such chunks (backward-weight)
    Py_ssize_t tiles_y, tiles_x                 # of an image
    Py_ssize_t rows, columns, images            # tiles of a block; whole images in it
    Py_ssize_t yblocks, xblocks, batches
    Py_ssize_t tiles                            # of a full block
    Py_ssize_t v_tile, v_position               # strides of V
    Py_ssize_t m_tile, m_position               # strides of M, or of Y
    Py_ssize_t u_position                       # stride of U, or of the sums
    Py_ssize_t ahead                            # from a block's source to that of the thread's next one, or 0
    Py_ssize_t slot, direct                     # elements of a task's partial sums, of those before the direct ones
    # Scratch, in bytes from the start: packed weights, bias, zeros (or partial sums); then slices, one a thread.
    Py_ssize_t bias, zeros, slices, slice, bytes
    Py_ssize_t v, m, tile                       # within a slice, after the copy of the source
    Py_ssize_t peaks, marks                     # likewise: largest magnitudes of the block's pixels, marks of its tiles
    # Before the slices: whether a tile's sums are direct, or (backward-weight) a task has direct sums.
    Py_ssize_t flags
    Py_ssize_t pitch                            # of a row of peaks


cdef Py_ssize_t _places(const Job* job, Py_ssize_t itemsize, bint weights, bint exact) noexcept nogil:
    """Places of a tile: 2x2; of float32 2x4 or, at a lower precision, 4x4; 0 where the direct sums are faster."""
    cdef Py_ssize_t places = job.n * job.ny * job.nx, constant = WEIGHT_CONSTANT if weights else CONSTANT
    cdef Py_ssize_t two = job.n * pieces(job.ny, 2) * pieces(job.nx, 2)
    cdef Py_ssize_t wide = job.n * pieces(job.ny, 2) * pieces(job.nx, 4), four
    if not (job.taps_y == 3 and job.taps_x == 3 and job.sy == 1 and job.sx == 1 and job.ty == 1 and job.tx == 1
            and job.dest_sy == 1 and job.dest_sx == 1 and job.dest_y == 0 and job.dest_x == 0
            and job.inputs >= FEWEST_CHANNELS and job.outputs >= FEWEST_CHANNELS):
        return 0
    # Where tiles overhang the places, a part of the saved products is wasted.
    if (two < FEWEST_TILES or 5 * two > 2 * places
            or not (weights or job.inputs * job.outputs >= FEWEST_PRODUCTS)):
        two = 0
    if itemsize == 4 and not exact:
        four = 36 * (job.n * pieces(job.ny, 4) * pieces(job.nx, 4) + constant)
        if 5 * four <= 32 * places and (two == 0 or four < 16 * (two + constant)):
            return 16
    # Tiles of 2x4 err more: only for an eighth of the products or more. The same for any part of a batch.
    if itemsize == 4 and two and 24 * wide <= 14 * two:
        return 8
    return 4 if two else 0


cdef bint winograd_fits(const Job* job, Py_ssize_t itemsize, bint weights) noexcept nogil:
    return _places(job, itemsize, weights, is_highest()) != 0


cdef Plan _plan(const Job* job, Py_ssize_t tile, int threads, Py_ssize_t itemsize, bint weights) noexcept nogil:
    cdef Plan p
    cdef Py_ssize_t lanes = lanes_of(itemsize), block = WEIGHT_BLOCK_BYTES // itemsize, fit, tasks, copy
    memset(&p, 0, sizeof(Plan))
    p.guard = fastcnn_guard_for(micro().name)
    if tile == 4:
        p.step_y, p.step_x = 2, 2
    else:
        p.step_y, p.step_x = tile // 4, 4
        p.four = &micro().winograd4 if tile == 16 else &micro().winograd24
    p.side, p.positions = p.step_y + 2, (p.step_y + 2) * (p.step_x + 2)
    p.panel = lanes if job.outputs <= lanes else 2 * lanes
    p.panels = pieces(job.outputs, p.panel)
    p.chunk, p.width = job.inputs, 1
    p.sum = max(1, job.inputs, job.n * job.ny * job.nx)
    if tile == 8:
        p.sum = ROUNDED_SUM_STEPS if lanes == 4 else WEIGHT_SUM_STEPS if weights else SUM_STEPS
    if weights:
        p.width = min(p.panels, 4 if tile == 4 else 2)
        fit = (PARTIAL_BYTES if tile == 4 else 2 * PARTIAL_BYTES) // itemsize // (p.positions * p.width * p.panel)
        fit = max(16, fit // 16 * 16)
        p.chunk = min(job.inputs, round_up(pieces(job.inputs, pieces(job.inputs, fit)), 16))
    else:
        block = NEAR_BYTES - p.positions * itemsize * job.inputs * p.panels * p.panel
        block = max(LEAST_BLOCK_BYTES, min(BLOCK_BYTES, block)) // itemsize
        if tile < 16 and p.positions * itemsize * job.inputs * job.outputs > FAR_BYTES:
            # Every block reads all of U from beyond the L2 cache: more tiles for it, and more panels for their V.
            p.width = min(p.panels, FAR_WIDTH)
    p.sets = pieces(p.panels, p.width)
    p.width = pieces(p.panels, p.sets)
    p.chunks = pieces(job.inputs, p.chunk)
    p.tiles_y, p.tiles_x = pieces(job.ny, p.step_y), pieces(job.nx, p.step_x)
    p.v_tile = round_up(p.chunk, lanes)
    if p.v_tile * itemsize % 1024 == 0:  # rows of a product's tile in different sets of the L1 cache
        p.v_tile += lanes
    p.m_tile = p.width * p.panel
    # Tiles of a block: as many as fit, in whole rows, then whole images.
    fit = max(FAR_TILES if p.width > 1 and not weights else micro().rows,
              block // (p.positions * (p.v_tile + p.m_tile)))
    if weights and fit < 2 * p.sum:  # one sum a block
        fit = min(fit, p.sum)
    p.images, p.rows, p.columns = 1, 1, p.tiles_x
    if p.tiles_x > fit:
        p.columns = pieces(p.tiles_x, pieces(p.tiles_x, fit))
    elif p.tiles_x * p.tiles_y > fit:
        p.rows = max(1, fit // p.tiles_x)
    else:
        p.rows = p.tiles_y
        p.images = fit // (p.tiles_x * p.tiles_y)
    # Enough tasks for the threads: fewer images in a block, then fewer rows; the sets in parts.
    tasks = job.groups * p.sets * p.chunks
    p.images = max(1, min(p.images, job.n // pieces(TASKS, tasks)))
    tasks *= pieces(job.n, p.images) * pieces(p.tiles_x, p.columns)
    if tasks * pieces(p.tiles_y, p.rows) < TASKS:
        p.rows = max(min(p.rows, pieces(2 * micro().rows, p.tiles_x)), min(p.rows, p.tiles_y // pieces(TASKS, tasks)))
    p.yblocks, p.xblocks = pieces(p.tiles_y, p.rows), pieces(p.tiles_x, p.columns)
    p.rows = pieces(p.tiles_y, p.yblocks)
    p.yblocks = pieces(p.tiles_y, p.rows)
    p.batches = pieces(job.n, p.images)
    p.tiles = p.images * p.rows * p.columns
    tasks = p.batches * p.yblocks * p.xblocks
    if weights:
        # Sums of tiles of 4 columns are larger, and their memory is there at every precision.
        p.parts = min(tasks, pieces(TASKS if tile == 4 else TASKS // 2, job.groups * p.sets * p.chunks))
        # A part's sums are cleared, walked and added up: so that this costs little, it has some tiles.
        p.parts = min(p.parts, max(2, job.n * p.tiles_y * p.tiles_x // PART_TILES))
    else:
        p.parts = min(p.sets, pieces(TASKS, tasks * job.groups))
    # One register more between positions: stores to all of them then meet different sets of the L1 cache.
    p.u_position = (p.chunk * p.m_tile if weights else job.inputs * p.panel) + lanes
    p.v_position = p.tiles * p.v_tile + lanes
    p.m_position = p.tiles * p.m_tile + lanes
    if weights:
        # Sums [position][channel][output] and bias of a set and chunk, and direct sums [tap][channel][output].
        p.direct = p.positions * p.u_position + p.m_tile
        p.slot = p.direct + 9 * p.chunk * p.m_tile
        p.flags = aligned(itemsize * p.parts * job.groups * p.chunks * p.sets * p.slot)
        p.slices = p.flags + aligned(p.parts * job.groups * p.chunks * p.sets)
        p.tile = tile * p.columns * p.m_tile  # a copy of the gradient
        copy = max(p.side * (p.step_x * p.columns + 2) * p.chunk, tile * p.columns * p.m_tile)
    else:
        p.bias = aligned(itemsize * job.groups * p.panels * p.positions * p.u_position)
        p.zeros = p.bias + aligned(itemsize * job.groups * p.panels * p.panel)
        p.flags = p.zeros + aligned(itemsize * 2 * lanes)
        p.slices = p.flags + aligned(job.n * job.groups * p.tiles_y * p.tiles_x)
        copy = p.side * (p.step_x * p.columns + 2) * job.inputs
        p.tile = tile * p.columns * p.panel  # rows of places, where channels are not contiguous
    # Registers are read past the last channel by less than one of them.
    p.v = aligned(itemsize * (max(copy, (9 if weights else 9 * PACK_CHANNELS) * p.panel) + 2 * lanes))
    p.m = p.v + aligned(itemsize * p.positions * p.v_position)
    p.slice = p.m + aligned(itemsize * p.positions * p.m_position)
    p.tile, p.slice = p.slice, p.slice + aligned(itemsize * p.tile)
    p.peaks, p.pitch = p.slice, round_up(p.step_x * p.columns, lanes) + round_up(p.step_x, lanes) + lanes
    p.marks = p.peaks + aligned(itemsize * p.pitch * (TEMP_ROWS + p.images * (p.step_y * p.rows + 2)))
    p.slice = p.marks + aligned(p.tiles)
    p.bytes = p.slices + threads * p.slice + ALIGN
    return p


cdef Py_ssize_t winograd_scratch(const Job* job, int threads, Py_ssize_t itemsize, bint weights) noexcept nogil:
    cdef Py_ssize_t exact = _places(job, itemsize, weights, True), tile = _places(job, itemsize, weights, False)
    cdef Py_ssize_t most = 0
    if exact:
        most = _plan(job, exact, threads, itemsize, weights).bytes
    if tile != exact:
        most = max(most, _plan(job, tile, threads, itemsize, weights).bytes)
    return most


# --- forward and backward-data --------------------------------------------------------------------------------------


cdef bint _shares_too_much(const Job* job, const floating* weight) noexcept nogil:
    """Whether an output's weights, not all 0, have a tap that is 0 in every channel, or no two different signs.

    Such outputs are exact where a window is cut (masked and causal convolutions, unit impulses) or have the sign of
    their inputs (box filters, counts). Direct sums keep that, transformed ones do not.
    """
    cdef Py_ssize_t group, o, c, k
    cdef const floating* w
    cdef int taps, signs
    for group in range(job.groups):
        for o in range(job.outputs):
            taps = signs = 0
            for c in range(job.inputs):
                w = weight + job.w_start + group * job.w_group + o * job.w_output + c * job.w_input
                if job.w_tx < 0:
                    w -= 8
                for k in range(9):
                    taps |= (w[k] != 0) << k
                    signs |= (w[k] > 0) | (w[k] < 0) << 1
                if taps == 511 and signs == 3:  # of usual weights, in the first channels
                    break
            if taps != 0 and (taps != 511 or signs != 3):
                return True
    return False


cdef void _pack(const Job* job, const Plan* p, Py_ssize_t task, const floating* weight, bint direct, floating* packed,
                floating* taps) noexcept nogil:
    """U[panel][position][channel][output] of one panel; outputs past the last are 0. `taps`: scratch.

    If `direct`, the weights themselves in the place of U: [panel][tap][channel][output].
    """
    cdef Py_ssize_t group = task // p.panels, panel = task % p.panels, block, first, several, c, k
    cdef Py_ssize_t count = min(p.panel, job.outputs - panel * p.panel), tap = p.panel, channels = PACK_CHANNELS
    cdef const floating* w
    cdef floating* u
    # The nine taps of a window are neighbours, ascending or (backward-data) descending.
    weight += job.w_start + group * job.w_group + panel * p.panel * job.w_output
    if job.w_tx < 0:
        weight -= 8
        tap = -p.panel
    if job.w_input != 9:
        channels = 1
    packed += task * p.positions * p.u_position
    if count < p.panel:
        memset(taps, 0, 9 * channels * p.panel * sizeof(floating))
    for block in range(pieces(job.inputs, channels)):
        first = block * channels
        several = min(channels, job.inputs - first)
        if floating is float:
            micro().transpose_f32(count, 9 * several, weight + first * job.w_input, job.w_output, taps, p.panel)
        else:
            micro().transpose_f64(count, 9 * several, weight + first * job.w_input, job.w_output, taps, p.panel)
        for c in range(several):
            w = taps + (9 * c + (8 if tap < 0 else 0)) * p.panel
            u = packed + (first + c) * p.panel
            if direct:
                for k in range(9):
                    memcpy(u + k * job.inputs * p.panel, w + k * tap, p.panel * sizeof(floating))
            elif floating is float and p.four != NULL:
                p.four.weight(p.panel, w, tap, u, p.u_position)
            elif floating is float:
                micro().winograd_weight_f32(p.panel, w, tap, u, p.u_position)
            else:
                micro().winograd_weight_f64(p.panel, w, tap, u, p.u_position)


cdef inline void _transform_source(Py_ssize_t tiles, Py_ssize_t channels, const floating* a, Py_ssize_t row,
                                   Py_ssize_t pixel, floating* v, const Plan* p) noexcept nogil:
    if floating is float and p.four != NULL:
        p.four.source(tiles, channels, a, row, pixel, 0, p.side, 0, 4 * tiles + 2, v, p.v_position, p.v_tile)
    elif floating is float:
        micro().winograd_source_f32(tiles, channels, a, row, pixel, v, p.v_position, p.v_tile)
    else:
        micro().winograd_source_f64(tiles, channels, a, row, pixel, v, p.v_position, p.v_tile)


cdef inline bint _transform_dest(Py_ssize_t tiles, Py_ssize_t n, const floating* m, const Plan* p,
                                 const floating* init, floating* y, Py_ssize_t y_row, Py_ssize_t y_pixel,
                                 Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    if floating is float and p.four != NULL:
        return p.four.dest(tiles, n, m, p.m_position, p.m_tile, init, y, y_row, y_pixel, rows, columns)
    elif floating is float:
        return micro().winograd_dest_f32(tiles, n, m, p.m_position, p.m_tile, init, y, y_row, y_pixel, rows, columns)
    else:
        return micro().winograd_dest_f64(tiles, n, m, p.m_position, p.m_tile, init, y, y_row, y_pixel, rows, columns)


cdef inline void _row_peaks(const Plan* p, const floating* line, Py_ssize_t pixel, Py_ssize_t start, Py_ssize_t width,
                            Py_ssize_t channels, floating* peaks) noexcept nogil:
    """Of a block's row, whose pixel 0 is column `start` of a line of `width` pixels; NULL: a line outside the image."""
    cdef Py_ssize_t most = p.pitch - lanes_of(sizeof(floating)), first = min(most, max(0, -start))
    cdef Py_ssize_t count = 0 if line == NULL else max(0, min(most, width - start) - first)
    if count:
        line += (start + first) * pixel
    if floating is float:
        p.guard.peaks_f32(first, count, channels, line, pixel, peaks, p.pitch)
    else:
        p.guard.peaks_f64(first, count, channels, line, pixel, peaks, p.pitch)


cdef void _block_source(const Job* job, const Plan* p, Py_ssize_t image, Py_ssize_t images, Py_ssize_t top,
                        Py_ssize_t rows, Py_ssize_t left, Py_ssize_t columns, Py_ssize_t channel,
                        Py_ssize_t channels, const floating* source, floating* copy, floating* peaks,
                        floating* v) noexcept nogil:
    """V of one block: tile rows top.., tile columns left.. of some images; source has its first channel, `channel`.

    Before a row of tiles is transformed, its pixels' largest magnitudes are taken, which brings it to the L1 cache.

    Tiles that touch no padding are read where they lie, and all where channels fill registers and the transform knows
    of padding (that of tiles of 4 columns does); the others from a padded copy, in which job.before is done.
    """
    cdef Py_ssize_t i, y, first = columns, last = columns, row0 = p.step_y * top + job.y0
    cdef Py_ssize_t column0 = p.step_x * left + job.x0, row, r
    cdef floating* out
    cdef bint here = job.source.channel == 1 and job.before.mean == NULL
    cdef bint whole = here and channels % lanes_of(sizeof(floating)) == 0
    if whole:  # tile columns first to last have their columns inside the image
        first = min(columns, max(0, -column0 + p.step_x - 1) // p.step_x)
        last = max(first, min(columns, (job.source.w - column0 - 2) // p.step_x))
    for i in range(images):
        source += (image if i == 0 else 1) * job.source.image
        for y in range(rows):
            row = row0 + p.step_y * y
            out = v + (i * rows + y) * columns * p.v_tile
            for r in range(p.step_y * y + 2 if y else 0, p.step_y * (y + 1) + 2 if here else 0):
                _row_peaks(p, source + (row0 + r) * job.source.row if 0 <= row0 + r < job.source.h
                           else <const floating*>NULL, job.source.pixel, column0,
                           min(job.source.w, column0 + p.step_x * columns + 2), channels, peaks + r * p.pitch)
            if floating is float and whole and p.four != NULL:
                p.four.source(
                    columns, channels, source + row * job.source.row + column0 * job.source.pixel, job.source.row,
                    job.source.pixel, -row, job.source.h - row, -column0, job.source.w - column0, out, p.v_position,
                    p.v_tile)
                continue
            if not whole or row < 0 or row + p.side > job.source.h:
                _copied_tiles(job, p, row, column0, columns, channel, channels, source, copy, out)
                for r in range(0 if here else 2 if y else 0, 0 if here else p.side):
                    _row_peaks(p, <const floating*>(copy + r * (p.step_x * columns + 2) * channels), channels, 0,
                               p.step_x * columns + 2, channels, peaks + (p.step_y * y + r) * p.pitch)
                continue
            if first > 0:
                _copied_tiles(job, p, row, column0, first, channel, channels, source, copy, out)
            _transform_source(last - first, channels,
                              source + row * job.source.row + (column0 + p.step_x * first) * job.source.pixel,
                              job.source.row, job.source.pixel, out + first * p.v_tile, p)
            if last < columns:
                _copied_tiles(job, p, row, column0 + p.step_x * last, columns - last, channel, channels, source, copy,
                              out + last * p.v_tile)
        peaks += (p.step_y * rows + 2) * p.pitch


cdef inline void _copied_tiles(const Job* job, const Plan* p, Py_ssize_t row0, Py_ssize_t column0, Py_ssize_t tiles,
                               Py_ssize_t channel, Py_ssize_t channels, const floating* image, floating* copy,
                               floating* v) noexcept nogil:
    """V of a row of tiles whose first one reads the source from row0, column0 on, by way of a padded copy."""
    cdef Py_ssize_t pixels = p.step_x * tiles + 2, y, first, end
    copy_pixels(image, &job.source, row0, p.side, column0, pixels, channels, copy, channels)
    if job.before.mean != NULL:
        first = min(pixels, max(0, -column0))
        end = max(first, min(pixels, job.source.w - column0))
        for y in range(max(0, -row0), min(p.side, job.source.h - row0)):
            after_places(&job.before, copy + (y * pixels + first) * channels, channel, end - first, channels, channels)
    _transform_source(tiles, channels, <const floating*>copy, pixels * channels, channels, v, p)


cdef inline int _marks(Py_ssize_t tiles, Py_ssize_t rows, Py_ssize_t columns, const Plan* p, const floating* peaks,
                       floating* temp, uint8_t* marks) noexcept nogil:
    """Of a row of tiles, of whose places `rows` by `columns` are real."""
    if floating is float:
        return p.guard.marks_f32(tiles, p.step_y, p.step_x, rows, columns, peaks, p.pitch, temp, marks)
    else:
        return p.guard.marks_f64(tiles, p.step_y, p.step_x, rows, columns, peaks, p.pitch, temp, marks)


cdef inline int _weight_marks(Py_ssize_t tiles, const Plan* p, const floating* x, const floating* dy, Py_ssize_t row,
                              Py_ssize_t pixel, Py_ssize_t outputs, floating* temp, uint8_t* marks) noexcept nogil:
    if floating is float:
        return p.guard.weight_marks_f32(tiles, p.step_y, p.step_x, x, p.pitch, dy, row, pixel, outputs, temp, marks)
    else:
        return p.guard.weight_marks_f64(tiles, p.step_y, p.step_x, x, p.pitch, dy, row, pixel, outputs, temp, marks)


cdef void _fill_empty(const Plan* p, Py_ssize_t tiles, const uint8_t* marks, const floating* peaks,
                      const floating* init, floating* y, Py_ssize_t y_row, Py_ssize_t y_pixel, Py_ssize_t rows,
                      Py_ssize_t columns, Py_ssize_t n) noexcept nogil:
    """The sum of a window of zeros, where other pixels of its tile left their rounding errors, is exactly `init`."""
    cdef Py_ssize_t t, r, x, i, j
    cdef bint zero
    for t in range(tiles):
        if marks[t] != EMPTY:
            continue
        for r in range(rows):
            for x in range(p.step_x * t, min(p.step_x * (t + 1), columns)):
                zero = True
                for i in range(r, r + 3):
                    for j in range(x, x + 3):
                        zero &= peaks[i * p.pitch + j] == 0
                if zero:
                    memcpy(y + r * y_row + x * y_pixel, init, n * sizeof(floating))


cdef bint _block(const Job* job, const Plan* p, Py_ssize_t task, const floating* source, const floating* packed,
                 const floating* bias, const floating* zeros, floating* dest, uint8_t* flags,
                 char* slice) noexcept nogil:
    """One task: one block of tiles, for one part of one group's panels. Whether it set flags, of tiles whose sums are
    to be direct: those of a large range, and those with a result that is huge or not finite.
    """
    cdef Py_ssize_t part = task % p.parts
    cdef Py_ssize_t left = task // p.parts % p.xblocks * p.columns
    cdef Py_ssize_t top = task // (p.parts * p.xblocks) % p.yblocks * p.rows
    cdef Py_ssize_t group = task // (p.parts * p.xblocks * p.yblocks) % job.groups
    cdef Py_ssize_t image = task // (p.parts * p.xblocks * p.yblocks * job.groups) * p.images
    cdef Py_ssize_t images = min(p.images, job.n - image)
    cdef Py_ssize_t rows = min(p.rows, p.tiles_y - top), columns = min(p.columns, p.tiles_x - left)
    cdef Py_ssize_t tiles = images * rows * columns, heights = pieces(tiles, micro().rows)
    cdef Py_ssize_t each, first_panel, width, panel, position, t, first, i, y, x, o, n, place_rows, places, lines, r
    cdef Py_ssize_t share, c, line, pixel
    cdef const floating* start
    cdef floating* v = <floating*>(slice + p.v)
    cdef floating* m = <floating*>(slice + p.m)
    cdef floating* tile = <floating*>(slice + p.tile)
    cdef floating* temp = <floating*>(slice + p.peaks)
    cdef floating* peaks = temp + TEMP_ROWS * p.pitch
    cdef uint8_t* marks = <uint8_t*>(slice + p.marks)
    cdef uint8_t* mark
    cdef uint8_t* flag
    cdef floating* out
    cdef floating* target
    cdef const floating* sums
    cdef const floating* u
    cdef const floating* init
    cdef Py_ssize_t zero = 0
    cdef bint found = False, bad
    cdef int marked = 0
    cdef Sum s
    _block_source(job, p, image, images, top, rows, left, columns, group * job.inputs, job.inputs,
                  source + group * job.inputs * job.source.channel, <floating*>slice, peaks, v)
    flags += ((image * job.groups + group) * p.tiles_y + top) * p.tiles_x + left
    for i in range(images):
        for y in range(rows):
            mark = marks + (i * rows + y) * columns
            t = _marks(columns, min(p.step_y, job.ny - p.step_y * (top + y)),
                       min(p.step_x * columns, job.nx - p.step_x * left), p,
                       <const floating*>(peaks + (i * (p.step_y * rows + 2) + p.step_y * y) * p.pitch), temp, mark)
            marked |= t
            if t & WIDE:
                found = True
                flag = flags + (i * job.groups * p.tiles_y + y) * p.tiles_x
                for x in range(columns):
                    if mark[x] == WIDE:
                        flag[x] = True
    s.segments, s.a_offset, s.a_row, s.a_step = 1, &zero, p.v_tile, 1
    s.b_segment, s.b_step, s.b_offset = 0, p.panel, NULL
    left *= p.step_x
    top *= p.step_y
    places = min(p.step_x * columns, job.nx - left)
    lines = min(p.step_y * rows, job.ny - top)
    start = source + image * job.source.image + top * job.source.row
    share = images * p.step_y * rows * job.source.row // (p.positions * heights)
    for each in range(part * p.sets // p.parts, (part + 1) * p.sets // p.parts):
        first_panel = each * p.width
        width = min(p.width, p.panels - first_panel)
        u = packed + (group * p.panels + first_panel) * p.positions * p.u_position
        for position in range(p.positions):
            if job.dest.channel == 1 and each == part * p.sets // p.parts:  # places on their way in the meantime
                for i in range(position * images * lines // p.positions,
                               (position + 1) * images * lines // p.positions):
                    fetch_places(job, dest + (image + i // lines) * job.dest.image + left * job.dest.pixel
                                 + (top + i % lines) * job.dest.row, places)
            for panel in range(width):
                for t in range(heights):
                    first = t * tiles // heights
                    if p.ahead and panel == 0 and each == 0:  # what this thread will probably transform next
                        fetch_far(start + (position * heights + t) * share, p.ahead * sizeof(floating),
                                  share * sizeof(floating))
                    init = zeros
                    for r in range(pieces(job.inputs, p.sum)):
                        c = r * p.sum
                        s.depth = min(p.sum, job.inputs - c)
                        run_tile((t + 1) * tiles // heights - first, p.panel, &s,
                                 <const floating*>(v + position * p.v_position + first * p.v_tile + c),
                                 u + (panel * p.positions + position) * p.u_position + c * p.panel, init,
                                 m + position * p.m_position + first * p.m_tile + panel * p.panel, p.m_tile)
                        init = NULL
        for panel in range(width):
            o = (first_panel + panel) * p.panel
            init = bias + group * p.panels * p.panel + o
            n = min(p.panel, job.outputs - o)
            for i in range(images):
                for y in range(rows):
                    sums = m + (i * rows + y) * columns * p.m_tile + panel * p.panel
                    place_rows = min(p.step_y, job.ny - top - p.step_y * y)
                    out = (dest + (image + i) * job.dest.image + (group * job.outputs + o) * job.dest.channel
                           + (top + p.step_y * y) * job.dest.row + left * job.dest.pixel)
                    target, line, pixel, c = out, job.dest.row, job.dest.pixel, n
                    if job.dest.channel != 1:
                        target, line, pixel, c = tile, p.step_x * columns * p.panel, p.panel, p.panel
                    bad = _transform_dest(columns, c, sums, p, init, target, line, pixel, place_rows, places)
                    mark = marks + (i * rows + y) * columns
                    if bad:
                        flag = flags + (i * job.groups * p.tiles_y + y) * p.tiles_x
                        for t in range(columns):
                            if _transform_dest(1, c, sums + t * p.m_tile, p, init, target + t * p.step_x * pixel, line,
                                               pixel, place_rows, places - t * p.step_x):
                                flag[t] = found = True
                    if marked & EMPTY:
                        _fill_empty(p, columns, mark,
                                    <const floating*>(peaks + (i * (p.step_y * rows + 2) + p.step_y * y) * p.pitch),
                                    init, target, line, pixel, place_rows, places, c)
                    if job.dest.channel == 1:
                        if job.after.mean != NULL:
                            for r in range(place_rows):
                                after_places(&job.after, out + r * job.dest.row, group * job.outputs + o, places,
                                             job.dest.pixel, n)
                        continue
                    for r in range(place_rows):
                        put_tile(<const floating*>(tile + r * p.step_x * columns * p.panel), p.panel,
                                 out + r * job.dest.row, job.dest.pixel, job.dest.channel, places, n, False)
    return found


cdef void _direct_row(const Job* job, const Plan* p, Py_ssize_t row, const floating* source, const floating* packed,
                      const floating* bias, floating* dest, const uint8_t* flags, char* slice) noexcept nogil:
    """The flagged tiles of a row of tiles of one image and group, by direct sums; neighbours together.

    The order of an output's sum is that of the weights, [tap][channel] for some channels after others.
    """
    cdef Py_ssize_t tile_row = row % p.tiles_y, group = row // p.tiles_y % job.groups
    cdef Py_ssize_t image = row // (p.tiles_y * job.groups), inputs = job.inputs
    cdef Py_ssize_t top = p.step_y * tile_row, rows = min(p.step_y, job.ny - top), t = 0, end, left, columns, width
    cdef Py_ssize_t panel, o, n, q, c, x, m, r, k, y, first, last, strips
    cdef Py_ssize_t offset[9]
    cdef floating* copy = <floating*>slice
    cdef floating* tile = <floating*>(slice + p.tile)
    cdef floating* out
    cdef floating* target
    cdef const floating* init
    cdef Sum s
    flags += row * p.tiles_x
    source += image * job.source.image + group * inputs * job.source.channel
    dest += image * job.dest.image + group * job.outputs * job.dest.channel + top * job.dest.row
    s.segments, s.a_offset, s.a_row, s.a_step = 9, offset, inputs, 1
    s.b_segment, s.b_step, s.b_offset = inputs * p.panel, p.panel, NULL
    while t < p.tiles_x:
        if not flags[t]:
            t += 1
            continue
        end = t + 1
        while end < p.tiles_x and flags[end] and end - t < p.columns:
            end += 1
        left = p.step_x * t
        columns = min(p.step_x * end, job.nx) - left
        width = columns + 2
        copy_pixels(source, &job.source, top + job.y0, rows + 2, left + job.x0, width, inputs, copy, inputs)
        if job.before.mean != NULL:
            first = min(width, max(0, -(left + job.x0)))
            last = max(first, min(width, job.source.w - (left + job.x0)))
            for y in range(max(0, -(top + job.y0)), min(rows + 2, job.source.h - (top + job.y0))):
                after_places(&job.before, copy + (y * width + first) * inputs, group * inputs, last - first, inputs,
                             inputs)
        for k in range(9):
            offset[k] = (k // 3 * width + k % 3) * inputs
        strips = pieces(columns, micro().rows)
        for panel in range(p.panels):
            o = panel * p.panel
            n = min(p.panel, job.outputs - o)
            for r in range(rows):
                out = dest + r * job.dest.row + left * job.dest.pixel + o * job.dest.channel
                for k in range(strips):
                    x = k * columns // strips
                    m = (k + 1) * columns // strips - x
                    target = out + x * job.dest.pixel if job.dest.channel == 1 else tile
                    init = bias + group * p.panels * p.panel + o
                    for q in range(pieces(inputs, DIRECT_CHANNELS)):
                        c = q * DIRECT_CHANNELS
                        s.depth = min(DIRECT_CHANNELS, inputs - c)
                        run_tile(m, n, &s, <const floating*>(copy + (r * width + x) * inputs + c),
                                 packed + (group * p.panels + panel) * p.positions * p.u_position + c * p.panel, init,
                                 target, job.dest.pixel if job.dest.channel == 1 else p.panel)
                        init = NULL
                    if job.dest.channel != 1:
                        put_tile(<const floating*>tile, p.panel, out + x * job.dest.pixel, job.dest.pixel,
                                 job.dest.channel, m, n, False)
                if job.after.mean != NULL:
                    after_places(&job.after, out, group * job.outputs + o, columns, job.dest.pixel, n)
        t = end


cdef bint winograd_sums(const Job* job, const floating* source, const floating* weight, const floating* bias,
                        floating* dest, char* scratch, int threads) noexcept nogil:
    cdef Py_ssize_t tile = _places(job, sizeof(floating), False, is_highest())
    if tile == 0 or _shares_too_much(job, weight):
        return False
    cdef Plan p = _plan(job, tile, threads, sizeof(floating), False)
    cdef floating* packed = <floating*>scratch
    cdef floating* packed_bias = <floating*>(scratch + p.bias)
    cdef floating* zeros = <floating*>(scratch + p.zeros)
    cdef uint8_t* flags = <uint8_t*>(scratch + p.flags)
    cdef Py_ssize_t tasks = job.groups * p.panels, task, o, group, pitch = p.panels * p.panel
    cdef Py_ssize_t work = job.groups * job.inputs * job.outputs
    cdef int found = 0
    for task in prange(tasks, schedule="static", num_threads=min(threads, threads_for(tasks, 4 * work))):
        _pack(job, &p, task, weight, False, packed, <floating*>(scratch + p.slices + thread_index() * p.slice))
    for group in range(job.groups):
        for o in range(pitch):
            packed_bias[group * pitch + o] = (
                bias[group * job.outputs + o] if bias != NULL and o < job.outputs else 0)
    memset(zeros, 0, 2 * lanes_of(sizeof(floating)) * sizeof(floating))
    memset(flags, 0, job.n * job.groups * p.tiles_y * p.tiles_x)
    tasks = p.batches * p.yblocks * p.xblocks * job.groups * p.parts
    work *= job.n * p.tiles_y * p.tiles_x
    threads = min(threads, threads_for(tasks, work))
    if job.source.channel == 1 and job.groups * p.parts * p.xblocks == 1:
        p.ahead = threads * (p.images * job.source.image if p.yblocks == 1 else p.step_y * p.rows * job.source.row)
    for task in prange(tasks, schedule="dynamic", num_threads=threads):
        found += _block(job, &p, task, source, packed, packed_bias, zeros, dest, flags,
                        scratch + p.slices + thread_index() * p.slice)
    if found:
        for task in prange(job.groups * p.panels, schedule="static", num_threads=threads):
            _pack(job, &p, task, weight, True, packed, <floating*>(scratch + p.slices + thread_index() * p.slice))
        for task in prange(job.n * job.groups * p.tiles_y, schedule="dynamic", num_threads=threads):
            _direct_row(job, &p, task, source, packed, packed_bias, dest, flags,
                        scratch + p.slices + thread_index() * p.slice)
    return True


# --- backward-weight ------------------------------------------------------------------------------------------------


cdef int _block_grad(const Job* job, const Plan* p, Py_ssize_t row0, Py_ssize_t column0, Py_ssize_t tiles,
                     Py_ssize_t outputs, Py_ssize_t pitch, const floating* image, const floating* peaks,
                     floating* copy, floating* dy, floating* temp, uint8_t* marks) noexcept nogil:
    """Y of a row of tiles, read where they lie or from a copy whose places past the last are 0; and the tiles' marks.

    peaks: of the source under the first tile.
    """
    cdef Py_ssize_t row = job.dest.row, pixel = job.dest.pixel, columns = p.step_x * tiles
    cdef const floating* a = image + row0 * row + column0 * pixel
    if job.dest.channel != 1 or outputs < pitch or row0 + p.step_y > job.ny or column0 + columns > job.nx:
        copy_pixels(image, &job.dest, row0, p.step_y, column0, columns, outputs, copy, pitch)
        row, pixel, a = columns * pitch, pitch, copy
    if floating is float and p.four != NULL:
        p.four.grad(tiles, pitch, a, row, pixel, dy, p.m_position, p.m_tile)
    elif floating is float:
        micro().winograd_grad_f32(tiles, pitch, a, row, pixel, dy, p.m_position, p.m_tile)
    else:
        micro().winograd_grad_f64(tiles, pitch, a, row, pixel, dy, p.m_position, p.m_tile)
    return _weight_marks(tiles, p, peaks, a, row, pixel, outputs, temp, marks)


cdef void _add_places(const Job* job, const floating* grad, Py_ssize_t images, Py_ssize_t top, Py_ssize_t rows,
                      Py_ssize_t left, Py_ssize_t columns, Py_ssize_t outputs, floating* line,
                      floating* bias) noexcept nogil:
    """bias += the sum of the places of a block, row by row; line: scratch for the sums of one."""
    cdef Py_ssize_t i, y, x, o
    cdef const floating* places
    for i in range(images):
        for y in range(top, min(top + rows, job.ny)):
            places = grad + i * job.dest.image + y * job.dest.row
            memset(line, 0, outputs * sizeof(floating))
            for x in range(left, min(left + columns, job.nx)):
                for o in range(outputs):
                    line[o] += places[x * job.dest.pixel + o * job.dest.channel]
            for o in range(outputs):
                bias[o] += line[o]


cdef void _add_direct(const Job* job, const Plan* p, Py_ssize_t top, Py_ssize_t left, Py_ssize_t tiles,
                      Py_ssize_t channel, Py_ssize_t channels, Py_ssize_t outputs, Py_ssize_t panels,
                      const floating* grad, const floating* source, floating* direct, char* slice) noexcept nogil:
    """direct[tap][channel][output] += the sums over `tiles` neighbours of one image, from its place (top, left) on."""
    cdef Py_ssize_t rows = min(p.step_y, job.ny - top), columns = min(p.step_x * tiles, job.nx - left)
    cdef Py_ssize_t width = columns + 2, pitch = panels * p.panel, heights = pieces(channels, micro().rows)
    cdef Py_ssize_t first, last, y, tap, panel, k, c
    cdef Py_ssize_t offset[4]
    cdef floating* copy = <floating*>slice
    cdef floating* dy = <floating*>(slice + p.tile)
    cdef Sum s
    copy_pixels(source, &job.source, top + job.y0, rows + 2, left + job.x0, width, channels, copy, channels)
    if job.before.mean != NULL:
        first = min(width, max(0, -(left + job.x0)))
        last = max(first, min(width, job.source.w - (left + job.x0)))
        for y in range(max(0, -(top + job.y0)), min(rows + 2, job.source.h - (top + job.y0))):
            after_places(&job.before, copy + (y * width + first) * channels, channel, last - first, channels, channels)
    copy_pixels(grad, &job.dest, top, rows, left, columns, outputs, dy, pitch)
    s.segments, s.depth, s.a_offset, s.a_row, s.a_step = rows, columns, offset, 1, channels
    s.b_segment, s.b_step, s.b_offset = columns * pitch, pitch, NULL
    for tap in range(9):
        for y in range(rows):
            offset[y] = ((y + tap // 3) * width + tap % 3) * channels
        for panel in range(panels):
            for k in range(heights):
                c = k * channels // heights
                run_tile((k + 1) * channels // heights - c, p.panel, &s, <const floating*>(copy + c),
                         <const floating*>(dy + panel * p.panel), <const floating*>NULL,
                         direct + (tap * p.chunk + c) * p.m_tile + panel * p.panel, p.m_tile)


cdef void _leave_out(const Job* job, const Plan* p, const uint8_t* marks, Py_ssize_t top, Py_ssize_t left,
                     Py_ssize_t columns, Py_ssize_t channel, Py_ssize_t channels, Py_ssize_t outputs,
                     Py_ssize_t panels, const floating* grad, const floating* source, floating* v, floating* dy,
                     floating* direct, char* slice) noexcept nogil:
    """Marked tiles of a row: zeros in V and Y, and in their place direct sums, of neighbours together."""
    cdef Py_ssize_t t = 0, first, position
    while t < columns:
        first = t
        while t < columns and marks[t]:
            for position in range(p.positions):
                memset(v + position * p.v_position + t * p.v_tile, 0, channels * sizeof(floating))
                memset(dy + position * p.m_position + t * p.m_tile, 0, panels * p.panel * sizeof(floating))
            t += 1
        if t > first:
            _add_direct(job, p, top, left + p.step_x * first, t - first, channel, channels, outputs, panels, grad,
                        source, direct, slice)
        else:
            t += 1


cdef void _weight_blocks(const Job* job, const Plan* p, Py_ssize_t task, const floating* grad, const floating* source,
                         floating* partial, uint8_t* flag, bint with_bias, char* slice) noexcept nogil:
    """One task: the sums over one part of all blocks, for one chunk of the channels and one set of panels."""
    cdef Py_ssize_t blocks = p.batches * p.yblocks * p.xblocks
    cdef Py_ssize_t each = task % p.sets, chunk = task // p.sets % p.chunks
    cdef Py_ssize_t group = task // (p.sets * p.chunks) % job.groups, part = task // (p.sets * p.chunks * job.groups)
    cdef Py_ssize_t c0 = chunk * p.chunk, channels = min(p.chunk, job.inputs - c0)
    cdef Py_ssize_t o0 = each * p.width * p.panel, width = min(p.width, p.panels - each * p.width)
    cdef Py_ssize_t outputs = min(p.m_tile, job.outputs - o0), pitch = width * p.panel
    cdef Py_ssize_t heights = pieces(channels, micro().rows), zero = 0
    cdef Py_ssize_t block, left, top, image, images, rows, columns, panel, position, i, y, t, r, k, first, tiles
    cdef floating* copy = <floating*>slice
    cdef floating* v = <floating*>(slice + p.v)
    cdef floating* dy = <floating*>(slice + p.m)
    cdef floating* temp = <floating*>(slice + p.peaks)
    cdef floating* peaks = temp + TEMP_ROWS * p.pitch
    cdef uint8_t* marks = <uint8_t*>(slice + p.marks)
    cdef floating* bias
    cdef const floating* sums
    cdef int found
    cdef Sum s
    source += (group * job.inputs + c0) * job.source.channel
    grad += (group * job.outputs + o0) * job.dest.channel
    partial += task * p.slot
    bias = partial + p.positions * p.u_position
    memset(partial, 0, p.direct * sizeof(floating))
    flag[0] = False
    s.segments, s.a_offset, s.a_row, s.a_step = 1, &zero, 1, p.v_tile
    s.b_segment, s.b_step, s.b_offset = 0, p.m_tile, NULL
    for block in range(part * blocks // p.parts, (part + 1) * blocks // p.parts):
        left = block % p.xblocks * p.columns
        top = block // p.xblocks % p.yblocks * p.rows
        image = block // (p.xblocks * p.yblocks) * p.images
        images = min(p.images, job.n - image)
        rows, columns = min(p.rows, p.tiles_y - top), min(p.columns, p.tiles_x - left)
        _block_source(job, p, image, images, top, rows, left, columns, group * job.inputs + c0, channels, source, copy,
                      peaks, v)
        found = 0
        for i in range(images):
            for y in range(rows):
                t = (i * rows + y) * columns
                found |= _block_grad(
                    job, p, p.step_y * (top + y), p.step_x * left, columns, outputs, pitch,
                    grad + (image + i) * job.dest.image,
                    <const floating*>(peaks + (i * (p.step_y * rows + 2) + p.step_y * y) * p.pitch), copy,
                    dy + t * p.m_tile, temp, marks + t)
        tiles = images * rows * columns
        if with_bias and chunk == 0 and p.four != NULL:
            _add_places(job, grad + image * job.dest.image, images, p.step_y * top, p.step_y * rows, p.step_x * left,
                        p.step_x * columns, outputs, copy, bias)
        elif with_bias and chunk == 0:  # position (1, 1) of a transformed gradient is the sum of its four places
            sums = dy + 5 * p.m_position
            for t in range(tiles):
                for i in range(pitch):
                    bias[i] += sums[t * p.m_tile + i]
        if found:
            if not flag[0]:
                flag[0] = True
                memset(partial + p.direct, 0, (p.slot - p.direct) * sizeof(floating))
            for i in range(images):
                for y in range(rows):
                    _leave_out(job, p, marks + (i * rows + y) * columns, p.step_y * (top + y), p.step_x * left, columns,
                               group * job.inputs + c0, channels, outputs, width,
                               grad + (image + i) * job.dest.image, source + (image + i) * job.source.image,
                               v + (i * rows + y) * columns * p.v_tile, dy + (i * rows + y) * columns * p.m_tile,
                               partial + p.direct, slice)
        for position in range(p.positions):
            for panel in range(width):
                for t in range(heights):
                    first = t * channels // heights
                    r = (t + 1) * channels // heights - first
                    for k in range(pieces(tiles, p.sum)):
                        y = k * tiles // pieces(tiles, p.sum)
                        s.depth = (k + 1) * tiles // pieces(tiles, p.sum) - y
                        run_tile(r, p.panel, &s, <const floating*>(v + position * p.v_position + y * p.v_tile + first),
                                 <const floating*>(dy + position * p.m_position + y * p.m_tile + panel * p.panel),
                                 <const floating*>NULL,
                                 partial + position * p.u_position + first * p.m_tile + panel * p.panel,
                                 p.m_tile)


cdef bint _sum_parts(const Job* job, const Plan* p, Py_ssize_t row, const floating* partial, const uint8_t* flags,
                     floating* grad_weight, floating* taps) noexcept nogil:
    """grad_weight of one input channel of one group; whether a transformed sum is huge or not finite."""
    cdef Py_ssize_t group = row // job.inputs, c = row % job.inputs, q = c // p.chunk
    cdef Py_ssize_t slots = job.groups * p.chunks * p.sets, panel, o, k, part
    cdef bint bad = False
    cdef floating value
    cdef floating* out
    cdef const floating* sums
    partial += (group * p.chunks + q) * p.sets * p.slot + (c - q * p.chunk) * p.m_tile
    flags += (group * p.chunks + q) * p.sets
    for panel in range(p.panels):
        sums = partial + panel // p.width * p.slot + panel % p.width * p.panel
        if floating is float and p.four != NULL:
            p.four.weight_grad(p.panel, p.parts, sums, slots * p.slot, p.u_position, taps, p.panel)
        elif floating is float:
            micro().winograd_weight_grad_f32(p.panel, p.parts, sums, slots * p.slot, p.u_position, taps, p.panel)
        else:
            micro().winograd_weight_grad_f64(p.panel, p.parts, sums, slots * p.slot, p.u_position, taps, p.panel)
        for o in range(min(p.panel, job.outputs - panel * p.panel)):
            out = grad_weight + group * job.w_group + (panel * p.panel + o) * job.w_output + c * job.w_input
            for k in range(9):
                value = taps[k * p.panel + o]
                out[k] = value
                bad |= not -HUGE < value < HUGE
        for part in range(p.parts):
            if not flags[part * slots + panel // p.width]:
                continue
            for o in range(min(p.panel, job.outputs - panel * p.panel)):
                out = grad_weight + group * job.w_group + (panel * p.panel + o) * job.w_output + c * job.w_input
                for k in range(9):
                    out[k] += sums[part * slots * p.slot + p.direct + k * p.chunk * p.m_tile + o]
    return bad


cdef bint winograd_weight_grad(const Job* job, const floating* grad_output, const floating* source,
                               floating* grad_weight, floating* grad_bias, char* scratch, int threads) noexcept nogil:
    cdef Py_ssize_t tile = _places(job, sizeof(floating), True, is_highest())
    if tile == 0:
        return False
    cdef Plan p = _plan(job, tile, threads, sizeof(floating), True)
    cdef floating* partial = <floating*>scratch
    cdef uint8_t* flags = <uint8_t*>(scratch + p.flags)
    cdef Py_ssize_t slots = job.groups * p.chunks * p.sets, task, part, group, o, slot, tasks = slots * p.parts
    cdef Py_ssize_t work = job.n * p.tiles_y * p.tiles_x * job.groups * job.inputs * job.outputs
    cdef int bad = 0
    for task in prange(tasks, schedule="dynamic", num_threads=min(threads, threads_for(tasks, work))):
        _weight_blocks(job, &p, task, grad_output, source, partial, flags + task, grad_bias != NULL,
                       scratch + p.slices + thread_index() * p.slice)
    tasks = job.groups * job.inputs
    for task in prange(tasks, schedule="static",
                       num_threads=min(threads, threads_for(tasks, 2 * tasks * p.parts * job.outputs))):
        bad += _sum_parts(job, &p, task, <const floating*>partial, flags, grad_weight,
                          <floating*>(scratch + p.slices + thread_index() * p.slice))
    if grad_bias != NULL:
        for group in range(job.groups):
            for o in range(job.outputs):
                slot = group * p.chunks * p.sets + o // p.m_tile
                grad_bias[group * job.outputs + o] = 0
                for part in range(p.parts):
                    grad_bias[group * job.outputs + o] += (
                        partial[(part * slots + slot) * p.slot + p.positions * p.u_position + o % p.m_tile])
    return bad == 0
