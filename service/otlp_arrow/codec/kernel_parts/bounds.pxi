# The earliest and the latest time of a batch. pyarrow.compute does it too, but importing it takes 8 MB.


cdef inline bint is_set(const uint8_t* bits, int64_t index) noexcept nogil:
    return bits == NULL or (bits[index >> 3] >> (index & 7)) & 1


def time_bounds(
    rows: int, values: int, validity: int, offset: int, other_values: int, other_validity: int, other_offset: int
):
    """Least and greatest of ``rows`` int64 at the address ``values``; where a value is null, the other column's
    counts (address 0: there is none). An address of validity may be 0: no nulls. None if all are null."""
    cdef const int64_t* first = <const int64_t*><uintptr_t>values
    cdef const uint8_t* first_bits = <const uint8_t*><uintptr_t>validity
    cdef const int64_t* second = <const int64_t*><uintptr_t>other_values
    cdef const uint8_t* second_bits = <const uint8_t*><uintptr_t>other_validity
    cdef int64_t n = rows, a = offset, b = other_offset, least = INT64_MAX, greatest = 0, value, i
    cdef bint found = False
    with nogil:
        for i in range(n):
            if is_set(first_bits, a + i):
                value = first[a + i]
            elif second != NULL and is_set(second_bits, b + i):
                value = second[b + i]
            else:
                continue
            if not found:
                least = greatest = value
                found = True
            elif value < least:
                least = value
            elif value > greatest:
                greatest = value
    return (least, greatest) if found else None
