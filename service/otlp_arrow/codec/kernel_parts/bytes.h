/* Short runs of bytes: compare, copy, check. The two or three things that every span does dozens of
 * times, where sixteen bytes at once pay. SSE2 is part of x86-64; other machines use plain C.
 */
#ifndef OTLP_ARROW_BYTES_H
#define OTLP_ARROW_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && defined(__ORDER_BIG_ENDIAN__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "otlp-arrow's kernel reads protobuf and writes Arrow as little-endian machines do; this one is big-endian"
#endif

#if SIZE_MAX < UINT64_MAX
#error "otlp-arrow's kernel counts bytes in 64 bits; this machine has fewer"
#endif

#if defined(__GNUC__) || defined(__clang__)
#define kernel_likely(x) __builtin_expect(!!(x), 1)
#define kernel_unlikely(x) __builtin_expect(!!(x), 0)
#else
#define kernel_likely(x) (x)
#define kernel_unlikely(x) (x)
#endif

#if defined(__SSE2__) || defined(_M_X64)
#define BYTES_SSE2 1
#include <emmintrin.h>
#endif

/* Bytes that short_equal and short_copy_ascii read, whatever the length: both sides must have them. */
#define SHORT_BYTES 32

static inline uint32_t load32(const uint8_t *from) {
    uint32_t word;
    memcpy(&word, from, 4);
    return word;
}

static inline uint64_t load64(const uint8_t *from) {
    uint64_t word;
    memcpy(&word, from, 8);
    return word;
}

/* Whether the first n <= SHORT_BYTES bytes are equal. */
static inline int short_equal(const uint8_t *a, const uint8_t *b, size_t n) {
#ifdef BYTES_SSE2
    __m128i first = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)a), _mm_loadu_si128((const __m128i *)b));
    __m128i second =
        _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(a + 16)), _mm_loadu_si128((const __m128i *)(b + 16)));
    uint32_t equal = (uint32_t)_mm_movemask_epi8(first) | (uint32_t)_mm_movemask_epi8(second) << 16;
    return (~equal & (uint32_t)(((uint64_t)1 << n) - 1)) == 0;
#else
    return memcmp(a, b, n) == 0;
#endif
}

/* Copies SHORT_BYTES bytes; whether the first n <= SHORT_BYTES of them are ASCII. */
static inline int short_copy_ascii(uint8_t *to, const uint8_t *from, size_t n) {
#ifdef BYTES_SSE2
    __m128i first = _mm_loadu_si128((const __m128i *)from);
    __m128i second = _mm_loadu_si128((const __m128i *)(from + 16));
    uint32_t above = (uint32_t)_mm_movemask_epi8(first) | (uint32_t)_mm_movemask_epi8(second) << 16;
    _mm_storeu_si128((__m128i *)to, first);
    _mm_storeu_si128((__m128i *)(to + 16), second);
    return (above & (uint32_t)(((uint64_t)1 << n) - 1)) == 0;
#else
    uint64_t words[4], above = 0;
    memcpy(words, from, SHORT_BYTES);
    memcpy(to, words, SHORT_BYTES);
    for (int k = 0; k < 4; k++) {
        size_t here = n > (size_t)(8 * k) ? n - 8 * k : 0;
        above |= words[k] & (here >= 8 ? ~(uint64_t)0 : ((uint64_t)1 << 8 * here) - 1);
    }
    return (above & 0x8080808080808080u) == 0;
#endif
}

/* Copies n bytes; whether all are ASCII. For text that is longer, or at the very end of a request. */
static int copy_ascii(uint8_t *to, const uint8_t *from, size_t n) {
    uint64_t above = 0;
    size_t at = 0;
    for (; at + 16 <= n; at += 16) {
        uint64_t low = load64(from + at), high = load64(from + at + 8);
        memcpy(to + at, &low, 8);
        memcpy(to + at + 8, &high, 8);
        above |= low | high;
    }
    for (; at < n; at++) above |= to[at] = from[at];
    return (above & 0x8080808080808080u) == 0;
}

static inline int is_ascii(const uint8_t *text, size_t n) {
    uint64_t above = 0;
    if (n >= 8) {
        for (size_t at = 0; at + 8 < n; at += 8) above |= load64(text + at);
        above |= load64(text + n - 8);
    } else {
        for (; n > 0; text++, n--) above |= *text;
    }
    return (above & 0x8080808080808080u) == 0;
}

/* UTF-8 as RFC 3629 has it: shortest form, no surrogates, nothing above U+10FFFF. */
static int is_utf8(const uint8_t *text, size_t n) {
    const uint8_t *end = text + n;
    while (text < end) {
        uint8_t lead = *text;
        size_t left = (size_t)(end - text);
        if (lead < 0x80) {
            if (left >= 8 && (load64(text) & 0x8080808080808080u) == 0) text += 8;
            else text += 1;
        } else if (lead < 0xE0) {
            if (lead < 0xC2 || left < 2 || (text[1] & 0xC0) != 0x80) return 0;
            text += 2;
        } else if (lead < 0xF0) {
            if (left < 3 || (text[1] & 0xC0) != 0x80 || (text[2] & 0xC0) != 0x80) return 0;
            if ((lead == 0xE0 && text[1] < 0xA0) || (lead == 0xED && text[1] >= 0xA0)) return 0;
            text += 3;
        } else {
            if (lead > 0xF4 || left < 4 || (text[1] & 0xC0) != 0x80 || (text[2] & 0xC0) != 0x80 ||
                (text[3] & 0xC0) != 0x80)
                return 0;
            if ((lead == 0xF0 && text[1] < 0x90) || (lead == 0xF4 && text[1] >= 0x90)) return 0;
            text += 4;
        }
    }
    return 1;
}

/* A keyed hash: who picks the strings does not know the key, so cannot make them collide. */
static inline uint64_t hash_mix(uint64_t a, uint64_t b) {
#ifdef __SIZEOF_INT128__
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#else
    uint64_t cross = (a >> 32) * (uint32_t)b, low = (a & 0xFFFFFFFFu) * (uint32_t)b;
    uint64_t high = (a >> 32) * (b >> 32) + (cross >> 32);
    a = (a & 0xFFFFFFFFu) * (b >> 32);
    low += cross << 32;
    return low ^ (a << 32) ^ (high + (a >> 32));
#endif
}

static inline uint32_t hash_bytes(const uint8_t *data, size_t n, uint64_t key) {
    uint64_t hash = key ^ (n * 0x9E3779B97F4A7C15u), tail = 0;
    if (n >= 8) {
        for (size_t at = 0; at + 8 < n; at += 8) hash = hash_mix(hash ^ load64(data + at), key | 1);
        tail = load64(data + n - 8);
    } else if (n >= 4) {
        tail = load32(data) | (uint64_t)load32(data + n - 4) << 32;
    } else if (n > 0) {
        tail = data[0] | (uint32_t)data[n / 2] << 8 | (uint32_t)data[n - 1] << 16;
    }
    hash = hash_mix(hash ^ tail, (key << 1) | 1);
    return (uint32_t)(hash ^ hash >> 32);
}

/* What `top -H` calls this thread, up to 15 bytes; nothing where there is no such thing. */
#ifdef __linux__
#include <sys/prctl.h>
static inline void name_this_thread(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
#else
static inline void name_this_thread(const char *name) { (void)name; }
#endif

#endif
