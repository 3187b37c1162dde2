"""Softmax, its logarithm, cross-entropy and squared error, each with its gradient.

Tiling and ownership: softmax and cross-entropy work on a matrix whose rows are the distributions; one task is as many
whole rows as make up CHUNK elements, at least one, and writes these rows of the output and their losses. A row is read
from memory once and is in the cache for what follows: its maximum, the exponentials (kept where the output goes),
their sum, the result. The squared error's task is CHUNK elements, and it writes its sum to its own place in
`partials`. Sums run over LANES interleaved double accumulators, so shape alone fixes their order.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.math cimport log
from libc.stdint cimport int64_t

from .elementary cimport exponential
from .threads cimport threads_for

cdef enum:
    CHUNK = 4096
    LANES = 16
    EXPONENTIAL_WORK = 8  # what an exponential costs, in reads or writes of a float


cdef inline double _sum_lanes(const double* lanes) noexcept nogil:
    cdef Py_ssize_t j
    cdef double total = 0
    for j in range(LANES):
        total += lanes[j]
    return total


cdef inline floating _largest(const floating* x, Py_ssize_t size) noexcept nogil:
    """Maximum of a row; where it has a NaN, a NaN or the maximum of the rest."""
    cdef floating lanes[LANES]
    cdef Py_ssize_t i, j, whole = size - size % LANES
    cdef floating most = x[0]
    if whole:
        for j in range(LANES):
            lanes[j] = x[j]
        for i in range(1, size // LANES):
            for j in range(LANES):
                lanes[j] = x[i * LANES + j] if x[i * LANES + j] > lanes[j] else lanes[j]
        for j in range(LANES):
            most = lanes[j] if lanes[j] > most else most
    for i in range(whole, size):
        most = x[i] if x[i] > most else most
    return most


cdef inline double _sum(const floating* x, Py_ssize_t size) noexcept nogil:
    cdef double lanes[LANES]
    cdef Py_ssize_t i, j, whole = size - size % LANES
    for j in range(LANES):
        lanes[j] = 0
    for i in range(size // LANES):
        for j in range(LANES):
            lanes[j] += x[i * LANES + j]
    for j in range(size - whole):
        lanes[j] += x[whole + j]
    return _sum_lanes(lanes)


cdef inline double _dot(const floating* x, const floating* y, Py_ssize_t size) noexcept nogil:
    cdef double lanes[LANES]
    cdef Py_ssize_t i, j, whole = size - size % LANES
    for j in range(LANES):
        lanes[j] = 0
    for i in range(size // LANES):
        for j in range(LANES):
            lanes[j] += <double>x[i * LANES + j] * <double>y[i * LANES + j]
    for j in range(size - whole):
        lanes[j] += <double>x[whole + j] * <double>y[whole + j]
    return _sum_lanes(lanes)


cdef inline double _powers(const floating* x, floating most, floating* y, Py_ssize_t size) noexcept nogil:
    """y = exp(x - most); return the sum."""
    cdef Py_ssize_t i
    for i in range(size):
        y[i] = exponential(x[i] - most)
    return _sum(y, size)


cdef inline Py_ssize_t _rows_per_task(Py_ssize_t columns) noexcept nogil:
    return max(<Py_ssize_t>1, CHUNK // columns)


# --- softmax --------------------------------------------------------------------------------------------------------


cdef inline void _softmax_rows(const floating* x, floating* y, Py_ssize_t rows, Py_ssize_t columns,
                               bint logarithm) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating most, scale
    cdef double total
    for _ in range(rows):
        most = _largest(x, columns)
        total = _powers(x, most, y, columns)
        if logarithm:
            scale = <floating>log(total)
            for i in range(columns):
                y[i] = (x[i] - most) - scale
        else:
            scale = <floating>(1 / total)
            for i in range(columns):
                y[i] = y[i] * scale
        x += columns
        y += columns


cdef void softmax_ptr(const floating* input, floating* output, Py_ssize_t rows, Py_ssize_t columns,
                      bint logarithm) noexcept nogil:
    """Softmax of each row, or its logarithm."""
    cdef Py_ssize_t i, step = _rows_per_task(columns)
    cdef Py_ssize_t tasks = (rows + step - 1) // step
    for i in prange(tasks, schedule="static", num_threads=threads_for(tasks, EXPONENTIAL_WORK * rows * columns)):
        _softmax_rows(input + i * step * columns, output + i * step * columns, min(step, rows - i * step), columns,
                      logarithm)


cdef inline void _softmax_backward_rows(const floating* dy, const floating* y, floating* dx, Py_ssize_t rows,
                                        Py_ssize_t columns, bint logarithm) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating total
    for _ in range(rows):
        if logarithm:
            total = <floating>_sum(dy, columns)
            for i in range(columns):
                dx[i] = dy[i] - exponential(y[i]) * total
        else:
            total = <floating>_dot(dy, y, columns)
            for i in range(columns):
                dx[i] = y[i] * (dy[i] - total)
        dy += columns
        y += columns
        dx += columns


cdef void softmax_backward_ptr(const floating* grad_output, const floating* output, floating* grad_input,
                               Py_ssize_t rows, Py_ssize_t columns, bint logarithm) noexcept nogil:
    """Gradient of `softmax_ptr`'s input from that of its output, and from the output itself."""
    cdef Py_ssize_t i, step = _rows_per_task(columns)
    cdef Py_ssize_t tasks = (rows + step - 1) // step
    cdef Py_ssize_t work = (EXPONENTIAL_WORK if logarithm else 3) * rows * columns
    for i in prange(tasks, schedule="static", num_threads=threads_for(tasks, work)):
        _softmax_backward_rows(grad_output + i * step * columns, output + i * step * columns,
                               grad_input + i * step * columns, min(step, rows - i * step), columns, logarithm)


# --- cross-entropy --------------------------------------------------------------------------------------------------


cdef inline double _shortfall(const floating* x, double most, const floating* weight, Py_ssize_t size) noexcept nogil:
    """Sum of weight * (most - x)."""
    cdef double lanes[LANES]
    cdef Py_ssize_t i
    for i in range(LANES):
        lanes[i] = 0
    for i in range(size):
        lanes[i % LANES] += (most - x[i]) * (1 if weight == NULL else weight[i])
    return _sum_lanes(lanes)


cdef inline void _cross_entropy_rows(const floating* x, const int64_t* target, const floating* weight,
                                     int64_t ignore_index, double smoothing, double factor, double weight_sum,
                                     double* losses, floating* dx, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t i, row
    cdef double total, at_target, spread = smoothing / columns
    cdef floating most, scale, share
    for row in range(rows):
        if target[row] == ignore_index:
            losses[row] = 0
            for i in range(columns):
                dx[i] = 0
        else:
            at_target = (1 - smoothing) * (1 if weight == NULL else weight[target[row]])
            most = _largest(x, columns)
            total = _powers(x, most, dx, columns)
            losses[row] = at_target * ((most - <double>x[target[row]]) + log(total))
            if smoothing > 0:
                losses[row] += spread * (_shortfall(x, most, weight, columns) + weight_sum * log(total))
            scale = <floating>(factor * (at_target + spread * weight_sum) / total)
            share = <floating>(factor * spread)
            if weight == NULL:
                for i in range(columns):
                    dx[i] = scale * dx[i] - share
            else:
                for i in range(columns):
                    dx[i] = scale * dx[i] - share * weight[i]
            dx[target[row]] -= <floating>(factor * at_target)
        x += columns
        dx += columns


cdef void cross_entropy_ptr(const floating* input, const int64_t* target, const floating* weight, int64_t ignore_index,
                            double smoothing, double factor, double* losses, floating* grad_input, Py_ssize_t rows,
                            Py_ssize_t columns) noexcept nogil:
    """Loss of each row of logits, and its gradient times `factor`; `weight` of the classes may be NULL: all 1.

    With q[c] = weight[c] * ((1 - smoothing) * (c == target) + smoothing / columns) the loss is the sum over c of
    q[c] * (logsumexp(input) - input[c]), and its gradient sum(q) * softmax(input) - q.
    """
    cdef Py_ssize_t i, step = _rows_per_task(columns)
    cdef Py_ssize_t tasks = (rows + step - 1) // step
    cdef double weight_sum = columns if weight == NULL else _sum(weight, columns)
    for i in prange(tasks, schedule="static", num_threads=threads_for(tasks, EXPONENTIAL_WORK * rows * columns)):
        _cross_entropy_rows(input + i * step * columns, target + i * step, weight, ignore_index, smoothing, factor,
                            weight_sum, losses + i * step, grad_input + i * step * columns, min(step, rows - i * step),
                            columns)


# --- squared error --------------------------------------------------------------------------------------------------


cdef inline double _squared_error(const floating* x, const floating* target, floating factor, floating* losses,
                                  floating* dx, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        dx[i] = x[i] - target[i]
    cdef double total = _dot(dx, dx, size)
    if losses != NULL:
        for i in range(size):
            losses[i] = dx[i] * dx[i]
    for i in range(size):
        dx[i] = factor * dx[i]
    return total


cdef Py_ssize_t mse_blocks(Py_ssize_t size) noexcept nogil:
    """Doubles of `partials` that a size needs."""
    return (size + CHUNK - 1) // CHUNK


cdef void mse_loss_ptr(const floating* input, const floating* target, double factor, double* partials,
                       floating* losses, floating* grad_input, Py_ssize_t size) noexcept nogil:
    """grad_input = factor * (input - target), and sums of the squares in `partials`; `losses`: each square, or NULL."""
    cdef Py_ssize_t i, blocks = mse_blocks(size)
    for i in prange(blocks, schedule="static", num_threads=threads_for(blocks, 3 * size)):
        partials[i] = _squared_error(input + i * CHUNK, target + i * CHUNK, <floating>factor,
                                     losses if losses == NULL else losses + i * CHUNK, grad_input + i * CHUNK,
                                     min(<Py_ssize_t>CHUNK, size - i * CHUNK))


# --- doors for memoryviews; arguments are trusted, `functional` checks them ------------------------------------------


def softmax(const floating[:, ::1] input, floating[:, ::1] output, bint logarithm):
    """softmax(input, output, logarithm): overwrite `output`."""
    with nogil:
        softmax_ptr(&input[0, 0], &output[0, 0], input.shape[0], input.shape[1], logarithm)


def softmax_backward(const floating[:, ::1] grad_output, const floating[:, ::1] output, floating[:, ::1] grad_input,
                     bint logarithm):
    """softmax_backward(grad_output, output, grad_input, logarithm): overwrite `grad_input`."""
    with nogil:
        softmax_backward_ptr(&grad_output[0, 0], &output[0, 0], &grad_input[0, 0], output.shape[0], output.shape[1],
                             logarithm)


def cross_entropy(const floating[:, ::1] input, const int64_t[::1] target, const floating[::1] weight,
                  int64_t ignore_index, double smoothing, double factor, double[::1] losses,
                  floating[:, ::1] grad_input):
    """cross_entropy(input, target, weight or None, ignore_index, smoothing, factor, losses, grad_input)."""
    cdef const floating* weights = NULL
    if weight is not None:
        weights = &weight[0]
    with nogil:
        cross_entropy_ptr(&input[0, 0], &target[0], weights, ignore_index, smoothing, factor, &losses[0],
                          &grad_input[0, 0], input.shape[0], input.shape[1])


def blocks(Py_ssize_t size):
    """blocks(size): how many doubles `partials` of `mse_loss` needs."""
    return mse_blocks(size)


def mse_loss(const floating[::1] input, const floating[::1] target, double factor, double[::1] partials,
             floating[::1] losses, floating[::1] grad_input):
    """mse_loss(input, target, factor, partials, losses or None, grad_input): overwrite the last three."""
    cdef floating* each = NULL if losses is None else &losses[0]
    with nogil:
        mse_loss_ptr(&input[0], &target[0], factor, &partials[0], each, &grad_input[0], input.shape[0])
