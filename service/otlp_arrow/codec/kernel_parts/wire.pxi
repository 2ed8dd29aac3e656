# Reading protobuf's wire format, as strictly and as leniently as protobuf's own parser.
#
# Every reader takes the place `at` and the `end` of the message, never looks at or past `end`, and
# gives the place after what it read, or NULL where the bytes are no valid message. A field that is
# known but comes with another wire type counts as unknown and is skipped, groups included.
# `depth` is how many messages may still be nested below the one being read.

ctypedef const uint8_t* Position

cdef enum WireType:
    VARINT = 0
    I64 = 1
    LEN = 2
    START_GROUP = 3
    END_GROUP = 4
    I32 = 5


cdef Position read_long_varint(Position at, Position end, uint64_t* value) noexcept nogil:
    """At most ten bytes; bits beyond the 64th are dropped."""
    cdef uint64_t result = 0
    cdef int shift = 0
    while at < end and shift < 70:
        result |= <uint64_t>(at[0] & 0x7F) << shift
        if at[0] < 0x80:
            value[0] = result
            return at + 1
        at += 1
        shift += 7
    return NULL


cdef inline Position read_varint(Position at, Position end, uint64_t* value) noexcept nogil:
    if likely(at < end and at[0] < 0x80):
        value[0] = at[0]
        return at + 1
    return read_long_varint(at, end, value)


cdef Position read_long_tag(Position at, Position end, uint32_t* tag) noexcept nogil:
    """At most five bytes and 32 bits."""
    cdef uint64_t value
    cdef Position after = read_long_varint(at, end, &value)
    if after == NULL or after - at > 5 or value > <uint64_t>UINT32_MAX:
        return NULL
    tag[0] = <uint32_t>value
    return after


cdef inline Position read_tag(Position at, Position end, uint32_t* tag) noexcept nogil:
    """The tag of a field: its number and wire type. ``at`` is before ``end``."""
    if likely(at[0] < 0x80):
        tag[0] = at[0]
        return at + 1
    return read_long_tag(at, end, tag)


cdef Position read_long_length(Position at, Position end, size_t* length) noexcept nogil:
    cdef uint64_t value
    cdef Position after = read_long_varint(at, end, &value)
    if after == NULL or after - at > 5 or value > <uint64_t>(end - after):
        return NULL
    length[0] = <size_t>value
    return after


cdef inline Position read_length(Position at, Position end, size_t* length) noexcept nogil:
    """The length of a field; the place is that of its content, which ends at or before ``end``."""
    if likely(at < end and at[0] < 0x80 and at[0] < end - at):
        length[0] = at[0]
        return at + 1
    return read_long_length(at, end, length)


cdef inline Position read_text(Position at, Position end, Position* text, size_t* length) noexcept nogil:
    """A string field, which must be UTF-8."""
    at = read_length(at, end, length)
    if unlikely(at == NULL or not is_ascii(at, length[0]) and not is_utf8(at, length[0])):
        return NULL
    text[0] = at
    return at + length[0]


cdef inline Position read_bytes(Position at, Position end, Position* data, size_t* length) noexcept nogil:
    at = read_length(at, end, length)
    if unlikely(at == NULL):
        return NULL
    data[0] = at
    return at + length[0]


cdef inline Position read_int32(Position at, Position end, int32_t* value) noexcept nogil:
    """int32, uint32 and enum: the low 32 bits of a varint."""
    cdef uint64_t wide = 0
    at = read_varint(at, end, &wide)
    value[0] = <int32_t><uint32_t>wide
    return at


cdef inline Position read_sint32(Position at, Position end, int32_t* value) noexcept nogil:
    cdef uint64_t wide = 0
    cdef uint32_t zigzag
    at = read_varint(at, end, &wide)
    zigzag = <uint32_t>wide
    value[0] = <int32_t>(zigzag >> 1 ^ (0 - (zigzag & 1)))
    return at


cdef inline Position read_bool(Position at, Position end, bint* value) noexcept nogil:
    cdef uint64_t wide = 0
    at = read_varint(at, end, &wide)
    value[0] = wide != 0
    return at


cdef inline Position read_fixed32(Position at, Position end, uint32_t* value) noexcept nogil:
    if unlikely(end - at < 4):
        return NULL
    value[0] = load32(at)
    return at + 4


cdef inline Position read_fixed64(Position at, Position end, uint64_t* value) noexcept nogil:
    if unlikely(end - at < 8):
        return NULL
    value[0] = load64(at)
    return at + 8


cdef inline Position read_double(Position at, Position end, double* value) noexcept nogil:
    if unlikely(end - at < 8):
        return NULL
    memcpy(value, at, 8)
    return at + 8


cdef Position skip_field(Position at, Position end, uint32_t tag, int depth) noexcept nogil:
    """Past a field that is of no interest, checked as far as protobuf's parser checks it."""
    if tag < 8:  # field number 0
        return NULL
    return skip_value(at, end, tag, depth)


cdef Position skip_value(Position at, Position end, uint32_t tag, int depth) noexcept nogil:
    cdef uint64_t value
    cdef size_t length
    cdef int wire_type = tag & 7
    if wire_type == VARINT:
        return read_varint(at, end, &value)
    if wire_type == I64:
        return at + 8 if end - at >= 8 else NULL
    if wire_type == LEN:
        at = read_length(at, end, &length)
        if at == NULL:
            return NULL
        return at + length
    if wire_type == I32:
        return at + 4 if end - at >= 4 else NULL
    if wire_type == START_GROUP and depth > 0:
        return skip_group(at, end, tag, depth - 1)
    return NULL


cdef Position skip_group(Position at, Position end, uint32_t start, int depth) noexcept nogil:
    """Past the end of a group. Inside one protobuf's parser lets field number 0 pass."""
    cdef uint32_t tag = 0
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return NULL
        if tag & 7 == END_GROUP:
            return at if tag >> 3 == start >> 3 else NULL
        at = skip_value(at, end, tag, depth)
        if at == NULL:
            return NULL
    return NULL
