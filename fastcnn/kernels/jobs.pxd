"""A pass of a convolution as a job, and what the ways of doing it (conv, winograd, matrix) and linear have in common.

All of it is inline: a header of small functions, no module.
"""

from cython cimport floating
from libc.math cimport rint
from libc.string cimport memcpy, memset

from .geometry cimport FASTCNN_DEFAULT, FASTCNN_DIRECT, Window
from .isa cimport Sum, is_direct, micro
from .norm cimport After


cdef extern from *:
    """
    static inline void fastcnn_fetch(const void *p, ptrdiff_t bytes) {
        for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + i, 1, 2);
    }
    static inline void fastcnn_fetch_far(const void *p, ptrdiff_t ahead, ptrdiff_t bytes) {
        const size_t start = (size_t)p + (size_t)ahead; /* perhaps past the end, where there is nothing to be had */
        for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)(start + (size_t)i), 0, 2);
    }
    """
    void fetch "fastcnn_fetch"(const void* p, Py_ssize_t bytes) noexcept nogil
    void fetch_far "fastcnn_fetch_far"(const void* p, Py_ssize_t ahead, Py_ssize_t bytes) noexcept nogil


cdef enum:
    ALIGN = 64  # bytes: a cache line, and the longest register
    # Bytes of what is between two functions that go through images together, of a part that all threads share: it then
    # stays in the cache.
    PART_BYTES = 1 << 21


cdef struct Image:
    # A batch of images in memory: extents, and strides in elements.
    Py_ssize_t h, w
    Py_ssize_t image, row, pixel, channel


cdef struct Job:
    Image source, dest
    Py_ssize_t n, groups, inputs, outputs       # inputs and outputs: channels of one group
    bint depthwise
    bint direct                                 # sums of the products alone: no Winograd, no matrix unit
    # Place (y, x) is dest pixel (dest_y + y*dest_sy, dest_x + x*dest_sx), for y < ny, x < nx. Its tap (i, j) reads
    # source pixel (y*sy + y0 + i*ty, x*sx + x0 + j*tx), for i < taps_y, j < taps_x.
    Py_ssize_t ny, nx, dest_y, dest_x, dest_sy, dest_sx
    Py_ssize_t taps_y, taps_x, sy, sx, y0, x0, ty, tx
    # weight[w_start + group*w_group + output*w_output + input*w_input + i*w_ty + j*w_tx]
    Py_ssize_t w_start, w_group, w_output, w_input, w_ty, w_tx
    After before                                # of source, whose channels are neighbours; winograd.pyx alone
    After after                                 # of dest, whose channels are neighbours; conv.pyx and winograd.pyx
    # Tiling of conv.pyx, whose _tile chooses all that follows from what stands above and the vector length.
    Py_ssize_t panel, panels, parts             # outputs of a panel; panels of a group; parts the panels are cut into
    Py_ssize_t chunk, chunks                    # channels summed at a time
    Py_ssize_t rows, columns, yblocks, xblocks  # places of a block; blocks of an image
    Py_ssize_t images, batches                  # whole images that a block of backward-weight holds; such batches
    bint in_place                               # the source is read where it lies
    Py_ssize_t span_y, span_x                   # source rows and columns under a block
    Py_ssize_t pitch                            # elements of a pixel in the copy: a chunk, and some more (see PITCH)
    Py_ssize_t row, pixel                       # strides of what the tiles read: the copy, or the source itself
    Py_ssize_t segments, depth                  # of a full chunk: runs of equal steps, and their length
    Py_ssize_t ahead                            # from a block's source to that of the thread's next one, or 0


cdef inline Py_ssize_t round_up(Py_ssize_t value, Py_ssize_t to) noexcept nogil:
    return (value + to - 1) // to * to


cdef inline Py_ssize_t pieces(Py_ssize_t whole, Py_ssize_t largest) noexcept nogil:
    """Least number of pieces of at most `largest`, and at least one."""
    return max(1, (whole + largest - 1) // max(largest, 1))


cdef inline Py_ssize_t parts_of(Py_ssize_t images, Py_ssize_t bytes, Py_ssize_t part_bytes) noexcept nogil:
    """Into how many parts of about `part_bytes` images of so many bytes together are cut."""
    return max(1, min(images, <Py_ssize_t>rint(<double>bytes / part_bytes)))


cdef inline Py_ssize_t lanes_of(Py_ssize_t itemsize) noexcept nogil:
    return micro().lanes_f32 if itemsize == 4 else micro().lanes_f64


cdef inline Py_ssize_t aligned(Py_ssize_t bytes) noexcept nogil:
    return round_up(bytes, ALIGN)


cdef inline char* aligned_start(void* scratch) noexcept nogil:
    """The first aligned byte; whoever told the size of the scratch asked for ALIGN bytes more."""
    return <char*>((<size_t>scratch + ALIGN - 1) // ALIGN * ALIGN)


# --- jobs -----------------------------------------------------------------------------------------------------------


cdef inline Image image_of(Py_ssize_t channels, Py_ssize_t h, Py_ssize_t w, bint channels_last) noexcept nogil:
    cdef Image im
    im.h, im.w = h, w
    im.image = channels * h * w
    if channels_last:
        im.row, im.pixel, im.channel = w * channels, channels, 1
    else:
        im.row, im.pixel, im.channel = w, 1, h * w
    return im


cdef inline Job forward_job(const Window* g, Py_ssize_t outputs, Py_ssize_t groups) noexcept nogil:
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.direct = is_direct() if g.algorithm == FASTCNN_DEFAULT else g.algorithm == FASTCNN_DIRECT
    job.source = image_of(g.c, g.h, g.w, g.channels_last)
    job.dest = image_of(outputs, g.oh, g.ow, g.channels_last)
    job.n, job.groups, job.inputs, job.outputs = g.n, groups, g.c // groups, outputs // groups
    job.ny, job.nx, job.dest_sy, job.dest_sx = g.oh, g.ow, 1, 1
    job.taps_y, job.taps_x, job.sy, job.sx = g.kh, g.kw, g.sh, g.sw
    job.y0, job.x0, job.ty, job.tx = -g.ph, -g.pw, g.dh, g.dw
    job.w_tx, job.w_ty, job.w_input = 1, g.kw, g.kh * g.kw
    job.w_output = job.inputs * job.w_input
    job.w_group = job.outputs * job.w_output
    if (g.kh == 1 and g.kw == 1 and g.sh == 1 and g.sw == 1 and g.ph == 0 and g.pw == 0 and g.oh == g.h
            and g.ow == g.w and g.channels_last):
        # Every pixel for itself: one long row of them, so that tiles are full whatever the image's width.
        job.nx = g.n * g.h * g.w
        job.n = job.ny = 1
        job.source = image_of(g.c, 1, job.nx, True)
        job.dest = image_of(outputs, 1, job.nx, True)
    return job


cdef inline Py_ssize_t gcd(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


cdef inline Py_ssize_t phase(Py_ssize_t r, Py_ssize_t padding, Py_ssize_t k, Py_ssize_t s, Py_ssize_t d,
                             Py_ssize_t* last, Py_ssize_t* step) noexcept nogil:
    """How many taps i < k of a window meet pixels r, r+s, ...: those with r + padding - i*d divisible by s.

    They are last, last - step, ...: taken from the last one, their source offsets ascend.
    """
    cdef Py_ssize_t i, taps = 0
    step[0] = s // gcd(s, d)
    last[0] = 0
    for i in range(min(k, step[0])):
        if (r + padding - i * d) % s == 0:
            taps = (k - 1 - i) // step[0] + 1
            last[0] = i + (taps - 1) * step[0]
            break
    return taps


cdef inline Job data_job(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t ry,
                         Py_ssize_t rx) noexcept nogil:
    """The gradient of the pixels ry, ry + sh, ... by rx, rx + sw, ...: a convolution of grad_output of stride 1."""
    cdef Job job = forward_job(g, outputs, groups)
    cdef Image swap = job.source
    cdef Py_ssize_t last_y, last_x, step_y, step_x
    job.source = job.dest
    job.dest = swap
    job.inputs, job.outputs = job.outputs, job.inputs
    job.w_input, job.w_output = job.w_output, job.w_input
    if job.dest.w != g.w:  # one long row of pixels
        return job
    job.taps_y = phase(ry, g.ph, g.kh, g.sh, g.dh, &last_y, &step_y)
    job.taps_x = phase(rx, g.pw, g.kw, g.sw, g.dw, &last_x, &step_x)
    job.ny, job.nx = (g.h - ry + g.sh - 1) // g.sh, (g.w - rx + g.sw - 1) // g.sw
    job.dest_y, job.dest_x, job.dest_sy, job.dest_sx = ry, rx, g.sh, g.sw
    job.sy = job.sx = 1
    # Exact, though the numerator may be negative: the tap was chosen so that the stride divides it.
    job.y0, job.x0 = (ry + g.ph - last_y * g.dh) // g.sh, (rx + g.pw - last_x * g.dw) // g.sw
    job.ty, job.tx = step_y * g.dh // g.sh, step_x * g.dw // g.sw
    if job.taps_y == 0 or job.taps_x == 0:  # pixels that no window reads: the sum is empty, the gradient 0
        job.taps_y = job.taps_x = job.y0 = job.x0 = 0
    job.w_start = last_y * g.kw + last_x
    job.w_ty, job.w_tx = -step_y * g.kw, -step_x
    return job


cdef inline bint all_finite(const floating* a, Py_ssize_t count) noexcept nogil:
    if floating is float:
        return micro().all_finite_f32(count, a)
    else:
        return micro().all_finite_f64(count, a)


# --- copies and tiles ---------------------------------------------------------------------------------------------


cdef inline void copy_pixels(const floating* source, const Image* im, Py_ssize_t top, Py_ssize_t rows,
                             Py_ssize_t left, Py_ssize_t columns, Py_ssize_t channels, floating* target,
                             Py_ssize_t pitch) noexcept nogil:
    """target[row][column][pitch] from rows top.. and columns left.. of an image, zero outside it and past channels."""
    cdef Py_ssize_t y, x, c, first = min(columns, max(0, -left)), end = max(first, min(columns, im.w - left))
    cdef const floating* line
    cdef floating* out
    for y in range(rows):
        out = target + y * columns * pitch
        if top + y < 0 or top + y >= im.h:
            memset(out, 0, columns * pitch * sizeof(floating))
            continue
        memset(out, 0, first * pitch * sizeof(floating))
        memset(out + end * pitch, 0, (columns - end) * pitch * sizeof(floating))
        line = source + (top + y) * im.row + left * im.pixel
        if im.channel == 1 and im.pixel == channels and pitch == channels:
            memcpy(out + first * pitch, line + first * im.pixel, (end - first) * pitch * sizeof(floating))
        elif im.channel == 1:
            for x in range(first, end):
                memcpy(out + x * pitch, line + x * im.pixel, channels * sizeof(floating))
                for c in range(channels, pitch):
                    out[x * pitch + c] = 0
        else:
            for c in range(channels):
                for x in range(first, end):
                    out[x * pitch + c] = line[c * im.channel + x * im.pixel]
            for x in range(first, end):
                for c in range(channels, pitch):
                    out[x * pitch + c] = 0


cdef inline void run_tile(Py_ssize_t m, Py_ssize_t n, const Sum* s, const floating* a, const floating* b,
                          const floating* init, floating* c, Py_ssize_t c_row) noexcept nogil:
    if floating is float:
        micro().tile_f32(m, n, s, a, b, init, c, c_row)
    else:
        micro().tile_f64(m, n, s, a, b, init, c, c_row)


cdef inline void run_depthwise(Py_ssize_t m, Py_ssize_t n, const Sum* s, const floating* a, const floating* b,
                               const floating* init, floating* c, Py_ssize_t c_row) noexcept nogil:
    if floating is float:
        micro().depthwise_f32(m, n, s, a, b, init, c, c_row)
    else:
        micro().depthwise_f64(m, n, s, a, b, init, c, c_row)


cdef inline void put_tile(const floating* tile, Py_ssize_t pitch, floating* dest, Py_ssize_t pixel,
                          Py_ssize_t channel, Py_ssize_t m, Py_ssize_t n, bint add) noexcept nogil:
    """Store a tile of m places by n channels where channels are not contiguous."""
    cdef Py_ssize_t r, o
    for o in range(n):
        for r in range(m):
            if add:
                dest[o * channel + r * pixel] += tile[r * pitch + o]
            else:
                dest[o * channel + r * pixel] = tile[r * pitch + o]


cdef inline void fetch_places(const Job* job, const floating* dest, Py_ssize_t count) noexcept nogil:
    """Have `count` places brought to the cache, with the residual that is added to them. Few: others wait meanwhile."""
    fetch(dest, count * job.dest.pixel * sizeof(floating))
    if job.after.residual != NULL:
        fetch(<const floating*>job.after.residual + (dest - <const floating*>job.after.output),
              count * job.dest.pixel * sizeof(floating))


cdef inline void fetch_rows(const floating* rows, Py_ssize_t pitch, Py_ssize_t m, Py_ssize_t n) noexcept nogil:
    """Have m rows of n elements brought to the cache, to be written."""
    cdef Py_ssize_t r
    for r in range(m):
        fetch(rows + r * pitch, n * sizeof(floating))
