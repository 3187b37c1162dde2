"""Convolution with too few outputs to fill a vector: a register holds places, and a tile is all the outputs by them.

LeNet's first layer is one, and the gradient of a grey image. The source is copied plane by plane, with its padding, and
a plane is walked as one long line where the stride down is 1: what its registers compute between one row's last place
and the next row's first is the price of never being short, and is not stored.

Tiling: channels are summed in chunks; for a chunk, a block of rows x columns places has its source copied once, and its
sums, a plane for each output, stay in the L1 cache until the last chunk. Then they are woven into the destination.

Ownership: a task is (image, group, block of places), and it alone writes those outputs. Blocks follow from the shape
alone: no bit depends on the thread count.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from .isa cimport micro
from .jobs cimport ALIGN, Image, Job, aligned, lanes_of, pieces, round_up
from .threads cimport thread_index, threads_for


# Bytes of a block, copy and sums, that has more than one row: three quarters of an L1 cache of 32 KB, half of one
# of 48.
cdef Py_ssize_t BLOCK_BYTES = 3 << 13
# Bytes of a row of a block: a quarter to an eighth of the L2 caches met today.
cdef Py_ssize_t ROW_BYTES = 1 << 18
# Steps of a sum (taps * channels) between two visits to the sums.
cdef Py_ssize_t SUM_STEPS = 512
# Tasks that a call is cut into where its shape allows; but no image of less work (in multiply-adds), as one thread does
# it as fast.
cdef Py_ssize_t TASKS = 16
cdef Py_ssize_t LEAST_WORK = 1 << 19


cdef struct Plan:
    Py_ssize_t chunk, chunks                    # channels summed at a time
    Py_ssize_t rows, columns, yblocks, xblocks  # places of a block; blocks of an image
    Py_ssize_t span_y, pitch                    # source rows and columns under a block
    Py_ssize_t line                             # from a row of sums to the next
    Py_ssize_t sums                             # from an output's plane of sums to the next
    # Scratch, in bytes from the start: offsets of the taps, weights, then slices, one a thread.
    Py_ssize_t weights, slices, slice, bytes
    Py_ssize_t tile                             # the sums, within a slice, after the copy


cdef bint planar_fits(const Job* job, Py_ssize_t itemsize) noexcept nogil:
    cdef Py_ssize_t lanes = lanes_of(itemsize)
    return (job.sx == 1 and job.taps_y * job.taps_x >= 4
            and job.outputs <= min(max(lanes // 2, 6), micro().rows)
            and (job.inputs > 1 or job.outputs > 1 or job.groups == 1)
            and job.nx * lanes > job.outputs * round_up(job.nx, lanes))


cdef Plan _plan(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil:
    cdef Plan p
    cdef Py_ssize_t lanes = lanes_of(itemsize), taps = job.taps_y * job.taps_x, fit, each, tasks
    cdef Py_ssize_t reach_y = (job.taps_y - 1) * job.ty, reach_x = (job.taps_x - 1) * job.tx
    memset(&p, 0, sizeof(Plan))
    p.chunks = pieces(job.inputs, max(16, SUM_STEPS // taps))
    p.chunk = pieces(job.inputs, p.chunks)
    p.chunks = pieces(job.inputs, p.chunk)
    # Elements of a column: copied ones under a row of places, and sums.
    each = (reach_y + 1) * p.chunk + job.outputs
    p.columns = job.nx
    if (job.nx + reach_x) * each * itemsize > ROW_BYTES:
        p.columns = min(job.nx, max(4 * lanes, (ROW_BYTES // itemsize // each - reach_x) // lanes * lanes))
    p.xblocks = pieces(job.nx, p.columns)
    p.pitch = p.columns + reach_x
    fit = (BLOCK_BYTES // itemsize // p.pitch - reach_y * p.chunk) // (job.sy * p.chunk + job.outputs)
    p.rows = max(1, min(job.ny, fit))
    tasks = job.n * job.groups * p.xblocks
    if (tasks * pieces(job.ny, p.rows) < TASKS
            and job.n * job.ny * job.nx * job.groups * job.outputs * taps * job.inputs >= LEAST_WORK):
        p.rows = min(p.rows, max(1, job.ny // pieces(TASKS, tasks)))
    p.yblocks = pieces(job.ny, p.rows)
    p.rows = pieces(job.ny, p.yblocks)
    p.yblocks = pieces(job.ny, p.rows)
    p.span_y = (p.rows - 1) * job.sy + reach_y + 1
    p.line = p.pitch if job.sy == 1 else round_up(p.columns, lanes)
    p.sums = round_up(p.rows * p.line + lanes, lanes)  # the last register may look past the last row
    p.weights = aligned(sizeof(Py_ssize_t) * taps * p.chunk)
    p.slices = p.weights + aligned(itemsize * job.groups * taps * job.inputs * job.outputs)
    p.tile = aligned(itemsize * (p.chunk * p.span_y * p.pitch + lanes))  # the last register may look past the copy
    p.slice = p.tile + aligned(itemsize * job.outputs * p.sums)
    p.bytes = p.slices + threads * p.slice + ALIGN
    return p


cdef Py_ssize_t planar_scratch(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil:
    return _plan(job, threads, itemsize).bytes


cdef void _copy_planes(const floating* source, const Image* im, Py_ssize_t top, Py_ssize_t rows, Py_ssize_t left,
                       Py_ssize_t columns, Py_ssize_t channels, floating* target, Py_ssize_t pitch,
                       Py_ssize_t plane) noexcept nogil:
    """target[channel][row][pitch] from rows top.. and columns left.. of an image, zero outside it."""
    cdef Py_ssize_t y, x, c, first = min(columns, max(0, -left)), end = max(first, min(columns, im.w - left))
    cdef const floating* line
    cdef floating* out
    for c in range(channels):
        for y in range(rows):
            out = target + c * plane + y * pitch
            if top + y < 0 or top + y >= im.h:
                memset(out, 0, columns * sizeof(floating))
                continue
            line = source + (top + y) * im.row + left * im.pixel + c * im.channel
            for x in range(first):
                out[x] = 0
            if im.pixel == 1:
                memcpy(out + first, line + first, (end - first) * sizeof(floating))
            else:
                for x in range(first, end):
                    out[x] = line[x * im.pixel]
            for x in range(end, columns):
                out[x] = 0


cdef void _pack(const Job* job, const Plan* p, const floating* weight, Py_ssize_t* offset,
                floating* packed) noexcept nogil:
    """packed[group][channel][i][j][output], and the place of each of a chunk's taps in the copy."""
    cdef Py_ssize_t group, c, i, j, o
    cdef const floating* source
    for c in range(p.chunk):
        for i in range(job.taps_y):
            for j in range(job.taps_x):
                offset[0] = (c * p.span_y + i * job.ty) * p.pitch + j * job.tx
                offset += 1
    for group in range(job.groups):
        for c in range(job.inputs):
            for i in range(job.taps_y):
                for j in range(job.taps_x):
                    source = (weight + job.w_start + group * job.w_group + c * job.w_input + i * job.w_ty
                              + j * job.w_tx)
                    for o in range(job.outputs):
                        packed[o] = source[o * job.w_output]
                    packed += job.outputs


cdef void _block(const Job* job, const Plan* p, Py_ssize_t task, const Py_ssize_t* offset, const floating* source,
                 const floating* packed, const floating* bias, floating* dest, floating* copy,
                 floating* sums) noexcept nogil:
    """One task: all chunks of one block of places, for the outputs of one group."""
    cdef Py_ssize_t left = task % p.xblocks * p.columns
    cdef Py_ssize_t top = task // p.xblocks % p.yblocks * p.rows
    cdef Py_ssize_t group = task // (p.xblocks * p.yblocks) % job.groups
    cdef Py_ssize_t image = task // (p.xblocks * p.yblocks * job.groups)
    cdef Py_ssize_t rows = min(p.rows, job.ny - top), columns = min(p.columns, job.nx - left)
    cdef Py_ssize_t lines = 1 if job.sy == 1 else rows
    cdef Py_ssize_t length = (rows - 1) * p.pitch + columns if job.sy == 1 else columns
    cdef Py_ssize_t taps = job.taps_y * job.taps_x, out_pixel = job.dest_sx * job.dest.pixel
    cdef Py_ssize_t q, y, x, o, channels
    cdef floating* out
    source += image * job.source.image + group * job.inputs * job.source.channel
    dest += (image * job.dest.image + group * job.outputs * job.dest.channel
             + (job.dest_y + top * job.dest_sy) * job.dest.row + (job.dest_x + left * job.dest_sx) * job.dest.pixel)
    packed += group * job.inputs * taps * job.outputs
    if bias != NULL:
        bias += group * job.outputs
    for q in range(p.chunks):
        channels = min(p.chunk, job.inputs - q * p.chunk)
        _copy_planes(source + q * p.chunk * job.source.channel, &job.source, top * job.sy + job.y0,
                     (rows - 1) * job.sy + (job.taps_y - 1) * job.ty + 1, left + job.x0, p.pitch, channels, copy,
                     p.pitch, p.span_y * p.pitch)
        for y in range(lines):
            if floating is float:
                micro().planar_f32(job.outputs, length, channels * taps, offset, copy + y * job.sy * p.pitch,
                                   packed + q * p.chunk * taps * job.outputs, q > 0, sums + y * p.line, p.sums)
            else:
                micro().planar_f64(job.outputs, length, channels * taps, offset, copy + y * job.sy * p.pitch,
                                   packed + q * p.chunk * taps * job.outputs, q > 0, sums + y * p.line, p.sums)
    if job.dest.channel == 1 and out_pixel == job.outputs:
        if floating is float:
            micro().weave_f32(job.outputs, rows, columns, sums, p.sums, p.line, bias, dest,
                              job.dest_sy * job.dest.row)
        else:
            micro().weave_f64(job.outputs, rows, columns, sums, p.sums, p.line, bias, dest,
                              job.dest_sy * job.dest.row)
        return
    for y in range(rows):
        out = dest + y * job.dest_sy * job.dest.row
        for o in range(job.outputs):
            for x in range(columns):
                out[x * out_pixel + o * job.dest.channel] = (
                    sums[o * p.sums + y * p.line + x] + (bias[o] if bias != NULL else 0))


cdef void planar_sums(const Job* job, const floating* source, const floating* weight, const floating* bias,
                      floating* dest, char* scratch, int threads) noexcept nogil:
    cdef Plan p = _plan(job, threads, sizeof(floating))
    cdef Py_ssize_t* offset = <Py_ssize_t*>scratch
    cdef floating* packed = <floating*>(scratch + p.weights)
    cdef Py_ssize_t task, tasks = job.n * job.groups * p.yblocks * p.xblocks
    cdef Py_ssize_t work = job.n * job.ny * job.nx * job.groups * job.outputs * job.taps_y * job.taps_x * job.inputs
    cdef char* slice
    _pack(job, &p, weight, offset, packed)
    # A vector instruction does some 16 of these multiply-adds, which the measure of work is told.
    threads = min(threads, threads_for(tasks, work // 16))
    if threads == 1:  # perhaps within a region of the caller's, where another of one thread takes microseconds
        slice = scratch + p.slices
        for task in range(tasks):
            _block(job, &p, task, offset, source, packed, bias, dest, <floating*>slice, <floating*>(slice + p.tile))
        return
    for task in prange(tasks, schedule="dynamic", num_threads=threads):
        slice = scratch + p.slices + thread_index() * p.slice
        _block(job, &p, task, offset, source, packed, bias, dest, <floating*>slice, <floating*>(slice + p.tile))
