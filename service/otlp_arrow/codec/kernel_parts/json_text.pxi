# Arrays and key-value lists as JSON text (codec/values.py says how it looks), written while scanning.

cdef const char* HEX = "0123456789abcdef"
cdef const char* BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
# What follows the backslash for U+0000 to U+001F; u for those without a letter of their own.
cdef const char* ESCAPES = "uuuuuuuubtnufruuuuuuuuuuuuuuuuuu"


cdef bint json_quoted(Bytes* out, Position text, size_t length, bint dollar) noexcept nogil:
    """A string (UTF-8 already), with one more ``$`` in front if ``dollar``."""
    cdef uint8_t* to
    cdef uint8_t byte
    cdef size_t at
    if length > out.bounds.max_offset // 8:
        out.bounds.fault = FULL
        return False
    if not bytes_reserve(out, 6 * length + 3):  # a \u00xx for each byte, quotes, dollar
        return False
    to = out.data + out.length
    to[0] = c'"'
    to += 1
    if dollar:
        to[0] = c'$'
        to += 1
    for at in range(length):
        byte = text[at]
        if likely(byte >= 0x20 and byte != c'"' and byte != c'\\'):
            to[0] = byte
            to += 1
        elif byte >= 0x20:
            to[0] = c'\\'
            to[1] = byte
            to += 2
        else:
            to[0] = c'\\'
            to[1] = <uint8_t>ESCAPES[byte]
            to += 2
            if ESCAPES[byte] == c'u':
                to[0] = c'0'
                to[1] = c'0'
                to[2] = <uint8_t>HEX[byte >> 4]
                to[3] = <uint8_t>HEX[byte & 15]
                to += 4
    to[0] = c'"'
    out.length = to + 1 - out.data
    return True


cdef bint json_int(Bytes* out, int64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef uint64_t left = <uint64_t>value if value >= 0 else 0 - <uint64_t>value
    cdef int at = 20
    if not bytes_reserve(out, 20):
        return False
    while True:
        at -= 1
        digits[at] = <uint8_t>(c'0' + left % 10)
        left //= 10
        if left == 0:
            break
    if value < 0:
        out.data[out.length] = c'-'
        out.length += 1
    memcpy(out.data + out.length, digits + at, 20 - at)
    out.length += 20 - at
    return True


cdef bint json_double(Bytes* out, double value) noexcept nogil:
    if isnan(value):
        return bytes_append(out, b'{"$double":"NaN"}', 17)
    if isinf(value):
        if value > 0:
            return bytes_append(out, b'{"$double":"Infinity"}', 22)
        return bytes_append(out, b'{"$double":"-Infinity"}', 23)
    if not bytes_reserve(out, DOUBLE_CHARS):
        return False
    out.length += double_to_text(value, <char*>(out.data + out.length))
    return True


cdef bint json_bytes(Bytes* out, Position data, size_t size) noexcept nogil:
    cdef uint8_t* to
    cdef uint32_t three
    cdef size_t at = 0
    if not bytes_append(out, b'{"$bytes":"', 11) or not bytes_reserve(out, (size + 2) // 3 * 4 + 2):
        return False
    to = out.data + out.length
    while at < size:
        three = <uint32_t>data[at] << 16
        if at + 1 < size:
            three |= <uint32_t>data[at + 1] << 8
        if at + 2 < size:
            three |= data[at + 2]
        to[0] = <uint8_t>BASE64[three >> 18]
        to[1] = <uint8_t>BASE64[three >> 12 & 63]
        to[2] = <uint8_t>BASE64[three >> 6 & 63] if at + 1 < size else c'='
        to[3] = <uint8_t>BASE64[three & 63] if at + 2 < size else c'='
        to += 4
        at += 3
    to[0] = c'"'
    to[1] = c'}'
    out.length = to + 2 - out.data
    return True


cdef bint json_value(Bytes* out, AnyValue* value) noexcept nogil:
    """A member of an array or a key-value list, all of its fields known now."""
    if value.type == STR:
        return json_quoted(out, value.data, value.length, False)
    if value.type == INT:
        return json_int(out, value.integer)
    if value.type == DOUBLE:
        return json_double(out, value.real)
    if value.type == BOOL:
        return bytes_append(out, b"true", 4) if value.integer else bytes_append(out, b"false", 5)
    if value.type == BYTES:
        return json_bytes(out, value.data, value.length)
    if value.type == SLICE:
        return bytes_append(out, b"]", 1)
    if value.type == MAP:
        return bytes_append(out, b"}", 1)
    return bytes_append(out, b"null", 4)


cdef bint json_member(AnyValue* list_value, Bytes* out) noexcept nogil:
    """Room for one more member."""
    list_value.members += 1
    return list_value.members == 1 or bytes_append(out, b",", 1)


cdef bint scan_array(AnyValue* array, Bytes* out, Position at, Position end, int depth) noexcept nogil:
    """The members of an ArrayValue; a later occurrence of the field adds to them."""
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef AnyValue member
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == (1 << 3 | LEN):
            at = read_length(at, end, &length)
            if at == NULL or depth == 0 or not json_member(array, out):
                return False
            any_value_begin(&member, out)
            if not scan_any_value(&member, out, at, at + length, depth - 1) or not json_value(out, &member):
                return False
            at += length
        else:
            at = skip_field(at, end, tag, depth)
            if at == NULL:
                return False
    return True


cdef bint scan_key_value_list(AnyValue* pairs, Bytes* out, Position at, Position end, int depth) noexcept nogil:
    cdef uint32_t tag = 0
    cdef size_t length = 0
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == (1 << 3 | LEN):
            at = read_length(at, end, &length)
            if at == NULL or depth == 0 or not json_member(pairs, out):
                return False
            if not scan_json_pair(out, at, at + length, depth - 1):
                return False
            at += length
        else:
            at = skip_field(at, end, tag, depth)
            if at == NULL:
                return False
    return True


cdef bint scan_json_pair(Bytes* out, Position at, Position end, int depth) noexcept nogil:
    """A KeyValue as ``"key":value``. The last key counts, so it is looked for first."""
    cdef uint32_t tag = 0
    cdef size_t length = 0
    cdef Position start = at
    cdef Position key = at
    cdef size_t key_length = 0
    cdef AnyValue value
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == KEY_VALUE_KEY:
            at = read_text(at, end, &key, &key_length)
        else:
            at = skip_field(at, end, tag, depth)
        if at == NULL:
            return False
    if not json_quoted(out, key, key_length, key_length > 0 and key[0] == c'$') or not bytes_append(out, b":", 1):
        return False
    any_value_begin(&value, out)
    at = start
    while at < end:
        at = read_tag(at, end, &tag)
        if tag == KEY_VALUE_VALUE:
            at = read_length(at, end, &length)
            if depth == 0 or not scan_any_value(&value, out, at, at + length, depth - 1):
                return False
            at += length
        else:
            at = skip_field(at, end, tag, depth)
    return json_value(out, &value)
