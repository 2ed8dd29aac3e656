/* The body of an Arrow message: its buffers compressed, one behind another, in one go.
 *
 * A batch of spans has some 310 buffers, most of them small. A call for each took the GIL hundreds of times from those who wait
 * for it, an allocation for each frame and one for its scratch.
 * Format: https://arrow.apache.org/docs/format/Columnar.html#compression
 */
#ifndef OTLP_ARROW_ZSTD_BODY_H
#define OTLP_ARROW_ZSTD_BODY_H

#include "bitmaps.h"
#include "zstd_text.h"

enum {
    ZSTD_LEAST_BYTES = 64, /* below, a frame's head and tables are most of it */
    ZSTD_PREFIX_BYTES = 8, /* before each buffer: how long it is inflated, or -1 if it is stored as it is */
    ZSTD_ALIGNMENT = 8
};

/* What is known of a buffer. */
typedef enum {
    ZSTD_AS_ANY, /* nothing */
    ZSTD_AS_ELEMENTS, /* of `width` bytes */
    ZSTD_AS_OFFSETS,
    ZSTD_AS_TEXT, /* with `count` ends at `beside` */
    ZSTD_AS_RUNS, /* `count` of them at `data`; `size` is what they are written out */
    ZSTD_AS_VALIDITY /* bits, of which those that are not set are counted */
} ZstdKind;

typedef struct {
    const uint8_t *data;
    size_t size;
    ZstdKind kind;
    size_t width;
    const void *beside;
    size_t count;   /* of bits: how many there are */
    int64_t *nulls; /* of validity: where they are counted */
    int64_t *place; /* where it lies in the body, and its bytes: with the prefix, without the padding */
} ZstdBuffer;

/* What the compressors work in: a quarter of a MiB. */
typedef struct {
    union {
        ZstdScratch words;
        struct {
            ZstdColumn column;
            ZstdText text;
        };
    };
} ZstdWork;

static ZstdResult zstd_done(int is_done) { return is_done ? ZSTD_DONE : ZSTD_UNSUITED; }

/* The frame of a buffer. */
static ZstdResult zstd_frame(const ZstdBuffer *buffer, ZstdWork *work, ZstdOut *out) {
    const uint8_t *data = buffer->data;
    size_t size = buffer->size;
    if (buffer->kind == ZSTD_AS_RUNS) {
        zstd_runs((const ZstdRun *)data, buffer->count, size, &work->column, out);
        return zstd_done(!out->no_memory);
    }
    if (zstd_is_constant(data, size)) {
        zstd_constant(data[0], size, out);
        return zstd_done(!out->no_memory);
    }
    switch (buffer->kind) {
        case ZSTD_AS_ELEMENTS: return zstd_column(data, size, buffer->width, &work->column, out);
        case ZSTD_AS_OFFSETS: return zstd_done(size % 4 == 0 && zstd_words((const uint32_t *)data, size / 4, &work->words, out));
        case ZSTD_AS_TEXT:
            return zstd_done(
                zstd_text(data, size, (const int32_t *)buffer->beside, buffer->count, &work->text, &work->column, out));
        case ZSTD_AS_VALIDITY: return zstd_column(data, size, 1, &work->column, out);
        default: return ZSTD_UNSUITED;
    }
}

/* The prefix, then what a buffer is stored as, then zeros; `begin` is where the prefix stands. */
static void zstd_body_end(const ZstdBuffer *buffer, int64_t prefix, size_t begin, ZstdOut *out) {
    size_t size = out->size - begin, padding = (size_t)-(ptrdiff_t)size % ZSTD_ALIGNMENT;
    uint8_t *at = zstd_room(out, ZSTD_ALIGNMENT);
    if (at == NULL) return;
    memset(at, 0, padding);
    out->size += padding;
    memcpy(out->data + begin, &prefix, ZSTD_PREFIX_BYTES);
    buffer->place[0] = (int64_t)begin;
    buffer->place[1] = (int64_t)size;
}

/* A buffer that somebody compressed, or that is stored as it is (`frame` is NULL). */
static void zstd_body_put(const ZstdBuffer *buffer, const uint8_t *frame, size_t size, ZstdOut *out) {
    size_t begin = out->size;
    int64_t prefix = (int64_t)buffer->size;
    uint8_t *at;
    if (frame == NULL || size >= buffer->size) {
        frame = buffer->data;
        size = buffer->size;
        prefix = -1;
    }
    at = zstd_room(out, ZSTD_PREFIX_BYTES + size);
    if (at == NULL) return;
    memcpy(at + ZSTD_PREFIX_BYTES, frame, size);
    out->size += ZSTD_PREFIX_BYTES + size;
    zstd_body_end(buffer, prefix, begin, out);
}

/* The buffers from `first` on, into the body that `out` is. The number of the first one that the library is to compress, or
 * `count`. */
static size_t zstd_body(const ZstdBuffer *buffers, size_t first, size_t count, ZstdWork *work, ZstdOut *out) {
    for (size_t k = first; k < count; k++) {
        const ZstdBuffer *buffer = buffers + k;
        size_t begin = out->size;
        buffer->place[0] = (int64_t)begin;
        buffer->place[1] = 0;
        if (buffer->kind == ZSTD_AS_VALIDITY) *buffer->nulls = (int64_t)(buffer->count - bits_count(buffer->data, buffer->count));
        if (buffer->size == 0) continue;
        if (buffer->size < ZSTD_LEAST_BYTES && buffer->kind != ZSTD_AS_RUNS) {
            zstd_body_put(buffer, NULL, 0, out);
        } else {
            ZstdResult result;
            if (zstd_room(out, ZSTD_PREFIX_BYTES) == NULL) return count;
            out->size += ZSTD_PREFIX_BYTES;
            result = zstd_frame(buffer, work, out);
            if (out->no_memory) return count;
            if (result == ZSTD_UNSUITED) {
                out->size = begin;
                return k;
            }
            if (result == ZSTD_DONE && (out->size - begin - ZSTD_PREFIX_BYTES < buffer->size || buffer->kind == ZSTD_AS_RUNS)) {
                zstd_body_end(buffer, (int64_t)buffer->size, begin, out);
            } else {
                out->size = begin;
                zstd_body_put(buffer, NULL, 0, out);
            }
        }
        if (out->no_memory) return count;
    }
    return count;
}

#endif
