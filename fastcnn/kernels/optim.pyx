"""Updates of parameters: one pass over flat arrays that reads gradient and state and writes parameter and state.

Tiling and ownership: one task is CHUNK neighbouring elements; it alone reads and writes them, in all arrays. The norm
of a gradient is a sum for each chunk, over LANES interleaved double accumulators, written to its own place in
`partials`; the caller adds these in order. No thread count changes a bit. The loops of the updates are
micro/optim_lanes.h, compiled for each instruction set.
"""

from cython cimport floating
from cython.parallel cimport prange

from .isa cimport micro
from .threads cimport threads_for

cdef extern from "micro/optim.h" nogil:
    ctypedef struct Lanes "fastcnn_optim":
        void (*sgd_f32)(Py_ssize_t, float*, const float*, float*, float, float, float, float, int, int) noexcept nogil
        void (*sgd_f64)(Py_ssize_t, double*, const double*, double*, double, double, double, double, int,
                        int) noexcept nogil
        void (*adam_f32)(Py_ssize_t, float*, const float*, float*, float*, float, float, float, float, float, float,
                         float, float) noexcept nogil
        void (*adam_f64)(Py_ssize_t, double*, const double*, double*, double*, double, double, double, double, double,
                         double, double, double) noexcept nogil

    const Lanes* fastcnn_optim_for(const char* isa)

cdef enum:
    CHUNK = 4096
    LANES = 16


cdef inline void _sgd(const Lanes* lanes, Py_ssize_t size, floating* p, const floating* g, floating* b, double lr,
                      double momentum, double part, double decay, bint nesterov, bint first_step) noexcept nogil:
    """`b` is the momentum buffer or NULL, `part` is how much of the gradient goes into it after the first step."""
    if floating is float:
        lanes.sgd_f32(size, p, g, b, <float>lr, <float>momentum, <float>part, <float>decay, nesterov, first_step)
    else:
        lanes.sgd_f64(size, p, g, b, lr, momentum, part, decay, nesterov, first_step)


cdef void sgd_update_ptr(floating* param, const floating* grad, floating* buffer, Py_ssize_t size, double lr,
                         double momentum, double dampening, double weight_decay, bint nesterov,
                         bint first_step) noexcept nogil:
    """One step of gradient descent; `buffer` is NULL without momentum. The first step only writes to it."""
    cdef Py_ssize_t i, chunks = (size + CHUNK - 1) // CHUNK
    cdef const Lanes* lanes = fastcnn_optim_for(micro().name)
    # Half an operation each: what fits into the cache of the core that made the gradients is quickest from there.
    for i in prange(chunks, schedule="static", num_threads=threads_for(chunks, size // 2)):
        _sgd(lanes, min(<Py_ssize_t>CHUNK, size - i * CHUNK), param + i * CHUNK, grad + i * CHUNK,
             buffer if buffer == NULL else buffer + i * CHUNK, lr, momentum, 1 - dampening, weight_decay, nesterov,
             first_step)


cdef inline void _adam(const Lanes* lanes, Py_ssize_t size, floating* p, const floating* g, floating* m, floating* v,
                       double step_size, double correction, double beta1, double beta2, double eps, double decay,
                       double shrink) noexcept nogil:
    if floating is float:
        lanes.adam_f32(size, p, g, m, v, <float>step_size, <float>correction, <float>(1 - beta1), <float>beta2,
                       <float>(1 - beta2), <float>eps, <float>decay, <float>shrink)
    else:
        lanes.adam_f64(size, p, g, m, v, step_size, correction, 1 - beta1, beta2, 1 - beta2, eps, decay, shrink)


cdef void adam_update_ptr(floating* param, const floating* grad, floating* exp_avg, floating* exp_avg_sq,
                          Py_ssize_t size, double step_size, double correction, double beta1, double beta2, double eps,
                          double weight_decay, double shrink) noexcept nogil:
    """One step of Adam, with bias corrections that the caller has put into `step_size` and `correction`.

    param = shrink * param - step_size * exp_avg / (correction * sqrt(exp_avg_sq) + eps), after both averages have
    taken in grad + weight_decay * param.
    """
    cdef Py_ssize_t i, chunks = (size + CHUNK - 1) // CHUNK
    cdef const Lanes* lanes = fastcnn_optim_for(micro().name)
    for i in prange(chunks, schedule="static", num_threads=threads_for(chunks, 8 * size)):
        _adam(lanes, min(<Py_ssize_t>CHUNK, size - i * CHUNK), param + i * CHUNK, grad + i * CHUNK, exp_avg + i * CHUNK,
              exp_avg_sq + i * CHUNK, step_size, correction, beta1, beta2, eps, weight_decay, shrink)


# --- the norm of a gradient -----------------------------------------------------------------------------------------


cdef inline double _sum_of_squares(const floating* x, Py_ssize_t size) noexcept nogil:
    cdef double lanes[LANES]
    cdef Py_ssize_t i, j, whole = size - size % LANES
    cdef double total = 0
    for j in range(LANES):
        lanes[j] = 0
    for i in range(size // LANES):
        for j in range(LANES):
            lanes[j] += <double>x[i * LANES + j] * <double>x[i * LANES + j]
    for i in range(whole, size):
        total += <double>x[i] * <double>x[i]
    for j in range(LANES):
        total += lanes[j]
    return total


cdef Py_ssize_t norm_blocks(Py_ssize_t size) noexcept nogil:
    """Doubles of `partials` that a size needs."""
    return (size + CHUNK - 1) // CHUNK


cdef void sums_of_squares_ptr(const floating* values, double* partials, Py_ssize_t size) noexcept nogil:
    """Each chunk's sum of squares, in double."""
    cdef Py_ssize_t i, chunks = norm_blocks(size)
    for i in prange(chunks, schedule="static", num_threads=threads_for(chunks, size)):
        partials[i] = _sum_of_squares(values + i * CHUNK, min(<Py_ssize_t>CHUNK, size - i * CHUNK))


cdef inline void _scale(floating* x, floating factor, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        x[i] = factor * x[i]


cdef void scale_ptr(floating* values, double factor, Py_ssize_t size) noexcept nogil:
    """Multiply in place."""
    cdef Py_ssize_t i, chunks = (size + CHUNK - 1) // CHUNK
    for i in prange(chunks, schedule="static", num_threads=threads_for(chunks, 2 * size)):
        _scale(values + i * CHUNK, <floating>factor, min(<Py_ssize_t>CHUNK, size - i * CHUNK))


# --- doors for memoryviews; arguments are trusted, `functional` checks them ------------------------------------------


def sgd_update(floating[::1] param, const floating[::1] grad, floating[::1] momentum_buffer, double lr,
               double momentum, double dampening, double weight_decay, bint nesterov, bint first_step):
    """sgd_update(param, grad, momentum_buffer or None, lr, momentum, dampening, weight_decay, nesterov, first_step)."""
    cdef floating* buffer = NULL if momentum_buffer is None else &momentum_buffer[0]
    with nogil:
        sgd_update_ptr(&param[0], &grad[0], buffer, param.shape[0], lr, momentum, dampening, weight_decay, nesterov,
                       first_step)


def adam_update(floating[::1] param, const floating[::1] grad, floating[::1] exp_avg, floating[::1] exp_avg_sq,
                double step_size, double correction, double beta1, double beta2, double eps, double weight_decay,
                double shrink):
    """adam_update(...): update param, exp_avg and exp_avg_sq; the arguments of `adam_update_ptr` without the size."""
    with nogil:
        adam_update_ptr(&param[0], &grad[0], &exp_avg[0], &exp_avg_sq[0], param.shape[0], step_size, correction, beta1,
                        beta2, eps, weight_decay, shrink)


def blocks(Py_ssize_t size):
    """blocks(size): how many doubles `partials` of `sums_of_squares` needs."""
    return norm_blocks(size)


def sums_of_squares(const floating[::1] values, double[::1] partials):
    """sums_of_squares(values, partials): overwrite `partials`."""
    with nogil:
        sums_of_squares_ptr(&values[0], &partials[0], values.shape[0])


def scale(floating[::1] values, double factor):
    """scale(values, factor): multiply in place."""
    with nogil:
        scale_ptr(&values[0], factor, values.shape[0])
