/* Arrow's bitmaps, made when a batch is finished. While scanning nothing keeps bits: what is null shows in
 * the data (a type, a zero, an empty text), and a pass over a finished column costs less than
 * a bit set for each value. All functions say whether every bit is set; bits beyond n are 0.
 */
#ifndef OTLP_ARROW_BITMAPS_H
#define OTLP_ARROW_BITMAPS_H

#include "bytes.h"

/* TEST(i) for each row; eight at a time without a condition, so that the compiler unrolls them. */
#define SET_BITS(n, bits, TEST)                                                   \
    uint32_t all = 0xFF;                                                          \
    size_t at = 0;                                                                \
    for (; at + 8 <= (n); at += 8) {                                              \
        uint32_t octet = 0;                                                       \
        for (size_t k = 0; k < 8; k++) octet |= (uint32_t)(TEST(at + k)) << k;    \
        (bits)[at / 8] = (uint8_t)octet;                                          \
        all &= octet;                                                             \
    }                                                                             \
    if (at < (n)) {                                                               \
        uint32_t octet = 0;                                                       \
        for (size_t k = 0; at + k < (n); k++) octet |= (uint32_t)(TEST(at + k)) << k; \
        (bits)[at / 8] = (uint8_t)octet;                                          \
        all &= octet | (0xFFu << ((n) - at));                                     \
    }                                                                             \
    return (all & 0xFF) == 0xFF;

#define BITS_WHERE(NAME, TYPE, TEST) \
    static int NAME(const TYPE *values, size_t n, uint8_t *bits) { SET_BITS(n, bits, TEST) }

#define IS_NOT_ZERO(i) (values[i] != 0)
#define IS_NOT_ZERO_PAIR(i) ((values[2 * (i)] | values[2 * (i) + 1]) != 0)
#define IS_NOT_EMPTY(i) (values[(i) + 1] != values[i])
#define IS_NOT_NEGATIVE(i) (values[i] >= 0)

BITS_WHERE(bits_where_not_zero, uint64_t, IS_NOT_ZERO)           /* times, span ids */
BITS_WHERE(bits_where_not_zero_pair, uint64_t, IS_NOT_ZERO_PAIR) /* trace ids */
BITS_WHERE(bits_where_not_empty, int32_t, IS_NOT_EMPTY)          /* optional text, by its offsets */
BITS_WHERE(bits_where_not_negative, int32_t, IS_NOT_NEGATIVE)    /* dictionary indices */

#ifdef BYTES_SSE2
/* As SET_BITS, sixteen bytes at a time: TEST of `sixteen` is a mask of bytes. `done`: so many were looked at. */
#define SET_BITS_OF_BYTES(n, bits, TEST)                                              \
    uint32_t every = 0xFFFF;                                                          \
    size_t done = 0;                                                                  \
    for (; done + 16 <= (n); done += 16) {                                            \
        __m128i sixteen = _mm_loadu_si128((const __m128i *)(values + done));          \
        uint16_t found = (uint16_t)_mm_movemask_epi8(TEST);                           \
        memcpy((bits) + done / 8, &found, 2);                                         \
        every &= found;                                                               \
    }
#else
#define SET_BITS_OF_BYTES(n, bits, TEST) \
    uint32_t every = 0xFFFF;             \
    size_t done = 0;
#endif

/* Where a flag is set. */
#define HAS_FLAG(i) ((values[i] & flag) != 0)
static int bits_where_flag_each(const uint8_t *values, size_t n, uint8_t flag, uint8_t *bits) { SET_BITS(n, bits, HAS_FLAG) }

static int bits_where_flag(const uint8_t *values, size_t n, uint8_t flag, uint8_t *bits) {
    SET_BITS_OF_BYTES(n, bits, _mm_cmpeq_epi8(_mm_and_si128(sixteen, _mm_set1_epi8((char)flag)), _mm_set1_epi8((char)flag)))
    return bits_where_flag_each(values + done, n - done, flag, bits + done / 8) & (every == 0xFFFF);
}

/* Where a byte is one of three. */
#define IS_ONE_OF(i) (values[i] == a || values[i] == b || values[i] == c)
static int bits_where_byte_each(const uint8_t *values, size_t n, uint8_t a, uint8_t b, uint8_t c, uint8_t *bits) {
    SET_BITS(n, bits, IS_ONE_OF)
}

static int bits_where_byte(const uint8_t *values, size_t n, uint8_t a, uint8_t b, uint8_t c, uint8_t *bits) {
#define IS(byte) _mm_cmpeq_epi8(sixteen, _mm_set1_epi8((char)(byte)))
    SET_BITS_OF_BYTES(n, bits, _mm_or_si128(IS(a), _mm_or_si128(IS(b), IS(c))))
#undef IS
    return bits_where_byte_each(values + done, n - done, a, b, c, bits + done / 8) & (every == 0xFFFF);
}

/* How many of the `times` blocks of `count` bits from bit `first` on are like the first. */
static size_t bits_likenesses(const uint8_t *bits, size_t first, size_t count, size_t times) {
    size_t at = 0, pairs = count * (times - 1);
    for (; at + 64 <= pairs; at += 64) {
        size_t here = first + at, there = here + count;
        uint64_t a = load64(bits + here / 8) >> here % 8, b = load64(bits + there / 8) >> there % 8;
        if (here % 8) a |= (uint64_t)bits[here / 8 + 8] << (64 - here % 8);
        if (there % 8) b |= (uint64_t)bits[there / 8 + 8] << (64 - there % 8);
        if (a != b) break;
    }
    for (; at < pairs; at++) {
        size_t here = first + at, there = here + count;
        if ((bits[here / 8] >> here % 8 ^ bits[there / 8] >> there % 8) & 1) return 1 + at / count;
    }
    return times;
}

/* How many of the first n bits are set. */
static size_t bits_count(const uint8_t *bits, size_t n) {
    size_t count = 0, at = 0;
    for (; at + 64 <= n; at += 64) {
        uint64_t word = load64(bits + at / 8);
        word -= word >> 1 & 0x5555555555555555u;
        word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
        count += ((word + (word >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * 0x0101010101010101u >> 56;
    }
    for (; at < n; at++) count += bits[at / 8] >> at % 8 & 1;
    return count;
}

/* The types of values: those of OTAP, and a flag on the type of a value that is true. */
enum { TYPE_STR = 1, TYPE_INT, TYPE_DOUBLE, TYPE_BOOL, TYPE_MAP, TYPE_SLICE, TYPE_BYTES, TYPE_IS_TRUE = 0x80 };

/* All that a column of values derives from its types, in one pass: the types without their flag, and
 * the bitmaps of str, int, double, bool and bytes, and that of true values. Bit k of the result: bitmap k
 * is all set. */
enum { BITS_STR, BITS_INT, BITS_DOUBLE, BITS_BOOL, BITS_BYTES, BITS_TRUE, VALUE_BITMAPS };

static int bits_of_types(const uint8_t *raw, size_t n, uint8_t *types, uint8_t *const bits[VALUE_BITMAPS]) {
    uint32_t all[VALUE_BITMAPS] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    size_t at = 0;
    int result = 0;
#ifdef BYTES_SSE2
    for (int k = 0; k < VALUE_BITMAPS; k++) all[k] = 0xFFFF;
    for (; at + 16 <= n; at += 16) {
        __m128i sixteen = _mm_loadu_si128((const __m128i *)(raw + at));
        __m128i plain = _mm_and_si128(sixteen, _mm_set1_epi8(0x7F));
        uint32_t found[VALUE_BITMAPS];
#define WHERE(type) _mm_cmpeq_epi8(plain, _mm_set1_epi8(type))
        found[BITS_STR] = (uint32_t)_mm_movemask_epi8(
            _mm_or_si128(WHERE(TYPE_STR), _mm_or_si128(WHERE(TYPE_MAP), WHERE(TYPE_SLICE))));
        found[BITS_INT] = (uint32_t)_mm_movemask_epi8(WHERE(TYPE_INT));
        found[BITS_DOUBLE] = (uint32_t)_mm_movemask_epi8(WHERE(TYPE_DOUBLE));
        found[BITS_BOOL] = (uint32_t)_mm_movemask_epi8(WHERE(TYPE_BOOL));
        found[BITS_BYTES] = (uint32_t)_mm_movemask_epi8(WHERE(TYPE_BYTES));
        found[BITS_TRUE] = (uint32_t)_mm_movemask_epi8(sixteen);
#undef WHERE
        _mm_storeu_si128((__m128i *)(types + at), plain);
        for (int k = 0; k < VALUE_BITMAPS; k++) {
            uint16_t both = (uint16_t)found[k];
            memcpy(bits[k] + at / 8, &both, 2);
            all[k] &= found[k];
        }
    }
    for (int k = 0; k < VALUE_BITMAPS; k++) all[k] = all[k] == 0xFFFF ? 0xFF : 0;
#endif
    for (; at < n; at += 8) {
        size_t many = n - at < 8 ? n - at : 8;
        uint32_t found[VALUE_BITMAPS] = {0};
        for (size_t i = 0; i < many; i++) {
            uint8_t type = raw[at + i] & 0x7F;
            types[at + i] = type;
            found[BITS_STR] |= (uint32_t)(type == TYPE_STR || type == TYPE_MAP || type == TYPE_SLICE) << i;
            found[BITS_INT] |= (uint32_t)(type == TYPE_INT) << i;
            found[BITS_DOUBLE] |= (uint32_t)(type == TYPE_DOUBLE) << i;
            found[BITS_BOOL] |= (uint32_t)(type == TYPE_BOOL) << i;
            found[BITS_BYTES] |= (uint32_t)(type == TYPE_BYTES) << i;
            found[BITS_TRUE] |= (uint32_t)((raw[at + i] & TYPE_IS_TRUE) != 0) << i;
        }
        for (int k = 0; k < VALUE_BITMAPS; k++) {
            bits[k][at / 8] = (uint8_t)found[k];
            all[k] &= found[k] | 0xFFu << many;
        }
    }
    for (int k = 0; k < VALUE_BITMAPS; k++) result |= ((all[k] & 0xFF) == 0xFF) << k;
    return result;
}

#endif
