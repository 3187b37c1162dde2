/* The search for tiles of a large range for each instruction set: guard_lanes.h compiled for 16 and 32 byte vectors. */
#include "guard.h"
#include "target.h"

#include <string.h>

#define TABLE(isa)                                                                                                     \
    {                                                                                                                  \
        peaks_##isa##_f32, marks_##isa##_f32, weight_marks_##isa##_f32,                                                \
        peaks_##isa##_f64, marks_##isa##_f64, weight_marks_##isa##_f64,                                                \
    }

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (INTS){__VA_ARGS__})
#endif

#define LANES_2(f, h) f(0, h), f(1, h)
#define LANES_4(f, h) LANES_2(f, h), f(2, h), f(3, h)
#define LANES_8(f, h) LANES_4(f, h), f(4, h), f(5, h), f(6, h), f(7, h)

/* --- any CPU ------------------------------------------------------------------------------------------------------ */

#define T float
#define I int32_t
#define LANES 4
#define SUFFIX generic_f32
#include "guard_lanes.h"
#define T double
#define I int64_t
#define LANES 2
#define SUFFIX generic_f64
#include "guard_lanes.h"

static const fastcnn_guard guard_generic = TABLE(generic);

#ifdef FASTCNN_X86
#include <immintrin.h>

/* --- AVX2 --------------------------------------------------------------------------------------------------------- */

FASTCNN_BEGIN(FASTCNN_AVX2)

#define T float
#define I int32_t
#define LANES 8
#define SUFFIX avx2_f32
#define LARGER(a, b) _mm256_max_epi32((__m256i)(a), (__m256i)(b))
#include "guard_lanes.h"
#define T double
#define I int64_t
#define LANES 4
#define SUFFIX avx2_f64
#include "guard_lanes.h"

static const fastcnn_guard guard_avx2 = TABLE(avx2);

FASTCNN_END

/* --- AVX-512: the same, for most of the work is shuffles, of which longer ones take as long (Zen 4) ----------------- */

#define guard_avx512 guard_avx2
#endif

FASTCNN_TABLE_FOR(guard)
