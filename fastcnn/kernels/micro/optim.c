/* The updates of parameters for each instruction set: optim_lanes.h compiled for 16, 32 and 64 byte vectors. */
#include "micro.h"
#include "optim.h"

#include <math.h>
#include <string.h>

#define GLUE_(a, b) a##b
#define GLUE(a, b) GLUE_(a, b)
#define NAME(x) GLUE(GLUE(x, _), SUFFIX)

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#define TABLE(isa) {sgd_##isa##_f32, adam_##isa##_f32, sgd_##isa##_f64, adam_##isa##_f64}

/* --- any CPU ------------------------------------------------------------------------------------------------------ */

#define T float
#define SUFFIX generic_f32
#define ROOT sqrtf
#include "optim_lanes.h"
#define T double
#define SUFFIX generic_f64
#define ROOT sqrt
#include "optim_lanes.h"

static const fastcnn_optim optim_generic = TABLE(generic);

#ifdef FASTCNN_X86

/* --- AVX2 --------------------------------------------------------------------------------------------------------- */

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define T float
#define SUFFIX avx2_f32
#define ROOT sqrtf
#include "optim_lanes.h"
#define T double
#define SUFFIX avx2_f64
#define ROOT sqrt
#include "optim_lanes.h"

static const fastcnn_optim optim_avx2 = TABLE(avx2);

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
#define SUFFIX avx512_f32
#define ROOT sqrtf
#include "optim_lanes.h"
#define T double
#define SUFFIX avx512_f64
#define ROOT sqrt
#include "optim_lanes.h"

static const fastcnn_optim optim_avx512 = TABLE(avx512);

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

const fastcnn_optim *fastcnn_optim_for(const char *name) {
#ifdef FASTCNN_X86
    if (!strcmp(name, "avx2")) return &optim_avx2;
    if (strcmp(name, "generic")) return &optim_avx512; /* and what comes above it */
#endif
    (void)name;
    return &optim_generic;
}
