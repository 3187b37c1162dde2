/* The rows of batch norm for each instruction set: norm_lanes.h compiled for 16, 32 and 64 byte vectors. */
#include "micro.h"
#include "norm.h"

#include <stdint.h>
#include <string.h>

#define GLUE_(a, b) a##b
#define GLUE(a, b) GLUE_(a, b)
#define NAME(x) GLUE(GLUE(x, _), SUFFIX)
#define INLINE static inline __attribute__((always_inline))
#define PANEL 256 /* the most columns of a tile, as in norm.pyx */

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#define EACH _Pragma("clang loop vectorize(assume_safety)")
#else
#pragma GCC optimize("fp-contract=off")
#define EACH _Pragma("GCC ivdep")
#endif

#define TABLE(isa)                                                                                                    \
    {                                                                                                                 \
        sums_##isa##_f32, normalize_##isa##_f32, grad_sums_##isa##_f32, grad_##isa##_f32,                             \
        sums_##isa##_f64, normalize_##isa##_f64, grad_sums_##isa##_f64, grad_##isa##_f64,                             \
    }

/* --- any CPU ------------------------------------------------------------------------------------------------------ */

#define T float
#define BITS int32_t
#define LANES 16
#define SUFFIX generic_f32
#include "norm_lanes.h"
#define T double
#define BITS int64_t
#define LANES 8
#define SUFFIX generic_f64
#include "norm_lanes.h"

static const fastcnn_norm norm_generic = TABLE(generic);

#ifdef FASTCNN_X86

/* --- AVX2 --------------------------------------------------------------------------------------------------------- */

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define T float
#define BITS int32_t
#define LANES 16
#define SUFFIX avx2_f32
#include "norm_lanes.h"
#define T double
#define BITS int64_t
#define LANES 8
#define SUFFIX avx2_f64
#include "norm_lanes.h"

static const fastcnn_norm norm_avx2 = TABLE(avx2);

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

/* --- AVX-512 ------------------------------------------------------------------------------------------------------ */

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,prefer-vector-width=512")
#endif

#define T float
#define BITS int32_t
#define LANES 16
#define SUFFIX avx512_f32
#include "norm_lanes.h"
#define T double
#define BITS int64_t
#define LANES 8
#define SUFFIX avx512_f64
#include "norm_lanes.h"

static const fastcnn_norm norm_avx512 = TABLE(avx512);

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

const fastcnn_norm *fastcnn_norm_for(const char *name) {
#ifdef FASTCNN_X86
    if (!strcmp(name, "avx2")) return &norm_avx2;
    if (strcmp(name, "generic")) return &norm_avx512; /* and what comes above it */
#endif
    (void)name;
    return &norm_generic;
}
