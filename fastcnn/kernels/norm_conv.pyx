"""Batch norm of known factors, perhaps ReLU, and a convolution, forward and backward.

Where Winograd's algorithm does the convolution, of channels that are neighbours, it does the batch norm, too, in what
it reads (winograd.pyx): all images at once. All others go through the images a part at a time: what is convolved is
made of a part's input in scratch, where the next part's takes its place: it stays in the cache and is never whole.
Backward makes it again. Two more things are done to a part while it is in the cache, where they are
wanted: forward, the statistics of the output are taken, for the batch norm that comes next; backward, the sums that
this batch norm's gradients need, of the gradient that has just been made. They are norm.pyx's tiles and sums, to the
bit: tiles that go beyond a part are left for the end.

Parts have PART_BYTES of what is between, or what the caller says instead, as nearly as whole images do: small enough
for the caches of all cores together, large enough that packing the weights again for each part costs little. All
threads share a part, function by function, and what one of them wrote the next function may fetch from its cache.
Where weights are small beside it, and images enough, parts are apart instead: they have a fraction of PART_BYTES, and
one thread does a part from end to end, in its own cache. Backward, such small parts serve for the gradient of the
input, and lie within a part of the other kind, over which the gradient of the weights is summed: many small sums of it
would cost more than the cache gives. Backward goes from the last part to the first: the last images of the gradient
have just been written, and the first will be read next.

Parts follow from the shape alone. All of a kind have one of two sizes, the whole number of images below or above the
same quotient: so scratch is the most that a convolution of either needs.

Ownership: a part writes its images' outputs, or their gradients, and its tiles' sums, which are added in the order of
the tiles. The gradients of weight and bias are sums over the parts: the first one's are made where they belong, each
later one's in scratch, and added in the order in which they are made. No bit depends on the thread count.
"""

from cython cimport floating
from cython.parallel cimport prange

from .activation cimport add_ptr
from .conv cimport (
    BACKWARD_DATA, BACKWARD_WEIGHT, FORWARD, conv_backward_data_ptr, conv_backward_weight_ptr, conv_forward_ptr,
    pass_scratch,
)
from .geometry cimport Window, check_conv
from .jobs cimport ALIGN, PART_BYTES, Job, aligned, aligned_start, forward_job, parts_of, pieces
from .matrix cimport matrix_fits
from .norm cimport (
    After, batch_norm_apply_ptr, batch_norm_blocks, batch_norm_merge_ptr, batch_norm_part_ptr,
    batch_norm_seam_ptr, batch_norm_sums_ptr, batch_norm_total_ptr, batch_statistics_ptr,
)
from .threads cimport thread_index, threads_for, usable
from .winograd cimport winograd_fits, winograd_scratch, winograd_sums, winograd_weight_grad


cdef extern from "micro/norm.h":
    int FASTCNN_MASK_NONE, FASTCNN_MASK_AGAIN

# Parts of one thread: how many of them have the bytes of a shared one, forward and (with more arrays) backward; how
# many a batch has at least, so that any usual number of threads shares them evenly; by how much they are larger than
# the weights at least. With 2 MB, a quarter or half of the L2 caches met today.
cdef Py_ssize_t APART = 4
cdef Py_ssize_t APART_BACKWARD = 8
cdef Py_ssize_t TASKS = 16
cdef Py_ssize_t WEIGHTS = 8


cdef struct Plan:
    Py_ssize_t parts
    Py_ssize_t apart                    # parts of one thread within a part; 0: all threads share it
    # Scratch, in bytes from the start: what is convolved, one part's gradients of weight and bias, partial sums, the
    # convolution's own, then slices, one a thread, which forward start with what is convolved.
    Py_ssize_t grad_weight, grad_bias, partials, conv, slices, slice, bytes
    Py_ssize_t slice_conv


cdef inline Py_ssize_t _weights(const Window* g, Py_ssize_t outputs, Py_ssize_t groups) noexcept nogil:
    return outputs * (g.c // groups) * g.kh * g.kw


cdef inline bint _last(const Window* g, Py_ssize_t plane) noexcept nogil:
    """Whether norm.pyx finds the channels of images last."""
    return g.channels_last or plane == 1


cdef inline Py_ssize_t _first(Py_ssize_t part, Py_ssize_t n, const Plan* p) noexcept nogil:
    """The first image of a part of one thread, counted over all of the batch."""
    cdef Py_ssize_t outer = part // p.apart, first = outer * n // p.parts
    return first + part % p.apart * ((outer + 1) * n // p.parts - first) // p.apart


cdef inline Window _images(const Window* g, Py_ssize_t images) noexcept nogil:
    cdef Window part = g[0]
    part.n = images
    return part


cdef inline bint _reads_normed(const Job* job, Py_ssize_t itemsize, bint weights) noexcept nogil:
    """Whether the convolution does the batch norm in what it reads."""
    return (job.source.channel == 1 and not job.direct and not matrix_fits(job, itemsize)
            and winograd_fits(job, itemsize, weights))


cdef inline Py_ssize_t _whole_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, bint backward,
                                      int threads, Py_ssize_t itemsize) noexcept nogil:
    """Bytes for all images at once, at any precision; 0 where it never is so."""
    cdef Job job = forward_job(g, outputs, groups)
    cdef Py_ssize_t bytes = winograd_scratch(&job, usable(threads), itemsize, backward)
    if job.source.channel != 1 or bytes == 0:
        return 0
    return max(bytes, pass_scratch(BACKWARD_DATA, g, outputs, groups, threads, itemsize)) if backward else bytes


cdef Plan _plan(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes, bint backward,
                bint partials, int threads, Py_ssize_t itemsize) noexcept nogil:
    cdef Plan p
    cdef Window few, many
    cdef Py_ssize_t image = g.c * g.h * g.w * itemsize, conv
    cdef Py_ssize_t apart = APART_BACKWARD if backward else APART
    p.parts = parts_of(g.n, g.n * image, part_bytes)
    p.apart = 0
    if (g.n * image * APART >= TASKS * part_bytes and image * apart <= part_bytes
            and _weights(g, outputs, groups) * itemsize * WEIGHTS * APART <= part_bytes):
        p.apart = min(apart, g.n // p.parts)
    few, many = _images(g, g.n // p.parts), _images(g, pieces(g.n, p.parts))
    p.grad_weight = 0 if p.apart and not backward else aligned(many.n * image)
    p.grad_bias = p.partials = p.grad_weight
    if backward:
        p.grad_bias += aligned(_weights(g, outputs, groups) * itemsize)
        p.partials = p.grad_bias + aligned(outputs * itemsize)
    p.conv = p.partials
    if partials and backward:
        p.conv += aligned(3 * g.c * batch_norm_blocks(g.n, g.c, g.h * g.w, _last(g, g.h * g.w)) * sizeof(double))
    elif partials:
        p.conv += aligned(3 * outputs * batch_norm_blocks(g.n, outputs, g.oh * g.ow, _last(g, g.oh * g.ow))
                          * sizeof(double))
    conv = _whole_scratch(g, outputs, groups, backward, threads, itemsize)
    if backward:  # of fewer images, blocks may be larger
        conv = max(conv, pass_scratch(BACKWARD_WEIGHT, &few, outputs, groups, threads, itemsize))
        conv = max(conv, pass_scratch(BACKWARD_WEIGHT, &many, outputs, groups, threads, itemsize))
    if not p.apart:
        conv = max(conv, pass_scratch(BACKWARD_DATA if backward else FORWARD, &few, outputs, groups, threads, itemsize))
        conv = max(conv, pass_scratch(BACKWARD_DATA if backward else FORWARD, &many, outputs, groups, threads,
                                      itemsize))
    p.slices = p.conv + aligned(conv)
    p.slice = p.slice_conv = 0
    if p.apart:
        few.n, many.n = few.n // p.apart, pieces(many.n, p.apart)
        p.slice_conv = 0 if backward else aligned(many.n * image)
        p.slice = p.slice_conv + aligned(max(
            pass_scratch(BACKWARD_DATA if backward else FORWARD, &few, outputs, groups, 1, itemsize),
            pass_scratch(BACKWARD_DATA if backward else FORWARD, &many, outputs, groups, 1, itemsize)))
    p.bytes = p.slices + usable(threads) * p.slice + ALIGN
    return p


cdef inline void _make(const floating* input, const floating* mean, const floating* scale, const floating* shift,
                       bint relu, const Window* g, floating* made) noexcept nogil:
    batch_norm_apply_ptr(input, <const floating*>NULL, mean, scale, shift, relu, made, g.n, g.c, g.h * g.w,
                         _last(g, g.h * g.w))


# --- forward ----------------------------------------------------------------------------------------------------------


cdef Py_ssize_t norm_conv_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes,
                                  bint statistics, int threads, Py_ssize_t itemsize) noexcept nogil:
    if check_conv(g, outputs, groups) != NULL:
        return -1
    return _plan(g, outputs, groups, part_bytes, False, statistics, threads, itemsize).bytes


cdef void _forward(const floating* input, const floating* mean, const floating* scale, const floating* shift, bint relu,
                   const floating* weight, const floating* bias, floating* output, const Window* g, Py_ssize_t outputs,
                   Py_ssize_t groups, Py_ssize_t first, Py_ssize_t end, floating* made, void* conv,
                   int threads) noexcept nogil:
    cdef Window part = _images(g, end - first)
    _make(input + first * g.c * g.h * g.w, mean, scale, shift, relu, &part, made)
    conv_forward_ptr(made, weight, bias, output + first * outputs * g.oh * g.ow, &part, outputs, groups, conv, threads)


cdef void _part_apart(const floating* input, const floating* mean, const floating* scale, const floating* shift,
                      bint relu, const floating* weight, const floating* bias, floating* output, double* partials,
                      const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part, const Plan* p,
                      char* slice) noexcept nogil:
    """A part of one thread, and unless NULL the partials of its output's tiles."""
    cdef Py_ssize_t first = _first(part, g.n, p), end = _first(part + 1, g.n, p), plane = g.oh * g.ow
    cdef const floating* made = output
    cdef const floating* none = NULL
    _forward(input, mean, scale, shift, relu, weight, bias, output, g, outputs, groups, first, end, <floating*>slice,
             slice + p.slice_conv, 1)
    if partials != NULL:
        batch_norm_part_ptr(made, none, FASTCNN_MASK_NONE, none, none, none, none, first, end, g.n, outputs, plane,
                            _last(g, plane), partials)


cdef void norm_conv_ptr(const floating* input, const floating* mean, const floating* scale, const floating* shift,
                        bint relu, const floating* weight, const floating* bias, floating* output, double* statistics,
                        const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes, void* scratch,
                        int threads) noexcept nogil:
    """What conv_forward_ptr makes of batch_norm_apply_ptr's output, and its statistics (2, outputs) unless NULL."""
    cdef Plan p = _plan(g, outputs, groups, part_bytes, False, statistics != NULL, threads, sizeof(floating))
    cdef Py_ssize_t part, plane = g.oh * g.ow
    cdef char* start = aligned_start(scratch)
    cdef double* partials = <double*>(start + p.partials)
    cdef const floating* made = output
    cdef const floating* none = NULL
    cdef bint last = _last(g, plane)
    cdef Job job = forward_job(g, outputs, groups)
    threads = usable(threads)
    if _reads_normed(&job, sizeof(floating), False):
        job.before = After(mean, scale, shift, NULL, NULL, relu)
        if winograd_sums(&job, input, weight, bias, output, start + p.conv, threads):
            p.parts = p.apart = 0  # of what is left to do
    if not p.apart:
        for part in range(p.parts):
            _forward(input, mean, scale, shift, relu, weight, bias, output, g, outputs, groups, part * g.n // p.parts,
                     (part + 1) * g.n // p.parts, <floating*>start, start + p.conv, threads)
        if statistics != NULL:
            batch_statistics_ptr(made, g.n, outputs, plane, last, partials, statistics, statistics + outputs)
        return
    threads = min(threads, threads_for(p.parts * p.apart, g.n * g.c * g.h * g.w))
    if statistics == NULL:
        partials = NULL
    if threads == 1:
        for part in range(p.parts * p.apart):
            _part_apart(input, mean, scale, shift, relu, weight, bias, output, partials, g, outputs, groups, part, &p,
                        start + p.slices)
    else:
        for part in prange(p.parts * p.apart, schedule="dynamic", num_threads=threads):
            _part_apart(input, mean, scale, shift, relu, weight, bias, output, partials, g, outputs, groups, part, &p,
                        start + p.slices + thread_index() * p.slice)
    if statistics != NULL:
        for part in prange(1, p.parts * p.apart, schedule="static", num_threads=threads):
            batch_norm_seam_ptr(made, none, FASTCNN_MASK_NONE, none, none, none, none, _first(part, g.n, &p), g.n,
                                outputs, plane, last, partials)
        batch_norm_merge_ptr(partials, g.n, outputs, plane, last, statistics, statistics + outputs)


# --- backward ---------------------------------------------------------------------------------------------------------


cdef Py_ssize_t norm_conv_backward_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups,
                                           Py_ssize_t part_bytes, bint sums, int threads,
                                           Py_ssize_t itemsize) noexcept nogil:
    if check_conv(g, outputs, groups) != NULL:
        return -1
    return _plan(g, outputs, groups, part_bytes, True, sums, threads, itemsize).bytes


cdef void _small_part(const floating* grad_output, const floating* input, const floating* mean, const floating* scale,
                      const floating* shift, bint relu, const floating* weight, floating* grad_input, floating* made,
                      bint make, double* partials, const Window* g, Py_ssize_t outputs, Py_ssize_t groups,
                      Py_ssize_t start, Py_ssize_t part, const Plan* p, void* conv) noexcept nogil:
    """A part of one thread, within one that starts with image `start`: the input's gradient, its sums, what is made."""
    cdef Py_ssize_t first = _first(part, g.n, p), end = _first(part + 1, g.n, p), image = g.c * g.h * g.w
    cdef const floating* grad = grad_input
    cdef const floating* none = NULL
    cdef Window few = _images(g, end - first)
    if grad_input != NULL:
        conv_backward_data_ptr(grad_output + first * outputs * g.oh * g.ow, weight, grad_input + first * image, &few,
                               outputs, groups, conv, 1)
    if partials != NULL:
        batch_norm_part_ptr(input, grad, FASTCNN_MASK_AGAIN if relu else FASTCNN_MASK_NONE, none, mean, scale, shift,
                            first, end, g.n, g.c, g.h * g.w, _last(g, g.h * g.w), partials)
    if make:
        _make(input + first * image, mean, scale, shift, relu, &few, made + (first - start) * image)


cdef void norm_conv_backward_ptr(const floating* grad_output, const floating* input, const floating* mean,
                                 const floating* scale, const floating* shift, bint relu, const floating* weight,
                                 floating* grad_input, floating* grad_weight, floating* grad_bias, double* sums,
                                 const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes,
                                 void* scratch, int threads) noexcept nogil:
    """The gradients of what is convolved, of weight and of bias: each overwritten, or not made where it is NULL.

    `sums` (2, c), unless NULL, are batch_norm_sums_ptr's of grad_input behind ReLU; then grad_input is not NULL.
    """
    cdef Plan p = _plan(g, outputs, groups, part_bytes, True, sums != NULL, threads, sizeof(floating))
    cdef Py_ssize_t part, small, first, plane = g.h * g.w, to_image = outputs * g.oh * g.ow
    cdef Py_ssize_t image = g.c * plane
    cdef char* start = aligned_start(scratch)
    cdef floating* made = <floating*>start
    cdef floating* to_weight
    cdef floating* to_bias
    cdef double* partials = <double*>(start + p.partials) if sums != NULL else NULL
    cdef const floating* grad = grad_input
    cdef const floating* none = NULL
    cdef Window conv
    cdef int mask = FASTCNN_MASK_AGAIN if relu else FASTCNN_MASK_NONE
    cdef int teams = min(usable(threads), threads_for(p.apart, g.n * image))
    cdef bint with_weight = grad_weight != NULL or grad_bias != NULL, last = _last(g, plane)
    cdef Job job = forward_job(g, outputs, groups)
    threads = usable(threads)
    if _reads_normed(&job, sizeof(floating), True):
        p.apart = 0
        if grad_input != NULL:
            conv_backward_data_ptr(grad_output, weight, grad_input, g, outputs, groups, start + p.conv, threads)
            grad_input = NULL
        job.before = After(mean, scale, shift, NULL, NULL, relu)
        to_weight = grad_weight if grad_weight != NULL else <floating*>(start + p.grad_weight)
        if not with_weight or winograd_weight_grad(&job, grad_output, input, to_weight, grad_bias, start + p.conv,
                                                   threads):
            p.parts = 0
    for part in range(p.parts - 1, -1, -1):
        first = part * g.n // p.parts
        conv = _images(g, (part + 1) * g.n // p.parts - first)
        if p.apart and teams == 1:
            for small in range(p.apart - 1, -1, -1):
                _small_part(grad_output, input, mean, scale, shift, relu, weight, grad_input, made, with_weight,
                            partials, g, outputs, groups, first, part * p.apart + small, &p, start + p.slices)
        elif p.apart:
            for small in prange(p.apart - 1, -1, -1, schedule="dynamic", num_threads=teams):
                _small_part(grad_output, input, mean, scale, shift, relu, weight, grad_input, made, with_weight,
                            partials, g, outputs, groups, first, part * p.apart + small, &p,
                            start + p.slices + thread_index() * p.slice)
        else:
            if grad_input != NULL:
                conv_backward_data_ptr(grad_output + first * to_image, weight, grad_input + first * image, &conv,
                                       outputs, groups, start + p.conv, threads)
            if with_weight:
                _make(input + first * image, mean, scale, shift, relu, &conv, made)
        if not with_weight:
            continue
        to_weight, to_bias = grad_weight, grad_bias
        if part < p.parts - 1 or grad_weight == NULL:  # the kernel makes both
            to_weight = <floating*>(start + p.grad_weight)
        if part < p.parts - 1 and grad_bias != NULL:
            to_bias = <floating*>(start + p.grad_bias)
        conv_backward_weight_ptr(grad_output + first * to_image, <const floating*>made, to_weight, to_bias, &conv,
                                 outputs, groups, start + p.conv, threads)
        if part < p.parts - 1 and grad_weight != NULL:
            add_ptr(grad_weight, to_weight, grad_weight, _weights(g, outputs, groups))
        if part < p.parts - 1 and grad_bias != NULL:
            add_ptr(grad_bias, to_bias, grad_bias, outputs)
    if sums == NULL:
        return
    if not p.apart:
        batch_norm_sums_ptr(grad, input, mask, none, mean, scale, shift, <floating*>NULL, g.n, g.c, plane, last,
                            partials, sums, sums + g.c)
        return
    for small in prange(1, p.parts * p.apart, schedule="static", num_threads=teams):
        batch_norm_seam_ptr(input, grad, mask, none, mean, scale, shift, _first(small, g.n, &p), g.n, g.c, plane, last,
                            partials)
    batch_norm_total_ptr(partials, g.n, g.c, plane, last, sums, sums + g.c)


# --- what `functional` asks of parts ----------------------------------------------------------------------------------


def part_bytes():
    """part_bytes() -> bytes of what is between two functions that go through images together, of a part."""
    return PART_BYTES
