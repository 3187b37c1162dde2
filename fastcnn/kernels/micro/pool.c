/* The lanes of pooling for each instruction set: pool_lanes.h with 16, 32 and 64 byte vectors. */
#include "pool.h"
#include "target.h"

#include <string.h>

#define VEC NAME(vec)
#define INTS NAME(ints)

#define REGISTERS 4

#define PICK2(p, step) (p)[0], (p)[step]
#define PICK4(p, step) PICK2(p, step), PICK2((p) + 2 * (step), step)
#define PICK8(p, step) PICK4(p, step), PICK4((p) + 4 * (step), step)
#define PICK16(p, step) PICK8(p, step), PICK8((p) + 8 * (step), step)

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (INTS){__VA_ARGS__})
#endif
#define LOADED(value) (void)(value)

/* Asks for the memory that comes AHEAD bytes behind p, to read or to write it: rows of an image follow each other, but
   are gone through side by side, which the CPU does not foresee (Zen 5: 150 us in place of 600 from the L3, 8 MB). */
#define AHEAD 4096
#define FETCH(p, write) __builtin_prefetch((const char *)(p) + AHEAD, write)

/* Which lanes and places the registers of a block hold: neighbouring lanes of one place where there are lanes enough for
   REGISTERS registers, else the same lanes of neighbouring places. A block is BLOCK(registers, n, x, at, along): from
   place x and lane `at` on, n lanes a register, and `along` says which of the two. The last lanes of all are done again
   with some before them, unless `apart` (a block may not come twice) or there are too few: then they are n < LANES. */
enum { ALONG_LANES, ALONG_PLACES };
#define EVERY_BLOCK(r, step, apart)                                                                                   \
    const ptrdiff_t lanes = (r)->lanes, places = (r)->places, last = lanes - LANES;                                   \
    const ptrdiff_t wide = (step) == 1 ? lanes - lanes % (REGISTERS * LANES) : 0;                                     \
    for (ptrdiff_t x = 0; x < places && wide; x++)                                                                    \
        for (ptrdiff_t at = 0; at < wide; at += REGISTERS * LANES) BLOCK(REGISTERS, LANES, x, at, ALONG_LANES);       \
    for (ptrdiff_t at = wide; at < lanes; at += LANES) {                                                              \
        ptrdiff_t x = 0;                                                                                              \
        if (at > last && last >= 0 && !(apart)) at = last;                                                            \
        if (at > last) {                                                                                              \
            for (; x < places; x++) BLOCK(1, lanes - at, x, at, ALONG_LANES);                                         \
            break;                                                                                                    \
        }                                                                                                             \
        if ((step) == 1)                                                                                              \
            for (; x + REGISTERS <= places; x += REGISTERS) BLOCK(REGISTERS, LANES, x, at, ALONG_PLACES);             \
        for (; x < places; x++) BLOCK(1, LANES, x, at, ALONG_LANES);                                                  \
    }

/* Of each instruction set, a loop that the compiler vectorises. */
#define OUTSIDE(name)                                                                                                 \
    static int name(const uint8_t *taps, ptrdiff_t count, int start, int end, int none) {                             \
        const uint8_t first = (uint8_t)start, most = (uint8_t)(end - start - 1), other = (uint8_t)none;               \
        uint8_t wrong = 0;                                                                                            \
        for (ptrdiff_t k = 0; k < count; k++)                                                                         \
            wrong |= (uint8_t)(((uint8_t)(taps[k] - first) > most) & (taps[k] != other));                             \
        return wrong;                                                                                                 \
    }

/* --- any CPU ------------------------------------------------------------------------------------------------------ */

#define T float
#define I int32_t
#define LANES 4
#define SUFFIX generic_f32
#define LOAD_PART(p, count) ((VEC){(p)[0], (count) > 1 ? (p)[1] : 0, (count) > 2 ? (p)[2] : 0, 0})
#define STORE_PART(p, value, count) for (ptrdiff_t i_ = 0; i_ < (count); i_++) (p)[i_] = (value)[i_]
#define PICK PICK4
#define EVENS 0, 2, 5, 7
#define NARROW(p, value) for (int i_ = 0; i_ < LANES; i_++) (p)[i_] = (uint8_t)(value)[i_]
#include "pool_lanes.h"

#define T double
#define I int64_t
#define LANES 2
#define SUFFIX generic_f64
#define LOAD_PART(p, count) ((VEC){(p)[0], 0})
#define STORE_PART(p, value, count) ((p)[0] = (value)[0])
#define PICK PICK2
#define EVENS 0, 3
#define NARROW(p, value) for (int i_ = 0; i_ < LANES; i_++) (p)[i_] = (uint8_t)(value)[i_]
#include "pool_lanes.h"

OUTSIDE(outside_generic)

static const fastcnn_pool pool_generic = {
    0, 0, outside_generic, max_generic_f32, NULL, NULL, NULL, mean_generic_f32, max_generic_f64, NULL, NULL, NULL, mean_generic_f64,
};

#ifdef FASTCNN_X86
#include <immintrin.h>

/* --- AVX2 --------------------------------------------------------------------------------------------------------- */

FASTCNN_BEGIN(FASTCNN_AVX2)

/* The first `count` lanes set, read from the middle of a row of ones and zeros. */
static const int32_t mask32[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
static const int64_t mask64[8] = {-1, -1, -1, -1};
#define MASK32(count) _mm256_loadu_si256((const __m256i_u *)(mask32 + 8 - (count)))
#define MASK64(count) _mm256_loadu_si256((const __m256i_u *)(mask64 + 4 - (count)))

static inline __m256i bytes_to_64(const uint8_t *p) {
    int32_t bytes;
    memcpy(&bytes, p, 4);
    return _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
}

static inline __m256i permute_64(__m256i value, __m256i at) {
    const __m256i low = _mm256_add_epi64(at, at), high = _mm256_add_epi64(low, _mm256_set1_epi64x(1));
    return _mm256_permutevar8x32_epi32(value, _mm256_or_si256(low, _mm256_slli_epi64(high, 32)));
}

static inline void bytes_from_32(uint8_t *p, __m256i value) {
    const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
    _mm_storel_epi64((__m128i_u *)p, _mm_packus_epi16(pairs, pairs));
}

static inline void bytes_from_64(uint8_t *p, __m256i value) {
    const __m128i low = _mm256_castsi256_si128(value), high = _mm256_extracti128_si256(value, 1);
    const __m128i bytes = _mm_shuffle_epi8(_mm_or_si128(low, _mm_slli_si128(high, 1)), _mm_setr_epi8(
        0, 8, 1, 9, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    const int32_t four = _mm_cvtsi128_si32(bytes);
    memcpy(p, &four, 4);
}

#define T float
#define I int32_t
#define LANES 8
#define SUFFIX avx2_f32
#define LOAD_PART(p, count) _mm256_maskload_ps(p, MASK32(count))
#define STORE_PART(p, value, count) _mm256_maskstore_ps(p, MASK32(count), (__m256)(value))
#define PICK PICK8
#define EVENS 0, 2, 4, 6, 9, 11, 13, 15
#define WIDEN(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)(p)))
#define PERMUTE(value, at) _mm256_permutevar8x32_ps((__m256)(value), (__m256i)(at))
#define NARROW(p, value) bytes_from_32(p, (__m256i)(value))
#include "pool_lanes.h"

#define T double
#define I int64_t
#define LANES 4
#define SUFFIX avx2_f64
#define LOAD_PART(p, count) _mm256_maskload_pd(p, MASK64(count))
#define STORE_PART(p, value, count) _mm256_maskstore_pd(p, MASK64(count), (__m256d)(value))
#define PICK PICK4
#define EVENS 0, 2, 5, 7
#define WIDEN(p) bytes_to_64(p)
#define PERMUTE(value, at) permute_64((__m256i)(value), (__m256i)(at))
#define NARROW(p, value) bytes_from_64(p, (__m256i)(value))
#include "pool_lanes.h"

OUTSIDE(outside_avx2)

static const fastcnn_pool pool_avx2 = {
    16, 32, outside_avx2,
    max_avx2_f32, route_avx2_f32, max_few_avx2_f32, route_few_avx2_f32, mean_avx2_f32,
    max_avx2_f64, route_avx2_f64, max_few_avx2_f64, route_few_avx2_f64, mean_avx2_f64,
};

FASTCNN_END

/* --- AVX-512 ------------------------------------------------------------------------------------------------------ */

FASTCNN_BEGIN(FASTCNN_AVX512)

#define MASK(count) ((1u << (count)) - 1)
/* Keeps the compiler from folding the load of `value` into a masked load, which waits for its mask. */
#undef LOADED
#define LOADED(value) __asm__("" : "+v"(value))

#define T float
#define I int32_t
#define LANES 16
#define SUFFIX avx512_f32
#define LOAD_PART(p, count) _mm512_maskz_loadu_ps((__mmask16)MASK(count), p)
#define STORE_PART(p, value, count) _mm512_mask_storeu_ps(p, (__mmask16)MASK(count), (__m512)(value))
#define PICK PICK16
#define EVENS 0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31
#define WIDEN(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i_u *)(p)))
#define PERMUTE(value, at) _mm512_permutexvar_ps((__m512i)(at), (__m512)(value))
#define PERMUTE2(a, b, at) _mm512_permutex2var_ps((__m512)(a), (__m512i)(at), (__m512)(b))
#define NARROW(p, value) _mm_storeu_si128((__m128i_u *)(p), _mm512_cvtepi32_epi8((__m512i)(value)))
#define NARROW_PART(p, value, count) \
    _mm512_mask_cvtepi32_storeu_epi8(p, (__mmask16)MASK(count), (__m512i)(value))
#include "pool_lanes.h"

#define T double
#define I int64_t
#define LANES 8
#define SUFFIX avx512_f64
#define LOAD_PART(p, count) _mm512_maskz_loadu_pd((__mmask8)MASK(count), p)
#define STORE_PART(p, value, count) _mm512_mask_storeu_pd(p, (__mmask8)MASK(count), (__m512d)(value))
#define PICK PICK8
#define EVENS 0, 2, 4, 6, 9, 11, 13, 15
#define WIDEN(p) _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i_u *)(p)))
#define PERMUTE(value, at) _mm512_permutexvar_pd((__m512i)(at), (__m512d)(value))
#define PERMUTE2(a, b, at) _mm512_permutex2var_pd((__m512d)(a), (__m512i)(at), (__m512d)(b))
#define NARROW(p, value) _mm_storel_epi64((__m128i_u *)(p), _mm512_cvtepi64_epi8((__m512i)(value)))
#define NARROW_PART(p, value, count) _mm512_mask_cvtepi64_storeu_epi8(p, (__mmask8)MASK(count), (__m512i)(value))
#include "pool_lanes.h"

OUTSIDE(outside_avx512)

static const fastcnn_pool pool_avx512 = {
    24, 64, outside_avx512,
    max_avx512_f32, route_avx512_f32, max_few_avx512_f32, route_few_avx512_f32, mean_avx512_f32,
    max_avx512_f64, route_avx512_f64, max_few_avx512_f64, route_few_avx512_f64, mean_avx512_f64,
};

FASTCNN_END
#endif

FASTCNN_TABLE_FOR(pool)
