/* Zstandard frames of text whose strings are known: attributes, bodies of log records.
 *
 * A general compressor looks for a repetition at every byte. Strings repeat as a whole, or from their beginning on, and
 * often with those behind them, as they stand in rows of one kind. So a place is looked up where a string begins and, in
 * long ones, where a word does. Of two places where it was seen the one is taken that goes on alike for longer:
 * by its first 24 bytes, which reach into the strings behind it, and by its first eight. A span's ten attributes take 2.3
 * matches and 73 ns, of the library 104; 11.9 bytes instead of 9.8, since literals are not compressed.
 */
#ifndef OTLP_ARROW_ZSTD_TEXT_H
#define OTLP_ARROW_ZSTD_TEXT_H

#include "zstd_columns.h"

enum {
    ZSTD_TEXT_LOG = 12,         /* of the places that are known of each kind: 32 KiB in all, what a first-level cache holds */
    ZSTD_TEXT_SEED = 24,        /* bytes by which a place is looked up first */
    ZSTD_TEXT_REST = 16,        /* of a string; less is not looked at for words */
    ZSTD_TEXT_FIRST = 8 * 1024, /* the first block shows whether text is suited */
    ZSTD_TEXT_GOOD = 32         /* no longer match is looked for */
};

typedef struct {
    uint32_t by_seed[1 << ZSTD_TEXT_LOG], by_word[1 << ZSTD_TEXT_LOG]; /* where it was last seen, plus one */
    const int32_t *end;  /* of strings: the first that lies behind the place that is looked at */
    const int32_t *last; /* of all */
} ZstdText;

static inline uint32_t zstd_text_place(uint64_t bits) { return (uint32_t)(bits * 0x9E3779B97F4A7C15u >> (64 - ZSTD_TEXT_LOG)); }

/* Behind `at`, where it is worth looking: where the string ends, at `stop`, or where a word of it begins. */
static inline size_t zstd_text_next(const uint8_t *data, size_t at, size_t stop) {
#ifdef BYTES_SSE2
    for (; stop - at >= ZSTD_TEXT_REST; at += 16) {
        __m128i here = _mm_loadu_si128((const __m128i *)(data + at));
        uint32_t marks = (uint32_t)_mm_movemask_epi8(_mm_cmplt_epi8(here, _mm_set1_epi8('0')));
        if (marks) return at + zstd_first_bit(marks) + 1;
    }
    return stop;
#else
    if (stop - at < ZSTD_TEXT_REST) return stop;
    while (at < stop && data[at] >= '0') at++;
    return at < stop ? at + 1 : stop;
#endif
}

/* The bytes from `begin` to `end` into literals and sequences; how far that went. */
static size_t zstd_split_text(const uint8_t *data, size_t begin, size_t end, size_t size, ZstdText *text, ZstdColumn *to,
                              size_t *literals, size_t *sequences) {
    uint8_t *literal = to->literals;
    uint64_t *next = to->sequences;
    size_t at = begin, from = begin;
    ZstdBacks backs = to->backs;
    const int32_t *string = text->end, *last = text->last;
    memset(to->lengths, 0, sizeof to->lengths);
    memset(to->matches, 0, sizeof to->matches);
    memset(to->offsets, 0, sizeof to->offsets);
    while (at < end && next < to->sequences + ZSTD_MAX_SEQUENCES) {
        size_t found = 0, back = 0, start = at;
        uint64_t here;
        uint32_t *by_word, word;
        if (size - at < 8) break;
        here = load64(data + at);
        by_word = text->by_word + zstd_text_place(here);
        word = *by_word;
        *by_word = (uint32_t)at + 1;
        if (size - at >= ZSTD_TEXT_SEED) {
            uint64_t seed = here + load64(data + at + 8) * 0xC2B2AE3D27D4EB4Fu + load64(data + at + 16) * 0x165667B19E3779F9u;
            uint32_t *by_seed = text->by_seed + zstd_text_place(seed ^ seed >> 29), place = *by_seed;
            *by_seed = (uint32_t)at + 1;
            if (place != 0 && load64(data + place - 1) == here && at + 1 - place <= (size_t)1 << ZSTD_WINDOW_LOG) {
                back = at + 1 - place;
                found = zstd_alike(data + at, data + at - back, data + end);
            }
        }
        if (found < ZSTD_TEXT_GOOD && word != 0) {
            size_t other = at + 1 - word;
            if (other != back && load64(data + at - other) == here && other <= (size_t)1 << ZSTD_WINDOW_LOG) {
                size_t far = zstd_alike(data + at, data + at - other, data + end);
                if (far > found) {
                    found = far;
                    back = other;
                }
            }
        }
        if (found < ZSTD_LEAST_MATCH) {
            while (string < last && (size_t)*string <= at) string++;
            at = zstd_text_next(data, at, string < last && (size_t)*string < end ? (size_t)*string : end);
            continue;
        }
        at += found;
        while (start > from && start >= back + 8) { /* backwards, too */
            uint64_t differ = load64(data + start - 8) ^ load64(data + start - back - 8);
            size_t alike = differ ? 8 - zstd_top_byte(differ) : 8;
            start -= alike < start - from ? alike : start - from;
            if (alike < 8) break;
        }
        if (start - from <= 16 && end - from >= 16) {
            memcpy(literal, data + from, 16); /* of which some count */
        } else {
            memcpy(literal, data + from, start - from);
        }
        literal += start - from;
        zstd_sequence(to, &backs, next++, start - from, at - start, back);
        from = at;
        while (string < last && (size_t)*string < at) string++;
        if (string == last) break;
        /* Where a match ends inside of a string the next byte is another one. */
        if ((size_t)*string != at && at < end) at = zstd_text_next(data, at, (size_t)*string < end ? (size_t)*string : end);
    }
    if (next == to->sequences + ZSTD_MAX_SEQUENCES) end = from;
    memcpy(literal, data + from, end - from);
    *literals = (size_t)(literal - to->literals) + (end - from);
    *sequences = (size_t)(next - to->sequences);
    to->backs = backs;
    text->end = string;
    return end;
}

/* Whether the library is to have it instead: of what is not found again this way it may find some, and it compresses
 * literals; attributes that repeat take a tenth of their bytes here. */
static int zstd_text_unsuited(size_t done, size_t packed) { return packed * 4 > done; }

/* The frame of text whose strings end where `ends` says, `count` of them. False, and nothing written, if it is not
 * suited. */
static int zstd_text(const uint8_t *data, size_t size, const int32_t *ends, size_t count, ZstdText *text, ZstdColumn *column,
                     ZstdOut *out) {
    size_t begin = out->size, done = 0;
    if (size < ZSTD_MIN_COLUMN || size >= (size_t)1 << 31) return 0;
    if (!zstd_head(out, ZSTD_WINDOW_LOG, size)) return 0;
    memset(text->by_seed, 0, sizeof text->by_seed);
    memset(text->by_word, 0, sizeof text->by_word);
    text->end = ends;
    text->last = ends + count;
    zstd_column_begin(column);
    while (done < size) {
        size_t end = done + (done == 0 ? ZSTD_TEXT_FIRST : ZSTD_BLOCK_BYTES), from = done, literals, sequences, packed = 0;
        ZstdBacks backs = column->backs;
        uint8_t *at;
        if (end > size) end = size;
        at = zstd_room(out, zstd_block_bound(end - done));
        if (at == NULL) return 0;
        done = zstd_split_text(data, done, end, size, text, column, &literals, &sequences);
        if (sequences > 0) packed = zstd_pack(column, literals, sequences, done == size, at);
        if (packed == 0 || packed >= 3 + done - from) {
            column->backs = backs; /* a reader will not have seen others */
            packed = zstd_as_it_is(data + from, done - from, done == size, at);
        }
        out->size += packed;
        if (zstd_text_unsuited(done, out->size - begin)) {
            out->size = begin;
            return 0;
        }
    }
    return 1;
}

#endif
