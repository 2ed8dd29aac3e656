/* Reading back what ``zstd_frames.h`` writes, several times as fast as a general decoder, and no further than asked.
 *
 * Of offsets nearly all sequences say the same, "one literal, then the three bytes of the number before". In an FSE
 * table whose states are mostly of one symbol, most states lead on without a bit: how far such a walk goes from a state
 * is known beforehand, and so many numbers are their literals under the upper bytes of the last one. 0.3 to 1.4 ns a
 * number; the library takes 9.
 *
 * What differs in anything from what the writer does is left to the library: also damage, as far as it shows.
 */
#ifndef OTLP_ARROW_ZSTD_READ_H
#define OTLP_ARROW_ZSTD_READ_H

#include "zstd_frames.h"

static inline uint32_t load24(const uint8_t *from) { return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16; }

/* The size of what is in one of our frames; 0 if this is none, or one of nothing. */
static size_t zstd_content(const uint8_t *frame, size_t size) {
    if (size < ZSTD_HEAD_BYTES + 3 || load32(frame) != 0xFD2FB528u) return 0;
    if (frame[4] != 2 << 6 || frame[5] != (17 - 10) << 3) return 0;
    return load32(frame + 6);
}

/* The byte of which all that a frame holds consists, or -1. */
static int zstd_constant_of(const uint8_t *frame, size_t size) {
    size_t content = zstd_content(frame, size), at = ZSTD_HEAD_BYTES;
    int byte = -1;
    if (content == 0) return -1;
    for (;;) {
        uint32_t head, here;
        if (size - at < 4) return -1;
        head = load32(frame + at);
        here = (head & 0xFFFFFF) >> 3;
        if ((head >> 1 & 3) != 1 || here > content) return -1;
        if (byte >= 0 && byte != (int)(head >> 24)) return -1;
        byte = (int)(head >> 24);
        content -= here;
        at += 4;
        if (head & 1) return content == 0 && at == size ? byte : -1;
        if (at == size) return -1;
    }
}

/* -- bits, read from the end ----------------------------------------------------------------------- */

typedef struct {
    const uint8_t *data;
    size_t size;
    ptrdiff_t left; /* bits before this one are unread; negative: more were read than there are */
} ZstdUnbits;

/* The next ``count`` (0 to 16) bits. */
static inline uint32_t zstd_unbits(ZstdUnbits *self, int count) {
    size_t at;
    uint32_t found = 0;
    self->left -= count;
    if (self->left < 0) return 0;
    at = (size_t)self->left >> 3;
    if (at + 4 <= self->size) {
        found = load32(self->data + at);
    } else {
        for (size_t k = at; k < self->size; k++) found |= (uint32_t)self->data[k] << 8 * (k - at);
    }
    return found >> (self->left & 7) & ((1u << count) - 1);
}

/* -- FSE tables ------------------------------------------------------------------------------------ */

typedef struct {
    int only;
    uint8_t symbol[ZSTD_STATES], bits[ZSTD_STATES];
    uint16_t base[ZSTD_STATES];
    uint16_t walk[ZSTD_STATES]; /* so many times the first symbol, and no bit, from this state on … */
    uint16_t end[ZSTD_STATES];  /* … until this one */
} ZstdUntable;

/* A table's description, the reverse of ``zstd_describe``; bytes taken, 0 if it is not one of ours. */
static size_t zstd_undescribe(ZstdUntable *self, int first_code, const uint8_t *data, size_t size) {
    uint32_t left = ZSTD_STATES, at = 0, step = (ZSTD_STATES >> 1) + (ZSTD_STATES >> 3) + 3, next[ZSTD_SYMBOLS];
    uint32_t share[ZSTD_SYMBOLS] = {0};
    size_t bit = 4;
    int code = 0;
    if (size < 1 || (data[0] & 15) != ZSTD_LOG - 5) return 0;
    while (left > 0) {
        uint32_t width = 0, short_ones, value, window = 0;
        if (bit / 8 >= size) return 0;
        memcpy(&window, data + bit / 8, size - bit / 8 < 4 ? size - bit / 8 : 4);
        window >>= bit % 8;
        while ((1u << width) < left + 2) width++;
        short_ones = (1u << width) - (left + 2);
        value = window & ((1u << (width - 1)) - 1);
        if (value < short_ones) {
            bit += width - 1;
        } else {
            value = window & ((1u << width) - 1);
            if (value >= 1u << (width - 1)) value -= short_ones;
            bit += width;
        }
        if (value == 0 || value - 1 > left) return 0; /* "less than one": never ours */
        if (value > 1) {
            if (code < first_code || (code - first_code) % 4 || (code - first_code) / 4 >= ZSTD_SYMBOLS) return 0;
            share[(code - first_code) / 4] = value - 1;
            left -= value - 1;
        } else {
            for (uint32_t again = 3; again == 3;) {
                if (bit / 8 >= size) return 0;
                window = data[bit / 8];
                if (bit / 8 + 1 < size) window |= (uint32_t)data[bit / 8 + 1] << 8;
                again = window >> bit % 8 & 3;
                bit += 2;
                code += (int)again;
            }
        }
        if (++code > 64) return 0;
    }
    if ((bit + 7) / 8 > size) return 0;
    self->only = -1;
    for (uint32_t s = 0; s < ZSTD_SYMBOLS; s++) {
        next[s] = share[s];
        for (uint32_t k = 0; k < share[s]; k++) {
            self->symbol[at] = (uint8_t)s;
            at = (at + step) & (ZSTD_STATES - 1);
        }
    }
    for (uint32_t state = 0; state < ZSTD_STATES; state++) {
        uint32_t place = next[self->symbol[state]]++, log = 0;
        while (place >> (log + 1)) log++;
        self->bits[state] = (uint8_t)(ZSTD_LOG - log);
        self->base[state] = (uint16_t)((place << (ZSTD_LOG - log)) - ZSTD_STATES);
        /* Without a bit it goes on to a lower state (place - 256, and place - share <= state): that one is done. */
        if (self->symbol[state] == 0 && log == ZSTD_LOG && self->base[state] < state) {
            self->walk[state] = (uint16_t)(self->walk[self->base[state]] + 1);
            self->end[state] = self->end[self->base[state]];
        } else {
            self->walk[state] = 0;
            self->end[state] = (uint16_t)state;
        }
    }
    return (bit + 7) / 8;
}

/* How a table is told: see ``zstd_tell``. False if it is not one of ours. */
static int zstd_untell(ZstdUntable *self, int mode, int first_code, const uint8_t **at, const uint8_t *end) {
    size_t size;
    if (mode == 1) {
        int code;
        if (*at == end) return 0;
        code = *(*at)++ - first_code;
        if (code < 0 || code % 4 || code / 4 >= ZSTD_SYMBOLS) return 0;
        self->only = code / 4;
        return 1;
    }
    if (mode != 2) return 0;
    size = zstd_undescribe(self, first_code, *at, (size_t)(end - *at));
    *at += size;
    return size > 0;
}

/* -- offsets --------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t *at, *end; /* what is to be written */
    uint32_t last;      /* the word before; of no meaning while ``any`` is not set */
    int any;
} ZstdWords;

/* ``count`` words that are like the last one but for their lowest bytes; there are that many literals. */
static inline void zstd_put_plain(ZstdWords *to, const uint8_t *literals, const uint8_t *safe, size_t count) {
    uint32_t upper = to->last & ~(uint32_t)0xFF;
    size_t k = 0;
#ifdef BYTES_SSE2
    /* Eight at a time, past the end of the run too, as long as there is something to read and room. */
    if (literals + count + 8 <= safe && (size_t)(to->end - to->at) >= count + 8) {
        const __m128i zero = _mm_setzero_si128(), high = _mm_set1_epi32((int)upper);
        for (; k < count; k += 8) {
            __m128i bytes = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)(literals + k)), zero);
            _mm_storeu_si128((__m128i *)(to->at + k), _mm_or_si128(_mm_unpacklo_epi16(bytes, zero), high));
            _mm_storeu_si128((__m128i *)(to->at + k + 4), _mm_or_si128(_mm_unpackhi_epi16(bytes, zero), high));
        }
        k = count;
    }
#else
    (void)safe;
#endif
    for (; k < count; k++) to->at[k] = upper | literals[k];
    to->at += count;
    to->last = upper | literals[count - 1];
}

/* The words of one compressed block, or as many of them as are wanted. */
static int zstd_unblock(const uint8_t *block, size_t size, ZstdWords *to, ZstdUntable *lengths, ZstdUntable *matches) {
    const uint8_t *end = block + size, *at, *literal, *literals_end;
    size_t sequences;
    uint32_t head, length, match;
    int modes, far, has_lengths, has_matches;
    ZstdUnbits bits;
    if (size < 4) return 0;
    head = load24(block);
    if ((head & 15) != 3 << 2 || head >> 4 > size - 3) return 0;
    literal = block + 3;
    at = literals_end = literal + (head >> 4);
    if (end - at < 4) return 0;
    sequences = *at++;
    if (sequences == 255) {
        sequences = (size_t)(at[0] | at[1] << 8) + 0x7F00;
        at += 2;
    } else if (sequences >= 128) {
        sequences = (sequences - 128) << 8 | *at++;
    }
    if (sequences == 0 || at == end) return 0;
    modes = *at++;
    if ((modes & 3) || (modes >> 4 & 3) != 1) return 0;
    if (!zstd_untell(lengths, modes >> 6, 1, &at, end)) return 0;
    if (at == end || (*at != 0 && *at != 2)) return 0;
    far = *at++; /* bits that say "four bytes back"; without them it is as far as last time */
    if (!to->any && !far) return 0;
    if (!zstd_untell(matches, modes >> 2 & 3, 0, &at, end)) return 0;
    if (at >= end || end[-1] == 0) return 0;
    bits.data = at;
    bits.size = (size_t)(end - at);
    bits.left = (end - at) * 8;
    for (uint8_t top = end[-1]; !(top & 0x80); top = (uint8_t)(top << 1)) bits.left--;
    bits.left--;
    has_lengths = lengths->only < 0;
    has_matches = matches->only < 0;
    length = has_lengths ? zstd_unbits(&bits, ZSTD_LOG) : 0;
    match = has_matches ? zstd_unbits(&bits, ZSTD_LOG) : 0;
    while (sequences > 0) {
        uint32_t whole, again;
        if (to->at == to->end) return 1;
        if (!far && !has_matches && matches->only == 0) {
            size_t run = has_lengths ? lengths->walk[length] : lengths->only == 0 ? sequences : 0;
            if (run > sequences) run = sequences;
            if (run > 0) {
                size_t room = (size_t)(to->end - to->at);
                if ((size_t)(literals_end - literal) < run) return 0;
                if (run >= room) {
                    zstd_put_plain(to, literal, literals_end, room);
                    return 1;
                }
                zstd_put_plain(to, literal, literals_end, run);
                literal += run;
                sequences -= run;
                if (sequences == 0) break;
                /* A run that was cut short by the number of sequences ended the loop above. */
                length = has_lengths ? lengths->end[length] : 0;
            }
        }
        whole = has_lengths ? lengths->symbol[length] : (uint32_t)lengths->only;
        again = has_matches ? matches->symbol[match] : (uint32_t)matches->only;
        if (far && zstd_unbits(&bits, far) != 3) return 0;
        if ((size_t)(literals_end - literal) < 4 * (size_t)whole + 1) return 0;
        for (; whole > 0; whole--, literal += 4) {
            to->last = load32(literal);
            to->any = 1;
            if (to->at == to->end) return 1;
            *to->at++ = to->last;
        }
        if (!to->any) return 0;
        to->last = (to->last & ~(uint32_t)0xFF) | *literal++;
        for (again++; again > 0; again--) {
            if (to->at == to->end) return 1;
            *to->at++ = to->last;
        }
        if (--sequences > 0) {
            int more = has_matches ? matches->bits[match] : 0;
            uint32_t both = zstd_unbits(&bits, (has_lengths ? lengths->bits[length] : 0) + more);
            if (has_lengths) length = lengths->base[length] + (both >> more);
            if (has_matches) match = matches->base[match] + (both & ((1u << more) - 1));
        }
        if (bits.left < 0) return 0;
    }
    if (bits.left != 0 || (literals_end - literal) % 4) return 0;
    for (; literal < literals_end && to->at < to->end; literal += 4) {
        to->last = load32(literal);
        *to->at++ = to->last;
    }
    return 1;
}

/* The first ``count`` words in a frame that ``zstd_words`` wrote. False if it did not, or if it is damaged so that this
 * shows. */
static int zstd_unwords(const uint8_t *frame, size_t size, uint32_t *out, size_t count) {
    size_t content = zstd_content(frame, size), at = ZSTD_HEAD_BYTES;
    ZstdUntable tables[2];
    ZstdWords to = {out, out + count, 0, 0};
    if (content == 0 || content % 4 || content / 4 < count) return 0;
    while (to.at < to.end) {
        uint32_t head;
        size_t here;
        if (size - at < 3) return 0;
        head = load24(frame + at);
        here = head >> 3;
        at += 3;
        if ((head >> 1 & 3) != 2 || here > size - at) return 0;
        if (!zstd_unblock(frame + at, here, &to, &tables[0], &tables[1])) return 0;
        at += here;
        if ((head & 1) && to.at < to.end) return 0;
    }
    return 1;
}

#endif
