"""The gradient of an image of few channels: what each pixel of grad_output gives to the window that it came from.

conv.pyx's sums for an image have its channels side by side in a register, which few channels do not fill. Here a
register holds a row of a window: kw*C values, which lie side by side in a channels-last image. For each row of the
image the windows that meet it are one matrix product, of as many rows as there are windows across: its depth is the
taps down the window (those that meet this row) by the channels of grad_output, its columns are the window's row. The
products overlap by all but `stride` pixels, and are added up pixel by pixel (`gather` of micro/few.h). No stride is in
the way, and what padding would get is not stored.

Tiling: the products of a block of rows by columns of the image, sized for the L1 cache, are made in register tiles of
up to 14 windows by two registers, and added up once they all are there. Where grad_output has many channels, they are
summed in chunks.

Ownership: a task is (image, group, block of rows and columns), and it alone writes those pixels. Blocks follow from the
shape alone: no bit depends on the thread count.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memset

from .isa cimport Sum, micro
from .jobs cimport ALIGN, Job, aligned, lanes_of, pieces, round_up, run_tile
from .threads cimport thread_index, threads_for


# Bytes of a block's products: three quarters of an L1 cache of 32 KB, half of one of 48. The weights and grad_output
# are read beside them.
cdef Py_ssize_t BLOCK_BYTES = 3 << 13
# Steps of a sum (taps * channels) between two visits to the product.
cdef Py_ssize_t SUM_STEPS = 512
# Tasks that a call is cut into where its shape allows, and the rows that a task keeps in any case: products are not
# added up while they are on their way to the cache.
cdef Py_ssize_t TASKS = 16
cdef Py_ssize_t FEWEST_ROWS = 4
# Steps of a sum below which the visits to the products take more time than the sums.
cdef Py_ssize_t FEWEST_STEPS = 16


cdef struct Plan:
    Py_ssize_t pitch                # elements from one window's product to the next: whole registers
    Py_ssize_t rows, columns        # pixels of a block
    Py_ssize_t yblocks, xblocks
    Py_ssize_t windows              # across a block, at most
    Py_ssize_t chunk, chunks        # channels of grad_output summed at a time
    # Scratch, in bytes from the start: weights, a register pair of zeros, then slices, one a thread.
    Py_ssize_t zeros, slices, slice, bytes
    Py_ssize_t line, offsets        # within a slice, after the products


cdef bint spread_fits(const Job* job, Py_ssize_t itemsize) noexcept nogil:
    """Whether the gradient of a forward job's source is faster here than as jobs of its own."""
    cdef Py_ssize_t lanes = lanes_of(itemsize), row = job.taps_x * job.inputs
    # Of the registers that hold a row of a window more is used than of those that hold the channels.
    return (job.tx == 1 and job.taps_x > 1 and 3 * row > lanes and job.inputs <= max(lanes // 2, 6)
            and 3 * row * round_up(job.inputs, lanes) >= 4 * job.inputs * round_up(row, lanes)
            and pieces(job.taps_y, min(job.taps_y, job.sy)) * job.outputs >= FEWEST_STEPS)


cdef Plan _plan(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil:
    cdef Plan p
    cdef Py_ssize_t lanes = lanes_of(itemsize), h = job.source.h, w = job.source.w, fit, tasks
    memset(&p, 0, sizeof(Plan))
    p.pitch = round_up(job.taps_x * job.inputs, lanes)
    fit = max(micro().rows, BLOCK_BYTES // itemsize // p.pitch)
    p.columns, p.windows = w, job.nx
    if p.windows > fit:
        p.columns = min(w, max(1, fit - pieces(job.taps_x, job.sx) - 1) * job.sx)
    p.xblocks = pieces(w, p.columns)
    if p.xblocks > 1:
        p.windows = min(job.nx, (p.columns + job.taps_x - 2) // job.sx + 2)
    p.rows = min(h, max(1, fit // p.windows))
    tasks = job.n * job.groups * p.xblocks
    if tasks * pieces(h, p.rows) < TASKS:
        p.rows = min(p.rows, max(FEWEST_ROWS, h // pieces(TASKS, tasks)))
    p.yblocks = pieces(h, p.rows)
    p.rows = pieces(h, p.yblocks)
    p.yblocks = pieces(h, p.rows)
    p.chunks = pieces(job.outputs, max(16, SUM_STEPS // job.taps_y))
    p.chunk = pieces(job.outputs, p.chunks)
    p.zeros = aligned(itemsize * job.groups * job.taps_y * job.outputs * p.pitch)
    p.slices = p.zeros + aligned(itemsize * 2 * lanes)
    p.line = aligned(itemsize * (p.rows * p.windows * p.pitch + lanes))  # a vector more is read than the last window's
    p.offsets = p.line + aligned(itemsize * p.columns * job.inputs)
    p.slice = p.offsets + aligned(2 * sizeof(Py_ssize_t) * job.taps_y)
    p.bytes = p.slices + threads * p.slice + ALIGN
    return p


cdef Py_ssize_t spread_scratch(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil:
    return _plan(job, threads, itemsize).bytes


cdef void _pack(const Job* job, const Plan* p, const floating* weight, floating* packed) noexcept nogil:
    """packed[group][i][output][pitch]: row i of a window, channels last; what is past the row meets nothing stored."""
    cdef Py_ssize_t group, o, i, j, c
    cdef const floating* source
    cdef floating* out
    for group in range(job.groups):
        for o in range(job.outputs):
            for i in range(job.taps_y):
                source = weight + group * job.w_group + o * job.w_output + i * job.w_ty
                out = packed + ((group * job.taps_y + i) * job.outputs + o) * p.pitch
                for c in range(job.inputs):
                    for j in range(job.taps_x):
                        out[j * job.inputs + c] = source[c * job.w_input + j]
                for j in range(job.taps_x * job.inputs, p.pitch):
                    out[j] = 0


cdef void _block(const Job* job, const Plan* p, Py_ssize_t task, const floating* grad, const floating* packed,
                 const floating* zeros, floating* image_grad, floating* products, floating* line,
                 Py_ssize_t* offset) noexcept nogil:
    """One task: the products that meet one block of pixels of one group, and their sums."""
    cdef Py_ssize_t left = task % p.xblocks * p.columns
    cdef Py_ssize_t top = task // p.xblocks % p.yblocks * p.rows
    cdef Py_ssize_t group = task // (p.xblocks * p.yblocks) % job.groups
    cdef Py_ssize_t image = task // (p.xblocks * p.yblocks * job.groups)
    cdef Py_ssize_t rows = min(p.rows, job.source.h - top), columns = min(p.columns, job.source.w - left)
    cdef Py_ssize_t row = job.taps_x * job.inputs, wide = 2 * lanes_of(sizeof(floating))
    # Windows that reach the block's columns: the first may end just before them.
    cdef Py_ssize_t first = max(0, left - job.x0 - (job.taps_x - 1)) // job.sx
    cdef Py_ssize_t windows = max(0, min(job.nx - 1, (left + columns - 1 - job.x0) // job.sx) - first + 1)
    cdef Py_ssize_t tiles = pieces(windows, micro().rows), q, y, i, k, x, m, t, c
    cdef floating* out
    cdef Sum s
    grad += image * job.dest.image + group * job.outputs * job.dest.channel + first * job.dest.pixel
    packed += group * job.taps_y * job.outputs * p.pitch
    image_grad += (image * job.source.image + group * job.inputs * job.source.channel + top * job.source.row
                   + left * job.source.pixel)
    s.a_offset, s.b_offset = offset, offset + job.taps_y
    s.a_row, s.a_step, s.b_step, s.b_segment = job.dest.pixel, job.dest.channel, p.pitch, 0
    for y in range(rows):
        s.segments = 0
        for i in range(job.taps_y):
            t = top + y - job.y0 - i * job.ty
            if t >= 0 and t % job.sy == 0 and t // job.sy < job.ny:
                offset[s.segments] = t // job.sy * job.dest.row
                offset[job.taps_y + s.segments] = i * job.outputs * p.pitch
                s.segments += 1
        for q in range(p.chunks):
            s.depth = min(p.chunk, job.outputs - q * p.chunk)
            for i in range(pieces(row, wide)):
                k = i * wide
                for t in range(tiles):
                    x = t * windows // tiles
                    m = (t + 1) * windows // tiles - x
                    run_tile(m, min(wide, row - k), &s, grad + q * p.chunk * job.dest.channel + x * job.dest.pixel,
                             packed + q * p.chunk * p.pitch + k, <const floating*>NULL if q else zeros,
                             products + (y * windows + x) * p.pitch + k, p.pitch)
    for y in range(rows):
        out = image_grad + y * job.source.row
        if job.source.channel != 1 or job.source.pixel != job.inputs:
            out = line
        if floating is float:
            micro().gather_f32(columns, job.inputs, left - job.x0 - first * job.sx, job.taps_x, job.sx, windows,
                               products + y * windows * p.pitch, p.pitch, out)
        else:
            micro().gather_f64(columns, job.inputs, left - job.x0 - first * job.sx, job.taps_x, job.sx, windows,
                               products + y * windows * p.pitch, p.pitch, out)
        if out == line:
            out = image_grad + y * job.source.row
            for c in range(job.inputs):
                for x in range(columns):
                    out[x * job.source.pixel + c * job.source.channel] = line[x * job.inputs + c]


cdef void spread_data(const Job* job, const floating* grad_output, const floating* weight, floating* grad_input,
                      char* scratch, int threads) noexcept nogil:
    """grad_input, all of it overwritten, of a forward job."""
    cdef Plan p = _plan(job, threads, sizeof(floating))
    cdef floating* packed = <floating*>scratch
    cdef floating* zeros = <floating*>(scratch + p.zeros)
    cdef Py_ssize_t task, tasks = job.n * job.groups * p.yblocks * p.xblocks
    cdef Py_ssize_t work = job.n * job.ny * job.nx * job.groups * job.outputs * job.taps_y * p.pitch
    cdef char* slice
    _pack(job, &p, weight, packed)
    memset(zeros, 0, 2 * lanes_of(sizeof(floating)) * sizeof(floating))
    # A vector instruction does some 16 of these multiply-adds, which the measure of work is told.
    for task in prange(tasks, schedule="dynamic", num_threads=min(threads, threads_for(tasks, work // 16))):
        slice = scratch + p.slices + thread_index() * p.slice
        _block(job, &p, task, grad_output, packed, zeros, grad_input, <floating*>slice, <floating*>(slice + p.line),
               <Py_ssize_t*>(slice + p.offsets))
