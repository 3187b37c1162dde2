"""The weights' gradient of short windows: LeNet's first layer, and others of few taps and channels.

The sums are those of conv.pyx's backward-weight, but a tile is up to 14 outputs by a whole window, for its taps are too
few for rows of a tile. A window has to lie in one run for that. So the rows of the source under a row of places are
interleaved: pixel x has its `taps_y` rows side by side, then a 1 (which makes the bias's gradient one more column), and
a window is `taps_x` such pixels. The next row of places needs one new row of the source for each step down, which takes
the slots of the row that is no longer needed. Nothing else is copied, but the taps down the window come in another
order from row to row. There are `taps_y` orders, each with sums of its own; a task puts them in order at its end.

Tiling: the rings of a few images lie side by side in a thread's scratch, within the L1 cache, and a tile sums over a
row of places of all of them.

Ownership: a task is (group, part of the blocks of all images), with a partial sum of its own; parts are added in order.
Blocks and parts follow from the shape alone: no bit depends on the thread count.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memset

from .isa cimport Sum, micro
from .jobs cimport ALIGN, Image, Job, aligned, lanes_of, pieces, round_up, run_tile
from .threads cimport thread_index, threads_for


# Bytes of the rings of a block.
cdef Py_ssize_t RING_BYTES = 1 << 13
# Elements of a row of a window, at most.
cdef Py_ssize_t LONGEST_ROW = 8
# Parts that a call is cut into where its shape allows, and the work of one (in multiply-adds): it begins with clearing
# its sums and ends with putting them in order.
cdef Py_ssize_t TASKS = 16
cdef Py_ssize_t PART_WORK = 1 << 18
# Rows of a block, at least: each begins with `taps_y` rows to interleave.
cdef Py_ssize_t FEWEST_ROWS = 16


cdef struct Plan:
    Py_ssize_t pixel, window            # elements of a pixel of a ring, and of a window's sums (whole registers)
    Py_ssize_t ring, span_x             # elements of a ring, and its pixels
    Py_ssize_t rows, columns, images    # places of a block, and images
    Py_ssize_t yblocks, xblocks, batches
    Py_ssize_t parts, sums              # and elements of a part's sums
    # Scratch, in bytes from the start: offsets of a block's images, partial sums, then slices, one a thread.
    Py_ssize_t partial, slices, slice, bytes
    Py_ssize_t orders                   # the sums of each order of taps, within a slice, after the rings


cdef bint ring_fits(const Job* job, Py_ssize_t itemsize) noexcept nogil:
    """Whether the gradient of a forward job's weights is made here."""
    return (not (job.inputs == 1 and job.outputs == 1 and job.groups > 1) and job.tx == 1 and job.ty == 1
            and job.taps_x * job.inputs <= LONGEST_ROW
            and job.taps_y * job.taps_x * job.inputs < 4 * lanes_of(itemsize))


cdef Plan _plan(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil:
    cdef Plan p
    cdef Py_ssize_t lanes = lanes_of(itemsize), fit, wanted
    memset(&p, 0, sizeof(Plan))
    p.pixel = job.taps_y * job.inputs + 1
    p.window = round_up(job.taps_x * p.pixel, lanes)
    fit = RING_BYTES // itemsize // p.pixel
    p.columns = min(job.nx, max(micro().rows, (fit - job.taps_x) // job.sx))
    p.xblocks = pieces(job.nx, p.columns)
    p.columns = pieces(job.nx, p.xblocks)
    p.xblocks = pieces(job.nx, p.columns)
    p.span_x = (p.columns - 1) * job.sx + job.taps_x
    p.ring = p.span_x * p.pixel
    wanted = job.n * job.ny * job.nx * job.outputs * job.taps_y * job.taps_x * job.inputs // PART_WORK
    wanted = max(1, min(wanted, pieces(TASKS, job.groups)))
    p.images = max(1, min(fit // p.span_x, job.n // wanted))
    p.batches = pieces(job.n, p.images)
    p.rows = job.ny
    if p.batches * p.xblocks < wanted:
        p.rows = min(job.ny, max(FEWEST_ROWS, job.ny // pieces(wanted, p.batches * p.xblocks)))
    p.yblocks = pieces(job.ny, p.rows)
    p.parts = p.batches * p.yblocks * p.xblocks
    if p.parts > pieces(TASKS, job.groups):
        p.parts = wanted
    p.sums = job.outputs * (job.taps_y * job.taps_x * job.inputs + 1)
    p.partial = aligned(sizeof(Py_ssize_t) * p.images)
    p.slices = p.partial + aligned(itemsize * job.groups * p.parts * p.sums)
    p.orders = aligned(itemsize * (p.images * p.ring + lanes))  # the last register may look past the last window
    p.slice = p.orders + aligned(itemsize * job.taps_y * job.outputs * p.window)
    p.bytes = p.slices + threads * p.slice + ALIGN
    return p


cdef Py_ssize_t ring_scratch(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil:
    return _plan(job, threads, itemsize).bytes


cdef void _interleave(const floating* source, const Image* im, Py_ssize_t row, Py_ssize_t left, Py_ssize_t count,
                      Py_ssize_t channels, floating* out, Py_ssize_t pixel) noexcept nogil:
    """out[x*pixel + c] from columns left.. of a row, zero outside the image."""
    cdef Py_ssize_t x, c, first = min(count, max(0, -left)), end = max(first, min(count, im.w - left))
    cdef const floating* line
    if row < 0 or row >= im.h:
        first = end = count
    for c in range(channels):
        line = source + row * im.row + left * im.pixel + c * im.channel
        for x in range(first):
            out[x * pixel + c] = 0
        for x in range(first, end):
            out[x * pixel + c] = line[x * im.pixel]
        for x in range(end, count):
            out[x * pixel + c] = 0


cdef void _part(const Job* job, const Plan* p, Py_ssize_t group, Py_ssize_t part, const Py_ssize_t* offset,
                const floating* source, const floating* grad, floating* partial, floating* rings,
                floating* orders) noexcept nogil:
    """One task: the sum over one part of all blocks, for one group; partial[output][channel][i][j], then the bias's."""
    cdef Py_ssize_t blocks = p.batches * p.yblocks * p.xblocks, wide = 2 * lanes_of(sizeof(floating))
    cdef Py_ssize_t row = job.taps_x * p.pixel, order = job.outputs * p.window
    cdef Py_ssize_t tiles = pieces(job.outputs, micro().rows)
    cdef Py_ssize_t block, top, left, image, images, rows, y, r, filled, x, i, j, k, t, o, m, c
    cdef const floating* g
    cdef floating* out
    cdef floating total
    cdef Sum s
    source += group * job.inputs * job.source.channel
    grad += group * job.outputs * job.dest.channel
    memset(orders, 0, job.taps_y * order * sizeof(floating))
    s.a_offset, s.a_row, s.a_step = offset, job.dest.channel, job.dest.pixel
    s.b_segment, s.b_step, s.b_offset = p.ring, job.sx * p.pixel, NULL
    for x in range(p.images * p.span_x):
        rings[x * p.pixel + p.pixel - 1] = 1
    for block in range(part * blocks // p.parts, (part + 1) * blocks // p.parts):
        left = block % p.xblocks * p.columns
        top = block // p.xblocks % p.yblocks * p.rows
        image = block // (p.xblocks * p.yblocks) * p.images
        images, rows = min(p.images, job.n - image), min(p.rows, job.ny - top)
        s.segments, s.depth = images, min(p.columns, job.nx - left)
        filled = 0
        for y in range(rows):
            filled = max(filled, y * job.sy)
            for r in range(filled, y * job.sy + job.taps_y):
                for i in range(images):
                    _interleave(source + (image + i) * job.source.image, &job.source, top * job.sy + job.y0 + r,
                                left * job.sx + job.x0, p.span_x, job.inputs,
                                rings + i * p.ring + r % job.taps_y * job.inputs, p.pixel)
            filled = y * job.sy + job.taps_y
            g = grad + image * job.dest.image + (top + y) * job.dest.row + left * job.dest.pixel
            out = orders + y * job.sy % job.taps_y * order
            for t in range(tiles):
                o = t * job.outputs // tiles
                m = (t + 1) * job.outputs // tiles - o
                for k in range(pieces(row, wide)):
                    run_tile(m, min(wide, row - k * wide), &s, g + o * job.dest.channel, rings + k * wide,
                             <const floating*>NULL, out + o * p.window + k * wide, p.window)
    # In order r, tap i down the window had slot (r + i) % taps_y.
    for o in range(job.outputs):
        for c in range(job.inputs):
            for i in range(job.taps_y):
                for j in range(job.taps_x):
                    total = 0
                    for r in range(job.taps_y):
                        k = r + i if r + i < job.taps_y else r + i - job.taps_y
                        total += orders[r * order + o * p.window + j * p.pixel + k * job.inputs + c]
                    partial[((o * job.inputs + c) * job.taps_y + i) * job.taps_x + j] = total
        total = 0
        for r in range(job.taps_y):
            total += orders[r * order + o * p.window + p.pixel - 1]
        partial[p.sums - job.outputs + o] = total


cdef void ring_weight_grad(const Job* job, const floating* grad_output, const floating* source, floating* grad_weight,
                           floating* grad_bias, char* scratch, int threads) noexcept nogil:
    """grad_weight and, unless NULL, grad_bias of a forward job, both overwritten."""
    cdef Plan p = _plan(job, threads, sizeof(floating))
    cdef Py_ssize_t* offset = <Py_ssize_t*>scratch
    cdef floating* partial = <floating*>(scratch + p.partial)
    cdef Py_ssize_t task, tasks = job.groups * p.parts, i, part, weights = p.sums - job.outputs
    cdef Py_ssize_t work = job.n * job.ny * job.nx * job.groups * job.outputs * job.taps_x * p.pixel
    cdef char* slice
    cdef floating* sums
    for i in range(p.images):
        offset[i] = i * job.dest.image
    # A vector instruction does some 16 of these multiply-adds, which the measure of work is told.
    for task in prange(tasks, schedule="dynamic", num_threads=min(threads, threads_for(tasks, work // 16))):
        slice = scratch + p.slices + thread_index() * p.slice
        _part(job, &p, task // p.parts, task % p.parts, offset, source, grad_output, partial + task * p.sums,
              <floating*>slice, <floating*>(slice + p.orders))
    for task in range(job.groups):
        sums = partial + task * p.parts * p.sums
        for part in range(1, p.parts):
            for i in range(p.sums):
                sums[i] += sums[part * p.sums + i]
        for i in range(weights):
            grad_weight[task * weights + i] = sums[i]
        if grad_bias != NULL:
            for i in range(job.outputs):
                grad_bias[task * job.outputs + i] = sums[weights + i]
