"""A convolution and max-pool, a few images at a time, so that what is between stays in the cache.

Where the planar tiles do the convolution, a part of the images stays on one thread, and in its core's cache: one after
the other, each over all images, the two kernels would divide the images among the threads in different ways, and half
of what one thread wrote another would have to fetch from the first one's cache. Other convolutions pack more weights
for each part: theirs are larger, and shared by all threads.

Ownership: a task is a part of the images, and it alone writes their outputs. Parts follow from the shape alone, and no
sum goes beyond an image: no bit depends on the thread count, nor on parts.

Backward, a part is of all threads: the gradient of what is between goes to scratch, and from there to those of the
convolution, of which weight's and bias' are summed part by part, in order. Parts have about the bytes that the caller
says: the bits of these two depend on that.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.stdint cimport int32_t, uint8_t

from .conv cimport FORWARD, conv_forward_ptr, pass_scratch
from .conv_gradients cimport conv_gradients_ptr, conv_gradients_scratch
from .geometry cimport Window, check_conv
from .jobs cimport ALIGN, PART_BYTES, Job, aligned, aligned_start, forward_job, parts_of, pieces
from .planar cimport planar_fits
from .pooling cimport max_pool_ptr, max_pool_relu_ptr, max_pool_taps_backward_ptr
from .threads cimport thread_index, threads_for, usable


# Bytes of what is between, of one thread's part, as far as an image has not more: a quarter of the L2 caches met today.
cdef Py_ssize_t THREAD_BYTES = 1 << 18
# Places of a thread's part, at least, and parts that a call is cut into where its shape allows.
cdef Py_ssize_t THREAD_PLACES = 1536
cdef Py_ssize_t TASKS = 16


cdef struct Plan:
    bint apart                          # a part is one thread's
    Py_ssize_t parts
    Py_ssize_t conv, slice, bytes       # of scratch: the convolution's within a slice; slices of the parts under way


cdef Plan _plan(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, int threads,
                Py_ssize_t itemsize) noexcept nogil:
    cdef Plan p
    cdef Window part = g[0]
    cdef Job job = forward_job(g, outputs, groups)
    cdef Py_ssize_t image = outputs * g.oh * g.ow * itemsize, conv
    p.apart = planar_fits(&job, itemsize)
    if p.apart:
        p.parts = max(pieces(g.n * image, THREAD_BYTES), min(TASKS, g.n * g.oh * g.ow // THREAD_PLACES))
    else:
        p.parts = pieces(g.n * image, PART_BYTES)
    p.parts = max(1, min(g.n, p.parts))
    part.n = pieces(g.n, p.parts)
    p.conv = aligned(part.n * image)
    conv = pass_scratch(FORWARD, &part, outputs, groups, 1 if p.apart else threads, itemsize)
    part.n = g.n // p.parts  # of fewer images, blocks may be larger
    conv = max(conv, pass_scratch(FORWARD, &part, outputs, groups, 1 if p.apart else threads, itemsize))
    p.slice = p.conv + aligned(conv)
    p.bytes = (usable(threads) if p.apart else 1) * p.slice + ALIGN
    return p


cdef Py_ssize_t conv_pool_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, int threads,
                                  Py_ssize_t itemsize) noexcept nogil:
    if check_conv(g, outputs, groups) != NULL:
        return -1
    return _plan(g, outputs, groups, threads, itemsize).bytes


cdef void _part(const floating* input, const floating* weight, const floating* bias, floating* output, char* taps,
                Py_ssize_t tap_bytes, bint relu, const Window* g, const Window* pool, Py_ssize_t groups,
                Py_ssize_t image, Py_ssize_t images, const Plan* p, char* slice, int threads) noexcept nogil:
    """A part of the images: its convolution to scratch, and its max-pool from there."""
    cdef Window conv = g[0], then = pool[0]
    cdef floating* between = <floating*>slice
    cdef Py_ssize_t place = image * pool.c * pool.oh * pool.ow
    conv.n = then.n = images
    conv_forward_ptr(input + image * g.c * g.h * g.w, weight, bias, between, &conv, pool.c, groups, slice + p.conv,
                     threads)
    output += place
    if taps != NULL:
        taps += place * tap_bytes
    if relu and tap_bytes == 4:
        max_pool_relu_ptr(between, output, <int32_t*>taps, &then, threads)
    elif relu:
        max_pool_relu_ptr(between, output, <uint8_t*>taps, &then, threads)
    elif tap_bytes == 4:
        max_pool_ptr(between, output, <int32_t*>taps, &then, threads)
    else:
        max_pool_ptr(between, output, <uint8_t*>taps, &then, threads)


cdef void conv_pool_ptr(const floating* input, const floating* weight, const floating* bias, floating* output,
                        void* taps, Py_ssize_t tap_bytes, bint relu, const Window* g, const Window* pool,
                        Py_ssize_t groups, void* scratch, int threads) noexcept nogil:
    """What max_pool_ptr (or, with relu, max_pool_relu_ptr) makes of conv_forward_ptr's output; `taps` may be NULL."""
    cdef Plan p = _plan(g, pool.c, groups, threads, sizeof(floating))
    cdef char* start = aligned_start(scratch)
    cdef Py_ssize_t part, image
    cdef Py_ssize_t work = g.n * g.oh * g.ow * pool.c * g.kh * g.kw * g.c // groups
    cdef int teams = 1
    threads = usable(threads)
    if p.apart:  # with all that comes with them, eight of these multiply-adds take as long as an elementary operation
        teams = min(threads, threads_for(p.parts, work // 8))
        threads = 1
    if teams == 1:
        for part in range(p.parts):
            image = part * g.n // p.parts
            _part(input, weight, bias, output, <char*>taps, tap_bytes, relu, g, pool, groups, image,
                  (part + 1) * g.n // p.parts - image, &p, start, threads)
        return
    for part in prange(p.parts, schedule="dynamic", num_threads=teams):
        image = part * g.n // p.parts
        _part(input, weight, bias, output, <char*>taps, tap_bytes, relu, g, pool, groups, image,
              (part + 1) * g.n // p.parts - image, &p, start + thread_index() * p.slice, 1)


cdef Py_ssize_t _backward_parts(const Window* pool, Py_ssize_t part_bytes, Py_ssize_t itemsize) noexcept nogil:
    return parts_of(pool.n, pool.n * pool.c * pool.h * pool.w * itemsize, part_bytes)


cdef Py_ssize_t _between(const Window* pool, Py_ssize_t parts, Py_ssize_t itemsize) noexcept nogil:
    """Bytes of what is between, of the largest part."""
    return aligned(pieces(pool.n, parts) * pool.c * pool.h * pool.w * itemsize)


cdef Py_ssize_t conv_pool_backward_scratch(const Window* g, const Window* pool, Py_ssize_t groups,
                                           Py_ssize_t part_bytes, int threads, Py_ssize_t itemsize) noexcept nogil:
    cdef Window conv = g[0]
    cdef Py_ssize_t parts = _backward_parts(pool, part_bytes, itemsize), most
    if check_conv(g, pool.c, groups) != NULL:
        return -1
    conv.n = pieces(g.n, parts)
    most = conv_gradients_scratch(&conv, pool.c, groups, threads, itemsize)
    conv.n = g.n // parts  # of fewer images, blocks may be larger
    most = max(most, conv_gradients_scratch(&conv, pool.c, groups, threads, itemsize))
    return _between(pool, parts, itemsize) + most + ALIGN


cdef void conv_pool_backward_ptr(const floating* grad_output, const void* taps, Py_ssize_t tap_bytes,
                                 const floating* input, const floating* weight, floating* grad_input,
                                 floating* grad_weight, floating* grad_bias, const Window* g, const Window* pool,
                                 Py_ssize_t groups, Py_ssize_t part_bytes, void* scratch, int threads) noexcept nogil:
    """What conv_gradients_ptr makes of max_pool_taps_backward_ptr's gradient."""
    cdef Window conv = g[0], then = pool[0]
    cdef Py_ssize_t parts = _backward_parts(pool, part_bytes, sizeof(floating)), part, image, place
    cdef floating* between = <floating*>aligned_start(scratch)
    cdef char* rest = <char*>between + _between(pool, parts, sizeof(floating))
    cdef const floating* dy
    cdef const char* marks
    cdef floating* dx = <floating*>NULL
    for part in range(parts):
        image = part * g.n // parts
        conv.n = then.n = (part + 1) * g.n // parts - image
        place = image * pool.c * pool.oh * pool.ow
        dy, marks = grad_output + place, <const char*>taps + place * tap_bytes
        if tap_bytes == 4:
            max_pool_taps_backward_ptr(dy, <const int32_t*>marks, between, &then, threads)
        else:
            max_pool_taps_backward_ptr(dy, <const uint8_t*>marks, between, &then, threads)
        if grad_input != NULL:
            dx = grad_input + image * g.c * g.h * g.w
        conv_gradients_ptr(between, input + image * g.c * g.h * g.w, weight, dx, grad_weight, grad_bias, &conv, pool.c,
                           groups, part > 0, rest, threads)
