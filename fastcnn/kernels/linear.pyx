"""The linear map and its gradients: three matrix products over the register tiles, without packing the weights.

At the batch sizes of training, packing a weight matrix costs as much as multiplying by it. So each product takes the
operand order in which the weights, (outputs, features) row-major, can stay where they are:

  forward           output' = weight @ input': tiles of 14 outputs by a panel of images; input is transposed (it is the
                    smaller one), and so is the tile when it is stored
  backward-data     grad_input = grad_output @ weight: tiles of 14 images by a panel of features, weight read in place
  backward-weight   grad_weight = grad_output' @ input: tiles of 14 outputs by a panel of features, input read in place

Tiling: a sum is taken in parts of DEPTH steps, which keeps the panel in L2 and rounding errors small. The columns past
the last whole register are copied to scratch first, because a tile loads whole registers.

Ownership: a task is a block of rows of the result, which it alone writes; a sum is never cut among tasks, so no bit
depends on the thread count.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memset

from .isa cimport Sum, micro
from .jobs cimport ALIGN, aligned_start, lanes_of, round_up, run_depthwise, run_tile
from .threads cimport thread_index, threads_for


cdef Py_ssize_t DEPTH = 1024
# Images that the rows of the weights are read for one by one; a panel costs the same for one image as for all it holds.
cdef Py_ssize_t FEW = 4


cdef inline Py_ssize_t _wide(Py_ssize_t itemsize) noexcept nogil:
    """Columns of a panel: two registers."""
    return 2 * lanes_of(itemsize)


cdef Py_ssize_t linear_scratch(Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs, int threads,
                               Py_ssize_t itemsize) noexcept nogil:
    """Bytes of scratch that each of the three products needs at the most."""
    cdef Py_ssize_t wide = _wide(itemsize)
    cdef Py_ssize_t transposed = round_up(n, wide) * features + FEW * wide, tail = max(n, outputs) * wide
    return itemsize * (max(transposed, tail) + wide + threads * micro().rows * wide) + 2 * ALIGN


cdef inline Sum _plain_sum(const Py_ssize_t* zero, Py_ssize_t a_row, Py_ssize_t a_step,
                           Py_ssize_t b_step) noexcept nogil:
    """One segment that starts at a and b."""
    cdef Sum s
    s.segments, s.depth, s.a_offset, s.a_row, s.a_step = 1, 0, zero, a_row, a_step
    s.b_segment, s.b_step, s.b_offset = 0, b_step, NULL
    return s


cdef void _transpose(const floating* input, Py_ssize_t n, Py_ssize_t features, Py_ssize_t wide,
                     floating* out) noexcept nogil:
    """out[panel][feature][wide] = input[panel*wide + column][feature], zero past the last image."""
    cdef Py_ssize_t i, k
    cdef floating* panel
    for i in range(round_up(n, wide)):
        panel = out + i // wide * wide * features + i % wide
        for k in range(features):
            panel[k * wide] = input[i * features + k] if i < n else 0


cdef void _forward_rows(Py_ssize_t first, Py_ssize_t m, const floating* weight, const floating* bias,
                        const floating* transposed, floating* output, Py_ssize_t n, Py_ssize_t features,
                        Py_ssize_t outputs, const floating* zeros, floating* tile) noexcept nogil:
    """Outputs first.. first+m of all images."""
    cdef Py_ssize_t zero = 0, wide = _wide(sizeof(floating)), i, k, o, columns, left
    cdef Sum s = _plain_sum(&zero, features, 1, wide)
    for left in range((n + wide - 1) // wide):
        columns = min(wide, n - left * wide)
        for k in range((features + DEPTH - 1) // DEPTH):
            s.depth = min(DEPTH, features - k * DEPTH)
            run_tile(m, columns, &s, weight + first * features + k * DEPTH,
                     transposed + left * wide * features + k * DEPTH * wide,
                     <const floating*>NULL if k else zeros, tile, wide)
        for i in range(columns):
            for o in range(m):
                output[(left * wide + i) * outputs + first + o] = (
                    tile[o * wide + i] + (bias[first + o] if bias != NULL else 0))


cdef void _forward_few(Py_ssize_t first, Py_ssize_t m, const floating* weight, const floating* bias,
                       const floating* input, const floating* tails, floating* output, Py_ssize_t n,
                       Py_ssize_t features, Py_ssize_t outputs, const Py_ssize_t* offset, const floating* zeros,
                       floating* sums) noexcept nogil:
    """Outputs first.. first+m of a few images; `tails` are their features past the last whole register."""
    cdef Py_ssize_t lanes = lanes_of(sizeof(floating)), whole = features // lanes, i, o, j
    cdef floating total
    cdef Sum s
    s.depth, s.a_offset, s.a_row, s.a_step, s.b_segment, s.b_step, s.b_offset = 1, offset, features, 0, lanes, 0, NULL
    weight += first * features
    for i in range(n):
        s.segments = whole
        run_depthwise(m, lanes, &s, weight, input + i * features, zeros, sums, lanes)
        if whole * lanes < features:
            s.segments = 1
            run_depthwise(m, features - whole * lanes, &s, weight + whole * lanes, tails + i * lanes,
                          <const floating*>NULL, sums, lanes)
        for o in range(m):
            total = 0
            for j in range(lanes):
                total += sums[o * lanes + j]
            output[i * outputs + first + o] = total + (bias[first + o] if bias != NULL else 0)


cdef void _product_rows(Py_ssize_t m, const floating* a, Py_ssize_t a_row, Py_ssize_t a_step, const floating* b,
                        const floating* tail, const floating* zeros, floating* c, Py_ssize_t columns,
                        Py_ssize_t depth) noexcept nogil:
    """c (m, columns) = a (m, depth) @ b (depth, columns), where `tail` holds b's columns past the last whole panel."""
    cdef Py_ssize_t zero = 0, wide = _wide(sizeof(floating)), k, p, n
    cdef Sum s = _plain_sum(&zero, a_row, a_step, columns)
    for p in range((columns + wide - 1) // wide):
        n = min(wide, columns - p * wide)
        s.b_step = columns if n == wide else wide
        for k in range((depth + DEPTH - 1) // DEPTH):
            s.depth = min(DEPTH, depth - k * DEPTH)
            run_tile(m, n, &s, a + k * DEPTH * a_step,
                     b + p * wide + k * DEPTH * columns if n == wide else tail + k * DEPTH * wide,
                     <const floating*>NULL if k else zeros, c + p * wide, columns)


cdef void _product(const floating* a, Py_ssize_t a_row, Py_ssize_t a_step, const floating* b, floating* c,
                   Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t depth, char* scratch, int threads) noexcept nogil:
    """c (rows, columns) = a @ b, a given by its strides, b and c row-major."""
    cdef Py_ssize_t wide = _wide(sizeof(floating)), whole = columns // wide * wide, j, k, m, first
    cdef Py_ssize_t task, tasks = (rows + micro().rows - 1) // micro().rows
    cdef floating* zeros = <floating*>scratch
    cdef floating* tail = zeros + wide
    memset(zeros, 0, wide * sizeof(floating))
    if whole < columns:
        for k in range(depth):
            for j in range(wide):
                tail[k * wide + j] = b[k * columns + whole + j] if whole + j < columns else 0
    for task in prange(tasks, schedule="static",
                       num_threads=min(threads, threads_for(tasks, rows * columns * depth // 16))):
        first = task * rows // tasks
        m = (task + 1) * rows // tasks - first
        _product_rows(m, a + first * a_row, a_row, a_step, b, tail, zeros, c + first * columns, columns, depth)


cdef void linear_forward_ptr(const floating* input, const floating* weight, const floating* bias, floating* output,
                             Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs, void* scratch,
                             int threads) noexcept nogil:
    """output (n, outputs) = input (n, features) @ weight' + bias; bias may be NULL."""
    cdef Py_ssize_t wide = _wide(sizeof(floating)), first, m
    cdef Py_ssize_t task, tasks = (outputs + micro().rows - 1) // micro().rows
    cdef floating* zeros = <floating*>aligned_start(scratch)
    cdef floating* transposed = zeros + wide
    cdef floating* tails = transposed + round_up(n, wide) * features
    cdef floating* tiles = tails + FEW * wide
    cdef Py_ssize_t* offset = <Py_ssize_t*>transposed
    cdef Py_ssize_t lanes = wide // 2, whole = features // lanes, i, j
    memset(zeros, 0, wide * sizeof(floating))
    if n <= FEW:
        for i in range(whole):
            offset[i] = i * lanes
        offset[0] = 0
        for i in range(n):
            for j in range(lanes):
                tails[i * lanes + j] = input[i * features + whole * lanes + j] if whole * lanes + j < features else 0
    else:
        _transpose(input, n, features, wide, transposed)
    for task in prange(tasks, schedule="static",
                       num_threads=min(threads, threads_for(tasks, n * features * outputs // 16))):
        first = task * outputs // tasks
        m = (task + 1) * outputs // tasks - first
        if n <= FEW:
            _forward_few(first, m, weight, bias, input, tails, output, n, features, outputs, offset, zeros,
                         tiles + thread_index() * micro().rows * wide)
        else:
            _forward_rows(first, m, weight, bias, transposed, output, n, features, outputs, zeros,
                          tiles + thread_index() * micro().rows * wide)


cdef void linear_backward_data_ptr(const floating* grad_output, const floating* weight, floating* grad_input,
                                   Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs, void* scratch,
                                   int threads) noexcept nogil:
    """grad_input (n, features) = grad_output (n, outputs) @ weight."""
    _product(grad_output, outputs, 1, weight, grad_input, n, features, outputs, aligned_start(scratch), threads)


cdef void linear_backward_weight_ptr(const floating* grad_output, const floating* input, floating* grad_weight,
                                     floating* grad_bias, Py_ssize_t n, Py_ssize_t features, Py_ssize_t outputs,
                                     void* scratch, int threads) noexcept nogil:
    """grad_weight (outputs, features) and grad_bias (outputs), either of which may be NULL."""
    cdef Py_ssize_t i, o
    if grad_weight != NULL:
        _product(grad_output, 1, outputs, input, grad_weight, outputs, features, n, aligned_start(scratch), threads)
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
