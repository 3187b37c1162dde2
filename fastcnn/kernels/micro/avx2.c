/* Tiles for AVX2 with FMA: 6 x 2 accumulators, 2 registers of b and 1 of a out of 16. */
#include "micro.h"

#ifdef FASTCNN_X86
FASTCNN_BEGIN(FASTCNN_AVX2)
#include <immintrin.h>

#define ROWS 6

/* The first `count` lanes set, read from the middle of a row of ones and zeros. */
static const int mask32[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
static const long long mask64[8] = {-1, -1, -1, -1, 0, 0, 0, 0};
#define MASK32(count) _mm256_loadu_si256((const __m256i_u *)(mask32 + 8 - (count)))
#define MASK64(count) _mm256_loadu_si256((const __m256i_u *)(mask64 + 4 - (count)))

#define T float
#define LANES 8
#define SUFFIX f32
#define INEXACT
#define LOAD_PART(p, count) ((vec_f32)_mm256_maskload_ps(p, MASK32(count)))
#define STORE_PART(p, value, count) _mm256_maskstore_ps(p, MASK32(count), (__m256)(value))
#include "tile.h"

#define T double
#define LANES 4
#define SUFFIX f64
#define LOAD_PART(p, count) ((vec_f64)_mm256_maskload_pd(p, MASK64(count)))
#define STORE_PART(p, value, count) _mm256_maskstore_pd(p, MASK64(count), (__m256d)(value))
#include "tile.h"

const fastcnn_micro fastcnn_micro_avx2 = {
    "avx2", ROWS,
    8, tile_f32, depthwise_f32, depthwise_weights_f32, dots_f32, row_f32, transpose_f32,
    all_finite_f32,
    gather_f32, planar_f32, weave_f32, picked_f32, winners_f32,
    winograd_source_f32, winograd_grad_f32, winograd_dest_f32, winograd_weight_f32, winograd_weight_grad_f32,
    4, tile_f64, depthwise_f64, depthwise_weights_f64, dots_f64, row_f64, transpose_f64,
    all_finite_f64,
    gather_f64, planar_f64, weave_f64, picked_f64, winners_f64,
    winograd_source_f64, winograd_grad_f64, winograd_dest_f64, winograd_weight_f64, winograd_weight_grad_f64,
    {winograd4_source_f32, winograd4_grad_f32, winograd4_dest_f32, winograd4_weight_f32, winograd4_weight_grad_f32},
    {winograd24_source_f32, winograd24_grad_f32, winograd24_dest_f32, winograd24_weight_f32,
     winograd24_weight_grad_f32},
};
FASTCNN_END
#endif
