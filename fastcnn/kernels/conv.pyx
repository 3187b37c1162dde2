"""Convolution in three passes over one tiled loop: im2col whose column matrix is never built.

With channels last, a row of a window is kw*C contiguous values, and the rows of neighbouring places overlap. A padded
copy of a few input rows in a thread's scratch therefore *is* the column matrix, read with an overlapping stride; where
no padding is touched the input itself serves, uncopied. NCHW input is put into channels-last order by that same copy.

Every pass is one or more jobs (struct Job): sums over the taps of a window, from a source image to a grid of places.

  forward            one job: source input, places in output
  backward-data      one job for each phase of the stride: source grad_output, places every s-th pixel of grad_input,
                     taps the flipped ones that meet that phase; each pixel is written once, so nothing is scattered
  backward-weight    the forward job's reads, with places as the inner dimension, against grad_output

Tiling: channels are summed in chunks, so that a chunk's packed weights (one panel: `panel` outputs) stay in L1/L2; for
a chunk, a block of rows x columns places has its source copied once, and every panel is run over it in register tiles
of up to 14 places (or, in backward-weight, 14 taps) by `panel` outputs (micro/tile.h).

More ways to do a job have files of their own, and are asked first whether it suits them: the matrix unit (matrix.pyx),
Winograd's algorithm for 3x3 windows (winograd.pyx), three ways for few channels (planar.pyx; spread.pyx, which is given
a whole gradient of an input, not jobs; ring.pyx for the weights), one for the weights of 1x1 windows (point.pyx). A
job that the first two give up, or that is to be `direct`, is done by the sums here or the last three ways.

What comes after the sums (job.after: batch norm, residual, ReLU) is done to places here and by Winograd's algorithm as
soon as their sums are complete, in the L1 cache. The matrix unit and planar tiles leave it to a pass of its own.

Ownership: a task is (image, group, block of places, part of the panels) in the first two passes, and it alone writes
those outputs. In backward-weight a task is (group, chunk, part of the images); each part has a partial sum of its own,
and the parts are added in order. Blocks and parts follow from the shape alone: no bit depends on the thread count.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from .edges cimport mend_edges
from .geometry cimport Window, check_conv
from .isa cimport Sum, micro
from .matrix cimport matrix_fits, matrix_scratch, matrix_sums, matrix_weight_grad
from .jobs cimport (
    ALIGN, Job, aligned, aligned_start, copy_pixels, data_job, fetch, fetch_far, fetch_places, fetch_rows, forward_job,
    lanes_of, pieces, put_tile, round_up, run_depthwise, run_tile,
)
from .norm cimport After, after_places, batch_norm_apply_ptr
from .planar cimport planar_fits, planar_scratch, planar_sums
from .point cimport point_fits, point_scratch, point_weight_grad
from .ring cimport ring_fits, ring_scratch, ring_weight_grad
from .spread cimport spread_data, spread_fits, spread_scratch
from .threads cimport thread_index, threads_for, usable
from .winograd cimport winograd_fits, winograd_scratch, winograd_sums, winograd_weight_grad


cdef extern from "micro/transpose.h" nogil:
    void transpose_f32 "fastcnn_transpose_f32"(const float*, Py_ssize_t, float*, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void transpose_f64 "fastcnn_transpose_f64"(const double*, Py_ssize_t, double*, Py_ssize_t, Py_ssize_t, Py_ssize_t)


# Bytes of source that a block copies or walks: a quarter to an eighth of the L2 caches met today (1 to 2 MB a core).
cdef Py_ssize_t BLOCK_BYTES = 1 << 18
# Steps of a sum (taps * channels) between two visits to the output. Longer, and rounding errors grow; shorter, and the
# visits cost.
cdef Py_ssize_t SUM_STEPS = 512
# Pixels this many bytes apart, or a multiple of it, meet few sets of an L1 cache (of 64 sets of 64 bytes), so that the
# rows of a tile would push each other out: they are copied to a pitch of one register more.
cdef Py_ssize_t PITCH = 2048
# Bytes of a task's partial sum in backward-weight, which is walked once for each block.
cdef Py_ssize_t PARTIAL_BYTES = 1 << 19
# Places that are gone over at once by what comes after the sums.
cdef Py_ssize_t AFTER_PLACES = 64
# Tasks that a call is cut into where its shape allows, so that any usual number of threads shares them evenly.
cdef Py_ssize_t TASKS = 16
cdef enum:
    SUM_ROWS = 16  # channels whose parts are added together, so that lines of the result are written whole
    SUM_OUTPUTS = 64  # and outputs, so that some lines of each part are read in a row
    TURNED = 128  # weights of an output that are transposed at once
# Places of a depthwise convolution that are walked with the taps' sums in registers, in rows of them.
cdef Py_ssize_t RUN_PLACES = 32
# Places of a part in backward-weight, at least, where there are more than two parts.
cdef Py_ssize_t PART_PLACES = 64


# --- tiling ---------------------------------------------------------------------------------------------------------


cdef void _tile(Job* job, Py_ssize_t itemsize, bint weights) noexcept nogil:
    """Choose the tiling of a job; `weights` for the backward-weight pass, whose partial sums bound the chunk."""
    cdef Py_ssize_t lanes = lanes_of(itemsize), taps = max(1, job.taps_y * job.taps_x), channels, pitch, fit, tasks
    cdef Py_ssize_t block = BLOCK_BYTES // itemsize, beside = 0
    if taps == 1 and not weights:  # nothing is read twice but by the next panel
        block //= 2
    # How far the taps of one place reach in the source, beyond its first row and column.
    cdef Py_ssize_t reach_y = max(0, job.taps_y - 1) * job.ty, reach_x = max(0, job.taps_x - 1) * job.tx
    cdef bint outside
    job.depthwise = job.inputs == 1 and job.outputs == 1 and job.groups > 1
    if job.depthwise:
        job.panel, job.panels = lanes, 1
        channels = job.groups
        job.chunk = channels if channels <= 512 else 256
    else:
        job.panel = lanes if job.outputs <= lanes else 2 * lanes
        job.panels = pieces(job.outputs, job.panel)
        channels = job.inputs
        fit = SUM_STEPS // taps
        if weights:
            fit = min(fit, PARTIAL_BYTES // itemsize // (taps * job.panels * job.panel))
        fit = max(16, fit // 16 * 16)
        job.chunk = min(channels, round_up(pieces(channels, pieces(channels, fit)), 16))
    job.chunks = pieces(channels, job.chunk)
    outside = (job.y0 < 0 or job.x0 < 0
               or (job.ny - 1) * job.sy + job.y0 + reach_y >= job.source.h
               or (job.nx - 1) * job.sx + job.x0 + reach_x >= job.source.w)
    job.in_place = job.taps_y == 0 or (
        job.source.channel == 1 and not outside
        and (job.depthwise or job.source.pixel * itemsize % PITCH != 0))
    # A window's row stays one run where that matters, which is where there are few channels.
    job.pitch = job.chunk
    if not job.depthwise and (job.chunks > 1 or taps == 1) and job.chunk * itemsize % PITCH == 0:
        job.pitch += lanes
    # Columns of a block: all, unless even one row of places is too much to copy; backward-weight copies the gradient of
    # a place's outputs beside.
    pitch = job.pitch * (reach_y + 1)
    if weights and not job.depthwise:
        beside = job.panels * job.panel
    job.columns = job.nx
    if ((job.nx - 1) * job.sx + reach_x + 1) * pitch + job.nx * beside > block:
        fit = (block - reach_x * pitch) // (job.sx * pitch + beside)
        fit = max(micro().rows, fit // micro().rows * micro().rows)
        job.columns = min(job.nx, fit)
    job.xblocks = pieces(job.nx, job.columns)
    job.span_x = (job.columns - 1) * job.sx + reach_x + 1
    job.rows = 1
    if job.xblocks == 1:
        fit = (block - reach_y * job.span_x * job.pitch) // (job.sy * job.span_x * job.pitch + job.nx * beside)
        job.rows = min(job.ny, max(1, fit))
    # Enough tasks for the threads: smaller blocks first, then the panels in parts (which share no copy).
    tasks = job.n * (job.chunks if job.depthwise or weights else 1) * job.xblocks
    if not job.depthwise:
        tasks *= job.groups
    if tasks * pieces(job.ny, job.rows) < TASKS:
        job.rows = max(1, min(job.rows, job.ny // pieces(TASKS, tasks)))
        if job.ny == 1 and job.columns > 4 * micro().rows:
            fit = round_up(pieces(job.nx, pieces(TASKS, tasks // job.xblocks)), micro().rows)
            job.columns = min(job.columns, max(fit, 4 * micro().rows))
            job.xblocks = pieces(job.nx, job.columns)
            job.span_x = (job.columns - 1) * job.sx + reach_x + 1
    job.yblocks = pieces(job.ny, job.rows)
    job.rows = pieces(job.ny, job.yblocks)
    job.yblocks = pieces(job.ny, job.rows)
    job.span_y = (job.rows - 1) * job.sy + reach_y + 1
    job.images = 1
    if beside and job.yblocks * job.xblocks == 1:
        fit = block // (job.span_y * job.span_x * job.pitch + job.ny * job.nx * beside)
        job.images = max(1, min(fit, job.n // pieces(TASKS, job.groups * job.chunks)))
    job.batches = pieces(job.n, job.images)
    tasks = job.n * job.groups * job.xblocks * job.yblocks
    job.parts = 1 if weights or job.depthwise else min(job.panels, pieces(TASKS, max(1, tasks)))
    if job.in_place:
        job.row, job.pixel = job.source.row, job.source.pixel
    else:
        job.row, job.pixel = job.span_x * job.pitch, job.pitch
    # A row of a window is one contiguous run where its pixels hold nothing but the chunk.
    if job.tx == 1 and job.chunks == 1 and job.pixel == job.chunk and not job.depthwise:
        job.segments, job.depth = job.taps_y, job.taps_x * job.chunk
    else:
        job.segments, job.depth = job.taps_y * job.taps_x, job.chunk


cdef void _segment_offsets(const Job* job, Py_ssize_t* offset) noexcept nogil:
    cdef Py_ssize_t i, j, across = job.segments // max(1, job.taps_y)
    for i in range(job.taps_y):
        for j in range(across):
            offset[i * across + j] = i * job.ty * job.row + j * job.tx * job.pixel


# --- scratch: [ segment offsets | packed weights | packed bias | partial sums ] [ one slice for each thread ] ---------


cdef struct Scratch:
    # Bytes from the start, each a multiple of ALIGN.
    Py_ssize_t weights, bias, partial, slices, slice, bytes
    Py_ssize_t copy, tile       # within a thread's slice: the source copy, then (in bytes) a tile or gradient block


cdef Scratch _layout(const Job* job, int threads, Py_ssize_t itemsize, Py_ssize_t partial, Py_ssize_t tile,
                     bint weights) noexcept nogil:
    cdef Scratch s
    cdef Py_ssize_t lanes = lanes_of(itemsize), slack
    s.weights = aligned(sizeof(Py_ssize_t) * (job.taps_y * job.taps_x + job.images * job.rows))
    s.bias = s.weights
    if not weights:
        if job.depthwise:
            s.bias += aligned(itemsize * job.taps_y * job.taps_x * round_up(job.groups, lanes))
        else:
            s.bias += aligned(itemsize * job.groups * job.taps_y * job.taps_x * job.inputs * job.panels * job.panel)
    s.partial = s.bias
    if not weights:
        s.partial += aligned(itemsize * (round_up(job.groups, lanes) if job.depthwise else
                                         job.groups * job.panels * job.panel))
    s.slices = s.partial + aligned(itemsize * partial)
    slack = 2 * lanes  # vector loads of the last channels may run past the copy by less than two registers
    s.copy = aligned(0 if job.in_place else itemsize * (job.images * job.span_y * job.span_x * job.pitch + slack))
    s.tile = aligned(itemsize * (tile + slack))
    s.slice = s.copy + s.tile
    s.bytes = s.slices + threads * s.slice + ALIGN
    return s


# --- copies ---------------------------------------------------------------------------------------------------------


cdef void _pack_matrix(Py_ssize_t channels, Py_ssize_t count, const floating* weight, Py_ssize_t w_input,
                       Py_ssize_t w_output, floating* packed, Py_ssize_t panel) noexcept nogil:
    """packed[channel][output] of weights of one tap, which lie side by side along one of the two."""
    cdef Py_ssize_t c
    if count <= lanes_of(sizeof(floating)) < panel:  # of each channel, the second register
        memset(packed, 0, channels * panel * sizeof(floating))
    if w_input != 1:
        for c in range(channels):
            memcpy(packed + c * panel, weight + c * w_input, count * sizeof(floating))
            memset(packed + c * panel + count, 0, (panel - count) * sizeof(floating))
    elif floating is float:
        micro().transpose_f32(count, channels, weight, w_output, packed, panel)
    else:
        micro().transpose_f64(count, channels, weight, w_output, packed, panel)


cdef void _pack_turned(const Job* job, Py_ssize_t channels, Py_ssize_t count, const floating* weight,
                       floating* packed) noexcept nogil:
    """packed[i][j][channel][output] of weights that are (output, channel, i, j) in memory, `count` outputs of them."""
    cdef Py_ssize_t taps = job.taps_y * job.taps_x, block, row, rows, i, o, c = 0, tap = 0
    cdef floating turned[TURNED * 32]  # a panel is two registers at most
    cdef floating* out
    if count <= lanes_of(sizeof(floating)):  # of each row, the second register
        memset(turned, 0, sizeof(turned))
    for block in range(pieces(channels * taps, TURNED)):
        row = block * TURNED
        rows = min(<Py_ssize_t>TURNED, channels * taps - row)
        if floating is float:
            micro().transpose_f32(count, rows, weight + row, job.w_output, turned, job.panel)
        else:
            micro().transpose_f64(count, rows, weight + row, job.w_output, turned, job.panel)
        for i in range(rows):
            out = packed + (tap * channels + c) * job.panel
            for o in range(job.panel):
                out[o] = turned[i * job.panel + o]
            tap += 1
            if tap == taps:
                tap, c = 0, c + 1


cdef void _pack_panel(const Job* job, const floating* weight, Py_ssize_t group, Py_ssize_t panel,
                      floating* packed) noexcept nogil:
    """packed[chunk][panel][i][j][channel][output] for one panel; outputs past the last are 0."""
    cdef Py_ssize_t q, i, j, c, o, few, first, channels, taps = job.taps_y * job.taps_x
    cdef Py_ssize_t count = min(job.panel, job.outputs - panel * job.panel)
    cdef const floating* source
    cdef floating* out
    weight += job.w_start + group * job.w_group + panel * job.panel * job.w_output
    packed += group * taps * job.inputs * job.panels * job.panel
    if taps == 1 and (job.w_input == 1 or job.w_output == 1):
        for q in range(job.chunks):
            channels = min(job.chunk, job.inputs - q * job.chunk)
            _pack_matrix(channels, count, weight + q * job.chunk * job.w_input, job.w_input, job.w_output,
                         packed + (q * job.chunk * job.panels + panel * channels) * job.panel, job.panel)
        return
    # Eight outputs at a time: eight streams of weights are read in the order they lie in, and written side by side.
    for q in range(job.chunks):
        channels = min(job.chunk, job.inputs - q * job.chunk)
        out = packed + (q * job.chunk * job.panels + panel * channels) * taps * job.panel
        if job.w_tx == 1 and job.w_ty == job.taps_x and job.w_input == taps:
            _pack_turned(job, channels, count, weight + q * job.chunk * taps, out)
            continue
        if count < job.panel:
            memset(out, 0, taps * channels * job.panel * sizeof(floating))
        for first in range(0, count, 8):
            few = min(8, count - first)
            for c in range(channels):
                source = weight + first * job.w_output + (q * job.chunk + c) * job.w_input
                for i in range(job.taps_y):
                    for j in range(job.taps_x):
                        for o in range(few):
                            out[((i * job.taps_x + j) * channels + c) * job.panel + first + o] = (
                                source[o * job.w_output + i * job.w_ty + j * job.w_tx])


cdef void _pack(const Job* job, const floating* weight, const floating* bias, floating* packed, floating* packed_bias,
                int threads) noexcept nogil:
    cdef Py_ssize_t task, tasks, i, j, o, lanes, pitch
    cdef Py_ssize_t work = job.groups * job.taps_y * job.taps_x * job.inputs * job.outputs
    if job.depthwise:
        lanes = job.panel
        pitch = round_up(job.groups, lanes)
        for i in range(job.taps_y):
            for j in range(job.taps_x):
                for o in range(job.groups):
                    packed[o] = weight[job.w_start + o * job.w_group + i * job.w_ty + j * job.w_tx]
                for o in range(job.groups, pitch):
                    packed[o] = 0
                packed += pitch
        for o in range(pitch):
            packed_bias[o] = bias[o] if bias != NULL and o < job.groups else 0
        return
    tasks = job.groups * job.panels
    for task in prange(tasks, schedule="static", num_threads=min(threads, threads_for(tasks, work))):
        _pack_panel(job, weight, task // job.panels, task % job.panels, packed)
    pitch = job.panels * job.panel
    for i in range(job.groups):
        for o in range(pitch):
            packed_bias[i * pitch + o] = bias[i * job.outputs + o] if bias != NULL and o < job.outputs else 0


# --- forward and backward-data --------------------------------------------------------------------------------------


cdef void _block(const Job* job, Py_ssize_t task, const Py_ssize_t* offset, const floating* source,
                 const floating* packed, const floating* bias, const floating* zeros, floating* dest, floating* copy,
                 floating* tile) noexcept nogil:
    """One task: all chunks of one block of places, for one part of one group's panels."""
    cdef Py_ssize_t part = task % job.parts
    cdef Py_ssize_t left = task // job.parts % job.xblocks * job.columns
    cdef Py_ssize_t top = task // (job.parts * job.xblocks) % job.yblocks * job.rows
    cdef Py_ssize_t group = task // (job.parts * job.xblocks * job.yblocks) % job.groups
    cdef Py_ssize_t image = task // (job.parts * job.xblocks * job.yblocks * job.groups)
    cdef Py_ssize_t rows = min(job.rows, job.ny - top), columns = min(job.columns, job.nx - left)
    cdef Py_ssize_t q, p, y, x, t, m, n, channels, c0, tiles = pieces(columns, micro().rows)
    cdef Py_ssize_t taps = job.taps_y * job.taps_x, out_pixel = job.dest_sx * job.dest.pixel
    cdef Py_ssize_t row0 = top * job.sy + job.y0, column0 = left * job.sx + job.x0, done
    cdef Py_ssize_t ahead = job.ahead * sizeof(floating)
    cdef bint after, point = taps == 1 and job.dest.channel == 1
    cdef const floating* start
    cdef const floating* a
    cdef const floating* b
    cdef const floating* init
    cdef floating* c
    cdef Sum s
    source += image * job.source.image + group * job.inputs * job.source.channel
    dest += (image * job.dest.image + group * job.outputs * job.dest.channel
             + (job.dest_y + top * job.dest_sy) * job.dest.row + (job.dest_x + left * job.dest_sx) * job.dest.pixel)
    packed += group * taps * job.inputs * job.panels * job.panel
    start = source + top * job.sy * job.source.row + left * job.sx * job.source.pixel
    s.segments, s.a_offset, s.a_row, s.a_step, s.b_step = job.segments, offset, job.sx * job.pixel, 1, job.panel
    s.b_offset = NULL
    for q in range(job.chunks):
        c0 = q * job.chunk
        channels = min(job.chunk, job.inputs - c0)
        s.depth = job.depth if job.chunks == 1 else channels
        s.b_segment = s.depth * job.panel
        if job.in_place:
            a = source + c0 + row0 * job.row + column0 * job.pixel
        else:
            copy_pixels(source + c0 * job.source.channel, &job.source, row0,
                        (rows - 1) * job.sy + (job.taps_y - 1) * job.ty + 1, column0, job.span_x, channels, copy,
                        job.pitch)
            a = copy
        after = job.after.mean != NULL and q == job.chunks - 1
        for p in range(part * job.panels // job.parts, (part + 1) * job.panels // job.parts):
            b = packed + (c0 * job.panels + p * channels) * taps * job.panel
            n = min(job.panel, job.outputs - p * job.panel)
            init = bias + (group * job.panels + p) * job.panel
            if q:
                init = <const floating*>NULL
            for y in range(rows):
                done = 0
                for t in range(tiles):
                    x = t * columns // tiles
                    m = (t + 1) * columns // tiles - x
                    c = (dest + y * job.dest_sy * job.dest.row + x * out_pixel
                         + p * job.panel * job.dest.channel)
                    if after:  # on its way while the sums are made
                        fetch_places(job, c, m)
                    elif point:
                        fetch_rows(c, out_pixel, m, n)
                    if ahead and p == 0:  # and what this thread will probably copy next
                        fetch_far(start + y * job.sy * job.source.row + x * job.sx * job.source.pixel, ahead,
                                  m * job.sx * job.source.pixel * sizeof(floating))
                    if job.dest.channel == 1:
                        run_tile(m, n, &s, a + y * job.sy * job.row + x * s.a_row, b, init, c, out_pixel)
                        if after and (x + m - done >= AFTER_PLACES or t == tiles - 1):
                            after_places(&job.after, c + (done - x) * out_pixel, group * job.outputs + p * job.panel,
                                         x + m - done, out_pixel, n)
                            done = x + m
                    else:
                        run_tile(m, n, &s, a + y * job.sy * job.row + x * s.a_row, b, zeros if q else init, tile,
                                 job.panel)
                        put_tile(tile, job.panel, c, out_pixel, job.dest.channel, m, n, q > 0)


cdef void _depthwise_block(const Job* job, Py_ssize_t task, const Py_ssize_t* offset, const floating* source,
                           const floating* packed, const floating* bias, floating* dest, floating* copy,
                           floating* tile) noexcept nogil:
    """One task: one block of places, for one chunk of channels."""
    cdef Py_ssize_t left = task % job.xblocks * job.columns
    cdef Py_ssize_t top = task // job.xblocks % job.yblocks * job.rows
    cdef Py_ssize_t c0 = task // (job.xblocks * job.yblocks) % job.chunks * job.chunk
    cdef Py_ssize_t image = task // (job.xblocks * job.yblocks * job.chunks)
    cdef Py_ssize_t rows = min(job.rows, job.ny - top), columns = min(job.columns, job.nx - left)
    cdef Py_ssize_t channels = min(job.chunk, job.groups - c0), y, k, c, n, out_pixel = job.dest_sx * job.dest.pixel
    cdef Py_ssize_t row0 = top * job.sy + job.y0, column0 = left * job.sx + job.x0
    cdef const floating* a
    cdef floating* out
    cdef Sum s
    source += image * job.source.image + c0 * job.source.channel
    dest += (image * job.dest.image + c0 * job.dest.channel
             + (job.dest_y + top * job.dest_sy) * job.dest.row + (job.dest_x + left * job.dest_sx) * job.dest.pixel)
    s.segments, s.depth, s.a_offset = job.taps_y * job.taps_x, 1, offset
    s.a_row, s.a_step, s.b_step = job.sx * job.pixel, 0, 0
    s.b_segment = round_up(job.groups, job.panel)
    if job.in_place:
        a = source + row0 * job.row + column0 * job.pixel
    else:
        copy_pixels(source, &job.source, row0, (rows - 1) * job.sy + (job.taps_y - 1) * job.ty + 1, column0,
                    job.span_x, channels, copy, job.chunk)
        a = copy
    for y in range(rows):
        if job.dest.channel == 1 and y + 1 < rows:  # on its way meanwhile
            fetch(dest + (y + 1) * job.dest_sy * job.dest.row, columns * out_pixel * sizeof(floating))
        for k in range(pieces(channels, job.panel)):
            c = k * job.panel
            n = min(job.panel, channels - c)
            out = dest + y * job.dest_sy * job.dest.row + c * job.dest.channel
            if job.dest.channel == 1:
                run_depthwise(columns, n, &s, a + y * job.sy * job.row + c, packed + c0 + c, bias + c0 + c, out,
                              out_pixel)
            else:
                run_depthwise(columns, n, &s, a + y * job.sy * job.row + c, packed + c0 + c, bias + c0 + c, tile,
                              job.panel)
                put_tile(tile, job.panel, out, out_pixel, job.dest.channel, columns, n, False)
        if job.after.mean != NULL:
            after_places(&job.after, dest + y * job.dest.row, c0, columns, out_pixel, channels)


cdef Scratch _job_layout(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil:
    cdef Py_ssize_t tile = 0
    if job.dest.channel != 1:
        tile = (job.columns if job.depthwise else micro().rows) * job.panel
    return _layout(job, threads, itemsize, 2 * lanes_of(itemsize), tile, False)


cdef void _run(Job* job, const floating* source, const floating* weight, const floating* bias, floating* dest,
               char* scratch, int threads) noexcept nogil:
    """Run a tiled job."""
    cdef Scratch s = _job_layout(job, threads, sizeof(floating))
    cdef Py_ssize_t* offset = <Py_ssize_t*>scratch
    cdef floating* packed = <floating*>(scratch + s.weights)
    cdef floating* packed_bias = <floating*>(scratch + s.bias)
    cdef floating* zeros = <floating*>(scratch + s.partial)
    cdef Py_ssize_t task, tasks = job.n * job.yblocks * job.xblocks
    cdef Py_ssize_t places = job.n * job.ny * job.nx
    cdef Py_ssize_t work = places * job.groups * job.outputs * (1 + job.taps_y * job.taps_x * job.inputs)
    cdef char* slice
    tasks *= job.chunks if job.depthwise else job.groups * job.parts
    _segment_offsets(job, offset)
    _pack(job, weight, bias, packed, packed_bias, threads)
    memset(zeros, 0, 2 * lanes_of(sizeof(floating)) * sizeof(floating))
    # A vector instruction does some 16 of these multiply-adds, which the measure of work is told.
    threads = min(threads, threads_for(tasks, work // 16))
    if job.source.channel == 1 and job.groups * job.parts * job.chunks == 1:
        if job.xblocks == 1:
            job.ahead = threads * (job.source.image if job.yblocks == 1 else job.rows * job.sy * job.source.row)
        elif job.n * job.ny == 1:
            job.ahead = threads * job.columns * job.sx * job.source.pixel
    for task in prange(tasks, schedule="dynamic", num_threads=threads):
        slice = scratch + s.slices + thread_index() * s.slice
        if job.depthwise:
            _depthwise_block(job, task, offset, source, packed, packed_bias, dest, <floating*>slice,
                             <floating*>(slice + s.copy))
        else:
            _block(job, task, offset, source, packed, packed_bias, zeros, dest, <floating*>slice,
                   <floating*>(slice + s.copy))


cdef bint _do(Job* job, const floating* source, const floating* weight, const floating* bias, floating* dest,
              char* scratch, int threads) noexcept nogil:
    """Do a job the fastest way; by direct sums of fp32 where that one gives it up. Whether job.after is done, too."""
    if floating is float:
        if (not job.direct and matrix_fits(job, sizeof(floating))
                and matrix_sums(job, source, weight, bias, dest, scratch, threads)):
            return False
    if not job.direct and winograd_sums(job, source, weight, bias, dest, scratch, threads):
        return True
    if planar_fits(job, sizeof(floating)):
        planar_sums(job, source, weight, bias, dest, scratch, threads)
        return False
    _tile(job, sizeof(floating), False)
    _run(job, source, weight, bias, dest, scratch, threads)
    return True


cdef void conv_forward_ptr(const floating* input, const floating* weight, const floating* bias, floating* output,
                           const Window* g, Py_ssize_t outputs, Py_ssize_t groups, void* scratch,
                           int threads) noexcept nogil:
    """output (n, outputs, oh, ow) of input (n, c, h, w) and weight (outputs, c/groups, kh, kw); bias may be NULL.

    `scratch` has conv_scratch(FORWARD, ...) bytes for `threads` threads; at most so many are used.
    """
    cdef Job job = forward_job(g, outputs, groups)
    _do(&job, input, weight, bias, output, aligned_start(scratch), usable(threads))


cdef void conv_norm_ptr(const floating* input, const floating* weight, const floating* bias, const floating* mean,
                        const floating* scale, const floating* shift, const floating* residual, bint relu,
                        floating* output, const Window* g, Py_ssize_t outputs, Py_ssize_t groups, void* scratch,
                        int threads) noexcept nogil:
    """What batch_norm_apply_ptr makes of conv_forward_ptr's output; the residual is NULL or apart from `output`.

    Each part of the output is gone over where it was written last: what is not finite has been looked for by then, and
    where the sums are made again, so is this.
    """
    cdef Job job = forward_job(g, outputs, groups)
    cdef bint done
    if job.dest.channel == 1:
        job.after = After(mean, scale, shift, residual, output, relu)
    done = _do(&job, input, weight, bias, output, aligned_start(scratch), usable(threads))
    if job.dest.channel != 1 or not done:
        batch_norm_apply_ptr(output, residual, mean, scale, shift, relu, output, g.n, outputs, g.oh * g.ow,
                             g.channels_last)


cdef bint _spreads(const Job* job, const Window* g, Py_ssize_t outputs, Py_ssize_t groups,
                   Py_ssize_t itemsize) noexcept nogil:
    """Whether backward-data is not done by jobs of its own."""
    cdef Job data = data_job(g, outputs, groups, 0, 0)
    return spread_fits(job, itemsize) and (job.direct or not matrix_fits(&data, itemsize))


cdef void conv_backward_data_ptr(const floating* grad_output, const floating* weight, floating* grad_input,
                                 const Window* g, Py_ssize_t outputs, Py_ssize_t groups, void* scratch,
                                 int threads) noexcept nogil:
    """grad_input (n, c, h, w), all of it overwritten, of grad_output (n, outputs, oh, ow)."""
    cdef Job job = forward_job(g, outputs, groups)
    cdef Py_ssize_t ry, rx
    threads = usable(threads)
    if _spreads(&job, g, outputs, groups, sizeof(floating)):
        spread_data(&job, grad_output, weight, grad_input, aligned_start(scratch), threads)
        return
    for ry in range(min(g.sh, g.h)):
        for rx in range(min(g.sw, g.w)):
            job = data_job(g, outputs, groups, ry, rx)
            _do(&job, grad_output, weight, <const floating*>NULL, grad_input, aligned_start(scratch), threads)
    mend_edges(grad_output, weight, grad_input, g, outputs, groups, threads)


# --- backward-weight ------------------------------------------------------------------------------------------------


cdef inline Py_ssize_t _weight_parts(const Job* job) noexcept nogil:
    """Parts that the blocks of all images are cut into, each with a partial sum of its own."""
    cdef Py_ssize_t tasks = job.chunks * (1 if job.depthwise else job.groups)
    # A part's sum is cleared, walked and added up: so that this costs little, it has PART_PLACES to add.
    return max(1, min(job.batches * job.yblocks * job.xblocks, pieces(TASKS, tasks),
                      max(2, job.n * job.ny * job.nx // PART_PLACES)))


cdef inline Py_ssize_t _partial_size(const Job* job) noexcept nogil:
    if job.depthwise:
        return job.taps_y * job.taps_x * round_up(job.groups, job.panel)
    return job.groups * job.taps_y * job.taps_x * job.inputs * job.panels * job.panel


cdef Scratch _weight_layout(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil:
    cdef Py_ssize_t tile = job.images * job.rows * job.columns
    tile *= job.panels * job.panel
    if job.depthwise:
        tile = 0 if job.dest.channel == 1 else job.rows * job.columns * round_up(job.chunk, job.panel)
    # The bias partials (one row a part) come after the weights'.
    return _layout(job, threads, itemsize,
                   _weight_parts(job) * (_partial_size(job) + round_up(job.groups * job.outputs, job.panel)), tile,
                   True)


cdef inline void _add_places(const floating* grad, Py_ssize_t places, Py_ssize_t pitch, Py_ssize_t channels,
                             floating* total) noexcept nogil:
    """total[c] += sum over places of grad[place*pitch + c]."""
    cdef Py_ssize_t x, c
    for x in range(places):
        for c in range(channels):
            total[c] += grad[x * pitch + c]


cdef void _weight_blocks(const Job* job, Py_ssize_t chunk, Py_ssize_t group, Py_ssize_t part, Py_ssize_t parts,
                         const Py_ssize_t* offset, const Py_ssize_t* row_offset, const floating* source,
                         const floating* grad, floating* partial, floating* partial_bias, floating* copy,
                         floating* grad_copy) noexcept nogil:
    """One task: the sum over one part of all blocks, for one chunk of the channels of one group."""
    cdef Py_ssize_t blocks = job.batches * job.yblocks * job.xblocks, taps = job.taps_y * job.taps_x
    cdef Py_ssize_t c0 = chunk * job.chunk, channels = min(job.chunk, job.inputs - c0)
    cdef Py_ssize_t pitch = job.panels * job.panel, size = job.span_y * job.row
    cdef Py_ssize_t block, image, images, top, left, rows, columns, row0, column0, i, p, n, seg, r, t, m
    cdef Py_ssize_t depth = job.depth if job.chunks == 1 else channels, tiles = pieces(depth, micro().rows)
    cdef bint here = job.dest.channel == 1 and job.groups == 1 and job.outputs == job.panel
    cdef const floating* a
    cdef const floating* g
    cdef floating* dy
    cdef Sum s
    source += (group * job.inputs + c0) * job.source.channel
    grad += group * job.outputs * job.dest.channel
    partial += (group * job.inputs + c0) * taps * pitch
    memset(partial, 0, channels * taps * pitch * sizeof(floating))
    if partial_bias != NULL:
        partial_bias += group * job.outputs
        memset(partial_bias, 0, job.outputs * sizeof(floating))
    s.a_offset, s.a_row, s.a_step, s.b_step = row_offset, 1, job.sx * job.pixel, job.panel
    s.b_offset = NULL
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        left = block % job.xblocks * job.columns
        top = block // job.xblocks % job.yblocks * job.rows
        image = block // (job.xblocks * job.yblocks) * job.images
        images = min(job.images, job.n - image)
        rows, columns = min(job.rows, job.ny - top), min(job.columns, job.nx - left)
        row0, column0 = top * job.sy + job.y0, left * job.sx + job.x0
        if job.in_place:
            a = source + image * job.source.image + row0 * job.row + column0 * job.pixel
        else:
            a = copy
            for i in range(images):
                copy_pixels(source + (image + i) * job.source.image, &job.source, row0,
                            (rows - 1) * job.sy + (job.taps_y - 1) * job.ty + 1, column0, job.span_x, channels,
                            copy + i * size, job.pitch)
        # The gradient panel by panel: a tile then walks contiguous memory, whole registers of it; it does so in place
        # where a place holds just one panel.
        s.segments, s.depth, s.b_segment = images * rows, columns, columns * job.panel
        if here:
            s.b_segment = job.dest.row  # of images too, which are whole where there are several
        for p in range(job.panels):
            n = min(job.panel, job.outputs - p * job.panel)
            dy = grad_copy
            if here:
                g = grad + image * job.dest.image + top * job.dest.row + left * job.dest.pixel
            else:
                for i in range(images):
                    copy_pixels(grad + (image + i) * job.dest.image + p * job.panel * job.dest.channel, &job.dest, top,
                                rows, left, columns, n, dy + i * rows * s.b_segment, job.panel)
                g = dy
            if partial_bias != NULL:
                for i in range(s.segments):
                    _add_places(g + i * s.b_segment, columns, job.panel, n, partial_bias + p * job.panel)
            for seg in range(job.segments):
                for t in range(tiles):
                    r = t * depth // tiles
                    m = (t + 1) * depth // tiles - r
                    run_tile(m, n, &s, a + offset[seg] + r, g, <const floating*>NULL,
                             partial + (seg * depth + r) * pitch + p * job.panel, pitch)


cdef void _depthwise_weight_blocks(const Job* job, Py_ssize_t chunk, Py_ssize_t part, Py_ssize_t parts,
                                   const Py_ssize_t* offset, const floating* source, const floating* grad,
                                   floating* partial, floating* partial_bias, floating* copy,
                                   floating* grad_copy) noexcept nogil:
    """One task: the sum over one part of all blocks, for one chunk of the channels."""
    cdef Py_ssize_t blocks = job.n * job.yblocks * job.xblocks, taps = job.taps_y * job.taps_x
    cdef Py_ssize_t c0 = chunk * job.chunk, channels = min(job.chunk, job.groups - c0)
    cdef Py_ssize_t pitch = round_up(job.groups, job.panel)
    cdef Py_ssize_t grad_row, grad_pixel, block, image, top, left, rows, columns, row0, column0, i, y, p, c, n, m
    cdef Py_ssize_t few = pieces(RUN_PLACES, job.columns)  # rows
    cdef const floating* a
    cdef const floating* dy
    cdef Sum s
    source += c0 * job.source.channel
    grad += c0 * job.dest.channel
    partial += c0
    for y in range(taps):
        memset(partial + y * pitch, 0, channels * sizeof(floating))
    if partial_bias != NULL:
        partial_bias += c0
        memset(partial_bias, 0, channels * sizeof(floating))
    s.segments, s.a_offset, s.a_step = taps, offset, job.sx * job.pixel
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        left = block % job.xblocks * job.columns
        top = block // job.xblocks % job.yblocks * job.rows
        image = block // (job.xblocks * job.yblocks)
        rows, columns = min(job.rows, job.ny - top), min(job.columns, job.nx - left)
        row0, column0 = top * job.sy + job.y0, left * job.sx + job.x0
        if job.in_place:
            a = source + image * job.source.image + row0 * job.row + column0 * job.pixel
        else:
            copy_pixels(source + image * job.source.image, &job.source, row0,
                        (rows - 1) * job.sy + (job.taps_y - 1) * job.ty + 1, column0, job.span_x, channels, copy,
                        job.chunk)
            a = copy
        if job.dest.channel == 1:
            dy = grad + image * job.dest.image + top * job.dest.row + left * job.dest.pixel
            grad_row, grad_pixel = job.dest.row, job.dest.pixel
        else:
            grad_pixel = round_up(job.chunk, job.panel)
            grad_row = columns * grad_pixel
            copy_pixels(grad + image * job.dest.image, &job.dest, top, rows, left, columns, channels, grad_copy,
                        grad_pixel)
            dy = grad_copy
        s.depth, s.b_step, s.a_row, s.b_segment = columns, grad_pixel, job.sy * job.row, grad_row
        for i in range(pieces(rows, few)):
            y = i * few
            m = min(few, rows - y)
            if partial_bias != NULL:
                for p in range(m):
                    _add_places(dy + (y + p) * grad_row, columns, grad_pixel, channels, partial_bias)
            for p in range(pieces(channels, job.panel)):
                c = p * job.panel
                n = min(job.panel, channels - c)
                if floating is float:
                    micro().depthwise_weights_f32(n, m, &s, a + y * job.sy * job.row + c, dy + y * grad_row + c,
                                                  partial + c, pitch)
                else:
                    micro().depthwise_weights_f64(n, m, &s, a + y * job.sy * job.row + c, dy + y * grad_row + c,
                                                  partial + c, pitch)


cdef void _sum_parts(const Job* job, Py_ssize_t task, Py_ssize_t parts, const floating* partial,
                     floating* grad_weight) noexcept nogil:
    """grad_weight of SUM_ROWS input channels of one group, or SUM_OUTPUTS depthwise ones: the parts, added in order."""
    cdef Py_ssize_t strips = pieces(job.inputs, SUM_ROWS), group = task // strips, taps = job.taps_y * job.taps_x
    cdef Py_ssize_t first = task % strips * SUM_ROWS, last = min(job.inputs, first + SUM_ROWS)
    cdef Py_ssize_t size = _partial_size(job), q, channels, c, tap, strip, o, o0, few, part, pitch, row, rows, i
    cdef Py_ssize_t block
    cdef const floating* sums
    cdef floating* total
    cdef floating totals[TURNED][SUM_OUTPUTS]
    if job.depthwise:
        pitch = round_up(job.groups, job.panel)
        few = min(SUM_OUTPUTS, job.groups - task * SUM_OUTPUTS)
        total = totals[0]
        for tap in range(taps):
            sums = partial + tap * pitch + task * SUM_OUTPUTS
            for o in range(few):
                total[o] = 0
            for part in range(parts):
                for o in range(few):
                    total[o] += sums[part * size + o]
            for o in range(few):
                grad_weight[(task * SUM_OUTPUTS + o) * taps + tap] = total[o]
        return
    grad_weight += group * job.w_group
    for strip in range(pieces(job.outputs, SUM_OUTPUTS)):
        o0 = strip * SUM_OUTPUTS
        few = min(SUM_OUTPUTS, job.outputs - o0)
        c, tap = first, 0
        for block in range(pieces((last - first) * taps, TURNED)):
            row = first * taps + block * TURNED
            rows = min(<Py_ssize_t>TURNED, last * taps - row)
            for i in range(rows):
                q = c // job.chunk
                channels = min(job.chunk, job.inputs - q * job.chunk)
                sums = (partial + ((group * job.inputs + q * job.chunk) * taps + tap * channels + c - q * job.chunk)
                        * job.panels * job.panel + o0)
                total = totals[i]
                for o in range(few):
                    total[o] = 0
                for part in range(parts):
                    for o in range(few):
                        total[o] += sums[part * size + o]
                tap += 1
                if tap == taps:
                    tap, c = 0, c + 1
            # Lines of grad_weight at a time, whatever lies between one output and the next.
            if floating is float:
                transpose_f32(totals[0], SUM_OUTPUTS, grad_weight + o0 * job.w_output + row, job.w_output, rows, few)
            else:
                transpose_f64(totals[0], SUM_OUTPUTS, grad_weight + o0 * job.w_output + row, job.w_output, rows, few)


cdef void conv_backward_weight_ptr(const floating* grad_output, const floating* input, floating* grad_weight,
                                   floating* grad_bias, const Window* g, Py_ssize_t outputs, Py_ssize_t groups,
                                   void* scratch, int threads) noexcept nogil:
    """grad_weight (outputs, c/groups, kh, kw) and, unless NULL, grad_bias (outputs), both overwritten."""
    cdef Job job = forward_job(g, outputs, groups)
    cdef Scratch s
    cdef Py_ssize_t task, tasks, parts, part, chunk, o, rows, pitch, size
    cdef Py_ssize_t work = g.n * g.oh * g.ow * outputs * (1 + g.kh * g.kw * g.c // groups)
    cdef char* start = aligned_start(scratch)
    cdef char* slice
    cdef Py_ssize_t* offset = <Py_ssize_t*>start
    cdef floating* partial
    cdef floating* partial_bias
    cdef floating* bias
    threads = usable(threads)
    if floating is float:
        if (not job.direct and matrix_fits(&job, sizeof(floating))
                and matrix_weight_grad(&job, grad_output, input, grad_weight, grad_bias, start, threads)):
            return
    if not job.direct and winograd_weight_grad(&job, grad_output, input, grad_weight, grad_bias, start, threads):
        return
    if ring_fits(&job, sizeof(floating)):
        ring_weight_grad(&job, grad_output, input, grad_weight, grad_bias, start, threads)
        return
    if point_fits(&job, sizeof(floating)):
        point_weight_grad(&job, grad_output, input, grad_weight, grad_bias, start, threads)
        return
    _tile(&job, sizeof(floating), True)
    s = _weight_layout(&job, threads, sizeof(floating))
    parts = _weight_parts(&job)
    size = _partial_size(&job)
    pitch = round_up(job.groups * job.outputs, job.panel)
    partial = <floating*>(start + s.partial)
    partial_bias = partial + parts * size
    _segment_offsets(&job, offset)
    for task in range(job.images):
        for o in range(job.rows):
            offset[job.segments + task * job.rows + o] = (
                task * (job.source.image if job.in_place else job.span_y * job.row) + o * job.sy * job.row)
    tasks = parts * job.chunks * (1 if job.depthwise else job.groups)
    for task in prange(tasks, schedule="dynamic", num_threads=min(threads, threads_for(tasks, work // 16))):
        slice = start + s.slices + thread_index() * s.slice
        part = task % parts
        chunk = task // parts % job.chunks
        bias = <floating*>NULL
        if grad_bias != NULL and (job.depthwise or chunk == 0):
            bias = partial_bias + part * pitch
        if job.depthwise:
            _depthwise_weight_blocks(&job, chunk, part, parts, offset, input, grad_output, partial + part * size, bias,
                                     <floating*>slice, <floating*>(slice + s.copy))
        else:
            _weight_blocks(&job, chunk, task // (parts * job.chunks), part, parts, offset, offset + job.segments, input,
                           grad_output, partial + part * size, bias, <floating*>slice, <floating*>(slice + s.copy))
    rows = pieces(job.groups, SUM_OUTPUTS) if job.depthwise else job.groups * pieces(job.inputs, SUM_ROWS)
    for task in prange(rows, schedule="static",
                       num_threads=min(threads, threads_for(rows, parts * g.c * job.outputs * g.kh * g.kw))):
        _sum_parts(&job, task, parts, partial, grad_weight)
    if grad_bias != NULL:
        for o in range(outputs):
            grad_bias[o] = 0
            for part in range(parts):
                grad_bias[o] += partial_bias[part * pitch + o]


# --- scratch size and the typed doors -------------------------------------------------------------------------------


cdef Py_ssize_t _job_scratch(Job* job, int threads, Py_ssize_t itemsize, bint weights) noexcept nogil:
    cdef Py_ssize_t most = winograd_scratch(job, threads, itemsize, weights)
    cdef Scratch s
    if matrix_fits(job, itemsize):
        most = max(most, matrix_scratch(job, threads, weights))
    if not weights and planar_fits(job, itemsize):
        return max(most, planar_scratch(job, threads, itemsize))
    if weights and ring_fits(job, itemsize):
        return max(most, ring_scratch(job, threads, itemsize))
    if weights and point_fits(job, itemsize):
        return max(most, point_scratch(job, threads, itemsize))
    _tile(job, itemsize, weights)
    s = _weight_layout(job, threads, itemsize) if weights else _job_layout(job, threads, itemsize)
    return max(most, s.bytes)


cdef Py_ssize_t conv_scratch(Pass which, const Window* g, Py_ssize_t outputs, Py_ssize_t groups, int threads,
                             Py_ssize_t itemsize) noexcept nogil:
    """Bytes of scratch that a pass needs for `threads` threads, from the shape alone; -1 where check_conv objects.

    They serve both algorithms, since the setting of the process may change before the pass runs.
    """
    if check_conv(g, outputs, groups) != NULL or (itemsize != 4 and itemsize != 8):
        return -1
    return pass_scratch(which, g, outputs, groups, threads, itemsize)


cdef Py_ssize_t pass_scratch(Pass which, const Window* g, Py_ssize_t outputs, Py_ssize_t groups, int threads,
                             Py_ssize_t itemsize) noexcept nogil:
    """conv_scratch of arguments that are checked, for other kernels."""
    cdef Job job
    cdef Py_ssize_t ry, rx, most = 0
    threads = usable(threads)
    job = forward_job(g, outputs, groups)
    if which != BACKWARD_DATA:
        return _job_scratch(&job, threads, itemsize, which == BACKWARD_WEIGHT)
    if spread_fits(&job, itemsize):
        most = spread_scratch(&job, threads, itemsize)
        job.direct = False
        if _spreads(&job, g, outputs, groups, itemsize):
            return most
    for ry in range(min(g.sh, g.h)):
        for rx in range(min(g.sw, g.w)):
            job = data_job(g, outputs, groups, ry, rx)
            most = max(most, _job_scratch(&job, threads, itemsize, False))
    return most


def scratch_bytes(str which, Window g, Py_ssize_t outputs, Py_ssize_t groups, int threads, Py_ssize_t itemsize):
    """scratch_bytes('forward' | 'backward_data' | 'backward_weight', g, outputs, groups, threads, itemsize) -> int"""
    cdef Pass number = {"forward": FORWARD, "backward_data": BACKWARD_DATA, "backward_weight": BACKWARD_WEIGHT}[which]
    return conv_scratch(number, &g, outputs, groups, threads, itemsize)


cdef tuple _names(const Job* job, Py_ssize_t itemsize, bint weights):
    cdef list names = []
    if not job.direct and matrix_fits(job, itemsize):
        names.append("matrix")
    if not job.direct and winograd_fits(job, itemsize, weights):
        names.append("winograd")
    if job.inputs == 1 and job.outputs == 1 and job.groups > 1:
        names.append("depthwise")
    elif weights:
        names.append("ring" if ring_fits(job, itemsize) else "point" if point_fits(job, itemsize) else "direct")
    else:
        names.append("planar" if planar_fits(job, itemsize) else "direct")
    return tuple(names)


def implementations(str which, Window g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t itemsize):
    """implementations('forward' | ..., g, outputs, groups, itemsize) -> names, in the order in which they are tried

    For the tests. Backward-data runs once for each phase of the stride: the names are those of the first.
    """
    cdef Job job = forward_job(&g, outputs, groups)
    if which != "backward_data":
        return _names(&job, itemsize, which == "backward_weight")
    if _spreads(&job, &g, outputs, groups, itemsize):
        return ("spread",)
    job = data_job(&g, outputs, groups, 0, 0)
    return _names(&job, itemsize, False)


def forward(const floating[:, :, :, :] input, const floating[:, :, :, ::1] weight, const floating[::1] bias,
            floating[:, :, :, :] output, Window g, Py_ssize_t groups, unsigned char[::1] scratch, int threads):
    """forward(input, weight, bias or None, output, g, groups, scratch, threads): arguments are trusted."""
    with nogil:
        conv_forward_ptr(&input[0, 0, 0, 0], &weight[0, 0, 0, 0], &bias[0] if bias is not None else NULL,
                         &output[0, 0, 0, 0], &g, output.shape[1], groups, &scratch[0], threads)


def backward_data(const floating[:, :, :, :] grad_output, const floating[:, :, :, ::1] weight,
                  floating[:, :, :, :] grad_input, Window g, Py_ssize_t groups, unsigned char[::1] scratch,
                  int threads):
    """backward_data(grad_output, weight, grad_input, g, groups, scratch, threads): arguments are trusted."""
    with nogil:
        conv_backward_data_ptr(&grad_output[0, 0, 0, 0], &weight[0, 0, 0, 0], &grad_input[0, 0, 0, 0], &g,
                               grad_output.shape[1], groups, &scratch[0], threads)


def backward_weight(const floating[:, :, :, :] grad_output, const floating[:, :, :, :] input,
                    floating[:, :, :, ::1] grad_weight, floating[::1] grad_bias, Window g, Py_ssize_t groups,
                    unsigned char[::1] scratch, int threads):
    """backward_weight(grad_output, input, grad_weight, grad_bias or None, g, groups, scratch, threads)."""
    with nogil:
        conv_backward_weight_ptr(&grad_output[0, 0, 0, 0], &input[0, 0, 0, 0], &grad_weight[0, 0, 0, 0],
                                 &grad_bias[0] if grad_bias is not None else NULL, &g, grad_output.shape[1], groups,
                                 &scratch[0], threads)
