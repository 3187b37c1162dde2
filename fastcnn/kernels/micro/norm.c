/* The rows of batch norm for each instruction set: norm_lanes.h compiled for 16, 32 and 64 byte vectors. */
#include "norm.h"
#include "target.h"

#include <stdint.h>
#include <string.h>

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

FASTCNN_BEGIN(FASTCNN_AVX2)

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

FASTCNN_END

/* --- AVX-512 ------------------------------------------------------------------------------------------------------ */

FASTCNN_BEGIN(FASTCNN_AVX512)

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

FASTCNN_END
#endif

FASTCNN_TABLE_FOR(norm)
