"""Convolution on the matrix unit: the jobs of jobs.pxd with operands split into bf16 planes (micro/amx.c).

What is copied is split while it is copied: a float becomes one, two or three bf16 numbers (a plane of them each), for
one, three or six products. Every tile of 16 rows by 64 bytes lies in memory as one aligned kilobyte.

  forward,          a block of places: its source rows are copied for all channels, 32 at a time, and where the stride
  backward-data     is above 1 apart by residue, so that every tap of a window finds neighbouring places 64 bytes from
                    each other. Rows of places then are one flat run over the padded width, cut into pairs of tiles;
                    what falls between two rows is computed and not stored. Each pair runs through the whole sum against
                    one panel of 32 outputs, whose packed weights lie in the order in which they are read
  backward-weight   sums over places: blocks of all images are split in batches. Of the input pairs of places stand side
                    by side, once for pairs that begin at an even place of the flat run and once for odd ones, so that
                    every tap finds its pairs; of grad_output the pairs are transposed, and zero between two rows. Then
                    32 outputs x 32 channels at a time meet for every tap, over all blocks of the batch

Ownership: a task is (image, group, block of places, part of the panels) in the first two passes. In backward-weight
splitting and multiplying alternate: a task of the first is one block's 16 channels or outputs, one of the second is
(group, 32 outputs, 32 channels, and where those are few, tap), which adds to its own part of the sum, batch after
batch. Blocks and batches follow from the shape alone: no bit depends on the thread count.

The unit flushes denormals, and a sum of products may overflow where fp32's would not. Hence each copied block's largest
magnitude is looked at, with that of the other operand (_risky): where a sum could overflow or reach down to what is
flushed, or there is a NaN or an infinity, the pass is given up, and conv.pyx's FMA tiles do all of it.
"""

from cython.parallel cimport prange
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from .isa cimport Matrix, Steps, matrix_planes, micro
from .jobs cimport Image, Job, aligned, pieces, round_up
from .threads cimport thread_index, threads_for


cdef enum:
    TILE = 1024       # bytes of a tile
    ROW = 64          # bytes of a tile's row: a place's 32 channels, or 16 pairs
    DEEP = 32         # terms of the sum in a tile
    WIDE = 32         # outputs, or channels, of a pair of tiles
    PLANES = 3        # scratch has room for these whatever the precision, which may change between two calls

# Bytes of a block's copy: CPUs with this unit have 2 MB of L2 cache a core, and packed weights stream through it too.
cdef Py_ssize_t BLOCK_BYTES = 1 << 19
# Bytes of a batch in backward-weight, and of what one task reads of it.
cdef Py_ssize_t BATCH_BYTES = 1 << 22
cdef Py_ssize_t PAIR_BYTES = 3 << 18
# Most places of a row of blocks in backward-weight.
cdef Py_ssize_t BLOCK_PLACES = 1024
# Tasks that a pass is cut into where its shape allows.
cdef Py_ssize_t TASKS = 16


cdef inline bint _risky(uint32_t a, uint32_t b) noexcept nogil:
    """Whether products of numbers up to a and b (bits of floats without sign) may differ from fp32 arithmetic's.

    With both below 2^119 and their product below 2^98, no sum of up to 2^28 terms overflows. A denormal or flushed
    part is below 2^-126: nothing beside the rounding of sums near the largest product, which is above 2^-92.
    """
    cdef Py_ssize_t x = <Py_ssize_t>(a >> 23) - 127, y = <Py_ssize_t>(b >> 23) - 127
    if x > 118 or y > 118 or x + y > 96:
        return True
    return a != 0 and b != 0 and min(min(x, y), x + y) < -90


cdef bint matrix_fits(const Job* job, Py_ssize_t itemsize) noexcept nogil:
    """Whether a job is faster here than in FMA tiles: enough channels, and of the computed places half are stored."""
    cdef const Matrix* m = micro().matrix
    cdef Py_ssize_t width = job.nx + max(0, job.taps_x - 1) * job.tx // job.sx
    if m == NULL or itemsize != 4 or (job.inputs == 1 and job.outputs == 1) or min(job.inputs, job.outputs) < m.least:
        return False
    return m.least == 1 or 2 * job.ny * job.nx >= round_up((job.ny - 1) * width + job.nx, 16)


# --- copies ---------------------------------------------------------------------------------------------------------


cdef void _gather(const float* line, const Image* im, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count,
                  Py_ssize_t channels, float* out, Py_ssize_t pitch) noexcept nogil:
    """out[q][pitch] = columns start + q*step of a line for q < count, zero outside it and past `channels`.

    `line` may be NULL: a row outside of the image.
    """
    cdef Py_ssize_t q, c, first, end
    _inside(im, start, step, count, line == NULL, &first, &end)
    memset(out, 0, first * pitch * sizeof(float))
    memset(out + end * pitch, 0, (count - end) * pitch * sizeof(float))
    if line == NULL:
        return
    line += start * im.pixel
    if im.channel == 1 and channels == 16 and pitch == 16:
        for q in range(first, end):
            memcpy(out + q * 16, line + q * step * im.pixel, 16 * sizeof(float))
    elif im.channel == 1:
        for q in range(first, end):
            for c in range(channels):
                out[q * pitch + c] = line[q * step * im.pixel + c]
    elif im.pixel == 1 and step == 1 and pitch == 16 and first < end:
        micro().matrix.transpose(channels, end - first, line + first, im.channel, out + first * 16)
        return
    else:
        for c in range(channels):
            for q in range(first, end):
                out[q * pitch + c] = line[c * im.channel + q * step * im.pixel]
    if channels < pitch:
        for q in range(first, end):
            for c in range(channels, pitch):
                out[q * pitch + c] = 0


cdef inline void _inside(const Image* im, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count, bint nothing,
                         Py_ssize_t* first, Py_ssize_t* end) noexcept nogil:
    """Those q < count whose columns start + q*step are in the image: first <= q < end."""
    first[0] = 0 if start >= 0 else min(count, (-start + step - 1) // step)
    end[0] = 0 if start >= im.w else min(count, (im.w - start + step - 1) // step)
    if nothing or end[0] < first[0]:
        first[0] = end[0] = 0


cdef uint32_t _split_line(int planes, const float* line, const Image* im, Py_ssize_t start, Py_ssize_t step,
                          Py_ssize_t count, Py_ssize_t channels, char* out, Py_ssize_t plane,
                          float* temp) noexcept nogil:
    """Columns start + q*step of a line (NULL: zeros), up to 32 channels of each, as rows of a's tiles."""
    cdef const Matrix* m = micro().matrix
    cdef Py_ssize_t p, first, end
    if im.channel == 1 and channels == DEEP:
        _inside(im, start, step, count, line == NULL, &first, &end)
        for p in range(planes):
            memset(out + p * plane, 0, first * ROW)
            memset(out + p * plane + end * ROW, 0, (count - end) * ROW)
        if first == end:
            return 0
        return m.split(planes, end - first, line + (start + first * step) * im.pixel, step * im.pixel, 16,
                       out + first * ROW, plane)
    _gather(line, im, start, step, count, channels, temp, DEEP)
    return m.split(planes, count, temp, DEEP, 16, out, plane)


# --- forward and backward-data --------------------------------------------------------------------------------------


cdef struct Plan:
    Py_ssize_t taps, chunks, panels             # taps of a window; 32 channels, 32 outputs at a time
    Py_ssize_t rows, columns, yblocks, xblocks  # places of a block; blocks of an image
    Py_ssize_t parts                            # that the panels are cut into
    Py_ssize_t fy, fx                           # residues by the stride that taps may have
    Py_ssize_t height, width                    # of what is copied for a residue
    # Bytes from the start of the scratch, which begins with the taps' offsets, and within a thread's slice.
    Py_ssize_t peaks, given_up, bias, weights, slices, slice, bytes
    Py_ssize_t temp, tile


cdef Plan _plan(const Job* job, int threads) noexcept nogil:
    """The tiling of a job, with the columns of its places as columns of one flat run."""
    cdef Plan p
    cdef Py_ssize_t taps = job.taps_y * job.taps_x, place, fit, tasks
    cdef Py_ssize_t reach_y = max(0, job.taps_y - 1) * job.ty, reach_x = max(0, job.taps_x - 1) * job.tx
    p.taps, p.chunks, p.panels = taps, pieces(job.inputs, DEEP), pieces(job.outputs, WIDE)
    p.fy, p.fx = min(job.sy, reach_y + 1), min(job.sx, reach_x + 1)
    place = p.chunks * PLANES * p.fy * p.fx * ROW
    p.columns = job.nx
    if (reach_y // job.sy + 1) * (job.nx + reach_x // job.sx) * place > BLOCK_BYTES:
        fit = BLOCK_BYTES // (place * (reach_y // job.sy + 1)) - reach_x // job.sx
        p.columns = min(job.nx, max(WIDE, fit // WIDE * WIDE))
    p.xblocks = pieces(job.nx, p.columns)
    p.rows = 1
    if p.xblocks == 1:
        fit = BLOCK_BYTES // (place * (job.nx + reach_x // job.sx)) - reach_y // job.sy
        p.rows = min(job.ny, max(1, fit))
    # Enough tasks for the threads: smaller blocks first, then the panels in parts (which share no copy).
    tasks = job.n * job.groups * p.xblocks
    if tasks * pieces(job.ny, p.rows) < TASKS:
        # A block keeps 64 places, so that its tiles stay full.
        fit = max(job.ny // pieces(TASKS, tasks), pieces(64, p.columns))
        p.rows = max(1, min(p.rows, fit))
        if job.ny == 1:
            fit = round_up(pieces(job.nx, pieces(TASKS, tasks // p.xblocks)), WIDE)
            p.columns = min(p.columns, max(64, fit))
            p.xblocks = pieces(job.nx, p.columns)
    p.yblocks = pieces(job.ny, p.rows)
    p.rows = pieces(job.ny, p.yblocks)
    p.yblocks = pieces(job.ny, p.rows)
    tasks = job.n * job.groups * p.xblocks * p.yblocks
    p.parts = min(p.panels, pieces(TASKS, max(1, tasks)))
    p.height, p.width = p.rows + reach_y // job.sy, p.columns + reach_x // job.sx
    p.peaks = aligned(sizeof(Py_ssize_t) * taps)
    p.given_up = p.peaks + aligned(sizeof(uint32_t) * job.groups * p.panels)
    p.bias = p.given_up + aligned(threads)
    p.weights = p.bias + aligned(sizeof(float) * job.groups * p.panels * WIDE)
    p.slices = p.weights + job.groups * p.panels * p.chunks * taps * PLANES * 2 * TILE
    # The last pair of tiles reads past the copy by less than 32 rows.
    p.temp = p.height * p.width * place + 2 * TILE
    p.tile = p.temp + aligned(sizeof(float) * DEEP * max(p.width, _area(job) * 16))
    p.slice = p.tile + 4 * TILE + ROW
    p.bytes = p.slices + threads * p.slice
    return p


cdef inline Py_ssize_t _area(const Job* job) noexcept nogil:
    """Weights of one channel for one output."""
    return min(job.w_input, job.w_output)


cdef uint32_t _pack_panel(const Job* job, const Plan* plan, int planes, const float* weight, Py_ssize_t group,
                          Py_ssize_t panel, char* packed, float* temp) noexcept nogil:
    """packed[chunk][tap][plane][half of the panel], a tile each; returns the largest magnitude as bits."""
    cdef const Matrix* m = micro().matrix
    cdef Py_ssize_t q, i, j, half, c, channels, count, tap, at, area = _area(job)
    cdef uint32_t peak = 0
    cdef const float* source
    packed += (group * plan.panels + panel) * plan.chunks * plan.taps * planes * 2 * TILE
    weight += group * job.w_group + panel * WIDE * job.w_output
    for half in range(2):
        count = min(16, max(0, job.outputs - panel * WIDE - half * 16))
        for q in range(plan.chunks):
            channels = min(DEEP, job.inputs - q * DEEP)
            source = weight + half * 16 * job.w_output + q * DEEP * job.w_input
            # temp[channel][place in the kernel][16 outputs]; weights lie [output][channel] or [channel][output].
            if channels < DEEP or count == 0:
                memset(temp, 0, DEEP * area * 16 * sizeof(float))
            if count and job.w_input == area:
                m.transpose(count, channels * area, source, job.w_output, temp)
            elif count == 16 and area == 1:
                for c in range(channels):
                    memcpy(temp + c * 16, source + c * job.w_input, 16 * sizeof(float))
            elif count:
                for c in range(channels):
                    m.transpose(count, area, source + c * job.w_input, job.w_output, temp + c * area * 16)
            for i in range(job.taps_y):
                for j in range(job.taps_x):
                    tap, at = i * job.taps_x + j, job.w_start + i * job.w_ty + j * job.w_tx
                    peak = max(peak, m.split(planes, 16, temp + at * 16, area * 16, 16 * area * 16,
                                             packed + ((q * plan.taps + tap) * planes * 2 + half) * TILE, 2 * TILE))
    return peak


cdef bint _block(const Job* job, const Plan* plan, int planes, Py_ssize_t task, const float* source,
                 const char* packed, const float* bias, uint32_t weight_peak, const Py_ssize_t* offset, float* dest,
                 char* slice) noexcept nogil:
    """One task: one block of places for one part of one group's panels. True where it must be given up."""
    cdef const Matrix* m = micro().matrix
    cdef Py_ssize_t part = task % plan.parts
    cdef Py_ssize_t left = task // plan.parts % plan.xblocks * plan.columns
    cdef Py_ssize_t top = task // (plan.parts * plan.xblocks) % plan.yblocks * plan.rows
    cdef Py_ssize_t group = task // (plan.parts * plan.xblocks * plan.yblocks) % job.groups
    cdef Py_ssize_t image = task // (plan.parts * plan.xblocks * plan.yblocks * job.groups)
    cdef Py_ssize_t rows = min(plan.rows, job.ny - top), columns = min(plan.columns, job.nx - left)
    cdef Py_ssize_t height = rows + plan.height - plan.rows, size = plan.height * plan.width, flat, start, y, row
    cdef Py_ssize_t q, ry, rx, p, channels, n, plane = plan.fy * plan.fx * size * ROW
    cdef uint32_t peak = 0
    cdef float* temp = <float*>(slice + plan.temp)
    cdef float* tile = <float*>(slice + plan.tile)
    cdef char* kept = slice + plan.tile + 4 * TILE
    cdef const float* line
    cdef Steps s
    source += image * job.source.image + group * job.inputs * job.source.channel
    dest += (image * job.dest.image + group * job.outputs * job.dest.channel
             + (job.dest_y + top * job.dest_sy) * job.dest.row + (job.dest_x + left * job.dest_sx) * job.dest.pixel)
    for q in range(plan.chunks if plan.taps else 0):
        channels = min(DEEP, job.inputs - q * DEEP)
        for ry in range(plan.fy):
            for rx in range(plan.fx):
                for y in range(height):
                    row = (top + y) * job.sy + job.y0 + ry
                    line = <const float*>NULL
                    if row >= 0 and row < job.source.h:
                        line = source + q * DEEP * job.source.channel + row * job.source.row
                    peak = max(peak, _split_line(
                        planes, line, &job.source, left * job.sx + job.x0 + rx, job.sx, plan.width, channels,
                        slice + q * planes * plane + ((ry * plan.fx + rx) * size + y * plan.width) * ROW, plane, temp))
    if _risky(peak, weight_peak):
        return True
    s.outer, s.inner, s.a_offset, s.a_inner = plan.chunks, plan.taps, offset, 0
    s.a_outer, s.a_tile, s.a_plane = planes * plane, TILE, plane
    s.b_outer, s.b_inner, s.b_tile, s.b_plane = plan.taps * planes * 2 * TILE, planes * 2 * TILE, TILE, 2 * TILE
    flat = (rows - 1) * plan.width + columns
    m.begin(kept)
    for p in range(part * plan.panels // plan.parts, (part + 1) * plan.panels // plan.parts):
        n = min(WIDE, job.outputs - p * WIDE)
        for start in range(0, flat, 2 * 16):
            m.product(planes, 2 if flat - start > 16 else 1, 2 if n > 16 else 1, &s, slice + start * ROW,
                      packed + (group * plan.panels + p) * plan.chunks * s.b_outer, tile, False)
            _store(job, plan, tile, bias + (group * plan.panels + p) * WIDE, start, min(2 * 16, flat - start), columns,
                   n, dest + p * WIDE * job.dest.channel)
    m.end(kept)
    return False


cdef inline void _store(const Job* job, const Plan* plan, const float* tile, const float* bias, Py_ssize_t start,
                        Py_ssize_t count, Py_ssize_t columns, Py_ssize_t n, float* dest) noexcept nogil:
    """Those rows of a tile, places start.. of a block's flat run, that are places."""
    cdef Py_ssize_t y = start // plan.width, x = start % plan.width, pixel = job.dest_sx * job.dest.pixel
    cdef Py_ssize_t r = 0, m, i, o
    cdef float* out
    while r < count:
        m = min(count - r, columns - x)
        if m > 0:
            out = dest + y * job.dest_sy * job.dest.row + x * pixel
            if job.dest.channel == 1:
                micro().matrix.store(m, n, tile + r * WIDE, bias, out, pixel)
            else:
                for o in range(n):
                    for i in range(m):
                        out[o * job.dest.channel + i * pixel] = tile[(r + i) * WIDE + o] + bias[o]
        r += plan.width - x
        x = 0
        y += 1


cdef bint matrix_sums(const Job* job, const float* source, const float* weight, const float* bias, float* dest,
                      char* scratch, int threads) noexcept nogil:
    """Forward and backward-data; bias may be NULL."""
    cdef int planes = matrix_planes()
    cdef Plan plan = _plan(job, threads)
    cdef Py_ssize_t* offset = <Py_ssize_t*>scratch
    cdef uint32_t* peaks = <uint32_t*>(scratch + plan.peaks)
    cdef char* given_up = scratch + plan.given_up
    cdef float* packed_bias = <float*>(scratch + plan.bias)
    cdef char* packed = scratch + plan.weights
    cdef Py_ssize_t task, tasks, i, j, y, x, size = plan.height * plan.width
    cdef Py_ssize_t work = job.n * job.ny * job.nx * job.groups * job.outputs * (1 + plan.taps * job.inputs)
    cdef uint32_t peak = 0
    cdef char* slice
    for i in range(job.taps_y):
        for j in range(job.taps_x):
            y, x = i * job.ty, j * job.tx
            offset[i * job.taps_x + j] = ROW * ((y % job.sy * plan.fx + x % job.sx) * size + y // job.sy * plan.width
                                                + x // job.sx)
    for i in range(job.groups):
        for j in range(plan.panels * WIDE):
            packed_bias[i * plan.panels * WIDE + j] = (bias[i * job.outputs + j]
                                                       if bias != NULL and j < job.outputs else 0)
    memset(given_up, 0, threads)
    tasks = job.groups * plan.panels
    for task in prange(tasks, schedule="static",
                       num_threads=min(threads, threads_for(tasks, tasks * WIDE * plan.taps * job.inputs))):
        slice = scratch + plan.slices + thread_index() * plan.slice
        peaks[task] = _pack_panel(job, &plan, planes, weight, task // plan.panels, task % plan.panels, packed,
                                  <float*>(slice + plan.temp))
    for task in range(tasks):
        peak = max(peak, peaks[task])
    tasks = job.n * job.groups * plan.yblocks * plan.xblocks * plan.parts
    for task in prange(tasks, schedule="dynamic", num_threads=min(threads, threads_for(tasks, work // 64))):
        slice = scratch + plan.slices + thread_index() * plan.slice
        if not given_up[thread_index()]:
            given_up[thread_index()] = _block(job, &plan, planes, task, source, packed, packed_bias, peak, offset, dest,
                                              slice)
    for i in range(threads):
        if given_up[i]:
            return False
    return True


# --- backward-weight ------------------------------------------------------------------------------------------------


cdef struct WeightPlan:
    Py_ssize_t taps
    Py_ssize_t rows, columns, yblocks, xblocks  # places of a block; blocks of an image
    Py_ssize_t blocks, batch, batches           # of all images; of a batch, at the most; batches
    Py_ssize_t fy, fx                           # residues by the stride that taps may have
    Py_ssize_t height, width                    # of what is read for a residue
    Py_ssize_t steps                            # tiles of 32 places that cover a block's flat run
    Py_ssize_t pairs, odd                       # pairs of places for a residue; 2 if pairs from odd places on are read
    Py_ssize_t channels, outputs                # of a group, in 16s, rounded up to an even number
    Py_ssize_t input_plane, input_tile, grad_plane, grad_tile  # bytes; a block's are groups * channels * input_tile ...
    Py_ssize_t pieces                           # that the taps of a pair are cut into
    # Bytes from the start of the scratch, which begins with the taps' offsets, and of a thread's slice.
    Py_ssize_t peaks, bias, sums, input, grad, slices, slice, bytes


cdef WeightPlan _weight_plan(const Job* job, int threads) noexcept nogil:
    cdef WeightPlan p
    cdef Py_ssize_t reach_y = (job.taps_y - 1) * job.ty, reach_x = (job.taps_x - 1) * job.tx, i, j, shift, fit, block
    cdef Py_ssize_t last = reach_y // job.sy, sums
    p.taps = job.taps_y * job.taps_x
    p.fy, p.fx = min(job.sy, reach_y + 1), min(job.sx, reach_x + 1)
    p.columns = job.nx if job.nx + reach_x // job.sx <= BLOCK_PLACES else min(job.nx, BLOCK_PLACES)
    p.xblocks = pieces(job.nx, p.columns)
    p.width = p.columns + reach_x // job.sx
    p.rows = 1 if p.xblocks > 1 else min(job.ny, max(1, BLOCK_PLACES // p.width))
    p.yblocks = pieces(job.ny, p.rows)
    p.rows = pieces(job.ny, p.yblocks)
    p.yblocks = pieces(job.ny, p.rows)
    p.height = p.rows + last
    p.steps = pieces((p.rows - 1) * p.width + p.columns, DEEP)
    last = last * p.width + reach_x // job.sx
    p.pairs = last // 2 + p.steps * 16
    p.odd = 1
    for i in range(job.taps_y):
        for j in range(job.taps_x):
            shift = i * job.ty // job.sy * p.width + j * job.tx // job.sx
            if shift % 2:
                p.odd = 2
    p.channels, p.outputs = 2 * pieces(job.inputs, WIDE), 2 * pieces(job.outputs, WIDE)
    p.input_plane = p.fy * p.fx * p.pairs * ROW
    p.input_tile = p.odd * PLANES * p.input_plane
    p.grad_plane = p.steps * TILE
    p.grad_tile = PLANES * p.grad_plane
    block = job.groups * (p.channels * p.input_tile + p.outputs * p.grad_tile)
    sums = job.groups * p.outputs * p.channels * p.taps * TILE
    # A batch's sums are read and written once a batch: where they are long, so is it.
    fit = min(max(BATCH_BYTES, sums) // block, PAIR_BYTES // (2 * (p.input_tile + p.grad_tile)))
    p.blocks = job.n * p.yblocks * p.xblocks
    p.batch = max(1, min(fit, p.blocks))
    p.batches = pieces(p.blocks, p.batch)
    p.pieces = p.taps if job.groups * p.outputs * p.channels < 4 * TASKS else 1
    p.peaks = aligned(sizeof(Py_ssize_t) * p.taps)
    p.bias = p.peaks + aligned(sizeof(uint32_t) * p.batch * job.groups * (p.channels + p.outputs))
    p.sums = p.bias + aligned(sizeof(float) * p.batch * job.groups * p.outputs * 16)
    p.input = p.sums + sums
    p.grad = p.input + p.batch * job.groups * p.channels * p.input_tile
    p.slices = p.grad + p.batch * job.groups * p.outputs * p.grad_tile
    p.slice = max(4 * TILE, <Py_ssize_t>sizeof(float) * 16 * (2 * p.pairs + 2)) + ROW
    p.slice = max(p.slice, <Py_ssize_t>sizeof(float) * 16 * p.height * p.width)
    p.slice = aligned(p.slice)
    p.bytes = p.slices + threads * p.slice
    return p


cdef inline void _block_start(const Job* job, const WeightPlan* plan, Py_ssize_t block, Py_ssize_t* image,
                              Py_ssize_t* top, Py_ssize_t* left) noexcept nogil:
    left[0] = block % plan.xblocks * plan.columns
    top[0] = block // plan.xblocks % plan.yblocks * plan.rows
    image[0] = block // (plan.xblocks * plan.yblocks)


cdef uint32_t _split_input(const Job* job, const WeightPlan* plan, int planes, Py_ssize_t block, Py_ssize_t group,
                           Py_ssize_t chunk, const float* source, char* out, float* temp) noexcept nogil:
    """16 channels of a block: out[odd][plane][residue][pair], rows of 64 bytes; the largest magnitude as bits."""
    cdef Py_ssize_t image, top, left, y, ry, rx, row, odd, used = plan.height * plan.width
    cdef Py_ssize_t first = group * job.inputs + chunk * 16, channels = min(16, max(0, job.inputs - chunk * 16))
    cdef const float* line
    cdef uint32_t peak = 0
    _block_start(job, plan, block, &image, &top, &left)
    for ry in range(plan.fy):
        for rx in range(plan.fx):
            for y in range(plan.height):
                row = (top + y) * job.sy + job.y0 + ry
                line = <const float*>NULL
                if row >= 0 and row < job.source.h:
                    line = source + image * job.source.image + first * job.source.channel + row * job.source.row
                _gather(line, &job.source, left * job.sx + job.x0 + rx, job.sx, plan.width, channels,
                        temp + y * plan.width * 16, 16)
            if used < 2 * plan.pairs + 1:
                memset(temp + used * 16, 0, (2 * plan.pairs + 1 - used) * 16 * sizeof(float))
            for odd in range(plan.odd):
                peak = max(peak, micro().matrix.split(
                    planes, plan.pairs, temp + odd * 16, 32, 16,
                    out + odd * planes * plan.input_plane + (ry * plan.fx + rx) * plan.pairs * ROW, plan.input_plane))
    return peak


cdef uint32_t _split_grad(const Job* job, const WeightPlan* plan, int planes, Py_ssize_t block, Py_ssize_t group,
                          Py_ssize_t chunk, const float* grad, char* out, float* total, float* temp) noexcept nogil:
    """16 outputs of a block: out[plane][step], a tile each, and, unless `total` is NULL, their sums; the peak."""
    cdef Py_ssize_t image, top, left, y, x, o, rows, columns
    cdef double sums[16]
    cdef Py_ssize_t first = group * job.outputs + chunk * 16, count = min(16, max(0, job.outputs - chunk * 16))
    _block_start(job, plan, block, &image, &top, &left)
    rows, columns = min(plan.rows, job.ny - top), min(plan.columns, job.nx - left)
    memset(temp, 0, plan.steps * DEEP * 16 * sizeof(float))
    memset(sums, 0, sizeof(sums))
    for y in range(rows):
        _gather(grad + image * job.dest.image + first * job.dest.channel + (top + y) * job.dest.row, &job.dest, left, 1,
                columns, count, temp + y * plan.width * 16, 16)
        for x in range(columns if total != NULL else 0):
            for o in range(16):
                sums[o] += temp[(y * plan.width + x) * 16 + o]
    if total != NULL:
        for o in range(16):
            total[o] = <float>sums[o]
    return micro().matrix.split_transposed(planes, plan.steps * 16, temp, 32, 16, out, plan.grad_plane)


cdef void _multiply(const Job* job, const WeightPlan* plan, int planes, Py_ssize_t task, Py_ssize_t blocks, bint add,
                    const Py_ssize_t* offset, const char* input, const char* grad, float* sums,
                    char* kept) noexcept nogil:
    """One task: 32 outputs by 32 channels of one group, for one piece of the taps, over the blocks of a batch."""
    cdef Py_ssize_t piece = task % plan.pieces, pair = task // plan.pieces, tap
    cdef Py_ssize_t c = pair % (plan.channels // 2), o = pair // (plan.channels // 2) % (plan.outputs // 2)
    cdef Py_ssize_t group = pair // (plan.channels // 2 * (plan.outputs // 2))
    cdef int m = 2 if job.outputs - o * WIDE > 16 else 1, n = 2 if job.inputs - c * WIDE > 16 else 1
    cdef Steps s
    s.outer, s.inner, s.a_offset = blocks, plan.steps, NULL
    s.a_inner, s.a_plane, s.a_tile = TILE, plan.grad_plane, plan.grad_tile
    s.a_outer = job.groups * plan.outputs * plan.grad_tile
    s.b_inner, s.b_plane, s.b_tile = TILE, plan.input_plane, plan.input_tile
    s.b_outer = job.groups * plan.channels * plan.input_tile
    grad += (group * plan.outputs + 2 * o) * plan.grad_tile
    input += (group * plan.channels + 2 * c) * plan.input_tile
    sums += pair * plan.taps * WIDE * WIDE
    micro().matrix.begin(kept)
    for tap in range(piece * plan.taps // plan.pieces, (piece + 1) * plan.taps // plan.pieces):
        micro().matrix.product(planes, m, n, &s, grad, input + offset[tap], sums + tap * WIDE * WIDE, add)
    micro().matrix.end(kept)


cdef void _unpack(const Job* job, const WeightPlan* plan, Py_ssize_t group, Py_ssize_t output, const float* sums,
                  float* grad_weight) noexcept nogil:
    """The weights of one output from sums[group][32 outputs][32 channels][tap], 32 by 32 floats each."""
    cdef Py_ssize_t chunk, c, tap
    sums += ((group * plan.outputs // 2 + output // WIDE) * (plan.channels // 2) * plan.taps * WIDE
             + output % WIDE) * WIDE
    grad_weight += group * job.w_group + output * job.w_output
    for chunk in range(pieces(job.inputs, WIDE)):
        for c in range(min(WIDE, job.inputs - chunk * WIDE)):
            for tap in range(plan.taps):
                grad_weight[tap] = sums[tap * WIDE * WIDE + c]
            grad_weight += plan.taps
        sums += plan.taps * WIDE * WIDE


cdef bint matrix_weight_grad(const Job* job, const float* grad_output, const float* source, float* grad_weight,
                             float* grad_bias, char* scratch, int threads) noexcept nogil:
    """grad_weight and, unless NULL, grad_bias."""
    cdef int planes = matrix_planes()
    cdef WeightPlan plan = _weight_plan(job, threads)
    cdef char* slice
    cdef Py_ssize_t* offset = <Py_ssize_t*>scratch
    cdef uint32_t* peaks = <uint32_t*>(scratch + plan.peaks)
    cdef float* totals = <float*>(scratch + plan.bias)
    cdef float* sums = <float*>(scratch + plan.sums)
    cdef uint32_t input_peak, grad_peak
    cdef Py_ssize_t i, j, y, x, shift, batch, first, blocks, tasks, task, o, block
    cdef Py_ssize_t groups = job.groups, outputs = groups * job.outputs, inputs = groups * plan.channels
    cdef Py_ssize_t work = job.n * job.ny * job.nx * outputs * (1 + plan.taps * job.inputs)
    for i in range(job.taps_y):
        for j in range(job.taps_x):
            y, x = i * job.ty, j * job.tx
            shift = y // job.sy * plan.width + x // job.sx
            offset[i * job.taps_x + j] = (shift % 2 * planes * plan.input_plane
                                          + ((y % job.sy * plan.fx + x % job.sx) * plan.pairs + shift // 2) * ROW)
    if grad_bias != NULL:
        memset(grad_bias, 0, outputs * sizeof(float))
    for batch in range(plan.batches):
        first = batch * plan.blocks // plan.batches
        blocks = (batch + 1) * plan.blocks // plan.batches - first
        tasks = blocks * (inputs + groups * plan.outputs)
        for task in prange(tasks, schedule="dynamic",
                           num_threads=min(threads, threads_for(tasks, tasks * plan.pairs * 64))):
            slice = scratch + plan.slices + thread_index() * plan.slice
            block, i = task // (inputs + groups * plan.outputs), task % (inputs + groups * plan.outputs)
            if i < inputs:
                peaks[task] = _split_input(job, &plan, planes, first + block, i // plan.channels, i % plan.channels,
                                           source, scratch + plan.input + (block * inputs + i) * plan.input_tile,
                                           <float*>slice)
            else:
                i = block * groups * plan.outputs + i - inputs
                peaks[task] = _split_grad(job, &plan, planes, first + block, i // plan.outputs % groups,
                                          i % plan.outputs, grad_output, scratch + plan.grad + i * plan.grad_tile,
                                          totals + i * 16 if grad_bias != NULL else NULL, <float*>slice)
        input_peak = grad_peak = 0
        for task in range(tasks):
            if task % (inputs + groups * plan.outputs) < inputs:
                input_peak = max(input_peak, peaks[task])
            else:
                grad_peak = max(grad_peak, peaks[task])
        if _risky(input_peak, grad_peak):
            return False
        if grad_bias != NULL:
            for block in range(blocks):
                for o in range(outputs):
                    grad_bias[o] += totals[(block * groups + o // job.outputs) * plan.outputs * 16 + o % job.outputs]
        tasks = groups * (plan.outputs // 2) * (plan.channels // 2) * plan.pieces
        for task in prange(tasks, schedule="dynamic",
                           num_threads=min(threads, threads_for(tasks, work // (64 * plan.batches)))):
            slice = scratch + plan.slices + thread_index() * plan.slice
            _multiply(job, &plan, planes, task, blocks, batch > 0, offset, scratch + plan.input, scratch + plan.grad,
                      sums, slice)
    for task in prange(outputs, schedule="static",
                       num_threads=min(threads, threads_for(outputs, outputs * job.inputs * plan.taps))):
        _unpack(job, &plan, task // job.outputs, task % job.outputs, sums, grad_weight)
    return True


# --- scratch --------------------------------------------------------------------------------------------------------


cdef Py_ssize_t matrix_scratch(const Job* job, int threads, bint weights) noexcept nogil:
    """Bytes, from an aligned start on."""
    return ROW + (_weight_plan(job, threads).bytes if weights else _plan(job, threads).bytes)


# --- for the tests --------------------------------------------------------------------------------------------------


def split(const float[:, ::1] x, int planes, unsigned char[::1] out):
    """split(x, planes, out): rows of 32 floats as bf16, out[plane][row][16 pairs (k, 16 + k)]; their peak's bits"""
    return micro().matrix.split(planes, x.shape[0], &x[0, 0], 32, 16, <char*>&out[0], x.shape[0] * ROW)


def configurations():
    """The tile configurations that a thread had before, between and after two nested uses of the unit."""
    cdef char kept[4][64]
    micro().matrix.begin(kept[0])
    micro().matrix.begin(kept[1])
    micro().matrix.end(kept[1])
    micro().matrix.begin(kept[2])
    micro().matrix.end(kept[2])
    micro().matrix.end(kept[0])
    micro().matrix.begin(kept[3])
    micro().matrix.end(kept[3])
    return tuple(kept[i][:64] for i in range(4))
