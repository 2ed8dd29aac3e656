/* Zstandard frames of columns whose elements are 1, 4, 8 or 16 bytes: times, ids, enums, numbers; and of what is known to
 * repeat itself. See ``zstd_text.h`` for text.
 *
 * A general compressor looks at every byte for something to repeat. In a column it is known where: at the element that
 * stands as far back as the last match did, which is the one before, or the same attribute of the row before. Its
 * bytes up to the highest that differs are literals, all behind it is a match. Only where that one is short is a
 * better place looked for, by the first eight bytes, among the elements at which matches ended before.
 * Literals are not compressed: most are low bytes of times, and ids. Where nearly every element would be a match of its own, and
 * that at the same distance, it is told as offsets are: 2 ns a time instead of 11.
 *
 * Compressing spans takes a fifth less with it, data points and log records a third, at about the same size. The library reads
 * the result about as fast as its own.
 */
#ifndef OTLP_ARROW_ZSTD_COLUMNS_H
#define OTLP_ARROW_ZSTD_COLUMNS_H

#include "zstd_frames.h"

#if defined(__GNUC__) || defined(__clang__)
#define zstd_specialised inline __attribute__((always_inline))
#else
#define zstd_specialised inline
#endif

enum {
    ZSTD_LEAST_MATCH = 3,
    ZSTD_WINDOW_LOG = 20, /* how far back runs and text may refer, which a reader keeps: every one has to up to 8 MiB */
    ZSTD_MAX_SEQUENCES = 8192, /* of a block: they stay in the cache from the first pass to the second */
    ZSTD_FEW = 512, /* sequences for which small tables do */
    ZSTD_LENGTH_CODES = 36,
    ZSTD_MATCH_CODES = 53,
    ZSTD_OFFSET_CODES = 21,    /* of distances up to 1 MiB, plus three */
    ZSTD_FIRST_BYTES = 4 * 1024, /* the first block shows whether a column is suited */
    ZSTD_MIN_COLUMN = 2048,    /* below, tables are most of the frame */
    ZSTD_PLACES_LOG = 10,
    ZSTD_GOOD_MATCH = 32,      /* no better one is looked for */
    ZSTD_FAR_BYTES = 3,        /* what telling another distance takes, about */
    ZSTD_MOST_PENDING = 7,     /* elements that differ wholly, one behind another */
    ZSTD_SAMPLES = 512,        /* elements of a column that are looked at for noise */
    ZSTD_PATIENCE = 1024       /* so many looked for, and less than a sixteenth found: no more are looked for */
};

/* What became of a buffer. */
typedef enum {
    ZSTD_UNSUITED, /* nothing is written: the library does better, or there is no memory */
    ZSTD_NOISE,    /* nothing is written: nobody does better than as it is */
    ZSTD_DONE
} ZstdResult;

typedef struct {
    size_t last, before; /* how far back the last two matches lay that did not repeat the one before them */
} ZstdBacks;

typedef struct {
    uint8_t literals[ZSTD_BLOCK_BYTES + 16];
    uint64_t sequences[ZSTD_MAX_SEQUENCES]; /* length of the literals, << 20 of the match - 3, << 40 the offset's value */
    uint32_t lengths[ZSTD_LENGTH_CODES], matches[ZSTD_MATCH_CODES], offsets[ZSTD_OFFSET_CODES];
    ZstdTable length_table, match_table, offset_table;
    uint32_t places[1 << ZSTD_PLACES_LOG]; /* where an element was last seen, plus one */
    uint32_t looked, found;
    ZstdBacks backs;
} ZstdColumn;

static inline uint32_t zstd_log(uint32_t value) { /* of 1 and more */
#if defined(__GNUC__) || defined(__clang__)
    return 31 - (uint32_t)__builtin_clz(value);
#else
    uint32_t log = 0;
    while (value >> (log + 1)) log++;
    return log;
#endif
}

static inline uint32_t zstd_equal_bytes(uint64_t differ) { /* below the lowest that differs; of 1 and more */
#if defined(__GNUC__) || defined(__clang__)
    return (uint32_t)__builtin_ctzll(differ) / 8;
#else
    uint32_t bytes = 0;
    while (!(differ & 0xFF)) differ >>= 8, bytes++;
    return bytes;
#endif
}

/* RFC 8878, 3.1.1.3.2.1.1: codes, each with its first value and extra bits. */
static const uint8_t ZSTD_LENGTH_CODE[64] = {
    0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 16, 17, 17, 18, 18,
    19, 19, 20, 20, 20, 20, 21, 21, 21, 21, 22, 22, 22, 22, 22, 22, 22, 22, 23, 23, 23, 23,
    23, 23, 23, 23, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24};
static const uint8_t ZSTD_LENGTH_BITS[ZSTD_LENGTH_CODES] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  0,  0,  0,  1,  1,
                                                            1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
static const uint8_t ZSTD_MATCH_CODE[128] = {
    0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
    26, 27, 28, 29, 30, 31, 32, 32, 33, 33, 34, 34, 35, 35, 36, 36, 36, 36, 37, 37, 37, 37, 38, 38, 38, 38,
    38, 38, 38, 38, 39, 39, 39, 39, 39, 39, 39, 39, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40,
    40, 40, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 41, 42, 42, 42, 42, 42, 42, 42, 42,
    42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42, 42};
static const uint8_t ZSTD_MATCH_BITS[ZSTD_MATCH_CODES] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  0,  0,  0,
                                                          0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,  1,  1,  1,
                                                          2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static inline uint32_t zstd_length_code(uint32_t length) {
    uint32_t shorter = ZSTD_LENGTH_CODE[length & 63], longer = zstd_log(length | 1) + 19; /* a choice, and no branch */
    return length < 64 ? shorter : longer;
}

static inline uint32_t zstd_match_code(uint32_t match) {
    uint32_t shorter = ZSTD_MATCH_CODE[match & 127], longer = zstd_log(match | 1) + 36;
    return match < 128 ? shorter : longer;
}

/* How many bytes from `at` on are as those from `from` on; no further than `end`, which is behind both. */
static inline size_t zstd_alike(const uint8_t *at, const uint8_t *from, const uint8_t *end) {
    const uint8_t *start = at;
#ifdef BYTES_SSE2
    /* One way out of one loop: where a match ends cannot be foreseen, and each wrong guess of a branch takes 5 ns. */
    for (; end - at >= 32; at += 32, from += 32) {
        __m128i a = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)at), _mm_loadu_si128((const __m128i *)from));
        __m128i b = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(at + 16)), _mm_loadu_si128((const __m128i *)(from + 16)));
        if (_mm_movemask_epi8(_mm_and_si128(a, b)) != 0xFFFF) {
            uint32_t alike = (uint32_t)_mm_movemask_epi8(a) | (uint32_t)_mm_movemask_epi8(b) << 16;
            return (size_t)(at - start) + zstd_first_bit(~alike);
        }
    }
#endif
    for (; end - at >= 8; at += 8, from += 8) {
        uint64_t differ = load64(at) ^ load64(from);
        if (differ) return (size_t)(at - start) + zstd_equal_bytes(differ);
    }
    while (at < end && *at == *from) at++, from++;
    return (size_t)(at - start);
}

/* An element by its bits; of sixteen bytes a mixture, which serves to look for it. */
static inline uint64_t zstd_element(const uint8_t *at, size_t width) {
    if (width == 1) return *at;
    if (width == 4) return load32(at);
    return width == 8 ? load64(at) : load64(at) ^ load64(at + 8);
}

/* How many bytes of two elements differ, up to the highest that does. */
static inline size_t zstd_unlike(const uint8_t *a, const uint8_t *b, size_t width) {
    uint64_t differ;
    if (width == 16) {
        differ = load64(a + 8) ^ load64(b + 8);
        if (differ) return 8 + zstd_top_byte(differ);
        differ = load64(a) ^ load64(b);
    } else {
        differ = zstd_element(a, width) ^ zstd_element(b, width);
    }
    return differ ? zstd_top_byte(differ) : 0;
}

static zstd_specialised void zstd_sequence(ZstdColumn *to, ZstdBacks *backs, uint64_t *next, size_t length, size_t match,
                                           size_t back) {
    size_t value;
    if (kernel_likely(back == backs->last && length > 0)) {
        value = 1;
    } else {
        value = back + 3;
        if (back == backs->before) value = length > 0 ? 2 : 1;
        backs->before = backs->last;
        backs->last = back;
    }
    match -= ZSTD_LEAST_MATCH;
    *next = (uint64_t)length | (uint64_t)match << 20 | (uint64_t)value << 40;
    to->lengths[zstd_length_code((uint32_t)length)]++;
    to->matches[zstd_match_code((uint32_t)match)]++;
    to->offsets[zstd_log((uint32_t)value)]++;
}

/* The bytes from `begin` to `end`, both at elements, into literals and sequences; how far that went. */
static zstd_specialised size_t zstd_split_column(const uint8_t *data, size_t begin, size_t end, size_t width, ZstdColumn *to,
                                                 size_t *literals, size_t *sequences) {
    uint8_t *literal = to->literals;
    uint64_t *next = to->sequences;
    size_t at = begin, from = begin; /* literals since `from` are not yet written */
    /* Not in `to`: that what is written there may be these, as far as a compiler knows, took a third of the time. */
    ZstdBacks backs = to->backs;
    uint32_t looked = to->looked, found = to->found;
    memset(to->lengths, 0, sizeof to->lengths);
    memset(to->matches, 0, sizeof to->matches);
    memset(to->offsets, 0, sizeof to->offsets);
    while (at < end && next < to->sequences + ZSTD_MAX_SEQUENCES) {
        size_t back = backs.last % width ? width : backs.last, start = at, stop = at, other;
        if (at >= back) {
            start += zstd_unlike(data + at, data + at - back, width);
            stop += width;
            stop += zstd_alike(data + stop, data + stop - back, data + end);
            stop -= (stop - at) % width;
        }
        if (stop - at < ZSTD_GOOD_MATCH && (looked < ZSTD_PATIENCE || found * 16 >= looked) && end - at >= 8) {
            uint64_t here = load64(data + at);
            uint32_t *place = to->places + (here * 0x9E3779B97F4A7C15u >> (64 - ZSTD_PLACES_LOG));
            size_t seen = *place;
            *place = (uint32_t)at + 1;
            looked++;
            other = at + 1 - seen;
            if (seen != 0 && other <= ZSTD_BLOCK_BYTES && other != back && load64(data + at - other) == here) {
                size_t far = zstd_alike(data + at, data + at - other, data + end);
                far -= far % width;
                if (far > stop - start + ZSTD_FAR_BYTES) {
                    found++;
                    start = at;
                    stop = at + far;
                    back = other;
                }
            }
        }
        if (stop < start + ZSTD_LEAST_MATCH) {
            at += width;
            continue;
        }
        if (start - from <= 16 && end - from >= 16) {
            memcpy(literal, data + from, 16); /* of which some count */
        } else {
            memcpy(literal, data + from, start - from);
        }
        literal += start - from;
        zstd_sequence(to, &backs, next++, start - from, stop - start, back);
        from = at = stop;
    }
    memcpy(literal, data + from, at - from);
    *literals = (size_t)(literal - to->literals) + (at - from);
    *sequences = (size_t)(next - to->sequences);
    to->backs = backs;
    to->looked = looked;
    to->found = found;
    return at;
}

/* What ``zstd_before`` does, for one addition and one load less: steps of a symbol in one place. */
typedef struct {
    struct {
        uint32_t bits; /* a state plus this, >> 16: bits on the way */
        int32_t place; /* a state without those bits, plus this: place of the one before */
    } steps[ZSTD_CODES];
    const uint16_t *place;
    uint32_t state;
} ZstdWay;

static void zstd_way(const ZstdTable *table, uint32_t last, ZstdWay *way) {
    way->place = table->place;
    way->state = table->places[last][0];
    for (uint32_t s = 0; s < table->symbols; s++) {
        if (table->share[s] == 0) continue;
        way->steps[s].bits = ((uint32_t)table->most_bits[s] << 16) - table->bits_from[s];
        way->steps[s].place = (int32_t)(table->places[s] - table->place) - (int32_t)table->share[s];
    }
}

static inline void zstd_step(ZstdWay *way, uint32_t symbol, ZstdBits *bits) {
    uint32_t count = (way->state + way->steps[symbol].bits) >> 16;
    zstd_bits(bits, way->state & ((1u << count) - 1), (int)count);
    way->state = way->place[(int32_t)(way->state >> count) + way->steps[symbol].place];
}

/* The bits of the sequences, from the last one to the first. `is_short`: no length has further bits. */
static zstd_specialised uint8_t *zstd_write_any(const ZstdColumn *from, size_t count, int is_short, uint8_t *out) {
    int has_lengths = from->length_table.only < 0, has_matches = from->match_table.only < 0;
    int has_offsets = from->offset_table.only < 0;
    ZstdWay lengths = {0}, matches = {0}, offsets = {0};
    ZstdBits bits = {out, 0, 0};
    for (size_t at = count; at-- > 0;) {
        uint64_t each = from->sequences[at];
        uint32_t length = (uint32_t)each & 0xFFFFF, match = (uint32_t)(each >> 20) & 0xFFFFF, offset = (uint32_t)(each >> 40);
        uint32_t length_code = is_short ? length : zstd_length_code(length);
        uint32_t match_code = is_short ? match : zstd_match_code(match), offset_code = zstd_log(offset);
        if (at == count - 1) {
            if (has_lengths) zstd_way(&from->length_table, length_code, &lengths);
            if (has_matches) zstd_way(&from->match_table, match_code, &matches);
            if (has_offsets) zstd_way(&from->offset_table, offset_code, &offsets);
        } else {
            if (has_offsets) zstd_step(&offsets, offset_code, &bits);
            if (has_matches) zstd_step(&matches, match_code, &bits);
            if (has_lengths) zstd_step(&lengths, length_code, &bits);
        }
        if (!is_short) { /* which ones have any is not foreseen: 7 + 3 * 8 + 2 * 16 bits without a branch, then 7 + 20 */
            zstd_bits(&bits, length & ((1u << ZSTD_LENGTH_BITS[length_code]) - 1), ZSTD_LENGTH_BITS[length_code]);
            zstd_bits(&bits, match & ((1u << ZSTD_MATCH_BITS[match_code]) - 1), ZSTD_MATCH_BITS[match_code]);
            zstd_flush(&bits);
        }
        zstd_bits(&bits, offset & ((1u << offset_code) - 1), (int)offset_code);
        zstd_flush(&bits);
    }
    if (has_matches) zstd_last_state(&from->match_table, matches.state, &bits);
    if (has_offsets) zstd_last_state(&from->offset_table, offsets.state, &bits);
    if (has_lengths) zstd_last_state(&from->length_table, lengths.state, &bits);
    zstd_bits(&bits, 1, 1); /* where the reader begins */
    zstd_flush(&bits);
    return bits.at + (bits.count > 0);
}

static uint8_t *zstd_write_column(const ZstdColumn *from, size_t count, uint8_t *out) {
    uint32_t longer = 0;
    for (uint32_t code = 16; code < ZSTD_LENGTH_CODES; code++) longer |= from->lengths[code];
    for (uint32_t code = 32; code < ZSTD_MATCH_CODES; code++) longer |= from->matches[code];
    return longer ? zstd_write_any(from, count, 0, out) : zstd_write_any(from, count, 1, out);
}

static int zstd_log_for(size_t sequences) { return sequences < ZSTD_FEW ? ZSTD_SMALL_LOG : ZSTD_LOG; }

/* A block of the literals and sequences that are in `column`; the bytes it takes. */
static size_t zstd_pack(ZstdColumn *column, size_t literals, size_t sequences, int last, uint8_t *out) {
    uint8_t *modes, *at = zstd_put_literals(column->literals, literals, sequences, out + 3);
    if (sequences > 0) {
        zstd_share_out(&column->length_table, zstd_log_for(sequences), column->lengths, ZSTD_LENGTH_CODES, 0, 1, (uint32_t)sequences);
        zstd_share_out(&column->match_table, zstd_log_for(sequences), column->matches, ZSTD_MATCH_CODES, 0, 1, (uint32_t)sequences);
        zstd_share_out(&column->offset_table, zstd_log_for(sequences), column->offsets, ZSTD_OFFSET_CODES, 0, 1, (uint32_t)sequences);
        modes = at++;
        *modes = 0;
        at = zstd_tell(&column->length_table, 6, modes, at);
        at = zstd_tell(&column->offset_table, 4, modes, at);
        at = zstd_tell(&column->match_table, 2, modes, at);
        at = zstd_write_column(column, sequences, at);
    }
    zstd_block_head(out, last, 2, (size_t)(at - out) - 3);
    return (size_t)(at - out);
}

/* Room for a block whose sequences turn out to take more than its content: nine bytes each at the most. */
static size_t zstd_block_bound(size_t size) { return size + ZSTD_MAX_SEQUENCES * 10 + 1024; }

/* -- elements that differ from the one before in their lowest bytes only ---------------------------- */

/* As with offsets: of each element the `low` lowest bytes are literals, the others a match; one whose upper bytes differ, too, is
 * all literals. Nothing is told but where those are: a tenth more bytes than one by one, in a fifth of the time. */
typedef struct {
    uint32_t low; /* 0: it does not fit */
    uint32_t code[ZSTD_MOST_PENDING + 1], extra[ZSTD_MOST_PENDING + 1]; /* of literals with so many whole elements before */
} ZstdPlain;

/* How many of the lowest bytes serve for elements like the first of these. */
static uint32_t zstd_plain_low(const uint8_t *data, size_t count, size_t width) {
    size_t kinds[9] = {0}, all = 0, others = count, best = 0;
    uint32_t low = 0;
    for (size_t k = 1; k < count; k++) {
        size_t unlike = zstd_unlike(data + k * width, data + (k - 1) * width, width);
        kinds[unlike]++;
        all += unlike;
    }
    others -= kinds[0] + 1;
    for (uint32_t each = 1; each + ZSTD_LEAST_MATCH <= width; each++) {
        size_t taken;
        others -= kinds[each];
        taken = count * each + others * width;
        if (others * 8 > count || (low && taken >= best)) continue;
        low = each;
        best = taken;
    }
    /* Where one is often as the one before a match of both says it for less. */
    return kinds[0] * 8 > count && width > 4 ? 0 : best * 3 > all * 4 && width > 4 ? 0 : low;
}

/* Elements into literals, and for each match a byte of `symbols`: how many whole elements stand before it. False if those are
 * too many somewhere. Before the first element stands another. */
static zstd_specialised int zstd_split_plain(const uint8_t *data, size_t count, size_t width, uint32_t low, uint8_t *literals,
                                             uint8_t *symbols, size_t *literal_count, size_t *symbol_count) {
    uint8_t *literal = literals, *symbol = symbols;
    uint32_t pending = 0, most = 0;
    uint64_t before = zstd_element(data - width, width);
    for (size_t k = 0; k < count; k++) {
        uint64_t here = zstd_element(data + k * width, width);
        uint32_t plain = (here ^ before) >> 8 * low == 0;
        memcpy(literal, &here, width);
        literal += plain ? low : width;
        *symbol = (uint8_t)pending;
        symbol += plain;
        pending = plain ? 0 : pending + 1;
        most = pending > most ? pending : most;
        before = here;
    }
    *literal_count = (size_t)(literal - literals);
    *symbol_count = (size_t)(symbol - symbols);
    return most <= ZSTD_MOST_PENDING;
}

static uint8_t *zstd_write_plain(const ZstdTable *table, const ZstdPlain *plain, const uint8_t *symbols, size_t count, uint8_t *out) {
    ZstdBits bits = {out, 0, 0};
    uint32_t state = 0, last = plain->code[symbols[count - 1]];
    int has_states = table->only < 0, leaps = has_states && table->log == ZSTD_LOG && table->share[plain->code[0]] >= ZSTD_STATES / 2;
    ZstdLeap leap;
    if (leaps) zstd_leap(table, plain->code[0], &leap);
    if (has_states) state = table->places[last][0];
    zstd_bits(&bits, plain->extra[symbols[count - 1]], ZSTD_LENGTH_BITS[last]);
    for (size_t at = count - 1; at > 0 && (has_states || ZSTD_LENGTH_BITS[last]);) {
        uint32_t symbol, code;
        if (leaps && at >= 8) {
            size_t zeros = zstd_jump_zeros(&leap, symbols, at, 0, &state, &bits);
            at -= zeros;
            if (zeros == 8) {
                zstd_flush(&bits);
                continue;
            }
        }
        symbol = symbols[--at];
        code = plain->code[symbol];
        if (has_states) state = zstd_before(table, code, state, &bits);
        zstd_bits(&bits, plain->extra[symbol], ZSTD_LENGTH_BITS[code]);
        zstd_flush(&bits);
    }
    if (has_states) zstd_last_state(table, state, &bits);
    zstd_bits(&bits, 1, 1); /* where the reader begins */
    zstd_flush(&bits);
    return bits.at + (bits.count > 0);
}

/* A block that says how far back an element is, in one match; how many elements are in it, 0 if none of the first few is like
 * the one before. */
static size_t zstd_plain_start(const uint8_t *data, size_t count, size_t width, uint32_t low, int last, ZstdColumn *column, ZstdOut *out) {
    size_t k = 0;
    uint8_t *at = zstd_room(out, zstd_block_bound((ZSTD_MOST_PENDING + 1) * width));
    if (at == NULL) return 0;
    while (k < count && k < ZSTD_MOST_PENDING && zstd_unlike(data + k * width, data + (ptrdiff_t)(k * width - width), width) > low) k++;
    if (k == count || k == ZSTD_MOST_PENDING) return 0;
    memset(column->lengths, 0, sizeof column->lengths);
    memset(column->matches, 0, sizeof column->matches);
    memset(column->offsets, 0, sizeof column->offsets);
    memcpy(column->literals, data, k * width + low);
    zstd_sequence(column, &column->backs, column->sequences, k * width + low, width - low, width);
    out->size += zstd_pack(column, k * width + low, 1, last && k + 1 == count, at);
    return k + 1;
}

/* A block of `count` elements; the bytes it takes, 0 if they are not suited. What was told last is as far back as
 * an element. */
static size_t zstd_plain_block(const uint8_t *data, size_t count, size_t width, uint32_t low, int last, ZstdColumn *column, uint8_t *out) {
    uint8_t *symbols = (uint8_t *)column->sequences, *modes, *at;
    size_t literals, sequences;
    uint32_t kinds[ZSTD_MOST_PENDING + 1];
    ZstdPlain plain;
    int fine = width == 8 ? zstd_split_plain(data, count, 8, low, column->literals, symbols, &literals, &sequences)
                          : zstd_split_plain(data, count, 4, low, column->literals, symbols, &literals, &sequences);
    if (!fine || sequences == 0) return 0;
    zstd_count_symbols(symbols, sequences, kinds, ZSTD_MOST_PENDING + 1);
    memset(column->lengths, 0, sizeof column->lengths);
    for (uint32_t k = 0; k <= ZSTD_MOST_PENDING; k++) {
        uint32_t length = low + k * (uint32_t)width;
        plain.code[k] = zstd_length_code(length);
        plain.extra[k] = length & ((1u << ZSTD_LENGTH_BITS[plain.code[k]]) - 1);
        column->lengths[plain.code[k]] += kinds[k];
    }
    at = zstd_put_literals(column->literals, literals, sequences, out + 3);
    zstd_share_out(&column->length_table, zstd_log_for(sequences), column->lengths, ZSTD_LENGTH_CODES, 0, 1, (uint32_t)sequences);
    modes = at++;
    *modes = 1 << 4 | 1 << 2; /* all distances have one code, and all matches: */
    at = zstd_tell(&column->length_table, 6, modes, at);
    *at++ = 0; /* as far back as last time */
    *at++ = (uint8_t)(width - low - ZSTD_LEAST_MATCH);
    at = zstd_write_plain(&column->length_table, &plain, symbols, sequences, at);
    if ((size_t)(at - out) - 3 >= count * width) return 0;
    zstd_block_head(out, last, 2, (size_t)(at - out) - 3);
    return (size_t)(at - out);
}

/* -- any elements ------------------------------------------------------------------------------------ */

/* A block of what lies between `begin` and `*end`, or of the first part of it; as it is if that takes less.
 * `sequences`: how many there were. */
static size_t zstd_column_block(const uint8_t *data, size_t begin, size_t *end, size_t size_of_all, size_t width,
                                ZstdColumn *column, uint8_t *out, size_t *sequences) {
    size_t literals, size;
    ZstdBacks backs = column->backs;
    int last;
    switch (width) { /* compiled once for each */
        case 1: *end = zstd_split_column(data, begin, *end, 1, column, &literals, sequences); break;
        case 4: *end = zstd_split_column(data, begin, *end, 4, column, &literals, sequences); break;
        case 8: *end = zstd_split_column(data, begin, *end, 8, column, &literals, sequences); break;
        default: *end = zstd_split_column(data, begin, *end, 16, column, &literals, sequences);
    }
    size = *end - begin;
    last = *end == size_of_all;
    if (*sequences > 0 && literals < size) {
        size_t packed = zstd_pack(column, literals, *sequences, last, out);
        if (packed - 3 < size) return packed;
    }
    column->backs = backs; /* a reader will not have seen others */
    return zstd_as_it_is(data + begin, size, last, out);
}

static void zstd_column_begin(ZstdColumn *column) {
    column->backs.last = 1; /* what every reader begins with */
    column->backs.before = 4;
}

/* Whether the library is to have it instead: as fast where a sequence has little to repeat, and smaller where
 * literals are text. A sequence takes 10 to 15 ns; the library up to 3 a byte of ids and times, 1 of others. */
static int zstd_unsuited(size_t width, size_t done, size_t sequences, size_t packed) {
    switch (width) {
        case 1: return sequences * 64 > done || packed * 8 > done;
        case 4: return sequences * 12 > done || packed * 4 > done * 3;
        default: return sequences * 6 > done || packed * 4 > done * 3;
    }
}

/* Whether elements are as random as ids: then nobody finds anything. Of a few of them the bytes are compared with those of the
 * one before; where one of sixteen is the same there may be more to it. */
static int zstd_is_noise(const uint8_t *data, size_t size, size_t width) {
    size_t count = size / width, step = count / ZSTD_SAMPLES + 1, alike = 0, compared = 0;
    for (size_t k = 1; k < count; k += step, compared += width) {
        for (size_t byte = 0; byte < width; byte++) alike += data[k * width + byte] == data[(k - 1) * width + byte];
    }
    return width >= 8 && alike * 16 < compared;
}

/* The frame of a column; nothing is written if it is not suited. */
static ZstdResult zstd_column(const uint8_t *data, size_t size, size_t width, ZstdColumn *column, ZstdOut *out) {
    size_t begin = out->size, done = 0, sequences = 0;
    uint32_t low = 0; /* bytes of an element; 0: any may differ */
    if (size < ZSTD_MIN_COLUMN || size % width || size >= (size_t)1 << 31) return ZSTD_UNSUITED;
    if (!zstd_head(out, ZSTD_BLOCK_LOG, size)) return ZSTD_UNSUITED;
    memset(column->places, 0, sizeof column->places);
    column->looked = column->found = 0;
    zstd_column_begin(column);
    while (done < size) {
        size_t end = done + (done == 0 ? ZSTD_FIRST_BYTES : ZSTD_BLOCK_BYTES), more;
        uint8_t *at;
        if (end > size) end = size;
        at = zstd_room(out, zstd_block_bound(end - done));
        if (at == NULL) return ZSTD_UNSUITED;
        if (low > 0 && column->backs.last != width) {
            size_t few = zstd_plain_start(data + done, (size - done) / width, width, low, 1, column, out);
            if (out->no_memory) return ZSTD_UNSUITED;
            if (few > 0) {
                done += few * width;
                continue;
            }
        }
        if (low > 0 && column->backs.last == width) {
            size_t packed = zstd_plain_block(data + done, (end - done) / width, width, low, end == size, column, at);
            if (packed > 0) {
                out->size += packed;
                done = end;
                continue;
            }
        }
        out->size += zstd_column_block(data, done, &end, size, width, column, at, &more);
        if (done == 0 && more * width * 4 > end && (width == 4 || width == 8)) low = zstd_plain_low(data, end / width, width);
        done = end;
        sequences += more;
        if (low == 0 && zstd_unsuited(width, done, sequences, out->size - begin)) {
            out->size = begin;
            return sequences == 0 && zstd_is_noise(data, size, width) ? ZSTD_NOISE : ZSTD_UNSUITED;
        }
    }
    return ZSTD_DONE;
}

/* -- what is known to repeat itself ---------------------------------------------------------------- */

/* `times` times the same bytes, one after another; at most ZSTD_MAX_RUN of them if it is more than once. What stood there
 * some runs before is not told again, nor the ends that two neighbours share. */
typedef struct {
    const uint8_t *data;
    size_t size, times;
} ZstdRun;

enum {
    ZSTD_MAX_RUN = 64 * 1024,
    ZSTD_GOOD_ENDS = 8,       /* what a sequence takes, and a little more */
    ZSTD_RUNS_KNOWN = 8       /* blocks that are looked for among those before: services take turns */
};

typedef struct {
    ZstdColumn *column;
    size_t literals, pending, sequences, size; /* of the block that is being made */
    size_t left;                               /* of the content, in and after this block */
    ZstdOut *out;
} ZstdRunBlock;

static void zstd_close_block(ZstdRunBlock *self) {
    ZstdColumn *column = self->column;
    uint8_t *out = zstd_room(self->out, zstd_block_bound(self->literals));
    if (out != NULL) {
        if (self->sequences == 0) {
            self->out->size += zstd_as_it_is(column->literals, self->literals, self->left == 0, out);
        } else {
            self->out->size += zstd_pack(column, self->literals, self->sequences, self->left == 0, out);
        }
    }
    memset(column->lengths, 0, sizeof column->lengths);
    memset(column->matches, 0, sizeof column->matches);
    memset(column->offsets, 0, sizeof column->offsets);
    self->literals = self->pending = self->sequences = self->size = 0;
}

static void zstd_grow_block(ZstdRunBlock *self, size_t more) {
    self->size += more;
    self->left -= more;
    if (self->size == ZSTD_BLOCK_BYTES || self->sequences == ZSTD_MAX_SEQUENCES || self->left == 0) zstd_close_block(self);
}

/* Literals that a block still takes if it has so many sequences. It may not take more than its content may: readers refuse
 * it, and as it is it cannot be written, since what it holds lies in many places. */
static size_t zstd_run_room(const ZstdRunBlock *self, size_t sequences) {
    size_t taken = self->literals + sequences * 10 + 1024, room = ZSTD_BLOCK_BYTES - self->size;
    if (sequences == 0) return room;
    if (taken >= ZSTD_BLOCK_BYTES) return 0;
    return room < ZSTD_BLOCK_BYTES - taken ? room : ZSTD_BLOCK_BYTES - taken;
}

static void zstd_run_literals(ZstdRunBlock *self, const uint8_t *data, size_t size) {
    while (size > 0) {
        size_t here = zstd_run_room(self, self->sequences);
        if (here == 0) {
            zstd_close_block(self);
            continue;
        }
        if (here > size) here = size;
        memcpy(self->column->literals + self->literals, data, here);
        self->literals += here;
        self->pending += here;
        data += here;
        size -= here;
        zstd_grow_block(self, here);
    }
}

/* `length` bytes that stood `back` bytes before; they are `data` over and over. */
static void zstd_run_match(ZstdRunBlock *self, const uint8_t *data, size_t size, size_t back, size_t length) {
    size_t at = 0;
    while (length > 0) {
        size_t here = ZSTD_BLOCK_BYTES - self->size;
        if (zstd_run_room(self, self->sequences + 1) == 0) {
            zstd_close_block(self);
            continue;
        }
        if (here > length) here = length;
        if (here < ZSTD_LEAST_MATCH) {
            here = 1;
            zstd_run_literals(self, data + at, here);
        } else {
            ZstdColumn *column = self->column;
            zstd_sequence(column, &column->backs, column->sequences + self->sequences++, self->pending, here, back);
            self->pending = 0;
            zstd_grow_block(self, here);
        }
        length -= here;
        at = (at + here) % size;
    }
}

/* A run's first bytes, `size` of them, behind those of another run. */
static void zstd_run_first(ZstdRunBlock *self, const uint8_t *data, size_t size, const uint8_t *before, size_t size_before) {
    size_t shorter = size < size_before ? size : size_before, head = 0, tail = 0;
    if (shorter > 0 && size_before <= ZSTD_MAX_RUN && size <= ZSTD_MAX_RUN) {
        head = zstd_alike(data, before, data + shorter);
        while (tail < shorter - head && data[size - tail - 1] == before[size_before - tail - 1]) tail++;
    }
    if (head < ZSTD_GOOD_ENDS) head = 0;
    if (tail < ZSTD_GOOD_ENDS) tail = 0;
    if (head) zstd_run_match(self, data, size, size_before, head);
    zstd_run_literals(self, data + head, size - head - tail);
    if (tail) zstd_run_match(self, data + size - tail, tail, size, tail);
}

/* The byte that all are, or -1. */
static int zstd_runs_constant(const ZstdRun *runs, size_t count) {
    int byte = -1;
    for (size_t k = 0; k < count; k++) {
        if (runs[k].size == 0) continue;
        if (!zstd_is_constant(runs[k].data, runs[k].size) || (byte >= 0 && byte != runs[k].data[0])) return -1;
        byte = runs[k].data[0];
    }
    return byte;
}

/* The frame of what the runs are, `total` bytes, at least one. */
static void zstd_runs(const ZstdRun *runs, size_t count, size_t total, ZstdColumn *column, ZstdOut *out) {
    ZstdRunBlock block = {column, 0, 0, 0, 0, total, out};
    struct {
        const uint8_t *data;
        size_t size, left; /* when it was to be written last */
    } known[ZSTD_RUNS_KNOWN] = {{NULL, 0, 0}};
    const uint8_t *before = NULL;
    size_t size_before = 0;
    uint32_t oldest = 0;
    int byte = zstd_runs_constant(runs, count);
    if (byte >= 0) {
        zstd_constant((uint8_t)byte, total, out);
        return;
    }
    if (!zstd_head(out, ZSTD_WINDOW_LOG, total)) return;
    zstd_column_begin(column);
    memset(column->lengths, 0, sizeof column->lengths);
    memset(column->matches, 0, sizeof column->matches);
    memset(column->offsets, 0, sizeof column->offsets);
    for (size_t k = 0; k < count;) {
        const uint8_t *data = runs[k].data;
        size_t size = runs[k].size, times = runs[k].times, next = k + 1, back = 0;
        uint32_t which = 0;
        if (size == 0) { /* of no data, perhaps */
            k++;
            continue;
        }
        /* Other rows may differ in other columns only. */
        while (next < count && runs[next].size == size && memcmp(runs[next].data, data, size) == 0) {
            times += runs[next++].times;
        }
        k = next;
        while (which < ZSTD_RUNS_KNOWN && (known[which].size != size || memcmp(known[which].data, data, size) != 0)) which++;
        if (which < ZSTD_RUNS_KNOWN) {
            back = known[which].left - block.left;
        } else {
            which = oldest;
            oldest = (oldest + 1) % ZSTD_RUNS_KNOWN;
        }
        if (back > 0 && back <= (size_t)1 << ZSTD_WINDOW_LOG) {
            zstd_run_match(&block, data, size, back, size);
        } else {
            zstd_run_first(&block, data, size, before, size_before);
        }
        zstd_run_match(&block, data, size, size, size * (times - 1));
        before = data;
        size_before = size;
        known[which].data = data;
        known[which].size = size;
        known[which].left = block.left + size;
    }
}

#endif
