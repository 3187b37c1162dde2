"""The weights' gradient of 1x1 windows of stride 1: grad_output' @ input, two matrices of a row a place.

A tile is up to 14 outputs by a panel of inputs (two registers), so that the result lies as the weights do, and a task
without others to add its sums to writes it where it belongs.

Tiling: a task goes over its places in blocks of DEPTH, whose part of both matrices stays in the L2 cache: every panel
of the task's inputs meets every tile of its outputs, read where they lie. (A panel copied together costs more than it
saves; but where it ends within a register it is, because a tile loads whole ones.)

Ownership: a task is (group, part of the places, SIDE outputs by SIDE inputs at the most). The result is cut first, and
places only where that leaves fewer than TASKS: then each part has a sum of its own, and the parts are added in order.
All of it follows from the shape alone: no bit depends on the thread count.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from .isa cimport Sum, micro
from .jobs cimport ALIGN, Job, aligned, fetch_far, lanes_of, pieces, run_tile
from .threads cimport thread_index, threads_for


# Places of a block. A tile's panel of them takes 32 KB of the L1 cache at the most.
cdef Py_ssize_t DEPTH = 256
# Outputs and inputs of a task. Both sides of a block together are 256 KB at the most.
cdef Py_ssize_t SIDE = 128
# Tasks that a call is cut into where its shape allows, and the places that a part of the sum keeps in any case.
cdef Py_ssize_t TASKS = 16
cdef Py_ssize_t PART_PLACES = 512


cdef struct Plan:
    Py_ssize_t wide, panels     # inputs of a panel; panels of a group
    Py_ssize_t across, down     # tasks that the inputs and the outputs of a group are cut into
    Py_ssize_t parts            # of the places
    # Scratch, in bytes from the start: zeros, partial sums, those of the bias, then slices, one a thread.
    Py_ssize_t partial, bias, slices, slice, bytes


cdef bint point_fits(const Job* job, Py_ssize_t itemsize) noexcept nogil:
    """Whether the gradient of a forward job's weights is made here."""
    return (job.taps_y * job.taps_x == 1 and job.n * job.ny == 1 and job.source.channel == 1 and job.sx == 1
            and job.y0 == 0 and job.x0 == 0 and job.inputs >= lanes_of(itemsize) // 2 and job.outputs > 1)


cdef Plan _plan(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil:
    cdef Plan p
    cdef Py_ssize_t size = job.groups * job.outputs * job.inputs
    p.wide = 2 * lanes_of(itemsize)
    p.panels = pieces(job.inputs, p.wide)
    p.across, p.down = pieces(p.panels, SIDE // p.wide), pieces(job.outputs, SIDE)
    p.parts = max(1, min(pieces(TASKS, job.groups * p.across * p.down), job.nx // PART_PLACES))
    p.partial = aligned(itemsize * p.wide)
    p.bias = p.partial + aligned(itemsize * size * p.parts)
    p.slices = p.bias + aligned(itemsize * job.groups * job.outputs * p.parts)
    p.slice = aligned(itemsize * DEPTH * p.wide)
    p.bytes = p.slices + threads * p.slice + ALIGN
    return p


cdef Py_ssize_t point_scratch(const Job* job, int threads, Py_ssize_t itemsize) noexcept nogil:
    return _plan(job, threads, itemsize).bytes


cdef void _copy_panel(const floating* source, Py_ssize_t pixel, Py_ssize_t depth, Py_ssize_t n, floating* panel,
                      Py_ssize_t wide) noexcept nogil:
    """panel[k][wide] = n elements of each pixel, and zeros."""
    cdef Py_ssize_t k
    for k in range(depth):
        memcpy(panel + k * wide, source + k * pixel, n * sizeof(floating))
        memset(panel + k * wide + n, 0, (wide - n) * sizeof(floating))


cdef void _block(const Job* job, const Plan* p, Py_ssize_t task, const floating* grad, const floating* source,
                 floating* sums, floating* bias, const floating* zeros, floating* panel) noexcept nogil:
    """One task: sums[output][input] of its outputs and inputs over its part of the places; bias too, unless NULL."""
    cdef Py_ssize_t column = task % p.across, row = task // p.across % p.down
    cdef Py_ssize_t part = task // (p.across * p.down) % p.parts, group = task // (p.across * p.down * p.parts)
    cdef Py_ssize_t first = column * p.panels // p.across, last = (column + 1) * p.panels // p.across
    cdef Py_ssize_t top = row * job.outputs // p.down, rows = (row + 1) * job.outputs // p.down - top
    cdef Py_ssize_t start = part * job.nx // p.parts, end = (part + 1) * job.nx // p.parts
    cdef Py_ssize_t blocks = pieces(end - start, DEPTH), tiles = pieces(rows, micro().rows), zero = 0
    cdef Py_ssize_t steps = (last - first) * tiles, step, block, from_, q, n, t, o, m, k
    cdef const floating* dy
    cdef const floating* x
    cdef Sum s
    grad += group * job.outputs + top
    source += group * job.inputs
    sums += ((part * job.groups + group) * job.outputs + top) * job.inputs
    if column > 0:
        bias = NULL
    if bias != NULL:
        bias += (part * job.groups + group) * job.outputs + top
        memset(bias, 0, rows * sizeof(floating))
    s.segments, s.a_offset, s.a_row, s.a_step = 1, &zero, 1, job.dest.pixel
    s.b_segment, s.b_offset = 0, NULL
    for block in range(blocks):
        from_ = start + block * (end - start) // blocks
        s.depth = start + (block + 1) * (end - start) // blocks - from_
        dy = grad + from_ * job.dest.pixel
        if bias != NULL:
            for k in range(s.depth):
                for o in range(rows):
                    bias[o] += dy[k * job.dest.pixel + o]
        for q in range(first, last):
            n = min(p.wide, job.inputs - q * p.wide)
            x = source + from_ * job.source.pixel + q * p.wide
            if n % lanes_of(sizeof(floating)) == 0:
                s.b_step = job.source.pixel
            else:
                _copy_panel(x, job.source.pixel, s.depth, n, panel, p.wide)
                x, s.b_step = panel, p.wide
            for t in range(tiles):
                if p.across * p.down == 1:  # the next block: nobody else brings it to a cache
                    step = (q - first) * tiles + t
                    k = step * s.depth // steps
                    m = (step + 1) * s.depth // steps - k
                    fetch_far(dy + k * job.dest.pixel, s.depth * job.dest.pixel * sizeof(floating),
                              m * job.dest.pixel * sizeof(floating))
                    fetch_far(source + (from_ + k) * job.source.pixel, s.depth * job.source.pixel * sizeof(floating),
                              m * job.source.pixel * sizeof(floating))
                o = t * rows // tiles
                m = (t + 1) * rows // tiles - o
                run_tile(m, n, &s, dy + o, x, zeros if block == 0 else <const floating*>NULL,
                         sums + o * job.inputs + q * p.wide, job.inputs)


cdef void _add_parts(floating* total, const floating* sums, Py_ssize_t parts, Py_ssize_t pitch, Py_ssize_t first,
                     Py_ssize_t last) noexcept nogil:
    """total[i] = the sum of sums[part*pitch + i] over the parts, for first <= i < last."""
    cdef Py_ssize_t part, i
    for i in range(first, last):
        total[i] = sums[i]
    for part in range(1, parts):
        for i in range(first, last):
            total[i] += sums[part * pitch + i]


cdef void point_weight_grad(const Job* job, const floating* grad_output, const floating* source, floating* grad_weight,
                            floating* grad_bias, char* scratch, int threads) noexcept nogil:
    """grad_weight and, unless NULL, grad_bias of a forward job, both overwritten."""
    cdef Plan p = _plan(job, threads, sizeof(floating))
    cdef floating* zeros = <floating*>scratch
    cdef floating* sums = <floating*>(scratch + p.partial) if p.parts > 1 else grad_weight
    cdef floating* bias = <floating*>(scratch + p.bias) if p.parts > 1 else grad_bias
    cdef Py_ssize_t task, tasks = job.groups * p.parts * p.down * p.across
    cdef Py_ssize_t outputs = job.groups * job.outputs, work = job.nx * outputs * job.inputs
    if grad_bias == NULL:
        bias = <floating*>NULL
    memset(zeros, 0, p.wide * sizeof(floating))
    # A vector instruction does some 16 of these multiply-adds, which the measure of work is told.
    for task in prange(tasks, schedule="dynamic", num_threads=min(threads, threads_for(tasks, work // 16))):
        _block(job, &p, task, grad_output, source, sums, bias, zeros,
               <floating*>(scratch + p.slices + thread_index() * p.slice))
    if p.parts == 1:
        return
    for task in prange(outputs, schedule="static",
                       num_threads=min(threads, threads_for(outputs, p.parts * outputs * job.inputs))):
        _add_parts(grad_weight, sums, p.parts, outputs * job.inputs, task * job.inputs, (task + 1) * job.inputs)
    if bias != NULL:
        _add_parts(grad_bias, bias, p.parts, outputs, 0, outputs)
