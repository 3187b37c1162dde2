"""The linear map and its gradients: three matrix products of operands that stay where they are, if they can.

The weights are (outputs, features), row-major, and each product has the form that suits that:

  forward           output = input @ weight': of up to SEVERAL images, both operands run along the sum, and registers
                    hold lanes of it (micro: dots); of more, the weights are transposed once, panel by panel, and then
                    tiles as below
  backward-data     grad_input = grad_output @ weight: tiles of 14 images by a panel of features
  backward-weight   grad_weight = grad_output' @ input: tiles of 14 outputs by a panel of features

Of one image, a tile has too few sums under way, or is all beginning and end: there backward goes row by row (micro:
row).

Tiling: a sum is taken in parts of DEPTH steps, which keeps the panel in the cache and rounding errors small. The
columns of a panel that end within a register are copied to scratch first, because a tile loads whole registers.

Ownership: a task is a tile of the result (dots: a block of its columns; row by row: of its rows), which it alone
writes; a sum is never cut among tasks, so no bit depends on the thread count. Tiles of one panel follow each other.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from .geometry cimport MOST_ELEMENTS
from .isa cimport Sum, micro
from .jobs cimport ALIGN, aligned_start, lanes_of, pieces, round_up, run_tile
from .threads cimport threads_for, usable

cdef enum:
    DEPTH = 1024
    SEVERAL = 16        # images: for more, transposing the weights pays
    BLOCK = 16          # outputs of a task of so many images
    QUAD = 4            # images that a register of weights meets at once


cdef inline Py_ssize_t _wide(Py_ssize_t itemsize) noexcept nogil:
    """Columns of a panel: two registers."""
    return 2 * lanes_of(itemsize)


cdef Py_ssize_t linear_scratch(Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs, int threads,
                               Py_ssize_t itemsize) noexcept nogil:
    """Bytes of scratch that each of the three products needs at the most; -1 for sizes below 1, or of overflow."""
    cdef Py_ssize_t wide = _wide(itemsize), tail
    if min(n, features, outputs) < 1 or <double>features * max(<double>n, <double>outputs) > MOST_ELEMENTS:
        return -1
    tail = max(n, outputs) * wide + round_up(features, wide)
    return itemsize * max(tail, (1 + features) * round_up(outputs, wide) if n > SEVERAL else 0) + ALIGN


cdef inline Sum _plain_sum(const Py_ssize_t* zero, Py_ssize_t a_row, Py_ssize_t a_step,
                           Py_ssize_t b_step) noexcept nogil:
    """One segment that starts at a and b."""
    cdef Sum s
    s.segments, s.depth, s.a_offset, s.a_row, s.a_step = 1, 0, zero, a_row, a_step
    s.b_segment, s.b_step, s.b_offset = 0, b_step, NULL
    return s


cdef inline void _dots(Py_ssize_t m, Py_ssize_t n, Py_ssize_t depth, const floating* a, Py_ssize_t a_row,
                       const floating* b, Py_ssize_t b_row, const floating* init, floating* c,
                       Py_ssize_t c_row) noexcept nogil:
    if floating is float:
        micro().dots_f32(m, n, depth, a, a_row, b, b_row, init, c, c_row)
    else:
        micro().dots_f64(m, n, depth, a, a_row, b, b_row, init, c, c_row)


cdef void _row(Py_ssize_t n, Py_ssize_t depth, const floating* a, Py_ssize_t a_step, const floating* b,
               Py_ssize_t b_step, floating* c) noexcept nogil:
    """c (n,) = a (depth,) @ b (depth, n)"""
    cdef Py_ssize_t k, part
    for k in range(pieces(depth, DEPTH)):
        part = min(<Py_ssize_t>DEPTH, depth - k * DEPTH)
        if floating is float:
            micro().row_f32(n, part, a + k * DEPTH * a_step, a_step, b + k * DEPTH * b_step, b_step, c, k > 0)
        else:
            micro().row_f64(n, part, a + k * DEPTH * a_step, a_step, b + k * DEPTH * b_step, b_step, c, k > 0)


cdef void _transpose(Py_ssize_t rows, Py_ssize_t columns, const floating* a, floating* out,
                     Py_ssize_t out_row) noexcept nogil:
    if floating is float:
        micro().transpose_f32(rows, columns, a, columns, out, out_row)
    else:
        micro().transpose_f64(rows, columns, a, columns, out, out_row)


cdef void _outputs(Py_ssize_t m, const floating* weight, const floating* bias, const floating* input,
                   floating* output, Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs) noexcept nogil:
    """A block of outputs of all images."""
    cdef Py_ssize_t k, i, depth
    for k in range(pieces(features, DEPTH)):
        depth = min(<Py_ssize_t>DEPTH, features - k * DEPTH)
        for i in range(pieces(n, QUAD)):
            _dots(min(<Py_ssize_t>QUAD, n - i * QUAD), m, depth, input + i * QUAD * features + k * DEPTH, features,
                  weight + k * DEPTH, features, <const floating*>NULL if k else bias, output + i * QUAD * outputs,
                  outputs)


cdef struct Right:
    # The right operand of a product, in panels.
    const void* start
    const void* tail            # the last panel, if not where the others are; its rows have no others between them
    Py_ssize_t panel, step      # elements from one panel, and one row of a panel, to the next


cdef inline Right _rows_of(const void* b, Py_ssize_t columns, Py_ssize_t wide) noexcept nogil:
    """A row-major matrix."""
    cdef Right right
    right.start, right.tail, right.panel, right.step = b, NULL, wide, columns
    return right


cdef void _product_tile(Py_ssize_t m, Py_ssize_t n, const floating* a, Py_ssize_t a_row, Py_ssize_t a_step,
                        const floating* b, Py_ssize_t b_step, const floating* init, floating* c, Py_ssize_t c_row,
                        Py_ssize_t depth) noexcept nogil:
    """c (m, n) = init + a (m, depth) @ b (depth, n)"""
    cdef Py_ssize_t zero = 0, k
    cdef Sum s = _plain_sum(&zero, a_row, a_step, b_step)
    for k in range(pieces(depth, DEPTH)):
        s.depth = min(<Py_ssize_t>DEPTH, depth - k * DEPTH)
        run_tile(m, n, &s, a + k * DEPTH * a_step, b + k * DEPTH * b_step, <const floating*>NULL if k else init, c,
                 c_row)


cdef void _product(const floating* a, Py_ssize_t a_row, Py_ssize_t a_step, const Right* b, const floating* init,
                   floating* c, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t depth, int threads) noexcept nogil:
    """c (rows, columns) = init + a (rows, depth) @ b (depth, columns); from zero, and row by row, if `init` is NULL."""
    cdef Py_ssize_t wide = _wide(sizeof(floating)), blocks = pieces(rows, micro().rows), panels = pieces(columns, wide)
    cdef Py_ssize_t task, tasks = blocks if init == NULL else blocks * panels, first, m, n, i, p, step
    cdef const floating* right
    for task in prange(tasks, schedule="static",
                       num_threads=min(threads, threads_for(tasks, rows * columns * depth // 16))):
        p, i = task // blocks, task % blocks
        first = i * rows // blocks
        m = (i + 1) * rows // blocks - first
        if init == NULL:
            for i in range(first, first + m):
                _row(columns, depth, a + i * a_row, a_step, <const floating*>b.start, b.step, c + i * columns)
            continue
        n = min(wide, columns - p * wide)
        right, step = <const floating*>b.start + p * b.panel, b.step
        if n < wide and b.tail != NULL:
            right, step = <const floating*>b.tail, wide
        _product_tile(m, n, a + first * a_row, a_row, a_step, right, step, init + p * wide,
                      c + first * columns + p * wide, columns, depth)


cdef void _product_in_place(const floating* a, Py_ssize_t a_row, Py_ssize_t a_step, const floating* b, floating* c,
                            Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t depth, char* scratch,
                            int threads) noexcept nogil:
    """c (rows, columns) = a @ b, a given by its strides, b and c row-major."""
    cdef Py_ssize_t wide = _wide(sizeof(floating)), whole = columns // wide * wide, k
    cdef floating* zeros = <floating*>scratch
    cdef floating* tail
    cdef Right right = _rows_of(b, columns, wide)
    if rows == 1 or depth == 1:
        zeros = <floating*>NULL
    else:
        memset(zeros, 0, round_up(columns, wide) * sizeof(floating))
        if columns % (wide // 2):
            tail = zeros + round_up(columns, wide)
            memset(tail, 0, depth * wide * sizeof(floating))
            for k in range(depth):
                memcpy(tail + k * wide, b + k * columns + whole, (columns - whole) * sizeof(floating))
            right.tail = tail
    _product(a, a_row, a_step, &right, <const floating*>zeros, c, rows, columns, depth, threads)


cdef void linear_forward_ptr(const floating* input, const floating* weight, const floating* bias, floating* output,
                             Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs, void* scratch,
                             int threads) noexcept nogil:
    """output (n, outputs) = input (n, features) @ weight' + bias; bias may be NULL."""
    cdef Py_ssize_t task, tasks = pieces(outputs, BLOCK), first, m, wide = _wide(sizeof(floating))
    cdef floating* init = <floating*>aligned_start(scratch)
    cdef floating* transposed = init + round_up(outputs, wide)
    cdef Right right
    threads = usable(threads)
    memset(init, 0, round_up(outputs, wide) * sizeof(floating))
    if bias != NULL:
        memcpy(init, bias, outputs * sizeof(floating))
    if n > SEVERAL:
        tasks = pieces(outputs, wide)
        for task in prange(tasks, schedule="static", num_threads=min(threads, threads_for(tasks, features * outputs))):
            first = task * wide
            _transpose(min(wide, outputs - first), features, weight + first * features, transposed + first * features,
                       wide)
        right.start, right.tail, right.panel, right.step = transposed, NULL, features * wide, wide
        _product(input, features, 1, &right, <const floating*>init, output, n, outputs, features, threads)
        return
    for task in prange(tasks, schedule="static",
                       num_threads=min(threads, threads_for(tasks, n * features * outputs // 16))):
        first = task * BLOCK
        m = min(<Py_ssize_t>BLOCK, outputs - first)
        _outputs(m, weight + first * features, init + first, input, output + first, n, features, outputs)


cdef void linear_backward_data_ptr(const floating* grad_output, const floating* weight, floating* grad_input,
                                   Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs, void* scratch,
                                   int threads) noexcept nogil:
    """grad_input (n, features) = grad_output (n, outputs) @ weight."""
    _product_in_place(grad_output, outputs, 1, weight, grad_input, n, features, outputs, aligned_start(scratch),
                      usable(threads))


cdef void linear_backward_weight_ptr(const floating* grad_output, const floating* input, floating* grad_weight,
                                     floating* grad_bias, Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs,
                                     void* scratch, int threads) noexcept nogil:
    """grad_weight (outputs, features) and grad_bias (outputs), either of which may be NULL."""
    cdef Py_ssize_t i, o
    if grad_weight != NULL:
        _product_in_place(grad_output, 1, outputs, input, grad_weight, outputs, features, n, aligned_start(scratch),
                          usable(threads))
    if grad_bias != NULL:
        memset(grad_bias, 0, outputs * sizeof(floating))
        for i in range(n):
            for o in range(outputs):
                grad_bias[o] += grad_output[i * outputs + o]


def scratch_bytes(Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs, int threads, Py_ssize_t itemsize):
    """scratch_bytes(n, features, outputs, threads, itemsize) -> int, for each of the three products"""
    return linear_scratch(n, features, outputs, threads, itemsize)


def forward(const floating[:, ::1] input, const floating[:, ::1] weight, const floating[::1] bias,
            floating[:, ::1] output, unsigned char[::1] scratch, int threads):
    """forward(input, weight, bias or None, output, scratch, threads): `functional` checks the arguments."""
    with nogil:
        linear_forward_ptr(&input[0, 0], &weight[0, 0], &bias[0] if bias is not None else NULL, &output[0, 0],
                           input.shape[0], weight.shape[1], weight.shape[0], &scratch[0], threads)


def backward_data(const floating[:, ::1] grad_output, const floating[:, ::1] weight, floating[:, ::1] grad_input,
                  unsigned char[::1] scratch, int threads):
    """backward_data(grad_output, weight, grad_input, scratch, threads): `functional` checks the arguments."""
    with nogil:
        linear_backward_data_ptr(&grad_output[0, 0], &weight[0, 0], &grad_input[0, 0], grad_output.shape[0],
                                 weight.shape[1], weight.shape[0], &scratch[0], threads)


def backward_weight(const floating[:, ::1] grad_output, const floating[:, ::1] input, floating[:, ::1] grad_weight,
                    floating[::1] grad_bias, unsigned char[::1] scratch, int threads):
    """backward_weight(grad_output, input, grad_weight or None, grad_bias or None, scratch, threads)."""
    with nogil:
        linear_backward_weight_ptr(&grad_output[0, 0], &input[0, 0],
                                   &grad_weight[0, 0] if grad_weight is not None else NULL,
                                   &grad_bias[0] if grad_bias is not None else NULL, input.shape[0], input.shape[1],
                                   grad_output.shape[1], &scratch[0], threads)
