"""A convolution and a max-pool of each image, in a parallel loop of this module's own."""

import numpy as np

from cython.parallel cimport prange, threadid
from fastcnn.kernels.conv cimport FORWARD, conv_forward_ptr, conv_scratch
from fastcnn.kernels.geometry cimport Window, check_conv, check_pool
from fastcnn.kernels.pooling cimport max_pool_ptr
from libc.stdint cimport uint8_t


def conv_pool(const float[:, :, :, ::1] images, const float[:, :, :, ::1] weight, int threads):
    """max_pool2d(conv2d(images, weight), 2), each image on one of `threads` threads."""
    cdef Py_ssize_t i, n = images.shape[0], c = images.shape[1], outputs = weight.shape[0]
    cdef Py_ssize_t kh = weight.shape[2], kw = weight.shape[3]
    cdef Window conv = Window(n=1, c=c, h=images.shape[2], w=images.shape[3], oh=images.shape[2] - kh + 1,
                              ow=images.shape[3] - kw + 1, kh=kh, kw=kw, sh=1, sw=1, ph=0, pw=0, dh=1, dw=1,
                              channels_last=False, algorithm=0)
    cdef Window pool = Window(n=1, c=outputs, h=conv.oh, w=conv.ow, oh=conv.oh // 2, ow=conv.ow // 2, kh=2, kw=2,
                              sh=2, sw=2, ph=0, pw=0, dh=1, dw=1, channels_last=False, algorithm=0)
    # The kernels trust their arguments: these functions say what is wrong with sizes.
    cdef const char* wrong = check_conv(&conv, outputs, 1)
    cdef char[:, ::1] scratch
    cdef float[:, :, :, ::1] middle, output
    if wrong == NULL:
        wrong = check_pool(&pool, 0)
    if wrong != NULL:
        raise ValueError(wrong.decode())
    if weight.shape[1] != c or threads < 1:
        raise ValueError(f"expected weights for {c} channels and at least one thread")
    scratch = np.empty((threads, conv_scratch(FORWARD, &conv, outputs, 1, 1, sizeof(float))), np.int8)
    middle = np.empty((threads, outputs, conv.oh, conv.ow), np.float32)
    output = np.empty((n, outputs, pool.oh, pool.ow), np.float32)
    for i in prange(n, nogil=True, num_threads=threads):
        conv_forward_ptr(&images[i, 0, 0, 0], &weight[0, 0, 0, 0], <const float*>NULL, &middle[threadid(), 0, 0, 0],
                         &conv, outputs, 1, &scratch[threadid(), 0], 1)
        max_pool_ptr(&middle[threadid(), 0, 0, 0], &output[i, 0, 0, 0], <uint8_t*>NULL, &pool, 1)
    return np.asarray(output)
