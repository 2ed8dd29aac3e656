/* Doubles as text and back: the shortest decimal that reads back as the same double, written as Python's repr writes
 * it, and what JSON has, read as Python reads it.
 *
 * Python's own needs the GIL, which the scan does not hold. Numbers of up to fifteen digits, nearly all
 * that people write, are found by trying; the others by exact long division (Steele and White,
 * "How to print floating-point numbers accurately"): about 1 us, and no tables.
 */
#ifndef OTLP_ARROW_DOUBLES_H
#define OTLP_ARROW_DOUBLES_H

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* -1.2345678901234567e-308 has 24 characters. */
#define DOUBLE_CHARS 32

/* A natural number; limbs of 32 bits, least first. 2^1077 times 10^17 and a few bits fit. */
#define BIG_LIMBS 40
typedef struct {
    int size;
    uint32_t limb[BIG_LIMBS];
} big;

static void big_set(big *self, uint64_t value) {
    self->limb[0] = (uint32_t)value;
    self->limb[1] = (uint32_t)(value >> 32);
    self->size = value >> 32 ? 2 : value != 0;
}

static void big_multiply(big *self, uint32_t factor) {
    uint64_t carry = 0;
    for (int i = 0; i < self->size; i++) {
        carry += (uint64_t)self->limb[i] * factor;
        self->limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry) self->limb[self->size++] = (uint32_t)carry;
}

static void big_power_of_ten(big *self, int exponent) {
    for (; exponent >= 9; exponent -= 9) big_multiply(self, 1000000000u);
    for (; exponent > 0; exponent--) big_multiply(self, 10);
}

static void big_shift(big *self, int bits) {
    int limbs = bits / 32;
    if (self->size == 0) return;
    big_multiply(self, 1u << bits % 32);
    memmove(self->limb + limbs, self->limb, (size_t)self->size * 4);
    memset(self->limb, 0, (size_t)limbs * 4);
    self->size += limbs;
}

static int big_compare(const big *a, const big *b) {
    if (a->size != b->size) return a->size < b->size ? -1 : 1;
    for (int i = a->size - 1; i >= 0; i--)
        if (a->limb[i] != b->limb[i]) return a->limb[i] < b->limb[i] ? -1 : 1;
    return 0;
}

static void big_add(big *self, const big *other) {
    uint64_t carry = 0;
    for (int i = 0; i < other->size || carry; i++) {
        if (i >= self->size) self->limb[self->size++] = 0;
        carry += (uint64_t)self->limb[i] + (i < other->size ? other->limb[i] : 0);
        self->limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

/* other <= self */
static void big_subtract(big *self, const big *other) {
    int64_t borrow = 0;
    for (int i = 0; i < self->size; i++) {
        borrow += (int64_t)self->limb[i] - (i < other->size ? other->limb[i] : 0);
        self->limb[i] = (uint32_t)borrow;
        borrow >>= 32;
    }
    while (self->size && !self->limb[self->size - 1]) self->size--;
}

/* The digits of a positive finite double; its value is 0.d1d2d3... times 10^*point. */
static int double_digits_exact(double value, char *digits, int *point) {
    uint64_t bits, fraction;
    int exponent, count = 0, even, low, high;
    big rest, unit, above, below, sum;
    memcpy(&bits, &value, 8);
    fraction = bits & 0xFFFFFFFFFFFFFu;
    exponent = (int)(bits >> 52 & 0x7FF);
    if (exponent) fraction |= (uint64_t)1 << 52;
    else exponent = 1;
    exponent -= 1075;
    even = (fraction & 1) == 0; /* then the borders of its interval read back as itself too */
    /* value = rest / unit; halfway to its neighbours are +above and -below, over the same unit. */
    big_set(&rest, fraction);
    big_set(&unit, 1);
    big_set(&above, 1);
    if (exponent >= 0) {
        big_shift(&rest, exponent + 1);
        big_shift(&above, exponent);
        big_shift(&unit, 1);
    } else {
        big_shift(&rest, 1);
        big_shift(&unit, 1 - exponent);
    }
    below = above;
    if (fraction == (uint64_t)1 << 52 && exponent > -1074) { /* the neighbour below is nearer */
        big_shift(&above, 1);
        big_shift(&rest, 1);
        big_shift(&unit, 1);
    }
    *point = (int)ceil(log10(value) - 1e-10);
    if (*point >= 0) {
        big_power_of_ten(&unit, *point);
    } else {
        big_power_of_ten(&rest, -*point);
        big_power_of_ten(&above, -*point);
        big_power_of_ten(&below, -*point);
    }
    sum = rest;
    big_add(&sum, &above);
    if (big_compare(&sum, &unit) >= (even ? 0 : 1)) { /* the estimate was one too low */
        *point += 1;
    } else {
        big_multiply(&rest, 10);
        big_multiply(&above, 10);
        big_multiply(&below, 10);
    }
    for (;;) {
        char digit = '0';
        while (big_compare(&rest, &unit) >= 0) {
            big_subtract(&rest, &unit);
            digit++;
        }
        sum = rest;
        big_add(&sum, &above);
        low = big_compare(&rest, &below) < (even ? 1 : 0);
        high = big_compare(&sum, &unit) > (even ? -1 : 0);
        if (low || high) {
            if (low && high) { /* both digits read back: the nearer one, of two equally near the even */
                int half;
                big_multiply(&rest, 2);
                half = big_compare(&rest, &unit);
                high = half > 0 || (half == 0 && (digit - '0') % 2 == 1);
            }
            digits[count++] = (char)(digit + (high ? 1 : 0));
            return count;
        }
        digits[count++] = digit;
        big_multiply(&rest, 10);
        big_multiply(&above, 10);
        big_multiply(&below, 10);
    }
}

/* The same, for numbers that a decimal of at most 15 digits and 22 places hits; else 0. Up to there
 * dividing an integer by a power of ten is exact to the last bit, and no two decimals meet in one
 * double. */
static int double_digits_short(double value, char *digits, int *point) {
    static const double power[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    for (int places = 0; places <= 22; places++) {
        double scaled = value * power[places];
        uint64_t integer;
        int count = 0, size;
        char reversed[20];
        if (scaled >= 1e15) return 0;
        integer = (uint64_t)(scaled + 0.5);
        if (integer == 0 || (double)integer / power[places] != value) continue;
        for (size = 0; integer; integer /= 10) reversed[size++] = (char)('0' + integer % 10);
        while (count < size) {
            digits[count] = reversed[size - 1 - count];
            count++;
        }
        *point = size - places;
        while (count > 1 && digits[count - 1] == '0') count--;
        return count;
    }
    return 0;
}

/* value is finite. Returns how many characters were written to text (DOUBLE_CHARS of room). */
static int double_to_text(double value, char *text) {
    char digits[24];
    char *at = text;
    int count, point, i;
    if (signbit(value)) {
        *at++ = '-';
        value = -value;
    }
    if (value == 0) {
        memcpy(at, "0.0", 3);
        return (int)(at + 3 - text);
    }
    count = double_digits_short(value, digits, &point);
    if (!count) count = double_digits_exact(value, digits, &point);
    if (point > 16 || point < -3) {
        int exponent = point - 1;
        *at++ = digits[0];
        if (count > 1) {
            *at++ = '.';
            for (i = 1; i < count; i++) *at++ = digits[i];
        }
        *at++ = 'e';
        *at++ = exponent < 0 ? '-' : '+';
        if (exponent < 0) exponent = -exponent;
        if (exponent >= 100) *at++ = (char)('0' + exponent / 100);
        *at++ = (char)('0' + exponent / 10 % 10);
        *at++ = (char)('0' + exponent % 10);
    } else {
        for (i = 0; i < point; i++) *at++ = i < count ? digits[i] : '0';
        if (point <= 0) *at++ = '0';
        *at++ = '.';
        for (i = point; i < 0; i++) *at++ = '0';
        for (i = point > 0 ? point : 0; i < count; i++) *at++ = digits[i];
        if (count <= point) *at++ = '0';
    }
    return (int)(at - text);
}

/* -- back again ------------------------------------------------------------------------------------ */

#if defined(__APPLE__)
#include <xlocale.h>
#endif
#if defined(__GLIBC__) || defined(__APPLE__)
#define DOUBLES_WITHOUT_PYTHON 1
static locale_t doubles_locale; /* in which a point is a point, whatever the process has */
#endif

static void doubles_prepare(void) {
#ifdef DOUBLES_WITHOUT_PYTHON
    doubles_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
#endif
}

/* A number of JSON with a zero behind it; false if Python has to be asked, for which the GIL is needed.
 *
 * Up to 2^53 and with up to 22 places it is one division of two doubles that are exact, and so rounded once
 * (Clinger, "How to read floating point numbers accurately"): a tenth of what the C library takes for all others. */
static int double_of_text(const char *text, double *value) {
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 0
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const char *at = text + (*text == '-');
    uint64_t digits = 0;
    int count = 0, places = 0;
    for (; *at >= '0' && *at <= '9'; at++, count++) digits = digits * 10 + (uint64_t)(*at - '0');
    if (*at == '.') {
        for (at++; *at >= '0' && *at <= '9'; at++, count++, places++) digits = digits * 10 + (uint64_t)(*at - '0');
    }
    if (*at == 0 && count <= 19 && digits <= (uint64_t)1 << 53 && places <= 22) {
        *value = (double)digits / powers[places];
        if (*text == '-') *value = -*value;
        return 1;
    }
#endif
#ifdef DOUBLES_WITHOUT_PYTHON
    if (doubles_locale != (locale_t)0) {
        *value = strtod_l(text, NULL, doubles_locale);
        return 1;
    }
#endif
    return 0;
}

#endif
