/* CRC-32 as zlib computes it (IEEE 802.3, reflected, polynomial 0xEDB88320).
 *
 * zlib's own takes about 1 ns a byte, 0.4 us a span; folding with carry-less multiplication takes
 * a tenth of a nanosecond, with vectors of 512 bits a fiftieth. The way is chosen at run time, so
 * the build needs no flag for it; elsewhere tables give sixteen bytes a step.
 */
#ifndef OTLP_ARROW_CRC32_H
#define OTLP_ARROW_CRC32_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define CRC32_CAN_FOLD 1
#define CRC32_FOLDING __attribute__((target("pclmul,sse4.1")))
#if defined(__clang__) || __GNUC__ >= 8 /* older compilers do not know the instruction */
#define CRC32_CAN_FOLD_WIDE 1
#define CRC32_FOLDING_WIDE __attribute__((target("pclmul,sse4.1,avx512f,vpclmulqdq")))
#endif
#include <immintrin.h>
#endif

#define CRC32_POLYNOMIAL 0xEDB88320u
#define CRC32_STEP 16

/* crc32_table[k][b]: what the byte b, followed by k zero bytes, adds. */
static uint32_t crc32_table[CRC32_STEP][256];
static int crc32_folds, crc32_folds_wide;

/* Called once, when the module is imported. */
static void crc32_prepare(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (CRC32_POLYNOMIAL & (0u - (crc & 1)));
        crc32_table[0][byte] = crc;
    }
    for (int k = 1; k < CRC32_STEP; k++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t before = crc32_table[k - 1][byte];
            crc32_table[k][byte] = (before >> 8) ^ crc32_table[0][before & 0xFF];
        }
#ifdef CRC32_CAN_FOLD
    __builtin_cpu_init();
    crc32_folds = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
#ifdef CRC32_CAN_FOLD_WIDE
    crc32_folds_wide = crc32_folds && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
#endif
#endif
}

/* crc is the register, without the inversions at start and end. */
static uint32_t crc32_by_table(uint32_t crc, const uint8_t *data, size_t size) {
    for (; size >= CRC32_STEP; data += CRC32_STEP, size -= CRC32_STEP) {
        uint32_t word;
        memcpy(&word, data, 4); /* little-endian: the build refuses others */
        word ^= crc;
        crc = crc32_table[15][word & 0xFF] ^ crc32_table[14][word >> 8 & 0xFF] ^
              crc32_table[13][word >> 16 & 0xFF] ^ crc32_table[12][word >> 24];
        for (int k = 4; k < CRC32_STEP; k++) crc ^= crc32_table[CRC32_STEP - 1 - k][data[k]];
    }
    for (; size > 0; data++, size--) crc = (crc >> 8) ^ crc32_table[0][(crc ^ *data) & 0xFF];
    return crc;
}

#ifdef CRC32_CAN_FOLD

/* A 128-bit remainder moved past the next 128 bits (or 512, by other factors): both halves are
 * multiplied by x to that power modulo the polynomial and added to what stands there. */
CRC32_FOLDING static inline __m128i crc32_fold(__m128i value, __m128i factors, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(value, factors, 0x00);
    __m128i high = _mm_clmulepi64_si128(value, factors, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* size >= 64. Four remainders side by side hide the latency of the multiplication. */
CRC32_FOLDING static uint32_t crc32_by_folding(uint32_t crc, const uint8_t *data, size_t size) {
    /* x^(512+32), x^(512-32) and x^(128+32), x^(128-32), reflected and shifted by one. */
    const __m128i by_512 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
    const __m128i by_128 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    const __m128i *at = (const __m128i *)data;
    __m128i a = _mm_xor_si128(_mm_loadu_si128(at), _mm_cvtsi32_si128((int)crc));
    __m128i b = _mm_loadu_si128(at + 1), c = _mm_loadu_si128(at + 2), d = _mm_loadu_si128(at + 3);
    uint8_t rest[16];
    for (at += 4, size -= 64; size >= 64; at += 4, size -= 64) {
        a = crc32_fold(a, by_512, _mm_loadu_si128(at));
        b = crc32_fold(b, by_512, _mm_loadu_si128(at + 1));
        c = crc32_fold(c, by_512, _mm_loadu_si128(at + 2));
        d = crc32_fold(d, by_512, _mm_loadu_si128(at + 3));
    }
    a = crc32_fold(crc32_fold(crc32_fold(a, by_128, b), by_128, c), by_128, d);
    for (; size >= 16; at += 1, size -= 16) a = crc32_fold(a, by_128, _mm_loadu_si128(at));
    _mm_storeu_si128((__m128i *)rest, a);
    return crc32_by_table(crc32_by_table(0, rest, 16), (const uint8_t *)at, size);
}

#endif

#ifdef CRC32_CAN_FOLD_WIDE

CRC32_FOLDING_WIDE static inline __m512i crc32_fold_wide(__m512i value, __m512i factors, __m512i next) {
    __m512i low = _mm512_clmulepi64_epi128(value, factors, 0x00);
    __m512i high = _mm512_clmulepi64_epi128(value, factors, 0x11);
    return _mm512_xor_si512(_mm512_xor_si512(low, high), next);
}

/* size >= CRC32_WIDE. The same with 256 bytes a step, in an eighth of the time. */
#define CRC32_WIDE 512
CRC32_FOLDING_WIDE static uint32_t crc32_by_wide_folding(uint32_t crc, const uint8_t *data, size_t size) {
    const __m512i by_2048 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x1322d1430, 0x11542778a));
    const __m512i by_512 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x1c6e41596, 0x154442bd4));
    __m512i a = _mm512_loadu_si512(data), b = _mm512_loadu_si512(data + 64);
    __m512i c = _mm512_loadu_si512(data + 128), d = _mm512_loadu_si512(data + 192);
    uint8_t rest[64];
    a = _mm512_xor_si512(a, _mm512_inserti32x4(_mm512_setzero_si512(), _mm_cvtsi32_si128((int)crc), 0));
    for (data += 256, size -= 256; size >= 256; data += 256, size -= 256) {
        a = crc32_fold_wide(a, by_2048, _mm512_loadu_si512(data));
        b = crc32_fold_wide(b, by_2048, _mm512_loadu_si512(data + 64));
        c = crc32_fold_wide(c, by_2048, _mm512_loadu_si512(data + 128));
        d = crc32_fold_wide(d, by_2048, _mm512_loadu_si512(data + 192));
    }
    a = crc32_fold_wide(crc32_fold_wide(crc32_fold_wide(a, by_512, b), by_512, c), by_512, d);
    _mm512_storeu_si512(rest, a);
    crc = crc32_by_folding(0, rest, sizeof rest);
    return size >= 64 ? crc32_by_folding(crc, data, size) : crc32_by_table(crc, data, size);
}

#endif

static uint32_t crc32_update(uint32_t value, const uint8_t *data, size_t size) {
    uint32_t crc = ~value;
#ifdef CRC32_CAN_FOLD_WIDE
    if (crc32_folds_wide && size >= CRC32_WIDE) return ~crc32_by_wide_folding(crc, data, size);
#endif
#ifdef CRC32_CAN_FOLD
    if (crc32_folds && size >= 64) return ~crc32_by_folding(crc, data, size);
#endif
    return ~crc32_by_table(crc, data, size);
}

/* For tests: what each way gives that this machine has and that takes so few bytes; how many. */
enum { CRC32_WAYS = 3 };

static int crc32_every_way(uint32_t value, const uint8_t *data, size_t size, uint32_t *crcs) {
    int ways = 0;
    crcs[ways++] = ~crc32_by_table(~value, data, size);
#ifdef CRC32_CAN_FOLD
    if (crc32_folds && size >= 64) crcs[ways++] = ~crc32_by_folding(~value, data, size);
#endif
#ifdef CRC32_CAN_FOLD_WIDE
    if (crc32_folds_wide && size >= CRC32_WIDE) crcs[ways++] = ~crc32_by_wide_folding(~value, data, size);
#endif
    return ways;
}

#endif
