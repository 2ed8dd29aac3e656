# JSON text back into arrays and key-value lists: the reverse of `json_text.pxi`, strictly what that writes.

cdef enum:
    MAX_JSON_DEPTH = MAX_MESSAGE_DEPTH // 2

cdef struct Json:
    # Text as `json_text.pxi` writes it, on its way into the wire format.
    Position at
    Position end
    Bytes* out


cdef bint json_to_value(Bytes* out, Position text, Position end, int type) noexcept nogil:
    """The content of an AnyValue from the text of an array or a key-value list."""
    cdef Json json
    json.at = text
    json.end = end
    json.out = out
    if text == end or text[0] != (c'[' if type == SLICE else c'{'):
        return False
    # {"$bytes":…} and {"$double":…} are not lists.
    if type == MAP and end - text > 3 and text[1] == c'"' and text[2] == c'$' and text[3] != c'$':
        return False
    return read_json(&json, 0) and json.at == end


cdef inline bint json_next(Json* json, uint8_t byte) noexcept nogil:
    if json.at < json.end and json.at[0] == byte:
        json.at += 1
        return True
    return False


cdef bint json_word(Json* json, const char* word, size_t length) noexcept nogil:
    if <size_t>(json.end - json.at) < length or memcmp(json.at, word, length) != 0:
        return False
    json.at += length
    return True


cdef bint out_byte(Bytes* out, uint8_t byte) noexcept nogil:
    return bytes_append(out, &byte, 1)


cdef bint out_varint(Bytes* out, uint64_t value) noexcept nogil:
    while value >= 0x80:
        if not out_byte(out, <uint8_t>(value | 0x80)):
            return False
        value >>= 7
    return out_byte(out, <uint8_t>value)


cdef bint out_head(Bytes* out, size_t start, uint8_t tag) noexcept nogil:
    """A tag and a length before what stands from ``start`` on, which moves for it."""
    cdef size_t length = out.length - start
    if not out_byte(out, tag) or not out_varint(out, length):
        return False
    return rotate(out, start, length)


cdef bint rotate(Bytes* out, size_t start, size_t length) noexcept nogil:
    """Bring what stands behind ``length`` bytes from ``start`` on before them."""
    cdef uint8_t head[16]
    cdef size_t head_size = out.length - start - length
    memcpy(head, out.data + start + length, head_size)
    memmove(out.data + start + head_size, out.data + start, length)
    memcpy(out.data + start, head, head_size)
    return True


cdef bint read_json(Json* json, int depth) noexcept nogil:
    """One JSON value, appended as the content of an AnyValue."""
    cdef size_t start = json.out.length
    cdef uint8_t first
    if depth > MAX_JSON_DEPTH or json.at == json.end:
        return False
    first = json.at[0]
    if first == c'"':
        return read_json_string(json) and out_head(json.out, start, ANY_STRING)
    if first == c'[':
        return read_json_array(json, depth) and out_head(json.out, start, ANY_ARRAY)
    if first == c'{':
        return read_json_object(json, depth)
    if first == c't':
        return json_word(json, "true", 4) and out_byte(json.out, ANY_BOOL) and out_byte(json.out, 1)
    if first == c'f':
        return json_word(json, "false", 5) and out_byte(json.out, ANY_BOOL) and out_byte(json.out, 0)
    if first == c'n':
        return json_word(json, "null", 4)
    return read_json_number(json)


cdef bint read_json_array(Json* json, int depth) noexcept nogil:
    cdef size_t start
    json.at += 1
    if json_next(json, c']'):
        return True
    while True:
        start = json.out.length
        if not read_json(json, depth + 1) or not out_head(json.out, start, 1 << 3 | LEN):
            return False
        if json_next(json, c']'):
            return True
        if not json_next(json, c','):
            return False


cdef bint read_json_object(Json* json, int depth) noexcept nogil:
    cdef size_t start = json.out.length
    cdef size_t member, value
    if json_word(json, '{"$bytes":', 10):
        return read_json_bytes(json) and json_next(json, c'}') and out_head(json.out, start, ANY_BYTES)
    if json_word(json, '{"$double":', 11):
        return read_json_double_word(json) and json_next(json, c'}')
    json.at += 1
    if json_next(json, c'}'):
        return out_head(json.out, start, ANY_PAIRS)
    while True:
        member = json.out.length
        if not read_json_key(json) or not json_next(json, c':'):
            return False
        value = json.out.length
        if not read_json(json, depth + 1) or not out_head(json.out, value, KEY_VALUE_VALUE):
            return False
        if not out_head(json.out, member, 1 << 3 | LEN):
            return False
        if json_next(json, c'}'):
            return out_head(json.out, start, ANY_PAIRS)
        if not json_next(json, c','):
            return False


cdef bint read_json_key(Json* json) noexcept nogil:
    """A key as a field; one ``$`` less where it begins with two, and none begins with one."""
    cdef size_t start = json.out.length
    cdef size_t length
    if not read_json_string(json):
        return False
    length = json.out.length - start
    if length > 0 and json.out.data[start] == c'$':
        if length < 2 or json.out.data[start + 1] != c'$':
            return False
        memmove(json.out.data + start, json.out.data + start + 1, length - 1)
        json.out.length -= 1
    return json.out.length == start or out_head(json.out, start, KEY_VALUE_KEY)


cdef bint read_json_string(Json* json) noexcept nogil:
    cdef uint8_t* to
    cdef uint8_t byte
    if not json_next(json, c'"') or not bytes_reserve(json.out, json.end - json.at):
        return False
    to = json.out.data + json.out.length
    while json.at < json.end:
        byte = json.at[0]
        json.at += 1
        if byte == c'"':
            json.out.length = to - json.out.data
            return True
        if byte < 0x20:
            return False
        if byte == c'\\':
            if not read_json_escape(json, &byte):
                return False
        to[0] = byte
        to += 1
    return False


cdef bint read_json_escape(Json* json, uint8_t* byte) noexcept nogil:
    cdef uint8_t letter
    cdef int code
    if json.at == json.end:
        return False
    letter = json.at[0]
    json.at += 1
    if letter == c'"' or letter == c'\\':
        byte[0] = letter
        return True
    if letter == c'u':
        if json.end - json.at < 4 or json.at[0] != c'0' or json.at[1] != c'0' or json.at[2] > c'1' or json.at[2] < c'0':
            return False
        letter = json.at[3]
        code = letter - c'0' if c'0' <= letter <= c'9' else letter - c'a' + 10 if c'a' <= letter <= c'f' else -1
        if code < 0:
            return False
        byte[0] = <uint8_t>((json.at[2] - c'0') << 4 | code)
        json.at += 4
        return True
    for code in range(0x20):
        if letter == <uint8_t>ESCAPES[code]:
            byte[0] = <uint8_t>code
            return True
    return False


cdef bint read_json_bytes(Json* json) noexcept nogil:
    """Base64, padded."""
    cdef uint32_t four
    cdef int code, padding, each
    cdef uint8_t letter
    if not json_next(json, c'"'):
        return False
    while not json_next(json, c'"'):
        if json.end - json.at < 5:
            return False
        four = 0
        padding = 0
        for each in range(4):
            letter = json.at[each]
            if letter == c'=' and each >= 2:
                padding += 1
                code = 0
            else:
                code = base64_code(letter)
                if code < 0 or padding > 0:
                    return False
            four = four << 6 | <uint32_t>code
        json.at += 4
        if padding > 0 and (json.at[0] != c'"' or four & ((<uint32_t>1 << 8 * padding) - 1)):
            return False
        if not out_byte(json.out, <uint8_t>(four >> 16)):
            return False
        if padding < 2 and not out_byte(json.out, <uint8_t>(four >> 8)):
            return False
        if padding < 1 and not out_byte(json.out, <uint8_t>four):
            return False
    return True


cdef inline int base64_code(uint8_t letter) noexcept nogil:
    if c'A' <= letter <= c'Z':
        return letter - c'A'
    if c'a' <= letter <= c'z':
        return letter - c'a' + 26
    if c'0' <= letter <= c'9':
        return letter - c'0' + 52
    return 62 if letter == c'+' else 63 if letter == c'/' else -1


cdef bint out_double(Bytes* out, double value) noexcept nogil:
    return out_byte(out, ANY_DOUBLE) and bytes_append(out, &value, 8)


cdef bint read_json_double_word(Json* json) noexcept nogil:
    if json_word(json, '"NaN"', 5):
        return out_double(json.out, NAN)
    if json_word(json, '"Infinity"', 10):
        return out_double(json.out, INFINITY)
    return json_word(json, '"-Infinity"', 11) and out_double(json.out, -INFINITY)


cdef bint read_json_number(Json* json) noexcept nogil:
    """An integer, or, with a point or an exponent, a double."""
    cdef Position start = json.at
    cdef bint negative = json_next(json, c'-')
    cdef Position digits = json.at
    cdef uint64_t integer = read_json_digits(json)
    cdef int64_t count = json.at - digits
    if count == 0 or count > 1 and digits[0] == c'0':
        return False
    if json.at < json.end and (json.at[0] == c'.' or json.at[0] == c'e' or json.at[0] == c'E'):
        return read_json_double(json, start)
    if count > 19 or integer > <uint64_t>INT64_MAX + negative:
        return False
    return out_byte(json.out, ANY_INT) and out_varint(json.out, 0 - integer if negative else integer)


cdef uint64_t read_json_digits(Json* json) noexcept nogil:
    cdef uint64_t number = 0
    while json.at < json.end and c'0' <= json.at[0] <= c'9':
        number = number * 10 + (json.at[0] - c'0')
        json.at += 1
    return number


cdef bint read_json_double(Json* json, Position start) noexcept nogil:
    """From the point or exponent on; the number begins at ``start``."""
    cdef char text[64]
    cdef double value = 0
    cdef size_t length
    cdef Position digits
    if json_next(json, c'.'):
        digits = json.at
        read_json_digits(json)
        if json.at == digits:
            return False
    if json_next(json, c'e') or json_next(json, c'E'):
        if not json_next(json, c'-'):
            json_next(json, c'+')
        digits = json.at
        read_json_digits(json)
        if json.at == digits:
            return False
    length = json.at - start
    if length >= sizeof(text):
        return False
    memcpy(text, start, length)
    text[length] = 0
    return text_to_double(text, &value) and out_double(json.out, value)


cdef bint text_to_double(const char* text, double* value) noexcept nogil:
    """As Python reads it."""
    if double_of_text(text, value):
        return True
    with gil:
        value[0] = PyOS_string_to_double(text, NULL, NULL)
        if value[0] == -1 and PyErr_Occurred():
            PyErr_Clear()
            return False
    return True
