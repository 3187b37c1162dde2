"""Activations and dropout, forward and backward: element-wise passes over flat memory.

Tiling and ownership: one task is CHUNK neighbouring elements in memory, whatever shape they belong to. It reads and
writes these and no others, and no element's value depends on where a chunk begins, so there is no race and the number
of threads changes no bit. The loops have no branch inside, so that the compiler vectorises them; the formulas of exp
and its kin are in elementary.pxd.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.stdint cimport uint8_t, uint64_t

from .elementary cimport exponential, hyperbolic_tangent, normal_density, normal_probability, sigmoid
from .threads cimport threads_for

cdef enum:
    CHUNK = 4096
    TRANSCENDENTAL_WORK = 8  # what an exponential costs, in reads or writes of a float


cdef inline floating _gelu_tanh_argument(floating x) noexcept nogil:
    """2u, where GELU's approximation is x * (1 + tanh(u)) / 2 = x * sigmoid(2u)."""
    return <floating>1.5957691216057308 * (x + <floating>0.044715 * x * x * x)


cdef inline floating _within(floating x, floating limit) noexcept nogil:
    """x, or the limit it passes; NaN stays."""
    x = limit if x > limit else x
    return -limit if x < -limit else x


cdef inline floating _logistic(floating x, floating* rest) noexcept nogil:
    """sigmoid(x), and 1 - sigmoid(x) without cancellation."""
    cdef floating limit = 80 if floating is float else 700
    cdef floating e = exponential(-_within(x, limit))
    cdef floating s = <floating>1 / (<floating>1 + e)
    rest[0] = e * s
    return s


cdef inline void _forward(Activation kind, const floating* x, floating* y, Py_ssize_t size,
                          floating slope) noexcept nogil:
    cdef Py_ssize_t i
    if kind == RELU:
        for i in range(size):
            y[i] = <floating>0 if x[i] <= 0 else x[i]
    elif kind == LEAKY_RELU:
        for i in range(size):
            y[i] = x[i] if x[i] > 0 else slope * x[i]
    elif kind == SIGMOID:
        for i in range(size):
            y[i] = sigmoid(x[i])
    elif kind == TANH:
        for i in range(size):
            y[i] = hyperbolic_tangent(x[i])
    elif kind == GELU:
        for i in range(size):
            y[i] = x[i] * normal_probability(x[i])
    elif kind == GELU_TANH:
        for i in range(size):
            y[i] = x[i] * sigmoid(_gelu_tanh_argument(x[i]))
    else:
        for i in range(size):
            y[i] = x[i] * sigmoid(x[i])


cdef inline void _backward(Activation kind, const floating* dy, const floating* saved, floating* dx, Py_ssize_t size,
                           floating slope) noexcept nogil:
    """`saved` is the output y for relu, sigmoid and tanh, the input x for the others."""
    cdef Py_ssize_t i
    cdef floating x, s, rest, g
    if kind == RELU:
        for i in range(size):
            g = dy[i]  # read in any case: a loop with a read that may not happen is not vectorised
            dx[i] = <floating>0 if saved[i] <= 0 else g
    elif kind == LEAKY_RELU:
        for i in range(size):
            dx[i] = dy[i] if saved[i] > 0 else slope * dy[i]
    elif kind == SIGMOID:
        for i in range(size):
            dx[i] = dy[i] * saved[i] * (<floating>1 - saved[i])
    elif kind == TANH:
        for i in range(size):
            dx[i] = dy[i] * (<floating>1 - saved[i] * saved[i])
    elif kind == GELU:
        for i in range(size):
            x = _within(saved[i], <floating>40)  # where the density has long been 0
            dx[i] = dy[i] * (normal_probability(x) + x * normal_density(x))
    elif kind == GELU_TANH:
        for i in range(size):
            x = _within(saved[i], <floating>40)
            s = _logistic(_gelu_tanh_argument(x), &rest)
            dx[i] = dy[i] * s * (<floating>1 + x * rest * <floating>1.5957691216057308
                                 * (<floating>1 + <floating>0.134145 * x * x))
    else:
        for i in range(size):
            s = _logistic(saved[i], &rest)
            dx[i] = dy[i] * s * (<floating>1 + _within(saved[i], <floating>1000) * rest)


cdef inline int _threads(Activation kind, Py_ssize_t chunks, Py_ssize_t size) noexcept nogil:
    return threads_for(chunks, size if kind == RELU or kind == LEAKY_RELU else TRANSCENDENTAL_WORK * size)


cdef void activation_ptr(Activation kind, const floating* input, floating* output, Py_ssize_t size,
                         floating slope) noexcept nogil:
    """output = the activation of input, both of `size` elements; `slope` is leaky_relu's."""
    cdef Py_ssize_t i, chunks = (size + CHUNK - 1) // CHUNK
    for i in prange(chunks, schedule="static", num_threads=_threads(kind, chunks, size)):
        _forward(kind, input + i * CHUNK, output + i * CHUNK, min(<Py_ssize_t>CHUNK, size - i * CHUNK), slope)


cdef void activation_backward_ptr(Activation kind, const floating* grad_output, const floating* saved,
                                  floating* grad_input, Py_ssize_t size, floating slope) noexcept nogil:
    """grad_input from grad_output and, saved by the forward pass, relu's, sigmoid's or tanh's output, others' input."""
    cdef Py_ssize_t i, chunks = (size + CHUNK - 1) // CHUNK
    for i in prange(chunks, schedule="static", num_threads=_threads(kind, chunks, size)):
        _backward(kind, grad_output + i * CHUNK, saved + i * CHUNK, grad_input + i * CHUNK,
                  min(<Py_ssize_t>CHUNK, size - i * CHUNK), slope)


cdef inline void _add(const floating* a, const floating* b, floating* sum, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        sum[i] = a[i] + b[i]


cdef void add_ptr(const floating* input, const floating* other, floating* output, Py_ssize_t size) noexcept nogil:
    """output = input + other; it may be one of them."""
    cdef Py_ssize_t i, chunks = (size + CHUNK - 1) // CHUNK
    for i in prange(chunks, schedule="static", num_threads=threads_for(chunks, size)):
        _add(input + i * CHUNK, other + i * CHUNK, output + i * CHUNK, min(<Py_ssize_t>CHUNK, size - i * CHUNK))


# --- dropout --------------------------------------------------------------------------------------------------------


cdef inline uint64_t _splitmix64(uint64_t state) noexcept nogil:
    """Output of the SplitMix64 generator in this state (Steele, Lea and Flood 2014)."""
    state = (state ^ (state >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * <uint64_t>0x94D049BB133111EB
    return state ^ (state >> 31)


cdef inline void _keep(const floating* dy, const uint8_t* mask, floating* dx, Py_ssize_t size,
                       floating scale) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating g
    for i in range(size):
        g = scale * dy[i]
        dx[i] = g if mask[i] else <floating>0


cdef inline void _drop(const floating* x, floating* y, uint8_t* mask, Py_ssize_t size, uint64_t state, uint64_t step,
                       uint64_t threshold, floating scale) noexcept nogil:
    """Neighbours in memory, the first with the generator in `state`, each next one `step` states on."""
    cdef Py_ssize_t i
    for i in range(size):
        mask[i] = (_splitmix64(state + <uint64_t>i * step) >> 32) < threshold
    _keep(x, mask, y, size, scale)


cdef void dropout_ptr(const floating* input, floating* output, uint8_t* mask, Py_ssize_t n, Py_ssize_t c,
                      Py_ssize_t plane, bint channels_last, uint64_t seed, uint64_t threshold,
                      floating scale) noexcept nogil:
    """output = scale * input where kept, else 0; mask = 1 where kept, which is up to an element's logical place alone.

    Element number i in NCHW order is kept if the top 32 bits of SplitMix64's output i + 1 after `seed` are below
    `threshold`. Memory is n runs (images) of `plane` pixels of c channels where `channels_last`; else one flat run.
    """
    cdef uint64_t golden = <uint64_t>0x9E3779B97F4A7C15
    cdef Py_ssize_t i, start, size = n * c * plane
    cdef Py_ssize_t run = c if channels_last else CHUNK
    cdef Py_ssize_t runs = n * plane if channels_last else (size + CHUNK - 1) // CHUNK
    cdef uint64_t first, step = golden * <uint64_t>plane if channels_last else golden
    for i in prange(runs, schedule="static", num_threads=threads_for(runs, 4 * size)):
        start = i * run
        first = <uint64_t>(i // plane * plane * c + i % plane if channels_last else start) + 1
        _drop(input + start, output + start, mask + start, min(run, size - start), seed + first * golden, step,
              threshold, scale)


cdef void dropout_backward_ptr(const floating* grad_output, const uint8_t* mask, floating* grad_input, Py_ssize_t size,
                               floating scale) noexcept nogil:
    """grad_input = scale * grad_output where kept, else 0."""
    cdef Py_ssize_t i, chunks = (size + CHUNK - 1) // CHUNK
    for i in prange(chunks, schedule="static", num_threads=threads_for(chunks, size)):
        _keep(grad_output + i * CHUNK, mask + i * CHUNK, grad_input + i * CHUNK,
              min(<Py_ssize_t>CHUNK, size - i * CHUNK), scale)


# --- doors for memoryviews; arguments are trusted, `functional` checks them ------------------------------------------


def activation(Activation kind, const floating[::1] input, floating[::1] output, floating slope):
    """activation(kind, input, output, slope): overwrite `output`."""
    with nogil:
        activation_ptr(kind, &input[0], &output[0], input.shape[0], slope)


def activation_backward(Activation kind, const floating[::1] grad_output, const floating[::1] saved,
                        floating[::1] grad_input, floating slope):
    """activation_backward(kind, grad_output, saved, grad_input, slope): overwrite `grad_input`."""
    with nogil:
        activation_backward_ptr(kind, &grad_output[0], &saved[0], &grad_input[0], grad_output.shape[0], slope)


def add(const floating[::1] input, const floating[::1] other, floating[::1] output):
    """add(input, other, output): overwrite `output`."""
    with nogil:
        add_ptr(&input[0], &other[0], &output[0], input.shape[0])


def dropout(const floating[::1] input, floating[::1] output, uint8_t[::1] mask, Py_ssize_t n, Py_ssize_t c,
            Py_ssize_t plane, bint channels_last, uint64_t seed, uint64_t threshold, floating scale):
    """dropout(input, output, mask, n, c, plane, channels_last, seed, threshold, scale): overwrite output and mask."""
    with nogil:
        dropout_ptr(&input[0], &output[0], &mask[0], n, c, plane, channels_last, seed, threshold, scale)


def dropout_backward(const floating[::1] grad_output, const uint8_t[::1] mask, floating[::1] grad_input,
                     floating scale):
    """dropout_backward(grad_output, mask, grad_input, scale): overwrite `grad_input`."""
    with nogil:
        dropout_backward_ptr(&grad_output[0], &mask[0], &grad_input[0], grad_output.shape[0], scale)
