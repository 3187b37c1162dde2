"""Max-pooling, its inverse, and average pooling, over windows or over an even partition.

A row of what a pass writes is cut into runs (micro/pool.h): neighbouring places that read the same elements, relative
to the place. Windows that the border cuts off are runs of one place; the others of a row are one run together. The
lanes that the register loops fill are channels (channels-last) or the places of a run (NCHW).

Forward, a place is an output and reads the taps of its window. Backward, a place is an input pixel and reads the
windows that it lies in: the pixels of one phase of the stride, w, w + sw, w + 2*sw, .., lie in the same ones,
relatively, and are a run. So each element is a sum in a fixed order, and nothing is scattered. Ownership: a task is one
row of one image (channels-last) or plane (NCHW) of the array written, and nobody else writes it.

Where a register holds the channels of several places, max-pooling has loops of its own (`Few`): a row is read as it
lies, and permutations bring each tap's elements under the outputs. There a task is some rows, forward and backward.

What follows taps or indices to where they point writes all over a plane: `scatter` and `take`, and the backward pass of
max-pooling where channels do not fill the lanes or a pixel lies in many windows. There a task is a whole plane, or a
block of an image's channels, and goes through its taps or indices in row-major order. The sums have the same order.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset

from .geometry cimport Window, end_inside, first_inside
from .isa cimport micro
from .threads cimport max_threads, threads_for, usable


cdef extern from "micro/pool.h" nogil:
    ctypedef struct Run "fastcnn_run":
        Py_ssize_t first, rows, columns, row_step, column_step
        Py_ssize_t lanes, lane_in, lane_out
        Py_ssize_t places, place_in, place_out
        Py_ssize_t tag, row_tag, column_tag
        Py_ssize_t lane_tag, place_tag

    ctypedef struct Few "fastcnn_few":
        Py_ssize_t channels, group, lines, places, line, place
        Py_ssize_t rows, columns, row_step, column_step

    ctypedef struct Lanes "fastcnn_pool":
        Py_ssize_t route_taps, few_bytes
        int (*outside)(const uint8_t*, Py_ssize_t, int, int, int) noexcept nogil
        void (*max_f32)(const Run*, const float*, float*, void*, int, int) noexcept nogil
        void (*max_f64)(const Run*, const double*, double*, void*, int, int) noexcept nogil
        void (*route_f32)(const Run*, const float*, const uint8_t*, float*) noexcept nogil
        void (*max_few_f32)(const Few*, const float*, float*, uint8_t*, int) noexcept nogil
        void (*route_few_f32)(const Few*, const float*, const float*, const uint8_t*, float*) noexcept nogil
        void (*route_f64)(const Run*, const double*, const uint8_t*, double*) noexcept nogil
        void (*max_few_f64)(const Few*, const double*, double*, uint8_t*, int) noexcept nogil
        void (*route_few_f64)(const Few*, const double*, const double*, const uint8_t*, double*) noexcept nogil
        void (*mean_f32)(const Run*, const float*, float*, Py_ssize_t, int) noexcept nogil
        void (*mean_f64)(const Run*, const double*, double*, Py_ssize_t, int) noexcept nogil

    const Lanes* fastcnn_pool_for(const char* isa)
    Py_ssize_t ROUTE_LANES "FASTCNN_ROUTE_LANES"
    int NO_TAP "FASTCNN_NO_TAP"(int tag_bytes)


# Outputs that a task has at least, where rows of few channels are one task together.
cdef Py_ssize_t FEW_OUTPUTS = 4096
# Tasks that images are cut into, by channels, where taps or indices are followed through a whole plane.
cdef Py_ssize_t TASKS = 16


# --- geometry --------------------------------------------------------------------------------------------------------


cdef inline bint _channel_lanes(const Window* g) noexcept nogil:
    """Whether lanes are channels. One channel is the same bytes in both orders, and then columns fill the lanes."""
    return g.channels_last and g.c > 1


cdef inline Py_ssize_t _planes(const Window* g) noexcept nogil:
    return g.n if _channel_lanes(g) else g.n * g.c


cdef inline Py_ssize_t _pixel(const Window* g) noexcept nogil:
    """Elements from one column to the next."""
    return g.c if _channel_lanes(g) else 1


cdef inline void _spread(Run* run, Py_ssize_t count, Py_ssize_t step_in, Py_ssize_t step_out,
                         const Window* g) noexcept nogil:
    """Let `run` cover `count` places, step_in columns apart in what is read and step_out in what is written."""
    if _channel_lanes(g):
        run.lanes, run.lane_in, run.lane_out = g.c, 1, 1
        run.places, run.place_in, run.place_out = count, step_in * g.c, step_out * g.c
    else:
        run.lanes, run.lane_in, run.lane_out = count, step_in, step_out
        run.places, run.place_in, run.place_out = 1, 0, 0
    run.lane_tag = run.place_tag = 0


cdef struct Inner:
    # Along one axis, the windows from `first` up to `end` lie wholly inside the image.
    Py_ssize_t first, end


cdef inline Inner _inner_columns(const Window* g) noexcept nogil:
    cdef Inner inner
    inner.first = min(first_inside(-g.pw, g.sw), g.ow)
    inner.end = end_inside((g.kw - 1) * g.dw - g.pw, g.sw, g.ow, g.w)
    return inner


cdef inline Inner _inner_rows(const Window* g) noexcept nogil:
    cdef Inner inner
    inner.first = min(first_inside(-g.ph, g.sh), g.oh)
    inner.end = end_inside((g.kh - 1) * g.dh - g.ph, g.sh, g.oh, g.h)
    return inner


cdef struct Cover:
    # Along one axis, the `count` windows that hold a pixel: first, first + step, .. The pixel is tap number `tap` of
    # the first, and tap_step more of each that follows.
    Py_ssize_t first, step, count, tap, tap_step


cdef inline Cover _cover(Py_ssize_t pixel, Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t padding,
                         Py_ssize_t dilation, Py_ssize_t places) noexcept nogil:
    cdef Cover cover
    cdef Py_ssize_t at = pixel + padding
    cdef Py_ssize_t last = min(at // stride, places - 1)
    cdef Py_ssize_t divisor = stride, rest = dilation
    cover.first = first_inside((kernel - 1) * dilation - at, stride)
    while cover.first <= last and (at - cover.first * stride) % dilation:
        cover.first += 1
    while rest:  # Euclid
        divisor, rest = rest, divisor % rest
    cover.step = dilation // divisor
    cover.count = (last - cover.first) // cover.step + 1 if cover.first <= last else 0
    cover.tap = (at - cover.first * stride) // dilation
    cover.tap_step = -(stride // divisor)
    return cover


cdef inline Py_ssize_t _alike(Py_ssize_t column, Inner inner, const Window* g) noexcept nogil:
    """How many of the pixels column, column + sw, .. lie in inner windows alone, each one window on; at least 1."""
    cdef Py_ssize_t at = column + g.pw
    if at - (g.kw - 1) * g.dw <= (inner.first - 1) * g.sw:
        return 1
    return max(1, min(inner.end - at // g.sw, (g.w - 1 - column) // g.sw + 1))


# --- max-pooling -----------------------------------------------------------------------------------------------------


cdef struct Taps:
    # The real taps of a window, those that read no padding: rows from i, columns from j. The first of them is at `row`,
    # `column` of the image, and the same holds for `count` places from this one on.
    Py_ssize_t i, j, rows, columns, row, column, count


cdef inline Taps _taps(Py_ssize_t y, Py_ssize_t x, Inner inner, const Window* g) noexcept nogil:
    cdef Taps taps
    cdef Py_ssize_t top = y * g.sh - g.ph, left = x * g.sw - g.pw
    taps.i = first_inside(top, g.dh)
    taps.rows = end_inside(top, g.dh, g.kh, g.h) - taps.i
    taps.row = top + taps.i * g.dh
    if inner.first <= x < inner.end:
        taps.j = 0
        taps.columns = g.kw
        taps.count = inner.end - x
    else:
        taps.j = first_inside(left, g.dw)
        taps.columns = end_inside(left, g.dw, g.kw, g.w) - taps.j
        taps.count = 1
    taps.column = left + taps.j * g.dw
    return taps


cdef inline void _max_row(const floating* input, floating* output, tag_t* tags, Py_ssize_t y, Inner inner,
                          const Window* g, bint relu, const Lanes* lanes) noexcept nogil:
    cdef Py_ssize_t pixel = _pixel(g), x = 0
    cdef Taps taps
    cdef Run run
    cdef tag_t* to
    cdef int tag_bytes = 0 if tags is NULL else sizeof(tag_t)
    while x < g.ow:
        taps = _taps(y, x, inner, g)
        run.first = (taps.row * g.w + taps.column) * pixel
        run.rows, run.columns = taps.rows, taps.columns
        run.row_step, run.column_step = g.dh * g.w * pixel, g.dw * pixel
        _spread(&run, taps.count, g.sw, 1, g)
        if tag_t is int64_t:
            run.tag, run.row_tag, run.column_tag = taps.row * g.w + taps.column, g.dh * g.w, g.dw
            if _channel_lanes(g):
                run.place_tag = g.sw
            else:
                run.lane_tag = g.sw
        else:
            run.tag, run.row_tag, run.column_tag = taps.i * g.kw + taps.j, g.kw, 1
        to = tags if tags is NULL else tags + x * pixel
        if floating is float:
            lanes.max_f32(&run, input, output + x * pixel, to, tag_bytes, relu)
        else:
            lanes.max_f64(&run, input, output + x * pixel, to, tag_bytes, relu)
        x += taps.count


cdef inline bint _few(const Window* g, const Lanes* lanes, Py_ssize_t itemsize, Few* few) noexcept nogil:
    """Whether several places of few channels go through a register together, and then what that takes (pool.h)."""
    cdef Py_ssize_t length = lanes.few_bytes // itemsize, place = g.sw * g.c
    cdef Inner rows, columns
    if not _channel_lanes(g) or 2 * g.c > length or g.sw < 2:
        return False
    rows, columns = _inner_rows(g), _inner_columns(g)
    if rows.first or columns.first or rows.end < g.oh or columns.end < g.ow:
        return False
    few.channels, few.places, few.line, few.place = g.c, g.ow, g.sh * g.w * g.c, place
    few.rows, few.columns, few.row_step, few.column_step = g.kh, g.kw, g.dh * g.w * g.c, g.dw * g.c
    few.group = min(min(length // g.c, (2 * length - g.c) // place + 1), g.ow)
    return (few.group - 1) * place + g.c >= length


cdef inline Py_ssize_t _few_lines(const Window* g) noexcept nogil:
    """Rows of outputs that a task has."""
    return min(g.oh, (FEW_OUTPUTS + g.ow * g.c - 1) // (g.ow * g.c))


cdef inline void _max_few_rows(const floating* input, floating* output, uint8_t* taps, Few few, Py_ssize_t task,
                               const Window* g, bint relu, const Lanes* lanes) noexcept nogil:
    cdef Py_ssize_t each = _few_lines(g), tasks = (g.oh + each - 1) // each
    cdef Py_ssize_t y = task % tasks * each, line = g.ow * g.c
    input += task // tasks * g.h * g.w * g.c + y * few.line
    output += (task // tasks * g.oh + y) * line
    if taps is not NULL:
        taps += (task // tasks * g.oh + y) * line
    few.lines = min(each, g.oh - y)
    if floating is float:
        lanes.max_few_f32(&few, input, output, taps, relu)
    else:
        lanes.max_few_f64(&few, input, output, taps, relu)


cdef inline void _max_pool(const floating* input, floating* output, tag_t* tags, const Window* g, bint relu,
                           int threads) noexcept nogil:
    cdef Py_ssize_t task, tasks = _planes(g) * g.oh, line = g.ow * _pixel(g), plane = g.h * g.w * _pixel(g)
    cdef Py_ssize_t work = tasks * line * min(g.kh, g.h) * min(g.kw, g.w)
    cdef Inner inner = _inner_columns(g)
    cdef const Lanes* lanes = fastcnn_pool_for(micro().name)
    cdef Few few
    if (tag_t is uint8_t or tags is NULL) and _few(g, lanes, sizeof(floating), &few):
        tasks = g.n * ((g.oh + _few_lines(g) - 1) // _few_lines(g))
        threads = min(usable(threads), threads_for(tasks, work))
        if threads == 1:  # perhaps within a region of the caller's, where another of one thread takes microseconds
            for task in range(tasks):
                _max_few_rows(input, output, <uint8_t*>tags, few, task, g, relu, lanes)
            return
        for task in prange(tasks, schedule="static", num_threads=threads):
            _max_few_rows(input, output, <uint8_t*>tags, few, task, g, relu, lanes)
        return
    for task in prange(tasks, schedule="static", num_threads=min(usable(threads), threads_for(tasks, work))):
        _max_row(input + task // g.oh * plane, output + task * line, tags if tags is NULL else tags + task * line,
                 task % g.oh, inner, g, relu, lanes)


cdef void max_pool_ptr(const floating* input, floating* output, tag_t* tags, const Window* g,
                       int threads) noexcept nogil:
    """output (n, c, oh, ow), and what is kept for the backward pass in `tags` of that shape, unless it is NULL.

    Every window must hold an element of the input. Planes for indices must have fewer than 2**31 elements.
    """
    _max_pool(input, output, tags, g, False, threads)


cdef void max_pool_relu_ptr(const floating* input, floating* output, tap_t* taps, const Window* g,
                            int threads) noexcept nogil:
    """`max_pool_ptr`, then ReLU: an output that is not above 0 is 0, and its tap no tap (255 as uint8, -1 as int32).

    That is ReLU before the pooling, too: the largest of max(x, 0) is max(the largest x, 0), won by the same element
    where it is above 0 (or NaN), and where it is 0 no gradient passes ReLU. Windows of 256 taps need int32.
    """
    _max_pool(input, output, taps, g, True, threads)


cdef inline bint _outside(const tap_t* taps, Py_ssize_t count, Py_ssize_t start, Py_ssize_t end, bint relu,
                          const Lanes* lanes) noexcept nogil:
    """Whether one of the numbers is not in [start, end); with `relu`, no tap is as good."""
    cdef Py_ssize_t k
    cdef tap_t least = <tap_t>start, largest = <tap_t>start, tap, none = <tap_t>start
    if tap_t is uint8_t:
        return lanes.outside(<const uint8_t*>taps, count, start, end, NO_TAP(1) if relu else start)
    else:
        if relu:
            none = <tap_t>NO_TAP(sizeof(tap_t))
        for k in range(count):
            tap = <tap_t>start if taps[k] == none else taps[k]
            least = tap if tap < least else least
            largest = tap if tap > largest else largest
        return least < start or largest >= end


cdef inline bint _outside_column(const tap_t* taps, Py_ssize_t count, Taps real, const Window* g,
                                 bint relu) noexcept nogil:
    """Whether one of the taps, which are of the window, lies in columns that are not real."""
    cdef uint8_t[256] wrong
    cdef Py_ssize_t k, j
    cdef tap_t none = <tap_t>NO_TAP(sizeof(tap_t))
    cdef uint8_t found = 0
    if tap_t is uint8_t:
        memset(wrong, 1, 256)
        wrong[none] = not relu
        for k in range(g.kh):
            memset(wrong + k * g.kw + real.j, 0, real.columns)
        for k in range(count):
            found |= wrong[taps[k]]
    else:
        for k in range(count):
            if not relu or taps[k] != none:
                j = taps[k] % g.kw
                found |= j < real.j or j >= real.j + real.columns
    return found


cdef inline bint _wrong_taps_plane(const tap_t* taps, Inner inner_rows, Inner inner, const Window* g, bint relu,
                                   const Lanes* lanes) noexcept nogil:
    cdef Py_ssize_t pixel = _pixel(g), line = g.ow * pixel, y, x
    cdef const tap_t* row
    cdef Taps real
    if _outside(taps, g.oh * line, 0, g.kh * g.kw, relu, lanes):
        return True
    for y in range(g.oh):
        if inner_rows.first <= y < inner_rows.end and inner.first == 0 and inner.end == g.ow:
            continue
        row = taps + y * line
        if not inner_rows.first <= y < inner_rows.end:
            real = _taps(y, 0, inner, g)
            if _outside(row, line, real.i * g.kw, (real.i + real.rows) * g.kw, relu, lanes):
                return True
        x = 0
        while x < g.ow:
            if x == inner.first and x < inner.end:
                x = inner.end
                continue
            if _outside_column(row + x * pixel, pixel, _taps(y, x, inner, g), g, relu):
                return True
            x += 1
    return False


cdef inline bint _wrong_taps(const tap_t* taps, const Window* g, bint relu, int threads) noexcept nogil:
    cdef Py_ssize_t task, tasks = _planes(g), plane = g.oh * g.ow * _pixel(g), wrong = 0
    cdef Inner inner_rows = _inner_rows(g), inner = _inner_columns(g)
    cdef const Lanes* lanes = fastcnn_pool_for(micro().name)
    for task in prange(tasks, schedule="static", num_threads=min(usable(threads), threads_for(tasks, tasks * plane))):
        wrong += _wrong_taps_plane(taps + task * plane, inner_rows, inner, g, relu, lanes)
    return wrong != 0


cdef bint wrong_taps_ptr(const tap_t* taps, const Window* g, int threads) noexcept nogil:
    """Whether some tap is not of its window, or lies in the padding."""
    return _wrong_taps(taps, g, False, threads)


cdef bint wrong_relu_taps_ptr(const tap_t* taps, const Window* g, int threads) noexcept nogil:
    """`wrong_taps_ptr` of what `max_pool_relu_ptr` keeps."""
    return _wrong_taps(taps, g, True, threads)


cdef inline void _route_row(const floating* grad_output, const uint8_t* taps, floating* grad_input, Py_ssize_t row,
                            Inner inner, const Window* g, const Lanes* lanes) noexcept nogil:
    cdef Py_ssize_t phase, column, count
    cdef Cover rows = _cover(row, g.kh, g.sh, g.ph, g.dh, g.oh), columns
    cdef Run run
    for phase in range(min(g.sw, g.w)):
        column = phase
        while column < g.w:
            columns = _cover(column, g.kw, g.sw, g.pw, g.dw, g.ow)
            count = _alike(column, inner, g)
            run.first = (rows.first * g.ow + columns.first) * g.c
            run.rows, run.columns = rows.count, columns.count
            run.row_step, run.column_step = rows.step * g.ow * g.c, columns.step * g.c
            run.tag = rows.tap * g.kw + columns.tap
            run.row_tag, run.column_tag = rows.tap_step * g.kw, columns.tap_step
            _spread(&run, count, 1, g.sw, g)
            if floating is float:
                lanes.route_f32(&run, grad_output, taps, grad_input + column * g.c)
            else:
                lanes.route_f64(&run, grad_output, taps, grad_input + column * g.c)
            column += count * g.sw


cdef inline void _route_few_rows(const floating* grad_output, const uint8_t* taps, floating* grad_input, Few few,
                                 Py_ssize_t task, const Window* g, const Lanes* lanes) noexcept nogil:
    cdef Py_ssize_t each = _few_lines(g), tasks = (g.oh + each - 1) // each
    cdef Py_ssize_t y = task % tasks * each, line = g.ow * g.c, row = g.w * g.c, windows = g.ow * g.sw * g.c, k
    cdef const floating* end = grad_output + g.n * g.oh * line
    grad_output += (task // tasks * g.oh + y) * line
    taps += (task // tasks * g.oh + y) * line
    grad_input += (task // tasks * g.h + y * g.sh) * row
    few.lines = min(each, g.oh - y)
    if floating is float:
        lanes.route_few_f32(&few, grad_output, end, taps, grad_input)
    else:
        lanes.route_few_f64(&few, grad_output, end, taps, grad_input)
    if windows < row:  # columns behind the last window, then rows
        for k in range(few.lines * g.sh):
            memset(grad_input + k * row + windows, 0, (row - windows) * sizeof(floating))
    if y + few.lines == g.oh:
        memset(grad_input + few.lines * few.line, 0, (g.h - g.oh * g.sh) * row * sizeof(floating))


cdef void max_pool_taps_backward_ptr(const floating* grad_output, const tap_t* taps, floating* grad_input,
                                     const Window* g, int threads) noexcept nogil:
    """grad_input (n, c, h, w): at each pixel, the sum of the gradients of the windows whose tap it is.

    The gradient of a window of no tap (see `max_pool_relu_ptr`) goes nowhere.
    """
    cdef Py_ssize_t task, tasks = g.n * g.h, line = g.w * g.c, plane = g.oh * g.ow * g.c
    cdef Inner inner = _inner_columns(g)
    cdef const Lanes* lanes = fastcnn_pool_for(micro().name)
    cdef Few few
    if (tap_t is uint8_t and g.sh == g.kh and g.sw == g.kw and g.dh == 1 and g.dw == 1 and g.sw <= 4
            and _few(g, lanes, sizeof(floating), &few)):
        tasks = g.n * ((g.oh + _few_lines(g) - 1) // _few_lines(g))
        for task in prange(tasks, schedule="static",
                           num_threads=min(usable(threads), threads_for(tasks, g.n * (g.h * line + plane)))):
            _route_few_rows(grad_output, <const uint8_t*>taps, grad_input, few, task, g, lanes)
    elif tap_t is uint8_t and g.channels_last and g.c >= ROUTE_LANES and g.kh * g.kw <= lanes.route_taps:
        for task in prange(tasks, schedule="static",
                           num_threads=min(usable(threads), threads_for(tasks, tasks * line + g.n * plane))):
            _route_row(grad_output + task // g.h * plane, <const uint8_t*>taps + task // g.h * plane,
                       grad_input + task * line, task % g.h, inner, g, lanes)
    else:
        _scatter(grad_output, taps, grad_input, g, True, threads)


# --- what follows taps or indices through a plane ---------------------------------------------------------------------


cdef inline Py_ssize_t _block(const Window* g) noexcept nogil:
    """Channels of an image that one task owns: all where there are images enough, else a multiple of 16."""
    cdef Py_ssize_t parts = (TASKS + g.n - 1) // max(g.n, 1)
    return (_pixel(g) + 16 * parts - 1) // (16 * parts) * 16


cdef inline Py_ssize_t _scatter_lanes(const floating* values, const tag_t* tags, floating* planes, Py_ssize_t channels,
                                      Py_ssize_t pixel, const Window* g, bint add) noexcept nogil:
    cdef Py_ssize_t area = g.h * g.w, place, start, tap, y, _, k, at, wrong = 0
    cdef Py_ssize_t[256] offset  # from a window's start to a tap
    if tag_t is uint8_t:
        offset[NO_TAP(1)] = area + g.ph * g.w + g.pw  # outside from wherever a window starts
        for tap in range(g.kh * g.kw):
            offset[tap] = tap // g.kw * g.dh * g.w + tap % g.kw * g.dw
    if channels == pixel:
        memset(planes, 0, area * pixel * sizeof(floating))
    else:
        for place in range(area):
            memset(planes + place * pixel, 0, channels * sizeof(floating))
    for y in range(g.oh):
        start = (y * g.sh - g.ph) * g.w - g.pw
        for _ in range(g.ow):
            for k in range(channels):
                if tag_t is int64_t:
                    at = tags[k]
                elif tag_t is uint8_t:
                    at = start + offset[tags[k]]
                elif tags[k] < 0:
                    at = -1
                else:
                    at = start + tags[k] // g.kw * g.dh * g.w + tags[k] % g.kw * g.dw
                if <size_t>at >= <size_t>area:
                    wrong += 1
                elif add:
                    planes[at * pixel + k] += values[k]
                else:
                    planes[at * pixel + k] = values[k]
            start += g.sw
            values += pixel
            tags += pixel
    return wrong


cdef inline Py_ssize_t _scatter_block(const floating* values, const tag_t* tags, floating* planes,
                                      Py_ssize_t channels, const Window* g, bint add) noexcept nogil:
    if _pixel(g) == 1:
        return _scatter_lanes(values, tags, planes, 1, 1, g, add)
    return _scatter_lanes(values, tags, planes, channels, g.c, g, add)


cdef inline Py_ssize_t _scatter(const floating* values, const tag_t* tags, floating* planes, const Window* g,
                                bint add, int threads) noexcept nogil:
    cdef Py_ssize_t block = _block(g), blocks = (_pixel(g) + block - 1) // block
    cdef Py_ssize_t task, tasks = _planes(g) * blocks, lane, wrong = 0
    cdef Py_ssize_t small = g.oh * g.ow * _pixel(g), large = g.h * g.w * _pixel(g)
    for task in prange(tasks, schedule="static",
                       num_threads=min(usable(threads), threads_for(tasks, _planes(g) * (small + large)))):
        lane = task % blocks * block
        wrong += _scatter_block(values + task // blocks * small + lane, tags + task // blocks * small + lane,
                                planes + task // blocks * large + lane, min(block, _pixel(g) - lane), g, add)
    return wrong


cdef Py_ssize_t scatter_ptr(const floating* values, const int64_t* indices, floating* planes, const Window* g,
                            bint add, int threads) noexcept nogil:
    """Put (or, with `add`, add up) values (n, c, oh, ow) where their indices say, in planes (n, c, h, w) of zeros.

    The last in row-major order wins where one index repeats. Returns how many indices lie outside the plane; they are
    passed over.
    """
    return _scatter(values, indices, planes, g, add, threads)


cdef inline Py_ssize_t _take_block(floating* planes, const int64_t* indices, floating* values, Py_ssize_t channels,
                                   const Window* g) noexcept nogil:
    cdef Py_ssize_t pixel = _pixel(g), area = g.h * g.w, place, k, wrong = 0
    cdef int64_t index
    for place in range(g.oh * g.ow - 1, -1, -1):
        for k in range(channels):
            index = indices[place * pixel + k]
            if <size_t>index >= <size_t>area:
                wrong += 1
            else:
                values[place * pixel + k] = planes[index * pixel + k]
                planes[index * pixel + k] = 0
    return wrong


cdef Py_ssize_t take_ptr(floating* planes, const int64_t* indices, floating* values, const Window* g,
                         int threads) noexcept nogil:
    """Move elements of planes (n, c, h, w) to values (n, c, oh, ow): the gradient of `scatter_ptr` without `add`.

    What is taken leaves 0 behind. The last index in row-major order is served first, for it is the one whose value
    stayed. Returns how many indices lie outside the plane; their values are not set.
    """
    cdef Py_ssize_t block = _block(g), blocks = (_pixel(g) + block - 1) // block
    cdef Py_ssize_t task, tasks = _planes(g) * blocks, lane, wrong = 0
    cdef Py_ssize_t small = g.oh * g.ow * _pixel(g), large = g.h * g.w * _pixel(g)
    for task in prange(tasks, schedule="static",
                       num_threads=min(usable(threads), threads_for(tasks, _planes(g) * small))):
        lane = task % blocks * block
        wrong += _take_block(planes + task // blocks * large + lane, indices + task // blocks * small + lane,
                             values + task // blocks * small + lane, min(block, _pixel(g) - lane), g)
    return wrong


# --- average pooling -------------------------------------------------------------------------------------------------


cdef struct Rule:
    # What a mean is taken of, and what it is divided by.
    bint adaptive                   # an even partition; the window's kernel, stride, padding are not read
    bint count_include_pad
    Py_ssize_t divisor_override     # 0 for none


cdef struct Span:
    # The elements [start, end) that a window holds along one axis, and how many it counts in its divisor.
    Py_ssize_t start, end, counted


cdef inline Span _span(Py_ssize_t place, Py_ssize_t places, Py_ssize_t size, Py_ssize_t kernel, Py_ssize_t stride,
                       Py_ssize_t padding, Rule rule) noexcept nogil:
    cdef Span span
    if rule.adaptive:
        span.start = place * size // places
        span.end = ((place + 1) * size + places - 1) // places
        span.counted = span.end - span.start
        return span
    span.start = place * stride - padding
    span.end = min(span.start + kernel, size + padding)  # what a ceil-mode window overhangs is not counted
    span.counted = span.end - span.start
    span.start = max(span.start, 0)
    span.end = min(span.end, size)
    if not rule.count_include_pad:
        span.counted = span.end - span.start
    return span


cdef inline Span _row_span(Py_ssize_t y, const Window* g, Rule rule) noexcept nogil:
    return _span(y, g.oh, g.h, g.kh, g.sh, g.ph, rule)


cdef inline Span _column_span(Py_ssize_t x, const Window* g, Rule rule) noexcept nogil:
    return _span(x, g.ow, g.w, g.kw, g.sw, g.pw, rule)


cdef inline Py_ssize_t _divisor(Span rows, Span columns, Rule rule) noexcept nogil:
    """The one place that says what a window's sum is divided by, forward and backward."""
    return rule.divisor_override if rule.divisor_override else rows.counted * columns.counted


cdef inline void _mean(const Run* run, const floating* source, floating* output, Py_ssize_t divisor, bint add,
                       const Lanes* lanes) noexcept nogil:
    if floating is float:
        lanes.mean_f32(run, source, output, divisor, add)
    else:
        lanes.mean_f64(run, source, output, divisor, add)


cdef inline void _mean_row(const floating* input, floating* output, Py_ssize_t y, Inner inner, const Window* g,
                           Rule rule, const Lanes* lanes) noexcept nogil:
    cdef Py_ssize_t pixel = _pixel(g), x = 0, count
    cdef Span rows = _row_span(y, g, rule), columns
    cdef Run run
    while x < g.ow:
        columns = _column_span(x, g, rule)
        count = inner.end - x if inner.first <= x < inner.end else 1
        run.first = (rows.start * g.w + columns.start) * pixel
        run.rows, run.columns = rows.end - rows.start, columns.end - columns.start
        run.row_step, run.column_step = g.w * pixel, pixel
        _spread(&run, count, g.sw, 1, g)
        _mean(&run, input, output + x * pixel, _divisor(rows, columns, rule), False, lanes)
        x += count


cdef void _mean_forward(const floating* input, floating* output, const Window* g, Rule rule,
                        int threads) noexcept nogil:
    cdef Py_ssize_t task, tasks = _planes(g) * g.oh, line = g.ow * _pixel(g), plane = g.h * g.w * _pixel(g)
    cdef Py_ssize_t work = _planes(g) * plane if rule.adaptive else tasks * line * min(g.kh, g.h) * min(g.kw, g.w)
    cdef Inner inner = Inner(0, 0) if rule.adaptive else _inner_columns(g)
    cdef const Lanes* lanes = fastcnn_pool_for(micro().name)
    for task in prange(tasks, schedule="static", num_threads=min(usable(threads), threads_for(tasks, work))):
        _mean_row(input + task // g.oh * plane, output + task * line, task % g.oh, inner, g, rule, lanes)


cdef inline Cover _partition_cover(Py_ssize_t pixel, Py_ssize_t size, Py_ssize_t places) noexcept nogil:
    """The windows of an even partition that hold a pixel."""
    cdef Py_ssize_t first = pixel * places // size
    return Cover(first, 1, ((pixel + 1) * places + size - 1) // size - first, 0, 0)


cdef inline bint _equally_counted(Cover cover, bint along_rows, const Window* g, Rule rule) noexcept nogil:
    """Whether all windows of `cover` count the same in their divisors, along that axis."""
    cdef Py_ssize_t place, counted = 0, this
    for place in range(cover.first, cover.first + cover.count):
        this = _row_span(place, g, rule).counted if along_rows else _column_span(place, g, rule).counted
        if place > cover.first and this != counted:
            return False
        counted = this
    return True


cdef inline void _share_row(const floating* grad_output, floating* grad_input, Py_ssize_t row, Inner inner,
                            const Window* g, Rule rule, const Lanes* lanes) noexcept nogil:
    cdef Py_ssize_t pixel = _pixel(g), step = 1 if rule.adaptive else g.sw
    cdef Py_ssize_t phase, column, count, windows, divisor, y, x
    cdef Cover rows, columns
    cdef Run run
    cdef bint rows_equal
    cdef floating* target
    rows = _partition_cover(row, g.h, g.oh) if rule.adaptive else _cover(row, g.kh, g.sh, g.ph, 1, g.oh)
    rows_equal = _equally_counted(rows, True, g, rule)
    run.row_step, run.column_step = g.ow * pixel, pixel
    for phase in range(min(step, g.w)):
        column = phase
        while column < g.w:
            target = grad_input + column * pixel
            if rule.adaptive:
                columns = _partition_cover(column, g.w, g.ow)
                count = (columns.first + 1) * g.w // g.ow - column if columns.count == 1 else 1
                _spread(&run, count, 0, 1, g)
            else:
                columns = _cover(column, g.kw, g.sw, g.pw, 1, g.ow)
                count = _alike(column, inner, g)
                _spread(&run, count, 1, g.sw, g)
            windows = rows.count * columns.count
            if not windows or rule.divisor_override or (rows_equal and _equally_counted(columns, False, g, rule)):
                run.first = (rows.first * g.ow + columns.first) * pixel
                run.rows, run.columns = rows.count, columns.count
                divisor = _divisor(_row_span(rows.first, g, rule), _column_span(columns.first, g, rule), rule)
                _mean(&run, grad_output, target, divisor if windows else 1, False, lanes)
            else:
                run.rows = run.columns = 1
                for y in range(rows.first, rows.first + rows.count):
                    for x in range(columns.first, columns.first + columns.count):
                        run.first = (y * g.ow + x) * pixel
                        divisor = _divisor(_row_span(y, g, rule), _column_span(x, g, rule), rule)
                        _mean(&run, grad_output, target, divisor, y > rows.first or x > columns.first, lanes)
            column += count * step


cdef inline bint _apart(const Window* g, Rule rule) noexcept nogil:
    """Whether no pixel lies in two windows."""
    if rule.adaptive:
        return g.h % g.oh == 0 and g.w % g.ow == 0
    return (g.sh >= g.kh or g.oh == 1) and (g.sw >= g.kw or g.ow == 1)


cdef inline void _fill_plane(const floating* grad_output, floating* grad_input, const Window* g,
                             Rule rule) noexcept nogil:
    """The gradient of a plane whose windows are apart: a line for each row of windows, copied to the others."""
    cdef Py_ssize_t y, x, j, row = 0, column
    cdef Span rows, columns
    cdef floating share
    cdef floating* line
    for y in range(g.oh):
        rows = _row_span(y, g, rule)
        memset(grad_input + row * g.w, 0, (rows.start - row) * g.w * sizeof(floating))
        line = grad_input + rows.start * g.w
        column = 0
        for x in range(g.ow):
            columns = _column_span(x, g, rule)
            share = (0 + grad_output[y * g.ow + x]) / <floating>_divisor(rows, columns, rule)  # a sum begins with 0
            for j in range(column, columns.start):
                line[j] = 0
            for j in range(columns.start, columns.end):
                line[j] = share
            column = columns.end
        for j in range(column, g.w):
            line[j] = 0
        row = rows.end
        for j in range(rows.start + 1, row):
            memcpy(grad_input + j * g.w, line, g.w * sizeof(floating))
    memset(grad_input + row * g.w, 0, (g.h - row) * g.w * sizeof(floating))


cdef void _mean_backward(const floating* grad_output, floating* grad_input, const Window* g, Rule rule,
                         int threads) noexcept nogil:
    cdef Py_ssize_t task, tasks = _planes(g) * g.h, line = g.w * _pixel(g), plane = g.oh * g.ow * _pixel(g)
    cdef Py_ssize_t planes = _planes(g), area = g.h * g.w
    cdef Inner inner = Inner(0, 0) if rule.adaptive else _inner_columns(g)
    cdef const Lanes* lanes = fastcnn_pool_for(micro().name)
    if _pixel(g) == 1 and _apart(g, rule):
        for task in prange(planes, schedule="static",
                           num_threads=min(usable(threads), threads_for(planes, planes * area))):
            _fill_plane(grad_output + task * plane, grad_input + task * area, g, rule)
        return
    for task in prange(tasks, schedule="static",
                       num_threads=min(usable(threads), threads_for(tasks, tasks * line + _planes(g) * plane))):
        _share_row(grad_output + task // g.h * plane, grad_input + task * line, task % g.h, inner, g, rule, lanes)


cdef void avg_pool_ptr(const floating* input, floating* output, const Window* g, bint count_include_pad,
                       Py_ssize_t divisor_override, int threads) noexcept nogil:
    """output (n, c, oh, ow): the sum of each window over its divisor (0 for no override). Dilation is taken as 1."""
    _mean_forward(input, output, g, Rule(False, count_include_pad, divisor_override), threads)


cdef void avg_pool_backward_ptr(const floating* grad_output, floating* grad_input, const Window* g,
                                bint count_include_pad, Py_ssize_t divisor_override, int threads) noexcept nogil:
    """grad_input (n, c, h, w): at each pixel, the sum over the windows that hold it of gradient / divisor."""
    _mean_backward(grad_output, grad_input, g, Rule(False, count_include_pad, divisor_override), threads)


cdef void adaptive_avg_pool_ptr(const floating* input, floating* output, const Window* g, int threads) noexcept nogil:
    """output (n, c, oh, ow): the mean of rows y*h//oh to ceil((y+1)*h/oh), columns alike; sizes are all it reads."""
    _mean_forward(input, output, g, Rule(True, False, 0), threads)


cdef void adaptive_avg_pool_backward_ptr(const floating* grad_output, floating* grad_input,
                                         const Window* g, int threads) noexcept nogil:
    """grad_input (n, c, h, w): at each pixel, the sum over the windows that hold it of gradient / window's size."""
    _mean_backward(grad_output, grad_input, g, Rule(True, False, 0), threads)


# --- the doors for memoryviews: arguments are trusted, `functional` checks them ---------------------------------------


def max_pool(const floating[:, :, :, :] input, floating[:, :, :, :] output, tag_t[:, :, :, :] tags, Window g):
    """max_pool(input, output, tags, g): fill `output` and `tags` (uint8 or int32 taps, int64 indices)."""
    with nogil:
        max_pool_ptr(&input[0, 0, 0, 0], &output[0, 0, 0, 0], &tags[0, 0, 0, 0], &g, max_threads())


def max_pool_values(const floating[:, :, :, :] input, floating[:, :, :, :] output, Window g):
    """max_pool_values(input, output, g): fill `output` alone."""
    with nogil:
        max_pool_ptr(&input[0, 0, 0, 0], &output[0, 0, 0, 0], <uint8_t*>NULL, &g, max_threads())


def max_pool_relu(const floating[:, :, :, :] input, floating[:, :, :, :] output, tap_t[:, :, :, :] taps, Window g):
    """max_pool_relu(input, output, taps, g): fill `output` and `taps`."""
    with nogil:
        max_pool_relu_ptr(&input[0, 0, 0, 0], &output[0, 0, 0, 0], &taps[0, 0, 0, 0], &g, max_threads())


def max_pool_taps_backward(const floating[:, :, :, :] grad_output, const tap_t[:, :, :, :] taps,
                           floating[:, :, :, :] grad_input, Window g, bint relu):
    """max_pool_taps_backward(grad_output, taps, grad_input, g, relu) -> bool: fill `grad_input`.

    False if a tap is wrong. With `relu`, they may be those of `max_pool_relu`.
    """
    cdef bint wrong
    with nogil:
        wrong = _wrong_taps(&taps[0, 0, 0, 0], &g, relu, max_threads())
        if not wrong:
            max_pool_taps_backward_ptr(&grad_output[0, 0, 0, 0], &taps[0, 0, 0, 0], &grad_input[0, 0, 0, 0], &g,
                                       max_threads())
    return not wrong


def scatter(const floating[:, :, :, :] values, const int64_t[:, :, :, :] indices, floating[:, :, :, :] planes,
            Window g, bint add):
    """scatter(values, indices, planes, g, add) -> bool: fill `planes`; False if an index is outside them."""
    cdef Py_ssize_t wrong
    with nogil:
        wrong = scatter_ptr(&values[0, 0, 0, 0], &indices[0, 0, 0, 0], &planes[0, 0, 0, 0], &g, add, max_threads())
    return not wrong


def take(floating[:, :, :, :] planes, const int64_t[:, :, :, :] indices, floating[:, :, :, :] values, Window g):
    """take(planes, indices, values, g) -> bool: fill `values`, empty `planes`; False if an index is outside them."""
    cdef Py_ssize_t wrong
    with nogil:
        wrong = take_ptr(&planes[0, 0, 0, 0], &indices[0, 0, 0, 0], &values[0, 0, 0, 0], &g, max_threads())
    return not wrong


def avg_pool(const floating[:, :, :, :] input, floating[:, :, :, :] output, Window g, bint count_include_pad,
             Py_ssize_t divisor_override):
    """avg_pool(input, output, g, count_include_pad, divisor_override): fill `output`; 0 for no override."""
    with nogil:
        avg_pool_ptr(&input[0, 0, 0, 0], &output[0, 0, 0, 0], &g, count_include_pad, divisor_override, max_threads())


def avg_pool_backward(const floating[:, :, :, :] grad_output, floating[:, :, :, :] grad_input, Window g,
                      bint count_include_pad, Py_ssize_t divisor_override):
    """avg_pool_backward(grad_output, grad_input, g, count_include_pad, divisor_override): fill `grad_input`."""
    with nogil:
        avg_pool_backward_ptr(&grad_output[0, 0, 0, 0], &grad_input[0, 0, 0, 0], &g, count_include_pad,
                              divisor_override, max_threads())


def adaptive_avg_pool(const floating[:, :, :, :] input, floating[:, :, :, :] output, Window g):
    """adaptive_avg_pool(input, output, g): fill `output`; of `g`, only the sizes and the order are read."""
    with nogil:
        adaptive_avg_pool_ptr(&input[0, 0, 0, 0], &output[0, 0, 0, 0], &g, max_threads())


def adaptive_avg_pool_backward(const floating[:, :, :, :] grad_output, floating[:, :, :, :] grad_input, Window g):
    """adaptive_avg_pool_backward(grad_output, grad_input, g): fill `grad_input`."""
    with nogil:
        adaptive_avg_pool_backward_ptr(&grad_output[0, 0, 0, 0], &grad_input[0, 0, 0, 0], &g, max_threads())
