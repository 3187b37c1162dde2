/* Tiles for AVX-512: 14 x 2 accumulators, 2 registers of b and 1 of a out of 32. */
#include "micro.h"

#ifdef FASTCNN_X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma,prefer-vector-width=512")
#endif
#include <immintrin.h>

#define ROWS 14
#define MASK(count) ((1u << (count)) - 1)

#define T float
#define LANES 16
#define SUFFIX f32
#define LOAD_PART(p, count) ((vec_f32)_mm512_maskz_loadu_ps((__mmask16)MASK(count), p))
#define STORE_PART(p, value, count) _mm512_mask_storeu_ps(p, (__mmask16)MASK(count), (__m512)(value))
#include "tile.h"

#define T double
#define LANES 8
#define SUFFIX f64
#define LOAD_PART(p, count) ((vec_f64)_mm512_maskz_loadu_pd((__mmask8)MASK(count), p))
#define STORE_PART(p, value, count) _mm512_mask_storeu_pd(p, (__mmask8)MASK(count), (__m512d)(value))
#include "tile.h"

const fastcnn_micro fastcnn_micro_avx512 = {
    "avx512", ROWS,
    16, tile_f32, depthwise_f32, depthwise_weights_f32, copy_runs_f32, gather_f32,
    winograd_source_f32, winograd_grad_f32, winograd_dest_f32, winograd_weight_f32, winograd_weight_grad_f32,
    8, tile_f64, depthwise_f64, depthwise_weights_f64, copy_runs_f64, gather_f64,
    winograd_source_f64, winograd_grad_f64, winograd_dest_f64, winograd_weight_f64, winograd_weight_grad_f64,
};
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
