from libc.stdint cimport int32_t, uint8_t


cdef extern from "micro/amx.h" nogil:
    ctypedef struct Steps "fastcnn_steps":
        Py_ssize_t outer, inner
        const Py_ssize_t* a_offset
        Py_ssize_t a_inner, a_outer, a_tile, a_plane
        Py_ssize_t b_inner, b_outer, b_tile, b_plane

    ctypedef struct Matrix "fastcnn_matrix":
        Py_ssize_t least
        void (*begin)(void*) noexcept nogil
        void (*end)(const void*) noexcept nogil
        void (*product)(int, int, int, const Steps*, const char*, const char*, float*, int) noexcept nogil
        unsigned int (*split)(int, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, char*, Py_ssize_t) noexcept nogil
        unsigned int (*split_transposed)(int, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, char*,
                                         Py_ssize_t) noexcept nogil
        void (*transpose)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, float*) noexcept nogil
        void (*store)(Py_ssize_t, Py_ssize_t, const float*, const float*, float*, Py_ssize_t) noexcept nogil


cdef extern from "micro/micro.h" nogil:
    ctypedef struct Sum "fastcnn_sum":
        Py_ssize_t segments, depth
        const Py_ssize_t* a_offset
        Py_ssize_t a_row, a_step
        Py_ssize_t b_segment, b_step
        const Py_ssize_t* b_offset

    ctypedef struct Winograd4 "fastcnn_winograd4":
        void (*source)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                       Py_ssize_t, Py_ssize_t, float*, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*grad)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, float*, Py_ssize_t,
                     Py_ssize_t) noexcept nogil
        int (*dest)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, const float*, float*, Py_ssize_t,
                    Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*weight)(Py_ssize_t, const float*, Py_ssize_t, float*, Py_ssize_t) noexcept nogil
        void (*weight_grad)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, float*,
                            Py_ssize_t) noexcept nogil

    ctypedef struct Micro "fastcnn_micro":
        const char* name
        Py_ssize_t rows
        Py_ssize_t lanes_f32
        Py_ssize_t lanes_f64
        void (*tile_f32)(Py_ssize_t, Py_ssize_t, const Sum*, const float*, const float*, const float*,
                         float*, Py_ssize_t) noexcept nogil
        void (*tile_f64)(Py_ssize_t, Py_ssize_t, const Sum*, const double*, const double*, const double*,
                         double*, Py_ssize_t) noexcept nogil
        void (*depthwise_f32)(Py_ssize_t, Py_ssize_t, const Sum*, const float*, const float*, const float*,
                              float*, Py_ssize_t) noexcept nogil
        void (*depthwise_f64)(Py_ssize_t, Py_ssize_t, const Sum*, const double*, const double*, const double*,
                              double*, Py_ssize_t) noexcept nogil
        void (*depthwise_weights_f32)(Py_ssize_t, Py_ssize_t, const Sum*, const float*, const float*, float*,
                                      Py_ssize_t) noexcept nogil
        void (*depthwise_weights_f64)(Py_ssize_t, Py_ssize_t, const Sum*, const double*, const double*, double*,
                                      Py_ssize_t) noexcept nogil
        void (*dots_f32)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, const float*, Py_ssize_t,
                         const float*, float*, Py_ssize_t) noexcept nogil
        void (*row_f32)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, const float*, Py_ssize_t, float*,
                        int) noexcept nogil
        void (*transpose_f32)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, float*, Py_ssize_t) noexcept nogil
        bint (*all_finite_f32)(Py_ssize_t, const float*) noexcept nogil
        void (*gather_f32)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*,
                           Py_ssize_t, float*) noexcept nogil
        void (*planar_f32)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const float*, const float*, bint,
                           float*, Py_ssize_t) noexcept nogil
        void (*weave_f32)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, const float*,
                          float*, Py_ssize_t) noexcept nogil
        void (*picked_f32)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const int32_t*, const float*, Py_ssize_t, const float*,
                           Py_ssize_t, float*, Py_ssize_t) noexcept nogil
        bint (*winners_f32)(Py_ssize_t, const uint8_t*, const float*, const int32_t*, const int32_t*, int, int32_t,
                            int32_t*, float*, float*) noexcept nogil
        void (*winograd_source_f32)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, float*, Py_ssize_t,
                                    Py_ssize_t) noexcept nogil
        void (*winograd_grad_f32)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, float*, Py_ssize_t,
                                  Py_ssize_t) noexcept nogil
        int (*winograd_dest_f32)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, const float*, float*,
                                 Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*winograd_weight_f32)(Py_ssize_t, const float*, Py_ssize_t, float*, Py_ssize_t) noexcept nogil
        void (*winograd_weight_grad_f32)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, float*,
                                         Py_ssize_t) noexcept nogil
        void (*dots_f64)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, const double*, Py_ssize_t,
                         const double*, double*, Py_ssize_t) noexcept nogil
        void (*row_f64)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, const double*, Py_ssize_t, double*,
                        int) noexcept nogil
        void (*transpose_f64)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, double*, Py_ssize_t) noexcept nogil
        bint (*all_finite_f64)(Py_ssize_t, const double*) noexcept nogil
        void (*gather_f64)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*,
                           Py_ssize_t, double*) noexcept nogil
        void (*planar_f64)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const double*, const double*, bint,
                           double*, Py_ssize_t) noexcept nogil
        void (*weave_f64)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, const double*,
                          double*, Py_ssize_t) noexcept nogil
        void (*picked_f64)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const int32_t*, const double*, Py_ssize_t, const double*,
                           Py_ssize_t, double*, Py_ssize_t) noexcept nogil
        bint (*winners_f64)(Py_ssize_t, const uint8_t*, const double*, const int32_t*, const int32_t*, int, int32_t,
                            int32_t*, double*, double*) noexcept nogil
        void (*winograd_source_f64)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, double*, Py_ssize_t,
                                    Py_ssize_t) noexcept nogil
        void (*winograd_grad_f64)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, double*, Py_ssize_t,
                                  Py_ssize_t) noexcept nogil
        int (*winograd_dest_f64)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, const double*, double*,
                                 Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*winograd_weight_f64)(Py_ssize_t, const double*, Py_ssize_t, double*, Py_ssize_t) noexcept nogil
        void (*winograd_weight_grad_f64)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, double*,
                                         Py_ssize_t) noexcept nogil
        Winograd4 winograd4
        Winograd4 winograd24
        const Matrix* matrix


cdef const Micro* micro() noexcept nogil
# The precision, by set_float32_matmul_precision, as bf16 planes that the matrix unit splits a float into: 1, 2 or, at
# 'highest', 3.
cdef int matrix_planes() noexcept nogil


cdef inline bint is_highest() noexcept nogil:
    return matrix_planes() == 3


# Whether set_conv_algorithm has chosen 'direct'.
cdef bint is_direct() noexcept nogil
