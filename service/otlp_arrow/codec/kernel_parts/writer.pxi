# Writing protobuf's wire format from the end to the beginning: a message stands behind its length, and so
# the length is known when its place comes. Fields are put in falling order.

cdef struct Writer:
    uint8_t* data
    size_t capacity
    size_t at  # the first byte written; what was written reaches to `capacity`
    bint no_memory


cdef bint writer_grow(Writer* self, size_t more) noexcept nogil:
    cdef size_t written = self.capacity - self.at
    cdef size_t capacity = max(2 * self.capacity, written + more + 65536)
    cdef uint8_t* data = <uint8_t*>malloc(capacity)
    if data == NULL:
        self.no_memory = True
        return False
    if written > 0:
        memcpy(data + capacity - written, self.data + self.at, written)
    free(self.data)
    self.data = data
    self.capacity = capacity
    self.at = capacity - written
    return True


cdef inline bint writer_reserve(Writer* self, size_t size) noexcept nogil:
    return likely(size <= self.at) or writer_grow(self, size)


cdef inline size_t writer_size(Writer* self) noexcept nogil:
    return self.capacity - self.at


cdef inline void put_byte(Writer* self, uint8_t byte) noexcept nogil:
    """Room is reserved already; so for all that put one field at most: ``FIELD_ROOM``."""
    self.at -= 1
    self.data[self.at] = byte


cdef inline void put_varint(Writer* self, uint64_t value) noexcept nogil:
    cdef uint8_t* to
    cdef int size = 1
    cdef uint64_t left = value
    if likely(value < 0x80):
        put_byte(self, <uint8_t>value)
        return
    while left >= 0x80:
        left >>= 7
        size += 1
    self.at -= size
    to = self.data + self.at
    while value >= 0x80:
        to[0] = <uint8_t>(value | 0x80)
        value >>= 7
        to += 1
    to[0] = <uint8_t>value


cdef enum:
    FIELD_ROOM = 32  # a tag and a number, or a tag and a length


cdef inline bint put_number(Writer* self, uint32_t tag, uint64_t value) noexcept nogil:
    """A varint field, left out if it is zero."""
    if value == 0:
        return True
    if unlikely(not writer_reserve(self, FIELD_ROOM)):
        return False
    put_varint(self, value)
    put_varint(self, tag)
    return True


cdef inline bint put_signed(Writer* self, uint32_t tag, int32_t value) noexcept nogil:
    """An int32 or enum: negative ones take ten bytes."""
    return put_number(self, tag, <uint64_t><int64_t>value)


cdef inline bint put_zigzag(Writer* self, uint32_t tag, int32_t value) noexcept nogil:
    return put_number(self, tag, <uint32_t>value << 1 ^ <uint32_t>(value >> 31))


cdef inline bint put_fixed64(Writer* self, uint32_t tag, uint64_t value) noexcept nogil:
    """Even a zero."""
    if unlikely(not writer_reserve(self, FIELD_ROOM)):
        return False
    self.at -= 8
    memcpy(self.data + self.at, &value, 8)
    put_varint(self, tag)
    return True


cdef inline bint put_fixed64_if(Writer* self, uint32_t tag, uint64_t value) noexcept nogil:
    return value == 0 or put_fixed64(self, tag, value)


cdef inline bint put_fixed32_if(Writer* self, uint32_t tag, uint32_t value) noexcept nogil:
    if value == 0:
        return True
    if unlikely(not writer_reserve(self, FIELD_ROOM)):
        return False
    self.at -= 4
    memcpy(self.data + self.at, &value, 4)
    put_varint(self, tag)
    return True


cdef inline bint put_raw(Writer* self, const uint8_t* data, size_t size) noexcept nogil:
    if unlikely(not writer_reserve(self, size + FIELD_ROOM)):
        return False
    self.at -= size
    if size > 0:
        memcpy(self.data + self.at, data, size)
    return True


cdef inline bint put_bytes(Writer* self, uint32_t tag, const uint8_t* data, size_t size) noexcept nogil:
    """A bytes field, even an empty one."""
    if unlikely(not put_raw(self, data, size)):
        return False
    put_varint(self, size)
    put_varint(self, tag)
    return True


cdef inline bint put_text(Writer* self, uint32_t tag, Id* text) noexcept nogil:
    """A string field, even an empty one. What is no UTF-8 is unusual."""
    if unlikely(not is_ascii(text.data, text.length) and not is_utf8(text.data, text.length)):
        return False
    return put_bytes(self, tag, text.data, text.length)


cdef inline bint put_text_if(Writer* self, uint32_t tag, Id* text) noexcept nogil:
    return text.length == 0 or put_text(self, tag, text)


cdef inline bint put_end(Writer* self, uint32_t tag, size_t size_before) noexcept nogil:
    """The head of a message whose content was written since the size was ``size_before``."""
    if unlikely(not writer_reserve(self, FIELD_ROOM)):
        return False
    put_varint(self, writer_size(self) - size_before)
    put_varint(self, tag)
    return True
