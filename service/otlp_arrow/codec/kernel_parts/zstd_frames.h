/* Zstandard frames of buffers whose shape is known beforehand: constants and offsets. See ``zstd_columns.h``
 * and ``zstd_text.h`` for others, ``zstd_body.h`` for who calls them.
 *
 * Half of what compressing a batch of spans costs went into the offsets of its strings, and half of
 * the bytes came of them: growing numbers of four bytes, in which a general compressor finds nothing to repeat.
 * But of two neighbours the upper three bytes are nearly always the same. So each number is written as
 * one literal and a match of three bytes, four bytes back. On spans: 1.2 bytes a number instead of 2.4, in a fifth of
 * the time. The library reads a number back in 9 ns instead of 4, ``zstd_read.h`` in one.
 *
 * Format: RFC 8878, sections 3.1.1 (frames, blocks, sequences) and 4.1 (FSE). Any decoder reads the result.
 */
#ifndef OTLP_ARROW_ZSTD_FRAMES_H
#define OTLP_ARROW_ZSTD_FRAMES_H

#include <stdlib.h>

#include "bytes.h"

enum {
    ZSTD_BLOCK_BYTES = 128 * 1024,
    ZSTD_BLOCK_WORDS = ZSTD_BLOCK_BYTES / 4,
    /* The first block spends two bits a sequence on saying "four bytes back"; later ones repeat that for nothing. */
    ZSTD_FIRST_WORDS = 256,
    ZSTD_LOG = 8, /* of the states of an FSE table */
    ZSTD_STATES = 1 << ZSTD_LOG,
    ZSTD_SMALL_LOG = 6, /* of those of few sequences, more than there are codes: one with all states takes 1 us to make */
    ZSTD_MAX_LITERALS = 13, /* before a match: 1, 5, 9 or 13. Above 15 their length would need further bits */
    ZSTD_MAX_MATCH = 31,    /* 3, 7, … 31; above 34 likewise */
    ZSTD_SYMBOLS = 8,       /* lengths in steps of four */
    ZSTD_CODES = 53,        /* of the lengths of matches: no table has more */
    ZSTD_HEAD_BYTES = 10,
    ZSTD_BLOCK_LOG = 17, /* of a block's bytes: the window of frames that refer no further back */
    ZSTD_MIN_WORDS = 512    /* below, a general compressor does as well */
};

static inline void zstd_put(uint8_t *to, uint64_t value, int bytes) {
    for (int k = 0; k < bytes; k++) to[k] = (uint8_t)(value >> 8 * k);
}

static inline uint32_t zstd_top_byte(uint64_t value) { /* how many bytes are left without leading zeros; of 1 and more */
#if defined(__GNUC__) || defined(__clang__)
    return 8 - (uint32_t)__builtin_clzll(value) / 8;
#else
    uint32_t bytes = 1;
    while (value >>= 8) bytes++;
    return bytes;
#endif
}

static inline uint32_t zstd_first_bit(uint32_t bits) { /* of those that are set; of 1 and more */
#if defined(__GNUC__) || defined(__clang__)
    return (uint32_t)__builtin_ctz(bits);
#else
    uint32_t place = 0;
    while (!(bits >> place & 1)) place++;
    return place;
#endif
}

/* What is written, one frame behind another. */
typedef struct {
    uint8_t *data;
    size_t size, capacity;
    int no_memory; /* something found no room: what is there is of no use */
} ZstdOut;

/* Where `more` bytes have room behind what is there; NULL if there is no memory. */
static uint8_t *zstd_room(ZstdOut *out, size_t more) {
    if (more > out->capacity - out->size) {
        size_t capacity = out->size + more + out->capacity / 2;
        uint8_t *data = (uint8_t *)realloc(out->data, capacity);
        if (data == NULL) {
            out->no_memory = 1;
            return NULL;
        }
        out->data = data;
        out->capacity = capacity;
    }
    return out->data + out->size;
}

/* Magic number, descriptor (content size in four bytes), window of 2^`window_log`, content size. */
static int zstd_head(ZstdOut *out, int window_log, size_t content) {
    uint8_t *to = zstd_room(out, ZSTD_HEAD_BYTES);
    if (to == NULL) return 0;
    zstd_put(to, 0xFD2FB528u, 4);
    to[4] = 2 << 6;
    to[5] = (uint8_t)((window_log - 10) << 3);
    zstd_put(to + 6, content, 4);
    out->size += ZSTD_HEAD_BYTES;
    return 1;
}

static inline void zstd_block_head(uint8_t *to, int last, int type, size_t size) {
    zstd_put(to, (uint64_t)last | (uint64_t)type << 1 | (uint64_t)size << 3, 3);
}

/* A block that is what it holds. */
static size_t zstd_as_it_is(const uint8_t *data, size_t size, int last, uint8_t *out) {
    zstd_block_head(out, last, 0, size);
    memcpy(out + 3, data, size);
    return 3 + size;
}

/* -- one byte, over and over ---------------------------------------------------------------------- */

/* Whether all bytes are the same. */
static int zstd_is_constant(const uint8_t *data, size_t size) {
    return size > 0 && memcmp(data, data + 1, size - 1) == 0;
}

/* The frame of `size` times `byte`. */
static void zstd_constant(uint8_t byte, size_t size, ZstdOut *out) {
    if (!zstd_head(out, ZSTD_BLOCK_LOG, size)) return;
    do {
        size_t here = size < ZSTD_BLOCK_BYTES ? size : ZSTD_BLOCK_BYTES;
        uint8_t *at = zstd_room(out, 4);
        if (at == NULL) return;
        size -= here;
        zstd_block_head(at, size == 0, 1, here);
        at[3] = byte;
        out->size += 4;
    } while (size > 0);
}

/* -- bits, written so that they are read from the end ---------------------------------------------- */

typedef struct {
    uint8_t *at;
    uint64_t bits;
    int count;
} ZstdBits;

static inline void zstd_bits(ZstdBits *self, uint32_t value, int count) {
    self->bits |= (uint64_t)value << self->count;
    self->count += count;
}

/* Room for 56 bits is there afterwards. Writes eight bytes, of which some count. */
static inline void zstd_flush(ZstdBits *self) {
    memcpy(self->at, &self->bits, 8); /* little-endian: the build refuses others */
    self->at += self->count >> 3;
    self->bits >>= self->count & ~7;
    self->count &= 7;
}

/* -- FSE ------------------------------------------------------------------------------------------- */

typedef struct {
    int log;  /* of its states: ZSTD_LOG, or ZSTD_SMALL_LOG */
    int only; /* the symbol, if there is just one; then a table of no bits does. Else -1 */
    uint32_t symbols;                      /* how many there are: ``first`` is the code of 0, the others follow in steps */
    int first, step;
    uint32_t share[ZSTD_CODES];            /* of the states */
    uint16_t *places[ZSTD_CODES];          /* the states of a symbol, in order */
    uint16_t place[ZSTD_STATES];
    uint32_t bits_from[ZSTD_CODES];        /* states from this one on are left with `most_bits`, others with one less */
    uint8_t most_bits[ZSTD_CODES];
} ZstdTable;

static void zstd_share_out(ZstdTable *self, int log, const uint32_t *counts, uint32_t symbols, int first, int step, uint32_t total) {
    int32_t left = 1 << log;
    uint32_t largest = 0;
    self->log = log;
    self->only = -1;
    self->symbols = symbols;
    self->first = first;
    self->step = step;
    for (uint32_t s = 0; s < symbols; s++) {
        uint32_t share = (uint32_t)(((uint64_t)counts[s] << log) / total);
        if (counts[s] == total) self->only = (int)s;
        self->share[s] = counts[s] && !share ? 1 : share;
        left -= (int32_t)self->share[s];
        if (counts[s] > counts[largest]) largest = s;
    }
    if (left > 0) self->share[largest] += (uint32_t)left;
    /* Where many were rounded up, whoever has the most gives. */
    for (; left < 0; left++) {
        for (uint32_t s = 0; s < symbols; s++) {
            if (self->share[s] > self->share[largest]) largest = s;
        }
        self->share[largest]--;
    }
}

/* RFC 8878, 4.1.1: the states are dealt out in steps that visit each of them once. */
static void zstd_deal(ZstdTable *self) {
    uint8_t symbol_at[ZSTD_STATES];
    uint32_t states = 1u << self->log, at = 0, step = (states >> 1) + (states >> 3) + 3;
    uint16_t *next[ZSTD_CODES], *free_place = self->place;
    for (uint32_t s = 0; s < self->symbols; s++) {
        uint32_t share = self->share[s];
        self->places[s] = next[s] = free_place;
        free_place += share;
        for (uint32_t k = 0; k < share; k++) {
            symbol_at[at] = (uint8_t)s;
            at = (at + step) & (states - 1);
        }
        if (share) {
            int log = 0;
            while (share >> (log + 1)) log++;
            /* A state of share..2*share-1 is reached from 2^log of them or of the double. */
            self->most_bits[s] = (uint8_t)(self->log - log);
            self->bits_from[s] = share << (self->log - log);
        }
    }
    for (uint32_t k = 0; k < states; k++) *next[symbol_at[k]]++ = (uint16_t)(k + states);
}

/* The table's description: of the probabilities of all codes up to the last one that occurs. */
static uint8_t *zstd_describe(const ZstdTable *self, uint8_t *out) {
    ZstdBits bits = {out, 0, 0};
    uint32_t left = 1u << self->log;
    int code = 0, zeros = 0;
    zstd_bits(&bits, (uint32_t)self->log - 5, 4);
    for (; left > 0; code++) {
        int place = code - self->first;
        uint32_t share = place >= 0 && place % self->step == 0 ? self->share[place / self->step] : 0;
        uint32_t value = share + 1, width = 0, short_ones;
        if (share == 0 && zeros > 0) { /* told by the flags behind the first zero */
            zeros++;
            continue;
        }
        if (zeros > 0) {
            for (zeros--; zeros >= 3; zeros -= 3) zstd_bits(&bits, 3, 2), zstd_flush(&bits);
            zstd_bits(&bits, (uint32_t)zeros, 2);
            zeros = 0;
        }
        while ((1u << width) < left + 2) width++; /* values 0..left+1 */
        short_ones = (1u << width) - (left + 2);  /* that many need a bit less */
        if (value < short_ones) {
            zstd_bits(&bits, value, (int)width - 1);
        } else {
            uint32_t half = 1u << (width - 1);
            zstd_bits(&bits, value < half ? value : value + short_ones, (int)width);
        }
        zstd_flush(&bits);
        left -= share;
        zeros = share == 0;
    }
    zstd_flush(&bits);
    return bits.at + (bits.count > 0);
}

/* Before `state` there was `symbol`. */
static inline uint32_t zstd_before(const ZstdTable *self, uint32_t symbol, uint32_t state, ZstdBits *bits) {
    int count = self->most_bits[symbol] - (state < self->bits_from[symbol]);
    zstd_bits(bits, state & ((1u << count) - 1), count);
    return self->places[symbol][(state >> count) - self->share[symbol]];
}

/* Where a reader begins. */
static inline void zstd_last_state(const ZstdTable *self, uint32_t state, ZstdBits *bits) {
    zstd_bits(bits, state - (1u << self->log), self->log);
}

/* -- offsets --------------------------------------------------------------------------------------- */

typedef struct {
    /* Room for what is written at once, of which some counts. */
    uint8_t literals[ZSTD_BLOCK_BYTES + 32];
    uint8_t sequences[8 + ZSTD_BLOCK_WORDS + 8]; /* symbol of the literals' length, and of the match's << 4 */
    uint32_t lengths[ZSTD_SYMBOLS], matches[ZSTD_SYMBOLS]; /* how often each symbol occurs */
    ZstdTable length_table, match_table;
} ZstdScratch;

#define ZSTD_SEQUENCES 8 /* where the sequences begin: eight bytes before them can be read */

/* Which of the eight words from `at` on are unlike the one before them in more than their lowest byte, as bits; the lowest
 * bytes go to `low`. */
static inline uint32_t zstd_unlike_words(const uint32_t *at, uint64_t *low) {
#ifdef BYTES_SSE2
    const __m128i lowest = _mm_set1_epi32(0xFF), zero = _mm_setzero_si128();
    __m128i a = _mm_loadu_si128((const __m128i *)at), b = _mm_loadu_si128((const __m128i *)(at + 4));
    __m128i c = _mm_xor_si128(a, _mm_loadu_si128((const __m128i *)(at - 1)));
    __m128i d = _mm_xor_si128(b, _mm_loadu_si128((const __m128i *)(at + 3)));
    __m128i near = _mm_packs_epi32(_mm_cmpeq_epi32(_mm_andnot_si128(lowest, c), zero), _mm_cmpeq_epi32(_mm_andnot_si128(lowest, d), zero));
    __m128i bytes = _mm_packs_epi32(_mm_and_si128(a, lowest), _mm_and_si128(b, lowest));
    _mm_storel_epi64((__m128i *)low, _mm_packus_epi16(bytes, zero));
    return ~(uint32_t)_mm_movemask_epi8(_mm_packs_epi16(near, zero)) & 0xFF;
#else
    uint32_t unlike = 0;
    *low = 0;
    for (size_t k = 0; k < 8; k++) {
        unlike |= (uint32_t)((at[k] ^ at[(ptrdiff_t)k - 1]) > 255) << k;
        *low |= (uint64_t)(at[k] & 0xFF) << 8 * k;
    }
    return unlike;
#endif
}

static size_t zstd_count_repeated(const uint32_t *words, size_t count) {
    size_t repeated = 0;
    for (size_t k = 1; k < count; k++) repeated += words[k] == words[k - 1];
    return repeated;
}

/* How many of the bytes are `byte`. */
static size_t zstd_count_byte(const uint8_t *data, size_t size, uint8_t byte) {
    size_t count = 0, at = 0;
#ifdef BYTES_SSE2
    const __m128i wanted = _mm_set1_epi8((char)byte);
    while (size - at >= 16) {
        __m128i found = _mm_setzero_si128();
        size_t stop = (size - at) / 16 < 255 ? at + (size - at) / 16 * 16 : at + 255 * 16; /* what a byte counts */
        for (; at < stop; at += 16) {
            found = _mm_sub_epi8(found, _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(data + at)), wanted));
        }
        found = _mm_sad_epu8(found, _mm_setzero_si128());
        count += (size_t)_mm_cvtsi128_si32(found) + (size_t)_mm_extract_epi16(found, 4);
    }
#endif
    for (; at < size; at++) count += data[at] == byte;
    return count;
}

/* How often each symbol occurs; most are the first few. */
static void zstd_count_symbols(const uint8_t *symbols, size_t count, uint32_t *counts, uint32_t kinds) {
    size_t left = count;
    for (uint32_t symbol = 0; symbol < kinds; symbol++) {
        size_t found = left > 0 ? zstd_count_byte(symbols, count, (uint8_t)symbol) : 0;
        counts[symbol] = (uint32_t)found;
        left -= found;
    }
}

/* Words into literals and sequences; false if they are not suited. Unless `first`, a word stands before them.
 *
 * A word that is the same again can make the match four bytes longer. That saves its literal, and costs bits to tell
 * one match from another and the time to write them: done where at least half of the words are. */
static int zstd_split(const uint32_t *words, size_t count, int first, ZstdScratch *to, size_t *literals, size_t *sequences) {
    uint8_t *literal = to->literals, *sequence = to->sequences + ZSTD_SEQUENCES;
    size_t k = 0;
    uint32_t pending = 0, most = 0, longest = zstd_count_repeated(words, count) * 2 >= count ? (ZSTD_MAX_MATCH - 3) / 4 : 0;
    memset(to->lengths, 0, sizeof to->lengths);
    memset(to->matches, 0, sizeof to->matches);
    if (first) {
        memcpy(literal, words, 4);
        literal += 4;
        pending = 4;
        k = 1;
    }
    while (k < count) {
        uint32_t word, again = 0;
        if (longest == 0 && count - k > 8) {
            uint64_t low;
            uint32_t unlike = zstd_unlike_words(words + k, &low);
            /* None or one of eight is unlike, a third of the time one: both in the same way, without a branch. */
            if ((unlike & (unlike - 1)) == 0 && pending < ZSTD_MAX_LITERALS - 1) {
                uint32_t place = zstd_first_bit(unlike | 1 << 8); /* 8: none; what is written for it is written over */
                uint64_t symbols = (uint64_t)(pending >> 2) + ((uint64_t)(unlike != 0) << (8 * (place & 7)));
                memcpy(literal, &low, 8);
                memcpy(literal + place, words + k + place, 4);
                low = low >> (8 * (place & 7)) >> 8;
                memcpy(literal + place + 4, &low, 8);
                memcpy(sequence, &symbols, 8);
                literal += 8 + 3 * (unlike != 0);
                sequence += 8 - (unlike != 0);
                pending = place == 7 ? 4 : 0;
                k += 8;
                continue;
            }
            for (size_t stop = k + 8; k < stop; k++) {
                uint32_t plain = (words[k] ^ words[k - 1]) < 256;
                memcpy(literal, words + k, 4);
                literal += plain ? 1 : 4;
                *sequence = (uint8_t)(pending >> 2);
                sequence += plain;
                pending = plain ? 0 : pending + 4;
                most = pending > most ? pending : most;
            }
            if (most >= ZSTD_MAX_LITERALS) return 0;
            continue;
        }
        word = words[k];
        memcpy(literal, &word, 4);
        k++;
        if ((word ^ words[k - 2]) >> 8) {
            literal += 4;
            pending += 4;
            continue;
        }
        literal += 1;
        pending += 1;
        if (pending > ZSTD_MAX_LITERALS) return 0;
        while (k < count && again < longest && words[k] == word) again++, k++;
        to->lengths[pending >> 2]++; /* 1, 5, 9, 13 */
        to->matches[again]++;
        *sequence++ = (uint8_t)(pending >> 2 | again << 4);
        pending = 0;
    }
    *literals = (size_t)(literal - to->literals);
    *sequences = (size_t)(sequence - to->sequences) - ZSTD_SEQUENCES;
    if (longest == 0) {
        zstd_count_symbols(to->sequences + ZSTD_SEQUENCES, *sequences, to->lengths, ZSTD_SYMBOLS);
        to->matches[0] = (uint32_t)*sequences;
    }
    return *sequences > 0;
}

/* 1, 2, 4 and 8 times in a row one symbol, to which at least half of the states belong, so that it takes a bit at the most:
 * from a state to the one before, the bits on the way << 16, and how many those are << 24. */
typedef struct {
    uint32_t steps[4][ZSTD_STATES];
} ZstdLeap;

static void zstd_leap(const ZstdTable *table, uint32_t symbol, ZstdLeap *leap) {
    for (uint32_t state = 0; state < ZSTD_STATES; state++) {
        ZstdBits bits = {NULL, 0, 0};
        uint32_t before = zstd_before(table, symbol, state + ZSTD_STATES, &bits) - ZSTD_STATES;
        leap->steps[0][state] = before | (uint32_t)bits.bits << 16 | (uint32_t)bits.count << 24;
    }
    for (int k = 1; k < 4; k++) {
        const uint32_t *half = leap->steps[k - 1];
        for (uint32_t state = 0; state < ZSTD_STATES; state++) {
            uint32_t first = half[state], second = half[first & 0xFF], count = first >> 24;
            leap->steps[k][state] = (second & 0xFF) | (first & 0xFF0000) | (second & 0xFF0000) << count | (count + (second >> 24)) << 24;
        }
    }
}

/* Over `1 << k` symbols if `wanted`, without a branch; the state before. */
static inline uint32_t zstd_jump(const ZstdLeap *leap, int k, uint32_t wanted, uint32_t state, ZstdBits *bits) {
    uint32_t step = leap->steps[k][state & 0xFF], all = 0u - wanted;
    zstd_bits(bits, (step >> 16 & 0xFF) & all, (int)(step >> 24 & all));
    return wanted ? (step & 0xFF) + ZSTD_STATES : state;
}

/* Over all that are zero before `symbols + at`, up to eight; how many those are. `at` is eight or more. Where the next other
 * one stands is not foreseen: no branch depends on it. */
static inline size_t zstd_jump_zeros(const ZstdLeap *leap, const uint8_t *symbols, size_t at, uint64_t zero, uint32_t *state,
                                     ZstdBits *bits) {
    uint64_t others = load64(symbols + at - 8) ^ zero;
    uint32_t zeros;
    if (others == 0) {
        *state = zstd_jump(leap, 3, 1, *state, bits);
        return 8;
    }
    zeros = 8 - zstd_top_byte(others);
    *state = zstd_jump(leap, 2, zeros >> 2, *state, bits);
    *state = zstd_jump(leap, 1, zeros >> 1 & 1, *state, bits);
    *state = zstd_jump(leap, 0, zeros & 1, *state, bits);
    return zeros;
}

/* The bits of the sequences, from the last one to the first. */
static uint8_t *zstd_write_sequences(const ZstdScratch *from, size_t count, int first, uint8_t *out) {
    const ZstdTable *lengths = &from->length_table, *matches = &from->match_table;
    const uint8_t *sequences = from->sequences + ZSTD_SEQUENCES;
    int has_lengths = lengths->only < 0, has_matches = matches->only < 0;
    uint32_t length = has_lengths ? lengths->places[sequences[count - 1] & 15][0] : 0;
    uint32_t match = has_matches ? matches->places[sequences[count - 1] >> 4][0] : 0;
    ZstdBits bits = {out, 0, 0};
    size_t at = count - 1; /* sequences before this one are to be written */
    if (first) zstd_bits(&bits, 3, 2);
    if (has_lengths && !has_matches && !first && lengths->share[0] >= ZSTD_STATES / 2) {
        ZstdLeap leap;
        uint64_t zero = (uint64_t)(uint8_t)(matches->only << 4) * 0x0101010101010101u;
        zstd_leap(lengths, 0, &leap);
        while (at > 0) {
            if (at >= 8) {
                size_t zeros = zstd_jump_zeros(&leap, sequences, at, zero, &length, &bits);
                at -= zeros;
                if (zeros == 8) {
                    zstd_flush(&bits);
                    continue;
                }
            }
            length = zstd_before(lengths, sequences[--at] & 15, length, &bits);
            zstd_flush(&bits);
        }
    } else if (has_lengths || has_matches || first) {
        while (at > 0) {
            uint32_t each = sequences[--at];
            if (has_matches) match = zstd_before(matches, each >> 4, match, &bits);
            if (has_lengths) length = zstd_before(lengths, each & 15, length, &bits);
            if (first) zstd_bits(&bits, 3, 2);
            zstd_flush(&bits);
        }
    }
    if (has_matches) zstd_bits(&bits, match - ZSTD_STATES, ZSTD_LOG);
    if (has_lengths) zstd_bits(&bits, length - ZSTD_STATES, ZSTD_LOG);
    zstd_bits(&bits, 1, 1); /* where the reader begins */
    zstd_flush(&bits);
    return bits.at + (bits.count > 0);
}

/* How a table is told (RFC 8878, 3.1.1.3.2.1): a code by itself, or its description. */
static uint8_t *zstd_tell(ZstdTable *table, int shift, uint8_t *modes, uint8_t *out) {
    if (table->only >= 0) {
        *modes |= (uint8_t)(1 << shift);
        *out = (uint8_t)(table->first + table->step * table->only);
        return out + 1;
    }
    *modes |= (uint8_t)(2 << shift);
    zstd_deal(table);
    return zstd_describe(table, out);
}

/* The literals as they are, and the number of sequences. */
static uint8_t *zstd_put_literals(const uint8_t *literals, size_t count, size_t sequences, uint8_t *at) {
    zstd_put(at, 3 << 2 | (uint64_t)count << 4, 3); /* their number in 20 bits */
    memcpy(at + 3, literals, count);
    at += 3 + count;
    if (sequences < 128) {
        *at++ = (uint8_t)sequences;
    } else if (sequences < 0x7F00) {
        *at++ = (uint8_t)((sequences >> 8) + 128);
        *at++ = (uint8_t)sequences;
    } else {
        *at++ = 255;
        zstd_put(at, sequences - 0x7F00, 2);
        at += 2;
    }
    return at;
}

static size_t zstd_words_block(const uint32_t *words, size_t count, int first, int last, ZstdScratch *scratch, uint8_t *out) {
    uint8_t *modes, *at = out + 3;
    size_t literals, sequences;
    if (!zstd_split(words, count, first, scratch, &literals, &sequences)) return 0;
    at = zstd_put_literals(scratch->literals, literals, sequences, at);
    zstd_share_out(&scratch->length_table, ZSTD_LOG, scratch->lengths, ZSTD_SYMBOLS, 1, 4, (uint32_t)sequences);
    zstd_share_out(&scratch->match_table, ZSTD_LOG, scratch->matches, ZSTD_SYMBOLS, 0, 4, (uint32_t)sequences);
    modes = at++;
    *modes = 1 << 4; /* all distances have one code: */
    at = zstd_tell(&scratch->length_table, 6, modes, at);
    *at++ = first ? 2 : 0; /* 2: four bytes back, in two bits each; 0: as far back as last time */
    at = zstd_tell(&scratch->match_table, 2, modes, at);
    at = zstd_write_sequences(scratch, sequences, first, at);
    if ((size_t)(at - out) - 3 >= count * 4) return 0;
    zstd_block_head(out, last, 2, (size_t)(at - out) - 3);
    return (size_t)(at - out);
}

/* Room for a block of `count` words; one that would take more than they do is not written. */
static size_t zstd_words_bound(size_t count) { return count * 4 + ZSTD_STATES + 64; }

/* The frame of `count` words. False, and nothing written, if they are not suited. */
static int zstd_words(const uint32_t *words, size_t count, ZstdScratch *scratch, ZstdOut *out) {
    size_t begin = out->size, done = 0;
    if (count < ZSTD_MIN_WORDS || count >= (size_t)1 << 30) return 0;
    if (!zstd_head(out, ZSTD_BLOCK_LOG, count * 4)) return 0;
    while (done < count) {
        size_t here = done == 0 ? ZSTD_FIRST_WORDS : ZSTD_BLOCK_WORDS, size;
        uint8_t *at;
        if (here > count - done) here = count - done;
        at = zstd_room(out, zstd_words_bound(here));
        if (at == NULL) return 0;
        size = zstd_words_block(words + done, here, done == 0, done + here == count, scratch, at);
        if (size == 0) {
            out->size = begin;
            return 0;
        }
        out->size += size;
        done += here;
    }
    return 1;
}

#endif
