/* The lanes of pooling for one element type T and one vector length. Included twice by each instruction set's part of
   pool.c, which defines

     T, I, LANES, SUFFIX    element type, signed integer of its size, elements of a register, name of both together
     LOAD_PART, STORE_PART  (pointer, count) -> vector, (pointer, vector, count): count < LANES elements
     PICK                   (pointer, step) -> LANES elements as an initialiser
     WIDEN, NARROW          (bytes) -> vector of I, (bytes, vector of I): LANES unsigned bytes

   Two registers of lanes go through a window together, their results in locals of a function that is inlined with a
   constant number of registers. */

typedef T VEC __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));
typedef I INTS __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));

INLINE VEC NAME(load)(const T *p, const ptrdiff_t step, const ptrdiff_t n) {
    if (step == 1) return n == LANES ? *(const VEC *)p : (VEC)LOAD_PART(p, n);
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

INLINE INTS NAME(load_taps)(const void *taps, const int tap_bytes, const ptrdiff_t n) {
    if (tap_bytes == 1 && n == LANES) return (INTS)WIDEN((const uint8_t *)taps);
    I wide[LANES] = {0};
    if (tap_bytes == 1) for (ptrdiff_t k = 0; k < n; k++) wide[k] = ((const uint8_t *)taps)[k];
    else for (ptrdiff_t k = 0; k < n; k++) wide[k] = ((const int32_t *)taps)[k];
    return *(const INTS *)wide;
}

/* --- max ---------------------------------------------------------------------------------------------------------- */

INLINE void NAME(max_block)(const int registers, const ptrdiff_t n, const fastcnn_run *r, const T *source,
                            const ptrdiff_t step, T *output, char *tags, const int tag_bytes, ptrdiff_t tag) {
    VEC best[2];
    INTS offset[2] = {{0}, {0}}; /* the winner's number, counted from the first element's */
    for (int k = 0; k < registers; k++) best[k] = NAME(load)(source + k * LANES * step, step, n);
    ptrdiff_t j = 1; /* the first element is in already */
    I row_number = 0;
    for (ptrdiff_t i = r->rows; i > 0; i--) {
        const T *p = source + j * r->column_step;
        I number = row_number + (I)(j * r->column_tag);
        for (; j < r->columns; j++) {
            for (int k = 0; k < registers; k++) {
                const VEC value = NAME(load)(p + k * LANES * step, step, n);
                const INTS better = ~(value <= best[k]) & (best[k] == best[k]); /* larger, or the first NaN */
                best[k] = (VEC)((better & (INTS)value) | (~better & (INTS)best[k]));
                if (tag_bytes) offset[k] = (better & ((INTS){0} + number)) | (~better & offset[k]);
            }
            p += r->column_step;
            number += (I)r->column_tag;
        }
        j = 0;
        source += r->row_step;
        row_number += (I)r->row_tag;
    }
    for (int k = 0; k < registers; k++) {
        NAME(store)(output + k * LANES, best[k], 1, n);
        if (tag_bytes)
            NAME(store_tags)(tags + k * LANES * tag_bytes, tag_bytes, offset[k], tag + k * LANES * r->lane_tag,
                             r->lane_tag, n);
    }
}

INLINE void NAME(max_places)(const fastcnn_run *r, const T *source, const ptrdiff_t step, T *output, char *tags,
                             const int tag_bytes) {
    for (ptrdiff_t x = 0; x < r->places; x++) {
        const T *p = source + r->first + x * r->place_in;
        T *out = output + x * r->place_out;
        char *mark = tags + x * r->place_out * tag_bytes;
        ptrdiff_t tag = r->tag + x * r->place_tag;
        ptrdiff_t left = r->lanes;
        for (; left >= 2 * LANES; left -= 2 * LANES) {
            NAME(max_block)(2, LANES, r, p, step, out, mark, tag_bytes, tag);
            p += 2 * LANES * step, out += 2 * LANES, mark += 2 * LANES * tag_bytes, tag += 2 * LANES * r->lane_tag;
        }
        if (left >= LANES) {
            NAME(max_block)(1, LANES, r, p, step, out, mark, tag_bytes, tag);
            p += LANES * step, out += LANES, mark += LANES * tag_bytes, tag += LANES * r->lane_tag, left -= LANES;
        }
        if (left) NAME(max_block)(1, left, r, p, step, out, mark, tag_bytes, tag);
    }
}

static void NAME(max)(const fastcnn_run *r, const T *source, T *output, void *tags, int tag_bytes) {
    if (r->lane_in != 1) {
        if (tag_bytes) NAME(max_places)(r, source, r->lane_in, output, tags, tag_bytes);
        else NAME(max_places)(r, source, r->lane_in, output, tags, 0);
    } else if (tag_bytes == 1) NAME(max_places)(r, source, 1, output, tags, 1);
    else if (tag_bytes) NAME(max_places)(r, source, 1, output, tags, tag_bytes);
    else NAME(max_places)(r, source, 1, output, tags, 0);
}

/* --- route -------------------------------------------------------------------------------------------------------- */

INLINE void NAME(route_block)(const int registers, const ptrdiff_t n, const fastcnn_run *r, const T *grad,
                              const char *taps, const int tap_bytes, T *output) {
    VEC total[2] = {{0}, {0}};
    I row_number = (I)r->tag;
    for (ptrdiff_t i = r->rows; i > 0; i--) {
        const T *p = grad;
        const char *mark = taps;
        I number = row_number;
        for (ptrdiff_t j = r->columns; j > 0; j--) {
            for (int k = 0; k < registers; k++) {
                const INTS won = NAME(load_taps)(mark + k * LANES * tap_bytes, tap_bytes, n) == (INTS){0} + number;
                total[k] += (VEC)(won & (INTS)NAME(load)(p + k * LANES, 1, n));
            }
            p += r->column_step;
            mark += r->column_step * tap_bytes;
            number += (I)r->column_tag;
        }
        grad += r->row_step;
        taps += r->row_step * tap_bytes;
        row_number += (I)r->row_tag;
    }
    for (int k = 0; k < registers; k++) NAME(store)(output + k * LANES * r->lane_out, total[k], r->lane_out, n);
}

INLINE void NAME(route_places)(const fastcnn_run *r, const T *grad, const char *taps, const int tap_bytes, T *output) {
    for (ptrdiff_t x = 0; x < r->places; x++) {
        const T *p = grad + r->first + x * r->place_in;
        const char *mark = taps + (r->first + x * r->place_in) * tap_bytes;
        T *out = output + x * r->place_out;
        ptrdiff_t left = r->lanes;
        for (; left >= 2 * LANES; left -= 2 * LANES) {
            NAME(route_block)(2, LANES, r, p, mark, tap_bytes, out);
            p += 2 * LANES, mark += 2 * LANES * tap_bytes, out += 2 * LANES * r->lane_out;
        }
        if (left >= LANES) {
            NAME(route_block)(1, LANES, r, p, mark, tap_bytes, out);
            p += LANES, mark += LANES * tap_bytes, out += LANES * r->lane_out, left -= LANES;
        }
        if (left) NAME(route_block)(1, left, r, p, mark, tap_bytes, out);
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
    VEC total[2] = {{0}, {0}};
    for (ptrdiff_t i = 0; i < r->rows; i++) {
        VEC row[2] = {{0}, {0}};
        const T *p = source + i * r->row_step;
        for (ptrdiff_t j = r->columns; j > 0; j--) {
            for (int k = 0; k < registers; k++) row[k] += NAME(load)(p + k * LANES * step, step, n);
            p += r->column_step;
        }
        for (int k = 0; k < registers; k++) total[k] += row[k];
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
    for (ptrdiff_t x = 0; x < r->places; x++) {
        const T *p = source + r->first + x * r->place_in;
        T *out = output + x * r->place_out;
        ptrdiff_t left = r->lanes;
        for (; left >= 2 * LANES; left -= 2 * LANES) {
            NAME(mean_block)(2, LANES, r, p, step, out, divisor, add);
            p += 2 * LANES * step, out += 2 * LANES * r->lane_out;
        }
        if (left >= LANES) {
            NAME(mean_block)(1, LANES, r, p, step, out, divisor, add);
            p += LANES * step, out += LANES * r->lane_out, left -= LANES;
        }
        if (left) NAME(mean_block)(1, left, r, p, step, out, divisor, add);
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
    else NAME(mean_places)(r, source, r->lane_in, output, (T)divisor, add);
}

#undef T
#undef I
#undef LANES
#undef SUFFIX
#undef LOAD_PART
#undef STORE_PART
#undef PICK
#undef WIDEN
#undef NARROW
