/* The lanes of pooling for one element type T and one vector length. Included twice by each instruction set's part of
   pool.c, which defines

     T, I, LANES, SUFFIX    element type, signed integer of its size, elements of a register, name of both together
     LOAD_PART, STORE_PART  (pointer, count) -> vector, (pointer, vector, count): count < LANES elements
     PICK                   (pointer, step) -> LANES elements as an initialiser
     EVENS                  LANES indices: those of 0, 2, .. in two vectors whose last and first element are the same
     WIDEN, NARROW          (bytes) -> vector of I, (bytes, vector of I): LANES unsigned bytes
     LOADED                 (vector) to say that it is loaded by now

   REGISTERS registers of lanes go through a window together, their results in locals of a function that is inlined with
   a constant number of registers; then one at a time (as all that are loaded lane by lane), and a rest of fewer than LANES with partial loads. */

typedef T VEC __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));
typedef I INTS __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));

INLINE VEC NAME(load)(const T *p, const ptrdiff_t step, const ptrdiff_t n) {
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
    if (tag_bytes == 1) for (ptrdiff_t k = 0; k < n; k++) ((uint8_t *)tags)[k] = (uint8_t)(tag + offset[k]);
    else if (tag_bytes == 4) for (ptrdiff_t k = 0; k < n; k++) ((int32_t *)tags)[k] = (int32_t)(tag + offset[k]);
    else for (ptrdiff_t k = 0; k < n; k++) ((int64_t *)tags)[k] = tag + k * lane_tag + offset[k];
}

INLINE INTS NAME(load_taps)(const void *taps, const int tap_bytes) {
    if (tap_bytes == 1) return (INTS)WIDEN((const uint8_t *)taps);
    I wide[LANES];
    for (ptrdiff_t k = 0; k < LANES; k++) wide[k] = ((const int32_t *)taps)[k];
    return *(const INTS *)wide;
}

/* --- max ---------------------------------------------------------------------------------------------------------- */

INLINE void NAME(max_block)(const int registers, const ptrdiff_t n, const fastcnn_run *r, const T *source,
                            const ptrdiff_t step, T *output, char *tags, const int tag_bytes, ptrdiff_t tag) {
    VEC best[REGISTERS];
    INTS winner[REGISTERS]; /* numbers are counted from the first element's here */
    INTS row_number = {0};
    for (int k = 0; k < registers; k++) {
        best[k] = NAME(load)(source + k * LANES * step, step, n);
        winner[k] = (INTS){0};
    }
    ptrdiff_t first = 1; /* the first element is in already */
    for (ptrdiff_t i = r->rows; i > 0; i--) {
        INTS number = row_number + (I)(first * r->column_tag);
        const T *p = source + first * r->column_step;
        for (ptrdiff_t j = r->columns - first; j > 0; j--) {
            for (int k = 0; k < registers; k++) {
                const VEC value = NAME(load)(p + k * LANES * step, step, n);
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
        NAME(store)(output + k * LANES, best[k], 1, n);
        if (tag_bytes)
            NAME(store_tags)(tags + k * LANES * tag_bytes, tag_bytes, winner[k], tag + k * LANES * r->lane_tag,
                             r->lane_tag, n);
    }
}

INLINE void NAME(max_places)(const fastcnn_run *r, const T *source, const ptrdiff_t step, T *output, char *tags,
                             const int tag_bytes) {
    const ptrdiff_t lanes = r->lanes, last = lanes - LANES;
    ptrdiff_t tag = r->tag;
    source += r->first;
    for (ptrdiff_t x = r->places; x > 0; x--) {
        ptrdiff_t at = 0;
#define BLOCK(registers, n)                                                                                         \
    NAME(max_block)(registers, n, r, source + at * step, step, output + at, tags + at * tag_bytes, tag_bytes,       \
                    tag + at * r->lane_tag)
        if (step == 1) for (; at + REGISTERS * LANES <= lanes; at += REGISTERS * LANES) BLOCK(REGISTERS, LANES);
        for (; at < lanes && last >= 0; at += LANES) {
            if (at > last) at = last; /* the last block may write some lanes again, the same */
            BLOCK(1, LANES);
        }
        if (at < lanes) BLOCK(1, lanes);
#undef BLOCK
        source += r->place_in;
        output += r->place_out;
        tags += r->place_out * tag_bytes;
        tag += r->place_tag;
    }
}

static void NAME(max)(const fastcnn_run *r, const T *source, T *output, void *tags, int tag_bytes) {
    if (r->lane_in == 2) {
        if (tag_bytes) NAME(max_places)(r, source, 2, output, tags, tag_bytes);
        else NAME(max_places)(r, source, 2, output, tags, 0);
    } else if (r->lane_in != 1) {
        if (tag_bytes) NAME(max_places)(r, source, r->lane_in, output, tags, tag_bytes);
        else NAME(max_places)(r, source, r->lane_in, output, tags, 0);
    } else if (tag_bytes == 1) NAME(max_places)(r, source, 1, output, tags, 1);
    else if (tag_bytes) NAME(max_places)(r, source, 1, output, tags, tag_bytes);
    else NAME(max_places)(r, source, 1, output, tags, 0);
}

/* --- route -------------------------------------------------------------------------------------------------------- */

INLINE void NAME(route_block)(const int registers, const fastcnn_run *r, const T *grad, const char *taps,
                              const int tap_bytes, T *output) {
    VEC total[REGISTERS];
    INTS row_number = (INTS){0} + (I)r->tag;
    for (int k = 0; k < registers; k++) total[k] = (VEC){0};
    for (ptrdiff_t i = r->rows; i > 0; i--) {
        INTS number = row_number;
        const T *p = grad;
        const char *mark = taps;
        for (ptrdiff_t j = r->columns; j > 0; j--) {
            for (int k = 0; k < registers; k++) {
                VEC value = *(const VEC *)(p + k * LANES);
                LOADED(value);
                const INTS won = NAME(load_taps)(mark + k * LANES * tap_bytes, tap_bytes) == number;
                total[k] += (VEC)(won & (INTS)value);
            }
            p += r->column_step;
            mark += r->column_step * tap_bytes;
            number += (I)r->column_tag;
        }
        grad += r->row_step;
        taps += r->row_step * tap_bytes;
        row_number += (I)r->row_tag;
    }
    for (int k = 0; k < registers; k++) *(VEC *)(output + k * LANES) = total[k];
}

INLINE void NAME(route_places)(const fastcnn_run *r, const T *grad, const char *taps, const int tap_bytes, T *output) {
    const ptrdiff_t lanes = r->lanes, last = lanes - LANES;
    grad += r->first;
    taps += r->first * tap_bytes;
    for (ptrdiff_t x = r->places; x > 0; x--) {
        ptrdiff_t at = 0;
#define BLOCK(registers) NAME(route_block)(registers, r, grad + at, taps + at * tap_bytes, tap_bytes, output + at)
        for (; at + REGISTERS * LANES <= lanes; at += REGISTERS * LANES) BLOCK(REGISTERS);
        for (; at < lanes; at += LANES) {
            if (at > last) at = last;
            BLOCK(1);
        }
#undef BLOCK
        grad += r->place_in;
        taps += r->place_in * tap_bytes;
        output += r->place_out;
    }
}

static void NAME(route)(const fastcnn_run *r, const T *grad, const void *taps, int tap_bytes, T *output) {
    if (tap_bytes == 1) NAME(route_places)(r, grad, taps, 1, output);
    else NAME(route_places)(r, grad, taps, 4, output);
}

/* --- mean --------------------------------------------------------------------------------------------------------- */

/* Each row's sum first, then the rows: rounding errors grow with rows + columns instead of rows * columns. */
INLINE void NAME(mean_block)(const int registers, const ptrdiff_t n, const fastcnn_run *r, const T *source,
                             const ptrdiff_t step, T *output, const T divisor, const int add) {
    VEC total[REGISTERS], sum[REGISTERS];
    for (int k = 0; k < registers; k++) total[k] = (VEC){0};
    for (ptrdiff_t i = r->rows; i > 0; i--) {
        for (int k = 0; k < registers; k++) sum[k] = (VEC){0};
        const T *p = source;
        for (ptrdiff_t j = r->columns; j > 0; j--) {
            for (int k = 0; k < registers; k++) sum[k] += NAME(load)(p + k * LANES * step, step, n);
            p += r->column_step;
        }
        for (int k = 0; k < registers; k++) total[k] += sum[k];
        source += r->row_step;
    }
    for (int k = 0; k < registers; k++) {
        T *out = output + k * LANES * r->lane_out;
        VEC mean = total[k] / ((VEC){0} + divisor);
        if (add) mean += NAME(load)(out, r->lane_out, n);
        NAME(store)(out, mean, r->lane_out, n);
    }
}

INLINE void NAME(mean_places)(const fastcnn_run *r, const T *source, const ptrdiff_t step, T *output, const T divisor,
                              const int add) {
    const ptrdiff_t lanes = r->lanes, last = lanes - LANES;
    source += r->first;
    for (ptrdiff_t x = r->places; x > 0; x--) {
        ptrdiff_t at = 0;
#define BLOCK(registers, n) \
    NAME(mean_block)(registers, n, r, source + at * step, step, output + at * r->lane_out, divisor, add)
        if (step == 1) for (; at + REGISTERS * LANES <= lanes; at += REGISTERS * LANES) BLOCK(REGISTERS, LANES);
        for (; at <= last || (at < lanes && last >= 0 && !add); at += LANES) {
            if (at > last) at = last;
            BLOCK(1, LANES);
        }
        if (at < lanes) BLOCK(1, lanes - at);
#undef BLOCK
        source += r->place_in;
        output += r->place_out;
    }
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
    } else if (r->lane_in == 1) NAME(mean_places)(r, source, 1, output, (T)divisor, add);
    else if (r->lane_in == 2) NAME(mean_places)(r, source, 2, output, (T)divisor, add);
    else NAME(mean_places)(r, source, r->lane_in, output, (T)divisor, add);
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
