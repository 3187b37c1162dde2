"""Checked calls, remembered: what a function found out about its arguments serves the next call of their like.

A function of `fastcnn.functional` that is marked `remembered` checks its arguments and returns a `Call`: which kernel,
its geometry, the arrays as the kernel takes them, the shapes and memory orders of the results. The call is made, and
kept under the signature of the arguments: the type, shape, strides and flags of each array, the type and value of each
option. (It is found by a number made of that, and then compared with it.) The next call with the same signature would
pass the same checks, so it goes straight to the kernel.

What makes that right:

  - All that a marked function decides, it decides from the signature. Numbers that change from call to call (a learning
    rate, a seed) are floats, which are not part of it: they are checked before, and the kernel gets them every time.
  - A call is kept only if each of its arrays is the memory of one argument, uncopied, and no other argument's. So what
    needs a conversion, and what shares memory, takes the long way every time. One array in two places is one argument.
  - What depends on the elements of an array (a class number out of range) is for the kernel to refuse; then the long
    way finds the words for it.
  - A call holds no array, and does not change, but for one word that tells its scratch: threads share it.
"""

cimport numpy as np
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.ref cimport Py_INCREF, PyObject
from cpython.exc cimport PyErr_Clear
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cython cimport floating
from libc.math cimport NAN, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastcnn.kernels.activation cimport (
    RELU, Activation, activation_backward_ptr, activation_ptr, add_ptr, dropout_backward_ptr, dropout_ptr,
)
from fastcnn.kernels.conv cimport FORWARD, conv_forward_ptr, conv_norm_ptr, conv_scratch
from fastcnn.kernels.conv_gradients cimport conv_gradients_ptr, conv_gradients_scratch
from fastcnn.kernels.conv_pool cimport (
    conv_pool_backward_ptr, conv_pool_backward_scratch, conv_pool_ptr, conv_pool_scratch,
)
from fastcnn.kernels.geometry cimport Window
from fastcnn.kernels.im2col cimport col2im_ptr, im2col_ptr
from fastcnn.kernels.linear cimport (
    linear_backward_data_ptr, linear_backward_weight_ptr, linear_forward_ptr, linear_scratch,
)
from fastcnn.kernels.loss cimport (
    cross_entropy_ptr, mse_blocks, mse_loss_ptr, softmax_backward_ptr, softmax_ptr,
)
from fastcnn.kernels.memory cimport Block, borrow, give_back, new_block
from fastcnn.kernels.norm cimport (
    batch_norm_apply_ptr, batch_norm_blocks, batch_norm_factors_ptr, batch_norm_grad_ptr, batch_norm_overflow_ptr,
    batch_norm_slopes_ptr, batch_norm_sums_ptr, batch_statistics_ptr, move_running_ptr,
)
from fastcnn.kernels.norm_conv cimport (
    norm_conv_backward_ptr, norm_conv_backward_scratch, norm_conv_ptr, norm_conv_scratch,
)
from fastcnn.kernels.optim cimport adam_update_ptr, norm_blocks, scale_ptr, sgd_update_ptr, sums_of_squares_ptr
from fastcnn.kernels.pooling cimport (
    max_pool_relu_ptr, wrong_relu_taps_ptr,
    adaptive_avg_pool_backward_ptr, adaptive_avg_pool_ptr, avg_pool_backward_ptr, avg_pool_ptr, max_pool_ptr,
    max_pool_taps_backward_ptr, scatter_ptr, take_ptr, wrong_taps_ptr,
)
from fastcnn.kernels.threads cimport max_threads
from fastcnn.kernels.winners cimport winners_backward_ptr, winners_scratch

import functools

import numpy

from fastcnn.kernels.memory import smallest_block

np.import_array()

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyTypeObject:
        pass
    PyTypeObject PyArray_Type
    object PyArray_New(PyTypeObject*, int, np.npy_intp*, int, np.npy_intp*, void*, int, int, PyObject*)

cdef extern from "micro/norm.h":
    enum:
        MASK_NONE "FASTCNN_MASK_NONE"
        MASK_OUTPUT "FASTCNN_MASK_OUTPUT"
        MASK_AGAIN "FASTCNN_MASK_AGAIN"

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*)

cdef enum:
    MOST_WORDS = 192
    MOST_ARRAYS = 16
    MOST_NUMBERS = 8
    MOST_AXES = 8
    MOST_TEXT = 4        # words
    MOST_INTEGERS = 8
    MOST_DEPTH = 4       # of tuples in tuples
    MASK_THREADS = 8191  # MOST_THREADS is below
    MOST_CALLS = 4096    # kept by one function; a network asks for a few dozen, step after step

cdef Py_ssize_t SMALLEST = smallest_block()
cdef int64_t MOST_INTEGER = <int64_t>1 << 54
# Of scratch, in bytes: more than any machine has, and so few that a word holds them and the number of threads.
cdef int64_t MOST_SCRATCH = <int64_t>1 << 50

cdef enum:
    NONE, BOOL, INTEGER, FLOAT, TEXT, TUPLE, ARRAY, AGAIN


# --- the signature of arguments -------------------------------------------------------------------------------------


cdef struct Arguments:
    # What a function was called with, taken apart.
    int words, arrays, numbers
    bint usual                          # nothing among them that a signature cannot tell
    int64_t word[MOST_WORDS]            # the signature
    PyObject* array[MOST_ARRAYS]        # in the order in which they come, inside tuples too
    double number[MOST_NUMBERS]


cdef uint64_t _digest(const Arguments* a) noexcept:
    """A number that stands for the signature: four polynomials of the words, at an odd number."""
    cdef uint64_t sums[4]
    cdef uint64_t factor = <uint64_t>0x9E3779B97F4A7C15
    cdef int i, whole = a.words // 4 * 4
    sums[0], sums[1], sums[2], sums[3] = a.words, 1, 2, 3
    for i in range(0, whole, 4):
        sums[0] = sums[0] * factor + <uint64_t>a.word[i]
        sums[1] = sums[1] * factor + <uint64_t>a.word[i + 1]
        sums[2] = sums[2] * factor + <uint64_t>a.word[i + 2]
        sums[3] = sums[3] * factor + <uint64_t>a.word[i + 3]
    for i in range(whole, a.words):
        sums[0] = sums[0] * factor + <uint64_t>a.word[i]
    for i in range(1, 4):
        sums[0] = (sums[0] ^ sums[0] >> 32) * factor + sums[i]
    return (sums[0] ^ sums[0] >> 29) * factor >> 4  # of 60 bits, which a small int of Python holds


cdef inline void _tell(Arguments* a, int64_t word) noexcept:
    if a.words < MOST_WORDS:
        a.word[a.words] = word
        a.words += 1
    else:
        a.usual = False


cdef void _tell_array(Arguments* a, np.ndarray array) noexcept:
    cdef int axis, axes = np.PyArray_NDIM(array), kind = np.PyArray_TYPE(array), flags = np.PyArray_FLAGS(array)
    if (a.arrays == MOST_ARRAYS or axes > MOST_AXES or kind > np.NPY_DOUBLE or not flags & np.NPY_ARRAY_ALIGNED
            or not np.PyArray_ISNOTSWAPPED(array)):
        a.usual = False
        return
    for axis in range(a.arrays):
        if a.array[axis] == <PyObject*>array:
            _tell(a, AGAIN | axis << 8)
            return
    a.array[a.arrays] = <PyObject*>array
    a.arrays += 1
    _tell(a, ARRAY | kind << 8 | axes << 16 | (flags & np.NPY_ARRAY_WRITEABLE != 0) << 24)
    for axis in range(axes):
        _tell(a, np.PyArray_DIMS(array)[axis])
        _tell(a, np.PyArray_STRIDES(array)[axis])


cdef void _tell_text(Arguments* a, str value):
    cdef Py_ssize_t size, i
    cdef const char* text = PyUnicode_AsUTF8AndSize(value, &size)
    cdef int64_t word[MOST_TEXT]
    if text == NULL or size > <Py_ssize_t>sizeof(word):
        PyErr_Clear()
        a.usual = False
        return
    memset(word, 0, sizeof(word))
    memcpy(word, text, size)
    _tell(a, TEXT | size << 8)
    for i in range((size + 7) // 8):
        _tell(a, word[i])


cdef int _take_apart(Arguments* a, tuple values, int depth) except -1:
    """Add to the signature, the arrays and the numbers; of tuples in tuples to a depth that no right call exceeds."""
    cdef object value
    cdef int64_t number
    cdef int overflow
    for value in values:
        if type(value) is np.ndarray:
            _tell_array(a, value)
        elif value is None:
            _tell(a, NONE)
        elif type(value) is bool:
            _tell(a, BOOL | <int64_t>(value is True) << 8)
        elif type(value) is int:
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow or not -MOST_INTEGER < number < MOST_INTEGER:
                a.usual = False
            else:
                _tell(a, INTEGER | number * 256)
        elif type(value) is float:
            if a.numbers == MOST_NUMBERS:
                a.usual = False
            else:
                a.number[a.numbers] = value
                a.numbers += 1
                _tell(a, FLOAT)
        elif type(value) is tuple:
            _tell(a, TUPLE | <int64_t>len(value) << 8)
            if depth == MOST_DEPTH:
                a.usual = False
            else:
                _take_apart(a, value, depth + 1)
        elif type(value) is str:
            _tell_text(a, value)
        else:
            a.usual = False
    return 0


# --- kernels as calls take them ---------------------------------------------------------------------------------------


cdef struct Facts:
    # What a kernel needs to know besides pointers and numbers.
    Window window, pool
    Py_ssize_t integer[MOST_INTEGERS]
    Py_ssize_t itemsize

# A kernel takes pointers to the arrays and then to the results, NULL for None; `number` are the float arguments, and
# the first is where it leaves a number that it returns. What it returns itself is whether it refused the elements.
ctypedef bint (*Run)(const Facts*, void** array, double* number, void* scratch, int threads) noexcept nogil
ctypedef Py_ssize_t (*Scratch)(const Facts*, int threads) noexcept nogil

cdef struct Kernel:
    Run f32, f64
    Scratch scratch             # NULL for none

cdef Kernel _kernels[64]
cdef dict _numbers = {}         # of the kernels, by name


cdef _register(str name, Run f32, Run f64, Scratch scratch):
    _numbers[name] = len(_numbers)
    _kernels[_numbers[name]] = Kernel(f32, f64, scratch)


cdef bint _activation(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    activation_ptr(<Activation>f.integer[0], a[0], a[1], f.integer[1], <floating>number[0])
    return False


cdef bint _activation_backward(const Facts* f, floating** a, double* number, void* scratch,
                               int threads) noexcept nogil:
    activation_backward_ptr(<Activation>f.integer[0], a[0], a[1], a[2], f.integer[1], <floating>number[0])
    return False


cdef bint _conv(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    conv_forward_ptr(a[0], a[1], a[2], a[3], &f.window, f.integer[0], f.integer[1], scratch, threads)
    return False


cdef bint _conv_norm(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    conv_norm_ptr(a[0], a[1], a[2], a[3], a[4], a[5], a[6], f.integer[2], a[7], &f.window, f.integer[0], f.integer[1],
                  scratch, threads)
    return False


cdef Py_ssize_t _conv_scratch(const Facts* f, int threads) noexcept nogil:
    return conv_scratch(FORWARD, &f.window, f.integer[0], f.integer[1], threads, f.itemsize)


cdef bint _conv_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    conv_gradients_ptr(a[0], a[1], a[2], a[3], a[4], a[5], &f.window, f.integer[0], f.integer[1], False, scratch,
                       threads)
    return False


cdef Py_ssize_t _conv_backward_scratch(const Facts* f, int threads) noexcept nogil:
    return conv_gradients_scratch(&f.window, f.integer[0], f.integer[1], threads, f.itemsize)


cdef inline Py_ssize_t _weights(const Facts* f) noexcept nogil:
    return f.window.c // f.integer[1] * f.window.kh * f.window.kw * f.integer[0]


cdef bint _im2col(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    im2col_ptr(a[0], a[1], &f.window, threads)
    return False


cdef bint _col2im(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    col2im_ptr(a[0], a[1], &f.window, threads)
    return False


cdef bint _add(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    add_ptr(a[0], a[1], a[2], f.integer[0])
    return False


cdef bint _dropout(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    # The seed comes as its upper and lower half, then the threshold and the scale.
    dropout_ptr(a[0], a[1], <uint8_t*>a[2], f.integer[0], f.integer[1], f.integer[2], f.integer[3],
                <uint64_t>number[0] << 32 | <uint64_t>number[1], <uint64_t>number[2], <floating>number[3])
    return False


cdef bint _dropout_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    dropout_backward_ptr(a[0], <const uint8_t*>a[1], a[2], f.integer[0], <floating>number[0])
    return False


# Batch norm's integers are images, channels, pixels, whether channels come last, then what each function says.


cdef bint _norm_factors(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    # From input, running mean and variance, weight, bias, statistics: mean, invstd, scale, shift; of the batch if
    # integer 4, whose statistics are taken unless they are given.
    cdef Py_ssize_t n = f.integer[0], c = f.integer[1], plane = f.integer[2], i
    cdef double* statistics = <double*>scratch
    cdef double* partials = statistics + 2 * c
    cdef floating* factors = <floating*>(partials + 3 * c * batch_norm_blocks(n, c, plane, f.integer[3]))
    if f.integer[4] and a[5] != NULL:
        memcpy(statistics, a[5], 2 * c * sizeof(double))
    elif f.integer[4]:
        batch_statistics_ptr(a[0], n, c, plane, f.integer[3], partials, statistics, statistics + c)
    else:
        for i in range(c):
            statistics[i], statistics[c + i] = a[1][i], a[2][i]
    batch_norm_factors_ptr(statistics, statistics + c, a[3], a[4], number[1], c, factors)
    if f.integer[4] and batch_norm_overflow_ptr(statistics, n * plane, number[0], c, a[2]) < c:
        return True
    if f.integer[4] and a[1] != NULL:
        move_running_ptr(statistics, 1, number[0], c, a[1])
        move_running_ptr(statistics + c, n * plane / <double>(n * plane - 1), number[0], c, a[2])
    for i in range(4):
        memcpy(a[6 + i], factors + i * c, c * sizeof(floating))
    return False


cdef Py_ssize_t _norm_factors_scratch(const Facts* f, int threads) noexcept nogil:
    cdef Py_ssize_t blocks = batch_norm_blocks(f.integer[0], f.integer[1], f.integer[2], f.integer[3])
    return f.integer[1] * ((2 + 3 * blocks) * <Py_ssize_t>sizeof(double) + 4 * f.itemsize)


cdef bint _norm_apply(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    # From input, residual, mean, scale and shift; then ReLU if integer 4.
    batch_norm_apply_ptr(a[0], a[1], a[2], a[3], a[4], f.integer[4], a[5], f.integer[0], f.integer[1], f.integer[2],
                         f.integer[3])
    return False


cdef bint _norm_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    # From grad_output, input, ReLU's output or its scale and shift, weight, mean, invstd, sums (taken unless given):
    # the gradients of input, weight and bias, and grad_output behind ReLU if integer 5; by the batch's mean and
    # variance if integer 4.
    cdef Py_ssize_t n = f.integer[0], c = f.integer[1], plane = f.integer[2]
    cdef double* sums = <double*>scratch
    cdef double* partials = sums + 2 * c
    cdef floating* slopes = <floating*>(partials + 3 * c * batch_norm_blocks(n, c, plane, f.integer[3]))
    cdef floating* grads = slopes + 3 * c
    cdef const floating* grad_output = a[0]
    cdef floating* masked = <floating*>NULL
    cdef int mask = MASK_OUTPUT if a[2] != NULL else MASK_AGAIN if a[3] != NULL else MASK_NONE
    cdef bint given = a[8] != NULL
    if f.integer[5] and mask != MASK_NONE:
        masked = a[12]
    if given:
        sums = <double*>a[8]
    else:
        batch_norm_sums_ptr(grad_output, a[1], mask, a[2], a[6], a[3], a[4], masked, n, c, plane, f.integer[3],
                            partials, sums, sums + c)
    batch_norm_slopes_ptr(sums, sums + c, a[5], a[7], n * plane, c, grads, slopes)
    if masked != NULL:
        grad_output, mask = masked, MASK_NONE
    batch_norm_grad_ptr(grad_output, a[1], mask, a[2], a[6], a[3], a[4], slopes,
                        slopes + c if f.integer[4] else <floating*>NULL, slopes + 2 * c, a[9], given, n, c, plane,
                        f.integer[3])
    memcpy(a[10], grads, c * sizeof(floating))
    memcpy(a[11], grads + c, c * sizeof(floating))
    return False


cdef Py_ssize_t _norm_backward_scratch(const Facts* f, int threads) noexcept nogil:
    cdef Py_ssize_t blocks = batch_norm_blocks(f.integer[0], f.integer[1], f.integer[2], f.integer[3])
    return f.integer[1] * ((2 + 3 * blocks) * <Py_ssize_t>sizeof(double) + 5 * f.itemsize)


cdef bint _norm_conv(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    # From input, mean, scale, shift, weight and bias: the output, and its statistics if integer 4 says so. ReLU if
    # integer 2; integer 3 has the bytes of a part.
    norm_conv_ptr(a[0], a[1], a[2], a[3], f.integer[2], a[4], a[5], a[6], <double*>a[7] if f.integer[4] else NULL,
                  &f.window, f.integer[0], f.integer[1], f.integer[3], scratch, threads)
    return False


cdef Py_ssize_t _norm_conv_scratch(const Facts* f, int threads) noexcept nogil:
    return norm_conv_scratch(&f.window, f.integer[0], f.integer[1], f.integer[3], f.integer[4], threads, f.itemsize)


cdef bint _norm_conv_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    # From grad_output, input, mean, scale, shift and weight: the gradients of what is convolved, of weight and bias,
    # then batch norm's sums if integer 4 says so.
    norm_conv_backward_ptr(a[0], a[1], a[2], a[3], a[4], f.integer[2], a[5], a[6], a[7], a[8],
                           <double*>a[9] if f.integer[4] else NULL, &f.window, f.integer[0], f.integer[1],
                           f.integer[3], scratch, threads)
    return False


cdef Py_ssize_t _norm_conv_backward_scratch(const Facts* f, int threads) noexcept nogil:
    return norm_conv_backward_scratch(&f.window, f.integer[0], f.integer[1], f.integer[3], f.integer[4], threads,
                                      f.itemsize)


cdef bint _linear(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    # Integers are rows, features, outputs, then whether ReLU comes after.
    linear_forward_ptr(a[0], a[1], a[2], a[3], f.integer[0], f.integer[1], f.integer[2], scratch, threads)
    if f.integer[3]:
        activation_ptr(RELU, a[3], a[3], f.integer[0] * f.integer[2], <floating>0)
    return False


cdef bint _linear_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    # From grad_output, input, weight, ReLU's output if it came after.
    cdef const floating* grad_output = a[0]
    cdef floating* masked = <floating*>(<char*>scratch + _linear_scratch(f, threads))
    if a[3] != NULL:
        activation_backward_ptr(RELU, grad_output, a[3], masked, f.integer[0] * f.integer[2], <floating>0)
        grad_output = masked
    if a[4] != NULL:
        linear_backward_data_ptr(grad_output, a[2], a[4], f.integer[0], f.integer[1], f.integer[2], scratch, threads)
    if a[5] != NULL or a[6] != NULL:
        linear_backward_weight_ptr(grad_output, a[1], a[5], a[6], f.integer[0], f.integer[1], f.integer[2], scratch,
                                   threads)
    return False


cdef Py_ssize_t _linear_scratch(const Facts* f, int threads) noexcept nogil:
    return (linear_scratch(f.integer[0], f.integer[1], f.integer[2], threads, f.itemsize) + 63) // 64 * 64


cdef Py_ssize_t _linear_backward_scratch(const Facts* f, int threads) noexcept nogil:
    return _linear_scratch(f, threads) + f.integer[0] * f.integer[2] * f.itemsize


cdef bint _max_pool(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    if f.integer[1] and f.integer[0] == 4:
        max_pool_relu_ptr(a[0], a[1], <int32_t*>a[2], &f.window, threads)
    elif f.integer[1]:
        max_pool_relu_ptr(a[0], a[1], <uint8_t*>a[2], &f.window, threads)
    elif f.integer[0] == 8:
        max_pool_ptr(a[0], a[1], <int64_t*>a[2], &f.window, threads)
    elif f.integer[0] == 4:
        max_pool_ptr(a[0], a[1], <int32_t*>a[2], &f.window, threads)
    else:
        max_pool_ptr(a[0], a[1], <uint8_t*>(a[2] if f.integer[0] else NULL), &f.window, threads)
    return False


cdef bint _wrong_taps(const floating* taps, Py_ssize_t tap_bytes, bint relu, const Window* g,
                      int threads) noexcept nogil:
    if relu and tap_bytes == 4:
        return wrong_relu_taps_ptr(<const int32_t*>taps, g, threads)
    if relu:
        return wrong_relu_taps_ptr(<const uint8_t*>taps, g, threads)
    if tap_bytes == 4:
        return wrong_taps_ptr(<const int32_t*>taps, g, threads)
    return wrong_taps_ptr(<const uint8_t*>taps, g, threads)


cdef bint _max_pool_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    if _wrong_taps(a[1], f.integer[0], f.integer[1], &f.window, threads):
        return True
    if f.integer[0] == 4:
        max_pool_taps_backward_ptr(a[0], <const int32_t*>a[1], a[2], &f.window, threads)
    else:
        max_pool_taps_backward_ptr(a[0], <const uint8_t*>a[1], a[2], &f.window, threads)
    return False


# A convolution and max-pool. Integers are the convolution's outputs and groups, bytes of a tap, whether ReLU comes
# between, and backward the parts.


cdef bint _conv_pool(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    conv_pool_ptr(a[0], a[1], a[2], a[3], a[4], f.integer[2], f.integer[3], &f.window, &f.pool, f.integer[1], scratch,
                  threads)
    return False


cdef Py_ssize_t _conv_pool_scratch(const Facts* f, int threads) noexcept nogil:
    return conv_pool_scratch(&f.window, f.integer[0], f.integer[1], threads, f.itemsize)


cdef bint _conv_pool_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    # From grad_output, taps, input, weight.
    if _wrong_taps(a[1], f.integer[2], f.integer[3], &f.pool, threads):
        return True
    conv_pool_backward_ptr(a[0], a[1], f.integer[2], a[2], a[3], a[4], a[5], a[6], &f.window, &f.pool, f.integer[1],
                           f.integer[4], scratch, threads)
    return False


cdef Py_ssize_t _conv_pool_backward_scratch(const Facts* f, int threads) noexcept nogil:
    return conv_pool_backward_scratch(&f.window, &f.pool, f.integer[1], f.integer[4], threads, f.itemsize)


cdef bint _winners_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    # The same, of few taps, which are bytes, and without parts.
    if _wrong_taps(a[1], 1, f.integer[3], &f.pool, threads):
        return True
    winners_backward_ptr(a[0], <const uint8_t*>a[1], a[2], a[3], a[4], a[5], a[6], &f.window, &f.pool, scratch, threads)
    return False


cdef Py_ssize_t _winners_backward_scratch(const Facts* f, int threads) noexcept nogil:
    return winners_scratch(&f.window, &f.pool, threads, f.itemsize)


cdef bint _scatter(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    return scatter_ptr(a[0], <const int64_t*>a[1], a[2], &f.window, f.integer[0], threads) != 0


cdef bint _take(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    memcpy(scratch, a[0], _take_scratch(f, threads))  # what is taken is gone
    return take_ptr(<floating*>scratch, <const int64_t*>a[1], a[2], &f.window, threads) != 0


cdef Py_ssize_t _take_scratch(const Facts* f, int threads) noexcept nogil:
    return f.window.n * f.window.c * f.window.h * f.window.w * f.itemsize


cdef bint _avg_pool(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    avg_pool_ptr(a[0], a[1], &f.window, f.integer[0], f.integer[1], threads)
    return False


cdef bint _avg_pool_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    avg_pool_backward_ptr(a[0], a[1], &f.window, f.integer[0], f.integer[1], threads)
    return False


cdef bint _adaptive(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    adaptive_avg_pool_ptr(a[0], a[1], &f.window, threads)
    return False


cdef bint _adaptive_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    adaptive_avg_pool_backward_ptr(a[0], a[1], &f.window, threads)
    return False


cdef double _sum(const double* values, Py_ssize_t size) noexcept nogil:
    """Pairwise, so that the error grows with the logarithm of the size."""
    cdef Py_ssize_t i, half = size // 2
    cdef double total = 0
    if size > 16:
        return _sum(values, half) + _sum(values + half, size - half)
    for i in range(size):
        total += values[i]
    return total


cdef bint _softmax(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    softmax_ptr(a[0], a[1], f.integer[0], f.integer[1], f.integer[2])
    return False


cdef bint _softmax_backward(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    softmax_backward_ptr(a[0], a[1], a[2], f.integer[0], f.integer[1], f.integer[2])
    return False


cdef bint _cross_entropy(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    cdef Py_ssize_t i, rows = f.integer[0], columns = f.integer[1]
    cdef int64_t ignored = f.integer[2]
    cdef bint mean = f.integer[3] == 0, each = f.integer[3] == 2
    cdef const int64_t* target = <const int64_t*>a[1]
    cdef double* losses = <double*>scratch
    cdef double smoothing = number[0], divisor = 1
    for i in range(rows):
        if not 0 <= target[i] < columns and target[i] != ignored:
            return True
    if mean:
        for i in range(rows):
            losses[i] = 0 if target[i] == ignored else 1 if a[2] == NULL else a[2][target[i]]
        divisor = _sum(losses, rows)
        if divisor == 0:  # the mean of nothing
            divisor = NAN
    cross_entropy_ptr(a[0], target, a[2], ignored, smoothing, 1 / divisor, losses, a[4] if each else a[3], rows,
                      columns)
    number[0] = _sum(losses, rows) / divisor
    if each:
        for i in range(rows):
            a[3][i] = <floating>losses[i]
    return False


cdef Py_ssize_t _cross_entropy_scratch(const Facts* f, int threads) noexcept nogil:
    return f.integer[0] * <Py_ssize_t>sizeof(double)


cdef bint _mse(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    cdef Py_ssize_t size = f.integer[0]
    cdef bint mean = f.integer[1] == 0, each = f.integer[1] == 2
    cdef double* partials = <double*>scratch
    mse_loss_ptr(a[0], a[1], 2.0 / size if mean else 2.0, partials, a[2] if each else <floating*>NULL,
                 a[3] if each else a[2], size)
    number[0] = _sum(partials, mse_blocks(size)) / (size if mean else 1)
    return False


cdef Py_ssize_t _mse_scratch(const Facts* f, int threads) noexcept nogil:
    return mse_blocks(f.integer[0]) * <Py_ssize_t>sizeof(double)


cdef bint _sgd(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    sgd_update_ptr(a[0], a[1], a[2], f.integer[0], number[0], number[1], number[2], number[3], f.integer[1],
                   f.integer[2])
    return False


cdef bint _adam(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    adam_update_ptr(a[0], a[1], a[2], a[3], f.integer[0], number[0], number[1], number[2], number[3], number[4],
                    number[5], number[6])
    return False


cdef bint _clip(const Facts* f, floating** a, double* number, void* scratch, int threads) noexcept nogil:
    cdef double* partials = <double*>scratch
    cdef double norm, coefficient
    sums_of_squares_ptr(a[0], partials, f.integer[0])
    norm = sqrt(_sum(partials, norm_blocks(f.integer[0])))
    coefficient = number[0] / (norm + 1e-6)
    if not coefficient >= 1:
        scale_ptr(a[0], coefficient, f.integer[0])
    number[0] = norm
    return False


cdef Py_ssize_t _clip_scratch(const Facts* f, int threads) noexcept nogil:
    return norm_blocks(f.integer[0]) * <Py_ssize_t>sizeof(double)


_register("activation", <Run>_activation[float], <Run>_activation[double], NULL)
_register("activation_backward", <Run>_activation_backward[float], <Run>_activation_backward[double], NULL)
_register("add", <Run>_add[float], <Run>_add[double], NULL)
_register("dropout", <Run>_dropout[float], <Run>_dropout[double], NULL)
_register("dropout_backward", <Run>_dropout_backward[float], <Run>_dropout_backward[double], NULL)
_register("norm_factors", <Run>_norm_factors[float], <Run>_norm_factors[double], _norm_factors_scratch)
_register("norm_apply", <Run>_norm_apply[float], <Run>_norm_apply[double], NULL)
_register("norm_backward", <Run>_norm_backward[float], <Run>_norm_backward[double], _norm_backward_scratch)
_register("conv", <Run>_conv[float], <Run>_conv[double], _conv_scratch)
_register("conv_norm", <Run>_conv_norm[float], <Run>_conv_norm[double], _conv_scratch)
_register("conv_backward", <Run>_conv_backward[float], <Run>_conv_backward[double], _conv_backward_scratch)
_register("norm_conv", <Run>_norm_conv[float], <Run>_norm_conv[double], _norm_conv_scratch)
_register("norm_conv_backward", <Run>_norm_conv_backward[float], <Run>_norm_conv_backward[double],
          _norm_conv_backward_scratch)
_register("conv_pool", <Run>_conv_pool[float], <Run>_conv_pool[double], _conv_pool_scratch)
_register("conv_pool_backward", <Run>_conv_pool_backward[float], <Run>_conv_pool_backward[double],
          _conv_pool_backward_scratch)
_register("winners_backward", <Run>_winners_backward[float], <Run>_winners_backward[double], _winners_backward_scratch)
_register("im2col", <Run>_im2col[float], <Run>_im2col[double], NULL)
_register("col2im", <Run>_col2im[float], <Run>_col2im[double], NULL)
_register("linear", <Run>_linear[float], <Run>_linear[double], _linear_scratch)
_register("linear_backward", <Run>_linear_backward[float], <Run>_linear_backward[double], _linear_backward_scratch)
_register("max_pool", <Run>_max_pool[float], <Run>_max_pool[double], NULL)
_register("max_pool_backward", <Run>_max_pool_backward[float], <Run>_max_pool_backward[double], NULL)
_register("scatter", <Run>_scatter[float], <Run>_scatter[double], NULL)
_register("take", <Run>_take[float], <Run>_take[double], _take_scratch)
_register("avg_pool", <Run>_avg_pool[float], <Run>_avg_pool[double], NULL)
_register("avg_pool_backward", <Run>_avg_pool_backward[float], <Run>_avg_pool_backward[double], NULL)
_register("adaptive", <Run>_adaptive[float], <Run>_adaptive[double], NULL)
_register("adaptive_backward", <Run>_adaptive_backward[float], <Run>_adaptive_backward[double], NULL)
_register("softmax", <Run>_softmax[float], <Run>_softmax[double], NULL)
_register("softmax_backward", <Run>_softmax_backward[float], <Run>_softmax_backward[double], NULL)
_register("cross_entropy", <Run>_cross_entropy[float], <Run>_cross_entropy[double], _cross_entropy_scratch)
_register("mse", <Run>_mse[float], <Run>_mse[double], _mse_scratch)
_register("sgd", <Run>_sgd[float], <Run>_sgd[double], NULL)
_register("adam", <Run>_adam[float], <Run>_adam[double], NULL)
_register("clip", <Run>_clip[float], <Run>_clip[double], _clip_scratch)


# --- calls ------------------------------------------------------------------------------------------------------------


cdef struct Result:
    # An array that a call makes, or fills where it is given one, or leaves out.
    bint made, given
    int kind, axes
    np.npy_intp shape[MOST_AXES]
    np.npy_intp strides[MOST_AXES]
    Py_ssize_t bytes


cdef object _new_array(Result* r):
    """An uninitialised array; all but small ones use the memory of dead ones again."""
    cdef Block block
    cdef np.ndarray array
    if r.bytes < SMALLEST:
        return PyArray_New(&PyArray_Type, r.axes, r.shape, r.kind, r.strides, NULL, 0, 0, NULL)
    block = new_block(r.bytes)
    array = PyArray_New(&PyArray_Type, r.axes, r.shape, r.kind, r.strides, block.start, 0, np.NPY_ARRAY_BEHAVED, NULL)
    Py_INCREF(block)
    np.PyArray_SetBaseObject(array, block)
    return array


def _allocated(result):
    """An array of more axes than a Call describes."""
    shape, axes, dtype = result
    memory = numpy.empty([shape[axis] for axis in axes], dtype)
    return memory.transpose(sorted(axes, key=axes.__getitem__))


cdef class Call:
    """What is left to do with arguments that are checked: allocate the results and run a kernel.

    Parameters
    ----------
    kernel : str
        Its name in this module.
    arrays : tuple of ndarray or None
        What it reads, of its type: the arguments themselves, views, or copies in another order.
    results : tuple
        What it writes: for a new array (shape, axes from the slowest to the fastest in memory, dtype), for one that the
        caller gave the array, None for one that is not wanted. One result is returned by itself.
    integers : tuple of int
        Numbers that follow from the signature of the arguments.
    window, pool : dict, optional
        The geometry of a sliding window, and of one that goes over what the first makes.
    written : tuple of int
        Which of the arrays it writes to as well; they overlap no other.
    number : bool
        Whether the kernel returns a number, which comes before the results.
    refused : callable, optional
        Raises the error for elements that the kernel refuses.
    """
    cdef Kernel* kernel
    cdef Facts facts
    cdef Run run
    cdef int arrays, results, written   # written: a bit for each array
    cdef bint number
    cdef Result result[MOST_ARRAYS]
    cdef int place[MOST_ARRAYS]     # which of the arguments' arrays the kernel's array or given result is; -1: none
    cdef tuple held                 # the arrays, until the first time is over
    cdef object refused
    cdef bytes signature            # of the arguments, once it is kept
    cdef int64_t planned            # bytes of scratch, and below them the number of threads that these are for

    def __init__(self, str kernel, tuple arrays, tuple results, *, tuple integers=(), dict window=None,
                 dict pool=None, tuple written=(), bint number=False, object refused=None):
        cdef int k
        if len(arrays) + len(results) > MOST_ARRAYS or len(integers) > MOST_INTEGERS:
            raise ValueError(f"{kernel}: too many arrays or integers")
        self.kernel = &_kernels[_numbers[kernel]]
        self.arrays, self.results, self.number = len(arrays), len(results), number
        self.facts.itemsize = next(array.itemsize for array in arrays if array is not None)
        self.run = self.kernel.f32 if self.facts.itemsize == 4 else self.kernel.f64
        if window is not None:
            self.facts.window = window
        if pool is not None:
            self.facts.pool = pool
        for k in range(len(integers)):
            self.facts.integer[k] = integers[k]
        self.written = sum([1 << k for k in written])
        results = tuple([_allocated(r) if type(r) is tuple and len(r[0]) > MOST_AXES else r for r in results])
        for k in range(len(results)):
            self._describe(&self.result[k], results[k])
        self.refused = refused
        self.held = arrays + tuple([value if isinstance(value, np.ndarray) else None for value in results])

    cdef int _describe(self, Result* r, object value) except -1:
        cdef np.npy_intp stride
        r.made, r.given = type(value) is tuple, isinstance(value, np.ndarray)
        if r.made:
            shape, axes, dtype = value
            r.kind, r.axes, stride = dtype.num, len(shape), dtype.itemsize
            for axis in reversed(axes):
                r.shape[axis], r.strides[axis] = shape[axis], stride
                stride *= shape[axis]
            r.bytes = stride
        return 0

    cdef object first(self, Arguments* a):
        """Make the call with the arrays that it holds."""
        cdef void* pointer[MOST_ARRAYS]
        cdef int k, i
        for k in range(self.arrays + self.results):
            pointer[k] = NULL if self.held[k] is None else np.PyArray_DATA(self.held[k])
            self.place[k] = -1
            for i in range(a.arrays):
                if pointer[k] != NULL and pointer[k] == np.PyArray_DATA(<np.ndarray>a.array[i]):
                    self.place[k] = i
        return self._make(a, pointer)

    cdef bint lets_go(self, Arguments* a) except -1:
        """Whether other arrays of the arguments' signature can take the place of those held; then none is held."""
        cdef int k, i
        for k in range(self.arrays + self.results):
            if self.held[k] is not None and self.place[k] < 0:
                return False
        for i in range(a.arrays):
            for k in range(i):
                if np.PyArray_DATA(<np.ndarray>a.array[i]) == np.PyArray_DATA(<np.ndarray>a.array[k]):
                    return False
        self.held = self.refused = None
        return True

    cdef object again(self, Arguments* a):
        """Make the call with the arguments' arrays; None where these need the long way."""
        cdef void* pointer[MOST_ARRAYS]
        cdef int k
        for k in range(self.arrays + self.results):
            pointer[k] = NULL
            if self.place[k] >= 0:
                if (k >= self.arrays or self.written >> k & 1) and not _is_apart(a, self.place[k]):
                    return None
                pointer[k] = np.PyArray_DATA(<np.ndarray>a.array[self.place[k]])
        return self._make(a, pointer)

    cdef Py_ssize_t _scratch(self, int threads) noexcept:
        """Bytes of scratch, which follow from the facts and the number of threads alone; -1 for too many."""
        cdef int64_t planned = self.planned  # one word, so that it is whole whichever thread writes it
        if planned & MASK_THREADS != threads:
            planned = self.kernel.scratch(&self.facts, threads)
            if not 0 <= planned < MOST_SCRATCH:
                return -1
            planned = planned * (MASK_THREADS + 1) | threads
            self.planned = planned
        return planned // (MASK_THREADS + 1)

    cdef bint is_of(self, const Arguments* a) noexcept:
        """Whether it is the call of this signature."""
        cdef Py_ssize_t size = a.words * sizeof(int64_t)
        return PyBytes_GET_SIZE(self.signature) == size and not memcmp(PyBytes_AS_STRING(self.signature), a.word, size)

    cdef object _make(self, Arguments* a, void** pointer):
        """Allocate, run, and return the results; None where the kernel refused."""
        cdef int k, place, threads = max_threads()
        cdef Py_ssize_t bytes = 0 if self.kernel.scratch == NULL else self._scratch(threads)
        cdef tuple results = PyTuple_New(self.results + self.number)
        cdef void* raw
        cdef char* scratch = NULL
        cdef bint refused
        cdef object value
        if bytes < 0:
            raise MemoryError(f"scratch: expected at most 2**50 bytes, got more with {threads} threads")
        for k in range(self.results):
            value, place = None, self.place[self.arrays + k]
            if self.result[k].made:
                value = _new_array(&self.result[k])
                pointer[self.arrays + k] = np.PyArray_DATA(value)
            elif self.result[k].given:
                value = <object>a.array[place] if place >= 0 else self.held[self.arrays + k]
            Py_INCREF(value)
            PyTuple_SET_ITEM(results, self.number + k, value)
        if bytes:
            scratch = borrow(bytes, &raw)
            if scratch == NULL:
                raise MemoryError(f"no memory for {bytes} bytes of scratch")
        with nogil:
            refused = self.run(&self.facts, pointer, a.number, scratch, threads)
        if bytes:
            give_back(scratch, raw, bytes)
        if refused:
            return None
        if self.number:
            value = a.number[0]
            Py_INCREF(value)
            PyTuple_SET_ITEM(results, 0, value)
        return results[0] if len(results) == 1 else results


cdef bint _is_apart(Arguments* a, int given) noexcept:
    """Whether the memory of an array overlaps that of no other; all are contiguous in some order of their axes."""
    cdef np.ndarray own = <np.ndarray>a.array[given], other
    cdef char* start = np.PyArray_BYTES(own)
    cdef int i
    for i in range(a.arrays):
        other = <np.ndarray>a.array[i]
        if i != given and (start < np.PyArray_BYTES(other) + np.PyArray_NBYTES(other)
                           and np.PyArray_BYTES(other) < start + np.PyArray_NBYTES(own)):
            return False
    return True


cdef class remembered:
    """Decorator of a function that checks its arguments and returns a `Call`; see the head of this module.

    The function is called with positional arguments alone. What it returns instead of a `Call`, where there is nothing
    for a kernel to do, is handed on.
    """
    cdef dict __dict__
    cdef readonly object check
    cdef dict calls

    def __init__(self, check):
        self.check = check
        self.calls = {}
        functools.update_wrapper(self, check)

    def __call__(self, *arguments):
        cdef Arguments a
        cdef Call call
        cdef object key = None, value
        a.words, a.arrays, a.numbers, a.usual = 0, 0, 0, True
        _take_apart(&a, arguments, 0)
        if a.usual:
            key = _digest(&a)
            value = self.calls.get(key)
            if value is not None and (<Call>value).is_of(&a):
                value = (<Call>value).again(&a)
                if value is not None:
                    return value
        value = self.check(*arguments)
        if type(value) is not Call:
            return value
        call = value
        value = call.first(&a)
        if value is None:
            call.refused()
            raise SystemError(f"{self.check.__name__}: the kernel refused what the checks allow")
        if a.usual and call.lets_go(&a):
            if len(self.calls) >= MOST_CALLS:
                self.calls.clear()
            call.signature = PyBytes_FromStringAndSize(<char*>a.word, a.words * sizeof(int64_t))
            self.calls[key] = call
        return value

    def __len__(self):
        """How many calls are remembered."""
        return len(self.calls)

    def forget(self):
        """Remember no call."""
        self.calls.clear()
