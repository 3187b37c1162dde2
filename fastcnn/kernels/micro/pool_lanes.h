/* The lanes of pooling for one element type T and one vector length. Included twice by each instruction set's part of
   pool.c, which defines

     T, I, LANES, SUFFIX    element type, signed integer of its size, elements of a register, name of both together
     LOAD_PART, STORE_PART  (pointer, count) -> vector, (pointer, vector, count): count < LANES elements
     PICK                   (pointer, step) -> LANES elements as an initialiser
     EVENS                  LANES indices: those of 0, 2, .. in two vectors whose last and first element are the same
     NARROW                 (bytes, vector of I): stores LANES unsigned bytes
     NARROW_PART            (bytes, vector of I, count): the first of them, if the instruction set has such a store
     WIDEN                  (bytes) -> vector of I, their inverse, if the instruction set has one: else there is no route
     PERMUTE                (vector, vector of I) -> the elements of these numbers, modulo LANES; where WIDEN is
     PERMUTE2               (vector, vector, vector of I) -> those of both, the second's from LANES on, if it has one
     LOADED                 (vector) to say that it is loaded by now

   REGISTERS registers of lanes go through a window together, their results in locals of a function that is inlined with
   a constant number of registers; then one at a time (as all that are loaded lane by lane), and a rest of fewer than
   LANES with partial loads. */

typedef T VEC __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));
typedef I INTS __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));

INLINE VEC NAME(load)(const T *p, const ptrdiff_t step, const ptrdiff_t n) {
    if (step == 0) return (VEC){0} + *p;
    if (step == 1) return n == LANES ? *(const VEC *)p : (VEC)LOAD_PART(p, n);
    if (step == 2 && n == LANES) /* the two loads share an element, so that none behind the last lane's is read */
        return SHUFFLE(*(const VEC *)p, *(const VEC *)(p + LANES - 1), EVENS);
    if (n == LANES) return (VEC){PICK(p, step)};
    T part[LANES] = {0};
    for (ptrdiff_t k = 0; k < n; k++) part[k] = p[k * step];
    return *(const VEC *)part;
}

INLINE void NAME(store)(T *p, const VEC value, const ptrdiff_t step, const ptrdiff_t n) {
    if (step == 1 && n == LANES) *(VEC *)p = value;
    else if (step == 1) STORE_PART(p, value, n);
    else for (ptrdiff_t k = 0; k < n; k++) p[k * step] = value[k];
}

INLINE void NAME(store_tags)(void *tags, const int tag_bytes, const INTS offset, ptrdiff_t tag, ptrdiff_t lane_tag,
                             const ptrdiff_t n) {
    if (tag_bytes == 1 && n == LANES) {
        NARROW((uint8_t *)tags, offset + (I)tag);
        return;
    }
#ifdef NARROW_PART
    if (tag_bytes == 1) NARROW_PART((uint8_t *)tags, offset + (I)tag, n);
#else
    if (tag_bytes == 1) for (ptrdiff_t k = 0; k < n; k++) ((uint8_t *)tags)[k] = (uint8_t)(tag + offset[k]);
#endif
    else if (tag_bytes == 4) for (ptrdiff_t k = 0; k < n; k++) ((int32_t *)tags)[k] = (int32_t)(tag + offset[k]);
    else for (ptrdiff_t k = 0; k < n; k++) ((int64_t *)tags)[k] = tag + k * lane_tag + offset[k];
}

/* --- max ---------------------------------------------------------------------------------------------------------- */

/* `reads` is n, or LANES where so much may be read: a partial load takes many times as long as a whole one (Zen 5). */
INLINE void NAME(max_block)(const int registers, const ptrdiff_t n, const ptrdiff_t reads, const int along,
                            const fastcnn_run *r, const T *source, const ptrdiff_t step, T *output, char *tags,
                            const int tag_bytes, ptrdiff_t tag, const int relu) {
    const ptrdiff_t in = along == ALONG_PLACES ? r->place_in : LANES * step;
    const ptrdiff_t out = along == ALONG_PLACES ? r->place_out : LANES;
    const ptrdiff_t next_tag = along == ALONG_PLACES ? r->place_tag : LANES * r->lane_tag;
    VEC best[REGISTERS];
    INTS winner[REGISTERS]; /* numbers are counted from the first element's here */
    INTS row_number = {0};
    for (int k = 0; k < registers; k++) {
        best[k] = NAME(load)(source + k * in, step, reads);
        if (step == 1) FETCH(source + k * in, 0);
        winner[k] = (INTS){0};
    }
    ptrdiff_t first = 1; /* the first element is in already */
    for (ptrdiff_t i = r->rows; i > 0; i--) {
        INTS number = row_number + (I)(first * r->column_tag);
        const T *p = source + first * r->column_step;
        for (ptrdiff_t j = r->columns - first; j > 0; j--) {
            for (int k = 0; k < registers; k++) {
                VEC value = NAME(load)(p + k * in, step, reads);
                LOADED(value);
                if (step == 1) FETCH(p + k * in, 0);
                const INTS better = ~(value <= best[k]) & (best[k] == best[k]); /* larger, or the first NaN */
                best[k] = (VEC)((better & (INTS)value) | (~better & (INTS)best[k]));
                if (tag_bytes) winner[k] = (better & number) | (~better & winner[k]);
            }
            p += r->column_step;
            number += (I)r->column_tag;
        }
        first = 0;
        source += r->row_step;
        row_number += (I)r->row_tag;
    }
    for (int k = 0; k < registers; k++) {
        if (relu) {
            const INTS none = best[k] <= 0;
            best[k] = (VEC)(~none & (INTS)best[k]);
            winner[k] = (none & ((INTS){0} + (I)(FASTCNN_NO_TAP(tag_bytes) - tag - k * next_tag))) | (~none & winner[k]);
        }
        NAME(store)(output + k * out, best[k], 1, n);
        if (tag_bytes)
            NAME(store_tags)(tags + k * out * tag_bytes, tag_bytes, winner[k], tag + k * next_tag, r->lane_tag, n);
    }
}

INLINE void NAME(max_run)(const fastcnn_run *r, const T *source, const ptrdiff_t step, T *output, char *tags,
                          const int tag_bytes, const int relu) {
    source += r->first;
    /* The places after this one are there to be read. */
#define READS(n, x) ((n) < LANES && step == 1 && (places - 1 - (x)) * r->place_in >= LANES ? LANES : (n))
#define BLOCK(registers, n, x, at, along)                                                                             \
    NAME(max_block)(registers, n, READS(n, x), along, r, source + (x) * r->place_in + (at) * step, step,                           \
                    output + (x) * r->place_out + (at), tags + ((x) * r->place_out + (at)) * tag_bytes, tag_bytes,    \
                    r->tag + (x) * r->place_tag + (at) * r->lane_tag, relu)
    EVERY_BLOCK(r, step, 0)
#undef READS
#undef BLOCK
}

static void NAME(max)(const fastcnn_run *r, const T *source, T *output, void *tags, int tag_bytes, int relu) {
    if (r->lane_in == 2) {
        if (tag_bytes) NAME(max_run)(r, source, 2, output, tags, tag_bytes, relu);
        else NAME(max_run)(r, source, 2, output, tags, 0, relu);
    } else if (r->lane_in != 1) {
        if (tag_bytes) NAME(max_run)(r, source, r->lane_in, output, tags, tag_bytes, relu);
        else NAME(max_run)(r, source, r->lane_in, output, tags, 0, relu);
    } else if (tag_bytes == 1) NAME(max_run)(r, source, 1, output, tags, 1, relu);
    else if (tag_bytes) NAME(max_run)(r, source, 1, output, tags, tag_bytes, relu);
    else NAME(max_run)(r, source, 1, output, tags, 0, relu);
}

/* --- route -------------------------------------------------------------------------------------------------------- */

#ifdef WIDEN
INLINE void NAME(route_block)(const int registers, const int along, const fastcnn_run *r, const T *grad,
                              const uint8_t *taps, T *output) {
    const ptrdiff_t in = along == ALONG_PLACES ? r->place_in : LANES;
    const ptrdiff_t out = along == ALONG_PLACES ? r->place_out : LANES;
    VEC total[REGISTERS];
    INTS row_number = (INTS){0} + (I)r->tag;
    for (int k = 0; k < registers; k++) total[k] = (VEC){0};
    for (ptrdiff_t i = r->rows; i > 0; i--) {
        INTS number = row_number;
        const T *p = grad;
        const uint8_t *tap = taps;
        for (ptrdiff_t j = r->columns; j > 0; j--) {
            for (int k = 0; k < registers; k++) {
                VEC value = *(const VEC *)(p + k * in);
                LOADED(value);
                const INTS won = (INTS)WIDEN(tap + k * in) == number;
                total[k] += (VEC)(won & (INTS)value);
            }
            p += r->column_step;
            tap += r->column_step;
            number += (I)r->column_tag;
        }
        grad += r->row_step;
        taps += r->row_step;
        row_number += (I)r->row_tag;
    }
    for (int k = 0; k < registers; k++) {
        *(VEC *)(output + k * out) = total[k];
        FETCH(output + k * out, 1);
    }
}

static void NAME(route)(const fastcnn_run *r, const T *grad, const uint8_t *taps, T *output) {
    grad += r->first;
    taps += r->first;
#define BLOCK(registers, n, x, at, along)                                                                             \
    NAME(route_block)(registers, along, r, grad + (x) * r->place_in + (at), taps + (x) * r->place_in + (at),          \
                      output + (x) * r->place_out + (at))
    EVERY_BLOCK(r, 1, 0)
#undef BLOCK
}
#endif

/* --- few channels ------------------------------------------------------------------------------------------------- */

#ifdef PERMUTE
INLINE VEC NAME(permute2)(const VEC a, const VEC b, const INTS at) {
#ifdef PERMUTE2
    return (VEC)PERMUTE2(a, b, at);
#else
    const INTS second = at > LANES - 1;
    return (VEC)((second & (INTS)PERMUTE(b, at)) | (~second & (INTS)PERMUTE(a, at)));
#endif
}

/* Windows of `registers` groups, each read by two loads a tap: from the group's first element, and to its last. Whole
   registers are stored where that stays before `end`, as what comes after a group is stored later. */
INLINE void NAME(max_few_block)(const int registers, const fastcnn_few *f, const INTS at, const T *source, T *output,
                                const T *end, uint8_t *tags, const int keep, const int relu) {
    const ptrdiff_t in = f->group * f->place, out = f->group * f->channels;
    const ptrdiff_t second = (f->group - 1) * f->place + f->channels - LANES;
    VEC best[REGISTERS];
    INTS winner[REGISTERS], number = {0};
#define READ(k, p) NAME(permute2)(*(const VEC *)((p) + (k) * in), *(const VEC *)((p) + (k) * in + second), at)
    for (int k = 0; k < registers; k++) {
        best[k] = READ(k, source);
        FETCH(source + k * in, 0);
        winner[k] = (INTS){0};
    }
    ptrdiff_t first = 1; /* the first element is in already */
    for (ptrdiff_t i = 0; i < f->rows; i++) {
        const T *p = source + first * f->column_step;
        for (ptrdiff_t j = first; j < f->columns; j++) {
            number += 1;
            for (int k = 0; k < registers; k++) {
                const VEC value = READ(k, p);
                FETCH(p + k * in, 0);
                const INTS better = ~(value <= best[k]) & (best[k] == best[k]); /* larger, or the first NaN */
                best[k] = (VEC)((better & (INTS)value) | (~better & (INTS)best[k]));
                if (keep) winner[k] = (better & number) | (~better & winner[k]);
            }
            p += f->column_step;
        }
        first = 0;
        source += f->row_step;
    }
#undef READ
    for (int k = 0; k < registers; k++) {
        if (relu) {
            const INTS none = best[k] <= 0;
            best[k] = (VEC)(~none & (INTS)best[k]);
            winner[k] = winner[k] | (none & ((INTS){0} + FASTCNN_NO_TAP(1)));
        }
        const ptrdiff_t n = end - (output + k * out) >= LANES ? LANES : out;
        NAME(store)(output + k * out, best[k], 1, n);
        if (keep) NAME(store_tags)(tags + k * out, 1, winner[k], 0, 0, n);
    }
}

INLINE void NAME(max_few_run)(const fastcnn_few *f, const T *source, T *output, uint8_t *tags, const int keep,
                              const int relu) {
    const ptrdiff_t channels = f->channels, group = f->group, last = f->places - group;
    const ptrdiff_t second = (group - 1) * f->place + channels - LANES;
    const T *end = output + f->lines * f->places * channels;
    INTS at = {0};
    for (ptrdiff_t k = 0; k < group * channels; k++) {
        const ptrdiff_t element = k / channels * f->place + k % channels;
        at[k] = (I)(element < LANES ? element : LANES + element - second);
    }
    for (ptrdiff_t y = 0; y < f->lines; y++) {
        ptrdiff_t x = 0;
#define BLOCK(registers)                                                                                              \
    NAME(max_few_block)(registers, f, at, source + x * f->place, output + x * channels, end, tags + x * channels, keep, \
                        relu)
        if (f->places >= REGISTERS * group)
            for (; x < f->places; x += REGISTERS * group) {
                if (x > f->places - REGISTERS * group) x = f->places - REGISTERS * group;
                BLOCK(REGISTERS);
            }
        for (; x < f->places; x += group) {
            if (x > last) x = last;
            BLOCK(1);
        }
#undef BLOCK
        source += f->line;
        output += f->places * channels;
        if (keep) tags += f->places * channels;
    }
}

static void NAME(max_few)(const fastcnn_few *f, const T *source, T *output, uint8_t *tags, int relu) {
    if (!tags) NAME(max_few_run)(f, source, output, tags, 0, relu);
    else if (relu) NAME(max_few_run)(f, source, output, tags, 1, 1);
    else NAME(max_few_run)(f, source, output, tags, 1, 0);
}

/* Each row of a group's windows is stored by `registers` whole registers, the last to end where the group does. */
INLINE void NAME(route_few_run)(const int registers, const fastcnn_few *f, const T *grad, const T *end,
                                const uint8_t *taps, T *output) {
    const ptrdiff_t channels = f->channels, group = f->group, last = f->places - group;
    ptrdiff_t start[4];
    INTS at[4], number[4];
    for (int k = 0; k < registers; k++) {
        start[k] = k < registers - 1 ? k * LANES : group * f->place - LANES;
        for (ptrdiff_t lane = 0; lane < LANES; lane++) {
            const ptrdiff_t element = start[k] + lane;
            at[k][lane] = (I)(element / f->place * channels + element % channels);
            number[k][lane] = (I)(element % f->place / channels);
        }
    }
    for (ptrdiff_t y = 0; y < f->lines; y++) {
        for (ptrdiff_t x = 0; x < f->places; x += group) {
            if (x > last) x = last;
            const T *from = grad + x * channels;
            const uint8_t *tap = taps + x * channels;
            uint8_t bytes[LANES] = {0};
            VEC value;
            if (end - from >= LANES) value = *(const VEC *)from;
            else {
                value = (VEC)LOAD_PART(from, group * channels);
                for (ptrdiff_t k = 0; k < group * channels; k++) bytes[k] = tap[k];
                tap = bytes;
            }
            value += (VEC){0}; /* a sum begins with 0 */
            const INTS won = (INTS)WIDEN(tap);
            T *to = output + x * f->place;
            VEC values[4];
            INTS winners[4];
            for (int k = 0; k < registers; k++) {
                values[k] = (VEC)PERMUTE(value, at[k]);
                winners[k] = (INTS)PERMUTE(won, at[k]) - number[k];
            }
            for (ptrdiff_t i = 0; i < f->rows; i++, to += f->row_step)
                for (int k = 0; k < registers; k++)
                    *(VEC *)(to + start[k]) = (VEC)((winners[k] == (INTS){0} + (I)(i * f->columns)) & (INTS)values[k]);
        }
        grad += f->places * channels;
        taps += f->places * channels;
        output += f->line;
    }
}

static void NAME(route_few)(const fastcnn_few *f, const T *grad, const T *end, const uint8_t *taps, T *output) {
    const ptrdiff_t wide = f->group * f->place;
    if (wide <= LANES) NAME(route_few_run)(1, f, grad, end, taps, output);
    else if (wide <= 2 * LANES) NAME(route_few_run)(2, f, grad, end, taps, output);
    else if (wide <= 3 * LANES) NAME(route_few_run)(3, f, grad, end, taps, output);
    else NAME(route_few_run)(4, f, grad, end, taps, output);
}
#endif

/* --- mean --------------------------------------------------------------------------------------------------------- */

/* Each row's sum first, then the rows: rounding errors grow with rows + columns instead of rows * columns. */
INLINE void NAME(mean_block)(const int registers, const ptrdiff_t n, const int along, const fastcnn_run *r,
                             const T *source, const ptrdiff_t step, T *output, const T divisor, const int add) {
    const ptrdiff_t in = along == ALONG_PLACES ? r->place_in : LANES * step;
    const ptrdiff_t out = along == ALONG_PLACES ? r->place_out : LANES * r->lane_out;
    VEC total[REGISTERS], sum[REGISTERS];
    for (int k = 0; k < registers; k++) total[k] = (VEC){0};
    for (ptrdiff_t i = r->rows; i > 0; i--) {
        for (int k = 0; k < registers; k++) sum[k] = (VEC){0};
        const T *p = source;
        for (ptrdiff_t j = r->columns; j > 0; j--) {
            for (int k = 0; k < registers; k++) sum[k] += NAME(load)(p + k * in, step, n);
            p += r->column_step;
        }
        for (int k = 0; k < registers; k++) total[k] += sum[k];
        source += r->row_step;
    }
    for (int k = 0; k < registers; k++) {
        VEC mean = total[k] / ((VEC){0} + divisor);
        if (add) mean += NAME(load)(output + k * out, r->lane_out, n);
        NAME(store)(output + k * out, mean, r->lane_out, n);
    }
}

INLINE void NAME(mean_run)(const fastcnn_run *r, const T *source, const ptrdiff_t step, T *output, const T divisor,
                           const int add) {
    source += r->first;
#define BLOCK(registers, n, x, at, along)                                                                             \
    NAME(mean_block)(registers, n, along, r, source + (x) * r->place_in + (at) * step, step,                          \
                     output + (x) * r->place_out + (at) * r->lane_out, divisor, add)
    EVERY_BLOCK(r, step, add)
#undef BLOCK
}

/* A single lane with long contiguous rows (a global mean of an NCHW plane): the columns fill the register. */
INLINE T NAME(mean_of_plane)(const fastcnn_run *r, const T *source, const T divisor) {
    T total = 0;
    for (ptrdiff_t i = 0; i < r->rows; i++, source += r->row_step) {
        VEC sums = {0};
        ptrdiff_t j = 0;
        for (; j + LANES <= r->columns; j += LANES) sums += *(const VEC *)(source + j);
        if (j < r->columns) sums += (VEC)LOAD_PART(source + j, r->columns - j);
        T row = 0;
        for (int k = 0; k < LANES; k++) row += sums[k];
        total += row;
    }
    return total / divisor;
}

static void NAME(mean)(const fastcnn_run *r, const T *source, T *output, ptrdiff_t divisor, int add) {
    if (r->lanes == 1 && r->places == 1 && r->column_step == 1 && r->columns >= LANES) {
        const T mean = NAME(mean_of_plane)(r, source + r->first, (T)divisor);
        *output = add ? *output + mean : mean;
    } else if (r->lane_in == 0) NAME(mean_run)(r, source, 0, output, (T)divisor, add);
    else if (r->lane_in == 1) NAME(mean_run)(r, source, 1, output, (T)divisor, add);
    else if (r->lane_in == 2) NAME(mean_run)(r, source, 2, output, (T)divisor, add);
    else NAME(mean_run)(r, source, r->lane_in, output, (T)divisor, add);
}

#undef T
#undef I
#undef LANES
#undef SUFFIX
#undef LOAD_PART
#undef STORE_PART
#undef PICK
#undef EVENS
#undef WIDEN
#undef NARROW
#undef NARROW_PART
#undef PERMUTE
#undef PERMUTE2
