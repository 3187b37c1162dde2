/* The instruction sets that the sources of this folder are compiled for, each with its features in one place, and the
   macros that every source compiled more than once is written with. isa.pyx lists the paths and chooses one. */
#ifndef FASTCNN_TARGET_H
#define FASTCNN_TARGET_H

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define FASTCNN_X86 1
#endif

/* Whether the CPU has them; __builtin_cpu_supports asks the operating system too (XGETBV). */
#define FASTCNN_HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#define FASTCNN_HAS_AVX512                                                                                            \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && \
     __builtin_cpu_supports("avx512bw"))

/* FASTCNN_BEGIN(FASTCNN_AVX2) .. FASTCNN_END: what stands between is compiled for these features. */
#define FASTCNN_PRAGMA(...) _Pragma(#__VA_ARGS__)
#define FASTCNN_AVX2 "avx2,fma"
#ifdef __clang__
#define FASTCNN_AVX512 "avx512f,avx512vl,avx512dq,avx512bw,fma"
#define FASTCNN_BEGIN(features) \
    FASTCNN_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define FASTCNN_END FASTCNN_PRAGMA(clang attribute pop)
#else
#define FASTCNN_AVX512 "avx512f,avx512vl,avx512dq,avx512bw,fma,prefer-vector-width=512"
#define FASTCNN_BEGIN(features) FASTCNN_PRAGMA(GCC push_options) FASTCNN_PRAGMA(GCC target(features))
#define FASTCNN_END FASTCNN_PRAGMA(GCC pop_options)
#endif

/* Defines fastcnn_<kind>_for(name), which gives the table <kind>_generic, <kind>_avx2 or <kind>_avx512 for a path of
   isa.pyx. Paths above AVX-512 use its tables. */
#ifdef FASTCNN_X86
#define FASTCNN_TABLE_FOR(kind)                                                                                       \
    const fastcnn_##kind *fastcnn_##kind##_for(const char *name) {                                                    \
        return !strcmp(name, "generic") ? &kind##_generic : !strcmp(name, "avx2") ? &kind##_avx2 : &kind##_avx512;    \
    }
#else
#define FASTCNN_TABLE_FOR(kind)                                                                                       \
    const fastcnn_##kind *fastcnn_##kind##_for(const char *name) {                                                    \
        (void)name;                                                                                                   \
        return &kind##_generic;                                                                                       \
    }
#endif

/* NAME(f) is f_SUFFIX: of the element type, and where one file holds several, of the instruction set. */
#define GLUE_(a, b) a##b
#define GLUE(a, b) GLUE_(a, b)
#define NAME(x) GLUE(GLUE(x, _), SUFFIX)
#define INLINE static inline __attribute__((always_inline))

#endif
