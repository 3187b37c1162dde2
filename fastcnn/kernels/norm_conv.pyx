"""Batch norm of known factors, perhaps ReLU, and a convolution, forward and backward.

Where Winograd's algorithm does the convolution, of channels that are neighbours, it does the batch norm, too, in what
it reads (winograd.pyx): all images at once. All others go through the images a part at a time: what is convolved is
made of a part's input in scratch, where the next part's takes its place: it stays in the cache and is never whole.
Backward makes it again.

Parts have PART_BYTES of it, or what the caller says instead, as nearly as whole images do: small enough for the caches
of all cores together, large enough that packing the weights again for each part costs little. Their number follows from
the input's shape alone. They have one of two sizes, the whole number of images below or above the same quotient: so
scratch is the most that a convolution of either needs.

Ownership: one part comes after the other, and within it a function's tasks are shared by all threads, as that function
says. A part writes its images' outputs, or their gradients. The gradients of weight and bias are sums over the parts:
the first part's are made where they belong, each later one's in scratch, and added in the order of the parts. No bit
depends on the thread count.
"""

from cython cimport floating

from .activation cimport add_ptr
from .conv cimport (
    BACKWARD_DATA, BACKWARD_WEIGHT, FORWARD, conv_backward_data_ptr, conv_backward_weight_ptr, conv_forward_ptr,
    conv_scratch,
)
from .geometry cimport Window
from .jobs cimport ALIGN, PART_BYTES, Job, aligned, aligned_start, forward_job, parts_of, pieces
from .matrix cimport matrix_fits
from .norm cimport After, batch_norm_apply_ptr
from .winograd cimport winograd_fits, winograd_scratch, winograd_sums, winograd_weight_grad


cdef struct Plan:
    Py_ssize_t parts
    # Scratch, in bytes from the start: what is convolved, then one part's gradients, then the convolution's own.
    Py_ssize_t grad_weight, grad_bias, conv, bytes


cdef inline Py_ssize_t _weights(const Window* g, Py_ssize_t outputs, Py_ssize_t groups) noexcept nogil:
    return outputs * (g.c // groups) * g.kh * g.kw


cdef inline Window _images(const Window* g, Py_ssize_t images) noexcept nogil:
    cdef Window part = g[0]
    part.n = images
    return part


cdef inline bint _reads_normed(const Job* job, Py_ssize_t itemsize, bint weights) noexcept nogil:
    """Whether the convolution does the batch norm in what it reads."""
    return job.source.channel == 1 and not matrix_fits(job, itemsize) and winograd_fits(job, itemsize, weights)


cdef inline Py_ssize_t _whole_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, bint backward,
                                      int threads, Py_ssize_t itemsize) noexcept nogil:
    """Bytes for all images at once, at any precision; 0 where it never is so."""
    cdef Job job = forward_job(g, outputs, groups)
    cdef Py_ssize_t bytes = winograd_scratch(&job, threads, itemsize, backward)
    if job.source.channel != 1 or bytes == 0:
        return 0
    return max(bytes, conv_scratch(BACKWARD_DATA, g, outputs, groups, threads, itemsize)) if backward else bytes


cdef Py_ssize_t _conv_scratch(const Window* g, Py_ssize_t images, Py_ssize_t outputs, Py_ssize_t groups, bint backward,
                              int threads, Py_ssize_t itemsize) noexcept nogil:
    """Bytes for the convolution of so many images, or for both of its gradients."""
    cdef Window part = _images(g, images)
    if not backward:
        return conv_scratch(FORWARD, &part, outputs, groups, threads, itemsize)
    return max(conv_scratch(BACKWARD_DATA, &part, outputs, groups, threads, itemsize),
               conv_scratch(BACKWARD_WEIGHT, &part, outputs, groups, threads, itemsize))


cdef Plan _plan(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes, bint backward,
                int threads, Py_ssize_t itemsize) noexcept nogil:
    cdef Plan p
    cdef Py_ssize_t image = g.c * g.h * g.w * itemsize, most
    p.parts = parts_of(g.n, g.n * image, part_bytes)
    p.grad_weight = p.grad_bias = p.conv = aligned(pieces(g.n, p.parts) * image)
    if backward:
        p.grad_bias += aligned(_weights(g, outputs, groups) * itemsize)
        p.conv = p.grad_bias + aligned(outputs * itemsize)
    most = max(_conv_scratch(g, g.n // p.parts, outputs, groups, backward, threads, itemsize),
               _conv_scratch(g, pieces(g.n, p.parts), outputs, groups, backward, threads, itemsize),
               _whole_scratch(g, outputs, groups, backward, threads, itemsize))
    p.bytes = p.conv + most + ALIGN
    return p


cdef inline void _make(const floating* input, const floating* mean, const floating* scale, const floating* shift,
                       bint relu, const Window* g, floating* made) noexcept nogil:
    cdef bint channels_last = g.channels_last or g.h * g.w == 1
    batch_norm_apply_ptr(input, <const floating*>NULL, mean, scale, shift, relu, made, g.n, g.c, g.h * g.w,
                         channels_last)


cdef Py_ssize_t norm_conv_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes,
                                  int threads, Py_ssize_t itemsize) noexcept nogil:
    return _plan(g, outputs, groups, part_bytes, False, threads, itemsize).bytes


cdef void norm_conv_ptr(const floating* input, const floating* mean, const floating* scale, const floating* shift,
                        bint relu, const floating* weight, const floating* bias, floating* output, const Window* g,
                        Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes, void* scratch,
                        int threads) noexcept nogil:
    """What conv_forward_ptr makes of batch_norm_apply_ptr's output."""
    cdef Plan p = _plan(g, outputs, groups, part_bytes, False, threads, sizeof(floating))
    cdef Py_ssize_t part, first
    cdef char* start = aligned_start(scratch)
    cdef floating* made = <floating*>start
    cdef Window conv
    cdef Job job = forward_job(g, outputs, groups)
    if _reads_normed(&job, sizeof(floating), False):
        job.before = After(mean, scale, shift, NULL, NULL, relu)
        if winograd_sums(&job, input, weight, bias, output, start + p.conv, threads):
            return
    for part in range(p.parts):
        first = part * g.n // p.parts
        conv = _images(g, (part + 1) * g.n // p.parts - first)
        _make(input + first * g.c * g.h * g.w, mean, scale, shift, relu, &conv, made)
        conv_forward_ptr(made, weight, bias, output + first * outputs * g.oh * g.ow, &conv, outputs, groups,
                         start + p.conv, threads)


cdef Py_ssize_t norm_conv_backward_scratch(const Window* g, Py_ssize_t outputs, Py_ssize_t groups,
                                           Py_ssize_t part_bytes, int threads, Py_ssize_t itemsize) noexcept nogil:
    return _plan(g, outputs, groups, part_bytes, True, threads, itemsize).bytes


cdef void norm_conv_backward_ptr(const floating* grad_output, const floating* input, const floating* mean,
                                 const floating* scale, const floating* shift, bint relu, const floating* weight,
                                 floating* grad_input, floating* grad_weight, floating* grad_bias, const Window* g,
                                 Py_ssize_t outputs, Py_ssize_t groups, Py_ssize_t part_bytes, void* scratch,
                                 int threads) noexcept nogil:
    """The gradients of what is convolved, of weight and of bias: each overwritten, or not made where it is NULL."""
    cdef Plan p = _plan(g, outputs, groups, part_bytes, True, threads, sizeof(floating))
    cdef Py_ssize_t part, first
    cdef char* start = aligned_start(scratch)
    cdef floating* made = <floating*>start
    cdef floating* to_weight
    cdef floating* to_bias
    cdef const floating* dy
    cdef Window conv
    cdef Job job = forward_job(g, outputs, groups)
    if _reads_normed(&job, sizeof(floating), True):
        if grad_input != NULL:
            conv_backward_data_ptr(grad_output, weight, grad_input, g, outputs, groups, start + p.conv, threads)
            grad_input = NULL
        if grad_weight == NULL and grad_bias == NULL:
            return
        job.before = After(mean, scale, shift, NULL, NULL, relu)
        to_weight = grad_weight if grad_weight != NULL else <floating*>(start + p.grad_weight)
        if winograd_weight_grad(&job, grad_output, input, to_weight, grad_bias, start + p.conv, threads):
            return
    for part in range(p.parts):
        first = part * g.n // p.parts
        conv = _images(g, (part + 1) * g.n // p.parts - first)
        dy = grad_output + first * outputs * g.oh * g.ow
        if grad_input != NULL:
            conv_backward_data_ptr(dy, weight, grad_input + first * g.c * g.h * g.w, &conv, outputs, groups,
                                   start + p.conv, threads)
        if grad_weight == NULL and grad_bias == NULL:
            continue
        _make(input + first * g.c * g.h * g.w, mean, scale, shift, relu, &conv, made)
        to_weight, to_bias = grad_weight, grad_bias
        if part or grad_weight == NULL:  # the kernel makes both
            to_weight = <floating*>(start + p.grad_weight)
        if part and grad_bias != NULL:
            to_bias = <floating*>(start + p.grad_bias)
        conv_backward_weight_ptr(dy, <const floating*>made, to_weight, to_bias, &conv, outputs, groups, start + p.conv,
                                 threads)
        if part and grad_weight != NULL:
            add_ptr(grad_weight, to_weight, grad_weight, _weights(g, outputs, groups))
        if part and grad_bias != NULL:
            add_ptr(grad_bias, to_bias, grad_bias, outputs)


# --- what `functional` asks of parts ----------------------------------------------------------------------------------


def part_bytes():
    """part_bytes() -> bytes of what is between two functions that go through images together, of a part."""
    return PART_BYTES
