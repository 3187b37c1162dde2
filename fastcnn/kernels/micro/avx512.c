/* Tiles for AVX-512: 14 x 2 accumulators, 2 registers of b and 1 of a out of 32. */
#include "micro.h"

#ifdef FASTCNN_X86
FASTCNN_BEGIN(FASTCNN_AVX512)
#include <immintrin.h>

#define ROWS 14
#define MASK(count) ((1u << (count)) - 1)

/* Element i becomes element (first + i) / m of `value` where (first + i) % m == o, and stays where not. m, first and o
   are constants where this is inlined, so that indices and masks are too. */
#define PLACE(i) ((first + (i)) / m)
#define PLACES(i) \
    PLACE(i), PLACE(i + 1), PLACE(i + 2), PLACE(i + 3), PLACE(i + 4), PLACE(i + 5), PLACE(i + 6), PLACE(i + 7)
#define OWN(i) ((unsigned)((first + (i)) % m == o) << (i))
#define OWNS(i) (OWN(i) | OWN(i + 1) | OWN(i + 2) | OWN(i + 3) | OWN(i + 4) | OWN(i + 5) | OWN(i + 6) | OWN(i + 7))

typedef int vec_int __attribute__((vector_size(64)));
typedef long long vec_long __attribute__((vector_size(64)));

static inline __attribute__((always_inline)) __m512 permute_merge_f32(__m512 old, int m, int first, int o,
                                                                      __m512 value) {
    const vec_int places = {PLACES(0), PLACES(8)};
    return _mm512_mask_permutexvar_ps(old, (__mmask16)(OWNS(0) | OWNS(8)), (__m512i)places, value);
}

static inline __attribute__((always_inline)) __m512d permute_merge_f64(__m512d old, int m, int first, int o,
                                                                       __m512d value) {
    const vec_long places = {PLACES(0)};
    return _mm512_mask_permutexvar_pd(old, (__mmask8)OWNS(0), (__m512i)places, value);
}

#define PERMUTE_MERGE(old, m, first, o, value) ((VEC)NAME(permute_merge)(old, m, first, o, value))

#define T float
#define LANES 16
#define SUFFIX f32
#define INEXACT
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
    16, tile_f32, depthwise_f32, depthwise_weights_f32, dots_f32, row_f32, transpose_f32,
    all_finite_f32,
    gather_f32, planar_f32, weave_f32, picked_f32, winners_f32,
    winograd_source_f32, winograd_grad_f32, winograd_dest_f32, winograd_weight_f32, winograd_weight_grad_f32,
    8, tile_f64, depthwise_f64, depthwise_weights_f64, dots_f64, row_f64, transpose_f64,
    all_finite_f64,
    gather_f64, planar_f64, weave_f64, picked_f64, winners_f64,
    winograd_source_f64, winograd_grad_f64, winograd_dest_f64, winograd_weight_f64, winograd_weight_grad_f64,
    {winograd4_source_f32, winograd4_grad_f32, winograd4_dest_f32, winograd4_weight_f32, winograd4_weight_grad_f32},
    {winograd24_source_f32, winograd24_grad_f32, winograd24_dest_f32, winograd24_weight_f32,
     winograd24_weight_grad_f32},
};
FASTCNN_END
#endif
